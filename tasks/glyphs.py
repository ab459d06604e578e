"""Glyphs: an endless, seeded source of handwriting-like characters, the data that Ovonic carries with it.

An alphabet has a style (how curved, how many strokes, how large) and a vocabulary of stroke primitives; a character
is a few strokes composed from the vocabulary, each attached to an earlier one or standing alone; twenty drawers copy
every character, each with a slant, size, aspect and pen of their own and an unsteady hand. The idea, types of strokes
and relations composed into characters and then drawn by different people, is that of Lake, Salakhutdinov and
Tenenbaum, Human-level concept learning through probabilistic program induction, Science 350 (2015), whose Omniglot
these glyphs imitate in size, pen and variation; none of its drawings is used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ovonic.adapters.images import bilinear_levels
from ovonic.models.errors import ConfigError, nearest
from ovonic.tasks.characters import BILINEAR_SCALE, CharacterSet
from ovonic.tasks.glyph_strokes import CANVAS, POINTS, SEGMENTS, STROKES, Plan, rasterise, trace

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


Segment = tuple[float, float, float]
"""(length, heading, turn) of one segment of a stroke."""


@dataclass(frozen=True)
class _Style:
    """What the characters of one alphabet share.

    Attributes:
        vocabulary: stroke primitives, each a list of segments; usage: how often each is used, sums to 1.
        strokes: mean number of strokes beyond the first; chain: chance that a stroke goes on by another primitive.
        relations: probabilities of a new stroke's place: independent, at a start, at an end, along, a bridge.
        detail: size of later strokes beside the first.
        repeat: chance that a stroke copies an earlier one of its character.
        kin: chance that a character grows from one of the alphabet's few roots (as Devanagari's hang from a bar).
        height: mean larger side of a character as it is meant, before any hand, pixels.
    """

    vocabulary: list[list[Segment]]
    usage: NDArray[np.float64]
    strokes: float
    chain: float
    relations: NDArray[np.float64]
    detail: float
    repeat: float
    kin: float
    height: float


_KINDS = {
    "line": 6.0,
    "arc": 2.5,
    "cup": 2.0,
    "loop": 1.2,
    "hook": 2.0,
    "corner": 2.5,
    "box": 1.2,
    "wave": 1.2,
    "arches": 1.5,
    "zigzag": 0.5,
    "knot": 1.0,
    "dot": 0.3,
}
"""Stroke primitives and how common they are; each alphabet draws its own mixture around these."""


def _style(rng: np.random.Generator) -> _Style:
    weights = rng.dirichlet(0.8 * np.array(list(_KINDS.values())))
    kinds = ["line", "line", *rng.choice(list(_KINDS), size=int(rng.integers(5, 15)), p=weights)]
    vocabulary = [_primitive(rng, kind) for kind in kinds]
    return _Style(
        vocabulary=vocabulary,
        usage=rng.dirichlet(np.full(len(kinds), 2.0)),
        strokes=float(rng.uniform(0.7, 2.6)),
        chain=float(rng.uniform(0.05, 0.6)),
        relations=rng.dirichlet([2.5, 1.5, 1.5, 4.0, 2.0]),
        detail=float(rng.uniform(0.55, 1.1)),
        repeat=float(rng.uniform(0.0, 0.35)),
        kin=float(rng.uniform(0.0, 0.6)),
        height=float(rng.normal(64, 6)),
    )


def _primitive(rng: np.random.Generator, kind: str) -> list[Segment]:
    """One stroke primitive as segments (length, heading, turn): units of a character's height, rad."""
    pi = np.pi
    heading = float(rng.normal(0, 0.1)) + pi / 4 * int(
        rng.choice([0, 1, 2, 3, 4, 7], p=[0.36, 0.08, 0.36, 0.13, 0.03, 0.04])
    )
    side = float(rng.choice([-1.0, 1.0]))
    size = float(np.exp(rng.normal(-0.5, 0.3)))
    free = rng.uniform(0, 2 * pi)
    bow = float(rng.normal(0, 0.06))
    match kind:
        case "line":
            return [(size, heading, bow)]
        case "arc":
            turn = side * rng.uniform(0.4, 1.6)
            return [(size, heading - turn / 2, turn)]
        case "cup":
            return [(1.5 * size, free, side * rng.uniform(1.8, 4.4))]
        case "loop":
            return [(2.4 * size, free, side * 2 * pi * rng.uniform(0.93, 1.07))]
        case "hook":
            turn = side * rng.uniform(1.2, 3.6)
            curl = size * rng.uniform(0.3, 1.0)
            hook = [(size, heading, bow), (curl, heading, turn)]
            return hook if rng.random() < 0.6 else [(curl, heading - turn, turn), (size, heading, bow)]
        case "corner":
            bend = side * float(pi / 2 * rng.choice([1.0, 1.4]) + rng.normal(0, 0.15))
            return [(size, heading, bow), (size * rng.uniform(0.4, 1.3), heading + bend, 0.0)]
        case "box":
            sides = int(rng.integers(3, 5))
            start = pi / 2 * rng.integers(2) + rng.normal(0, 0.06)
            long = rng.uniform(0.6, 1.6)
            return [(0.8 * size * (long if k % 2 else 1.0), start + side * k * pi / 2, 0.0) for k in range(sides)]
        case "wave":
            turn = side * rng.uniform(1.2, 3.8)
            return [(size, heading - turn / 2, turn), (size, heading + turn / 2, -turn * rng.uniform(0.6, 1.2))]
        case "arches":
            start = pi / 2 * rng.choice([1.0, -1.0]) + rng.normal(0, 0.12)
            stem, width, cusp = 0.5 * size, rng.uniform(0.4, 0.9) * size, rng.random() < 0.4
            arches: list[Segment] = []
            for k in range(int(rng.integers(1, 4))):
                up = start if cusp or k % 2 == 0 else start + side * pi
                turn = side * pi * (1.0 if cusp or k % 2 == 0 else -1.0)
                arches += [(stem, up, 0.0), (width, up, turn)]
            return [*arches, (stem, arches[-1][1] + arches[-1][2], 0.0)]
        case "zigzag":
            bend = side * float(rng.uniform(1.4, 2.6))
            return [(0.6 * size, heading + bend * (k % 2), 0.0) for k in range(3)]
        case "knot":
            turn = side * rng.uniform(3.6, 5.2)
            return [(0.6 * size, heading, 0.0), (size, heading, turn), (0.6 * size, heading + turn, 0.0)]
    return [(0.03, heading, 0.0)]


