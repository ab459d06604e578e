"""The figures of the few-shot experiment: data in, a matplotlib figure out.

Each carries its caption (what is shown, n, the interval, the setting) and an alternative text; ``save`` writes it.
``setting`` is the one line that a reader needs beside any accuracy: precision, norm, noise model, data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from ovonic.models.errors import ConfigError
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.fewshot_evaluation import Evaluation
from ovonic.tasks.statistics import crossed_interval, interval
from ovonic.validation.figure_style import (
    HARDWARE,
    MUTED,
    SERIES,
    SOFTWARE,
    alt_text,
    caption,
    finish,
    log_error_axis,
    percent,
    save,
    spread,
    styled,
)

__all__ = [
    "BASELINE_NAMES",
    "accuracy_over_updates",
    "alt_text",
    "caption",
    "character_sheet",
    "loss_curves",
    "running_mean",
    "save",
    "support_and_queries",
    "weight_histograms",
]

WIDTH = 6.6
"""Width of every figure, inches: a page's text."""

BASELINE_NAMES = {
    "nearest_class_mean": "nearest class mean",
    "ridge": "ridge on features",
    "random_features": "random features",
    "pixels_nearest_class_mean": "pixels, class mean",
    "pixels_ridge": "pixels, ridge",
}
"""How baselines are called where people read."""

Images = NDArray[np.float32]


