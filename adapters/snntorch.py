"""snnTorch 1.0: run a network on its neurons, make a module of it that trains as theirs, read the modules people have.

    here                                     snnTorch's term                                   lost?
    decay, threshold, one or one a neuron    beta, threshold, as tensors of the run's dtype    no
    synapse.decay                            alpha of Synaptic, RSynaptic                      no
    Comparison                               ``spike_grad``: > as theirs, >= by ``Spike``      no
    Reset                                    reset_mechanism, reset_delay, or ``Cell``         no
    gain, rest, v_init, refractoriness,      ``Cell`` around the neuron                        no
      adaptation, recurrent delay
    Recurrence [n, n], masked diagonal       ``recurrent.weight`` [out, in], ``Hollow``        no
    Recurrence [n]                           V, ``all_to_all=False``                           no
    Readout                                  Leaky, Synaptic of infinite threshold             no
    dt_ms                                    none: an attribute, without effect                no

Spikes are those of ``models.simulation`` wherever no membrane is nearer to its threshold than the rounding of sums that
are taken in another order; with weights and constants whose sums are exact, always.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.snntorch_building import SpikingModule, build
from ovonic.adapters.snntorch_cells import Cell, load, step
from ovonic.adapters.snntorch_reading import from_snntorch
from ovonic.adapters.toolchains import Unsupported, refuse
from ovonic.models.dynamics import SubtractThresholdOnce
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Readout, Spiking
from ovonic.models.lif import LIFState
from ovonic.models.network import Network
from ovonic.models.simulation import delayed, inputs_by_name
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["from_snntorch", "run", "to_snntorch", "unsupported"]

KINDS = (Input, Linear, Conv, Pool, Flatten, Spiking, Readout)


def unsupported(network: Network) -> list[Unsupported]:
    """What snnTorch and torch cannot express exactly: layers of kinds that have no module."""
    return [
        Unsupported(name, type(layer).__name__, "no module for this kind of layer is known", "write it as other layers")
        for name, layer in network.layers.items()
        if not isinstance(layer, KINDS)
    ]


def to_snntorch(
    network: Network, spike_grad: Callable[[Tensor], Tensor] | None = None, dtype: torch.dtype = torch.float64
) -> SpikingModule:
    """The network as a module of snnTorch's neurons.

    Args:
        spike_grad: a surrogate of ``snntorch.surrogate``; None is snnTorch's default, ``atan()``.
        dtype: of weights and constants.
    Raises: UnsupportedDynamics: what ``unsupported`` lists; ToolchainError: snnTorch is missing.
    """
    refuse("snnTorch", unsupported(network))
    return build(network, spike_grad, dtype)


def run(network: Network, inputs: Tensor | Mapping[str, Tensor]) -> Trace:
    """Run a network on snnTorch's neurons from its initial state, without gradient.

    Args:
        inputs: [B, T, *shape] of a floating dtype, which is the run's; by name where the network has several.
    Returns: the trace. Membranes are what the neurons compared; refractory counters and adaptation are the ``Cell``'s.
    Raises: ConfigError: an input is missing, unknown, or of the wrong shape; and as ``to_snntorch``.
    """
    given = inputs_by_name(network, inputs)
    like = next(iter(given.values()))
    values, traces = dict(given), dict[str, LayerTrace]()
    module = to_snntorch(network, dtype=like.dtype).to(like.device)
    with _unlisted(module), torch.no_grad(), parametrize.cached():
        for name in module.keys:
            arriving = [delayed(values[edge.source], edge.delay) for edge in network.sources(name)]
            current = functools.reduce(torch.add, arriving)
            if name not in module.neurons:
                values[name] = module[name](current.flatten(0, 1)).unflatten(0, current.shape[:2])
            elif name in module.readouts:
                _, states = _unrolled(module[name], current)
                values[name] = torch.stack([state.v for state in states], 1)
            else:
                traces[name] = _traced(module[name], network.layers[name], current)
                values[name] = traces[name].spikes
    return Trace(traces, {name: values[name] for name in network.readouts}, given, network.dt_ms)


def _unrolled(layer: nn.Module, currents: Tensor) -> tuple[list[Tensor], list[LIFState]]:
    """The spikes and the states of a layer for what arrives, [B, T, *neurons], step by step."""
    state, spikes, states = None, [], []
    for current in currents.unbind(1):
        z, state = step(layer, current, state)
        spikes.append(z)
        states.append(state)
    return spikes, states


def _traced(neuron: nn.Module, layer: Any, currents: Tensor) -> LayerTrace:
    compared = _Compared(neuron, layer)
    spikes, states = _unrolled(neuron, currents)
    membrane = compared.membrane or [state.v for state in states]
    r, b = (_stacked([getattr(state, name) for state in states]) for name in ("r", "b"))
    return LayerTrace(torch.stack(spikes, 1), torch.stack(membrane, 1), None if r is None else r.to(torch.int16), b)


class _Compared:
    """What a neuron that resets in the same step hands to its ``fire``: the membrane before the reset.

    A ``Cell`` tells it by its state. Under ``SubtractThresholdOnce`` snnTorch has taken off a threshold that counts as
    part of the level here: it is put back.
    """

    def __init__(self, neuron: Any, layer: Any) -> None:
        self.neuron, self.membrane = neuron, list[Tensor]()
        self.once = isinstance(layer.dynamics.reset, SubtractThresholdOnce)
        if not isinstance(neuron, Cell):
            self.fire, neuron.fire = neuron.fire, self

    def __call__(self, membrane: Tensor) -> Tensor:
        taken = self.neuron.reset * self.neuron.threshold if self.once else 0
        self.membrane.append(membrane + taken)
        spikes: Tensor = self.fire(membrane)
        return spikes


@contextmanager
def _unlisted(module: nn.Module) -> Iterator[None]:
    """snnTorch lists every neuron ever made, for good; those of a run leave the list at its end."""
    listed = load().SpikingNeuron.instances
    ours = {id(part) for part in module.modules()}
    try:
        yield
    finally:
        listed[:] = [neuron for neuron in listed if id(neuron) not in ours]


def _stacked(values: list[Tensor | None]) -> Tensor | None:
    return None if values[0] is None else torch.stack([v for v in values if v is not None], 1)
