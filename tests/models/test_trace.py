"""The trace: shapes that must agree, rates in Hz, one read-out by itself, no gradient where none is wanted."""

from __future__ import annotations

import pytest
import torch

from ovonic.models.errors import ConfigError
from ovonic.models.trace import LayerTrace, Trace

ZEROS = torch.zeros(2, 5, 3)


def test_rates_in_hertz() -> None:
    """Neuron 0 spikes in every step of both samples, neuron 1 in one step of one: 500 and 50 Hz at 2 ms."""
    spikes = torch.zeros(2, 5, 3)
    spikes[..., 0], spikes[1, 4, 1] = 1, 1
    trace = Trace({"s": LayerTrace(spikes, ZEROS)}, dt_ms=2.0)
    assert trace.rates_hz()["s"].tolist() == pytest.approx([500, 50, 0])
    assert trace["s"].spikes is spikes


def test_one_readout_needs_no_name() -> None:
    y = torch.zeros(2, 5, 1)
    assert Trace({}, {"y": y}).readout is y
    with pytest.raises(ConfigError, match=r"Trace.readout: there are 2: name one of \['a', 'b'\]"):
        _ = Trace({}, {"a": y, "b": y}).readout


def test_detached_it_holds_the_same_numbers() -> None:
    leaf = torch.ones(2, 5, 3, requires_grad=True)
    trace = Trace({"s": LayerTrace(leaf * 1, leaf * 2, None, leaf * 3)}, {"y": leaf * 4}, {"x": leaf})
    bare = trace.detach()
    assert torch.equal(bare["s"].membrane, trace["s"].membrane)
    assert bare["s"].refractory is None
    assert bare["s"].adaptation is not None
    tensors = [bare["s"].spikes, bare["s"].membrane, bare["s"].adaptation, bare.readout, bare.inputs["x"]]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert trace["s"].spikes.requires_grad


def test_it_cannot_be_changed() -> None:
    layers = {"s": LayerTrace(ZEROS, ZEROS)}
    trace = Trace(layers)
    layers.clear()
    assert "s" in trace.layers
    with pytest.raises(TypeError):
        trace.layers["t"] = layers  # type: ignore[index]


def test_shapes_must_agree() -> None:
    with pytest.raises(ConfigError, match=r"LayerTrace.membrane: shape \(2, 5, 4\) beside spikes \(2, 5, 3\)"):
        LayerTrace(ZEROS, torch.zeros(2, 5, 4))
    with pytest.raises(ConfigError, match=r"must be \[batch, time, neurons\]"):
        LayerTrace(torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(ConfigError, match=r"batch and time differ: layer 's' \(2, 5\), read-out 'y' \(2, 6\)"):
        Trace({"s": LayerTrace(ZEROS, ZEROS)}, {"y": torch.zeros(2, 6, 1)})
    with pytest.raises(ConfigError, match=r"Trace.dt_ms: 0 must be positive"):
        Trace({}, dt_ms=0)
