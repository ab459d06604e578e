"""``ovonic reproduce``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, progress, versions, write_json

VERDICTS = {True: "held", False: "NOT HELD", None: "unknown"}


def reproduce(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("ovonic-report"),
    seed: Seed = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Run few-shot learning end to end with the shipped weights, in software and on PCM, and write one HTML report.

    Works on the embedded glyphs: no data to fetch. Exit status 0 when the run is complete, whatever the verdicts.
    """
    from ovonic.validation.reproduction import reproduce_fewshot, total_tasks

    provenance = {"command": command_line(), "versions": versions("aihwkit")}
    with progress("reproducing", total_tasks(), quiet) as advance:
        result = reproduce_fewshot(out, seed=seed, provenance=provenance, on_tasks=advance)
    if json is not None:
        write_json(json, "reproduce", result, result["config"], result["versions"])
    if str(json) != "-":
        for claim in result["claims"]:
            measured = f"{claim['measured']:.4g} {claim['relation']} {claim['threshold']:g}"
            typer.echo(f"{VERDICTS[claim['held']]:9} {claim['name']}: {measured}")
        typer.echo(f"report: {out / 'report.html'}")
