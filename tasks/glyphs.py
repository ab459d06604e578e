"""Glyphs: an endless, seeded source of handwriting-like characters, the data that Ovonic carries with it.

An alphabet has a style (how curved, how many strokes, how large) and a vocabulary of stroke primitives; a character
is a few strokes composed from the vocabulary, each attached to an earlier one or standing alone; twenty drawers copy
every character, each with a slant, size, aspect and pen of their own and an unsteady hand. The idea, types of strokes
and relations composed into characters and then drawn by different people, is that of Lake, Salakhutdinov and
Tenenbaum, Human-level concept learning through probabilistic program induction, Science 350 (2015), whose Omniglot
these glyphs imitate in size, pen and variation; none of its drawings is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ovonic.models.errors import ConfigError, nearest
from ovonic.tasks.characters import BILINEAR_SCALE, CharacterSet
from ovonic.tasks.glyph_strokes import CANVAS, POINTS, SEGMENTS, STROKES, Characters, rasterise, resample, trace

__all__ = ["GLYPH_SPLITS", "glyph_alphabets", "glyph_split"]

GLYPH_SPLITS: dict[str, range] = {"test": range(0, 20), "validation": range(20, 40), "train": range(100, 200)}
"""Alphabet numbers of each split: disjoint, and training has room to grow beyond its default end."""


def glyph_split(split: str, seed: int = 0, *, count: int | None = None) -> CharacterSet:
    """The glyphs of a named split: ``"train"``, ``"validation"`` or ``"test"``, of disjoint alphabets.

    Args:
        count: number of alphabets from the split's first on; by default all of ``GLYPH_SPLITS``. Only ``"train"``
            can grow beyond its default end.
    Raises: ConfigError: no such split, or more alphabets than the split has.
    """
    if split not in GLYPH_SPLITS:
        raise ConfigError(f"no glyph split {split!r}: {nearest(split, GLYPH_SPLITS)}")
    numbers = GLYPH_SPLITS[split]
    if count is not None and split != "train" and count > len(numbers):
        raise ConfigError(f"the glyph split {split!r} has {len(numbers)} alphabets, not {count}")
    return glyph_alphabets(numbers.start, len(numbers) if count is None else count, seed=seed)


def glyph_alphabets(
    first: int, count: int, *, seed: int = 0, characters: int | None = None, drawers: int = 20
) -> CharacterSet:
    """Draw the alphabets ``first .. first + count - 1`` of the endless stream that ``seed`` names.

    Alphabet i depends on (seed, i, characters, drawers) alone, so any slice of the stream is reproducible.

    Args:
        characters: characters an alphabet; by default each alphabet has its own number, 20 to 45.
        drawers: drawings of each character, one by each drawer.
    Returns: levels 0..64 at ``BILINEAR_SCALE``; alphabets ``"glyph-00017"``, characters ``"character01"``.
    Raises: ConfigError: a negative number, or nothing to draw.
    """
    if min(first, seed) < 0:
        raise ConfigError(f"alphabets and seeds are counted from 0, got first {first}, seed {seed}")
    if min(count, drawers, 1 if characters is None else characters) < 1:
        raise ConfigError(
            f"nothing to draw: {count} alphabets, {characters} characters and {drawers} drawers (each at least 1)"
        )
    images, alphabets, names = [], [], []
    for number in range(first, first + count):
        levels = _draw_alphabet(np.random.default_rng([seed, number]), characters, drawers)
        images.append(levels.reshape(-1, 28, 28))
        alphabets += [f"glyph-{number:05d}"] * len(levels)
        names += [f"character{c + 1:02d}" for c in range(len(levels))]
    return CharacterSet(
        images=torch.from_numpy(np.concatenate(images)),
        counts=np.full(len(names), drawers, dtype=np.int64),
        alphabets=tuple(alphabets),
        names=tuple(names),
        source=f"glyphs:{first}-{first + count - 1}:seed{seed}",
        scale=BILINEAR_SCALE,
    )


@dataclass(frozen=True)
class _Style:
    """What the characters of one alphabet share.

    Attributes:
        vocabulary: stroke primitives, each a list of segments (length, heading, turn).
        usage: how often each primitive is used, sums to 1.
        strokes: mean number of strokes beyond the first; chain: chance that a stroke goes on by another primitive.
        attach: probabilities of a new stroke's relation: independent, at a start, at an end, along.
        repeat: chance that a stroke copies an earlier one of its character.
    """

    vocabulary: list[list[tuple[float, float, float]]]
    usage: NDArray[np.float64]
    strokes: float
    chain: float
    attach: NDArray[np.float64]
    repeat: float


_KINDS = ("line", "arc", "cup", "loop", "hook", "corner", "wave", "zigzag", "knot", "dot")
_KIND_WEIGHTS = np.array([6.0, 3.0, 3.0, 1.5, 2.5, 2.0, 1.5, 1.0, 1.0, 0.3])


def _style(rng: np.random.Generator) -> _Style:
    weights = rng.dirichlet(1.2 * _KIND_WEIGHTS)
    size = int(rng.integers(6, 15))
    vocabulary = [_primitive(rng, str(kind)) for kind in rng.choice(_KINDS, size=size, p=weights)]
    return _Style(
        vocabulary=vocabulary,
        usage=rng.dirichlet(np.full(size, 1.5)),
        strokes=float(rng.uniform(0.4, 2.2)),
        chain=float(rng.uniform(0.1, 0.6)),
        attach=rng.dirichlet([3.0, 1.5, 1.5, 4.0]),
        repeat=float(rng.uniform(0.0, 0.3)),
    )


def _primitive(rng: np.random.Generator, kind: str) -> list[tuple[float, float, float]]:
    """One stroke primitive as segments (length, heading, turn): units of a character's height, rad."""
    pi = np.pi
    heading = pi / 4 * rng.choice([0, 1, 2, 3, 4, 7], p=[0.32, 0.1, 0.34, 0.14, 0.05, 0.05]) + rng.normal(0, 0.12)
    side = rng.choice([-1.0, 1.0])
    size = np.exp(rng.normal(-0.5, 0.35))
    free = rng.uniform(0, 2 * pi)
    if kind == "line":
        return [(size, heading, side * abs(rng.normal(0, 0.06)))]
    if kind == "arc":
        return [(size, heading, side * rng.uniform(0.4, 1.6))]
    if kind == "cup":
        return [(1.4 * size, free, side * rng.uniform(1.8, 4.2))]
    if kind == "loop":
        return [(2.2 * size, free, side * 2 * pi * rng.uniform(0.92, 1.08))]
    if kind == "hook":
        turn = side * rng.uniform(1.2, 3.5)
        segments = [(size, heading, 0.0), (size * rng.uniform(0.3, 0.9), heading, turn)]
        return segments if rng.random() < 0.6 else [(segments[1][0], heading - turn, turn), segments[0]]
    if kind == "corner":
        return [(size, heading, 0.0), (size * rng.uniform(0.4, 1.3), heading + side * rng.uniform(1.0, 2.5), 0.0)]
    if kind == "wave":
        turn = side * rng.uniform(1.2, 3.6)
        return [(0.8 * size, heading - turn / 2, turn), (0.8 * size, heading + turn / 2, -turn * rng.uniform(0.6, 1.2))]
    if kind == "zigzag":
        bend = side * rng.uniform(1.4, 2.6)
        n = int(rng.integers(3, 5))
        return [(0.6 * size, heading + bend * (k % 2), rng.normal(0, 0.3)) for k in range(n)]
    if kind == "knot":
        turn = side * rng.uniform(3.6, 5.2)
        return [(0.5 * size, heading, 0.0), (size, heading, turn), (0.5 * size, heading + turn, 0.0)]
    return [(0.03, heading, 0.0)]


