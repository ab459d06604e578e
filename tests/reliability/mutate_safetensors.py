"""Safetensors files whose header lies: other types, shapes, offsets and names, another description, NaN in the data."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

from .mutate_bytes import NUMBERS, damaged
from .mutate_json import said, varied

__all__ = ["mutated_safetensors"]

TYPES = ("F32", "F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "Q4", "")
WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}
FLOATS = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\x01\0\0\0", b"\xff\xff\x7f\x7f")
"""NaN, both infinities, the smallest number and the largest."""


def mutated_safetensors(rng: Random, data: bytes) -> bytes:
    """One to three changes of header, description or data."""
    for _ in range(rng.randint(1, 3)):
        size = int.from_bytes(data[:8], "little")
        try:
            header = json.loads(data[8 : 8 + size])
            assert isinstance(header, dict)
        except (ValueError, AssertionError, RecursionError):
            return damaged(rng, data)
        data = _changed(rng, header, data[8 + size :])
    if rng.random() < 0.05:
        data = rng.choice((*NUMBERS, len(data), len(data) - 8)).to_bytes(8, "little") + data[8:]
    return damaged(rng, data) if rng.random() < 0.1 else data


def _changed(rng: Random, header: dict[str, Any], body: bytes) -> bytes:
    kind = rng.randint(0, 9)
    notes = header.get("__metadata__")
    tensors = [name for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict)]
    if kind <= 4 and isinstance(notes, dict) and notes:
        key = rng.choice(sorted(notes))
        try:
            notes[key] = said(varied(rng, json.loads(notes[key])))
        except (ValueError, TypeError, RecursionError):
            notes[key] = "{}"
    elif kind <= 7 and tensors:
        name = rng.choice(tensors)
        body = _tensor(rng, header, name, body)
    elif kind == 8 and len(body) >= 4:
        at = 4 * rng.randint(0, len(body) // 4 - 1)
        body = body[:at] + rng.choice(FLOATS) + body[at + 4 :]
    else:
        header = varied(rng, header)
    text = said(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + body


def _tensor(rng: Random, header: dict[str, Any], name: str, body: bytes) -> bytes:
    entry = header[name]
    kind = rng.randint(0, 6)
    if kind == 0:
        entry["dtype"] = rng.choice(TYPES)
    elif kind == 1:
        entry["shape"] = [rng.choice((*NUMBERS, 4)) for _ in range(rng.randint(0, 5))]
    elif kind == 2:
        entry["data_offsets"] = [rng.choice((*NUMBERS, len(body))) for _ in range(2)]
    elif kind == 3:
        header[rng.choice((name + "x", "", "net.x", "adam.0.x.y", "adam.x.y", "adam.9.step"))] = header.pop(name)
    elif kind == 4:
        body = _whole(rng, header, name, body)
    elif kind == 5:
        del header[name]
    else:
        header[name + "2"] = dict(entry)
    return body


def _whole(rng: Random, header: dict[str, Any], name: str, body: bytes) -> bytes:
    """Give a tensor another shape or type and the bytes to go with it, so that the file is whole again."""
    shape, dtype = [rng.randint(0, 4) for _ in range(rng.randint(0, 4))], rng.choice(TYPES[:8])
    count = math.prod(shape) * WIDTHS.get(dtype, 1)
    try:
        parts = {
            other: body[slice(*entry["data_offsets"])]
            for other, entry in header.items()
            if other not in ("__metadata__", name)
        }
        parts[name] = (rng.choice(FLOATS) * count)[:count]
        header[name] |= {"dtype": dtype, "shape": shape}
        end = 0
        for other, part in parts.items():
            header[other]["data_offsets"] = [end, end := end + len(part)]
        return b"".join(parts.values())
    except (KeyError, TypeError, ValueError):
        return body