def _compose(rng: np.random.Generator, style: _Style, n: int) -> Plan:
    """Compose n characters from an alphabet's vocabulary, on roots that are simple characters themselves."""
    roots = int(rng.integers(2, 6))
    n += roots
    segments = np.zeros((n, STROKES, SEGMENTS, 3), np.float32)
    stretch = np.exp(rng.normal(0, 0.15, (n, STROKES))).astype(np.float32)
    parent, bridge = np.full((2, n, STROKES), -1, np.int64)
    at_parent, at_self, at_bridge = np.zeros((3, n, STROKES), np.float32)
    offset = np.zeros((n, STROKES), np.complex64)
    steps = np.zeros((n, STROKES), np.int64)
    for c in range(n):
        if c < roots:
            first, more = 0, 1 + int(rng.random() < 0.4)
        elif rng.random() < style.kin:
            root = int(rng.integers(roots))
            for part in (segments, stretch, parent, bridge, at_parent, at_self, at_bridge, offset, steps):
                part[c] = part[root]
            first, more = int(np.count_nonzero(steps[c])), max(int(rng.poisson(style.strokes)), 1)
        else:
            first, more = 0, 1 + int(rng.poisson(style.strokes))
        for j in range(first, min(first + more, STROKES)):
            relation = rng.choice(5, p=style.relations)
            other = int(rng.integers(j)) if j else 0
            if j and rng.random() < style.repeat:
                relation, other = (3 if j > 1 and rng.random() < 0.3 else 0), j - 1
                segments[c, j], stretch[c, j], steps[c, j] = segments[c, other], stretch[c, other], steps[c, other]
            else:
                chain = _chain(rng, style, bridge=relation == 4 and j > 0)
                segments[c, j, : len(chain)] = chain
                segments[c, j, :, 0] *= np.exp(rng.normal(0, 0.2)) * (style.detail if j else 1.0)
                steps[c, j] = len(chain) * POINTS
            if j == 0:
                continue
            parent[c, j] = other
            end = steps[c, other]
            at_parent[c, j] = (0.5 * end, 0, end, end * _landmark(rng), end * _landmark(rng))[relation]
            if relation == 0:
                at_self[c, j] = 0.5 * steps[c, j]
                if offset[c, other] and rng.random() < 0.7:  # a row of strokes
                    offset[c, j] = offset[c, other]
                else:
                    direction = rng.choice(4) * np.pi / 2 + rng.normal(0, 0.2)
                    offset[c, j] = rng.uniform(0.25, 0.7) * np.exp(1j * direction)
            elif relation == 4:
                bridge[c, j] = rng.integers(j)
                at_bridge[c, j] = steps[c, bridge[c, j]] * _landmark(rng)
            else:
                at_self[c, j] = steps[c, j] * rng.choice([0.0, 0.5, 1.0], p=[0.6, 0.28, 0.12])
    length, heading, turn = np.moveaxis(segments, -1, 0)
    square = np.zeros(n, np.float32)
    plan = Plan(length, heading, turn, stretch, square, parent, at_parent, at_self, offset, bridge, at_bridge, steps)
    return _take(plan, slice(roots, None))


