"""Which layer of a snnTorch module reads which: from an ``nn.Sequential`` its order, from any other class one call.

Leaves are torch's layers and snnTorch's neurons; their names are their paths joined with "_".
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.snntorch_cells import states_of
from ovonic.adapters.snntorch_following import ENOUGH, follow
from ovonic.adapters.torch_layers import refuse_hooks, refuse_layer
from ovonic.models.errors import ConfigError, OvonicError
from ovonic.models.network import Edge

__all__ = ["SKIPPED", "Graph", "read_graph", "type_of"]

Shape = tuple[int, ...]
SKIPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Graph:
    """The modules of the layers, by name and in an order in which each may read those before; who reads whom; the
    shapes of the inputs; and, where that is known, which part of ``source`` a ``target`` reads ("spk", "mem")."""

    layers: dict[str, nn.Module]
    edges: list[Edge]
    inputs: dict[str, Shape]
    parts: dict[tuple[str, str], str] = field(default_factory=dict)


def read_graph(module: nn.Module, known: Sequence[type], shape: Sequence[int] | None, example: Any) -> Graph:
    """The graph of a module that is none of ours.

    Args:
        known: the classes that can be read. shape: of the input, None if the first layer tells it.
        example: arguments of a call, None to make some.
    Raises: UnsupportedDynamics, ConfigError: as ``from_snntorch``.
    """
    leaves: dict[str, nn.Module] = {}
    for name, part in _leaves("", module, known):
        if isinstance(part, SKIPPED):
            if part.training and not isinstance(part, nn.Identity):
                refuse_layer(name, f"{type(part).__name__} draws at random in training", "call .eval() first")
            continue
        if same := [other for other, leaf in leaves.items() if leaf is part]:
            refuse_layer(name, f"the same module as {same[0]!r}, whose state they would share", "make a copy")
        if name in leaves:
            refuse_layer(name, "two modules come by this name when their path is joined by '_'", "rename one")
        leaves[name] = part
    if not leaves:
        raise ConfigError(f"{type(module).__name__}: holds no layers")
    own = "input"
    while own in leaves:
        own += "_"
    if _is_chain(module, leaves):
        inputs = {own: _open_shape(*next(iter(leaves.items()))) if shape is None else tuple(shape)}
        return Graph(leaves, [Edge(*pair) for pair in zip((own, *leaves), leaves, strict=False)], inputs)
    return _followed(
        module, leaves, [name for name, leaf in leaves.items() if type_of(leaf) in known], own, shape, example
    )


def type_of(module: nn.Module) -> type:
    """Its class, also where its weights are parametrized."""
    return parametrize.type_before_parametrizations(module)


def _leaves(path: str, module: nn.Module, known: Sequence[type]) -> Iterator[tuple[str, nn.Module]]:
    kind, where = type_of(module), path or type(module).__name__.lower()
    refuse_hooks(where, module)
    foreign = kind.__module__.split(".")[0] in ("torch", "snntorch")
    if (kind not in HOLDERS and (foreign or not module._modules)) or isinstance(module, (*known, *SKIPPED)):
        yield where, module
        return
    for name, child in module._modules.items():
        if child is not None:
            yield from _leaves(f"{path}_{name}" if path else name, child, known)


def _is_chain(module: nn.Module, leaves: Mapping[str, nn.Module]) -> bool:
    if isinstance(module, SKIPPED) or any(module is leaf for leaf in leaves.values()):
        return True
    sequence: Any = nn.Sequential.forward
    return type(module).forward is sequence and all(_is_chain(part, leaves) for part in module.children())


def _open_shape(name: str, first: nn.Module) -> Shape:
    """The shape of the input that a layer tells."""
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    if states_of(first):
        recurrent: Any = getattr(first, "recurrent", None)
        if isinstance(recurrent, nn.Linear):
            return (recurrent.in_features,)
        numbers = [getattr(first, part, None) for part in ("beta", "alpha", "threshold")]
        numbers.append(getattr(recurrent, "V", None))
        arrays = [tuple(n.shape) for n in numbers if isinstance(n, Tensor) and n.numel() > 1]
        if arrays:
            return max(arrays, key=len)
    raise ConfigError(f"layer {name!r}: {type(first).__name__} leaves the shape of its input open: give input_shape")


def _followed(
    module: nn.Module,
    leaves: dict[str, nn.Module],
    needed: list[str],
    own: str,
    shape: Sequence[int] | None,
    example: Any,
) -> Graph:
    found, outside = _first_call(module, leaves, needed, shape, example)
    layers: dict[str, nn.Module] = {}
    edges: list[Edge] = []
    parts: dict[tuple[str, str], str] = {}
    for name, links in found.items():
        for link in links:
            source = link.source
            for between in link.via:
                inserted = f"{name}_{type(between).__name__.lower()}"
                while inserted in leaves or inserted in layers:
                    inserted += "_"
                layers[inserted] = between
                edges.append(Edge(source, inserted))
                parts.setdefault((source, inserted), link.part)
                source = inserted
            edges.append(Edge(source, name))
            parts.setdefault((source, name), link.part if source == link.source else "")
        if not links:
            edges.append(Edge(own, name))
        layers[name] = leaves[name]
    if shape is None:
        try:
            shape = _open_shape(*next(iter(layers.items())))
        except ConfigError:
            shape = outside.shape[1:]
    return Graph(layers, edges, {own: tuple(shape)}, parts)


def _first_call(
    module: nn.Module, leaves: dict[str, nn.Module], needed: list[str], shape: Sequence[int] | None, example: Any
) -> tuple[dict[str, Any], Tensor]:
    given = example if isinstance(example, tuple) or example is None else (example,)
    refused: OvonicError | None = None
    cause: Exception = ConfigError("no layer tells the shape of its input")
    for call in _guesses(module, leaves, shape) if given is None else (given,):
        try:
            return follow(module, leaves, needed, call)
        except OvonicError as error:
            refused = refused or error
        except Exception as error:
            cause = error
    if refused is not None:
        raise refused
    name, how = type(module).__name__, "zeros" if given is None else "the example"
    refuse_layer(
        name.lower(),
        f"{name}.forward cannot be followed, called with {how} it raises {type(cause).__name__}: {cause}",
        "give input_shape=, or example=: the arguments of one call of the module, as a tuple if there are several",
    )


def _guesses(module: nn.Module, leaves: dict[str, nn.Module], shape: Sequence[int] | None) -> Iterator[tuple[Any, ...]]:
    """Arguments that a module may take: zeros of a batch, or of steps and a batch, and no states."""
    shapes = [] if shape is None else [tuple(shape)]
    for name, leaf in leaves.items() if shape is None else ():
        try:
            shapes.append(_open_shape(name, leaf))
        except ConfigError:
            continue
    floats = [p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()]
    like = floats[0] if floats else torch.zeros(())
    needed = [p for p in inspect.signature(module.forward).parameters.values() if p.default is p.empty]
    states = (None,) * (sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed) - 1)
    for inner in dict.fromkeys(shapes):
        for lead in ((ENOUGH,), (ENOUGH, ENOUGH)):
            yield torch.zeros(*lead, *inner, dtype=like.dtype, device=like.device), *states
