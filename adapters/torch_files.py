"""Tensors from the files of ``torch.save`` that nobody vouches for, without ``torch.load``.

    zip (torch 1.6 and later)    NAME/data.pkl, a pickle that names storages; NAME/data/KEY, their bytes, not packed
    stream (before 1.6)          pickles of a magic number, a version, the system, the content and the keys of storages;
                                 then each storage: its count, 8 bytes, and its bytes

``torch.load(weights_only=True)`` runs no foreign code, but a file can have it allocate what it only declares (a
storage, a bytearray, a tensor without bytes behind it), name one number as 2^40, or replace methods of what it returns.
Here the pickle is run by ``pickle_program``, and a tensor is a view of bytes that are there. Tensors that are sparse,
quantized, on no device, or of a class of one's own are refused.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ovonic.adapters.pickle_program import Inert, Refused, StandIn, run_program

__all__ = ["MoreThanTensors", "read_tensors"]

MAGIC, STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001
ZIP_MAGIC = b"PK\x03\x04"
MOST_OPCODES, MOST_PICKLE, MOST_MEMBERS = 10**6, 2**26, 200_000
MOST_DIMENSIONS = 64
NAMED = 16
"""Times that the tensors may name the bytes of all storages: tied weights name them twice."""

# fmt: off
OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "EMPTY_LIST", "EMPTY_DICT",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
    "EMPTY_SET", "ADDITEMS",
}
# fmt: on
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class MoreThanTensors(Exception):
    """A file that holds code, objects, or tensors of another kind."""


@dataclass(frozen=True, eq=False)
class _Kind(Inert):
    """A class of storages: the type of its numbers."""

    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class _Storage:
    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class _View(Inert):
    """A tensor: numbers of a storage from an offset on, by size and stride."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_tensors(path: Path) -> Any:
    """What a file holds, as plain containers; under ``state_dict`` if it has that.

    Returns: a dict whose values are tensors where such are, or whatever else the file holds.
    Raises: MoreThanTensors: it would run code, or holds other tensors than dense ones. OSError: no such file. Others:
        damaged.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        is_zip = file.read(4) == ZIP_MAGIC
        file.seek(0)
        try:
            return _from_zip(file, size) if is_zip else _from_stream(file.read())
        except Refused as error:
            raise MoreThanTensors(str(error)) from error


def _from_zip(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) != len(archive.infolist()) or len(members) > MOST_MEMBERS:
            raise ValueError("two members of one name, or too many")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise ValueError("members are packed, which torch does not do")
        if sum(member.file_size for member in members.values()) > size:
            raise ValueError("members are larger than the file")
        (pickled,) = (name for name in members if name.endswith("/data.pkl"))
        if members[pickled].file_size > MOST_PICKLE:
            raise ValueError(f"more than {MOST_PICKLE} bytes of names")
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")

        def held(storage: _Storage) -> bytearray:
            return bytearray(archive.read(f"{root}data/{storage.key}"))

        content = run_program(io.BytesIO(archive.read(pickled)), OPCODES, KNOWN, MOST_OPCODES, _storage)
        return _resolved(content, held, size)


def _from_stream(data: bytes) -> Any:
    file = io.BytesIO(data)
    found: dict[str, _Storage] = {}

    def stored(identifier: Any) -> _Storage:
        if type(identifier) is not tuple or len(identifier) != 6 or identifier[5] is not None:
            raise Refused("a storage that is a part of another")
        storage = _storage(identifier[:5])
        return found.setdefault(storage.key, storage)

    def run() -> Any:
        return run_program(file, OPCODES, KNOWN, MOST_OPCODES, stored)

    magic, version = run(), run()
    if type(magic) is not int or magic != MAGIC or version != STREAM_VERSION:
        raise ValueError("it does not begin as torch's files do")
    system = run()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    content, keys = run(), run()
    places: dict[str, slice] = {}
    for key in keys:
        storage = found[key]
        count, start = int.from_bytes(file.read(8), "little"), file.tell()
        if count != storage.count:
            raise ValueError(f"storage {key[:40]!r} holds {count} numbers and not {storage.count}")
        places[key] = slice(start, file.seek(start + count * storage.dtype.itemsize))
    return _resolved(content, lambda storage: bytearray(data[places[storage.key]]), len(data))


def _resolved(content: Any, held: Callable[[_Storage], bytearray], size: int) -> Any:
    """The content, or its ``state_dict``, with tensors in place of views."""
    if type(content) is dict and type(content.get("state_dict")) is dict:
        content = content["state_dict"]
    if isinstance(content, Inert):
        raise ValueError("one tensor or class alone, without a name")
    if type(content) is not dict:
        return content
    numbers: dict[str, Tensor] = {}
    left = NAMED * size
    for value in content.values():
        if isinstance(value, _View):
            left -= math.prod(value.size) * value.storage.dtype.itemsize
            if left < 0:
                raise ValueError("its tensors have more numbers than it holds")
            _flat(value.storage, held, numbers)
    return {
        name: torch.as_strided(numbers[v.storage.key], v.size, v.stride, v.offset) if isinstance(v, _View) else v
        for name, v in content.items()
    }


def _flat(storage: _Storage, held: Callable[[_Storage], bytearray], numbers: dict[str, Tensor]) -> None:
    """Put a storage's numbers into ``numbers``, if they are not there."""
    if storage.key in numbers:
        if numbers[storage.key].dtype != storage.dtype or len(numbers[storage.key]) != storage.count:
            raise ValueError(f"storage {storage.key[:40]!r} is said to be two things")
        return
    data = held(storage)
    if len(data) != storage.count * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key[:40]!r} of {storage.count} numbers has {len(data)} bytes")
    empty = torch.empty(0, dtype=storage.dtype)
    numbers[storage.key] = torch.frombuffer(data, dtype=storage.dtype) if data else empty


