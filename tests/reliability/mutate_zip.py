"""Zips with other members and lying directories; npz files whose arrays' headers lie."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from random import Random

from .mutate_bytes import NUMBERS, Mutate, damaged
from .mutate_png import mutated_png

__all__ = ["lying", "mutated_npy", "mutated_npz", "mutated_pictures"]

NAMES = (
    "",
    "/a/b/c.png",
    "../a/b.png",
    "a\\b\\c.png",
    "C:/a/b.png",
    "a/b/c/d/e/f/g/h/i/j.png",
    "a/b/c.PNG",
    "a/b/.c.png",
)
NAMES += (
    "__MACOSX/a/b.png",
    "a//b.png",
    "a/./b.png",
    "a/b.png/",
    "a",
    "layout.npy",
    "array0_g_read",
    "array9_nu.npy",
    "é.npy",
)
NAMES += (
    "array٣_nu.npy",
    "a" * 300 + ".npy",
    "w\0.npy",
    "kernel1.npy.npy",
    ".npy",
    "a/b/c.gif",
    "outer/x/a/b.png",
    "\ud800/b.png",
)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
DESCRIPTIONS = (
    "<f4",
    "<f8",
    ">f4",
    "<f2",
    "<i8",
    "<i4",
    "|u1",
    "|b1",
    "|O",
    "<U9",
    "|S3",
    "<c8",
    "|V8",
    "f4,f4",
    "<f4 ",
    "",
    "x",
)
SHAPES = (
    "()",
    "(0,)",
    "(1,)",
    "(2, 3)",
    "(1099511627776,)",
    "(-1,)",
    "(3, 3, 1, 3)",
    "(True,)",
    "(1,)*9",
    "[1]",
    "(1.0,)",
    "4",
)
SHAPES += ("(18446744073709551617,)", "(" + "1," * 70 + ")", "(0, 9223372036854775807)", "((1,),)", "None")

Members = list[tuple[str, bytes]]


def mutated_pictures(rng: Random, data: bytes) -> bytes:
    """A zip of pictures."""
    return _mutated(rng, data, mutated_png)


def mutated_npz(rng: Random, data: bytes) -> bytes:
    """An npz."""
    return _mutated(rng, data, mutated_npy)


def mutated_npy(rng: Random, data: bytes) -> bytes:
    """An npy: its header's words, its version, its numbers."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        return damaged(rng, data)
    wide = data[6] > 1
    start = 12 if wide else 10
    size = int.from_bytes(data[8:start], "little")
    header, body = data[start : start + size], data[start + size :]
    kind = rng.randint(0, 6)
    if kind <= 2:
        fields = [f"'{rng.choice(DESCRIPTIONS)}'", rng.choice(("True", "False", "1", "None")), rng.choice(SHAPES)]
        parts = header.decode("latin-1").replace("}", "").split("'shape':")
        which = rng.randint(0, 3)
        shape = fields[2] if which in (0, 3) else parts[-1].strip(" ,\n")
        head = parts[0] if which in (0, 2) else f"{{'descr': {fields[0]}, 'fortran_order': {fields[1]}, "
        header = f"{head}'shape': {shape}, }}\n".encode("latin-1", "replace")
    elif kind == 3:
        header = rng.choice(
            (b"", b"{}", b"[" * 500, b"{'descr': " + b"(" * 150 + b")" * 150 + b"}", damaged(rng, header))
        )
    elif kind == 4 and len(body) >= 8:
        at = 4 * rng.randint(0, len(body) // 4 - 2)
        numbers = (float("nan"), float("inf"), -1.0, 1e308, 1e-320, 5.0)
        body = body[:at] + struct.pack("<d", rng.choice(numbers)) + body[at + 8 :]
    elif kind == 5:
        body = body[: rng.randint(0, len(body))]
    length = rng.choice((*NUMBERS, 0)) if rng.random() < 0.05 else len(header)
    version = bytes([rng.choice((0, 1, 2, 3, 9)) if kind == 6 else data[6], data[7]])
    return data[:6] + version + (length % (1 << 8 * (start - 8))).to_bytes(start - 8, "little") + header + body


def _mutated(rng: Random, data: bytes, inner: Mutate) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return damaged(rng, data)
    for _ in range(rng.randint(1, 3)):
        _change(rng, members, inner)
    whole = _zipped(rng, members)
    if rng.random() < 0.3:
        whole = lying(rng, whole)
    return damaged(rng, whole) if rng.random() < 0.1 else whole


def _change(rng: Random, members: Members, inner: Mutate) -> None:
    if not members:
        members.append(("a", b""))
    at = rng.randint(0, len(members) - 1)
    name, body = members[at]
    kind = rng.randint(0, 9)
    if kind <= 4:
        members[at] = (name, inner(rng, body))
    elif kind == 5:
        members[at] = (rng.choice((*NAMES, name.upper(), name + "x")), body)
    elif kind == 6:
        members.insert(at, (rng.choice((*NAMES, name)), rng.choice((b"", b"x", body, b"\0" * 100_000))))
    elif kind == 7:
        del members[at]
    elif kind == 8:
        members[at] = (name, members[rng.randint(0, len(members) - 1)][1])
    else:
        members[at] = (name, damaged(rng, body))


def _zipped(rng: Random, members: Members) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for name, body in members:
            info = zipfile.ZipInfo(name.replace("\ud800", "?"))
            info.compress_type = rng.choice(METHODS) if rng.random() < 0.1 else zipfile.ZIP_DEFLATED
            if rng.random() < 0.05:
                info.external_attr = rng.choice((0o120777, 0o040755, 0o010644, 0o100644)) << 16
            archive.writestr(info, body, compresslevel=1)
    return file.getvalue()


def lying(rng: Random, data: bytes) -> bytes:
    """Another number in a local header, the directory or its end."""
    signature, places = rng.choice(
        (
            (b"PK\x03\x04", ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
            (b"PK\x01\x02", ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4))),
            (b"PK\x05\x06", ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
        )
    )
    found, at = [], data.find(signature)
    while at >= 0:
        found.append(at)
        at = data.find(signature, at + 4)
    if not found:
        return data
    offset, width = rng.choice(places)
    start = rng.choice(found) + offset
    old = int.from_bytes(data[start : start + width], "little")
    value = rng.choice((*NUMBERS, old + 1, old - 1, old ^ 1, old ^ 8, old * 2)) % (1 << 8 * width)
    return data[:start] + value.to_bytes(width, "little") + data[start + width :]