def _take(plan: Plan, rows: slice | NDArray[np.int64]) -> Plan:
    return Plan(**{f.name: getattr(plan, f.name)[rows] for f in fields(Plan)})


def _landmark(rng: np.random.Generator) -> float:
    """A place along a stroke, 0..1: mostly its ends, middle or quarters."""
    return float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0, rng.random()], p=[0.12, 0.15, 0.26, 0.15, 0.12, 0.2]))


def _chain(rng: np.random.Generator, style: _Style, bridge: bool) -> list[Segment]:
    """One stroke: primitives one after another, or one line or arc if it is to bridge two strokes."""
    if bridge:
        return [(1.0, 0.0, float(rng.choice([rng.normal(0, 0.08), rng.uniform(-2.5, 2.5)])))]
    chain: list[Segment] = []
    while not chain or (rng.random() < style.chain and len(chain) < SEGMENTS):
        primitive = style.vocabulary[rng.choice(len(style.usage), p=style.usage)]
        turn_to = 0.0
        if chain and abs(primitive[0][2]) > 0.3 and rng.random() < 0.6:  # an arc goes on smoothly
            turn_to = chain[-1][1] + chain[-1][2] - primitive[0][1]
        resized = float(np.exp(rng.normal(0, 0.2)))
        chain += [(resized * length, heading + turn_to, turn) for length, heading, turn in primitive]
    return chain[:SEGMENTS]


def _draw_alphabet(rng: np.random.Generator, characters: int | None, drawers: int) -> NDArray[np.uint8]:
    """Invent an alphabet and let every drawer draw it: levels [characters, drawers, 28, 28]."""
    style = _style(rng)
    own_number = int(rng.integers(20, 46))
    n = own_number if characters is None else characters
    plan, scale, side = _choose(rng, style, n)
    points = trace(_copy(rng, plan, drawers)).reshape(n, drawers, -1) * scale[:, None, None]
    points = _place(rng, points, side)
    pen = np.tile(rng.choice([4, 5, 6], size=drawers, p=[0.04, 0.92, 0.04]), n)
    ink = rasterise(points.reshape(n * drawers, STROKES, -1), pen)
    return (64 - bilinear_levels(ink)).reshape(n, drawers, 28, 28)


def _choose(rng: np.random.Generator, style: _Style, n: int) -> tuple[Plan, NDArray, NDArray]:
    """Compose some candidates for each character and keep the most writable: no blots, no speck, no thread.

    Returns: the plan of n characters; their scales (pixels a unit) and larger sides (pixels), [n] each.
    """
    tries = 6
    plan = _compose(rng, style, n * tries)
    points = trace(plan).reshape(n * tries, -1)
    middle, width, height = _box(points)
    width, height = np.maximum(width, 0.05), np.maximum(height, 0.05)
    side = np.clip(style.height + rng.normal(0, 8, n * tries), 30, 88).astype(np.float32)
    scale = side / np.maximum(width, height)
    on_canvas = (points - middle[:, None]) * scale[:, None] + np.complex64((1 + 1j) * (CANVAS - 1) / 2)
    drawn = rasterise(on_canvas.reshape(n * tries, STROKES, -1), np.full(n * tries, 5))
    ink = drawn.sum(axis=(1, 2), dtype=np.int64)
    levels = bilinear_levels(drawn).astype(np.int64)
    window = np.cumsum(np.cumsum(np.pad(levels, ((0, 0), (1, 0), (1, 0))), axis=1), axis=2)
    window = window[:, 3:, 3:] - window[:, :-3, 3:] - window[:, 3:, :-3] + window[:, :-3, :-3]
    blots = np.count_nonzero(window > 0.7 * 9 * 64, axis=(1, 2))  # 3 x 3 pixels that are mostly ink
    path = np.abs(np.diff(on_canvas.reshape(n * tries, STROKES, -1), axis=2)).sum(axis=(1, 2))
    aim = np.repeat(rng.normal(870, 220, n), tries)  # pixels of ink
    cost = (
        0.2 * np.maximum(blots - 3, 0)
        + 6 * np.maximum(5 * path / ink - 1.15, 0)  # the pen goes over its own ink
        + np.maximum(aim - ink, 0) / 100
        + np.maximum(ink - aim - 400, 0) / 100
        + 3 * np.maximum(np.abs(np.log(width / height)) - 0.8, 0)
        + rng.uniform(0, 0.3, n * tries)
    )
    best = cost.reshape(n, tries).argmin(axis=1) + tries * np.arange(n)
    return _take(plan, best), scale[best], side[best]


