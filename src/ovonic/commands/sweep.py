"""``ovonic sweep``: one of our commands over a grid of its options, resumable, on this machine or on many."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import (
    Advance,
    JsonFile,
    Quiet,
    command_line,
    file_to_write,
    folder_to_write,
    progress,
    versions,
    write_json,
)
from ovonic.models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from ovonic.validation.sweep import Point

__all__ = ["sweep"]

OURS = ("json", "quiet")
"""Options of a command that the sweep gives."""

WRITTEN = ("out", "figure", "figures")
"""Parameters that name what a command writes: two points may not share one."""


def sweep(
    ctx: typer.Context,
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND [OPTION]..", help="What is run, e.g. robot evaluate.")
    ],
    grid: Annotated[
        list[str] | None, typer.Option("--grid", "-g", metavar="OPTION=V,V,..", help="Values of an option; repeatable.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="A..B", help="Short for --grid seed=A..B.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The table, as CSV.", callback=file_to_write)
    ] = Path("sweep.csv"),
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where each point's result is kept. [default: FILE.points]", callback=folder_to_write
        ),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these results, e.g. 'loss.*'; repeatable.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Points at a time (default: one a core).")
    ] = None,
    backend: Annotated[str, typer.Option(metavar="loky|dask", help="Workers here, or of a Dask cluster.")] = "loky",
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of Dask, e.g. tcp://host:8786.")] = None,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Run COMMAND at every combination of the grid's values, each in a process of its own, and write one table.

    A second run computes what is missing, failed, or was of other versions or files. Ctrl-C keeps what is finished. A
    point that fails is a row with its error, and makes the exit status 1.

    Example: ovonic sweep -g noise-model=pcm,hermes -g chips=2,4 -- robot evaluate --hardware crossbar
    """
    import joblib

    from ovonic.adapters.files import write_atomically
    from ovonic.validation.sweep import parse_axis, points, table, to_csv
    from ovonic.validation.sweep_running import Record, run_points

    axes = [parse_axis(text) for text in [*(grid or ()), *([] if seeds is None else [f"seed={seeds}"])]]
    if not axes:
        raise ConfigError("nothing to sweep over: give --grid OPTION=VALUE,VALUE,..")
    values = dict(axes)
    if len(values) < len(axes):
        raise ConfigError(f"--grid: {', '.join(name for name, _ in axes)}: each option once")
    root = ctx.find_root().command
    name, run, given = _command(root, command)
    flags = _flags(run, name, values)
    made = points(command, values, flags)
    _check(run, name, given, values, made, len(command) - len(given))
    kept_in = folder or out.with_name(f"{out.name}.points")
    added = ["--quiet"] if any("--quiet" in p.opts for p in run.params) else []
    advance: list[Advance] = []
    finished = 0

    with ExitStack() as shown:

        def on_start(kept: int) -> None:
            nonlocal finished
            finished = kept
            if kept and not quiet:
                typer.echo(f"{kept} of {len(made)} points are in {kept_in} already", err=True)
            advance.append(shown.enter_context(progress("points", len(made), quiet, done=kept)))

        def on_record(point: Point, record: Record) -> None:
            nonlocal finished
            finished += 1
            advance[0](1)
            if record["error"] and not quiet:
                typer.echo(f"{point.name}: {record['error']}", err=True)

        try:
            records = run_points(
                made,
                kept_in,
                versions(),
                added=added,
                jobs=jobs or joblib.cpu_count(),
                backend=backend,
                scheduler=scheduler,
                on_start=on_start,
                on_record=on_record,
            )
        except KeyboardInterrupt:
            note = f"{finished} of {len(made)} points are kept in {kept_in}: the same command goes on with the others"
            raise KeyboardInterrupt(note) from None
    head, rows = table(values, list(zip(made, records, strict=True)), columns or ())
    write_atomically(out, to_csv(head, rows))
    failed = sum(record["status"] != 0 for record in records)
    if str(json) != "-":
        typer.echo(f"{out}: {len(rows)} points, {len(head)} columns" + (f"; {failed} failed" if failed else ""))
    config = {"command": command, "grid": values, "folder": kept_in, "columns": columns or []}
    write_json(json, "sweep", {"command": command_line(), "columns": head, "rows": rows, "failed": failed}, config)
    if failed:
        raise typer.Exit(1)


def _command(root: Any, words: Sequence[str]) -> tuple[str, Any, list[str]]:
    """The command that ``words`` begin with: its name, itself, and the words after it."""
    found: Any = root
    path: list[str] = []
    rest = list(words)
    while hasattr(found, "commands"):
        word = rest.pop(0) if rest else ""
        if word not in found.commands:
            where = " ".join(["ovonic", *path])
            raise ConfigError(f"{where} {word}: no such command: {nearest(word, found.commands)}")
        found = found.commands[word]
        path.append(word)
    name = " ".join(path)
    if found.name == "sweep" or not any("--json" in p.opts for p in found.params):
        raise ConfigError(f"{name}: a sweep runs commands that write a result with --json; this one does not")
    return name, found, rest


def _flags(run: Any, name: str, grid: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """What to type for yes and no of the grid's flags. Raises: ConfigError: the command has no such option."""
    options = {opt[2:]: p for p in run.params for opt in p.opts if opt.startswith("--")}
    flags = {}
    for axis in grid:
        if axis in OURS:
            raise ConfigError(f"--grid {axis}: the sweep gives --{axis} to each point itself")
        if axis not in options:
            close = difflib.get_close_matches(axis, options, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"ovonic {name} --help lists them"
            raise ConfigError(f"--grid {axis}: ovonic {name} has no option --{axis}: {hint}")
        if getattr(options[axis], "is_flag", False):
            no = options[axis].secondary_opts
            flags[axis] = (f"--{axis}", no[0] if no else "")
    return flags


def _check(
    run: Any, name: str, given: Sequence[str], grid: Mapping[str, Sequence[str]], made: Sequence[Point], skip: int
) -> None:
    """Parse every point as the command would, so that nothing runs if one of them is mistyped.

    Raises: ConfigError: an option stands in the command and in the grid, or two points would write to one place. The
        usage error of a mistyped point.
    """
    words = {word.partition("=")[0] for word in given}
    for parameter in run.params:
        spelled = {*parameter.opts, *parameter.secondary_opts} & words
        if spelled and parameter.name in OURS:
            raise ConfigError(f"{min(spelled)}: the sweep gives it to each point itself")
        if spelled and {opt[2:] for opt in parameter.opts} & set(grid):
            raise ConfigError(f"{min(spelled)} is in the command and in the grid: give it once")
    written: dict[tuple[str, str], str] = {}
    for point in made:
        parsed = run.make_context(f"ovonic {name}", list(point.arguments[skip:])).params
        for place in WRITTEN:
            if parsed.get(place) is None:
                continue
            first = written.setdefault((place, str(parsed[place])), point.name)
            if first != point.name:
                raise ConfigError(
                    f"{place} {parsed[place]}: points {first} and {point.name} would write to the same place: "
                    "put {point} into its name"
                )
