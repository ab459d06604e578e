"""Read networks from snnTorch modules made of torch's layers and snnTorch's neurons.

    module                                       layer
    nn.Linear, nn.Conv1d/2d, nn.Flatten          Linear, Conv, Flatten
    nn.AvgPool1d/2d, nn.MaxPool1d/2d             Pool
    Leaky, RLeaky, Synaptic, RSynaptic, Lapicque Spiking, as ``snntorch_neurons`` reads it
      with an infinite threshold and no reset    Readout; so are those named in ``readouts``
    nn.Identity, nn.Dropout out of training      none

Which layer reads which: an ``nn.Sequential`` is a chain, and ``SpikingModule`` tells its edges. A class with a
``forward`` of its own is called once and followed (``snntorch_following``): with ``example`` if there is one, else with
zeros of the shapes that its layers take. What its caller does with its states and outputs is not seen.

Every run starts at zero; what a neuron holds at the moment is not part of the network. A recurrent bias, which a
network does not have, becomes the bias of the linear layer before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ovonic.adapters.snntorch_building import SpikingModule
from ovonic.adapters.snntorch_cells import STATES, Cell, load
from ovonic.adapters.snntorch_graphs import SKIPPED, Graph, read_graph, type_of
from ovonic.adapters.snntorch_neurons import read_neuron
from ovonic.adapters.torch_layers import READERS, read_layer, refuse_layer
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.layers import Input, Layer, Linear, Readout, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["from_snntorch"]

Shape = tuple[int, ...]
Array = NDArray[np.float64]


def from_snntorch(
    module: nn.Module,
    input_shape: Sequence[int] | None = None,
    readouts: Sequence[str] = (),
    dt_ms: float | None = None,
    example: Any = None,
) -> Network:
    """The network of a snnTorch module (see above).

    Args:
        input_shape: of what comes from outside in a step, without batch; needed where the first layer leaves it open.
        readouts: names of neurons whose membrane is what is used of them: they must not reset.
        dt_ms: duration of a step, which snnTorch does not know; None is the module's own ``dt_ms``, or 1.
        example: what to call a module of a class of its own with, one argument or a tuple of them.
    Raises: UnsupportedDynamics: layer, feature and remedy, where a network cannot say what the module does or the
        module leaves open what it does; ConfigError: numbers or shapes that make no network.
    """
    neurons = {kind: getattr(load(), kind) for kind in STATES}
    if isinstance(module, SpikingModule):
        graph = Graph({name: module[name] for name in module.keys}, list(module.edges), dict(module.inputs))
        dt_ms = module.dt_ms if dt_ms is None else dt_ms
    else:
        graph = read_graph(module, [*READERS, *neurons.values()], input_shape, example)
    layers, edges = graph.layers, graph.edges
    for name in readouts:
        if name not in layers:
            raise ConfigError(f"readouts: {name!r}: {nearest(name, layers)}")
    found: dict[str, Layer] = {name: Input(shape) for name, shape in graph.inputs.items()}
    shapes: dict[str, Shape] = dict(graph.inputs)
    for name, part in layers.items():
        for source in [edge.source for edge in edges if edge.target == name]:
            _uses(name, source, found[source], graph.parts.get((source, name)))
        try:
            shape = Layer().arrives({str(edge): shapes[edge.source] for edge in edges if edge.target == name})
            layer, bias = _read(name, part, shape, name in readouts, neurons)
            shapes[name] = layer.gives(shape)
        except ConfigError as error:
            raise ConfigError(f"layer {name!r}: {error}") from None
        found[name] = layer
        if bias is not None:
            edges = _with_bias(name, bias, found, edges)
    return Network(found, tuple(edges), 1.0 if dt_ms is None else dt_ms)


def _uses(name: str, source: str, layer: Layer, part: str | None) -> None:
    """Refuse a layer that reads something else of a neuron than what it gives in a network."""
    given = {Spiking: "spk", Readout: "mem"}.get(type(layer))
    if part and given and part != given:
        remedy = f"name {source!r} in readouts" if part == "mem" else ""
        refuse_layer(name, f"it reads the {part} of {source!r}, which gives its {given} in a network", remedy)


def _names(neurons: dict[str, type]) -> list[str]:
    return [*neurons, *(kind.__name__ for kind in (*READERS, *SKIPPED))]


def _with_bias(name: str, bias: Array, found: dict[str, Layer], edges: list[Edge]) -> list[Edge]:
    """Put a recurrent bias, which acts in every step, into the only linear layer before, or into one of its own."""
    into = [edge for edge in edges if edge.target == name]
    source = into[0].source
    before = found[source]
    if len(into) == 1 and isinstance(before, Linear) and sum(edge.source == source for edge in edges) == 1:
        found[source] = before.replace(bias=bias if before.bias is None else before.bias + bias)
        return edges
    own = f"{name}_bias"
    while own in found:
        own += "_"
    found[own] = Linear(np.eye(len(bias)), bias)
    return [edge._replace(target=own) if edge.target == name else edge for edge in edges] + [Edge(own, name)]


def _read(
    name: str, part: nn.Module, shape: Shape, readout: bool, neurons: dict[str, type]
) -> tuple[Layer, Array | None]:
    """The layer, and the recurrent bias if there is one."""
    if isinstance(part, Cell) or type_of(part) in neurons.values():
        return read_neuron(name, part, shape, readout)
    if readout:
        raise ConfigError(f"readouts: a {type(part).__name__} has no membrane")
    kind = type_of(part)
    if kind in READERS:
        return read_layer(name, part), None
    for known in (*neurons.values(), *READERS):
        if isinstance(part, known):
            refuse_layer(name, f"{kind.__name__} is a subclass of {known.__name__} and may do otherwise")
    refuse_layer(name, f"{kind.__name__} has no meaning here", f"known are {', '.join(_names(neurons))}")
