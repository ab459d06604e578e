"""Cost parameters: published figures follow from what was published, ranges are ranges, and users replace them."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovonic.models.energy import Costs, Range, costs_from
from ovonic.models.errors import ConfigError

OPERATIONS = 2 * 256 * 256
NAMES = [name for name, _ in Costs()]
finite = st.floats(0, 1e6, allow_nan=False)


def test_figures_of_a_product_follow_from_the_published_throughput_and_efficiency() -> None:
    costs = Costs()
    for phases, tops, tops_per_watt in ((1, 63.1, 9.76), (4, 16.1, 2.48)):
        energy, time = costs[f"array.mvm_energy_{phases}_j"], costs[f"array.mvm_time_{phases}_s"]
        assert energy.typical == pytest.approx(OPERATIONS / (tops_per_watt * 1e12), rel=0.005)
        assert time.typical == pytest.approx(64 * OPERATIONS / (tops * 1e12), rel=0.005)
    assert costs["array.mvm_energy_1_j"].low == pytest.approx(OPERATIONS / 10.5e12, rel=0.005)


def test_pulse_energy_holds_what_its_source_says() -> None:
    pulse = Costs()["programming.pulse_energy_j"]
    reset, set_ = 300e-6 * 1.6 * 40e-9, 150e-6 * 1.6 * 150e-9
    assert (round(reset * 1e12), round(set_ * 1e12)) == (19, 36)
    assert pulse.low < reset < pulse.high
    assert pulse.low < set_ < pulse.high
    assert pulse.low == pytest.approx(0.1e-9 * math.pi * (50e-3 / 2) ** 2, rel=0.05)  # 0.1 nJ/um2 on 50 nm


@pytest.mark.parametrize("name", NAMES)
def test_every_default_has_a_source_and_says_where_it_assumes(name: str) -> None:
    value = Costs()[name]
    assert len(value.source) > 5
    assert value.source != "given by the user"
    assert value.assumed == ("assumed" in value.source or "twice" in value.source or "counted as" in value.source)
    unit = {"j": "J", "s": "s", "w": "W"}.get(name.rsplit("_", 1)[-1])
    assert unit is None or value.unit == unit


@given(finite, finite, finite)
def test_a_range_rises_or_is_refused(low: float, typical: float, high: float) -> None:
    if low <= typical <= high:
        assert Range(low, typical, high).typical == typical
    else:
        with pytest.raises(ConfigError, match="rising order"):
            Range(low, typical, high)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-30, "1", None, True])
def test_what_is_no_cost_is_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="must be a finite number"):
        Range(bad, 1.0, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"digital\.mac_energy_j"):
        costs_from({"digital.mac_energy_j": bad})


@pytest.mark.parametrize(
    ("given", "low", "typical", "high"),
    [
        (3e-12, 3e-12, 3e-12, 3e-12),
        ([1e-12, 2e-12, 4e-12], 1e-12, 2e-12, 4e-12),
        ({"low": 1e-12, "typical": 2e-12, "high": 4e-12, "source": "here"}, 1e-12, 2e-12, 4e-12),
    ],
)
@pytest.mark.parametrize("dotted", [True, False])
def test_a_user_replaces_a_cost(given: object, low: float, typical: float, high: float, dotted: bool) -> None:
    name = "programming.pulse_energy_j"
    changed = costs_from({name: given} if dotted else {"programming": {"pulse_energy_j": given}})
    value = changed[name]
    assert (value.low, value.typical, value.high, value.unit) == (low, typical, high, "J")
    assert value.source == ("here" if isinstance(given, dict) else "given by the user")
    assert [n for n, kept in changed if kept != Costs()[n]] == [name]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"programming.pulse_energy": 1.0}, "did you mean 'programming.pulse_energy_j'"),
        ({"programming": 3}, "programming: must hold costs by name, not 3"),
        ({"programing": {"iterations": 3}}, "cost 'programing' is unknown"),
        ({"array": {"mvm_share": [0.1, 0.2]}}, "array.mvm_share: 2 numbers: give [low, typical, high]"),
        ({"array": {"mvm_share": {"low": 0.1, "high": 0.2}}}, "array.mvm_share: typical missing"),
        ({"array": {"mvm_share": {"low": 0, "typical": 0, "high": 1, "unit": "J"}}}, "array.mvm_share: key 'unit'"),
        ({"array": {"mvm_share": 1.5}}, "array.mvm_share: high 1.5 must be at most 1"),
        ({"array": {"mvm_energy_4_j": 1e-9}}, "four phases must cost at least as much as one"),
        ({"programming": {"devices_in_parallel": [0, 1, 2]}}, "devices_in_parallel: low 0 must be at least 1"),
        ({"programming": {"iterations": 0.5}}, "programming.iterations: low 0.5 must be at least 1"),
    ],
)
def test_a_bad_replacement_is_refused_by_name(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        costs_from(data)
