"""Counts to energy and time: closed forms by hand, intervals that hold every draw, break-even in plain words."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovonic.models.accounting import (
    Counts,
    Interval,
    break_even,
    draw_costs,
    energy_parts,
    estimate,
    latency_parts,
    monte_carlo,
    tornado,
    training_energy,
)
from ovonic.models.counters import Counters
from ovonic.models.energy import Costs, costs_from
from ovonic.models.errors import ConfigError

amounts = st.floats(0, 1e6)
some_counts = st.builds(
    lambda m, p, d, e, x: Counts(mvms=m, phases=m * p, devices_programmed=d, elements=e, macs=x),
    amounts,
    st.sampled_from([1, 2, 4]),
    amounts,
    amounts,
    amounts,
)


def test_a_product_costs_what_was_published_and_two_phases_lie_on_the_line() -> None:
    energy = {p: estimate(Counts(mvms=10, phases=10 * p)).energy_j.typical for p in (1, 2, 4)}
    time = {p: estimate(Counts(mvms=10, phases=10 * p)).latency_s.typical for p in (1, 2, 4)}
    assert energy[1] == pytest.approx(134e-9)
    assert energy[4] == pytest.approx(529e-9)
    assert energy[2] == pytest.approx(10 * (13.4e-9 + (52.9e-9 - 13.4e-9) / 3))
    assert time == pytest.approx({1: 1.33e-6, 2: 10 * (133e-9 + 388e-9 / 3), 4: 5.21e-6})


def test_programming_and_digital_work_by_hand() -> None:
    costs = costs_from(
        {
            "programming": {
                "pulse_energy_j": 2e-12,
                "driver_factor": 3,
                "verify_energy_j": 4e-12,
                "iterations": 5,
                "pulse_time_s": 1e-7,
                "verify_time_s": 3e-7,
                "devices_in_parallel": 8,
            },
            "digital": {
                "mac_energy_j": 1e-13,
                "sram_energy_j": 1e-12,
                "bytes_per_mac": 2,
                "mac_time_s": 1e-10,
                "element_energy_j": 7e-12,
                "element_time_s": 1e-9,
            },
        }
    )
    made = estimate(Counts(devices_programmed=100, elements=10, macs=1000), costs)
    assert made.energy_parts_j["programming"] == pytest.approx([100 * 5 * (3 * 2e-12 + 4e-12)] * 3)
    assert made.energy_parts_j["digital elements"] == pytest.approx([70e-12] * 3)
    assert made.energy_parts_j["digital products"] == pytest.approx([1000 * (1e-13 + 2e-12)] * 3)
    assert made.latency_parts_s["programming"] == pytest.approx([100 * 5 * 4e-7 / 8] * 3)
    assert made.latency_s.low == pytest.approx(100 * 5 * 4e-7 / 8 + 1e-8 + 1e-7)
    counted = estimate(Counts(devices_programmed=100, pulses=250), costs)
    assert counted.energy_j.typical == pytest.approx(250 * 1e-11)
    assert made.as_dict()["energy_j"]["typical"] == made.energy_j.typical


@given(some_counts)
@settings(max_examples=50, deadline=None)
def test_an_interval_holds_every_draw_and_every_swing(counts: Counts) -> None:
    made = estimate(counts)
    for quantity, total in (("energy", made.energy_j), ("latency", made.latency_s)):
        slack = 1e-9 * total.high
        assert total.low <= total.typical <= total.high
        drawn = monte_carlo(counts, quantity=quantity, n=200, seed=1)
        assert drawn.shape == (200,)
        assert total.low - slack <= drawn.min()
        assert drawn.max() <= total.high + slack
        for swing in tornado(counts, quantity=quantity):
            assert total.low - slack <= min(swing.at_low, swing.at_high)
            assert max(swing.at_low, swing.at_high) <= total.high + slack


@given(some_counts, st.sampled_from(["mvms", "devices_programmed", "elements", "macs"]), st.floats(1e-3, 1e6))
@settings(max_examples=60, deadline=None)
def test_more_work_never_costs_less_and_costs_add_up(counts: Counts, name: str, more: float) -> None:
    added = Counts(mvms=more, phases=more) if name == "mvms" else Counts(**{name: more})
    one, two, both = (estimate(c) for c in (counts, added, counts + added))
    for k in range(2):
        assert both[k].typical >= one[k].typical  # type: ignore[union-attr]
        assert both[k] == pytest.approx([a + b for a, b in zip(one[k], two[k], strict=True)])
    assert estimate(counts * 3).energy_j == pytest.approx([3 * end for end in one.energy_j])


@given(some_counts, st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_dimensions_all_energies_scaled_scale_the_energy_and_nothing_else(counts: Counts, factor: float) -> None:
    costs = Costs()
    scaled = costs.replace(
        {
            n: replace(v, low=v.low * factor, typical=v.typical * factor, high=v.high * factor)
            for n, v in costs
            if v.unit == "J"
        }
    )
    before, after = estimate(counts, costs), estimate(counts, scaled)
    assert after.energy_j == pytest.approx([factor * end for end in before.energy_j])
    assert after.latency_s == before.latency_s


@pytest.mark.parametrize("quantity", ["energy", "latency"])
def test_every_parameter_of_the_array_side_moves_the_total_its_own_way(quantity: str) -> None:
    split = energy_parts if quantity == "energy" else latency_parts
    counts = Counts(mvms=5, phases=10, devices_programmed=7, elements=3, macs=11)
    swings = {s.name: s for s in tornado(counts, quantity=quantity)}
    typical = Costs().at("typical")
    for name, value in Costs():
        ends = [sum(split(counts, typical | {name: end}).values()) for end in (value.low, value.high)]
        if name == "programming.devices_in_parallel" and quantity == "latency":
            assert ends[0] > ends[1]
        else:
            assert ends[0] <= ends[1]
        assert (name in swings) == (ends[0] != ends[1])
    widths = [s.width for s in tornado(counts, quantity=quantity)]
    assert widths == sorted(widths, reverse=True)
    used = {n for n in swings if n.startswith(("array", "programming", "digital"))}
    assert len(used) == {"energy": 11, "latency": 8}[quantity]


def test_draws_are_seeded_and_spread_over_the_range() -> None:
    drawn = draw_costs(Costs(), 4000, 3)
    again = draw_costs(Costs(), 4000, 3)
    for name, value in Costs():
        assert np.array_equal(drawn[name], again[name])
        assert value.low <= drawn[name].min()
        assert drawn[name].max() <= value.high
    name = "programming.pulse_time_s"
    value = Costs()[name]
    below = (np.log(value.typical / value.low)) / np.log(value.high / value.low)
    # share of draws below the mode; binomial of 4000, six standard deviations: false alarm 2e-9
    assert (drawn[name] < value.typical).mean() == pytest.approx(below, abs=6 * 0.5 / math.sqrt(4000))


def test_serial_products_set_the_time_and_all_products_the_energy() -> None:
    counts = Counts(mvms=20, phases=20, serial_mvms=1, serial_phases=1)
    assert estimate(counts).energy_j.typical == pytest.approx(20 * 13.4e-9)
    assert estimate(counts).latency_s.typical == pytest.approx(133e-9)
    assert (counts + Counts(mvms=3, phases=6)).serial_phases == 7


def test_counts_of_a_chips_counters() -> None:
    counters = Counters(pulses=70, devices_programmed=10, cells_programmed=5, mvms=3, phases=6)
    assert Counts.of(counters) == Counts(mvms=3, phases=6, devices_programmed=10)
    assert Counts.of(counters.as_dict(), iterated=True, macs=4).pulses == 70
    assert Counts.of(counters, iterated=True) + Counts(mvms=1, phases=1) == Counts(4, 7, None, None, 10, 70)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mvms": -1}, "mvms -1"),
        ({"macs": math.inf}, "macs inf"),
        ({"macs": math.nan}, "macs nan"),
        ({"mvms": 2, "phases": 1}, "1 of 2 mvms: a product takes one to four phases"),
        ({"mvms": 2, "phases": 9}, "one to four phases"),
        ({"mvms": 2, "phases": 2, "serial_mvms": 1}, "give both or neither"),
        ({"mvms": 2, "phases": 2, "serial_mvms": 3, "serial_phases": 3}, "more than the 2 mvms"),
    ],
)
def test_counts_that_cannot_be_are_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Counts(**bad)


def test_counts_with_and_without_pulses_of_their_own_do_not_mix() -> None:
    with pytest.raises(ConfigError, match="do not add"):
        Counts(devices_programmed=1) + Counts(devices_programmed=1, pulses=4)


def test_break_even_by_hand() -> None:
    made = break_even(Interval(10, 20, 40), Interval(1, 2, 3), Interval(5, 7, 11))
    assert made.saving_j == (2, 5, 10)
    assert made.deployments == (1, 4, 20)
    assert made.verdict == (
        "typically after 4 deployments; at best after the first deployment, at worst after 20 deployments"
    )


@pytest.mark.parametrize(
    ("adapted", "other", "word"),
    [
        (Interval(5, 6, 7), Interval(1, 2, 3), "never: a deployment that adapts costs more"),
        (Interval(2, 3, 7), Interval(1, 2, 4), "not at typical costs; at best after 500,000 deployments"),
        (Interval(1, 2, 7), Interval(2, 4, 9), "typically after 5 million deployments; at worst never"),
    ],
)
def test_break_even_says_plainly_when_it_never_comes(adapted: Interval, other: Interval, word: str) -> None:
    made = break_even(Interval(1e6, 1e7, 1e8), adapted, other)
    assert made.verdict.startswith(word)
    assert math.isinf(made.deployments.high)


def test_training_energy() -> None:
    assert training_energy(core_hours=2).typical == 2 * 3600 * 10
    assert training_energy(flops=1e15) == pytest.approx((1e4, 1e5, 2e6))
    for bad in ({}, {"flops": 1.0, "core_hours": 1.0}, {"flops": -1.0}, {"core_hours": math.nan}):
        with pytest.raises(ConfigError):
            training_energy(**bad)


def test_unknown_quantity() -> None:
    with pytest.raises(ConfigError, match="choose energy or latency"):
        tornado(Counts(macs=1), quantity="power")
