"""The dense layer on an array that keeps its devices: each update programs only what changes.

    target   W_{k+1} = clip(Q(W_k + dW), -w_max, w_max)        kept digitally
    devices  programmed where g_target(W_{k+1}) != g_target(W_k), untouched elsewhere
    read     logits = ADC(DAC(f) (W_read + read noise of this product)'),   W_read from the devices as they read now

Beyond full scale a target is clipped and counted (the published code folds w > 1 to about 2 - w: a defect).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ovonic.adapters.aihwkit_devices import (
    DeviceState,
    Hardware,
    NoiseModel,
    advance,
    derive_seed,
    load_tiles,
    program,
    reprogram,
    to_conductances,
    to_weights,
)
from ovonic.models.errors import ConfigError
from ovonic.models.maml import Precision
from ovonic.models.quantise import round_to_step

__all__ = ["StatefulReadout"]


@dataclass(frozen=True, eq=False)
class StatefulReadout:
    """The dense layer on an array that keeps its devices: a ``Readout`` of ``models.maml``, batched over tasks.

    The digital side keeps the target weights. ``updated`` programs only the devices whose target changes; all others
    keep conductance, drift exponent, programming time and present reading bit for bit. Of a weight that keeps its sign
    at most two devices change, of one that changes it at most four.

    Attributes:
        w: target weights, [tasks, n_way, channels]; w_max: the array's full scale (``Hardware.readout_scale``).
        devices: state of the four devices of each, [tasks, 4, n_way, channels].
        seed, now_s: of this array's draws; its clock.
        precision: rounding of W + dW (4 bit: the targets lie on the 16-level grid).
        update_step: round dW stochastically to multiples of this (published: 1/16); None programs every change.
        programmings: how often the array has been programmed or updated.
        cells_reprogrammed, devices_reprogrammed: touched by the last update, [tasks] int64 (by programming: all).
        saturated: targets beyond +-w_max at the last update, clipped to it, [tasks] int64.
    """

    w: Tensor
    w_max: float
    devices: DeviceState
    hardware: Hardware
    model: NoiseModel
    seed: int
    cells_reprogrammed: Tensor
    devices_reprogrammed: Tensor
    saturated: Tensor
    precision: Precision = field(default_factory=Precision)
    update_step: float | None = None
    now_s: float = 0.0
    programmings: int = 1
    _products: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    def program(
        cls,
        weight: Tensor,
        hardware: Hardware | None = None,
        *,
        seed: int,
        precision: Precision | None = None,
        update_step: float | None = None,
    ) -> StatefulReadout:
        """Program the initial weights [n_way, channels] into an array of their own, once: a read-out of one task.

        Raises: ToolchainError: aihwkit is missing or broken. ConfigError: larger than an array.
        """
        hardware, precision = hardware or Hardware(), precision or Precision()
        n_way, channels = weight.shape
        if channels > hardware.rows or n_way > hardware.columns:
            raise ConfigError(
                f"read-out of {channels} rows and {n_way} columns: an array has {hardware.rows} x {hardware.columns}"
            )
        model = load_tiles().make_noise_model(hardware)
        rounding = torch.Generator().manual_seed(derive_seed(seed, "round", 0))
        target = precision.round_readout(weight.detach()[None].clone(), rounding)
        w_max = hardware.readout_scale(target, precision)
        w = target.clamp(-w_max, w_max)
        devices = program(
            model,
            to_conductances(w / w_max, model.g_max, hardware.split),
            now_s=0.0,
            seed=derive_seed(seed, "program", 0),
            zero_targets=hardware.zero_targets,
        )
        cells = torch.tensor([w.numel()])
        saturated = (w != target).sum(dim=(1, 2))
        return cls(w, w_max, devices, hardware, model, seed, cells, 4 * cells, saturated, precision, update_step)

    def for_tasks(self, tasks: int, first_task: int = 0) -> StatefulReadout:
        """The same programmed array under the hands of ``tasks`` tasks, each with draws of its own from here on.

        Args: first_task: names the batch: the same array, batch and number of tasks give the same bits.
        """
        return replace(
            self,
            w=self.w.expand(tasks, -1, -1),
            devices=DeviceState(*(x.expand(tasks, -1, -1, -1) for x in self.devices)),
            seed=derive_seed(self.seed, "tasks", first_task),
            cells_reprogrammed=self.cells_reprogrammed.expand(tasks),
            devices_reprogrammed=self.devices_reprogrammed.expand(tasks),
            saturated=self.saturated.expand(tasks),
            _products=itertools.count(1),
        )

    def weights(self) -> Tensor:
        """The weights as the devices read now, [tasks, n_way, channels]."""
        return to_weights(self.devices.g_read, self.model.g_max) * self.w_max

    @property
    def products_seed(self) -> int:
        """Seed of this state's reads; the nth read draws from (products_seed, "product", n)."""
        return derive_seed(self.seed, "state", self.programmings, self.now_s)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Read through the converters, every product with new noise: [tasks, S, channels] -> [tasks, S, n_way]."""
        hardware = self.hardware
        converters = hardware.converters(hardware.activation_range, hardware.readout_adc_range)
        w = to_weights(self.devices.g_read, self.model.g_max)
        logits = torch.zeros(())
        for _ in range(hardware.readout_reads):
            seed = derive_seed(self.products_seed, "product", next(self._products))
            logits = logits + converters.product(features, w, torch.Generator().manual_seed(seed))
        return logits * (self.w_max / hardware.readout_reads)

    @torch.no_grad()
    def updated(self, delta: Tensor) -> StatefulReadout:
        """Add ``delta`` [tasks, n_way, channels] to the targets and program what changes, at the clock ``now_s``."""
        hardware = self.hardware
        rounding = torch.Generator().manual_seed(derive_seed(self.seed, "round", self.programmings))
        if self.update_step is not None:
            delta = round_to_step(delta, self.update_step, "stochastic", rounding)
        target = self.precision.round_readout(self.w + delta, rounding)
        w = target.clamp(-self.w_max, self.w_max)
        devices, touched = reprogram(
            self.devices,
            self.model,
            to_conductances(w / self.w_max, self.model.g_max, hardware.split),
            now_s=self.now_s,
            seed=derive_seed(self.seed, "program", self.programmings),
            zero_targets=hardware.zero_targets,
        )
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

    def at(self, now_s: float) -> StatefulReadout:
        """The same array when its clock shows ``now_s``: drifted, its accumulated read noise drawn anew.

        At the present clock nothing changes but the noise of the products to come.
        Raises: ConfigError: ``now_s`` lies in the past.
        """
        if now_s == self.now_s:
            return replace(self, seed=derive_seed(self.seed, "again"), _products=itertools.count(1))
        if now_s < self.now_s:
            raise ConfigError(f"time {now_s} s: the array's clock already shows {self.now_s} s")
        seed = derive_seed(self.seed, "advance", self.programmings, float(now_s))
        devices = advance(self.devices, self.model, now_s=now_s, seed=seed)
        return replace(self, devices=devices, now_s=float(now_s), _products=itertools.count(1))
