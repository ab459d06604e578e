"""Networks for the tests of the Brian2 adapter: every feature, drawn so that all pairs of features meet.

Numbers are dyadic (decays of a quarter, a half .., weights on a grid of 1/16) and runs short, so that no sum is ever
rounded, whatever its order: spikes must then be identical bit for bit, ties with the threshold included.
"""

from __future__ import annotations

import itertools
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
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
    When,
)
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

N_IN, N = 3, 4
RESETS = (
    NoReset(),
    SubtractThresholdOnce(),
    *(kind(when) for kind in (SubtractThreshold, SubtractAdapted) for when in When),
    *(ResetToValue(-0.25, when) for when in When),
)
FEATURES: dict[str, tuple[Any, ...]] = {
    "reset": RESETS,
    "comparison": tuple(Comparison),
    "refractory": ("none", "integrating", "frozen", "one a neuron", "one a neuron, frozen"),
    "adaptation": ("none", "fresh counts", "fresh decays"),
    "synapse": (False, True),
    "numbers": ("one for all", "one a neuron"),
    "recurrence": ("none", "all to all", "hollow", "own", "late"),
    "edges": ("linear", "bias", "late input", "late", "straight", "both"),
    "input": ("spikes", "currents"),
    "second": ("none", "spiking", "read-out"),
}


def pairwise(seed: int = 0) -> list[dict[str, Any]]:
    """Choices in which every pair of options of two features occurs."""
    rng = np.random.default_rng(seed)
    names = list(FEATURES)
    sizes = [len(FEATURES[name]) for name in names]
    missing = {
        (a, x, b, y)
        for a, b in itertools.combinations(range(len(names)), 2)
        for x in range(sizes[a])
        for y in range(sizes[b])
    }
    found = []
    while missing:
        draws = []
        for pick in range(20):
            draw = rng.integers(sizes)
            if pick % 2:
                a, x, b, y = sorted(missing)[rng.integers(len(missing))]
                draw[a], draw[b] = x, y
            draws.append(draw)
        covers = [
            {(a, d[a], b, d[b]) for a, b in itertools.combinations(range(len(names)), 2)} & missing for d in draws
        ]
        best = max(range(len(draws)), key=lambda k: len(covers[k]))
        missing -= covers[best]
        if covers[best]:
            found.append({name: FEATURES[name][x] for name, x in zip(names, draws[best], strict=True)})
    return found


def network(choice: dict[str, Any], seed: int) -> Network:
    """The network of a choice, dyadic."""
    rng = np.random.default_rng(seed)

    def grid(*shape: int, low: int = -8, high: int = 16) -> Any:
        return rng.integers(low, high, shape) / 16

    def dynamics() -> Dynamics:
        many = (N,) if choice["numbers"] == "one a neuron" else ()

        def one_of(*values: float) -> Any:
            drawn = rng.choice(values, many)
            return drawn if many else float(drawn)

        silent = rng.integers(0, 4, N) if choice["refractory"].startswith("one") else 2
        adaptation = Adaptation(one_of(0.5, 0.75), one_of(0.25, 0.5), choice["adaptation"] == "fresh decays")
        return Dynamics(
            one_of(0.5, 0.75, 1.0),
            one_of(0.5, 0.75),
            one_of(1.0, 0.5),
            one_of(0.0, 0.125),
            one_of(0.0, 0.25),
            choice["comparison"],
            choice["reset"],
            Refractory() if choice["refractory"] == "none" else Refractory(silent, "frozen" in choice["refractory"]),
            None if choice["adaptation"] == "none" else adaptation,
            Synapse(one_of(0.5, 0.25), one_of(1.0, 0.5)) if choice["synapse"] else None,
        )

    recurrence = {
        "none": None,
        "all to all": Recurrence(grid(N, N)),
        "hollow": Recurrence(grid(N, N), masked_diagonal=True),
        "own": Recurrence(grid(N)),
        "late": Recurrence(grid(N, N), delay=3),
    }[choice["recurrence"]]
    kind = choice["edges"]
    layers: dict[str, Any] = {
        "x": Input((N if kind in ("straight", "both") else N_IN,)),
        "w": Linear(grid(N if kind == "both" else N_IN, N), grid(N) if kind == "bias" else None),
        "hidden": Spiking(dynamics(), recurrence),
    }
    edges = [Edge("x", "w", 2 * (kind == "late input")), Edge("w", "hidden", 2 * (kind == "late"))]
    if kind == "straight":
        del layers["w"]
        edges = []
    if kind in ("straight", "both"):
        edges.append(Edge("x", "hidden", int(kind == "both")))
    if choice["second"] != "none":
        layers["w_out"] = Linear(grid(N, N), grid(N) if kind == "bias" else None)
        edges += [Edge("hidden", "w_out", int(kind == "late input")), Edge("w_out", "out", 2 * (kind == "late"))]
        if kind == "both":
            edges.append(Edge("hidden", "out", 1))
        spiking = choice["second"] == "spiking"
        synapse = Synapse(0.5) if choice["synapse"] else None
        layers["out"] = Spiking(dynamics()) if spiking else Readout(0.75, 0.5, 0.25, 0.125, synapse)
    return Network(layers, tuple(edges), dt_ms=1.0)


def inputs(net: Network, choice: dict[str, Any], seed: int, steps: int, dtype: torch.dtype) -> Tensor:
    """Dyadic inputs of two samples: spikes, or currents with zeros among them."""
    rng = np.random.default_rng(seed)
    shape = (2, steps, *net.shapes["x"])
    x = (rng.random(shape) < 0.6) * (1.0 if choice["input"] == "spikes" else rng.integers(-4, 17, shape) / 16)
    return torch.tensor(x, dtype=dtype)
