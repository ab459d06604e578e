"""Meta-training of the few-shot CNN: the outer loop, its schedule, checkpoints and validation.

A run is a function of its configuration and data alone: step s draws its tasks, its rounding and its noise from
(seed, s), so a run that was stopped and resumed ends with the very weights of one that was not (same torch release,
same numbers of threads and processes).
"""

from __future__ import annotations

import copy
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.models.errors import ConfigError, DivergenceError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.maml import Precision, meta_gradient, whole_network_loss
from ovonic.models.shared_draws import Source
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.data_parallel import ALONE, Processes
from ovonic.tasks.episodes import EpisodeBatch, EpisodeSpec, sample_episodes
from ovonic.tasks.fewshot import task_accuracy
from ovonic.tasks.restoring import check_progress, restore_tensors
from ovonic.tasks.statistics import interval

__all__ = ["TrainingConfig", "TrainingState", "meta_train"]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a meta-training run depends on, data aside.

    Attributes:
        network: the CNN. episode: how tasks are drawn. precision: bits, rounding and noise of the weights.
        steps: outer updates. tasks: tasks an outer update, of all processes together.
        lr: Adam's rate (eps 1e-7, as published), constant, then falling to zero along a half cosine over the last
            ``decay`` of the run.
        learn_inner_lr: meta-learn the inner rates (one an update).
        learn_readout: meta-learn the read-out's initial weights. Labels are dealt at random, so no class deserves a
            start of its own, and a learned start tends to favour one (the published weights give a single class all
            answers before learning). Off, it starts at zero, which under the softmax is the same as any start shared by
            all classes (Ye and Chao 2022, ICLR, UNICORN-MAML) and fits any number of classes.
        average: decay of the running average of the weights that becomes the result (0: the last weights).
        glyph_fraction: probability that a task is drawn from glyphs when real characters are given too.
        adapt: ``"head"`` (the read-out alone) or ``"network"`` (MAML proper).
        seed: names the run.
        validate_every, validation_tasks: how often and on how many tasks the held-out alphabets are tried.
        device: where torch computes, e.g. ``"cpu"`` or ``"cuda"``.
    """

    network: CNNConfig = field(default_factory=CNNConfig)
    episode: EpisodeSpec = field(default_factory=lambda: EpisodeSpec(rotate=True))
    precision: Precision = field(default_factory=Precision)
    steps: int = 3000
    tasks: int = 32
    lr: float = 1e-3
    decay: float = 0.5
    learn_inner_lr: bool = False
    learn_readout: bool = False
    average: float = 0.998
    glyph_fraction: float = 0.5
    adapt: str = "head"
    seed: int = 0
    validate_every: int = 250
    validation_tasks: int = 200
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.adapt not in ("head", "network"):
            raise ConfigError(f"adapt {self.adapt!r}: choose 'head' or 'network'")
        if self.steps < 1 or self.tasks < 1:
            raise ConfigError(f"steps {self.steps} and tasks {self.tasks} must be at least 1")
        if not 0 <= self.glyph_fraction <= 1 or not 0 <= self.average < 1 or not 0 <= self.decay <= 1:
            raise ConfigError("glyph_fraction and decay lie in 0..1, average in 0..1 (1 excluded)")
        if not self.lr > 0:
            raise ConfigError(f"lr {self.lr}: must be positive")
        if self.network.n_way != self.episode.n_way:
            raise ConfigError(f"a read-out of {self.network.n_way} classes cannot learn {self.episode.n_way}-way tasks")

    def rate(self, step: int) -> float:
        """Adam's rate at ``step`` (0-based)."""
        begin = self.steps * (1 - self.decay)
        if step < begin or self.decay == 0:
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - begin) / (self.steps - begin)))


class TrainingState:
    """What a checkpoint holds: the network, its running average, Adam's moments, and the history of the metrics."""

    def __init__(self, config: TrainingConfig, net: FewshotCNN) -> None:
        self.config = config
        self.net = net = net.to(config.device)
        net.inner_lr.requires_grad_(config.learn_inner_lr)
        net.readout.requires_grad_(config.learn_readout)
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=config.lr, eps=1e-7)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.validation: list[dict[str, float]] = []

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under a flat name."""
        out = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        out |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            out |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        return out

    def restore(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Continue from ``tensors()`` and ``progress()`` of an earlier state of the same configuration.

        Raises: WeightsError: they are not such a state's; nothing is changed then.
        """
        check_progress(progress, self.config.steps, self.progress())
        restore_tensors(tensors, self.net, self.average, self.optimizer)
        for name in self.progress():
            setattr(self, name, progress[name])

    def progress(self) -> dict[str, Any]:
        return {"step": self.step, "history": self.history, "validation": self.validation}


