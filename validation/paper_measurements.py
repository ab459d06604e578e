"""What the paper says and no other command measures: small measurements by name.

    delta       Eq. 3: gradient descent on the dense layer alone is the delta rule, against reverse-mode differentiation
    kinematics  Eqs. 8 to 10 as printed, beside ``tasks.scorbot``, which has the published code's kinematics
    still       Fig. 5a: how far the arm goes before the update, beside how far it should
    scratch     Suppl. Fig. 2: the same network trained from scratch by backpropagation on the 25 images of a task
    loss        Fig. 2f: outer loss (mean cross-entropy of the queries after the updates) at 32 and 4 bit, same tasks

Reference: Ortner et al. 2025, Nature Communications 16:1243.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovonic.adapters.weights import readout_w_max, resolve_fewshot
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision, cross_entropy_gradient
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeSpec, sample_episodes
from ovonic.tasks.fewshot import accuracy_of, run_tasks, software_learner, task_accuracy
from ovonic.tasks.robot import kinematics as arm_kinematics
from ovonic.tasks.robot import resolve_robot, spec_for
from ovonic.tasks.robot_evaluation import rounding_stream
from ovonic.tasks.scorbot import SCORBOT, Scorbot, forward_kinematics
from ovonic.tasks.statistics import interval, paired_difference
from ovonic.tasks.trajectories import sample_trajectories

__all__ = ["MEASUREMENTS", "delta_rule", "from_scratch", "kinematics", "outer_loss", "printed_kinematics", "stillness"]

Report = dict[str, Any]
Tell = Callable[[int], None]

SCRATCH_STEPS = (0, 1, 2, 5, 10, 20, 40)
"""After how many steps from scratch accuracies are taken."""
SCRATCH_RATE = 1e-3
"""Of Adam: the paper names no optimiser for this; its own outer loop has this one and this rate."""


def delta_rule(tasks: int, seed: int) -> Report:
    """Largest difference of -gradient of the summed cross-entropy from (y - f) h, over its largest entry, float64."""
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for _ in range(tasks):
        h = torch.randn(1, 25, 56, dtype=torch.float64, generator=generator)
        w = torch.randn(1, 5, 56, dtype=torch.float64, generator=generator).requires_grad_()
        labels = torch.arange(5).repeat_interleave(5)[None]
        logits = h @ w.transpose(1, 2)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits[0], labels[0], reduction="sum"), w)
        y, f = F.one_hot(labels, 5).double(), torch.softmax(logits, -1).detach()
        printed = torch.einsum("bdl,bdk->blk", y - f, h)
        ours = -25 * cross_entropy_gradient(logits.detach(), labels, h)
        scale = gradient.abs().max()
        worst = max(worst, float(((printed + gradient).abs().max() / scale).item()))
        worst = max(worst, float(((ours + gradient).abs().max() / scale).item()))
    return {"worst": worst, "tasks": tasks}


def printed_kinematics(theta: Tensor, arm: Scorbot = SCORBOT, mended: bool = False) -> Tensor:
    """Eqs. 8 to 10 as they are printed, theta [.., 4] rad -> [.., 3] m. c(a b) there is cos a cos b.

    Args: mended: with sin theta_1 in place of cos theta_1 in y's second term, and sin theta_4 in place of its last
        cos theta_4, which make y what a turn of x about the base axis is.
    """
    (c1, c2, c3, c4), (s1, s2, s3, s4) = theta.cos().unbind(-1), theta.sin().unbind(-1)
    a1, a2, a3, a4, d = arm.a1, arm.a2, arm.a3, arm.a4, arm.d2 + arm.d3
    x = a1 * c1 + a2 * c1 * c2 - a3 * s2 * s3 * c1 + a3 * c1 * c2 * c3 + a4 * (-s2 * s3 * c1 + c1 * c2 * c3) * c4
    x = x - d * s1 + a4 * (-s2 * c1 * c3 - s3 * c1 * c2) * s4
    y = a1 * s1 + a2 * (s1 if mended else c1) * c2 - a3 * s1 * s2 * s3 + a3 * s1 * c2 * c3
    y = y + a4 * (-s1 * s2 * s3 + s1 * c2 * c3) * c4 + d * c1
    y = y + a4 * (-s1 * s2 * c3 - s1 * s3 * c2) * (s4 if mended else c4)
    z = -a2 * s2 - a3 * s2 * c3 - a3 * s3 * c2 + a4 * (s2 * s3 - c2 * c3) * s4 + a4 * (-s2 * c3 - s3 * c2) * c4
    return torch.stack([x, y, z + arm.d1], -1)


def kinematics(poses: int, seed: int) -> Report:
    """Largest difference of each coordinate from the published code's, m, over poses of all four joints.

    The paper's angles turn the other way than ours but for the wrist: theta = (-q1, -q2, -q3, q4).
    """
    q = 2 * torch.rand(poses, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1
    theta = q * torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    exact = forward_kinematics(q)
    found = dict(zip("xyz", (printed_kinematics(theta) - exact).abs().amax(0).tolist(), strict=True))
    mended = (printed_kinematics(theta, mended=True) - exact).abs().amax(0)
    return found | {"y_mended": float(mended[1]), "poses": poses}


def stillness(weights: str, movements: int, seed: int) -> Report:
    """Before the update: root mean square of the angular velocity over the target's, and of the tip's way from its
    start over the target's."""
    robot = resolve_robot(weights)
    batch = sample_trajectories(spec_for(robot), seed, range(movements))
    with torch.no_grad():
        stream = rounding_stream(seed, range(movements))
        lesson = robot.module()(batch.clock, batch.lsg_input, robot.inner, stream, None)
    omega, reach = lesson.before.double(), arm_kinematics(batch.spec)
    start = reach(torch.zeros_like(omega))

    def size(x: Tensor) -> float:
        return float(x.square().sum(-1).mean().sqrt())

    return {
        "omega": size(omega) / size(batch.omega),
        "way": size(reach(omega) - start) / size(batch.path - start),
        "weights": weights,
        "movements": movements,
    }


