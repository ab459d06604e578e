"""A step on a GPU that is recorded once and replayed: its hundreds of kernels are then launched at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Replayed"]


class Replayed:
    """``step`` as a CUDA graph (torch.cuda.CUDAGraph): the same kernels in the same order, and so the same bits.

    Args:
        step: from tensors to a tensor, all on one GPU. It neither synchronises nor draws random numbers, and whatever
            else it reads or writes (weights, gradients) stays where it is in memory between calls; what it allocates
            is kept, and overwritten by the next call.
        example: tensors of the shapes to come; ``step`` runs on them a few times.
    """

    def __init__(self, step: Callable[..., Tensor], example: Sequence[Tensor]) -> None:
        self._inputs = [x.clone(memory_format=torch.contiguous_format) for x in example]
        with torch.cuda.device_of(self._inputs[0]):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step(*self._inputs)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result = step(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result, which the next call overwrites."""
        with torch.cuda.device_of(self._inputs[0]):
            for place, x in zip(self._inputs, inputs, strict=True):
                place.copy_(x)
            self._graph.replay()
        return self._result
