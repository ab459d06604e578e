"""Shapes in a flat NIR graph: what a node reads as far as it tells, and numbers spread over the neurons of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ovonic.adapters.nir_graph import Node
from ovonic.models.errors import DataError

__all__ = ["Demand", "Link", "Shape", "demand", "fits", "ints", "neurons", "open_input"]

Shape = tuple[int, ...]
Demand = tuple[int | None, ...]
"""A shape of which some axes are open."""


class Link(NamedTuple):
    """``target`` reads what ``source`` gave ``steps`` steps ago."""

    source: str
    target: str
    steps: int = 0


def ints(where: str, value: object, low: int = 1) -> Shape:
    """A shape, or sizes, as whole numbers.

    Raises: DataError: they are none.
    """
    array = np.ravel(np.asarray(value))
    whole = array.dtype.kind in "iuf" and bool((np.isfinite(array) & (array == np.floor(array))).all())
    if array.size > 8 or (array.size and not (whole and ((array >= low) & (array <= 2**24)).all())):
        raise DataError(f"{where}: {array[:9].tolist()} must be whole numbers in {low}..{2**24}")
    return tuple(int(n) for n in array)


def fits(shape: Shape, due: Demand) -> bool:
    """Whether a shape is one that is asked for."""
    return len(shape) == len(due) and all(d is None or d == n for n, d in zip(shape, due, strict=True))


def demand(name: str, nodes: Mapping[str, Node], links: Iterable[Link]) -> Demand | None:
    """What the nodes that read ``name`` ask of its shape; through nodes that leave it as it is; None: nothing."""
    readers: dict[str, list[str]] = {}
    for link in links:
        readers.setdefault(link.source, []).append(link.target)
    seen, waiting = {name}, [name]
    while waiting:
        for target in readers.get(waiting.pop(0), []):
            if target in seen:
                continue
            seen.add(target)
            due = reads(target, nodes[target])
            if due is not None:
                return due
            if nodes[target].kind != "Flatten":
                waiting.append(target)
    return None


def open_input(name: str, node: Node) -> Shape:
    """The shape of the input that a node which reads nothing would need.

    Raises: DataError: it leaves it open.
    """
    due = reads(name, node)
    if due is None and node.kind not in ("Flatten",):
        due = spread_shape(name, node)
    if not due or None in due:
        raise DataError(
            f"node {name!r}: a {node.kind} that reads nothing and leaves the shape of its input open: add one"
        )
    return tuple(n for n in due if n is not None)


def reads(name: str, node: Node) -> Demand | None:
    """The shape that a node reads, as far as it tells by itself; None: any."""
    if node.kind in ("Linear", "Affine"):
        return node["weight"].shape[-1:]
    if node.kind.startswith("Conv"):
        axes = 2 if node.kind == "Conv2d" else 1
        channels = None
        if node["weight"].ndim == 2 + axes and node["groups"].size == 1:
            channels = node["weight"].shape[1] * ints(f"node {name!r}: groups", node["groups"])[0]
        space = ints(f"node {name!r}: input_shape", node["input_shape"]) if "input_shape" in node.fields else None
        return (channels, *(space or (None,) * axes))
    if node.kind.endswith("Pool2d"):
        return (None, None, None)
    if node.kind == "Flatten":
        return ints(f"node {name!r}: input_type", node["input_type"]) or None if "input_type" in node.fields else None
    shape = spread_shape(name, node)
    return shape if np.prod(shape, dtype=int) > 1 else None


def spread_shape(name: str, node: Node) -> Shape:
    """The shape of a neuron's or scale's numbers together.

    Raises: DataError: they do not go together.
    """
    try:
        return np.broadcast_shapes(*(value.shape for value in node.fields.values()))
    except ValueError:
        shapes = ", ".join(f"{field} {value.shape}" for field, value in node.fields.items())
        raise DataError(f"node {name!r}: a {node.kind} of numbers of different shapes: {shapes}") from None


def neurons(name: str, node: Node, shape: Shape) -> tuple[Node, str]:
    """A neuron node whose fields are spread over the shape it reads, and what was mended for that, or "".

    Raises: DataError: its numbers have another shape.
    """
    own = spread_shape(name, node)
    if own == shape and all(value.shape == shape for value in node.fields.values()):
        return node, ""
    size = int(np.prod(own, dtype=int))
    if size == 1:
        note = f"node {name!r}: one number of shape {own} for neurons of {shape}: each has it"
    elif tuple(own[len(own) - len(shape) :]) == shape and set(own[: len(own) - len(shape)]) <= {1}:
        note = f"node {name!r}: numbers of shape {own} for neurons of {shape}: the axes in front hold one entry"
    elif len(own) == len(shape) and all(a in (1, b) for a, b in zip(own, shape, strict=True)):
        note = f"node {name!r}: numbers of shape {own} for neurons of {shape}: spread along the axes of 1"
    else:
        raise DataError(f"node {name!r}: numbers of shape {own} for neurons of {shape}")
    fields = {}
    for field, value in node.fields.items():
        squeezed = value.reshape(value.shape[max(value.ndim - len(shape), 0) :])
        fields[field] = np.broadcast_to(squeezed, shape)
    return Node(node.kind, fields, node.metadata), note if own != shape else ""
