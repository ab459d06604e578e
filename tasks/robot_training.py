"""Meta-training of the robot's networks: the outer loop of natural e-prop, its schedule, checkpoints and validation.

    step s   Brownian movements number s batch .. (s + 1) batch - 1 of the training stream -> lessons -> outer loss
             (``models.outer_loss``) -> gradient of all six weights -> clipped in norm -> Adam -> running average

A run is a function of its configuration alone: step s draws its movements and its rounding from (seed, s), so a run
that was stopped and resumed ends with the very weights of one that was not (same torch release, same numbers of
threads and processes, same engine).

Movement i of a seed depends on (seed, i) alone (``tasks.trajectories``), so parts of a run, and evaluations of the
same seed, are kept apart by number: evaluations count from 0, validation from 2^31, training from 2^32.
"""

from __future__ import annotations

import functools
import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.adapters.engines import BACKENDS, engine
from ovonic.models.errors import ConfigError, DivergenceError, nearest
from ovonic.models.natural_eprop import InnerLoop, Lesson
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Start, initial_pair
from ovonic.models.outer_loss import Objective, outer_loss
from ovonic.models.shared_draws import Source
from ovonic.models.weight_noise import NoisyWeights, WeightNoise, weight_noise
from ovonic.tasks.cuda_graph import Replayed
from ovonic.tasks.data_parallel import ALONE, Processes
from ovonic.tasks.movements_ahead import movements_ahead
from ovonic.tasks.restoring import check_progress, restore_tensors
from ovonic.tasks.robot import MovementErrors, Robot, kinematics, movement_errors, movement_family
from ovonic.tasks.statistics import interval
from ovonic.tasks.trajectories import CoordinateCode, TrajectoryBatch, TrajectorySpec, sample_trajectories

__all__ = ["RobotTrainingConfig", "RobotTrainingState", "robot_train"]

VALIDATION_FROM, TRAINING_FROM = 2**31, 2**32
NUMBERS = ("loss", "task", "mse_omega", "mse_xyz", "rates", "trainee_hz", "lsg_hz", "gradient", "at_rest")
"""What a step tells."""

WORSE, PATIENCE = 10.0, 100
"""Training has diverged when the loss exceeds ``WORSE`` times that of an arm at rest, ``PATIENCE`` steps in a row."""


@dataclass(frozen=True)
class RobotTrainingConfig:
    """Everything a meta-training run depends on.

    Attributes:
        network: sizes and dynamics. inner: how lessons go. objective: the outer loss. code: how targets are told.
        start: how the first weights are drawn, where a run does not go on from others.
        steps: outer updates. batch: movements an outer update, of all processes together.
        lr: Adam's rate (eps 1e-7, as published), reached linearly over the first ``warmup`` steps, then constant, then
            falling to zero along a half cosine over the last ``decay`` of the run.
        clip: largest norm of the gradient over all six weights; None: any.
        average: decay of the running average of the weights that becomes the result (0: the last weights).
        seed: names the run.
        log_every: steps between records of the history.
        validate_every, validation_trajectories: how often and on how many other movements the average is tried.
        weight_noise, noise_model: noise on the trainee's weights in every lesson, one chip a step: a standard deviation
            in units of each matrix's largest |w|, or a device model by name (``models.weight_noise``).
        device: where torch computes, e.g. ``"cpu"`` or ``"cuda"``.
        backend: whose neurons both networks are made of, see ``adapters.engines``.
    """

    network: NaturalEPropConfig = field(default_factory=NaturalEPropConfig)
    inner: InnerLoop = field(default_factory=InnerLoop)
    objective: Objective = field(default_factory=Objective)
    code: CoordinateCode = field(default_factory=CoordinateCode)
    start: Start = field(default_factory=Start)
    steps: int = 5000
    batch: int = 32
    lr: float = 1.5e-3
    warmup: int = 0
    decay: float = 0.5
    clip: float | None = None
    average: float = 0.998
    seed: int = 0
    log_every: int = 10
    validate_every: int = 250
    validation_trajectories: int = 200
    weight_noise: float = 0.0
    noise_model: str | None = None
    device: str = "cpu"
    backend: str = "ovonic"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "validate_every", "validation_trajectories"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.warmup < 0 or self.seed < 0:
            raise ConfigError(f"warmup {self.warmup} and seed {self.seed}: must not be negative")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} {value}: must be positive and finite")
        if not 0 <= self.average < 1 or not 0 <= self.decay <= 1:
            raise ConfigError(f"decay {self.decay} lies in 0..1, average {self.average} in 0..1 (1 excluded)")
        if self.validation_trajectories > TRAINING_FROM - VALIDATION_FROM:
            raise ConfigError(f"validation_trajectories {self.validation_trajectories}: would be trained on")
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend {self.backend!r}: {nearest(self.backend, BACKENDS)}")
        _ = self.movements, self.noise

    @property
    def movements(self) -> TrajectorySpec:
        """The movements that are learned: the consistent family."""
        return movement_family(self.network, self.code)

    @property
    def noise(self) -> WeightNoise | None:
        """The noise on the trainee's weights."""
        return weight_noise(self.weight_noise, self.noise_model)

    @property
    def replays(self) -> bool:
        """Whether a step on a GPU is replayed: one of our own engine that draws no random numbers."""
        draws = self.noise is not None or (self.inner.step is not None and self.inner.rounding == "stochastic")
        return self.device != "cpu" and self.backend == "ovonic" and not draws

    def rate(self, step: int) -> float:
        """Adam's rate at ``step`` (0-based)."""
        begin = self.steps * (1 - self.decay)
        falling = 1.0
        if step >= begin and self.decay:
            falling = 0.5 * (1 + math.cos(math.pi * (step - begin) / (self.steps - begin)))
        return self.lr * falling * min(1.0, (step + 1) / max(self.warmup, 1))


