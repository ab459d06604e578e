"""What learning side by side says of a task: losses, answers, and accuracy on episodes that were never learned from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovonic.models.errors import ConfigError
from ovonic.tasks.bellec import Evidence, Task, evidence_accumulation, task_network
from ovonic.validation.eprop_learning import LearningCurves, accuracy_figure, answered, learn
from ovonic.validation.figure_style import alt_text


def _curves(right: np.ndarray | None, other: np.ndarray | None) -> LearningCurves:
    losses, weights = np.linspace(1, 0.5, 20), {"w": np.zeros(2)}
    return LearningCurves("a task", losses, losses, weights, weights, weights, right, other)


def test_an_answer_is_the_largest_mean_of_the_window() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, None].repeat(1, 4, 1)
    y = torch.zeros(2, 4, 2)
    y[:, :2, 1] = 9.0  # before the window
    y[:, 2, 0], y[:, 3, 1] = 3.0, 2.0
    task = Task("t", torch.zeros(2, 4, 1), targets, "cross_entropy", 2)
    assert answered(y, task).tolist() == [True, False]


def test_episodes_never_learned_from_are_answered_better_and_better() -> None:
    """1,920 episodes, each answered before its update. Chance is 50 %: of the last 640, 59 % would be 4.5 standard
    errors above it, and a rate of the wrong sign or no learning stays below.
    """
    size = Evidence(inputs=40, cues=3, delay=40, rate=0.2)
    task = evidence_accumulation(16 * 120, 0, size)
    assert len(torch.unique(task.inputs.flatten(1), dim=0)) == len(task.inputs)
    network = task_network(task, 40, 20)
    y, _ = learn(network, task, 3e-4, 16)
    right = answered(y, task).double()
    assert right[-640:].mean() > 0.7
    assert right[-640:].mean() > right[:320].mean() + 0.05
    still, weights = learn(network, task, 0.0, 16)
    assert abs(answered(still, task).double()[-640:].mean() - 0.5) < 0.09
    assert all(np.array_equal(w, weights[name]) for name, w in network.weights().items())


def test_the_figure_says_how_many_answers_differ() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((20, 4)) < 0.7
    other = right.copy()
    other[3, 2] = not other[3, 2]
    figure = accuracy_figure(_curves(right, other), 5)
    assert "1 of 80 answers differ" in alt_text(figure)
    shown = [line.get_ydata() for line in figure.axes[1].get_lines()]
    assert shown[0][0] == pytest.approx(100 * right[:5].mean())
    assert shown[1][0] == pytest.approx(100 * other[:5].mean())
    for curves, every in ((_curves(None, None), 5), (_curves(right, other), 21)):
        with pytest.raises(ConfigError, match="needs answers"):
            accuracy_figure(curves, every)
