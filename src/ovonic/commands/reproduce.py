"""``ovonic reproduce``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, progress, versions, write_json
from ovonic.models.errors import ConfigError, nearest

VERDICTS = {True: "held", False: "NOT HELD", None: "unknown"}


def reproduce(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("ovonic-report"),
    only: Annotated[str | None, typer.Option(metavar="fewshot|robot", help="Run this experiment alone.")] = None,
    seed: Seed = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Run both experiments with the shipped weights and write one HTML report: few-shot learning, the robot arm.

    Few-shot learning in software and on PCM, on the embedded glyphs; one-shot learning of arm movements beside its
    controls. No data to fetch. Exit status 0 when the run is complete, whatever the verdicts.
    """
    from ovonic.validation import reproduction

    if only is not None and only not in reproduction.PARTS:
        raise ConfigError(f"--only {only}: {nearest(only, reproduction.PARTS)}")
    parts = {name: part(seed) for name, part in reproduction.PARTS.items() if only in (None, name)}
    used = versions(*dict.fromkeys(name for part in parts.values() for name in part.distributions))
    result = reproduction.reproduce(
        out,
        parts,
        seed=seed,
        provenance={"command": command_line(), "versions": used},
        progress=lambda label, total: progress(label, total, quiet),
    )
    if json is not None:
        write_json(json, "reproduce", result, result["config"], result["versions"])
    if str(json) != "-":
        for claim in result["claims"]:
            measured = "–" if claim["measured"] is None else f"{claim['measured']:.4g}"
            shown = f"{measured} {claim['relation']} {claim['threshold']:g}"
            typer.echo(f"{VERDICTS[claim['held']]:9} {claim['name']}: {shown}")
        typer.echo(f"report: {out / 'report.html'}")
