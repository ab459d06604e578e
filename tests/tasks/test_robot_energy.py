"""What a lesson costs: counts by hand, and where adaptation takes place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovonic.models.accounting import Counts
from ovonic.models.natural_eprop_networks import NaturalEPropConfig
from ovonic.tasks.robot_energy import lesson_counts, lesson_energy

SMALL = replace(NaturalEPropConfig(), trainee=10, lsg_lif=20, lsg_alif=0, target=6, clock=5)
PROGRAMMED = Counts(devices_programmed=7.0, pulses=21.0)


def test_counts_of_a_lesson_by_hand() -> None:
    """Trials of 8 steps take 9 reads, and so do both arrays of the generator; e-prop is digital."""
    counts = lesson_counts(SMALL, PROGRAMMED, steps=8, reads=2)
    assert counts["inference"].mvms == 2 * 9
    assert counts["adaptation"].mvms == 2 * 9 + 2 * 9
    assert counts["adaptation"].macs == 8 * 10 * 15
    assert (counts["adaptation"].devices_programmed, counts["adaptation"].pulses) == (7, 21)
    assert counts["deployment"].devices_programmed == 4 * (15 * 12 + 31 * 20 + 20 * 10)


@pytest.mark.parametrize("updates", [1, 3])
def test_each_update_takes_a_trial_and_the_last_trial_tests(updates: int) -> None:
    counts = lesson_counts(SMALL, PROGRAMMED, steps=8, updates=updates)
    assert counts["adaptation"].mvms == updates * 3 * 9
    assert counts["inference"].mvms == 9


def test_where_adaptation_takes_place() -> None:
    device, software, none = (
        lesson_counts(SMALL, PROGRAMMED, steps=8, adapt_on=place) for place in ("device", "software", "none")
    )
    assert software["adaptation"].mvms == 0
    assert software["adaptation"].macs == device["twin adaptation"].macs > 0
    assert software["adaptation"].devices_programmed == 7
    assert none["adaptation"] == PROGRAMMED
    energy = lesson_energy(device)
    assert all(part["energy_j"]["low"] <= part["energy_j"]["high"] for part in energy.values())
