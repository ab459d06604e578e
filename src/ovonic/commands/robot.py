"""``ovonic robot``: one-shot learning of arm movements with natural e-prop."""

from __future__ import annotations

import typer

from ovonic.commands.robot_adapt import adapt
from ovonic.commands.robot_curves import curves
from ovonic.commands.robot_evaluate import evaluate
from ovonic.commands.robot_train import train

app = typer.Typer(no_args_is_help=True, help="One-shot learning of arm movements with natural e-prop.")
app.command()(train)
app.command()(curves)
app.command()(evaluate)
app.command()(adapt)
