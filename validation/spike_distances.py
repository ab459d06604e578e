"""The distance of two runs' spike trains, by Elephant, over a bounded number of neurons.

Victor and Purpura 1997 (Network 8, 127): the least cost to make one train of the other, where adding or removing a
spike costs 1 and moving it by s costs s / (5 steps): spikes within ten steps of each other are moved.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ovonic.adapters.neo import spike_trains
from ovonic.models.errors import ToolchainError
from ovonic.models.trace import Trace

__all__ = ["MOST_TRAINS", "SHIFT_STEPS", "SpikeDistance", "victor_purpura"]

MOST_TRAINS = 24
"""Neurons of which trains are compared."""

SHIFT_STEPS = 5
"""A shift by so many steps costs as much as a spike."""


class SpikeDistance(NamedTuple):
    """The mean Victor-Purpura distance (spikes), over how many trains, at what cost of a shift (1/ms)."""

    mean: float
    trains: int
    cost_per_ms: float


def victor_purpura(a: Trace, b: Trace, most: int = MOST_TRAINS) -> SpikeDistance:
    """The mean distance of the trains of up to ``most`` neurons of a sample: those that differ most, before others.

    Raises: ToolchainError: Elephant is missing.
    """
    trains = {
        name: (layer.spikes.flatten(2).double(), b[name].spikes.flatten(2).double()) for name, layer in a.layers.items()
    }
    places = [
        (float(gap), name, sample, neuron)
        for name, (x, y) in trains.items()
        for sample, row in enumerate((x != y).sum(1))
        for neuron, gap in enumerate(row)
    ]
    places.sort(key=lambda place: -place[0])
    cost = 1 / (SHIFT_STEPS * a.dt_ms)
    distances = [
        _distance(trains[name][0][sample, :, neuron], trains[name][1][sample, :, neuron], a.dt_ms, cost) if gap else 0.0
        for gap, name, sample, neuron in places[:most]
    ]
    return SpikeDistance(sum(distances) / max(1, len(distances)), len(distances), cost)


def _distance(x: torch.Tensor, y: torch.Tensor, dt_ms: float, cost: float) -> float:
    try:
        from elephant.spike_train_dissimilarity import victor_purpura_distance
        from quantities import ms
    except ImportError as error:
        raise ToolchainError(f"Elephant is not installed ({error}): pip install 'ovonic[neo]'") from error
    both = spike_trains(torch.stack([x, y], 1), dt_ms)
    return float(victor_purpura_distance(both, cost_factor=cost / ms)[0, 1])
