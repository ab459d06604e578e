"""A meta-training run of the robot's networks in a folder: checkpoint, metrics, weights; stopped, resumed at will."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ovonic.adapters.checkpoints import save_checkpoint
from ovonic.adapters.files import write_atomically
from ovonic.adapters.weights_robot import save_robot
from ovonic.models.errors import ConfigError, DataError
from ovonic.tasks.data_parallel import ALONE, Processes, first_checkpoint
from ovonic.tasks.restoring import continue_from
from ovonic.tasks.robot import Robot, starting_robot
from ovonic.tasks.robot_training import RobotTrainingConfig, RobotTrainingState, robot_train

__all__ = ["read_metrics", "save", "training_run"]

CHECKPOINT, METRICS, WEIGHTS = "checkpoint.safetensors", "metrics.json", "weights.safetensors"


def training_run(
    config: RobotTrainingConfig,
    out: Path,
    *,
    init: str | Path | None = None,
    provenance: dict[str, Any],
    resume: bool = False,
    on_start: Callable[[RobotTrainingState], None] | None = None,
    on_step: Callable[[RobotTrainingState, dict[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    save_every: int = 50,
    processes: Processes = ALONE,
) -> tuple[Robot, RobotTrainingState]:
    """Train in the folder ``out``: a checkpoint, ``metrics.json``, and at the end ``weights.safetensors``.

    Args:
        init: weights to start from in place of random ones, or a run's checkpoint (``starting_robot``).
        provenance: command and versions, kept in the weights.
        resume: continue from the folder's checkpoint if there is one; it must be of the same run.
        on_start: told the state before the first step; on_step, stop, save_every: as ``robot_train``.
        processes: those that share each batch; the first alone reads and writes in ``out``.
    Returns: the averaged networks and the last state.
    Raises: ConfigError: a run is there and ``resume`` is false, it is another run, or ``init`` is of other sizes. What
        ``robot_train`` raises.
    """
    checkpoint = out / CHECKPOINT
    if processes.first and checkpoint.exists() and not resume:
        raise ConfigError(f"{checkpoint}: a run is there already: pass --resume to continue it, or another folder")
    identity: dict[str, Any] = {
        "training": _named(config),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if processes.count > 1:
        identity["processes"] = processes.count
    start = None
    if init is not None:
        start = starting_robot(init)
        identity["init"] = start.provenance["sha256"]
    state = RobotTrainingState(config, start)

    def write_metrics() -> None:
        metrics = {"config": identity, "history": state.history, "validation": state.validation, **provenance}
        write_atomically(out / METRICS, json.dumps(metrics))

    saved = first_checkpoint(processes, checkpoint, identity)
    if saved:
        continue_from(state, checkpoint, saved)
        if processes.first:
            write_metrics()  # a kill between the two files leaves those of an earlier step
    processes.same([*state.net.parameters(), *state.average.parameters()])
    if on_start:
        on_start(state)

    def keep(state: RobotTrainingState) -> Path:
        if not processes.first:
            return checkpoint
        save_checkpoint(checkpoint, state.tensors(), identity, state.progress())
        write_metrics()
        return checkpoint

    robot_train(
        state,
        on_step=on_step,
        save=keep,
        save_every=save_every,
        stop=stop,
        last_saved=checkpoint if saved else None,
        processes=processes,
    )
    if not processes.first:
        return state.robot(), state
    robot = state.robot(
        {
            **provenance,
            **identity,
            "data": f"movements of {config.network.outputs} joints of the ED-Scorbot, consistent",
            "steps": config.steps,
            "seed": config.seed,
            "weights": sum(weight.numel() for weight in state.net.parameters()),
            "validation": state.validation[-1],
        }
    )
    save(out / WEIGHTS, robot)
    return robot, state


def _named(config: RobotTrainingConfig) -> dict[str, Any]:
    """The configuration as JSON; what came later only where it is chosen, so that runs from before it go on."""
    named = dataclasses.asdict(config)
    for name in ("backend", "weight_noise", "noise_model"):
        if named[name] == getattr(RobotTrainingConfig, name):
            del named[name]
    return named


def save(path: str | Path, robot: Robot) -> None:
    """Write a robot as a weight file, its provenance as the description of its training.

    Raises: WeightsError: weights that are not finite.
    """
    save_robot(path, robot.config, robot.pair, robot.inner, dataclasses.asdict(robot.code), robot.provenance)


def read_metrics(run: Path) -> dict[str, Any]:
    """The metrics of a run's folder: ``history`` and ``validation``, as ``RobotTrainingState.progress`` has them.

    Raises: DataError: not the folder of a run.
    """
    try:
        metrics = json.loads((run / METRICS).read_text())
        return {"history": list(metrics["history"]), "validation": list(metrics["validation"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{run}: no readable {METRICS} of a training run ({error!r})") from error
