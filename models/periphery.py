"""What stands around an array: DACs at its rows, ADCs at its columns, and the phases of a read.

    u = DAC(x)                   round(x (2^(b-1) - 1)) / (2^(b-1) - 1), clipped to -1..1: 2^b - 2 steps
    I = u w + sqrt(u^2 load + out_noise^2) xi                                xi ~ N(0, 1), once a conversion
    y = ADC(gain I + offset)     the same grid over -adc_range..adc_range

w is in units of full scale, so I is in currents of one row with full input on a device pair at full scale. All ranges
are fixed: no rescaling by an input's maximum, no repetition until nothing saturates.

A row of 4R8T cells has two wordlines, WL+ and WL-, which connect a cell's devices to its bitlines with opposite
direction of current, so that the sign of an input is the choice of its wordline; a column has two bitlines, one for
each polarity of devices. What one conversion sees:

    read_phases   conversions of a signed read                          of an unsigned or binary one (WL- is silent)
    1             both wordlines, both bitlines subtracted as currents  the same one
    2             WL+, then WL-; the two results subtracted digitally   WL+ only: one
    4             {WL+, WL-} x {positive, negative bitline}             {WL+} x {positive, negative bitline}: two

More phases cost time and energy in proportion and pay ``out_noise`` and the rounding of the ADC once a conversion. They
cancel the offset of a column, which has one converter, and need no subtraction of currents; a bitline by itself
carries more current than the difference, so that four phases saturate earlier. The names one-phase and four-phase are
those of the HERMES chip (Le Gallo et al. 2023, Nature Electronics 6:680), whose circuits are not open in this detail:
the table is our reading of them.

Not modelled: settling, mismatch between DACs, temperature, nonlinear converters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError, nearest

__all__ = [
    "COMPENSATIONS",
    "INPUTS",
    "Conversion",
    "Periphery",
    "adc",
    "add_noise",
    "clipped",
    "convert",
    "dac",
    "normal_like",
]

INPUTS = ("signed", "unsigned", "binary")
COMPENSATIONS = (None, "global", "column")


class Conversion(NamedTuple):
    """One pass of an array's columns through their ADCs.

    ``rows``: sign of the inputs that are applied (0: all, +1: on WL+, -1: on WL-). ``bitlines``: polarity that is
    read (0: their difference). ``sign``: with which the result enters the digital sum.
    """

    rows: int
    bitlines: int
    sign: int


_WORDLINES = {
    1: (Conversion(0, 0, 1),),
    2: (Conversion(1, 0, 1), Conversion(-1, 0, -1)),
    4: (Conversion(1, 1, 1), Conversion(1, -1, -1), Conversion(-1, 1, -1), Conversion(-1, -1, 1)),
}
_CONVERSIONS = {
    (phases, signed): tuple(c for c in every if signed or c.rows >= 0)
    for phases, every in _WORDLINES.items()
    for signed in (False, True)
}
"""The conversions of a read, by its phases and whether its inputs are signed."""


@dataclass(frozen=True)
class Periphery:
    """The converters and wires of a chip; the defaults are those of ``adapters.aihwkit_devices.Hardware``.

    Attributes:
        dac_bits, adc_bits: resolution, sign included; 0 is an ideal converter without bounds.
        adc_range: full scale of the ADC, in currents of one row with full input on a device pair at full scale.
        out_noise: standard deviation of the noise of a conversion, in the same unit.
        w_noise: read noise of a product (aihwkit's PCM_READ): variance w_noise^2 sum_i |w_ij| u_i^2.
            Ranges and noise are of aihwkit's StandardHWATrainingPreset (Rasch et al. 2023, Nature Communications
            14:5282).
        column_gain_sigma: spread of a column's converter gain around 1.
        column_offset_sigma: spread of a column's converter offset around 0, in the unit of ``adc_range``.
        compensation: of drift, digital: None, ``"global"`` or ``"column"`` (``models.drift_compensation``).
        wire_ohm: resistance of a wire from one cell to the next, along rows and columns; 0: none
            (``models.wire_resistance``).
        read_phases: 1, 2 or 4 (see the module).
    Raises: ConfigError: a value that makes no sense.
    """

    dac_bits: int = 8
    adc_bits: int = 8
    adc_range: float = 10.0
    out_noise: float = 0.04
    w_noise: float = 0.0175
    column_gain_sigma: float = 0.0
    column_offset_sigma: float = 0.0
    compensation: str | None = None
    wire_ohm: float = 0.0
    read_phases: int = 1

    def __post_init__(self) -> None:
        for name in ("dac_bits", "adc_bits"):
            if not (getattr(self, name) == 0 or 2 <= getattr(self, name) <= 16):
                raise ConfigError(f"{name} {getattr(self, name)}: choose 2 to 16, or 0 for an ideal converter")
        if not 0 < self.adc_range < float("inf"):
            raise ConfigError(f"adc_range {self.adc_range}: must be positive and finite")
        for name in ("out_noise", "w_noise", "column_gain_sigma", "column_offset_sigma", "wire_ohm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} {getattr(self, name)}: must be finite and not negative")
        if self.compensation not in COMPENSATIONS:
            raise ConfigError(f"compensation {self.compensation!r}: choose None, 'global' or 'column'")
        if self.read_phases not in _WORDLINES:
            raise ConfigError(f"read_phases {self.read_phases}: choose 1, 2 or 4")

    @classmethod
    def ideal(cls) -> Periphery:
        """Converters without rounding or bounds, and no noise."""
        return cls(dac_bits=0, adc_bits=0, out_noise=0.0, w_noise=0.0)

    def conversions(self, inputs: str = "signed") -> tuple[Conversion, ...]:
        """The conversions of one read, in order; ``inputs``: one of ``INPUTS``."""
        if inputs not in INPUTS:
            raise ConfigError(f"inputs {inputs!r}: {nearest(inputs, INPUTS)}")
        return _CONVERSIONS[self.read_phases, inputs == "signed"]

    def phases(self, inputs: str = "signed") -> int:
        """What a read costs: its number of phases, one a conversion."""
        return len(self.conversions(inputs))

    def draw_columns(self, columns: int, generator: torch.Generator | None) -> tuple[Tensor | None, Tensor | None]:
        """Gain and offset of the converters of an array, each [columns]; None where the spread is 0."""
        gain = offset = None
        if self.column_gain_sigma:
            gain = 1.0 + self.column_gain_sigma * torch.randn(columns, generator=generator)
        if self.column_offset_sigma:
            offset = self.column_offset_sigma * torch.randn(columns, generator=generator)
        return gain, offset


def dac(x: Tensor, input_range: float, bits: int) -> Tensor:
    """Digital values of any shape -> row voltages in -1..1, a new tensor; the gradient passes where nothing clips."""
    return convert(x / input_range, 1.0, bits)


def adc(y: Tensor, adc_range: float, bits: int) -> Tensor:
    """Column currents of any shape -> digital values, in place; the gradient passes where nothing clips."""
    return convert(y, adc_range, bits)


def convert(x: Tensor, bound: float, bits: int) -> Tensor:
    """Round to 2^bits - 2 steps over -bound..bound and clip; in place unless ``x`` needs a gradient; 0 bits: as is."""
    if not bits:
        return x
    if x.requires_grad:
        within = x.clamp(-bound, bound)
        return within + (convert(x.detach().clone(), bound, bits) - within.detach())
    steps = 2 ** (bits - 1) - 1
    return x.mul_(steps / bound).round_().clamp_(-steps, steps).mul_(bound / steps)


def clipped(x: Tensor, bound: float, bits: int) -> int:
    """How many values a converter clips: those that round to a step beyond its last."""
    if not bits:
        return 0
    steps = 2 ** (bits - 1) - 1
    return int((x.detach() * (steps / bound)).round_().abs_().gt_(steps).sum())


def add_noise(y: Tensor, variance: Tensor | None, out_noise: float, generator: torch.Generator | None) -> Tensor:
    """Currents [...] plus noise of this ``variance`` (or none) and of the conversion; in place without gradient."""
    if variance is None:
        if not out_noise:
            return y
        noise = normal_like(y, generator)
        return y.add(noise, alpha=out_noise) if y.requires_grad else y.add_(noise, alpha=out_noise)
    noise = normal_like(y, generator)
    if y.requires_grad or variance.requires_grad:
        return y.addcmul((variance + out_noise**2).clamp(min=1e-30).sqrt(), noise)
    return y.addcmul_(variance.add_(out_noise**2).sqrt_(), noise)


def normal_like(y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normal numbers, shaped and strided as ``y``."""
    # normal_ is six times slower on a permuted tensor than on contiguous memory
    return torch.empty(y.numel(), dtype=y.dtype).normal_(generator=generator).as_strided(y.shape, y.stride())
