"""A convolution on crossbar arrays: one product an output position, each pixel converted once.

    y[n, :, p] = sum over blocks b  ADC_b( sum over rows of b  DAC(x[n, .] / x_range) w_b )  x_range w_max

A kernel [out, in, k, k] is unrolled to rows (channel, i, j), as ``torch.nn.functional.unfold`` orders them, and a
matrix too tall is split into blocks of rows whose products are added digitally, each after its own ADC. Where every
block holds the same number of whole channels, all currents come from one grouped convolution of the voltages and their
variances from another of the squares, and no pixel is copied nine times; otherwise the images are unfolded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovonic.models.array_products import ArrayReader, ProductModel
from ovonic.models.periphery import Periphery

__all__ = ["ArrayConvolution", "RowBlock"]


class RowBlock(NamedTuple):
    """Some rows of a kernel on an array: conductances [4, rows, out] in uS; of its columns gain and offset of the
    converters and the digital factor behind them, [out]."""

    g_read: Tensor
    column_gain: Tensor | None = None
    column_offset: Tensor | None = None
    scale: Tensor | None = None


class ArrayConvolution(nn.Module):
    """A square convolution without bias, without dilation and groups, on blocks of rows as they read now.

    Attributes:
        readers: one of all blocks where these hold whole channels, [blocks, 4, rows, out], else one a block.
        generator: of the read noise of the products to come.
    """

    def __init__(
        self,
        blocks: Sequence[RowBlock],
        model: ProductModel,
        periphery: Periphery,
        *,
        kernel_size: int,
        stride: int,
        padding: int,
        input_range: float,
        w_max: Tensor | float,
        inputs: str = "signed",
        reads: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        """Prepare the blocks, in the order of their rows.

        Args: input_range: full scale of the DAC in the units of the images; w_max: weight of a device pair at full
            scale, one number or [out]; inputs: one of ``models.periphery.INPUTS``; reads: products that are averaged.
        """
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.input_range, self.inputs, self.reads, self.generator = input_range, inputs, reads, generator
        self.scale = torch.as_tensor(w_max, dtype=torch.float32) * (input_range / reads)
        self.heights = [block.g_read.shape[-2] for block in blocks]
        self.grouped = len(set(self.heights)) == 1 and self.heights[0] % kernel_size**2 == 0
        if self.grouped:
            blocks = [RowBlock(*(_stacked([block[i] for block in blocks], 1 if i else 0) for i in range(4)))]  # type: ignore[arg-type]
        self.readers = [ArrayReader.of(block[0], model, periphery, *block[1:]) for block in blocks]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, out, H', W'] (channels last in memory)."""
        x = x / self.input_range
        total = torch.zeros(())
        if self.grouped:
            x = x.contiguous(memory_format=torch.channels_last)
            for _ in range(self.reads):
                y = self.readers[0].product(x, self.generator, self.inputs, self._convolve)
                total = total + (y.sum(0) if len(y) > 1 else y[0])
        else:
            rows = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)
            rows = rows.transpose(1, 2).flatten(0, 1)
            for reader, u in zip(self.readers, rows.split(self.heights, dim=1), strict=True):
                for _ in range(self.reads):
                    total = total + reader.product(u, self.generator, self.inputs)
        height, width = ((side + 2 * self.padding - self.kernel_size) // self.stride + 1 for side in x.shape[2:])
        return (total * self.scale).view(len(x), height, width, -1).permute(0, 3, 1, 2)

    def _convolve(self, u: Tensor, w: Tensor) -> Tensor:
        """Images [N, channels, H, W] times blocks [blocks, rows, out] -> [blocks, N H' W', out]."""
        blocks, _, out = w.shape
        kernel = w.transpose(1, 2).reshape(blocks * out, -1, self.kernel_size, self.kernel_size)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        y = F.conv2d(u, kernel, stride=self.stride, padding=self.padding, groups=blocks)
        return y.permute(0, 2, 3, 1).reshape(-1, blocks, out).transpose(0, 1)


def _stacked(values: Sequence[Tensor | None], before: int) -> Tensor | None:
    """Values of the blocks in one tensor, ``before`` more dimensions between blocks and values; None: none has any."""
    if values[0] is None:
        return None
    stacked = torch.stack([value for value in values if value is not None])
    return stacked.reshape(len(values), *[1] * before, *stacked.shape[1:])
