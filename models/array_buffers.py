"""How ``models.array_products`` hands its numbers to the kernels, and the memory that it uses again.

Between two products of one size nothing is allocated but the result: fresh memory costs as much as the noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.models.noise_kernels import BLOCK
from ovonic.models.periphery import Periphery

__all__ = ["Pool", "Workspace", "channels_last", "columns_of", "constants_of", "flat", "scratch"]


class Workspace:
    """Memory for a dense read of ``count`` inputs: voltages, their squares, currents, variances; and normal numbers.

    The tensors share the memory of the arrays of the same name with a trailing underscore.
    """

    def __init__(self, count: int, rows: int, columns: int) -> None:
        self.u_, self.square_ = np.empty(count * rows, np.float32), np.empty(count * rows, np.float32)
        self.y_, self.variance_ = np.empty((count, columns), np.float32), np.empty((count, columns), np.float32)
        self.noise = scratch(count * columns)
        with torch.inference_mode(False):
            self.u, self.square = (torch.from_numpy(a.reshape(count, rows)) for a in (self.u_, self.square_))
            self.y, self.variance = torch.from_numpy(self.y_), torch.from_numpy(self.variance_)


Size = tuple[int, int, int]
"""Inputs, rows, columns."""


class Pool:
    """Workspaces that no product is using, of the size that was given last; threads may share it."""

    def __init__(self) -> None:
        self._spare: dict[Size, list[Workspace]] = {}

    def take(self, size: Size) -> Workspace:
        """A workspace of this size."""
        try:
            return self._spare[size].pop()
        except (KeyError, IndexError):
            return Workspace(*size)

    def give(self, used: Workspace, size: Size) -> None:
        """Keep it for the next product of its size."""
        spare = self._spare.get(size)
        if spare is None:
            spare = []
            self._spare = {size: spare}
        spare.append(used)


def scratch(n: int) -> Any:
    """Room for ``n`` normal numbers."""
    return np.empty(-(-n // BLOCK) * BLOCK, np.float32)


def constants_of(p: Periphery) -> Any:
    """What the kernels need of a periphery, in their order (``models.array_kernels``)."""
    dac_steps, adc_steps = (float(2 ** (bits - 1) - 1) if bits else 0.0 for bits in (p.dac_bits, p.adc_bits))
    dac_step, per_range, adc_step = 1.0 / (dac_steps or 1.0), adc_steps / p.adc_range, p.adc_range / (adc_steps or 1.0)
    return np.array([dac_steps, dac_step, per_range, adc_steps, adc_step, p.out_noise**2], np.float32)


def columns_of(gain: Tensor | None, offset: Tensor | None, scale: Tensor | float | None, like: Tensor) -> Any:
    """Gain, offset and scale, [1 or M, 3, columns], for arrays [..., rows, columns]; None: other shapes."""
    columns, arrays = like.shape[-1], like[..., 0, 0].numel()
    rows = []
    for value, neutral in ((gain, 1.0), (offset, 0.0), (scale, 1.0)):
        row = torch.as_tensor(neutral if value is None else value, dtype=torch.float32)
        if row.requires_grad or row.numel() not in (1, columns, arrays * columns):
            return None
        rows.append(row.cpu().reshape(-1, row.shape[-1] if row.ndim else 1))
    height = max(len(row) for row in rows)
    return np.ascontiguousarray(torch.stack([row.expand(height, columns) for row in rows], 1).numpy())


def channels_last(x: Tensor) -> bool:
    """Whether images [N, C, H, W] lie so in memory."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def flat(x: Tensor) -> Any:
    """All entries, in order; of images that lie channels last in memory, in the order of their memory."""
    if x.is_contiguous():
        return x.numpy().reshape(-1)
    return (x.permute(0, 2, 3, 1) if channels_last(x) else x.contiguous()).numpy().reshape(-1)