def _copy(rng: np.random.Generator, plan: Plan, drawers: int) -> Plan:
    """Copy each character once a drawer with an unsteady hand: arrays grow from [n, ...] to [n * drawers, ...]."""
    n = len(plan.length)
    unsteady = np.exp(rng.normal(0, 0.25, drawers) + rng.normal(0, 0.35, (n, drawers))).reshape(-1).astype(np.float32)

    def noise(like: NDArray, sigma: float) -> NDArray[np.float32]:
        shape = (n * drawers, *like.shape[1:])
        scale = (sigma * unsteady).reshape(-1, *[1] * (like.ndim - 1))
        return rng.standard_normal(shape, dtype=np.float32) * scale

    grown = _take(plan, np.repeat(np.arange(n), drawers))
    square = rng.normal(0.1, 0.25, drawers) + rng.normal(0, 0.15, (n, drawers))
    return replace(
        grown,
        length=grown.length * np.exp(noise(plan.length, 0.15)),
        heading=grown.heading + noise(plan.heading, 0.11),
        turn=grown.turn * (1 + noise(plan.turn, 0.06)) + noise(plan.turn, 0.16),
        stretch=grown.stretch * np.exp(noise(plan.stretch, 0.08)),
        square=square.reshape(-1).astype(np.float32),
        at_parent=grown.at_parent + noise(plan.at_parent, 1.0),
        at_self=grown.at_self + noise(plan.at_self, 0.8),
        offset=grown.offset + noise(plan.stretch, 0.05) + 1j * noise(plan.stretch, 0.05),
        at_bridge=grown.at_bridge + noise(plan.at_bridge, 1.0),
    )


def _place(rng: np.random.Generator, points: NDArray[np.complex64], side: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Bend, slant, turn, scale and place the drawings [n, drawers, P] on the canvas.

    Args:
        side: the larger side each character should have, pixels, [n]; a hand corrects half of what it missed it by.
    """
    n, drawers = points.shape[:2]

    def habit(person: float, drawing: float) -> NDArray[np.float32]:
        return (rng.normal(0, person, drawers) + rng.normal(0, drawing, (n, drawers))).astype(np.float32)[..., None]

    for wavelength, amplitude in ((70, 1.6), (70, 1.6), (25, 0.5)):  # pixels
        way, phase, to = rng.uniform(0, 2 * np.pi, (3, n, drawers, 1)).astype(np.float32)
        swing = np.sin((points * np.exp(-1j * way)).real * np.float32(2 * np.pi / wavelength) + phase)
        points = points + swing * (amplitude * np.exp(1j * to)).astype(np.complex64)
    slant, aspect = habit(0.07, 0.05), np.exp(habit(0.03, 0.03))
    points = aspect * (points.real - slant * points.imag) + 1j * (points.imag / aspect)
    points = points * np.exp(1j * habit(0.03, 0.04))
    middle, width, height = _box(points)
    larger = np.maximum(width, height)
    room = CANVAS - 8.0
    scale = np.sqrt(side[:, None] / larger) * np.exp(habit(0.08, 0.07))[..., 0]
    scale = np.minimum(scale, room / larger)
    aim = np.concatenate([habit(2.0, 4.8), habit(2.0, 4.8)], axis=-1) - 1.5  # Omniglot sits a little up and left
    free = (room - np.stack([width, height], axis=-1) * scale[..., None]) / 2
    aim = np.clip(aim, -free, free) + (CANVAS - 1) / 2
    points = (points - middle[..., None]) * scale[..., None] + (aim[..., :1] + 1j * aim[..., 1:])
    return points.astype(np.complex64)


def _box(points: NDArray[np.complex64]) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.float32]]:
    """Middle, width and height of drawings' bounding boxes; points [..., P] to three arrays [...]."""
    x, y = points.real, points.imag
    left, right, top, bottom = x.min(axis=-1), x.max(axis=-1), y.min(axis=-1), y.max(axis=-1)
    return (left + right) / 2 + 0.5j * (top + bottom), right - left, bottom - top
