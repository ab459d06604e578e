"""Random numbers for a part of a batch: those that a draw for the whole batch gives to its samples.

    u = draw([B, ..]);   part i of n keeps u[i B/n], .., u[(i + 1) B/n - 1]

Processes that share a batch each draw for all of it and keep their own rows, so that n of them see the numbers that one
alone sees. (A generator cannot skip ahead instead: torch draws normal numbers in blocks, so that one number depends on
how many are drawn with it.) What a stochastic function is given as its generator is a ``Source``; draws for what all
samples have in common (weights) take ``common(source)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Part", "Source", "common", "normal", "samples_around", "uniform"]


@dataclass(frozen=True, eq=False)
class Part:
    """Number ``index`` of ``parts`` equal parts of a batch, and the generator of the whole batch's draws.

    rows: tells how many rows each part has, given this part's: for draws whose number depends on the data.
    """

    generator: torch.Generator
    index: int
    parts: int
    rows: Callable[[int], Sequence[int]]


Source = torch.Generator | Part
"""Where random numbers come from: a generator, or a batch's generator seen by one of its parts."""


def common(source: Source | None) -> torch.Generator | None:
    """The generator for draws that all samples have in common."""
    return source.generator if isinstance(source, Part) else source


def samples_around(source: Source | None, samples: int) -> tuple[int, int]:
    """How many samples the batch has before and after these ``samples``, which are those of the part."""
    if not isinstance(source, Part):
        return 0, 0
    return source.index * samples, (source.parts - source.index - 1) * samples


def uniform(like: Tensor, source: Source | None = None) -> Tensor:
    """Numbers from [0, 1) of the shape, dtype and device of ``like``, whose first axis a ``Part`` takes as samples."""
    if not isinstance(source, Part):
        return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=source)
    first, whole = source.index * len(like), (source.parts * len(like), *like.shape[1:])
    drawn = torch.rand(whole, dtype=like.dtype, device=like.device, generator=source.generator)
    return drawn[first : first + len(like)]


def normal(like: Tensor, source: Source | None = None) -> Tensor:
    """Numbers from N(0, 1), as ``uniform``; the parts may have different numbers of rows."""
    if not isinstance(source, Part):
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=source)
    rows = source.rows(len(like))
    first, whole = sum(rows[: source.index]), (sum(rows), *like.shape[1:])
    drawn = torch.randn(whole, dtype=like.dtype, device=like.device, generator=source.generator)
    return drawn[first : first + len(like)]
