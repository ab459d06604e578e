"""Read networks from snnTorch modules: chains of torch's layers and snnTorch's neurons.

    module                                       layer
    nn.Linear, nn.Conv1d/2d, nn.Flatten          Linear, Conv, Flatten
    nn.AvgPool1d/2d, nn.MaxPool1d/2d             Pool
    Leaky, RLeaky, Synaptic, RSynaptic           Spiking, as ``snntorch_neurons`` reads it
      with an infinite threshold and no reset    Readout; so are those named in ``readouts``
    nn.Identity, nn.Dropout out of training      none

**The assumption**: the children of a module, in the order of their registration and down into their own children, form
a chain, each called once a step on what the one before gave: of neurons the spikes, of a read-out the membrane. A
module's ``forward`` is not read. ``SpikingModule`` tells its edges itself. Every run starts at zero; what a neuron
holds at the moment is not part of the network. A recurrent bias, which a network does not have, becomes the bias of the
linear layer before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.snntorch_building import SpikingModule, SumPool1d
from ovonic.adapters.snntorch_cells import STATES, Cell, load
from ovonic.adapters.snntorch_neurons import HOOKED, as_array, read_neuron, refuse_layer
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Pool, Pooling
from ovonic.models.network import Edge, Network

__all__ = ["from_snntorch"]

Shape = tuple[int, ...]
Array = NDArray[np.float64]
SKIPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


def from_snntorch(
    module: nn.Module,
    input_shape: Sequence[int] | None = None,
    readouts: Sequence[str] = (),
    dt_ms: float | None = None,
) -> Network:
    """The network of a snnTorch module (the text above says what is assumed of it).

    Args:
        input_shape: of what comes from outside in a step, without batch; needed where the first layer leaves it open.
        readouts: names of neurons whose membrane is what is used of them: they must not reset.
        dt_ms: duration of a step, which snnTorch does not know; None is the module's own ``dt_ms``, or 1.
    Raises: UnsupportedDynamics: layer, feature and remedy, where a network cannot say what the module does or the
        module leaves open what it does; ConfigError: numbers or shapes that make no network.
    """
    snn = load()
    neurons = {kind: getattr(snn, kind) for kind in STATES}
    if isinstance(module, SpikingModule):
        layers: dict[str, Any] = {name: module[name] for name in module.keys}
        inputs, edges = dict(module.inputs), list(module.edges)
        dt_ms = module.dt_ms if dt_ms is None else dt_ms
    else:
        layers = _chain(module, neurons)
        name = "input"
        while name in layers:
            name += "_"
        inputs = {name: _open_shape(layers) if input_shape is None else tuple(input_shape)}
        edges = [Edge(*pair) for pair in zip((name, *layers), layers, strict=False)]
    for name in readouts:
        if name not in layers:
            raise ConfigError(f"readouts: {name!r}: {nearest(name, layers)}")
    found: dict[str, Layer] = {name: Input(shape) for name, shape in inputs.items()}
    shapes: dict[str, Shape] = dict(inputs)
    for name, part in layers.items():
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


def _chain(module: nn.Module, neurons: dict[str, type]) -> dict[str, nn.Module]:
    """The leaves of a module in the order of their registration, by names joined with "_"."""
    layers: dict[str, nn.Module] = {}
    seen: dict[int, str] = {}
    for name, part in _leaves("", module, neurons):
        if id(part) in seen:
            refuse_layer(name, f"the same module as {seen[id(part)]!r}, whose state they would share", "make a copy")
        seen[id(part)] = name
        if isinstance(part, SKIPPED):
            if part.training and not isinstance(part, nn.Identity):
                refuse_layer(name, f"{type(part).__name__} draws at random in training", "call .eval() first")
            continue
        if name in layers:
            refuse_layer(name, "two modules come by this name when their path is joined by '_'", "rename one")
        layers[name] = part
    if not layers:
        raise ConfigError(f"{type(module).__name__}: holds no layers")
    return layers


def _leaves(path: str, module: nn.Module, neurons: dict[str, type]) -> Iterator[tuple[str, nn.Module]]:
    kind, where = _type(module), path or type(module).__name__.lower()
    if module._forward_hooks or module._forward_pre_hooks:
        refuse_layer(where, *HOOKED)
    if kind in READERS or kind in neurons.values() or isinstance(module, SKIPPED):
        yield where, module
        return
    known = [base for base in (*neurons.values(), *READERS) if isinstance(module, base)]
    if known:
        refuse_layer(where, f"{kind.__name__} is a subclass of {known[0].__name__} and may do otherwise")
    foreign = kind.__module__.split(".")[0] in ("torch", "snntorch") and kind is not nn.Sequential
    if foreign or not module._modules:
        refuse_layer(where, f"{kind.__name__} has no meaning here", f"known are {', '.join(_names(neurons))}")
    loose = [*module._parameters, *module._buffers]
    if loose:
        refuse_layer(
            where, f"{kind.__name__} holds {loose[0]!r} beside its children", "what it does with it is not read"
        )
    for name, child in module._modules.items():
        if child is not None:
            yield from _leaves(f"{path}_{name}" if path else name, child, neurons)


def _names(neurons: dict[str, type]) -> list[str]:
    return [*neurons, *(kind.__name__ for kind in (*READERS, *SKIPPED))]


def _type(module: nn.Module) -> type:
    return parametrize.type_before_parametrizations(module)


def _open_shape(layers: dict[str, nn.Module]) -> Shape:
    """The shape of the input that the first layer tells."""
    name, first = next(iter(layers.items()))
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    if type(first).__name__ in STATES:
        recurrent: Any = getattr(first, "recurrent", None)
        if isinstance(recurrent, nn.Linear):
            return (recurrent.in_features,)
        numbers = [getattr(first, part, None) for part in ("beta", "alpha", "threshold")]
        numbers.append(getattr(recurrent, "V", None))
        arrays = [tuple(n.shape) for n in numbers if isinstance(n, Tensor) and n.numel() > 1]
        if arrays:
            return max(arrays, key=len)
    raise ConfigError(f"layer {name!r}: {type(first).__name__} leaves the shape of its input open: give input_shape")


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
    if isinstance(part, Cell) or _type(part) in neurons.values():
        return read_neuron(name, part, shape, readout)
    if readout:
        raise ConfigError(f"readouts: a {type(part).__name__} has no membrane")
    if part._forward_hooks or part._forward_pre_hooks:
        refuse_layer(name, *HOOKED)
    if _type(part) not in READERS:
        refuse_layer(name, f"{type(part).__name__} has no meaning here", f"known are {', '.join(_names(neurons))}")
    return READERS[_type(part)](name, part), None


def _linear(name: str, part: Any) -> Layer:
    if isinstance(part.weight, nn.parameter.UninitializedParameter):
        refuse_layer(name, "its weights are not initialised", "run it once")
    return Linear(as_array(part.weight).T, None if part.bias is None else as_array(part.bias))


def _conv(name: str, part: Any) -> Layer:
    if part.padding_mode != "zeros":
        refuse_layer(name, f"padding_mode {part.padding_mode!r}", "padding_mode='zeros'")
    padding = part.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(part.dilation, part.kernel_size, strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            refuse_layer(name, "padding 'same' of an even window pads one side more", "give the padding in numbers")
        padding = tuple(r // 2 if padding == "same" else 0 for r in reach)
    bias = None if part.bias is None else as_array(part.bias)
    return Conv(np.swapaxes(as_array(part.weight), 0, 1), bias, part.stride, padding, part.dilation, part.groups)


def _pool(name: str, part: Any) -> Layer:
    axes = 2 if isinstance(part, (nn.AvgPool2d, nn.MaxPool2d)) else 1
    window, stride, padding = (_sizes(value, axes) for value in (part.kernel_size, part.stride, part.padding))
    if part.ceil_mode:
        refuse_layer(name, "ceil_mode", "ceil_mode=False")
    if isinstance(part, (nn.MaxPool1d, nn.MaxPool2d)):
        if set(_sizes(part.dilation, axes)) != {1} or part.return_indices:
            refuse_layer(name, "MaxPool with a dilation or indices", "dilation=1, return_indices=False")
        return Pool(Pooling.MAX, window, stride, padding)
    if isinstance(part, SumPool1d):
        return Pool(Pooling.SUM, window, stride, padding)
    divisor = getattr(part, "divisor_override", None)
    if divisor == 1:
        return Pool(Pooling.SUM, window, stride, padding)
    if divisor not in (None, int(np.prod(window))):
        refuse_layer(name, f"divisor_override {divisor}", "1 (the sum) or None (the mean)")
    if not part.count_include_pad and any(padding):
        refuse_layer(name, "count_include_pad=False: a mean that does not count the padding", "count_include_pad=True")
    return Pool(Pooling.MEAN, window, stride, padding)


def _sizes(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _flatten(name: str, part: Any) -> Layer:
    if (part.start_dim, part.end_dim) != (1, -1):
        refuse_layer(name, f"nn.Flatten({part.start_dim}, {part.end_dim})", "nn.Flatten() of all but the batch")
    return Flatten()


READERS: dict[type, Callable[[str, Any], Layer]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.AvgPool1d: _pool,
    nn.AvgPool2d: _pool,
    nn.MaxPool1d: _pool,
    nn.MaxPool2d: _pool,
    SumPool1d: _pool,
    nn.Flatten: _flatten,
}
