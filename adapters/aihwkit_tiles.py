"""aihwkit tiles whose devices keep their state. Imports aihwkit: reach it through ``adapters.aihwkit``.

aihwkit's inference tile keeps one noisy weight matrix; ``DeviceTile`` keeps the four conductances behind it, so that
single devices can be programmed again, and differs from its parent where the parent would give a wrong number:

    parent (aihwkit 1.2.0)                                          here
    drift takes conductances back from the noisy difference         drifts each device's own g_prog
    rescales by max |w| at every conversion                         one fixed scale, set with the weights
    set_weights, then drift: the old programmed weights             set_weights forgets the devices
    state_dict has neither programmed weights nor nu                buffers, saved and restored exactly
    torch tile has no read noise a product, C++ tile no seed        ``Converters.product``, seeded

A product of many images is drawn from (seed, number of the product); ``reseed`` restarts the count.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from aihwkit.inference import GlobalDriftCompensation, HermesNoiseModel, PCMLikeNoiseModel
from aihwkit.inference.converter.base import BaseConductanceConverter
from aihwkit.nn import AnalogConv2d
from aihwkit.simulator.configs import TorchInferenceRPUConfig
from aihwkit.simulator.parameters import IOParameters, MappingParameter
from aihwkit.simulator.parameters.enums import BoundManagementType, NoiseManagementType
from aihwkit.simulator.tiles.inference_torch import TorchInferenceTile
from aihwkit.simulator.tiles.torch_tile import TorchSimulatorTile
from torch import Tensor, nn

from ovonic.adapters.aihwkit_devices import (
    Converters,
    DeviceState,
    Hardware,
    NoiseModel,
    advance,
    derive_seed,
    program,
    reprogram,
    seeded,
    to_conductances,
    to_weights,
)
from ovonic.models.errors import ConfigError

__all__ = ["DeviceConv2d", "DeviceRPUConfig", "DeviceTile", "FixedScaleConverter", "make_noise_model", "rpu_config"]


class FixedScaleConverter(BaseConductanceConverter):
    """Weights in units of full scale <-> four conductances in uS, at a scale that never changes."""

    def __init__(self, g_max: float, split: str = "equal") -> None:
        self.g_max = g_max
        self.split = split

    def convert_to_conductances(self, weights: Tensor) -> tuple[list[Tensor], dict]:
        return list(to_conductances(weights, self.g_max, self.split).unbind(-3)), {}

    def convert_back_to_weights(self, conductances: list[Tensor], params: dict) -> Tensor:
        return to_weights(torch.stack(conductances, dim=-3), self.g_max)


def make_noise_model(hardware: Hardware) -> Any:
    """The aihwkit noise model object that ``hardware`` names, on a converter of fixed scale.

    Raises: ConfigError: an object that has lost its prog_coeff_g_max_reference.
    """
    if not isinstance(hardware.noise_model, str):
        model: Any = deepcopy(hardware.noise_model)
        if hasattr(model, "prog_coeff") and not hasattr(model, "prog_coeff_g_max_reference"):
            raise ConfigError(
                f"noise model {type(model).__name__}: aihwkit 1.2.0 drops prog_coeff_g_max_reference where prog_coeff "
                "is given too; set the attribute on the object after making it"
            )
        model.g_converter = FixedScaleConverter(model.g_max, hardware.split)
        return model
    if hardware.noise_model == "hermes":
        return HermesNoiseModel(num_devices=1, g_converter=FixedScaleConverter(10.35, hardware.split))
    on = 0.0 if hardware.noise_model == "none" else 1.0
    return PCMLikeNoiseModel(
        g_converter=FixedScaleConverter(25.0, hardware.split),
        prog_noise_scale=on,
        read_noise_scale=on,
        drift_scale=on,
    )


class DeviceSimulatorTile(TorchSimulatorTile):
    """The array itself: a product through the converters with the conductances as they read now."""

    def __init__(self, x_size: int, d_size: int, rpu_config: DeviceRPUConfig, **kwargs: Any) -> None:
        super().__init__(x_size, d_size, rpu_config, **kwargs)
        self.weight.requires_grad_(False)
        self.converters = rpu_config.converters
        self.seed, self.products = 0, 0

    def generator(self) -> torch.Generator:
        """The random stream of the next product."""
        self.products += 1
        return torch.Generator().manual_seed(derive_seed(self.seed, "product", self.products))

    def forward(self, x_input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.converters.product(x_input, self.weight.detach(), self.generator())


class DeviceTile(TorchInferenceTile):
    """An inference tile that holds g_target, g_prog, nu, t_prog_s and g_read of its devices, [4, out, in].

    Its clock starts when it is first programmed: ``drift_weights(t)`` moves it to t seconds after.
    """

    def __init__(self, out_size: int, in_size: int, rpu_config: DeviceRPUConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(out_size, in_size, rpu_config, *args, **kwargs)
        for name in DeviceState._fields:
            dtype = torch.float64 if name == "t_prog_s" else torch.float32
            self.register_buffer(name, torch.zeros(4, out_size, in_size, dtype=dtype))
        self.register_buffer("programmed", torch.tensor(False))
        self.register_buffer("programmings", torch.tensor(0))
        self.register_buffer("baseline", torch.tensor(1.0))
        self.seed = 0

    def reseed(self, seed: int, products_seed: int | None = None) -> None:
        """Set the seed of the devices, and that of the products (restarting their count)."""
        self.seed = seed
        self.tile.seed, self.tile.products = seed if products_seed is None else products_seed, 0

    def state(self) -> DeviceState:
        """The devices as they are now."""
        return DeviceState(*(getattr(self, name) for name in DeviceState._fields))

    def take_over(self, state: DeviceState) -> None:
        """Hold devices that were programmed elsewhere, [4, out, in] each, as they are; the scales stay."""
        self.programmed.fill_(True)
        self.programmings.fill_(1)
        self._write(state)

    def set_weights(self, weight: Tensor, *args: Any, **kwargs: Any) -> None:
        """Set new target weights and forget the devices of the old ones: they must be programmed again."""
        super().set_weights(weight, *args, **kwargs)
        if hasattr(self, "programmed"):
            self.programmed.fill_(False)

    @torch.no_grad()
    def program_weights(
        self,
        from_reference: bool = True,
        noise_model: NoiseModel | None = None,
        *,
        mask: Tensor | None = None,
        now_s: float = 0.0,
    ) -> None:
        """Program the devices to their targets, all of them or those in ``mask``, and read for the first time.

        Args:
            from_reference: keep the present targets; otherwise the weights as they read now become the targets.
            noise_model: takes the place of the configuration's.
            mask: [4, out, in] bool, devices to program; only on a tile that has been programmed before.
            now_s: the tile's clock, s.
        """
        if noise_model is not None:
            self.rpu_config.noise_model = noise_model
        keep = from_reference and bool(self.programmed)
        g_target = self.g_target if keep else self._targets(self.tile.get_weights())
        self._program(g_target, torch.ones_like(g_target, dtype=torch.bool) if mask is None else mask, now_s)

    @torch.no_grad()
    def reprogram(self, weight: Tensor, *, now_s: float = 0.0) -> Tensor:
        """Program only the devices whose target changes.

        Args: weight: new target weights, [out, in]; the scale stays as it is, and beyond it they are clipped.
        Returns: which devices were programmed, [4, out, in] bool.
        """
        scale = self.get_scales()
        g_target = self._targets(weight if scale is None else weight / scale.view(-1, 1))
        return self._program(g_target, None, now_s)

    @torch.no_grad()
    def drift_weights(self, t_inference: float = 0.0) -> None:
        """Move the clock to ``t_inference`` seconds after the first programming (programming now if there was none)."""
        if not self.programmed:
            self.program_weights()
        seed = derive_seed(self.seed, "advance", int(self.programmings), float(t_inference))
        self._write(advance(self.state(), self.rpu_config.noise_model, now_s=float(t_inference), seed=seed))
        compensation = self.rpu_config.drift_compensation
        if compensation is not None:
            self.alpha = compensation.apply(self.tile.weight, self.baseline).view(1)

    def _targets(self, weight: Tensor) -> Tensor:
        return to_conductances(weight.detach(), self.rpu_config.noise_model.g_max, self.rpu_config.hardware.split)

    def _program(self, g_target: Tensor, mask: Tensor | None, now_s: float) -> Tensor:
        model, zero_targets = self.rpu_config.noise_model, self.rpu_config.hardware.zero_targets
        seed = derive_seed(self.seed, "program", int(self.programmings))
        if self.programmed:
            state, mask = reprogram(
                self.state(), model, g_target, now_s=now_s, seed=seed, zero_targets=zero_targets, mask=mask
            )
        else:
            state = program(model, g_target, now_s=now_s, seed=seed, zero_targets=zero_targets)
            mask = torch.ones_like(g_target, dtype=torch.bool)
        self.programmed.fill_(True)
        self.programmings.add_(1)
        self._write(state)
        if self.rpu_config.drift_compensation is not None:
            self.baseline.copy_(self.rpu_config.drift_compensation.readout(self.tile.weight))
        return mask

    def _write(self, state: DeviceState) -> None:
        for name, value in state._asdict().items():
            getattr(self, name).copy_(value)
        self.tile.set_weights(to_weights(state.g_read, self.rpu_config.noise_model.g_max))


@dataclass
class DeviceRPUConfig(TorchInferenceRPUConfig):
    """A ``TorchInferenceRPUConfig`` of tiles that keep their devices."""

    tile_class: type = DeviceTile
    simulator_tile_class: type = DeviceSimulatorTile
    hardware: Hardware = field(default_factory=Hardware)
    converters: Converters = field(default_factory=Converters)


def rpu_config(hardware: Hardware, converters: Converters) -> DeviceRPUConfig:
    """The aihwkit configuration of an array; ``forward`` says the same as ``converters``, for aihwkit's own tiles."""

    def resolution(bits: int) -> float:
        return 1.0 / (2**bits - 2) if bits else -1.0

    return DeviceRPUConfig(
        mapping=MappingParameter(
            max_input_size=hardware.rows,
            max_output_size=hardware.columns,
            weight_scaling_omega=1.0,
            weight_scaling_columnwise=hardware.scale == "column",
        ),
        forward=IOParameters(
            inp_bound=1.0,
            inp_res=resolution(converters.dac_bits),
            out_bound=converters.adc_range if converters.adc_bits else -1.0,
            out_res=resolution(converters.adc_bits),
            out_noise=converters.out_noise,
            noise_management=NoiseManagementType.CONSTANT,
            nm_thres=converters.input_range,
            bound_management=BoundManagementType.NONE,
        ),
        noise_model=make_noise_model(hardware),
        drift_compensation=GlobalDriftCompensation() if hardware.drift_compensation else None,
        hardware=hardware,
        converters=converters,
    )


