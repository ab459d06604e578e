"""E-prop: from a network's trace and learning signals to the gradients of its weights, without going back through it.

    dE/dW[i,j] = sum_t x[t,i] c[t,j]        c = credit(L): ``models.eligibility``;  L: ``models.learning_signals``

x is what arrives before the weights: inputs or spikes, delayed as the edges say; for recurrent weights z[t - delay].
Nothing here runs a network: the trace may come from any toolchain. A weight's change is -rate times its gradient.

    trace = run(network, inputs)
    errors = {"y": trace.readouts["y"] - target}
    gradients = eprop(network, trace, learning_signals(network, errors), errors)

Reference: Bellec et al., Nature Communications 11:3625 (2020). As there, a layer learns from its own signal alone: no
gradient passes from one spiking layer to another, nor back through recurrent weights or the reset.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovonic.models.eligibility import credit
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.layers import Input, Linear, Spiking
from ovonic.models.learning_signals import error_at_linear, readers_of, sooner
from ovonic.models.lif import EPROP, Paths, masked
from ovonic.models.network import Edge, Network
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate
from ovonic.models.trace import Trace

__all__ = ["eprop"]


def eprop(
    network: Network,
    trace: Trace,
    signals: Mapping[str, Tensor],
    errors: Mapping[str, Tensor] | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = EPROP,
    per_sample: bool = False,
    masked_too: bool = False,
) -> dict[str, Tensor]:
    """The gradients of all weights that enter the spiking layers with a signal and the read-outs with an error.

    Args:
        network: the description.
        trace: of its run from the initial state.
        signals: spiking layer's name -> L, the direct dE/dz, [B, T, *neurons].
        errors: read-out's name -> dE/dy, [B, T, O]: their own weights' gradients, which are exact.
        surrogate: slope of a spike.
        paths: ``EPROP``, or ``EPROP_FIXED_THRESHOLD`` of ``models.eligibility``: what an adapting threshold passes on.
        per_sample: keep the batch: [B, in, out], not [in, out].
        masked_too: give the masked diagonal of a recurrence what it would get unmasked (published), not zero.
    Returns: gradients by name as ``Network.weights`` names them; differentiable in trace and signals.
    Raises: ConfigError: naming the layer: an unknown name, a shape, a layer between that is not linear, or dynamics for
        which the rule does not hold (see ``credit``).
    """
    gradients: dict[str, Tensor] = {}
    given: dict[str, Any] = {}
    for name, signal in signals.items():
        if name not in network.spiking or name not in trace.layers:
            known = set(network.spiking) & set(trace.layers)
            raise ConfigError(f"signals {name!r}: no such spiking layer in network and trace: {nearest(name, known)}")
        layer = network.layers[name]
        assert isinstance(layer, Spiking)
        if (neurons := tuple(trace[name].spikes.shape[2:])) != network.shapes[name]:
            raise ConfigError(f"layer {name!r}: the trace has neurons {neurons} where {network.shapes[name]} are due")
        try:
            back = credit(signal, trace[name], layer.dynamics, surrogate, paths)
        except ConfigError as error:
            raise ConfigError(f"layer {name!r}: {error}") from None
        for edge in network.sources(name):
            source = network.layers[edge.source]
            if isinstance(source, Linear):
                given[edge.source] = given.get(edge.source, 0.0) + sooner(back, edge.delay)
            elif not isinstance(source, Input | Spiking):
                raise ConfigError(f"layer {edge.source!r}: {type(source).__name__}; e-prop here learns Linear layers")
        if layer.recurrence is not None:
            if back.ndim != 3:
                raise ConfigError(f"layer {name!r}: Recurrence of neurons {tuple(back.shape[2:])}; (N,) is due")
            fed = _later(trace[name].spikes, layer.recurrence.delay)
            if layer.recurrence.weight.ndim == 1:
                gradient = (fed * back).sum(1 if per_sample else (0, 1))
            else:
                gradient = _summed(fed, back, per_sample)
            mask = layer.recurrence.masked_diagonal and not masked_too
            gradients[f"{name}.recurrence"] = masked(gradient) if mask else gradient
    for name in readers_of(network, errors or {}):
        given[name] = given.get(name, 0.0) + error_at_linear(network, name, errors or {})
    for name, back in given.items():
        layer = network.layers[name]
        assert isinstance(layer, Linear)
        arriving = [_later(_values(network, trace, edge), edge.delay) for edge in network.sources(name)]
        x = functools.reduce(torch.add, arriving)
        if x.shape[:2] != back.shape[:2]:
            extents = f"{tuple(back.shape[:2])} beside a trace of {tuple(x.shape[:2])}"
            raise ConfigError(f"layer {name!r}: signals or errors of [batch, time] {extents}")
        gradients[f"{name}.weight"] = _summed(x, back, per_sample)
        if layer.bias is not None:
            gradients[f"{name}.bias"] = back.sum(1 if per_sample else (0, 1))
    return gradients


def _summed(x: Tensor, back: Tensor, per_sample: bool) -> Tensor:
    return x.transpose(1, 2) @ back if per_sample else x.flatten(0, 1).T @ back.flatten(0, 1)


def _values(network: Network, trace: Trace, edge: Edge) -> Tensor:
    if edge.source in trace.inputs:
        return trace.inputs[edge.source]
    if edge.source in trace.layers:
        return trace[edge.source].spikes
    kind = type(network.layers[edge.source]).__name__
    raise ConfigError(f"layer {edge.target!r}: what it reads, {edge.source!r} ({kind}), is not in a trace")


def _later(y: Tensor, delay: int) -> Tensor:
    """y[t - delay], zero before the first step."""
    if delay == 0:
        return y
    steps = min(delay, y.shape[1])
    return F.pad(y[:, : y.shape[1] - steps], (0, 0) * (y.ndim - 2) + (steps, 0))
