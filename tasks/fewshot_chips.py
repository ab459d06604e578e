"""Few-shot learning on a chip of any kind: convolutions as programmed once, read-out re-programmed.

One chip is programmed once; every task starts from that same programmed read-out and re-programs its own copy. Where
the learning itself takes place is a choice:

    device    each gradient from the features and logits that the chip reads, and the read-out programmed after each:
              learning sees the chip's own errors
    software  the software twin learns the task; its last weights are programmed, once
    none      the read-out as programmed
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from ovonic.models.errors import ConfigError, nearest
from ovonic.models.fewshot_chip import FewshotChip
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import adapt
from ovonic.tasks.episodes import EpisodeBatch
from ovonic.tasks.fewshot import Learner, Outcome, inner_rates

__all__ = ["ADAPT_ON", "COUNTS", "check_adapt_on", "chip_learner", "for_ways"]

ADAPT_ON = ("device", "software", "none")
COUNTS = ("devices_reprogrammed", "cells_reprogrammed", "saturated")


def check_adapt_on(adapt_on: str) -> None:
    """Raises: ConfigError: not one of ``ADAPT_ON``."""
    if adapt_on not in ADAPT_ON:
        raise ConfigError(f"adapt_on {adapt_on!r}: {nearest(adapt_on, ADAPT_ON)}")


def chip_learner(
    chip: FewshotChip,
    *,
    updates: int | None = None,
    norm: str | None = None,
    read_time_s: float = 0.0,
    adapt_on: str = "device",
    twin: Learner | None = None,
) -> Learner:
    """Learn on one chip: support reads right after programming, queries read ``read_time_s`` after the last update.

    The outcome's ``weights`` are the digital targets; its ``counts`` are ``devices_reprogrammed``,
    ``cells_reprogrammed`` and ``saturated`` (targets clipped to the array's full scale), of each update on the device
    or of the one programming after learning in software.

    Args: adapt_on: see the module; twin: the software learner, for ``"software"``.
    Raises: ConfigError: unknown ``adapt_on``, or no twin to learn from.
    """
    check_adapt_on(adapt_on)
    if adapt_on == "software" and twin is None:
        raise ConfigError("adapt_on 'software': needs the software twin")

    def learn(batch: EpisodeBatch, first: int) -> Outcome:
        support, query = chip.features(batch.support, batch.query, read_time_s=read_time_s, norm=norm, first_task=first)
        states = [chip.readout.for_tasks(len(batch), first)]
        if adapt_on == "device":
            rates = inner_rates(chip.net, updates, batch.classes.shape[1])
            states = adapt(states[0], support, batch.support_labels, rates)
        elif adapt_on == "software":
            assert twin is not None
            states.append(states[0].programmed_to(twin(batch, first).weights[-1]))
        logits = torch.stack([state.at(read_time_s).logits(query) for state in states])
        counts = {
            name: torch.stack([getattr(state, name) for state in states[1:]])
            if len(states) > 1
            else torch.empty(0, len(batch))
            for name in COUNTS
        }
        return Outcome(logits, support, query, torch.stack([state.w for state in states]), counts)

    return learn


def for_ways(net: FewshotCNN, n_way: int) -> FewshotCNN:
    """The network with a read-out of ``n_way`` classes."""
    net = copy.deepcopy(net)
    readout = nn.Linear(net.config.channels, n_way, bias=False)
    with torch.no_grad():
        readout.weight.copy_(net.initial_readout(n_way))
    net.readout = readout
    return net
