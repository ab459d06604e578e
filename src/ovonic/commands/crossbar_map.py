"""``ovonic crossbar map``: where the weights of a model lie on arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import JsonFile, Quiet, command_line, file_to_write, write_json
from ovonic.commands.crossbar_common import Force, check_free, save_figure
from ovonic.commands.crossbar_sources import Part, SourceName, read_placed_source
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.adapters.crossbar import Layout

__all__ = ["map_source"]


def map_source(
    source: SourceName,
    part: Part = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of an array.")] = 256,
    columns: Annotated[int, typer.Option(min=1, help="Columns of an array.")] = 256,
    arrays: Annotated[
        int | None, typer.Option(min=1, help="How many arrays there are (default: as many as needed).")
    ] = None,
    scale: Annotated[str, typer.Option(metavar="layer|column", help="What has a full scale of its own.")] = "layer",
    headroom: Annotated[
        float, typer.Option(help="Full scale over the largest weight; more leaves room for updates.")
    ] = 1.0,
    together: Annotated[
        str,
        typer.Option(
            "--read-together",
            metavar="all|rows|none",
            help="What one product reads: all layers of a step, those on the same rows, or one layer.",
        ),
    ] = "all",
    read_phases: Annotated[int, typer.Option(help="Phases of a signed read: 1, 2 or 4.")] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the layout.", callback=file_to_write)
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the arrays (png, svg or pdf).", callback=file_to_write)
    ] = None,
    force: Force = False,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Place a model's weights on arrays, print the table, and write it for 'program --layout'."""
    if out is not None:
        check_free(out, force, ".json")
    found = read_placed_source(source, part)
    layout = found.layout(
        rows=rows,
        columns=columns,
        arrays=arrays,
        scale=scale,
        headroom=headroom,
        together=together,
        read_phases=read_phases,
    )
    if str(json) != "-" and not quiet:
        typer.echo(f"{source}: {found.kind}")
        typer.echo(str(layout))
        if layout.digital:
            typer.echo(f"\nin the digital periphery: {', '.join(layout.digital)}")
    if out is not None:
        layout.save(out)
        if not quiet:
            typer.echo(f"{out}: written", err=True)
    config: dict[str, Any] = {
        "source": source,
        "part": part,
        "rows": rows,
        "columns": columns,
        "arrays": arrays,
        "scale": scale,
    }
    config |= {"headroom": headroom, "read_together": together, "read_phases": read_phases, "command": command_line()}
    write_json(json, "crossbar-map", described(layout) | {"source": found.kind, "out": out}, config)
    if figure is not None:
        from ovonic.validation.crossbar_figures import layout_figure

        save_figure(layout_figure(layout, setting=f"{source}."), figure, quiet)


def described(layout: Layout) -> dict[str, Any]:
    """A layout in a result: arrays and their fill, layers and where they lie."""
    return {
        "arrays": [
            {
                "name": spec.name,
                "rows": spec.rows,
                "columns": spec.columns,
                "cells_in_use": sum(b.height * b.width for b in layout.blocks if b.array == index),
            }
            for index, spec in enumerate(layout.arrays)
        ],
        "layers": [
            {
                "name": layer.name,
                "shape": layer.shape,
                "kind": layer.kind,
                "inputs": layer.inputs,
                "input_range": layer.input_range,
                "phases": layer.phases,
                "w_max": layer.w_max,
                "blocks": [{name: getattr(block, name) for name in _BLOCK} for block in layout.blocks_of(layer.name)],
            }
            for layer in layout.layers
        ],
        "together": layout.together,
        "digital": layout.digital,
        "weights": layout.n_weights,
        "fill": layout.fill,
    }


_BLOCK = ("array", "row", "column", "in_start", "in_stop", "out_start", "out_stop")


def load_layout(path: Path) -> Layout:
    """The layout of ``--layout``.

    Raises: ConfigError: no such file. DataError: no layout.
    """
    from ovonic.adapters.crossbar import Layout

    if not path.is_file():
        raise ConfigError(f"--layout {path}: no such file; 'ovonic crossbar map SOURCE --out {path.name}' writes one")
    return Layout.load(path)
