"""From counted operations to energy and time, as ranges; what drives them; and when meta-training has paid for itself.

    E = E_mvm(phases) + devices n (f E_pulse + E_verify) + elements E_element + macs (E_arith + b E_sram)
    break-even = E_meta / (E_other - E_adapted)          deployments after which learning to learn has saved its cost

Every total is monotone in every parameter: it rises with each, but falls with ``devices_in_parallel``. So the interval
of a total, every parameter anywhere in its range, ends where each parameter is at one of its ends. A tornado moves one
parameter alone over its range, the others at their typical value. ``monte_carlo`` draws all of them, log-triangular.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ovonic.models.energy import Costs
from ovonic.models.errors import ConfigError

__all__ = [
    "BreakEven",
    "Counts",
    "Estimate",
    "Interval",
    "Swing",
    "break_even",
    "draw_costs",
    "energy_parts",
    "estimate",
    "latency_parts",
    "monte_carlo",
    "tornado",
    "training_energy",
]

FALLING = ("programming.devices_in_parallel",)
"""Parameters that lower what they touch."""


class Interval(NamedTuple):
    """A total with every parameter at its cheapest, typical and dearest."""

    low: float
    typical: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """All three times ``factor`` >= 0."""
        return Interval(*(factor * end for end in self))


@dataclass(frozen=True)
class Counts:
    """What was done, or will be; all at least 0, and fractions where they are means.

    Attributes:
        mvms, phases: products on arrays and the phases of all of them together (one to four each).
        serial_mvms, serial_phases: those that wait for one another; arrays work side by side. None: all of them.
        devices_programmed: programmings of single devices, as the device model draws them.
        pulses: pulses and verifying reads of a chip that counts them itself (program-and-verify in the simulator, or
            a real chip); None: ``iterations`` of the costs a programmed device.
        elements: numbers processed digitally beside the arrays (a neuron's step, a norm, the sum of row blocks).
        macs: digital multiply-accumulates.
    """

    mvms: float = 0.0
    phases: float = 0.0
    serial_mvms: float | None = None
    serial_phases: float | None = None
    devices_programmed: float = 0.0
    pulses: float | None = None
    elements: float = 0.0
    macs: float = 0.0

    def __post_init__(self) -> None:
        for name, value in self.items():
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} {value!r}: a count must be finite and at least 0")
        for mvms, phases in (("mvms", "phases"), ("serial_mvms", "serial_phases")):
            m, p = getattr(self, mvms), getattr(self, phases)
            if (m is None) != (p is None):
                raise ConfigError(f"{mvms} {m!r} and {phases} {p!r}: give both or neither")
            if m is not None and not m * (1 - 1e-9) <= p <= 4 * m * (1 + 1e-9):
                raise ConfigError(f"{phases} {p:g} of {m:g} {mvms}: a product takes one to four phases")
        if self.serial_mvms is not None and self.serial_mvms > self.mvms * (1 + 1e-9):
            raise ConfigError(f"serial_mvms {self.serial_mvms:g}: more than the {self.mvms:g} mvms in all")

    def items(self) -> list[tuple[str, float | None]]:
        """Fields and their values."""
        return [(f.name, getattr(self, f.name)) for f in fields(self)]

    @classmethod
    def of(cls, counters: Any, *, iterated: bool = False, **more: float) -> Self:
        """The counts of a chip's ``Counters`` (or of a mapping of the same names).

        Args:
            iterated: the chip counted every pulse of program-and-verify itself.
            more: counts that a chip does not see: ``elements``, ``macs``, ``serial_mvms`` with ``serial_phases``.
        """
        seen: Mapping[str, float] = counters if isinstance(counters, Mapping) else counters.as_dict()
        taken: dict[str, float] = {name: float(seen[name]) for name in ("mvms", "phases", "devices_programmed")}
        if iterated:
            taken["pulses"] = float(seen["pulses"])
        return cls(**taken | more)

    def __add__(self, other: Counts) -> Counts:
        """One after the other."""
        total: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name) for name in ("mvms", "phases", "elements", "macs")
        }
        for name, whole in (("serial_mvms", "mvms"), ("serial_phases", "phases")):
            parts = [getattr(self, name), getattr(other, name)]
            wholes = [getattr(self, whole), getattr(other, whole)]
            given = [w if p is None else p for p, w in zip(parts, wholes, strict=True)]
            total[name] = None if parts == [None, None] else sum(given)
        total["devices_programmed"] = self.devices_programmed + other.devices_programmed
        counted = [None if c.pulses is None and c.devices_programmed else c.pulses or 0.0 for c in (self, other)]
        if None in counted and any(counted):
            raise ConfigError("counts with and without pulses of their own do not add: cost them one by one")
        total["pulses"] = None if None in counted else sum(c for c in counted if c is not None)
        return Counts(**total)

    def __mul__(self, times: float) -> Counts:
        """``times`` as often, one after the other."""
        scaled: dict[str, Any] = {name: None if value is None else times * value for name, value in self.items()}
        return Counts(**scaled)

    __rmul__ = __mul__


class Estimate(NamedTuple):
    """Energy (J) and time (s) of some counts, and the typical share of each kind of work."""

    energy_j: Interval
    latency_s: Interval
    energy_parts_j: dict[str, Interval]
    latency_parts_s: dict[str, Interval]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "energy_j": self.energy_j._asdict(),
            "latency_s": self.latency_s._asdict(),
            "energy_parts_j": {name: part._asdict() for name, part in self.energy_parts_j.items()},
            "latency_parts_s": {name: part._asdict() for name, part in self.latency_parts_s.items()},
        }


def energy_parts(counts: Counts, at: Mapping[str, Any]) -> dict[str, Any]:
    """Energy by kind of work, J, for one value (or an array of values) of each parameter."""
    one, four = at["array.mvm_energy_1_j"], at["array.mvm_energy_4_j"]
    per_phase = (four - one) / 3
    pulses = counts.devices_programmed * at["programming.iterations"] if counts.pulses is None else counts.pulses
    pulse = at["programming.driver_factor"] * at["programming.pulse_energy_j"] + at["programming.verify_energy_j"]
    mac = at["digital.mac_energy_j"] + at["digital.bytes_per_mac"] * at["digital.sram_energy_j"]
    return {
        "mvm": at["array.mvm_share"] * (counts.mvms * one + (counts.phases - counts.mvms) * per_phase),
        "programming": pulses * pulse,
        "digital elements": counts.elements * at["digital.element_energy_j"],
        "digital products": counts.macs * mac,
    }


def latency_parts(counts: Counts, at: Mapping[str, Any]) -> dict[str, Any]:
    """Time by kind of work, s; the kinds wait for one another."""
    one, four = at["array.mvm_time_1_s"], at["array.mvm_time_4_s"]
    mvms = counts.mvms if counts.serial_mvms is None else counts.serial_mvms
    phases = counts.phases if counts.serial_phases is None else counts.serial_phases
    pulses = counts.devices_programmed * at["programming.iterations"] if counts.pulses is None else counts.pulses
    pulse = (at["programming.pulse_time_s"] + at["programming.verify_time_s"]) / at["programming.devices_in_parallel"]
    return {
        "mvm": mvms * one + (phases - mvms) * (four - one) / 3,
        "programming": pulses * pulse,
        "digital elements": counts.elements * at["digital.element_time_s"],
        "digital products": counts.macs * at["digital.mac_time_s"],
    }


def estimate(counts: Counts, costs: Costs | None = None) -> Estimate:
    """Energy and time of ``counts``, each an interval over all parameters in their ranges."""
    costs = costs or Costs()
    ends = [_extreme(costs, dear) for dear in (False, None, True)]
    parts = []
    for split in (energy_parts, latency_parts):
        at_ends = [split(counts, end) for end in ends]
        parts.append({name: Interval(*(float(at_end[name]) for at_end in at_ends)) for name in at_ends[0]})
    energy, latency = (Interval(*(sum(part[end] for part in by.values()) for end in range(3))) for by in parts)
    return Estimate(energy, latency, *parts)


def training_energy(
    costs: Costs | None = None, *, flops: float | None = None, core_hours: float | None = None
) -> Interval:
    """Energy of training, J, from its floating-point operations or from the hours of busy cores.

    Raises: ConfigError: both or neither is given, or a negative amount.
    """
    costs = costs or Costs()
    if (flops is None) == (core_hours is None):
        raise ConfigError("give flops or core_hours, one of them")
    amount = flops if flops is not None else 3600.0 * (core_hours or 0.0)
    if not 0 <= amount < math.inf:
        raise ConfigError(f"training of {amount}: must be finite and at least 0")
    each = costs["training.flop_energy_j" if flops is not None else "training.core_power_w"]
    return Interval(amount * each.low, amount * each.typical, amount * each.high)


class Swing(NamedTuple):
    """A total with one parameter at the ends of its range and all others typical."""

    name: str
    at_low: float
    at_high: float

    @property
    def width(self) -> float:
        """How far the total moves."""
        return abs(self.at_high - self.at_low)


def tornado(counts: Counts, costs: Costs | None = None, quantity: str = "energy") -> list[Swing]:
    """Move each parameter alone; the widest first; parameters that change nothing are left out.

    Args: quantity: ``"energy"`` (J) or ``"latency"`` (s).
    """
    costs = costs or Costs()
    split = _split(quantity)
    typical = costs.at("typical")
    swings = []
    for name, value in costs:
        ends = [sum(split(counts, typical | {name: end}).values()) for end in (value.low, value.high)]
        if ends[0] != ends[1]:
            swings.append(Swing(name, *map(float, ends)))
    return sorted(swings, key=lambda swing: -swing.width)


def monte_carlo(
    counts: Counts, costs: Costs | None = None, quantity: str = "energy", *, n: int = 10_000, seed: int = 0
) -> NDArray[np.float64]:
    """Draw all parameters at once, independently, and return the total of each draw, [n].

    A parameter is triangular in its logarithm, with its mode at the typical value (triangular itself where low is 0).
    """
    return np.asarray(sum(_split(quantity)(counts, draw_costs(costs or Costs(), n, seed)).values())) + np.zeros(n)


def draw_costs(costs: Costs, n: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """``n`` draws of every parameter, each [n]."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, value in costs:
        low, typical, high = value.low, value.typical, value.high
        if low == high:
            drawn[name] = np.full(n, typical)
        elif low > 0:
            drawn[name] = np.exp(rng.triangular(math.log(low), math.log(typical), math.log(high), n)).clip(low, high)
        else:
            drawn[name] = rng.triangular(low, typical, high, n)
    return drawn


class BreakEven(NamedTuple):
    """After how many deployments learning to learn has saved what meta-training cost.

    Attributes:
        deployments: with the saving at its largest, typical and smallest; infinite where nothing is saved.
        saving_j: of one deployment, smallest, typical and largest; the two intervals count as independent.
        verdict: one plain sentence.
    """

    deployments: Interval
    saving_j: Interval
    verdict: str


def break_even(meta_training_j: Interval, adapted_j: Interval, other_j: Interval) -> BreakEven:
    """Compare a deployment that adapts with one that does something else (trains from scratch, runs the twin, ..).

    Args: meta_training_j: paid once; adapted_j, other_j: paid at every deployment; all J.
    """
    saving = Interval(other_j.low - adapted_j.high, other_j.typical - adapted_j.typical, other_j.high - adapted_j.low)
    needed = Interval(
        _deployments(meta_training_j.low, saving.high),
        _deployments(meta_training_j.typical, saving.typical),
        _deployments(meta_training_j.high, saving.low),
    )
    low, typical, high = (_deployments_in_words(end) for end in needed)
    if saving.high <= 0:
        verdict = "never: a deployment that adapts costs more at every value in the ranges"
    elif saving.typical <= 0:
        verdict = f"not at typical costs; at best after {low}"
    elif saving.low <= 0:
        verdict = f"typically after {typical}; at worst never, at best after {low}"
    else:
        verdict = f"typically after {typical}; at best after {low}, at worst after {high}"
    return BreakEven(needed, saving, verdict)


def _deployments_in_words(n: float) -> str:
    """``"130 million deployments"``, to two digits."""
    if n <= 1:
        return "the first deployment"
    if not math.isfinite(n):
        return "no number of deployments"
    rounded = round(n, 1 - math.floor(math.log10(n)))
    for size, word in ((1e12, ""), (1e9, " billion"), (1e6, " million")):
        if rounded >= size:
            return f"{rounded:.1e} deployments" if size == 1e12 else f"{rounded / size:g}{word} deployments"
    return f"{max(math.ceil(n) if n < 10 else rounded, 2):,.0f} deployments"


def _deployments(cost: float, saving: float) -> float:
    return cost / saving if saving > 0 else math.inf


def _extreme(costs: Costs, dear: bool | None) -> dict[str, float]:
    if dear is None:
        return costs.at("typical")
    rising, falling = ("high", "low") if dear else ("low", "high")
    return {name: getattr(value, falling if name in FALLING else rising) for name, value in costs}


def _split(quantity: str) -> Any:
    if quantity not in ("energy", "latency"):
        raise ConfigError(f"quantity {quantity!r}: choose energy or latency")
    return energy_parts if quantity == "energy" else latency_parts
