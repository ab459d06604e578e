"""The figures of a comparison of toolchains: who agrees with whom, where two runs part, and their membranes there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ovonic.validation.comparison import REFERENCE, Comparison, Pair
from ovonic.validation.dynamics import Judgement
from ovonic.validation.figure_style import HARDWARE, MUTED, SERIES, SOFTWARE, finish, save, styled
from ovonic.validation.figures import WIDTH
from ovonic.validation.margins import Margins, margins

__all__ = ["comparison_figures", "membrane_figure", "raster_overlay", "verdict_matrix"]

MOST = 3
"""Runs that are drawn beside the plain step's."""

AROUND = 25
"""Steps drawn before and after the place of interest."""

COLOURS = {Judgement.IDENTICAL: "#cfe8dc", Judgement.UNDECIDABLE: "#f1e3b4", Judgement.DIFFERENT: "#f2c4ae"}


def comparison_figures(
    comparison: Comparison, directory: str | Path, *, setting: str = "", command: str = ""
) -> list[Path]:
    """Write ``verdicts.png``, ``rasters.png`` and ``membranes.png``.

    Args: setting: what a reader needs beside the pictures; command: what the files name as their origin.
    Returns: the files.
    """
    made = {
        "verdicts": verdict_matrix(comparison, setting=setting),
        "rasters": raster_overlay(comparison, setting=setting),
        "membranes": membrane_figure(comparison, setting=setting),
    }
    return [save(figure, Path(directory) / f"{name}.png", command=command) for name, figure in made.items()]


@styled
def verdict_matrix(comparison: Comparison, *, setting: str = "") -> Figure:
    """The verdict on every pair of runs, with Jaccard's index and the largest difference of membranes."""
    names = list(comparison.traces)
    figure = Figure(figsize=(WIDTH, 0.75 + 0.62 * len(names)))
    axes = figure.add_subplot()
    levels = list(COLOURS)
    cells = np.full((len(names), len(names)), np.nan)
    for pair in comparison.pairs:
        v = pair.verdict
        row, column = names.index(v.b), names.index(v.a)
        cells[row, column] = levels.index(v.verdict)
        certified = ", certified" if v.certified and v.identical else ""
        text = f"{v.verdict}{certified}\n{_jaccard(pair)}\nmax |dv| {v.max_dv:.1g}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5)
    colours = ListedColormap(list(COLOURS.values()))
    axes.imshow(cells[1:, :-1], cmap=colours, vmin=-0.5, vmax=2.5, aspect="auto", extent=_cells(len(names)))
    axes.set_xticks(range(len(names) - 1), names[:-1])
    axes.set_yticks(range(1, len(names)), names[1:])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    listed = "; ".join(f"{name} refused" for name in comparison.refused)
    return finish(
        figure,
        "Verdict on every pair of runs. Certified: no membrane came nearer to its threshold than rounding can move it. "
        f"max |dv|: largest difference of membranes up to the first divergence.{_more(listed)}{_more(setting)}",
        "Matrix of verdicts: "
        + "; ".join(f"{p.verdict.a} and {p.verdict.b} {p.verdict.verdict}" for p in comparison.pairs),
    )


@styled
def raster_overlay(comparison: Comparison, *, setting: str = "") -> Figure:
    """Spikes of the plain step and of other runs on top of each other, around the first divergence or over all time."""
    pairs = _chosen(comparison)
    figure = Figure(figsize=(WIDTH, 0.9 + 1.9 * len(pairs)))
    grid = figure.subplots(len(pairs), 1, squeeze=False, sharex=True)[:, 0]
    said = []
    for axes, pair in zip(grid, pairs, strict=True):
        said.append(_overlay(axes, comparison, pair))
    grid[-1].set_xlabel("time (ms)")
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside upper right", ncols=4, markerscale=1.5)
    return finish(
        figure,
        f"Spikes of the plain step ({REFERENCE}) and of another run, in the sample that diverges first; neurons of all "
        f"layers from below. Dotted: first divergence.{_more(setting)}",
        "Rasters on top of each other: " + "; ".join(said),
    )


@styled
def membrane_figure(comparison: Comparison, *, setting: str = "") -> Figure:
    """Membranes of two runs where they part; where they do not, of the neuron that came nearest to its threshold."""
    pairs = _chosen(comparison)
    figure = Figure(figsize=(WIDTH, 1.0 + 2.3 * len(pairs)))
    grid = figure.subplots(len(pairs), 2, squeeze=False, width_ratios=[1.5, 1])
    run = comparison.traces[REFERENCE]
    spikes = {name: run[name].spikes for name in comparison.network.spiking}
    dtype = next(iter(run.layers.values())).membrane.dtype
    bounds = margins(comparison.network, run.inputs, spikes, dtype)
    said = [_membranes(row, comparison, pair, bounds) for row, pair in zip(grid, pairs, strict=True)]
    for axes in grid[-1]:
        axes.set_xlabel("time (ms)")
    return finish(
        figure,
        "Left: membranes before the reset of their spikes (markers), and the threshold A (dashed), of the neuron where "
        "two runs part first, or, if they do not, that came nearest to its threshold for its rounding. Right: the "
        "difference of the membranes (dots; zero is drawn at the bottom) and what rounding allows up to there (line)."
        f"{_more(setting)}",
        "Membranes: " + "; ".join(said),
    )


