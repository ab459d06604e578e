"""Learning signals of e-prop: what each neuron is told in each step, L[t,j], the direct dE/dz[t,j].

From the error of a leaky read-out y (decay kappa, weights W_out), with E a function of y:

    g[t]  = dE/dy[t] + kappa g[t+1]            what the error is worth to the read-out's input
    L[t]  = g[t] B                             B [out, neurons]: feedback

    symmetric   B = W_out^T                    then L is exactly the direct dE/dz
    random      B drawn once                   (random e-prop)
    adaptive    B learns as W_out^T does, and both decay, so that they align
    given       any tensor [B, T, neurons], for example a learning-signal generator's read-out

The filter by kappa is written on the error here; Bellec et al. write it on the eligibility, ebar[t] = kappa ebar[t-1] +
e[t], which sums to the same. NEST's neurons use ebar[t] = kappa ebar[t-1] + (1 - kappa) e[t]: ``normalised=True``
multiplies the signal by 1 - kappa beside whatever gain the read-out has. NEST's read-out has none, and its own weights'
gradient is not normalised.

Rates: E = strength / 2 sum_j (f_j - target)^2 with f_j the mean of z over batch and time adds to L the constant
strength (f_j - target) / (B T).

Reference: Bellec et al., Nature Communications 11:3625 (2020): symmetric, random, adaptive; rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError, nearest
from ovonic.models.layers import Input, Linear, Readout, Spiking
from ovonic.models.lif import constants
from ovonic.models.network import Network

__all__ = [
    "adapted_feedback",
    "error_at_linear",
    "integrate_back",
    "learning_signals",
    "random_feedback",
    "rate_signal",
    "readers_of",
    "sooner",
    "symmetric_feedback",
]


def symmetric_feedback(network: Network, like: Tensor) -> dict[str, Tensor]:
    """W_out^T of every linear layer between spiking neurons and a read-out: name -> [out, neurons], as ``like``."""
    return {
        name: torch.tensor(layer.weight, dtype=like.dtype, device=like.device).T
        for name, layer in network.layers.items()
        if isinstance(layer, Linear) and _carries(network, name)
    }


def random_feedback(network: Network, like: Tensor, generator: torch.Generator, std: float = 1.0) -> dict[str, Tensor]:
    """Feedback of the same shapes, normal with this standard deviation."""
    return {
        name: std * torch.randn(b.shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
        for name, b in symmetric_feedback(network, like).items()
    }


def adapted_feedback(
    feedback: Mapping[str, Tensor], changes: Mapping[str, Tensor], decay: float = 0.0
) -> dict[str, Tensor]:
    """B' = (1 - decay) (B + dW_out^T): B takes the change that its read-out took.

    Args:
        feedback: name of the linear layer -> B, [out, neurons].
        changes: weight changes by name as ``Network.weights`` names them; those of "name.weight" are used.
        decay: of B in one update, 0..1; decay W_out likewise, or they do not align.
    Raises: ConfigError: the change of a read-out is missing.
    """
    for name in feedback:
        if f"{name}.weight" not in changes:
            raise ConfigError(f"adapted_feedback: the change of '{name}.weight' is missing")
    return {name: (1 - decay) * (b + changes[f"{name}.weight"].T) for name, b in feedback.items()}


def learning_signals(
    network: Network,
    errors: Mapping[str, Tensor],
    feedback: Mapping[str, Tensor] | None = None,
    normalised: bool = False,
) -> dict[str, Tensor]:
    """L of every spiking layer that a read-out reads.

    Args:
        network: the description.
        errors: read-out's name -> dE/dy, [B, T, O]; y - target for half the summed square.
        feedback: linear layer's name -> B, [O, N] or [B, O, N]; None is symmetric, with the network's own weights.
        normalised: NEST's factor 1 - kappa (see the module's text).
    Returns: spiking layer's name -> [B, T, N].
    Raises: ConfigError: an unknown read-out, a feedback that is missing or of the wrong shape, or between neurons and
        read-out something other than one linear layer.
    """
    if not errors:
        return {}
    like = next(iter(errors.values()))
    feedback = symmetric_feedback(network, like) if feedback is None else feedback
    signals: dict[str, Tensor] = {}
    for name in readers_of(network, errors):
        layer = network.layers[name]
        assert isinstance(layer, Linear)
        due = layer.weight.shape[::-1]
        kinds = {edge.source: type(network.layers[edge.source]) for edge in network.sources(name)}
        for source, kind in kinds.items():
            if kind not in (Spiking, Input):
                raise ConfigError(
                    f"layer {name!r}: reads {source!r} ({kind.__name__}); e-prop wants one Linear between"
                )
        if Spiking not in kinds.values():
            continue
        if name not in feedback:
            raise ConfigError(f"feedback: none for {name!r}; it has {', '.join(feedback) or 'nothing'}")
        if tuple(feedback[name].shape) not in (due, (len(like), *due)):
            raise ConfigError(f"feedback {name!r}: shape {tuple(feedback[name].shape)} where {due} is due")
        told = error_at_linear(network, name, errors, normalised) @ feedback[name]
        for edge in network.sources(name):
            if kinds[edge.source] is Spiking:
                earlier = sooner(told, edge.delay)
                signals[edge.source] = signals[edge.source] + earlier if edge.source in signals else earlier
    return signals


def rate_signal(spikes: Tensor, target: float | Tensor, strength: float = 1.0) -> Tensor:
    """The learning signal of strength / 2 sum_j (f_j - target)^2, f_j the mean of z over batch and time.

    Args: spikes: [B, T, *neurons]; target: spikes a step (20 Hz at 1 ms is 0.02), a number or one a neuron.
    Returns: [B, T, *neurons], the same in every step: add it to the learning signal.
    """
    batch, steps = spikes.shape[:2]
    return (strength * (spikes.mean((0, 1)) - target) / (batch * steps)).expand_as(spikes)


def integrate_back(error: Tensor, readout: Readout) -> Tensor:
    """dE/dI of a leaky read-out from dE/dy, both [B, T, O]: exact, since it never spikes."""
    d: Any = constants(readout, error.dtype, error.device)
    v: Any = torch.zeros_like(error[:, 0])
    i: Any = torch.zeros_like(error[:, 0])
    result = []
    for now in reversed(error.unbind(1)):
        v = d.decay * v + now
        gone = d.gain * v
        if d.synapse is not None:
            i = d.synapse.decay * i + gone
            gone = d.synapse.gain * i
        result.append(gone)
    return torch.stack(result[::-1], 1)


def error_at_linear(network: Network, name: str, errors: Mapping[str, Tensor], normalised: bool = False) -> Tensor:
    """dE/d(what the linear layer ``name`` gives), [B, T, O], summed over the read-outs with an error that it feeds."""
    total: Any = 0.0
    for edge in network.edges:
        readout = network.layers[edge.target]
        if edge.source == name and edge.target in errors and isinstance(readout, Readout):
            error = integrate_back(errors[edge.target], readout)
            if normalised:
                error = (1 - constants(readout, error.dtype, error.device).decay) * error
            total = total + sooner(error, edge.delay)
    return total


def sooner(y: Tensor, delay: int) -> Tensor:
    """y[t + delay], zero after the last step: the adjoint of a delay."""
    if delay == 0:
        return y
    steps = min(delay, y.shape[1])
    return torch.cat([y[:, steps:], torch.zeros_like(y[:, :steps])], 1)


def readers_of(network: Network, errors: Mapping[str, Tensor]) -> list[str]:
    """The linear layers that feed the read-outs with errors."""
    names: list[str] = []
    for name, error in errors.items():
        if name not in network.readouts:
            raise ConfigError(f"errors {name!r}: no such read-out: {nearest(name, network.readouts)}")
        if error.ndim != 3 or tuple(error.shape[2:]) != network.shapes[name]:
            raise ConfigError(f"errors {name!r}: {tuple(error.shape)} where [B, T, {network.shapes[name]}] is due")
        for edge in network.sources(name):
            if not isinstance(network.layers[edge.source], Linear):
                kind = type(network.layers[edge.source]).__name__
                raise ConfigError(f"layer {name!r}: reads {edge.source!r} ({kind}); e-prop wants one Linear between")
            names += [edge.source] if edge.source not in names else []
    return names


def _carries(network: Network, name: str) -> bool:
    def ends(end: str, kind: type) -> bool:
        return isinstance(network.layers[end], kind)

    reads = any(edge.target == name and ends(edge.source, Spiking) for edge in network.edges)
    return reads and any(edge.source == name and ends(edge.target, Readout) for edge in network.edges)
