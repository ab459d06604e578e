"""The conformance suite: any adapter of the registry, feature by feature; and that it sees a divergence itself."""

from __future__ import annotations

import datetime
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ovonic.adapters.toolchains import TOOLCHAINS, Unsupported, approximate
from ovonic.models.errors import UnsupportedDynamics
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.feature_makers import BASES
from ovonic.validation.feature_networks import FEATURES, Feature, bases_of, feature
from ovonic.validation.support_page import TITLES, cell, page, table, verdicts
from ovonic.validation.toolchain_support import CARRIERS, COLUMNS, Kind, Support, execute_on, judge, support

SUBTRACT, ZERO, SCALED, ONE_GAIN, GAIN = BASES
PLACES = [(group, name, base) for group, name in FEATURES for base in bases_of(group)]
FAST = {"nir": SUBTRACT, "nir-exact": ZERO, "nir-snntorch": ZERO, "nir-norse": SCALED}
"""The base on which a column is tried in a fast run; SUBTRACT for the others. Brian2 takes a second a network."""

PAGE = Path(__file__).parents[2] / "docs" / "toolchains.md"
PACKAGES = {"nest": "nest"}


def places(column: str, group: str) -> list[Feature]:
    base = FAST.get(column, SUBTRACT)
    if base not in bases_of(group):
        base = GAIN if base == SCALED and GAIN in bases_of(group) else ONE_GAIN
    return [feature(g, name, base) for g, name in FEATURES if g == group]


GROUPS = tuple(dict.fromkeys(group for group, _ in FEATURES))
MARKS = {"brian2": [pytest.mark.slow]}


@pytest.mark.toolchain
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("column", [pytest.param(c, marks=MARKS.get(c, [])) for c in COLUMNS])
def test_conforms(column: str, group: str) -> None:
    """Exact, lossy by consent, or refused; a silent divergence fails."""
    if column in TOOLCHAINS:
        pytest.importorskip(PACKAGES.get(column, column), reason=f"needs {column}")
    wrong = {}
    for one in places(column, group):
        found = support(column, one)
        if found.kind is Kind.WRONG:
            wrong[one.name] = found.text
        if found.kind is Kind.LOSSY:
            assert found.words
            assert found.text
        if found.kind is Kind.REFUSED:
            assert found.text
    assert not wrong


@pytest.mark.toolchain
@pytest.mark.slow
@pytest.mark.long
def test_the_page_says_what_the_suite_says() -> None:
    """``docs/toolchains.md`` is what ``examples/toolchain_table.py`` would write now, but for date and versions."""
    for column in TOOLCHAINS:
        pytest.importorskip(PACKAGES.get(column, column), reason=f"needs {column}")
    made = page(verdicts(), datetime.date.today())
    committed = PAGE.read_text()
    assert committed[committed.index("| |") :] == made[made.index("| |") :]


def test_the_registry_is_covered() -> None:
    assert set(COLUMNS) == {*TOOLCHAINS, *CARRIERS}
    assert set(TITLES) == set(COLUMNS)


def test_the_page_has_every_row() -> None:
    text = PAGE.read_text()
    for _, name in FEATURES:
        assert f"\n| {name} |" in text
    assert "WRONG" not in text


@pytest.mark.parametrize("place", PLACES, ids=" | ".join)
def test_without_its_feature_a_network_spikes_otherwise(place: tuple[str, str, str]) -> None:
    one = feature(*place)
    ours, dropped = run(one.network, one.inputs), run(*one.dropped)
    assert all(layer.spikes.sum() >= 10 for layer in ours.layers.values())
    if one.group == "Read-out":
        assert (ours.readout - dropped.readout).abs().max() > 1e-3
    else:
        assert any(not torch.equal(ours[n].spikes.double(), dropped[n].spikes.double()) for n in ours.layers)


# ------------------------------------------------------------------------------------- the suite sees divergences


def nothing(network: Network) -> list[Unsupported]:
    return []


def judged(one: Feature, unsupported: Any, run_there: Any) -> Support:
    toolchain = SimpleNamespace(__name__="fake", unsupported=unsupported)
    return judge(one, unsupported, functools.partial(execute_on, run_there), functools.partial(approximate, toolchain))


@pytest.mark.parametrize("place", PLACES, ids=" | ".join)
def test_a_toolchain_without_the_feature_is_caught(place: tuple[str, str, str]) -> None:
    one = feature(*place)

    def ignorant(network: Network, inputs: Any) -> Trace:
        made = run(*one.dropped)
        return Trace(made.layers, made.readouts, inputs, made.dt_ms)

    assert judged(one, nothing, ignorant).kind is Kind.WRONG


