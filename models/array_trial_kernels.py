"""The inner loop of ``models.array_trial``, compiled by Numba: many trials of a recurrent layer on one array.

Arrays are C-contiguous and of one floating dtype; indices are int32, counters int16 and int64. The cells of a sample
that differ from the shared array are written into it before the sample's trial and taken back after it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ovonic.models.engine_kernels import compiled

__all__ = ["trials"]


@compiled
def trials(
    low: int, high: int, x: Any, when: Any, w: Any, load: Any, starts: Any, cells: Any, cell_w: Any, cell_load: Any,
    scale: Any, gain: Any, offset: Any, out_noise: float, lsb: float, top: float, noise_x: Any, noise_z: Any,
    constants: Any, silent: Any, kappa: float, z: Any, v: Any, r: Any, y: Any, counts: Any,
) -> None:  # fmt: skip
    """Run samples low .. high; fills z, v, r [B, T, N], y [B, T, outputs] and counts [B, 2].

    x: inputs, 0 or 1, [B, T, n_in]; when: which read of ``noise_x`` a step with inputs is, [T]. w, load: means and
    variances of the cells, [n_in + N, N + outputs], in units of full scale. starts: of the changed ``cells`` of each
    sample, [B + 1]; cells: row * columns + column, with their cell_w and cell_load. scale: what one unit of full scale
    is worth, [1 or B, 2, columns], of the rows of the inputs and of the others. gain, offset: of the converters,
    [columns]. lsb, top: step of the converter and its last level; 0: ideal. noise_x, noise_z: standard normals,
    [B, reads, K, columns]. constants: [3, N]: decay, threshold, v_init. counts: reads, saturated conversions.
    """
    steps, n_in, n, columns = x.shape[1], x.shape[2], z.shape[2], w.shape[1]
    outputs = columns - n
    decay, threshold, v_init = constants[0], constants[1], constants[2]
    zero, one = w.dtype.type(0), w.dtype.type(1)
    w, load = w.copy(), load.copy()
    flat_w, flat_load = w.reshape(-1), load.reshape(-1)
    which = np.empty(max(n_in, n), np.int32)
    arrived, recurrent = np.empty(columns, w.dtype), np.empty(columns, w.dtype)
    mean, variance = np.empty(columns, w.dtype), np.empty(columns, w.dtype)
    last_v, last_z, last_y = np.empty(n, w.dtype), np.empty(n, w.dtype), np.empty(outputs, w.dtype)
    last_r = np.empty(n, np.int16)
    for s in range(low, high):
        begin, end = starts[s], starts[s + 1]
        kept_w, kept_load = np.empty(end - begin, w.dtype), np.empty(end - begin, w.dtype)
        for k in range(begin, end):
            kept_w[k - begin], kept_load[k - begin] = flat_w[cells[k]], flat_load[cells[k]]
            flat_w[cells[k]], flat_load[cells[k]] = cell_w[k], cell_load[k]
        factor = scale[s if len(scale) > 1 else 0]
        last_v[:] = v_init
        last_z[:] = zero
        last_y[:] = zero
        last_r[:] = 0
        for t in range(steps + 1):
            recurrent[:] = zero
            found = 0
            for i in range(n):
                which[found] = i + n_in
                found += last_z[i] > zero
            if found > 0:
                _read(w, load, which, found, columns, gain, offset, out_noise, lsb, top, noise_z[s, t], mean, variance,
                      recurrent, counts[s])  # fmt: skip
                for j in range(columns):
                    recurrent[j] *= factor[1, j]
            if t > 0:
                for j in range(outputs):
                    last_y[j] = w.dtype.type(kappa) * last_y[j] + recurrent[n + j]
                    y[s, t - 1, j] = last_y[j]
            if t == steps:
                break
            arrived[:] = zero
            found = 0
            for i in range(n_in):
                which[found] = i
                found += x[s, t, i] > zero
            if found > 0:
                _read(w, load, which, found, n, gain, offset, out_noise, lsb, top, noise_x[s, when[t]], mean, variance,
                      arrived, counts[s])  # fmt: skip
                for j in range(n):
                    arrived[j] *= factor[0, j]
            zt, vt, rt = z[s, t], v[s, t], r[s, t]
            for j in range(n):
                last_r[j] = silent[j] if last_z[j] > zero else max(last_r[j] - 1, 0)
                rt[j] = last_r[j]
                u = decay[j] * last_v[j] + (arrived[j] + recurrent[j])
                u -= last_z[j] * threshold[j]
                last_v[j] = u
                vt[j] = u
                last_z[j] = one if u > threshold[j] and last_r[j] == 0 else zero
                zt[j] = last_z[j]
        for k in range(end - begin):
            flat_w[cells[begin + k]], flat_load[cells[begin + k]] = kept_w[k], kept_load[k]


@compiled
def _read(
    w: Any, load: Any, which: Any, found: int, columns: int, gain: Any, offset: Any, out_noise: float, lsb: float,
    top: float, noise: Any, mean: Any, variance: Any, out: Any, counts: Any,
) -> None:  # fmt: skip
    """The mean of K conversions of ``columns`` columns while ``found`` wordlines are on: into ``out``."""
    zero = w.dtype.type(0)
    mean[:columns] = zero
    variance[:columns] = w.dtype.type(out_noise * out_noise)
    for k in range(found):
        row, row_load = w[which[k]], load[which[k]]
        for j in range(columns):
            mean[j] += row[j]
            variance[j] += row_load[j]
    for j in range(columns):
        mean[j] = gain[j] * mean[j] + offset[j]
        variance[j] = gain[j] * math.sqrt(variance[j])
    step, last = w.dtype.type(lsb), w.dtype.type(top)
    reads = len(noise)
    clipped = 0
    out[:columns] = zero
    for k in range(reads):
        draw = noise[k]
        if lsb > 0:
            for j in range(columns):
                level = np.rint((mean[j] + variance[j] * draw[j]) / step)
                clipped += (level > last) + (level < -last)
                out[j] += step * min(max(level, -last), last)
        else:
            for j in range(columns):
                out[j] += mean[j] + variance[j] * draw[j]
    if reads > 1:
        for j in range(columns):
            out[j] /= w.dtype.type(reads)
    counts[0] += reads
    counts[1] += clipped
