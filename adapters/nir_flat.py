"""A NIR graph without subgraphs, outputs and delay nodes: layers, and edges that take a number of steps.

A subgraph is what it holds: its nodes join the graph as ``NAME.INNER``, and an edge to it goes on to what its Input
feeds. What is mended on the way, since only one meaning is possible, is said: edges given twice (NIR knows no double
edge), subgraphs that nothing feeds, first nodes without an Input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ovonic.adapters.nir_graph import MAX_EDGES, Graph, Node
from ovonic.adapters.nir_shapes import Link, Shape, ints, open_input
from ovonic.models.errors import DataError, nearest
from ovonic.models.frozen import LONGEST

__all__ = ["Flat", "flatten", "whole_steps"]


@dataclass(frozen=True)
class Flat:
    """A graph laid flat.

    Attributes:
        nodes: name -> node, none of them an Output, a Delay or a graph.
        links: who reads whom, each once.
        outputs: name of an Output -> its shape and the node it shows.
        mended: what was put right, in words.
    """

    nodes: dict[str, Node]
    links: list[Link]
    outputs: dict[str, tuple[Shape, str]] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)


def flatten(graph: Graph, dt_ms: float) -> Flat:
    """The graph laid flat; delays as whole steps of ``dt_ms``.

    Raises: DataError: an edge without a node at its end, a subgraph of several inputs or outputs that an edge names as
        a whole, a delay that is no whole number of steps or not the same for all, an output of several nodes.
    """
    nodes: dict[str, Node] = {}
    inner: set[str] = set()
    pairs: list[tuple[str, str]] = []
    _expand(graph, "", nodes, inner, pairs)
    mended = []
    unique = dict.fromkeys(pairs)
    if len(unique) < len(pairs):
        (doubled, _), *_ = Counter(pairs).most_common(1)
        mended.append(f"edge {doubled[0]} -> {doubled[1]}: given twice, read once")
    links = [Link(*pair) for pair in unique]
    for name in sorted(inner):
        if nodes[name].kind == "Input" and not any(link.target == name for link in links):
            mended.append(f"node {name!r}: nothing feeds this subgraph: its input is one of the network")
        else:
            links = _contract(name, 0, links)
            del nodes[name]
    for name in [name for name, node in nodes.items() if node.kind == "Delay"]:
        steps = whole_steps(name, nodes.pop(name), dt_ms)
        links = _contract(name, steps, links)
    outputs: dict[str, tuple[Shape, str]] = {}
    for name in [name for name, node in nodes.items() if node.kind == "Output"]:
        shown = sorted({link.source for link in links if link.target == name})
        if len(shown) > 1:
            raise DataError(f"node {name!r}: adds up {', '.join(shown)}: put a Linear or Scale node in between")
        if any(link.source == name for link in links):
            raise DataError(f"node {name!r}: an Output that feeds another node")
        shape = ints(f"node {name!r}: shape", nodes.pop(name)["shape"])
        links = [link for link in links if link.target != name]
        outputs |= {name: (shape, shown[0])} if shown else {}
    fed = {link.target for link in links}
    for name in [name for name in nodes if name not in fed]:
        if nodes[name].kind != "Input":
            first = _fresh(f"input_{name}", nodes)
            nodes[first] = Node("Input", {"shape": np.array(open_input(name, nodes[name]), int)})
            links.append(Link(first, name))
            mended.append(f"node {name!r}: reads nothing: given an input {first!r}")
    for link in links:
        if nodes[link.target].kind == "Input":
            raise DataError(f"edge {link.source} -> {link.target}: an Input reads nothing")
    return Flat(nodes, links, outputs, mended)


def whole_steps(name: str, node: Node, dt_ms: float) -> int:
    """The steps of a Delay node.

    Raises: DataError: not the same for all, or no whole number of steps.
    """
    delays = np.unique(np.asarray(node["delay"], np.float64))
    if delays.size != 1 or not np.isfinite(delays).all():
        raise DataError(f"node {name!r}: {delays.size} delays; a network delays an edge as a whole: split the node")
    steps = float(delays[0]) * 1e3 / dt_ms
    if not 0 <= steps <= LONGEST or abs(steps - round(steps)) > 1e-4:
        raise DataError(
            f"node {name!r}: delay {float(delays[0]):.9g} s is {steps:.6g} steps of {dt_ms:.9g} ms; it must be a whole "
            f"number in 0..{LONGEST}"
        )
    return round(steps)


def _expand(
    graph: Graph, prefix: str, nodes: dict[str, Node], inner: set[str], pairs: list[tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """Add a graph's nodes and edges; the names of its inputs and outputs."""
    ports: dict[str, tuple[list[str], list[str]]] = {}
    ends: tuple[list[str], list[str]] = ([], [])
    for name, node in graph.nodes.items():
        full = prefix + name
        if isinstance(node, Graph):
            ports[full] = _expand(node, f"{full}.", nodes, inner, pairs)
            continue
        if full in nodes:
            raise DataError(f"node {full!r}: two nodes come by this name once subgraphs are laid flat")
        nodes[full] = node
        if node.kind in ("Input", "Output"):
            ends[node.kind == "Output"].append(full)
            inner |= {full} if prefix else set()
    for a, b in graph.edges:
        source, target = (_end(prefix + end, at, ports, nodes, (a, b)) for at, end in ((1, a), (0, b)))
        pairs.append((source, target))
        if len(pairs) > MAX_EDGES:
            raise DataError(f"more than {MAX_EDGES} edges")
    return ends


def _end(
    name: str, at: int, ports: dict[str, tuple[list[str], list[str]]], nodes: dict[str, Node], edge: tuple[str, str]
) -> str:
    if name in nodes:
        return name
    where = f"edge {edge[0]} -> {edge[1]}"
    if name not in ports:
        raise DataError(f"{where}: no node {name!r}: {nearest(name, [*nodes, *ports])}")
    found = ports[name][at]
    if len(found) != 1:
        what = "outputs" if at else "inputs"
        raise DataError(f"{where}: the graph {name!r} has {len(found)} {what}: name one, as {name}.NODE")
    return found[0]


def _contract(name: str, steps: int, links: list[Link]) -> list[Link]:
    """Take a node out of the links, each way through it ``steps`` longer."""
    into = [link for link in links if link.target == name]
    out = [link for link in links if link.source == name]
    if any(link.source == name for link in into):
        raise DataError(f"node {name!r}: feeds itself, with no neuron in between")
    kept = [link for link in links if name not in link[:2]]
    if len(kept) + len(into) * len(out) > MAX_EDGES:
        raise DataError(f"more than {MAX_EDGES} edges")
    through = [Link(a.source, b.target, a.steps + steps + b.steps) for a in into for b in out]
    return list(dict.fromkeys([*kept, *through]))


def _fresh(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name += "_"
    return name
