"""Features of images that share statistics, in one pass with its first derivative written out: the cost of training.

The same function as ``FewshotCNN.features`` by plain operations. A norm costs what it moves through memory, so the rows
[images * side * side, channels] of a block are overwritten in place, x -> r = relu(x) -> y = (r - mean) s, with
s = (var + eps)^-1/2, first the n rows that make the statistics, while they are in cache. Backward, with g = dL/dy and
sums over all rows that used the statistics,

    dL/dr = s g,  less  (s / n) (sum g + y sum g y)  on the n rows

and below the last block sum g y needs no pass over the rows: a convolution is linear, so it is sum_(out, taps) k dL/dk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["embed"]


def embed(images: Tensor, n_statistics: int, kernels: Sequence[Tensor], eps: float) -> Tensor:
    """Features of images that share statistics.

    Args:
        images: [N, 1, 28, 28], no gradient; the first ``n_statistics`` of them make mean and variance.
        kernels: [channels_out, channels_in, 3, 3] each, channels-last in memory for speed.
        eps: added to the variance.
    Returns: [N, channels]; differentiable once, to the kernels.
    """
    return _Embed.apply(images, n_statistics, eps, *kernels)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, n_statistics: int, eps: float, *kernels: Tensor) -> Tensor:
        patches = _patches(images)
        side = images.shape[-1]
        ys: list[Tensor] = []
        scales, silent = [], []
        for kernel in kernels:
            if ys:
                y = _rows(F.conv2d(_maps(ys[-1], side), kernel, stride=2, padding=1))
            else:
                y = patches.T @ kernel.flatten(1).T
            side = (side + 1) // 2
            n = n_statistics * side * side
            known, rest = y[:n], y[n:]
            mean = known.relu_().mean(dim=0)
            scale = torch.rsqrt(known.sub_(mean).square().mean(dim=0) + eps)
            known.mul_(scale)
            rest.relu_().sub_(mean).mul_(scale)
            ys.append(y)
            scales.append(scale)
            silent.append(-mean * scale)  # what the norm made of a zero
        ctx.save_for_backward(patches, *kernels, *ys, *scales, *silent)
        ctx.n_statistics, ctx.side = n_statistics, images.shape[-1]
        return ys[-1].view(len(images), side * side, -1).amax(dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        patches, *saved = ctx.saved_tensors
        blocks = len(saved) // 4
        kernels, ys, scales, silent = (saved[i * blocks : (i + 1) * blocks] for i in range(4))
        sides = [ctx.side]
        for _ in kernels:
            sides.append((sides[-1] + 1) // 2)
        last = ys[-1].view(len(g), -1, g.shape[1])
        largest = last == last.amax(dim=1, keepdim=True)  # ties share the gradient, as in torch.amax
        d_y = (largest * (g / largest.sum(dim=1))[:, None]).flatten(0, 1)
        sum_gy = (d_y * ys[-1]).sum(dim=0)
        gradients: list[Tensor] = []
        for block in reversed(range(blocks)):
            y, scale, side = ys[block], scales[block], sides[block + 1]
            n = ctx.n_statistics * side * side
            share = scale / -n
            sum_g = d_y.sum(dim=0)
            known, rest = d_y[:n].mul_(scale), d_y[n:].mul_(scale)
            known.addcmul_(y[:n], share * sum_gy).add_(share * sum_g)
            for d_r, of in ((known, y[:n]), (rest, y[n:])):
                torch.ops.aten.threshold_backward.grad_input(d_r, of - silent[block], 0, grad_input=d_r)
            if block == 0:
                gradients.append((patches @ d_y).T.reshape(kernels[0].shape))
                break
            d_below, d_kernel, _ = torch.ops.aten.convolution_backward(
                _maps(d_y, side), _maps(ys[block - 1], sides[block]), kernels[block], None,
                [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False],
            )  # fmt: skip
            gradients.append(d_kernel)
            sum_gy = (d_kernel * kernels[block]).sum(dim=(0, 2, 3))
            d_y = _rows(d_below)
        return None, None, None, *reversed(gradients)


def _patches(images: Tensor) -> Tensor:
    """The pixels under each tap of a one-channel kernel, [9, images * (side / 2)^2]: its convolution is a product."""
    side = images.shape[-1]
    padded = F.pad(images[:, 0], (1, 1, 1, 1))
    return torch.stack([padded[:, i : i + side : 2, j : j + side : 2] for i in range(3) for j in range(3)]).flatten(1)


def _maps(rows: Tensor, side: int) -> Tensor:
    return rows.view(-1, side, side, rows.shape[-1]).permute(0, 3, 1, 2)


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
