"""The arm against the published formula, against Denavit-Hartenberg matrices, and against geometry."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.tasks.scorbot import (
    SCORBOT,
    Scorbot,
    forward_kinematics,
    joint_limits,
    joint_positions,
    within_limits,
)

ANGLES = st.lists(st.floats(-math.pi, math.pi), min_size=2, max_size=4).map(lambda q: torch.tensor(q).double())


def _random_angles(joints: int, n: int = 50, seed: int = 0) -> Tensor:
    return (torch.rand(n, joints, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5) * 6


def _published_two_joints(q: Tensor) -> Tensor:
    """The published formula, its home angles and rational constants written out (FACTS 2.2)."""
    home = [math.radians(degrees) for degrees in SCORBOT.home_deg]
    q1 = -(q[..., 0] + home[0]) + 3745578344 / 9093467413
    a = -(q[..., 1] + home[1]) - 3357166075 / 8743247601
    b = a - home[2] + 1421104251 / 3634967671
    rho = 0.05 + 0.3 * a.cos() + 0.57 * b.cos()
    return torch.stack(
        [
            rho * q1.cos() + 0.033 * q1.sin(),
            rho * q1.sin() - 0.033 * q1.cos(),
            0.3585 - 0.3 * a.sin() - 0.57 * b.sin(),
        ],
        -1,
    )


def _denavit_hartenberg(q: Tensor, arm: Scorbot) -> np.ndarray:
    """Tip of one pose as a product of four Denavit-Hartenberg matrices, theta = (-q1, -q2, -q3, +q4)."""
    theta = np.zeros(4)
    theta[: len(q)] = q.numpy() * np.array([-1, -1, -1, 1])[: len(q)]
    links = ((arm.a1, arm.d1, -math.pi / 2), (arm.a2, arm.d2, 0), (arm.a3, arm.d3, 0), (arm.a4, 0, 0))
    pose = np.eye(4)
    for t, (a, d, alpha) in zip(theta, links, strict=True):
        ct, sn, ca, sa = math.cos(t), math.sin(t), math.cos(alpha), math.sin(alpha)
        pose = pose @ np.array(
            [[ct, -sn * ca, sn * sa, a * ct], [sn, ct * ca, -ct * sa, a * sn], [0, sa, ca, d], [0, 0, 0, 1]]
        )
    return pose[:3, 3]


def test_home_and_a_right_angle_by_hand() -> None:
    """At home .05 + .3 + .35 + .22 = .92 m out and .033 m aside; with the shoulder straight up .87 m above it."""
    poses = torch.tensor([[0.0, 0.0], [0.0, math.pi / 2], [math.pi / 2, 0.0]], dtype=torch.float64)
    expected = [[0.92, -0.033, 0.3585], [0.05, -0.033, 1.2285], [-0.033, -0.92, 0.3585]]
    np.testing.assert_allclose(forward_kinematics(poses), expected, atol=1e-15)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 5e-16), (torch.float32, 5e-7)])
def test_two_joints_are_the_published_formula(dtype: torch.dtype, atol: float) -> None:
    q = _random_angles(2, 2000).to(dtype)
    tip = forward_kinematics(q)
    assert tip.dtype == dtype
    np.testing.assert_allclose(tip, _published_two_joints(q), atol=atol, rtol=0)


@pytest.mark.parametrize("joints", [2, 3, 4])
def test_equals_denavit_hartenberg_matrices(joints: int) -> None:
    arm = Scorbot(a1=0.1, a2=0.4, a3=0.2, a4=0.15, d1=0.5, d2=-0.2, d3=0.07)
    for q in _random_angles(joints):
        for robot in (SCORBOT, arm):
            np.testing.assert_allclose(forward_kinematics(q, robot), _denavit_hartenberg(q, robot), atol=5e-16)


@pytest.mark.parametrize("joints", [2, 3])
def test_a_joint_left_out_is_at_home(joints: int) -> None:
    q = _random_angles(joints)
    padded = torch.nn.functional.pad(q, (0, 4 - joints))
    assert torch.equal(forward_kinematics(q), forward_kinematics(padded))


@pytest.mark.parametrize("joints", [2, 3, 4])
def test_gradients_are_right(joints: int) -> None:
    q = _random_angles(joints, 5).requires_grad_()
    assert torch.autograd.gradcheck(forward_kinematics, (q,))
    assert torch.autograd.gradgradcheck(forward_kinematics, (q,))
    assert torch.autograd.gradcheck(joint_positions, (q,))


@settings(deadline=None)
@given(ANGLES, st.floats(-math.pi, math.pi))
def test_the_base_turns_the_arm_about_z(q: Tensor, turn: float) -> None:
    """A positive base angle turns clockwise seen from above; heights stay."""
    turned = q.clone()
    turned[0] += turn
    x, y, z = joint_positions(q).unbind(-1)
    expected = torch.stack(
        [math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x, z],
        -1,
    )
    torch.testing.assert_close(joint_positions(turned), expected, atol=2e-15, rtol=0)


@settings(deadline=None)
@given(ANGLES)
def test_links_keep_their_lengths_and_the_tip_stays_in_reach(q: Tensor) -> None:
    points = joint_positions(q)
    arm = SCORBOT
    lengths = [math.hypot(arm.a1, arm.d1), math.hypot(arm.a2, arm.d2), math.hypot(arm.a3, arm.d3), arm.a4]
    np.testing.assert_allclose(points.diff(dim=0).norm(dim=-1), lengths, atol=1e-15)
    assert torch.equal(points[-1], forward_kinematics(q))
    low, high = (points.new_tensor(corner) for corner in arm.workspace)
    assert bool(((points[-1] >= low - 1e-15) & (points[-1] <= high + 1e-15)).all())


def test_the_workspace_is_reached() -> None:
    """Each face of the box that the two joints can turn to is touched: its bounds are tight."""
    q = torch.cartesian_prod(torch.linspace(-math.pi, math.pi, 721), torch.tensor([-math.pi / 2, 0, math.pi / 2]))
    tips = forward_kinematics(q.double())
    np.testing.assert_allclose(tips.amin(0), SCORBOT.workspace[0], atol=1e-5)
    np.testing.assert_allclose(tips.amax(0), SCORBOT.workspace[1], atol=1e-5)


def test_limits_are_those_of_base_and_shoulder_unless_given() -> None:
    low, high = joint_limits(torch.zeros(4, dtype=torch.float64))
    np.testing.assert_allclose(high.rad2deg(), [130, 70, np.inf, np.inf])
    assert torch.equal(low, -high)
    q = torch.tensor([[129.9, -69.9, 500.0], [130.1, 0, 0], [0, -70.1, 0], [0, math.nan, 0]]).deg2rad()
    assert within_limits(q).tolist() == [True, False, False, False]
    assert within_limits(q, tolerance_rad=math.radians(0.2)).tolist() == [True, True, True, False]
    elbow = Scorbot(limits_deg=((-130, 130), (-70, 70), (-90, 90), (-math.inf, math.inf)))
    assert within_limits(q, elbow).tolist() == [False] * 4


def test_bad_shapes_and_constants_are_refused() -> None:
    for shape in ((5, 1), (5, 5), ()):
        for function in (forward_kinematics, joint_positions, joint_limits, within_limits):
            with pytest.raises(ConfigError, match=r"2 to 4 joints \(base, shoulder"):
                function(torch.zeros(shape))
    with pytest.raises(ConfigError, match="a2 = nan"):
        Scorbot(a2=math.nan)
    with pytest.raises(ConfigError, match=r"limits of the shoulder 70\.0..-70\.0"):
        Scorbot(limits_deg=((-130.0, 130.0), (70.0, -70.0), (-1.0, 1.0), (-1.0, 1.0)))
    with pytest.raises(ConfigError, match="holds 2 pairs"):
        Scorbot(limits_deg=((-130.0, 130.0), (-70.0, 70.0)))


@pytest.mark.shared
def test_golden_coordinates(shared: Path) -> None:
    """coordinates_t of the published implementation from its angles_t; float32: 3e-7 m."""
    golden = np.load(shared / "published" / "robot_golden.npz")
    angles = torch.from_numpy(golden["angles_t"])
    for q in (angles, angles.double()):
        np.testing.assert_allclose(forward_kinematics(q), golden["coordinates_t"], atol=3e-7, rtol=0)
