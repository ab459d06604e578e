"""Devices that move between arrays and aihwkit's tiles: the same numbers, the same ageing, and what cannot move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("aihwkit", reason="needs aihwkit: pip install 'ovonic[aihwkit]'")

from aihwkit.inference import HermesNoiseModel, PCMLikeNoiseModel
from aihwkit.nn import AnalogLinear
from aihwkit.simulator.configs import TorchInferenceRPUConfig

from ovonic.adapters.aihwkit_devices import Hardware
from ovonic.adapters.aihwkit_tiles import make_noise_model, rpu_config
from ovonic.adapters.crossbar_aihwkit import from_tile, model_of, noise_model_of, states_of, to_analog_linear
from ovonic.models.array_products import ArrayReader
from ovonic.models.crossbar import ArrayState, advance, inject_faults, program, weights
from ovonic.models.device_faults import Faults
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.pcm import DeviceModel, device_model
from ovonic.models.periphery import Periphery
from ovonic.models.splitting import conductances

pytestmark = pytest.mark.toolchain

MONTH_S = 30 * 86400.0
N_IN, N_OUT = 7, 5
QUIET = {"pcm": {"read_scale": 0.0}, "hermes": {"read_scale": 0.0}, "none": {}}
"""Attributes that switch the noise of later reads off; programming errors and drift stay."""


def programmed(model: DeviceModel, split: str = "fill", now_s: float = 0.0) -> ArrayState:
    draws = torch.Generator().manual_seed(1)
    w = torch.randint(-16, 17, (N_IN, N_OUT), generator=draws) / 16
    return program(model, conductances(w, model.g_max_us, split), now_s=now_s, generator=draws)


def only(layer: Any) -> Any:
    (tile,) = layer.analog_tiles()
    return tile


@pytest.mark.parametrize("name", QUIET)
@pytest.mark.parametrize("split", ["equal", "fill"])
def test_the_same_devices_age_alike_in_both(name: str, split: str) -> None:
    """Without read noise the weights of a tile at each later time are those of the array; float32 of two formulas."""
    model = device_model(name, **QUIET[name])
    state = programmed(model, split, now_s=50.0)
    layer = to_analog_linear(state, model, split=split, periphery=Periphery.ideal())
    tile = only(layer)
    assert torch.equal(tile.g_prog, state.g_prog.mT)
    for now_s in (50.0, 3600.0, MONTH_S):
        tile.drift_weights(now_s)
        expected = weights(advance(state, model, now_s=now_s, generator=None), model.g_max_us)
        torch.testing.assert_close(tile.tile.weight.T, expected, rtol=2e-6, atol=1e-6)
    aged = (expected - weights(state, model.g_max_us)).abs().max()
    assert (aged > 0.05) == (name != "none"), "there is something to compare"


@pytest.mark.parametrize("name", ["pcm", "hermes"])
def test_there_and_back_is_bit_for_bit(name: str) -> None:
    state = programmed(device_model(name))
    (back,) = states_of(to_analog_linear(state, device_model(name)))
    for field in ArrayState._fields:
        assert torch.equal(getattr(back, field), getattr(state, field)), field


def test_a_tile_that_aihwkit_programmed_becomes_an_array() -> None:
    """And the array reads the weights that the tile multiplies by, transposed, and ages as the tile does."""
    hardware = Hardware(PCMLikeNoiseModel(read_noise_scale=0.0), zero_targets="reset")
    hardware = Hardware(
        make_noise_model(hardware), zero_targets="reset", dac_bits=0, adc_bits=0, out_noise=0, w_noise=0
    )
    layer = AnalogLinear(N_IN, N_OUT, False, rpu_config(hardware, hardware.converters(1.0))).eval()
    layer.set_weights(torch.rand(N_OUT, N_IN, generator=torch.Generator().manual_seed(2)) - 0.5)
    layer.program_analog_weights()
    (state,) = states_of(layer)
    model = model_of(hardware)
    assert torch.equal(weights(state, model.g_max_us), only(layer).tile.weight.T)
    layer.drift_analog_weights(MONTH_S)
    expected = weights(advance(state, model, now_s=MONTH_S, generator=None), model.g_max_us)
    torch.testing.assert_close(only(layer).tile.weight.T, expected, rtol=2e-6, atol=1e-6)


def test_products_agree_with_scale_bias_and_input_range() -> None:
    """The layer in its own units, ideal converters: w_max a column, the DAC's range, a digital bias."""
    model = device_model("pcm")
    state, w_max, bias = programmed(model), tuple(0.5 + k for k in range(N_OUT)), torch.arange(N_OUT) * 1.0
    layer = to_analog_linear(state, model, w_max=w_max, input_range=3.0, bias=bias, periphery=Periphery.ideal())
    x = torch.rand(6, N_IN, generator=torch.Generator().manual_seed(3)) * 6 - 3
    expected = x @ (weights(state, model.g_max_us) * torch.tensor(w_max)) + bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    ours = ArrayReader.of(state.g_read, model, Periphery.ideal()).product(x / 3, None)
    torch.testing.assert_close(ours * 3 * torch.tensor(w_max) + bias, expected, rtol=1e-5, atol=1e-5)


