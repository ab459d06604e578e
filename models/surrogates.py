"""Surrogate gradients: an exact spike forward, a stated slope dz/dv backward.

A surrogate is a callable (x, scale) -> dz/dv at x = v - A, the distance of the membrane from its threshold; scale is
the threshold above rest, by which some measure the distance. It is written with differentiable operations, so that
rules that use the slope itself (e-prop) can be differentiated through it. While a neuron is refractory its slope is
zero: the engine sees to that.

    Triangular   height max(1 - |x / scale|, 0) / scale                   published, with height 0.3; Bellec et al. 2018
    Boxcar       height / scale where |x| <= width scale, else 0
    ArcTan       alpha / 2 / (1 + (pi alpha x / 2)^2)                     snnTorch's default, alpha 2
    FastSigmoid  1 / (1 + slope |x|)^2                                    Zenke & Ganguli 2018; snnTorch, slope 25
    Sigmoid      slope s (1 - s),  s = 1 / (1 + exp(-slope x))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError

__all__ = [
    "PUBLISHED_SLOPE",
    "ArcTan",
    "Boxcar",
    "FastSigmoid",
    "Sigmoid",
    "Surrogate",
    "Triangular",
    "straight_through",
]


class Surrogate(Protocol):
    """The slope dz/dv of a spike; ``scale`` is a number or a tensor of one a neuron."""

    def __call__(self, x: Tensor, scale: Any) -> Tensor: ...


class _Positive:
    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{type(self).__name__}.{name}: {value} must be positive")


@dataclass(frozen=True)
class Triangular(_Positive):
    """height max(1 - |x / scale|, 0) / scale."""

    height: float = 0.3

    def __call__(self, x: Tensor, scale: Any) -> Tensor:
        return self.height * (1 - (x / scale).abs()).clamp(min=0) / scale


@dataclass(frozen=True)
class Boxcar(_Positive):
    """height / scale where |x| <= width scale, else 0."""

    height: float = 0.5
    width: float = 1.0

    def __call__(self, x: Tensor, scale: Any) -> Tensor:
        return (x.abs() <= self.width * scale).to(x.dtype) * self.height / scale


@dataclass(frozen=True)
class ArcTan(_Positive):
    """alpha / 2 / (1 + (pi alpha x / 2)^2); the unit of x is the membrane's, whatever the threshold."""

    alpha: float = 2.0

    def __call__(self, x: Tensor, scale: Any) -> Tensor:
        del scale
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * x) ** 2)


@dataclass(frozen=True)
class FastSigmoid(_Positive):
    """1 / (1 + slope |x|)^2; the unit of x is the membrane's. Norse's ``super`` is slope 1, whatever its alpha says."""

    slope: float = 25.0

    def __call__(self, x: Tensor, scale: Any) -> Tensor:
        del scale
        return 1 / (1 + self.slope * x.abs()) ** 2


@dataclass(frozen=True)
class Sigmoid(_Positive):
    """slope s (1 - s), s = 1 / (1 + exp(-slope x)); the unit of x is the membrane's."""

    slope: float = 25.0

    def __call__(self, x: Tensor, scale: Any) -> Tensor:
        del scale
        return self.slope * torch.sigmoid(self.slope * x) * torch.sigmoid(-self.slope * x)


PUBLISHED_SLOPE = Triangular()
"""The surrogate of Ortner et al. 2025: height 0.3."""


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        return z

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None


def straight_through(x: Tensor, z: Tensor, slope: Tensor) -> Tensor:
    """``z`` itself, with the gradient dz/dx = ``slope``, which is a constant to further derivatives."""
    return _StraightThrough.apply(x, z, slope)
