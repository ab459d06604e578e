"""Measured or exported conductances into a crossbar image: from npz, or from a table of cells (CSV).

What must be there: the layout, and how every device of a placed cell reads now (g_read, uS). What else is there is
taken; what is not, is what it would be on a chip that was programmed and read this moment:

    g_target    g_read, at most g_max            g_prog, t_prog_s    g_read, now
    nu          drawn from the device model      pulses              1 in placed cells, else 0

A file is read as a stranger's: its sizes are bounded before anything is read, and every number is checked as those of
an image are (``crossbar_image.validate``).
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_exports import CELL_COLUMNS, DEVICE_COLUMNS, placed_cells
from ovonic.adapters.crossbar_image import DEVICES, CrossbarImage, validate
from ovonic.adapters.crossbar_models import model_from_plain
from ovonic.adapters.crossbar_plain import chip_from_plain, parsed
from ovonic.models.crossbar import ArrayState
from ovonic.models.errors import DataError, nearest
from ovonic.models.pcm import DeviceModel
from ovonic.models.seeds import stream

__all__ = ["image_of_conductances", "read_cells", "read_npz"]

MAX_CSV, MAX_CELL, MAX_TEXT, MAX_MEMBERS = 512 * 2**20, 4096, 64 * 2**20, 100_000
"""Bytes of a table, characters of a line, bytes of a text, arrays of an npz."""

TYPES: dict[str, Any] = {"t_prog_s": np.float64, "pulses": np.int32, "fault": np.uint8}
TEXTS = ("layout", "device", "chip", "provenance")
WHERE = ("array", "row", "column")
OPTIONAL = tuple(name for name in CELL_COLUMNS if name not in (*WHERE, *DEVICE_COLUMNS))


def image_of_conductances(
    layout: Layout,
    model: DeviceModel,
    fields: list[dict[str, Tensor]],
    *,
    seed: int = 0,
    chip: Mapping[str, Any] | None = None,
    column_errors: tuple[tuple[Tensor | None, Tensor | None], ...] = (),
    provenance: Mapping[str, Any] | None = None,
) -> CrossbarImage:
    """An image from what is known of each array.

    Args:
        layout: what lies where; model: the devices.
        fields: of each array, those of ``ArrayState`` that are known, [4, rows, columns]; ``g_read`` always.
        seed: of the drift exponents that are drawn, and of the image's further draws.
        chip: other attributes of ``CrossbarImage``.
    Raises: DataError: as ``validate``.
    """
    attributes = {"seed": seed, **(chip or {})}
    now_s = attributes.get("now_s", 0.0)
    if len(fields) != len(layout.arrays):
        raise DataError(f"{len(fields)} arrays where the layout has {len(layout.arrays)}")
    states = []
    for k, (given, used) in enumerate(zip(fields, _used(layout), strict=True)):
        g = given["g_read"]
        if g.shape[-2:] != used.shape:
            raise DataError(f"array {k}, g_read: shape {tuple(g.shape)} where {(4, *used.shape)} is due")
        target = given.get("g_target", g.clamp(0.0, model.g_max_us))
        whole = {
            "g_target": target,
            "g_prog": g,
            "t_prog_s": torch.full(g.shape, now_s, dtype=torch.float64),
            "g_read": g,
            "pulses": used.expand(g.shape).to(torch.int32),
            "fault": torch.zeros(g.shape, dtype=torch.uint8),
            "gain": torch.ones_like(g),
        } | given
        if "nu" not in whole:
            whole["nu"] = torch.where(used, model.draw_nu(target, stream(seed, "import", k)), 0.0)
        states.append(ArrayState(**{name: whole[name] for name in ArrayState._fields}))
    image = CrossbarImage(
        layout, tuple(states), model, column_errors=column_errors, provenance=provenance or {}, **attributes
    )
    validate(image)
    return image


def read_npz(
    path: str | Path, layout: Layout | None = None, model: DeviceModel | None = None, *, seed: int = 0
) -> CrossbarImage:
    """Read an npz that ``write_npz`` wrote, or a lab's with ``array0_g_read``, .. alone.

    Args: layout, model: needed where the file does not say them, and taken instead of what it says.
    Raises: DataError: damaged, a bomb, of other shapes or types, or not what a chip can hold; the file is named.
    """
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _from_npz(archive, layout, model, seed)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except Exception as error:  # zipfile, zlib and NumPy raise what comes
            raise DataError(f"{path}: not a whole npz ({type(error).__name__}: {error}): write it again") from error


def read_cells(path: str | Path, layout: Layout, model: DeviceModel, *, seed: int = 0) -> CrossbarImage:
    """Read a table of cells: array, row, column, g1_plus_us .. g2_minus_us, and, if there, targets and the rest.

    Args: layout: whose placed cells must all be there, once each; others may be. Layer, weight and the like are not
        needed and not used.
    Raises: DataError: names file, line and what is wrong: no such array or cell, listed twice, missing, not a number.
    """
    if (size := Path(path).stat().st_size) > MAX_CSV:
        raise DataError(f"{path}: {size} bytes, more than the {MAX_CSV} that are read")
    with Path(path).open(encoding="utf-8", newline="") as file:
        try:
            return _from_cells(file, layout, model, seed)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: not a table of text ({error}): write it as CSV, UTF-8") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def _used(layout: Layout) -> list[Tensor]:
    """Which cells of each array hold a weight, bool [rows, columns]."""
    used = [torch.zeros(array.rows, array.columns, dtype=torch.bool) for array in layout.arrays]
    for cells in placed_cells(layout):
        used[cells.array][torch.from_numpy(cells.row), torch.from_numpy(cells.column)] = True
    return used


def _from_npz(archive: zipfile.ZipFile, layout: Layout | None, model: DeviceModel | None, seed: int) -> CrossbarImage:
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if len(members) != len(archive.infolist()) or len(members) > MAX_MEMBERS:
        raise DataError(f"{len(archive.infolist())} arrays, or two of one name")
    texts = {name: _npy_text(archive, members[name]) for name in TEXTS if name in members}
    if layout is None:
        if "layout" not in texts:
            raise DataError("says no 'layout': give one (--layout), as 'ovonic crossbar map --out' writes it")
        layout = Layout.from_json(texts["layout"], "layout")
    if model is None:
        if "device" not in texts:
            raise DataError("says no 'device' model: name one (--noise-model)")
        model = model_from_plain(parsed(texts["device"], "device"))
    fields, columns = [], []
    for k, spec in enumerate(layout.arrays):
        names = {name.removeprefix(f"array{k}_"): name for name in members if name.startswith(f"array{k}_")}
        known = (*ArrayState._fields, "column_gain", "column_offset")
        for name in names:
            if name not in known:
                raise DataError(f"array{k}_{name}: {nearest(name, known)}")
        if "g_read" not in names:
            raise DataError(f"array{k}_g_read is missing: the conductances of array {k} ({spec.name}), uS")
        shape = (4, spec.rows, spec.columns)
        given = {n: _npy(archive, members[names[n]], shape, TYPES.get(n)) for n in ArrayState._fields if n in names}
        fields.append({name: torch.from_numpy(array) for name, array in given.items()})
        columns.append(
            tuple(
                torch.from_numpy(_npy(archive, members[names[n]], (spec.columns,), None)) if n in names else None
                for n in ("column_gain", "column_offset")
            )
        )
    if strange := [name for name in members if not _expected(name, len(layout.arrays))]:
        raise DataError(f"{strange[0]!r}: an array that no image has; the layout has {len(layout.arrays)} arrays")
    chip = chip_from_plain(parsed(texts["chip"], "chip")) if "chip" in texts else None
    provenance = parsed(texts["provenance"], "provenance") if "provenance" in texts else None
    return image_of_conductances(
        layout,
        model,
        fields,
        seed=seed,
        chip=chip,
        column_errors=tuple(columns),  # type: ignore[arg-type]
        provenance=provenance,
    )


def _expected(name: str, arrays: int) -> bool:
    if name in (*TEXTS, "g_max_us") or name.startswith("read."):
        return True
    number = name.removeprefix("array").partition("_")[0]
    return name.startswith("array") and number.isascii() and number.isdecimal() and int(number) < arrays


def _npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """An array of exactly this shape; floats where no ``kind`` is due. Nothing larger is read."""
    most = math.prod(shape) * 8 + 2**16
    dtype, declared, fortran, data = _header(archive, member, most)
    if declared != shape:
        raise DataError(f"{member.filename}: shape {declared} where {shape} is due")
    due = ("f4", "f8") if kind is None else (np.dtype(kind).str[1:],)
    if dtype.str[1:] not in due:
        raise DataError(f"{member.filename}: holds {dtype} where {' or '.join(str(np.dtype(d)) for d in due)} is due")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{member.filename}: {len(data)} bytes of numbers where {math.prod(shape)} numbers are due")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype.newbyteorder("="), order="C")


def _npy_text(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    dtype, shape, _, data = _header(archive, member, 4 * MAX_TEXT)
    if shape or dtype.kind != "U" or len(data) != dtype.itemsize:
        raise DataError(f"{member.filename}: {dtype} of shape {shape} where a text is due")
    return str(np.frombuffer(data, dtype)[0])


def _header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int
) -> tuple[np.dtype[Any], tuple[int, ...], bool, bytes]:
    if member.file_size > most:
        raise DataError(f"{member.filename}: {member.file_size} bytes, more than the {most} that are due")
    with archive.open(member) as stream:
        file = io.BytesIO(stream.read(most + 1))
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{member.filename}: an array in npy format {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return dtype, shape, fortran, file.read()


def _from_cells(file: io.TextIOBase, layout: Layout, model: DeviceModel, seed: int) -> CrossbarImage:
    rows = csv.reader(_short_lines(file))
    header = next(rows, [])
    known = (*WHERE, *DEVICE_COLUMNS, *OPTIONAL)
    for name in header:
        if name not in known:
            raise DataError(f"column {name[:40]!r}: {nearest(name[:40], known)}")
    if len(set(header)) != len(header):
        raise DataError("a column is there twice")
    if missing := [name for name in (*WHERE, *DEVICE_COLUMNS) if name not in header]:
        raise DataError(f"column {missing[0]!r} is missing")
    at = {name: header.index(name) for name in header}
    targets = [name for name in header if name.startswith("target_")]
    if targets and len(targets) != 4:
        raise DataError(f"{', '.join(targets)}: the targets of all four devices are due, or none")
    arrays = {spec.name: k for k, spec in enumerate(layout.arrays)}
    shapes = [(4, spec.rows, spec.columns) for spec in layout.arrays]
    groups = {"g_read": DEVICE_COLUMNS} | (
        {"g_target": tuple(f"target_{d}" for d in DEVICE_COLUMNS)} if targets else {}
    )
    fields = [{name: np.zeros(shape, np.float32) for name in groups} for shape in shapes]
    seen = [np.zeros(shape[1:], bool) for shape in shapes]
    for number, row in enumerate(rows, 2):
        where = f"line {number}"
        if len(row) != len(header):
            raise DataError(f"{where}: {len(row)} entries where the header has {len(header)}")
        if row[at["array"]] not in arrays:
            raise DataError(f"{where}: array {row[at['array']][:40]!r}: {nearest(row[at['array']][:40], arrays)}")
        k = arrays[row[at["array"]]]
        cell = tuple(
            _index(where, name, row[at[name]], size) for name, size in zip(WHERE[1:], shapes[k][1:], strict=True)
        )
        if seen[k][cell]:
            raise DataError(f"{where}: row {cell[0]}, column {cell[1]} of array {row[at['array']]!r} is there twice")
        seen[k][cell] = True
        for name, columns in groups.items():
            for device, column in enumerate(columns):
                fields[k][name][device, *cell] = _microsiemens(where, column, row[at[column]], DEVICES[device])
    for k, used in enumerate(_used(layout)):
        if (missing_cells := used & ~torch.from_numpy(seen[k])).any():
            row_number, column_number = (int(i) for i in missing_cells.nonzero()[0])
            what = f"{int(missing_cells.sum())} cells that hold weights are missing, the first in row {row_number}"
            raise DataError(f"array {layout.arrays[k].name!r}: {what}, column {column_number}")
    return image_of_conductances(
        layout, model, [{n: torch.from_numpy(array) for n, array in given.items()} for given in fields], seed=seed
    )


def _short_lines(file: io.TextIOBase) -> Any:
    while line := file.readline(MAX_CELL + 1):
        if len(line) > MAX_CELL:
            raise DataError(f"a line of more than {MAX_CELL} characters")
        yield line


def _index(where: str, name: str, text: str, size: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < size):
        raise DataError(f"{where}: {name} {text[:40]!r}: 0 to {size - 1} are due")
    return int(text)


def _microsiemens(where: str, column: str, text: str, device: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where}, {column}: {text[:40]!r} is no number") from None
    if not 0 <= value < math.inf:
        raise DataError(f"{where}, {column}: {text[:40]} uS: {device} must be 0 or more, and finite")
    return value
