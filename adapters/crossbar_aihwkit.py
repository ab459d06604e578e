"""Arrays to aihwkit's tiles and back: programmed devices move with all that they are, none is programmed anew.

    here                             aihwkit 1.2.0 with adapters.aihwkit_tiles      lost?
    ArrayState [4, in, out]          DeviceTile [4, out, in]                        no: transposed
    g_target, g_prog, nu,            the tile's buffers of these names              no
      t_prog_s, g_read
    pulses                           not counted                                    yes; back: 1 each
    fault, gain                      no such thing                                  refused unless 0 and 1
    PCM, Hermes, Ideal               PCMLike-, HermesNoiseModel(num_devices=1)      no: by their attributes
    HermesPair, Published, fitted    no such model that draws each device           refused
    split "equal", "fill"            Hardware.split                                 no; others refused
    w_max of a layer                 the tile's mapping scales                      no
    Periphery: bits, ranges, noise   Converters                                     no
    Periphery: the rest              no such thing                                  refused unless off

A tile's clock is the array's: ``drift_weights(t)`` is ``advance`` to t.
"""

from __future__ import annotations

from dataclasses import fields
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ovonic.adapters.aihwkit_devices import SPLITS, Converters, DeviceState, Hardware, load_tiles
from ovonic.models.crossbar import ArrayState
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.hermes import Hermes
from ovonic.models.pcm import PCM, DeviceModel, Ideal
from ovonic.models.periphery import Periphery

__all__ = ["from_tile", "model_of", "noise_model_of", "states_of", "to_analog_linear"]

CARRIED = ("dac_bits", "adc_bits", "adc_range", "out_noise", "w_noise")
"""The fields of ``Periphery`` that ``Converters`` has."""


def to_analog_linear(
    state: ArrayState,
    model: DeviceModel,
    *,
    w_max: tuple[float, ...] = (1.0,),
    input_range: float = 1.0,
    bias: Tensor | None = None,
    split: str = "fill",
    periphery: Periphery | None = None,
) -> Any:
    """An aihwkit ``AnalogLinear`` on one ``DeviceTile`` that holds these devices.

    Args:
        state: [4, in, out] each, for example ``crop(states[block.array], block.rows, block.columns)``.
        model: of the devices; w_max, input_range: of the layer (``PlacedLayer``); bias: [out], digital.
        split, periphery: of the chip.
    Raises: UnsupportedDynamics: what a tile cannot carry, by name. ToolchainError: aihwkit is missing or broken.
    """
    _carried(state, split, periphery or Periphery())
    tiles = load_tiles()
    from aihwkit.nn import AnalogLinear

    n_in, n_out = state.g_prog.shape[-2:]
    hardware = Hardware(
        noise_model_of(model),
        split=split,
        zero_targets=getattr(model, "zero_targets", "reset"),
        scale="column" if len(w_max) > 1 else "tile",
        rows=n_in,
        columns=n_out,
    )
    around = periphery or Periphery()
    converters = Converters(input_range, **{name: getattr(around, name) for name in CARRIED})
    layer = AnalogLinear(n_in, n_out, bias is not None, tiles.rpu_config(hardware, converters)).eval()
    (tile,) = layer.analog_tiles()
    tile.set_scales(torch.tensor(w_max, dtype=torch.float32))
    if bias is not None:
        tile.bias.data.copy_(bias)
    turned = {name: getattr(state, name).mT.contiguous() for name in DeviceState._fields}
    tile.take_over(DeviceState(**turned))
    return layer.requires_grad_(False)


def states_of(layer: Any) -> list[ArrayState]:
    """The devices of a programmed analog layer, one state a tile.

    Raises: UnsupportedDynamics: a tile without stored conductances, or one that was never programmed.
    """
    return [from_tile(tile) for tile in layer.analog_tiles()]


def from_tile(tile: Any) -> ArrayState:
    """The devices of a programmed ``DeviceTile``, [4, in, out] each, copied.

    Raises: UnsupportedDynamics: another tile, or one that was never programmed.
    """
    if not isinstance(tile, load_tiles().DeviceTile):
        raise UnsupportedDynamics(
            f"{type(tile).__name__}: keeps noisy weights, not the conductances behind them: make the layer with "
            "adapters.aihwkit_tiles.rpu_config, whose tiles keep them"
        )
    if not tile.programmed:
        raise UnsupportedDynamics("DeviceTile: was never programmed: call program_analog_weights() first")
    turned = {name: value.mT.contiguous() for name, value in tile.state()._asdict().items()}
    shape = turned["g_prog"].shape
    return ArrayState(
        **turned,
        pulses=torch.ones(shape, dtype=torch.int32),
        fault=torch.zeros(shape, dtype=torch.uint8),
        gain=torch.ones(shape),
    )


