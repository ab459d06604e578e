"""Traces as Neo blocks: bit for bit there and back; foreign trains on a grid of steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ovonic.adapters.neo import DT, from_neo, raster, spike_trains, to_neo
from ovonic.models.dynamics import Adaptation, Dynamics, Refractory
from ovonic.models.errors import DataError
from ovonic.models.layers import Conv, Flatten, Input, Linear, Readout, Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace

neo = pytest.importorskip("neo", reason="needs neo: pip install 'ovonic[neo]'")


def _trace(dtype: torch.dtype = torch.float64) -> Trace:
    """Two spiking layers, one of them of shape (2, 3); dt 0.1 ms, whose multiples are no floats."""
    rng = np.random.default_rng(3)
    layers = {
        "x": Input((1, 5)),
        "conv": Conv(rng.normal(0.4, 0.5, (1, 2, 3))),
        "first": Spiking(Dynamics(0.9, 0.8, refractory=Refractory(2))),
        "flat": Flatten(),
        "w": Linear(rng.normal(0.4, 0.6, (6, 4))),
        "second": Spiking(Dynamics(0.8, 0.7, adaptation=Adaptation(0.9, 0.3))),
        "out": Linear(rng.normal(size=(4, 2))),
        "y": Readout(0.9),
    }
    x = (torch.rand(2, 30, 1, 5, generator=torch.Generator().manual_seed(1)) < 0.4).to(dtype)
    return run(Network.stack(layers, dt_ms=0.1), x)


def _tensors(trace: Trace) -> dict[str, Any]:
    parts = {f"{name}.{part}": value for name, layer in trace.layers.items() for part, value in vars(layer).items()}
    return parts | dict(trace.readouts) | dict(trace.inputs)


def _assert_same(a: Trace, b: Trace) -> None:
    assert a.dt_ms == b.dt_ms
    assert _tensors(a).keys() == _tensors(b).keys()
    for name, value in _tensors(a).items():
        other = _tensors(b)[name]
        if value is None:
            assert other is None
        else:
            assert value.dtype == other.dtype, name
            assert torch.equal(value, other), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_there_and_back_bit_for_bit(dtype: torch.dtype) -> None:
    trace = _trace(dtype)
    assert trace["first"].spikes.sum() > 20
    _assert_same(from_neo(to_neo(trace)), trace)


def test_what_neo_sees() -> None:
    trace = _trace()
    block = to_neo(trace, "a run")
    segment = block.segments[1]
    train = next(t for t in segment.spiketrains if t.annotations["layer"] == "first" and t.annotations["neuron"] == 4)
    steps = torch.nonzero(trace["first"].spikes[1, :, 1, 1]).flatten().numpy()
    assert len(steps) > 0
    np.testing.assert_array_equal(np.round(train.rescale("ms").magnitude / 0.1), steps)
    assert float(train.t_stop.rescale("ms")) == pytest.approx(3.0)
    signal = next(s for s in segment.analogsignals if s.name == "second.membrane")
    assert float(signal.sampling_period.rescale("ms")) == pytest.approx(0.1)
    np.testing.assert_array_equal(signal.magnitude, trace["second"].membrane[1].numpy())


def test_trains_of_others() -> None:
    train = neo.SpikeTrain(np.array([0.001, 0.003]), units="s", t_stop=0.01)
    assert raster([train], 1.0, 5, t_start_ms=1.0).flatten().tolist() == [1, 0, 1, 0, 0]
    for bad, message in (([0.0015], "no whole step"), ([0.009], "outside"), ([0.001, 0.001], "two in one step")):
        with pytest.raises(DataError, match=message):
            raster([neo.SpikeTrain(np.array(bad), units="s", t_stop=0.01)], 1.0, 5, t_start_ms=1.0)
    assert raster([], 1.0, 5).shape == (5, 0)


def test_damaged_blocks_are_named() -> None:
    block = to_neo(_trace())
    block.segments[0].spiketrains.pop()
    with pytest.raises(DataError, match="'second' lacks"):
        from_neo(block)
    block = to_neo(_trace())
    block.segments[1].analogsignals.pop()
    with pytest.raises(DataError, match="do not hold the same"):
        from_neo(block)
    block = to_neo(_trace())
    block.annotations[DT] = 1.0
    with pytest.raises(DataError, match="sampled every"):
        from_neo(block)
    with pytest.raises(DataError, match="not written by to_neo"):
        from_neo(neo.Block())


def test_trains_of_one_layer() -> None:
    spikes = torch.tensor([[1, 0], [0, 0], [1, 1]])
    assert [train.rescale("ms").magnitude.tolist() for train in spike_trains(spikes, 2.0)] == [[0, 4], [4]]
