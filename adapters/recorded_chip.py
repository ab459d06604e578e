"""Record what a chip was asked and what it answered; give the answers again without the chip.

A recording is one HDF5 file, format ``ovonic-chip-recording``, version 1, nothing compressed:

    format, version        the name, and 1
    chip                   int64 [3]: n_arrays, rows, columns
    g_max_us               float64: full scale of a device, uS
    calls                  text [n], one call each, JSON: "verb" (program, mvm, read, advance), what it was given
                           ("array", "rows" and "columns" of an mvm as [start, stop], "inputs", "seconds"), "given": the
                           arrays it was given, "answer": the array it answered or null, "counters": the totals after it
    float32, float64, int64    the numbers of all arrays, one after the other; an array is [dtype, shape, first entry]

A recording grows on disk beside its path (``.NAME.*.part``, flushed after each call, readable as it is should the
process die), and takes its name when it is closed.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch
from torch import Tensor

from ovonic.adapters.hdf5 import MAX_BYTES, Guard, read_guarded
from ovonic.models.counters import Counters
from ovonic.models.driver import Driver, check_array, check_cells, check_seconds, check_window
from ovonic.models.errors import DataError

__all__ = ["RecordingChip", "ReplayingChip"]

FORMAT, VERSION = "ovonic-chip-recording", 1
POOLS = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8"), "int64": np.dtype("<i8")}
VERBS = ("program", "mvm", "read", "advance")
FULL = MAX_BYTES // 2


class _Call(NamedTuple):
    """A call as it is compared: its verb, plain arguments, arrays; and what came of it."""

    verb: str
    plain: dict[str, Any]
    given: dict[str, Tensor]
    answer: Tensor | None
    counters: dict[str, int]


class RecordingChip:
    """A driver that passes every call on to ``driver`` and keeps call and answer in a file.

    A call that the driver refuses raises as without recording and leaves no trace. Use as a context manager, or call
    ``close``; after an exception too, what was recorded is kept.
    """

    def __init__(self, driver: Driver, path: str | Path) -> None:
        self.driver, self.path = driver, Path(path).resolve()
        self.n_arrays, self.rows, self.columns = driver.n_arrays, driver.rows, driver.columns
        self.g_max_us = driver.g_max_us
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._scratch = self.path.with_name(f".{self.path.name[:100]}.{secrets.token_hex(4)}.part")
        self._file: Any = h5py.File(self._scratch, "x")
        self._file["format"], self._file["version"] = FORMAT, VERSION
        self._file["chip"] = np.array([self.n_arrays, self.rows, self.columns], np.int64)
        self._file["g_max_us"] = float(self.g_max_us)
        self._file.create_dataset("calls", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(256,))
        for name, dtype in POOLS.items():
            self._file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(16384,))
        self._bytes = 0

    @property
    def counters(self) -> Counters:
        """The driver's own."""
        return self.driver.counters

    def program(self, array: int, rows: Tensor, columns: Tensor, g_target: Tensor) -> None:
        """See ``Driver.program``."""
        self._writable()
        self.driver.program(array, rows, columns, g_target)
        self._write("program", {"array": array}, {"rows": rows, "columns": columns, "g_target": g_target}, None)

    def mvm(self, array: int, x: Tensor, rows: slice, columns: slice, inputs: str = "signed") -> Tensor:
        """See ``Driver.mvm``."""
        self._writable()
        answer = self.driver.mvm(array, x, rows, columns, inputs)
        self._write("mvm", _window(array, rows, columns, inputs), {"x": x}, answer)
        return answer

    def read(self, array: int) -> Tensor:
        """See ``Driver.read``."""
        self._writable()
        answer = self.driver.read(array)
        self._write("read", {"array": array}, {}, answer)
        return answer

    def advance(self, seconds: float) -> None:
        """See ``Driver.advance``."""
        self._writable()
        self.driver.advance(seconds)
        self._write("advance", {"seconds": float(seconds)}, {}, None)

    def close(self) -> None:
        """End the recording: the file takes its name."""
        if not self._file:
            return
        self._file.close()
        with self._scratch.open("rb+") as file:
            os.fsync(file.fileno())
        self._scratch.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _writable(self) -> None:
        if not self._file:
            raise DataError(f"{self.path}: this recording is closed; start another")
        if self._bytes > FULL:
            raise DataError(f"{self.path}: {self._bytes} bytes recorded, the limit is {FULL}: close it, start another")

    def _write(self, verb: str, plain: dict[str, Any], given: dict[str, Tensor], answer: Tensor | None) -> None:
        call = {
            "verb": verb,
            **plain,
            "given": {name: self._store(value) for name, value in given.items()},
            "answer": None if answer is None else self._store(answer),
            "counters": self.counters.as_dict(),
        }
        calls, line = self._file["calls"], json.dumps(call, allow_nan=False)
        calls.resize((len(calls) + 1,))
        calls[-1] = line
        self._bytes += len(line)
        self._file.flush()

    def _store(self, value: Tensor) -> list[Any]:
        array = _storable(value).numpy()
        pool = self._file[array.dtype.name]
        first = len(pool)
        pool.resize((first + array.size,))
        pool[first:] = array.ravel()
        self._bytes += array.nbytes
        return [array.dtype.name, list(array.shape), first]


