"""Norse as an engine: spiking layers and read-outs are cells of its functions, in autograd's hands.

here                     Norse's
spiking layer, read-out  ``Cell``, ``Integrator``: li_box_feed_forward_step, threshold, reset_subtract, reset_value
Triangular(height)       ``threshold((v - A) / (threshold - rest), "triangle", height)``, which has that very slope
another surrogate        its slope on the spikes of ``threshold(v - A, "heaviside")``
recurrent weights        a product added to what arrives: also of one matrix a sample
``Paths``                ``Cell.paths``
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ovonic.adapters.engines import Step, operations
from ovonic.adapters.norse_cells import Cell, Integrator, load
from ovonic.models import simulation
from ovonic.models.dynamics import Dynamics
from ovonic.models.layers import Readout, Spiking
from ovonic.models.lif import ALL_PATHS, LIFState, Paths
from ovonic.models.network import Network
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate, Triangular, straight_through
from ovonic.models.trace import Trace

__all__ = ["load", "run"]


def run(
    network: Network,
    inputs: Tensor | Mapping[str, Tensor],
    weights: Mapping[str, Tensor | simulation.Product] | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = ALL_PATHS,
) -> Trace:
    """``simulation.run`` on Norse's functions; arguments, result and errors are its own.

    Raises: ToolchainError: Norse is missing.
    """
    return simulation.run(network, inputs, weights, surrogate, paths, OPERATIONS)


def _neurons(
    dynamics: Dynamics, feed: simulation.Product | None, delay: int, surrogate: Surrogate, paths: Paths, like: Tensor
) -> Step:
    number = functools.partial(torch.tensor, dtype=like.dtype)
    cell = Cell(Spiking(dynamics), number).to(like.device)
    cell.delay, cell.paths = delay, paths
    cell.fire = _fire(surrogate, number(np.subtract(dynamics.threshold, dynamics.rest)).to(like.device))

    def step(x: Tensor, state: LIFState | None) -> tuple[Tensor, LIFState]:
        state = cell.initial_state(x) if state is None else state
        if feed is not None:
            x = x + feed(state.past[-1] if paths.recurrent else state.past[-1].detach())
        after: tuple[Tensor, LIFState] = cell(x, state)
        return after

    return step


def _fire(surrogate: Surrogate, scale: Tensor) -> Callable[[Tensor], Tensor]:
    threshold = load().threshold

    def triangle(x: Tensor) -> Tensor:
        spikes: Tensor = threshold(x / scale, "triangle", surrogate.height)  # type: ignore[attr-defined]
        return spikes

    def sloped(x: Tensor) -> Tensor:
        return straight_through(x, threshold(x, "heaviside", 0.0), surrogate(x.detach(), scale))

    return triangle if isinstance(surrogate, Triangular) else sloped


def _integrator(readout: Readout, like: Tensor) -> Step:
    return Integrator(readout, functools.partial(torch.tensor, dtype=like.dtype)).to(like.device)


OPERATIONS = operations(_neurons, _integrator)
