"""Read networks from Norse modules: chains of torch's layers and Norse's neurons.

    module                                                   layers
    nn.Linear, nn.Conv1d/2d, pools, nn.Flatten               as ``torch_layers`` reads them
    LIFCell, LIFRecurrentCell, LIF, LIFRecurrent, ..         as ``norse_neurons`` reads them
    SequentialState, a module class of one's own             its children, one after the other
    nn.Sequential                                            the same, where no state is lost in it
    Lift(module)                                             the module: it loops over time
    LConv2d                                                  Conv
    nn.Identity, nn.Dropout out of training                  none

**The assumption**: the children of a module, in the order of their registration and down into their own children, form
a chain, each called once a step with its own state on what the one before gave: of neurons the spikes, of a read-out
the membrane. A class of one's own is called and watched (``norse_following``), and refused where its ``forward`` does
anything else; what its first layer reads is the network's input, whatever made it. ``SpikingModule`` tells its edges
itself. Every run starts from the initial state. Neurons that loop over time (LIF, LSNN, ..) and those that do not
(LIFCell, ..) cannot stand side by side: the latter would take time for the batch; within a ``Lift`` they can.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.norse_building import SpikingModule
from ovonic.adapters.norse_cells import load
from ovonic.adapters.norse_following import check_chain
from ovonic.adapters.norse_neurons import REMEDY, Part, is_neuron, is_timed, read_neuron, refuse_foreign
from ovonic.adapters.torch_layers import READERS, as_array, read_layer, refuse_hooks, refuse_layer
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Conv, Flatten, Input, Layer
from ovonic.models.network import Edge, Network

__all__ = ["from_norse"]

Shape = tuple[int, ...]
SKIPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
NORSES = ("SequentialState", "Lift", "LConv2d")
"""What is known of Norse beside its neurons."""


class Leaf(NamedTuple):
    """A module of a chain; lifted: within a ``Lift``."""

    name: str
    part: nn.Module
    lifted: bool


def from_norse(
    module: nn.Module,
    input_shape: Sequence[int] | None = None,
    dt_ms: float | None = None,
    example: Sequence[Any] | None = None,
) -> Network:
    """The network of a Norse module (the text above says what is assumed of it).

    Args:
        input_shape: of what comes from outside in a step, without batch and time; needed where the first layer leaves
            it open.
        dt_ms: duration of a step; None is the modules' own ``dt``, which is in seconds. It is the network's clock
            alone: decays and gains follow from the modules' ``dt``.
        example: arguments to call a class of one's own with, where random inputs of ``input_shape`` do not do.
    Raises: UnsupportedDynamics: layer, feature and remedy, where a network cannot say what the module does;
        ConfigError: numbers or shapes that make no network, modules of different ``dt``.
    """
    if isinstance(module, SpikingModule):
        parts: dict[str, nn.Module] = {name: module[name] for name in module.keys}
        inputs, edges = dict(module.inputs), list(module.edges)
        timed, dt_ms = False, module.dt_ms if dt_ms is None else dt_ms
    else:
        leaves = _chain(module)
        parts, timed = {leaf.name: leaf.part for leaf in leaves}, _is_timed(leaves)
        name = "input"
        while name in parts:
            name += "_"
        inputs = {name: _open_shape(parts) if input_shape is None else tuple(input_shape)}
        if _is_own(module):
            check_chain(module, parts, inputs[name], example)
        edges = [Edge(*pair) for pair in zip((name, *parts), parts, strict=False)]
    layers: dict[str, Layer] = {name: Input(shape) for name, shape in inputs.items()}
    shapes: dict[str, Shape] = dict(inputs)
    wires: list[Edge] = []
    for name, part in parts.items():
        into = [edge for edge in edges if edge.target == name]
        try:
            shape = Layer().arrives({str(edge): shapes[edge.source] for edge in into})
            for suffix, layer, delay in _read(name, part, shape, timed):
                own = _free(name + suffix, layers, parts) if suffix else name
                wires += [Edge(edge.source, own, edge.delay + delay) for edge in into]
                layers[own], shape, into = layer, layer.gives(shape), [Edge(own, name)]
            shapes[name] = shape
        except ConfigError as error:
            raise ConfigError(f"layer {name!r}: {error}") from None
    return Network(layers, tuple(wires), _dt_ms(parts) if dt_ms is None else dt_ms)


def _chain(module: nn.Module) -> list[Leaf]:
    """The leaves of a module in the order of their registration, by names joined with "_"."""
    chain: list[Leaf] = []
    seen: dict[int, str] = {}
    names: set[str] = set()
    for leaf in _leaves("", module, False):
        name, part = leaf.name, leaf.part
        if id(part) in seen:
            refuse_layer(name, f"the same module as {seen[id(part)]!r}, whose state they would share", "make a copy")
        seen[id(part)] = name
        if isinstance(part, SKIPPED):
            if part.training and not isinstance(part, nn.Identity):
                refuse_layer(name, f"{type(part).__name__} draws at random in training", "call .eval() first")
            continue
        if name in names:
            refuse_layer(name, "two modules come by this name when their path is joined by '_'", "rename one")
        names.add(name)
        chain.append(leaf)
    if not chain:
        raise ConfigError(f"{type(module).__name__}: holds no layers")
    return chain


def _leaves(path: str, module: nn.Module, lifted: bool) -> Iterator[Leaf]:
    kind, where = parametrize.type_before_parametrizations(module), path or type(module).__name__.lower()
    refuse_hooks(where, module)
    if is_neuron(module) or kind in READERS or isinstance(module, SKIPPED) or _is_norses(module, "LConv2d"):
        yield Leaf(where, module, lifted)
        return
    if _is_norses(module, "Lift"):
        inner: Any = module
        if lifted or any(is_timed(part) for part in inner.lifted_module.modules()):
            refuse_layer(where, "a Lift of what loops over time itself: two axes of time", "one Lift, around cells")
        yield from _leaves(path, inner.lifted_module, True)
        return
    if _passes_states(module):
        _check_states(where, module, passes_states=True)
    elif type(module).forward is nn.Sequential.forward:
        _check_states(where, module, passes_states=False)
    elif kind is not nn.ModuleList:
        _check_own(where, module, kind)
    for name, child in module._modules.items():
        if child is not None:
            yield from _leaves(f"{path}_{name}" if path else name, child, lifted)


def _is_own(module: nn.Module) -> bool:
    """Whether a ``forward`` that is neither torch's nor Norse's joins the leaves."""
    if is_neuron(module) or not module._modules or type(module).forward is nn.Module.forward:
        return False
    own = type(module).forward.__module__.split(".")[0] not in ("torch", "norse")
    return own or any(_is_own(child) for child in module._modules.values() if child is not None)


def _check_own(where: str, module: nn.Module, kind: type) -> None:
    """Refuse what is neither known nor a class of one's own that only holds children."""
    refuse_foreign(where, kind.__name__)
    known = [base for base in READERS if isinstance(module, base)]
    if known:
        refuse_layer(where, f"{kind.__name__} is a subclass of {known[0].__name__} and may do otherwise")
    if kind.__module__.split(".")[0] in ("torch", "norse") or not module._modules:
        names = [*NORSES, *(reader.__name__ for reader in READERS)]
        refuse_layer(where, f"{kind.__name__} has no meaning here", f"{REMEDY}, and of {', '.join(names)}")
    if loose := [*module._parameters, *module._buffers]:
        refuse_layer(where, f"{kind.__name__} holds {loose[0]!r} beside its children, which is not read")


