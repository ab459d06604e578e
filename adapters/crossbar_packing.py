"""Rectangles on as few arrays as a simple rule finds, always the same way.

An array is filled from left to right with strips, as wide as the first rectangle in each; what is narrower may stand
below it. The widest and then the tallest come first; each goes to the first array with room for a new strip, else
below the first strip with room, else onto a new array. Strips that all begin at row 0 are driven by the same wordlines,
so that new strips come before stacking.

Parts of a matrix that is split by rows go on different arrays, which then work at the same time.

This is next-fit decreasing width with a memory of all strips (Lodi, Martello and Monaci 2002, European Journal of
Operational Research 141:241); the library rectpack (0.2) knows no such parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Place", "Rectangle", "cuts", "pack"]


class Rectangle(NamedTuple):
    """Rows and columns it takes; no two of the same ``apart`` (None aside) come to lie on one array."""

    height: int
    width: int
    apart: Hashable = None


class Place(NamedTuple):
    """Where a rectangle lies."""

    array: int
    row: int
    column: int


@dataclass
class _Strip:
    column: int
    width: int
    used: int


@dataclass
class _Array:
    strips: list[_Strip] = field(default_factory=list)
    apart: set[Hashable] = field(default_factory=set)

    @property
    def used(self) -> int:
        return sum(strip.width for strip in self.strips)


def cuts(size: int, most: int) -> list[slice]:
    """``size`` cut into the fewest parts of at most ``most``, as equal as they can be, the larger first."""
    parts = -(-size // most)
    least, more = divmod(size, parts)
    ends = [k * least + min(k, more) for k in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def pack(rectangles: Sequence[Rectangle], rows: int, columns: int) -> list[Place]:
    """The place of each rectangle, none larger than an array of rows x columns."""
    arrays: list[_Array] = []
    places: dict[int, Place] = {}
    order = sorted(range(len(rectangles)), key=lambda k: (-rectangles[k].width, -rectangles[k].height, k))
    for k in order:
        places[k] = _place(rectangles[k], arrays, rows, columns)
    return [places[k] for k in range(len(rectangles))]


def _place(rectangle: Rectangle, arrays: list[_Array], rows: int, columns: int) -> Place:
    height, width, apart = rectangle
    allowed = [(n, array) for n, array in enumerate(arrays) if apart is None or apart not in array.apart]
    for n, array in allowed:
        if array.used + width <= columns:
            return _beside(n, array, rectangle)
    for n, array in allowed:
        for strip in array.strips:
            if strip.width >= width and strip.used + height <= rows:
                place = Place(n, strip.used, strip.column)
                strip.used += height
                array.apart.add(apart)
                return place
    arrays.append(_Array())
    return _beside(len(arrays) - 1, arrays[-1], rectangle)


def _beside(number: int, array: _Array, rectangle: Rectangle) -> Place:
    place = Place(number, 0, array.used)
    array.strips.append(_Strip(array.used, rectangle.width, rectangle.height))
    array.apart.add(rectangle.apart)
    return place
