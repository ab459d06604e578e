"""Build a network from Norse's modules and torch's layers: a module that Norse users train as theirs.

    layer of the network                      module
    Linear, Conv, Pool, Flatten               as ``torch_layers`` has them
    Spiking that a module of Norse says       LIFBoxCell, LIFCell, LIFRefracCell, IAFCell
    Readout that a module of Norse says       LIBoxCell, LICell
    all other                                 ``Cell``, ``Integrator`` of Norse's functions

**Norse's own modules** are taken where they read back as the layer itself, to the last bit (``norse_neurons``), and
where one number holds for all neurons: neither ``.to`` nor a ``state_dict`` moves the tensors of their parameters.

Traps of Norse 1.1.0 that are avoided: its parameters default to float32, dt to 1 ms; ``autapses=False`` zeroes the
diagonal of the tensor it is given; LIFRecurrentCell has a synaptic filter; LIFRefrac freezes the membrane.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ovonic.adapters.norse_cells import Cell, Integrator, load
from ovonic.adapters.norse_neurons import METHODS, Part, read_neuron
from ovonic.adapters.torch_layers import build_layer
from ovonic.models.dynamics import Comparison, ResetToValue, SubtractThreshold, When
from ovonic.models.errors import ConfigError, OvonicError
from ovonic.models.layers import Input, Readout, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["SpikingModule", "State", "build"]


class State(NamedTuple):
    """A module's state: of every neuron layer, as its module returns it; what delayed edges wait for, newest first."""

    neurons: Mapping[str, Any]
    past: Mapping[str, tuple[Tensor, ...]]


class SpikingModule(nn.Module):
    """A network of Norse modules; called once a step.

        state = None
        for x in inputs.unbind(1):
            y, state = net(x, state)            # y["hidden"]: spikes; y["out"]: the membrane of a read-out

    Attributes:
        layers: the modules, a ``ModuleDict``; keys: layer's name -> its key there ("train" cannot be one: "train_").
        inputs: name -> shape of what comes from outside.
        edges: who reads whom, with which delay.
        dt_ms: duration of a step.
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
        stateful = (Cell, Integrator, load().torch.module.snn.SNNCell)
        self._stateful = {name for name, layer in layers.items() if isinstance(layer, stateful)}
        self._into = {name: [edge for edge in self.edges if edge.target == name] for name in layers}
        self._longest: dict[str, int] = {}
        for source, _, delay in self.edges:
            self._longest[source] = max(delay, self._longest.get(source, 0))

    def __getitem__(self, name: str) -> nn.Module:
        return self.layers[self.keys[name]]

    def forward(self, x: Tensor | Mapping[str, Tensor], state: State | None = None) -> tuple[dict[str, Tensor], State]:
        """One step: inputs [B, *shape], by name if several -> what each layer gives, by name, and the state.

        Raises: ConfigError: one tensor for several inputs.
        """
        if isinstance(x, Tensor):
            if len(self.inputs) != 1:
                names = ", ".join(self.inputs)
                raise ConfigError(f"the module has {len(self.inputs)} inputs: give them by name: {names}")
            x = dict.fromkeys(self.inputs, x)
        before = State({}, {}) if state is None else state
        values, neurons = dict(x), dict[str, Any]()
        for name, key in self.keys.items():
            current = functools.reduce(torch.add, (self._arriving(edge, values, before) for edge in self._into[name]))
            if name in self._stateful:
                values[name], neurons[name] = self.layers[key](current, before.neurons.get(name))
            else:
                values[name] = self.layers[key](current)
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


def build(network: Network, method: str, alpha: float, dtype: torch.dtype, stock: bool = True) -> SpikingModule:
    """``adapters.norse.to_norse``; nothing is drawn at random.

    Args:
        stock: take Norse's own modules where they say a layer exactly; otherwise cells everywhere.
    """
    load()
    if method not in METHODS:
        raise ConfigError(f"method {method!r}: choose one of {', '.join(map(repr, METHODS))}")
    number = functools.partial(torch.tensor, dtype=dtype)
    modules: dict[str, nn.Module] = {}
    for name, layer in network.layers.items():
        if isinstance(layer, (Spiking, Readout)):
            seconds = network.dt_ms / 1000
            own = _own(layer, network.shapes[name], seconds, method, alpha, dtype) if stock else None
            modules[name] = own or _cell(layer, number, method, alpha)
        elif not isinstance(layer, Input):
            modules[name] = build_layer(layer, number)
    inputs = {name: network.shapes[name] for name in network.inputs}
    return SpikingModule(inputs, modules, network.edges, network.dt_ms)


def _cell(layer: Spiking | Readout, number: Callable[[Any], Tensor], method: str, alpha: float) -> nn.Module:
    if isinstance(layer, Spiking):
        return Cell(layer, number, method, alpha)
    return Integrator(layer, number)


def _own(
    layer: Spiking | Readout, shape: tuple[int, ...], dt: float, method: str, alpha: float, dtype: torch.dtype
) -> nn.Module | None:
    """Norse's own module for a layer, None if there is none; judged in float64, whatever the dtype."""

    def made(dtype: torch.dtype) -> nn.Module | None:
        number = functools.partial(torch.tensor, dtype=dtype)
        if isinstance(layer, Spiking):
            return _own_spiking(layer, number, dt, method, alpha)
        return _own_readout(layer, number, dt)

    arrays: list[Any] = []
    layer.map_arrays(arrays.append)
    candidate = None if arrays else made(torch.float64)
    if candidate is None:
        return None
    try:
        read = read_neuron("", candidate, shape)
        same = [part._replace(layer=part.layer.fitted(shape)) for part in read] == [Part("", layer)]
    except OvonicError:
        return None
    return made(dtype) if same else None