def meta_train(
    state: TrainingState,
    characters: CharacterSet | None,
    glyphs: CharacterSet | None,
    held_out: CharacterSet | None,
    *,
    on_step: Callable[[TrainingState, float, float], None] | None = None,
    save: Callable[[TrainingState], Path | None] | None = None,
    save_every: int = 50,
    stop: Callable[[], bool] | None = None,
    last_saved: Path | None = None,
    processes: Processes = ALONE,
) -> FewshotCNN:
    """Run the outer loop from ``state.step`` to ``config.steps``.

    Args:
        state: where to begin; changed in place.
        characters: real characters to learn from, or None. glyphs: synthetic ones, or None.
        held_out: characters of other alphabets to validate on; None: no validation.
        on_step: called after each step, where a checkpoint is due once it is written, with the state, the loss and the
            accuracy of the step's query sets.
        save: writes a checkpoint and returns its path; called for the state after every ``save_every`` steps and at a
            stop once the next step has shown it sound (its loss and gradient are finite), before its weights change;
            and at the end.
        stop: asked after each step; true ends the run there, its checkpoint saved.
        last_saved: the checkpoint that ``state`` comes from.
        processes: those that share each batch of tasks; the first alone validates.
    Returns: the averaged network.
    Raises:
        ConfigError: nothing to learn from, or tasks that cannot be shared.
        DivergenceError: the loss or its gradient is not finite. KeyboardInterrupt: ``stop``.
    """
    config = state.config
    if characters is None and glyphs is None:
        raise ConfigError("nothing to learn from: give characters, glyphs or both")
    if processes.count > 1 and config.network.norm == "meta-batch":
        raise ConfigError(
            "norm 'meta-batch' couples all tasks of a batch: several processes take norm support or transductive"
        )
    good: Path | None = None
    awaited: tuple[float, float] | None = None
    stopping = False
    while state.step < config.steps:
        for group in state.optimizer.param_groups:
            group["lr"] = config.rate(state.step)
        batch = _draw(config, characters, glyphs, state.step, processes).to(config.device)
        generator = torch.Generator(config.device).manual_seed(_mix(config.seed, state.step))
        state.optimizer.zero_grad(set_to_none=True)
        loss, accuracy = _outer_gradient(config, state.net, batch, processes.source(generator))
        processes.average_gradients(state.net.parameters())
        loss, accuracy = processes.average({"loss": loss, "accuracy": accuracy}).values()
        gradient = float(torch.nn.utils.get_total_norm(p.grad for p in state.net.parameters() if p.grad is not None))
        if not math.isfinite(loss) or not math.isfinite(gradient):
            raise DivergenceError(
                f"meta-training diverged at step {state.step}: loss {loss:.6g}, gradient {gradient:.6g}. "
                f"{_advice(config, good)}"
            )
        good = good or last_saved
        if awaited is not None:
            good = save(state) if save else good
            if on_step:
                on_step(state, *awaited)
            awaited = None
        if stopping:
            processes.wait()
            raise KeyboardInterrupt
        state.optimizer.step()
        state.step += 1
        decay = min(config.average, state.step / (state.step + 9))
        with torch.no_grad():
            for kept, new in zip(state.average.parameters(), state.net.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        state.history.append({"step": state.step, "loss": loss, "accuracy": accuracy})
        if (
            processes.first
            and held_out is not None
            and (state.step % config.validate_every == 0 or state.step == config.steps)
        ):
            state.validation.append(_validate(config, state, held_out))
        stopping = processes.any(stop is not None and stop())
        last = state.step == config.steps
        if save and last:
            save(state)
        if save and not last and (stopping or state.step % save_every == 0):
            awaited = loss, accuracy
        elif on_step:
            on_step(state, loss, accuracy)
    return state.average


def _advice(config: TrainingConfig, good: Path | None) -> str:
    """What to do about a divergence, as a command; ``good``: the last checkpoint that was shown sound."""
    rate = min(config.lr / 10, TrainingConfig.lr)
    start = f" --init {shlex.quote(str(good))}" if good else ""
    go_on = "Go on from its weights" if good else "Start anew"
    return (
        f"Last good checkpoint: {good or 'none'}. {go_on} with a lower rate than {config.lr:g}, beside the run's other "
        f"options or a lower --inner-lr: ovonic fewshot train NEWDIR{start} --lr {rate:g}"
    )


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _draw(
    config: TrainingConfig,
    characters: CharacterSet | None,
    glyphs: CharacterSet | None,
    step: int,
    processes: Processes = ALONE,
) -> EpisodeBatch:
    """This process's share of the step's tasks; of two sources, the real ones stand first."""
    indices = range(step * config.tasks, (step + 1) * config.tasks)
    if characters is None or glyphs is None:
        share = list(processes.share(indices, "tasks"))
        return sample_episodes(characters or glyphs, config.episode, config.seed, share)  # type: ignore[arg-type]
    synthetic = np.random.default_rng([config.seed, step, 1]).random(config.tasks) < config.glyph_fraction
    order = sorted(zip(synthetic.tolist(), indices, strict=True))
    chosen = {of: [i for s, i in processes.share(order, "tasks") if s == of] for of in (False, True)}
    parts = [
        sample_episodes(source, config.episode, config.seed, chosen[of])
        for source, of in ((characters, False), (glyphs, True))
        if chosen[of]
    ]
    return EpisodeBatch(
        torch.cat([part.support for part in parts]),
        torch.cat([part.support_labels for part in parts]),
        torch.cat([part.query for part in parts]),
        torch.cat([part.query_labels for part in parts]),
        np.concatenate([part.classes for part in parts]),
    )


def _outer_gradient(
    config: TrainingConfig, net: FewshotCNN, batch: EpisodeBatch, generator: Source
) -> tuple[float, float]:
    tensors = (batch.support, batch.support_labels, batch.query, batch.query_labels)
    if config.adapt == "head":
        return meta_gradient(net, *tensors, precision=config.precision, generator=generator)
    loss, logits = whole_network_loss(net, *tensors, precision=config.precision, generator=generator)
    loss.backward()
    return loss.item(), (logits.argmax(-1) == batch.query_labels).float().mean().item()


def _validate(config: TrainingConfig, state: TrainingState, held_out: CharacterSet) -> dict[str, float]:
    spec = EpisodeSpec(config.episode.n_way, config.episode.k_shot, config.episode.queries)
    per_task = task_accuracy(
        state.average, held_out, spec, config.validation_tasks, seed=config.seed, precision=config.precision
    )[:, -1]
    summary = interval(per_task)
    return {"step": state.step, "accuracy": summary["mean"], "ci95": summary["ci95"]}
