"""``ovonic robot evaluate``: how well one lesson teaches a movement, beside controls, or beside other weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import (
    Backend,
    Device,
    JsonFile,
    Quiet,
    Seed,
    command_line,
    folder_to_write,
    parse_device,
    parse_step,
    progress,
    versions,
    write_json,
)
from ovonic.commands.robot_hardware import (
    AdaptOn,
    AdcRange,
    ChipOptions,
    Chips,
    Compensation,
    DeviceSplit,
    HardwareName,
    NoiseModel,
    NoiseScale,
    Reads,
    ReadTime,
    Scale,
    VerifyPulses,
    ZeroTargets,
    check_hardware,
    evaluate_hardware,
)
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from ovonic.models.natural_eprop import Engine, InnerLoop
    from ovonic.tasks.robot import Robot
    from ovonic.tasks.robot_evaluation import RobotEvaluation

__all__ = ["evaluate"]


def evaluate(
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="A shipped name, a safetensors or a published file.")
    ] = "robot-q16",
    trajectories: Annotated[int, typer.Option(min=2, help="Movements, one lesson each.")] = 1000,
    quantise: Annotated[
        str | None,
        typer.Option(metavar="STEP|none", help="Round updates to multiples of this (default: as the weights say)."),
    ] = None,
    rounding: Annotated[str | None, typer.Option(help="nearest or stochastic (default: as the weights say).")] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Updates a lesson (default: as the weights say).")] = None,
    inner_rate: Annotated[float | None, typer.Option(help="Inner rate (default: as the weights say).")] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The published movements: angles clipped, velocities not.")
    ] = False,
    against: Annotated[str | None, typer.Option(metavar="WEIGHTS", help="Compare on the same movements.")] = None,
    hardware: HardwareName = "software",
    noise_model: NoiseModel = "pcm",
    read_time: ReadTime = 0.0,
    chips: Chips = 30,
    adapt_on: AdaptOn = "device",
    device_split: DeviceSplit = "fill",
    zero_targets: ZeroTargets = "reset",
    scale: Scale = "column",
    reads: Reads = 1,
    verify: VerifyPulses = 0,
    noise_scale: NoiseScale = 1.0,
    compensation: Compensation = "none",
    adc_range: AdcRange = 10.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    seed: Seed = 2025,
    device: Device = "cpu",
    backend: Backend = "ovonic",
    json: JsonFile = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the movement of median loss.", callback=folder_to_write)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure the error before and after a lesson on movements never trained on, beside lessons that teach nothing;
    with --hardware crossbar or aihwkit on chips, beside the software twin."""
    import torch

    from ovonic.adapters.engines import engine
    from ovonic.tasks.robot import resolve_robot, spec_for
    from ovonic.tasks.robot_evaluation import evaluate_robot, paired

    check_hardware(hardware)
    if threads:
        torch.set_num_threads(threads)
    place, run = parse_device(device), engine(backend)
    given = {"rate": inner_rate, "rounding": rounding, "updates": updates}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if quantise is not None:
        changes["step"] = parse_step(quantise)
    lessons: list[tuple[Robot, InnerLoop]] = []
    sources = [weights] if against is None else [weights, against]
    for source in sources:
        robot = resolve_robot(source)
        inner = replace(robot.inner, **changes)
        if inner.step is None and rounding is not None:
            raise ConfigError(f"--rounding {rounding}: {source} does not round its updates: add --quantise STEP")
        lessons.append((robot, inner))

    family = "published" if published else "consistent"
    how = {
        "family": family,
        "seed": seed,
        "device": str(place),
        "backend": backend,
        "threads": torch.get_num_threads(),
        "command": command_line(),
    }
    options = ChipOptions(
        noise_model,
        read_time,
        chips,
        adapt_on,
        device_split,
        zero_targets,
        scale,
        reads,
        verify,
        noise_scale,
        compensation,
        adc_range,
    )
    if hardware == "software":
        options.refuse_in_software()
    else:
        if against is not None or figures or place.type != "cpu":
            raise ConfigError(f"--hardware {hardware}: runs on the cpu, without --against and --figures")
        title = f"{trajectories} {family} trajectories, seed {seed}: {weights}, {_described(lessons[0][1])}"
        evaluate_hardware(*lessons[0], hardware, options, how, trajectories, run, title, json, quiet)
        return

    with progress("evaluating", trajectories * len(lessons), quiet) as advance:
        evaluations = [
            evaluate_robot(
                r, spec_for(r, published), trajectories, inner, seed, device=place, on_batch=advance, engine=run
            )
            for r, inner in lessons
        ]
    blocks = [{"config": _config(r, e)} | e.report() for (r, _), e in zip(lessons, evaluations, strict=True)]
    report = dict(blocks[0])
    config = report.pop("config") | how
    if against is not None:
        report |= {"against": blocks[1], "paired": paired(evaluations[0], evaluations[1])}
    if str(json) != "-":
        typer.echo(f"{trajectories} {family} trajectories, seed {seed}")
        for source, block, (_, inner) in zip(sources, blocks, lessons, strict=True):
            _print_block(f"{source}, {_described(inner)}", block)
        if against is not None:
            _print_paired(f"{weights} / {against}", report["paired"])
    write_json(json, "robot-evaluate", report, config, versions("scipy", *([] if backend == "ovonic" else [backend])))
    if figures:
        _draw(lessons[0][0], evaluations[0], place, run, figures, weights)


