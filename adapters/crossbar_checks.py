"""What makes a layout sound: every weight in exactly one cell, every cell of one weight, within the bounds.

Arrays and layers are checked one after the other on a grid of their own, which bounds memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ovonic.models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from ovonic.adapters.crossbar import ArraySpec, Block, Layout, PlacedLayer

__all__ = ["MAX_ARRAYS", "MAX_BLOCKS", "MAX_CELLS", "MAX_LAYERS", "MAX_SIDE", "MAX_WEIGHTS", "check"]

MAX_SIDE = 2**16
MAX_ARRAYS = 2**14
MAX_LAYERS = 2**14
MAX_BLOCKS = 2**16
MAX_CELLS = 2**26
MAX_WEIGHTS = 2**26
"""Bounds: rows or columns of an array, arrays, layers, blocks, cells in all, entries of a layer's matrix."""


def check(layout: Layout) -> None:
    """Raises: ConfigError: names cell and layer of the first fault (see ``Layout``)."""
    _bounded(layout)
    _unique("array", (array.name for array in layout.arrays))
    _unique("layer", (layer.name for layer in layout.layers))
    _known(layout)
    by_array: dict[int, list[Block]] = {}
    for block in layout.blocks:
        by_array.setdefault(block.array, []).append(block)
    for index, there in by_array.items():
        _no_overlap(layout.arrays[index], there)
    for layer in layout.layers:
        _each_once(layout, layer)
    _together(layout)


def _bounded(layout: Layout) -> None:
    cells = sum(array.rows * array.columns for array in layout.arrays)
    if cells > MAX_CELLS:
        raise ConfigError(f"{cells} cells in all: at most {MAX_CELLS}")


def _unique(kind: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise ConfigError(f"{kind} {name!r}: {times} {kind}s have this name")


def _known(layout: Layout) -> None:
    layers = {layer.name: layer for layer in layout.layers}
    for block in layout.blocks:
        if block.layer not in layers:
            raise ConfigError(f"block of layer {block.layer!r}: {nearest(block.layer, layers)}")
        where = f"layer {block.layer!r}, {block.weights}"
        if block.array >= len(layout.arrays):
            raise ConfigError(f"{where}: array {block.array} of {len(layout.arrays)}, counted from 0")
        array, (n_in, n_out) = layout.arrays[block.array], layers[block.layer].shape
        if block.in_stop > n_in or block.out_stop > n_out:
            raise ConfigError(f"{where}: the layer's matrix is {n_in} x {n_out}")
        if block.rows.stop > array.rows or block.columns.stop > array.columns:
            cell = f"cell ({block.rows.stop - 1}, {block.columns.stop - 1})"
            raise ConfigError(f"{where}: {cell} lies outside array {array.name!r} of {array.rows} x {array.columns}")


def _no_overlap(array: ArraySpec, there: list[Block]) -> None:
    if len(there) < 2:
        return
    owner = np.full((array.rows, array.columns), -1, np.int32)
    for number, block in enumerate(there):
        taken = owner[block.rows, block.columns]
        if (taken >= 0).any():
            i, j = np.argwhere(taken >= 0)[0]
            other = there[int(taken[i, j])]
            raise ConfigError(
                f"cell ({block.row + i}, {block.column + j}) of array {array.name!r} holds a weight of layer "
                f"{other.layer!r} ({other.weights}) and one of layer {block.layer!r} ({block.weights})"
            )
        taken[...] = number


def _each_once(layout: Layout, layer: PlacedLayer) -> None:
    blocks = layout.blocks_of(layer.name)
    due = np.zeros(layer.shape, np.bool_)
    for inputs, outputs in layer.parts:
        due[inputs, outputs] = True
    placed = np.zeros(layer.shape, np.bool_)
    for block in blocks:
        part, wanted = placed[block.inputs, block.outputs], due[block.inputs, block.outputs]
        if part.any():
            i, j = (int(x) for x in np.argwhere(part)[0] + (block.in_start, block.out_start))
            first = next(b for b in blocks if b.in_start <= i < b.in_stop and b.out_start <= j < b.out_stop)
            cells = f"{_cell(layout, first, i, j)} and again in {_cell(layout, block, i, j)}"
            raise ConfigError(f"layer {layer.name!r}: weight [{i}, {j}] lies in {cells}")
        if not wanted.all():
            i, j = (int(x) for x in np.argwhere(~wanted)[0] + (block.in_start, block.out_start))
            raise ConfigError(
                f"layer {layer.name!r}: {_cell(layout, block, i, j)} is placed for [{i}, {j}], which is no weight: a "
                f"convolution of {layer.groups} groups has none there"
            )
        part[...] = True
    if (placed != due).any():
        i, j = np.argwhere(placed != due)[0]
        missing = int((placed != due).sum())
        raise ConfigError(
            f"layer {layer.name!r}: weight [{i}, {j}] has no cell on any array ({missing} of its "
            f"{layer.n_weights} weights have none)"
        )


def _cell(layout: Layout, block: Block, i: int, j: int) -> str:
    row, column = block.row + i - block.in_start, block.column + j - block.out_start
    return f"cell ({row}, {column}) of array {layout.arrays[block.array].name!r}"


def _together(layout: Layout) -> None:
    _unique("layer read together", (name for group in layout.together for name in group))
    for group in layout.together:
        driven: dict[str, PlacedLayer] = {}
        summed: dict[str, PlacedLayer] = {}
        for layer in map(layout.layer, group):
            other = driven.setdefault(layer.reads, layer)
            mine, theirs = ((x.shape[0], x.lag, x.input_range, x.inputs) for x in (layer, other))
            if mine != theirs:
                raise ConfigError(
                    f"layers {other.name!r} and {layer.name!r}, read together: both read {layer.reads!r}, but with "
                    f"other inputs, lag or range: {theirs}, {mine}"
                )
            other = summed.setdefault(layer.feeds, layer)
            if layer.shape[1] != other.shape[1]:
                raise ConfigError(
                    f"layers {other.name!r} and {layer.name!r}, read together: both feed {layer.feeds!r}, with "
                    f"{other.shape[1]} and {layer.shape[1]} outputs"
                )
