"""Few-shot episodes: n-way k-shot tasks drawn from a character set, seeded by (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovonic.models.errors import ConfigError, DataError
from ovonic.tasks.characters import CharacterSet

__all__ = ["SAMPLERS", "EpisodeBatch", "EpisodeSpec", "sample_episodes"]

SAMPLERS = ("distinct", "replacement", "published")


@dataclass(frozen=True)
class EpisodeSpec:
    """How tasks are drawn.

    Attributes:
        n_way, k_shot, queries: classes a task, support drawings a class, query drawings a class.
        rotate: rotate each class by its own random multiple of 90 degrees (training, as Ortner et al. 2025).
        mirror: mirror each class with probability 1/2 (training): a mirrored character is another character.
        sampler: ``"distinct"`` draws distinct classes and distinct queries, disjoint from the support.
            ``"replacement"`` draws classes with replacement, so that a task may hold a class twice, under two labels.
            ``"published"`` is the sampler of the paper's code: that, and one query drawing a class, repeated
            ``queries`` times.
        within_alphabet: probability that a task's classes are drawn from one alphabet.
    """

    n_way: int = 5
    k_shot: int = 5
    queries: int = 5
    rotate: bool = False
    mirror: bool = False
    sampler: str = "distinct"
    within_alphabet: float = 0.0

    def __post_init__(self) -> None:
        if min(self.n_way - 1, self.k_shot, self.queries) < 1:
            raise ConfigError(
                f"a task needs at least 2 ways, 1 shot and 1 query, got way {self.n_way}, shot {self.k_shot}, "
                f"queries {self.queries}"
            )
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}")
        if not 0 <= self.within_alphabet <= 1:
            raise ConfigError(f"within_alphabet {self.within_alphabet}: a probability lies in 0..1")


@dataclass(frozen=True, eq=False)
class EpisodeBatch:
    """Tasks side by side.

    Attributes:
        support: [tasks, n_way * k_shot, 1, 28, 28] float32 in 0..1 (strokes 0 on 1), class-major.
        support_labels: [tasks, n_way * k_shot] int64.
        query: [tasks, n_way * queries, 1, 28, 28]; query_labels: [tasks, n_way * queries].
        classes: character index of each class, [tasks, n_way] int64.
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.support)

    def to(self, device: torch.device | str) -> EpisodeBatch:
        """The same tasks on another device."""
        return EpisodeBatch(
            self.support.to(device),
            self.support_labels.to(device),
            self.query.to(device),
            self.query_labels.to(device),
            self.classes,
        )


def sample_episodes(characters: CharacterSet, spec: EpisodeSpec, seed: int, indices: range | list[int]) -> EpisodeBatch:
    """Draw the tasks numbered ``indices`` of the endless stream that ``seed`` names.

    Task i depends on (characters, spec, seed, i) alone: any batching of the same indices gives the same tasks, so a
    resumed run sees what an uninterrupted one would.

    Raises: DataError: too few characters, or a character with too few drawings for ``k_shot + queries``.
    """
    drawings_needed = spec.k_shot + (1 if spec.sampler == "published" else spec.queries)
    short = np.flatnonzero(characters.counts < drawings_needed)
    if len(short):
        worst = int(short[0])
        raise DataError(
            f"{characters.source}: {characters.alphabets[worst]}/{characters.names[worst]} has "
            f"{int(characters.counts[worst])} drawings, {spec.k_shot} shots and {spec.queries} queries need "
            f"{drawings_needed}; ask for fewer or add drawings"
        )
    everything, alphabets = _class_pools(characters, spec)
    starts = characters.starts
    n_support, n_query = spec.n_way * spec.k_shot, spec.n_way * spec.queries
    rows = np.empty((len(indices), n_support + n_query), dtype=np.int64)
    classes = np.empty((len(indices), spec.n_way), dtype=np.int64)
    turns = np.zeros((len(indices), spec.n_way), dtype=np.int64)
    mirrored = np.zeros((len(indices), spec.n_way), dtype=bool)
    for t, index in enumerate(indices):
        rng = np.random.default_rng([seed, index])
        pool = everything
        if spec.within_alphabet and rng.random() < spec.within_alphabet:
            pool = alphabets[rng.integers(len(alphabets))]
        classes[t] = rng.choice(pool, size=spec.n_way, replace=spec.sampler != "distinct")
        support, query = [], []
        for c in classes[t]:
            drawn = starts[c] + rng.permutation(characters.counts[c])[:drawings_needed]
            support.append(drawn[: spec.k_shot])
            query.append(np.resize(drawn[spec.k_shot :], spec.queries))
        rows[t] = np.concatenate(support + query)
        if spec.rotate:
            turns[t] = rng.integers(4, size=spec.n_way)
        if spec.mirror:
            mirrored[t] = rng.random(spec.n_way) < 0.5
    images = characters.images[torch.from_numpy(rows)].to(torch.float32).mul_(characters.scale)

    def per_image(of_class: np.ndarray) -> Tensor:
        return torch.from_numpy(np.concatenate([of_class.repeat(spec.k_shot, 1), of_class.repeat(spec.queries, 1)], 1))

    flip, turn_of = per_image(mirrored), per_image(turns)
    if flip.any():
        images[flip] = images[flip].flip(-1)
    for turn in (1, 2, 3):
        where = turn_of == turn
        if where.any():
            images[where] = torch.rot90(images[where], turn, dims=(-2, -1))
    images = images.unsqueeze(2)
    labels = torch.arange(spec.n_way)
    return EpisodeBatch(
        support=images[:, :n_support],
        support_labels=labels.repeat_interleave(spec.k_shot).expand(len(indices), -1),
        query=images[:, n_support:],
        query_labels=labels.repeat_interleave(spec.queries).expand(len(indices), -1),
        classes=classes,
    )


def _class_pools(characters: CharacterSet, spec: EpisodeSpec) -> tuple[np.ndarray, list[np.ndarray]]:
    """All classes, and those of each alphabet that has enough of them."""
    everything = np.arange(len(characters))
    enough = spec.n_way if spec.sampler == "distinct" else 1
    names = np.array(characters.alphabets)
    alphabets = [np.flatnonzero(names == name) for name in characters.alphabet_names] if spec.within_alphabet else []
    alphabets = [classes for classes in alphabets if len(classes) >= enough]
    if len(everything) < enough or (spec.within_alphabet and not alphabets):
        raise DataError(
            f"{characters.source}: {len(characters)} characters, {spec.n_way} ways need {spec.n_way} distinct ones"
            + (" in one alphabet" if spec.within_alphabet else "")
        )
    return everything, alphabets
