"""A robot's weight file becomes networks that fit their movements, or is refused; errors of movements by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ovonic.adapters.weights_robot import save_robot
from ovonic.models.errors import ConfigError, WeightsError
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.tasks.robot import Robot, kinematics, movement_errors, resolve_robot, spec_for
from ovonic.tasks.robot_run import save
from ovonic.tasks.trajectories import PUBLISHED_CODE, CoordinateCode, TrajectorySpec, sample_trajectories

SMALL = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10)


def _robot(config: NaturalEPropConfig = SMALL, **parts: object) -> Robot:
    return dataclasses.replace(Robot(config, initial_pair(config)), **parts)  # type: ignore[arg-type]


def test_a_robot_comes_back(tmp_path: Path) -> None:
    code = CoordinateCode((-1.0, -1.1, -0.7), 2.5, 14)
    config = dataclasses.replace(SMALL, target=42, outputs=3, dt_ms=2.0)
    robot = _robot(config, inner=InnerLoop(1e-3, 0.125, "stochastic", 2), code=code, provenance={"seed": 4})
    save(tmp_path / "w", robot)
    again = resolve_robot(tmp_path / "w")
    assert (again.config, again.inner, again.code) == (config, robot.inner, code)
    assert again.provenance["seed"] == 4
    for ours, theirs in zip(again.module().parameters(), robot.module().parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert spec_for(again) == TrajectorySpec(joints=3, dt_ms=2.0, code=code)


def test_a_lesson_of_its_movements_runs() -> None:
    robot = _robot()
    batch = sample_trajectories(spec_for(robot), 0, range(2))
    module = robot.module()
    assert not module.training
    assert module(batch.clock, batch.lsg_input, robot.inner).after.shape == batch.omega.shape


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({}, "lacks bits, low_m, span_m, wraps"),
        ({"low_m": [-1, -1]}, "coordinate code low_m"),
        ({"low_m": [-1, -1, None]}, "coordinate code low_m"),
        ({"bits": 15}, "target 48: the movements bring 45"),
        ({"bits": 40}, "code of 40 bits"),
        ({"span_m": 1.0}, "does not cover the workspace"),
        ({"wrap": True}, "did you mean 'wraps'"),
    ],
)
def test_a_code_that_does_not_fit_is_refused(tmp_path: Path, code: dict[str, object], message: str) -> None:
    whole = {"low_m": [-1.0, -1.0, -0.6], "span_m": 2.0, "bits": 16, "wraps": False} | code if code else {}
    save_robot(tmp_path / "w", SMALL, initial_pair(SMALL), InnerLoop(), whole, {})
    with pytest.raises(WeightsError, match=rf"{tmp_path}/w: .*{message}"):
        resolve_robot(tmp_path / "w")


def test_networks_that_no_movement_fits() -> None:
    with pytest.raises(ConfigError, match="clock 4: the movements bring 5"):
        spec_for(_robot(dataclasses.replace(SMALL, clock=4)))
    with pytest.raises(ConfigError, match="joints 1"):
        spec_for(_robot(dataclasses.replace(SMALL, outputs=1)))


def test_errors_by_hand() -> None:
    batch = sample_trajectories(TrajectorySpec(), 1, range(3), torch.float64)
    exact = movement_errors(batch.omega, batch)
    assert exact.loss.max() < 1e-12
    assert exact.tip_rmse_mm.max() < 1e-4
    rest = movement_errors(torch.zeros_like(batch.omega), batch)
    home = kinematics(batch.spec)(torch.zeros_like(batch.omega))[0, 0]
    distance = np.linalg.norm(batch.path.numpy() - home.numpy(), axis=-1)
    assert np.allclose(rest.tip_rmse_mm, 1000 * np.sqrt((distance**2).mean(1)))
    assert np.allclose(rest.mse_xyz, (distance**2).mean(1) / 3)
    assert np.allclose(rest.mse_omega, (batch.omega.numpy() ** 2).mean((1, 2)))
    assert np.allclose(rest.loss, rest.mse_omega / 2 + rest.mse_xyz / 2)


@pytest.mark.shared
def test_the_published_checkpoint(shared: Path) -> None:
    robot = resolve_robot(shared / "published" / "robot_checkpoint.npz")
    assert (robot.code, robot.inner) == (PUBLISHED_CODE, InnerLoop())
    assert spec_for(robot, published=True) == TrajectorySpec.published()
    assert spec_for(robot) == TrajectorySpec(code=PUBLISHED_CODE)
    batch = sample_trajectories(spec_for(robot), 0, range(2))
    with torch.no_grad():
        lesson = robot.module()(batch.clock, batch.lsg_input, dataclasses.replace(robot.inner, step=None))
    assert (movement_errors(lesson.after, batch).loss < 0.02 * movement_errors(lesson.before, batch).loss).all()
