"""Pickles as programs: opcodes removed, doubled, moved and foreign, arguments changed, counts that lie."""

from __future__ import annotations

import pickletools
from random import Random

from .mutate_bytes import NUMBERS, damaged

__all__ = ["mutated_pickle"]

FOREIGN = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"cnumpy\ndtype\n",
    b"cnumpy\nndarray\n",
    b"\x8c\x05numpy\x8c\x05dtype\x93",
)
FOREIGN += (
    b"\x8c\x02os\x8c\x06system\x93",
    b"(S'id'\ntR",
    b"R",
    b"b",
    b"(",
    b")",
    b"t",
    b"0",
    b"1",
    b"2",
    b"\x94",
    b".",
    b"s",
    b"u",
)
FOREIGN += (
    b"\x8d" + (2**62).to_bytes(8, "little"),
    b"\x8e" + (2**40).to_bytes(8, "little"),
    b"B\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f",
)
FOREIGN += (
    b"\x8a\xff" + b"\x01" * 255,
    b"r\xff\xff\xff\x7f",
    b"j\xff\xff\xff\x7f",
    b"h\x00",
    b"h\xff",
    b"q\x00",
    b"]" * 400,
    b")" * 400,
)
FOREIGN += (
    b"(" * 900,
    b"\x85" * 900,
    b"}",
    b"]",
    b"N",
    b"\x88",
    b"K\x05",
    b"J\xff\xff\xff\xff",
    b"G\x7f\xf8\0\0\0\0\0\0",
    b"P1\n",
    b"Q",
)
FOREIGN += (
    b"\x81",
    b"\x92",
    b"\x82\x01",
    b"\x96\x04\0\0\0\0\0\0\0abcd",
    b"\x97",
    b"\x98",
    b"L" + b"9" * 5000 + b"L\n",
    b"I12x\n",
    b"F1e999\n",
)
FOREIGN += (
    b"a",
    b"e",
    b"\x90",
    b"\x91",
    b"\x86",
    b"\x87",
    b"o",
    b"ibuiltins\nlist\n",
    b"d",
    b"l",
    b"\x95" + (2**40).to_bytes(8, "little"),
)
FLOATS = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x00\x00", b"\xff\xff\x7f\x7f")


def mutated_pickle(rng: Random, data: bytes) -> bytes:
    """One to four changes of the program."""
    parts = _opcodes(data)
    if not parts:
        return damaged(rng, data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(parts) - 1)
        kind = rng.randint(0, 9)
        if kind <= 3:
            parts[at] = _argument(rng, parts[at])
        elif kind == 4 and len(parts) > 1:
            del parts[at]
        elif kind == 5:
            parts.insert(at, parts[at])
        elif kind == 6:
            other = rng.randint(0, len(parts) - 1)
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == 7:
            parts[at] = rng.choice(parts)
        elif kind == 8:
            parts[at] = rng.choice(FOREIGN)
        else:
            parts.insert(at, rng.choice(FOREIGN))
    whole = b"".join(parts)
    return damaged(rng, whole) if rng.random() < 0.1 else whole


def _argument(rng: Random, part: bytes) -> bytes:
    """An opcode with another argument of the same length."""
    if len(part) == 1:
        return rng.choice(FOREIGN)
    if len(part) <= 5:
        return part[:1] + (rng.choice((*NUMBERS, 4)) % (1 << 8 * (len(part) - 1))).to_bytes(len(part) - 1, "little")
    if len(part) > 40 and rng.random() < 0.5:
        at = rng.randint(0, len(part) // 4 - 2) * 4 + 1
        return part[:at] + rng.choice(FLOATS) + part[at + 4 :]
    at = rng.randint(1, len(part) - 1)
    return part[:at] + bytes([rng.randint(0, 255)]) + part[at + 1 :]


def _opcodes(data: bytes) -> list[bytes]:
    """The bytes of each opcode but FRAME, whose count would give every change away."""
    starts, names = [], []
    try:
        for opcode, _, position in pickletools.genops(data):
            starts.append(position or 0)
            names.append(opcode.name)
    except Exception:
        return []
    ends = [*starts[1:], len(data)]
    return [data[a:b] for a, b, name in zip(starts, ends, names, strict=True) if name != "FRAME"]