ONE = feature("Membrane", "rest", ZERO)


def listed(network: Network, near: bool = False) -> list[Unsupported]:
    """A toolchain without rest; ``near``: it offers the layer without."""
    layer: Any = network.layers["h"]
    if layer.dynamics.rest == 0:
        return []
    instead = layer.replace(dynamics=layer.dynamics.replace(rest=0.0)) if near else None
    return [Unsupported("h", "Dynamics.rest", "it has none", instead=instead, loss="no rest")]


def refusing(network: Network, inputs: Any) -> Trace:
    if listed(network):
        raise UnsupportedDynamics("layer 'h', Dynamics.rest: it has none")
    return run(network, inputs)


def test_verdicts_of_honest_toolchains() -> None:
    assert judged(ONE, nothing, run) == Support(Kind.EXACT)
    assert judged(ONE, nothing, refusing) == Support(Kind.REFUSED, (), "layer 'h', Dynamics.rest: it has none")
    assert judged(ONE, listed, refusing) == Support(Kind.REFUSED, (), "Dynamics.rest: it has none")
    lossy = judged(ONE, functools.partial(listed, near=True), refusing)
    assert lossy == Support(Kind.LOSSY, ("rest",), "layer 'h', Dynamics.rest: no rest")


def test_what_is_listed_must_be_refused() -> None:
    found = judged(ONE, listed, run)
    assert found.kind is Kind.WRONG
    assert "not refused" in found.text


def test_the_nearest_network_must_run_exactly() -> None:
    def other(network: Network, inputs: Any) -> Trace:
        made = refusing(network, inputs)
        layers = {n: type(layer)(1 - layer.spikes, layer.membrane) for n, layer in made.layers.items()}
        return Trace(layers, made.readouts, made.inputs)

    found = judged(ONE, functools.partial(listed, near=True), other)
    assert (found.kind, found.words) == (Kind.WRONG, ("rest",))


def test_other_membranes_are_seen_too() -> None:
    def shifted(network: Network, inputs: Any) -> Trace:
        made = run(network, inputs)
        layers = {n: type(layer)(layer.spikes, layer.membrane + 1e-9) for n, layer in made.layers.items()}
        return Trace(layers, made.readouts, made.inputs)

    assert judged(ONE, nothing, shifted) == Support(Kind.WRONG, (), "identical: equal spikes, other membranes")


def test_an_error_that_is_no_refusal_is_wrong() -> None:
    def broken(network: Network, inputs: Any) -> Trace:
        raise KeyError("h")

    assert judged(ONE, nothing, broken) == Support(Kind.WRONG, (), "KeyError: 'h'")


# --------------------------------------------------------------------------------------------------- the page


def test_cells() -> None:
    exact, refused = Support(Kind.EXACT), Support(Kind.REFUSED)
    lossy = Support(Kind.LOSSY, ("reset",))
    assert cell({SUBTRACT: exact, ZERO: exact, SCALED: exact}) == "exact"
    assert cell({SUBTRACT: lossy, ZERO: exact, SCALED: exact}) == "exact with reset to 0"
    assert cell({SUBTRACT: refused, ZERO: refused, SCALED: exact}) == "exact with reset to 0, gain 1 - decay"
    assert cell({SUBTRACT: exact, ZERO: exact, SCALED: refused}) == "exact with a subtracted threshold or reset to 0"
    assert cell({SUBTRACT: refused, ZERO: Support(Kind.LOSSY, ("a", "b")), SCALED: lossy}) == "lossy: reset"
    assert cell({SUBTRACT: refused}) == "refused"
    assert cell({SUBTRACT: exact, ZERO: Support(Kind.WRONG)}) == "**WRONG**"


def test_a_table_of_one_carrier_and_its_page() -> None:
    """A row a feature, under its group; a reason for what is refused."""
    rows = {place: {"nir": {SUBTRACT: Support(Kind.EXACT)}} for place in FEATURES}
    rows["Layers", "flatten"]["nir"] = {SUBTRACT: Support(Kind.REFUSED, (), "layer 'h', Flatten: no such node")}
    lines = table(rows).splitlines()
    assert lines[0] == "| | NIR, contract |"
    assert len(lines) == 2 + len(FEATURES) + len(GROUPS)
    assert "| flatten | refused |" in lines
    text = page(rows, datetime.date(2026, 1, 2))
    assert "2026-01-02" in text
    assert "- Flatten: no such node (layers: flatten)" in text
