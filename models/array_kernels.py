"""The inner loops of ``models.array_products``, compiled by Numba: converters, sums of rows, noise.

Arrays are C-contiguous float32. Matrices are [M, rows, columns] or, mean beside variance, [M, rows, 2 columns]: the
first ``group`` of all inputs see the first matrix. ``columns`` is [1 or M, 3, columns]: gain and offset of the
converters, factor behind them. ``constants``, in order: steps of the DAC (0: ideal) and its step; of the ADC: steps
over range, steps (0: ideal), step; variance of a conversion.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ovonic.models.noise_kernels import compiled, fill_normals, inlined

__all__ = ["MANY", "NOT_BINARY", "binary", "filled", "finish", "prepare", "read_rows"]

NOT_BINARY, MANY = -1, -2
"""What ``read_rows`` returns where it stops: an input other than 0 and 1; more rows than it may sum."""

ROUNDER = np.float32(12582912.0)
"""1.5 2^23: adding and subtracting it rounds a float32 to an integer, half to even."""

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@inlined
def _limited(x: Any, low: Any, high: Any) -> Any:
    return high if x > high else (low if x < low else x)


@inlined
def _level(x: Any, most: Any) -> Any:
    """x rounded, where it may still be told whether it lies beyond ``most``."""
    edge = most + np.float32(2.0)
    return (_limited(x, -edge, edge) + ROUNDER) - ROUNDER


@compiled
def prepare(x: Any, rows: int, unsigned: bool, constants: Any, count: bool, u: Any, square: Any) -> int:
    """u = DAC(x) of inputs of one sign (``rows``; 0: of all), and its square, all flat. Clips, if counted."""
    steps, step = constants[0], constants[1]
    sign = np.float32(rows)
    low = ZERO if unsigned else -steps
    clips = 0
    if steps > ZERO:
        clips = _beyond(x, steps, low, steps) if count else 0
        for i in range(len(x)):
            u[i] = _limited(_level(x[i] * steps, steps), low, steps) * step
    else:
        for i in range(len(x)):
            below = unsigned and x[i] < ZERO
            u[i] = ZERO if below else x[i]
            clips += below
    if rows != 0:
        for i in range(len(x)):
            part = sign * u[i]
            u[i] = part if part > ZERO else ZERO
    for i in range(len(square)):
        square[i] = u[i] * u[i]
    return clips


@compiled
def finish(
    y: Any, variance: Any, group: int, constants: Any, columns: Any, count: bool, key: Any, product: int, room: Any,
    sign: int, total: Any,
) -> int:  # fmt: skip
    """Noise and ADC of all inputs: added to ``total``. y and variance, [N, columns], are used up. Clips, if counted."""
    noise = _noise(y, len(variance) > 0, constants, key, product, room)
    clips = 0
    for n in range(len(y)):
        m = n // group if len(columns) > 1 else 0
        clips += _convert(y, n, variance, n, noise, n, constants, columns, m, count, sign, total)
    return clips


@compiled
def read_rows(
    x: Any, binary: bool, rows: int, unsigned: bool, most: int, matrix: Any, group: int, constants: Any, columns: Any,
    count: bool, key: Any, product: int, room: Any, sign: int, total: Any,
) -> Any:  # fmt: skip
    """A whole read by summing the rows of inputs that are not zero; x: [N, rows]; adds to ``total``.

    most: so many rows are summed at most. Returns clips of the DAC (or ``NOT_BINARY``, or ``MANY``), of the ADC.
    """
    if binary and most < x.size and filled(x.reshape(x.size)) > most:
        return MANY, 0
    inputs, n_columns = x.shape[1], total.shape[1]
    loaded = matrix.shape[2] > n_columns
    noise = _noise(total, loaded, constants, key, product, room)
    u, square, which = np.empty(inputs, np.float32), np.empty(inputs, np.float32), np.empty(inputs, np.int32)
    sums, variance = np.empty((1, n_columns), np.float32), np.empty((1 if loaded else 0, n_columns), np.float32)
    clips_dac, clips_adc = 0, 0
    for n in range(len(x)):
        if binary:
            found = _nonzero(x[n], which, u)
            for k in range(found):
                if u[k] != ONE:
                    return NOT_BINARY, 0
        else:
            clips_dac += prepare(x[n], rows, unsigned, constants, count, u, square[:0])
            found = _nonzero(u, which, u)
            for k in range(found):
                square[k] = u[k] * u[k]
        _add_rows(sums, matrix, n // group, 0, which, u, found)
        if loaded:
            _add_rows(variance, matrix, n // group, n_columns, which, u if binary else square, found)
        m = n // group if len(columns) > 1 else 0
        clips_adc += _convert(sums, 0, variance, 0, noise, n, constants, columns, m, count, sign, total)
    return clips_dac, clips_adc


@compiled
def _noise(like: Any, loaded: bool, constants: Any, key: Any, product: int, room: Any) -> Any:
    """Normal numbers, one a conversion, [N, columns], or none; in ``room``, a multiple of ``BLOCK``."""
    if not loaded and constants[5] == ZERO:
        return np.empty((0, like.shape[1]), np.float32)
    fill_normals(key, product, room)
    return room[: like.size].reshape(like.shape)


@inlined
def _convert(
    y: Any, i: int, variance: Any, v: int, noise: Any, n: int, constants: Any, columns: Any, m: int, count: bool,
    sign: int, total: Any,
) -> int:  # fmt: skip
    """Currents y[i]: noise, gain, offset, ADC; onto total[n]; y[i] is used up. How many were clipped, if counted."""
    per_range, steps, step, out_variance = constants[2], constants[3], constants[4], constants[5]
    width = total.shape[1]
    if len(variance) > 0:
        for j in range(width):
            y[i, j] = (y[i, j] + np.sqrt(variance[v, j] + out_variance) * noise[n, j]) * columns[m, 0, j] + columns[
                m, 1, j
            ]
    elif len(noise) > 0:
        deviation = np.sqrt(out_variance)
        for j in range(width):
            y[i, j] = (y[i, j] + deviation * noise[n, j]) * columns[m, 0, j] + columns[m, 1, j]
    else:
        for j in range(width):
            y[i, j] = y[i, j] * columns[m, 0, j] + columns[m, 1, j]
    clips = _beyond(y[i], per_range, -steps, steps) if count and steps > ZERO else 0
    factor = np.float32(sign)
    if steps > ZERO:
        for j in range(width):
            level = _limited(_level(y[i, j] * per_range, steps), -steps, steps)
            total[n, j] += factor * (columns[m, 2, j] * (level * step))
    else:
        for j in range(width):
            total[n, j] += factor * (columns[m, 2, j] * y[i, j])
    return clips


@compiled
def _beyond(x: Any, factor: Any, low: Any, high: Any) -> int:
    """How many entries round to a level outside low .. high."""
    found = 0
    for i in range(len(x)):
        level = _level(x[i] * factor, high)
        found += (level > high) | (level < low)
    return found


@compiled
def binary(x: Any) -> bool:
    """Whether every entry of x, flat, is 0 or 1."""
    wrong = 0
    for i in range(len(x)):
        wrong += (x[i] != ZERO) & (x[i] != ONE)
    return wrong == 0


@compiled
def filled(x: Any) -> int:
    """How many entries of x, flat, are not zero."""
    found = 0
    for i in range(len(x)):
        found += x[i] != ZERO
    return found


@inlined
def _nonzero(x: Any, which: Any, values: Any) -> int:
    """The entries of x that are not zero, in order, and where they are; how many. No branches: spikes surprise them."""
    found = 0
    for i in range(len(x)):
        which[found], values[found] = i, x[i]
        found += x[i] != ZERO
    return found


@compiled
def _add_rows(sums: Any, matrix: Any, m: int, begin: int, which: Any, values: Any, found: int) -> None:
    """sums[0] = sum of values[k] matrix[m, which[k], begin:], k = 0 .. found, four at a time to spare loads."""
    rows = matrix[m]
    width = sums.shape[1]
    for j in range(width):
        sums[0, j] = ZERO
    k = 0
    while k + 4 <= found:
        row_0, row_1 = rows[which[k]][begin:], rows[which[k + 1]][begin:]
        row_2, row_3 = rows[which[k + 2]][begin:], rows[which[k + 3]][begin:]
        x_0, x_1, x_2, x_3 = values[k], values[k + 1], values[k + 2], values[k + 3]
        for j in range(width):
            sums[0, j] = (((sums[0, j] + x_0 * row_0[j]) + x_1 * row_1[j]) + x_2 * row_2[j]) + x_3 * row_3[j]
        k += 4
    while k < found:
        row_0, x_0 = rows[which[k]][begin:], values[k]
        for j in range(width):
            sums[0, j] += x_0 * row_0[j]
        k += 1
