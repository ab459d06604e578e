"""``ovonic validate eprop``: one episode's update by our rule and by computations that share no code with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, folder_to_write, progress, versions, write_json
from ovonic.commands.compare import parse_names

if TYPE_CHECKING:
    from ovonic.adapters.eprop_wiring import EpropEpisode
    from ovonic.validation.gradients import Agreement, Bptt, Episode

__all__ = ["eprop"]

NEEDS = {"nest-online": "nest"} | {name: name for name in ("brian2", "nest", "braintrace", "snntorch", "norse")}
"""Modules that references run on."""


def eprop(
    network: Annotated[
        str,
        typer.Argument(metavar="NETWORK|random", help="A NIR file, robot weights (natural e-prop), FILE.py:NAME."),
    ] = "random",
    references: Annotated[
        str, typer.Option(metavar="all|A,B,..", help="Which; all passes over toolchains that are not installed.")
    ] = "all",
    networks: Annotated[int, typer.Option(min=1, help="Random networks; episodes of a given one.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps of an episode (a robot's lesson has its own).")] = 100,
    part: Annotated[
        str | None, typer.Option(metavar="lsg|trainee", help="E-prop of one of a robot's networks alone.")
    ] = None,
    bptt: Annotated[
        bool, typer.Option(help="Compare with the full gradient on random networks of several sizes and lengths too.")
    ] = False,
    seed: Seed = 0,
    json: JsonFile = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw agreement, and with --bptt that.", callback=folder_to_write)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare e-prop's update, synapse by synapse, with NumPy, autograd, Brian2, NEST, braintrace, and others' traces.

    The exit status is 1 if a reference disagrees: other spikes, or a gradient that differs by more than 1e-10 of its
    largest entry.
    """
    import importlib.util

    from ovonic.validation import gradients
    from ovonic.validation.gradients_summary import DRAWS, LENGTHS, SIZES, bptt_sweep, summary

    names = parse_names("--references", None if references == "all" else references, gradients.REFERENCES)
    absent: list[str] = []
    if not names:
        present = {name: importlib.util.find_spec(NEEDS.get(name, "torch")) for name in gradients.REFERENCES}
        names = tuple(name for name, found in present.items() if found is not None)
        absent = [name for name, found in present.items() if found is None]
    found: list[Agreement] = []
    beside: dict[str, tuple[float, float]] = {}
    with progress("episodes", networks * len(names), quiet) as advance:
        for episode, ours in _episodes(network, part, networks, steps, seed):
            for agreement in gradients.compare_gradients(episode, names, ours):
                found.append(agreement)
                advance(1)
            beside[episode.name] = gradients.beside_bptt(episode)
    sweep: list[Bptt] = []
    if bptt:
        with progress("full gradients", len(SIZES) * len(LENGTHS) * DRAWS, quiet) as advance:
            sweep = bptt_sweep(seed, advance)
    if str(json) != "-":
        _print(found, absent, beside, sweep, network)
    result: dict[str, Any] = {
        "tolerance": gradients.TOLERANCE,
        "references": summary(found),
        "episodes": [{**dataclasses.asdict(a), "agrees": a.agrees} for a in found],
        "absent": absent,
        "bptt": {
            "episodes": {name: {"cosine": c, "difference": d} for name, (c, d) in beside.items()},
            "sweep": [dataclasses.asdict(b) for b in sweep],
        },
    }
    config: dict[str, Any] = {"network": network, "part": part, "networks": networks, "steps": steps, "seed": seed}
    config |= {"references": names, "command": command_line()}
    write_json(
        json,
        "validate-eprop",
        result,
        config,
        versions("brian2", "nest-simulator", "braintrace", "jax", "snntorch", "norse"),
    )
    if figures:
        from ovonic.validation.figure_style import save
        from ovonic.validation.gradients_figures import agreement_figure, bptt_figure

        setting = f"{network}, seed {seed}, float64."
        made = {"eprop_agreement": agreement_figure(found, setting=setting)}
        if sweep:
            made["eprop_bptt"] = bptt_figure(sweep, setting=f"Seed {seed}, float64.")
        for name, figure in made.items():
            path = save(figure, figures / f"{name}.png", command=command_line())
            typer.echo(f"{path}", err=True)
    if any(a.agrees is False for a in found):
        raise typer.Exit(1)


def _episodes(
    source: str, part: str | None, count: int, steps: int, seed: int
) -> Iterator[tuple[Episode, EpropEpisode]]:
    """Episodes with what our rule says of them.

    Raises: OvonicError: a source that cannot be read, or a network whose e-prop is not compared.
    """
    from ovonic.commands.convert_sources import Options, read_source
    from ovonic.models.errors import ConfigError
    from ovonic.tasks.robot import resolve_robot
    from ovonic.validation import gradients

    if source == "random":
        if part is not None:
            raise ConfigError("--part: random networks have no parts")
        for index in range(count):
            episode = gradients.random_episode(index, seed, steps)
            yield episode, gradients.factorised(episode)
        return
    read = read_source(source, Options(part=part))
    if len(read.networks) > 1:
        if "NIR" in read.kind:
            raise ConfigError(f"{source}: two networks, without the code of their targets: say --part lsg or trainee")
        robot = resolve_robot(source)
        for index in range(count):
            yield gradients.lesson_episode(f"lesson {index}", robot, seed + index)
        return
    (described,) = read.networks.values()
    for index in range(count):
        episode = gradients.episode_of(f"episode {index}", described, steps, seed + index)
        yield episode, gradients.factorised(episode)


def _print(
    found: list[Agreement],
    absent: list[str],
    beside: dict[str, tuple[float, float]],
    sweep: list[Bptt],
    network: str,
) -> None:
    from rich.console import Console
    from rich.table import Table

    from ovonic.validation.gradients_summary import DRAWS, summary

    table = Table("reference", "kind", "runs", "refused", "difference", "spikes", "verdict")
    words = {True: "agrees", False: "DISAGREES", None: "did not run"}
    for name, row in summary(found).items():
        worst = "" if row["worst"] is None else f"{row['worst']:.1e}"
        spikes = {True: "the same", False: "OTHERS", None: ""}[row["same_spikes"]]
        counts = str(row["episodes"]), str(row["refused"])
        table.add_row(name, row["kind"], *counts, worst, spikes, words[row["agrees"]])
    Console().print(table)
    for reason in dict.fromkeys(f"{a.reference} refused {a.episode}: {a.refused}" for a in found if a.refused):
        typer.echo(reason)
    for name in absent:
        typer.echo(f"{name} is not there: its toolchain is not installed")
    if beside:
        cosines, differences = zip(*beside.values(), strict=True)
        typer.echo(
            f"{network} beside the full gradient: cosine {min(cosines):.3f} to {max(cosines):.3f}, relative difference "
            f"{min(differences):.3f} to {max(differences):.3f}"
        )
    if sweep:
        typer.echo(f"random LIF networks, whatever NETWORK is, beside the full gradient, means of {DRAWS}:")
    for size, length in dict.fromkeys((b.neurons, b.steps) for b in sweep):
        several = [b for b in sweep if (b.neurons, b.steps) == (size, length)]
        cosine, difference = (sum(getattr(b, key) for b in several) / len(several) for key in ("cosine", "difference"))
        typer.echo(f"{size:4} neurons, {length:4} steps: cosine {cosine:.3f}, relative difference {difference:.3f}")
