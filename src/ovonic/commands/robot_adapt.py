"""``ovonic robot adapt``: a recorded movement -> one lesson -> angular velocities and the path they trace."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import (
    JsonFile,
    Quiet,
    Seed,
    command_line,
    file_to_write,
    folder_to_write,
    parse_step,
    progress,
    versions,
    write_json,
)
from ovonic.models.errors import ConfigError, DivergenceError

if TYPE_CHECKING:
    from torch import Tensor

    from ovonic.tasks.recordings import RecordedMovement
    from ovonic.tasks.trajectories import TrajectoryBatch

__all__ = ["adapt"]


def adapt(
    recording: Annotated[
        Path, typer.Argument(metavar="CSV", help="Columns x, y, z of the tip, or angles q1, q2 from home; and t in s.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="CSV",
            help="Velocities, angles and path: learned, target, before.",
            callback=file_to_write,
        ),
    ] = Path("learned.csv"),
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="A shipped name, a safetensors or a published file.")
    ] = "robot-q16",
    dt_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Time between samples, where there is no column t.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Of x, y, z: m or mm.")] = "m",
    angles: Annotated[str, typer.Option(help="Unit of q1, q2: deg or rad.")] = "deg",
    tolerance_mm: Annotated[
        float, typer.Option(min=0, help="How far x, y, z may be from where the arm can reach.")
    ] = 5.0,
    quantise: Annotated[
        str | None,
        typer.Option(metavar="STEP|none", help="Round updates to multiples of this (default: as the weights say)."),
    ] = None,
    rounding: Annotated[str | None, typer.Option(help="nearest or stochastic (default: as the weights say).")] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Updates (default: as the weights say).")] = None,
    seed: Seed = 0,
    json: JsonFile = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the figures there.", callback=folder_to_write)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Learn a recorded movement of the arm in one shot: one trial, one update, one trial.

    The movement starts at home and has 249 samples, 10 ms apart; other steps are interpolated, what is longer is cut.
    """
    import torch

    from ovonic.adapters.files import write_atomically
    from ovonic.tasks.recordings import read_recording, recording_batch
    from ovonic.tasks.robot import movement_errors, resolve_robot, spec_for
    from ovonic.tasks.robot_evaluation import updated_fractions

    if out.exists() and recording.exists() and out.samefile(recording):
        raise ConfigError(f"--out {out}: this is the recording itself; name another file")
    robot = resolve_robot(weights)
    given = {"rounding": rounding, "updates": updates}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if quantise is not None:
        changes["step"] = parse_step(quantise)
    inner = replace(robot.inner, **changes)
    if inner.step is None and rounding is not None:
        raise ConfigError(f"--rounding {rounding}: {weights} does not round its updates: add --quantise STEP")
    if inner.updates < 1:
        raise ConfigError(f"{weights}: its lessons have no update, nothing would be learned: add --updates 1")
    spec = spec_for(robot)
    movement = recording_batch(read_recording(recording, spec.joints, dt_ms, unit, angles), spec, tolerance_mm)
    batch = movement.batch
    _warn_of_strangers(batch)
    with progress("learning", 1, quiet) as advance, torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        lesson = robot.module()(batch.clock, batch.lsg_input, inner, generator)
        advance()
    before, after = (movement_errors(omega.double(), batch) for omega in (lesson.before, lesson.after))
    result: dict[str, Any] = {
        name: {"before": float(getattr(before, name)), "after": float(getattr(after, name))}
        for name in ("mse_omega", "mse_xyz", "tip_rmse_mm", "loss")
    }
    if not math.isfinite(result["loss"]["after"]):
        raise DivergenceError(f"{recording}: the lesson gave no finite velocities; check the weights {weights}")
    leaves = _leaves_limits(lesson.after, batch)
    result |= {
        "update": {name: float(share[0]) for name, share in updated_fractions(lesson).items()},
        "movement": {
            "samples": spec.steps,
            "unused_samples": movement.unused,
            "interpolated": movement.interpolated,
            "tip_moved_mm": movement.moved_mm,
            "rms_omega": _rms(batch),
        },
        "learned_movement_leaves_limits_at": leaves,
        "out": out,
    }
    write_atomically(out, _table(movement, {"": lesson.after, "target_": batch.omega, "before_": lesson.before}))
    if str(json) != "-":
        _print(recording, movement, result)
    if leaves is not None:
        _warn(f"the learned movement leaves the joint limits at t = {movement.t_s[leaves]:g} s ({out})")
    command = command_line()
    config = {
        "weights": robot.provenance,
        "network": robot.config,
        "inner": inner,
        "trajectory": spec,
        "recording": recording,
        "dt_ms": dt_ms,
        "unit": unit,
        "angles": angles,
        "tolerance_mm": tolerance_mm,
        "seed": seed,
        "command": command,
    }
    write_json(json, "robot-adapt", result, config, versions("scipy"))
    if figures:
        from ovonic.validation.robot_figures import lesson_figures

        rounded = "not rounded" if inner.step is None else f"rounded to {inner.step:g}"
        setting = f"{recording.name}, {weights}, update {rounded}"
        lif = robot.config.lsg_lif
        made = lesson_figures(lesson, batch, 0, figures, lif, setting=setting, command=command)
        typer.echo(f"{figures}: {len(made)} figures", err=True)


