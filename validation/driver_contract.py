"""What every driver must do, checked on any of them: a simulated chip, a recording, or your own chip.

    from ovonic.validation.driver_contract import Limits, check_driver, summary
    print(summary(check_driver(my_driver, Limits(programming=0.2))))

The checks use the two corners (0, 0) and (rows, columns) of arrays 0 and n_arrays - 1, in blocks of up to 8 x 8 cells;
they program those cells about six times each, read about twenty times, multiply about fifty vectors and let time pass
once. Nothing is assumed of what the chip held before. Each check stands for itself: a failure does not stop the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ovonic.models.counters import Counters
from ovonic.models.driver import Driver
from ovonic.models.errors import ConfigError
from ovonic.models.splitting import conductances, weights

__all__ = ["CHECKS", "Finding", "Limits", "check_driver", "summary"]


@dataclass(frozen=True)
class Limits:
    """How far from ideal a chip may be.

    Attributes:
        programming: root mean square of read - target over a block, in units of g_max.
        still: largest change between two reads of a device that nothing was done to, in units of g_max; 0: bit for bit.
        product: root mean square of a product - (inputs times the weights that were read), in units of one row.
        drift_s: how long the check of drift waits, s; rise: by how much the mean of a block may have risen then (by
            read noise), in units of g_max.
        seed: of the targets and inputs.
    """

    programming: float = 0.15
    still: float = 0.1
    product: float = 0.3
    drift_s: float = 60.0
    rise: float = 0.02
    seed: int = 0


class Finding(NamedTuple):
    """Outcome of one check: ``problem`` is empty where the driver does what is due."""

    check: str
    problem: str

    @property
    def passed(self) -> bool:
        return not self.problem


class Bench:
    """A driver on the bench: blocks of cells to work on, and random targets."""

    def __init__(self, driver: Driver, limits: Limits) -> None:
        self.driver, self.limits = driver, limits
        self.generator = torch.Generator().manual_seed(limits.seed)

    def block(self, corner: int = 0) -> tuple[int, slice, slice]:
        """Array, rows and columns of a block: the first corner of the first array, or the last of the last."""
        d = self.driver
        m, n = min(8, d.rows), min(8, d.columns)
        if corner == 0:
            return 0, slice(0, m), slice(0, n)
        return d.n_arrays - 1, slice(d.rows - m, d.rows), slice(d.columns - n, d.columns)

    def targets(self, rows: slice, columns: slice) -> Tensor:
        """Random targets [4, rows, columns] of weights in -1..1."""
        size = rows.stop - rows.start, columns.stop - columns.start
        w = 2.0 * torch.rand(size, generator=self.generator) - 1.0
        return conductances(w, self.driver.g_max_us, "fill")

    def program(self, array: int, rows: slice, columns: slice, g_target: Tensor) -> None:
        """Program a block."""
        r, c = cells(rows, columns)
        self.driver.program(array, r, c, g_target.reshape(4, -1))

    def fresh(self, corner: int = 0) -> tuple[int, slice, slice, Tensor]:
        """A block that was just programmed, and its targets."""
        array, rows, columns = self.block(corner)
        g = self.targets(rows, columns)
        self.program(array, rows, columns, g)
        return array, rows, columns, g

    def inputs(self, *shape: int) -> Tensor:
        """Random inputs in -1..1."""
        return 2.0 * torch.rand(shape, generator=self.generator) - 1.0


def cells(rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """The cells of a block, [n] rows and [n] columns."""
    r, c = torch.meshgrid(torch.arange(rows.start, rows.stop), torch.arange(columns.start, columns.stop), indexing="ij")
    return r.flatten(), c.flatten()


def describes_itself(bench: Bench) -> str:
    d = bench.driver
    for name in ("n_arrays", "rows", "columns"):
        if not isinstance(getattr(d, name, None), int) or getattr(d, name) < 1:
            return f"{name} is {getattr(d, name, None)!r}: a whole number of 1 or more is due"
    if not 0 < d.g_max_us < math.inf:
        return f"g_max_us is {d.g_max_us!r}"
    return "" if isinstance(d.counters, Counters) else f"counters is a {type(d.counters).__name__}, not Counters"


def reads_conductances(bench: Bench) -> str:
    d = bench.driver
    g = d.read(0)
    if tuple(g.shape) != (4, d.rows, d.columns) or g.dtype != torch.float32:
        return f"read gives {g.dtype} of shape {tuple(g.shape)}; float32 {(4, d.rows, d.columns)} is due"
    if not bool(torch.isfinite(g).all()) or float(g.min()) < -bench.limits.still * d.g_max_us:
        return f"read gives {float(g.min())} uS, or what is not finite"
    return ""


def programs_to_target(bench: Bench) -> str:
    for corner in (0, 1):
        array, rows, columns, g = bench.fresh(corner)
        error = (bench.driver.read(array)[:, rows, columns] - g) / bench.driver.g_max_us
        rms = float(error.square().mean().sqrt())
        if not rms <= bench.limits.programming:
            return f"array {array}, {rows}, {columns}: error {rms:.3g} g_max, limit {bench.limits.programming}"
    return ""


def leaves_other_devices_alone(bench: Bench) -> str:
    array, rows, columns, g = bench.fresh()
    before = bench.driver.read(array)
    g = g.clone()
    g[0, 0, 0] = bench.driver.g_max_us - g[0, 0, 0]
    bench.program(array, rows, columns, g)
    change = (bench.driver.read(array) - before).abs() / bench.driver.g_max_us
    change[0, rows.start, columns.start] = 0.0
    worst = int(change.argmax())
    at = torch.unravel_index(torch.tensor(worst), change.shape)
    if float(change.max()) > bench.limits.still:
        return f"device {[int(i) for i in at]} moved by {float(change.max()):.3g} g_max when another was programmed"
    return ""


def programs_only_what_changes(bench: Bench) -> str:
    array, rows, columns, g = bench.fresh()
    before = bench.driver.read(array)
    pulses = bench.driver.counters.pulses
    bench.program(array, rows, columns, g)
    if bench.driver.counters.pulses != pulses:
        return f"{bench.driver.counters.pulses - pulses} pulses for targets that the devices were already programmed to"
    change = float((bench.driver.read(array) - before).abs().max()) / bench.driver.g_max_us
    return "" if change <= bench.limits.still else f"the same targets again moved a device by {change:.3g} g_max"


def counts_what_it_programs(bench: Bench) -> str:
    array, rows, columns, g = bench.fresh()
    if bench.driver.counters.pulses == 0:
        return ""
    before = bench.driver.counters.copy()
    g = g.clone()
    g[:2, :, 0] = bench.driver.g_max_us - g[:2, :, 0]
    bench.program(array, rows, columns, g)
    done, due = bench.driver.counters - before, rows.stop - rows.start
    if (done.devices_programmed, done.cells_programmed) != (2 * due, due):
        return f"{done.devices_programmed} devices in {done.cells_programmed} cells counted; {2 * due} in {due} are due"
    return "" if done.pulses >= 2 * due else f"{done.pulses} pulses counted for {2 * due} devices"


def multiplies_what_it_reads(bench: Bench) -> str:
    for corner in (0, 1):
        array, rows, columns, _ = bench.fresh(corner)
        w = weights(bench.driver.read(array)[:, rows, columns], bench.driver.g_max_us)
        x = bench.inputs(8, len(w))
        for inputs, given in (("signed", x), ("unsigned", x.abs()), ("binary", (x > 0).float())):
            error = float((bench.driver.mvm(array, given, rows, columns, inputs) - given @ w).square().mean().sqrt())
            if not error <= bench.limits.product:
                return f"array {array}, {inputs}: error {error:.3g} of one row, limit {bench.limits.product}"
    return ""


def multiplies_parts(bench: Bench) -> str:
    array, rows, columns, _ = bench.fresh()
    middle = slice(rows.start + (rows.stop - rows.start) // 2, rows.stop)
    last = slice(columns.stop - 1, columns.stop)
    x = bench.inputs(8, rows.stop - rows.start)
    x[:, : middle.start - rows.start] = 0.0
    part = bench.driver.mvm(array, x[:, middle.start - rows.start :], middle, last)
    whole = bench.driver.mvm(array, x, rows, columns)[:, -1:]
    error = float((part - whole).square().mean().sqrt())
    limit = 2 * bench.limits.product
    return (
        "" if error <= limit else f"a part of the rows and columns differs by {error:.3g} from the whole, limit {limit}"
    )


def keeps_shapes(bench: Bench) -> str:
    array, rows, columns = bench.block()
    m, n = rows.stop - rows.start, columns.stop - columns.start
    for leading in ((), (3,), (2, 3), (0,)):
        x = bench.inputs(*leading, m)
        kept = x.clone()
        y = bench.driver.mvm(array, x, rows, columns)
        if tuple(y.shape) != (*leading, n) or y.dtype != torch.float32:
            return f"x {tuple(x.shape)} gives {y.dtype} {tuple(y.shape)}; float32 {(*leading, n)} is due"
        if not torch.equal(x, kept):
            return "x was written to"
        if not bool(torch.isfinite(y).all()):
            return "a product is not finite"
    return ""


def counts_products(bench: Bench) -> str:
    array, rows, columns = bench.block()
    before = bench.driver.counters.copy()
    bench.driver.mvm(array, bench.inputs(2, 3, rows.stop - rows.start), rows, columns)
    done = bench.driver.counters - before
    if before.mvms == done.mvms == 0:
        return ""
    if done.mvms != 6:
        return f"{done.mvms} products counted for 6 vectors"
    return "" if done.phases >= 6 else f"{done.phases} phases counted for 6 products"


def lets_time_pass(bench: Bench) -> str:
    array, rows, columns, _ = bench.fresh()
    before = bench.driver.read(array)[:, rows, columns]
    bench.driver.advance(bench.limits.drift_s)
    after = bench.driver.read(array)[:, rows, columns]
    rise = float((after - before).mean()) / bench.driver.g_max_us
    return "" if rise <= bench.limits.rise else f"conductances rose by {rise:.3g} g_max in {bench.limits.drift_s} s"


def refuses_nonsense(bench: Bench) -> str:
    d = bench.driver
    array, rows, columns = bench.block()
    r, c = cells(rows, columns)
    g, x = torch.zeros(4, len(r)), torch.zeros(rows.stop - rows.start)
    far, bad = r.clone(), g.clone()
    far[-1], bad[1, 0] = d.rows, 2.0 * d.g_max_us
    nothing = torch.full_like(g, math.nan)
    calls: dict[str, Callable[[], object]] = {
        "an array that is not there": lambda: d.read(d.n_arrays),
        "a negative array": lambda: d.read(-1),
        "a row beyond the last": lambda: d.program(array, far, c, g),
        "a negative column": lambda: d.program(array, r, c - d.columns, g),
        "a cell listed twice": lambda: d.program(array, torch.cat([r, r]), torch.cat([c, c]), torch.cat([g, g], 1)),
        "a target beyond g_max": lambda: d.program(array, r, c, bad),
        "a target that is no number": lambda: d.program(array, r, c, nothing),
        "targets of another number of cells": lambda: d.program(array, r, c, g[:, 1:]),
        "inputs of another length": lambda: d.mvm(array, torch.zeros(len(x) + 1), rows, columns),
        "rows beyond the last": lambda: d.mvm(array, torch.zeros(d.rows + 1), slice(0, d.rows + 1), columns),
        "a slice with a step": lambda: d.mvm(array, x, slice(rows.start, rows.stop, 1), columns),
        "unknown inputs": lambda: d.mvm(array, x, rows, columns, "sined"),
        "inputs that are no numbers": lambda: d.mvm(array, x * math.nan, rows, columns),
        "time that runs backwards": lambda: d.advance(-1.0),
        "time that is no number": lambda: d.advance(math.nan),
    }
    for name, call in calls.items():
        try:
            call()
        except ConfigError:
            continue
        except Exception as error:
            return f"{name}: {type(error).__name__} where ConfigError is due ({error})"
        return f"{name} was not refused"
    return ""


CHECKS: tuple[Callable[[Bench], str], ...] = (
    describes_itself,
    reads_conductances,
    programs_to_target,
    leaves_other_devices_alone,
    programs_only_what_changes,
    counts_what_it_programs,
    multiplies_what_it_reads,
    multiplies_parts,
    keeps_shapes,
    counts_products,
    lets_time_pass,
    refuses_nonsense,
)
"""The checks, in the order in which they are run; each gives what is wrong, or an empty text."""


def check_driver(driver: Driver, limits: Limits | None = None) -> list[Finding]:
    """Check a driver: one finding for each of ``CHECKS``. An exception in a check is that check's problem."""
    limits, findings = limits or Limits(), []
    for check in CHECKS:
        try:
            problem = check(Bench(driver, limits))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        findings.append(Finding(check.__name__.replace("_", " "), problem))
    return findings


def summary(findings: Iterable[Finding]) -> str:
    """The findings as lines of text."""
    return "\n".join(
        f"{'ok  ' if f.passed else 'FAIL'} {f.check}{': ' if f.problem else ''}{f.problem}" for f in findings
    )
