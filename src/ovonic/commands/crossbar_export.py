"""``ovonic crossbar export`` and ``import``: chips to networks, weights and tables, and measured tables to chips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, file_to_write, write_json
from ovonic.commands.crossbar_common import ChipFile, Force, check_free, layer_table, provenance
from ovonic.commands.crossbar_map import load_layout
from ovonic.commands.crossbar_sources import parse_noise_model
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.adapters.crossbar_image import CrossbarImage

__all__ = ["export", "import_chip"]

SUFFIXES = (".csv", ".npz", ".nir", ".safetensors", ".json")


def export(
    chip: ChipFile,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help=".csv: a row a cell; .npz: all devices, by array; .nir: the network with its weights as read now; "
            ".safetensors: those weights, of few-shot weights a file that 'ovonic fewshot' takes; .json: the layout.",
        ),
    ],
    programming: Annotated[
        bool, typer.Option("--programming", help="CSV of what a controller must program, a row a device.")
    ] = False,
    since: Annotated[
        Path | None, typer.Option(metavar="OLD.h5", help="With --programming: only what differs from this chip.")
    ] = None,
    force: Force = False,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Write a chip as a table, arrays, a network or weights."""
    from ovonic.adapters.crossbar_exports import write_programming
    from ovonic.adapters.crossbar_file import load_image

    check_free(out, force, *SUFFIXES)
    if programming and out.suffix != ".csv":
        raise ConfigError(f"--programming: {out} is no .csv")
    if since is not None and not programming:
        raise ConfigError(f"--since {since}: means nothing without --programming")
    image = load_image(chip)
    if programming:
        count = write_programming(out, image, None if since is None else load_image(since))
        what = f"{count} devices to program"
    else:
        what = _write(out, image)
    if not quiet:
        typer.echo(f"{out}: {what}", err=True)
    config = {"chip": chip, "programming": programming, "since": since, "command": command_line()}
    write_json(json, "crossbar-export", {"out": out, "what": what}, config)


def _write(out: Path, image: CrossbarImage) -> str:
    from ovonic.adapters import crossbar_exports as exports

    if out.suffix == ".csv":
        exports.write_cells(out, image)
        return f"{image.layout.n_weights} weights, a row a cell"
    if out.suffix == ".npz":
        exports.write_npz(out, image)
        return f"all devices of {len(image.layout.arrays)} arrays"
    if out.suffix == ".safetensors":
        exports.write_weights(out, image)
        return "weights as the chip reads now"
    if out.suffix == ".json":
        image.layout.save(out)
        return "the layout"
    from ovonic.adapters.nir import save_nir

    save_nir(out, exports.network_read(image))
    return "the network with its weights as the chip reads now"


def import_chip(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="An npz or a CSV of cells, as 'export' writes them; or a lab's.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="CHIP.h5", help="The image to write.", callback=file_to_write)
    ],
    layout: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Where the weights lie (an npz may say it itself).")
    ] = None,
    noise_model: Annotated[
        str | None, typer.Option("--noise-model", metavar="NAME|FILE", help="The devices (an npz may say it itself).")
    ] = None,
    seed: Seed = 2025,
    force: Force = False,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Make a chip of conductances that were measured or exported; drift exponents that are not given are drawn."""
    from ovonic.adapters.crossbar_file import save_image
    from ovonic.adapters.crossbar_imports import read_cells, read_npz
    from ovonic.validation.crossbar_inspection import inspect_image

    check_free(out, force, ".h5", ".hdf5")
    if source.suffix not in (".csv", ".npz"):
        raise ConfigError(f"{source}: an .npz or a .csv is due")
    placed = None if layout is None else load_layout(layout)
    model = None if noise_model is None else parse_noise_model(noise_model)
    if source.suffix == ".npz":
        image = read_npz(source, placed, model, seed=seed)
    elif placed is None or model is None:
        raise ConfigError(f"{source}: a table says neither: add --layout FILE.json and --noise-model NAME")
    else:
        image = read_cells(source, placed, model, seed=seed)
    image = image.replace(provenance=provenance(str(source), before=dict(image.provenance)))
    save_image(out, image)
    inspection = inspect_image(image)
    if str(json) != "-" and not quiet:
        typer.echo(layer_table(inspection))
        typer.echo(f"{out}: written", err=True)
    config = {"source": source, "layout": layout, "noise_model": noise_model, "seed": seed, "command": command_line()}
    write_json(json, "crossbar-import", {"out": out} | inspection.as_dict(), config)
