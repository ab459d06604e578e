"""A user's samples of a model's inputs, with labels or targets where there are some: npz, npy, csv.

    .npz    ``inputs`` [samples, steps, *shape] or [samples, *shape] (``inputs.NAME`` where a network has several), and
            at most one of ``labels`` [samples], whole numbers from 0 on, and ``targets`` [samples, steps, outputs] or
            [samples, outputs]
    .npy    the inputs alone
    .csv    one table of numbers, parted by commas or semicolons: blank lines and lines that start with # do not count,
            one line of headings may stand first. Its rows are the steps of one sample; of a model without time, samples

Numbers are booleans, whole or real numbers; every one is finite. Nothing is unpickled.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.arrays import read_arrays
from ovonic.models.errors import DataError, nearest

__all__ = ["Samples", "read_samples"]

Array = NDArray[np.float64]

SUFFIXES = (".npz", ".npy", ".csv")
PREFIX = "inputs."
MOST_BYTES = 2**31
"""Of a file, unpacked."""

MOST_CLASSES = 2**31


@dataclass(frozen=True, eq=False)
class Samples:
    """What a file holds.

    Attributes:
        source: its name. inputs: by the input's name, "" where there is one; float64.
        labels: [samples], int64. targets: float64.
        table: the inputs are a table [rows, columns], without samples.
    """

    source: str
    inputs: Mapping[str, Array]
    labels: NDArray[np.int64] | None = None
    targets: Array | None = None
    table: bool = False


def read_samples(path: str | Path) -> Samples:
    """Read a file of samples.

    Raises: DataError: naming the file and the array: damaged, pickled, another kind of file, an unknown or missing
        array, numbers that are not finite, sample counts that differ. OSError: no such file.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: samples are read from {', '.join(SUFFIXES)}: {nearest(path.suffix, SUFFIXES)}")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes: at most {MOST_BYTES}")
    if path.suffix == ".csv":
        return Samples(str(path), {"": _table(path)}, table=True)
    arrays = _arrays(path)
    inputs = {name.removeprefix("inputs").removeprefix("."): a for name, a in arrays.items() if _is_input(name)}
    known = ["inputs", "labels", "targets"]
    for name in arrays:
        if not _is_input(name) and name not in known:
            raise DataError(f"{path}: an array {name[:60]!r}: {nearest(name, known)}")
    if not inputs or ("" in inputs and len(inputs) > 1):
        raise DataError(f"{path}: holds {', '.join(arrays)}; due is 'inputs', or 'inputs.NAME' for each of several")
    labels, targets = arrays.get("labels"), arrays.get("targets")
    if labels is not None and targets is not None:
        raise DataError(f"{path}: holds labels and targets: give one of them")
    found = {name: _numbers(path, f"{PREFIX}{name}".removesuffix("."), array) for name, array in inputs.items()}
    counts = {PREFIX + name if name else "inputs": len(array) for name, array in found.items()}
    counts |= {name: len(a) for name, a in (("labels", labels), ("targets", targets)) if a is not None and a.ndim}
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: samples differ: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    return Samples(
        str(path),
        found,
        None if labels is None else _labels(path, labels),
        None if targets is None else _numbers(path, "targets", targets),
    )


def _is_input(name: str) -> bool:
    return name == "inputs" or name.startswith(PREFIX)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    found = read_arrays(path)
    return found if isinstance(found, dict) else {"inputs": found}


def _numbers(path: Path, name: str, array: NDArray[Any]) -> Array:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name}: {getattr(array, 'dtype', 'bytes')}, where numbers are due")
    if array.ndim < 1 or 0 in array.shape:
        raise DataError(f"{path}: {name}: shape {array.shape} holds nothing")
    numbers: Array = array.astype(np.float64)
    if not (finite := np.isfinite(numbers)).all():
        where = tuple(map(int, np.argwhere(~finite)[0]))
        raise DataError(f"{path}: {name}: {numbers[where]} at {list(where)}: every number must be finite")
    return numbers


def _labels(path: Path, array: NDArray[Any]) -> NDArray[np.int64]:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{path}: labels: {array.shape} of {array.dtype}, where [samples] whole numbers are due")
    if len(array) and int(array.min()) < 0:
        raise DataError(f"{path}: labels: {int(array.min())}: classes count from 0")
    if len(array) and int(array.max()) > MOST_CLASSES:
        raise DataError(f"{path}: labels: {int(array.max())}: at most {MOST_CLASSES}")
    return array.astype(np.int64)


def _table(path: Path) -> Array:
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [(k, line) for k, line in enumerate(text.splitlines(), 1) if line.strip() and line[:1] != "#"]
        delimiter = ";" if lines and ";" in lines[0][1] else ","
        rows = list(csv.reader((line for _, line in lines), delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: no table of numbers ({error})") from error
    numbered = list(zip((k for k, _ in lines), rows, strict=True)) if len(rows) == len(lines) else []
    if numbered and not any(_is_number(cell) for cell in numbered[0][1]):
        numbered = numbered[1:]
    if not numbered:
        raise DataError(f"{path}: no rows of numbers")
    width = len(numbered[0][1])
    for number, row in numbered:
        if len(row) != width:
            raise DataError(f"{path}, line {number}: {len(row)} columns, where the lines before have {width}")
        for cell in row:
            if not _is_number(cell):
                raise DataError(f"{path}, line {number}: {cell.strip()[:40]!r} is no number")
    return _numbers(path, "table", np.array([[float(cell) for cell in row] for _, row in numbered]))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
