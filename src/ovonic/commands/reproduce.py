"""``ovonic reproduce``: the main job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, folder_to_write, progress, versions, write_json
from ovonic.models.errors import ConfigError, nearest

VERDICTS = {True: "held", False: "NOT HELD", None: "unknown"}


def reproduce(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.", callback=folder_to_write)] = Path(
        "ovonic-report"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="Only fewshot, robot, gradients, simulators, hardware or paper; several."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="The documentation's sizes: hours, not minutes.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute anew what an earlier run of the same left finished in --out.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=0, help="Parts at a time, a process each (default: 2); 0: all in this process.")
    ] = None,
    seed: Seed = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Reproduce the paper with the shipped weights and write one HTML report, in minutes on two cores.

    Both experiments, the learning rule beside reference dynamics, the simulators beside each other, the hardware beside
    software, the paper's table. No data to fetch. What an interrupted run finished is taken up by the next.
    Exit status 0 when the run is complete, whatever the verdicts; 1 if a part failed.
    """
    from ovonic.validation import reproduction

    for name in only or ():
        if name not in reproduction.NAMES:
            raise ConfigError(f"--only {name}: {nearest(name, reproduction.NAMES)}")

    def on_kept(names: list[str]) -> None:
        if not quiet:
            typer.echo(f"finished before: {', '.join(names)} (--fresh computes them anew)", err=True)

    result = reproduction.reproduce(
        out,
        only or reproduction.NAMES,
        seed=seed,
        full=full,
        fresh=fresh,
        workers=min(2, os.cpu_count() or 1) if jobs is None else jobs,
        command=command_line(),
        versions=versions,
        progress=lambda label, total: progress(label, total, quiet),
        on_kept=on_kept,
    )
    if json is not None:
        write_json(json, "reproduce", result, result["config"], result["versions"])
    failed = result.get("failed", {})
    if str(json) != "-":
        for claim in result["claims"]:
            measured = "–" if claim["measured"] is None else f"{claim['measured']:.4g}"
            shown = f"{measured} {claim['relation']} {claim['threshold']:g}"
            close = " (within the interval: not decided)" if claim["close"] else ""
            typer.echo(f"{VERDICTS[claim['held']]:9} {claim['name']}: {shown}{close}")
        typer.echo(f"report: {out / 'report.html'}")
    for name, reason in failed.items():
        typer.echo(f"error: {name} failed: {reason}", err=True)
    if failed:
        raise typer.Exit(1)
