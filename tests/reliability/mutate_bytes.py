"""Damage that knows no format: flipped, set, cut, inserted, repeated and swapped bytes.

Every mutation of this folder is a function of a ``random.Random`` and a file's bytes: Hypothesis hands in one whose
draws it chooses and shrinks, atheris one that its own seed starts.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

__all__ = ["MAX_INPUT", "NUMBERS", "Mutate", "damaged"]

Mutate = Callable[[Random, bytes], bytes]

MAX_INPUT = 2**18
"""Bytes of an input at most; what is longer is cut, so that seeds must be much smaller."""

NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1)
NUMBERS += (2**63 - 1, 2**63, 2**64 - 1)
"""Counts and sizes at which programs go wrong."""


def damaged(rng: Random, data: bytes) -> bytes:
    """One to four edits."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(EDITS)(rng, data)
    return data[:MAX_INPUT]


def _at(rng: Random, data: bytes) -> int:
    return rng.randint(0, max(0, len(data) - 1))


def _flip(rng: Random, data: bytes) -> bytes:
    if not data:
        return data
    at = _at(rng, data)
    return data[:at] + bytes([data[at] ^ 1 << rng.randint(0, 7)]) + data[at + 1 :]


def _set(rng: Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + bytes([rng.randint(0, 255)]) + data[at + 1 :]


def _number(rng: Random, data: bytes) -> bytes:
    at, width = _at(rng, data), rng.choice((1, 2, 4, 8))
    value = rng.choice(NUMBERS) % (1 << 8 * width)
    return data[:at] + value.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: _at(rng, data)]


def _remove(rng: Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + data[at + rng.randint(1, 16) :]


def _insert(rng: Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]


def _repeat(rng: Random, data: bytes) -> bytes:
    at = _at(rng, data)
    part = data[at : at + rng.randint(1, 64)]
    return data[:at] + part * rng.randint(2, 40) + data[at:]


def _swap(rng: Random, data: bytes) -> bytes:
    a, b = sorted((_at(rng, data), _at(rng, data)))
    width = min(rng.randint(1, 16), b - a)
    return data[:a] + data[b : b + width] + data[a + width : b] + data[a : a + width] + data[b + width :]


EDITS = (_flip, _set, _number, _cut, _remove, _insert, _repeat, _swap)
