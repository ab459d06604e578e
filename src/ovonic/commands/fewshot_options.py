"""What the commands of ``ovonic fewshot`` share: their options, and how a weight's name becomes a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import folder_to_write

if TYPE_CHECKING:
    from ovonic.models.fewshot_cnn import FewshotCNN

Data = Annotated[
    list[str] | None, typer.Option("--data", "-d", help="glyphs, a folder or a zip in Omniglot's layout; repeatable.")
]
Folds = Annotated[int | None, typer.Option(help="Folds of the cross-validation over alphabets.")]
Fold = Annotated[int, typer.Option(help="The fold that is tested.")]
GlyphAlphabets = Annotated[int | None, typer.Option(min=1, help="Glyph alphabets (default: all of the split).")]
DataSeed = Annotated[int, typer.Option(min=0, help="Seed of the glyphs and of the folds.")]
Way = Annotated[int, typer.Option(help="Classes a task.")]
Shot = Annotated[int, typer.Option(help="Labelled drawings a class.")]
Queries = Annotated[int, typer.Option(help="Drawings a class to classify.")]
Norm = Annotated[str | None, typer.Option(help="Whose statistics normalise: support, transductive or meta-batch.")]
Bits = Annotated[int | None, typer.Option("--precision", help="Bits of the weights: 32, or 2 to 16.")]
Rounding = Annotated[str, typer.Option(help="Rounding to few bits: stochastic or nearest.")]
Figures = Annotated[Path | None, typer.Option(metavar="DIR", help="Write the figures there.", callback=folder_to_write)]
WeightsName = Annotated[str, typer.Option("--weights", "-w", help="A shipped name, a safetensors or a published file.")]
Updates = Annotated[int | None, typer.Option(help="Inner updates (default: as the weights were trained).")]


def load(weights: str) -> tuple[FewshotCNN, dict[str, Any]]:
    """The network of ``--weights``, and where it is from."""
    from ovonic.adapters.weights import resolve_fewshot

    return resolve_fewshot(weights)


def percent(summary: Mapping[str, Any]) -> str:
    """A summary {mean, ci95} of a share, in percent."""
    half = "" if summary["ci95"] is None else f" +- {100 * summary['ci95']:.2f}"
    return f"{100 * (summary['mean'] or 0):.2f}{half} %"
