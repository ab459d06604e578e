"""Engines by name: what runs the networks of a learning rule, ours or the neurons of a toolchain on torch.

    ovonic     ``models.engine``, with an adjoint that is written out
    snntorch   ``snntorch_engine``: snnTorch's Leaky, RLeaky, Synaptic, RSynaptic
    norse      ``norse_engine``: Norse's box step, its threshold and its resets

An engine is called as ``models.simulation.run`` is (``models.natural_eprop.Engine``): weights may be replaced, also by
one a sample, and gradients take the ``Paths`` asked for. On a toolchain every spiking layer and every read-out is
stepped by that toolchain's code and differentiated by autograd through it; the rules on top are those of ``models``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ovonic.models.dynamics import Dynamics
from ovonic.models.engine import run_fast
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.layers import Readout
from ovonic.models.lif import LIFState, Paths, product
from ovonic.models.natural_eprop import Engine
from ovonic.models.simulation import Operations, Product
from ovonic.models.surrogates import Surrogate
from ovonic.models.trace import LayerTrace

__all__ = ["BACKENDS", "Neurons", "Step", "engine", "operations"]

BACKENDS = ("ovonic", "snntorch", "norse")

Step = Callable[[Tensor, LIFState | None], tuple[Tensor, LIFState]]
"""What arrives [B, *neurons] and the state before (None: the initial one) -> what is given, and the state after."""


class Neurons(Protocol):
    """Makes a spiking layer of a toolchain's neurons.

    feed: what past spikes bring, z -> [B, *neurons], after ``delay`` steps; None without recurrence. like: a tensor of
    the run's dtype and device.
    """

    def __call__(
        self,
        dynamics: Dynamics,
        feed: Product | None,
        delay: int,
        surrogate: Surrogate,
        paths: Paths,
        like: Tensor,
    ) -> Step: ...


def engine(backend: str) -> Engine:
    """The engine of that name.

    Raises: ConfigError: there is none. ToolchainError: its toolchain is missing.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r}: {nearest(backend, BACKENDS)}")
    if backend == "ovonic":
        return run_fast
    module = importlib.import_module(f"ovonic.adapters.{backend}_engine")
    module.load()
    found: Engine = module.run
    return found


def operations(neurons: Neurons, integrator: Callable[[Readout, Tensor], Step]) -> Operations:
    """What ``simulation.run`` is made of, on a toolchain's neurons.

    Args: integrator: makes a read-out for a tensor of the run's dtype and device; its state's ``v`` is what it gives.
    """

    def unroll(
        currents: Tensor,
        dynamics: Dynamics,
        recurrent: Product | Tensor | None,
        delay: int,
        state: LIFState | None,
        surrogate: Surrogate,
        paths: Paths,
    ) -> tuple[LayerTrace, LIFState | None]:
        feed = functools.partial(product, weight=recurrent) if isinstance(recurrent, Tensor) else recurrent
        step = neurons(dynamics, feed, delay, surrogate, paths, currents)
        states = _unrolled(step, currents, state)
        spikes, membrane = torch.stack([s.past[0] for s in states], 1), torch.stack([s.v for s in states], 1)
        r, b = (_stacked([getattr(s, name) for s in states]) for name in ("r", "b"))
        return LayerTrace(spikes, membrane, None if r is None else r.to(torch.int16), b), states[-1]

    def integrate(currents: Tensor, readout: Readout) -> Tensor:
        return torch.stack([s.v for s in _unrolled(integrator(readout, currents), currents, None)], 1)

    return Operations(unroll, product, integrate)


def _unrolled(step: Step, currents: Tensor, state: LIFState | None) -> list[LIFState]:
    states = []
    for current in currents.unbind(1):
        _, state = step(current, state)
        states.append(state)
    return states


def _stacked(values: list[Any]) -> Tensor | None:
    return None if values[0] is None else torch.stack(values, 1)
