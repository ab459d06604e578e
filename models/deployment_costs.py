"""What a deployment costs that adapts, what it costs to do without, and after how many meta-training has paid.

    adapt          the array's own lesson and reads                     against
    twin           a digital processor does the same, no array          at each task
    reprogram      the twin learns, every device is programmed anew     at each task
    scratch        training from random weights on a CPU or GPU, then programming every device

    FLOP of training = 6 x multiply-accumulates of a forward pass (2 each; the backward pass costs two forward ones)

Meta-training as published: few-shot 30,000 steps of 32 tasks of 25 supports and 25 queries; robot 100,000 steps of 90
movements of 249 steps (Ortner et al. 2025). How many passes over a task's data training from scratch takes is a cost
parameter, and an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovonic.models.accounting import (
    BreakEven,
    Counts,
    Interval,
    break_even,
    draw_costs,
    energy_parts,
    estimate,
    training_energy,
)
from ovonic.models.energy import Costs
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.experiment_counts import (
    LSG_LOADS,
    TRAINEE_LOADS,
    Load,
    cnn_loads,
    fewshot_counts,
    fewshot_twin_counts,
    robot_counts,
    robot_twin_counts,
)

__all__ = [
    "EXPERIMENTS",
    "Alternative",
    "Experiment",
    "alternatives",
    "fewshot",
    "robot",
    "scratch_energy",
    "training_flops",
]

EXPERIMENTS = ("fewshot", "robot")


@dataclass(frozen=True)
class Experiment:
    """Counts of a task or lesson, and the training before it.

    Attributes:
        array: ``adaptation``, ``inference`` and ``deployment`` on arrays; twin: the first two in digital.
        meta_flops: operations of meta-training; scratch_flops: of one pass of training a task from scratch.
    """

    name: str
    array: Mapping[str, Counts]
    twin: Mapping[str, Counts]
    meta_flops: float
    scratch_flops: float


def training_flops(loads: Sequence[Load], inputs: float) -> float:
    """Floating-point operations of forward and backward passes of ``inputs`` inputs, zeros counted."""
    return 6.0 * inputs * sum(x.applications * x.weights for x in loads)


def fewshot(
    loads: Sequence[Load] | None = None,
    *,
    supports: int = 25,
    queries: int = 25,
    updates: int = 4,
    devices_per_update: float | None = None,
) -> Experiment:
    """The few-shot experiment: see ``experiment_counts.fewshot_counts``."""
    loads = tuple(loads or cnn_loads())
    touched = 4.0 * loads[-1].weights if devices_per_update is None else devices_per_update
    sizes: dict[str, Any] = {"supports": supports, "queries": queries, "updates": updates}
    return Experiment(
        "fewshot",
        fewshot_counts(loads, devices_per_update=touched, **sizes),
        fewshot_twin_counts(loads, **sizes),
        training_flops(loads, 30_000 * 32 * (supports + queries)),
        training_flops(loads, supports),
    )


def robot(
    trainee: Sequence[Load] = TRAINEE_LOADS,
    *,
    lsg: str = "crossbar",
    devices_per_update: float | None = None,
    activity: float = 0.02,
    updates: int = 1,
) -> Experiment:
    """The robot experiment: see ``experiment_counts.robot_counts``."""
    touched: dict[str, Any] = {} if devices_per_update is None else {"devices_programmed": devices_per_update}
    trials: dict[str, Any] = {"updates": updates, "trials": updates + 1}
    steps = 249
    return Experiment(
        "robot",
        robot_counts(trainee, lsg=lsg, activity=activity, **trials, **touched),
        robot_twin_counts(trainee, activity=activity, **trials),
        training_flops([*trainee, *trainee, *LSG_LOADS], 100_000 * 90 * steps),
        training_flops(trainee, steps),
    )


@dataclass(frozen=True)
class Alternative:
    """One way to do without adaptation on the array.

    Attributes:
        adapted_j, other_j: energy of a deployment with and without adaptation on the array.
        break_even: with every parameter anywhere in its range on either side, whatever it is on the other.
        drawn: 5th, 50th and 95th percentile of the deployments where a parameter is drawn once for both sides
            (log-triangular); never: the share of draws without a break-even.
    """

    name: str
    adapted_j: Interval
    other_j: Interval
    break_even: BreakEven
    drawn: Interval
    never: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "adapted_j": self.adapted_j._asdict(),
            "other_j": self.other_j._asdict(),
            "saving_j": self.break_even.saving_j._asdict(),
            "deployments": self.break_even.deployments._asdict(),
            "verdict": self.break_even.verdict,
            "drawn": {"p5": self.drawn.low, "p50": self.drawn.typical, "p95": self.drawn.high, "never": self.never},
        }


def alternatives(
    experiment: Experiment,
    costs: Costs | None = None,
    *,
    meta_training_j: Interval | None = None,
    scratch_j: Interval | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> list[Alternative]:
    """Compare adaptation on the array with the alternatives above.

    Args:
        meta_training_j, scratch_j: in place of ``meta_flops`` and ``scratch_flops`` at the costs' energy a FLOP.
        draws, seed: of ``Alternative.drawn``.
    """
    costs = costs or Costs()
    meta = meta_training_j or training_energy(costs, flops=experiment.meta_flops)
    scratch = scratch_j or scratch_energy(experiment, costs)
    energy = {name: estimate(counts, costs).energy_j for name, counts in experiment.array.items()}
    twin = {name: estimate(counts, costs).energy_j for name, counts in experiment.twin.items()}
    drawn = draw_costs(costs, draws, seed)
    flop = drawn["training.flop_energy_j"]
    fixed = np.linspace(0, 1, draws)
    some_energy = {name: _drawn_energy(counts, drawn) for name, counts in experiment.array.items()}
    some_twin = {name: _drawn_energy(counts, drawn) for name, counts in experiment.twin.items()}
    some_meta = np.interp(fixed, [0, 0.5, 1], meta) if meta_training_j else experiment.meta_flops * flop
    some_scratch = np.interp(fixed, [0, 0.5, 1], scratch) if scratch_j else _scratch(experiment, drawn)
    found = []
    for name in ("twin", "reprogram", "scratch"):
        adapted, other = _sides(name, energy, twin, scratch, _sum)
        some_adapted, some_other = _sides(name, some_energy, some_twin, some_scratch, np.add)
        saving = some_other - some_adapted
        needed = np.where(saving > 0, some_meta / np.where(saving > 0, saving, 1.0), np.inf)
        low, middle, high = np.quantile(needed, [0.05, 0.5, 0.95], method="nearest")
        found.append(
            Alternative(
                name,
                adapted,
                other,
                break_even(meta, adapted, other),
                Interval(float(low), float(middle), float(high)),
                float(np.isinf(needed).mean()),
            )
        )
    return found


def scratch_energy(experiment: Experiment, costs: Costs | None = None) -> Interval:
    """Energy of training one task from scratch, J."""
    return Interval(*(_scratch(experiment, (costs or Costs()).at(end)) for end in ("low", "typical", "high")))


def _scratch(experiment: Experiment, at: Mapping[str, Any]) -> Any:
    return experiment.scratch_flops * at["training.scratch_passes"] * at["training.flop_energy_j"]


def _sides(name: str, array: Mapping[str, Any], twin: Mapping[str, Any], scratch: Any, add: Any) -> tuple[Any, Any]:
    """Energy of a deployment with adaptation on the array, and of the alternative ``name``."""
    if name == "twin":
        return add(array["adaptation"], array["inference"]), add(twin["adaptation"], twin["inference"])
    learned = twin["adaptation"] if name == "reprogram" else scratch
    return array["adaptation"], add(learned, array["deployment"])


def _drawn_energy(counts: Counts, drawn: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.asarray(sum(energy_parts(counts, drawn).values()))


def experiment_named(name: str) -> str:
    """``name``, one of ``EXPERIMENTS``.

    Raises: ConfigError: another name.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(f"experiment {name!r}: {nearest(name, EXPERIMENTS)}")
    return name


def _sum(*parts: Interval) -> Interval:
    return Interval(*(sum(ends) for ends in zip(*parts, strict=True)))
