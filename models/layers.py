"""The layers of a network's description: what each gives in a step for the sum I of what arrives.

    Input      y = what comes from outside
    Linear     y = I W + b                              W [in, out]
    Conv       y = W * I + b                            W [in / groups, out, window], cross-correlation, zero padding
    Pool       y = mean, sum or maximum of I            over windows, channel by channel
    Flatten    y = I, row after row
    Spiking    y = z, the spikes of ``Dynamics`` under I + recurrence
    Readout    y = v,  v[t] = rest + decay (v[t-1] - rest) + gain u[t]

Recurrence: I[t] += z[t - delay] W, or z[t - delay] * w where each neuron feeds only itself. Shapes are without batch:
(n,) or (channels, length) or (channels, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Self

import numpy as np

from ovonic.models.dynamics import Decay, Dynamics, NonZero, Number, Synapse
from ovonic.models.errors import ConfigError
from ovonic.models.frozen import Array, Record, Weights, Whole, frozen

__all__ = [
    "Conv",
    "Flatten",
    "Input",
    "Layer",
    "Linear",
    "Pool",
    "Pooling",
    "Readout",
    "Recurrence",
    "Spiking",
]

Shape = tuple[int, ...]
Sizes = Annotated[tuple[int, ...], Whole(1, 2**24, many=True)]
Paddings = Annotated[tuple[int, ...], Whole(0, 2**24, many=True)]


class Layer(Record):
    """Base of the layers."""

    def arrives(self, sources: Mapping[str, Shape]) -> Shape:
        """The shape of the sum of what arrives over these edges.

        Raises: ConfigError: nothing arrives, or shapes that cannot be added.
        """
        shapes = set(sources.values())
        if not shapes:
            raise ConfigError("reads nothing: give it an edge")
        if len(shapes) > 1:
            ends = ", ".join(f"{edge} {shape}" for edge, shape in sources.items())
            raise ConfigError(f"reads shapes that cannot be added: {ends}")
        return shapes.pop()

    def gives(self, shape: Shape) -> Shape:
        """The shape this layer gives for ``shape``.

        Raises: ConfigError: it does not fit.
        """
        return shape

    def weights(self) -> dict[str, Array]:
        """Its weights and biases by the name of their part."""
        return {part: array for part, array in self.items() if part in ("weight", "bias") and array is not None}

    def with_weights(self, parts: Mapping[str, Any]) -> Self:
        """A copy with some of them replaced."""
        return self.replace(**parts)


@frozen
class Input(Layer):
    """What comes from outside: spikes or currents of this shape in every step."""

    shape: Sizes

    def arrives(self, sources: Mapping[str, Shape]) -> Shape:
        if sources:
            raise ConfigError(f"an input reads nothing, but there is {', '.join(sources)}")
        return self.shape


@frozen
class Linear(Layer):
    """I W + b; weight [in, out], bias [out] or None."""

    weight: Annotated[Array, Weights((2,))]
    bias: Annotated[Array | None, Weights((1,))] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _fits_bias(self.bias, self.weight.shape[1])

    def gives(self, shape: Shape) -> Shape:
        if shape != self.weight.shape[:1]:
            raise ConfigError(f"Linear.weight: shape {self.weight.shape} [in, out] does not fit an input of {shape}")
        return self.weight.shape[1:]


@frozen
class Conv(Layer):
    """W * I + b over one or two axes of space; weight [in / groups, out, window], as many strides as window axes."""

    weight: Annotated[Array, Weights((3, 4))]
    bias: Annotated[Array | None, Weights((1,))] = None
    stride: Sizes = ()
    padding: Paddings = ()
    dilation: Sizes = ()
    groups: Annotated[int, Whole(1)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _fits_bias(self.bias, self.weight.shape[1])
        _spread(self, self.weight.ndim - 2, stride=1, padding=0, dilation=1)
        if self.weight.shape[1] % self.groups:
            raise ConfigError(f"Conv.groups: {self.groups} do not divide {self.weight.shape[1]} outputs")

    def gives(self, shape: Shape) -> Shape:
        channels, out, *window = self.weight.shape
        if len(shape) != 1 + len(window) or shape[0] != channels * self.groups:
            due = (channels * self.groups, *("any" for _ in window))
            raise ConfigError(f"Conv.weight: shape {self.weight.shape} wants an input of {due}, not {shape}")
        reach = tuple(d * (w - 1) + 1 for d, w in zip(self.dilation, window, strict=True))
        return (out, *_windows(self, shape[1:], reach, self.stride, self.padding))


class Pooling(Enum):
    """What a pooling makes of a window: the mean counts the zeros of the padding, the maximum never takes them."""

    MEAN = "mean"
    SUM = "sum"
    MAX = "max"


@frozen
class Pool(Layer):
    """Pooling over one or two axes of space; stride defaults to the window."""

    how: Pooling
    window: Sizes
    stride: Sizes = ()
    padding: Paddings = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.window) <= 2:
            raise ConfigError(f"Pool.window: {self.window} must have 1 or 2 axes")
        if not self.stride:
            object.__setattr__(self, "stride", self.window)
        _spread(self, len(self.window), stride=1, padding=0)
        if any(2 * p > w for p, w in zip(self.padding, self.window, strict=True)):
            raise ConfigError(f"Pool.padding: {self.padding} exceeds half the window {self.window}")

    def gives(self, shape: Shape) -> Shape:
        if len(shape) != 1 + len(self.window):
            raise ConfigError(f"Pool.window: {self.window} does not fit an input of {shape}")
        return (shape[0], *_windows(self, shape[1:], self.window, self.stride, self.padding))


@frozen
class Flatten(Layer):
    """All axes into one, the last running fastest."""

    def gives(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@frozen
class Recurrence(Record):
    """How a spiking layer feeds back on itself.

    Attributes:
        weight: [n, n], from row to column; or [n], each neuron on itself alone.
        delay: steps from spike to effect, at least 1.
        masked_diagonal: the diagonal of the matrix is kept but has no effect.
    """

    weight: Annotated[Array, Weights((1, 2))]
    delay: Annotated[int, Whole(1)] = 1
    masked_diagonal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.weight.shape)) != 1:
            raise ConfigError(f"Recurrence.weight: shape {self.weight.shape} is not square")
        if self.masked_diagonal and self.weight.ndim == 1:
            raise ConfigError("Recurrence.masked_diagonal: of one-to-one weights nothing would remain")

    @property
    def effective(self) -> Array:
        """The weights that act: with a zero diagonal where it is masked."""
        return self.weight * (1 - np.eye(len(self.weight))) if self.masked_diagonal else self.weight


@frozen
class Spiking(Layer):
    """Spiking neurons: ``Dynamics``, and recurrence if any."""

    dynamics: Dynamics
    recurrence: Recurrence | None = None

    def gives(self, shape: Shape) -> Shape:
        if self.recurrence is not None and shape != self.recurrence.weight.shape[:1]:
            raise ConfigError(
                f"Recurrence.weight: shape {self.recurrence.weight.shape} does not fit neurons of {shape}"
            )
        return shape

    def weights(self) -> dict[str, Array]:
        return {} if self.recurrence is None else {"recurrence": self.recurrence.weight}

    def with_weights(self, parts: Mapping[str, Any]) -> Self:
        assert self.recurrence is not None
        return self.replace(recurrence=self.recurrence.replace(weight=parts["recurrence"]))


@frozen
class Readout(Layer):
    """A leaky integrator that never spikes: v[t] = rest + decay (v[t-1] - rest) + gain u[t], v = v_init before.

    u[t] is what arrives, or the current of ``synapse``; the fields mean what they mean in ``Dynamics``.
    """

    decay: Decay
    gain: NonZero = 1.0
    rest: Number = 0.0
    v_init: Number = 0.0
    synapse: Synapse | None = None


def _fits_bias(bias: Array | None, outputs: int) -> None:
    if bias is not None and bias.shape != (outputs,):
        raise ConfigError(f"bias: shape {bias.shape} where ({outputs},) is due")


def _spread(layer: Layer, axes: int, **defaults: int) -> None:
    """Give each field one number an axis: none is the default, one holds for all."""
    for name, default in defaults.items():
        given = getattr(layer, name) or (default,)
        if len(given) not in (1, axes):
            raise ConfigError(f"{type(layer).__name__}.{name}: {given} must hold 1 or {axes} numbers")
        object.__setattr__(layer, name, given * axes if len(given) == 1 else given)


def _windows(layer: Layer, sizes: Shape, window: Shape, stride: Shape, padding: Shape) -> Shape:
    result = tuple((n + 2 * p - w) // s + 1 for n, w, s, p in zip(sizes, window, stride, padding, strict=True))
    if min(result) < 1:
        raise ConfigError(f"{type(layer).__name__}: a window of {window} does not fit into {sizes}")
    return result
