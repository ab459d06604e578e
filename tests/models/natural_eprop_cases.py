"""A small pair of networks that spike, with inputs, and a loss of their lessons."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.models.natural_eprop import Lesson, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.outer_loss import Objective, OuterLoss, outer_loss

SMALL = NaturalEPropConfig(clock=3, target=4, trainee=6, outputs=2, lsg_lif=5, lsg_alif=4, n_ref=3)
PLASTIC = ("in.weight", "trainee.recurrence")


def small_system(config: NaturalEPropConfig = SMALL, seed: int = 0, **options: Any) -> NaturalEProp:
    """In float64, with input weights that make the small networks spike."""
    pair = initial_pair(config, seed)
    pair = pair._replace(
        lsg=pair.lsg.with_weights({"in.weight": 2 * pair.lsg.weights()["in.weight"]}),
        trainee=pair.trainee.with_weights({"out.weight": 10 * pair.trainee.weights()["out.weight"]}),
    )
    return NaturalEProp(pair, dtype=torch.float64, **options)


def inputs(batch: int = 3, steps: int = 40, config: NaturalEPropConfig = SMALL) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng([batch, steps])
    clock = np.repeat(rng.random((1, steps, config.clock)) < 0.4, batch, 0)
    target = np.repeat(rng.random((batch, 1, config.target)) < 0.5, steps, 1)
    return torch.tensor(clock).double(), torch.tensor(np.concatenate([clock, target], -1)).double()


def path_of(omega: Tensor) -> Tensor:
    """Stands in for an arm."""
    a, b = omega.cumsum(1).unbind(-1)
    return torch.stack([(a / 100).cos(), (b / 100).sin(), (a - b) / 100], -1)


def loss_of(lesson: Lesson, objective: Objective | None = None) -> OuterLoss:
    after = lesson.after
    target = torch.linspace(-1, 1, after.numel(), dtype=after.dtype, device=after.device).view_as(after).sin()
    return outer_loss(lesson, target, path_of(target), path_of, objective)


def gradients_of(model: NaturalEProp, lesson: Lesson) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss_of(lesson).total, list(model.parameters()))
