"""Episodes: every image is one the task may hold, under its right label, whatever the batching.

The characters here are readable: each drawing bears, along its top from the left, a mark, its character's number and
its own number; the tests read them back from the sampled images, turned and mirrored as they may be.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare
from torch import Tensor

from ovonic.models.errors import ConfigError, DataError
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import SAMPLERS, EpisodeBatch, EpisodeSpec, sample_episodes

MARK = 255
TENSORS = ("support", "support_labels", "query", "query_labels")


def _characters(counts: list[int], alphabets: list[str] | None = None) -> CharacterSet:
    images = torch.zeros(sum(counts), 28, 28, dtype=torch.uint8)
    row = 0
    for character, count in enumerate(counts):
        for drawing in range(count):
            images[row, 0, :3] = torch.tensor([MARK, character + 1, drawing])
            row += 1
    return CharacterSet(
        images,
        np.array(counts),
        tuple(alphabets or ["Runic"] * len(counts)),
        tuple(f"character{i:02d}" for i in range(len(counts))),
        "marked",
    )


def _read(images: Tensor) -> np.ndarray:
    """[..., 1, 28, 28] -> (turns, mirrored, character, drawing) of each image, [..., 4]."""
    pixels = (images.squeeze(-3) * 255).round().long()
    out = np.full((*pixels.shape[:-2], 4), -1)
    for turns in range(4):
        for mirrored in (0, 1):
            upright = torch.rot90(pixels, -turns, dims=(-2, -1))
            top = (upright.flip(-1) if mirrored else upright)[..., 0, :3]
            here = ((top[..., 0] == MARK) & (top[..., 1] > 0)).numpy()
            out[here, :2] = turns, mirrored
            out[here, 2:] = top[..., 1:].numpy()[here] - [1, 0]
    assert (out >= 0).all()
    return out


def _same(a: EpisodeBatch, b: EpisodeBatch) -> bool:
    alike = all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)
    return alike and np.array_equal(a.classes, b.classes)


specs = st.builds(
    EpisodeSpec,
    n_way=st.integers(2, 5),
    k_shot=st.integers(1, 3),
    queries=st.integers(1, 3),
    rotate=st.booleans(),
    mirror=st.booleans(),
    sampler=st.sampled_from(SAMPLERS),
    within_alphabet=st.sampled_from([0.0, 0.5, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(specs, st.integers(0, 2**40), st.integers(0, 10**6))
def test_every_image_is_the_one_its_label_says(spec: EpisodeSpec, seed: int, first: int) -> None:
    alphabets = ["Greek"] * 6 + ["Runic"] * 5 + ["Ogham"]
    characters = _characters([6, 9, 7, 6, 8, 6, 6, 7, 6, 9, 6, 6], alphabets)
    batch = sample_episodes(characters, spec, seed, range(first, first + 3))
    assert len(batch) == 3
    assert batch.support.shape == (3, spec.n_way * spec.k_shot, 1, 28, 28)
    assert batch.query.shape == (3, spec.n_way * spec.queries, 1, 28, 28)
    assert batch.support.dtype == batch.query.dtype == torch.float32
    assert batch.support_labels.dtype == batch.query_labels.dtype == torch.int64
    support, query = _read(batch.support), _read(batch.query)
    for t in range(3):
        labels, query_labels = batch.support_labels[t].numpy(), batch.query_labels[t].numpy()
        assert np.array_equal(labels, np.repeat(np.arange(spec.n_way), spec.k_shot))
        assert np.array_equal(query_labels, np.repeat(np.arange(spec.n_way), spec.queries))
        assert np.array_equal(support[t, :, 2], batch.classes[t][labels])
        assert np.array_equal(query[t, :, 2], batch.classes[t][query_labels])
        if spec.within_alphabet == 1:
            assert len({alphabets[c] for c in batch.classes[t]}) == 1
        if spec.sampler == "distinct":
            assert len(set(batch.classes[t])) == spec.n_way
            images = [tuple(x) for x in np.concatenate([support[t], query[t]])[:, 2:]]
            assert len(set(images)) == len(images)  # support and query disjoint, nothing twice
        for label in range(spec.n_way):
            of_class = np.concatenate([support[t][labels == label], query[t][query_labels == label]])
            assert len(np.unique(of_class[:, :2], axis=0)) == 1  # a class is turned and mirrored as one
            assert len(set(of_class[: spec.k_shot, 3])) == spec.k_shot
            queried = set(of_class[spec.k_shot :, 3])
            assert not queried & set(of_class[: spec.k_shot, 3])
            assert len(queried) == (1 if spec.sampler == "published" else spec.queries)
        assert spec.rotate or (support[t, :, 0] == 0).all()
        assert spec.mirror or (support[t, :, 1] == 0).all()


@settings(max_examples=30, deadline=None)
@given(specs, st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 5))
def test_a_task_does_not_depend_on_its_batch(spec: EpisodeSpec, indices: list[int], cut: int) -> None:
    characters = _characters([6] * 8)
    whole = sample_episodes(characters, spec, 7, indices)
    parts = [sample_episodes(characters, spec, 7, part) for part in (indices[:cut], indices[cut:]) if part]
    for name in TENSORS:
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))
    assert np.array_equal(np.concatenate([p.classes for p in parts]), whole.classes)


def test_seed_and_index_name_a_task() -> None:
    characters, spec = _characters([10] * 30), EpisodeSpec(rotate=True)
    batch = sample_episodes(characters, spec, 5, range(4))
    assert _same(batch, sample_episodes(characters, spec, 5, [0, 1, 2, 3]))
    assert not _same(batch, sample_episodes(characters, spec, 6, range(4)))
    assert not _same(batch, sample_episodes(characters, spec, 5, range(1, 5)))
    drawn = {tuple(sample_episodes(characters, spec, s, [i]).classes[0]) for s in range(8) for i in range(8)}
    assert len(drawn) == 64  # of 17 million: a pair alike has probability 1e-4
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    sample_episodes(characters, spec, 5, range(4))
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_grey_levels_keep_their_scale() -> None:
    characters = dataclasses.replace(_characters([4] * 3), scale=1 / 510)
    batch = sample_episodes(characters, EpisodeSpec(2, 1, 1), 0, range(2))
    assert batch.support.max() == 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_classes_turns_mirrors_and_drawings_are_uniform(sampler: str) -> None:
    """n = 1,000 tasks of 3 classes, chi-square at 1e-4 each; a class drawn 1.3 times too often is seen surely."""
    spec = EpisodeSpec(3, 2, 1, rotate=True, mirror=True, sampler=sampler)
    batch = sample_episodes(_characters([5] * 10), spec, 3, range(1000))
    first_drawings = _read(batch.support)[:, ::2].reshape(-1, 4)
    assert np.array_equal(first_drawings[:, 2], batch.classes.ravel())
    for column, choices in enumerate((4, 2, 10, 5)):
        assert chisquare(np.bincount(first_drawings[:, column], minlength=choices)).pvalue > 1e-4


def test_the_published_sampler_repeats_one_query_and_may_repeat_a_class() -> None:
    """Of 242 characters 1 - prod(1 - i / 242) = 4.07 % of 5-way tasks hold a class twice, under two labels.

    n = 5,000 tasks, exact binomial test at 1e-4; 2.9 % or 5.3 % would be seen surely.
    """
    characters = _characters([2] * 242)
    spec = EpisodeSpec(5, 1, 3, sampler="published")
    batch = sample_episodes(characters, spec, 11, range(5000))
    twice = np.array([len(set(c)) < 5 for c in batch.classes])
    expected = 1 - math.prod(1 - i / 242 for i in range(5))
    assert expected == pytest.approx(0.0407, abs=5e-5)
    assert binomtest(int(twice.sum()), 5000, expected).pvalue > 1e-4
    one = batch.query[:20].unflatten(1, (5, 3))
    assert torch.equal(one, one[:, :, :1].expand_as(one))
    for sampler in ("distinct", "replacement"):
        other = dataclasses.replace(spec, sampler=sampler, queries=1)
        classes = sample_episodes(characters, other, 11, range(1000)).classes
        assert any(len(set(c)) < 5 for c in classes) == (sampler == "replacement")


def test_alphabets_are_drawn_alike_and_as_often_as_asked() -> None:
    """n = 900 tasks a probability; exact binomial tests at 1e-4; .43 for .5 would be seen surely.

    Of three alphabets one is too small for 3 ways: no task within one alphabet uses it.
    """
    names = ["Small"] * 2 + ["Large"] * 9 + ["Middle"] * 3
    characters = _characters([2] * 14, names)
    within = sample_episodes(characters, EpisodeSpec(3, 1, 1, within_alphabet=1.0), 0, range(900)).classes
    assert within.min() >= 2
    assert binomtest(int((within[:, 0] < 11).sum()), 900, 0.5).pvalue > 1e-4
    half = sample_episodes(characters, EpisodeSpec(3, 1, 1, within_alphabet=0.5), 0, range(900)).classes
    by_chance = (math.comb(9, 3) + math.comb(3, 3)) / math.comb(14, 3)
    pure = sum(len({names[c] for c in task}) == 1 for task in half)
    assert binomtest(pure, 900, 0.5 + 0.5 * by_chance).pvalue > 1e-4


@pytest.mark.parametrize(("sampler", "needed"), [("distinct", 10), ("replacement", 10), ("published", 6)])
def test_too_few_drawings_name_the_character(sampler: str, needed: int) -> None:
    characters = _characters([needed, needed - 1, needed], ["Greek", "Runic", "Greek"])
    with pytest.raises(DataError) as error:
        sample_episodes(characters, EpisodeSpec(2, sampler=sampler), 0, range(1))
    assert "marked: Runic/character01 has" in str(error.value)
    assert f"has {needed - 1} drawings" in str(error.value)
    assert f"need {needed}" in str(error.value)
    enough = characters.select([0, 2])
    assert len(sample_episodes(enough, EpisodeSpec(2, sampler=sampler), 0, range(1))) == 1


def test_too_few_characters_are_refused() -> None:
    characters = _characters([9] * 6, ["Greek"] * 3 + ["Runic"] * 3)
    with pytest.raises(DataError, match="6 characters, 7 ways"):
        sample_episodes(characters, EpisodeSpec(7, 1, 1), 0, range(1))
    with pytest.raises(DataError, match="4 ways need 4 distinct ones in one alphabet"):
        sample_episodes(characters, EpisodeSpec(4, 1, 1, within_alphabet=0.5), 0, range(1))
    assert sample_episodes(characters, EpisodeSpec(7, 1, 1, sampler="published"), 0, range(1)).classes.shape == (1, 7)


@pytest.mark.parametrize(
    "options",
    [
        {"n_way": 1},
        {"k_shot": 0},
        {"queries": 0},
        {"sampler": "random"},
        {"within_alphabet": 1.5},
        {"within_alphabet": -1},
    ],
)
def test_meaningless_tasks_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EpisodeSpec(**options)  # type: ignore[arg-type]


def test_no_task_is_an_empty_batch() -> None:
    batch = sample_episodes(_characters([9] * 6), EpisodeSpec(2, 1, 1, rotate=True), 0, [])
    assert (len(batch), batch.query_labels.shape, batch.classes.shape) == (0, (0, 2), (0, 2))
