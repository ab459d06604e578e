"""Normal numbers for compiled loops: a counter-based generator and the Box-Muller transform, both vectorised.

    words    Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3")
             of counter (block, product) and key: four words of 32 bits a block, without state
    normals  sqrt(-2 ln u) (cos a, sin a),   u = (word + 1/2) / 2^32,   a = pi (word - 2^31) / 2^31

A word of 32 bits lets a normal number reach 6.7 standard deviations. ln, sin and cos are polynomials (relative error
below 3e-7), for a loop that calls the C library is not vectorised. Numbers depend on key and counter only: not on the
order in which they are drawn, nor on which path draws them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, njit, types

__all__ = ["BLOCK", "NoiseStream", "fill_normals", "fill_words"]

compiled: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
inlined: Any = njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz"}, forceinline=True)

intrinsic: Any = extending.intrinsic

BLOCK = 64
"""Numbers are made in multiples of so many."""

MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MUL_0, MUL_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


class NoiseStream:
    """A key drawn once from ``generator`` (None: torch's own), and a counter of products: noise without its overhead.

    The k-th product of a stream draws the same numbers whatever was drawn before it.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.key = torch.empty(1, dtype=torch.int64).random_(generator=generator).numpy().view(np.uint64)[0]
        self.drawn = 0

    def next(self) -> tuple[np.uint64, int]:
        """Key and counter of the next product."""
        self.drawn += 1
        return self.key, self.drawn - 1

    def normals(self, n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The next product's ``n`` normal numbers, float32."""
        buffer = np.empty(-(-n // BLOCK) * BLOCK, np.float32)
        fill_normals(*self.next(), buffer)
        return buffer[:n]


@intrinsic
def _as_int(_context: Any, x: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _as_float(_context: Any, x: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@inlined
def _round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    a, b = MUL_0 * c0, MUL_1 * c2
    return (b >> HALF) ^ c1 ^ k0, b & MASK, (a >> HALF) ^ c3 ^ k1, a & MASK


@inlined
def _words(block: Any, product: Any, key: Any) -> Any:
    c0, c1, c2, c3 = block, np.uint64(0), product & MASK, product >> HALF
    k0, k1 = key & MASK, key >> HALF
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
    for _ in range(9):
        k0, k1 = (k0 + WEYL_0) & MASK, (k1 + WEYL_1) & MASK
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
    return c0, c1, c2, c3


@compiled
def fill_words(key: Any, product: Any, out: Any) -> None:
    """The generator's words, [blocks, 4] uint32: for tests against its published answers."""
    for i in range(len(out)):
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = _words(np.uint64(i), np.uint64(product), np.uint64(key))


@inlined
def _ln(x: Any) -> Any:
    i = np.int32(_as_int(x) - np.int32(0x3F3504F3))
    e = np.float32(np.int32(i >> np.int32(23)))
    f = _as_float(np.int32((i & np.int32(0x7FFFFF)) + np.int32(0x3F3504F3))) - np.float32(1.0)
    p = np.float32(0.08533313125371933) * f - np.float32(0.14269258081912994)
    p = p * f + np.float32(0.14977401494979858)
    p = p * f - np.float32(0.1657799333333969)
    p = p * f + np.float32(0.19955933094024658)
    p = p * f - np.float32(0.250013530254364)
    p = p * f + np.float32(0.33334192633628845)
    p = p * f - np.float32(0.4999999701976776)
    p = p * f + np.float32(1.0)
    return e * np.float32(0.6931471805599453) + f * p


@inlined
def _pair(first: Any, second: Any) -> Any:
    """Two words -> two independent normal numbers."""
    u = (np.float32(np.int32(first >> np.uint64(1))) + np.float32(0.25)) * np.float32(2.0**-31)
    square = np.float32(-2.0) * _ln(u)
    radius = np.sqrt(square if square > np.float32(0.0) else np.float32(0.0))
    turn = np.float32(np.int32(second)) * np.float32(2.0**-31)
    a = np.abs(turn) - np.float32(0.5)
    q = a * a
    p = np.float32(0.07765591144561768) * q - np.float32(0.5982903838157654)
    p = p * q + np.float32(2.550077438354492)
    p = p * q - np.float32(5.167710304260254)
    p = p * q + np.float32(3.1415927410125732)
    r = np.float32(0.21968242526054382) * q - np.float32(1.3318729400634766)
    r = r * q + np.float32(4.05841064453125)
    r = r * q - np.float32(4.934792995452881)
    r = r * q + np.float32(0.9999999403953552)
    sine = r if turn > np.float32(0.0) else -r
    return -radius * (a * p), radius * sine


@compiled
def fill_normals(key: Any, product: Any, out: Any) -> None:
    """Fill ``out``, float32 of a multiple of ``BLOCK``, with the normal numbers of a key and a product's counter."""
    blocks = len(out) // 4
    first, second, third, fourth = (
        out[:blocks],
        out[blocks : 2 * blocks],
        out[2 * blocks : 3 * blocks],
        out[3 * blocks :],
    )
    for i in range(blocks):
        w0, w1, w2, w3 = _words(np.uint64(i), np.uint64(product), np.uint64(key))
        first[i], second[i] = _pair(w0, w1)
        third[i], fourth[i] = _pair(w2, w3)
