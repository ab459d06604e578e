"""Any noise model of aihwkit as a device model: drawn by aihwkit itself, so slower and without closed forms.

| protocol | aihwkit (1.2.0) |
|---|---|
| ``program`` | ``apply_programming_noise_to_conductance`` |
| ``draw_nu`` | ``generate_drift_coefficients``; 0 where it gives None |
| ``read`` | ``apply_drift_noise_to_conductance``, once for every age that occurs |
| ``drift`` | the same, of a copy whose ``read_noise_scale`` is 0 |
| ``programming_sigma``, ``drift_moments``, ``read_sigma`` | measured: mean and standard deviation of draws |

aihwkit draws from torch's global generator. It is forked for each call and seeded from the generator that is given, so
that the draws repeat and the caller's own stream is left alone. Gradients pass straight through to the target and to
the programmed conductance. Not for ``torch.func.vmap``: a call looks at values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovonic.adapters.aihwkit_devices import seeded
from ovonic.models.device_model import ZERO_TARGETS
from ovonic.models.errors import ConfigError, ToolchainError, nearest

__all__ = ["SampledModel"]

_VERBS = (
    "apply_programming_noise_to_conductance",
    "generate_drift_coefficients",
    "apply_drift_noise_to_conductance",
)


@dataclass(frozen=True)
class SampledModel:
    """A device model that draws with aihwkit's noise model ``noise_model``.

    Attributes:
        noise_model: any object with the three verbs of the table and ``g_max``; it is not changed.
        zero_targets: ``"reset"``: a device with target 0 holds exactly 0 uS, with nu 0; ``"noisy"``: aihwkit's draw.
        draws: how many draws a measured moment rests on: its standard error is 1 / sqrt(2 draws) of a sigma.

    ``t_0_s`` and ``t_read_s`` are the noise model's own, for information; 0 s and 250 ns where it has none.

    Raises: ConfigError: the object lacks a verb or a ``g_max``, or describes two devices as one.
    """

    noise_model: Any
    zero_targets: str = "reset"
    draws: int = 4096

    def __post_init__(self) -> None:
        kind = type(self.noise_model).__name__
        if missing := [verb for verb in _VERBS if not callable(getattr(self.noise_model, verb, None))]:
            raise ConfigError(f"{kind} is no noise model of aihwkit: it lacks {', '.join(missing)}")
        if not isinstance(getattr(self.noise_model, "g_max", None), (int, float)):
            raise ConfigError(f"{kind} has no g_max: give it a conductance converter with one")
        if getattr(self.noise_model, "num_devices", 1) != 1:
            raise ConfigError(
                f"{kind} with num_devices={self.noise_model.num_devices} describes several devices as one: give it "
                "num_devices=1, or take device_model('hermes-pair'), which draws once a polarity"
            )
        if self.zero_targets not in ZERO_TARGETS:
            raise ConfigError(f"zero_targets {self.zero_targets!r}: {nearest(self.zero_targets, ZERO_TARGETS)}")
        if self.draws < 2:
            raise ConfigError(f"draws {self.draws}: a standard deviation needs 2 or more")

    @property
    def name(self) -> str:
        return type(self.noise_model).__name__

    @property
    def g_max_us(self) -> float:
        return float(self.noise_model.g_max)

    @property
    def t_0_s(self) -> float:
        return float(getattr(self.noise_model, "t_0", 0.0))

    @property
    def t_read_s(self) -> float:
        return float(getattr(self.noise_model, "t_read", 250e-9))

    def program(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        with seeded(_seed(generator)):
            drawn = self.noise_model.apply_programming_noise_to_conductance(g_target.detach().clone())
        return _straight_through(self._where_programmed(g_target, drawn), g_target)

    def draw_nu(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
        with seeded(_seed(generator)):
            nu = self.noise_model.generate_drift_coefficients(g_target.detach().clone())
        return torch.zeros_like(g_target) if nu is None else self._where_programmed(g_target, nu)

    def drift(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float) -> Tensor:
        if not hasattr(self.noise_model, "read_noise_scale"):
            raise ConfigError(f"{self.name} has no read_noise_scale: it cannot drift without drawing noise")
        silent = copy.copy(self.noise_model)
        silent.read_noise_scale = 0.0
        with seeded(0):
            g = _at_ages(silent, g_prog.detach(), nu, age_s)
        return _straight_through(g, g_prog)

    def read(self, g_prog: Tensor, nu: Tensor, age_s: Tensor | float, generator: torch.Generator | None) -> Tensor:
        with seeded(_seed(generator)):
            g = _at_ages(self.noise_model, g_prog.detach(), nu, age_s)
        return _straight_through(g, g_prog)

    def product_sigma(self, g: Tensor) -> Tensor | None:
        return None

    def programming_sigma(self, g_target: Tensor) -> Tensor:
        """Measured, the clamp at 0 uS included."""
        return self._measured(lambda g, generator: self.program(g, generator), g_target)[1]

    def drift_moments(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        """Measured on the exponents as drawn, their absolute value taken."""
        return self._measured(lambda g, generator: self.draw_nu(g, generator), g_target)

    def read_sigma(self, g_prog: Tensor, age_s: Tensor | float) -> Tensor:
        """Measured at nu 0, the clamp at 0 uS included."""
        nu = torch.zeros(self.draws, *g_prog.shape, dtype=g_prog.dtype)
        sigma = self._measured(lambda g, generator: self.read(g, nu, age_s, generator), g_prog)[1]
        return torch.where(g_prog > 0, sigma / g_prog.clamp(min=torch.finfo(g_prog.dtype).tiny), 0.0)

    def _measured(self, draw: Callable[[Tensor, torch.Generator], Tensor], g: Tensor) -> tuple[Tensor, Tensor]:
        drawn = draw(g.detach().expand(self.draws, *g.shape), torch.Generator().manual_seed(0))
        return drawn.mean(0), drawn.std(0)

    def _where_programmed(self, g_target: Tensor, value: Tensor) -> Tensor:
        return value if self.zero_targets == "noisy" else torch.where(g_target.detach() == 0, 0.0, value)


def _at_ages(noise_model: Any, g_prog: Tensor, nu: Tensor, age_s: Tensor | float) -> Tensor:
    """aihwkit's drift knows one time a call: one call for every age that occurs."""
    ages = torch.as_tensor(age_s, dtype=torch.float64)
    if bool((ages < 0).any()):
        raise ConfigError(f"age_s {float(ages.min())}: a device is read at 0 s after programming at the earliest")
    if ages.unique().numel() == 1:
        return _at_age(noise_model, g_prog.clone(), nu, float(ages.flatten()[0]))
    ages = ages.expand(g_prog.shape)
    g = torch.empty_like(g_prog)
    for age in ages.unique():
        where = ages == age
        g[where] = _at_age(noise_model, g_prog[where], nu[where], float(age))
    return g


def _at_age(noise_model: Any, g_prog: Tensor, nu: Tensor, age_s: float) -> Tensor:
    try:
        return noise_model.apply_drift_noise_to_conductance(g_prog, nu, age_s)
    except Exception as error:
        raise ToolchainError(f"{type(noise_model).__name__} at {age_s} s after programming: {error}") from error


def _seed(generator: torch.Generator | None) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator))


def _straight_through(value: Tensor, origin: Tensor) -> Tensor:
    return value.detach() + (origin - origin.detach())
