"""Random networks over every option of ``models.dynamics``, for the tests of the Norse adapter."""

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
from ovonic.models.layers import Input, Layer, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

N_IN, N, N_OUT = 5, 6, 2

OPTIONS: dict[str, tuple[str, ...]] = {
    "decay": ("one", "each", "0", "1"),
    "gain": ("1", "own", "each"),
    "rest": ("0", "one", "each"),
    "threshold": ("one", "each"),
    "v_init": ("0", "rest", "each"),
    "comparison": (">", ">="),
    "reset": (
        "none",
        "once",
        *(f"{kind} {when.name}" for kind in ("value", "threshold", "adapted") for when in When),
    ),
    "refractory": ("0", "3", "each", "3 frozen"),
    "adaptation": ("none", "full", "decays"),
    "synapse": ("none", "1", "each"),
    "recurrence": ("none", "all", "masked", "one to one", "all 2", "one to one 3"),
    "delay": ("0", "2"),
}


def draw(rng: np.random.Generator) -> dict[str, str]:
    """An option of each kind."""
    return {kind: str(rng.choice(options)) for kind, options in OPTIONS.items()}


def pairs_of(chosen: dict[str, str]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    """The pairs of options that a choice covers."""
    return set(itertools.combinations(sorted(chosen.items()), 2))


def all_pairs() -> set[tuple[tuple[str, str], tuple[str, str]]]:
    """Every pair of options of two kinds."""
    kinds = sorted(OPTIONS)
    return {
        ((a, x), (b, y))
        for a, b in itertools.combinations(kinds, 2)
        for x, y in itertools.product(OPTIONS[a], OPTIONS[b])
    }


def network_of(chosen: dict[str, str], rng: np.random.Generator) -> Network:
    """A network with these options and random numbers: input, weights, neurons, weights, a read-out."""

    def number(how: str, low: float, high: float) -> Any:
        return rng.uniform(low, high, N) if how == "each" else float(rng.uniform(low, high))

    decay = float(chosen["decay"]) if chosen["decay"] in "01" else number(chosen["decay"], 0.5, 0.95)
    gain = 1.0 if chosen["gain"] == "1" else number(chosen["gain"], 0.5, 1.5)
    if chosen["gain"] == "own" and chosen["decay"] != "1":
        gain = 1 - decay
    rest = 0.0 if chosen["rest"] == "0" else number(chosen["rest"], -0.2, 0.1)
    synapse = None
    if chosen["synapse"] != "none":
        synapse = Synapse(number("each", 0.2, 0.8), 1.0 if chosen["synapse"] == "1" else number("each", 0.5, 1.5))
    adaptation = None
    if chosen["adaptation"] != "none":
        adaptation = Adaptation(number("each", 0.6, 0.95), number("each", 0.05, 0.3), chosen["adaptation"] == "decays")
    silent: Any = rng.integers(0, 5, N) if chosen["refractory"] == "each" else int(chosen["refractory"][0])
    dynamics = Dynamics(
        decay,
        number(chosen["threshold"], 0.4, 0.9),
        gain,
        rest,
        {"0": 0.0, "rest": rest, "each": rng.uniform(-0.5, 0.3, N)}[chosen["v_init"]],
        Comparison(chosen["comparison"]),
        reset_of(chosen["reset"], float(rng.uniform(-0.2, 0.2))),
        Refractory(silent, chosen["refractory"].endswith("frozen")),
        adaptation,
        synapse,
    )
    recurrence = None
    if chosen["recurrence"] != "none":
        one = chosen["recurrence"].startswith("one")
        weight = rng.normal(0, 0.4, N if one else (N, N))
        delay = int(chosen["recurrence"][-1]) if chosen["recurrence"][-1].isdigit() else 1
        recurrence = Recurrence(weight, delay, chosen["recurrence"] == "masked")
    scale = 0.4 * float(np.mean(1 / np.asarray(gain))) * (2.0 if synapse is None else 1.0)
    layers: dict[str, Layer] = {
        "in": Input((N_IN,)),
        "w": Linear(scale * rng.normal(0.3, 1, (N_IN, N)), scale * rng.normal(0.2, 0.2, N)),
        "train": Spiking(dynamics, recurrence),
        "w_out": Linear(rng.normal(size=(N, N_OUT))),
        "out": Readout(0.9, 1.0 if chosen["gain"] == "1" else 0.1, synapse=None if synapse is None else Synapse(0.5)),
    }
    edges = [Edge("in", "w"), Edge("w", "train", int(chosen["delay"])), Edge("train", "w_out"), Edge("w_out", "out")]
    return Network(layers, tuple(edges), 0.5)


def reset_of(name: str, value: float) -> Any:
    """The reset of that name in ``OPTIONS``."""
    if name in ("none", "once"):
        return NoReset() if name == "none" else SubtractThresholdOnce()
    kind, when = name.split()
    if kind == "value":
        return ResetToValue(value, When[when])
    return (SubtractThreshold if kind == "threshold" else SubtractAdapted)(When[when])


def spikes_in(seed: int, batch: int, steps: int, rate: float = 0.4, n: int = N_IN) -> Tensor:
    """Random input spikes [B, T, n], float64."""
    return torch.tensor(np.random.default_rng(seed).random((batch, steps, n)) < rate, dtype=torch.float64)