def _check_states(where: str, module: nn.Module, passes_states: bool) -> None:
    """Refuse a chain that Norse runs otherwise than as one: a state lost, or handed to the next module.

    ``SequentialState`` passes state to children whose ``forward`` has one, which a ``Lift`` and a ``nn.Sequential``
    have not: they return (output, state), and only a ``Lift`` can read that: without state it drops it, with state it
    takes it for its own.
    """
    children = [child for child in module._modules.values() if child is not None]
    for child, after in itertools.zip_longest(children, children[1:]):
        loses = _returns_state(child) and not (passes_states and _takes_state(child))
        if loses and not _is_looped(child):
            refuse_layer(where, f"nn.Sequential loses the state of {_named(child)} after a step", "SequentialState")
        if loses and after is not None and (not _is_norses(after, "Lift") or _returns_state(after)):
            feature = f"{_named(child)} hands its state on to {_named(after)}"
            refuse_layer(where, feature, "one SequentialState, with a Lift around all of it")


def _returns_state(module: nn.Module) -> bool:
    """What it returns is (output, state)."""
    if _is_norses(module, "Lift"):
        return _returns_state(module.lifted_module)  # type: ignore[arg-type]
    if type(module).forward is nn.Sequential.forward and isinstance(module, nn.Sequential):
        return len(module) > 0 and _returns_state(module[-1])
    return _takes_state(module)


