"""``ovonic fewshot``: meta-train, evaluate and use the few-shot classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovonic.commands.common import folder_to_write
from ovonic.commands.fewshot_adapt import adapt
from ovonic.commands.fewshot_curves import curves
from ovonic.commands.fewshot_evaluate import evaluate
from ovonic.commands.fewshot_one_shot import one_shot
from ovonic.commands.fewshot_train import train

app = typer.Typer(no_args_is_help=True, help="Few-shot classification of characters by MAML, in software and on PCM.")
app.command()(train)
app.command()(curves)
app.command()(evaluate)
app.command("one-shot")(one_shot)
app.command()(adapt)


@app.command()
def download(
    folder: Annotated[Path, typer.Argument(help="Folder of the zips.", callback=folder_to_write)],
) -> None:
    """Fetch the full Omniglot set through torchvision: images_background.zip and images_evaluation.zip."""
    from ovonic.tasks.omniglot import download_omniglot

    for background in (True, False):
        typer.echo(str(download_omniglot(folder, background)))
