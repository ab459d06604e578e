"""How Ovonic's figures look and are kept: one style, captions and alternative texts inside the figure, whole files.

Colours are Okabe and Ito's, told apart under every common colour blindness; line styles and markers differ too, so that
a grey print stays readable. Nothing here touches pyplot, and a user's own matplotlibrc does not leak in.
"""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from ovonic import __version__
from ovonic.adapters.files import atomic_writer
from ovonic.models.errors import ConfigError, nearest

__all__ = [
    "HARDWARE",
    "MUTED",
    "SERIES",
    "SOFTWARE",
    "alt_text",
    "caption",
    "finish",
    "log_error_axis",
    "percent",
    "png",
    "save",
    "spread",
    "styled",
]

SOFTWARE, HARDWARE, MUTED = "#0072B2", "#D55E00", "#5f5f5f"
SERIES = (
    (SOFTWARE, "-", "o"),
    (HARDWARE, "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#56B4E9", (0, (5, 1)), "v"),
    ("#000000", (0, (1, 1)), "P"),
)
"""Colour, line style and marker of the first, second, .. line of a figure."""

STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "svg.hashsalt": "ovonic",
    "text.parse_math": False,
}
_METADATA = {".png": ("Software", "Comment"), ".svg": ("Creator", "Source"), ".pdf": ("Creator", "Keywords")}
"""Where a file of each kind names its maker and its command."""


def styled[**P](draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function under ``STYLE`` on matplotlib's defaults, then put the settings back.

    Ticks are made when a figure is first laid out: that happens here too, so that it looks the same everywhere.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style.context([STYLE], after_reset=True):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            return figure

    return drawn


def finish(figure: Figure, caption: str, alt: str) -> Figure:
    """Set the caption below the axes, wrapped to the figure's width, and keep the alternative text with the figure."""
    font = FontProperties(size=7)
    room = 72 * 0.96 * figure.get_figwidth()
    wrapper = textwrap.TextWrapper(width=int(room / 2), break_on_hyphens=False)
    while wrapper.width > 20 and any(_width(line, font) > room for line in wrapper.wrap(caption)):
        wrapper.width -= 2
    figure.supxlabel(wrapper.fill(caption), x=0.005, ha="left", fontsize=7, color="#333333", linespacing=1.35)
    figure.set_label(alt)
    return figure


def _width(line: str, font: FontProperties) -> float:
    """Width of a line of text, points."""
    return float(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0])


def caption(figure: Figure) -> str:
    """The caption of a figure as one line."""
    return " ".join(figure.get_supxlabel().split())


def alt_text(figure: Figure) -> str:
    """What a reader who does not see the figure should know."""
    return str(figure.get_label())


def save(figure: Figure, path: str | Path, *, command: str = "") -> Path:
    """Write a figure as PNG, SVG or PDF, by the suffix of ``path``: wholly or not at all.

    The file's metadata name Ovonic's version, the caption, and the command that makes the figure. Equal figures give
    equal files.

    Raises: ConfigError: another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _METADATA:
        raise ConfigError(f"{path.name}: figures are saved as {', '.join(_METADATA)}; {nearest(suffix, _METADATA)}")
    maker, made_by = _METADATA[suffix]
    about = {"Title": alt_text(figure), maker: _maker(), made_by: command or "unknown command"}
    about |= {"Subject": caption(figure)} if suffix == ".pdf" else {"Description": caption(figure)}
    undated = {} if suffix == ".png" else {"Date" if suffix == ".svg" else "CreationDate": None}
    with atomic_writer(path) as file, style.context([STYLE], after_reset=True):
        figure.savefig(file, format=suffix[1:], metadata=about | undated)
    return path


def png(figure: Figure, *, dpi: int = 180) -> bytes:
    """A figure without its caption as PNG, for a page that sets the caption itself."""
    text = next(t for t in figure.texts if t.get_text() == figure.get_supxlabel())
    text.set_visible(False)
    text.set_in_layout(False)
    file = io.BytesIO()
    try:
        with style.context([STYLE], after_reset=True):
            about = {"Software": _maker()}
            figure.savefig(file, format="png", dpi=dpi, metadata=about, bbox_inches="tight", pad_inches=0.06)
    finally:
        text.set_visible(True)
        text.set_in_layout(True)
    return file.getvalue()


def _maker() -> str:
    return f"Ovonic {__version__}, matplotlib {matplotlib.__version__}"


def percent(mean: float, half: float | None = None, *, short: bool = False) -> str:
    """``"97.9 ± 0.3 %"`` of a share in 0..1 and its half-width (``short``: without the sign)."""
    digits = 2 if half is not None and 0 < half < 0.001 else 1
    text = f"{100 * mean:.{digits}f}" + ("" if half is None else f" ± {100 * half:.{digits}f}")
    return text if short else text + " %"


def log_error_axis(axes: Axes, worst: float, best: float) -> Callable[[ArrayLike], NDArray[np.float64]]:
    """Space a y axis of accuracies (%) by the logarithm of the error, so that 98 and 99 lie as far apart as 80 and 90.

    Args: worst, best: ends of the axis, %, ``best < 100``; ``worst`` is lowered to twice the error of ``best``.
    Returns: the map from accuracies to their height on the axis, 0..1 (values past ``best`` come to lie on it).
    """
    floor = 100.0 - best
    worst = min(worst, 100.0 - 2 * floor)

    def forward(accuracy: ArrayLike) -> NDArray[np.float64]:
        return -np.log10(np.maximum(100.0 - np.asarray(accuracy, dtype=np.float64), floor))

    def inverse(height: ArrayLike) -> NDArray[np.float64]:
        return 100.0 - 10.0 ** -np.asarray(height, dtype=np.float64)

    axes.set_yscale("function", functions=(forward, inverse))
    low, high = forward([worst, best])
    nice = [0, 20, 40, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99]
    ticks: list[float] = []
    for tick in (t for t in nice if worst <= t <= best):
        if not ticks or forward(tick) - forward(ticks[-1]) > 0.055 * (high - low):
            ticks.append(tick)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(worst, best)
    return lambda accuracy: (forward(accuracy) - low) / (high - low)


def spread(wanted: ArrayLike, gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Move labels apart: the places nearest to ``wanted`` (least squares) that lie ``gap`` or more from one another.

    Pool-adjacent-violators on the sorted heights; order is kept. Where the labels do not fit between ``low`` and
    ``high`` at that gap, they are spaced evenly.
    """
    heights = np.asarray(wanted, dtype=np.float64)
    n = len(heights)
    if n < 2:
        return np.clip(heights, low, high)
    gap = min(gap, (high - low) / (n - 1))
    order = np.argsort(heights, kind="stable")
    blocks: list[tuple[float, int]] = []
    for i, height in enumerate(heights[order]):
        mean, size = float(height) - i * gap, 1
        while blocks and blocks[-1][0] >= mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    pooled = np.concatenate([np.full(size, mean) for mean, size in blocks])
    placed = np.empty(n)
    placed[order] = np.clip(pooled, low, high - (n - 1) * gap) + gap * np.arange(n)
    return placed
