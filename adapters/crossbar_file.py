"""Crossbar images in HDF5, as docs/crossbar_file.md describes them: written in one piece, read back bit for bit.

    /format "ovonic-crossbar", /version 1
    /layout, /device, /chip, /provenance, /software          JSON
    /arrays/0, 1, ..                                         what ``ArrayState`` holds, each [4, rows, columns]
    /software_arrays/0, 1, ..                                weights and numbers that /software refers to

A file is read as a stranger's (``adapters.hdf5``). The layout comes first: it says of every array how large it is, what
the file says of itself is compared with that before anything is read, and every number with what a chip can hold.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_image import CrossbarImage, Software, validate
from ovonic.adapters.crossbar_models import model_from_plain, model_to_plain
from ovonic.adapters.crossbar_plain import (
    chip_from_plain,
    chip_to_plain,
    exactly,
    parsed,
    references,
    software_from_plain,
    software_to_plain,
    written,
)
from ovonic.adapters.files import write_atomically
from ovonic.adapters.hdf5 import MAX_BYTES, Guard, read_guarded
from ovonic.models.crossbar import ArrayState
from ovonic.models.errors import DataError

__all__ = ["FORMAT", "VERSION", "load_image", "save_image"]

FORMAT, VERSION = "ovonic-crossbar", 1

TEXTS = ("format", "layout", "device", "chip", "provenance", "software")
MAX_TEXT = 64 * 2**20
TYPES = {"t_prog_s": ("<f8",), "pulses": ("<i4",), "fault": ("|u1",)}
FLOATS = ("<f4", "<f8")
DRAWN = ("g_prog", "nu", "g_read")
COLUMNS = ("column_gain", "column_offset")


def save_image(path: str | Path, image: CrossbarImage) -> None:
    """Write an image in one piece; an existing file is replaced only by a whole one.

    Raises: DataError: what would not be read again: see ``crossbar_image.validate``, or too large. ConfigError: a
        device model that is not in closed form.
    """
    validate(image)
    if (size := _bytes(image.layout)) > MAX_BYTES:
        raise DataError(f"{path}: {size} bytes of devices, more than the {MAX_BYTES} that a file may hold")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="v110") as file:
        file["version"] = np.int64(VERSION)
        software: list[NDArray[Any]] = []
        texts = {
            "format": FORMAT,
            "layout": image.layout.to_json(),
            "device": written("description", model_to_plain(image.model)),
            "chip": written("description", chip_to_plain(image)),
            "provenance": written("description", image.provenance),
            "software": written("description", software_to_plain(image.software, software)),
        }
        for name, text in texts.items():
            _write_text(file, name, text)
        for k, state in enumerate(image.states):
            group = file.create_group(f"arrays/{k}")
            for name, values in state._asdict().items():
                _write(group, name, values.detach().cpu().numpy())
            for name, column in zip(COLUMNS, image.column_errors[k] if image.column_errors else (), strict=False):
                if column is not None:
                    group[name] = column.detach().cpu().numpy()
        arrays = file.create_group("software_arrays")
        for k, array in enumerate(software):
            arrays[str(k)] = array
    write_atomically(path, buffer.getvalue())


def load_image(path: str | Path) -> CrossbarImage:
    """Read an image, trusting nothing in it.

    Raises: DataError: no such image, damaged, of another version, or not what a chip can hold; the message names the
        file, the group and what to do. OSError: no such file.
    """
    try:
        return read_guarded(path, "crossbar", _read)
    except DataError as error:
        text = str(error)
        hint = "" if "this Ovonic reads" in text or "not a crossbar image" in text else ": fetch or make it again"
        raise DataError(f"{path}: {text}{hint}") from None


def _read(file: h5py.File, size: int) -> CrossbarImage:
    guard = Guard(size)
    names = guard.names(file, "the file")
    if "format" not in names or guard.text(guard.child(file, "format", ""), "format") != FORMAT:
        raise DataError("HDF5, but not a crossbar image: its 'format' must be the text 'ovonic-crossbar'")
    version = guard.value(guard.child(file, "version", ""), "version") if "version" in names else None
    if not isinstance(version, np.ndarray) or version.shape or version.dtype.kind not in "iu" or version != VERSION:
        shown = version if not isinstance(version, np.ndarray) or not version.shape else "an array"
        raise DataError(f"version {shown}: this Ovonic reads version {VERSION}; a newer Ovonic may read it")
    exactly(names, {*TEXTS, "version", "arrays", "software_arrays"}, "the file")
    layout = Layout.from_json(_text(guard, file, "layout"), "layout")
    if (due := _bytes(layout)) > MAX_BYTES:
        raise DataError(f"layout: {due} bytes of devices, more than the {MAX_BYTES} that are read")
    chip = parsed(_text(guard, file, "chip"), "chip")
    states, columns = [], []
    groups = guard.child(file, "arrays", "")
    exactly(_names(guard, groups, "arrays"), {str(k) for k in range(len(layout.arrays))}, "arrays")
    for k, spec in enumerate(layout.arrays):
        group, where = guard.child(groups, str(k), "arrays"), f"arrays/{k} ({spec.name})"
        shape = (4, spec.rows, spec.columns)
        names = _names(guard, group, where)
        exactly(names, set(ArrayState._fields), where, optional=frozenset(COLUMNS))
        fields = {name: _tensor(guard, group, name, where, shape) for name in ArrayState._fields}
        states.append(ArrayState(**fields))
        columns.append(
            tuple(_tensor(guard, group, name, where, (spec.columns,)) if name in names else None for name in COLUMNS)
        )
    image = CrossbarImage(
        layout,
        tuple(states),
        model_from_plain(parsed(_text(guard, file, "device"), "device")),
        column_errors=tuple(columns),  # type: ignore[arg-type]
        software=_software(guard, file),
        provenance=parsed(_text(guard, file, "provenance"), "provenance"),
        **chip_from_plain(chip),
    )
    validate(image)
    return image


def _bytes(layout: Layout) -> int:
    """Bytes of the devices of a layout's arrays, in float64."""
    return sum(array.rows * array.columns for array in layout.arrays) * 4 * (5 * 8 + 8 + 4 + 1)


