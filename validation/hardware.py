"""One condition measured: an experiment on simulated chips beside software.

Chips are crossed with tasks, both drawn at random, and every comparison is paired on the same tasks. ``ratio`` is to
the best software row of the same weights: at 32 bit, with updates that are not rounded; ``own_ratio`` is to the twin
that rounds as the hardware does. Each condition is a function of itself, the size and the seed, so that a study can be
stopped and taken up again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from ovonic.validation.hardware_conditions import Condition, Size

__all__ = ["measure", "steps"]

HARDWARE = ("crossbar", "aihwkit")


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


def steps(condition: Condition, size: Size) -> int:
    """How many steps ``measure`` tells of."""
    return size.tasks * (size.chips + (condition.experiment == "fewshot"))
