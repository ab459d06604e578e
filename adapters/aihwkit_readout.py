"""The dense layer on an aihwkit noise model's devices, which keep their state: ``models.device_readout`` at work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovonic.adapters.aihwkit_devices import (
    DeviceState,
    Hardware,
    NoiseModel,
    advance,
    load_tiles,
    program,
    reprogram,
    to_conductances,
    to_weights,
)
from ovonic.models.device_readout import DeviceReadout
from ovonic.models.errors import ConfigError
from ovonic.models.maml import Precision
from ovonic.models.seeds import derive_seed, stream

__all__ = ["StatefulReadout"]


@dataclass(frozen=True, eq=False, kw_only=True)
class StatefulReadout(DeviceReadout):
    """The dense layer on an array of aihwkit's devices.

    Attributes: devices: the four of each weight, a ``DeviceState`` of [tasks, 4, n_way, channels].
    """

    devices: DeviceState
    hardware: Hardware
    model: NoiseModel

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
        target = precision.round_readout(weight.detach()[None].clone(), stream(seed, "round", 0))
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
        return cls(
            w=w,
            w_max=w_max,
            devices=devices,
            seed=seed,
            cells_reprogrammed=cells,
            devices_reprogrammed=4 * cells,
            saturated=(w != target).sum(dim=(1, 2)),
            precision=precision,
            update_step=update_step,
            reads=hardware.readout_reads,
            hardware=hardware,
            model=model,
        )

    def weights(self) -> Tensor:
        return to_weights(self.devices.g_read, self.model.g_max) * self.w_max

    def _product(self, features: Tensor, generator: torch.Generator) -> Tensor:
        hardware = self.hardware
        converters = hardware.converters(hardware.activation_range, hardware.readout_adc_range)
        return converters.product(features, to_weights(self.devices.g_read, self.model.g_max), generator)

    def _reprogrammed(self, w: Tensor, seed: int) -> tuple[DeviceState, Tensor]:
        return reprogram(
            self.devices,
            self.model,
            to_conductances(w / self.w_max, self.model.g_max, self.hardware.split),
            now_s=self.now_s,
            seed=seed,
            zero_targets=self.hardware.zero_targets,
        )

    def _advanced(self, now_s: float, seed: int) -> DeviceState:
        return advance(self.devices, self.model, now_s=now_s, seed=seed)
