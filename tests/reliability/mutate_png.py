"""PNG pictures with other headers, chunks and pixels, every chunk's checksum right."""

from __future__ import annotations

import struct
import zlib
from random import Random

from .mutate_bytes import NUMBERS, damaged

__all__ = ["mutated_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDES = (0, 1, 2, 104, 105, 106, 1000, 7071, 10_000, 40_000, 2**31 - 1, 2**32 - 1)
KINDS = (
    b"tRNS",
    b"PLTE",
    b"gAMA",
    b"iCCP",
    b"zTXt",
    b"iTXt",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"IDAT",
    b"IEND",
    b"xxxx",
)


def mutated_png(rng: Random, data: bytes) -> bytes:
    """One to three changes."""
    chunks = _chunks(data)
    if not chunks:
        return damaged(rng, data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(chunks) - 1)
        name, body = chunks[at]
        kind = rng.randint(0, 7)
        if kind <= 2 and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
            fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
            which = rng.randint(0, 6)
            fields[which] = rng.choice(SIDES) if which < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *fields))
        elif kind == 3:
            chunks.insert(at, (rng.choice(KINDS), _body(rng)))
        elif kind == 4 and len(chunks) > 1:
            del chunks[at]
        elif kind == 5 and name == b"IDAT":
            size = rng.choice((0, 1, 1000, 105 * 15, 300_000))
            chunks[at] = (name, zlib.compress(rng.choice((b"\0", b"\xff", b"\1")) * size))
        elif kind == 6:
            chunks[at] = (name, damaged(rng, body))
        else:
            chunks[at] = (rng.choice((*KINDS, b"IHDR")), body)
    whole = SIGNATURE + b"".join(map(_chunk, chunks))
    return damaged(rng, whole) if rng.random() < 0.1 else whole


def _body(rng: Random) -> bytes:
    text = b"k\0\0" + zlib.compress(b"A" * rng.choice((1, 1000, 300_000)))
    return rng.choice((b"", b"\0", b"\0" * 8, b"\xff" * 26, rng.choice(NUMBERS).to_bytes(8, "big"), text))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    name, body = chunk
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while data.startswith(SIGNATURE) and at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found
