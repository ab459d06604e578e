"""Which MVMs a layout needs: what one of them reads, and what an inference costs.

Blocks of layers that are read together share an MVM where they lie on one array, each driven row carries one signal,
each converted column gives one sum at one scale, and no other weight lies where a driven row meets a read column.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ovonic.adapters.crossbar import Block, Layout

__all__ = ["Cost", "Read", "cost", "reads"]


class Read(NamedTuple):
    """One MVM.

    array: its number; blocks: what is read; rows, columns: of the array, from the first to the last that is driven or
    converted; inputs: see ``crossbar.INPUTS``; phases: of the MVM.
    """

    array: int
    blocks: tuple[Block, ...]
    rows: slice
    columns: slice
    inputs: str
    phases: int

    @property
    def conversions(self) -> int:
        """Columns that are converted."""
        return len({column for block in self.blocks for column in range(block.columns.start, block.columns.stop)})


class Cost(NamedTuple):
    """What layers that are read together cost in an inference.

    layers: their names. mvms, phases: over all arrays. conversions: of the ADCs, all phases of an MVM as one.
    in_sequence: MVMs that follow one another, on the busiest array, where arrays work in parallel.
    """

    layers: tuple[str, ...]
    mvms: int
    phases: int
    conversions: int
    in_sequence: int


def reads(layout: Layout, group: tuple[str, ...]) -> tuple[Read, ...]:
    """The MVMs that give the products of layers read together, once each."""
    blocks = [block for name in group for block in layout.blocks_of(name)]
    found = []
    for array in sorted({block.array for block in blocks}):
        here = sorted((b for b in blocks if b.array == array), key=lambda b: (b.row, b.column))
        foreign = [block for block in layout.blocks if block.array == array]
        bundles: list[list[Block]] = [here] if _one_read(layout, here, foreign) else []
        for block in () if bundles else here:
            home = next((bundle for bundle in bundles if _one_read(layout, [*bundle, block], foreign)), None)
            if home is None:
                bundles.append([block])
            else:
                home.append(block)
        found += [_read(layout, array, bundle) for bundle in bundles]
    return tuple(found)


def cost(layout: Layout, group: tuple[str, ...], steps: int) -> Cost:
    """What an inference of so many steps costs; a read-out that lags needs MVMs after the last step."""
    layers = [layout.layer(name) for name in group]
    after = max((layer.lag for layer in layers if layer.kind != "recurrence"), default=0)
    times = steps * max(layer.vectors for layer in layers) + after
    each = reads(layout, group)
    busiest = max(len(list(one)) for _, one in itertools.groupby(each, key=lambda read: read.array))
    return Cost(
        group,
        times * len(each),
        times * sum(read.phases for read in each),
        times * sum(read.conversions for read in each),
        times * busiest,
    )


def _read(layout: Layout, array: int, blocks: list[Block]) -> Read:
    layers = [layout.layer(block.layer) for block in blocks]
    kinds = {layer.inputs for layer in layers}
    return Read(
        array,
        tuple(blocks),
        slice(min(b.rows.start for b in blocks), max(b.rows.stop for b in blocks)),
        slice(min(b.columns.start for b in blocks), max(b.columns.stop for b in blocks)),
        next(kind for kind in ("signed", "unsigned", "binary") if kind in kinds),
        max(layer.phases for layer in layers),
    )


def _one_read(layout: Layout, blocks: list[Block], foreign: list[Block]) -> bool:
    for one, other in itertools.combinations(blocks, 2):
        a, b = layout.layer(one.layer), layout.layer(other.layer)
        here, there = (a.reads, one.row - one.in_start), (b.reads, other.row - other.in_start)
        if _meet(one.rows, other.rows) and here != there:
            return False
        if _meet(one.columns, other.columns):
            if (a.feeds, one.column - one.out_start) != (b.feeds, other.column - other.out_start):
                return False
            first, last = max(one.out_start, other.out_start), min(one.out_stop, other.out_stop)
            if not np.allclose(a.scale()[first:last], b.scale()[first:last], rtol=1e-12, atol=0):
                return False
    others = [block for block in foreign if block not in blocks]
    return not any(
        _meet(row.rows, other.rows) and _meet(column.columns, other.columns)
        for other in others
        for row in blocks
        for column in blocks
    )


def _meet(one: slice, other: slice) -> bool:
    return bool(one.start < other.stop and other.start < one.stop)
