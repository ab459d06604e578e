"""What a robot lesson costs in energy and time, on arrays and in a digital processor, from counted operations.

    deployment   every device of the trainee and of the learning-signal generator programmed once
    adaptation   device:   the trials before the last, the generator, e-prop in digital, the update programmed
                 software: all of that in digital, then the update programmed
                 none:     nothing
    inference    the last trial

Counts: ``models.experiment_counts``, on the trainee's array and as many arrays as the generator needs; what the update
programs is measured. Costs, as ranges: ``models.energy``.
"""

from __future__ import annotations

from typing import Any

from ovonic.models.accounting import Counts, estimate
from ovonic.models.energy import Costs
from ovonic.models.experiment_counts import Load, matrix_load, robot_counts, robot_twin_counts
from ovonic.models.natural_eprop_networks import NaturalEPropConfig

__all__ = ["lesson_counts", "lesson_energy"]


def lesson_counts(
    network: NaturalEPropConfig,
    programmed: Counts,
    *,
    steps: int,
    updates: int = 1,
    phases: float = 1,
    reads: int = 1,
    adapt_on: str = "device",
) -> dict[str, Counts]:
    """Counts of a lesson: ``deployment``, ``adaptation``, ``inference``, ``twin adaptation``, ``twin inference``.

    Args:
        network: sizes. programmed: devices and pulses of all updates together.
        steps: of a trial. phases: of a read of spikes. reads: conversions averaged in each.
    """
    rows, columns = network.clock + network.trainee, network.trainee + network.outputs
    trainee = (Load("trainee", rows * columns, columns, mvms=reads, in_sequence=reads, phases=phases),)
    given = network.clock + network.target + network.lsg
    generator = (
        matrix_load("lsg", given, network.lsg, phases=phases),
        matrix_load("learning_signal", network.lsg, network.trainee, phases=phases),
    )
    how: dict[str, Any] = {
        "steps": steps,
        "neurons": network.trainee,
        "inputs": network.clock,
        "trials": updates + 1,
        "updates": updates,
    }
    array = robot_counts(trainee, generator, devices_programmed=0, **how)
    twin = robot_twin_counts(trainee, generator, **how)
    learning = {"device": array["adaptation"], "software": twin["adaptation"], "none": Counts()}[adapt_on]
    array["adaptation"] = learning + programmed
    return {**array, **{f"twin {name}": counts for name, counts in twin.items()}}


def lesson_energy(counts: dict[str, Counts], costs: Costs | None = None) -> dict[str, Any]:
    """Energy (J) and latency (s) of each part as JSON: low, typical, high, and by kind of work."""
    return {name: estimate(part, costs).as_dict() for name, part in counts.items()}
