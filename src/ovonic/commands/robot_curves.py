"""``ovonic robot curves``: the learning curve of a run, or of runs that went on from one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ovonic.commands.common import command_line, file_to_write


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, each begun with the weights of the one before.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The figure.", callback=file_to_write)] = Path("curves.png"),
) -> None:
    """Draw training loss, validation loss and tip error over the outer steps."""
    from ovonic.tasks.robot_run import read_metrics
    from ovonic.validation.figure_style import save
    from ovonic.validation.robot_curves import learning_curve

    history: list[dict[str, Any]] = []
    validation: list[dict[str, Any]] = []
    begun = 0
    for run in runs:
        metrics = read_metrics(run)
        for whole, part in ((history, metrics["history"]), (validation, metrics["validation"])):
            whole.extend(entry | {"step": entry["step"] + begun} for entry in part)
        begun = history[-1]["step"] if history else 0
    save(learning_curve(history, validation), out, command=command_line())
    typer.echo(str(out))
