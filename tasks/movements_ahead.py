"""Movements for many steps of a meta-training, drawn by processes of their own before they are needed.

Drawing a batch takes a CPU about as long as a GPU takes to learn from it, and threads of one Python would wait for
each other. The processes are spawned: a script that comes here needs ``if __name__ == "__main__":`` around what it
runs.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from ovonic.models.errors import ToolchainError
from ovonic.tasks.trajectories import TrajectoryBatch, TrajectorySpec, sample_trajectories

__all__ = ["movements_ahead"]


def movements_ahead(
    spec: TrajectorySpec, seed: int, batches: Iterable[list[int]], workers: int | None = None
) -> Iterator[TrajectoryBatch]:
    """``sample_trajectories`` for each of these lists of numbers, in their order, on the CPU.

    Args:
        workers: processes that draw, two batches ahead each; None: as many as cores, at most 4.
    Raises: ToolchainError: one of them was killed. What ``sample_trajectories`` raises.
    """
    workers = workers or min(4, os.cpu_count() or 1)
    todo = iter(batches)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawned, initializer=_alone) as pool:
        waiting = deque(pool.submit(sample_trajectories, spec, seed, b) for b in itertools.islice(todo, 2 * workers))
        while waiting:
            try:
                drawn = waiting.popleft().result()
            except BrokenProcessPool as error:
                raise ToolchainError(
                    "a process that draws movements was killed (for want of memory?); the last checkpoint is kept: "
                    "start again with --resume"
                ) from error
            waiting.extend(pool.submit(sample_trajectories, spec, seed, b) for b in itertools.islice(todo, 1))
            yield drawn


def _alone() -> None:
    """A worker computes on one core, and leaves Ctrl-C to the process that it works for."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
