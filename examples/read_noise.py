"""Read noise of phase-change memory: the two readings of one formula, beside what else is known of it.

    python examples/read_noise.py

    sigma / g = min(.0088 / b^.65, .2) sqrt(ln((t + t_read) / (2 t_read)))      b = g / g_max, or g in uS

docs/devices.md says what follows from these numbers.
"""

from __future__ import annotations

import math

import torch
from device_model import errors

from ovonic.models.device_model import DeviceModel
from ovonic.models.pcm import PCM, device_model

FRACTIONS = (0.02, 0.1, 0.25, 0.5, 1.0)
READINGS = {
    "b = g / g_max": device_model("pcm"),
    "b = g in uS": device_model("pcm", read_exponent_base="microsiemens"),
}
CHIPS = {"HERMES, one device": device_model("hermes"), "HERMES, two": device_model("hermes-pair")}


def percent(model: DeviceModel, fraction: float, age_s: float) -> float:
    """Accumulated read noise of a device at ``fraction`` of full scale, % of its conductance."""
    return 100 * float(model.read_sigma(torch.full((4, 1, 1), fraction * model.g_max_us), age_s)[0, 0, 0])


def single_product(fraction: float) -> dict[str, float]:
    """What aihwkit 1.2.0 has for a single read, % of the conductance: from g in uS, and from w with a full input."""
    g_us = 25.0 * fraction
    return {
        "input-dependent fit, 100 ns": 100 * (0.0113044 * g_us + 0.0503722) / g_us,
        "PCM_READ, .0175 sqrt(w)": 1.75 / math.sqrt(fraction),
    }


def cap_us(model: PCM) -> float:
    """The conductance below which the cap of .2 holds, uS."""
    b = (0.0088 / 0.2) ** (1 / 0.65)
    return b * model.g_max_us if model.read_exponent_base == "relative" else b


def main() -> None:
    row = "{:32}" + "{:>9}" * len(FRACTIONS)
    print(row.format("sigma / g, %, at g / g_max =", *FRACTIONS))
    for age, when in ((0.0, "first read"), (86400.0, "a day")):
        for name, model in {**READINGS, **CHIPS}.items():
            print(row.format(f"{name}, {when}", *(f"{percent(model, f, age):.2f}" for f in FRACTIONS)))
    for name in single_product(1.0):
        print(row.format(name, *(f"{single_product(f)[name]:.2f}" for f in FRACTIONS)))
    print("\nthe cap of .2 holds below")
    for name, model in READINGS.items():
        print(f"  {name:16}{cap_us(model):8.4f} uS")
    nu_bound = 25.0 * math.exp((0.0244 - 0.1) / 0.0155)
    print(f"  and mu_nu of the same devices stands at its bound of .1 below {nu_bound:.4f} uS")
    print("\nRMS error of weights ~ N(0, .3), % of full scale, gain divided out")
    for name, model in {**READINGS, **CHIPS}.items():
        found = errors(model)
        print(f"  {name:22}" + "   ".join(f"{when} {100 * error:.2f}" for when, (_, error) in found.items()))


if __name__ == "__main__":
    main()
