"""A figure of ratios with their intervals beside the margins that were fixed for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ovonic.validation.figure_style import HARDWARE, MUTED, SERIES, SOFTWARE, finish, styled
from ovonic.validation.figures import WIDTH

__all__ = ["Judged", "margin_figure"]


class Judged(NamedTuple):
    """A ratio, its 95 % interval (``high`` None: no upper end), and the margin that it is judged by."""

    label: str
    ratio: float
    low: float
    high: float | None
    margin: float


@styled
def margin_figure(rows: Sequence[Judged], *, setting: str = "") -> Figure:
    """Ratios of errors on hardware and in software, one a line, with intervals (bars) and margins (upright strokes)."""
    figure = Figure(figsize=(WIDTH, 1.1 + 0.3 * len(rows)))
    axes = figure.add_subplot()
    most = max([row.margin for row in rows] + [row.high or row.ratio for row in rows])
    for place, row in enumerate(rows):
        high = row.high if row.high is not None else 2 * most
        kept = SOFTWARE if high <= row.margin else HARDWARE if row.low > row.margin else SERIES[2][0]
        axes.plot([row.low, high], [place, place], color=kept, lw=2.2, solid_capstyle="butt")
        axes.plot([row.ratio], [place], "o", color=kept, ms=5)
        axes.plot([row.margin, row.margin], [place - 0.35, place + 0.35], color="#000000", lw=1.2)
    axes.axvline(1.0, color=MUTED, lw=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(0.9, *(row.low for row in rows)) / 1.03, 1.05 * most)
    ticks = [t for t in (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50) if t <= 1.05 * most]
    axes.set_xticks([t for t in ticks if t >= axes.get_xlim()[0]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("error on hardware ÷ in software")
    said = "; ".join(
        f"{row.label}: {row.ratio:.2f} ({row.low:.2f} to {'infinity' if row.high is None else f'{row.high:.2f}'}), "
        f"margin {row.margin:g}"
        for row in rows
    )
    undecided = sum(row.low <= row.margin < (math.inf if row.high is None else row.high) for row in rows)
    return finish(
        figure,
        "Error (loss) on simulated chips over that in software, with 95 % intervals over chips and tasks, and margins "
        f"(black strokes). Blue: kept; orange: not kept; green: not decided ({undecided} of {len(rows)}). {setting}",
        f"Ratios with intervals. {said}",
    )
