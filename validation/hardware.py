"""Both experiments on simulated crossbars beside software: what is measured, and the margins fixed before it was.

    headline         default noise, four devices a weight, one read, no averaging; weights meta-trained without noise
    training-noise   meta-trained with {no, crude, accurate} noise x tested on {published, pcm, hermes} devices
    adaptation       adapt on the device, in software and then program, not at all; noise from 0 to 8 times
    updates          1 to 8 updates of the CNN, 1 to 4 of the arm: error and energy

Chips are crossed with tasks, both drawn at random, and every comparison is paired on the same tasks. The ratio that
the margins are about is to the best software row of the same weights: at 32 bit, with updates that are not rounded;
``own_ratio`` is to the twin that rounds as the hardware does. Each condition is a function of itself, the size and the
seed, so that a study can be stopped and taken up again.

Reference: Ortner et al. 2025, Nature Communications 16:1243: the claim tested is that learning to learn makes up for
the non-idealities of the devices.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ovonic.adapters.aihwkit_devices import Hardware
from ovonic.adapters.crossbar_fewshot import FewshotCrossbar
from ovonic.adapters.fitted_models import resolve_device_model
from ovonic.adapters.weights import readout_w_max, resolve_fewshot
from ovonic.models.device_model import DeviceModel
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.maml import Precision
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.periphery import Periphery
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot import software_learner
from ovonic.tasks.fewshot_crossbar import crossbar_chips
from ovonic.tasks.fewshot_energy import task_counts, task_energy
from ovonic.tasks.fewshot_evaluation import evaluate
from ovonic.tasks.fewshot_hardware import aihwkit_chips
from ovonic.tasks.robot import resolve_robot, spec_for
from ovonic.tasks.robot_aihwkit import TraineeTiles
from ovonic.tasks.robot_crossbar import CrossbarSettings, TraineeChip
from ovonic.tasks.robot_crossbar_evaluation import evaluate_on_chips
from ovonic.tasks.robot_evaluation import evaluate_robot
from ovonic.tasks.statistics import error_ratio, loss_ratio

__all__ = [
    "LEAST",
    "MARGINS",
    "MONTH_S",
    "STUDIES",
    "Condition",
    "Size",
    "Verdict",
    "experiment_of",
    "measure",
    "preliminary",
    "steps",
    "study",
    "verdicts",
]

MONTH_S = 30 * 86400.0

MARGINS = {"fewshot_first_read": 1.10, "fewshot_month": 1.25, "robot_ratio": 1.25, "robot_loss": 0.0164}
"""Most that the upper 95 % bound of error (loss) on hardware over that of the best software may be, at the first read
and a month later; and most that the arm's mean loss on hardware may be: what the published weights reach in software at
multiples of 1/16."""

HARDWARE = ("crossbar", "aihwkit")

LEAST = {"chips": 30, "tasks": 1000}
"""A verdict on fewer is marked as preliminary."""


@dataclass(frozen=True)
class Condition:
    """What is measured on chips.

    Attributes:
        experiment: ``"fewshot"`` or ``"robot"``. weights: a shipped name or a file.
        noise_model, read_time_s, adapt_on, compensation: as ``ovonic fewshot|robot evaluate`` has them.
        noise_scale: factor on programming and read noise. updates: None: as the weights say.
        n_way, k_shot, queries: of few-shot tasks; queries a class.
        hardware: ``"crossbar"`` or ``"aihwkit"``. bits: of every few-shot weight; None: as the weights say.
        zero_targets: what devices of target 0 hold, ``"reset"`` or ``"noisy"``; None: as the hardware has it.
    """

    experiment: str
    weights: str
    noise_model: str = "pcm"
    read_time_s: float = 0.0
    adapt_on: str = "device"
    noise_scale: float = 1.0
    updates: int | None = None
    compensation: str | None = None
    n_way: int = 5
    k_shot: int = 5
    queries: int = 5
    hardware: str = "crossbar"
    bits: int | None = None
    zero_targets: str | None = None

    @property
    def name(self) -> str:
        """A name for it, good for a file."""
        weights = self.weights.replace("/", "_").removesuffix(".safetensors")
        named = [] if weights.startswith(self.experiment) else [self.experiment]
        parts = [*named, weights, self.noise_model.replace("/", "_"), f"{self.read_time_s:.0f}s"]
        parts += [f"{self.n_way}w{self.k_shot}s"] if self.experiment == "fewshot" else []
        parts += [f"on-{self.adapt_on}"] if self.adapt_on != "device" else []
        parts += [f"noise{self.noise_scale:g}"] if self.noise_scale != 1 else []
        parts += [f"{self.updates}updates"] if self.updates is not None else []
        parts += [f"{self.compensation}-compensation"] if self.compensation else []
        parts += [f"{self.bits}bit"] if self.bits is not None else []
        parts += [f"zeros-{self.zero_targets}"] if self.zero_targets else []
        parts += [self.hardware] if self.hardware != "crossbar" else []
        return "-".join(parts)

    def settings(self) -> dict[str, Any]:
        """The fields as JSON; those that came later only where they are chosen, so that older results still fit."""
        later = {"hardware": "crossbar", "bits": None, "zero_targets": None}
        return {name: value for name, value in vars(self).items() if name not in later or value != later[name]}

    def command(self, size: Size, seed: int, data: Sequence[str] = ()) -> str:
        """The command that measures this alone (its ratio is to the weights' own twin)."""
        parts = ["ovonic", self.experiment, "evaluate", "--weights", self.weights, "--hardware", self.hardware]
        parts += ["--noise-model", self.noise_model, "--chips", str(size.chips), "--seed", str(seed)]
        if self.experiment == "fewshot":
            parts += ["--tasks", str(size.tasks), "--way", str(self.n_way), "--shot", str(self.k_shot)]
            parts += ["--queries", str(self.queries)]
            for source in data:
                parts += ["--data", source]
            parts += ["--split", "all"]
        else:
            parts += ["--trajectories", str(size.tasks)]
        options = {
            "--read-time": (f"{self.read_time_s:g}", "0"),
            "--adapt-on": (self.adapt_on, "device"),
            "--noise-scale": (f"{self.noise_scale:g}", "1"),
            "--updates": (str(self.updates), "None"),
            "--compensation": (str(self.compensation), "None"),
            "--precision": (str(self.bits), "None"),
            "--zero-targets": (str(self.zero_targets), "None"),
        }
        for option, (value, default) in options.items():
            parts += [option, value] if value != default else []
        return shlex.join(parts)


@dataclass(frozen=True)
class Size:
    """How many chips, and how many tasks or movements each of them meets."""

    chips: int = 30
    tasks: int = 1000


def _headline(weights: Sequence[str]) -> list[Condition]:
    models, times = ("pcm", "hermes"), (0.0, MONTH_S)
    fewshot, robot = weights
    return [
        *(Condition("robot", robot, model) for model in models),
        *(
            Condition("fewshot", fewshot, model, read, n_way=way, k_shot=shot, queries=queries)
            for way, shot, queries in ((5, 5, 5), (20, 1, 1))
            for model in models
            for read in times
        ),
    ]


def _training_noise(weights: Sequence[str]) -> list[Condition]:
    return [
        Condition(experiment_of(name), name, model, compensation="global" if model == "published" else None)
        for name in weights
        for model in ("published", "pcm", "hermes")
    ]


def _adaptation(weights: Sequence[str]) -> list[Condition]:
    return [
        Condition(experiment_of(name), name, adapt_on=where, noise_scale=scale)
        for name in weights
        for where in ("device", "software", "none")
        for scale in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    ]


def _updates(weights: Sequence[str]) -> list[Condition]:
    numbers = {"fewshot": (1, 2, 3, 4, 6, 8), "robot": (1, 2, 3, 4)}
    kinds = [(name, experiment_of(name)) for name in weights]
    return [Condition(kind, name, updates=updates) for name, kind in kinds for updates in numbers[kind]]


def _parity(weights: Sequence[str]) -> list[Condition]:
    from ovonic.validation.parity import parity_conditions

    return parity_conditions(weights)


STUDIES: dict[str, tuple[Callable[[Sequence[str]], list[Condition]], tuple[str, ...]]] = {
    "headline": (_headline, ("fewshot-32bit-noise-blind", "robot-q16")),
    "training-noise": (_training_noise, ("fewshot-32bit-noise-blind", "fewshot-32bit", "robot-q16")),
    "adaptation": (_adaptation, ("fewshot-32bit-noise-blind", "robot-q16")),
    "updates": (_updates, ("fewshot-32bit-noise-blind", "robot-q16")),
    "parity": (_parity, ("fewshot-32bit-noise-blind", "fewshot-4bit", "robot-q16")),
}
"""Studies by name: what makes their conditions from weights, and which weights by default."""


def study(name: str, weights: Sequence[str] = ()) -> list[Condition]:
    """The conditions of a study.

    Raises: ConfigError: no such study, or not the weights that it takes.
    """
    if name not in STUDIES:
        raise ConfigError(f"study {name!r}: {nearest(name, STUDIES)}")
    make, usual = STUDIES[name]
    if weights and name == "headline" and len(weights) != 2:
        raise ConfigError(f"headline: takes weights of the few-shot network and of the arm, not {len(weights)}")
    return make(weights or usual)


def measure(
    condition: Condition,
    size: Size,
    *,
    seed: int,
    characters: CharacterSet | None = None,
    on_steps: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Measure one condition.

    Args:
        characters: of the few-shot tasks. on_steps: told of ``steps(condition, size)`` in all.
    Returns: the report of the experiment's own evaluation, JSON values, and in it ``ratio`` to the best software
        row, ``own_ratio`` to the twin, ``error``: mean error or loss on hardware, and ``errors``: of each task,
        ``software`` [tasks] (the twin's) and ``hardware`` [chips, tasks], as arrays.
    Raises: ConfigError: few-shot without characters, or what the experiments refuse.
    """
    if condition.hardware not in HARDWARE:
        raise ConfigError(f"hardware {condition.hardware!r}: {nearest(condition.hardware, HARDWARE)}")
    changes: dict[str, Any] = {}
    if condition.noise_model != "none":
        changes = {"prog_scale": condition.noise_scale, "read_scale": condition.noise_scale}
        if condition.zero_targets is not None:
            changes["zero_targets"] = condition.zero_targets
    model = resolve_device_model(condition.noise_model, **changes)
    periphery = Periphery(w_noise=condition.noise_scale * Periphery.w_noise, compensation=condition.compensation)
    tell = on_steps or (lambda _: None)
    if condition.experiment == "robot":
        return _robot(condition, size, seed, model, periphery, tell)
    if characters is None:
        raise ConfigError(f"{condition.name}: few-shot tasks need characters")
    return _fewshot(condition, size, seed, model, periphery, characters, tell)


def _robot(
    c: Condition, size: Size, seed: int, model: DeviceModel, periphery: Periphery, tell: Callable[[int], None]
) -> dict[str, Any]:
    robot = resolve_robot(c.weights)
    inner = robot.inner if c.updates is None else replace(robot.inner, updates=c.updates)
    settings = CrossbarSettings(model, periphery, read_time_s=c.read_time_s, adapt_on=c.adapt_on)
    found = evaluate_on_chips(
        robot,
        spec_for(robot),
        size.tasks,
        inner,
        settings,
        size.chips,
        seed,
        on_batch=lambda n: tell(n),
        make=TraineeChip if c.hardware == "crossbar" else TraineeTiles,
    )
    losses, own = found.after["loss"], found.software_after["loss"]
    best = min(_losses(c.weights, inner, size.tasks, seed), own, key=lambda row: float(row.mean()))
    return found.report() | {
        "error": float(losses.mean()),
        "errors": {"software": own, "hardware": losses},
        "own_ratio": loss_ratio(losses, own, seed=seed),
        "ratio": loss_ratio(losses, best, seed=seed),
    }


@cache
def _losses(weights: str, inner: InnerLoop, tasks: int, seed: int) -> Any:
    """Losses in software with updates that are not rounded, [movements]."""
    robot = resolve_robot(weights)
    return evaluate_robot(robot, spec_for(robot), tasks, replace(inner, step=None), seed).after.loss


def _fewshot(
    c: Condition,
    size: Size,
    seed: int,
    model: DeviceModel,
    periphery: Periphery,
    characters: CharacterSet,
    tell: Callable[[int], None],
) -> dict[str, Any]:
    net, provenance = resolve_fewshot(c.weights)
    w_max = readout_w_max(provenance)
    precision = Precision(c.bits or provenance.get("precision", 32), readout_range=w_max or 1.0)
    chip = FewshotCrossbar(model, periphery, readout_w_max=w_max)
    twin = software_learner(net, updates=c.updates, precision=precision, seed=seed)
    how: dict[str, Any] = {
        "chips": size.chips,
        "seed": seed,
        "n_way": c.n_way,
        "read_time_s": c.read_time_s,
        "updates": c.updates,
        "precision": precision,
        "adapt_on": c.adapt_on,
        "twin": twin,
    }
    programs = (
        crossbar_chips(net, chip, **how) if c.hardware == "crossbar" else aihwkit_chips(net, _tiles(c, w_max), **how)
    )
    spec = EpisodeSpec(c.n_way, c.k_shot, c.queries)
    found = evaluate(twin, programs, characters, spec, size.tasks, seed=seed, on_batch=tell)
    best = found.software[:, -1]
    if precision.bits != 32:
        exact = software_learner(net, updates=c.updates, seed=seed)
        unrounded = evaluate(exact, [], characters, spec, size.tasks, seed=seed).software[:, -1]
        best = max(best, unrounded, key=lambda row: float(row.mean()))
    assert found.hardware is not None
    accuracy = found.hardware[:, :, -1]
    report = found.report() | {
        "error": float(1 - accuracy.mean()),
        "errors": {"software": 1 - found.software[:, -1], "hardware": 1 - accuracy},
        "own_ratio": error_ratio(accuracy, found.software[:, -1], seed=seed),
        "ratio": error_ratio(accuracy, best, seed=seed),
    }
    if c.hardware != "crossbar":
        return report
    counts = task_counts(
        net,
        chip,
        n_way=spec.n_way,
        supports=spec.n_way * spec.k_shot,
        queries=spec.n_way * spec.queries,
        updates=found.software.shape[1] - 1,
        devices_reprogrammed=found.devices_reprogrammed,
        adapt_on=c.adapt_on,
        read_time_s=c.read_time_s,
    )
    return report | {"energy": task_energy(counts)}


def _tiles(c: Condition, w_max: float | None) -> Hardware:
    """The chip of aihwkit's tiles.

    Raises: ConfigError: what only the crossbar has.
    """
    if c.noise_scale != 1 or c.compensation:
        raise ConfigError(f"{c.name}: noise_scale and compensation are the crossbar's: hardware 'crossbar'")
    return Hardware(c.noise_model, zero_targets=c.zero_targets or "noisy", readout_w_max=w_max)


@dataclass(frozen=True)
class Verdict:
    """One margin, and whether it was kept: measured (an upper 95 % bound, or a mean) <= margin."""

    condition: str
    what: str
    measured: float | None
    margin: float
    preliminary: bool

    @property
    def held(self) -> bool | None:
        return None if self.measured is None else self.measured <= self.margin


def preliminary(size: Size) -> bool:
    """Whether a verdict on so few chips or tasks is preliminary."""
    return size.chips < LEAST["chips"] or size.tasks < LEAST["tasks"]


def verdicts(condition: Condition, size: Size, report: dict[str, Any]) -> list[Verdict]:
    """The margins that a condition of the headline is judged by."""

    def verdict(what: str, measured: float | None, margin: str) -> Verdict:
        return Verdict(condition.name, what, measured, MARGINS[margin], preliminary(size))

    high = report["ratio"]["high"]
    if condition.experiment == "fewshot":
        when = "fewshot_first_read" if condition.read_time_s == 0 else "fewshot_month"
        return [verdict("error ratio, upper 95 % bound", high, when)]
    return [
        verdict("loss ratio, upper 95 % bound", high, "robot_ratio"),
        verdict("mean loss", report["error"], "robot_loss"),
    ]


def steps(condition: Condition, size: Size) -> int:
    """How many steps ``measure`` tells of."""
    return size.tasks * (size.chips + (condition.experiment == "fewshot"))


def experiment_of(weights: str) -> str:
    """``"fewshot"`` or ``"robot"``: whose weights they are."""
    from ovonic import load
    from ovonic.models.fewshot_cnn import FewshotCNN

    return "fewshot" if isinstance(load(weights), FewshotCNN) else "robot"
