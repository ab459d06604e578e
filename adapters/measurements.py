"""A lab's measurements as CSV: conductance of devices over time or over pulses.

    device,time_s,g_us,g_target_us            device,pulse,g_us
    a1,20,4.93,5.0                            a1,0,0.11
    a1,100,4.71,5.0                           a1,1,1.62
    a2,20,5.20,5.0                            a1,2,2.9

One measurement a line, in any order of devices, but rising in time or pulse within a device. The first line names the
columns, in any order; others are ignored. Separated by commas, semicolons or tabs; UTF-8, with or without a mark of
byte order; decimal points; lines that begin with # are comments. ``time_s`` counts from the end of programming;
``g_target_us`` may be missing, and is the same in all lines of a device. ``pulse`` is the number of pulses so far.

Reading is bounded: MAX_BYTES, MAX_ROWS, MAX_DEVICES and lines of MAX_LINE bytes, 32 bytes of memory a row.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ovonic.models.device_regressions import OverTime
from ovonic.models.errors import DataError, nearest
from ovonic.models.pulse_fit import OverPulses

__all__ = ["read_measurements"]

MAX_BYTES = 1 << 30
MAX_ROWS = 10_000_000
MAX_DEVICES = 1_000_000
MAX_LINE = 4096
MAX_US = 1e6
MAX_PULSE = 10**9
COLUMNS = ("device", "time_s", "pulse", "g_us", "g_target_us")


def read_measurements(path: str | Path) -> OverTime | OverPulses:
    """Read measurements, over time or over pulses by the columns they have.

    Raises: DataError: what is wrong, naming the file, the line and the column.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if path.is_file() and path.stat().st_size > MAX_BYTES:
                raise DataError(f"{path}: {path.stat().st_size} bytes; measurements have at most {MAX_BYTES}")
            return _Reader(path).read(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


class _Reader:
    """Columns of numbers that grow line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        self.devices: dict[str, int] = {}
        self.device, self.x, self.g = array("q"), array("d"), array("d")
        self.latest, self.target = array("d"), array("d")
        self.first_line = array("q")

    def read(self, file: BinaryIO) -> OverTime | OverPulses:
        lines = self._lines(file)
        names, delimiter = self._head(lines)
        over = "time_s" if "time_s" in names else "pulse"
        places = {name: names.index(name) for name in COLUMNS if name in names}
        for line in lines:
            self._row(self._fields(line, delimiter), names, places, over)
        if not self.device:
            raise DataError(f"{self.path}: no measurement after the names of the columns")
        return self._series(over)

    def _refuse(self, column: str | None, what: str) -> DataError:
        where = f", column {column!r}" if column else ""
        return DataError(f"{self.path}: line {self.line}{where}: {what}")

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        total = 0
        while raw := file.readline(MAX_LINE + 1):
            self.line += 1
            total += len(raw)
            if len(raw) > MAX_LINE:
                raise self._refuse(None, f"longer than {MAX_LINE} bytes")
            if total > MAX_BYTES:
                raise self._refuse(None, f"more than {MAX_BYTES} bytes")
            try:
                text = raw.decode("utf-8-sig" if self.line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise self._refuse(None, f"not UTF-8 at byte {error.start} of the line") from None
            if text.strip() and not text.lstrip().startswith("#"):
                yield text

    def _fields(self, line: str, delimiter: str) -> list[str]:
        try:
            return [field.strip() for field in next(csv.reader([line], delimiter=delimiter, strict=True))]
        except (csv.Error, StopIteration) as error:
            raise self._refuse(None, f"no line of CSV: {error}") from None

    def _head(self, lines: Iterator[str]) -> tuple[list[str], str]:
        head = next(lines, None)
        if head is None:
            raise DataError(f"{self.path}: empty; the first line names the columns")
        delimiter = max(",;\t", key=head.count)
        names = [name.lower() for name in self._fields(head, delimiter)]
        for name in names:
            if name in COLUMNS and names.count(name) > 1:
                raise self._refuse(name, "named twice")
        if "time_s" in names and "pulse" in names:
            raise self._refuse(None, "columns time_s and pulse: give one of them")
        wanted = ["device", "g_us"] + ([] if "time_s" in names or "pulse" in names else ["time_s"])
        for name in wanted:
            if name not in names:
                or_pulse = " or pulse" if name == "time_s" else ""
                raise self._refuse(None, f"column {name}{or_pulse} is missing: {nearest(name, names)}")
        return names, delimiter

    def _row(self, fields: Sequence[str], names: Sequence[str], places: dict[str, int], over: str) -> None:
        if len(fields) != len(names):
            raise self._refuse(None, f"{len(fields)} fields where the first line names {len(names)} columns")
        if len(self.device) >= MAX_ROWS:
            raise self._refuse(None, f"more than {MAX_ROWS} measurements")
        name = fields[places["device"]]
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise self._refuse("device", f"{name[:40]!r} must be a name of 1 to 100 printable characters")
        x = self._number(over, fields[places[over]])
        g = self._number("g_us", fields[places["g_us"]])
        target = self._number("g_target_us", fields[places["g_target_us"]]) if "g_target_us" in places else math.nan
        for column, value in (("g_us", g), ("g_target_us", target)):
            if value < 0 or value > MAX_US:
                raise self._refuse(column, f"{value:g} uS; a conductance lies in 0..{MAX_US:g} (subtract the offset)")
        if over == "time_s" and not 0 < x <= 1e12:
            raise self._refuse("time_s", f"{x:g} s; times count from programming and are greater than 0")
        if over == "pulse" and (x != math.floor(x) or not 0 <= x <= MAX_PULSE):
            raise self._refuse("pulse", f"{x:g}; a whole number, 0 or more, is due")
        at = self.devices.get(name)
        if at is None:
            if len(self.devices) >= MAX_DEVICES:
                raise self._refuse("device", f"more than {MAX_DEVICES} devices")
            at = self.devices[name] = len(self.devices)
            self.latest.append(-math.inf)
            self.target.append(target)
            self.first_line.append(self.line)
        if x <= self.latest[at]:
            raise self._refuse(over, f"{x:g} after {self.latest[at]:g} of device {name!r}: must rise within a device")
        if target == target and target != self.target[at]:
            raise self._refuse("g_target_us", f"{target:g}, but {self.target[at]:g} earlier for device {name!r}")
        self.latest[at] = x
        self.device.append(at)
        self.x.append(x)
        self.g.append(g)

    def _number(self, column: str, text: str) -> float:
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._refuse(column, f"{text[:40]!r} is not a finite number" + (" (empty)" if not text else ""))
        return value

    def _series(self, over: str) -> OverTime | OverPulses:
        device = np.array(self.device, dtype=np.intp)
        count = np.bincount(device)
        if (lonely := np.flatnonzero(count < 2)).size:
            name = list(self.devices)[int(lonely[0])]
            self.line = self.first_line[int(lonely[0])]
            raise self._refuse(over, f"device {name!r} has one measurement; two or more are due")
        order = np.argsort(device, kind="stable")
        names, x, g = tuple(self.devices), np.array(self.x)[order], np.array(self.g)[order]
        if over == "pulse":
            return OverPulses(names, device[order], x.astype(np.int64), g)
        target = np.array(self.target)
        return OverTime(names, device[order], x, g, None if np.isnan(target).any() else target)
