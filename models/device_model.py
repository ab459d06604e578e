"""What a resistive device does when it is programmed, waits and is read: the protocol, and the draws all models share.

    program  g_prog = max(g_target + sigma_prog(g_target) xi, 0)           drawn at programming, uS
             nu = |mu_nu(g_target) + sigma_nu(g_target) xi|                drawn at programming
    drift    g(a) = g_prog ((a + t_0) / t_0)^-nu                           a: age, s since programming; first read at 0
    read     g_read = max(g(a) (1 + sigma_read(g_prog, a) xi), 0)          accumulated 1/f noise, once a step of time
             sigma_read = q(g_prog) sqrt(ln((a + t_0 + t_read) / (2 t_read)))
    product  a further sigma_product(g) in uS, anew in each product, or none

Each xi is N(0, 1) and each device's own. Tensors are [..., 4, rows, cols] in uS, G1+, G1-, G2+, G2- on axis -3. The
fits (sigma_prog, mu_nu, sigma_nu, q) are each model's: ``ovonic.models.pcm``, ``ovonic.models.hermes``.

A target of 0 is a device that is not to conduct. ``zero_targets="reset"`` leaves it amorphous: exactly 0 uS and nu 0.
``"noisy"`` draws it like any other, so that it holds half-normal conductance, as aihwkit has it.

Gradients: the clamp at 0 uS and a reset device pass them straight through. No function looks at values to decide what
to do, so all of them run under ``torch.func.vmap`` (draws: ``randomness="different"``).

References: S. R. Nandakumar et al., Phase-change memory models for deep learning training and inference, ICECS 2019;
V. Joshi et al., Nature Communications 11:2473 (2020); the forms as in aihwkit 1.2.0, ``aihwkit.inference.noise``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError, nearest

__all__ = [
    "ZERO_TARGETS",
    "DeviceModel",
    "PowerLawDevices",
    "at_least",
    "at_most",
    "normal_like",
    "polynomial",
]

ZERO_TARGETS = ("reset", "noisy")


class DeviceModel(Protocol):
    """A device model: what an array needs to know of its devices.

    Conductances are [..., 4, rows, cols] or, for some cells only, [4, n, 1]: axis -3 holds the four devices of a cell,
    always, so that a model may couple them. A model keeps no state and is compared by value. It may say, by attributes
    ``independent`` and ``zero_targets`` as ``PowerLawDevices`` has them, that an array need not ask it about every
    device; an array asks a model without them about whole cells.
    """

    @property
    def name(self) -> str: ...

    @property
    def g_max_us(self) -> float:
        """Full scale of one device, uS."""

    @property
    def t_0_s(self) -> float:
        """Time from programming to the first read, where drift starts, s."""

    @property
    def t_read_s(self) -> float:
        """Duration of a read, s."""

    def programming_sigma(self, g_target: Tensor) -> Tensor:
        """Standard deviation of the programmed conductance before it is clamped, uS, same shape."""

    def drift_moments(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the drift exponent, before its absolute value is taken."""

    def read_sigma(self, g_prog: Tensor, age_s: Tensor | float) -> Tensor:
        """Standard deviation of the accumulated read noise, relative to the drifted conductance."""

    def product_sigma(self, g: Tensor) -> Tensor | None:
        """Standard deviation of a device that reads ``g`` in a single product, uS; None: no such noise."""

    def program(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw programmed conductances, uS."""

    def draw_nu(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw drift exponents."""

    def drift(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float) -> Tensor:
        """Conductances at ``age_s`` without noise, uS. ``age_s`` broadcasts against them; 0 gives ``g_prog``."""

    def read(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float, generator: torch.Generator | None) -> Tensor:
        """Conductances at ``age_s`` with a draw of the accumulated read noise, uS."""


@dataclass(frozen=True)
class PowerLawDevices:
    """The draws of the equations above. A model inherits them and gives ``fitted_nu`` and ``fitted_q``.

    Attributes:
        g_max_us, t_0_s, t_read_s: see ``DeviceModel``.
        prog_coeff: c_k of sigma_prog = (g_max / prog_reference) sum_k c_k (g / g_max)^k, in uS.
        prog_reference_us: the g_max at which ``prog_coeff`` was fitted, uS.
        prog_scale, drift_scale, read_scale: factors on sigma_prog, on nu, on sigma_read; 0 turns the effect off.
        zero_targets: ``"reset"`` or ``"noisy"``, see above.
        independent: (of the class) no device's draw depends on another device of its cell, so that a model may be asked
            about some devices of a cell only. False unless a model says so.
    """

    independent: ClassVar[bool] = False
    name: str
    g_max_us: float
    t_0_s: float
    t_read_s: float
    prog_coeff: tuple[float, ...]
    prog_reference_us: float
    prog_scale: float = 1.0
    drift_scale: float = 1.0
    read_scale: float = 1.0
    zero_targets: str = "reset"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prog_coeff", tuple(float(c) for c in self.prog_coeff))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_us", "_s")) and not 0 < value < math.inf:
                raise ConfigError(f"{field.name} {value}: must be positive and finite")
            if field.name.endswith("_scale") and not 0 <= value < math.inf:
                raise ConfigError(f"{field.name} {value}: must be 0 or more, and finite")
        if not self.prog_coeff or not all(map(math.isfinite, self.prog_coeff)):
            raise ConfigError(f"prog_coeff {self.prog_coeff}: must be finite numbers, at least one")
        if self.zero_targets not in ZERO_TARGETS:
            raise ConfigError(f"zero_targets {self.zero_targets!r}: {nearest(self.zero_targets, ZERO_TARGETS)}")

    def fitted_sigma(self, g_target: Tensor) -> Tensor:
        """sigma_prog of each target, uS, whatever ``zero_targets`` says."""
        scale = self.prog_scale * self.g_max_us / self.prog_reference_us
        return polynomial(g_target * (1 / self.g_max_us), [c * scale for c in self.prog_coeff])

    def fitted_nu(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        """mu_nu and sigma_nu of each target, before ``drift_scale``; finite, and with finite slope, at 0 too."""
        raise NotImplementedError

    def fitted_q(self, g_prog: Tensor) -> Tensor:
        """q of each programmed conductance, before ``read_scale``; finite, and with finite slope, at 0 too."""
        raise NotImplementedError

    def programming_sigma(self, g_target: Tensor) -> Tensor:
        return self._where_programmed(g_target, self.fitted_sigma(g_target))

    def drift_moments(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        mu, sigma = self.fitted_nu(g_target)
        return (
            self._where_programmed(g_target, mu * self.drift_scale),
            self._where_programmed(g_target, sigma * self.drift_scale),
        )

    def read_sigma(self, g_prog: Tensor, age_s: Tensor | float) -> Tensor:
        return self.fitted_q(g_prog) * (self._root_log(age_s, g_prog.dtype) * self.read_scale)

    def product_sigma(self, g: Tensor) -> Tensor | None:
        return None

    def program(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        sigma = self.programming_sigma(g_target)
        return at_least(torch.addcmul(g_target, sigma, self._normal(g_target, generator)), 0.0)

    def draw_nu(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        mu, sigma = self.drift_moments(g_target)
        return torch.addcmul(mu, sigma, self._normal(g_target, generator)).abs()

    def drift(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float) -> Tensor:
        lapse = self._lapse(age_s, g_prog.dtype)
        return g_prog if isinstance(lapse, float) and lapse == 0 else g_prog * torch.exp(-nu * lapse)

    def read(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float, generator: torch.Generator | None) -> Tensor:
        noise = self.read_sigma(g_prog, age_s) * self._normal(g_prog, generator)
        g = self.drift(g_prog, nu, age_s)
        return at_least(torch.addcmul(g, g, noise), 0.0)

    def _normal(self, g: Tensor, generator: torch.Generator | None) -> Tensor:
        return normal_like(g, generator)

    def _where_programmed(self, g_target: Tensor, value: Tensor) -> Tensor:
        return value if self.zero_targets == "noisy" else value * g_target.sign()

    def _lapse(self, age_s: Tensor | float, dtype: torch.dtype) -> Tensor | float:
        """ln((a + t_0) / t_0), computed in the precision of the clock."""
        if isinstance(age_s, Tensor):
            return torch.log1p(age_s / self.t_0_s).to(dtype)
        return math.log1p(_age(age_s) / self.t_0_s)

    def _root_log(self, age_s: Tensor | float, dtype: torch.dtype) -> Tensor | float:
        if isinstance(age_s, Tensor):
            return torch.log((age_s + self.t_0_s + self.t_read_s) / (2 * self.t_read_s)).sqrt().to(dtype)
        return math.sqrt(math.log((_age(age_s) + self.t_0_s + self.t_read_s) / (2 * self.t_read_s)))


def polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """sum_k coefficients[k] x^k, by Horner's rule."""
    *lower, last = coefficients
    if not lower:
        return torch.full_like(x, last)
    total = x * last + lower.pop()
    while lower:
        total = total * x + lower.pop()
    return total


def at_least(x: Tensor, low: float) -> Tensor:
    """max(x, low), whose gradient passes straight through."""
    return _Clamp.apply(x, low, None)


def at_most(x: Tensor, high: float) -> Tensor:
    """min(x, high), whose gradient passes straight through."""
    return _Clamp.apply(x, None, high)


class _Clamp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float | None, high: float | None) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[object, ...], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None

    @staticmethod
    def jvp(ctx: object, *tangents: Tensor) -> Tensor:
        return tangents[0].clone()


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, 1) of the shape, dtype and device of ``x``; None is torch's global generator."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _age(age_s: float) -> float:
    if not age_s >= 0:
        raise ConfigError(f"age_s {age_s}: a device is read at 0 s after programming at the earliest")
    return age_s
