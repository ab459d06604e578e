"""What the commands of ``ovonic crossbar`` share: durations, files to write, tables of layers, provenance."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import command_line, versions
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.validation.crossbar_inspection import Inspection

__all__ = [
    "ChipFile",
    "Force",
    "check_free",
    "layer_table",
    "parse_duration",
    "provenance",
    "save_figure",
]

ChipFile = Annotated[Path, typer.Argument(metavar="CHIP.h5", help="A crossbar image.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "week": 604800.0, "month": 2592000.0, "year": 31536000.0}
"""A month has 30 days, a year 365."""
DURATION = re.compile(r"\s*(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[a-z]*?)s?\s*", re.IGNORECASE)


def parse_duration(option: str, text: str) -> float:
    """Seconds of "3600", "1.5h", "1d", "2weeks", "1month".

    Raises: ConfigError: no number, an unknown unit, negative or not finite.
    """
    match = DURATION.fullmatch(text)
    unit = match["unit"].lower() or "s" if match else ""
    try:
        seconds = float(match["number"]) * UNITS[unit] if match else math.nan
    except (ValueError, KeyError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ConfigError(
            f"{option} {text}: give seconds, or a number and one of {', '.join(UNITS)}: 3600, 1.5h, 1month"
        )
    return seconds


def check_free(path: Path, force: bool, *suffixes: str) -> None:
    """Refuse a file that cannot, or must not, be written; before any work is done.

    Raises: ConfigError: another suffix, a folder, or there already.
    """
    if suffixes and path.suffix not in suffixes:
        raise ConfigError(f"{path}: is written as {' or '.join(suffixes)}")
    if path.is_dir():
        raise ConfigError(f"{path}: a folder")
    if path.exists() and not force:
        raise ConfigError(f"{path}: is there already: name another file, or overwrite it by --force")


def provenance(source: str, **more: Any) -> dict[str, Any]:
    """Who made an image: the command, versions, and from what."""
    return {"command": command_line(), "versions": versions("h5py"), "source": source, **more}


def layer_table(inspection: Inspection) -> str:
    """A line a layer, under a line of headings."""
    from ovonic.adapters.crossbar_table import aligned

    rows: list[tuple[str, ...]] = [
        ("layer", "weights", "saturated", "programming error", "error now", "signal left", "pulses", "stuck")
    ]
    for layer in inspection.layers:
        rows.append(
            (
                layer.name,
                str(layer.weights),
                "?" if layer.saturated is None else str(layer.saturated),
                f"{layer.programming_error:.2f} %",
                f"{layer.error_now:.2f} %",
                f"{100 * layer.signal_left:.1f} %",
                str(layer.pulses),
                str(layer.stuck),
            )
        )
    return aligned(rows)


def save_figure(figure: Any, path: Path, quiet: bool) -> None:
    """Write a figure, and say so."""
    from ovonic.validation.figure_style import save

    save(figure, path, command=command_line())
    if not quiet:
        typer.echo(f"{path}: drawn", err=True)