def _takes_state(module: nn.Module) -> bool:
    return is_neuron(module) or _passes_states(module)


def _passes_states(module: nn.Module) -> bool:
    """A ``SequentialState``, or a subclass that leaves its ``forward`` alone."""
    return bool(type(module).forward is load().torch.SequentialState.forward)


def _is_looped(module: nn.Module) -> bool:
    """It loops over time inside, so that no state need survive its call."""
    return any(is_timed(part) or _is_norses(part, "Lift") for part in module.modules())


def _is_timed(leaves: list[Leaf]) -> bool:
    """Whether the modules' input has an axis of time; refuses those that see it beside those that do not."""
    timed = any(leaf.lifted or is_timed(leaf.part) or _is_norses(leaf.part, "LConv2d") for leaf in leaves)
    for leaf in leaves:
        if timed and is_neuron(leaf.part) and not leaf.lifted and not is_timed(leaf.part):
            kind = type(leaf.part).__name__
            refuse_layer(leaf.name, f"{kind} takes one step, its neighbours loop over time", "put it into a Lift")
    return timed


def _is_norses(module: nn.Module, name: str) -> bool:
    kind = type(module)
    return kind.__name__ == name and kind.__module__.split(".")[0] == "norse"


def _named(module: nn.Module) -> str:
    return type(module).__name__


def _free(name: str, *taken: Any) -> str:
    while any(name in names for names in taken):
        name += "_"
    return name


def _open_shape(parts: dict[str, nn.Module]) -> Shape:
    """The shape of the input that the first layer tells."""
    name, first = next(iter(parts.items()))
    known: Any = first
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    if hasattr(first, "input_weights"):
        return (known.input_weights.shape[1],)
    numbers = list(_tensors(getattr(first, "p", ())))
    numbers += [buffer for buffer in first.buffers()] if is_neuron(first) else []
    if isinstance(weights := getattr(first, "recurrent_weights", None), Tensor):
        numbers.append(weights[0] if weights.ndim == 2 else weights)
    arrays = [tuple(number.shape) for number in numbers if number.numel() > 1]
    if arrays:
        return max(arrays, key=len)
    raise ConfigError(f"layer {name!r}: {_named(first)} leaves the shape of its input open: give input_shape")


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values if isinstance(values, tuple) else ():
        if isinstance(value, Tensor):
            yield value
        else:
            yield from _tensors(value)


def _dt_ms(parts: dict[str, nn.Module]) -> float:
    """The duration of a step that the neurons agree on; 1 where there is none."""
    clocked: dict[str, Any] = {name: part for name, part in parts.items() if hasattr(part, "dt")}
    using = {name: part for name, part in clocked.items() if type(part.p).__name__ != "IAFParameters"}
    found: dict[float, str] = {}
    for name, part in (using or clocked).items():
        found.setdefault(float(part.dt) * 1000, name)
    if len(found) > 1:
        listed = ", ".join(f"{name!r} {dt:g} ms" for dt, name in found.items())
        raise ConfigError(f"modules of different dt: {listed}: give dt_ms, the network's clock")
    return next(iter(found), 1.0)


def _read(name: str, part: nn.Module, shape: Shape, timed: bool) -> list[Part]:
    if is_neuron(part):
        return read_neuron(name, part, shape)
    known: Any = part
    if _is_norses(part, "LConv2d"):
        weight = as_array(known.weight).squeeze(-1).swapaxes(0, 1)
        stride, padding, dilation = (axes[:2] for axes in (known.stride, known.padding, known.dilation))
        return [Part("", Conv(weight, None, stride, padding, dilation, known.groups))]
    if timed and isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) == (2, -1):
        return [Part("", Flatten())]
    if parametrize.type_before_parametrizations(part) not in READERS:
        refuse_layer(name, f"{_named(part)} has no meaning here", REMEDY)
    return [Part("", read_layer(name, part))]