class RobotTrainingState:
    """What a checkpoint holds: the networks, their running average, Adam's moments, and the history of the metrics.

    Args:
        config: of the run.
        start: networks to begin with, of the same sizes and code; None: ``initial_pair`` of the run's seed.
    Raises: ConfigError: ``start`` is of another configuration; the fields are named. ToolchainError: the backend is
        missing.
    """

    def __init__(self, config: RobotTrainingConfig, start: Robot | None = None) -> None:
        self.config = config
        if start is None:
            pair = initial_pair(config.network, config.seed, config.start, config.code.bits)
            start = Robot(config.network, pair, config.inner, config.code)
        _check_start(config, start)
        run = engine(config.backend)
        self.net = start.module(engine=run).to(config.device).train()
        self.average = start.module(engine=run).to(config.device).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.lr, eps=1e-7)
        self.replayed: Replayed | None = None
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.validation: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}
        self.unlogged = self.worse = 0

    def robot(self, provenance: dict[str, Any] | None = None) -> Robot:
        """The averaged networks, which are the result."""
        c = self.config
        return Robot(c.network, self.average.describe(), c.inner, c.code, provenance or {})

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under a flat name."""
        out = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        out |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            out |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        return out

    def progress(self) -> dict[str, Any]:
        """The rest of the state, JSON values."""
        names = ("step", "history", "validation", "sums", "unlogged", "worse")
        return {name: getattr(self, name) for name in names}

    def restore(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Continue from ``tensors()`` and ``progress()`` of an earlier state of the same configuration.

        Raises: WeightsError: they are not such a state's; nothing is changed then.
        """
        check_progress(progress, self.config.steps, self.progress())
        restore_tensors(tensors, self.net, self.average, self.optimizer)
        for name in self.progress():
            setattr(self, name, progress[name])

    def record(self, shown: dict[str, float]) -> None:
        """Add a step's numbers; the history gets their means every ``log_every`` steps and at the end."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in shown.items()}
        self.unlogged += 1
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            means = {name: total / self.unlogged for name, total in self.sums.items()}
            self.history.append({"step": self.step, **means})
            self.sums, self.unlogged = {}, 0


def robot_train(
    state: RobotTrainingState,
    *,
    on_step: Callable[[RobotTrainingState, dict[str, float]], None] | None = None,
    save: Callable[[RobotTrainingState], Path | None] | None = None,
    save_every: int = 50,
    stop: Callable[[], bool] | None = None,
    last_saved: Path | None = None,
    processes: Processes = ALONE,
) -> Robot:
    """Run the outer loop from ``state.step`` to ``config.steps``.

    Args:
        state: where to begin; changed in place.
        on_step: called after each step, where a checkpoint is due once it is written, with the state and the step's
            numbers: ``loss`` (all of it), ``task`` (without
            rates), ``mse_omega``, ``mse_xyz``, ``rates`` (the rates' share of the loss), ``trainee_hz``, ``lsg_hz``,
            ``gradient`` (norm before clipping).
        save: writes a checkpoint and returns its path; called for the state after every ``save_every`` steps and at a
            stop once the next step has shown it sound (its loss and gradient are finite, and the loss is not as high as
            that of a run that diverges), before its weights change; and at the end.
        stop: asked after each step; true ends the run there.
        last_saved: the checkpoint that ``state`` comes from.
        processes: those that share each batch of movements; the first alone validates. On a GPU others draw the
            movements (``tasks.movements_ahead``).
    Returns: the averaged networks.
    Raises: DivergenceError: a loss or the gradient is not finite, or the task's loss was over ``WORSE`` times that of
        an arm at rest for ``PATIENCE`` steps. KeyboardInterrupt: ``stop``.
    """
    config = state.config
    good: Path | None = None
    awaited: dict[str, float] | None = None
    stopping = False

    def diverged(what: str) -> DivergenceError:
        return DivergenceError(f"meta-training diverged at step {state.step}: {what}. {_advice(config, good)}")

    for batch in _batches(config, state.step, processes):
        for group in state.optimizer.param_groups:
            group["lr"] = config.rate(state.step)
        shown, at_rest = _outer_gradient(state, batch, processes)
        if not all(map(math.isfinite, shown.values())):
            raise diverged(", ".join(f"{name} {value:.6g}" for name, value in shown.items()))
        high = shown["task"] > WORSE * at_rest
        good = good or last_saved
        if awaited is not None:
            if save and not high:
                good = save(state)
            if on_step:
                on_step(state, awaited)
            awaited = None
        if stopping:
            processes.wait()
            raise KeyboardInterrupt
        state.worse = state.worse + 1 if high else 0
        if state.worse >= PATIENCE:
            raise diverged(
                f"for {PATIENCE} steps the loss has been over {WORSE:g} times that of no movement, "
                f"{shown['task']:.4g} over {at_rest:.4g} now"
            )
        state.optimizer.step()
        state.step += 1
        _follow(state)
        state.record(shown)
        if processes.first and (state.step % config.validate_every == 0 or state.step == config.steps):
            state.validation.append({"step": state.step, **_validate(state)})
            if not math.isfinite(state.validation[-1]["loss"]["mean"]):
                raise diverged("the averaged networks' loss is not finite")
        stopping = processes.any(stop is not None and stop())
        last = state.step == config.steps
        if save and last:
            save(state)
        if save and not last and (stopping or state.step % save_every == 0):
            awaited = shown
        elif on_step:
            on_step(state, shown)
    return state.robot()


def _advice(config: RobotTrainingConfig, good: Path | None) -> str:
    """What to do about a divergence, as a command; ``good``: the last checkpoint that was shown sound."""
    rate = min(config.lr / 10, RobotTrainingConfig.lr)
    start = f" --init {shlex.quote(str(good))}" if good else ""
    go_on = "Go on from its weights" if good else "Start anew"
    clip = f", a lower --clip than {config.clip:g}" if config.clip else ", --clip"
    return (
        f"Last good checkpoint: {good or 'none'}. {go_on} with a lower rate than {config.lr:g}, beside the run's other "
        f"options{clip} or a lower --inner-rate than {config.inner.rate:g}: "
        f"ovonic robot train NEWDIR{start} --lr {rate:g}"
    )


def _batches(config: RobotTrainingConfig, step: int, processes: Processes) -> Iterator[TrajectoryBatch]:
    """This process's movements of each step from ``step`` on, drawn ahead while a GPU computes."""
    firsts = (TRAINING_FROM + s * config.batch for s in range(step, config.steps))
    numbers = (list(processes.share(range(first, first + config.batch))) for first in firsts)
    if config.device == "cpu":
        return (sample_trajectories(config.movements, config.seed, share) for share in numbers)
    return (batch.to(config.device) for batch in movements_ahead(config.movements, config.seed, numbers))


def _outer_gradient(
    state: RobotTrainingState, batch: TrajectoryBatch, processes: Processes = ALONE
) -> tuple[dict[str, float], float]:
    """Leave the clipped gradient in the weights; the step's numbers, and the task's loss of an arm at rest."""
    config, trace = state.config, kinematics(batch.spec)
    source = processes.source(torch.Generator(config.device).manual_seed(_mix(config.seed, state.step)))
    tensors = batch.omega, batch.path, batch.clock, batch.code
    step: Callable[..., Tensor] = functools.partial(_differentiate, state, trace, source, processes)
    if config.replays and processes.count == 1:
        if state.replayed is None:
            state.replayed = Replayed(step, tensors)
        step = state.replayed
    values = step(*tensors)
    shown = processes.average(dict(zip(NUMBERS, values.tolist(), strict=True)))
    return shown, shown.pop("at_rest")


def _differentiate(
    state: RobotTrainingState,
    trace: Callable[[Tensor], Tensor],
    source: Source,
    processes: Processes,
    omega: Tensor,
    path: Tensor,
    clock: Tensor,
    code: Tensor,
) -> Tensor:
    """``_outer_gradient`` without a synchronisation with the device: ``NUMBERS``, [9]."""
    config, o = state.config, state.config.objective
    state.optimizer.zero_grad(set_to_none=True)
    products = None if config.noise is None else NoisyWeights(config.noise, source)
    lesson = state.net(clock, torch.cat([clock, code], -1), config.inner, source, products)
    loss = outer_loss(lesson, omega, path, trace, o, processes.mean if processes.count > 1 else None)
    loss.total.backward()
    processes.average_gradients(state.net.parameters())
    norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip or math.inf)
    with torch.no_grad():
        rest = torch.zeros_like(omega)
        at_rest = o.omega * omega.square().mean() + o.path * (trace(rest) - path).square().mean()
        numbers = loss.total, loss.task, loss.mse_omega, loss.mse_path, loss.total - loss.task
        return torch.stack([*(x.detach() for x in numbers), *_rates_hz(lesson), norm, at_rest])


