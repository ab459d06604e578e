"""``ovonic.load``: whatever holds trained networks comes back as what it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import ovonic
from ovonic.adapters.weights import save_fewshot
from ovonic.adapters.weights_robot import save_robot
from ovonic.models.errors import WeightsError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.tasks.robot import Robot
from ovonic.tasks.trajectories import PUBLISHED_CODE, CoordinateCode


def test_a_robot_says_its_lesson_and_where_it_is_from(tmp_path: Path) -> None:
    config = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10)
    pair, inner = initial_pair(config, 1), InnerLoop(step=None, updates=2)
    save_robot(tmp_path / "w", config, pair, inner, dataclasses.asdict(CoordinateCode()), {"seed": 3})
    robot = ovonic.load(tmp_path / "w")
    assert isinstance(robot, Robot)
    assert (robot.config, robot.inner, robot.code) == (config, inner, CoordinateCode())
    assert robot.provenance["seed"] == 3
    assert robot.provenance["source"] == str(tmp_path / "w")
    assert not robot.module().training


def test_a_classifier_is_told_from_a_robot(tmp_path: Path) -> None:
    save_fewshot(tmp_path / "w", FewshotCNN(CNNConfig(channels=4)), {"seed": 3})
    net = ovonic.load(str(tmp_path / "w"))
    assert isinstance(net, FewshotCNN)
    assert net.provenance["seed"] == 3


@pytest.mark.shared
@pytest.mark.parametrize("name", ["robot_checkpoint.npz", "robot-pretrained-weights.pickle"])
def test_the_published_robot_comes_with_its_code(shared: Path, name: str) -> None:
    robot = ovonic.load(shared / "published" / name)
    assert isinstance(robot, Robot)
    assert robot.code == PUBLISHED_CODE


@pytest.mark.shared
def test_the_published_classifier(shared: Path) -> None:
    assert isinstance(ovonic.load(shared / "published" / "cnn_checkpoint.npz"), FewshotCNN)


def test_arrays_of_neither_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", kernel9=np.zeros((2, 2), np.float32))
    with pytest.raises(WeightsError, match="kernel9"):
        ovonic.load(tmp_path / "w.npz")


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(WeightsError, match="fewshot-33bit"):
        ovonic.load("fewshot-33bit")
