"""``ovonic robot train``: meta-train the learning-signal generator and the trainee."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovonic.commands.common import (
    Advance,
    Backend,
    Device,
    JsonFile,
    Quiet,
    Seed,
    command_line,
    folder_to_write,
    interruptible,
    parse_device,
    parse_step,
    progress,
    versions,
    write_json,
)
from ovonic.commands.processes import ProcessCount, launched
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.tasks.robot_training import RobotTrainingState


def train(
    out: Annotated[Path, typer.Argument(help="Folder of the run.", callback=folder_to_write)],
    lsg_lif: Annotated[int | None, typer.Option(min=0, help="LIF neurons of the LSG. [default: 560]")] = None,
    lsg_alif: Annotated[int | None, typer.Option(min=0, help="Adaptive neurons of the LSG. [default: 240]")] = None,
    trainee: Annotated[int | None, typer.Option(min=1, help="Neurons of the trainee. [default: 250]")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 5000,
    batch: Annotated[int, typer.Option(min=1, help="Movements an outer step, of all processes.")] = 32,
    lr: Annotated[float, typer.Option(help="Adam's rate.")] = 1.5e-3,
    warmup: Annotated[int, typer.Option(min=0, help="Steps over which the rate rises from zero.")] = 0,
    decay: Annotated[float, typer.Option(help="Share of the run over which the rate falls to zero.")] = 0.5,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    average: Annotated[float, typer.Option(help="Decay of the running average of the weights.")] = 0.998,
    quantise: Annotated[str, typer.Option(metavar="STEP|none", help="Updates are multiples of this.")] = "1/16",
    rounding: Annotated[
        str | None, typer.Option(help="Rounding of updates: nearest or stochastic. [default: nearest]")
    ] = None,
    inner_rate: Annotated[float, typer.Option(help="Inner learning rate.")] = 1e-4,
    updates: Annotated[int, typer.Option(min=0, help="Updates a lesson.")] = 1,
    code_gain: Annotated[
        float | None, typer.Option(help="Grade the first weights of a coordinate's bits by their significance.")
    ] = None,
    lsg_recurrence: Annotated[float, typer.Option(help="Factor of the LSG's first recurrent weights.")] = 1.0,
    trainee_recurrence: Annotated[float, typer.Option(help="Factor of the trainee's first recurrent weights.")] = 1.0,
    path_gradient: Annotated[bool, typer.Option(help="Descend the Cartesian error too.")] = True,
    weight_noise: Annotated[float, typer.Option(help="Noise on the trainee's weights, share of max|w|.")] = 0.0,
    noise_model: Annotated[
        str | None, typer.Option(metavar="pcm|hermes|..", help="Noise of these devices on the trainee's weights.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="WEIGHTS", help="Start from these, or a run's checkpoint; its sizes hold.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the folder's run.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between records of the history.")] = 10,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 250,
    validation_trajectories: Annotated[int, typer.Option(min=1)] = 200,
    processes: ProcessCount = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch, each process.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    backend: Backend = "ovonic",
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Meta-train; writes checkpoint, metrics and weights into OUT. Ctrl-C keeps the work for --resume.

    Several processes share each step's movements: --processes 2, or torchrun --nproc-per-node 2 -m ovonic robot ..
    """
    from dataclasses import replace

    if launched(processes, batch, "batch"):
        return
    import torch

    from ovonic.models.natural_eprop import InnerLoop
    from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Start
    from ovonic.models.outer_loss import Objective
    from ovonic.tasks.data_parallel import joined, world
    from ovonic.tasks.robot import starting_robot
    from ovonic.tasks.robot_run import training_run
    from ovonic.tasks.robot_training import RobotTrainingConfig
    from ovonic.tasks.trajectories import CoordinateCode

    step = parse_step(quantise)
    if step is None and rounding is not None:
        raise ConfigError(f"--rounding {rounding}: --quantise none does not round updates: give --quantise STEP")
    if threads:
        torch.set_num_threads(threads)
    start = starting_robot(init) if init else None
    sizes = {"lsg_lif": lsg_lif, "lsg_alif": lsg_alif, "trainee": trainee}
    config = RobotTrainingConfig(
        network=replace(
            start.config if start else NaturalEPropConfig(),
            **{name: size for name, size in sizes.items() if size is not None},
        ),
        inner=InnerLoop(inner_rate, step, rounding or "nearest", updates),
        objective=Objective(path_gradient=path_gradient),
        code=start.code if start else CoordinateCode(),
        start=Start(code_gain, lsg_recurrence, trainee_recurrence),
        steps=steps,
        batch=batch,
        lr=lr,
        warmup=warmup,
        decay=decay,
        clip=clip,
        average=average,
        seed=seed,
        log_every=log_every,
        validate_every=validate_every,
        validation_trajectories=validation_trajectories,
        weight_noise=weight_noise,
        noise_model=noise_model,
        device=str(parse_device(device)),
        backend=backend,
    )
    advance: list[Advance] = []
    used = versions(*([] if backend == "ovonic" else [backend]))

    here = world()
    quiet = quiet or not here.first
    with joined(here, device), ExitStack() as shown_progress, interruptible() as stop:

        def on_start(state: RobotTrainingState) -> None:
            if state.step and here.first:
                typer.echo(f"resuming {out} at step {state.step} of {steps}", err=True)
            advance.append(shown_progress.enter_context(progress("meta-training", steps, quiet, done=state.step)))

        def on_step(state: RobotTrainingState, shown: dict[str, float]) -> None:
            held_out = state.validation[-1]["loss"]["mean"] if state.validation else float("nan")
            advance[0](1, **{name: shown[name] for name in ("loss", "task")}, validation=held_out)

        _, state = training_run(
            config,
            out,
            init=init,
            provenance={"command": command_line(), "versions": used},
            resume=resume,
            on_start=on_start,
            on_step=on_step,
            stop=stop,
            save_every=save_every,
            processes=here,
        )
    if not here.first:
        return
    last = state.validation[-1]
    half = last["loss"]["ci95"]
    typer.echo(
        f"{out}/weights.safetensors: loss {last['loss']['mean']:.4g}{'' if half is None else f' +- {half:.2g}'}, "
        f"tip error {last['tip_rmse_mm']['median']:.3g} mm (median) "
        f"on {validation_trajectories} other movements after {steps} steps"
    )
    result = {"weights": str(out / "weights.safetensors"), "steps": steps, "validation": state.validation}
    write_json(json, "robot-train", result, {"training": config}, used)
