"""Build a network from snnTorch's own neurons and torch's layers: a module that snnTorch users train as theirs.

    layer of the network                      module
    Linear, Conv, Pool, Flatten               nn.Linear, nn.Conv1d/2d, nn.AvgPool1d/2d, nn.MaxPool1d/2d, nn.Flatten
    Spiking                                   Leaky; Synaptic with a synapse; RLeaky, RSynaptic with recurrence
      what their resets say (``meaning``)     the neuron itself
      all else                                ``Cell`` around the neuron, whose own reset is then off
    Readout                                   the same with an infinite threshold: it never spikes
    Recurrence.masked_diagonal                the parametrization ``Hollow`` of the recurrent weights

Traps of snnTorch 1.0.0 that are avoided: a Python float becomes a float32 buffer, its surrogates return float32 spikes,
a recurrent bias starts at random, and its resets follow the membrane, not the spike that a mask let through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.snntorch_cells import MECHANISMS, Cell, Spike, is_bare, load, meaning, states_of, step
from ovonic.adapters.torch_layers import Hollow, build_layer
from ovonic.models.dynamics import Refractory
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Layer, Readout, Recurrence, Spiking
from ovonic.models.lif import LIFState
from ovonic.models.network import Edge, Network

__all__ = ["SpikingModule", "State", "build", "cell", "integrator"]


class State(NamedTuple):
    """A module's state: of every neuron layer, and what delayed edges still wait for, newest first."""

    neurons: Mapping[str, LIFState]
    past: Mapping[str, tuple[Tensor, ...]]


class SpikingModule(nn.Module):
    """A network of snnTorch neurons; called once a step.

        state = None
        for x in inputs.unbind(1):
            y, state = net(x, state)            # y["hidden"]: spikes; y["out"]: the membrane of a read-out

    Attributes:
        layers: the modules, a ``ModuleDict``; keys: layer's name -> its key there ("train" cannot be one: "train_").
        inputs: name -> shape of what comes from outside; neurons: the layers of neurons; readouts: those of them that
            give their membrane.
        edges: who reads whom, with which delay.
        dt_ms: duration of a step; snnTorch does not use it.
    """

    def __init__(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        layers: Mapping[str, nn.Module],
        edges: Iterable[Edge],
        dt_ms: float = 1.0,
    ) -> None:
        super().__init__()
        self.inputs, self.edges, self.dt_ms = dict(inputs), tuple(edges), dt_ms
        self.layers = nn.ModuleDict()
        self.keys: dict[str, str] = {}
        for name, layer in layers.items():
            key = name
            while hasattr(self.layers, key):
                key += "_"
            self.keys[name] = key
            self.layers[key] = layer
        self.neurons = {name for name in layers if _neuron_of(layers[name]) is not None}
        self.readouts = {name for name in self.neurons if torch.isinf(_neuron_of(layers[name]).threshold).all()}
        self._into = {name: [edge for edge in self.edges if edge.target == name] for name in layers}
        self._longest: dict[str, int] = {}
        for source, _, delay in self.edges:
            self._longest[source] = max(delay, self._longest.get(source, 0))

    def __getitem__(self, name: str) -> nn.Module:
        return self.layers[self.keys[name]]

    def forward(self, x: Tensor | Mapping[str, Tensor], state: State | None = None) -> tuple[dict[str, Tensor], State]:
        """One step: inputs [B, *shape], by name if several -> what each layer gives, by name, and the state."""
        if isinstance(x, Tensor):
            if len(self.inputs) != 1:
                raise ConfigError(
                    f"the module has {len(self.inputs)} inputs: give them by name: {', '.join(self.inputs)}"
                )
            x = dict.fromkeys(self.inputs, x)
        before = State({}, {}) if state is None else state
        values, neurons = dict(x), dict[str, LIFState]()
        for name, key in self.keys.items():
            current = functools.reduce(torch.add, (self._arriving(edge, values, before) for edge in self._into[name]))
            layer = self.layers[key]
            if name not in self.neurons:
                values[name] = layer(current)
                continue
            z, neurons[name] = step(layer, current, before.neurons.get(name))
            values[name] = neurons[name].v if name in self.readouts else z
        past = {
            name: (values[name], *before.past.get(name, ()))[:longest]
            for name, longest in self._longest.items()
            if longest
        }
        return values, State(neurons, past)

    @staticmethod
    def _arriving(edge: Edge, values: Mapping[str, Tensor], before: State) -> Tensor:
        if edge.delay == 0:
            return values[edge.source]
        past = before.past.get(edge.source, ())
        return past[edge.delay - 1] if len(past) >= edge.delay else torch.zeros_like(values[edge.source])


