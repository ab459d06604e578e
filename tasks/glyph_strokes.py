"""Pen strokes to pixels: strokes as chains of arcs, drawn at 105 x 105 pixels in 1 bit, as Omniglot is.

A stroke is a chain of segments; segment k has length l_k, heading h_k and turns by w_k along its length,

    p(s) = p_k + l_k integral_0^s exp(i g(h_k + w_k s')) ds',   g(a) = a - q sin(4 a) / 4,

in the complex plane with y pointing down, as rows do: a line has w = 0, a closed loop w = +-2 pi, a corner a heading
that does not continue the last one. The hand's squareness q draws circles as boxes (q > 0) or diamonds (q < 0).
Strokes attach to earlier strokes or stand alone: the relations of Lake, Salakhutdinov and Tenenbaum, Human-level
concept learning through probabilistic program induction, Science 350 (2015); bridges between two strokes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CANVAS", "POINTS", "SEGMENTS", "STROKES", "Plan", "rasterise", "trace"]

STROKES, SEGMENTS, POINTS = 6, 8, 12
"""Most strokes a character, most segments a stroke, steps of the pen a segment."""

CANVAS = 105
"""Side of an Omniglot image, pixels."""

_BLOCK = 32  # drawings dilated at a time, so that they stay in the processor's cache
_EDGE = 3  # pixels kept free for the pen around the outermost point

Floats = NDArray[np.float32]
Complex = NDArray[np.complex64]


@dataclass(frozen=True, eq=False)
class Plan:
    """How N drawings are made, stroke by stroke: lengths in units of about a character's height, angles in rad.

    Attributes:
        length, heading, turn: of each segment, [N, STROKES, SEGMENTS]; an unused segment has length 0.
        stretch: vertical over horizontal scale of each stroke, [N, STROKES].
        square: squareness q of the hand, [N].
        parent: the stroke that each stroke attaches to, [N, STROKES] int64; -1 for none.
        at_parent, at_self: the points that touch, as step numbers along the two strokes, [N, STROKES].
        offset: displacement of one from the other, [N, STROKES] complex.
        bridge: a second stroke, that the stroke's end is pulled to, [N, STROKES] int64; -1 for none.
        at_bridge: the point of it, as a step number; steps: of each stroke, both [N, STROKES].
    """

    length: Floats
    heading: Floats
    turn: Floats
    stretch: Floats
    square: Floats
    parent: NDArray[np.int64]
    at_parent: Floats
    at_self: Floats
    offset: Complex
    bridge: NDArray[np.int64]
    at_bridge: Floats
    steps: NDArray[np.int64]


def trace(plan: Plan) -> Complex:
    """Follow the pen: points x + iy of every stroke, [N, STROKES, SEGMENTS * POINTS + 1], the plan's units."""
    n = len(plan.length)
    along = (np.arange(POINTS, dtype=np.float32) + 0.5) / POINTS
    angle = plan.heading[..., None] + plan.turn[..., None] * along
    angle -= (plan.square / 4)[:, None, None, None] * np.sin(4 * angle)
    step = (plan.length / POINTS)[..., None]
    points = np.zeros((n, STROKES, SEGMENTS * POINTS + 1), np.complex64)
    np.cumsum((step * np.cos(angle)).reshape(n, STROKES, -1), axis=2, out=points.real[..., 1:])
    np.cumsum((step * np.sin(angle)).reshape(n, STROKES, -1), axis=2, out=points.imag[..., 1:])
    points.imag *= plan.stretch[..., None]
    rows = np.arange(n)

    def at(stroke: NDArray[np.int64], step: Floats) -> Complex:
        steps = plan.steps[rows, stroke]
        return points[rows, stroke, np.clip(np.rint(step), 0, steps).astype(np.int64)]

    for j in range(STROKES):
        here = np.full(n, j)
        target = np.where(plan.parent[:, j] >= 0, at(plan.parent[:, j], plan.at_parent[:, j]), 0) + plan.offset[:, j]
        pulled = np.flatnonzero(plan.bridge[:, j] >= 0)
        if len(pulled):
            start, end = points[:, j, 0], at(here, plan.steps[:, j].astype(np.float32))
            goal = at(plan.bridge[:, j], plan.at_bridge[:, j])
            ratio = ((goal - target) / np.where(np.abs(end - start) > 1e-3, end - start, 1))[pulled]
            points[pulled, j] *= (ratio * np.minimum(1, 2.5 / np.maximum(np.abs(ratio), 1e-6)))[:, None]
        points[:, j] += (target - at(here, plan.at_self[:, j]))[:, None]
    return points


def rasterise(points: Complex, pen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draw polylines: pixels [N, STROKES, P] to ink [N, CANVAS, CANVAS], 1 where the pen passed.

    Args:
        pen: width of each drawing's pen, [N]: 4, 5 (Omniglot's own: a 5 x 5 dot without its corners) or 6 pixels.
    A stroke of no length leaves no ink.
    """
    n, strokes, number = points.shape
    start, edge = points[:, :, :-1].reshape(-1), np.diff(points, axis=2).reshape(-1)
    steps = np.ceil(np.maximum(np.abs(edge.real), np.abs(edge.imag))).astype(np.int64)
    kept = np.flatnonzero(steps)
    start, steps = start[kept], steps[kept]
    stride = edge[kept] / steps.astype(np.float32)
    first = np.cumsum(steps) - steps
    count = (np.arange(steps.sum()) - np.repeat(first, steps)).astype(np.float32)
    dots = np.repeat(start, steps) + np.repeat(stride, steps) * count
    pixels = np.clip(np.rint(dots.view(np.float32)).astype(np.int32), _EDGE, CANVAS - 1 - _EDGE).reshape(-1, 2)
    drawing = np.repeat((kept // (strokes * (number - 1))).astype(np.int32), steps)
    line = np.zeros((n, CANVAS, CANVAS), np.uint8)
    line.reshape(-1)[(drawing * CANVAS + pixels[:, 1]) * CANVAS + pixels[:, 0]] = 1
    ink = np.empty_like(line)
    for width in np.unique(pen):
        chosen = np.flatnonzero(pen == width)
        for block in np.array_split(chosen, range(_BLOCK, len(chosen), _BLOCK)):
            ink[block] = _dilate(line[block], int(width))
    return ink


def _dilate(line: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Widen a one-pixel line by a width x width dot without its corners."""
    low, high = (width - 1) // 2, width // 2
    ink = _run(_run(line, CANVAS, low, high), 1, low - 1, high - 1)
    ink |= _run(_run(line, CANVAS, low - 1, high - 1), 1, low, high)
    return ink


def _run(image: NDArray[np.uint8], stride: int, low: int, high: int) -> NDArray[np.uint8]:
    """OR of the image moved by -low..high pixels (the border is free of ink, so that nothing wraps)."""
    flat = image.reshape(-1)
    out = flat.copy()
    for d in range(1, high + 1):
        out[d * stride :] |= flat[: -d * stride]
    for d in range(1, low + 1):
        out[: -d * stride] |= flat[d * stride :]
    return out.reshape(image.shape)
