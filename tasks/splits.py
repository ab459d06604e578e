"""Splits of characters by whole alphabets: a network is validated and tested on scripts it never saw."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from ovonic.models.errors import ConfigError, nearest
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.omniglot import OmniglotSet

__all__ = ["SPLITS", "alphabet_folds", "split_alphabets"]

SPLITS = ("train", "validation", "test", "all", "background", "evaluation")
DEFAULT_FOLDS = 4
OFFICIAL_FOLDS = 6


def split_alphabets(
    characters: CharacterSet, split: str, *, folds: int | None = None, fold: int = 0, seed: int = 0
) -> CharacterSet:
    """Keep the alphabets of a named split; ``train``, ``validation`` and ``test`` are disjoint and cover all.

    Cross-validation: ``test`` is fold ``fold`` of ``folds``, ``validation`` the next (after the last the
    first), ``train`` the rest. Where both official parts are loaded and ``folds`` is None, the official split
    holds instead: ``test`` is the evaluation part; of the background part ``validation`` is fold ``fold`` of
    6 (5 of its 30 alphabets) and ``train`` the rest. ``background`` and ``evaluation`` are the official
    parts, ``all`` everything.

    Args:
        folds: at least 3; None: the official split, or without it 4 folds (3 for 3 alphabets).
        fold: 0 <= fold < folds; seed: see ``alphabet_folds``.
    Raises: ConfigError: no such split or fold, too few alphabets, or an official part that is not loaded.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}: {nearest(split, SPLITS)}")
    if split == "all":
        return characters
    where = characters.source
    official = characters.official if isinstance(characters, OmniglotSet) else {}
    if split in ("background", "evaluation"):
        if split not in official.values():
            raise ConfigError(f"{where}: split {split!r} needs the official images_{split}, give its folder or zip")
        return characters.select(lambda a: official.get(a) == split, f"{where} [{split}]")
    sizes = Counter(characters.alphabets)
    if folds is None and set(official.values()) == {"background", "evaluation"}:
        pool = {a: n for a, n in sizes.items() if official.get(a) != "evaluation"}
        parts = _folds(where, pool, min(OFFICIAL_FOLDS, len(pool)), 2, fold, seed)
        chosen = {"test": set(sizes) - set(pool), "validation": parts[fold]}
        name = f"official {split}, validation fold {fold} of {len(parts)}, seed {seed}"
    else:
        parts = _folds(where, sizes, min(DEFAULT_FOLDS, len(sizes)) if folds is None else folds, 3, fold, seed)
        chosen = {"test": parts[fold], "validation": parts[(fold + 1) % len(parts)]}
        name = f"{split}, fold {fold} of {len(parts)}, seed {seed}"
    chosen["train"] = set(sizes) - chosen["test"] - chosen["validation"]
    return characters.select(lambda a: a in chosen[split], f"{where} [{name}]")


def alphabet_folds(sizes: Mapping[str, int], folds: int, seed: int) -> list[set[str]]:
    """Deal alphabets into folds of near-equal numbers of characters, each alphabet into one.

    Alphabets are ordered by size and cut into rounds of ``folds``; each round is dealt one a fold in an order
    that a hash of (seed, name) decides. So no fold exceeds another by more characters than the largest
    alphabet has, and the result depends on names, sizes and seed alone.

    Args: sizes: number of characters of each alphabet; folds: 1 <= folds <= number of alphabets.
    """

    def lot(alphabet: str) -> bytes:
        return hashlib.sha256(f"{seed}:{alphabet}".encode()).digest()

    ordered = sorted(sizes, key=lambda a: (-sizes[a], lot(a)))
    dealt: list[set[str]] = [set() for _ in range(folds)]
    loads = [0] * folds
    for start in range(0, len(ordered), folds):
        lightest_first = sorted(range(folds), key=lambda f: loads[f])
        for f, alphabet in zip(lightest_first, sorted(ordered[start : start + folds], key=lot), strict=False):
            dealt[f].add(alphabet)
            loads[f] += sizes[alphabet]
    return dealt


def _folds(where: str, sizes: Mapping[str, int], folds: int, fewest: int, fold: int, seed: int) -> list[set[str]]:
    if not fewest <= folds <= len(sizes):
        raise ConfigError(
            f"{where}: {folds} folds of {len(sizes)} alphabets ({', '.join(sorted(sizes)[:8])}); "
            f"choose {fewest} folds or more, at most one an alphabet"
        )
    if not 0 <= fold < folds:
        raise ConfigError(f"fold {fold}: choose one of 0 to {folds - 1}")
    return alphabet_folds(sizes, folds, seed)
