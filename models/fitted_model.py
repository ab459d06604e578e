"""A device model whose fits are numbers measured on one's own devices (``models.pcm_fit`` makes it).

    sigma_prog = sum_k c_k w^k  uS, at least 0                         w = g / g_max
    mu_nu, sigma_nu = lines through their values at knots of ln w, constant beyond the outer knots
    q = c max(w, w_floor)^-p                                           c = 0: no read noise was measured

Everything else is ``models.device_model``'s: drift from t_0 on, accumulated read noise, RESET devices at target 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovonic.models.device_model import PowerLawDevices
from ovonic.models.errors import ConfigError

__all__ = ["FittedModel", "through_knots"]

LOWEST = 1e-7
"""Least w whose logarithm is taken."""


@dataclass(frozen=True)
class FittedModel(PowerLawDevices):
    """See the module's text.

    Attributes:
        prog_coeff: c_k, uS, with ``prog_reference_us`` equal to ``g_max_us``.
        nu_knots: ln w, rising; nu_mean, nu_sigma: at the knots.
        q_scale, q_power, q_floor: c, p and w_floor of the read noise.
    """

    independent: ClassVar[bool] = True
    name: str = "fitted"
    g_max_us: float = 25.0
    t_0_s: float = 20.0
    t_read_s: float = 250e-9
    prog_coeff: tuple[float, ...] = (0.0,)
    prog_reference_us: float = 25.0
    nu_knots: tuple[float, ...] = (0.0,)
    nu_mean: tuple[float, ...] = (0.0,)
    nu_sigma: tuple[float, ...] = (0.0,)
    q_scale: float = 0.0
    q_power: float = 0.0
    q_floor: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("nu_knots", "nu_mean", "nu_sigma"):
            values = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or not all(map(math.isfinite, values)):
                raise ConfigError(f"{name} {values}: must be finite numbers, at least one")
            if len(values) != len(self.nu_knots):
                raise ConfigError(f"{name}: {len(values)} numbers for {len(self.nu_knots)} knots")
        if any(a >= b for a, b in itertools.pairwise(self.nu_knots)):
            raise ConfigError(f"nu_knots {self.nu_knots}: must rise")
        if min(self.nu_sigma) < 0:
            raise ConfigError(f"nu_sigma {self.nu_sigma}: must be 0 or more")
        if not math.isfinite(self.q_power) or not 0 < self.q_floor <= 1:
            raise ConfigError(
                f"q_power {self.q_power}, q_floor {self.q_floor}: a finite power, and a floor in 0..1 are due"
            )

    def fitted_sigma(self, g_target: Tensor) -> Tensor:
        return super().fitted_sigma(g_target).clamp(min=0.0)

    def fitted_nu(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        log_w = (g_target / self.g_max_us).clamp(min=LOWEST).log()
        return through_knots(log_w, self.nu_knots, self.nu_mean), through_knots(log_w, self.nu_knots, self.nu_sigma)

    def fitted_q(self, g_prog: Tensor) -> Tensor:
        return self.q_scale * (g_prog / self.g_max_us).clamp(min=self.q_floor) ** -self.q_power


def through_knots(x: Tensor, knots: Sequence[float], values: Sequence[float]) -> Tensor:
    """The line through ``values`` at rising ``knots``, constant beyond the outer ones."""
    total = torch.full_like(x, values[0])
    for (a, b), (v, w) in zip(itertools.pairwise(knots), itertools.pairwise(values), strict=True):
        total = total + (x - a).clamp(0.0, b - a) * ((w - v) / (b - a))
    return total
