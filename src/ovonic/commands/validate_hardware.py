"""``ovonic validate hardware``: both experiments on simulated crossbars beside software, by studies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import (
    JsonFile,
    Quiet,
    Seed,
    command_line,
    folder_to_write,
    json_result,
    plain,
    progress,
    versions,
    write_json,
)
from ovonic.commands.fewshot_options import Data
from ovonic.models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from ovonic.validation.hardware_conditions import Condition

__all__ = ["hardware"]

DRAWN = {study: f"{study}_figure" for study in ("headline", "parity", "adaptation", "updates")}
"""Studies that have a figure: what of ``validation.hardware_figures`` draws it."""
IMPLEMENTATIONS = {"aihwkit": "aihwkit tiles", "crossbar": "crossbar"}


def hardware(
    study: Annotated[str, typer.Option(help="headline, training-noise, adaptation, updates or parity.")] = "headline",
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the conditions' results; those that are there are kept.",
            callback=folder_to_write,
        ),
    ] = Path("ovonic-hardware"),
    chips: Annotated[int, typer.Option(min=1, help="Draws of all devices; each meets every task.")] = 30,
    tasks: Annotated[int, typer.Option(min=2, help="Few-shot tasks, and movements of the arm.")] = 1000,
    weights: Annotated[
        list[str] | None, typer.Option("--weights", "-w", help="Which weights (default: as the study says).")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="TEXT", help="Conditions whose name holds this.")] = None,
    data: Data = None,
    seed: Seed = 2025,
    json: JsonFile = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw the study (all but training-noise).", callback=folder_to_write),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure a study's conditions, each into a file of its own, and judge the headline by margins fixed beforehand.

    parity judges both implementations, crossbar and aihwkit's tiles, and whether they agree. Exit status 1 if a margin
    was not kept.
    """
    from ovonic.adapters.sealed_json import write_sealed
    from ovonic.tasks.datasets import load_characters
    from ovonic.validation import parity
    from ovonic.validation.hardware import measure, steps
    from ovonic.validation.hardware_conditions import Size
    from ovonic.validation.hardware_margins import MARGINS, Verdict, verdicts
    from ovonic.validation.hardware_store import KIND, kept
    from ovonic.validation.hardware_studies import study as conditions_of

    size = Size(chips, tasks)
    conditions = conditions_of(study, weights or ())
    if figures is not None and study not in DRAWN:
        raise ConfigError(f"--figures: the study {study} has none; drawn are {', '.join(DRAWN)}")
    if only is not None:
        names = [c.name for c in conditions]
        conditions = [c for c in conditions if only in c.name]
        if not conditions:
            raise ConfigError(f"--only {only}: no condition of the study {study}; {nearest(only, names)}")
    characters = None
    if any(c.experiment == "fewshot" for c in conditions):
        characters = load_characters(data or ["glyphs"], "all")
    found: dict[Condition, dict[str, Any]] = {}
    judged: list[Verdict] = []
    for number, condition in enumerate(conditions, 1):
        source = characters.source if characters is not None and condition.experiment == "fewshot" else None
        head = plain({"condition": condition.settings(), "size": size, "seed": seed, "data": source})
        path = out / f"{condition.name}.json"
        report = kept(path, head, with_errors=study == "parity")
        if report is None:
            label = f"{condition.name} ({number} of {len(conditions)})"
            with progress(label, steps(condition, size), quiet) as advance:
                report = measure(condition, size, seed=seed, characters=characters, on_steps=advance)
            if study == "parity":
                report["software_rows"] = parity.software_rows(condition, size, seed=seed, characters=characters)
            else:
                del report["errors"]
            head["command"] = condition.command(size, seed, data or ["glyphs"])
            report = json_result(KIND, report, head, versions("scipy", "aihwkit"))
            write_sealed(path, report)
        found[condition] = report
        if study == "headline":
            judged += verdicts(condition, size, report)
        elif study == "parity":
            judged += parity.parity_verdicts(condition, size, report)
        if str(json) != "-":
            _print(condition.name, report)
    for verdict in judged:
        if str(json) != "-":
            word = {True: "held", False: "NOT HELD", None: "unknown"}[verdict.held]
            measured = "unbounded" if verdict.measured is None else f"{verdict.measured:.4g}"
            early = " (preliminary: fewer chips or tasks than the claim asks for)" if verdict.preliminary else ""
            typer.echo(f"{word:9} {verdict.condition}: {verdict.what} {measured} <= {verdict.margin:g}{early}")
    result: dict[str, Any] = {
        "conditions": {condition.name: report for condition, report in found.items()},
        "verdicts": [{**vars(v), "held": v.held} for v in judged],
    }
    margins = MARGINS
    if study == "parity":
        margins = parity.PARITY_MARGINS
        result |= {"table": parity.table(found), "agreement": parity.agreements(found, seed=seed)}
        if str(json) != "-":
            _print_parity(result)
    config = {"study": study, "size": size, "seed": seed, "margins": margins, "command": command_line()}
    write_json(json, "validate-hardware", result, config, versions("scipy", "aihwkit"))
    if figures is not None:
        _draw(study, found, figures)
    if any(not v.held for v in judged) or any(
        row["judged"] and not row["agree"] for row in result.get("agreement", ())
    ):
        raise typer.Exit(1)


def _print_parity(result: Mapping[str, Any]) -> None:
    """Errors of both implementations beside software, and whether they agree."""
    for row in result["table"]:
        software = {f"software, {name}": part["mean"] for name, part in row["software"].items() if name != "twin"}
        software = software or {"software twin": row["software"]["twin"]["mean"]}
        chips = {label: row[name]["error"] for name, label in IMPLEMENTATIONS.items() if name in row}
        errors = "; ".join(f"{label} {error:.4g}" for label, error in (software | chips).items())
        typer.echo(f"{row['weights']}, {row['tasks']}, {row['devices']}, read after {row['read_time_s']:g} s: {errors}")
    for row in result["agreement"]:
        word = {True: "agree", False: "DIFFER", None: "undecided"}[row["agree"]]
        of = f" ({row['pooled']} conditions pooled)" if row["judged"] else ""
        typer.echo(
            f"{word:9} {row['name']}{of}: crossbar over aihwkit {_shown(row)}, "
            f"within {1 / row['margin']:.3f} .. {row['margin']:g}"
        )


def _draw(study: str, found: Mapping[Condition, Mapping[str, Any]], folder: Path) -> None:
    from ovonic.validation import hardware_figures
    from ovonic.validation.figure_style import save

    made = getattr(hardware_figures, DRAWN[study])(found)
    typer.echo(str(save(made, folder / f"hardware_{study}.png", command=command_line())))


def _print(name: str, report: Mapping[str, Any]) -> None:
    chips = report["hardware"]["chips"] if "hardware" in report else report["chips"]
    worst = f"{chips['worst']:.5g}"
    typer.echo(
        f"{name}: error {report['error']:.5g}, over the best software row {_shown(report['ratio'])}, over its own twin "
        f"{_shown(report['own_ratio'])}, worst of {chips['n']} chips {worst}, devices re-programmed "
        f"{report['devices_reprogrammed']:.0f}"
    )


def _shown(ratio: Mapping[str, Any]) -> str:
    if ratio["ratio"] is None:
        return "-"
    high = "inf" if ratio["high"] is None else f"{ratio['high']:.3f}"
    return f"{ratio['ratio']:.3f} [{ratio['low']:.3f}, {high}]"
