"""The judge: what rounding can turn is undecidable, what it cannot is different, and silence proves nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.models.dynamics import Comparison, Dynamics, Refractory
from ovonic.models.engine import run_fast
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run
from ovonic.models.trace import LayerTrace, Trace
from ovonic.validation.dynamics import Judgement, compare_traces, is_silent
from ovonic.validation.random_networks import recurrent_example


def _spikes(shape: tuple[int, ...], rate: float = 0.3, seed: int = 0) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) < rate).double()


def _stack(weight: object, dynamics: Dynamics, recurrence: Recurrence | None = None) -> Network:
    w = np.asarray(weight, float)
    return Network.stack({"x": Input((len(w),)), "w": Linear(w), "core": Spiking(dynamics, recurrence)})


def test_equal_runs_are_identical_and_certified() -> None:
    network = recurrent_example()
    x = _spikes((2, 150, 20), 0.1)
    found = compare_traces(run(network, x), run_fast(network, x), network, ("ovonic", "engine"))
    assert (found.a, found.b) == ("ovonic", "engine")
    assert found.identical
    assert found.verdict is Judgement.IDENTICAL
    assert found.certified
    assert found.agree
    assert found.jaccard == 1
    assert found.first_divergence is None
    assert not found.silent
    assert found.margin is not None
    assert found.bound is not None
    assert found.margin > found.bound > 0


def test_a_sum_in_another_order_is_undecidable() -> None:
    """0.1 + 0.2 + 0.3 exceeds 0.6 in floats, 0.3 + 0.2 + 0.1 does not: both are right."""
    network = _stack([[0.1], [0.2], [0.3]], Dynamics(0.0, 0.6))
    x = torch.ones(1, 40, 3, dtype=torch.float64)
    a, b = run(network, x), run(network, x)
    level = torch.tensor(0.6, dtype=torch.float64)
    for trace, sums in ((a, 0.1 + 0.2 + 0.3), (b, 0.3 + 0.2 + 0.1)):
        v = torch.full((1, 40, 1), sums, dtype=torch.float64)
        v[:, 1:] -= level if sums > 0.6 else 0
        trace.layers["core"].membrane.copy_(v)
        trace.layers["core"].spikes.copy_((v > level).double())
    assert a["core"].spikes[0, 0] != b["core"].spikes[0, 0]
    found = compare_traces(a, b, network)
    assert found.verdict is Judgement.UNDECIDABLE
    assert not found.identical
    assert not found.certified
    d = found.first_divergence
    assert d is not None
    assert (d.sample, d.step, d.layer, d.neuron, d.spikes) == (0, 0, "core", (0,), (1, 0))
    assert not d.decisive
    assert found.margin is not None
    assert found.margin <= d.bound


def test_a_tie_in_exact_arithmetic_is_decided() -> None:
    """With sixteenths nothing rounds: > and >= give different runs, and the verdict says so."""
    network = _stack([[0.5], [0.25]], Dynamics(1.0, 1.0))
    other = _stack([[0.5], [0.25]], Dynamics(1.0, 1.0, comparison=Comparison.GREATER_EQUAL))
    x = _spikes((1, 60, 2), 0.5)
    found = compare_traces(run(network, x), run(other, x), network)
    assert found.verdict is Judgement.DIFFERENT
    assert found.certified
    d = found.first_divergence
    assert d is not None
    assert d.membranes == (1.0, 1.0)
    assert d.threshold == 1.0
    assert d.bound == 0
    assert d.decisive


@pytest.mark.parametrize("offset", [1e-9, -1e-9])
def test_an_error_of_a_billionth_is_found(offset: float) -> None:
    """Where membranes have moved apart by more than rounding, a flip near the threshold is no rounding."""
    network = recurrent_example()
    core = network.layers["hidden"]
    assert isinstance(core, Spiking)
    moved = core.replace(dynamics=core.dynamics.replace(decay=core.dynamics.decay + offset))
    other = network.replace(layers=dict(network.layers) | {"hidden": moved})
    x = _spikes((1, 300, 20), 0.1)
    found = compare_traces(run(network, x), run(other, x), network)
    assert not found.agree
    assert found.max_dv > 1e-10
    if not found.identical:
        assert found.verdict is Judgement.DIFFERENT


def test_float_widths() -> None:
    network = recurrent_example()
    x = _spikes((1, 200, 20), 0.1)
    found = compare_traces(run(network, x), run(network, x.float()), network)
    assert found.verdict in (Judgement.IDENTICAL, Judgement.UNDECIDABLE)
    assert found.agree
    assert 0 < found.max_dv < 1e-4


def test_silence_proves_nothing() -> None:
    network = _stack([[0.1, 0.1]], Dynamics(0.5, 5.0))
    x = _spikes((1, 50, 1))
    found = compare_traces(run(network, x), run_fast(network, x), network)
    assert found.identical
    assert found.silent
    assert found.verdict is Judgement.UNDECIDABLE
    assert found.jaccard is None


def test_one_silent_run_beside_a_lively_one_is_different() -> None:
    network, other = (_stack([[w, w]], Dynamics(0.5, 1.0)) for w in (0.1, 3.0))
    x = _spikes((1, 50, 1))
    found = compare_traces(run(network, x), run(other, x), network)
    assert not found.silent
    assert found.verdict is Judgement.DIFFERENT
    assert found.jaccard == 0


def test_a_dead_layer_makes_a_run_silent() -> None:
    layers = {
        "x": Input((2,)),
        "w": Linear(np.ones((2, 3))),
        "first": Spiking(Dynamics(0.5, 0.5)),
        "out": Linear(np.full((3, 3), 1e-3)),
        "dead": Spiking(Dynamics(0.5, 1.0)),
    }
    trace = run(Network.stack(layers), _spikes((1, 60, 2)))
    assert trace["first"].spikes.sum() > 20
    assert is_silent(trace)


def _two_layers() -> Network:
    rng = np.random.default_rng(1)
    layers = {
        "x": Input((6,)),
        "w": Linear(rng.normal(0.3, 0.4, (6, 8))),
        "first": Spiking(Dynamics(0.9, 0.7)),
        "between": Linear(rng.normal(0.3, 0.4, (8, 8))),
        "second": Spiking(Dynamics(0.8, 0.7)),
        "out": Linear(rng.normal(0, 1, (8, 2))),
        "y": Readout(0.9),
    }
    return Network.stack(layers)


def test_a_driven_layer_is_not_blamed() -> None:
    """``second`` reads ``first`` in the same step: the divergence is of ``first`` alone."""
    network = _two_layers()
    first = network.layers["first"]
    assert isinstance(first, Spiking)
    late = first.replace(dynamics=first.dynamics.replace(refractory=Refractory(2)))
    other = network.replace(layers=dict(network.layers) | {"first": late})
    x = _spikes((3, 60, 6))
    found = compare_traces(run(network, x), run(other, x), network)
    assert found.verdict is Judgement.DIFFERENT
    assert found.first_divergence is not None
    assert found.first_divergence.layer == "first"
    assert found.first_divergence.decisive


def test_each_sample_has_its_own_history() -> None:
    """A sample that went astray says nothing of another: the other's spikes are still judged."""
    network = _two_layers()
    x = _spikes((2, 60, 6))
    a = run(network, x)
    b = run(network, x)
    b["second"].spikes[1, 40, 3] = 1 - b["second"].spikes[1, 40, 3]
    found = compare_traces(a, b, network)
    assert found.first_divergence is not None
    assert (found.first_divergence.sample, found.first_divergence.step) == (1, 40)
    assert found.first_divergence.neuron == (3,)
    assert found.verdict is Judgement.DIFFERENT
    assert found.max_dv == 0


