"""A leaky sum over time as one matrix product: for devices on which a loop over steps costs a launch each."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["filter_product"]


def filter_product(x: Tensor, decay: float) -> Tensor:
    """y[t] = decay y[t-1] + x[t], y = 0 before, as L x with L[t, s] = decay^(t - s) for s <= t; [B, T, N].

    Equal to the loop but for the order of the sum. Any number of derivatives.
    """
    return torch.matmul(_powers(decay, x.shape[1], x.dtype, x.device), x)


@functools.lru_cache(maxsize=16)
def _powers(decay: float, steps: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        t = torch.arange(steps, dtype=torch.float64)
        return (decay ** (t[:, None] - t).clamp(min=0)).tril().to(dtype=dtype, device=device)
