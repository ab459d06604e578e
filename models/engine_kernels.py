"""The inner loops of ``models.engine``, compiled by Numba (Lam, Pitrou and Seibert 2015).

All arrays are C-contiguous and of one floating dtype; counters are int16. Weights are [1, in, out], shared by all
samples, or [B, in, out]. What a layer does not have is an array of length 0. Each function works on a range of samples
(or of rows), so that threads can share the work without sharing results. Floating-point operations keep the order in
which they are written, but for ``_dot``, which only gradients use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["backward", "filter_forward", "forward", "rows_outer", "rows_outer_own", "rows_product"]

compiled: Any = njit(nogil=True, cache=True, error_model="numpy")
reordered: Any = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})

CACHE = 200_000
"""Entries of g that stay in the cache while ``rows_outer`` adds up its rows."""


@compiled
def forward(
    low: int, high: int, x: Any, w: Any, delay: int, constants: Any, silent: Any, reset: int, inclusive: bool,
    fresh: bool, z: Any, v: Any, r: Any, b: Any,
) -> None:  # fmt: skip
    """Run samples low .. high: I = x + z[t - delay] W; fills z, v, r, b, [B, T, N].

    constants: [5, N]: decay, threshold, v_init, beta, decay of b. reset: 0 none, 1 the threshold, 2 the adapted one.
    """
    steps, n = x.shape[1], x.shape[2]
    decay, threshold, v_init, beta, decay_b = constants[0], constants[1], constants[2], constants[3], constants[4]
    recurrent, refractory, adapts = len(w) > 0, len(r) > 0, len(b) > 0
    zero = x.dtype.type(0)
    one = x.dtype.type(1)
    which, values = np.empty(n, np.int32), np.empty(n, x.dtype)
    for s in range(low, high):
        arrived = x[s, 0].copy()
        last_v, last_z, last_b = v_init.copy(), x[s, 0].copy(), x[s, 0].copy()
        last_z[:] = zero
        last_b[:] = zero
        last_r = silent.copy()
        last_r[:] = 0
        for t in range(steps):
            if recurrent and t >= delay:
                found = _nonzero(z[s, t - delay], which, values)
                arrived[:] = zero
                _add_rows(arrived, w[s if len(w) > 1 else 0], which, values, 0, found)
                for j in range(n):
                    arrived[j] = x[s, t, j] + arrived[j]
            else:
                arrived[:] = x[s, t]
            zt, vt = z[s, t], v[s, t]
            if adapts:
                bt = b[s, t]
                for j in range(n):
                    last_b[j] = decay_b[j] * (last_b[j] + last_z[j]) if fresh else decay_b[j] * last_b[j] + last_z[j]
                    bt[j] = last_b[j]
            if refractory:
                rt = r[s, t]
                for j in range(n):
                    last_r[j] = silent[j] if last_z[j] > zero else max(last_r[j] - 1, 0)
                    rt[j] = last_r[j]
            for j in range(n):
                level = threshold[j] + beta[j] * last_b[j]
                u = decay[j] * last_v[j] + arrived[j]
                if reset == 1:
                    u -= last_z[j] * threshold[j]
                elif reset == 2:
                    u -= last_z[j] * level
                last_v[j] = u
                vt[j] = u
                fires = (u >= level) if inclusive else (u > level)
                last_z[j] = one if fires and last_r[j] == 0 else zero
            zt[:] = last_z


@compiled
def backward(
    low: int, high: int, slope: Any, height: float, w: Any, delay: int, gz: Any, gv: Any, gb: Any, z: Any, v: Any,
    r: Any, b: Any, constants: Any, reset: int, fresh: bool, paths: Any, out: Any,
) -> None:  # fmt: skip
    """The adjoint of samples low .. high: dE/dI into out, [B, T, N].

    gz, gv, gb: dE/dz, dE/dv, dE/db from outside. slope: dz/dv, [B, T, N]; empty: ``surrogates.Triangular`` of
    ``height``. w: empty where the recurrent path carries no gradient; only neurons of non-zero slope need what comes
    back through it. paths: reset, adaptation and threshold, three booleans.
    """
    steps, n = z.shape[1], z.shape[2]
    zero = z.dtype.type(0)
    psi, g, carried_v, carried_b = (
        np.empty(n, z.dtype),
        np.empty(n, z.dtype),
        np.empty(n, z.dtype),
        np.empty(n, z.dtype),
    )
    for s in range(low, high):
        carried_v[:] = zero
        carried_b[:] = zero
        for t in range(steps - 1, -1, -1):
            if len(slope) > 0:
                psi[:] = slope[s, t]
            else:
                _triangle(s, t, height, v, r, b, constants, psi)
            g[:] = zero
            if len(w) > 0 and t + delay < steps:
                ws, later = w[s if len(w) > 1 else 0], out[s, t + delay]
                for i in range(n):
                    if psi[i] != zero:
                        g[i] = _dot(ws[i], later)
            _back(t, s, psi, g, gz, gv, gb, z, b, constants, reset, fresh, paths, carried_v, carried_b, out[s, t])


@compiled
def _triangle(s: int, t: int, height: float, v: Any, r: Any, b: Any, constants: Any, slope: Any) -> None:
    """``surrogates.Triangular`` at step t of sample s, zero while refractory, [N]."""
    threshold, beta = constants[1], constants[3]
    zero, one = slope.dtype.type(0), slope.dtype.type(1)
    height = slope.dtype.type(height)
    vt = v[s, t]
    if len(b) > 0:
        bt = b[s, t]
        for j in range(len(slope)):
            level = threshold[j] + beta[j] * bt[j]
            slope[j] = height * max(one - abs((vt[j] - level) / threshold[j]), zero) / threshold[j]
    else:
        for j in range(len(slope)):
            slope[j] = height * max(one - abs((vt[j] - threshold[j]) / threshold[j]), zero) / threshold[j]
    if len(r) > 0:
        rt = r[s, t]
        for j in range(len(slope)):
            slope[j] = zero if rt[j] > 0 else slope[j]


@compiled
def _back(
    t: int, s: int, slope: Any, g: Any, gz: Any, gv: Any, gb: Any, z: Any, b: Any, constants: Any, reset: int,
    fresh: bool, paths: Any, carried_v: Any, carried_b: Any, out: Any,
) -> None:  # fmt: skip
    """Step t of sample s: dE/dI[t] into out, [N].

    g: what comes back through the weights; becomes dE/dz. carried_v, carried_b: dE/dv and dE/db of step t + 1, [N];
    replaced by those of t. paths: reset, adaptation and threshold.
    """
    decay, threshold, beta, decay_b = constants[0], constants[1], constants[3], constants[4]
    adapts = len(b) > 0
    by_reset, by_adaptation, by_threshold = paths[0] and reset > 0, paths[1], paths[2]
    n = len(g)
    if len(gz) > 0:
        row = gz[s, t]
        for j in range(n):
            g[j] += row[j]
    if by_reset and t + 1 < z.shape[1]:
        if reset == 2 and adapts:
            later = b[s, t + 1]
            for j in range(n):
                g[j] -= (threshold[j] + beta[j] * later[j]) * carried_v[j]
        else:
            for j in range(n):
                g[j] -= threshold[j] * carried_v[j]
    if adapts and by_adaptation:
        if fresh:
            for j in range(n):
                g[j] += decay_b[j] * carried_b[j]
        else:
            for j in range(n):
                g[j] += carried_b[j]
    for j in range(n):
        g[j] *= slope[j]
        carried_v[j] = decay[j] * carried_v[j] + g[j]
    if len(gv) > 0:
        row = gv[s, t]
        for j in range(n):
            carried_v[j] += row[j]
    if adapts:
        for j in range(n):
            carried_b[j] *= decay_b[j]
        if by_threshold:
            for j in range(n):
                carried_b[j] -= beta[j] * g[j]
        if by_reset and reset == 2 and t > 0:
            before = z[s, t - 1]
            for j in range(n):
                carried_b[j] -= beta[j] * (before[j] * carried_v[j])
        if len(gb) > 0:
            row = gb[s, t]
            for j in range(n):
                carried_b[j] += row[j]
    out[:] = carried_v


@reordered
def _dot(a: Any, b: Any) -> Any:
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled
def rows_product(low: int, high: int, x: Any, w: Any, y: Any) -> None:
    """y = x w for rows low .. high of x [M, in] with few non-zero entries; fills y [M, out]."""
    which, values = np.empty(x.shape[1], np.int32), np.empty(x.shape[1], x.dtype)
    for m in range(low, high):
        y[m] = x.dtype.type(0)
        _add_rows(y[m], w, which, values, 0, _nonzero(x[m], which, values))


@compiled
def rows_outer(low: int, high: int, x: Any, g: Any, late: int, steps: int, dw: Any) -> None:
    """dw[low:high] += sum_m x[m, low:high]^T g[m + late]: rows are steps of samples, late ones stay in their sample.

    x: [M, in], few entries not zero; g: [M, out]; steps: rows a sample. In each part of g that fits in the cache, the
    non-zero entries of x are sorted by their columns, so that each row of dw is fetched once.
    """
    n, part = high - low, min(max(CACHE // g.shape[1], 1), len(x))
    which, values = np.empty(n, np.int32), np.empty(n, x.dtype)
    columns, arrivals, rows = np.empty(part * n, np.int32), np.empty(part * n, np.int32), np.empty(part * n, np.int32)
    scales, ordered = np.empty(part * n, x.dtype), np.empty(part * n, x.dtype)
    starts = np.empty(n + 2, np.int64)
    for begin in range(0, len(x), part):
        count = 0
        starts[:] = 0
        for m in range(begin, min(begin + part, len(x))):
            if m % steps + late < steps:
                for k in range(_nonzero(x[m, low:high], which, values)):
                    columns[count], arrivals[count], scales[count] = which[k], m + late, values[k]
                    starts[which[k] + 2] += 1
                    count += 1
        for i in range(n):
            starts[i + 2] += starts[i + 1]
        for p in range(count):
            place = starts[columns[p] + 1]
            rows[place], ordered[place] = arrivals[p], scales[p]
            starts[columns[p] + 1] += 1
        for i in range(n):
            _add_rows(dw[low + i], g, rows, ordered, starts[i], starts[i + 1])


@compiled
def rows_outer_own(low: int, high: int, x: Any, g: Any, late: int, dw: Any) -> None:
    """dw[s] += sum_t x[s, t]^T g[s, t + late] for samples low .. high, [B, in, out]."""
    for s in range(low, high):
        rows_outer(0, x.shape[2], x[s], g[s], late, x.shape[1], dw[s])


@compiled
def _nonzero(x: Any, which: Any, values: Any) -> int:
    """The entries of x that are not zero, in order, and where they are; how many."""
    found = 0
    for i in range(len(x)):
        which[found], values[found] = i, x[i]
        found += x[i] != 0
    return found


@compiled
def _add_rows(total: Any, rows: Any, which: Any, values: Any, begin: int, end: int) -> None:
    """total += values[k] rows[which[k]], k = begin .. end, in this order, four at a time to spare total's loads."""
    n = len(total)
    k = begin
    while k + 4 <= end:
        row_0, row_1, row_2, row_3 = rows[which[k]], rows[which[k + 1]], rows[which[k + 2]], rows[which[k + 3]]
        x_0, x_1, x_2, x_3 = values[k], values[k + 1], values[k + 2], values[k + 3]
        for j in range(n):
            total[j] = (((total[j] + x_0 * row_0[j]) + x_1 * row_1[j]) + x_2 * row_2[j]) + x_3 * row_3[j]
        k += 4
    while k < end:
        row_0, x_0 = rows[which[k]], values[k]
        for j in range(n):
            total[j] += x_0 * row_0[j]
        k += 1


@compiled
def filter_forward(low: int, high: int, x: Any, decay: float, backward: bool, y: Any) -> None:
    """y[t] = decay y[t-1] + x[t] for samples low .. high, [B, T, N]; backward in time: y[t] = decay y[t+1] + x[t]."""
    steps, n = x.shape[1], x.shape[2]
    decay = x.dtype.type(decay)
    for s in range(low, high):
        for k in range(steps):
            t = steps - 1 - k if backward else k
            if k == 0:
                y[s, t] = x[s, t]
            else:
                before = y[s, t + 1] if backward else y[s, t - 1]
                now, xt = y[s, t], x[s, t]
                for j in range(n):
                    now[j] = decay * before[j] + xt[j]
