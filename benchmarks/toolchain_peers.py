"""The loops that a user of snnTorch or Norse writes by hand for one recurrent layer, for benchmarks/toolchain_runs.py.

Each gives the spikes and the membranes of every step (Norse's plain step: after its reset), as an adapter's ``run``
does, from the same arrays of weights, and makes its module anew as ``run`` does. Written for speed as an expert would:
one product for all inputs, the state in local names, constants outside of the loop.

    snnTorch, plain        RLeaky with its own delayed subtraction
    snnTorch, refractory   RLeaky without reset; the threshold subtracted from the input, spikes masked (FACTS' recipe)
    Norse, plain           lif_box_feed_forward_step with a hard reset, recurrent product added
    Norse, refractory      the same step, the threshold subtracted from the input, spikes masked
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovonic.models.layers import Linear, Spiking
from ovonic.models.network import Network

__all__ = ["PEERS"]

Peer = Callable[[Network, Tensor], tuple[Tensor, Tensor]]
"""(network, inputs [B, T, n]) -> spikes and membranes, [B, T, N]."""


def _parts(network: Network, x: Tensor) -> tuple[Tensor, Tensor, Any]:
    """What arrives from outside, the recurrent weights [in, out], and the dynamics."""
    w_in, layer = network.layers["w_in"], network.layers["h"]
    assert isinstance(w_in, Linear)
    assert isinstance(layer, Spiking)
    assert layer.recurrence is not None
    currents = x @ torch.tensor(w_in.weight, dtype=x.dtype)
    return currents, torch.tensor(layer.recurrence.weight, dtype=x.dtype), layer.dynamics


def _heaviside(v: Tensor) -> Tensor:
    return (v > 0).to(v.dtype)


def _rleaky(d: Any, w_rec: Tensor, mechanism: str) -> Any:
    import snntorch

    numbers = {"beta": torch.tensor(d.decay), "threshold": torch.tensor(d.threshold)}
    numbers = {name: number.to(w_rec.dtype) for name, number in numbers.items()}
    neuron = snntorch.RLeaky(
        **numbers, linear_features=len(w_rec), reset_mechanism=mechanism, spike_grad=_heaviside
    ).to(w_rec.dtype)
    neuron.recurrent.weight.data = w_rec.T.contiguous()
    neuron.recurrent.bias = None
    return neuron


def snntorch_plain(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        currents, w_rec, d = _parts(network, x)
        neuron = _rleaky(d, w_rec, "subtract")
        z = v = torch.zeros_like(currents[:, 0])
        spikes, membranes = [], []
        for current in currents.unbind(1):
            z, v = neuron(current, z, v)
            spikes.append(z)
            membranes.append(v)
        return torch.stack(spikes, 1), torch.stack(membranes, 1)


def snntorch_refractory(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        currents, w_rec, d = _parts(network, x)
        neuron = _rleaky(d, w_rec, "none")
        silent, threshold = d.refractory.silent_steps, d.threshold
        z = v = torch.zeros_like(currents[:, 0])
        r = torch.zeros_like(z, dtype=torch.int16)
        spikes, membranes = [], []
        for current in currents.unbind(1):
            r = torch.where(z > 0, silent, (r - 1).clamp(min=0))
            z, v = neuron(current - threshold * z, z, v)
            z = z * (r == 0)
            spikes.append(z)
            membranes.append(v)
        return torch.stack(spikes, 1), torch.stack(membranes, 1)


def norse_plain(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    from norse.torch import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step

    with torch.no_grad():
        currents, w_rec, d = _parts(network, x)
        numbers = {"tau_mem_inv": (1 - d.decay) / 1e-3, "v_leak": 0.0, "v_th": d.threshold, "v_reset": 0.0}
        parameters = LIFBoxParameters(
            **{name: torch.tensor(number, dtype=x.dtype) for name, number in numbers.items()}, method="heaviside"
        )
        z = torch.zeros_like(currents[:, 0])
        state = LIFBoxFeedForwardState(z)
        spikes, membranes = [], []
        for current in currents.unbind(1):
            z, state = lif_box_feed_forward_step(current + z @ w_rec, state, parameters, 1e-3)
            spikes.append(z)
            membranes.append(state.v)
        return torch.stack(spikes, 1), torch.stack(membranes, 1)


def norse_refractory(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    from norse.torch import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step

    with torch.no_grad():
        currents, w_rec, d = _parts(network, x)
        gain, threshold, silent = 1 - d.decay, d.threshold, d.refractory.silent_steps
        numbers = {"tau_mem_inv": gain / 1e-3, "v_leak": 0.0, "v_th": threshold, "v_reset": 0.0}
        parameters = LIFBoxParameters(
            **{name: torch.tensor(number, dtype=x.dtype) for name, number in numbers.items()},
            method="heaviside",
            reset_method=lambda z, v, r, th: v,
        )
        z = torch.zeros_like(currents[:, 0])
        r = torch.zeros_like(z, dtype=torch.int16)
        state = LIFBoxFeedForwardState(z)
        spikes, membranes = [], []
        for current in currents.unbind(1):
            r = torch.where(z > 0, silent, (r - 1).clamp(min=0))
            z, state = lif_box_feed_forward_step((current + z @ w_rec - threshold * z) / gain, state, parameters, 1e-3)
            z = z * (r == 0)
            spikes.append(z)
            membranes.append(state.v)
        return torch.stack(spikes, 1), torch.stack(membranes, 1)


PEERS: dict[tuple[str, str], Peer] = {
    ("snntorch", "plain"): snntorch_plain,
    ("snntorch", "refractory"): snntorch_refractory,
    ("norse", "plain"): norse_plain,
    ("norse", "refractory"): norse_refractory,
}
"""By toolchain and neuron."""
