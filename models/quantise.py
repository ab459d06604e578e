"""Rounding of weights to a few bits, with the straight-through gradient.

The grid of b bits has 2**b levels k / n, n = 2**(b - 1), k = -n .. n - 1: at 4 bits 16 levels from -1 to 7/8 in steps
of 1/8. Reference: Ortner et al. 2025, Nature Communications 16:1243, and its published code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.shared_draws import Source, uniform

__all__ = ["ROUNDINGS", "levels", "quantise", "round_to_step"]

ROUNDINGS = ("stochastic", "nearest")


def levels(bits: int) -> Tensor:
    """The grid of ``bits`` bits, [2**bits] float32, ascending."""
    n = 2 ** (bits - 1)
    return torch.arange(-n, n, dtype=torch.float32) / n


def quantise(w: Tensor, bits: int, rounding: str = "stochastic", generator: Source | None = None) -> Tensor:
    """Round ``w`` to the grid of ``bits`` bits; the gradient passes straight through.

    Args:
        w: weights of any shape, dimensionless, nominally in -1..1; values outside the grid are clipped to its ends.
        bits: 2 to 16; 32 returns ``w`` itself (no rounding).
        rounding: ``"stochastic"`` adds U(-0.5, 0.5) of a step before rounding, so that values inside the grid are
            unbiased; ``"nearest"`` rounds half to even.
        generator: source of the stochastic rounding.
    Raises: ConfigError: ``bits`` or ``rounding`` unknown.
    """
    if bits == 32:
        return w
    if not 2 <= bits <= 16:
        raise ConfigError(f"bits {bits}: weights are kept at 2 to 16 bits, or 32 for no rounding")
    n = 2 ** (bits - 1)
    with torch.no_grad():
        rounded = _round(w * n, rounding, generator).clamp_(-n, n - 1).div_(n)
    return _straight_through(w, rounded)


def round_to_step(delta: Tensor, step: float, rounding: str = "nearest", generator: Source | None = None) -> Tensor:
    """Round ``delta`` to multiples of ``step``, unclipped; the gradient passes straight through.

    Raises: ConfigError: ``step`` is not positive or ``rounding`` unknown.
    """
    if not step > 0:
        raise ConfigError(f"step {step}: must be positive")
    with torch.no_grad():
        rounded = _round(delta / step, rounding, generator).mul_(step)
    return _straight_through(delta, rounded)


def _round(x: Tensor, rounding: str, generator: Source | None) -> Tensor:
    if rounding == "nearest":
        return torch.round(x)
    if rounding == "stochastic":
        below = torch.floor(x)
        u = uniform(x, generator)
        return below + (u >= 1 - (x - below))  # exact where x + u - 0.5 rounds, and would move levels
    raise ConfigError(f"rounding {rounding!r}: choose one of {', '.join(ROUNDINGS)}")


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, w: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _straight_through(w: Tensor, rounded: Tensor) -> Tensor:
    return _StraightThrough.apply(w, rounded)
