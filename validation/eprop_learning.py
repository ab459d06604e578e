"""Learning by e-prop beside NEST's: the same task, weights and inputs, two programs, one curve of losses.

Ours: run a batch of episodes, errors, ``models.eprop`` with NEST's normalisation, gradient descent. NEST's: one
simulation from the first episode to the last, with its own updates, optimiser and resets (``nest_eprop.learn``). NEST's
feedback stays as it was while the read-out learns, and so does ours here: the transpose of the first read-out.

Where each update meets episodes of its own, what the network answers before the update is its accuracy on unseen ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ovonic.models.eprop import eprop
from ovonic.models.errors import ConfigError
from ovonic.models.learning_signals import learning_signals, symmetric_feedback
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.tasks.bellec import Task
from ovonic.validation.figure_style import HARDWARE, SOFTWARE, finish, styled
from ovonic.validation.figures import WIDTH

__all__ = ["LearningCurves", "accuracy_figure", "answered", "learn", "learning_figure", "side_by_side"]


class LearningCurves(NamedTuple):
    """Losses before each update, ours and NEST's; the weights that both began with and each ended with, by name.

    our_right, their_right: [updates, batch], which episodes were answered rightly before their update: the largest mean
    output of the window is the target's. Of a task with a cross-entropy; None of others.
    """

    task: str
    ours: NDArray[Any]
    theirs: NDArray[Any]
    first_weights: dict[str, NDArray[Any]]
    our_weights: dict[str, NDArray[Any]]
    their_weights: dict[str, NDArray[Any]]
    our_right: NDArray[np.bool_] | None = None
    their_right: NDArray[np.bool_] | None = None

    @property
    def difference(self) -> float:
        """The largest relative difference of losses."""
        return float(np.max(np.abs(self.theirs - self.ours) / np.abs(self.ours)))

    @property
    def weight_difference(self) -> float:
        """The largest difference of final weights over the largest change of their matrix."""
        return max(
            float(np.abs(self.their_weights[name] - w).max() / np.abs(w - self.first_weights[name]).max())
            for name, w in self.our_weights.items()
        )


def learn(network: Network, task: Task, rate: float, batch: int = 1) -> tuple[Tensor, dict[str, NDArray[Any]]]:
    """Ours: the read-out of each episode before its update, [episodes, T, O]; the weights after the last, by name."""
    readouts = []
    (name,) = network.readouts
    feedback = symmetric_feedback(network, task.inputs)
    for k in range(0, len(task.inputs), batch):
        x, target = task.inputs[k : k + batch], task.targets[k : k + batch]
        trace = run(network, x)
        readouts.append(trace.readout)
        errors = {name: _error(trace.readout, target, task)}
        signals = learning_signals(network, errors, feedback, normalised=True)
        gradients = eprop(network, trace, signals, errors)
        weights = network.weights()
        network = network.with_weights({key: weights[key] - rate / batch * g.numpy() for key, g in gradients.items()})
    return torch.cat(readouts), network.weights()


def side_by_side(network: Network, task: Task, rate: float, batch: int = 1) -> LearningCurves:
    """Both, from the same start; the number of episodes must be a multiple of ``batch``.

    Raises: UnsupportedDynamics, ToolchainError: of NEST.
    """
    from ovonic.adapters import nest_eprop

    read, our_weights = learn(network, task, rate, batch)
    (name,) = network.readouts
    found = nest_eprop.learn(
        network, task.inputs, {name: task.targets}, rate, batch=batch, loss=task.loss, window=task.window
    )
    both = read, found.readouts[name]
    ours, theirs = (_losses(y, task.targets, task).reshape(-1, batch).mean(1).numpy() for y in both)
    curves = LearningCurves(task.name, ours, theirs, network.weights(), our_weights, found.weights)
    if task.loss != "cross_entropy":
        return curves
    our_right, their_right = (answered(y, task).reshape(-1, batch).numpy() for y in both)
    return curves._replace(our_right=our_right, their_right=their_right)


def answered(y: Tensor, task: Task) -> Tensor:
    """Whether each episode's largest mean output of the window is the target's, [episodes]."""
    return y[:, -task.window :].mean(1).argmax(-1) == task.targets[:, -1].argmax(-1)


def _error(y: Tensor, target: Tensor, task: Task) -> Tensor:
    error = (y.softmax(-1) if task.loss == "cross_entropy" else y) - target
    late = torch.arange(y.shape[1]) >= y.shape[1] - task.window
    return error * late[None, :, None]


def _losses(y: Tensor, target: Tensor, task: Task) -> Tensor:
    """Mean over the window's steps, one an episode: half the summed square, or the cross-entropy."""
    y, target = y[:, -task.window :], target[:, -task.window :]
    if task.loss == "cross_entropy":
        return -(target * F.log_softmax(y, -1)).sum(-1).mean(1)
    return (y - target).square().sum(-1).mean(1) / 2


