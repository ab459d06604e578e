"""Digital compensation of drift: a factor behind the ADC, from reading the array now and after programming.

    global    alpha   = sum_j |s_j(0)| / sum_j |s_j(now)|       one factor an array
    column    alpha_j = |s_j(0)| / |s_j(now)|                   one a column

s is a signature of the array. Two kinds:

    exact     s_j = sum_i |w_ij|: known only to a simulator; its global factor is aihwkit's GlobalDriftCompensation
    measured  s_j = mean over repeats of ADC(v w)_j for v = +-``level`` of every row, each sign as often: what a chip
              can do; through the DAC, the noise of a product, gain, offset and rounding of the ADC. An offset cancels
              between the signs, and the gain in the ratio.

With all devices drifting by one exponent, w(now) = w(0) t^-nu, every factor of the exact signature is t^nu. A column
whose signature is below ``floor`` has nothing to measure by and takes the global factor: a column whose weights sum to
nearly zero has a measured signature of nothing but noise.

References: Joshi et al. 2020, Nature Communications 11:2473 (global, from calibration inputs); aihwkit 1.2.0,
``inference.compensation.drift``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovonic.models.array_products import ArrayReader
from ovonic.models.errors import ConfigError

__all__ = ["exact_signature", "factors", "measured_signature"]


def exact_signature(weights: Tensor) -> Tensor:
    """Sums of |w| over the rows, [..., columns], of weights [..., rows, columns]."""
    return weights.abs().sum(-2)


def measured_signature(
    reader: ArrayReader, generator: torch.Generator | None, *, level: float = 1.0, repeats: int = 8
) -> Tensor:
    """Read calibration inputs through the converters: [..., columns].

    Args:
        reader: the array as it reads now; its own ``scale`` is in what it measures: give one without.
        level: of every row, in units of the DAC's full scale; choose it so that few columns saturate.
        repeats: reads of each sign, averaged: the cost is twice so many MVMs.
    Raises: ConfigError: level outside 0..1, repeats below 1.
    """
    if not 0 < level <= 1:
        raise ConfigError(f"level {level}: choose a share of the DAC's range, above 0 and at most 1")
    if repeats < 1:
        raise ConfigError(f"repeats {repeats}: at least 1")
    *lead, rows, _ = reader.weights.shape
    v = torch.full((repeats, rows), level, dtype=reader.weights.dtype, device=reader.weights.device)
    x = torch.cat([v, -v]).expand(*lead, 2 * repeats, rows)
    y = reader.product(x, generator)
    return (y[..., :repeats, :].mean(-2) - y[..., repeats:, :].mean(-2)) / 2.0


def factors(before: Tensor, now: Tensor, kind: str, *, floor: float = 1e-6) -> Tensor:
    """The factors behind the ADC, [..., columns] (``"column"``) or [..., 1] (``"global"``): ``ArrayReader``'s scale.

    Args:
        before, now: signatures of the same kind, [..., columns], right after programming and now.
        floor: signature below which a column takes the global factor; an array without any keeps 1.
    Raises: ConfigError: an unknown kind; signatures of different shapes; a floor that is not positive.
    """
    if kind not in ("global", "column"):
        raise ConfigError(f"compensation {kind!r}: choose 'global' or 'column'")
    if before.shape != now.shape:
        raise ConfigError(f"signatures of shapes {list(before.shape)} and {list(now.shape)}: not of one array")
    if not floor > 0:
        raise ConfigError(f"floor {floor}: must be positive")
    then, later = before.abs().sum(-1, keepdim=True), now.abs().sum(-1, keepdim=True)
    whole = torch.where((then > floor) & (later > floor), then / later.clamp(min=floor), torch.ones_like(then))
    if kind == "global":
        return whole
    seen = (before.abs() > floor) & (now.abs() > floor)
    return torch.where(seen, before.abs() / now.abs().clamp(min=floor), whole)