def test_a_tile_goes_on_with_its_devices() -> None:
    """Programmed again, a carried tile touches only devices whose target changes."""
    model = device_model("pcm")
    state = programmed(model)
    tile = only(to_analog_linear(state, model))
    wanted = weights(state._replace(g_read=state.g_target), model.g_max_us).T.clone()
    wanted[2, 3] = -wanted[2, 3]
    before = tile.g_prog.clone()
    touched = tile.reprogram(wanted, now_s=10.0)
    assert touched.any(0).nonzero().tolist() == [[2, 3]]
    assert torch.equal(tile.g_prog[~touched], before[~touched])


@pytest.mark.parametrize("name", ["pcm", "hermes", "none"])
def test_device_models_translate_both_ways(name: str) -> None:
    model = device_model(name)
    assert model_of(Hardware(noise_model_of(model), zero_targets="reset")) == model
    changed = device_model(name, g_max_us=17.0, t_0_s=11.0)
    if name != "none":
        changed = device_model(name, g_max_us=17.0, t_0_s=11.0, prog_scale=0.5, drift_scale=2.0, zero_targets="noisy")
        assert model_of(Hardware(noise_model_of(changed), zero_targets="noisy")) == changed
    g = torch.linspace(0, 17, 50)[None, None].expand(4, 1, 50)
    theirs = make_noise_model(Hardware(noise_model_of(changed)))
    torch.manual_seed(0)
    drawn = torch.stack([theirs.apply_programming_noise_to_conductance(g[0]) for _ in range(400)])
    sigma = changed.programming_sigma(g)[0]
    middle = (g[0] > 6 * sigma)[0]
    torch.testing.assert_close(drawn.std(0)[:, middle], sigma[:, middle], rtol=0.25, atol=1e-6)


def test_what_no_tile_carries_is_refused_by_name() -> None:
    model = device_model("pcm")
    state = programmed(model)
    stuck = inject_faults(state, Faults(stuck_low=0.3), torch.Generator().manual_seed(0), g_max_us=25.0)
    spread = inject_faults(state, Faults(device_sigma=0.1), torch.Generator().manual_seed(0), g_max_us=25.0)
    with pytest.raises(UnsupportedDynamics, match=r"\d+ stuck devices: an aihwkit tile has none"):
        to_analog_linear(stuck, model)
    with pytest.raises(UnsupportedDynamics, match="gain: an aihwkit tile has no device-to-device spread"):
        to_analog_linear(spread, model)
    with pytest.raises(UnsupportedDynamics, match="split 'set_and_tune': aihwkit tiles here split equal or fill"):
        to_analog_linear(state, model, split="set_and_tune")
    for change in ({"wire_ohm": 1.0}, {"read_phases": 4}, {"compensation": "global"}, {"column_gain_sigma": 0.1}):
        with pytest.raises(UnsupportedDynamics, match=rf"periphery, {next(iter(change))} "):
            to_analog_linear(state, model, periphery=Periphery(**change))  # type: ignore[arg-type]
    for name in ("hermes-pair", "published"):
        with pytest.raises(UnsupportedDynamics, match=rf"device model '{name}': aihwkit has no noise model"):
            to_analog_linear(state, device_model(name))
    with pytest.raises(UnsupportedDynamics, match="microsiemens"):
        to_analog_linear(state, device_model("pcm", read_exponent_base="microsiemens"))
    with pytest.raises(ConfigError, match="choose one copy"):
        to_analog_linear(ArrayState(*(field[None] for field in state)), model)


def test_tiles_without_conductances_are_refused_by_name() -> None:
    stock = AnalogLinear(3, 2, False, TorchInferenceRPUConfig())
    with pytest.raises(UnsupportedDynamics, match=r"TorchInferenceTile: keeps noisy weights, not the conductances"):
        states_of(stock)
    hardware = Hardware("pcm")
    blank = AnalogLinear(3, 2, False, rpu_config(hardware, hardware.converters(1.0)))
    with pytest.raises(UnsupportedDynamics, match=r"DeviceTile: was never programmed: call program_analog_weights"):
        from_tile(only(blank))
    for given, message in ((HermesNoiseModel(), "HermesNoiseModel of two devices"), (Other(), "Other: no closed form")):
        with pytest.raises(UnsupportedDynamics, match=message):
            model_of(Hardware(given))


class Other:
    """A noise model of somebody's own."""

    g_max = 25.0

    def apply_programming_noise_to_conductance(self, g_target: Tensor) -> Tensor:
        return g_target

    def generate_drift_coefficients(self, g_target: Tensor) -> Tensor | None:
        return None

    def apply_drift_noise_to_conductance(self, g_prog: Tensor, nu: Tensor, t_inference: float) -> Tensor:
        return g_prog
