"""``ovonic weights``: what ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ovonic.commands.common import JsonFile, write_json

app = typer.Typer(no_args_is_help=True, help="The trained weights inside the package.")


@app.callback()
def _group() -> None:
    pass


@app.command("list")
def list_weights(json: JsonFile = None) -> None:
    """List the shipped weights: each name can stand wherever a command asks for weights."""
    from ovonic.adapters.weights import describe, shipped

    rows: list[dict[str, Any]] = []
    for name, path in shipped().items():
        description = describe(path)
        network, training = description["network"], description["training"]
        row = {"name": name, "kind": description["kind"], "norm": network.get("norm")}
        row |= {"precision": training.get("precision"), "trained_on": _trained_on(training.get("data"))}
        rows.append(row | {"size": path.stat().st_size, "card": path.with_suffix(".md").exists()})
    write_json(json, "weights-list", {"weights": rows}, {})
    if str(json) == "-":
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("name", "kind", "norm", "precision", "trained on", "size", title="Weights inside the package")
    for row in rows:
        cells = [row[key] for key in ("name", "kind", "norm", "precision", "trained_on")]
        table.add_row(*("-" if cell is None else str(cell) for cell in cells), f"{row['size'] / 1024:.0f} KiB")
    Console().print(table)


def _trained_on(data: Any) -> str | None:
    """The data of a training's provenance in a few words: names of its sources, without their folders."""
    if isinstance(data, dict):
        data = data.get("data")
    sources = data if isinstance(data, list) else [data]
    return ", ".join(Path(str(source)).name for source in sources) if data else None
