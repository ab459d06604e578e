"""What a chip must do to be used as a crossbar: program cells, multiply, read, let time pass.

``Driver`` is what the owner of a real chip implements; ``models.chip.SimulatedChip`` is the simulated one. Where an
implementation wants the same refusals as the others, it calls ``check_cells``, ``check_window``, ``check_array`` and
``check_seconds`` first.

Units: conductances in uS; inputs in units of the DAC's full scale; products in currents of one row with full input on a
device pair at full scale (one cell of weight 1 and input 1 gives 1); time in s. Devices are on the first axis of what
is programmed and read, in the order G1+, G1-, G2+, G2- (see ``models.crossbar``).
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ovonic.models.counters import Counters
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.periphery import INPUTS

__all__ = ["Driver", "check_array", "check_cells", "check_seconds", "check_window"]


@runtime_checkable
class Driver(Protocol):
    """A chip of ``n_arrays`` arrays of ``rows`` x ``columns`` 4R8T cells, whose devices hold up to ``g_max_us`` each.

    Attributes: counters: what it was made to do so far; a chip that cannot count something leaves it at 0.
    """

    n_arrays: int
    rows: int
    columns: int
    g_max_us: float
    counters: Counters

    def program(self, array: int, rows: Tensor, columns: Tensor, g_target: Tensor) -> None:
        """Program cells: of each listed cell the devices whose target is not what they were last programmed to.

        Devices that were never programmed are programmed whatever their target. No other device gets a pulse.

        Args: array: index; rows, columns: where the cells are, int64 [n], no cell twice; g_target: [4, n], uS.
        Raises: ConfigError: a cell outside of the array or listed twice, or a target beyond 0..``g_max_us``.
        """
        ...

    def mvm(self, array: int, x: Tensor, rows: slice, columns: slice, inputs: str = "signed") -> Tensor:
        """Multiply inputs with the weights of some rows and columns.

        Args:
            array: index; rows, columns: slices with ``start <= stop`` inside of the array and no step.
            x: [..., rows of the slice], in units of the DAC's full scale; larger ones saturate.
            inputs: ``"signed"`` (-1..1), ``"unsigned"`` (0..1) or ``"binary"`` (0 or 1): which phases are needed.
        Returns: [..., columns of the slice], float32.
        Raises: ConfigError: shapes or slices that do not fit, or unknown ``inputs``.
        """
        ...

    def read(self, array: int) -> Tensor:
        """The conductances of an array as they read now, [4, rows, columns], uS, float32."""
        ...

    def advance(self, seconds: float) -> None:
        """Let time pass (a real chip waits, or notes that it was waited).

        Raises: ConfigError: negative or not finite.
        """
        ...


def check_cells(driver: Driver, array: int, rows: Tensor, columns: Tensor, g_target: Tensor) -> None:
    """Refuse what ``Driver.program`` refuses.

    Raises: ConfigError: names the first cell that cannot be programmed.
    """
    check_array(driver, array)
    n = rows.numel()
    if rows.shape != (n,) or columns.shape != (n,) or g_target.shape != (4, n):
        shapes = tuple(rows.shape), tuple(columns.shape), tuple(g_target.shape)
        raise ConfigError(f"rows, columns, g_target: shapes {shapes}; [n], [n] and [4, n] are due")
    if rows.dtype != torch.int64 or columns.dtype != torch.int64:
        raise ConfigError(f"rows and columns: {rows.dtype} and {columns.dtype}; int64 is due")
    for name, index, size in (("row", rows, driver.rows), ("column", columns, driver.columns)):
        if (bad := (index < 0) | (index >= size)).any():
            raise ConfigError(f"{name} {int(index[bad][0])}: array {array} has {size} {name}s")
    cells = rows * driver.columns + columns
    if n and int((times := torch.bincount(cells)).max()) > 1:
        twice = int(times.argmax())
        raise ConfigError(f"cell ({twice // driver.columns}, {twice % driver.columns}) of array {array}: listed twice")
    if (bad := ~((g_target >= 0) & (g_target <= driver.g_max_us * (1 + 1e-6)))).any():
        device, cell = (int(i) for i in bad.nonzero()[0])
        where = f"device {device} of cell ({int(rows[cell])}, {int(columns[cell])}) of array {array}"
        raise ConfigError(f"{where}: target {float(g_target[device, cell])} uS; it holds 0 to {driver.g_max_us}")


def check_window(driver: Driver, array: int, x: Tensor, rows: slice, columns: slice, inputs: str) -> None:
    """Refuse what ``Driver.mvm`` refuses.

    Raises: ConfigError: says what does not fit.
    """
    check_array(driver, array)
    if inputs not in INPUTS:
        raise ConfigError(f"inputs {inputs!r}: {nearest(inputs, INPUTS)}")
    for name, part, size in (("rows", rows, driver.rows), ("columns", columns, driver.columns)):
        if part.step is not None or part.start is None or part.stop is None or not 0 <= part.start < part.stop <= size:
            raise ConfigError(f"{name} {part}: give slice(start, stop) with 0 <= start < stop <= {size}, no step")
    if not x.ndim or x.shape[-1] != rows.stop - rows.start:
        raise ConfigError(f"x: shape {tuple(x.shape)}, [..., {rows.stop - rows.start}] is due for rows {rows}")
    if not bool(torch.isfinite(x).all()):
        raise ConfigError("x: holds NaN or infinity")


def check_array(driver: Driver, array: int) -> None:
    """Refuse an array that the chip does not have.

    Raises: ConfigError: says how many it has.
    """
    if not 0 <= array < driver.n_arrays:
        raise ConfigError(f"array {array}: the chip has {driver.n_arrays}, counted from 0")


def check_seconds(seconds: float) -> None:
    """Refuse what ``Driver.advance`` refuses.

    Raises: ConfigError: negative or not finite.
    """
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"seconds {seconds}: time passes forwards; give 0 or more")
