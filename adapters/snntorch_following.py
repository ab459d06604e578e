"""Follow one call of a module: which of its layers reads which, and that nothing else happens between them.

A module's ``forward`` is code, and its children may be applied in another order than they were registered in. So it is
called once, and watched: a tensor that a layer gave is known by its identity, and what becomes of it on the way to
another layer is noted. Understood between layers are

    .to, .float, .clone, .detach, ..         the same numbers
    .view, .reshape, .flatten to [B, all]    Flatten
    F.max_pool, F.avg_pool                   Pool
    a + b                                    two edges

and a state that is handed back to its neuron, or stays in it, as the neuron gave it. Everything else that reaches a
layer is refused by its name: so are other operations, delays, and states that are changed between two steps. What the
first layer reads is the network's input, whatever made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ovonic.adapters.snntorch_cells import states_of
from ovonic.adapters.torch_layers import refuse_layer

__all__ = ["ENOUGH", "Link", "follow", "kept"]

SAME = {"to", "type", "type_as", "float", "double", "half", "clone", "contiguous", "detach", "detach_"}
SHAPES = {"view", "reshape", "flatten"}
POOLS: dict[str, Callable[..., nn.Module]] = {
    f"{how}_pool{axes}d": getattr(nn, f"{how.capitalize()}Pool{axes}d") for how in ("max", "avg") for axes in (1, 2)
}
MAX_POOL_ORDER = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
ENOUGH = 3
"""Calls of every layer after which it is left: the first step, and how it goes on."""


@dataclass(frozen=True)
class Link:
    """What a layer reads: the ``part`` ("spk", "mem", "syn"; "" of a layer without state) that ``source`` gave in its
    call number ``call``, through the layers ``via``; ``done`` names an operation that is not understood."""

    source: str
    part: str
    call: int
    via: tuple[nn.Module, ...] = ()
    done: str = ""


def follow(
    module: nn.Module, leaves: Mapping[str, nn.Module], needed: Sequence[str], example: Sequence[Any]
) -> tuple[dict[str, tuple[Link, ...]], Tensor]:
    """Call ``module(*example)`` and tell what each of its layers reads.

    The module is left as it was: its buffers are copies meanwhile, its neurons at rest, and no gradient is made.

    Args:
        leaves: the layers to watch, by name; ``needed``: those that must be called.
    Returns: for every layer that was called, in this order, what it reads: one link for each summand, none for the
        outside; and the tensor from the outside in the first step.
    Raises: UnsupportedDynamics: something happens between the layers that no network says; whatever ``forward`` raises.
    """
    watch = _Watch(leaves, needed)
    with suppress(_Enough), torch.no_grad(), torch.random.fork_rng(devices=[]), kept(module), watch.hooked(), watch:
        module(*example)
    return watch.told()


class _Enough(BaseException):
    """All layers were called often enough."""


class _Watch(TorchFunctionMode):
    """What is known of every tensor so far; as a mode of torch, it sees each operation outside of the layers."""

    def __init__(self, leaves: Mapping[str, nn.Module], needed: Sequence[str]) -> None:
        super().__init__()
        self.leaves, self.needed = leaves, needed
        self.known: dict[int, tuple[Link, ...]] = {}
        self.alive: list[Tensor] = []
        self.reads: dict[str, list[tuple[Tensor, tuple[Link, ...]]]] = {}
        self.inside = False

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        for name, leaf in self.leaves.items():
            before, after = self._hooks(name)
            handles.append(leaf.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(leaf.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(leaf: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.inside = True
            x, *states = args or kwargs.values()
            calls = self.reads.setdefault(name, [])
            self._check_states(name, leaf, dict(zip(states_of(leaf), states, strict=False)) | kwargs, len(calls))
            calls.append((x, self.known.get(id(x), ())))
            self.alive.append(x)

        def after(leaf: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            call = len(self.reads[name]) - 1
            parts = ("spk", *(state for state in states_of(leaf) if state != "spk")) if states_of(leaf) else ("",)
            given = list(zip(parts, result if isinstance(result, tuple) else (result,), strict=False))
            for part, tensor in given + [(state, getattr(leaf, state)) for state in states_of(leaf)]:
                self._tell(tensor, (Link(name, part, call),))
            self.inside = False
            if all(len(self.reads.get(other, ())) >= ENOUGH for other in self.needed):
                raise _Enough

        return before, after

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.inside:
            return result
        name = getattr(func, "__name__", str(func))
        sources = [tensor for tensor in _tensors((args, kwargs)) if id(tensor) in self.known]
        if sources and name not in ("__get__", "__set__"):
            in_place = name == "__setitem__" or name.startswith("__i") or (name.endswith("_") and name[-2:] != "__")
            if in_place and name not in SAME:
                self._tell(args[0], self._spoiled(sources, name))
            for tensor in _tensors(result):
                if id(tensor) not in self.known:
                    self._tell(tensor, self._became(name, sources, args, kwargs, tensor))
        return result

    def _became(
        self, name: str, sources: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> tuple[Link, ...]:
        links = tuple(link for source in sources for link in self.known[id(source)])
        if name in ("add", "__add__", "__radd__") and len(sources) == len(args) == 2 and not kwargs:
            if sources[0].shape == sources[1].shape:
                return links
        elif len(sources) == 1 and sources[0] is args[0]:
            shape, before = result.shape, sources[0].shape
            if name in SAME or (name in SHAPES and shape == before):
                return links
            if name in SHAPES and len(shape) == 2 and len(before) > 2 and shape[0] == before[0]:
                return tuple(replace(link, via=(*link.via, nn.Flatten())) for link in links)
            if name in POOLS and len(links) == 1:
                options = dict(zip(MAX_POOL_ORDER, args[1:], strict=False)) if "max" in name else {}
                options |= {option: value for option, value in kwargs.items() if value not in (None, [])}
                pool = POOLS[name](*(() if "max" in name else args[1:]), **options)
                return (replace(links[0], via=(*links[0].via, pool)),)
        return self._spoiled(sources, name)

    def _spoiled(self, sources: list[Tensor], name: str) -> tuple[Link, ...]:
        links = (link for source in sources for link in self.known[id(source)])
        return tuple(replace(link, done=link.done or name) for link in links)

    def _tell(self, tensor: Tensor, links: tuple[Link, ...]) -> None:
        self.known[id(tensor)] = links
        self.alive.append(tensor)

    def _check_states(self, name: str, leaf: nn.Module, given: Mapping[str, Any], call: int) -> None:
        for state in states_of(leaf):
            value = given.get(state)
            value = getattr(leaf, state) if value is None else value
            if call and self.known.get(id(value)) != (Link(name, state, call - 1),):
                refuse_layer(name, f"its {state} in step {call + 1} is not what it gave in the step before")
            if not call and bool(value.any()):
                refuse_layer(name, f"its {state} does not start at zero", "start it there, or write a Cell's v_init")

    def told(self) -> tuple[dict[str, tuple[Link, ...]], Tensor]:
        """See ``follow``."""
        found: dict[str, tuple[Link, ...]] = {}
        outside: dict[str, list[int]] = {}
        first: Tensor | None = None
        for name in self.needed:
            if name not in self.reads:
                refuse_layer(name, "the module's forward does not call it", "remove it, or give an example that does")
        for name, calls in self.reads.items():
            found[name] = calls[0][1]
            for call, (_, links) in enumerate(calls):
                self._check_links(name, call, links, found[name])
            if not found[name]:
                first = calls[0][0] if first is None else first
                outside[name] = [id(x) for x, _ in calls]
        others = [name for name in outside if outside[name] != next(iter(outside.values()))]
        if others or first is None:
            one, two = next(iter(outside), "no layer"), next(iter(others), "")
            refuse_layer(two or one, f"it reads what no layer gave, and not what {one!r} reads", "one input is read")
        return found, first

    def _check_links(self, name: str, call: int, links: tuple[Link, ...], first: tuple[Link, ...]) -> None:
        if list(map(_key, links)) != list(map(_key, first)):
            refuse_layer(name, f"in step {call + 1} it reads something else than in the first: {_words(links)}")
        for link in links:
            if link.done:
                refuse_layer(name, f"it reads {link.done!r} of what {link.source!r} gives", "make that a layer")
            if link.call != call:
                refuse_layer(name, f"in step {call + 1} it reads what {link.source!r} gave in step {link.call + 1}")


@contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """Leave every part of a module as it was: meanwhile its buffers are copies, and its neurons at rest."""
    stores = ("_buffers", "_parameters", "_modules")
    held = [
        (part, dict(vars(part)), {store: dict(getattr(part, store)) for store in stores}) for part in module.modules()
    ]
    try:
        for part, _, stored in held:
            for name, buffer in stored["_buffers"].items():
                rest = name in states_of(part)
                part._buffers[name] = None if buffer is None else buffer.new_zeros(0) if rest else buffer.clone()
        yield
    finally:
        for part, attributes, stored in held:
            vars(part).clear()
            vars(part).update(attributes)
            for store, entries in stored.items():
                getattr(part, store).clear()
                getattr(part, store).update(entries)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _tensors(entry)


def _key(link: Link) -> tuple[str, ...]:
    return link.source, link.part, *map(repr, link.via), link.done


def _words(links: tuple[Link, ...]) -> str:
    return ", ".join(f"{link.part} of {link.source!r}" for link in links) or "what no layer gave"
