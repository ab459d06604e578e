"""Recurrence in a flat NIR graph: what a neuron's spikes do to itself by way of linear nodes, as one matrix.

NIR is silent about time in a cycle. In every convention known here a cycle takes one step, and one more for each step
of its Delay nodes: I[t] += W z[t - 1 - delay]. A network's recurrence is that of one layer on itself. So a cycle must
hold one spiking node, and besides it Linear, Affine, Scale and Delay nodes alone; several ways through it are added up
where they take equally long. What is read from outside the cycle by a node within it (snnTorch's import sends a
layer's drive through W_rec) goes the same way without the step. The biases within act in every step, the first too.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ovonic.adapters.nir_flat import Flat
from ovonic.adapters.nir_graph import Node
from ovonic.adapters.nir_shapes import Link, spread_shape
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.layers import Recurrence

__all__ = ["SPIKING", "Cycle", "open_cycles"]

SPIKING = ("LIF", "IF", "CubaLIF", "Threshold")
LINEAR = ("Linear", "Affine", "Scale")

Array = NDArray[np.float64]


class Cycle(NamedTuple):
    """What a neuron feeds back to itself: the recurrence, the constant input that comes with it, or None."""

    recurrence: Recurrence
    bias: Array | None


def open_cycles(flat: Flat) -> tuple[Flat, dict[str, Cycle]]:
    """The graph without its cycles, and the cycle of each neuron that had one.

    Raises: DataError: a cycle that is no recurrence of one layer (see the module's text), with the nodes on it.
    """
    nodes, links, cycles = dict(flat.nodes), list(flat.links), dict[str, Cycle]()
    for members in _strong(flat):
        within = [link for link in links if link.source in members and link.target in members]
        neuron = _neuron(members, nodes)
        linear = members - {neuron}
        order = _order(linear, within)
        strays = [link for link in links if link.source in linear and link.target not in members]
        if strays:
            raise DataError(
                f"node {strays[0].source!r}: lies on the cycle of {neuron!r} and is read by {strays[0].target!r} "
                "outside it, where NIR does not say of which step: give that reader a node of its own"
            )
        cycles[neuron] = _cycle(neuron, order, within, nodes)
        links = [link for link in links if link not in set(within)]
        links += [link for link in within if link.source in linear]
        for name in order:
            if any(link.target == name for link in links):
                nodes[name] = _unbiased(nodes[name])
            else:
                del nodes[name]
                links = [link for link in links if link.source != name]
    return Flat(nodes, links, flat.outputs, flat.mended), cycles


def _strong(flat: Flat) -> list[set[str]]:
    """The groups of nodes that reach each other, and the nodes that feed themselves."""
    names = list(flat.nodes)
    index = {name: k for k, name in enumerate(names)}
    ends = np.array([(index[link.source], index[link.target]) for link in flat.links], int).reshape(-1, 2)
    adjacency = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(names),) * 2)
    _, labels = connected_components(adjacency, directed=True, connection="strong")
    groups: dict[int, set[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), set()).add(name)
    fed = {link.source for link in flat.links if link.source == link.target}
    return [group for group in groups.values() if len(group) > 1 or group & fed]


def _neuron(members: set[str], nodes: Mapping[str, Node]) -> str:
    listed = ", ".join(f"{name!r} ({nodes[name].kind})" for name in sorted(members))
    spiking = [name for name in sorted(members) if nodes[name].kind in SPIKING]
    if not spiking:
        raise DataError(f"a cycle without a spiking node: {listed}; it would feed itself within a step")
    if len(spiking) > 1:
        raise DataError(f"a cycle through {len(spiking)} spiking nodes: {listed}; join them into one node")
    for name in sorted(members - set(spiking)):
        if nodes[name].kind not in LINEAR:
            raise DataError(
                f"node {name!r}: a {nodes[name].kind} on the cycle of {spiking[0]!r}; only Linear, Affine, Scale and "
                "Delay nodes can feed a layer back: write it as one of them"
            )
    return spiking[0]


def _order(linear: set[str], within: list[Link]) -> list[str]:
    reads = {name: [link.source for link in within if link.target == name and link.source in linear] for name in linear}
    try:
        return list(graphlib.TopologicalSorter(reads).static_order())
    except graphlib.CycleError as error:
        raise DataError(f"{' -> '.join(error.args[1])}: a cycle without a spiking node") from None


def _cycle(neuron: str, order: list[str], within: list[Link], nodes: Mapping[str, Node]) -> Cycle:
    """Add up what comes back to the neuron over all ways through the linear nodes."""
    effects = {neuron: {0: _spikes(neuron, nodes[neuron])}}
    biases: dict[str, Array] = {}
    for name in [*order, neuron]:
        arriving: dict[int, Array] = {}
        bias: Array | None = None
        for link in (link for link in within if link.target == name):
            for steps, effect in effects[link.source].items():
                arriving = _added(name, arriving, steps + link.steps, effect)
            if link.source in biases:
                if link.steps:
                    raise DataError(f"node {name!r}: a bias arrives over a Delay: put it into a node outside the cycle")
                bias = biases[link.source] if bias is None else bias + biases[link.source]
        if name == neuron:
            if len(arriving) != 1:
                ways = ", ".join(str(steps + 1) for steps in sorted(arriving))
                raise DataError(f"node {name!r}: feeds itself back after {ways} steps; a layer has one recurrent delay")
            (steps, weight), *_ = arriving.items()
            try:
                return Cycle(Recurrence(weight, steps + 1), bias)
            except ConfigError as error:
                raise DataError(f"node {name!r}: {error}") from error
        effects[name] = {steps: _after(name, effect, nodes[name]) for steps, effect in arriving.items()}
        if (constant := _constant(name, bias, nodes[name])) is not None:
            biases[name] = constant
    raise AssertionError(neuron)


def _spikes(name: str, neuron: Node) -> Array:
    """The effect of the spikes on themselves: one to one; a single 1 where the neuron does not tell how many it is."""
    shape = spread_shape(name, neuron)
    if len(shape) > 1:
        raise DataError(f"node {name!r}: neurons of shape {shape} on a cycle; a layer that feeds itself back is flat")
    return np.ones(shape or (1,))


def _added(name: str, arriving: dict[int, Array], steps: int, effect: Array) -> dict[int, Array]:
    before = arriving.get(steps)
    if before is None:
        return arriving | {steps: effect}
    try:
        square = max(before.ndim, effect.ndim) == 2
        total = (_matrix(before) + _matrix(effect)) if square else before + effect
    except ValueError:
        raise DataError(f"node {name!r}: adds up what comes back in shapes {before.shape} and {effect.shape}") from None
    return arriving | {steps: total}


def _matrix(effect: Array) -> Array:
    return effect if effect.ndim == 2 else np.diag(effect)


def _after(name: str, effect: Array, node: Node) -> Array:
    """An effect [in, out], or one to one [n], behind a linear node."""
    try:
        if node.kind == "Scale":
            return effect * np.asarray(node["scale"], np.float64)
        weight = np.asarray(node["weight"], np.float64).T
        if weight.ndim != 2 or effect.shape[-1:] not in (weight.shape[:1], (1,)):
            raise ValueError
        if effect.ndim == 1:
            return weight if (effect == 1).all() else effect[:, None] * weight
        return effect @ weight
    except ValueError:
        raise DataError(
            f"node {name!r}: reads {effect.shape[-1]} numbers on its cycle, which it does not fit"
        ) from None


def _constant(name: str, bias: Array | None, node: Node) -> Array | None:
    """The constant that a linear node gives: its own bias, and what becomes of one that it reads."""
    try:
        given = None if bias is None else _after(name, bias[None], node)[0]
        own = np.asarray(node["bias"], np.float64) if node.kind == "Affine" else None
        if own is None or given is None:
            return given if own is None else own
        return given + own
    except ValueError:
        raise DataError(f"node {name!r}: its bias does not fit") from None


def _unbiased(node: Node) -> Node:
    return Node("Linear", {"weight": node["weight"]}, node.metadata) if node.kind == "Affine" else node