def test_a_read_out_that_deviates_is_seen() -> None:
    network = _two_layers()
    y = network.layers["y"]
    assert isinstance(y, Readout)
    other = network.replace(layers=dict(network.layers) | {"y": y.replace(decay=0.8)})
    x = _spikes((1, 60, 6))
    found = compare_traces(run(network, x), run(other, x), network)
    assert found.verdict is Judgement.IDENTICAL
    assert not found.agree
    assert found.max_dv_readout is not None
    assert found.max_dv_readout > 0.01


def test_membranes_that_are_no_numbers_do_not_agree() -> None:
    network = _two_layers()
    x = _spikes((1, 60, 6))
    broken = run(network, x)
    broken["first"].membrane[0, 5, 2] = float("nan")
    found = compare_traces(run(network, x), broken, network)
    assert not found.agree
    assert found.max_dv == float("inf")


def test_runs_that_cannot_be_compared() -> None:
    network = _two_layers()
    x = _spikes((1, 60, 6))
    a = run(network, x)
    with pytest.raises(ConfigError, match="had different ones"):
        compare_traces(a, run(network, 1 - x), network)
    with pytest.raises(ConfigError, match="layers"):
        compare_traces(a, replace(a, layers={"first": a["first"]}), network)
    short = LayerTrace(*(v[:, :, :4] for v in (a["second"].spikes, a["second"].membrane)))
    with pytest.raises(ConfigError, match=r"'second'.*shapes"):
        compare_traces(a, Trace({"first": a["first"], "second": short}, a.readouts, a.inputs), network)


def test_a_delayed_edge_does_not_excuse() -> None:
    """Over an edge with a delay the driven layer is judged even in the step in which its source diverges."""
    network = _two_layers()
    edges = [Edge(*e[:2], 1) if e.target == "second" else e for e in network.edges]
    network = network.replace(edges=tuple(edges))
    x = _spikes((1, 60, 6))
    a, b = run(network, x), run(network, x)
    for name, neuron in (("first", 2), ("second", 5)):
        b[name].spikes[0, 30, neuron] = 1 - b[name].spikes[0, 30, neuron]
    found = compare_traces(a, b, network)
    assert found.first_divergence is not None
    assert found.first_divergence.step == 30
    assert found.verdict is Judgement.DIFFERENT
