"""``ovonic validate``: what is believed of the toolchains, measured."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, progress, versions, write_json
from ovonic.commands.compare import SIMULATORS, parse_dtype, parse_names
from ovonic.commands.validate_complexity import complexity
from ovonic.commands.validate_eprop import eprop
from ovonic.commands.validate_hardware import hardware
from ovonic.commands.validate_model import model
from ovonic.commands.validate_paper import paper

if TYPE_CHECKING:
    from ovonic.validation.conformance import Conformance
    from ovonic.validation.mutants import MutationScore

__all__ = ["app", "dynamics"]

app = typer.Typer(no_args_is_help=True, help="Measure whether toolchains honour the description of a network.")


@app.callback()
def _root() -> None:
    """Measure whether toolchains honour the description of a network."""


app.command("complexity")(complexity)
app.command("eprop")(eprop)
app.command("hardware")(hardware)
app.command("paper")(paper)
app.command("model")(model)


@app.command("dynamics")
def dynamics(
    networks: Annotated[int, typer.Option(min=1, help="Random networks on each toolchain.")] = 1000,
    toolchains: Annotated[str, typer.Option(metavar="A,B,..", help="Which; engine is our own fast engine.")] = "engine",
    mutants: Annotated[int, typer.Option(min=0, help="Networks whose mutants are compared with them.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Number of the first network.")] = 0,
    dtype: Annotated[str, typer.Option(metavar="f64|f32", help="Floats of every run.")] = "f64",
    seed: Seed = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Run random networks, stratified over pairs of features, on toolchains, and compare every spike.

    The exit status is 1 if a toolchain diverged in silence or failed, or a mutant was not caught.
    """
    from ovonic.adapters.toolchains import known
    from ovonic.validation.conformance import ENGINE, conformance
    from ovonic.validation.mutants import mutation_score

    names = parse_names("--toolchains", toolchains, (*known(), ENGINE))
    floats = parse_dtype(dtype)
    found: list[Conformance] = []
    for name in names:
        with progress(name, networks, quiet) as advance:
            found.append(conformance(name, networks, seed, first, floats, advance))
        if str(json) != "-":
            _print(found[-1])
    score = None
    if mutants:
        with progress("mutants", mutants, quiet) as advance:
            score = mutation_score(mutants, seed, first, floats, advance)
        if str(json) != "-":
            _print_score(score)
    result: dict[str, Any] = {"toolchains": {entry.toolchain: dataclasses.asdict(entry) for entry in found}}
    if score is not None:
        result["mutants"] = {
            "made": len(score.mutants),
            "exercised": len(score.exercised),
            "score": score.score,
            "score_by_spikes": score.score_by_spikes,
            "survivors": [dataclasses.asdict(mutant) for mutant in score.survivors],
            "by_cause": {
                cause: dict(zip(("made", "exercised", "caught"), counts, strict=True))
                for cause, counts in score.by_cause().items()
            },
        }
    config = {"networks": networks, "first": first, "mutants": mutants, "dtype": dtype, "seed": seed}
    write_json(json, "validate-dynamics", result, config | {"command": command_line()}, versions(*SIMULATORS))
    if not all(entry.conforms for entry in found) or (score is not None and score.survivors):
        raise typer.Exit(1)


def _print(found: Conformance) -> None:
    typer.echo(
        f"{found.toolchain}: of {found.count} networks {found.exact} exact, {found.refused_networks} refused, "
        f"{len(found.undecidable)} undecidable, {len(found.diverged)} diverged, {len(found.deviating)} deviating, "
        f"{len(found.failed)} failed; in {found.active} at least 80 % of each layer spike"
    )
    for feature, count in found.refused.items():
        typer.echo(f"  refused for {feature}: {count}")
    for what in ("diverged", "deviating", "undecidable"):
        if indices := getattr(found, what):
            more = ", .." if len(indices) > 20 else ""
            typer.echo(f"  {what}: {', '.join(map(str, indices[:20]))}{more}")
    for index, message in list(found.failed.items())[:10]:
        typer.echo(f"  {index} failed: {message}")


def _print_score(score: MutationScore) -> None:
    typer.echo(
        f"mutants: {len(score.mutants)}, of which {len(score.exercised)} run differently; caught {score.score:.2%}, "
        f"by their spikes alone {score.score_by_spikes:.2%}"
    )
    for mutant in score.survivors[:20]:
        typer.echo(f"  not caught: network {mutant.index}, layer {mutant.layer}, {mutant.cause}: {mutant.text}")
