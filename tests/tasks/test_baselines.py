"""The baselines against the slow and the other way of computing them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.tasks.baselines import baseline_scores, nearest_class_mean, random_features, ridge
from ovonic.tasks.episodes import EpisodeBatch

Task = tuple[Tensor, Tensor, Tensor, int]
Classifier = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def _task(tasks: int, way: int, shots: int, queries: int, width: int, seed: int) -> Task:
    generator = torch.Generator().manual_seed(seed)
    support, query = (
        torch.randn(tasks, way * n, width, generator=generator, dtype=torch.float64) for n in (shots, queries)
    )
    labels = torch.arange(way).repeat(shots)  # not class-major, to be sure that labels are read
    return support, labels.expand(tasks, -1), query, way


tasks = st.builds(
    _task,
    st.integers(1, 3),
    st.integers(2, 5),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(0, 999),
)


@settings(max_examples=40, deadline=None)
@given(tasks)
def test_nearest_class_mean_equals_the_brute_force(task: Task) -> None:
    support, labels, query, way = task
    scores = nearest_class_mean(*task)
    for t in range(len(support)):
        for q, x in enumerate(query[t]):
            for c in range(way):
                mean = support[t][labels[t] == c].mean(0)
                assert scores[t, q, c].item() == pytest.approx(-float(((x - mean) ** 2).sum()), abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(tasks, st.floats(0.01, 10))
def test_ridge_equals_its_primal_closed_form(task: Task, penalty: float) -> None:
    """(x'x + lambda I)^-1 x' y on centred features: another matrix, [D, D] in place of [S, S]."""
    support, labels, query, way = task
    scores = ridge(*task, penalty)
    for t in range(len(support)):
        x = (support[t] - support[t].mean(0)).numpy()
        targets = np.eye(way)[labels[t]] - 1 / way
        scale = penalty * np.mean(np.sum(x**2, axis=1))
        w = np.linalg.solve(x.T @ x + scale * np.eye(x.shape[1]), x.T @ targets)
        expected = (query[t] - support[t].mean(0)).numpy() @ w
        np.testing.assert_allclose(scores[t].numpy(), expected, rtol=1e-8, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(tasks, st.floats(0.1, 30), st.floats(-5, 5))
def test_scale_and_origin_of_the_features_do_not_matter(task: Task, scale: float, shift: float) -> None:
    support, labels, query, way = task
    moved = (support * scale + shift, labels, query * scale + shift, way)
    torch.testing.assert_close(ridge(*moved), ridge(*task), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(nearest_class_mean(*moved) / scale**2, nearest_class_mean(*task), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classifier", [nearest_class_mean, ridge])
def test_renaming_the_classes_renames_the_scores(classifier: Classifier) -> None:
    support, labels, query, way = _task(2, 4, 3, 2, 6, 0)
    rename = torch.tensor([2, 0, 3, 1])
    renamed = classifier(support, rename[labels], query, way)
    torch.testing.assert_close(renamed[..., rename], classifier(support, labels, query, way))


@pytest.mark.parametrize("classifier", [nearest_class_mean, ridge])
@pytest.mark.parametrize("queries", [2, 40])
def test_separated_classes_are_told_apart_in_float32(classifier: Classifier, queries: int) -> None:
    """40 queries a class make cdist use a matrix product, which must not lose the small differences."""
    centres = 10 + torch.eye(5, 20)
    noise = torch.randn(1, 5 * (3 + queries), 20, generator=torch.Generator().manual_seed(0)) * 0.05
    labels = torch.arange(5).repeat_interleave(3)[None], torch.arange(5).repeat_interleave(queries)[None]
    support, query = centres[labels[0]] + noise[:, :15], centres[labels[1]] + noise[:, 15:]
    assert torch.equal(classifier(support, labels[0], query, 5).argmax(-1), labels[1])


@pytest.mark.parametrize("classifier", [nearest_class_mean, ridge])
def test_identical_images_give_finite_scores(classifier: Classifier) -> None:
    labels = torch.arange(5)[None]
    assert classifier(torch.ones(1, 5, 7), labels, torch.ones(1, 3, 7), 5).isfinite().all()


def test_random_features_are_named_by_their_seed() -> None:
    one, again, other = (random_features(5, 8, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.conv_weights(), again.conv_weights(), strict=True))
    assert not torch.equal(one.conv_weights()[0], other.conv_weights()[0])
    assert one.readout.weight.abs().max() == 0  # an untrained head starts without a preference


def test_every_baseline_scores_every_query() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 25, 1, 28, 28, generator=generator)
    labels = torch.arange(5).repeat_interleave(3).expand(2, -1)
    batch = EpisodeBatch(
        images[:, :15], labels, images[:, 15:], torch.arange(5).repeat(2).expand(2, -1), np.zeros((2, 5))
    )
    support, query = torch.randn(2, 15, 8, generator=generator), torch.randn(2, 10, 8, generator=generator)
    scores = baseline_scores(batch, support, query, 5)
    assert set(scores) == {"nearest_class_mean", "ridge", "pixels_nearest_class_mean", "pixels_ridge"}
    assert {tuple(s.shape) for s in scores.values()} == {(2, 10, 5)}
    pixels = nearest_class_mean(images[:, :15].flatten(2), labels, images[:, 15:].flatten(2), 5)
    assert torch.equal(scores["pixels_nearest_class_mean"], pixels)
    assert torch.equal(scores["ridge"], ridge(support, labels, query, 5))