def _cells(runs: int) -> tuple[float, float, float, float]:
    return (-0.5, runs - 1.5, runs - 0.5, 0.5)


def _more(text: str) -> str:
    return f" {text}." if text else ""


def _chosen(comparison: Comparison) -> list[Pair]:
    """Pairs with the plain step: those that diverge, or one that does not."""
    pairs = [pair for pair in comparison.pairs if pair.verdict.a == REFERENCE]
    diverging = [pair for pair in pairs if not pair.verdict.identical]
    return (diverging or pairs[-1:])[:MOST]


def _place(comparison: Comparison, pair: Pair, bounds: dict[str, Margins]) -> tuple[str, int, int, tuple[int, ...]]:
    """Layer, sample, step and neuron of the first divergence, or of the least |v - A| beside its bound."""
    if (d := pair.verdict.first_divergence) is not None:
        return d.layer, d.sample, d.step, d.neuron
    best: tuple[float, str, tuple[int, ...]] = (np.inf, comparison.network.spiking[0], (0,) * 8)
    for name in comparison.network.spiking:
        found = bounds[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(found.free, np.abs(found.membrane - found.level) / (found.bound + 1e-300), np.inf)
        index = tuple(int(i) for i in np.unravel_index(int(np.nanargmin(ratio)), ratio.shape))
        best = min(best, (float(ratio[index]), name, index))
    _, name, (sample, step, *neuron) = best
    return name, sample, step, tuple(neuron[: len(comparison.network.shapes[name])])


def _overlay(axes: Axes, comparison: Comparison, pair: Pair) -> str:
    v, dt_ms = pair.verdict, comparison.network.dt_ms
    sample = 0 if v.first_divergence is None else v.first_divergence.sample
    a, b = (
        np.concatenate([layer.spikes[sample].flatten(1).numpy() for layer in comparison.traces[n].layers.values()], 1)
        for n in (v.a, v.b)
    )
    groups = (
        (a * b, "both", MUTED, "|"),
        (a * (1 - b), f"{v.a} alone", SOFTWARE, "|"),
        ((1 - a) * b, "the other alone", HARDWARE, "|"),
    )
    for spikes, label, colour, marker in groups:
        step, neuron = np.nonzero(spikes)
        if len(step) or label == "both":
            size = max(1.0, min(6.0, 110 / a.shape[1]))
            axes.plot(dt_ms * step, neuron, marker, color=colour, ms=size, mew=0.9, ls="none", label=label)
    if v.first_divergence is not None:
        axes.axvline(dt_ms * v.first_divergence.step, color="black", ls=":", lw=1)
    axes.set_ylim(-0.5, a.shape[1] - 0.5)
    axes.set(ylabel="neuron")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_title(f"{v.a} and {v.b}: {v.verdict}, {_jaccard(pair)}")
    return f"{v.a} and {v.b} {_jaccard(pair)}"


def _jaccard(pair: Pair) -> str:
    index = pair.verdict.jaccard
    return "no spikes" if index is None else f"Jaccard {index:.3g}"


def _membranes(row: NDArray[Any], comparison: Comparison, pair: Pair, bounds: dict[str, Margins]) -> str:
    v, dt_ms = pair.verdict, comparison.network.dt_ms
    layer, sample, step, neuron = _place(comparison, pair, bounds)
    steps = comparison.traces[v.a][layer].membrane.shape[1]
    window = slice(max(0, step - AROUND), min(steps, step + AROUND + 1))
    index: Any = (sample, window, *neuron)
    time = dt_ms * np.arange(steps)[window]
    left, right = row
    left.plot(time, bounds[layer].level[index], color="black", ls="--", lw=1, label="A")
    traces = []
    for name, (colour, dashes, marker), width in zip((v.a, v.b), SERIES, (2.2, 1.2), strict=False):
        run = comparison.traces[name][layer]
        membrane, spikes = run.membrane[index].double().numpy(), run.spikes[index].numpy() > 0
        traces.append(membrane)
        left.plot(time, membrane, color=colour, ls=dashes, lw=width, label=name)
        left.plot(time[spikes], membrane[spikes], marker, color=colour, ms=4)
    left.axvline(dt_ms * step, color="black", ls=":", lw=1)
    number = neuron[0] if len(neuron) == 1 else neuron
    left.set_title(f"{v.a}, {v.b}: {layer}, neuron {number}")
    left.set_ylabel("membrane")
    left.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.1), ncols=3, borderaxespad=0.2)
    gap = np.abs(traces[0] - traces[1])
    floor = max(1e-18, float(gap[gap > 0].min(initial=1e-16)) / 10)
    until = time <= dt_ms * step
    right.plot(time, np.maximum(gap, floor), "o", ms=3, color=HARDWARE)
    right.plot(time[until], np.maximum(bounds[layer].membrane_bound[index][until], floor), color="black", lw=1)
    right.axvline(dt_ms * step, color="black", ls=":", lw=1)
    right.set(yscale="log", ylabel="|difference|")
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    right.set_title("Difference")
    return f"{v.a} and {v.b}, layer {layer}, neuron {number}, step {step}"
