"""Pen strokes to pixels: strokes as chains of arcs, drawn at 105 x 105 in 1 bit and resampled as Omniglot is.

A stroke is a chain of segments; segment k starts with heading h_k and turns by w_k over its length l_k,

    p(s) = p_k + integral_0^s (cos, sin)(h_k + w_k s' / l_k) ds'   (y points down, as rows do),

so a line has w = 0, an arc any w, a closed loop w = +-2 pi, a corner a heading that does not continue the last one.
Strokes attach to a point of an earlier stroke or stand alone: the relations of Lake, Salakhutdinov and Tenenbaum,
Human-level concept learning through probabilistic program induction, Science 350 (2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CANVAS", "POINTS", "SEGMENTS", "STROKES", "Characters", "rasterise", "resample", "trace"]

STROKES, SEGMENTS, POINTS = 6, 6, 10
"""Most strokes a character, most segments a stroke, points a segment."""

CANVAS = 105
"""Side of an Omniglot image, pixels."""

_EDGE = 3  # pixels kept free for the pen around the outermost point

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Characters:
    """C characters (or drawings of them), lengths in units of a character's height, angles in rad.

    Attributes:
        length, heading, turn: of each segment, [C, STROKES, SEGMENTS]; an unused segment has length 0.
        stretch: vertical over horizontal scale of each stroke, [C, STROKES].
        parent: the stroke that each stroke attaches to, [C, STROKES] int; -1 for the first.
        at_parent, at_self: the points that touch, as indices of points along the strokes, [C, STROKES].
        offset: displacement of the one from the other, [C, STROKES, 2].
    """

    length: Floats
    heading: Floats
    turn: Floats
    stretch: Floats
    parent: NDArray[np.int64]
    at_parent: Floats
    at_self: Floats
    offset: Floats


def trace(c: Characters) -> Floats:
    """Follow the pen: points [C, STROKES, SEGMENTS * POINTS + 1, 2] as (x, y), character units."""
    s = (np.arange(POINTS, dtype=np.float32) + 0.5) / POINTS
    angle = c.heading[..., None] + c.turn[..., None] * s
    step = (c.length / POINTS)[..., None]
    n, last = len(c.length), SEGMENTS * POINTS
    points = np.zeros((n, STROKES, last + 1, 2), np.float32)
    np.cumsum((step * np.cos(angle)).reshape(n, STROKES, -1), axis=2, out=points[:, :, 1:, 0])
    np.cumsum((step * np.sin(angle)).reshape(n, STROKES, -1), axis=2, out=points[:, :, 1:, 1])
    points[..., 1] *= c.stretch[..., None]
    rows = np.arange(n)
    for j in range(STROKES):
        own = points[rows, j, np.clip(np.rint(c.at_self[:, j]), 0, last).astype(np.int64)]
        there = np.clip(np.rint(c.at_parent[:, j]), 0, last).astype(np.int64)
        target = points[rows, np.maximum(c.parent[:, j], 0), there] * (c.parent[:, j] >= 0)[:, None]
        points[:, j] += (target + c.offset[:, j] - own)[:, None]
    return points


def rasterise(points: Floats, pen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draw polylines: [N, STROKES, P, 2] in pixels to ink [N, CANVAS, CANVAS], 1 where the pen passed.

    Args:
        pen: width of each drawing's pen, [N]: 4, 5 (Omniglot's own: a 5 x 5 dot without its corners) or 6 pixels.
    A stroke of no length leaves no ink.
    """
    n = len(points)
    start, edge = points[:, :, :-1].reshape(-1, 2), np.diff(points, axis=2).reshape(-1, 2)
    steps = np.ceil(np.abs(edge).max(axis=1)).astype(np.int64)
    kept = np.flatnonzero(steps)
    start, edge, steps = start[kept], edge[kept], steps[kept]
    which = np.repeat(np.arange(len(kept)), steps)
    fraction = (np.arange(len(which)) - np.repeat(np.cumsum(steps) - steps, steps)) / np.repeat(steps, steps)
    dots = np.rint(start[which] + edge[which] * fraction[:, None].astype(np.float32)).astype(np.int64)
    np.clip(dots, _EDGE, CANVAS - 1 - _EDGE, out=dots)
    drawing = (kept // (points.shape[1] * (points.shape[2] - 1)))[which]
    line = np.zeros((n, CANVAS, CANVAS), np.uint8)
    line.reshape(-1)[(drawing * CANVAS + dots[:, 1]) * CANVAS + dots[:, 0]] = 1
    ink = np.zeros_like(line)
    for width in np.unique(pen):
        of = pen == width
        ink[of] = _dilate(line[of], int(width))
    return ink


def _dilate(line: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Widen a one-pixel line: the union of a (w - 2) x w and a w x (w - 2) rectangle."""
    low, high = (width - 1) // 2, width // 2
    wide = _run(_run(line, 1, low, high), 2, low - 1, high - 1)
    wide |= _run(_run(line, 1, low - 1, high - 1), 2, low, high)
    return wide


def _run(image: NDArray[np.uint8], axis: int, low: int, high: int) -> NDArray[np.uint8]:
    """OR of the image shifted by -low..high along an axis (the border is free of ink, so wrapping is harmless)."""
    flat = image.reshape(-1)
    stride = CANVAS if axis == 1 else 1
    out = flat.copy()
    for shift in range(-low, high + 1):
        d = shift * stride
        if d > 0:
            out[d:] |= flat[:-d]
        elif d < 0:
            out[:d] |= flat[-d:]
    return out.reshape(image.shape)


def resample(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resample 1-bit ink [N, 105, 105] to levels [N, 28, 28] of paper in 0..64, as Omniglot is resampled.

    Bilinear with half-pixel centres and no antialiasing: output i reads source coordinate 3.75 i + 1.375, whose
    weights are k/8 along each axis, so k/64 in all.
    """
    source = 3.75 * np.arange(28) + 1.375
    low = source.astype(np.int64)
    weight = ((source - low) * 8).astype(np.uint8)
    rows = ink[:, low] * (8 - weight)[:, None] + ink[:, low + 1] * weight[:, None]
    return 64 - (rows[:, :, low] * (8 - weight) + rows[:, :, low + 1] * weight)
