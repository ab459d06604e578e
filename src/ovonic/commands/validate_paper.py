"""``ovonic validate paper``: the paper's table, from result files of other commands."""

from __future__ import annotations

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
    progress,
    versions,
    write_json,
)
from ovonic.commands.fewshot_options import Data
from ovonic.models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovonic.validation.paper import PaperVerdict

__all__ = ["paper"]


def paper(
    sources: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE|DIR", help="Results of commands (--json) to read; repeatable."),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Measure first: delta, kinematics, still, scratch or loss; repeatable."),
    ] = None,
    weights: Annotated[str, typer.Option("--weights", "-w", help="The arm's, of --measure still.")] = "robot-q16",
    data: Data = None,
    only: Annotated[str | None, typer.Option(metavar="TEXT", help="Rows whose key or place holds this.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table as a page.", callback=file_to_write)
    ] = None,
    kept: Annotated[
        Path | None,
        typer.Option(
            "--keep", metavar="DIR", help="Copy what --from reads there, cut down and sealed.", callback=folder_to_write
        ),
    ] = None,
    seed: Seed = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Print what the paper shows and says, row by row, with our measurements and verdicts.

    Rows whose numbers are in no result given name the command that measures them. Exit status 0 whatever the verdicts.
    """
    from ovonic.validation.paper import ROWS, counts, paper_rows
    from ovonic.validation.paper_files import gather
    from ovonic.validation.paper_page import paper_page

    rows = [row for row in ROWS if only is None or only in row.key or only in row.where]
    if not rows:
        raise ConfigError(f"--only {only}: no row; {nearest(str(only), [row.key for row in ROWS])}")
    result = gather(sources or [])
    for name, report in _measured(measure or [], weights, data, seed, quiet).items():
        if name == "still":
            result.setdefault("measured", {}).setdefault("still", {}).update(report)
        else:
            result.setdefault("measured", {})[name] = report
    verdicts = paper_rows(result, rows)
    if str(json) != "-":
        _print(verdicts)
    written = {
        "rows": [verdict.as_json() for verdict in verdicts],
        "counts": counts(verdicts),
        "measured": result.get("measured", {}),
        "sources": result["sources"],
    }
    config = {"seed": seed, "only": only, "command": command_line()}
    write_json(json, "validate-paper", written, config, versions("scipy"))
    if kept is not None:
        from ovonic.validation.paper_kept import keep

        keep(sources or [], kept)
    if markdown is not None:
        from ovonic.adapters.files import write_atomically

        write_atomically(markdown, paper_page(verdicts, result["sources"], command_line()))


def _measured(names: Sequence[str], weights: str, data: list[str] | None, seed: int, quiet: bool) -> dict[str, Any]:
    from ovonic.tasks.datasets import load_characters
    from ovonic.validation.paper_measurements import MEASUREMENTS

    for name in names:
        if name not in MEASUREMENTS:
            raise ConfigError(f"--measure {name}: {nearest(name, MEASUREMENTS)}")
    characters = None
    if any(MEASUREMENTS[name][1] for name in names):
        characters = load_characters(data or ["glyphs"], "all" if data else "test")
    found = {}
    for name in dict.fromkeys(names):
        steps, _, made = MEASUREMENTS[name]
        with progress(name, steps, quiet) as advance:
            found[name] = made(characters, weights, seed, advance)
    return found


def _print(verdicts: Sequence[PaperVerdict]) -> None:
    from ovonic.validation.paper import asked, counts, found

    for v in verdicts:
        typer.echo(f"{v.row.key} ({v.row.where}): {v.label}\n    {v.row.says}")
        for r in v.readings:
            if r.value is not None:
                typer.echo(f"    - {r.check.name}: {found(r)}; {asked(r)}: {r.verdict}")
        if v.row.test:
            typer.echo(f"    - {v.row.tested_by}")
        if v.row.why_not:
            typer.echo(f"    - {v.row.why_not}")
    typer.echo("; ".join(f"{verdict}: {count}" for verdict, count in counts(verdicts).items()))
    for command in dict.fromkeys(r.command for v in verdicts for r in v.readings if r.value is None):
        typer.echo(f"not measured in this run: {command}")
