"""NeuroBench's complexity metrics of both experiments, and the closed forms that they are checked against.

    few-shot   a sample is an image asked after a task was learned: convolutions, ReLU, norm by the support's numbers,
               read-out as learned (``models.fewshot_inference``); a mean over tasks and their queries
    arm        a sample is a trial of all its steps: the generator (LSG) on clock and target; the trainee on the clock,
               with the weights that lessons start from, and with each movement's own after its lesson

Learning itself is no layer: NeuroBench sees neither the gradient of the read-out nor e-prop's traces and products.
``models.experiment_counts`` has those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ovonic.adapters.neurobench import Complexity, mean_complexity, module_complexity, network_complexity
from ovonic.models.errors import ConfigError, DivergenceError
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.fewshot_inference import LearnedTask
from ovonic.models.maml import Precision, SoftwareReadout, adapt
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.network import Network
from ovonic.models.seeds import stream
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeSpec, sample_episodes
from ovonic.tasks.fewshot import inner_rates
from ovonic.tasks.robot import Robot, spec_for
from ovonic.tasks.robot_evaluation import rounding_stream
from ovonic.tasks.trajectories import sample_trajectories

__all__ = ["fewshot_complexity", "learned_task", "robot_complexity"]

Tell = Callable[[int], None]


@torch.no_grad()
def learned_task(
    net: FewshotCNN, characters: CharacterSet, spec: EpisodeSpec, task: int, *, seed: int, precision: Precision
) -> tuple[LearnedTask, torch.Tensor, torch.Tensor]:
    """Task number ``task`` of the stream ``seed``, learned: the module, its queries [Q, 1, 28, 28] and their labels.

    Raises: ConfigError: a norm that couples queries. DataError: the characters cannot supply the task.
        DivergenceError: the module answers otherwise than the network that learned.
    """
    generator = stream(seed, "complexity", task)
    batch = sample_episodes(characters, spec, seed, range(task, task + 1))
    kernels = [precision.kernel(w.detach(), generator) for w in net.conv_weights()]
    support, query = net.features(batch.support, batch.query, weights=kernels)
    readout = SoftwareReadout.of(net, 1, precision, generator, spec.n_way)
    learned = adapt(readout, support, batch.support_labels, inner_rates(net, None, spec.n_way))[-1]
    module = LearnedTask(net, batch.support[0], learned.w[0], kernels)
    due, found = learned.logits(query)[0], module(batch.query[0])
    if not torch.allclose(found, due, rtol=1e-3, atol=1e-3):
        worst = float((found - due).abs().max())
        raise DivergenceError(f"task {task}: the module's logits differ from the learner's by {worst:.2g}")
    return module, batch.query[0], batch.query_labels[0]


def fewshot_complexity(
    net: FewshotCNN,
    characters: CharacterSet,
    spec: EpisodeSpec,
    tasks: int,
    *,
    seed: int,
    precision: Precision | None = None,
    on_step: Tell | None = None,
) -> dict[str, Any]:
    """Complexity of answering one image.

    Args: tasks: how many are learned; precision: rounding of the weights. on_step: told of each task.
    Returns: ``image``: the ``Complexity``, and ``packed_bytes``: the weights at ``precision.bits`` and the norm's
        numbers at 32, which NeuroBench, counting tensors as they lie in memory, does not see.
    """
    precision, parts = precision or Precision(), []
    for task in range(tasks):
        module, queries, _ = learned_task(net, characters, spec, task, seed=seed, precision=precision)
        parts.append(module_complexity(module, queries))
        if on_step:
            on_step(1)
    found = mean_complexity(parts)
    weights = int(found.parameters)
    return {"image": found, "packed_bytes": weights * precision.bits / 8 + found.footprint_bytes - 4 * weights}


def robot_complexity(
    robot: Robot, movements: int, *, seed: int, inner: InnerLoop | None = None, on_step: Tell | None = None
) -> dict[str, Complexity]:
    """Complexity of a trial of each network.

    Args: movements: how many, of the stream ``seed``; inner: how lessons go (default: as the weights say).
        on_step: told of each of ``movements + 2`` measurements.
    Returns: ``lsg``; ``trainee before`` and ``trainee after`` the lesson, whose weights are each movement's own.
    """
    if movements < 1:
        raise ConfigError(f"movements {movements}: at least 1")
    tell = on_step or (lambda _: None)
    indices = range(movements)
    batch = sample_trajectories(spec_for(robot), seed, indices)
    with torch.no_grad():
        lesson = robot.module()(batch.clock, batch.lsg_input, inner or robot.inner, rounding_stream(seed, indices))
    found = {"lsg": network_complexity(robot.pair.lsg, batch.lsg_input)}
    tell(1)
    found["trainee before"] = network_complexity(robot.pair.trainee, batch.clock)
    tell(1)
    after = []
    for movement in indices:
        network = _taught(robot.pair.trainee, {name: c[movement] for name, c in lesson.changes.items()})
        after.append(network_complexity(network, batch.clock[movement : movement + 1]))
        tell(1)
    found["trainee after"] = mean_complexity(after)
    return found


def _taught(trainee: Network, changes: dict[str, torch.Tensor]) -> Network:
    weights = trainee.weights()
    return trainee.with_weights({name: weights[name] + change.double().numpy() for name, change in changes.items()})
