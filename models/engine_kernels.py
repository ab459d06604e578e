"""The inner loops of ``models.engine``, compiled by Numba (Lam, Pitrou and Seibert 2015).

All arrays are C-contiguous and of one floating dtype; counters are int16. Weights are [1, in, out], shared by all
samples, or [B, in, out]. What a layer does not have is an array of length 0. Each function works on a range of samples
(or of rows, or of columns), so that threads can share the work without sharing results. Floating-point operations keep
the order in which they are written, but for ``_dot``, which only gradients use.
"""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["back_samples", "back_step", "filter_forward", "forward", "rows_outer", "rows_product", "triangle"]

compiled: Any = njit(nogil=True, cache=True, error_model="numpy")
reordered: Any = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})


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
    for s in range(low, high):
        arrived = x[s, 0].copy()
        last_v, last_z, last_b = v_init.copy(), x[s, 0].copy(), x[s, 0].copy()
        last_z[:] = zero
        last_b[:] = zero
        last_r = silent.copy()
        last_r[:] = 0
        for t in range(steps):
            if recurrent and t >= delay:
                ws = w[s if len(w) > 1 else 0]
                arrived[:] = zero
                for i in range(n):
                    if z[s, t - delay, i] != zero:
                        row = ws[i]
                        for j in range(n):
                            arrived[j] += row[j]
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
def triangle(first: int, height: float, v: Any, r: Any, b: Any, constants: Any, slope: Any) -> None:
    """``surrogates.Triangular`` for the steps first .. first + slope.shape[1] of all samples; zero while refractory."""
    threshold, beta = constants[1], constants[3]
    zero, one = slope.dtype.type(0), slope.dtype.type(1)
    height = slope.dtype.type(height)
    for s in range(slope.shape[0]):
        for k in range(slope.shape[1]):
            t = first + k
            row, vt = slope[s, k], v[s, t]
            for j in range(slope.shape[2]):
                level = threshold[j]
                if len(b) > 0:
                    level += beta[j] * b[s, t, j]
                row[j] = height * max(one - abs((vt[j] - level) / threshold[j]), zero) / threshold[j]
            if len(r) > 0:
                rt = r[s, t]
                for j in range(slope.shape[2]):
                    row[j] = zero if rt[j] > 0 else row[j]


@compiled
def back_step(
    t: int, slope: Any, fed: Any, gz: Any, gv: Any, gb: Any, z: Any, b: Any, constants: Any, reset: int, fresh: bool,
    paths: Any, carried_v: Any, carried_b: Any, out: Any,
) -> None:  # fmt: skip
    """Step t of the adjoint for all samples: dE/dI[t] into out[:, t].

    slope: dz/dv of the step, [B, N]; fed: what comes back through the recurrent weights, [B, N] or empty.
    carried_v, carried_b: dE/dv and dE/db of step t + 1, [B, N]; replaced by those of t. paths: reset, adaptation and
    threshold, three booleans.
    """
    for s in range(len(slope)):
        fed_s = fed[s] if len(fed) > 0 else fed[0:0].ravel()
        _back(t, s, slope[s], fed_s, gz, gv, gb, z, b, constants, reset, fresh, paths, carried_v[s], carried_b[s], out)


@compiled
def back_samples(
    low: int, high: int, slope: Any, w: Any, delay: int, through: bool, gz: Any, gv: Any, gb: Any, z: Any, b: Any,
    constants: Any, reset: int, fresh: bool, paths: Any, out: Any, dw: Any,
) -> None:  # fmt: skip
    """The adjoint of samples low .. high with weights of their own, [B, N, N]: out and, unless empty, dw.

    slope: [B, T, N]; through: whether the recurrent path carries gradient. Only neurons of non-zero slope need what
    comes back through the weights.
    """
    steps, n = slope.shape[1], slope.shape[2]
    zero = slope.dtype.type(0)
    fed = slope[0, 0].copy()
    for s in range(low, high):
        carried_v, carried_b = slope[s, 0].copy(), slope[s, 0].copy()
        carried_v[:] = zero
        carried_b[:] = zero
        ws = w[s]
        for t in range(steps - 1, -1, -1):
            fed[:] = zero
            if t + delay < steps:
                later = out[s, t + delay]
                for i in range(n):
                    if through and slope[s, t, i] != zero:
                        fed[i] = _dot(ws[i], later)
                    if len(dw) > 0 and z[s, t, i] != zero:
                        scale, row = z[s, t, i], dw[s, i]
                        for j in range(n):
                            row[j] += scale * later[j]
            _back(t, s, slope[s, t], fed, gz, gv, gb, z, b, constants, reset, fresh, paths, carried_v, carried_b, out)


@compiled
def _back(
    t: int, s: int, slope: Any, fed: Any, gz: Any, gv: Any, gb: Any, z: Any, b: Any, constants: Any, reset: int,
    fresh: bool, paths: Any, carried_v: Any, carried_b: Any, out: Any,
) -> None:  # fmt: skip
    decay, threshold, beta, decay_b = constants[0], constants[1], constants[3], constants[4]
    adapts = len(b) > 0
    by_reset, by_adaptation, by_threshold = paths[0], paths[1], paths[2]
    zero, one = slope.dtype.type(0), slope.dtype.type(1)
    n, last = len(slope), t + 1 == z.shape[1]
    out_t = out[s, t]
    for j in range(n):
        g = fed[j] if len(fed) > 0 else zero
        if len(gz) > 0:
            g += gz[s, t, j]
        if by_reset and reset > 0 and not last:
            due = threshold[j]
            if reset == 2 and adapts:
                due += beta[j] * b[s, t + 1, j]
            g -= due * carried_v[j]
        if adapts and by_adaptation:
            g += (decay_b[j] if fresh else one) * carried_b[j]
        felt = g * slope[j]
        now = decay[j] * carried_v[j] + felt
        if len(gv) > 0:
            now += gv[s, t, j]
        if adapts:
            level = zero
            if by_threshold:
                level -= felt
            if by_reset and reset == 2 and t > 0:
                level -= z[s, t - 1, j] * now
            gb_now = decay_b[j] * carried_b[j] + beta[j] * level
            if len(gb) > 0:
                gb_now += gb[s, t, j]
            carried_b[j] = gb_now
        carried_v[j] = now
        out_t[j] = now


@reordered
def _dot(a: Any, b: Any) -> Any:
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled
def rows_product(low: int, high: int, x: Any, w: Any, y: Any) -> None:
    """y = x w for rows low .. high of x [M, in] with few non-zero entries; y [M, out] is zero before."""
    zero = x.dtype.type(0)
    for m in range(low, high):
        row = y[m]
        for i in range(x.shape[1]):
            if x[m, i] != zero:
                scale, source = x[m, i], w[i]
                for j in range(len(row)):
                    row[j] += scale * source[j]


@compiled
def rows_outer(low: int, high: int, x: Any, g: Any, late: int, steps: int, dw: Any) -> None:
    """dw[:, low:high] += sum_m x[m]^T g[m + late]: rows are steps of samples, and late ones stay in their sample.

    x: [M, in], few entries not zero; g: [M, out]; steps: rows a sample.
    """
    zero = x.dtype.type(0)
    for m in range(len(x)):
        if m % steps + late < steps:
            source = g[m + late]
            for i in range(x.shape[1]):
                if x[m, i] != zero:
                    scale, row = x[m, i], dw[i]
                    for j in range(low, high):
                        row[j] += scale * source[j]


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