def _compose(rng: np.random.Generator, style: _Style, n: int) -> Characters:
    """Compose the n characters of an alphabet from its vocabulary."""
    segments = np.zeros((n, STROKES, SEGMENTS, 3), np.float32)
    stretch = np.exp(rng.normal(0, 0.15, (n, STROKES))).astype(np.float32)
    parent = np.full((n, STROKES), -1, np.int64)
    at_parent = np.zeros((n, STROKES), np.float32)
    at_self = np.zeros((n, STROKES), np.float32)
    offset = np.zeros((n, STROKES, 2), np.float32)
    for c in range(n):
        strokes = min(1 + rng.poisson(style.strokes), STROKES)
        used: list[int] = []
        for j in range(strokes):
            relation = rng.choice(4, p=style.attach)
            other = int(rng.integers(j)) if j else 0
            if j and rng.random() < style.repeat:
                segments[c, j], stretch[c, j] = segments[c, other], stretch[c, other]
                chain_length = used[other]
                relation = 0
            else:
                chain = _chain(rng, style, alone=strokes == 1)
                chain_length = len(chain)
                segments[c, j, :chain_length] = chain
            used.append(chain_length)
            if j == 0:
                continue
            parent[c, j] = other
            end = used[other] * POINTS
            at_parent[c, j] = (0.5 * end, 0.0, end, end * rng.choice([0.25, 0.5, 0.75, rng.random()]))[relation]
            at_self[c, j] = used[j] * POINTS * rng.choice([0.0, 0.5, 1.0], p=[0.6, 0.28, 0.12])
            if relation == 0:
                at_self[c, j] = 0.5 * used[j] * POINTS
                direction = rng.choice(4) * np.pi / 2 + rng.normal(0, 0.25)
                offset[c, j] = rng.uniform(0.2, 0.6) * np.array([np.cos(direction), np.sin(direction)])
    length, heading, turn = np.moveaxis(segments, -1, 0)
    return Characters(length, heading, turn, stretch, parent, at_parent, at_self, offset)


