"""Phase-change devices that keep their state: four conductances a weight, each programmed on its own.

    weight       w / w_max = (G1+ - G1- + G2+ - G2-) / (2 g_max)            a 4R8T cell, g in uS
    programming  g_prog, nu ~ the noise model at g_target                    drawn when a device is programmed
    drift        g(a) = g_prog ((a + t_0) / t_0)^-nu,   a = now - t_prog     a is the device's age, s
    read noise   accumulated (1/f) part: drawn when time advances and when a device is programmed, then carried
                 in g_read; the part of each single product: ``Converters.product``

A noise model is any object with aihwkit's three elementwise verbs (``NoiseModel``); nothing here imports aihwkit. Its
draws come from torch's global generator, so every verb takes a seed and forks that generator: given the seed the
devices are the same bit for bit, and the caller's random stream is left alone.

Devices lie on axis -3 in aihwkit's order of pairs: G1+, G1-, G2+, G2-.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ovonic.models import periphery, splitting
from ovonic.models.device_readout import readout_scale
from ovonic.models.errors import ConfigError, ToolchainError, nearest
from ovonic.models.maml import Precision
from ovonic.models.seeds import derive_seed

__all__ = [
    "NOISE_MODELS",
    "SPLITS",
    "Converters",
    "DeviceState",
    "Hardware",
    "NoiseModel",
    "advance",
    "derive_seed",
    "load_tiles",
    "program",
    "reprogram",
    "seeded",
    "to_conductances",
    "to_weights",
]

NOISE_MODELS = ("pcm", "hermes", "none")
SPLITS = ("equal", "fill")


class NoiseModel(Protocol):
    """The verbs of an aihwkit noise model that are used here; all elementwise, on conductances of any shape in uS."""

    g_max: float

    def apply_programming_noise_to_conductance(self, g_target: Tensor) -> Tensor: ...

    def generate_drift_coefficients(self, g_target: Tensor) -> Tensor | None: ...

    def apply_drift_noise_to_conductance(self, g_prog: Tensor, nu: Tensor, t_inference: float) -> Tensor: ...


@dataclass(frozen=True)
class Hardware:
    """The chip that is simulated. The defaults and why:

    Attributes:
        noise_model: ``"pcm"`` (aihwkit's PCMLikeNoiseModel, g_max 25 uS), ``"hermes"`` (HermesNoiseModel of one device,
            g_max 10.35 uS: each of the four devices is drawn by itself, so the two-device fit would average twice),
            ``"none"`` (ideal devices behind real converters), or an aihwkit noise model object.
        split: how a weight fills the two devices of its polarity: ``"fill"`` (the first to g_max, then the second: the
            smaller programming error, and half the devices to program), or ``"equal"`` (both alike: both stand on one
            bitline and are read as one current).
        zero_targets: what a device with target 0 holds. ``"noisy"``: the noise model's draw, clamped at 0 uS, as
            aihwkit has it: pulls every weight towards zero by about 0.2 uS of its 50 uS scale (pcm, two idle devices of
            0.10 uS each). ``"reset"``: exactly 0 uS, the published convention: amorphous and left alone. The model of
            record is the default, because it is the harder one.
        scale: full scale of a convolution's tile: max |w| of the tile's ``"column"`` or of the whole ``"tile"``; the
            digital periphery multiplies it back after the ADC. By column is aihwkit's StandardHWATrainingPreset.
        rows, columns: size of an array; a taller matrix is split into equal parts, summed digitally after their ADCs.
        dac_bits, adc_bits: converter resolution, sign included (2^bits - 2 steps over the range); 0 is ideal.
        image_range, activation_range: DAC full scale of the first convolution's input (pixels in 0..1) and of every
            other input: these leave the batch norm, so 10 is 10 standard deviations, known without any data.
        adc_range: ADC full scale, in currents of one row with full input on a device pair at full scale; 10, out_noise
            and w_noise are of aihwkit's StandardHWATrainingPreset (Rasch et al. 2023, Nature Communications 14:5282).
            All ranges are fixed: no noise management and no bound management (aihwkit's defaults rescale each input
            vector by its maximum and repeat the product until nothing saturates: kinder than an 8-bit chip).
        out_noise: standard deviation of the noise at the ADC, in the unit of ``adc_range``.
        w_noise: read noise of each product (PCM_READ): sigma^2 = w_noise^2 sum_j |w_ij| x_j^2.
        drift_compensation: one digital factor a tile, sum |w| at programming over sum |w| now, exactly measured
            (aihwkit's GlobalDriftCompensation); off, because the norm measures the scale anew anyway.
        readout_w_max: full scale of the read-out array, fixed before anything is learned; None: ``readout_scale``.
        readout_adc_range: as ``adc_range``, for the read-out, whose few and small weights use less than half of 10.
        readout_reads: products averaged digitally at each read of the read-out: 4 halve the converters' noise for a few
            MVMs more beside the hundreds of the convolutions.

    Not modelled: IR drop (on in that preset), wires, column-to-column ADC mismatch, temperature, stuck devices.
    """

    noise_model: str | NoiseModel = "pcm"
    split: str = "fill"
    zero_targets: str = "noisy"
    scale: str = "column"
    rows: int = 256
    columns: int = 256
    dac_bits: int = 8
    adc_bits: int = 8
    image_range: float = 1.0
    activation_range: float = 10.0
    adc_range: float = 10.0
    out_noise: float = 0.04
    w_noise: float = 0.0175
    drift_compensation: bool = False
    readout_w_max: float | None = None
    readout_adc_range: float = 5.0
    readout_reads: int = 1

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "split": SPLITS,
            "zero_targets": ("noisy", "reset"),
            "scale": ("column", "tile"),
        }
        if isinstance(self.noise_model, str):
            choices["noise_model"] = NOISE_MODELS
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} {value!r}: {nearest(value, allowed)}")
        positive = ("rows", "columns", "image_range", "activation_range", "adc_range", "readout_adc_range")
        for name in (*positive, "readout_reads"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be positive")
        if self.readout_w_max is not None and not self.readout_w_max > 0:
            raise ConfigError(f"readout_w_max {self.readout_w_max}: must be positive")
        for name in ("dac_bits", "adc_bits"):
            if not (getattr(self, name) == 0 or 2 <= getattr(self, name) <= 16):
                raise ConfigError(f"{name} {getattr(self, name)}: choose 2 to 16, or 0 for an ideal converter")
        for name in ("out_noise", "w_noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must not be negative")

    def readout_scale(self, weight: Tensor, precision: Precision) -> float:
        """Full scale of the read-out array for the initial ``weight`` of any shape (``models.device_readout``)."""
        return readout_scale(self.readout_w_max, weight, precision)

    def converters(self, input_range: float, adc_range: float | None = None) -> Converters:
        """The periphery of one array."""
        return Converters(
            input_range, adc_range or self.adc_range, self.dac_bits, self.adc_bits, self.out_noise, self.w_noise
        )


@dataclass(frozen=True)
class Converters:
    """What stands around an array: DAC, the noise of each product, ADC. Fields: see ``Hardware``.

        u = DAC(x / input_range) in -1..1
        y = ADC(u w' + sqrt(out_noise^2 + w_noise^2 (u^2 |w|')) xi) input_range,   xi ~ N(0, 1)

    Reference: aihwkit 1.2.0: AnalogMVM (converters) and RPUCuda's PCMRead output noise (which its torch tile lacks).
    """

    input_range: float = 1.0
    adc_range: float = 10.0
    dac_bits: int = 8
    adc_bits: int = 8
    out_noise: float = 0.04
    w_noise: float = 0.0175

    def dac(self, x: Tensor) -> Tensor:
        """Digital values of any shape -> row voltages in -1..1, a new tensor."""
        return periphery.dac(x, self.input_range, self.dac_bits)

    def adc(self, y: Tensor, variance: Tensor | None, generator: torch.Generator) -> Tensor:
        """Column currents [...] and their read-noise ``variance`` (or none) -> digital values. In place on both."""
        y = periphery.add_noise(y, variance, self.out_noise, generator)
        return periphery.adc(y, self.adc_range, self.adc_bits).mul_(self.input_range)

    def load(self, w: Tensor) -> Tensor | None:
        """Weights whose product with u^2 is the read-noise variance, or none."""
        return w.abs().mul_(self.w_noise**2) if self.w_noise else None

    def product(self, x: Tensor, w: Tensor, generator: torch.Generator) -> Tensor:
        """One read: x [..., S, in] and w [..., out, in] in units of full scale -> [..., S, out] in those units."""
        u = self.dac(x)
        y = u @ w.transpose(-1, -2)
        load = self.load(w)
        return self.adc(y, None if load is None else u.square_() @ load.transpose(-1, -2), generator)


class DeviceState(NamedTuple):
    """The devices of an array, each [..., 4, out, in].

    ``g_target``, ``g_prog`` and ``g_read`` (as they read now) in uS; ``nu`` drift exponents; ``t_prog_s`` the clock
    when each was programmed, s, float64.
    """

    g_target: Tensor
    g_prog: Tensor
    nu: Tensor
    t_prog_s: Tensor
    g_read: Tensor


def to_conductances(w: Tensor, g_max: float, split: str = "equal") -> Tensor:
    """Target conductances of weights.

    Args:
        w: [..., out, in], in units of full scale; beyond +-1 they are clipped (count them before).
        g_max: full scale of one device, uS; split: see ``Hardware``.
    Returns: [..., 4, out, in], uS, at a fixed scale: the same weight always has the same target, which aihwkit's own
        converters, rescaling by max |w| at every call, do not give.
    """
    return splitting.conductances(w, g_max, split)


def to_weights(g: Tensor, g_max: float) -> Tensor:
    """Weights that conductances [..., 4, out, in] stand for: [..., out, in], in units of full scale."""
    return splitting.weights(g, g_max)


def program(model: NoiseModel, g_target: Tensor, *, now_s: float, seed: int, zero_targets: str) -> DeviceState:
    """Program every device, and read it for the first time.

    Args:
        model: noise model; g_target: [..., 4, out, in], uS.
        now_s: the array's clock, s; seed: of all draws.
        zero_targets: see ``Hardware``.
    """
    with seeded(seed):
        g_prog = model.apply_programming_noise_to_conductance(g_target)
        nu = model.generate_drift_coefficients(g_target)
        if nu is None:
            nu = torch.zeros_like(g_target)
        if zero_targets == "reset":
            g_prog = g_prog.masked_fill(g_target == 0, 0.0)
        g_read = model.apply_drift_noise_to_conductance(g_prog, nu, 0.0)
    t_prog_s = torch.full(g_target.shape, float(now_s), dtype=torch.float64)
    return DeviceState(g_target, g_prog, nu, t_prog_s, g_read)


def reprogram(
    state: DeviceState,
    model: NoiseModel,
    g_target: Tensor,
    *,
    now_s: float,
    seed: int,
    zero_targets: str,
    mask: Tensor | None = None,
) -> tuple[DeviceState, Tensor]:
    """Program only the devices whose target changes (or those in ``mask``); every other keeps its state bit for bit.

    Args: as ``program``; mask: [..., 4, out, in] bool.
    Returns: the new state, and which devices were programmed, [..., 4, out, in] bool.
    """
    if mask is None:
        mask = g_target != state.g_target
    fresh = program(model, g_target, now_s=now_s, seed=seed, zero_targets=zero_targets)
    return DeviceState(*(torch.where(mask, new, old) for new, old in zip(fresh, state, strict=True))), mask


def advance(state: DeviceState, model: NoiseModel, *, now_s: float, seed: int) -> DeviceState:
    """Move the clock: every device drifts from its own g_prog for its own age, and draws its accumulated read noise.

    Args: now_s: the array's clock, s; at the very time of programming this is a second first read.
    Raises: ConfigError: ``now_s`` lies before a device was programmed.
    """
    ages = now_s - state.t_prog_s
    youngest, oldest = (float(age) for age in torch.aminmax(ages))
    if youngest < 0:
        raise ConfigError(f"time {now_s} s lies before {now_s - youngest} s, when a device was programmed")
    with seeded(seed):
        if youngest == oldest:
            g_read = model.apply_drift_noise_to_conductance(state.g_prog, state.nu, youngest)
        else:
            g_read = torch.empty_like(state.g_prog)
            for age in torch.unique(ages):
                where = ages == age
                g_read[where] = model.apply_drift_noise_to_conductance(state.g_prog[where], state.nu[where], float(age))
    return state._replace(g_read=g_read)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` on torch's global generator of the CPU, then give the caller's stream back."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        yield


def load_tiles() -> ModuleType:
    """Import ``aihwkit_tiles``, the one module that needs aihwkit.

    Raises: ToolchainError: aihwkit is missing, or does not load with this torch.
    """
    try:
        from ovonic.adapters import aihwkit_tiles
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "aihwkit":
            raise ToolchainError("aihwkit is not installed: pip install 'ovonic[aihwkit]'") from error
        raise ToolchainError(
            f"aihwkit does not load with torch {torch.__version__} ({error}): its compiled tiles are bound to torch's "
            "ABI; install a pair that was run: pip install 'aihwkit==1.2.0' 'torch>=2.13,<2.16'"
        ) from error
    return aihwkit_tiles
