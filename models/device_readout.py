"""The dense layer on devices that keep their state: what is digital about it, for hardware of any kind.

    target   W_{k+1} = clip(Q(W_k + dW), -w_max, w_max)        kept digitally
    devices  programmed where g_target(W_{k+1}) != g_target(W_k), untouched elsewhere
    read     logits = mean over ``reads`` products with the devices as they read now

Beyond full scale a target is clipped and counted (the published code folds w > 1 to about 2 - w: a defect).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.maml import Precision
from ovonic.models.quantise import round_to_step
from ovonic.models.seeds import derive_seed, stream

__all__ = ["DeviceReadout", "readout_scale"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceReadout(ABC):
    """The digital side of a dense layer on devices: a ``Readout`` of ``models.maml``, batched over tasks.

    It keeps the target weights. ``updated`` programs only the devices whose target changes; all others keep
    conductance, drift exponent, programming time and present reading bit for bit. Of a weight that keeps its sign at
    most two devices change, of one that changes it at most four.

    Attributes:
        w: target weights, [tasks, n_way, channels]; w_max: the array's full scale.
        devices: state of the devices, a NamedTuple of tensors whose first dimension is the tasks.
        seed, now_s: of this array's draws; its clock.
        precision: rounding of W + dW (4 bit: the targets lie on the 16-level grid).
        update_step: round dW stochastically to multiples of this (published: 1/16); None programs every change.
        reads: products averaged digitally at each read.
        programmings: how often the array has been programmed or updated.
        cells_reprogrammed, devices_reprogrammed: touched by the last update, [tasks] int64 (by programming: all).
        saturated: targets beyond +-w_max at the last update, clipped to it, [tasks] int64.
    """

    w: Tensor
    w_max: float
    devices: Any
    seed: int
    cells_reprogrammed: Tensor
    devices_reprogrammed: Tensor
    saturated: Tensor
    precision: Precision = field(default_factory=Precision)
    update_step: float | None = None
    reads: int = 1
    now_s: float = 0.0
    programmings: int = 1
    _products: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @abstractmethod
    def weights(self) -> Tensor:
        """The weights as the devices read now, [tasks, n_way, channels]."""

    @abstractmethod
    def _product(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """One product through the converters, in units of full scale: [tasks, S, channels] -> [tasks, S, n_way]."""

    @abstractmethod
    def _reprogrammed(self, w: Tensor, seed: int) -> tuple[Any, Tensor]:
        """The devices after programming those whose target changes, and which: bool with the four devices on axis 1."""

    @abstractmethod
    def _advanced(self, now_s: float, seed: int) -> Any:
        """The devices when the clock shows ``now_s``."""

    def for_tasks(self, tasks: int, first_task: int = 0) -> Self:
        """The same programmed array under the hands of ``tasks`` tasks, each with draws of its own from here on.

        Args: first_task: names the batch: the same array, batch and number of tasks give the same bits.
        """
        return replace(
            self,
            w=self.w.expand(tasks, -1, -1),
            devices=type(self.devices)(*(x.expand(tasks, *x.shape[1:]) for x in self.devices)),
            seed=derive_seed(self.seed, "tasks", first_task),
            cells_reprogrammed=self.cells_reprogrammed.expand(tasks),
            devices_reprogrammed=self.devices_reprogrammed.expand(tasks),
            saturated=self.saturated.expand(tasks),
            _products=itertools.count(1),
        )

    @property
    def products_seed(self) -> int:
        """Seed of this state's reads; the nth read draws from (products_seed, "product", n)."""
        return derive_seed(self.seed, "state", self.programmings, self.now_s)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Read through the converters, every product with new noise: [tasks, S, channels] -> [tasks, S, n_way]."""
        logits = torch.zeros(())
        for _ in range(self.reads):
            generator = stream(self.products_seed, "product", next(self._products))
            logits = logits + self._product(features, generator)
        return logits * (self.w_max / self.reads)

    @torch.no_grad()
    def updated(self, delta: Tensor) -> Self:
        """Add ``delta`` [tasks, n_way, channels] to the targets and program what changes."""
        rounding = stream(self.seed, "round", self.programmings)
        if self.update_step is not None:
            delta = round_to_step(delta, self.update_step, "stochastic", rounding)
        return self.programmed_to(self.precision.round_readout(self.w + delta, rounding))

    @torch.no_grad()
    def programmed_to(self, target: Tensor) -> Self:
        """Take ``target`` [tasks, n_way, channels] as the weights and program what changes."""
        w = target.clamp(-self.w_max, self.w_max)
        devices, touched = self._reprogrammed(w, derive_seed(self.seed, "program", self.programmings))
        return replace(
            self,
            w=w,
            devices=devices,
            programmings=self.programmings + 1,
            cells_reprogrammed=touched.any(dim=1).sum(dim=(1, 2)),
            devices_reprogrammed=touched.sum(dim=(1, 2, 3)),
            saturated=(w != target).sum(dim=(1, 2)),
            _products=itertools.count(1),
        )

    @torch.no_grad()
    def at(self, now_s: float) -> Self:
        """The same array when its clock shows ``now_s``: drifted, its accumulated read noise drawn anew.

        At the present clock nothing changes but the noise of the products to come.
        Raises: ConfigError: ``now_s`` lies in the past.
        """
        if now_s == self.now_s:
            return replace(self, seed=derive_seed(self.seed, "again"), _products=itertools.count(1))
        if now_s < self.now_s:
            raise ConfigError(f"time {now_s} s: the array's clock already shows {self.now_s} s")
        devices = self._advanced(now_s, derive_seed(self.seed, "advance", self.programmings, float(now_s)))
        return replace(self, devices=devices, now_s=float(now_s), _products=itertools.count(1))


def readout_scale(given: float | None, weight: Tensor, precision: Precision) -> float:
    """Full scale of the read-out's array for the initial ``weight`` of any shape, where none is ``given``.

    Adapted weights outgrow initial ones, which may all be zero, and a scale too large wastes conductance: at few bits
    the range of the grid; else 1.1 max |W_0|, at least 0.5 (the published network's adapted weights reach 0.42 from
    initial ones of 0.47).
    """
    if given is not None:
        return given
    if precision.bits != 32:
        return precision.readout_range
    return max(0.5, 1.1 * float(weight.abs().max()))
