"""``ovonic crossbar inspect`` and ``drift``: what a chip holds, now and later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import JsonFile, Quiet, command_line, file_to_write, write_json
from ovonic.commands.crossbar_common import (
    ChipFile,
    Force,
    check_free,
    layer_table,
    parse_duration,
    provenance,
    save_figure,
)
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.adapters.crossbar_image import CrossbarImage
    from ovonic.validation.crossbar_inspection import Inspection

__all__ = ["drift", "inspect"]


def inspect(
    chip: ChipFile,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw conductances and errors (png, svg or pdf).", callback=file_to_write),
    ] = None,
    arrays: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the arrays, cell by cell, as they read now.", callback=file_to_write),
    ] = None,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Show what a chip holds: layout, age, counters, and each layer's errors in % of full scale."""
    from ovonic.adapters.crossbar_file import load_image
    from ovonic.validation.crossbar_inspection import inspect_image, inspection_figure

    image = load_image(chip)
    inspection = inspect_image(image)
    if str(json) != "-" and not quiet:
        _print(chip, image, inspection)
    write_json(json, "crossbar-inspect", _result(image, inspection), {"chip": chip, "command": command_line()})
    if figure is not None:
        save_figure(inspection_figure(image, setting=chip.name), figure, quiet)
    if arrays is not None:
        from ovonic.validation.crossbar_figures import conductance_figure

        drawn = conductance_figure(image.layout, image.conductances(), image.model.g_max_us, setting=f"{chip.name}.")
        save_figure(drawn, arrays, quiet)


def drift(
    chip: ChipFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="LATER.h5", help="The image to write.", callback=file_to_write)
    ],
    seconds: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long to wait: seconds, or 1.5h, 1d, 2weeks, 1month, 1year.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Or: until the chip's clock shows this.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Seed of the read noise from now on (default: the chip's goes on)."),
    ] = None,
    force: Force = False,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Let time pass: every device drifts by its own age and exponent, and is read anew."""
    from ovonic.adapters.crossbar_file import load_image, save_image
    from ovonic.adapters.crossbar_image import chip_of, image_of
    from ovonic.validation.crossbar_inspection import inspect_image, lasting

    check_free(out, force, ".h5", ".hdf5")
    if (seconds is None) == (until is None):
        raise ConfigError("give one of --seconds and --until, for example --seconds 1month")
    wait = parse_duration("--seconds", seconds) if seconds is not None else None
    end = parse_duration("--until", until) if until is not None else None
    image = load_image(chip)
    if wait is None:
        assert end is not None
        wait = end - image.now_s
        if wait < 0:
            raise ConfigError(f"--until {until}: the chip's clock shows {image.now_s:g} s already")
    if seed is not None:
        image = image.replace(seed=seed, calls={})
    simulated = chip_of(image)
    simulated.advance(wait)
    later = image_of(
        simulated,
        image.layout,
        split=image.split,
        software=image.software,
        provenance=provenance(str(chip), before=dict(image.provenance)),
    )
    save_image(out, later)
    inspection = inspect_image(later)
    if str(json) != "-" and not quiet:
        typer.echo(f"{chip}: {lasting(wait)} later; the clock shows {lasting(later.now_s)}")
        typer.echo(layer_table(inspection))
        typer.echo(f"{out}: written", err=True)
    config = {"chip": chip, "seconds": wait, "seed": seed, "command": command_line()}
    write_json(json, "crossbar-drift", {"out": out} | _result(later, inspection), config)


def _result(image: CrossbarImage, inspection: Inspection) -> dict[str, Any]:
    from ovonic.adapters.crossbar_models import model_to_plain

    return {
        **inspection.as_dict(),
        "now_s": image.now_s,
        "arrays": [{"name": spec.name, "rows": spec.rows, "columns": spec.columns} for spec in image.layout.arrays],
        "device": model_to_plain(image.model),
        "split": image.split,
        "verify": image.verify,
        "faults": image.faults,
        "counters": image.counters.as_dict(),
        "provenance": image.provenance,
    }


def _print(path: Path, image: CrossbarImage, inspection: Inspection) -> None:
    from ovonic.validation.crossbar_inspection import lasting

    made = image.provenance
    typer.echo(f"{path}: {made.get('kind', 'a chip')}, made by: {made.get('command', 'unknown')}")
    model = image.model
    typer.echo(f"devices {model.name}, {model.g_max_us:g} uS; split {image.split}; seed {image.seed}")
    ages = f"{lasting(inspection.youngest_s)} to {lasting(inspection.oldest_s)}"
    typer.echo(f"clock {lasting(image.now_s)}; devices are {ages} old")
    counted = ", ".join(
        f"{name.replace('_', ' ')} {count}" for name, count in image.counters.as_dict().items() if count
    )
    typer.echo(f"counted: {counted or 'nothing'}\n")
    typer.echo(str(image.layout))
    typer.echo("")
    typer.echo(layer_table(inspection))