class DeviceConv2d(AnalogConv2d):
    """An analog convolution on ``DeviceTile``s that converts each pixel once.

    aihwkit unfolds the image before the DAC, and converts each value up to nine times. Where every tile holds whole
    input channels (504 rows = 2 x 252 = 2 x 28 channels) the same currents come from a convolution a tile; elsewhere
    this is aihwkit's own forward.
    """

    def forward(self, x_input: Tensor) -> Tensor:
        """[images, channels_in, H, W] -> [images, channels_out, H', W']."""
        tiles = list(self.analog_tiles())
        area = self.kernel_size[0] * self.kernel_size[1]
        if any(tile.in_size % area or tile.out_size != self.out_channels for tile in tiles):
            return super().forward(x_input)
        voltages = tiles[0].tile.converters.dac(x_input)
        out: Tensor | None = None
        for tile, u in zip(tiles, voltages.split([tile.in_size // area for tile in tiles], dim=1), strict=True):
            converters, weight = tile.tile.converters, tile.tile.weight.detach()
            y = self._convolve(u, weight)
            load = converters.load(weight)
            y = converters.adc(y, None if load is None else self._convolve(u.square(), load), tile.tile.generator())
            y = tile.post_forward(y, 1, is_test=True)
            out = y if out is None else out.add_(y)
        assert out is not None
        return out

    def _convolve(self, u: Tensor, weight: Tensor) -> Tensor:
        kernel = weight.view(self.out_channels, -1, *self.kernel_size)
        return F.conv2d(u, kernel, stride=self.stride, padding=self.padding)


def program_convolution(conv: nn.Conv2d, hardware: Hardware, converters: Converters, seed: int) -> DeviceConv2d:
    """Program a convolution's kernel into tiles; tile i's devices are drawn from (seed, i)."""
    with seeded(seed):  # the constructor draws initial weights, which from_digital then overwrites
        analog = DeviceConv2d.from_digital(conv, rpu_config(hardware, converters)).eval()
    analog.requires_grad_(False)
    for i, tile in enumerate(analog.analog_tiles()):
        tile.reseed(derive_seed(seed, i))
    analog.program_analog_weights()
    return analog
