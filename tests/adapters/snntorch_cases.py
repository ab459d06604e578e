"""Networks for the tests of the snnTorch adapter: every option of ``models.dynamics`` with every option of another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
    When,
)
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["CONVOLUTIONS", "N_IN", "OPTIONS", "N", "every_pair", "network_of", "spikes_in"]

N_IN, N = 6, 8
Draw = Callable[[float, float], float | NDArray[np.float64]]

OPTIONS: dict[str, tuple[str, ...]] = {
    "reset": (
        *(f"{kind} {when.name}" for kind in ("threshold", "adapted", "value", "zero") for when in When),
        "once",
        "none",
    ),
    "refractory": ("none", "integrating", "frozen", "frozen, one a neuron"),
    "adaptation": ("none", "spike in full", "fresh spike decays"),
    "synapse": ("none", "gain 1", "gain"),
    "recurrence": ("none", "matrix", "hollow, delay 3", "one to one", "one to one, delay 2"),
    "comparison": (">", ">="),
    "numbers": ("one for all", "one a neuron"),
    "membrane": ("plain", "gain", "rest and v_init"),
    "edges": ("direct", "delayed", "two ways"),
}


def every_pair(seed: int = 0) -> Iterator[dict[str, str]]:
    """Choices of one option of each feature, until any two options of two features have met."""
    rng = np.random.default_rng(seed)
    due = {((a, x), (b, y)) for a, b in itertools.combinations(OPTIONS, 2) for x in OPTIONS[a] for y in OPTIONS[b]}
    while due:
        choice = {name: str(rng.choice(options)) for name, options in OPTIONS.items()} | dict(min(due))
        due -= set(itertools.combinations(choice.items(), 2))
        yield choice


def network_of(choice: dict[str, str], seed: int, dyadic: bool) -> Network:
    """A small recurrent network with these options; ``dyadic``: every number a few bits long, so that ties occur."""
    rng = np.random.default_rng(seed)

    def weights(mean: float, spread: float, *shape: int) -> NDArray[np.float64]:
        values = rng.normal(mean, spread, shape)
        return np.round(values * 16) / 16 if dyadic else values

    def number(low: float, high: float) -> Any:
        if dyadic:
            choices = np.arange(np.ceil(low * 8), np.floor(high * 8) + 1) / 8
            values = rng.choice(choices, N)
        else:
            values = rng.uniform(low, high, N)
        return values if choice["numbers"] == "one a neuron" else float(values[0])

    def decay(low: float, high: float) -> Any:
        return (
            rng.choice([0.5, 1.0], N)
            if dyadic and choice["numbers"] == "one a neuron"
            else _or(0.5, dyadic, number, low, high)
        )

    reset, _, when = choice["reset"].partition(" ")
    resets = {
        "threshold": lambda: SubtractThreshold(When[when]),
        "adapted": lambda: SubtractAdapted(When[when]),
        "value": lambda: ResetToValue(number(-0.25, 0.25), When[when]),
        "zero": lambda: ResetToValue(0.0, When[when]),
        "once": SubtractThresholdOnce,
        "none": NoReset,
    }
    silent = rng.integers(0, 4, N) if "one a neuron" in choice["refractory"] else 3
    recurrent = {
        "none": None,
        "matrix": Recurrence(weights(0, 0.3, N, N)),
        "hollow, delay 3": Recurrence(weights(0, 0.3, N, N), 3, True),
        "one to one": Recurrence(weights(0, 0.4, N)),
        "one to one, delay 2": Recurrence(weights(0, 0.4, N), 2),
    }
    dynamics = Dynamics(
        decay(0.6, 0.95),
        number(0.5, 1.0),
        gain=_or(0.5, dyadic, number, 0.5, 1.5) if choice["membrane"] == "gain" else 1.0,
        rest=number(-0.25, 0.25) if choice["membrane"].startswith("rest") else 0.0,
        v_init=number(-0.5, 0.5) if choice["membrane"].startswith("rest") else 0.0,
        comparison=Comparison(choice["comparison"]),
        reset=resets[reset](),
        refractory=Refractory()
        if choice["refractory"] == "none"
        else Refractory(silent, "frozen" in choice["refractory"]),
        adaptation=None
        if choice["adaptation"] == "none"
        else Adaptation(
            decay(0.7, 0.95), _or(0.25, dyadic, number, 0.1, 0.5), choice["adaptation"].startswith("fresh")
        ),
        synapse=None
        if choice["synapse"] == "none"
        else Synapse(decay(0.3, 0.7), _or(0.5, dyadic, number, 0.4, 1.2) if choice["synapse"] == "gain" else 1.0),
    )
    edges = [Edge("x", "w_in"), Edge("w_in", "h"), Edge("h", "w_out"), Edge("w_out", "out")]
    if choice["edges"] == "delayed":
        edges[0], edges[2] = Edge("x", "w_in", 2), Edge("h", "w_out", 3)
    if choice["edges"] == "two ways":
        edges.append(Edge("w_in", "h", 1))
    layers = {
        "x": Input((N_IN,)),
        "w_in": Linear(weights(0.25, 0.4, N_IN, N), weights(0.1, 0.1, N)),
        "h": Spiking(dynamics, recurrent[choice["recurrence"]]),
        "w_out": Linear(weights(0, 0.5, N, 2)),
        "out": Readout(0.5 if dyadic else 0.9, 0.5, synapse=None if choice["synapse"] == "none" else Synapse(0.5)),
    }
    return Network(layers, tuple(edges))


def _or(value: float, dyadic: bool, number: Draw, low: float, high: float) -> Any:
    return value if dyadic else number(low, high)


def spikes_in(shape: tuple[int, ...], seed: int, dtype: torch.dtype, batch: int = 2, steps: int = 60) -> Tensor:
    """Input spikes, two in five."""
    return torch.tensor(np.random.default_rng(seed).random((batch, steps, *shape)) < 0.4).to(dtype)


def convolutional(axes: int, how: Pooling, rng: np.random.Generator) -> Network:
    """Convolution, spikes on maps, pooling, flatten, one-to-one recurrence, a read-out that rests off zero."""
    side = (9,) * axes
    weight = np.round(rng.normal(0.2, 0.4, (1, 4, *(3,) * axes)) * 16) / 16
    dynamics = Dynamics(np.full((4, *(5,) * axes), 0.5), 0.75, reset=ResetToValue(0.125, When.NEXT_AFTER_INPUT))
    layers = {
        "x": Input((2, *side)),
        "conv": Conv(weight, np.arange(4) / 16, (2,), (1,), (1,), groups=2),
        "map": Spiking(dynamics, None),
        "pool": Pool(how, (2,) * axes, (1,) * axes, (1,) * axes),
        "flat": Flatten(),
        "w": Linear(np.round(rng.normal(0, 0.3, (4 * 6**axes, 5)) * 16) / 16),
        "h": Spiking(Dynamics(0.5, 0.5, refractory=Refractory(2)), Recurrence(np.arange(5) / 8)),
        "out": Readout(0.5, rest=0.25, v_init=-0.5),
    }
    return Network.stack(layers, dt_ms=0.5)


CONVOLUTIONS = [(axes, how) for axes in (1, 2) for how in Pooling]
