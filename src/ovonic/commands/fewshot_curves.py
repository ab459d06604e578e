"""``ovonic fewshot curves``: loss and accuracy of several runs of meta-training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovonic.commands.common import command_line, file_to_write


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The figure.", callback=file_to_write)] = Path("curves.png"),
) -> None:
    """Draw the loss and accuracy of several runs side by side, e.g. 4 bit beside 32 bit."""
    from ovonic.tasks.fewshot_run import read_metrics
    from ovonic.validation.figures import loss_curves, save

    save(loss_curves({str(run): read_metrics(run) for run in dict.fromkeys(runs)}), out, command=command_line())
    typer.echo(str(out))