@styled
def learning_figure(curves: list[LearningCurves], *, setting: str = "") -> Figure:
    """The losses of each task on top of each other, and how far they are apart."""
    figure = Figure(figsize=(WIDTH, 1.0 + 1.9 * len(curves)))
    grid = figure.subplots(len(curves), 2, squeeze=False, width_ratios=[1.5, 1])
    for row, found in zip(grid, curves, strict=True):
        left, right = row
        updates = np.arange(len(found.ours))
        left.plot(updates, found.ours, color=SOFTWARE, lw=3.2, alpha=0.55, label="our e-prop")
        left.plot(updates, found.theirs, color=HARDWARE, ls="--", lw=1.3, label="NEST")
        left.set(title=found.task, ylabel="loss", ylim=(0, None))
        left.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        left.legend(loc="lower left")
        gap = np.abs(found.theirs - found.ours) / np.abs(found.ours)
        right.semilogy(updates, np.maximum(gap, 1e-17), "o", ms=3, color=SOFTWARE, clip_on=False)
        right.set(title="relative difference", ylim=(1e-17, 1e-2))
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    for axes in grid[-1]:
        axes.set_xlabel("update")
    said = "; ".join(
        f"{found.task}: from {found.ours[0]:.3g} to {found.ours[-1]:.3g}, largest relative difference "
        f"{found.difference:.1e}"
        for found in curves
    )
    return finish(
        figure,
        f"Loss before each update of the same network on the same episodes, learned by our e-prop and by NEST's "
        f"(2020 models, its own optimiser, one simulation). Right: relative difference (zero is drawn at the bottom). "
        f"{setting}",
        f"Loss curves of e-prop by us and by NEST. {said}",
    )


@styled
def accuracy_figure(found: LearningCurves, every: int = 10, *, setting: str = "") -> Figure:
    """Loss and accuracy over updates, means of ``every`` updates, ours and NEST's on top of each other.

    Raises: ConfigError: curves without answers, or of fewer updates.
    """
    blocks = len(found.ours) // every
    if found.our_right is None or found.their_right is None or not blocks:
        raise ConfigError(f"accuracy_figure: needs answers (a cross-entropy) of {every} updates at least")
    figure = Figure(figsize=(WIDTH, 2.6))
    left, right = figure.subplots(1, 2)
    middles = every * (np.arange(blocks) + 0.5)
    last = 0.0
    for axes, ours, theirs, title in (
        (left, found.ours, found.theirs, "loss"),
        (right, 100.0 * found.our_right.mean(1), 100.0 * found.their_right.mean(1), "accuracy, %"),
    ):
        means = [values[: blocks * every].reshape(blocks, every).mean(1) for values in (ours, theirs)]
        axes.plot(middles, means[0], color=SOFTWARE, lw=3.2, alpha=0.55, label="our e-prop")
        axes.plot(middles, means[1], color=HARDWARE, ls="--", lw=1.3, label="NEST")
        axes.set(title=title, xlabel="update")
        last = float(means[0][-1])
    left.set(ylim=(0, None))
    right.set(ylim=(40, 100))
    right.axhline(50, color="0.6", lw=0.8)
    right.legend(loc="lower right")
    other = int((found.our_right != found.their_right).sum())
    return finish(
        figure,
        f"{found.task}: episodes of its own in every update, answered before it; means of {every} updates. The grey "
        f"line is chance. {setting}",
        f"Loss and accuracy of e-prop by us and by NEST on unseen episodes; the last mean accuracy is {last:.0f} %; "
        f"{other} of {found.our_right.size} answers differ.",
    )
