"""Splits by alphabet: disjoint, covering, balanced, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovonic.models.errors import ConfigError
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.omniglot import OmniglotSet
from ovonic.tasks.splits import SPLITS, alphabet_folds, split_alphabets

sizes_of_alphabets = st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 60), min_size=3, max_size=30)


def _characters(sizes: dict[str, int], official: dict[str, str] | None = None) -> OmniglotSet:
    alphabets = tuple(name for name, size in sizes.items() for _ in range(size))
    return OmniglotSet(
        images=torch.zeros(len(alphabets), 28, 28, dtype=torch.uint8),
        counts=np.ones(len(alphabets), np.int64),
        alphabets=alphabets,
        names=tuple(f"character{i:02}" for i in range(len(alphabets))),
        source="test",
        official=official or {},
    )


@given(sizes_of_alphabets, st.data())
def test_folds_cover_once_and_balance(sizes: dict[str, int], data: st.DataObject) -> None:
    folds = data.draw(st.integers(1, len(sizes)))
    seed = data.draw(st.integers(0, 5))
    dealt = alphabet_folds(sizes, folds, seed)
    assert sorted(name for fold in dealt for name in fold) == sorted(sizes)
    loads = [sum(sizes[name] for name in fold) for fold in dealt]
    assert max(loads) - min(loads) <= max(sizes.values())
    assert min(len(fold) for fold in dealt) >= len(sizes) // folds
    shuffled = data.draw(st.permutations(list(sizes)))
    assert alphabet_folds({name: sizes[name] for name in shuffled}, folds, seed) == dealt


@given(sizes_of_alphabets, st.data())
def test_cross_validation_is_disjoint_and_tests_each_alphabet_once(sizes: dict[str, int], data: st.DataObject) -> None:
    characters = _characters(sizes)
    folds = data.draw(st.integers(3, len(sizes)))
    tested: list[str] = []
    for fold in range(folds):
        parts = {
            split: split_alphabets(characters, split, folds=folds, fold=fold)
            for split in ("train", "validation", "test")
        }
        names = [name for part in parts.values() for name in part.alphabet_names]
        assert sorted(names) == sorted(sizes)
        assert sum(len(part) for part in parts.values()) == len(characters)
        tested += parts["test"].alphabet_names
        following = split_alphabets(characters, "test", folds=folds, fold=(fold + 1) % folds)
        assert parts["validation"].alphabet_names == following.alphabet_names
    assert sorted(tested) == sorted(sizes)


def test_folds_are_what_they_were() -> None:
    """A golden dealing: published results name (fold, seed), so a change here would break them."""
    sizes = {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Japanese_(katakana)": 47}
    sizes |= {"Korean": 40, "Latin": 26, "Sanskrit": 42, "Tagalog": 17}
    assert alphabet_folds(sizes, 4, seed=0) == [
        {"Greek", "Latin"},
        {"Balinese", "Sanskrit"},
        {"Korean", "Tagalog"},
        {"Early_Aramaic", "Japanese_(katakana)"},
    ]
    assert alphabet_folds(sizes, 4, seed=1) != alphabet_folds(sizes, 4, seed=0)


def test_the_official_split_holds_where_both_parts_are() -> None:
    sizes = {f"b{i:02}": 10 + i for i in range(30)} | {f"e{i:02}": 20 for i in range(20)}
    official = {name: "background" if name[0] == "b" else "evaluation" for name in sizes}
    full = _characters(sizes, official)
    parts = {split: set(split_alphabets(full, split).alphabet_names) for split in SPLITS}
    assert parts["test"] == parts["evaluation"] == {f"e{i:02}" for i in range(20)}
    assert parts["train"] | parts["validation"] == parts["background"]
    assert (len(parts["train"]), len(parts["validation"])) == (25, 5)
    assert parts["all"] == set(sizes)
    assert "official test" in split_alphabets(full, "test").source
    crossed = split_alphabets(full, "test", folds=5)
    assert any(name[0] == "b" for name in crossed.alphabet_names)


def test_a_plain_character_set_is_cross_validated() -> None:
    omniglot = _characters({"a": 3, "b": 2, "c": 1})
    plain = CharacterSet(omniglot.images, omniglot.counts, omniglot.alphabets, omniglot.names, "glyphs")
    assert split_alphabets(plain, "test").alphabet_names
    assert split_alphabets(plain, "test").source == "glyphs [test, fold 0 of 3, seed 0]"


@pytest.mark.parametrize(
    ("split", "options", "fault"),
    [
        ("tests", {}, "did you mean 'test'"),
        ("test", {"folds": 2}, "choose 3 folds or more"),
        ("test", {"folds": 5}, "5 folds of 4 alphabets"),
        ("test", {"fold": 4}, "fold 4: choose one of 0 to 3"),
        ("test", {"fold": -1}, "fold -1"),
        ("evaluation", {}, "needs the official images_evaluation"),
    ],
)
def test_meaningless_splits_are_refused(split: str, options: dict[str, int], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        split_alphabets(_characters({"a": 3, "b": 2, "c": 1, "d": 1}), split, **options)


def test_two_alphabets_are_too_few() -> None:
    with pytest.raises(ConfigError, match="2 folds of 2 alphabets"):
        split_alphabets(_characters({"a": 3, "b": 2}), "train")
