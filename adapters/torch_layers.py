"""The layers without state as modules of torch, there and back: what the toolchains that build on torch share.

    layer                    module
    Linear                   nn.Linear                          weight [out, in]
    Conv                     nn.Conv1d, nn.Conv2d               weight [out, in / groups, window]
    Pool mean, max           nn.AvgPool1d/2d, nn.MaxPool1d/2d
    Pool sum                 SumPool1d, nn.AvgPool2d(divisor_override=1)
    Flatten                  nn.Flatten                         of all but the batch

Reading refuses what a layer cannot say. Reference: torch 2.15.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Conv, Flatten, Layer, Linear, Pool, Pooling
from ovonic.models.lif import masked

__all__ = [
    "READERS",
    "Hollow",
    "SumPool1d",
    "as_array",
    "build_layer",
    "per_neuron",
    "read_layer",
    "refuse_hooks",
    "refuse_layer",
]

Shape = tuple[int, ...]
Array = NDArray[np.float64]
HOOKED = "has forward hooks, whose effect is not read", "remove them (prune.remove, remove_forward_state_hooks)"


class SumPool1d(nn.AvgPool1d):
    """The sum over windows, which torch has in two dimensions only."""

    def forward(self, x: Tensor) -> Tensor:
        pool: Any = self
        window, stride, padding = (1, *pool.kernel_size), (1, *pool.stride), (0, *pool.padding)
        return F.avg_pool2d(x.unsqueeze(-2), window, stride, padding, divisor_override=1).squeeze(-2)


class Hollow(nn.Module):
    """Parametrization of recurrent weights: the diagonal has no effect."""

    def forward(self, weight: Tensor) -> Tensor:
        return masked(weight)


def build_layer(layer: Layer, number: Callable[[Any], Tensor]) -> nn.Module:
    """The module of a layer without state; ``number`` makes its tensors. Nothing is drawn at random.

    Raises: UnsupportedDynamics: there is none.
    """
    if isinstance(layer, Flatten):
        return nn.Flatten()
    if isinstance(layer, Pool):
        return _build_pool(layer)
    if isinstance(layer, Linear):
        n_in, n_out = layer.weight.shape
        made: Any = nn.Linear(n_in, n_out, layer.bias is not None, device="meta")
    elif isinstance(layer, Conv):
        channels, out, *window = layer.weight.shape
        conv: Any = nn.Conv1d if len(window) == 1 else nn.Conv2d
        shape = channels * layer.groups, out, tuple(window)
        rest = layer.stride, layer.padding, layer.dilation, layer.groups, layer.bias is not None
        made = conv(*shape, *rest, device="meta")
    else:
        raise UnsupportedDynamics(f"{type(layer).__name__}: no module for it is known")
    made.weight = nn.Parameter(number(np.swapaxes(layer.weight, 0, 1)))
    if layer.bias is not None:
        made.bias = nn.Parameter(number(layer.bias))
    built: nn.Module = made
    return built


def read_layer(name: str, part: nn.Module) -> Layer:
    """The layer of a module of one of the types in ``READERS``.

    Raises: UnsupportedDynamics: options that no layer has.
    """
    refuse_hooks(name, part)
    return READERS[parametrize.type_before_parametrizations(part)](name, part)


def as_array(value: Tensor) -> Array:
    """A tensor as float64."""
    array: Array = value.detach().cpu().double().numpy()
    return array


def per_neuron(value: Any, shape: Shape) -> float | Array:
    """One number, or one a neuron, spread as torch spreads it over a batch of neurons of that shape.

    Raises: ConfigError: it cannot be spread so.
    """
    array = as_array(value) if isinstance(value, Tensor) else np.asarray(value, np.float64)
    if array.size == 1:
        return float(array.item())
    while array.ndim > len(shape) and array.shape[0] == 1:
        array = array[0]
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ConfigError(f"{array.shape} numbers for neurons of {shape}") from None


def refuse_layer(name: str, feature: str, remedy: str = "") -> NoReturn:
    """Raises: UnsupportedDynamics: always, in one line."""
    raise UnsupportedDynamics(f"layer {name!r}: {feature}" + (f"; {remedy}" if remedy else ""))


def refuse_hooks(name: str, part: nn.Module) -> None:
    """Refuse a module that hooks act on; those of a lazy module are gone when it has run."""
    if any(isinstance(weight, nn.parameter.UninitializedParameter) for weight in part._parameters.values()):
        refuse_layer(name, "its weights are not initialised", "run it once")
    if part._forward_hooks or part._forward_pre_hooks:
        refuse_layer(name, *HOOKED)


def _build_pool(layer: Pool) -> nn.Module:
    line = len(layer.window) == 1
    kinds: dict[Pooling, Any] = {
        Pooling.MAX: nn.MaxPool1d if line else nn.MaxPool2d,
        Pooling.MEAN: nn.AvgPool1d if line else nn.AvgPool2d,
        Pooling.SUM: SumPool1d if line else functools.partial(nn.AvgPool2d, divisor_override=1),
    }
    made: nn.Module = kinds[layer.how](layer.window, layer.stride, layer.padding)
    return made


def _linear(name: str, part: Any) -> Layer:
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
"""Every module that ``read_layer`` reads."""