@styled
def accuracy_over_updates(evaluation: Evaluation, *, setting: str) -> Figure:
    """Accuracy after 0, 1, .. updates, software beside hardware, with the baselines of the same tasks.

    Left: accuracy; right: the same spaced by the logarithm of the error, where accuracies near 100 % come apart and
    equal distances are equal ratios of error. Bands are 95 % intervals; each chip is a thin line.
    """
    software, hardware = evaluation.software, evaluation.hardware
    lines = {"software": (SERIES[0], [interval(software[:, k]) for k in range(software.shape[1])])}
    if hardware is not None:
        lines["hardware"] = (
            SERIES[1],
            [crossed_interval(hardware[:, :, k]) for k in range(hardware.shape[2])],
        )
    baselines = {name: interval(values) for name, values in evaluation.baselines.items()}
    queries = software.shape[0] * evaluation.batch.query_labels.shape[1]

    figure = Figure(figsize=(WIDTH, 3.6))
    axes: Sequence[Axes] = figure.subplots(1, 2, width_ratios=[0.85, 1], gridspec_kw={"wspace": 0.06})
    for ax in axes:
        if hardware is not None and len(hardware) > 1:
            for chip in hardware.mean(axis=1):
                ax.plot(100 * chip, color=HARDWARE, lw=0.6, alpha=0.45, label="_chip")
        for name, ((colour, dashes, marker), points) in lines.items():
            mean = 100 * np.array([p["mean"] for p in points])
            half = 100 * np.array([p["ci95"] or 0.0 for p in points])
            updates = np.arange(len(mean))
            ax.fill_between(updates, mean - half, mean + half, color=colour, alpha=0.22, lw=0)
            ax.plot(updates, mean, color=colour, ls=dashes, marker=marker, label=name, clip_on=False, zorder=3)
        ax.set(xlabel="updates of the read-out", xlim=(-0.05 * (updates[-1] + 1), 1.04 * updates[-1] + 0.05))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[0].set(ylim=(0, 101), ylabel="accuracy on queries (%)")
    axes[0].legend(loc="lower right")

    finals = {name: points[-1] for name, (_, points) in lines.items()} | baselines
    errors = [100 * (1 - f["mean"]) for f in finals.values() if f["mean"] < 1]
    low_ends = [100 * (1 - f["mean"] - (f["ci95"] or 0.0)) for f in finals.values()]
    floor = max(0.8 * min((e for e in low_ends if e > 0), default=1.0), min(errors, default=1.0) / 4, 50 / queries)
    start = min(points[0]["mean"] for _, points in lines.values())
    height = log_error_axis(axes[1], max(0.0, 100 - 1.2 * (100 - 100 * start)), 100 - floor)
    axes[1].set_ylabel("accuracy (%), log scale of the error")
    _label_right(axes[1], finals, height)

    chips = 0 if hardware is None else len(hardware)
    text = (
        f"Accuracy on query images after each update; {_count(len(software), 'task')}"
        + ("", " on one chip", f" on each of {chips} chips (thin lines: each chip's mean)")[min(chips, 2)]
        + f"; {setting}. Bands and ±: 95 % intervals of the mean"
        + (", chips and tasks both random" if chips > 1 else "")
        + (". Ticks at the right edge: baselines on the same tasks" if baselines else "")
        + ". Right panel: equal distances are equal ratios of error"
        + (" (no error: on the upper edge)." if any(f["mean"] == 1 for f in finals.values()) else ".")
    )
    ends = "; ".join(
        f"{name} from {percent(points[0]['mean'])} to {percent(points[-1]['mean'], points[-1]['ci95'])}"
        for name, (_, points) in lines.items()
    )
    others = ", ".join(f"{_named(name)} {percent(b['mean'])}" for name, b in baselines.items())
    return finish(
        figure,
        text,
        f"Line chart of accuracy over {_count(software.shape[1] - 1, 'update')}: {ends}"
        + (f". Baselines: {others}" if others else ""),
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _named(name: str) -> str:
    return BASELINE_NAMES.get(name, name.replace("_", " "))


def _label_right(axes: Axes, finals: Mapping[str, dict[str, Any]], height: Any) -> None:
    """Name each final accuracy at the right edge; baselines get a tick there."""
    colours = {"software": SOFTWARE, "hardware": HARDWARE}
    outside: dict[str, Any] = {"clip_on": False, "label": "_edge"}
    wanted = np.clip(height([100 * f["mean"] for f in finals.values()]), 0, 1)
    for (name, final), here, place in zip(finals.items(), wanted, spread(wanted, 0.068, 0.0, 1.0), strict=True):
        colour = colours.get(name, MUTED)
        mean = 100 * final["mean"]
        if name not in colours:
            axes.plot(
                [0.985, 1.03],
                [mean] * 2,
                transform=axes.get_yaxis_transform(),
                color=MUTED,
                lw=1.8,
                **outside,
            )
        axes.plot([1.04, 1.1], [here, place], transform=axes.transAxes, color=colour, lw=0.7, **outside)
        axes.text(
            1.12,
            place,
            f"{_named(name)}  {percent(final['mean'], final['ci95'], short=True)}",
            transform=axes.transAxes,
            va="center",
            color=colour,
            fontsize=8,
            fontweight="bold" if name in colours else "normal",
        )


@styled
def support_and_queries(evaluation: Evaluation, task: int = 0, *, setting: str, most: int = 10) -> Figure:
    """What one task shows and how its queries are answered after the last update, on hardware where there is any.

    A right answer has a thin frame; a wrong one a heavy dashed frame, a cross and the class it was taken for.

    Args: task: index within the first batch; most: images of a class drawn at most, of each kind.
    Raises: ConfigError: no such task.
    """
    batch = evaluation.batch
    if not 0 <= task < len(batch):
        raise ConfigError(f"task {task}: the first batch holds tasks 0 to {len(batch) - 1}")
    outcome = evaluation.hardware_outcome or evaluation.software_outcome
    where = "in software" if evaluation.hardware_outcome is None else "on the first chip"
    answers = outcome.logits[-1, task].argmax(-1).cpu().numpy()
    labels = batch.query_labels[task].cpu().numpy()
    shown = batch.support_labels[task].cpu().numpy()
    support, query = (images[task, :, 0].cpu().numpy() for images in (batch.support, batch.query))
    n_way = batch.classes.shape[1]
    shots, asked = (min(most, int(np.bincount(of, minlength=n_way).max())) for of in (shown, labels))

    side, across, down, gap = 28, 33, 42, 22
    stacks = -(-n_way // 10)
    rows = -(-n_way // stacks)
    stack = (shots + asked) * across + gap
    width, tall = stacks * stack + (stacks - 1) * 2 * gap, rows * down
    canvas: Images = np.ones((tall, width), dtype=np.float32)
    figure = Figure(figsize=(WIDTH, 0.75 + WIDTH * 0.93 * tall / width))
    ax = figure.subplots()
    for c in range(n_way):
        left, top = (c // rows) * (stack + 2 * gap), (c % rows) * down
        ax.text(left - 6, top + side / 2, _class_name(c, n_way), ha="right", va="center", fontweight="bold")
        for i, image in enumerate(support[shown == c][:most]):
            canvas[top : top + side, left + i * across : left + i * across + side] = image
        for i, q in enumerate(np.flatnonzero(labels == c)[:most]):
            x = left + shots * across + gap + i * across
            canvas[top : top + side, x : x + side] = query[q]
            is_right = bool(answers[q] == c)
            ax.add_patch(
                Rectangle(
                    (x - 1, top - 1),
                    side + 1,
                    side + 1,
                    fill=False,
                    ec=SOFTWARE if is_right else HARDWARE,
                    lw=0.7 if is_right else 2.2,
                    ls="-" if is_right else (0, (2.5, 1)),
                    gid="right" if is_right else "wrong",
                )
            )
            ax.text(
                x + side / 2,
                top + side + 6.5,
                "✓" if is_right else f"✗ {_class_name(int(answers[q]), n_way)}",
                ha="center",
                va="center",
                color=SOFTWARE if is_right else HARDWARE,
                fontsize=7 if is_right else 8.5,
                fontweight="normal" if is_right else "bold",
            )
    for s in range(stacks):
        left = s * (stack + 2 * gap)
        ax.text(left, -7, "support (learned from)" if shots > 2 else "support", fontsize=8, va="bottom")
        ax.text(left + shots * across + gap, -7, "queries, as answered", fontsize=8, va="bottom")
    ax.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xlim=(-16, width), ylim=(tall, -9))
    ax.axis("off")

    right = int((answers == labels).sum())
    twin = int((evaluation.software_outcome.logits[-1, task].argmax(-1).cpu().numpy() == labels).sum())
    beside = "" if evaluation.hardware_outcome is None else f" (software: {twin})"
    score = f"{right} of {len(labels)} queries right {where}{beside}"
    updates = len(outcome.logits) - 1
    return finish(
        figure,
        f"Task {task} of the stream of seed {evaluation.seed} after {_count(updates, 'update')}: {score}; {setting}. "
        f"Rows are classes {_class_name(0, n_way)} to {_class_name(n_way - 1, n_way)}. Thin frame and ✓: right; heavy "
        "dashed frame and ✗: wrong, with the class it was taken for."
        + (f" At most {most} images of a class are drawn." if max(len(labels), len(shown)) > n_way * most else ""),
        f"The images of one {n_way}-way task and the answers to its queries: {score}",
    )


def _class_name(c: int, n_way: int) -> str:
    return chr(ord("A") + c) if n_way <= 26 else str(c + 1)


@styled
def weight_histograms(weights: ArrayLike, decoded: ArrayLike | None = None, *, setting: str = "") -> Figure:
    """Distribution of the read-out's weights over five equal bins of |w|, before and after each update.

    Bars are shares of all weights, the line is the empirical cumulative distribution of |w|; every panel has the same
    bins, up to the largest |w| of all panels (Ortner et al. 2025, supplementary figure 1).

    Args:
        weights: [updates + 1, tasks, n_way, channels], target weights where ``decoded`` is given.
        decoded: what the hardware holds, same shape; its values beyond the largest target count in the last bin.
    Raises: ConfigError: another shape, no weight, or weights that are not finite.
    """
    named = {"weights" if decoded is None else "target": np.abs(np.asarray(weights, dtype=np.float64))}
    if decoded is not None:
        named["on the hardware"] = np.abs(np.asarray(decoded, dtype=np.float64))
    first = next(iter(named.values()))
    for name, w in named.items():
        if w.ndim != 4 or w.shape != first.shape or not w.size or not np.isfinite(w).all():
            raise ConfigError(
                f"{name}: a histogram needs finite weights [updates + 1, tasks, n_way, channels], got {w.shape}"
                + ("" if w.shape == first.shape else f" beside {first.shape}")
            )
    largest = float(first.max()) or 1.0
    edges = np.linspace(0, 1, 6)
    panels, columns = len(first), min(5, len(first))
    rows = -(-panels // columns)
    figure = Figure(figsize=(WIDTH, 0.85 + 1.75 * rows))
    grid: NDArray[Any] = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for k, ax in enumerate(grid.flat):
        if k >= panels:
            ax.axis("off")
            continue
        wide = 0.17 / len(named)
        for i, ((name, all_w), (colour, dashes, _)) in enumerate(zip(named.items(), SERIES, strict=False)):
            w = np.sort(np.minimum(all_w[k].ravel() / largest, 1.0))
            share = 100 * np.histogram(w, edges)[0] / len(w)
            ax.bar(
                edges[:-1] + 0.015 + (i + 0.5) * wide,
                share,
                0.94 * wide,
                color=colour,
                alpha=0.75,
                label=name,
            )
            at = np.linspace(0, 1, 201)
            rank = 100 * np.searchsorted(w, at, side="right") / len(w)
            ink = "black" if len(named) == 1 else colour
            ax.plot(at, rank, color=ink, ls=dashes, lw=1.2, label=f"{name}, cumulative")
        ax.set_title("before" if k == 0 else f"after update {k}", fontweight="normal", loc="center")
        ax.set(xlim=(0, 1.02), ylim=(0, 103))
        ax.set_xticks(edges, ["0", ".2", ".4", ".6", ".8", "1"])
        ax.grid(axis="x", visible=False)
    for ax in grid[:, 0]:
        ax.set_ylabel("share of weights (%)")
    for ax in grid.flat[max(0, panels - columns) : panels]:
        ax.set_xlabel("|w| / largest |w|")
        ax.tick_params(labelbottom=True)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=4)
    n = first[0].size
    return finish(
        figure,
        "Read-out weights in five equal bins of |w| (bars) and their cumulative distribution (line), before and after "
        f"each update; n = {n:,} weights a panel ({_count(first.shape[1], 'task')} x {first.shape[2]} classes x "
        f"{first.shape[3]} channels); largest |w| {largest:.3g}" + (f"; {setting}." if setting else "."),
        f"{panels} histograms of |w|. Share in the lowest of five bins: "
        + ", ".join(f"{100 * np.mean(w / largest < 0.2):.0f} %" for w in first)
        + " before and after each update",
    )


@styled
def loss_curves(runs: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]], *, setting: str = "") -> Figure:
    """Loss and accuracy over the steps of meta-training, several runs in one picture (the paper's figure 3f).

    Args:
        runs: by label, ``{"history": [{step, loss, accuracy}], "validation": [{step, accuracy, ci95}]}`` (a training
            state's ``progress()``). Thin lines are the history as it is, heavy ones its running mean; points are the
            accuracy on held-out alphabets with 95 % intervals.
    Raises: ConfigError: no run, or a run without history.
    """
    if not runs:
        raise ConfigError("no run to draw the loss of")
    for label, run in runs.items():
        if not run["history"]:
            raise ConfigError(f"run {label!r} has no history: not one step was recorded")
    figure = Figure(figsize=(WIDTH, 3.5))
    axes: Sequence[Axes] = figure.subplots(1, 2, gridspec_kw={"wspace": 0.06})
    lowest, highest, ends, windows, held_out = 100.0, 0.0, [], [], False
    for i, (label, run) in enumerate(runs.items()):
        colour, dashes, marker = SERIES[i % len(SERIES)]
        history, validation = run["history"], run.get("validation") or []
        steps = np.array([h["step"] for h in history], dtype=np.float64)
        loss = np.array([h["loss"] for h in history])
        accuracy = 100 * np.array([h["accuracy"] for h in history])
        window = max(1, len(steps) // 40)
        windows.append(f"{window} of them")
        for ax, values in zip(axes, (loss, accuracy), strict=True):
            if window > 1:
                ax.plot(steps, values, color=colour, lw=0.5, alpha=0.4, label="_raw")
            alone = marker if len(steps) == 1 else ""
            ax.plot(steps, running_mean(values, window), color=colour, ls=dashes, marker=alone, label=label)
        lowest, highest = min(lowest, accuracy.min()), max(highest, accuracy.max())
        end = f"{label}: loss {loss[-window:].mean():.3g}, training accuracy {accuracy[-window:].mean():.1f} %"
        if validation:
            held_out = True
            held = 100 * np.array([v["accuracy"] for v in validation])
            half = 100 * np.array([v["ci95"] or 0.0 for v in validation])
            axes[1].errorbar(
                [v["step"] for v in validation],
                held,
                half,
                color=colour,
                marker=marker,
                ls="none",
                lw=0.9,
                capsize=2,
                mec="white",
                mew=0.6,
                ms=5.5,
                label=f"{label}, held out",
            )
            lowest, highest = min(lowest, held.min()), max(highest, held.max())
            end += f", held-out accuracy {percent(validation[-1]['accuracy'], validation[-1]['ci95'])}"
        ends.append(end)
    axes[0].set(yscale="log", ylabel="loss on queries (cross-entropy, nats)")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].yaxis.set_minor_locator(NullLocator())
    log_error_axis(axes[1], max(0.0, 100 - 1.15 * (100 - lowest)), 100 - max(0.8 * (100 - highest), 0.01))
    axes[1].set(ylabel="accuracy (%), log scale of the error")
    for ax in axes:
        ax.set_xlabel("meta-training step (outer updates)")
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        ax.legend(loc="upper right" if ax is axes[0] else "lower right")
    return finish(
        figure,
        "Loss and accuracy on the queries of the training tasks. Thin: means over some steps, as recorded; heavy: "
        f"running mean of {' and '.join(dict.fromkeys(windows))}"
        + (". Points: accuracy on alphabets held out, with 95 % intervals over tasks" if held_out else "")
        + (f". {setting}." if setting else "."),
        "Two line charts over meta-training, loss and accuracy. At the end: " + "; ".join(ends),
    )


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred mean over ``window`` values, fewer at the ends: same length."""
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


@styled
def character_sheet(sets: Mapping[str, CharacterSet], rows: int = 8, columns: int = 10, seed: int = 0) -> Figure:
    """Characters by drawings, several sources side by side: made-up glyphs beside real handwriting.

    Args: rows: characters of each set, drawn at random by ``seed``; columns: drawings of each.
    Raises: ConfigError: nothing to draw.
    """
    if not sets or min(rows, columns) < 1:
        raise ConfigError(f"a sheet needs a set, a row and a column, got {len(sets)}, {rows} and {columns}")
    cell = 31
    ratio = rows / (columns * len(sets))
    figure = Figure(figsize=(WIDTH, 0.62 + 0.965 * WIDTH * ratio))
    grid: NDArray[Any] = figure.subplots(1, len(sets), squeeze=False)
    for ax, (label, characters) in zip(grid[0], sets.items(), strict=True):
        canvas: Images = np.ones((rows * cell, columns * cell), dtype=np.float32)
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(characters))[:rows]
        for row, c in enumerate(chosen):
            drawings = characters.starts[c] + rng.permutation(characters.counts[c])[:columns]
            for column, image in enumerate(characters.images[drawings].numpy() * characters.scale):
                top, left = row * cell + 1, column * cell + 1
                canvas[top : top + 28, left : left + 28] = image
        ax.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(label)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[:].set(visible=True, color="#bbbbbb")
    about = "; ".join(f"{label}: {len(s)} characters of {len(s.alphabet_names)} alphabets" for label, s in sets.items())
    return finish(
        figure,
        f"Characters (rows) by their drawings (columns), 28 x 28 pixels as the network sees them. {about}. Rows "
        f"drawn at random, seed {seed}.",
        f"Sheets of {rows} characters with {columns} drawings each: {', '.join(sets)}",
    )
