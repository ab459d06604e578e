"""Devices of the IBM HERMES project chip, as aihwkit fits them: one draw a device, or one a polarity of two.

With x = g / g_max; n the devices of the fit (1: 10.35 uS, t_0 200 s; 2: 20.7 uS, t_0 300 s); t_read 512 ns:

    sigma_prog = .1578 + 2.3244 x - 2.1631 x^2 + .6884 x^3 uS          n = 1
               = .1660 + 4.7181 x - 8.4810 x^2 + 4.6896 x^3 uS         n = 2
    mu_nu      = clip(-.0387 ln x - .0182, .072, .13)                   x < .0945
               = .0736 - .0126 x - .0436 x^2                            otherwise
    sigma_nu   = clip(-.0120 ln x - .0023, .0124, .04)                  n = 1, x < .3039
               = .0104 + .0116 x - .0165 x^2                            n = 1, otherwise
               = clip(-.0117 ln x - .0057, .0091, .04)                  n = 2, x < .3055
               = .0073 + .0093 x - .0118 x^2                            n = 2, otherwise
    q          = clip(-.0078 ln x + .0038, .0179, .04)                  n = 1, x < .1591
               = .0088 + .0768 x - .1352 x^2 + .0664 x^3                n = 1, otherwise
               = clip(-.0117 ln x - .0069, .015, .04)                   n = 2, x < .16
               = .0123 + .0211 x - .0280 x^2 + .0069 x^3                n = 2, otherwise

``Hermes`` (n = 1) draws each device by itself. ``HermesPair`` (n = 2) draws the sum of a polarity's two devices, which
is what the fit of two devices describes, never each device by it: that would average twice.

References: aihwkit 1.2.0, HermesNoiseModel; chip: M. Le Gallo et al., Nature Electronics 6:680 (2023); two devices:
A. Vasilopoulos et al., IEEE Trans. Electron Devices 70:6279 (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovonic.models.device_model import PowerLawDevices, normal_like, polynomial

__all__ = ["Hermes", "HermesPair", "drift_moments", "read_coefficient"]

_TINY = 1e-7


def drift_moments(x: Tensor, num_devices: int) -> tuple[Tensor, Tensor]:
    """mu_nu and sigma_nu at x = g / g_max of any shape."""
    log_x = x.clamp(min=_TINY).log()
    mu = torch.where(
        x < 0.0945,
        (-0.0387 * log_x - 0.0182).clamp(0.072, 0.13),
        polynomial(x, (0.0736, -0.0126, -0.0436)),
    )
    if num_devices == 1:
        low, high = (-0.0120 * log_x - 0.0023).clamp(0.0124, 0.04), polynomial(x, (0.0104, 0.0116, -0.0165))
        return mu, torch.where(x < 0.3039, low, high)
    low, high = (-0.0117 * log_x - 0.0057).clamp(0.0091, 0.04), polynomial(x, (0.0073, 0.0093, -0.0118))
    return mu, torch.where(x < 0.3055, low, high)


def read_coefficient(x: Tensor, num_devices: int) -> Tensor:
    """q at x = g_prog / g_max of any shape."""
    log_x = x.clamp(min=_TINY).log()
    if num_devices == 1:
        low = (-0.0078 * log_x + 0.0038).clamp(0.0179, 0.04)
        return torch.where(x < 0.1591, low, polynomial(x, (0.0088, 0.0768, -0.1352, 0.0664)))
    low = (-0.0117 * log_x - 0.0069).clamp(0.015, 0.04)
    return torch.where(x < 0.16, low, polynomial(x, (0.0123, 0.0211, -0.0280, 0.0069)))


@dataclass(frozen=True)
class Hermes(PowerLawDevices):
    """One draw a device (aihwkit's ``HermesNoiseModel(num_devices=1)``)."""

    independent: ClassVar[bool] = True
    name: str = "hermes"
    g_max_us: float = 10.35
    t_0_s: float = 200.0
    t_read_s: float = 512e-9
    prog_coeff: tuple[float, ...] = (0.15781817, 2.32443916, -2.16310839, 0.68841818)
    prog_reference_us: float = 10.35

    def fitted_nu(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        return drift_moments(g_target / self.g_max_us, 1)

    def fitted_q(self, g_prog: Tensor) -> Tensor:
        return read_coefficient(g_prog / self.g_max_us, 1)


@dataclass(frozen=True)
class HermesPair(PowerLawDevices):
    """One draw a polarity (aihwkit's ``HermesNoiseModel(num_devices=2)``), shared by its two devices.

        S = g1 + g2 of a polarity:  sigma_prog, nu and q are functions of S / (2 g_max), and xi is the polarity's
        g_prog_k = S_prog share_k,  share_k = g_target_k / S_target, 1/2 where both targets are 0

    So the sum is distributed as aihwkit's unit of two devices. Where only one of the two is programmed anew, it takes
    its share of a fresh draw of the sum; the other stays.

    Attributes: ``g_max_us`` is the full scale of one device, half of the fit's 20.7 uS; ``prog_coeff`` and
    ``prog_reference_us`` are the polarity's.
    """

    name: str = "hermes-pair"
    g_max_us: float = 10.35
    t_0_s: float = 300.0
    t_read_s: float = 512e-9
    prog_coeff: tuple[float, ...] = (0.16603222, 4.71806468, -8.48101252, 4.68961419)
    prog_reference_us: float = 20.7

    def fitted_sigma(self, g_target: Tensor) -> Tensor:
        total = _polarity_sum(g_target)
        sigma = polynomial(total / (2 * self.g_max_us), self.prog_coeff)
        return _shares(g_target, total) * sigma * (self.prog_scale * 2 * self.g_max_us / self.prog_reference_us)

    def fitted_nu(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        return drift_moments(_polarity_sum(g_target) / (2 * self.g_max_us), 2)

    def fitted_q(self, g_prog: Tensor) -> Tensor:
        return read_coefficient(_polarity_sum(g_prog) / (2 * self.g_max_us), 2)

    def _normal(self, g: Tensor, generator: torch.Generator | None) -> Tensor:
        xi = normal_like(g[..., :2, :, :], generator)
        return torch.cat([xi, xi], dim=-3)


def _polarity_sum(g: Tensor) -> Tensor:
    """[..., 4, rows, cols] -> G1 + G2 of each device's polarity, same shape."""
    return g + g.roll(2, dims=-3)


def _shares(g_target: Tensor, total: Tensor) -> Tensor:
    return torch.where(total == 0, 0.5, g_target / torch.where(total == 0, 1.0, total))
