"""Ovonic's contract in a NIR graph: all that NIR cannot say, as JSON in the graph's metadata.

Under the key ``ovonic``: ``Network.to_dict()`` with the name of a node in the place of each array of weights, and the
tool for whose import the nodes are written, if any. Weights live in the nodes alone. Reading takes the weights from
the nodes, all else from the contract, and refuses a graph whose nodes or edges say otherwise.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.nir_graph import Graph, Node
from ovonic.adapters.nir_nodes import DIAGONAL
from ovonic.models.errors import DataError

__all__ = ["KEY", "ONE_TO_ONE", "check_agreement", "contract", "has_contract", "metadata", "with_weights"]

FORMAT = 1
KEY = "ovonic"
ONE_TO_ONE = "one_to_one"
"""Mark of a recurrence whose node is a matrix, since a tool knows no Scale, and whose diagonal alone is meant."""

AGREES = 1e-6
"""Relative difference up to which a node's constant and the contract agree: that of a file rewritten in float32."""

Array = NDArray[np.float64]


def metadata(kind: str, **content: Any) -> dict[str, str]:
    """The metadata of a graph that holds a ``network`` or a ``pair``."""
    head = {"format": FORMAT, "kind": kind}
    return {KEY: json.dumps(head | content, default=lambda array: array.tolist(), allow_nan=False)}


def has_contract(graph: Graph) -> bool:
    """Whether the graph carries a contract, whole or not."""
    return KEY in graph.metadata


def contract(graph: Graph, kind: str) -> dict[str, Any]:
    """The contract of a graph that must hold a ``kind``.

    Raises: DataError: none, or a damaged one.
    """
    if not has_contract(graph):
        raise DataError("a NIR graph without Ovonic's contract")
    try:
        found = json.loads(graph.metadata[KEY])
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"its contract is no JSON ({error})") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"a contract of another format: this Ovonic reads format {FORMAT}")
    if found.get("kind") != kind:
        raise DataError(f"holds a {found.get('kind')}, not a {kind}")
    return found


def with_weights(data: Any, graph: Graph) -> dict[str, Any]:
    """The contract's network with the arrays of the nodes that it names."""
    layers = data.get("layers") if isinstance(data, dict) else None
    if not isinstance(layers, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
        raise DataError("its contract describes no layers")
    filled: dict[str, Any] = {}
    for name, layer in layers.items():
        filled[name] = dict(layer)
        if layer.get("type") == "Linear":
            node = _weighted(graph, layer.get("weight"), "Linear", "Affine")
            filled[name] |= {"weight": node["weight"].T, "bias": node.fields.get("bias")}
        if layer.get("type") == "Conv":
            node = _weighted(graph, layer.get("weight"), "Conv1d", "Conv2d")
            if node["weight"].ndim < 3:
                raise DataError(f"node {layer['weight']!r}: weight of shape {node['weight'].shape}")
            bias = None if layer.get("bias") is None else node["bias"]
            filled[name] |= {"weight": np.swapaxes(node["weight"], 0, 1), "bias": bias}
        if isinstance(recurrence := layer.get("recurrence"), dict):
            node = _weighted(graph, recurrence.get("weight"), "Linear", "Scale")
            weight = node["scale"] if node.kind == "Scale" else node["weight"].T
            if recurrence.get("masked_diagonal") is True and DIAGONAL in node.metadata:
                weight = _with_diagonal(recurrence["weight"], weight, node.metadata[DIAGONAL])
            filled[name]["recurrence"] = recurrence | {"weight": weight}
            if filled[name]["recurrence"].pop(ONE_TO_ONE, False) is True:
                filled[name]["recurrence"]["weight"] = np.diagonal(weight) if weight.ndim == 2 else weight
    return data | {"layers": filled}


def check_agreement(graph: Graph, due: Graph) -> None:
    """Refuse a graph that is not ``due`` in its nodes, their constants or its edges.

    Raises: DataError: naming node and field, or the edge.
    """
    if strange := sorted(graph.nodes.keys() ^ due.nodes.keys()):
        raise DataError(
            f"node {strange[0]!r}: {'not in' if strange[0] in graph.nodes else 'missing, but in'} its contract"
        )
    for name, node in due.nodes.items():
        other = graph.nodes[name]
        assert isinstance(node, Node)
        if not isinstance(other, Node) or other.kind != node.kind:
            found = other.kind if isinstance(other, Node) else "NIRGraph"
            raise DataError(f"node {name!r}: a {found}, its contract says {node.kind}")
        _check_fields(name, other.fields, node.fields)
    found_edges, due_edges = Counter(graph.edges), Counter(due.edges)
    for edges, what in ((found_edges - due_edges, "not in"), (due_edges - found_edges, "missing, but in")):
        for a, b in edges:
            raise DataError(f"edge {a} -> {b}: {what} its contract")


def _check_fields(name: str, found: Mapping[str, Any], due: Mapping[str, Any]) -> None:
    for field, wanted in due.items():
        if field not in found or isinstance(found[field], str):
            raise DataError(f"node {name!r}: {field} missing, but in its contract")
        given, wanted = (np.asarray(value, np.float64) for value in (found[field], wanted))
        if given.shape != wanted.shape:
            raise DataError(f"node {name!r}: {field} of shape {given.shape}, {wanted.shape} by its contract")
        if (wrong := ~np.isclose(given, wanted, rtol=AGREES, atol=0)).any():
            k = tuple(np.argwhere(wrong)[0])
            raise DataError(
                f"node {name!r}: {field} {given[k]:.9g} contradicts its contract, which makes it "
                f"{wanted[k]:.9g}; change the network in Ovonic and save it again"
            )


def _with_diagonal(name: str, weight: NDArray[Any], diagonal: Any) -> Array:
    square = weight.ndim == 2 and len(set(weight.shape)) == 1
    kind = np.asarray(diagonal).dtype.kind
    if not square or kind not in "fiu" or np.shape(diagonal) != weight.shape[:1] or np.diagonal(weight).any():
        raise DataError(f"node {name!r}: its diagonal is masked: 0 here, and its values in the node's metadata")
    return np.where(np.eye(len(weight), dtype=bool), diagonal, weight)


def _weighted(graph: Graph, name: Any, *kinds: str) -> Node:
    node = graph.nodes.get(name) if isinstance(name, str) else None
    if not isinstance(node, Node) or node.kind not in kinds:
        kind = node.kind if isinstance(node, Node) else "NIRGraph"
        found = "absent" if node is None else f"of type {kind}"
        raise DataError(f"node {name!r}: {found}, its contract says {' or '.join(kinds)}")
    return node
