"""The inner loops of ``models.engine`` on a GPU, written in Triton (Tillet, Kung and Cox 2019).

One program a sample runs all steps, so that nothing is launched or synchronised between them. What is sparse is used as
on the CPU (``models.engine_kernels``, which has the same functions for arrays): a step lists the neurons that spiked,
and sums their rows of the matrix; backward it lists those whose slope is not zero, and only they take the product with
their row. Products and sums are not contracted, so that only the order of the recurrent sum differs from the CPU's.

Matrices are [1, N, N], shared by all samples, or [B, N, N]; what a layer does not have is an empty tensor.
"""

# ruff: noqa: SIM102  (the outer condition is decided when the kernel is compiled, the inner one when it runs)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["LARGEST", "backward", "forward"]

LARGEST = 4096
"""Neurons of a layer, at most: a program holds the state of all of them."""


def forward(
    x: Tensor, w: Tensor, delay: int, numbers: Tensor, silent: Tensor, reset: int, inclusive: bool, fresh: bool,
    z: Tensor, v: Tensor, r: Tensor, b: Tensor,
) -> None:  # fmt: skip
    """Run all samples: I = x + z[t - delay] W; fills z, v, r, b, [B, T, N].

    numbers: [5, N]: decay, threshold, v_init, beta, decay of b; silent: [N] int16. reset: 0 none, 1 the threshold, 2
    the adapted one.
    """
    batch, steps, n = x.shape
    which = torch.empty(batch, n, dtype=torch.int32, device=x.device)
    _forward[(batch,)](
        x, w, numbers, silent, z, v, r, b, which, steps, n, n * n if len(w) > 1 else 0,
        DELAY=delay, RECURRENT=len(w) > 0, REFRACTORY=len(r) > 0, ADAPTS=len(b) > 0, RESET=reset, INCLUSIVE=inclusive,
        FRESH=fresh, ROWS=8, BLOCK=triton.next_power_of_2(n), **_launch(n),
    )  # fmt: skip


def backward(
    slope: Tensor, w: Tensor, delay: int, gz: Tensor, gv: Tensor, gb: Tensor, z: Tensor, b: Tensor, numbers: Tensor,
    reset: int, fresh: bool, paths: tuple[bool, bool, bool], out: Tensor,
) -> None:  # fmt: skip
    """The adjoint of all samples: dE/dI into out, [B, T, N].

    slope: dz/dv, zero while refractory; gz, gv, gb: dE/dz, dE/dv, dE/db from outside; all [B, T, N]. w: empty where the
    recurrent path carries no gradient. paths: reset, adaptation and threshold.
    """
    batch, steps, n = z.shape
    which = torch.empty(batch, n, dtype=torch.int32, device=z.device)
    _backward[(batch,)](
        slope, w, gz, gv, gb, z, b, numbers, out, which, torch.empty(batch, n, dtype=z.dtype, device=z.device), steps,
        n, n * n if len(w) > 1 else 0,
        DELAY=delay, RECURRENT=len(w) > 0, GZ=len(gz) > 0, GV=len(gv) > 0, GB=len(gb) > 0, ADAPTS=len(b) > 0,
        RESET=reset, FRESH=fresh, BY_RESET=paths[0], BY_ADAPTATION=paths[1], BY_THRESHOLD=paths[2], ROWS=16,
        BLOCK=triton.next_power_of_2(n), **_launch(n),
    )  # fmt: skip


