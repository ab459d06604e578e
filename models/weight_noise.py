"""Noise of devices on weights, for meta-training: one normal draw a weight, gradients straight through.

    w_read = w + w_max sigma(w / w_max) xi,   xi ~ N(0, 1)

    Uniform   sigma constant: the crude stand-in for programming error
    Devices   sigma^2 = sum over a cell's four devices of (sigma_prog^2 + (g sigma_read)^2) / (2 g_max)^2
              programming error and accumulated read noise at the first read of a device model, moments matched: what
              ``models.crossbar`` draws device by device, but for its clamps at 0 uS

A full scale w_max is one number for a matrix or one a column, [out]; a weight beyond it has the noise of w_max.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ovonic.models.device_model import DeviceModel
from ovonic.models.errors import ConfigError
from ovonic.models.pcm import device_model
from ovonic.models.shared_draws import Source, common, normal
from ovonic.models.splitting import conductances

__all__ = ["Devices", "NoisyWeights", "Uniform", "WeightNoise", "noisy", "weight_noise"]


class WeightNoise(Protocol):
    """Standard deviation of a weight's reading, both in units of full scale, any shape with two last axes."""

    def sigma(self, w: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Uniform:
    """The same noise on every weight. ``level``: its standard deviation, in units of full scale."""

    level: float

    def __post_init__(self) -> None:
        if not 0 <= self.level < math.inf:
            raise ConfigError(f"weight noise {self.level}: must be 0 or more, and finite")

    def sigma(self, w: Tensor) -> Tensor:
        return torch.full_like(w, self.level)


@dataclass(frozen=True)
class Devices:
    """The noise of four devices a weight. ``split``: a name of ``splitting.SPLITS``."""

    model: DeviceModel
    split: str = "fill"

    def sigma(self, w: Tensor) -> Tensor:
        g = conductances(w, self.model.g_max_us, self.split)
        variance = self.model.programming_sigma(g).square() + (g * self.model.read_sigma(g, 0.0)).square()
        return variance.sum(-3).sqrt() / (2 * self.model.g_max_us)


def weight_noise(level: float = 0.0, noise_model: str | None = None) -> WeightNoise | None:
    """The noise of a training's options: a uniform ``level``, or the devices of a model by name; neither is none.

    Raises: ConfigError: both, or no such model.
    """
    if noise_model is None:
        return Uniform(level) if level else None
    if level:
        raise ConfigError(f"weight noise {level:g} and noise model {noise_model}: give one of them")
    return Devices(device_model(noise_model))


def noisy(w: Tensor, noise: WeightNoise, w_max: Tensor, generator: Source | None = None) -> Tensor:
    """A reading of ``w`` [..., in, out]; the gradient passes straight through.

    Args: w_max: full scale, scalar or [out]; a column of zeros has no noise.
    """
    return w + _error(w, noise, w_max, generator)


def _error(w: Tensor, noise: WeightNoise, w_max: Tensor, generator: Source | None) -> Tensor:
    with torch.no_grad():
        sigma = noise.sigma(w / w_max.clamp(min=torch.finfo(w.dtype).tiny)) * w_max
        return sigma * normal(w, generator)


class NoisyWeights:
    """One chip's noise on the trainee of natural e-prop, for one batch of lessons: a ``natural_eprop.Products``.

    The weights that all lessons start from are read once, the same for all; in each lesson the weights that an update
    changes are programmed anew, each with a draw of its own, and all others keep theirs. Full scale is the largest |w|
    of each matrix.

    Args: noise: of the devices; generator: of its draws, in the order of the calls.
    """

    def __init__(self, noise: WeightNoise, generator: Source) -> None:
        self.noise, self.generator = noise, generator
        self._scales: dict[str, Tensor] = {}
        self._errors: dict[str, Tensor] = {}
        self._changes: dict[str, Tensor] = {}

    def __call__(self, weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        placed: dict[str, Tensor] = {}
        for name, w in weights.items():
            if name not in self._errors:
                self._scales[name] = w.detach().abs().max()
                self._errors[name] = _error(w, self.noise, self._scales[name], common(self.generator))
            target = w
            if name in changes:
                target = w + changes[name]
                before = self._changes.get(name, torch.zeros_like(w))
                programmed = torch.nonzero(changes[name].detach() != before, as_tuple=True)
                fresh = _error(target[programmed][:, None], self.noise, self._scales[name], self.generator)
                self._errors[name] = self._errors[name].expand_as(target).clone()
                self._errors[name][programmed] = fresh[:, 0]
                self._changes[name] = changes[name].detach()
            placed[name] = target + self._errors[name]
        return placed
