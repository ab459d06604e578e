"""``ovonic crossbar``: models on arrays of phase-change devices."""

from __future__ import annotations

import typer

from ovonic.commands.crossbar_cost import cost
from ovonic.commands.crossbar_export import export, import_chip
from ovonic.commands.crossbar_fit import fit
from ovonic.commands.crossbar_inspect import drift, inspect
from ovonic.commands.crossbar_map import map_source
from ovonic.commands.crossbar_program import program

app = typer.Typer(no_args_is_help=True, help="Models on arrays of phase-change devices: place, program, age, read.")
app.command("map")(map_source)
app.command()(program)
app.command()(inspect)
app.command()(drift)
app.command()(export)
app.command("import")(import_chip)
app.command()(fit)
app.command()(cost)
