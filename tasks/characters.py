"""Handwritten characters as data: what every source of characters (Omniglot, glyphs, a user's folder) yields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovonic.models.errors import ConfigError, DataError

__all__ = ["BILINEAR_SCALE", "CharacterSet", "concatenate"]

BILINEAR_SCALE = 0.9999 / 64.0
"""Bilinear resampling of 105 to 28 pixels has weights k/64; 0.9999 is the published grey value of white."""


@dataclass(frozen=True, eq=False)
class CharacterSet:
    """Drawings of characters, grouped by character; characters belong to alphabets.

    Attributes:
        images: all drawings, [N, 28, 28] uint8 levels: 0 is full stroke, the largest level is paper. Drawings of one
            character are contiguous, characters in the order of ``names``.
        counts: number of drawings of each character, [n_characters] int64; sums to N.
        alphabets: the alphabet of each character.
        names: the name of each character inside its alphabet, e.g. ``"character01"``.
        source: what the data came from, for provenance, e.g. ``"omniglot:images_background_small1.zip"``.
        scale: grey value of one level; a network sees ``images * scale`` in 0..1. Resampled 1-bit images have 65
            levels, so eight bits hold them exactly (``BILINEAR_SCALE``).
    """

    images: Tensor
    counts: np.ndarray
    alphabets: tuple[str, ...]
    names: tuple[str, ...]
    source: str
    scale: float = 1.0 / 255.0

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or tuple(self.images.shape[1:]) != (28, 28):
            raise DataError(
                f"{self.source}: images must be uint8 [N, 28, 28], got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if not len(self.counts) == len(self.alphabets) == len(self.names):
            raise DataError(
                f"{self.source}: {len(self.counts)} counts, {len(self.alphabets)} alphabets and "
                f"{len(self.names)} names describe different numbers of characters"
            )
        if int(np.sum(self.counts)) != len(self.images):
            raise DataError(f"{self.source}: counts sum to {int(np.sum(self.counts))}, images are {len(self.images)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def starts(self) -> np.ndarray:
        """Index of each character's first drawing in ``images``, [n_characters]."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)

    @property
    def alphabet_names(self) -> tuple[str, ...]:
        """The alphabets present, each once, in order of first appearance."""
        return tuple(dict.fromkeys(self.alphabets))

    def select(self, keep: Callable[[str], bool] | Sequence[int], source: str | None = None) -> CharacterSet:
        """Keep some characters: a predicate on the alphabet's name, or the characters' indices.

        Raises: ConfigError: nothing is left.
        """
        indices = [i for i, a in enumerate(self.alphabets) if keep(a)] if callable(keep) else [int(i) for i in keep]
        if not indices:
            raise ConfigError(f"{self.source}: no character is left after the selection")
        starts = self.starts
        rows = np.concatenate([np.arange(starts[i], starts[i] + self.counts[i]) for i in indices])
        return CharacterSet(
            images=self.images[torch.from_numpy(rows)],
            counts=self.counts[indices],
            alphabets=tuple(self.alphabets[i] for i in indices),
            names=tuple(self.names[i] for i in indices),
            source=source or self.source,
            scale=self.scale,
        )


def concatenate(sets: Sequence[CharacterSet]) -> CharacterSet:
    """Join character sets as they are (no search for duplicates: ``tasks.omniglot`` recognises those)."""
    if not sets:
        raise ConfigError("no character set to join")
    if len({s.scale for s in sets}) > 1:
        sources = ", ".join(s.source for s in sets)
        raise ConfigError(f"character sets of different grey scales cannot be joined: {sources}")
    return CharacterSet(
        images=torch.cat([s.images for s in sets]),
        counts=np.concatenate([s.counts for s in sets]),
        alphabets=tuple(a for s in sets for a in s.alphabets),
        names=tuple(n for s in sets for n in s.names),
        source=" + ".join(s.source for s in sets),
        scale=sets[0].scale,
    )