def _storage(identifier: Any) -> _Storage:
    """A persistent identifier of a storage: ("storage", class, key, device, count)."""
    if type(identifier) is not tuple or len(identifier) != 5 or identifier[0] != "storage":
        raise Refused("a persistent object that is no storage")
    _, kind, key, _, count = identifier
    if not isinstance(kind, _Kind) or type(key) is not str or type(count) is not int or count < 0:
        raise Refused("a storage without type, key or count")
    return _Storage(kind.dtype, key, count)


def _view(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _View:
    """``_rebuild_tensor_v2``: gradient, hooks and metadata are left."""
    if not isinstance(storage, _Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise Refused("a tensor without storage, size or stride")
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise Refused("a tensor whose size and stride differ")
    if any(type(n) is not int or not 0 <= n < 2**62 for n in (offset, *size, *stride)):
        raise Refused("a tensor whose size or stride is no number")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset > storage.count or (0 not in size and last >= storage.count):
        raise ValueError(f"a tensor that reaches beyond its storage of {storage.count} numbers")
    return _View(storage, offset, size, stride)


def _parameter(data: Any, *_: Any) -> _View:
    """``_rebuild_parameter``: its tensor."""
    if not isinstance(data, _View):
        raise Refused("a parameter without a tensor")
    return data


def _nothing(*_: Any) -> None:
    """What stands in a file beside tensors, and is left."""


KNOWN: dict[tuple[str, str], Inert] = {
    ("torch._utils", "_rebuild_tensor"): StandIn(_view),
    ("torch._utils", "_rebuild_tensor_v2"): StandIn(_view),
    ("torch._utils", "_rebuild_parameter"): StandIn(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): StandIn(_parameter),
    ("collections", "OrderedDict"): StandIn(lambda: {}),
    ("collections", "Counter"): StandIn(_nothing),
    ("_codecs", "encode"): StandIn(_nothing),
    ("torch", "Size"): StandIn(_nothing),
    ("torch", "device"): StandIn(_nothing),
    **{("torch", str(dtype).removeprefix("torch.")): StandIn() for dtype in STORAGES.values()},
    **{("torch", name): _Kind(dtype) for name, dtype in STORAGES.items()},
    **{(builtins, name): StandIn(_nothing) for builtins in ("builtins", "__builtin__")
       for name in ("set", "complex", "bytearray")},
}  # fmt: skip
"""Globals of such files, and what stands for them."""