def _rates_hz(lesson: Lesson) -> tuple[Tensor, Tensor]:
    """Mean rates of the trainee over all trials, and of the LSG."""
    (trainee,) = lesson.trials[0].layers
    assert lesson.lsg is not None
    trials = torch.stack([trial.rates_hz()[trainee].mean() for trial in lesson.trials]).mean()
    return trials, torch.stack([r.mean() for r in lesson.lsg.rates_hz().values()]).mean()


def _follow(state: RobotTrainingState) -> None:
    """Let the running average follow; its decay grows from small, so that the start is forgotten."""
    decay = min(state.config.average, state.step / (state.step + 9))
    with torch.no_grad():
        for kept, new in zip(state.average.parameters(), state.net.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


def _validate(state: RobotTrainingState) -> dict[str, Any]:
    """Loss and tip error of the averaged networks after a lesson without noise, on movements never trained on."""
    config, spec = state.config, state.config.movements
    generator = torch.Generator(config.device).manual_seed(_mix(config.seed, VALIDATION_FROM))
    end = VALIDATION_FROM + config.validation_trajectories
    parts: list[MovementErrors] = []
    for first in range(VALIDATION_FROM, end, config.batch):
        batch = sample_trajectories(spec, config.seed, range(first, min(first + config.batch, end)))
        batch = batch.to(config.device)
        with torch.no_grad():
            lesson = state.average(batch.clock, batch.lsg_input, config.inner, generator)
            parts.append(movement_errors(lesson.after, batch))
    loss, tip = (
        torch.cat([getattr(p, name) for p in parts]).double().cpu().numpy() for name in ("loss", "tip_rmse_mm")
    )
    return {
        "loss": {**interval(loss), "median": float(np.median(loss))},
        "tip_rmse_mm": {"median": float(np.median(tip)), "p95": float(np.quantile(tip, 0.95))},
    }


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _check_start(config: RobotTrainingConfig, start: Robot) -> None:
    due = {**vars(config.network), "code": config.code}
    has = {**vars(start.config), "code": start.code}
    if differing := [f"{name} {has[name]!r} there, {due[name]!r} asked for" for name in due if has[name] != due[name]]:
        raise ConfigError(f"the networks to start from are others: {'; '.join(differing)}")
