"""A NIR graph as plain data: nodes by name with their fields as arrays, edges, metadata; from a file or from ``nir``.

Reading needs to see what ``nir`` hides: whether a file gave a field or ``nir`` filled it in, and a graph that ``nir``
refuses to type. Reference: the primitives of nir 1.0.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nir  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ovonic.models.errors import DataError, nearest

__all__ = ["FIELDS", "MAX_DEPTH", "MAX_EDGES", "MAX_NODES", "Graph", "Node", "as_graph", "leaf", "numbers"]

FIELDS: dict[str, tuple[str, ...]] = {
    "Input": ("shape",),
    "Output": ("shape",),
    "Linear": ("weight",),
    "Affine": ("weight", "bias"),
    "Scale": ("scale",),
    "Conv1d": ("input_shape?", "weight", "stride", "padding", "dilation", "groups", "bias"),
    "Conv2d": ("input_shape?", "weight", "stride", "padding", "dilation", "groups", "bias"),
    "AvgPool2d": ("kernel_size", "stride", "padding"),
    "SumPool2d": ("kernel_size", "stride", "padding"),
    "Flatten": ("input_type?", "start_dim", "end_dim"),
    "Delay": ("delay",),
    "Threshold": ("threshold",),
    "I": ("r",),
    "LI": ("tau", "r", "v_leak"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in?"),
    "IF": ("r", "v_threshold", "v_reset?"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset?"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset?", "w_in?"),
}
"""The fields of every node; a file may leave out those with a question mark."""

MAX_NODES, MAX_EDGES, MAX_DEPTH = 2_000, 20_000, 32
"""Nodes and edges of a graph with all its subgraphs, and how deep these may lie in each other."""


@dataclass(frozen=True)
class Node:
    """A node that is no graph: its type, and its fields as numbers (``padding`` may be a word)."""

    kind: str
    fields: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


@dataclass(frozen=True)
class Graph:
    """A graph; ``version`` is that of the nir that wrote its file, "" if it comes from memory."""

    nodes: Mapping[str, Node | Graph]
    edges: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""


def as_graph(graph: Any) -> Graph:
    """The plain data of a ``nir.NIRGraph``.

    Raises: DataError: no graph, or what is no node of nir 1.0.8 in it; the node is named.
    """
    if isinstance(graph, Graph):
        return graph
    if not isinstance(graph, nir.NIRGraph):
        raise DataError("no NIR graph")
    return _graph(graph, "", [0])


def leaf(where: str, kind: str, given: Mapping[str, Any], metadata: Mapping[str, Any]) -> Node:
    """A checked node from what a file or a ``nir`` object holds.

    Raises: DataError: an unknown type, or a field that is missing, unknown or holds no numbers.
    """
    if kind not in FIELDS:
        raise DataError(f"{where}: type {kind!r} is unknown to nir 1.0.8: {nearest(kind, [*FIELDS, 'NIRGraph'])}")
    names = {name.rstrip("?"): name.endswith("?") for name in FIELDS[kind]}
    if strange := sorted(given.keys() - names.keys()):
        raise DataError(f"{where}: a {kind} has no {strange[0]!r}: {nearest(strange[0], names)}")
    fields: dict[str, Any] = {}
    for name, optional in names.items():
        value = given.get(name)
        if value is None and not optional:
            raise DataError(f"{where}: {name} missing")
        if value is not None:
            word = name == "padding" and isinstance(value, str)
            fields[name] = value if word else numbers(f"{where}: {name}", value)
    return Node(kind, fields, metadata)


def numbers(where: str, value: Any) -> NDArray[Any]:
    """An array of numbers that float64 can keep, in their own type.

    Raises: DataError: something else.
    """
    try:
        array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: no numbers ({str(error).splitlines()[0]})") from error
    if array.size == 0 and array.dtype == np.float64:
        return array
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise DataError(f"{where}: holds {array.dtype}, not numbers that float64 can keep")
    return array


def _graph(graph: Any, where: str, count: list[int], depth: int = 0) -> Graph:
    if depth > MAX_DEPTH:
        raise DataError(f"node {where!r}: graphs lie in each other deeper than {MAX_DEPTH}, or in a circle")
    nodes: dict[str, Node | Graph] = {}
    for name, node in graph.nodes.items():
        count[0] += 1
        if count[0] > MAX_NODES:
            raise DataError(f"more than {MAX_NODES} nodes")
        path = f"{where}.{name}" if where else str(name)
        nodes[str(name)] = _graph(node, path, count, depth + 1) if isinstance(node, nir.NIRGraph) else _leaf(path, node)
    edges = tuple((str(a), str(b)) for a, b in graph.edges)
    return Graph(nodes, edges, graph.metadata if isinstance(graph.metadata, dict) else {})


def _leaf(path: str, node: Any) -> Node:
    where = f"node {path!r}"
    if node is None:
        raise DataError(
            f"{where}: None, since its exporter has no node for this module (Norse 1.1 has none for LIFRecurrentCell, "
            "LSNNCell, LIFRefracCell and others); read the module itself with from_norse or from_snntorch"
        )
    kind = type(node).__name__
    if kind not in FIELDS or not isinstance(node, nir.NIRNode):
        raise DataError(f"{where}: a {kind}, which is no node of nir 1.0.8")
    given = {name: getattr(node, name) for name in (n.rstrip("?") for n in FIELDS[kind]) if hasattr(node, name)}
    if kind in ("Input", "Output"):
        ends = node.input_type if kind == "Input" else node.output_type
        given["shape"] = next(iter(ends.values()), None)
        given["shape"] = np.zeros(0) if given["shape"] is None else given["shape"]
    if kind == "Flatten":
        given["input_type"] = node.input_type.get("input")
    return leaf(where, kind, given, node.metadata if isinstance(node.metadata, dict) else {})