def build(network: Network, spike_grad: Callable[[Tensor], Tensor] | None, dtype: torch.dtype) -> SpikingModule:
    """``adapters.snntorch.to_snntorch``; it leaves torch's generator as it was."""
    snn = load()
    surrogate = snn.surrogate.atan() if spike_grad is None else spike_grad
    number = functools.partial(torch.tensor, dtype=dtype)
    modules = {}
    with torch.random.fork_rng(devices=[]):
        for name, layer in network.layers.items():
            if not isinstance(layer, Input):
                modules[name] = _module(layer, snn, number, surrogate)
        inputs = {name: network.shapes[name] for name in network.inputs}
        return SpikingModule(inputs, modules, network.edges, network.dt_ms).to(dtype)


def _module(layer: Layer, snn: Any, number: Callable[[Any], Tensor], surrogate: Any) -> Any:
    if isinstance(layer, Spiking):
        return _spiking(layer, snn, number, surrogate)
    if isinstance(layer, Readout):
        return integrator(layer, number, surrogate)
    return build_layer(layer, number)


def _spiking(layer: Spiking, snn: Any, number: Callable[[Any], Tensor], surrogate: Any) -> Any:
    d, recurrence = layer.dynamics, layer.recurrence
    values = dict(d.items())
    spike_grad = Spike(surrogate, d.comparison)
    kind = _kind(d.synapse is not None, recurrence is not None)
    own = [how for how in MECHANISMS if meaning(kind, *how) == d.reset]
    bare = is_bare(values) and d.refractory == Refractory() and d.adaptation is None
    if bare and own and (recurrence is None or recurrence.delay == 1):
        return _neuron(snn, number, spike_grad, values, recurrence, *own[0])
    return cell(layer, number, surrogate)


def cell(layer: Spiking, number: Callable[[Any], Tensor], surrogate: Callable[[Tensor], Tensor]) -> Cell:
    """Any spiking layer as a ``Cell``; number: makes tensors of constants and weights."""
    values, recurrence = dict(layer.dynamics.items()), layer.recurrence
    neuron = _neuron(load(), number, Spike(surrogate, layer.dynamics.comparison), values, recurrence, "none", True)
    return Cell(neuron, number, values, 1 if recurrence is None else recurrence.delay)


def integrator(layer: Readout, number: Callable[[Any], Tensor], surrogate: Callable[[Tensor], Tensor]) -> nn.Module:
    """A leaky read-out: a neuron, or a ``Cell``, that never spikes."""
    values = dict(layer.items())
    neuron: nn.Module = _neuron(load(), number, Spike(surrogate), values | {"threshold": np.inf}, None, "none", True)
    return neuron if is_bare(values) else Cell(neuron, number, values)


def _neuron(
    snn: Any,
    number: Callable[[Any], Tensor],
    spike_grad: Spike,
    values: Mapping[str, Any],
    recurrence: Recurrence | None,
    mechanism: str,
    reset_delay: bool,
) -> Any:
    options: dict[str, Any] = {"beta": number(values["decay"]), "threshold": number(values["threshold"])}
    options |= {"spike_grad": spike_grad, "reset_mechanism": mechanism, "reset_delay": reset_delay}
    if values["synapse"] is not None:
        options["alpha"] = number(values["synapse"].decay)
    if recurrence is not None and recurrence.weight.ndim == 1:
        options |= {"all_to_all": False, "V": number(recurrence.weight)}
    elif recurrence is not None:
        options["linear_features"] = len(recurrence.weight)
    made = getattr(snn, _kind(values["synapse"] is not None, recurrence is not None))(**options)
    if recurrence is not None and recurrence.weight.ndim == 2:
        made.recurrent.weight = nn.Parameter(number(recurrence.weight.T))
        made.recurrent.bias = None
        if recurrence.masked_diagonal:
            parametrize.register_parametrization(made.recurrent, "weight", Hollow())
    return made


def _kind(synapse: bool, recurrent: bool) -> str:
    return ("R" if recurrent else "") + ("Synaptic" if synapse else "Leaky")


def _neuron_of(layer: nn.Module) -> Any:
    neuron = layer.neuron if isinstance(layer, Cell) else layer
    return neuron if states_of(neuron) else None