def model_of(hardware: Hardware) -> DeviceModel:
    """The device model in closed form of what ``hardware.noise_model`` names or is.

    Raises: UnsupportedDynamics: an aihwkit noise model that has no closed form here.
    """
    from ovonic.models.pcm import device_model

    zero = {"zero_targets": hardware.zero_targets}
    if hardware.noise_model == "none":
        return Ideal()
    if isinstance(hardware.noise_model, str):
        return device_model(hardware.noise_model, **zero)
    given: Any = hardware.noise_model
    inference = _inference()
    kinds = {inference.PCMLikeNoiseModel: PCM, inference.HermesNoiseModel: Hermes}
    kind = kinds.get(type(given))
    if kind is None or getattr(given, "num_devices", 1) != 1:
        which = f"{type(given).__name__}{' of two devices' * (kind is not None)}"
        raise UnsupportedDynamics(f"{which}: no closed form for each device; adapters.aihwkit_noise.SampledModel draws")
    return kind(
        g_max_us=float(given.g_max),
        t_0_s=float(given.t_0),
        t_read_s=float(given.t_read),
        prog_coeff=tuple(given.prog_coeff),
        prog_reference_us=float(given.prog_coeff_g_max_reference),
        prog_scale=float(given.prog_noise_scale),
        drift_scale=float(given.drift_scale),
        read_scale=float(given.read_noise_scale),
        **zero,
    )


def noise_model_of(model: DeviceModel) -> Any:
    """The aihwkit noise model of a device model: a name, or an object where its attributes are not the default's.

    Raises: UnsupportedDynamics: a model that aihwkit's verbs cannot say, by name.
    """
    if isinstance(model, Ideal) and model.g_max_us == Ideal.g_max_us:
        return "none"
    if type(model) not in (PCM, Hermes, Ideal):
        raise UnsupportedDynamics(
            f"device model {model.name!r}: aihwkit has no noise model that draws devices so; take pcm, hermes or none"
        )
    if getattr(model, "read_exponent_base", "relative") != "relative":
        raise UnsupportedDynamics("device model 'pcm', read_exponent_base 'microsiemens': aihwkit's is g / g_max")
    if all(getattr(model, field.name) == field.default for field in fields(model) if field.name != "zero_targets"):  # type: ignore[arg-type]
        return model.name
    given: Any = model
    ideal = isinstance(model, Ideal)
    inference = _inference()
    options = {"num_devices": 1} if isinstance(model, Hermes) else {}
    make = inference.HermesNoiseModel if options else inference.PCMLikeNoiseModel
    coeff, reference = (PCM.prog_coeff, model.g_max_us) if ideal else (given.prog_coeff, given.prog_reference_us)
    made = make(
        prog_coeff=list(coeff),
        g_converter=load_tiles().FixedScaleConverter(model.g_max_us),
        t_read=model.t_read_s,
        t_0=model.t_0_s,
        prog_noise_scale=0.0 if ideal else given.prog_scale,
        read_noise_scale=0.0 if ideal else given.read_scale,
        drift_scale=0.0 if ideal else given.drift_scale,
        **options,
    )
    made.prog_coeff_g_max_reference = reference  # the constructor of 1.2.0 drops the argument
    return made


def _inference() -> ModuleType:
    load_tiles()
    from aihwkit import inference

    return inference


def _carried(state: ArrayState, split: str, periphery: Periphery) -> None:
    """Raises: UnsupportedDynamics: what no tile has. ConfigError: not one array."""
    if state.g_prog.ndim != 3:
        raise ConfigError(f"state: {tuple(state.g_prog.shape)}; one array [4, in, out] is due: choose one copy")
    if split not in SPLITS:
        raise UnsupportedDynamics(f"split {split!r}: aihwkit tiles here split {' or '.join(SPLITS)}")
    if bool((state.fault != 0).any()):
        raise UnsupportedDynamics(f"{int((state.fault != 0).sum())} stuck devices: an aihwkit tile has none")
    if bool((state.gain != 1).any()):
        raise UnsupportedDynamics("gain: an aihwkit tile has no device-to-device spread")
    for field in fields(Periphery):
        if field.name not in CARRIED and getattr(periphery, field.name) != field.default:
            value = getattr(periphery, field.name)
            raise UnsupportedDynamics(
                f"periphery, {field.name} {value!r}: an aihwkit tile here has only {field.default!r}"
            )
