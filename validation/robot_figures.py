"""The figures of one lesson of the robot: what moved, what spiked, what was taught.

Each draws movement ``index`` of a batch and of the lesson given on it; the target is black, before the update is grey,
after it blue. ``setting`` is the line that a reader needs beside the picture: weights, movement, rounding.
``validation.arm_drawing`` draws the arm itself, ``validation.robot_curves`` training and evaluation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop import Lesson
from ovonic.models.trace import Trace
from ovonic.tasks.robot_evaluation import updated_fractions
from ovonic.tasks.scorbot import JOINTS
from ovonic.tasks.trajectories import TrajectoryBatch
from ovonic.validation.arm_drawing import LOOKS, Motions, arm_gif, arm_strip, ending, motions, taught
from ovonic.validation.figure_style import HARDWARE, SERIES, finish, save, styled
from ovonic.validation.figures import WIDTH

__all__ = ["lesson_figures", "path_figure", "raster_figure", "signal_figure"]

ARM_TIME, NETWORK_TIME = "time of the arm (s)", "time of the network (ms)"
TIDY = [1, 2, 2.5, 5, 10]
BINS = 41
PLAIN = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−"))

Values = NDArray[np.float64]
Order = NDArray[np.int64]


def lesson_figures(
    lesson: Lesson,
    batch: TrajectoryBatch,
    index: int,
    directory: str | Path,
    lsg_lif: int | None = None,
    gif: bool = True,
    *,
    setting: str = "",
    command: str = "",
) -> list[Path]:
    """Write ``path.png``, ``rasters.png``, ``signals.png``, ``arm.png`` and, with ``gif``, ``arm.gif``.

    Args:
        lsg_lif: of ``raster_figure``.
        command: what the files name as their origin.
    Returns: the files.
    Raises: ConfigError: no such movement, a lesson of another batch or without update; nothing is written then.
    """
    made = {
        "path": path_figure(lesson, batch, index, setting=setting),
        "rasters": raster_figure(lesson, batch, index, lsg_lif, setting=setting),
        "signals": signal_figure(lesson, batch, index, setting=setting),
        "arm": arm_strip(lesson, batch, index, setting=setting),
    }
    folder = Path(directory)
    files = [save(figure, folder / f"{name}.png", command=command) for name, figure in made.items()]
    return files + ([arm_gif(lesson, batch, index, folder / "arm.gif", setting=setting)] if gif else [])


@styled
def path_figure(lesson: Lesson, batch: TrajectoryBatch, index: int, *, setting: str = "") -> Figure:
    """The path of the tip in space, its distance from the target, and every joint over time.

    Raises: ConfigError: as ``lesson_figures``.
    """
    seen = motions(lesson, batch, index)
    joints = seen.target.omega.shape[1]
    figure = Figure(figsize=(WIDTH, 6.3))
    rows = figure.add_gridspec(2, 1, height_ratios=[1.2, 1])
    above = rows[0].subgridspec(1, 2, width_ratios=[1.2, 1])
    space = figure.add_subplot(above[0], projection="3d")
    _path_in_space(space, seen)
    miss = figure.add_subplot(above[1])
    for name in ("before", "after"):
        miss.plot(seen.time_s, seen.miss_mm(name), **LOOKS[name], label=name)
    miss.set(title="Distance of the tip from the target", xlabel=ARM_TIME, ylabel="distance (mm)")
    miss.set_ylim(bottom=0)
    grid: NDArray[Any] = rows[1].subgridspec(2, joints).subplots(sharex=True, sharey="row", squeeze=False)
    for j, (top, bottom) in enumerate(grid.T):
        for name, motion in seen.named().items():
            top.plot(seen.time_s, motion.omega[:, j], **LOOKS[name], label=name)
            bottom.plot(seen.time_s, np.degrees(motion.angles[:, j]), **LOOKS[name], label=name)
        top.set_title(JOINTS[j].capitalize())
        bottom.set_xlabel(ARM_TIME)
    grid[0, 0].set_ylabel("omega (rad/s)")
    grid[1, 0].set_ylabel("angle (degrees)")
    handles, names = space.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3)
    return finish(
        figure,
        f"A movement before and after {taught(lesson)}: path of the tip (dot: its start), its distance from where it "
        f"should be, angular velocity omega and angle of the joints. {seen.errors()}.{ending(setting)}",
        f"Target path of the arm's tip, and its paths before and after the update. {seen.errors()}",
    )


def _path_in_space(axes: Any, seen: Motions) -> None:
    for name, motion in seen.named().items():
        axes.plot(*motion.path.T, **LOOKS[name], label=name)
    axes.plot(*seen.target.path[:1].T, "ko", ms=4, label="_start")
    points = np.concatenate([motion.path for motion in seen.named().values()])
    low, high = points.min(0), points.max(0)
    side = np.maximum(1.08 * (high - low), max(0.02, 0.5 * float((high - low).max())))
    low, high = (low + high - side) / 2, (low + high + side) / 2
    for i, set_limits in enumerate((axes.set_xlim, axes.set_ylim, axes.set_zlim)):
        set_limits(low[i], high[i], view_margin=0)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(3, steps=TIDY, min_n_ticks=2))
        axis.set_pane_color("white")
        axis.pane.set_edgecolor("#e3e3e3")
        axis.labelpad = 0
    axes.tick_params(labelsize=7, pad=0)
    axes.set(xlabel="x (m)", ylabel="y (m)", zlabel="z (m)")
    axes.set_box_aspect(tuple(side), zoom=0.85)  # the layout does not see the labels of axes in space
    axes.set_proj_type("ortho")
    x, y, _ = seen.target.path.mean(0)
    axes.view_init(elev=20, azim=90 * float(np.arctan2(y, x) // (np.pi / 2)) + 40)  # from outside, no axis end on


@styled
def raster_figure(
    lesson: Lesson, batch: TrajectoryBatch, index: int, lsg_lif: int | None = None, *, setting: str = ""
) -> Figure:
    """Spikes of the clock, of the learning-signal generator (LSG) where it ran, and of the trainee before and after.

    Args: lsg_lif: the LSG's first neurons, those without adaptation, drawn apart from the others; None: all in one.
    Raises: ConfigError: as ``lesson_figures``, or an LSG of fewer neurons.
    """
    motions(lesson, batch, index)
    trials = {f"Trainee {when}": _spikes(lesson.trials[i], index) for when, i in (("before", 0), ("after", -1))}
    dt_ms, order = lesson.trials[0].dt_ms, _by_time(trials["Trainee before"])
    groups = _lsg_groups(lesson, index, lsg_lif)
    figure = Figure(figsize=(WIDTH, 5.4))
    grid = figure.add_gridspec(3, 2 if groups else 1, height_ratios=[0.22, 1, 1])
    for column in range(grid.ncols):
        _raster(figure.add_subplot(grid[0, column]), "Clock", _array(batch.clock[index]), dt_ms, "black", 26)
    rows = [grid[1:, 0]] if len(groups) == 1 else [grid[1, 0], grid[2, 0]]
    for place, (name, spikes), colour in zip(rows, groups.items(), (SERIES[2][0], HARDWARE), strict=False):
        fired = spikes.any(0)
        title = f"{name}: {fired.sum()} of {len(fired)} fire, {_rate(spikes, dt_ms)}"
        _raster(figure.add_subplot(place), title, spikes[:, _by_time(spikes)[: fired.sum()]], dt_ms, colour)
    for row, (name, spikes) in enumerate(trials.items(), start=1):
        title, colour = f"{name}: {_rate(spikes, dt_ms)}", LOOKS[name.removeprefix("Trainee ")]["color"]
        _raster(figure.add_subplot(grid[row, -1]), title, spikes[:, order], dt_ms, colour)
    for ax in figure.axes:
        spec = ax.get_subplotspec()
        last = spec is not None and spec.is_last_row()
        ax.tick_params(labelbottom=last)
        ax.set_xlabel(NETWORK_TIME if last else "")
    return finish(
        figure,
        f"Spikes before and after {taught(lesson)}. Neurons are sorted by the mean time of their spikes, those of the "
        "trainee by that of the first trial, in both panels"
        + ("; of the generator (LSG) only those that fire are drawn" if groups else "")
        + f". Rates: means over all neurons and the trial.{ending(setting)}",
        "Spike rasters: " + ", ".join(f"{name} {_rate(z, dt_ms)}" for name, z in (groups | trials).items()),
    )


@styled
def signal_figure(lesson: Lesson, batch: TrajectoryBatch, index: int, *, setting: str = "") -> Figure:
    """What was taught: the learning signals, and how the weights changed, into the trainee and within it.

    Raises: ConfigError: as ``lesson_figures``.
    """
    motions(lesson, batch, index)
    figure = Figure(figsize=(WIDTH, 6.2))
    rows = figure.add_gridspec(2, 1, height_ratios=[1, 1.25])
    above, below = (row.subgridspec(1, 2, width_ratios=[1.15, 1]) for row in (rows[0], rows[1]))
    _signals(figure.add_subplot(above[0]), figure.add_subplot(above[1]), lesson, index)
    matrices = below[0].subgridspec(2, 1, height_ratios=[0.2, 1])
    w_in, w_rec = (_array(change[index]) for change in lesson.changes.values())
    off_diagonal = ~np.eye(len(w_rec), dtype=bool)
    w_rec = w_rec * off_diagonal
    order = _by_time(_spikes(lesson.trials[0], index))
    upper, lower = figure.add_subplot(matrices[0]), figure.add_subplot(matrices[1])
    _changes(upper, lower, w_in[:, order], w_rec[order][:, order])
    shares = {name: 100 * float(share[index]) for name, share in updated_fractions(lesson).items()}
    _histogram(figure.add_subplot(below[1]), {"W_in": w_in.ravel(), "W_rec": w_rec[off_diagonal]}, shares)
    words = " and ".join(f"{share:.2g} % of {name}" for name, share in shares.items())
    return finish(
        figure,
        "Top: learning signals L, neurons sorted by their mean over the trial; positive ones lower the weights onto a "
        f"neuron near its threshold, negative ones raise them. Bottom: change of the weights by {taught(lesson)}, "
        "neurons sorted by the mean time of their spikes in the first trial, and its distribution; the diagonal of "
        f"W_rec has no effect and does not count. Changed: {words}.{ending(setting)}",
        f"Heat map and traces of the learning signals; matrices and histogram of the change of weights: {words}",
    )


def _signals(heat: Axes, traces: Axes, lesson: Lesson, index: int) -> None:
    """L over time: all neurons, and four of them, from the lowest to the highest mean."""
    signals, dt_ms = _array(lesson.learning_signal[index]), lesson.trials[0].dt_ms
    steps, neurons = signals.shape
    order = np.argsort(signals.mean(0), kind="stable")
    bound = float(np.quantile(np.abs(signals), 0.995)) or 1.0
    image = _image(heat, signals[:, order].T, bound, (0, steps * dt_ms))
    _colour_bar(image, [heat], "L", np.abs(signals).max() > bound)
    heat.set(title="Learning signals", ylabel="neuron, by mean L")
    ranks = np.unique(np.linspace(0, neurons - 1, 4).round().astype(int))
    time_ms = dt_ms * np.arange(steps)
    for rank, (colour, dashes, _) in zip(ranks, SERIES, strict=False):
        heat.plot(1.025, rank + 1, "<", color=colour, ms=4, transform=heat.get_yaxis_transform(), clip_on=False)
        traces.plot(time_ms, signals[:, order[rank]], color=colour, ls=dashes, label=f"neuron {rank + 1}", lw=1.2)
    traces.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, borderaxespad=0.2)
    traces.set(ylabel="learning signal L")
    for ax in (heat, traces):
        ax.set(xlabel=NETWORK_TIME, xlim=(0, steps * dt_ms))


def _changes(upper: Axes, lower: Axes, w_in: Values, w_rec: Values) -> None:
    """Matrices of changes [from, to] in one scale of colours, which the largest twentieth of the changes may leave."""
    sizes = np.abs(np.concatenate([w_in.ravel(), w_rec.ravel()]))
    bound = 1.5 * float(np.quantile(sizes[sizes > 0], 0.95, method="inverted_cdf")) if sizes.any() else 1.0
    for ax, change, title in ((upper, w_in, "Change of W_in"), (lower, w_rec, "Change of W_rec")):
        image = _image(ax, change, bound, (0.5, change.shape[1] + 0.5))
        ax.set_title(title)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=TIDY, integer=True))
    upper.tick_params(labelbottom=False)
    upper.set_ylabel("clock")
    lower.set(xlabel="to neuron", ylabel="from neuron")
    _colour_bar(image, [upper, lower], "change", sizes.max() > bound)


def _image(axes: Axes, values: Values, bound: float, span: tuple[float, float]) -> AxesImage:
    """Values [neurons, columns] between blue (-bound) and red, the first neuron at the bottom."""
    extent = (*span, 0.5, len(values) + 0.5)
    about: dict[str, Any] = {"aspect": "auto", "origin": "lower", "extent": extent, "interpolation": "nearest"}
    image = axes.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound, **about)
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    _neuron_ticks(axes, len(values))
    return image


def _colour_bar(image: AxesImage, beside: list[Axes], name: str, beyond: bool) -> None:
    figure = beside[0].get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=beside, pad=0.05, extend="both" if beyond else "neither")
    bar.ax.set_title(name, loc="center", fontweight="normal")


def _neuron_ticks(axes: Axes, neurons: int) -> None:
    few = neurons <= 6
    axes.yaxis.set_major_locator(
        FixedLocator([1, max(1, neurons)]) if few else MaxNLocator(4, steps=TIDY, integer=True)
    )


def _histogram(axes: Axes, changes: dict[str, Values], shares: dict[str, float]) -> None:
    """Shares of weights by their change: level by level where all changes lie on a grid, else in 41 bins."""
    middles = _middles(np.concatenate(list(changes.values())))
    step = middles[1] - middles[0]
    edges = np.append(middles - step / 2, middles[-1] + step / 2)
    width, least = 0.42 * step, 100.0
    for i, (name, values) in enumerate(changes.items()):
        count = np.histogram(values, edges)[0]
        share = 100 * count / max(1, len(values))
        label = f"{name}: {shares[name]:.2g} % changed"
        axes.bar(middles + (i - 0.5) * width, share, width, color=SERIES[i][0], label=label)
        least = min(least, share[count > 0].min(initial=100.0))
    axes.set(yscale="log", ylim=(min(10, least / 2), 150), xlabel="change of weight", ylabel="share of weights (%)")
    axes.yaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_minor_locator(NullLocator())
    if len(middles) < BINS:
        apart = -(-len(middles) // 5)
        axes.set_xticks(middles[len(middles) // 2 % apart :: apart])
        axes.xaxis.set_major_formatter(PLAIN)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), borderaxespad=0.2)


def _middles(values: Values) -> Values:
    """Middles of equal bins, symmetric about zero, that hold all values."""
    levels = np.unique(values)
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    gap = float(np.diff(levels).min(initial=largest))
    on_grid = largest / gap < BINS / 2 and np.allclose(levels / gap, np.round(levels / gap), atol=1e-3)
    half = round(largest / gap) if on_grid else BINS // 2
    return np.arange(-half, half + 1, dtype=np.float64) * (largest / half)


def _raster(axes: Axes, title: str, spikes: Values, dt_ms: float, colour: str, points: float = 110) -> None:
    """Spikes [T, N], a tick each, the first neuron at the bottom; points: height of the axes."""
    steps, neurons = spikes.nonzero()
    size = min(7.0, max(1.7, 0.7 * points / max(1, spikes.shape[1])))
    axes.plot(steps * dt_ms, neurons + 1, "|", color=colour, ms=size, mew=0.6)
    axes.set(title=title, ylabel="neuron", xlim=(-2 * dt_ms, (len(spikes) + 1) * dt_ms), ylim=(0, spikes.shape[1] + 1))
    axes.grid(visible=False)
    _neuron_ticks(axes, spikes.shape[1])


def _lsg_groups(lesson: Lesson, index: int, lif: int | None) -> dict[str, Values]:
    """Spikes [T, N] of the LSG's groups of neurons, by their names; empty where it did not run."""
    if lesson.lsg is None:
        return {}
    spikes = _spikes(lesson.lsg, index)
    if lif is None:
        return {"LSG": spikes}
    if not 0 <= lif <= spikes.shape[1]:
        raise ConfigError(f"lsg_lif {lif}: the learning-signal generator has {spikes.shape[1]} neurons")
    return {name: z for name, z in (("LSG, LIF", spikes[:, :lif]), ("LSG, ALIF", spikes[:, lif:])) if z.shape[1]}


def _by_time(spikes: Values) -> Order:
    """Neurons by the mean time of their spikes, the silent ones last."""
    count = spikes.sum(0)
    mean = np.arange(len(spikes)) @ spikes / np.maximum(count, 1)
    return np.argsort(np.where(count > 0, mean, np.inf), kind="stable")


def _spikes(trace: Trace, index: int) -> Values:
    """Of the one spiking layer, [T, N]."""
    (layer,) = trace.layers.values()
    return _array(layer.spikes[index])


def _rate(spikes: Values, dt_ms: float) -> str:
    return f"{1000 / dt_ms * spikes.mean():.1f} Hz"


def _array(tensor: Tensor) -> Values:
    return tensor.detach().cpu().double().numpy()