class ReplayingChip:
    """A driver that answers from a recording: the same calls in the same order get the same answers, and no other does.

    Raises: DataError: at once where the file is no recording or damaged; at a call where it is not the one recorded
        next (the first difference is named, and the right call can still be made).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            (self.n_arrays, self.rows, self.columns), self.g_max_us, self._calls = read_guarded(
                path, "recording", lambda file, size: _Reader(size).file(file)
            )
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        self.position = 0
        self.counters = Counters()

    def __len__(self) -> int:
        """How many calls were recorded."""
        return len(self._calls)

    def rewind(self) -> None:
        """Start again from the first call."""
        self.position, self.counters = 0, Counters()

    def program(self, array: int, rows: Tensor, columns: Tensor, g_target: Tensor) -> None:
        """See ``Driver.program``."""
        check_cells(self, array, rows, columns, g_target)
        self._replay("program", {"array": array}, {"rows": rows, "columns": columns, "g_target": g_target})

    def mvm(self, array: int, x: Tensor, rows: slice, columns: slice, inputs: str = "signed") -> Tensor:
        """See ``Driver.mvm``."""
        check_window(self, array, x, rows, columns, inputs)
        return self._answer("mvm", _window(array, rows, columns, inputs), {"x": x})

    def read(self, array: int) -> Tensor:
        """See ``Driver.read``."""
        check_array(self, array)
        return self._answer("read", {"array": array}, {})

    def advance(self, seconds: float) -> None:
        """See ``Driver.advance``."""
        check_seconds(seconds)
        self._replay("advance", {"seconds": float(seconds)}, {})

    def _answer(self, verb: str, plain: dict[str, Any], given: dict[str, Tensor]) -> Tensor:
        answer = self._replay(verb, plain, given)
        assert answer is not None  # the reader saw to it
        return answer.clone()

    def _replay(self, verb: str, plain: dict[str, Any], given: dict[str, Tensor]) -> Tensor | None:
        at = self.position
        if at == len(self._calls):
            raise DataError(f"{self.path}: call {at}, {verb}: the recording ends after {at} calls")
        call = self._calls[at]
        difference = _difference(call, verb, plain, given)
        if difference:
            raise DataError(f"{self.path}: call {at}, {verb}, was not recorded: {difference}")
        self.position += 1
        self.counters = Counters(**call.counters)
        return call.answer


def _window(array: int, rows: slice, columns: slice, inputs: str) -> dict[str, Any]:
    return {
        "array": array,
        "rows": [rows.start, rows.stop],
        "columns": [columns.start, columns.stop],
        "inputs": inputs,
    }


def _storable(value: Tensor) -> Tensor:
    """Exactly the same numbers in one of the three dtypes that are kept."""
    plain = value.detach().cpu()
    if plain.dtype == torch.float64:
        return plain.contiguous()
    return plain.to(torch.float32 if plain.is_floating_point() else torch.int64).contiguous()


def _difference(call: _Call, verb: str, plain: dict[str, Any], given: dict[str, Tensor]) -> str:
    """The first difference between the recorded call and the one that is made, or nothing."""
    if verb != call.verb:
        return f"{call.verb} comes next"
    for name, value in plain.items():
        if value != call.plain[name]:
            return f"{name} is {value!r}, recorded is {call.plain[name]!r}"
    for name, tensor in given.items():
        asked, recorded = _storable(tensor), call.given[name]
        if asked.shape != recorded.shape or asked.dtype != recorded.dtype:
            return (
                f"{name} is {asked.dtype} of shape {tuple(asked.shape)}, "
                f"recorded is {recorded.dtype} of shape {tuple(recorded.shape)}"
            )
        if not torch.equal(asked, recorded):
            where = tuple(int(i) for i in (asked != recorded).nonzero()[0])
            return f"{name}{list(where)} is {asked[where].item()!r}, recorded is {recorded[where].item()!r}"
    return ""


class _Reader(Guard):
    """Reads a recording as a stranger's."""

    def file(self, file: h5py.File) -> tuple[tuple[int, int, int], float, list[_Call]]:
        due = {"format", "version", "chip", "g_max_us", "calls", *POOLS}
        names = set(self.names(file, "the file"))
        if "format" not in names or self.text(self.child(file, "format", ""), "format") != FORMAT:
            raise DataError(f"HDF5, but no {FORMAT}")
        if strange := names ^ due:
            raise DataError(f"{min(strange)!r}: {'missing' if min(strange) in due else 'not part of a recording'}")
        version = self.value(self.child(file, "version", ""), "version")
        if np.ndim(version) or version != VERSION:
            raise DataError(f"version {version}: this release reads version {VERSION}")
        chip = self.value(self.child(file, "chip", ""), "chip")
        if chip.dtype.kind != "i" or chip.shape != (3,) or chip.min() < 1 or chip.max() > 2**20:
            raise DataError(f"chip: {chip.dtype} of shape {chip.shape}: three numbers in 1..{2**20} are due")
        g_max = self.value(self.child(file, "g_max_us", ""), "g_max_us")
        if g_max.shape or g_max.dtype.kind != "f" or not 0 < float(g_max) < math.inf:
            raise DataError("g_max_us: a positive number is due")
        self.pools = {name: self.pool(file, name) for name in POOLS}
        calls = self.child(file, "calls", "")
        if not isinstance(calls, h5py.Dataset) or calls.ndim != 1 or h5py.check_string_dtype(calls.dtype) is None:
            raise DataError("calls: a list of texts is due")
        self.size_of_chip = tuple(int(n) for n in chip)
        lines = self.words(calls, "calls")
        read = [self.call(line, f"call {k}") for k, line in enumerate(lines)]
        return (int(chip[0]), int(chip[1]), int(chip[2])), float(g_max), read

    def pool(self, file: h5py.File, name: str) -> Tensor:
        values = self.value(self.child(file, name, ""), name)
        if values.ndim != 1 or values.dtype != POOLS[name]:
            raise DataError(f"{name}: {values.dtype} of shape {values.shape}, {POOLS[name]} [n] is due")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError(f"{name}[{int(np.argmin(np.isfinite(values)))}]: not finite")
        return torch.from_numpy(np.ascontiguousarray(values))

    def call(self, line: str, where: str) -> _Call:
        try:
            call = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: no JSON ({error})") from error
        verb = call.get("verb") if isinstance(call, dict) else None
        if verb not in VERBS:
            raise DataError(f"{where}: verb {verb!r}; {', '.join(VERBS)} are known")
        plain, arrays = {
            "program": (("array",), ("rows", "columns", "g_target")),
            "mvm": (("array", "rows", "columns", "inputs"), ("x",)),
            "read": (("array",), ()),
            "advance": (("seconds",), ()),
        }[verb]
        if set(call) != {"verb", "given", "answer", "counters", *plain}:
            raise DataError(f"{where}: {sorted(call)} is not what a {verb} has")
        if not isinstance(call["given"], dict) or set(call["given"]) != set(arrays):
            raise DataError(f"{where}: given: {', '.join(arrays) or 'nothing'} due")
        given = {name: self.array(value, f"{where}: {name}") for name, value in call["given"].items()}
        answer = None if call["answer"] is None else self.array(call["answer"], f"{where}: answer")
        if answer is None if verb in ("mvm", "read") else answer is not None:
            raise DataError(f"{where}: a {verb} {'has an' if answer is None else 'has no'} answer")
        if answer is not None:
            due = self.due(verb, call, given, where)
            if answer.dtype != torch.float32 or tuple(answer.shape) != due:
                raise DataError(f"{where}: answer: {answer.dtype} of shape {tuple(answer.shape)}, float32 {due} is due")
        counters = call["counters"]
        if not isinstance(counters, dict) or set(counters) != set(Counters().as_dict()):
            raise DataError(f"{where}: counters: {sorted(Counters().as_dict())} are due")
        for name, count in counters.items():
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**63:
                raise DataError(f"{where}: counters: {name} {count!r}: a count is due")
        return _Call(verb, {name: call[name] for name in plain}, given, answer, counters)

    def due(self, verb: str, call: dict[str, Any], given: dict[str, Tensor], where: str) -> tuple[int, ...]:
        """The shape of an answer."""
        if verb == "read":
            return (4, *self.size_of_chip[1:])
        columns = call["columns"]
        if not (isinstance(columns, list) and len(columns) == 2 and all(type(c) is int for c in columns)):
            raise DataError(f"{where}: columns {columns!r}: [start, stop] is due")
        if not given["x"].ndim:
            raise DataError(f"{where}: x: one axis or more is due")
        return (*given["x"].shape[:-1], columns[1] - columns[0])

    def array(self, entry: Any, where: str) -> Tensor:
        """An array of the pools."""
        whole = isinstance(entry, list) and len(entry) == 3 and isinstance(entry[1], list)
        if not whole or not isinstance(entry[0], str) or entry[0] not in POOLS:
            raise DataError(f"{where}: [dtype, shape, first entry] is due")
        dtype, shape, first = entry
        if any(type(n) is not int or not 0 <= n < 2**31 for n in (*shape, first)) or len(shape) > 16:
            raise DataError(f"{where}: shape {shape} from {first}: no place in {dtype}")
        count, pool = math.prod(shape), self.pools[dtype]
        if first + count > pool.numel():
            raise DataError(f"{where}: entries {first} to {first + count}, {dtype} holds {pool.numel()}")
        return pool[first : first + count].reshape(shape)
