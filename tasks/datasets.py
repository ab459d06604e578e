"""Characters by name: ``glyphs``, a folder or a zip, and the split asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from ovonic.models.errors import ConfigError
from ovonic.tasks.characters import CharacterSet, concatenate
from ovonic.tasks.glyphs import glyph_split
from ovonic.tasks.omniglot import load_omniglot
from ovonic.tasks.splits import split_alphabets

__all__ = ["GLYPHS", "load_characters"]

GLYPHS = "glyphs"


def load_characters(
    data: Sequence[str],
    split: str,
    *,
    folds: int | None = None,
    fold: int = 0,
    seed: int = 0,
    glyph_alphabets: int | None = None,
) -> CharacterSet:
    """Load the sources ``data`` and keep one split of them.

    Args:
        data: ``"glyphs"`` and paths to folders or zips in Omniglot's layout; paths are read together, so that
            characters that stand in two of them count once.
        split: a name of ``tasks.splits``; the glyphs are endless, so ``"all"`` of them means their test alphabets.
            Several joined by ``+`` are taken together, e.g. ``"train+validation"``.
        folds, fold: cross-validation over the alphabets of the paths. seed: of the folds and the glyphs.
        glyph_alphabets: number of glyph alphabets, default as in ``tasks.glyphs``.
    Raises: ConfigError: no data, unknown split. DataError: what cannot be read.
    """
    if not data:
        raise ConfigError("no data: give 'glyphs', a folder or a zip")
    paths = [source for source in data if source != GLYPHS]
    omniglot = load_omniglot(paths) if paths else None
    parts = []
    for name in split.split("+"):
        if omniglot is not None:
            parts.append(split_alphabets(omniglot, name, folds=folds, fold=fold, seed=seed))
        if GLYPHS in data:
            parts.append(glyph_split("test" if name == "all" else name, seed, count=glyph_alphabets))
    return parts[0] if len(parts) == 1 else concatenate(parts)