def _launch(n: int) -> dict[str, Any]:
    return {"num_warps": min(max(triton.next_power_of_2(n) // 128, 1), 16), "enable_fp_fusion": False}


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    x, w, numbers, silent, z, v, r, b, which, steps, n, own,
    DELAY: tl.constexpr, RECURRENT: tl.constexpr, REFRACTORY: tl.constexpr, ADAPTS: tl.constexpr, RESET: tl.constexpr,
    INCLUSIVE: tl.constexpr, FRESH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    s = tl.program_id(0).to(tl.int64)
    columns, rows = tl.arange(0, BLOCK), tl.arange(0, ROWS)
    real = columns < n
    decay = tl.load(numbers + columns, real, 0.0)
    threshold = tl.load(numbers + n + columns, real, 1.0)
    last_v = tl.load(numbers + 2 * n + columns, real, 0.0)
    beta = tl.load(numbers + 3 * n + columns, real, 0.0)
    decay_b = tl.load(numbers + 4 * n + columns, real, 0.0)
    silence = tl.load(silent + columns, real, 0).to(tl.int32)
    last_z, last_b, last_r = last_v * 0, last_v * 0, silence * 0
    w += s * own
    which += s * n
    for t in range(steps):
        at = (s * steps + t) * n + columns
        arrived = tl.load(x + at, real, 0.0)
        if RECURRENT:
            if t >= DELAY:
                fired = (last_z if DELAY == 1 else tl.load(z + at - DELAY * n, real, 0.0)) > 0
                order = tl.cumsum(fired.to(tl.int32), 0)
                found = tl.sum(fired.to(tl.int32), 0)
                tl.store(which + order - 1, columns, fired)
                tl.debug_barrier()
                total = arrived * 0
                for k in range(0, found, ROWS):
                    some = k + rows < found
                    row = tl.load(which + k + rows, some, 0)
                    part = tl.load(w + row[:, None] * n + columns[None, :], some[:, None] & real[None, :], 0.0)
                    total += tl.sum(part, 0)
                arrived += total
        if ADAPTS:
            last_b = decay_b * (last_b + last_z) if FRESH else decay_b * last_b + last_z
            tl.store(b + at, last_b, real)
        if REFRACTORY:
            last_r = tl.where(last_z > 0, silence, tl.maximum(last_r - 1, 0))
            tl.store(r + at, last_r.to(tl.int16), real)
        level = threshold + beta * last_b
        u = decay * last_v + arrived
        if RESET == 1:
            u -= last_z * threshold
        elif RESET == 2:
            u -= last_z * level
        last_v = u
        fires = ((u >= level) if INCLUSIVE else (u > level)) & (last_r == 0) & real
        last_z = fires.to(u.dtype)
        tl.store(v + at, u, real)
        tl.store(z + at, last_z, real)
        tl.debug_barrier()


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    slope, w, gz, gv, gb, z, b, numbers, out, which, back, steps, n, own,
    DELAY: tl.constexpr, RECURRENT: tl.constexpr, GZ: tl.constexpr, GV: tl.constexpr, GB: tl.constexpr,
    ADAPTS: tl.constexpr, RESET: tl.constexpr, FRESH: tl.constexpr, BY_RESET: tl.constexpr,
    BY_ADAPTATION: tl.constexpr, BY_THRESHOLD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    s = tl.program_id(0).to(tl.int64)
    columns, rows = tl.arange(0, BLOCK), tl.arange(0, ROWS)
    real = columns < n
    decay = tl.load(numbers + columns, real, 0.0)
    threshold = tl.load(numbers + n + columns, real, 1.0)
    beta = tl.load(numbers + 3 * n + columns, real, 0.0)
    decay_b = tl.load(numbers + 4 * n + columns, real, 0.0)
    carried_v, carried_b = decay * 0, decay * 0
    w += s * own
    which += s * n
    back += s * n
    for i in range(steps):
        t = steps - 1 - i
        at = (s * steps + t) * n + columns
        psi = tl.load(slope + at, real, 0.0)
        g = psi * 0
        if RECURRENT:
            if i >= DELAY:
                later = tl.load(out + at + DELAY * n, real, 0.0)
                felt = psi != 0
                order = tl.cumsum(felt.to(tl.int32), 0)
                found = tl.sum(felt.to(tl.int32), 0)
                tl.store(which + order - 1, columns, felt)
                tl.debug_barrier()
                for k in range(0, found, ROWS):
                    some = k + rows < found
                    row = tl.load(which + k + rows, some, 0)
                    part = tl.load(w + row[:, None] * n + columns[None, :], some[:, None] & real[None, :], 0.0)
                    tl.store(back + row, tl.sum(part * later[None, :], 1), some)
                tl.debug_barrier()
                g = tl.load(back + columns, felt, 0.0)
        if GZ:
            g += tl.load(gz + at, real, 0.0)
        if BY_RESET and RESET == 2 and ADAPTS:
            if i > 0:
                g -= (threshold + beta * tl.load(b + at + n, real, 0.0)) * carried_v
        elif BY_RESET and RESET > 0:
            g -= threshold * carried_v
        if ADAPTS and BY_ADAPTATION:
            g += decay_b * carried_b if FRESH else carried_b
        g *= psi
        carried_v = decay * carried_v + g
        if GV:
            carried_v += tl.load(gv + at, real, 0.0)
        if ADAPTS:
            carried_b *= decay_b
            if BY_THRESHOLD:
                carried_b -= beta * g
            if BY_RESET and RESET == 2:
                if t > 0:
                    carried_b -= beta * (tl.load(z + at - n, real, 0.0) * carried_v)
            if GB:
                carried_b += tl.load(gb + at, real, 0.0)
        tl.store(out + at, carried_v, real)
        tl.debug_barrier()
