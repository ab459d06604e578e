"""A robot arm's teacher and pupil, as a weight file has them, and how well a movement was learned.

tip error of a movement = sqrt(mean_t |path[t] - kinematics(integrate(omega))[t]|^2)   (mm)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ovonic.adapters.checkpoints import checkpoint_weights
from ovonic.adapters.weights import ROBOT, from_fields, origin
from ovonic.adapters.weights_robot import RobotWeights, load_robot, robot_from
from ovonic.models.engine import run_fast
from ovonic.models.errors import ConfigError, WeightsError
from ovonic.models.natural_eprop import Engine, InnerLoop, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Pair
from ovonic.tasks.scorbot import forward_kinematics
from ovonic.tasks.trajectories import PUBLISHED_CODE, CoordinateCode, TrajectoryBatch, TrajectorySpec, integrate

__all__ = [
    "ENGINE",
    "MovementErrors",
    "Robot",
    "kinematics",
    "movement_errors",
    "movement_family",
    "resolve_robot",
    "spec_for",
    "starting_robot",
]

ENGINE: Engine = run_fast
"""What runs the networks of robot tasks unless they are told otherwise; others: ``adapters.engines``."""


@dataclass(frozen=True)
class Robot:
    """What a robot's weight file says.

    Attributes:
        config: sizes and dynamics of the networks; pair: the networks.
        inner: how their lessons go by default.
        code: how targets are told to the learning-signal generator.
        provenance: ``source``, ``sha256``, and what the file says of its training.
    """

    config: NaturalEPropConfig
    pair: Pair
    inner: InnerLoop = field(default_factory=InnerLoop)
    code: CoordinateCode = field(default_factory=CoordinateCode)
    provenance: dict[str, Any] = field(default_factory=dict)

    def module(self, dtype: torch.dtype = torch.float32, engine: Engine = ENGINE) -> NaturalEProp:
        """The networks with learnable weights, in eval mode."""
        return NaturalEProp(self.pair, engine=engine, dtype=dtype).eval()


def resolve_robot(source: str | Path) -> Robot:
    """Load a robot from a shipped name, a safetensors file, or a published checkpoint (npz or pickle).

    Raises: WeightsError: nothing of that name, damaged, or not a robot's weights.
    """
    return _robot(source, load_robot(source))


def starting_robot(source: str | Path) -> Robot:
    """What a training starts from: a robot as ``resolve_robot`` finds it, or the last step of a run's checkpoint.

    Raises: WeightsError: as ``resolve_robot``; a checkpoint of another experiment.
    """
    weights = checkpoint_weights(source, ROBOT)
    if weights is None:
        return resolve_robot(source)
    return _robot(source, robot_from(weights, origin(source, weights.path)))


def _robot(source: str | Path, weights: RobotWeights) -> Robot:
    code = weights.code
    known = PUBLISHED_CODE if code is None else from_fields(source, code, CoordinateCode, "coordinate code")
    try:
        movement_family(weights.config, known)
    except ConfigError as error:
        raise WeightsError(f"{source}: {error}") from error
    return Robot(weights.config, weights.pair, weights.inner, known, weights.provenance)


def spec_for(robot: Robot, published: bool = False) -> TrajectorySpec:
    """Movements that ``robot`` can be told of, in its own code: consistent, or of the published family."""
    return movement_family(robot.config, robot.code, published)


def movement_family(config: NaturalEPropConfig, code: CoordinateCode, published: bool = False) -> TrajectorySpec:
    """Movements for networks of these sizes: a joint for each output, at their time step.

    Raises: ConfigError: clock, code or outputs do not fit the networks.
    """
    spec = replace(TrajectorySpec(), joints=config.outputs, dt_ms=config.dt_ms, code=code, clip_angles=published)
    for name, due in (("clock", spec.clock_neurons), ("target", 3 * code.bits)):
        if getattr(config, name) != due:
            raise ConfigError(f"{name} {getattr(config, name)}: the movements bring {due} such inputs")
    return spec


def kinematics(spec: TrajectorySpec) -> Callable[[Tensor], Tensor]:
    """The path of the tip, [.., T, 3] m, that angular velocities, [.., T, joints] rad/s, trace from home."""
    return lambda omega: forward_kinematics(integrate(omega, spec.arm_dt_s), spec.arm)


class MovementErrors(NamedTuple):
    """How far velocities are from those of movements, each [B]: rad^2/s^2, m^2, mm."""

    mse_omega: Tensor
    mse_xyz: Tensor
    tip_rmse_mm: Tensor

    @property
    def loss(self) -> Tensor:
        """Half of each mean square."""
        return (self.mse_omega + self.mse_xyz) / 2


def movement_errors(omega: Tensor, batch: TrajectoryBatch) -> MovementErrors:
    """The errors of ``omega``, [B, T, joints] rad/s: means over time and components, movement by movement."""
    squares = (kinematics(batch.spec)(omega) - batch.path).square()
    return MovementErrors(
        (omega - batch.omega).square().mean((1, 2)),
        squares.mean((1, 2)),
        1e3 * squares.sum(-1).mean(-1).sqrt(),
    )
