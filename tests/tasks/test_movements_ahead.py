"""Movements that other processes draw are those of this one, in order."""

from __future__ import annotations

import multiprocessing
from dataclasses import fields

import pytest
import torch

from ovonic.models.errors import ToolchainError
from ovonic.tasks.movements_ahead import movements_ahead
from ovonic.tasks.trajectories import TrajectorySpec, sample_trajectories

SPEC = TrajectorySpec()
NUMBERS = [[5, 3], [2**32], [1, 0, 7], [9], [8], [12, 13]]


@pytest.mark.slow
def test_the_same_batches_in_the_same_order() -> None:
    batches = list(movements_ahead(SPEC, 4, iter(NUMBERS), workers=2))
    assert len(batches) == len(NUMBERS)
    for batch, numbers in zip(batches, NUMBERS, strict=True):
        due = sample_trajectories(SPEC, 4, numbers)
        for name in (f.name for f in fields(due) if f.name != "spec"):
            assert torch.equal(torch.as_tensor(getattr(batch, name)), torch.as_tensor(getattr(due, name))), name
        assert batch.spec == SPEC


@pytest.mark.slow
def test_no_more_is_drawn_than_is_close() -> None:
    taken = []
    batches = movements_ahead(SPEC, 0, (taken.append(i) or [i] for i in range(1000)), workers=1)  # type: ignore[func-returns-value]
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(taken) == 3


@pytest.mark.slow
def test_a_process_that_was_killed() -> None:
    others = multiprocessing.active_children()
    batches = movements_ahead(SPEC, 0, ([i] for i in range(100)), workers=1)
    next(batches)
    (worker,) = (process for process in multiprocessing.active_children() if process not in others)
    worker.kill()
    with pytest.raises(ToolchainError, match="was killed"):
        list(batches)
