"""Read a NIR graph without Ovonic's contract as a network, under a convention that the caller names.

    NIR                                   layer
    Input                                 Input
    Linear, Affine; Scale                 Linear; a diagonal Linear, or a depthwise Conv over space
    Conv1d, Conv2d; AvgPool2d, SumPool2d  Conv; Pool
    Flatten                               Flatten
    LIF, IF, CubaLIF, Threshold           Spiking, by ``Convention.layer``; on a cycle with its recurrence
    LI, I, CubaLI                         Readout, likewise
    Delay, NIRGraph, Output               laid flat (``nir_flat``)

Graphs that nir refuses to type are mended where only one meaning is possible, and every mending is said: axes of batch
and time in front of a shape (Norse keeps them), single numbers for all neurons of a layer (Norse, snnTorch), dims of a
Flatten that count the batch, edges given twice, first nodes without an Input. All else is refused with the cause.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovonic.adapters.nir_conventions import NEURONS, Convention, NirEuler, NirExact
from ovonic.adapters.nir_cycles import Cycle, open_cycles
from ovonic.adapters.nir_flat import Flat, flatten
from ovonic.adapters.nir_graph import Graph, Node
from ovonic.adapters.nir_norse import Norse11, NorseExport, NorseImport
from ovonic.adapters.nir_shapes import Shape, demand, fits, ints, neurons
from ovonic.adapters.nir_snntorch import Snntorch10
from ovonic.models.dynamics import Reset
from ovonic.models.errors import ConfigError, DataError, nearest
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Pool, Pooling, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["CONVENTIONS", "NirReading", "read_by_convention"]

CONVENTIONS: dict[str, Convention] = {
    convention.name: convention
    for convention in (NirExact(), NirEuler(), Snntorch10(), Norse11(), NorseExport(), NorseImport())
}
"""The conventions by name."""

LARGEST_SCALE = 4096
"""Neurons of a flat Scale node, which becomes a matrix."""


@dataclass(frozen=True)
class NirReading:
    """What was read.

    Attributes:
        network: the network.
        mended: what was put right in the graph, in words; nothing was where nir itself types it.
        convention: the convention that it was read by; None: its own contract.
    """

    network: Network
    mended: tuple[str, ...] = ()
    convention: Convention | None = None


def read_by_convention(
    graph: Graph, convention: str | None, reset: str | Reset | None, dt_ms: float | None
) -> NirReading:
    """The network of a graph under a convention (the module's text; ``nir_conventions``).

    Raises: DataError: no convention is told; something that neither file nor convention says is not told; a graph that
        is no network, or hostile. The node is named. ConfigError: an unknown convention or reset.
    """
    if convention is None:
        raise DataError(
            "a NIR graph without Ovonic's contract: NIR leaves open its time step, its resets and its delays: tell the "
            f"convention (--convention), one of {', '.join(CONVENTIONS)}"
        )
    if convention not in CONVENTIONS:
        raise ConfigError(f"convention {convention!r}: {nearest(convention, CONVENTIONS)}")
    told = CONVENTIONS[convention].told(reset, dt_ms)
    _check_kinds(graph, told)
    assert told.dt_ms is not None
    flat = flatten(graph, told.dt_ms)
    told = told.settled(flat.nodes, graph.version)
    flat, cycles = open_cycles(flat)
    try:
        return _Building(flat, cycles, told).reading()
    except ConfigError as error:
        raise DataError(str(error)) from error


def _check_kinds(graph: Graph, convention: Convention, path: str = "") -> None:
    for name, node in graph.nodes.items():
        if isinstance(node, Graph):
            _check_kinds(node, convention, f"{path}{name}.")
        elif node.kind not in convention.kinds:
            raise DataError(
                f"node {path + name!r}: a {node.kind}: {convention.versions} neither writes nor reads one: the graph "
                "follows another convention, such as nir-exact"
            )


class _Building:
    """Makes layers in the order in which they read each other."""

    def __init__(self, flat: Flat, cycles: Mapping[str, Cycle], convention: Convention) -> None:
        self.flat, self.cycles, self.convention = flat, cycles, convention
        self.mended = list(flat.mended)
        self.names: dict[str, str] = {}
        for name in flat.nodes:
            self.names[name] = _fresh(_word(name), set(self.names.values()))
        self.layers: dict[str, Layer] = {}
        self.shapes: dict[str, Shape] = {}

    def reading(self) -> NirReading:
        reads: dict[str, list[str]] = {name: [] for name in self.flat.nodes}
        for link in self.flat.links:
            reads[link.target].append(link.source)
        for name in graphlib.TopologicalSorter(reads).static_order():
            try:
                layer = self.layer(name, reads[name])
                self.shapes[name] = layer.gives(self.arriving(name, reads[name], layer))
            except ConfigError as error:
                raise DataError(f"node {name!r}: {error}") from error
            self.layers[self.names[name]] = layer
        self.check_outputs()
        edges = [Edge(self.names[a], self.names[b], steps) for a, b, steps in self.flat.links]
        for name, cycle in self.cycles.items():
            if cycle.bias is not None:
                edges = self.with_bias(self.names[name], cycle.bias, edges)
        assert self.convention.dt_ms is not None
        network = Network(self.layers, tuple(edges), self.convention.dt_ms)
        return NirReading(network, tuple(self.mended), self.convention)

    def arriving(self, name: str, reads: list[str], layer: Layer) -> Shape:
        return layer.arrives({f"{source} -> {name}": self.shapes[source] for source in reads})

    def layer(self, name: str, reads: list[str]) -> Layer:
        node = self.flat.nodes[name]
        if node.kind == "Input":
            return Input(self.input_shape(name, node))
        shape = self.arriving(name, reads, Layer())
        if node.kind in NEURONS:
            return self.neuron(name, node, shape)
        if node.kind in ("Linear", "Affine"):
            weight = node["weight"]
            if weight.ndim != 2:
                raise DataError(f"node {name!r}: weight of shape {weight.shape}, not [out, in]")
            return Linear(weight.T, node.fields.get("bias"))
        if node.kind == "Scale":
            return _scale(name, node, shape)
        if node.kind == "Flatten":
            return self.flatten(name, node, shape)
        if node.kind.startswith("Conv"):
            return _conv(name, node, shape)
        return _pool(name, node)

    def input_shape(self, name: str, node: Node) -> Shape:
        shape, due = ints(f"node {name!r}: shape", node["shape"]), demand(name, self.flat.nodes, self.flat.links)
        if due is None or fits(shape, due):
            if not shape:
                raise DataError(f"node {name!r}: an Input without a shape, and nothing behind it tells one")
            return shape
        if not shape and None not in due:
            self.mended.append(f"node {name!r}: no shape: it is {due}, as the nodes behind it read")
            return tuple(n for n in due if n is not None)
        trailing = shape[len(shape) - len(due) :] if len(shape) > len(due) else ()
        if not fits(trailing, due):
            wanted = tuple("any" if n is None else n for n in due)
            raise DataError(f"node {name!r}: gives {shape}, and the nodes behind it read {wanted}")
        self.mended.append(f"node {name!r}: shape {shape} has axes of batch or time in front: it is {trailing}")
        return trailing

    def neuron(self, name: str, node: Node, shape: Shape) -> Layer:
        node, mended = neurons(name, node, shape)
        self.mended += [mended] if mended else []
        cycle = self.cycles.get(name)
        layer = self.convention.layer(name, node, shape, cycle is not None)
        if cycle is None:
            return layer
        recurrence = cycle.recurrence
        if recurrence.weight.shape == (1,):
            recurrence = recurrence.replace(weight=np.broadcast_to(recurrence.weight, shape))
        assert isinstance(layer, Spiking)
        return layer.replace(recurrence=recurrence)

    def flatten(self, name: str, node: Node, shape: Shape) -> Layer:
        start, end = (_axis(name, node, field) for field in ("start_dim", "end_dim"))
        axes = range(len(shape))[start : None if end == -1 else end + 1]
        if len(axes) == len(shape) or (len(axes) <= 1 and len(shape) == 1):
            return Flatten()
        if (start, end) == (1, -1) and demand(name, self.flat.nodes, self.flat.links) == (int(np.prod(shape)),):
            self.mended.append(f"node {name!r}: its dims {start}..{end} count a batch axis: it flattens all of {shape}")
            return Flatten()
        raise DataError(f"node {name!r}: flattens dims {start}..{end} of {shape}; a network flattens all or none")

    def check_outputs(self) -> None:
        for name, (shape, shown) in self.flat.outputs.items():
            given = self.shapes[shown]
            if shape and shape != given:
                if shape[-len(given) :] != given or len(shape) < len(given):
                    raise DataError(f"node {name!r}: shape {shape}, and {shown!r} gives {given}")
                self.mended.append(f"node {name!r}: shape {shape} has axes of batch or time in front: it is {given}")

    def with_bias(self, name: str, bias: Any, edges: list[Edge]) -> list[Edge]:
        """Put the constant input of a cycle into the only linear layer before it, or into one of its own."""
        into = [edge for edge in edges if edge.target == name]
        before = self.layers[into[0].source]
        alone = len(into) == 1 and sum(edge.source == into[0].source for edge in edges) == 1 and not into[0].delay
        if isinstance(before, Linear) and alone:
            self.layers[into[0].source] = before.replace(bias=bias if before.bias is None else before.bias + bias)
            return edges
        own = _fresh(f"{name}_bias", self.layers)
        self.layers[own] = Linear(np.eye(len(bias)), bias)
        return [edge._replace(target=own) if edge.target == name else edge for edge in edges] + [Edge(own, name)]


def _word(name: str) -> str:
    return "".join("_" if c in "./ " else c for c in name) or "node"


def _fresh(name: str, taken: Any) -> str:
    while name in taken:
        name += "_"
    return name


def _scale(name: str, node: Node, shape: Shape) -> Layer:
    try:
        scale = np.broadcast_to(np.asarray(node["scale"], np.float64), shape)
    except ValueError:
        raise DataError(f"node {name!r}: scale of shape {node['scale'].shape} for {shape}") from None
    if len(shape) == 1:
        if shape[0] > LARGEST_SCALE:
            raise DataError(f"node {name!r}: a Scale of {shape[0]} neurons; up to {LARGEST_SCALE} become a matrix")
        return Linear(np.diag(scale))
    flat = scale.reshape(shape[0], -1)
    if len(shape) > 3 or (flat != flat[:, :1]).any():
        raise DataError(f"node {name!r}: a Scale of {shape} that differs within a channel: fold it into the weights")
    return Conv(flat[:, :1].reshape(1, shape[0], *(1,) * (len(shape) - 1)), groups=shape[0])


def _conv(name: str, node: Node, shape: Shape) -> Layer:
    weight, axes = node["weight"], 2 if node.kind == "Conv2d" else 1
    if weight.ndim != 2 + axes:
        raise DataError(f"node {name!r}: weight of shape {weight.shape}, not [out, in / groups, window]")
    if "input_shape" in node.fields and ints(f"node {name!r}: input_shape", node["input_shape"]) != shape[1:]:
        given = np.ravel(node["input_shape"]).tolist()
        raise DataError(f"node {name!r}: input_shape {given}, and it reads {shape}")
    stride, dilation = (_sizes(name, node, field, most=axes) for field in ("stride", "dilation"))
    padding: tuple[int, ...] = (0,)
    if not isinstance(node["padding"], str):
        padding = _sizes(name, node, "padding", low=0, most=axes)
    elif node["padding"] == "same":
        reach = [d * (w - 1) for d, w in zip(dilation * (axes // len(dilation)), weight.shape[2:], strict=True)]
        if set(stride) != {1} or any(r % 2 for r in reach):
            raise DataError(f"node {name!r}: padding 'same' with stride {stride} or an even window: give it in numbers")
        padding = tuple(r // 2 for r in reach)
    elif node["padding"] != "valid":
        raise DataError(f"node {name!r}: padding {node['padding']!r}: 'same', 'valid' or numbers")
    (groups,) = _sizes(name, node, "groups", most=1)
    return Conv(np.swapaxes(weight, 0, 1), node["bias"], stride, padding, dilation, groups)


def _pool(name: str, node: Node) -> Layer:
    window, stride = (_sizes(name, node, field) for field in ("kernel_size", "stride"))
    how = Pooling.SUM if node.kind == "SumPool2d" else Pooling.MEAN
    window = window * 2 if len(window) == 1 else window
    return Pool(how, window, stride, _sizes(name, node, "padding", low=0))


def _axis(name: str, node: Node, field: str) -> int:
    """The number of an axis, from behind where it is negative."""
    found = ints(f"node {name!r}: {field}", node[field], low=-8)
    if len(found) != 1:
        raise DataError(f"node {name!r}: {field} holds {len(found)} numbers")
    return found[0]


def _sizes(name: str, node: Node, field: str, low: int = 1, most: int = 2) -> tuple[int, ...]:
    sizes = ints(f"node {name!r}: {field}", node[field], low)
    if not 1 <= len(sizes) <= most:
        raise DataError(f"node {name!r}: {field} holds {len(sizes)} numbers")
    return sizes