def _rms(batch: TrajectoryBatch) -> float:
    return float(batch.omega.square().mean().sqrt())


def _warn_of_strangers(batch: TrajectoryBatch) -> None:
    """Say so where the movement is none that networks are trained on."""
    from ovonic.tasks.recordings import FAMILY_RMS_OMEGA

    low, high = FAMILY_RMS_OMEGA
    if not low <= (rms := _rms(batch)) <= high:
        _warn(
            f"its RMS angular velocity is {rms:.3g} rad/s; the movements that networks are trained on have "
            f"{low:g} to {high:g} rad/s (1,000 of them), so learn this one with care"
        )


def _leaves_limits(omega: Tensor, batch: TrajectoryBatch) -> int | None:
    """The first step at which summed velocities, [1, T, joints], leave the joint limits."""
    from ovonic.tasks.scorbot import within_limits
    from ovonic.tasks.trajectories import integrate

    angles = integrate(omega[0].double(), batch.spec.arm_dt_s)
    outside = (~within_limits(angles, batch.spec.arm)).nonzero()
    return int(outside[0]) if len(outside) else None


def _table(movement: RecordedMovement, velocities: Mapping[str, Tensor]) -> str:
    """CSV: t_s, then for each of ``velocities`` (by the prefix of their columns) omega, angles and path, step by step.

    omega (rad/s) holds during the step that ends at t_s; angles (from home, degrees) and tip are those at its end.
    """
    import numpy as np

    from ovonic.tasks.scorbot import forward_kinematics
    from ovonic.tasks.trajectories import integrate

    spec = movement.batch.spec
    names, columns = ["t_s"], [movement.t_s[:, None]]
    for prefix, velocity in velocities.items():
        omega = velocity[0].double()
        angles = integrate(omega, spec.arm_dt_s)
        joints = range(1, spec.joints + 1)
        names += [f"{prefix}omega{j}" for j in joints] + [f"{prefix}q{j}_deg" for j in joints]
        names += [f"{prefix}{axis}_m" for axis in "xyz"]
        columns += [omega.numpy(), angles.rad2deg().numpy(), forward_kinematics(angles, spec.arm).numpy()]
    text = io.StringIO()
    np.savetxt(text, np.concatenate(columns, 1), "%.9g", ",", header=",".join(names), comments="")
    return text.getvalue()


def _print(recording: Path, movement: RecordedMovement, result: Mapping[str, Any]) -> None:
    spec = movement.batch.spec
    taken = "interpolated to" if movement.interpolated else "taken as"
    typer.echo(f"{recording}: {taken} {spec.steps} samples, {1e3 * spec.arm_dt_s:g} ms apart")
    if movement.unused:
        typer.echo(f"  not used: its last {movement.unused} samples, after t = {movement.t_s[-1]:g} s")
    if movement.moved_mm is not None and movement.moved_mm >= 0.1:
        typer.echo(f"  moved to where the arm can reach: tips by up to {movement.moved_mm:.3g} mm")
    tip, loss, share = result["tip_rmse_mm"], result["loss"], result["update"]
    typer.echo(f"tip error {tip['before']:.0f} mm before, {tip['after']:.0f} mm after; loss {loss['after']:.4g}")
    typer.echo(f"changed {100 * share['W_in']:.1f} % of W_in and {100 * share['W_rec']:.1f} % of W_rec")
    typer.echo(str(result["out"]))


def _warn(message: str) -> None:
    typer.echo(f"warning: {message}", err=True)
