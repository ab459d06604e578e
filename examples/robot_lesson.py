"""Teach one movement to the robot arm, and draw the lesson: paths, spikes, learning signals, weights, the moving arm.

    uv run python examples/robot_lesson.py lesson --weights robot-q16 --index 3

Writes path.png, rasters.png, signals.png, arm.png and arm.gif into the folder. The movement is number --index of the
stream that --seed names, which the shipped weights were never trained on.
"""

from __future__ import annotations

import argparse

import torch

from ovonic.tasks.robot import movement_errors, resolve_robot, spec_for
from ovonic.tasks.trajectories import sample_trajectories
from ovonic.validation.robot_figures import lesson_figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--weights", default="robot-q16", help="shipped name, safetensors or published checkpoint")
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--index", type=int, default=0)
    options = parser.parse_args()

    robot = resolve_robot(options.weights)
    batch = sample_trajectories(spec_for(robot), options.seed, [options.index])
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad():
        lesson = robot.module()(batch.clock, batch.lsg_input, robot.inner, generator)
    for name, omega in (("before", lesson.before), ("after", lesson.after)):
        errors = movement_errors(omega, batch)
        print(f"{name:7} loss {errors.loss.item():.5f}   tip error {errors.tip_rmse_mm.item():5.1f} mm")
    setting = f"{options.weights}, movement {options.index} of seed {options.seed}"
    for path in lesson_figures(lesson, batch, 0, options.folder, robot.config.lsg_lif, setting=setting):
        print(path)


if __name__ == "__main__":
    main()
