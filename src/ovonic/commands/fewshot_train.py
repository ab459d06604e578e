"""``ovonic fewshot train``: meta-train the few-shot classifier."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ovonic.commands.common import (
    Advance,
    Device,
    JsonFile,
    Quiet,
    Seed,
    command_line,
    folder_to_write,
    interruptible,
    parse_device,
    progress,
    versions,
    write_json,
)
from ovonic.commands.fewshot_options import (
    Bits,
    Data,
    DataSeed,
    Fold,
    Folds,
    GlyphAlphabets,
    Norm,
    Queries,
    Rounding,
    Shot,
    Way,
    percent,
)
from ovonic.commands.processes import ProcessCount, launched


def train(
    out: Annotated[Path, typer.Argument(help="Folder of the run.", callback=folder_to_write)],
    data: Data = None,
    split: Annotated[str, typer.Option(help="train, or train+validation, background, all.")] = "train",
    folds: Folds = None,
    fold: Fold = 0,
    data_seed: DataSeed = 0,
    glyph_alphabets: GlyphAlphabets = None,
    glyph_fraction: Annotated[float, typer.Option(help="Share of tasks from glyphs where both are given.")] = 0.5,
    steps: Annotated[int, typer.Option(min=1)] = 3000,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks an outer step, of all processes.")] = 32,
    lr: Annotated[float, typer.Option(help="Adam's rate.")] = 1e-3,
    decay: Annotated[float, typer.Option(help="Share of the run over which the rate falls to zero.")] = 0.5,
    average: Annotated[float, typer.Option(help="Decay of the running average of the weights.")] = 0.998,
    way: Way = 5,
    shot: Shot = 5,
    queries: Queries = 5,
    sampler: Annotated[str, typer.Option(help="distinct, replacement or published.")] = "distinct",
    mirror: Annotated[bool, typer.Option(help="Mirror classes at random, beside the rotations.")] = True,
    norm: Norm = None,
    channels: Annotated[int, typer.Option(min=1)] = 56,
    updates: Annotated[int, typer.Option(min=1, help="Inner updates.")] = 4,
    inner_lr: Annotated[float, typer.Option(help="Inner rate.")] = 0.1,
    learn_inner_lr: Annotated[bool, typer.Option("--learn-inner-lr", help="Meta-learn the inner rates.")] = False,
    learn_readout: Annotated[bool, typer.Option("--learn-readout", help="Meta-learn the read-out's start.")] = False,
    within_alphabet: Annotated[float, typer.Option(help="Share of tasks drawn from one alphabet.")] = 0.0,
    adapt: Annotated[str, typer.Option(help="head (ANIL), or network (MAML proper).")] = "head",
    bits: Bits = None,
    rounding: Rounding = "stochastic",
    readout_range: Annotated[float, typer.Option(help="Full scale of the read-out's grid at few bits.")] = 0.2,
    weight_noise: Annotated[float, typer.Option(help="Gaussian noise on the kernels, share of max|w|.")] = 0.0,
    noise_model: Annotated[
        str | None, typer.Option(metavar="pcm|hermes|..", help="Noise of these devices on the kernels.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from these weights, or a run's checkpoint; inner rates begin anew.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the folder's run.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 250,
    validation_tasks: Annotated[int, typer.Option(min=1)] = 200,
    processes: ProcessCount = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch, each process.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Meta-train; writes checkpoint, metrics, loss curve and weights into OUT. Ctrl-C keeps the work for --resume.

    Several processes share each step's tasks: --processes 2, or torchrun --nproc-per-node 2 -m ovonic fewshot train ..
    """
    if launched(processes, tasks, "tasks"):
        return
    import torch

    from ovonic.models.fewshot_cnn import CNNConfig
    from ovonic.models.maml import Precision
    from ovonic.tasks.data_parallel import joined, world
    from ovonic.tasks.episodes import EpisodeSpec
    from ovonic.tasks.fewshot_run import DataConfig, training_run
    from ovonic.tasks.fewshot_training import TrainingConfig, TrainingState
    from ovonic.validation.figures import loss_curves
    from ovonic.validation.figures import save as save_figure

    if threads:
        torch.set_num_threads(threads)
    config = TrainingConfig(
        network=CNNConfig(way, channels, norm=norm or "support", updates=updates, inner_lr=inner_lr),
        episode=EpisodeSpec(way, shot, queries, True, mirror, sampler, within_alphabet),
        precision=Precision(bits or 32, rounding, readout_range, weight_noise, noise_model),
        steps=steps,
        tasks=tasks,
        lr=lr,
        decay=decay,
        learn_inner_lr=learn_inner_lr,
        learn_readout=learn_readout,
        average=average,
        glyph_fraction=glyph_fraction,
        adapt=adapt,
        seed=seed,
        validate_every=validate_every,
        validation_tasks=validation_tasks,
        device=str(parse_device(device)),
    )
    sources = DataConfig(tuple(data or ["glyphs"]), split, folds, fold, data_seed, glyph_alphabets)
    provenance = {"command": command_line(), "versions": versions()}
    advance: list[Advance] = []

    here = world()
    quiet = quiet or not here.first
    with joined(here, device), ExitStack() as shown_progress, interruptible() as stop:

        def on_start(state: TrainingState) -> None:
            if state.step and here.first:
                typer.echo(f"resuming {out} at step {state.step} of {steps}", err=True)
            advance.append(shown_progress.enter_context(progress("meta-training", steps, quiet, done=state.step)))

        def on_step(state: TrainingState, loss: float, accuracy: float) -> None:
            extra = state.validation[-1]["accuracy"] if state.validation else float("nan")
            advance[0](loss=loss, accuracy=accuracy, validation=extra)

        _, state = training_run(
            config,
            sources,
            out,
            init=init,
            provenance=provenance,
            resume=resume,
            on_start=on_start,
            on_step=on_step,
            stop=stop,
            save_every=save_every,
            processes=here,
        )
    if not here.first:
        return
    label = f"{config.precision.bits} bit"
    save_figure(loss_curves({label: state.progress()}), out / "loss.png", command=command_line())
    last = state.validation[-1]
    shown = percent({"mean": last["accuracy"], "ci95": last["ci95"]})
    typer.echo(f"{out}/weights.safetensors: accuracy {shown} on held-out alphabets after {steps} steps")
    result = {"weights": str(out / "weights.safetensors"), "steps": steps, "validation": state.validation}
    write_json(json, "fewshot-train", result, {"training": config, "data": sources})
