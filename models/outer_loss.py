"""The outer loss of natural e-prop: what is descended, over many lessons, to find the weights that lessons start from.

    mse(omega) / 2 + mse(path) / 2 + (sum_n (rate_n - 20 Hz)^2 + sum_m (rate_m - 10 Hz)^2) / 4,   rates a step

of the last trial; path is what a callable makes of omega (for an arm, its kinematics), n the trainee's neurons over all
trials, m the LSG's; each rate is a mean over the batch. That term is no mean over samples: who has a part of a batch
only needs the rates of all of it (``over_batch``).

Reference: Ortner et al. 2025, Nature Communications 16:1243, and its published code, which gives the Cartesian term no
gradient (``Objective(path_gradient=False)``); ours has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ovonic.models.natural_eprop import Lesson
from ovonic.models.trace import Trace

__all__ = ["Objective", "OuterLoss", "outer_loss"]


@dataclass(frozen=True)
class Objective:
    """The outer loss (the module's text has it).

    Attributes:
        omega, path, rates: weights of its terms.
        trainee_hz, lsg_hz: rates that the neurons are held to.
        path_gradient: False is the published code, whose Cartesian term has a value but no gradient.
    """

    omega: float = 0.5
    path: float = 0.5
    rates: float = 0.25
    trainee_hz: float = 20.0
    lsg_hz: float = 10.0
    path_gradient: bool = True


class OuterLoss(NamedTuple):
    """The outer loss and its parts, scalars.

    total: all of it. task: without the rates. mse_omega, mse_path: of the last trial, over batch, time and components.
    trainee_rates, lsg_rates: sum over neurons of (rate - target)^2, rates a step, before weighting.
    """

    total: Tensor
    task: Tensor
    mse_omega: Tensor
    mse_path: Tensor
    trainee_rates: Tensor
    lsg_rates: Tensor


def outer_loss(
    lesson: Lesson,
    omega: Tensor,
    path: Tensor,
    kinematics: Callable[[Tensor], Tensor],
    objective: Objective | None = None,
    over_batch: Callable[[Tensor], Tensor] | None = None,
) -> OuterLoss:
    """How much is left to learn after a lesson.

    Args:
        lesson: what happened; without a run of an LSG its rates count nothing.
        omega: target of the output, [B, T, outputs]; path: target of ``kinematics``, [B, T, 3].
        kinematics: the path that an output traces, [B, T, outputs] -> [B, T, 3], differentiable.
        over_batch: makes the mean rates of these samples, [N], those of the batch that they are a part of.
    """
    o = objective or Objective()
    after = lesson.after
    mse_omega = (omega - after).square().mean()
    mse_path = (path - kinematics(after if o.path_gradient else after.detach())).square().mean()
    task = o.omega * mse_omega + o.path * mse_path
    trainee = _off_target(lesson.trials, o.trainee_hz, over_batch)
    lsg = task.new_zeros(()) if lesson.lsg is None else _off_target((lesson.lsg,), o.lsg_hz, over_batch)
    return OuterLoss(task + o.rates * (trainee + lsg), task, mse_omega, mse_path, trainee, lsg)


def _off_target(runs: tuple[Trace, ...], rate_hz: float, over_batch: Callable[[Tensor], Tensor] | None) -> Tensor:
    (name,) = runs[0].layers
    rates = torch.stack([trace[name].spikes.mean((0, 1)) for trace in runs]).mean(0)
    if over_batch is not None:
        rates = over_batch(rates)
    return (rates - rate_hz * runs[0].dt_ms / 1000).square().sum()
