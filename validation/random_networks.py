"""Small random networks that hold every pair of features of the description, and spike.

``FEATURES`` lists the features and their levels. Network number i of a seed holds pair i (of levels of two
features, in an order drawn by the seed) and draws all else, so that consecutive numbers go through the pairs again and
again. The input weights are scaled until at least 80 % of the neurons of every spiking layer spike, where some scale
does it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
    When,
)
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run

__all__ = ["ACTIVE", "FEATURES", "Case", "active_share", "features", "random_network", "recurrent_example"]

RESETS: Mapping[str, Any] = {
    "none": lambda value: NoReset(),
    "once": lambda value: SubtractThresholdOnce(),
    **{f"subtract, {when.value}": lambda value, when=when: SubtractThreshold(when) for when in When},
    **{f"subtract adapted, {when.value}": lambda value, when=when: SubtractAdapted(when) for when in When},
    **{f"to value, {when.value}": lambda value, when=when: ResetToValue(value, when) for when in When},
}

FEATURES: Mapping[str, tuple[str, ...]] = {
    "reset": tuple(RESETS),
    "comparison": (">", ">="),
    "refractoriness": ("none", "integrates", "frozen"),
    "adaptation": ("none", "full", "fresh decays"),
    "synapse": ("none", "filter"),
    "recurrence": ("none", "all to all", "masked", "one to one"),
    "recurrent delay": ("1", "2", "3"),
    "delay": ("0", "1", "2"),
    "parameters": ("shared", "own"),
    "membrane": ("plain", "gain", "rest"),
    "leak": ("leaky", "none"),
    "numbers": ("real", "sixteenths"),
    "front": ("linear", "bias", "two layers", "skip", "convolution", "pooling"),
    "readout": ("none", "leaky", "synapse"),
}

ACTIVE, BUSY = 0.8, 0.6
"""The share of a layer's neurons that should spike, and the share of steps in which they should not exceed to."""

SCALES = (1.0, 2.0, 0.5, 4.0, 8.0, 16.0)
"""Of input weights, as they are tried."""

SAMPLES, STEPS, NEURONS, CHANNELS = 2, 40, 6, 5


@dataclass(frozen=True)
class Case:
    """A network with its inputs, [B, T, *shape] in float64, and the level of each of its features."""

    index: int
    seed: int
    features: Mapping[str, str]
    network: Network
    inputs: Tensor


def features(index: int, seed: int = 0) -> dict[str, str]:
    """The level of every feature of network ``index``."""
    pairs = _pairs(seed)
    rng = np.random.default_rng([seed, index])
    drawn = {name: str(rng.choice(levels)) for name, levels in FEATURES.items()}
    return drawn | dict(pairs[index % len(pairs)])


def random_network(index: int, seed: int = 0) -> Case:
    """Network number ``index`` of a seed, with inputs of ``STEPS`` steps that make it spike."""
    held = features(index, seed)
    rng = np.random.default_rng([seed, index, 1])
    network = _build(held, rng)
    shape = network.shapes["x"]
    x = torch.from_numpy((rng.random((SAMPLES, STEPS, *shape)) < 0.3).astype(np.float64))
    for name in network.spiking:
        network = _driven(network, name, x)
    return Case(index, seed, held, network, x)


def active_share(spikes: Tensor) -> float:
    """The share of neurons, [B, T, *neurons], that spike at least once."""
    return float((spikes.sum((0, 1)) > 0).double().mean())


