"""Norse 1.1: run a network on its functions, make a module of it that trains as theirs, read the modules people have.

    here                                     Norse's term                                       lost?
    decay, gain of Norse's scale             1 - dt tau_mem_inv, dt tau_mem_inv                 no
    other gains, per-neuron numbers          ``Cell``, ``Integrator`` of Norse's functions      no
    threshold, rest, v_init                  v_th, v_leak, state.v                              no
    synapse                                  tau_syn_inv of LIFCell, or ``Cell``                no
    Comparison                               ``threshold``: > as theirs, >= by ``Cell``         no
    ResetToValue, SubtractThreshold          reset_value, reset_subtract where they act before
      in the same step                         the decay; all other resets by ``Cell``          no
    Refractory, frozen                       rho_reset of LIFRefracCell; others by ``Cell``     no
    Adaptation                               ``Cell``; of LSNN when reading                     no
    Recurrence [n, n], [n], masked diagonal  ``Cell.recurrent_weights`` [out, in]               no
    Readout                                  LICell, LIBoxCell, or ``Integrator``               no
    dt_ms                                    dt in seconds                                      no

Spikes are those of ``models.simulation`` wherever no membrane is nearer to its threshold than the rounding of its sums:
Norse computes v + (1 - decay)(rest - v + x) where we compute rest + decay (v - rest) + gain x. With weights and
constants whose sums are exact, always.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from ovonic.adapters.norse_building import SpikingModule, build
from ovonic.adapters.norse_cells import Cell, Integrator
from ovonic.adapters.norse_reading import from_norse
from ovonic.adapters.toolchains import Unsupported, refuse
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Readout, Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import delayed, inputs_by_name
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["from_norse", "run", "to_norse", "unsupported"]

KINDS = (Input, Linear, Conv, Pool, Flatten, Spiking, Readout)


def unsupported(network: Network) -> list[Unsupported]:
    """What Norse and torch cannot express exactly: layers of kinds that have no module."""
    return [
        Unsupported(name, type(layer).__name__, "no module for this kind of layer is known", "write it as other layers")
        for name, layer in network.layers.items()
        if not isinstance(layer, KINDS)
    ]


def to_norse(
    network: Network, method: str = "super", alpha: float = 100.0, dtype: torch.dtype = torch.float64
) -> SpikingModule:
    """The network as a module of Norse's neurons.

    Args:
        method, alpha: of the surrogate, as in Norse's parameters; these are its defaults.
        dtype: of weights and constants.
    Raises: UnsupportedDynamics: what ``unsupported`` lists; ToolchainError: Norse is missing; ConfigError: an unknown
        method.
    """
    refuse("Norse", unsupported(network))
    return build(network, method, alpha, dtype)


def run(network: Network, inputs: Tensor | Mapping[str, Tensor]) -> Trace:
    """Run a network on Norse's functions from its initial state, without gradient.

    Layers run one after the other, each over all of time, as Norse's own LIF, LSNN and Lift do.

    Args:
        inputs: [B, T, *shape] of a floating dtype, which is the run's; by name where the network has several.
    Returns: the trace. Membranes are what was compared; refractory counters and adaptation are the ``Cell``'s.
    Raises: ConfigError: an input is missing, unknown, or of the wrong shape; and as ``to_norse``.
    """
    given = inputs_by_name(network, inputs)
    like = next(iter(given.values()))
    refuse("Norse", unsupported(network))
    values, traces = dict(given), dict[str, LayerTrace]()
    with torch.no_grad(), parametrize.cached():
        module = build(network, "heaviside", 100.0, like.dtype, stock=False).to(like.device)
        for name in module.keys:
            arriving = [delayed(values[edge.source], edge.delay) for edge in network.sources(name)]
            current, layer = functools.reduce(torch.add, arriving), module[name]
            if isinstance(layer, Cell):
                traces[name] = _spikes(layer, current)
                values[name] = traces[name].spikes
            elif isinstance(layer, Integrator):
                values[name] = _membrane(layer, current)
            else:
                values[name] = layer(current.flatten(0, 1)).unflatten(0, current.shape[:2])
    return Trace(traces, {name: values[name] for name in network.readouts}, given, network.dt_ms)


def _spikes(cell: Cell, currents: Tensor) -> LayerTrace:
    cell.freeze()
    states: list[Any] = []
    for current in currents.unbind(1):
        states.append(cell.forward(current, states[-1] if states else None)[1])
    columns = [[s.past[0] for s in states], [s.v for s in states], [s.r for s in states], [s.b for s in states]]
    return LayerTrace(*(torch.stack(column, 1) for column in columns[:2]), *(_stacked(c) for c in columns[2:]))


def _membrane(integrator: Integrator, currents: Tensor) -> Tensor:
    integrator.freeze()
    potentials, state = list[Tensor](), None
    for current in currents.unbind(1):
        v, state = integrator.forward(current, state)
        potentials.append(v)
    return torch.stack(potentials, 1)


def _stacked(values: list[Any]) -> Tensor | None:
    return None if values[0] is None else torch.stack(values, 1)
