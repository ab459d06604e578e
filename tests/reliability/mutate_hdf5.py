"""HDF5 files with other arrays, names, links and attributes, and damaged bytes whose checksums are right again.

HDF5's newer structures end in a checksum, Bob Jenkins' lookup3 (hashlittle) over all bytes before it; without a new one
every flipped byte of a header would be noticed at once, and nothing behind that test be reached. Format: HDF5 File
Format Specification 3.0, sections II.A, III.A and IV.A.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np

from .mutate_bytes import damaged
from .mutate_json import mutated_json

__all__ = ["lookup3", "mutated_hdf5", "sealed"]

MASK = 2**32 - 1
OPEN_RW = 1
"""H5LT_FILE_IMAGE_OPEN_RW."""

VALUES: tuple[Any, ...] = (
    np.zeros((0, 3)), np.full((2, 2), np.nan), np.float64(np.inf), -np.ones(4), np.ones((1, 2, 2, 2, 2)), "words", "",
    np.float64(1e308), np.float64(0), np.float64(5e-324), np.float64(1), np.float32(1e30), np.float16(1), 2,
    np.arange(3, dtype=np.int64) - 5, np.int64(2**62), np.int64(0), np.uint64(2**64 - 1), np.array([3, 3]),
    np.array([1 + 2j]), np.array([True, False]), np.array([b"a", b"b"]), np.array([["a", "b"]], "S1"),
    np.int8(-1), np.void(b"opaque"), np.zeros(2, [("a", "f8"), ("b", "i4")]), h5py.Empty("f8"), h5py.Empty("S1"),
    "NIRGraph", "LIF", "Linear", "Conv2d", "Delay", "Flatten",
)  # fmt: skip
NAMES = (
    "",
    "type",
    "nodes",
    "edges",
    "metadata",
    "input_shape",
    "weight",
    "0",
    "1",
    "9",
    "x",
    "é",
    "tau",
    "bias",
    "column_gain",
)


def mutated_hdf5(rng: Random, data: bytes) -> bytes:
    """Other contents, through HDF5 itself, or damaged bytes."""
    if rng.random() < 0.6:
        return sealed(damaged(rng, data)) if rng.random() < 0.5 else damaged(rng, data)
    try:
        image = h5py.h5f.open_file_image(data, OPEN_RW)
        with h5py.File(image) as file:
            for _ in range(rng.randint(1, 3)):
                _change(rng, file)
            file.flush()
            data = image.get_file_image()
    except Exception:  # an odd wish that h5py refuses
        return sealed(damaged(rng, data))
    return sealed(damaged(rng, data)) if rng.random() < 0.1 else data


def _change(rng: Random, file: Any) -> None:
    names: list[str] = []
    file.visit(names.append)
    name, other = rng.choice(names), rng.choice(names)
    kind = rng.randint(0, 11)
    item = file[name]
    if kind <= 3 and isinstance(item, h5py.Dataset):
        _numbers(rng, item)
    elif kind <= 5:
        del file[name]
        file[name] = rng.choice(VALUES)
    elif kind == 6:
        del file[name]
    elif kind == 7:
        file.move(name, name.rpartition("/")[0] + "/" + rng.choice(NAMES))
    elif kind == 8:
        file.copy(other, name.rpartition("/")[0] + "/" + rng.choice((*NAMES, other.rpartition("/")[2] + "2")))
    elif kind == 9:
        file[f"{name}/x" if isinstance(item, h5py.Group) else f"{name}2"] = rng.choice(
            (h5py.SoftLink("/" + other), h5py.ExternalLink("other.h5", "/"), file[other])
        )
    elif kind == 10:
        item.attrs[rng.choice(NAMES) or "x"] = rng.choice(VALUES)
    else:
        del file[name]
        rng.choice(LAYOUTS)(file, name)


def _numbers(rng: Random, item: Any) -> None:
    """Other entries of the same array; text is JSON as often as not."""
    value = item[()]
    if isinstance(value, bytes):
        text = mutated_json(rng, value)
        name, file = item.name, item.file
        del file[name]
        file[name] = (
            np.array(text, h5py.string_dtype("utf-8", len(text)))
            if rng.random() < 0.5
            else text.decode("utf-8", "replace")
        )
        return
    flat = np.atleast_1d(np.array(value))
    if not flat.size:
        return
    at = np.unravel_index(rng.randint(0, flat.size - 1), flat.shape)
    if flat.dtype.kind == "f":
        flat[at] = rng.choice((np.nan, np.inf, -1.0, 0.0, 1e30, 1e-40, 0.5, -np.inf))
    elif flat.dtype.kind in "iu":
        flat[at] = rng.choice((0, 1, 2, 3, 127))
    elif flat.dtype.kind == "O":
        flat[at] = rng.choice((flat.ravel()[rng.randint(0, flat.size - 1)], b"x", b"", b"\xff", b"a" * 500))
    item[...] = flat.reshape(np.shape(value)) if np.shape(value) else flat[0]


def _chunked(file: Any, name: str) -> None:
    file.create_dataset(name, shape=(2**20, 2**16), dtype="f8", chunks=(1024, 64))


def _compressed(file: Any, name: str) -> None:
    file.create_dataset(name, data=np.zeros(200_000), chunks=(200_000,), compression="gzip", compression_opts=1)


def _lzf(file: Any, name: str) -> None:
    file.create_dataset(name, data=np.arange(300.0), chunks=(7,), compression="lzf", fletcher32=True, shuffle=True)


def _external(file: Any, name: str) -> None:
    file.create_dataset(name, shape=(4,), dtype="f8", external=[("/dev/zero", 0, 32)])


def _virtual(file: Any, name: str) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", shape=(4,))
    file.create_virtual_dataset(name, layout)


def _texts(file: Any, name: str) -> None:
    file.create_dataset(name, data=[["x" * 200, "y"]] * 20, dtype=h5py.string_dtype())


def _reference(file: Any, name: str) -> None:
    file.create_dataset(name, data=file.ref, dtype=h5py.ref_dtype)


LAYOUTS: tuple[Callable[[Any, str], None], ...] = (_chunked, _compressed, _lzf, _external, _virtual, _texts, _reference)


def sealed(data: bytes) -> bytes:
    """The bytes with right checksums of their superblock and object headers (versions 2 and 3)."""
    whole = bytearray(data)
    if whole[8:9] in (b"\2", b"\3") and len(whole) >= 48:
        whole[44:48] = lookup3(bytes(whole[:44])).to_bytes(4, "little")
    at = whole.find(b"OHDR")
    while at >= 0:
        if (end := _header_end(whole, at)) is not None and end + 4 <= len(whole):
            whole[end : end + 4] = lookup3(bytes(whole[at:end])).to_bytes(4, "little")
        at = whole.find(b"OHDR", at + 4)
    return bytes(whole)


def _header_end(data: bytearray, at: int) -> int | None:
    if len(data) < at + 32:
        return None
    flags = data[at + 5]
    start = at + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(data[start : start + width], "little")
    return start + width + size if size < 4096 else None


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hashlittle with initial value 0."""
    a = b = c = (0xDEADBEEF + len(data)) & MASK
    at = 0
    while len(data) - at > 12:
        a = (a + int.from_bytes(data[at : at + 4], "little")) & MASK
        b = (b + int.from_bytes(data[at + 4 : at + 8], "little")) & MASK
        c = (c + int.from_bytes(data[at + 8 : at + 12], "little")) & MASK
        a, b, c = _mixed(a, b, c)
        at += 12
    tail = data[at:]
    if not tail:
        return c
    tail = tail.ljust(12, b"\0")
    a = (a + int.from_bytes(tail[:4], "little")) & MASK
    b = (b + int.from_bytes(tail[4:8], "little")) & MASK
    c = (c + int.from_bytes(tail[8:], "little")) & MASK
    c = ((c ^ b) - _rotated(b, 14)) & MASK
    a = ((a ^ c) - _rotated(c, 11)) & MASK
    b = ((b ^ a) - _rotated(a, 25)) & MASK
    c = ((c ^ b) - _rotated(b, 16)) & MASK
    a = ((a ^ c) - _rotated(c, 4)) & MASK
    b = ((b ^ a) - _rotated(a, 14)) & MASK
    return ((c ^ b) - _rotated(b, 24)) & MASK


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for k in (4, 6, 8, 16, 19, 4):
        a, c = ((a - c) & MASK) ^ _rotated(c, k), (c + b) & MASK
        a, b, c = b, c, a
    return a, b, c


def _rotated(x: int, k: int) -> int:
    return (x << k | x >> (32 - k)) & MASK
