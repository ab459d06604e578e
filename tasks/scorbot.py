"""The ED-Scorbot arm: differentiable forward kinematics of two to four joints, and the joint limits.

Convention. Angles q = (base, shoulder[, elbow[, wrist]]) are measured from the home pose, rad; at q = 0 the arm lies
stretched out along +x at the height of the shoulder. A joint that is not given stays at home. With the elevations
above the horizontal

    e_2 = q_2,   e_3 = e_2 + q_3,   e_4 = e_3 - q_4

of upper arm, forearm and hand, and the azimuth phi = -q_1 (seen from above a positive base angle turns clockwise),

    rho = a_1 + a_2 cos e_2 + a_3 cos e_3 + a_4 cos e_4,   d = d_2 + d_3,
    x = rho cos phi - d sin phi,   y = rho sin phi + d cos phi,   z = d_1 + a_2 sin e_2 + a_3 sin e_3 + a_4 sin e_4.

Positive shoulder and elbow angles lift the tip, a positive wrist angle lowers it: the source turns the sign of the
first three joints and not of the fourth. Its home angles and the rational offsets it adds to them cancel
(3745578344/9093467413 is 23.6 degrees), so they do not appear here; with elbow and wrist at home this is the
two-joint formula of the published experiment, in which a_3 + a_4 = .57 m and d = -.033 m.

Reference: Ortner et al. 2025, Nature Communications 16:1243, and its published code, whose Denavit-Hartenberg
constants (a, d in metres, alpha) are (a_1, d_1, -90 degrees), (a_2, d_2, 0), (a_3, d_3, 0), (a_4, 0, 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError

__all__ = ["JOINTS", "SCORBOT", "Scorbot", "forward_kinematics", "joint_limits", "joint_positions", "within_limits"]

JOINTS = ("base", "shoulder", "elbow", "wrist")


@dataclass(frozen=True)
class Scorbot:
    """Link constants and joint limits.

    Attributes:
        a1, a2, a3, a4: shoulder's distance from the base axis, upper arm, forearm, hand (to the tip), m.
        d1, d2, d3: height of the shoulder, sideways offsets at the shoulder and at the elbow, m.
        home_deg: what each joint's own scale reads at home, degrees: reading = home + q. The source gives none for
            the wrist (0 here). The kinematics does not depend on them.
        limits_deg: lowest and highest angle of each joint from home, degrees. The source gives those of base and
            shoulder; elbow and wrist are unlimited unless given.
    """

    a1: float = 0.05
    a2: float = 0.3
    a3: float = 0.35
    a4: float = 0.22
    d1: float = 0.3585
    d2: float = -0.098
    d3: float = 0.065
    home_deg: tuple[float, float, float, float] = (23.6, -22.0, 22.4, 0.0)
    limits_deg: tuple[tuple[float, float], ...] = (
        (-130.0, 130.0),
        (-70.0, 70.0),
        (-math.inf, math.inf),
        (-math.inf, math.inf),
    )

    def __post_init__(self) -> None:
        for name in ("a1", "a2", "a3", "a4", "d1", "d2", "d3"):
            value = getattr(self, name)
            if not math.isfinite(value) or (name[0] == "a" and value < 0):
                raise ConfigError(f"link constant {name} = {value}: lengths are finite, a1 to a4 not negative, m")
        if len(self.limits_deg) != len(JOINTS):
            raise ConfigError(f"limits_deg holds {len(self.limits_deg)} pairs, one is needed for each of {JOINTS}")
        for joint, (low, high) in zip(JOINTS, self.limits_deg, strict=True):
            if not low < high:
                raise ConfigError(f"limits of the {joint} {low}..{high} degrees: the lower must be below the upper")

    @property
    def workspace(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Lowest and highest corner of the box that holds every reachable tip, whatever the joint limits, m."""
        arm = self.a2 + self.a3 + self.a4
        reach = math.hypot(self.a1 + arm, self.d2 + self.d3)
        return (-reach, -reach, self.d1 - arm), (reach, reach, self.d1 + arm)