def from_scratch(characters: CharacterSet, tasks: int, seed: int, tell: Tell = lambda _: None) -> Report:
    """The whole network from random weights, all of it trained on a task's 25 images, beside the meta-trained one.

    Returns: ``support`` and ``query`` accuracy after each of ``SCRATCH_STEPS``, the meta-trained ``fewshot-32bit``'s
        on the same tasks, ``lacks``: how much from scratch lacks to it at its best step.
    """
    spec = EpisodeSpec()
    rows: list[list[tuple[float, float]]] = []
    for index in range(tasks):
        batch = sample_episodes(characters, spec, seed, [index])
        net = FewshotCNN(generator=torch.Generator().manual_seed(seed + index))
        adam = torch.optim.Adam([*net.conv_weights(), net.readout.weight], lr=SCRATCH_RATE)
        row = []
        for step in range(SCRATCH_STEPS[-1] + 1):
            logits = net.readout(net.features(batch.support, batch.support[:, :0])[0])
            if step in SCRATCH_STEPS:
                with torch.no_grad():
                    asked = net.readout(net.features(batch.support, batch.query)[1])
                sides = ((logits.detach(), batch.support_labels), (asked, batch.query_labels))
                row.append(tuple(float(accuracy_of(side, labels)) for side, labels in sides))
            adam.zero_grad()
            F.cross_entropy(logits[0], batch.support_labels[0]).backward()
            adam.step()
        rows.append(row)  # type: ignore[arg-type]
        tell(1)
    accuracies = np.asarray(rows)
    net, origin = resolve_fewshot("fewshot-32bit")
    precision = Precision(readout_range=readout_w_max(origin) or 1.0)
    meta = task_accuracy(net, characters, spec, tasks, seed=seed, precision=precision)[:, -1].numpy()
    best = int(accuracies[:, :, 1].mean(0).argmax())
    return {
        "steps": list(SCRATCH_STEPS),
        "support": [interval(column) for column in accuracies[:, :, 0].T],
        "query": [interval(column) for column in accuracies[:, :, 1].T],
        "meta_trained": interval(meta),
        "lacks": paired_difference(meta, accuracies[:, best, 1]) | {"step": SCRATCH_STEPS[best]},
        "data": characters.source,
        "tasks": tasks,
    }


def outer_loss(characters: CharacterSet, tasks: int, seed: int, tell: Tell = lambda _: None) -> Report:
    """Mean cross-entropy of the queries after the updates, of the shipped 32 and 4 bit weights on the same tasks."""
    losses = {}
    for name, weights in (("bit32", "fewshot-32bit"), ("bit4", "fewshot-4bit")):
        net, origin = resolve_fewshot(weights)
        precision = Precision(origin["precision"], readout_range=readout_w_max(origin) or 1.0)
        learner = software_learner(net, precision=precision, seed=seed)
        found = []
        for batch, outcome in run_tasks(learner, characters, EpisodeSpec(), tasks, seed=seed):
            logits, labels = outcome.logits[-1], batch.query_labels
            found += F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1).tolist()
            tell(len(labels))
        losses[name] = np.asarray(found)
    return {
        **{name: interval(values) for name, values in losses.items()},
        "more": paired_difference(losses["bit4"], losses["bit32"]),
        "data": characters.source,
        "tasks": tasks,
    }


MEASUREMENTS: Mapping[str, tuple[int, bool, Callable[[CharacterSet | None, str, int, Tell], Report]]] = {
    "delta": (1, False, lambda data, weights, seed, tell: delta_rule(100, seed)),
    "kinematics": (1, False, lambda data, weights, seed, tell: kinematics(10_000, seed)),
    "still": (1, False, lambda data, weights, seed, tell: {Path(weights).stem: stillness(weights, 200, seed)}),
    "scratch": (40, True, lambda data, weights, seed, tell: from_scratch(_given(data), 40, seed, tell)),
    "loss": (800, True, lambda data, weights, seed, tell: outer_loss(_given(data), 400, seed, tell)),
}
"""By name: steps of progress, whether it needs characters, and what measures it with the arm's weights and a seed."""


def _given(characters: CharacterSet | None) -> CharacterSet:
    assert characters is not None
    return characters
