"""Networks within what NEST says exactly, drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.adapters.nest_forms import find_tau
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractThreshold,
    Synapse,
    When,
)
from ovonic.models.layers import Input, Layer, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

GRID = 1 / 16


def _pick(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


class Draw:
    """Random networks and inputs; ``dyadic``: all sums are exact, and membranes meet thresholds.

    ``native``: only what from_nest reads as it was said: no >, a gain of NEST, a diagonal of zeros.
    """

    def __init__(self, seed: int, dyadic: bool = False, native: bool = False) -> None:
        self.rng, self.dyadic, self.native = np.random.default_rng(seed), dyadic, native

    def weights(self, *shape: int, scale: float = 0.5) -> Any:
        values = self.rng.normal(0.1, scale, shape)
        return np.round(values / GRID) * GRID if self.dyadic else values

    def decay(self, n: int) -> Any:
        if self.dyadic:
            return _pick(self.rng, 0.0, 0.5, 1.0)
        one = _pick(self.rng, 0.0, 1.0, float(np.exp(-1 / 20)), 0.8)
        many = np.exp(-1 / self.rng.uniform(3, 30, n))
        return _pick(self.rng, one, many) if all(find_tau(float(d), 1.0) for d in many) else one

    def dynamics(self, n: int) -> Dynamics:
        rng = self.rng
        decay, threshold = self.decay(n), _pick(rng, 0.5, 0.75)
        silent = _pick(rng, 0, 0, 3, rng.integers(0, 4, n))
        if rng.random() < 0.5:
            reset: Any = ResetToValue(_pick(rng, 0.0, -0.125))
            refractory = Refractory(silent, frozen=True)
            adaptation = None
            if not self.native:
                reset = reset.replace(when=_pick(rng, *When))
            if rng.random() < 0.35:
                return self.current_based(n, decay, threshold, reset, refractory)
        else:
            reset = _pick(rng, SubtractThreshold(), SubtractThreshold(When.SAME_STEP), NoReset())
            if np.all(np.equal(decay, 0) | np.equal(decay, 1)):  # then some of them mean the same
                reset = SubtractThreshold()
            refractory = Refractory(silent)
            adaptation = _pick(rng, None, Adaptation(0.5 if self.dyadic else 0.9, 0.25))
        gain = _pick(rng, 1.0, 1.0, 0.5)
        if self.native:
            plain = isinstance(reset, SubtractThreshold) and reset.when is When.NEXT_AFTER_INPUT
            gain = (
                1 - decay
                if plain and not np.all(np.equal(decay, 0)) and np.all(np.not_equal(decay, 1)) and rng.random() < 0.3
                else 1.0
            )
        starts = isinstance(gain, float) and gain in (0.5, 1.0)
        return Dynamics(
            decay,
            threshold,
            gain,
            rest=_pick(rng, 0.0, 0.0, -0.25) if starts and (reset != SubtractThreshold() or not self.native) else 0.0,
            v_init=_pick(rng, 0.0, 0.25) if starts else 0.0,
            comparison=Comparison.GREATER_EQUAL if self.native else _pick(rng, *Comparison),
            reset=reset,
            refractory=refractory,
            adaptation=adaptation,
        )

    def current_based(self, n: int, decay: Any, threshold: float, reset: Reset, refractory: Refractory) -> Dynamics:
        rng = self.rng
        synapse = Synapse(0.5 if self.dyadic else _pick(rng, 0.6, 0.9), 1.0 if self.native else 0.5)
        gain = 0.5 if self.dyadic or self.native else _pick(rng, 0.3, 1.0, -0.5)
        how = Comparison.GREATER_EQUAL if self.native else _pick(rng, *Comparison)
        rest = _pick(rng, 0.0, -0.25)
        return Dynamics(decay, threshold, gain, rest, rest, how, reset, refractory, None, synapse)

    def recurrence(self, n: int, shortest: int) -> Recurrence | None:
        delay = int(self.rng.integers(shortest, 4))
        matrix, kind = self.weights(n, n, scale=0.3), self.rng.integers(4)
        if kind == 2 and self.native:
            np.fill_diagonal(matrix, 0)
        choices = (None, Recurrence(matrix, delay), Recurrence(matrix, delay, True), Recurrence(matrix[0], delay))
        return choices[kind]

    def network(self) -> Network:
        rng = self.rng
        n_in, n, m = (int(rng.integers(2, 6)) for _ in range(3))
        bias = [_pick(rng, None, self.weights(k, scale=0.1)) for k in (n, m, n)]
        low, high = self.dynamics(n), self.dynamics(m)
        shortest = [1 if d.synapse is None else 2 for d in (low, high)]
        slow = Readout(0.5, 0.5, 0.25, 0.25, Synapse(_pick(rng, 0.0, 0.5)))
        layers: dict[str, Layer] = {
            "x": Input((n_in,)),
            "in": Linear(self.weights(n_in, n), bias[0]),
            "hidden": Spiking(low, self.recurrence(n, shortest[0])),
            "up": Linear(self.weights(n, m), bias[1]),
            "top": Spiking(high, self.recurrence(m, shortest[1])),
            "skip": Linear(self.weights(n_in, m)),
            "out": Linear(self.weights(m, 2)),
            "y": Readout(self.decay(2), rest=_pick(rng, 0.0, 0.25), v_init=0.25),
            "z": _pick(rng, Readout(self.decay(m)), slow),
        }
        delays = rng.integers(0, 3, 6).tolist()
        edges = [Edge("x", "in", delays[0]), Edge("in", "hidden", delays[1]), Edge("hidden", "up", delays[2])]
        edges += [Edge("up", "top"), Edge("x", "skip", delays[3]), Edge("skip", "top"), Edge("top", "out")]
        edges += [Edge("out", "y", delays[4]), Edge("top", "z", delays[5])]
        return Network(layers, tuple(edges), _pick(rng, 1.0, 0.1, 1 / 3))

    def inputs(self, network: Network, batch: int = 2, steps: int = 25) -> Tensor:
        shape = (batch, steps, *network.shapes["x"])
        values = (self.rng.random(shape) < 0.35) * _pick(self.rng, 1.0, self.weights(*shape))
        return torch.tensor(values, dtype=torch.float64)
