"""How the networks of ``feature_networks`` are made: from random numbers, with the feature and without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.models.dynamics import Dynamics, ResetToValue, decay_from_tau
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

__all__ = [
    "BASES",
    "DECAY",
    "Draw",
    "Inputs",
    "Made",
    "Maker",
    "N",
    "biased",
    "chain",
    "changed",
    "convolution",
    "delays",
    "dynamics",
    "flattened",
    "flipped",
    "float32",
    "graded",
    "leaking",
    "moved_groups",
    "pool",
    "read_out",
    "recurrent",
    "several_inputs",
    "space",
    "transposed",
    "two_ways",
    "unbiased",
]

N_IN, N, STEPS, SAMPLES = 4, 6, 40, 2
DECAY = decay_from_tau(10.0, 1.0)
BASES = {
    "a subtracted threshold": Dynamics(DECAY, 1.0),
    "reset to 0": Dynamics(DECAY, 1.0, reset=ResetToValue(0.0)),
    "reset to 0, gain 1 - decay": Dynamics(DECAY, 1.0, gain=1 - DECAY, reset=ResetToValue(0.0)),
    "gain 1": Dynamics(DECAY, 1.0),
    "gain 1 - decay": Dynamics(DECAY, 1.0, gain=1 - DECAY),
}
"""What a layer does where nothing else is said, since no toolchain but ours has them all: it leaks, and a spike
subtracts the threshold in the next step, or sets the membrane to 0 in the same; weights go with the gain."""

Array = NDArray[np.float64]
Inputs = Mapping[str, Tensor]


class Draw:
    """The random numbers of one network, and what its layers do where nothing else is said."""

    def __init__(self, seed: int, base: Dynamics) -> None:
        self.rng, self.base = np.random.default_rng(seed), base
        self.scale = 1 / np.asarray(base.gain)

    def weights(self, *shape: int, mean: float = 0.3, spread: float = 0.3) -> Array:
        return self.rng.normal(mean, spread, shape) * self.scale

    def spikes(self, *shape: int, rate: float = 0.4) -> Tensor:
        return torch.tensor(self.rng.random((SAMPLES, STEPS, *shape)) < rate, dtype=torch.float64)


Made = tuple[Network, Inputs, Network, Inputs]
"""A network and its inputs, and both with the feature dropped."""

Maker = Callable[[Draw], Made]


def _stack(draw: Draw, spiking: Layer, sixteenths: bool = False, bias: bool = False) -> Network:
    weight = draw.weights(N_IN, N)
    weight = np.round(weight * 16) / 16 if sixteenths else weight
    w_in = Linear(weight, draw.weights(N, mean=0.1, spread=0.05) if bias else None)
    return Network.stack({"x": Input((N_IN,)), "w_in": w_in, "h": spiking})


def _with(network: Network, **layers: Layer) -> Network:
    return network.replace(layers=dict(network.layers) | layers)


def dynamics(rules: Dynamics, dropped: Dynamics, sixteenths: bool = False) -> Maker:
    """A layer of these dynamics behind one matrix."""

    def make(draw: Draw) -> Made:
        network = _stack(draw, Spiking(rules), sixteenths)
        x = {"x": draw.spikes(N_IN)}
        return network, x, _with(network, h=Spiking(dropped)), x

    return make


def changed(given: dict[str, Any], dropped: dict[str, Any] | None = None) -> Maker:
    """A layer whose dynamics differ from the base by ``given``; without the feature, by ``dropped``."""
    return lambda draw: dynamics(draw.base.replace(**given), draw.base.replace(**(dropped or {})))(draw)


def leaking(decay: float | Array) -> Maker:
    """A layer of another decay, whose gain is still 1 - decay if that of the base is."""

    def make(draw: Draw) -> Made:
        scaled = draw.base.gain != 1 and not np.all(np.equal(decay, 1))
        return changed({"decay": decay} | ({"gain": 1 - np.asarray(decay)} if scaled else {}))(draw)

    return make


def recurrent(shape: tuple[int, ...], dropped: dict[str, Any] | None, **options: Any) -> Maker:
    """Recurrence of weights of that shape; ``dropped``: what of it is changed, None is all of it."""

    def make(draw: Draw) -> Made:
        recurrence = Recurrence(draw.weights(*shape, mean=0.0, spread=0.4), **options)
        network = _stack(draw, Spiking(draw.base, recurrence))
        other = Spiking(draw.base, None if dropped is None else recurrence.replace(**dropped))
        x = {"x": draw.spikes(N_IN)}
        return network, x, _with(network, h=other), x

    return make


def transposed(draw: Draw) -> Made:
    """Recurrence all to all; dropped: the same with its matrix transposed."""
    network, x, _, _ = recurrent((N, N), None)(draw)
    layer: Any = network.layers["h"]
    turned = layer.replace(recurrence=layer.recurrence.replace(weight=layer.recurrence.weight.T))
    return network, x, _with(network, h=turned), x


def _two_layers(draw: Draw) -> Network:
    parts: dict[str, Layer] = {
        "x": Input((N_IN,)),
        "w_in": Linear(draw.weights(N_IN, N)),
        "h": Spiking(draw.base),
        "w_2": Linear(draw.weights(N, N)),
        "h_2": Spiking(draw.base),
    }
    return Network.stack(parts)


def chain(draw: Draw) -> Made:
    """The second layer reads the first in the same step; a toolchain may let it read the step before."""
    network, x = _two_layers(draw), {"x": draw.spikes(N_IN)}
    late = network.replace(edges=tuple(e._replace(delay=int(e.target == "w_2")) for e in network.edges))
    return network, x, late, x


def delays(source: str) -> Maker:
    """A delay of three steps on the edge from ``source``; dropped: none."""

    def make(draw: Draw) -> Made:
        network, x = _two_layers(draw), {"x": draw.spikes(N_IN)}
        edges = tuple(edge._replace(delay=3 * (edge.source == source)) for edge in network.edges)
        return network.replace(edges=edges), x, network, x

    return make


def two_ways(draw: Draw) -> Made:
    """What arrives over two edges is added up."""
    network, x = _stack(draw, Spiking(draw.base)), {"x": draw.spikes(N_IN)}
    layers = dict(network.layers) | {"w_too": Linear(draw.weights(N_IN, N, mean=-0.1))}
    both = Network(layers, (*network.edges, Edge("x", "w_too"), Edge("w_too", "h")))
    return both, x, network, x


def several_inputs(draw: Draw) -> Made:
    """Two inputs; dropped: the second."""
    network, x = _stack(draw, Spiking(draw.base)), {"x": draw.spikes(N_IN)}
    layers = dict(network.layers) | {"y": Input((2,)), "w_y": Linear(draw.weights(2, N))}
    both = Network(layers, (*network.edges, Edge("y", "w_y"), Edge("w_y", "h")))
    return both, x | {"y": draw.spikes(2)}, network, x


def graded(draw: Draw) -> Made:
    """Inputs of any size; dropped: 0 or 1."""
    network, x = _stack(draw, Spiking(draw.base)), draw.spikes(N_IN)
    currents = x * torch.tensor(draw.rng.uniform(0.25, 1.75, x.shape))
    return network, {"x": currents}, network, {"x": x}


def biased(draw: Draw) -> Made:
    """A bias of the weights that lead in; dropped: none."""
    network, x = _stack(draw, Spiking(draw.base), bias=True), {"x": draw.spikes(N_IN)}
    w_in: Any = network.layers["w_in"]
    return network, x, _with(network, w_in=w_in.replace(bias=None)), x


def space(front: Callable[[Draw], Layer], dropped: Callable[[Any], Layer], *shape: int, rate: float = 0.4) -> Maker:
    """A layer over space in front of spiking neurons, which keep its shape."""

    def make(draw: Draw) -> Made:
        layer = front(draw)
        network = Network.stack({"x": Input(shape), "front": layer, "h": Spiking(draw.base)})
        x = {"x": draw.spikes(*shape, rate=rate)}
        return network, x, _with(network, front=dropped(layer)), x

    return make


def convolution(*shape: int, **options: Any) -> Callable[[Draw], Conv]:
    """Makes a convolution of these weights, with a bias."""
    return lambda draw: Conv(draw.weights(*shape), draw.weights(shape[1], mean=0.1), **options)


def flipped(layer: Conv) -> Conv:
    """The convolution of mathematics, where the description has a cross-correlation."""
    return layer.replace(weight=np.flip(layer.weight, tuple(range(2, layer.weight.ndim))))


def unbiased(layer: Conv) -> Conv:
    """The convolution without its bias."""
    return layer.replace(bias=None)


def moved_groups(layer: Conv) -> Conv:
    """Groups whose inputs change places."""
    return layer.replace(weight=np.roll(layer.weight, layer.weight.shape[1] // layer.groups, 1))


def pool(how: Pooling, other: Pooling, *window: int) -> Maker:
    """Pooling of graded inputs; dropped: another kind of it."""
    shape = (2, 6) if len(window) == 1 else (2, 4, 4)
    make = space(lambda draw: Pool(how, window), lambda layer: layer.replace(how=other), *shape)

    def weighted(draw: Draw) -> Made:
        network, x, dropped, _ = make(draw)
        x = {"x": x["x"] * torch.tensor(draw.rng.uniform(0.25, 1.75, x["x"].shape) * draw.scale)}
        return network, x, dropped, x

    return weighted


def flattened(draw: Draw) -> Made:
    """Inputs of two axes, flattened row after row; dropped: column after column."""
    weight = draw.weights(2 * 3, N)
    parts = {"x": Input((2, 3)), "flat": Flatten(), "w_in": Linear(weight), "h": Spiking(draw.base)}
    network, x = Network.stack(parts), {"x": draw.spikes(2, 3)}
    columns = weight.reshape(2, 3, N).swapaxes(0, 1).reshape(6, N)
    return network, x, _with(network, w_in=Linear(columns)), x


def read_out(readout: Readout, dropped: Readout) -> Maker:
    """A read-out behind the spikes; dropped: another one."""

    def make(draw: Draw) -> Made:
        x = {"x": draw.spikes(N_IN)}
        parts = dict(_stack(draw, Spiking(draw.base)).layers) | {"w_out": Linear(draw.weights(N, 2)), "out": readout}
        network = Network.stack(parts)
        return network, x, _with(network, out=dropped), x

    return make


def float32(draw: Draw) -> Made:
    """A weight of 1 + 2^-30 exceeds a threshold of 1 in float64, and meets it in float32; no sum rounds in either."""
    weight = draw.rng.choice([0.5, 1 + 2.0**-30, 1.5], (N_IN, N)) * (np.arange(N) % N_IN == np.arange(N_IN)[:, None])
    layer = Spiking(Dynamics(0.0, 1.0, reset=ResetToValue(0.0)))
    network = Network.stack({"x": Input((N_IN,)), "w_in": Linear(weight), "h": layer})
    x = draw.spikes(N_IN)
    return network, {"x": x.float()}, network, {"x": x}
