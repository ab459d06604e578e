"""What operations cost: energies and times as ranges, each with where it comes from.

    E_mvm(p) = s (E_1 + (p - 1) (E_4 - E_1) / 3)          p phases of a read; E_1 and E_4 are published
    t_mvm(p) =    t_1 + (p - 1) (t_4 - t_1) / 3
    E_device = n (f E_pulse + E_verify)                    n pulses and reads behind one programmed device
    t_device = n (t_pulse + t_verify) / devices at a time
    E_mac    = E_arith + b E_sram                          b bytes moved a multiply-accumulate

A range is low, typical and high: no figure here is known to better than a factor, and programming figures of the chip
are not published at all. Ranges are not confidence intervals. ``Costs.replace`` and ``costs_from`` exchange any of
them for figures of one's own. Not modelled: leakage and idle power, clock distribution, the network on chip between
arrays, DRAM, voltage and temperature. Sources: docs/energy.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ovonic.models.errors import ConfigError, nearest

__all__ = ["ArrayCosts", "Costs", "DigitalCosts", "ProgrammingCosts", "Range", "TrainingCosts", "costs_from"]

LE_GALLO = "Le Gallo et al., Nature Electronics 6 (2023) 680, abstract"
KHADDAM = "Khaddam-Aljameh et al., JSSC 57 (2022) 1027, abstract"
HOROWITZ = "Horowitz, ISSCC 2014, 1.1, 45 nm and 0.9 V"
NVSIM = "NVSim, sample_PCRAM.cell (after Lee et al., ISCA 2009, 90 nm)"
STERN = "Stern et al., arXiv 2104.11545"
NARAYANAN = "Narayanan et al., IEEE TED 68 (2021) 6629, abstract"


@dataclass(frozen=True)
class Range:
    """A quantity that is known to lie somewhere from ``low`` to ``high``.

    Attributes:
        low, typical, high: 0 <= low <= typical <= high, finite.
        unit: of the three; source: where they come from.
        assumed: one of the three is an assumption, not a published or derived figure.
    """

    low: float
    typical: float
    high: float
    unit: str = ""
    source: str = "given by the user"
    assumed: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "typical", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
                raise ConfigError(f"{name} {value!r}: a cost must be a finite number, at least 0")
        if not self.low <= self.typical <= self.high:
            raise ConfigError(
                f"low {self.low:g}, typical {self.typical:g}, high {self.high:g}: give them in rising order"
            )


@dataclass(frozen=True)
class ArrayCosts:
    """One matrix-vector product (MVM) on one 256 x 256 array, converters and local digital processing included.

    Attributes:
        mvm_energy_1_j, mvm_energy_4_j: with one and with four phases; two phases lie on the line between them.
        mvm_time_1_s, mvm_time_4_s: time likewise.
        mvm_share: what an MVM that uses part of an array costs, as a share of a whole one.
    """

    mvm_energy_1_j: Range = Range(
        12.5e-9,
        13.4e-9,
        26.9e-9,
        "J",
        f"{LE_GALLO}: 9.76 TOPS/W, 2 x 65536 operations an MVM; low: a core alone, 10.5 TOPS/W ({KHADDAM}); "
        "high: twice the typical, for a chip that is not kept busy",
        assumed=True,
    )
    mvm_energy_4_j: Range = Range(
        49.9e-9,
        52.9e-9,
        105.7e-9,
        "J",
        f"{LE_GALLO}: 2.48 TOPS/W; low: four one-phase reads of a core alone; high: twice the typical",
        assumed=True,
    )
    mvm_time_1_s: Range = Range(
        133e-9,
        133e-9,
        266e-9,
        "s",
        f"{LE_GALLO}: 63.1 TOPS of 64 cores, a peak and so the low end; high: twice that",
        assumed=True,
    )
    mvm_time_4_s: Range = Range(
        521e-9,
        521e-9,
        1042e-9,
        "s",
        f"{LE_GALLO}: 16.1 TOPS of 64 cores, a peak and so the low end; high: twice that",
        assumed=True,
    )
    mvm_share: Range = Range(
        0.3,
        1.0,
        1.0,
        "",
        "an MVM on part of an array is counted as a whole one; low: rows and columns not in use mostly switched off",
        assumed=True,
    )


@dataclass(frozen=True)
class ProgrammingCosts:
    """Programming phase-change devices. No figure of the chip is published: these are of other PCM, and wide.

    Attributes:
        pulse_energy_j, pulse_time_s: of one SET, RESET or partial RESET pulse in the device.
        driver_factor: energy drawn from the supply for a unit of energy in the device.
        iterations: pulses (each followed by a read) behind one programming that the device model draws: the models'
            programming errors were measured after program-and-verify.
        verify_energy_j, verify_time_s: of the read after each pulse, one device.
        devices_in_parallel: devices programmed at a time; it divides the time, not the energy.
    """

    pulse_energy_j: Range = Range(
        0.2e-12,
        20e-12,
        100e-12,
        "J",
        f"RESET 300 uA x 40 ns, SET 150 uA x 150 ns ({NVSIM}) at an assumed 1.6 V: 19 and 36 pJ; low: below "
        f"0.1 nJ/um2 ({STERN}) on a 50 nm contact; high: assumed, for longer pulses and larger cells",
        assumed=True,
    )
    pulse_time_s: Range = Range(
        40e-9, 150e-9, 1e-6, "s", f"RESET 40 ns, SET 150 ns ({NVSIM}); high: assumed, slow SET sweeps", assumed=True
    )
    driver_factor: Range = Range(1.0, 3.0, 10.0, "", "access device, drivers and charge pumps: assumed", assumed=True)
    iterations: Range = Range(1.0, 10.0, 30.0, "", "program-and-verify: assumed; 1 is open loop", assumed=True)
    verify_energy_j: Range = Range(
        1e-12,
        52e-12,
        1e-9,
        "J",
        "typical: one column's share of a one-phase MVM (13.4 nJ / 256); high: a whole MVM that verifies 13 devices, a "
        "twentieth of a row; low: assumed",
        assumed=True,
    )
    verify_time_s: Range = Range(
        133e-9, 521e-9, 10e-6, "s", "one-phase and four-phase read of an array; high: assumed", assumed=True
    )
    devices_in_parallel: Range = Range(
        1.0,
        16.0,
        512.0,
        "devices",
        f"high: rows of up to 512 weights at a time ({NARAYANAN}); low: one by one; typical: assumed",
        assumed=True,
    )


@dataclass(frozen=True)
class DigitalCosts:
    """A digital processor: beside the arrays, and for the twin that does the same without them.

    Attributes:
        mac_energy_j: one 8-bit multiplication and its addition; mac_time_s: time of it at the processor's throughput.
        sram_energy_j: reading or writing one byte; bytes_per_mac: bytes moved for one multiply-accumulate.
        element_energy_j, element_time_s: of one number outside products: scaling, normalisation, a neuron's step.
    """

    mac_energy_j: Range = Range(
        0.03e-12,
        0.1e-12,
        0.3e-12,
        "J",
        f"{HOROWITZ}: 8-bit multiplication 0.2 pJ and 32-bit addition 0.1 pJ is the high end; typical and low: "
        "divided by 3 and by 10 for a newer node, assumed",
        assumed=True,
    )
    mac_time_s: Range = Range(
        1e-13, 1e-11, 1e-9, "s", "from 10 T to 1 G multiply-accumulates a second: assumed", assumed=True
    )
    sram_energy_j: Range = Range(
        0.4e-12,
        1.25e-12,
        12.5e-12,
        "J",
        f"{HOROWITZ}: 64 bits from 8 KB 10 pJ (typical), from 1 MB 100 pJ (high); low: 8 KB in a newer node, assumed",
        assumed=True,
    )
    bytes_per_mac: Range = Range(
        0.1,
        1.0,
        4.0,
        "bytes",
        "1: each 8-bit weight is fetched for each use; low: weights reused ten times; high: 32-bit sums: assumed",
        assumed=True,
    )
    element_energy_j: Range = Range(
        1e-12,
        10e-12,
        50e-12,
        "J",
        f"some ten 16-bit operations (0.4 to 1.1 pJ, {HOROWITZ}) and a few bytes of SRAM: assumed",
        assumed=True,
    )
    element_time_s: Range = Range(
        4e-12, 60e-12, 1e-9, "s", "256 lanes, 16 lanes, one lane at 1 GHz: assumed", assumed=True
    )


@dataclass(frozen=True)
class TrainingCosts:
    """Meta-training and training from scratch on a CPU or a GPU.

    Attributes:
        flop_energy_j: one floating-point operation as it is reached in training, the machine's overhead included.
        core_power_w: one busy core with its share of memory and cooling, to turn hours into joules.
        scratch_passes: passes over a task's data that training from random weights takes.
    """

    flop_energy_j: Range = Range(
        10e-12,
        100e-12,
        2e-9,
        "J",
        "low: a GPU of 700 W at its peak of 67 TFLOP/s in float32 (NVIDIA H100 SXM data sheet); typical: a tenth of "
        "that peak; high: a CPU core of 10 W at 5 GFLOP/s: assumed",
        assumed=True,
    )
    core_power_w: Range = Range(3.0, 10.0, 30.0, "W", "a core of a server: assumed", assumed=True)
    scratch_passes: Range = Range(100.0, 1000.0, 10_000.0, "passes", "assumed; it depends on the task", assumed=True)


@dataclass(frozen=True)
class Costs:
    """All cost parameters."""

    array: ArrayCosts = field(default_factory=ArrayCosts)
    programming: ProgrammingCosts = field(default_factory=ProgrammingCosts)
    digital: DigitalCosts = field(default_factory=DigitalCosts)
    training: TrainingCosts = field(default_factory=TrainingCosts)

    def __post_init__(self) -> None:
        for name in ("programming.devices_in_parallel", "programming.iterations", "programming.driver_factor"):
            if self[name].low < 1:
                raise ConfigError(f"{name}: low {self[name].low:g} must be at least 1")
        if self.array.mvm_share.high > 1:
            raise ConfigError(f"array.mvm_share: high {self.array.mvm_share.high:g} must be at most 1")
        for what in ("energy", "time"):
            one, four = (self[f"array.mvm_{what}_{p}_{'j' if what == 'energy' else 's'}"] for p in (1, 4))
            if any(getattr(four, end) < getattr(one, end) for end in ("low", "typical", "high")):
                raise ConfigError(f"array.mvm_{what}: four phases must cost at least as much as one")

    def __iter__(self) -> Iterator[tuple[str, Range]]:
        """Names such as ``"array.mvm_energy_1_j"`` and their ranges."""
        for group in fields(self):
            inside = getattr(self, group.name)
            for entry in fields(inside):
                yield f"{group.name}.{entry.name}", getattr(inside, entry.name)

    def __getitem__(self, name: str) -> Range:
        try:
            return dict(self)[name]
        except KeyError:
            raise ConfigError(f"cost {name!r} is unknown: {nearest(name, dict(self))}") from None

    def at(self, end: str) -> dict[str, float]:
        """All parameters at ``"low"``, ``"typical"`` or ``"high"``."""
        return {name: getattr(value, end) for name, value in self}

    def replace(self, changes: Mapping[str, Range]) -> Costs:
        """A copy with some ranges exchanged, by name.

        Raises: ConfigError: an unknown name.
        """
        grouped: dict[str, dict[str, Range]] = {}
        for name, value in changes.items():
            self[name]
            group, _, entry = name.partition(".")
            grouped.setdefault(group, {})[entry] = value
        return replace(self, **{g: replace(getattr(self, g), **entries) for g, entries in grouped.items()})


def costs_from(data: Mapping[str, Any], base: Costs | None = None) -> Costs:
    """Exchange defaults for figures of one's own.

    Args:
        data: ``{"array": {"mvm_energy_1_j": ..}}`` or ``{"array.mvm_energy_1_j": ..}``. A figure is a number (then low,
            typical and high agree), ``[low, typical, high]``, or ``{"low", "typical", "high", "source"}`` (``source``
            may be missing).
        base: what to start from, by default the defaults.
    Raises: ConfigError: an unknown name (with the nearest), or a figure that is none.
    """
    base = base or Costs()
    groups = [group.name for group in fields(base)]
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if name in groups:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name}: must hold costs by name, not {value!r}")
            flat |= {f"{name}.{entry}": figure for entry, figure in value.items()}
        else:
            flat[str(name)] = value
    return base.replace({name: _figure(name, value, base[name].unit) for name, value in flat.items()})


def _figure(name: str, value: Any, unit: str) -> Range:
    try:
        if isinstance(value, Range):
            return value
        if isinstance(value, Mapping):
            if unknown := set(value) - {"low", "typical", "high", "source"}:
                raise ConfigError(f"key {sorted(map(str, unknown))[0]!r}: choose low, typical, high and source")
            if missing := [end for end in ("low", "typical", "high") if end not in value]:
                raise ConfigError(f"{', '.join(missing)} missing")
            source = str(value.get("source", "given by the user"))
            return Range(value["low"], value["typical"], value["high"], unit, source)
        if isinstance(value, list | tuple):
            if len(value) != 3:
                raise ConfigError(f"{len(value)} numbers: give [low, typical, high]")
            low, typical, high = value
            return Range(low, typical, high, unit)
        return Range(value, value, value, unit)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
