"""Every robot that ships: it loads, its card stands beside it, and its lessons teach."""

from __future__ import annotations

import numpy as np
import pytest

import ovonic
from ovonic.adapters.weights import ROBOT, describe, shipped
from ovonic.models.layers import Spiking
from ovonic.tasks.robot import Robot, spec_for
from ovonic.tasks.robot_evaluation import evaluate_robot

NAMES = [name for name, path in shipped().items() if describe(path)["kind"] == ROBOT]
BEATS = 5.0
"""Least ratio of a control's mean loss to the taught one's, over 20 movements; over 200 more is claimed."""


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_robot_has_the_papers_sizes(name: str) -> None:
    """250 LIF neurons and 5 clock inputs; 800 neurons, 30 % of them adaptive."""
    robot = ovonic.load(name)
    assert isinstance(robot, Robot)
    trainee, lsg = robot.pair.trainee, robot.pair.lsg
    assert (trainee.shapes["clock"], trainee.shapes["trainee"]) == ((5,), (250,))
    pupil, teacher = trainee.layers["trainee"], lsg.layers["lsg"]
    assert isinstance(pupil, Spiking)
    assert isinstance(teacher, Spiking)
    assert pupil.dynamics.adaptation is None
    assert teacher.dynamics.adaptation is not None
    assert lsg.shapes["lsg"] == (800,)
    assert np.count_nonzero(teacher.dynamics.adaptation.beta) == 240


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_robot_learns_what_its_controls_do_not(name: str) -> None:
    robot = ovonic.load(name)
    assert isinstance(robot, Robot)
    assert shipped()[name].with_suffix(".md").is_file()
    evaluation = evaluate_robot(robot, spec_for(robot), 20, robot.inner, seed=1)
    for control, errors in evaluation.controls.items():
        assert errors.loss.mean() > BEATS * evaluation.after.loss.mean(), control
        assert (errors.loss > evaluation.after.loss).sum() >= 18, control