SCORBOT = Scorbot()


def forward_kinematics(angles: Tensor, arm: Scorbot = SCORBOT) -> Tensor:
    """Position of the tip.

    Args:
        angles: [..., joints] with 2 to 4 joints in the order of ``JOINTS``, from home, rad.
    Returns: [..., 3] x, y, z, m, of the same dtype and device; differentiable to any order.
    Raises: ConfigError: the last axis does not hold 2 to 4 joints.
    Reference: the module's equations.
    """
    return _turn(_azimuth(angles), *_chain(angles, arm)[-1])


def joint_positions(angles: Tensor, arm: Scorbot = SCORBOT) -> Tensor:
    """The arm's points: foot, shoulder, elbow, wrist, tip.

    Args:
        angles: [..., joints], rad, as in :func:`forward_kinematics`.
    Returns: [..., 5, 3], m. Neighbours keep their distances: (a1, d1), (a2, d2), (a3, d3), a4 as right-angled pairs.
    Raises: ConfigError: the last axis does not hold 2 to 4 joints.
    """
    phi = _azimuth(angles)
    return torch.stack([_turn(phi, *point) for point in _chain(angles, arm)], -2)


def joint_limits(like: Tensor, arm: Scorbot = SCORBOT) -> tuple[Tensor, Tensor]:
    """Lower and upper limits of the joints of ``like`` [..., joints]: two tensors [joints], rad, of its dtype.

    Raises: ConfigError: the last axis does not hold 2 to 4 joints.
    """
    limits = like.new_tensor([[math.radians(bound) for bound in pair] for pair in arm.limits_deg])
    low, high = limits[: _joints(like)].unbind(-1)
    return low, high


def within_limits(angles: Tensor, arm: Scorbot = SCORBOT, tolerance_rad: float = 0.0) -> Tensor:
    """Whether every joint of ``angles`` [..., joints] (rad) keeps its limits: [...] bool; a NaN does not.

    Raises: ConfigError: the last axis does not hold 2 to 4 joints.
    """
    low, high = joint_limits(angles, arm)
    return ((angles >= low - tolerance_rad) & (angles <= high + tolerance_rad)).all(-1)


def _joints(angles: Tensor) -> int:
    joints = angles.shape[-1] if angles.ndim else 0
    if not 2 <= joints <= len(JOINTS):
        raise ConfigError(
            f"angles of shape {tuple(angles.shape)}: the last axis holds 2 to 4 joints ({', '.join(JOINTS)})"
        )
    return joints


def _azimuth(angles: Tensor) -> Tensor:
    _joints(angles)
    return -angles[..., 0]


def _chain(angles: Tensor, arm: Scorbot) -> list[tuple[Tensor, float, Tensor]]:
    """Outward, sideways and upward coordinate of the five points in the turning plane of the arm, m."""
    upper = angles[..., 1]
    fore = upper + angles[..., 2] if angles.shape[-1] > 2 else upper
    hand = fore - angles[..., 3] if angles.shape[-1] > 3 else fore
    out, up = torch.full_like(upper, arm.a1), torch.full_like(upper, arm.d1)
    chain = [(torch.zeros_like(upper), 0.0, torch.zeros_like(upper)), (out, 0.0, up)]
    for length, elevation, side in (
        (arm.a2, upper, arm.d2),
        (arm.a3, fore, arm.d2 + arm.d3),
        (arm.a4, hand, arm.d2 + arm.d3),
    ):
        out, up = out + length * elevation.cos(), up + length * elevation.sin()
        chain.append((out, side, up))
    return chain


def _turn(phi: Tensor, out: Tensor, side: float, up: Tensor) -> Tensor:
    cos, sin = phi.cos(), phi.sin()
    return torch.stack([out * cos - side * sin, out * sin + side * cos, up], -1)
