"""Few-shot learning on simulated phase-change memory: convolutions as programmed once, read-out re-programmed.

One chip is programmed once; every task starts from that same programmed read-out and re-programs its own copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from ovonic.adapters.aihwkit import Chip, Hardware
from ovonic.adapters.aihwkit_devices import derive_seed
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision, adapt
from ovonic.tasks.episodes import EpisodeBatch
from ovonic.tasks.fewshot import Learner, Outcome, inner_rates

__all__ = ["aihwkit_chips", "chip_learner"]


def chip_learner(
    chip: Chip, *, updates: int | None = None, norm: str | None = None, read_time_s: float = 0.0
) -> Learner:
    """Learn on one chip: support reads right after programming, queries read ``read_time_s`` after the last update.

    The outcome's ``weights`` are the digital targets; its ``counts`` are ``devices_reprogrammed``,
    ``cells_reprogrammed`` and ``saturated`` (targets clipped to the array's full scale).
    """

    def learn(batch: EpisodeBatch, first: int) -> Outcome:
        support, query = chip.features(batch.support, batch.query, read_time_s=read_time_s, norm=norm, first_task=first)
        readout = chip.readout.for_tasks(len(batch), first)
        rates = inner_rates(chip.net, updates, batch.classes.shape[1])
        states = adapt(readout, support, batch.support_labels, rates)
        logits = torch.stack([state.at(read_time_s).logits(query) for state in states])
        counts = {
            name: torch.stack([getattr(state, name) for state in states[1:]])
            if len(states) > 1
            else torch.empty(0, len(batch))
            for name in ("devices_reprogrammed", "cells_reprogrammed", "saturated")
        }
        return Outcome(logits, support, query, torch.stack([state.w for state in states]), counts)

    return learn


def aihwkit_chips(
    net: FewshotCNN,
    hardware: Hardware,
    *,
    chips: int,
    seed: int,
    n_way: int,
    read_time_s: float = 0.0,
    updates: int | None = None,
    precision: Precision | None = None,
    norm: str | None = None,
    update_step: float | None = None,
) -> list[Callable[[], Learner]]:
    """Chips 0 .. chips-1 of the stream ``seed``, each programmed when it is called.

    Args:
        hardware: what a chip is; n_way: classes of the tasks to come.
        read_time_s: seconds since programming ended, at which queries are read.
        precision, norm, updates: as for the software twin; the kernels are rounded once a chip.
        update_step: round each update stochastically to multiples of this; None: every changed weight is programmed.
    Raises: ToolchainError: aihwkit is missing or broken.
    """
    target = _for_ways(net, n_way)

    def programmer(number: int) -> Callable[[], Learner]:
        def program() -> Learner:
            chip = Chip(
                target, hardware, seed=derive_seed(seed, "chip", number), precision=precision, update_step=update_step
            )
            return chip_learner(chip, updates=updates, norm=norm, read_time_s=read_time_s)

        return program

    return [programmer(number) for number in range(chips)]


def _for_ways(net: FewshotCNN, n_way: int) -> FewshotCNN:
    """The network with a read-out of ``n_way`` classes."""
    net = copy.deepcopy(net)
    readout = nn.Linear(net.config.channels, n_way, bias=False)
    with torch.no_grad():
        readout.weight.copy_(net.initial_readout(n_way))
    net.readout = readout
    return net