def _own_spiking(
    layer: Spiking, number: Callable[[Any], Tensor], dt: float, method: str, alpha: float
) -> nn.Module | None:
    norse, d = load().torch, layer.dynamics
    value = isinstance(d.reset, ResetToValue) and d.reset.when is When.SAME_STEP
    if layer.recurrence or d.adaptation or d.comparison is not Comparison.GREATER:
        return None
    fires: dict[str, Any] = {"v_th": number(d.threshold), "method": method, "alpha": number(alpha)}
    fires["v_reset"] = number(d.reset.v_reset if isinstance(d.reset, ResetToValue) else 0.0)
    made: nn.Module | None = None
    if d.decay == 1 and value:
        made = norse.IAFCell(norse.IAFParameters(**fires), dt)
    membrane = {"tau_mem_inv": number(_rate(d.gain, dt)), "v_leak": number(d.rest)}
    if d.decay != 1 and d.synapse is None and (value or d.reset == SubtractThreshold(When.SAME_STEP)):
        reset = norse.reset_value if value else norse.reset_subtract
        made = norse.LIFBoxCell(norse.LIFBoxParameters(**membrane, **fires, reset_method=reset), dt)
    if d.decay != 1 and d.synapse is not None and value:
        synapse = number(_rate(1 - d.synapse.decay, dt))
        lif = norse.LIFParameters(tau_syn_inv=synapse, **membrane, **fires)
        made = norse.LIFCell(lif, dt=dt)
        if d.refractory.frozen:
            made = norse.LIFRefracCell(norse.LIFRefracParameters(lif, number(float(d.refractory.silent_steps))), dt=dt)
    return made


def _own_readout(layer: Readout, number: Callable[[Any], Tensor], dt: float) -> nn.Module:
    norse = load().torch
    membrane = {"tau_mem_inv": number(_rate(layer.gain, dt)), "v_leak": number(layer.rest)}
    if layer.synapse is None:
        box: nn.Module = norse.LIBoxCell(norse.LIBoxParameters(**membrane), dt=dt)
        return box
    synapse = number(_rate(1 - layer.synapse.decay, dt))
    made: nn.Module = norse.LICell(norse.LIParameters(tau_syn_inv=synapse, **membrane), dt=dt)
    return made


def _rate(leak: Any, dt: float) -> float:
    """A rate r with dt r = leak to the last bit, if there is one."""
    rate = leak / dt
    near = (rate, math.nextafter(rate, -math.inf), math.nextafter(rate, math.inf))
    return next((r for r in near if dt * r == leak), rate)
