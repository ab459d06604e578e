"""Program-and-verify: pulse, read, correct the devices that miss their target, and stop when all are within tolerance.

    g_0 = program(c_0),  c_0 = g_T
    e_k = g_T - read(g_k)                                         each read with the model's read noise
    |e_k| > tolerance:  c_{k+1} = clip(c_k + gain e_k, 0, g_max),  g_{k+1} = program(c_{k+1})

The corrected command is the integral controller of Papandreou et al. 2011 (ISCAS, "Programming algorithms for
multilevel phase-change memory", I_{k+1} = I_k + alpha (R_T - R_k)), which Khaddam-Aljameh et al. 2022 (JSSC, the HERMES
core) use a device; here the amplitude is written as the conductance that it would give on average. Every pulse melts
the device anew, so every pulse draws the programming error of the model anew, independently of the last.

Where this departs from the chips: the programming error of ``pcm`` and ``hermes`` was measured after their authors' own
program-and-verify. Taken as the error of a single pulse, as here, these models say what more reads and pulses would
give beyond that, and the first pulse is the published accuracy. Pulses shared between the devices of a cell, partial
SET pulses, the converter's steps in the verifying read, and drift between pulses are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.models.pcm import DeviceModel

__all__ = ["Convergence", "Verify", "program_and_verify"]


@dataclass(frozen=True)
class Verify:
    """How a device is programmed with verification.

    Attributes:
        iterations: pulses a device gets at most, 1 or more.
        tolerance_us: error of the read conductance that is accepted, uS. Read noise bounds what it can mean: below
            twice the standard deviation of a read, good devices are pulsed again for the read's error.
        gain: share of the read error by which the command is corrected, 0 to 1. 0 draws the same target again, which is
            the best where errors are independent; more also removes what a device does wrong every time.
    """

    iterations: int
    tolerance_us: float
    gain: float = 0.25

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"iterations {self.iterations}: at least 1, the first pulse")
        if not self.tolerance_us > 0:
            raise ConfigError(f"tolerance_us {self.tolerance_us}: must be positive, in uS")
        if not 0 <= self.gain <= 1:
            raise ConfigError(f"gain {self.gain}: choose 0 to 1")


class Convergence(NamedTuple):
    """How a program-and-verify went, one entry an iteration (fewer than asked for where all were within tolerance).

    ``active``: devices pulsed; ``within``: share of all devices whose last read lies within tolerance; ``error_us``:
    root mean square of g - g_T over all devices, as they are, not as read. ``devices``: how many there were.
    """

    devices: int
    active: tuple[int, ...]
    within: tuple[float, ...]
    error_us: tuple[float, ...]

    @property
    def pulses(self) -> int:
        """Pulses given; as many reads were taken."""
        return sum(self.active)


def program_and_verify(
    model: DeviceModel,
    g_target: Tensor,
    active: Tensor,
    generator: torch.Generator | None,
    verify: Verify,
    held: Tensor | None = None,
    settle: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Convergence]:
    """Program devices until they read within tolerance.

    Args:
        model: device model; g_target: cells [4, n, 1], uS; active: the devices to program, [4, n, 1] bool.
        generator: of all draws; each iteration draws the programming of the cells with an active device, in their
            order, then their reads.
        held: what the devices hold before, [4, n, 1] uS; None: 0.
        settle: what they hold of what was drawn (a stuck one: always the same): (drawn [4, m, 1], which cells [m]) ->
            [4, m, 1].
    Returns: conductances [4, n, 1], pulses [4, n, 1] int32, and how it went.
    """
    g_prog, pulses = (
        torch.zeros_like(g_target) if held is None else held.clone(),
        torch.zeros(g_target.shape, dtype=torch.int32),
    )
    command, left = g_target.clone(), active.clone()
    devices = int(active.sum())
    counts, within, errors = [], [], []
    for _ in range(verify.iterations):
        cells = left.any(0)[:, 0].nonzero()[:, 0]
        if not cells.numel():
            break
        now = left[:, cells]
        drawn = model.program(command[:, cells], generator)
        if settle is not None:
            drawn = settle(drawn, cells)
        g_prog[:, cells] = torch.where(now, drawn, g_prog[:, cells])
        pulses[:, cells] += now
        read = model.read(g_prog[:, cells], torch.zeros_like(drawn), 0.0, generator)
        error = g_target[:, cells] - read
        corrected = (command[:, cells] + verify.gain * error).clamp(0.0, model.g_max_us)
        outside = now & (error.abs() > verify.tolerance_us)
        command[:, cells] = torch.where(outside, corrected, command[:, cells])
        counts.append(int(now.sum()))
        left[:, cells] = outside
        within.append(1.0 - int(left.sum()) / devices)
        errors.append(float((g_prog - g_target)[active].square().mean().sqrt()))
    return g_prog, pulses, Convergence(devices, tuple(counts), tuple(within), tuple(errors))
