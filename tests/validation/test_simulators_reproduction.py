"""The simulators' part of ``ovonic reproduce`` at a tiny size, with a toolchain that is missing."""

from __future__ import annotations

import html
import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovonic.__main__ import main
from ovonic.models.engine import run_fast
from ovonic.models.errors import ToolchainError
from ovonic.validation import comparison, conformance, simulators_reproduction
from ovonic.validation.report import write_report
from ovonic.validation.simulators_reproduction import SIMULATOR_THRESHOLDS, SimulatorRuns, simulators_part

from .report_commands import check_commands

CURE = "Norse is not installed: pip install 'ovonic[norse]'"
RUNS = SimulatorRuns(networks=3, recurrent=1, robots=(), steps=30)


def missing(*_: Any) -> Any:
    raise ToolchainError(CURE)


def deaf(network: Any, inputs: Any) -> Any:
    """A toolchain that runs other spikes than it was given in the first ten steps."""
    x = dict(inputs) if not hasattr(inputs, "clone") else {network.inputs[0]: inputs}
    first, *_ = x
    changed = x[first].clone()
    changed[:, :10] = 1 - changed[:, :10]
    return replace(run_fast(network, {**x, first: changed}), inputs=x)


@pytest.fixture
def toolchains(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Toolchains that cost nothing: one right, one missing, one wrong."""
    found = {"snntorch": run_fast, "norse": missing, "brian2": deaf}
    adapter = lambda name: SimpleNamespace(run=found[name], unsupported=lambda network: [], __name__=name)  # noqa: E731
    for module in (comparison, conformance):
        monkeypatch.setattr(module, "adapter", adapter)
    monkeypatch.setattr(comparison, "TOOLCHAINS", tuple(found))
    monkeypatch.setattr(simulators_reproduction, "RUNS", ("engine", *found))
    return found


def test_the_right_hold_the_wrong_are_caught_and_the_missing_named(toolchains: dict[str, Any], tmp_path: Path) -> None:
    part, done = simulators_part(1, runs=RUNS), list[int]()
    measured = part.measure(tmp_path, done.append)
    figures = measured.figures
    assert sum(done) <= part.steps
    for name in ("engine", "snntorch"):
        assert figures["networks"][name]["exact"] == RUNS.networks
        assert figures["apart"][name] == 0
    assert 0 < figures["networks"]["brian2"]["wrong"] <= RUNS.networks
    assert figures["apart"]["brian2"] > 0
    assert figures["absent"] == {"norse": CURE}
    held = {claim.name.partition(":")[0]: claim.held for claim in measured.section.claims}
    assert held == {"engine": True, "snntorch": True, "brian2": False, "norse": None}
    assert {claim.threshold for claim in measured.section.claims} == set(SIMULATOR_THRESHOLDS.values())
    check_commands(measured.section)
    page, kept = write_report(tmp_path, [measured.section], {"simulators": figures})
    assert CURE in html.unescape(page.read_text())
    assert json.loads(kept.read_text())["simulators"] == figures


def test_a_network_is_as_its_command_measures_it(tmp_path: Path) -> None:
    found = conformance.conformance("engine", RUNS.networks, 1)
    command = RUNS.dynamics("engine", 1)
    assert main([*shlex.split(command)[1:], "--quiet", "--json", str(tmp_path / "r.json")]) == 0
    alone = json.loads((tmp_path / "r.json").read_text())["toolchains"]["engine"]
    assert (alone["exact"], alone["seed"]) == (found.exact, 1)
