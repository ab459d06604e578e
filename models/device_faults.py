"""Devices that differ or fail: stuck low, stuck high or stuck anywhere, spread from device to device, limited levels.

    stuck   a device is stuck with probability stuck_low + stuck_high + stuck_random, at 0, at g_max, or at U(0, g_max)
    gain    exp(device_sigma xi - device_sigma^2 / 2),  xi ~ N(0, 1): what a device conducts, relative to its target;
            mean 1, never negative
    levels  targets are rounded to k g_max / (levels - 1), k = 0 .. levels - 1: error uniform in +- step / 2,
            so of standard deviation step / sqrt(12)

Nothing here changes an array: ``draw`` says which devices fail and how, ``faulty`` and ``to_levels`` what then follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.quantise import round_to_step

__all__ = ["FaultDraw", "Faults", "draw", "faulty", "to_levels"]


@dataclass(frozen=True)
class Faults:
    """How devices fail.

    Attributes:
        stuck_low, stuck_high, stuck_random: fractions of devices stuck at 0, at g_max, at a value uniform between.
        device_sigma: spread of what devices conduct for the same target, as the standard deviation of its logarithm.
        levels: how many conductances a device can be programmed to, 2 or more; None: any.
    """

    stuck_low: float = 0.0
    stuck_high: float = 0.0
    stuck_random: float = 0.0
    device_sigma: float = 0.0
    levels: int | None = None

    def __post_init__(self) -> None:
        for name in ("stuck_low", "stuck_high", "stuck_random"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}: a fraction of devices, 0 to 1")
        if self.stuck > 1 + 1e-9:
            raise ConfigError(f"stuck_low, stuck_high and stuck_random add up to {self.stuck}: at most 1")
        if not 0 <= self.device_sigma < math.inf:
            raise ConfigError(f"device_sigma {self.device_sigma}: must be 0 or more, and finite")
        if self.levels is not None and (
            isinstance(self.levels, bool) or self.levels != int(self.levels) or self.levels < 2
        ):
            raise ConfigError(f"levels {self.levels}: a whole number of 2 or more, or None")

    @property
    def stuck(self) -> float:
        """Fraction of devices that are stuck."""
        return self.stuck_low + self.stuck_high + self.stuck_random


class FaultDraw(NamedTuple):
    """One draw of faulty devices, of any shape: ``stuck`` bool, ``level`` where stuck, in units of g_max, ``gain``."""

    stuck: Tensor
    level: Tensor
    gain: Tensor


def draw(
    faults: Faults, shape: tuple[int, ...], generator: torch.Generator | None, dtype: torch.dtype = torch.float32
) -> FaultDraw:
    """Which devices of ``shape`` fail, and how."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    level = torch.rand(shape, generator=generator, dtype=dtype)
    low, high = u < faults.stuck_low, u < faults.stuck_low + faults.stuck_high
    level = torch.where(low, 0.0, torch.where(high, 1.0, level))
    xi = torch.randn(shape, generator=generator, dtype=dtype)
    gain = torch.exp(faults.device_sigma * xi - faults.device_sigma**2 / 2)
    return FaultDraw(u < faults.stuck, level, gain)


def faulty(g: Tensor, drawn: FaultDraw, g_max_us: float) -> Tensor:
    """Conductances [...] as the faulty devices hold them, uS."""
    return torch.where(drawn.stuck, drawn.level * g_max_us, g * drawn.gain)


def to_levels(g_target: Tensor, g_max_us: float, levels: int | None) -> Tensor:
    """Targets that a device of so many levels can hold, nearest; the gradient passes straight through."""
    return g_target if levels is None else round_to_step(g_target, g_max_us / (levels - 1))
