"""The benchmark of toolchains: adapters and hand-written loops agree, and its words follow from times. Never times."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ovonic.models.simulation import run
from ovonic.validation.figure_style import caption

FOLDER = Path(__file__).parents[1] / "benchmarks"
KINDS = [(toolchain, neuron) for toolchain in ("snntorch", "norse") for neuron in ("plain", "refractory")]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as its command imports it: with its folder on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("toolchain_runs")


@pytest.mark.toolchain
@pytest.mark.parametrize(("toolchain", "neuron"), KINDS)
def test_loops_give_the_spikes_of_run(runs: ModuleType, toolchain: str, neuron: str) -> None:
    pytest.importorskip(toolchain, reason=f"needs {toolchain}")
    steps = runs.loop_steps(toolchain, neuron, neurons=40, batch=3, steps=80)
    assert runs.same_spikes(steps) > 100
    net, x = runs.network(runs.dynamics(toolchain, neuron), 40, 0), runs.spikes_in(3, 80, 0)
    assert torch.equal(steps["plain"](), run(net, x)["h"].spikes)
    assert set(runs.PEERS) == set(KINDS)


def test_other_spikes_and_silence_are_seen(runs: ModuleType) -> None:
    one = torch.tensor([[[1.0, 0.0]]])
    assert runs.same_spikes({"a": lambda: one, "b": lambda: one.clone()}) == 1
    assert runs.same_spikes({"a": lambda: one, "b": lambda: 1 - one}) == -1
    assert runs.same_spikes({"a": lambda: 0 * one, "b": lambda: 0 * one}) == 0


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["plain", "engine", "snntorch", "norse", "brian2 numpy", "nest"])
def test_simulators_agree(runs: ModuleType, name: str) -> None:
    if name not in ("plain", "engine"):
        pytest.importorskip(name.split()[0], reason=f"needs {name}")
    net, x = runs.size_setting(60, 0, steps=60)
    due = run(net, x)["h"].spikes
    with torch.no_grad():
        assert torch.equal(runs.simulators()[name](net, x)["h"].spikes, due)
    assert 5 < 1e3 * due.mean() < 200


def test_sparse_networks_have_as_many_weights_a_neuron(runs: ModuleType) -> None:
    net, _ = runs.size_setting(400, 0)
    counts = (net.weights()["h.recurrence"] != 0).sum(0)
    assert counts.mean() == pytest.approx(runs.SPARSE, rel=0.05)
    assert (runs.size_setting(60, 0)[0].weights()["h.recurrence"] != 0).all()


def test_what_takes_too_long_is_foreseen(runs: ModuleType) -> None:
    assert runs.predicted({}, 100) == 0
    assert runs.predicted({100: 0.1, 1000: 5.0}, 2000) == 20.0
    assert runs.predicted({1000: 16.0}, 2000) > runs.LONGEST_S


def test_sizes_leave_out_what_is_foreseen(runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """And simulators that differ are not timed."""
    ours = {"plain": run, "engine": run}
    monkeypatch.setattr(runs, "simulators", lambda: ours)
    monkeypatch.setattr(runs, "predicted", lambda times, neurons: 61.0 if neurons > 60 else 0.0)
    found = runs.measure_sizes([50, 60, 70], 0)
    assert set(found["wall_s"]["plain"]) == {50, 60}
    assert found["left_out"] == {"plain": [70], "engine": [70]}
    turned = {"plain": run, "engine": lambda net, x: run(net, 1 - x)}
    monkeypatch.setattr(runs, "simulators", lambda: turned)
    with pytest.raises(SystemExit, match="equal spikes"):
        runs.measure_sizes([50], 0)


def test_the_figure_of_sizes(runs: ModuleType) -> None:
    points: dict[str, Any] = {name: {100: 0.1, 1000: 1.0} for name in runs.LABELS}
    left_out: dict[str, list[int]] = {name: [] for name in runs.LABELS} | {"nest": [2000]}
    figure = runs.sizes_figure({"wall_s": points, "left_out": left_out}, "1 thread")
    (ax,) = figure.axes
    assert len(ax.lines) == len(runs.LABELS)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "NEST beyond 1000" in caption(figure)
