"""Phase-change devices by name.

    pcm         sigma_prog = .26348 + 1.9650 w - 1.1731 w^2  uS                              w = g / g_max, 25 uS
                mu_nu      = clip(-.0155 ln w + .0244, .049, .1)
                sigma_nu   = clip(-.0125 ln w - .0059, .008, .045)
                q          = min(.0088 / b^.65, .2)             b = w, or g in uS (``read_exponent_base``)
    hermes      one draw a device, hermes-pair one a polarity: ``ovonic.models.hermes``
    published   pcm's fits, used as the published experiments of Ortner et al. 2025 use them: ``Published``
    none        devices that hold their target

The equations of drift and noise around these fits: ``ovonic.models.device_model``.

References: ``pcm``: aihwkit 1.2.0, PCMLikeNoiseModel, after S. R. Nandakumar et al., ICECS 2019, and V. Joshi et al.,
Nature Communications 11:2473 (2020). ``published``: the code of T. Ortner et al., Nature Communications 16:1243 (2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ovonic.models.device_model import DeviceModel, PowerLawDevices, at_least, at_most
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.hermes import Hermes, HermesPair

__all__ = ["DEVICE_MODELS", "PCM", "READ_EXPONENT_BASES", "DeviceModel", "Ideal", "Published", "device_model"]

READ_EXPONENT_BASES = ("relative", "microsiemens")


@dataclass(frozen=True)
class PCM(PowerLawDevices):
    """aihwkit's PCMLikeNoiseModel in closed form.

    Attributes:
        read_exponent_base: b in q = min(.0088 / b^.65, .2): ``"relative"``: g / g_max, as aihwkit has it;
            ``"microsiemens"``: g in uS, as the published code has it, which is 25^.65 = 8.1 times less noise.
    """

    independent: ClassVar[bool] = True
    name: str = "pcm"
    g_max_us: float = 25.0
    t_0_s: float = 20.0
    t_read_s: float = 250e-9
    prog_coeff: tuple[float, ...] = (0.26348, 1.9650, -1.1731)
    prog_reference_us: float = 25.0
    read_exponent_base: str = "relative"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read_exponent_base not in READ_EXPONENT_BASES:
            known = nearest(self.read_exponent_base, READ_EXPONENT_BASES)
            raise ConfigError(f"read_exponent_base {self.read_exponent_base!r}: {known}")

    def fitted_nu(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        log_w = (g_target * (1 / self.g_max_us)).clamp(min=1e-7).log()
        return (
            (-0.0155 * log_w + 0.0244).clamp(0.049, 0.1),
            (-0.0125 * log_w - 0.0059).clamp(0.008, 0.045),
        )

    def fitted_q(self, g_prog: Tensor) -> Tensor:
        base = g_prog * (1 / self.g_max_us) if self.read_exponent_base == "relative" else g_prog
        return (0.0088 * (-0.65 * base.clamp(min=1e-4).log()).exp()).clamp(max=0.2)  # four times faster than a power


@dataclass(frozen=True)
class Published(PCM):
    """The device model of the published experiments (Ortner et al. 2025), for parity.

        g_prog = clip(clip(g_target + sigma_prog xi, 0, g_max) - g_target (1 - 32^-nu), 0, g_max),  nu as in ``pcm``

    It departs from ``pcm`` so:

    - drift to ``drift_time_s`` (the code writes (32 / 1)^-nu) is part of programming, of the target and not of what the
      noise made of it; afterwards nothing drifts: ``draw_nu`` gives 0, a read at any age finds the same conductance;
    - conductance is clipped to [0, g_max], not to [0, inf);
    - read noise does not accumulate. It is white: drawn anew in every product (``product_sigma``), with g in uS as the
      base of the exponent: 1 / 8.1 of aihwkit's;
    - of its two logarithms ``read_log`` picks one. ``"pair"`` (the robot and the convolutions of the CNN):
      L = ln((32 + t_r) / t_r), halved for two devices: here each device has L, and the mean of two devices that share a
      weight equally halves it. ``"single"`` (the CNN's dense layer): L = ln((32 + t_r) / (2 t_r)), not halved: here
      each device has 2 L, so that the mean of two has L.

    It draws once a weight; here two devices that share a weight equally have half that variance. Not copied: its
    transfer of initial weights (U(-.01, .01) in the place of programming noise), its updates relative to the noisy
    weight, and its folding of weights beyond +-1 to about 2 - |w|, a defect. Of the clipping of read noise only the
    variance remains.
    """

    name: str = "published"
    read_exponent_base: str = "microsiemens"
    drift_time_s: float = 32.0
    read_log: str = "pair"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read_log not in ("pair", "single"):
            raise ConfigError(f"read_log {self.read_log!r}: {nearest(self.read_log, ('pair', 'single'))}")

    def program(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        noisy = at_most(super().program(g_target, generator), self.g_max_us)
        nu = super().draw_nu(g_target, generator)
        lost = g_target * (1 - self.drift_time_s**-nu)
        return at_most(at_least(noisy - lost, 0.0), self.g_max_us)

    def draw_nu(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.zeros_like(g_target)

    def drift(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float) -> Tensor:
        return g_prog

    def read_sigma(self, g_prog: Tensor, age_s: Tensor | float) -> Tensor:
        return torch.zeros_like(g_prog)

    def read(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float, generator: torch.Generator | None) -> Tensor:
        return g_prog

    def product_sigma(self, g: Tensor) -> Tensor | None:
        ratio = (self.drift_time_s + self.t_read_s) / self.t_read_s
        log = math.log(ratio) if self.read_log == "pair" else 2 * math.log(ratio / 2)
        return g * self.fitted_q(g) * (self.read_scale * math.sqrt(log))


@dataclass(frozen=True)
class Ideal:
    """Devices that hold their target for ever. No draws."""

    name: str = "none"
    g_max_us: float = 25.0
    t_0_s: float = 20.0
    t_read_s: float = 250e-9

    def __post_init__(self) -> None:
        for field in ("g_max_us", "t_0_s", "t_read_s"):
            if not 0 < getattr(self, field) < math.inf:
                raise ConfigError(f"{field} {getattr(self, field)}: must be positive and finite")

    def programming_sigma(self, g_target: Tensor) -> Tensor:
        return torch.zeros_like(g_target)

    def drift_moments(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(g_target), torch.zeros_like(g_target)

    def read_sigma(self, g_prog: Tensor, age_s: Tensor | float) -> Tensor:
        return torch.zeros_like(g_prog)

    def product_sigma(self, g: Tensor) -> Tensor | None:
        return None

    def program(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        return g_target

    def draw_nu(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.zeros_like(g_target)

    def drift(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float) -> Tensor:
        return g_prog

    def read(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float, generator: torch.Generator | None) -> Tensor:
        return g_prog


_MODELS: dict[str, Callable[..., DeviceModel]] = {
    "pcm": PCM,
    "hermes": Hermes,
    "hermes-pair": HermesPair,
    "published": Published,
    "none": Ideal,
}
DEVICE_MODELS = tuple(_MODELS)


def device_model(name: str, **changes: Any) -> DeviceModel:
    """The device model ``name`` of ``DEVICE_MODELS``, with the named attributes changed.

    Raises: ConfigError: unknown name or attribute, or a value out of range.
    """
    if name not in _MODELS:
        raise ConfigError(f"device model {name!r}: {nearest(name, DEVICE_MODELS)}")
    known = [field.name for field in fields(_MODELS[name])]  # type: ignore[arg-type]
    for change in changes:
        if change not in known:
            raise ConfigError(f"device model {name!r} has no {change!r}: {nearest(change, known)}")
    return _MODELS[name](**changes)