def recurrent_example(seed: int = 0) -> Network:
    """The network that ``ovonic compare random`` compares: 20 inputs, 50 LIF neurons all to all, 2 leaky read-outs.

    dt 1 ms, tau 20 ms (decay exp(-1/20)), threshold 0.6, which is subtracted in the next step after the input, 4 silent
    steps, as the robot's trainee; W_in of N(0.06, 0.3^2), W_rec of N(0, 0.1^2) with its diagonal masked, W_out of
    N(0, 0.1^2).
    """
    rng = np.random.default_rng(seed)
    decay = float(np.exp(-1 / 20))
    dynamics = Dynamics(decay, 0.6, refractory=Refractory.from_n_ref(5))
    layers = {
        "x": Input((20,)),
        "w_in": Linear(rng.normal(0.06, 0.3, (20, 50))),
        "hidden": Spiking(dynamics, Recurrence(rng.normal(0, 0.1, (50, 50)), masked_diagonal=True)),
        "w_out": Linear(rng.normal(0, 0.1, (50, 2))),
        "y": Readout(decay),
    }
    return Network.stack(layers)


@functools.cache
def _pairs(seed: int) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Every pair of levels of two features, but for delays of a recurrence that is not there."""
    levels = [[(name, level) for level in values] for name, values in FEATURES.items()]
    pairs = [pair for one, other in itertools.combinations(levels, 2) for pair in itertools.product(one, other)]
    pairs = [p for p in pairs if not ({("recurrence", "none")} & set(p) and {"recurrent delay"} & {n for n, _ in p})]
    order = np.random.default_rng([seed, 0xFACE]).permutation(len(pairs))
    return [pairs[k] for k in order]


class _Draw:
    """Numbers of a network: real ones, or sixteenths; one for all, or one a neuron."""

    def __init__(self, rng: np.random.Generator, held: Mapping[str, str]) -> None:
        self.rng, self.coarse, self.own = rng, held["numbers"] == "sixteenths", held["parameters"] == "own"

    def weights(self, *shape: int, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
        drawn = self.rng.normal(mean, spread, shape)
        return np.round(16 * drawn) / 16 if self.coarse else drawn

    def number(self, low: float, high: float, shape: tuple[int, ...]) -> Any:
        drawn = self.rng.uniform(low, high, shape if self.own else None)
        return np.round(16 * drawn) / 16 if self.coarse else drawn

    def decay(self, shape: tuple[int, ...]) -> Any:
        """Between 0.6 and 0.97; or a half or three quarters, whose powers are short."""
        size = shape if self.own else None
        return self.rng.choice([0.5, 0.75], size) if self.coarse else self.rng.uniform(0.6, 0.97, size)

    def whole(self, low: int, high: int, shape: tuple[int, ...]) -> Any:
        return self.rng.integers(low, high + 1, shape if self.own else None)


def _dynamics(held: Mapping[str, str], draw: _Draw, shape: tuple[int, ...]) -> Dynamics:
    leaky, membrane = held["leak"] == "leaky", held["membrane"]
    reset: Reset = RESETS[held["reset"]](draw.number(-0.3, 0.2, shape))
    refractory = Refractory()
    if held["refractoriness"] != "none":
        refractory = Refractory(draw.whole(1, 3, shape), held["refractoriness"] == "frozen")
    adaptation = None
    if held["adaptation"] != "none":
        beta = draw.number(0.1, 0.5, shape)
        adaptation = Adaptation(draw.decay(shape), beta, held["adaptation"] == "fresh decays")
    moved = membrane == "rest"
    return Dynamics(
        draw.decay(shape) if leaky else 1.0,
        draw.number(0.5, 1.1, shape),
        gain=draw.number(0.3, 2.0, shape) if membrane == "gain" else 1.0,
        rest=draw.number(-0.2, 0.2, shape) if moved else 0.0,
        v_init=draw.number(-0.2, 0.4, shape) if moved else 0.0,
        comparison=Comparison(held["comparison"]),
        reset=reset,
        refractory=refractory,
        adaptation=adaptation,
        synapse=None if held["synapse"] == "none" else Synapse(draw.decay(shape)),
    )


def _build(held: Mapping[str, str], rng: np.random.Generator) -> Network:
    """x -> .. -> core (-> out -> y); what is drawn where is the front."""
    draw, front = _Draw(rng, held), held["front"]
    flat = (NEURONS,)
    layers: dict[str, Any] = {}
    if front in ("convolution", "pooling"):
        layers |= {"x": Input((1, 8)), "conv": Conv(draw.weights(1, 2, 3, mean=0.4, spread=0.5))}
        if front == "pooling":
            how = Pooling(str(rng.choice([how.value for how in Pooling])))
            layers |= {"first": Spiking(_dynamics(held, draw, (2, 6))), "pool": Pool(how, (2,)), "flat": Flatten()}
            layers |= {"w": Linear(draw.weights(6, NEURONS, mean=0.5, spread=0.7))}
        else:
            layers |= {"flat": Flatten(), "w": Linear(draw.weights(12, NEURONS, mean=0.3, spread=0.5))}
    else:
        layers |= {"x": Input((CHANNELS,))}
        if front == "two layers":
            layers |= {"w_first": Linear(draw.weights(CHANNELS, 4, mean=0.5, spread=0.7))}
            layers |= {"first": Spiking(_dynamics(held, draw, (4,)))}
        inputs = 4 if front == "two layers" else CHANNELS
        bias = draw.weights(NEURONS, mean=0.1, spread=0.1) if front == "bias" else None
        layers |= {"w": Linear(draw.weights(inputs, NEURONS, mean=0.5, spread=0.7), bias)}
    edges = [Edge(*ends) for ends in itertools.pairwise(layers)]
    edges.append(Edge("w", "core", int(held["delay"])))
    if front == "skip":
        layers["w_skip"] = Linear(draw.weights(CHANNELS, NEURONS, mean=0.2, spread=0.5))
        edges += [Edge("x", "w_skip"), Edge("w_skip", "core", 1)]
    recurrence = None
    if (kind := held["recurrence"]) != "none":
        size = flat if kind == "one to one" else (NEURONS, NEURONS)
        recurrence = Recurrence(draw.weights(*size, spread=0.4), int(held["recurrent delay"]), kind == "masked")
    layers["core"] = Spiking(_dynamics(held, draw, flat), recurrence)
    if held["readout"] != "none":
        synapse = None if held["readout"] == "leaky" else Synapse(draw.decay((2,)))
        layers |= {"out": Linear(draw.weights(NEURONS, 2)), "y": Readout(draw.decay((2,)), synapse=synapse)}
        edges += [Edge("core", "out"), Edge("out", "y")]
    return Network(layers, tuple(edges))


def _driven(network: Network, name: str, x: Tensor) -> Network:
    """The network with the weights into a layer scaled by a power of two, or made positive too, so that it spikes."""
    feeding = _weighted(network, [edge.source for edge in network.sources(name)])
    before = _weighted(network, [edge.source for fed in feeding for edge in network.sources(fed)])
    weights = {layer: network.weights()[f"{layer}.weight"] for layer in {*feeding, *before}}
    best, tried = network, -1.0
    for positive, scale in itertools.product((False, True), SCALES):
        signed = {layer: np.abs(w) if positive else w for layer, w in weights.items()}
        scaled = {f"{layer}.weight": scale * w if layer in feeding else w for layer, w in signed.items()}
        candidate = network.with_weights(scaled)
        with torch.no_grad():
            spikes = run(candidate, x)[name].spikes
        active, busy = active_share(spikes), float(spikes.mean())
        if active >= ACTIVE and busy <= BUSY:
            return candidate
        score = active - max(0.0, busy - BUSY)
        if score > tried:
            best, tried = candidate, score
    return best


def _weighted(network: Network, names: list[str]) -> list[str]:
    """The nearest layers with weights, going back from these, short of what spikes."""
    found = []
    for name in names:
        if f"{name}.weight" in network.weights():
            found.append(name)
        elif name not in network.spiking:
            found += _weighted(network, [edge.source for edge in network.sources(name)])
    return found
