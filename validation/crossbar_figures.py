"""Pictures of crossbar arrays: where a layout's layers lie, and what the devices conduct."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator
from torch import Tensor

from ovonic.adapters.crossbar import Block, Layout
from ovonic.models.errors import ConfigError
from ovonic.validation.figure_style import MUTED, SERIES, finish, styled
from ovonic.validation.figures import WIDTH

__all__ = ["MOST", "conductance_figure", "layout_figure"]

MOST = 40
"""Arrays that are drawn; the caption says where there are more."""
ACROSS = 5
SHOWN = 0.99
HATCHES = ("", "////", "....", "xxxx")
SIZES = (7.0, 6.0, 5.0, 4.0)
"""Sizes of type that a label may have, the largest that fits."""


class _Panels(NamedTuple):
    """Axes of the drawn arrays and the side of the largest, inches."""

    axes: list[Axes]
    inches: float


@styled
def layout_figure(layout: Layout, *, setting: str = "") -> Figure:
    """The arrays with their blocks, coloured by layer; each names its layer and its part of the layer's matrix, where
    there is room. ``setting``: a line for the caption: what was placed.
    """
    figure, panels = _grid(layout, 0.55)
    looks = {layer.name: _look(k) for k, layer in enumerate(layout.layers)}
    for index, axes in enumerate(panels.axes):
        spec = layout.arrays[index]
        for block in layout.blocks:
            if block.array != index:
                continue
            colour, hatch = looks[block.layer]
            axes.add_patch(
                Rectangle(
                    (block.column, block.row), block.width, block.height,
                    facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.6,
                )
            )  # fmt: skip
            _label(axes, block, panels.inches / max(spec.rows, spec.columns), colour)
    names = {layer.name: f"{layer.name}, {layer.shape[0]} x {layer.shape[1]}" for layer in layout.layers}
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=names[name]) for name, (c, h) in looks.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 3))
    listed = "; ".join(names.values())
    alt = f"{layout.n_weights} weights on {len(layout.arrays)} arrays, {layout.fill:.1%} of their cells: {listed}."
    caption = (
        "Rows are wordlines (inputs), columns pairs of bitlines (outputs); in brackets the inputs and outputs of the "
        f"layer's matrix. {layout.n_weights} weights, {layout.fill:.1%} of all cells."
    )
    return finish(figure, _captioned(caption, layout, setting), alt)


@styled
def conductance_figure(layout: Layout, g: Sequence[Tensor], g_max_us: float, *, setting: str = "") -> Figure:
    """What each cell conducts for its weight, (G1+ + G2+) - (G1- + G2-), uS.

    Args: g: of every array, [4, rows, columns] or its used part, uS; g_max_us: full scale of one device.
    Raises: ConfigError: another number of arrays, or copies of them.
    """
    if len(g) != len(layout.arrays) or any(one.ndim != 3 for one in g):
        shapes = [tuple(one.shape) for one in g]
        raise ConfigError(f"conductances {shapes}: [4, rows, columns] of {len(layout.arrays)} arrays is due")
    figure, panels = _grid(layout, 0.35)
    differences = [(one[0] + one[2] - one[1] - one[3]).detach().cpu().numpy() for one in g]
    conducting = np.concatenate([np.abs(one[one != 0]) for one in differences])
    top = float(np.quantile(conducting, SHOWN)) if conducting.size else 2 * g_max_us
    scale = Normalize(-top, top)
    for axes, weight, spec in zip(panels.axes, differences, layout.arrays, strict=False):
        extent = 0.0, float(weight.shape[1]), float(weight.shape[0]), 0.0
        axes.imshow(weight, cmap="RdBu", norm=scale, interpolation="antialiased", extent=extent)
        axes.set(xlim=(0, spec.columns), ylim=(spec.rows, 0))
    bar = figure.colorbar(ScalarMappable(scale, "RdBu"), ax=panels.axes, shrink=0.6, aspect=30, pad=0.02, extend="both")
    bar.set_label("G+ − G− (µS)")
    alt = f"Conductances of {len(layout.arrays)} arrays: red cells hold negative weights, blue ones positive."
    caption = (
        f"Difference of the polarities of each cell; {2 * g_max_us:g} µS is full scale; {1 - SHOWN:.0%} of the "
        "conducting cells lie beyond the colours. Rows are wordlines (inputs), columns pairs of bitlines (outputs)."
    )
    return finish(figure, _captioned(caption, layout, setting), alt)


def _grid(layout: Layout, room: float) -> tuple[Figure, _Panels]:
    """A figure with a panel an array, ``room`` inches between the rows of panels."""
    shown = min(len(layout.arrays), MOST)
    across = min(shown, ACROSS) if shown > 4 else shown
    down = math.ceil(shown / across)
    side = min((WIDTH - 0.4 * across) / across, 4.2)
    figure = Figure(figsize=(WIDTH, down * (side + room) + 0.9))
    grid = figure.subplots(down, across, squeeze=False)
    axes = list(grid.flat)
    for index, one in enumerate(axes[:shown]):
        spec = layout.arrays[index]
        used = sum(block.height * block.width for block in layout.blocks if block.array == index)
        one.set_title(f"{spec.name}  {used / (spec.rows * spec.columns):.0%} full", fontsize=8 if across < 4 else 6.5)
        one.set(xlim=(0, spec.columns), ylim=(spec.rows, 0), aspect="equal")
        one.grid(False)
        for axis, size in ((one.xaxis, spec.columns), (one.yaxis, spec.rows)):
            axis.set_major_locator(FixedLocator([0, size]))
            axis.set_tick_params(labelsize=6, length=2)
        one.spines[["top", "right"]].set_visible(True)
        for spine in one.spines.values():
            spine.set_color(MUTED)
    for one in axes[shown:]:
        one.set_visible(False)
    return figure, _Panels(axes[:shown], side)


def _look(number: int) -> tuple[str, str]:
    """Colour and hatch of a layer."""
    return SERIES[number % len(SERIES)][0], HATCHES[number // len(SERIES) % len(HATCHES)]


def _label(axes: Axes, block: Block, scale: float, colour: str) -> None:
    """Name a block in the largest type that fits, upright or turned; ``scale``: inches a cell."""
    name = block.layer.removesuffix(".weight")
    place = f"[{block.in_start}:{block.in_stop}, {block.out_start}:{block.out_stop}]"
    width, height = block.width * scale, block.height * scale
    for text in (f"{name}\n{place}", name):
        longest, lines = max(map(len, text.split("\n"))), text.count("\n") + 1
        for size in SIZES:
            long, high = longest * 0.6 * size / 72, lines * 1.3 * size / 72
            turned = long > width
            if (high <= width and long <= height) if turned else high <= height:
                dark = sum(c * k for c, k in zip(to_rgb(colour), (0.3, 0.59, 0.11), strict=True)) < 0.55
                axes.text(
                    block.column + block.width / 2, block.row + block.height / 2, text,
                    ha="center", va="center", fontsize=size, rotation=90 if turned else 0, linespacing=1.2,
                    color="white" if dark else "black",
                )  # fmt: skip
                return


def _captioned(caption: str, layout: Layout, setting: str) -> str:
    more = f" The first {MOST} of {len(layout.arrays)} arrays." if len(layout.arrays) > MOST else ""
    return f"{setting}{' ' if setting else ''}{caption}{more}"
