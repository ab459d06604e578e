"""snnTorch as an engine: spiking layers and read-outs are its neurons, in autograd's hands.

    here                          snnTorch's
    recurrent spiking layer       RLeaky, RSynaptic of ``reset_mechanism="none"`` in a ``Cell``
    without recurrence            Leaky, Synaptic, likewise
    read-out                      Leaky, Synaptic of an infinite threshold
    surrogate                     ``spike_grad``
    recurrent weights             a module in the place of ``recurrent``: also of one matrix a sample
    ``Paths``                     ``Cell.paths``

snnTorch's own reset detaches the spike; in a ``Cell`` the reset is fed as input, -A z, and may carry gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovonic.adapters.engines import Step, operations
from ovonic.adapters.snntorch_building import cell, integrator
from ovonic.adapters.snntorch_cells import Cell, load, step
from ovonic.models import simulation
from ovonic.models.dynamics import Comparison, Dynamics
from ovonic.models.layers import Readout, Recurrence, Spiking
from ovonic.models.lif import ALL_PATHS, LIFState, Paths
from ovonic.models.network import Network
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate, straight_through
from ovonic.models.trace import Trace

__all__ = ["SpikeGrad", "load", "run"]


def run(
    network: Network,
    inputs: Tensor | Mapping[str, Tensor],
    weights: Mapping[str, Tensor | simulation.Product] | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = ALL_PATHS,
) -> Trace:
    """``simulation.run`` on snnTorch's neurons; arguments, result and errors are its own.

    Raises: ToolchainError: snnTorch is missing.
    """
    return simulation.run(network, inputs, weights, surrogate, paths, OPERATIONS)


@dataclass(frozen=True)
class SpikeGrad:
    """A surrogate of ``models.surrogates`` as a neuron's ``spike_grad``: mem - threshold -> spikes with its slope.

    Attributes: scale: the threshold above rest.
    """

    surrogate: Surrogate
    scale: Any = 1.0
    comparison: Comparison = Comparison.GREATER

    def __call__(self, above: Tensor) -> Tensor:
        spikes: Tensor = self.comparison(above, 0).to(above.dtype)
        if not above.requires_grad:
            return spikes
        return straight_through(above, spikes, self.surrogate(above.detach(), self.scale))


class _Fed(nn.Module):
    """Stands in the place of a neuron's ``recurrent``."""

    def __init__(self, feed: simulation.Product, gain: Tensor | None) -> None:
        super().__init__()
        self.feed, self.gain = feed, gain

    def forward(self, z: Tensor) -> Tensor:
        fed = self.feed(z)
        return fed if self.gain is None else self.gain * fed


def _neurons(
    dynamics: Dynamics, feed: simulation.Product | None, delay: int, surrogate: Surrogate, paths: Paths, like: Tensor
) -> Step:
    number = functools.partial(torch.tensor, dtype=like.dtype)
    recurrence = None if feed is None else Recurrence(np.ones(like.shape[2:]).reshape(-1), delay)
    scale = number(np.subtract(dynamics.threshold, dynamics.rest)).to(like.device)
    made = cell(Spiking(dynamics, recurrence), number, SpikeGrad(surrogate, scale)).to(like.device)
    neuron: Any = made.neuron
    neuron.spike_grad = SpikeGrad(surrogate, scale, dynamics.comparison)
    if feed is not None:
        neuron.recurrent = _Fed(feed, None if made.gain is None else made.gain.total)
    made.paths = paths
    return _stepped(made, neuron)


def _integrator(readout: Readout, like: Tensor) -> Step:
    made = integrator(readout, functools.partial(torch.tensor, dtype=like.dtype), torch.zeros_like).to(like.device)
    return _stepped(made, made.neuron if isinstance(made, Cell) else made)


def _stepped(layer: nn.Module, neuron: Any) -> Step:
    """Off snnTorch's list of every neuron ever made, so that what a run built ends with it."""
    listed = load().SpikingNeuron.instances
    listed[:] = [other for other in listed if other is not neuron]

    def stepped(x: Tensor, state: LIFState | None) -> tuple[Tensor, LIFState]:
        return step(layer, x, state)

    return stepped


OPERATIONS = operations(_neurons, _integrator)
