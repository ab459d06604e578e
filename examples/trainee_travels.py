"""The robot's trainee learns a movement here, then moves the arm in Brian2, NEST, snnTorch and Norse.

    uv run python examples/trainee_travels.py --weights robot-float
    uv run python examples/trainee_travels.py --weights robot_checkpoint.npz --index 3 --out trainee.nir

After one lesson the trainee, its weights with their update, is written as a NIR file; that file is read and run in each
toolchain, in float64. For each: spikes that differ from our own run of the trainee that was taught, and how far the
tips of the two arms are apart at most.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ovonic.adapters.nir import load_nir, save_nir
from ovonic.adapters.toolchains import TOOLCHAINS, adapter
from ovonic.models.errors import ToolchainError
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.tasks.robot import Robot, kinematics, movement_errors, resolve_robot, spec_for
from ovonic.tasks.trajectories import TrajectoryBatch, sample_trajectories


class Arrival(NamedTuple):
    """How a toolchain ran the trainee: spikes, those that differ from ours, largest distance of the tips, mm."""

    spikes: int
    different: int
    tip_mm: float


def taught(robot: Robot, movement: TrajectoryBatch, seed: int = 0) -> Network:
    """The trainee after its lesson on one movement: weights and change."""
    with torch.no_grad():
        model = robot.module(torch.float64)
        lesson = model(movement.clock, movement.lsg_input, robot.inner, torch.Generator().manual_seed(seed))
    weights = robot.pair.trainee.weights()
    changed = {name: weights[name] + change[0].numpy() for name, change in lesson.changes.items()}
    return robot.pair.trainee.with_weights(changed)


def travel(
    trainee: Network, movement: TrajectoryBatch, file: Path, toolchains: Sequence[str] = TOOLCHAINS
) -> dict[str, Arrival | str]:
    """Write the trainee to ``file`` and run what is read there in each toolchain; a reason where one is missing."""
    path_of = kinematics(movement.spec)
    home = run(trainee, movement.clock)
    save_nir(file, trainee)
    arrived: dict[str, Arrival | str] = {}
    for name in toolchains:
        try:
            trace = adapter(name).run(load_nir(file), movement.clock)
        except ToolchainError as error:
            arrived[name] = str(error)
            continue
        (spikes,), (ours,) = ([layer.spikes for layer in t.layers.values()] for t in (trace, home))
        apart = (path_of(trace.readout) - path_of(home.readout)).norm(dim=-1).max()
        arrived[name] = Arrival(int(spikes.sum()), int((spikes != ours).sum()), 1e3 * float(apart))
    return arrived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="robot-float", help="shipped name, safetensors or published checkpoint")
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--index", type=int, default=0, help="number of the movement in the stream of the seed")
    parser.add_argument("--toolchains", nargs="+", choices=TOOLCHAINS, default=list(TOOLCHAINS))
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the NIR file there")
    options = parser.parse_args()

    robot = resolve_robot(options.weights)
    movement = sample_trajectories(spec_for(robot), options.seed, [options.index], torch.float64)
    trainee = taught(robot, movement)
    with tempfile.TemporaryDirectory() as folder:
        file = options.out or Path(folder) / "trainee.nir"
        arrived = travel(trainee, movement, file, options.toolchains)
    tip = movement_errors(run(trainee, movement.clock).readout, movement).tip_rmse_mm.item()
    print(f"{options.weights}, movement {options.index} of seed {options.seed}: taught, the tip is {tip:.1f} mm off")
    for name, found in arrived.items():
        if isinstance(found, str):
            print(f"{name:9} {found}")
            continue
        spikes, different, apart = found
        verdict = "identical" if not different else f"{different} of them differ"
        print(f"{name:9} {spikes} spikes, {verdict}; tips {apart:.2g} mm apart at most")


if __name__ == "__main__":
    main()
