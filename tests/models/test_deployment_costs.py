"""Ways to do without adaptation: sums by hand, and verdicts that follow the costs a user gives."""

import math

import pytest

from ovonic.models.accounting import Interval, estimate
from ovonic.models.deployment_costs import (
    Alternative,
    alternatives,
    experiment_named,
    fewshot,
    robot,
    scratch_energy,
    training_flops,
)
from ovonic.models.energy import costs_from
from ovonic.models.errors import ConfigError
from ovonic.models.experiment_counts import TRAINEE_LOADS


def named(ways: list[Alternative]) -> dict[str, Alternative]:
    return {way.name: way for way in ways}


def test_sides_by_hand() -> None:
    experiment = fewshot()
    array, twin = (
        {n: estimate(c).energy_j.typical for n, c in side.items()} for side in (experiment.array, experiment.twin)
    )
    ways = named(alternatives(experiment, draws=100))
    assert ways["twin"].adapted_j.typical == pytest.approx(array["adaptation"] + array["inference"])
    assert ways["twin"].other_j.typical == pytest.approx(twin["adaptation"] + twin["inference"])
    assert ways["reprogram"].other_j.typical == pytest.approx(twin["adaptation"] + array["deployment"])
    assert ways["scratch"].other_j.typical == pytest.approx(scratch_energy(experiment).typical + array["deployment"])
    assert ways["scratch"].adapted_j.typical == pytest.approx(array["adaptation"])


def test_training_counts_six_operations_a_product() -> None:
    assert training_flops(TRAINEE_LOADS, 10) == 6 * 10 * 64_250
    assert robot().meta_flops == 6 * 9e6 * 249 * (2 * 64_250 + 882_400)
    assert fewshot(queries=25).meta_flops == pytest.approx(6 * 30_000 * 32 * 50 * 2_046_520, rel=1e-3)
    assert scratch_energy(robot()).typical == pytest.approx(6 * 249 * 64_250 * 1000 * 100e-12)


def test_known_costs_leave_no_range_and_every_draw_agrees() -> None:
    costs = costs_from({name: value.typical for name, value in costs_from({})})
    for way in alternatives(robot(), costs, draws=50):
        finite = way.break_even.deployments
        assert finite.low == finite.typical == finite.high
        assert way.drawn == pytest.approx(finite)
        assert way.never == (1.0 if math.isinf(finite.typical) else 0.0)


def test_free_twin_is_never_beaten_and_a_dear_one_is() -> None:
    free = costs_from({f"digital.{n}": 0 for n in ("mac_energy_j", "sram_energy_j", "element_energy_j")})
    way = named(alternatives(fewshot(), free, draws=200))["twin"]
    assert way.break_even.verdict.startswith("never")
    assert way.never == 1.0
    dear = costs_from({"digital.mac_energy_j": 1e-9})
    way = named(alternatives(fewshot(), dear, draws=200))["twin"]
    assert way.break_even.verdict.startswith("typically after")
    assert way.never == 0.0
    assert way.drawn.low <= way.drawn.typical <= way.drawn.high


def test_meta_training_that_was_measured() -> None:
    one, ten = (
        named(alternatives(robot(), meta_training_j=Interval(e, e, e), draws=50))["scratch"] for e in (1e3, 1e4)
    )
    assert ten.break_even.deployments.typical == pytest.approx(10 * one.break_even.deployments.typical)
    assert set(one.as_dict()) == {"adapted_j", "other_j", "saving_j", "deployments", "verdict", "drawn"}


def test_unknown_experiment() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fewshot'"):
        experiment_named("few-shot")
