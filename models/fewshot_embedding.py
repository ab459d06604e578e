"""Features of images that share statistics, in one pass with its first derivative written out: the cost of training.

The same function as ``FewshotCNN.features`` by plain operations. The norm is never carried out on an activation map.
With r = relu(x) and y = (r - mean) s, the next convolution is

    conv(y, k) = conv(r, k s) - conv(mean map, k s)

whose second term is that of one constant image (zero padding makes it differ at the border); and behind the last
convolution s > 0 lets the maximum pass before the norm. So each block costs one convolution, a rectification in place
and two column sums; backwards one convolution, one mask, and the statistics' share on the rows that made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["embed"]

STRIDE, PADDING = [2, 2], [1, 1]


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
    def forward(ctx: Any, images: Tensor, n: int, eps: float, *kernels: Tensor) -> Tensor:
        patches = F.unfold(images, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
        side = images.shape[-1] // 2
        rows = patches @ kernels[0].flatten(1).T
        x = rows.view(len(images), side, side, -1).permute(0, 3, 1, 2)
        maps, means, scales = [], [], []
        for kernel in (*kernels[1:], None):
            r = x.relu_()
            mean, s = _statistics(r[:n], eps)
            maps.append(r)
            means.append(mean)
            scales.append(s)
            if kernel is not None:
                scaled = kernel * s.view(1, -1, 1, 1)
                x = F.conv2d(r, scaled, stride=2, padding=1)
                x.sub_(F.conv2d(_constant(mean, r), scaled, stride=2, padding=1))
        pooled = r.amax(dim=(2, 3))
        ctx.save_for_backward(patches, pooled, *kernels, *maps, *means, *scales)
        ctx.n = n
        return (pooled - mean) * s

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        patches, pooled, *saved = ctx.saved_tensors
        blocks, n = len(saved) // 4, ctx.n
        kernels, maps, means, scales = (saved[i * blocks : (i + 1) * blocks] for i in range(4))
        d_pooled = g * scales[-1]
        d_mean, d_s = -d_pooled.sum(0), (g * (pooled - means[-1])).sum(0)
        largest = maps[-1] == pooled[:, :, None, None]
        d_r = largest * (d_pooled / largest.sum(dim=(2, 3)))[:, :, None, None]
        gradients: list[Tensor] = []
        for block in reversed(range(blocks)):
            r, mean, s = maps[block], means[block], scales[block]
            d_x = _through_rectifier(d_r, r, mean, s, d_mean, d_s, n)
            if block == 0:
                d_rows = d_x.permute(0, 2, 3, 1).reshape(len(patches), -1)
                gradients.append((d_rows.T @ patches).view_as(kernels[0]))
                break
            below, mean, s = maps[block - 1], means[block - 1], scales[block - 1]
            scaled = kernels[block] * s.view(1, -1, 1, 1)
            d_r, d_scaled = _conv_backward(d_x, below, scaled)
            d_constant, d_scaled_too = _conv_backward(-d_x.sum(0, keepdim=True), _constant(mean, below), scaled)
            d_scaled = d_scaled + d_scaled_too
            d_mean, d_s = d_constant.sum(dim=(0, 2, 3)), (d_scaled * kernels[block]).sum(dim=(0, 2, 3))
            gradients.append(d_scaled.mul_(s.view(1, -1, 1, 1)))
        return None, None, None, *reversed(gradients)


def _statistics(r: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation of each channel of [n, channels, h, w]."""
    rows = r.permute(0, 2, 3, 1).flatten(0, 2)
    mean = rows.mean(0)
    variance = rows.square().mean(0).sub_(mean.square()).clamp_min_(0.0)
    return mean, torch.rsqrt(variance.add_(eps))


def _through_rectifier(d_r: Tensor, r: Tensor, mean: Tensor, s: Tensor, d_mean: Tensor, d_s: Tensor, n: int) -> Tensor:
    """Gradient before the ReLU, from that behind it and those of its statistics over the first ``n`` images."""
    count = n * r.shape[2] * r.shape[3]
    d_variance = -0.5 * s**3 * d_s
    slope, shift = 2.0 / count * d_variance, (d_mean - 2.0 * mean * d_variance) / count
    d_x = torch.empty_like(r)
    masked = torch.ops.aten.threshold_backward.grad_input
    own = torch.addcmul(d_r[:n], r[:n], slope.view(1, -1, 1, 1)).add_(shift.view(1, -1, 1, 1))
    masked(own, r[:n], 0, grad_input=d_x[:n])
    if n < len(r):
        masked(d_r[n:], r[n:], 0, grad_input=d_x[n:])
    return d_x


def _constant(mean: Tensor, like: Tensor) -> Tensor:
    return mean.view(1, -1, 1, 1).expand(1, -1, *like.shape[2:]).contiguous(memory_format=torch.channels_last)


def _conv_backward(g: Tensor, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    d_x, d_kernel, _ = torch.ops.aten.convolution_backward(
        g, x, kernel, None, STRIDE, PADDING, [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return d_x, d_kernel