def _write_text(file: h5py.File, name: str, text: str) -> None:
    data = text.encode()
    file.create_dataset(name, data=np.array(data, h5py.string_dtype("utf-8", len(data))))


def _write(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    """An array of an ``ArrayState``; noise does not compress, what a controller decides does."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    if name in DRAWN:
        group.create_dataset(name, data=little)
    else:
        chunks = (1, min(values.shape[1], 512), min(values.shape[2], 256))
        group.create_dataset(name, data=little, chunks=chunks, shuffle=True, compression="gzip", compression_opts=1)


def _text(guard: Guard, file: h5py.File, name: str) -> str:
    item = guard.child(file, name, "")
    if isinstance(item, h5py.Dataset) and (item.shape != () or item.dtype.itemsize > MAX_TEXT):
        raise DataError(f"{name}: {item.dtype} of shape {item.shape} where a text is due")
    text = guard.text(item, name)
    if len(text) > MAX_TEXT:
        raise DataError(f"{name}: a text of {len(text)} characters")
    return text


def _names(guard: Guard, group: Any, where: str) -> list[str]:
    if not isinstance(group, h5py.Group):
        raise DataError(f"{where}: an array where a group is due")
    return guard.names(group, where)


def _tensor(guard: Guard, group: Any, name: str, where: str, shape: tuple[int, ...]) -> Tensor:
    """An array of exactly this shape and of the type, or one of the types, of its name."""
    dataset, at = guard.child(group, name, where), f"{where}, {name}"
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{at}: a group where an array is due")
    if dataset.shape != shape:
        raise DataError(f"{at}: shape {dataset.shape} where {shape} is due")
    types = [np.dtype(kind) for kind in TYPES.get(name, FLOATS)]
    if dataset.dtype not in types:
        raise DataError(f"{at}: holds {dataset.dtype} where {' or '.join(map(str, types))} is due")
    array: NDArray[Any] = guard.value(dataset, at)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def _software(guard: Guard, file: h5py.File) -> Software | None:
    plain = parsed(_text(guard, file, "software"), "software", nothing=True)
    numbers = list(references(plain))
    if sorted(numbers) != list(range(len(numbers))):
        raise DataError("software: refers to an array twice, or skips one")
    group = guard.child(file, "software_arrays", "")
    exactly(_names(guard, group, "software_arrays"), {str(k) for k in numbers}, "software_arrays")
    arrays = {}
    for k in numbers:
        where = f"software_arrays/{k}"
        array = guard.value(guard.child(group, str(k), "software_arrays"), where)
        if not isinstance(array, np.ndarray) or array.dtype.kind == "O":
            raise DataError(f"{where}: no array of numbers")
        arrays[k] = array.astype(array.dtype.newbyteorder("="))
    return software_from_plain(plain, arrays)
