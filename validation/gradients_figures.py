"""The figures of ``ovonic validate eprop``: how far references are from the rule, and what the rule leaves out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ovonic.validation.figure_style import HARDWARE, SERIES, finish, styled
from ovonic.validation.figures import WIDTH
from ovonic.validation.gradients import END_TO_END, TOLERANCE, Agreement, Bptt

__all__ = ["agreement_figure", "bptt_figure"]


@styled
def agreement_figure(found: Sequence[Agreement], *, setting: str = "") -> Figure:
    """The relative difference of every weight's gradient from each reference, beside the tolerance."""
    references = list(dict.fromkeys(a.reference for a in found))
    figure = Figure(figsize=(WIDTH, 1.3 + 0.32 * len(references)))
    axes = figure.add_subplot()
    worst = {}
    for row, reference in enumerate(references):
        gaps = [gap for a in found if a.reference == reference for gap in a.by_weight.values()]
        worst[reference] = max(gaps, default=float("nan"))
        colour, _, marker = SERIES[3 if reference in END_TO_END else 0]
        shifts = np.linspace(-0.18, 0.18, max(len(gaps), 1))
        axes.plot(np.maximum(gaps, 1e-17), row + shifts[: len(gaps)], marker, ms=3, color=colour, alpha=0.6)
    axes.axvline(TOLERANCE, color=HARDWARE, ls="--")
    axes.set(xscale="log", xlim=(5e-18, 1e-8), xlabel="largest difference / largest gradient, of each matrix")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.set_yticks(range(len(references)), references)
    axes.invert_yaxis()
    said = ", ".join(f"{name} {gap:.1e}" for name, gap in worst.items())
    return finish(
        figure,
        "Every gradient matrix of every episode, from each reference (a zero is drawn at 1e-17). "
        "Dashed: the tolerance. "
        "Diamonds: our rule on another toolchain's trace, an end-to-end check, not another rule. " + setting,
        f"Relative differences of gradients from the references; the largest: {said}.",
    )


@styled
def bptt_figure(found: Sequence[Bptt], *, setting: str = "") -> Figure:
    """Cosine and relative difference to the full gradient over the length of the sequence, one line a size."""
    figure = Figure(figsize=(WIDTH, 2.9))
    left, right = figure.subplots(1, 2)
    sizes, lengths = (sorted({getattr(b, key) for b in found}) for key in ("neurons", "steps"))
    said = []
    for (colour, dashes, marker), size in zip(SERIES, sizes, strict=False):
        for axes, key in ((left, "cosine"), (right, "difference")):
            values = [[getattr(b, key) for b in found if (b.neurons, b.steps) == (size, n)] for n in lengths]
            means = [float(np.mean(v)) for v in values]
            for n, several in zip(lengths, values, strict=True):
                axes.plot([n] * len(several), several, marker, color=colour, ms=2.5, alpha=0.4)
            axes.plot(lengths, means, marker=marker, color=colour, ls=dashes, label=f"{size} neurons")
            said.append(f"{key} at {size} neurons {means[0]:.2f} to {means[-1]:.2f}")
    left.set(title="Cosine", ylim=(None, 1.0), ylabel="e-prop and full gradient")
    right.set(title="|e-prop - full| / |full|", ylim=(0, None))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="steps")
        axes.set_xticks(lengths, [str(n) for n in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
    left.legend(loc="best")
    seeds = len({b.seed for b in found})
    return finish(
        figure,
        "What e-prop leaves out: its gradient of input and recurrent weights beside backpropagation through time, "
        f"{seeds} random LIF networks a point (faint), their mean (line). {setting}",
        "E-prop beside the full gradient: " + "; ".join(said),
    )
