"""The robot experiment over many movements: how meta-training went, and how lessons end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from ovonic.models.errors import ConfigError
from ovonic.tasks.robot_evaluation import Errors
from ovonic.validation.arm_drawing import LOOKS, ending, in_mm
from ovonic.validation.figure_style import SERIES, finish, styled
from ovonic.validation.figures import WIDTH, running_mean

__all__ = ["learning_curve", "loss_distribution"]

LOSS = "loss (half of the mean squares of omega, (rad/s)², and of x, y, z, m²)"
UNTAUGHT = ("before", "no_update")
"""Names of errors that are drawn as what was before the update."""


@styled
def learning_curve(
    history: Sequence[Mapping[str, float]], validation: Sequence[Mapping[str, Any]], *, setting: str = ""
) -> Figure:
    """Loss, and the tip error of validation, over the outer steps of meta-training.

    Args:
        history, validation: of a ``RobotTrainingState``. The training loss is drawn as validation measures it: half of
            each mean square, without the rates.
    Raises: ConfigError: no history.
    """
    if not history:
        raise ConfigError("no history to draw: not one step was recorded")
    steps = np.array([h["step"] for h in history], dtype=np.float64)
    loss = np.array([(h["mse_omega"] + h["mse_xyz"]) / 2 for h in history])
    window, grey = max(1, len(steps) // 40), LOOKS["before"]["color"]
    figure = Figure(figsize=(WIDTH, 3.4))
    axes: Sequence[Axes] = figure.subplots(1, 2 if validation else 1, squeeze=False)[0]
    for ax in axes:
        ax.set(yscale="log", xlabel="meta-training step (outer updates)")
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    if window > 1:
        axes[0].plot(steps, loss, color=grey, lw=0.5, alpha=0.6, label="_raw")
    alone = "o" if len(steps) == 1 else ""
    axes[0].plot(steps, running_mean(loss, window), color=grey, marker=alone, label="training")
    axes[0].set_ylabel("loss after the update")
    told = f"training loss {loss[-window:].mean():.3g}"
    if validation:
        at = [v["step"] for v in validation]
        mean, half, median = ([v["loss"][name] for v in validation] for name in ("mean", "ci95", "median"))
        tip, worst = ([v["tip_rmse_mm"][name] for v in validation] for name in ("median", "p95"))
        looks: list[dict[str, Any]] = [
            {"color": colour, "ls": dashes, "marker": marker, "lw": 1.2, "ms": 3.5}
            for colour, dashes, marker in SERIES[:3]
        ]
        first, second, third = looks
        axes[0].errorbar(at, mean, [h or 0.0 for h in half], **first, capsize=2, label="validation, mean")
        axes[0].plot(at, median, **second, label="validation, median")
        axes[1].plot(at, tip, **second, label="validation, median")
        axes[1].plot(at, worst, **third, label="validation, 95th percentile")
        axes[1].set_ylabel("tip error after the update (mm)")
        told += f", validation loss {mean[-1]:.3g} (median {median[-1]:.3g}), median tip error {in_mm(tip[-1])}"
    for ax in axes:
        _widen(ax.yaxis)
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), borderaxespad=0.2)
    return finish(
        figure,
        f"After the update, on training movements: {LOSS}"
        + (f", as recorded (thin) and the running mean of {window} records" if window > 1 else "")
        + ("; on movements held out: mean with its 95 % interval, and median" if validation else "")
        + f". At the end: {told}.{ending(setting)}",
        f"Line charts over meta-training. At the end: {told}",
    )


@styled
def loss_distribution(named: Mapping[str, Errors], *, setting: str = "") -> Figure:
    """Empirical distributions of loss and tip error over movements.

    Args: named: errors by name, the network's own first, then the controls (``RobotEvaluation.after``, ``.controls``).
    Raises: ConfigError: nothing to draw, or an error that is not finite.
    """
    if not named:
        raise ConfigError("no errors to draw the distribution of")
    figure = Figure(figsize=(WIDTH, 3.4))
    axes: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    medians: list[str] = []
    for (name, errors), (colour, dashes, marker) in zip(named.items(), itertools.cycle(SERIES), strict=False):
        label = name.replace("_", " ")
        colour, width = LOOKS["before"]["color"] if name in UNTAUGHT else colour, 1.4 if medians else 2.2
        for ax, values in zip(axes, (errors.loss, errors.tip_rmse_mm), strict=True):
            if not len(values) or not np.isfinite(values).all():
                raise ConfigError(f"{name}: {len(values)} errors, not all finite: no distribution can be drawn")
            ax.ecdf(values, color=colour, ls=dashes, lw=width, label=label)
            ax.plot(np.median(values), 0.5, marker, color=colour, mec="white", ms=6, label=f"_{name}")
        medians.append(f"{label} {np.median(errors.loss):.3g} and {in_mm(float(np.median(errors.tip_rmse_mm)))}")
    for ax, label in zip(axes, ("loss", "tip error (mm)"), strict=True):
        ax.set(xscale="log", xlabel=label, ylim=(0, 1.01))
        _widen(ax.xaxis)
    axes[0].set_ylabel("share of movements")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=4)
    count = len(next(iter(named.values())).loss)
    return finish(
        figure,
        f"Share of {count} movements with an error of at most so much: {LOSS}, and tip error (RMS over time). Marks: "
        f"medians, {'; '.join(medians)}.{ending(setting)}",
        "Cumulative distributions of loss and tip error; medians: " + "; ".join(medians),
    )


def _widen(axis: Axis) -> None:
    """End a logarithmic axis on 1, 2 or 5 times a power of ten, so that it has ticks however little it spans."""
    low, high = axis.get_view_interval()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    nice = [m * 10.0**k for k in decades for m in (1, 2, 5)]
    low, high = max(n for n in nice if n <= low), min(n for n in nice if n >= high)
    axis.set_view_interval(low, high, ignore=True)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 150 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