def _config(robot: Robot, evaluation: RobotEvaluation) -> dict[str, Any]:
    return {
        "weights": robot.provenance,
        "network": robot.config,
        "inner": evaluation.inner,
        "movements": evaluation.spec,
        "batch": evaluation.batch,
    }


def _draw(
    robot: Robot, evaluation: RobotEvaluation, device: torch.device, run: Engine, folder: Path, weights: str
) -> None:
    from ovonic.tasks.robot_evaluation import replay
    from ovonic.validation.figure_style import save
    from ovonic.validation.robot_curves import loss_distribution
    from ovonic.validation.robot_figures import lesson_figures

    index = evaluation.typical
    lesson, movements, row = replay(robot, evaluation, index, device, run)
    which = f"trajectory {index} of seed {evaluation.seed}, the one of median loss ({evaluation.after.loss[index]:.4g})"
    setting = f"{weights}, {_described(evaluation.inner)}; {which}"
    lsg_lif = robot.config.lsg_lif
    made = lesson_figures(lesson, movements, row, folder, lsg_lif, setting=setting, command=command_line())
    losses = loss_distribution({"after": evaluation.after} | evaluation.controls, setting=f"{weights}, {which}")
    made.append(save(losses, folder / "losses.png", command=command_line()))
    typer.echo(f"{folder}: {', '.join(file.name for file in made)} of {which}", err=True)


def _print_block(title: str, block: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "loss", "median", "tip, median", "p95")
    controls = block["controls"]
    rows = {
        "no update": controls["no_update"],
        "after": {"loss": block["loss"], "tip_rmse_mm": block["tip_rmse_mm"]["after"]},
        "random signals": controls["random"],
        "shuffled signals": controls["shuffled"],
    }
    for name, found in rows.items():
        loss, tip = found["loss"], found["tip_rmse_mm"]
        mean = f"{loss['mean']:.5f} +- {loss['ci95']:.5f}"
        table.add_row(name, mean, f"{loss['median']:.5f}", f"{tip['median']:.0f} mm", f"{tip['p95']:.0f} mm")
    rates, share = block["rates_hz"], block["update"]
    typer.echo(title)
    Console().print(table)
    typer.echo(
        f"LSG {rates['lsg']['mean']:.1f} Hz, trainee {rates['trainee']['mean']:.1f} Hz; updates change "
        f"{100 * share['W_in']:.1f} % of W_in, {100 * share['W_rec']:.1f} % of W_rec"
    )


def _print_paired(title: str, found: Mapping[str, Any]) -> None:
    def ratio(r: Mapping[str, float]) -> str:
        return f"{r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"

    typer.echo(f"{title}, paired:")
    for name, label in (("loss", "loss"), ("tip_rmse_mm", "tip error")):
        ratios = found[name]
        typer.echo(f"  {label}: means {ratio(ratios['ratio_of_means'])}, medians {ratio(ratios['ratio_of_medians'])}")


def _described(inner: InnerLoop) -> str:
    rounded = "not rounded" if inner.step is None else f"rounded to {inner.step:g} ({inner.rounding})"
    return f"{inner.updates} update{'s' * (inner.updates > 1)} {rounded}"