def _chain(rng: np.random.Generator, style: _Style, alone: bool) -> list[tuple[float, float, float]]:
    """One stroke: primitives one after another; a lone stroke is longer."""
    chain: list[tuple[float, float, float]] = []
    more = max(style.chain, 0.55) if alone else style.chain
    while not chain or (rng.random() < more and len(chain) < SEGMENTS):
        primitive = style.vocabulary[rng.choice(len(style.usage), p=style.usage)]
        turn_to = 0.0
        if chain and rng.random() < 0.4:  # go on smoothly: turn the primitive to the heading reached
            turn_to = chain[-1][1] + chain[-1][2] - primitive[0][1]
        scale = float(np.exp(rng.normal(0, 0.2)))
        chain += [(scale * length, heading + turn_to, turn) for length, heading, turn in primitive]
    return chain[:SEGMENTS]


def _draw_alphabet(rng: np.random.Generator, characters: int | None, drawers: int) -> NDArray[np.uint8]:
    """Invent an alphabet and let every drawer draw it: levels [characters, drawers, 28, 28]."""
    style = _style(rng)
    drawn_number = int(rng.integers(20, 46))
    n = drawn_number if characters is None else characters
    plan = _compose(rng, style, n)
    template = trace(plan).reshape(n, -1, 2)
    low, high = template.min(axis=1), template.max(axis=1)
    extent = (high - low).max(axis=1)
    pixels = np.clip(rng.normal(66, 6) + rng.normal(0, 9, n), 30, 90)  # a character's larger side
    scale = np.minimum(pixels / np.maximum(extent, 0.05), 110).astype(np.float32)
    hands = _copy(rng, plan, drawers)
    points = trace(hands).reshape(n, drawers, -1, 2) - ((low + high) / 2)[:, None, None]
    points *= scale[:, None, None, None]
    points = _move(rng, points)
    pen = np.broadcast_to(rng.choice([4, 5, 6], size=drawers, p=[0.08, 0.84, 0.08]), (n, drawers)).reshape(-1)
    ink = rasterise(points.reshape(n * drawers, STROKES, -1, 2), pen)
    return resample(ink).reshape(n, drawers, 28, 28)


def _copy(rng: np.random.Generator, plan: Characters, drawers: int) -> Characters:
    """Copy each character once a drawer with an unsteady hand: arrays grow from [C, ...] to [C * drawers, ...]."""

    def each(x: NDArray, sigma: float) -> NDArray:
        repeated = np.repeat(x, drawers, axis=0)
        if not sigma:
            return repeated
        unsteady = sigma * np.tile(np.exp(rng.normal(0, 0.35, drawers)), len(x)).astype(np.float32)
        noise = rng.standard_normal(repeated.shape, dtype=np.float32)
        return repeated + noise * unsteady.reshape(-1, *[1] * (x.ndim - 1))

    return Characters(
        length=np.repeat(plan.length, drawers, axis=0) * np.exp(each(np.zeros_like(plan.length), 0.13)),
        heading=each(plan.heading, 0.11),
        turn=each(plan.turn, 0.16) * (1 + each(np.zeros_like(plan.turn), 0.04)),
        stretch=np.repeat(plan.stretch, drawers, axis=0) * np.exp(each(np.zeros_like(plan.stretch), 0.08)),
        parent=np.repeat(plan.parent, drawers, axis=0),
        at_parent=each(plan.at_parent, 0.7),
        at_self=each(plan.at_self, 0.5),
        offset=each(plan.offset, 0.03),
    )


def _move(rng: np.random.Generator, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slant, scale, turn, bend and place the drawings [C, drawers, P, 2], pixels about 0, on the canvas."""
    n, drawers = points.shape[:2]

    def habit(person: float, drawing: float) -> NDArray[np.float32]:
        return (rng.normal(0, person, drawers) + rng.normal(0, drawing, (n, drawers))).astype(np.float32)[..., None]

    angle, slant = habit(0.03, 0.05), habit(0.08, 0.05)
    size, aspect = np.exp(habit(0.09, 0.07)), np.exp(habit(0.05, 0.06))
    x, y = points[..., 0], points[..., 1]
    for _ in range(2):  # a smooth bend: a long wave along a random direction
        way, phase = rng.uniform(0, 2 * np.pi, (2, n, drawers, 1)).astype(np.float32)
        wave = 1.6 * np.sin((np.cos(way) * x + np.sin(way) * y) * np.float32(2 * np.pi / 70) + phase)
        to = rng.uniform(0, 2 * np.pi, (n, drawers, 1)).astype(np.float32)
        x, y = x + wave * np.cos(to), y + wave * np.sin(to)
    x, y = size * aspect * (x - slant * y), size / aspect * y
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    moved = np.stack([x + habit(2.5, 4.5), y + habit(2.5, 4.5)], axis=-1)
    low, high = moved.min(axis=2, keepdims=True), moved.max(axis=2, keepdims=True)
    room = CANVAS / 2 - 4
    shrink = np.minimum(1, 2 * room / np.maximum(high - low, 1))
    middle = (low + high) / 2
    half = (high - low) / 2 * shrink
    return (moved - middle) * shrink + np.clip(middle, half - room, room - half) + np.float32((CANVAS - 1) / 2)
