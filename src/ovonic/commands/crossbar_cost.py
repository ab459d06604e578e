"""``ovonic crossbar cost``: energy and latency on arrays and in a digital twin, as ranges, and the break-even."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import JsonFile, command_line, folder_to_write, write_json
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.models.accounting import Estimate, Interval
    from ovonic.models.deployment_costs import Alternative, Experiment
    from ovonic.models.energy import Costs
    from ovonic.models.experiment_counts import Load

__all__ = ["cost"]


def cost(
    experiment: Annotated[str, typer.Argument(metavar="fewshot|robot", help="What to count.")] = "fewshot",
    layout: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Layout (JSON) of the network on its arrays in place of ours.")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Cost parameters, TOML or JSON, in place of the defaults.")
    ] = None,
    read_phases: Annotated[int, typer.Option(help="Phases of a signed read: 1, 2 or 4.")] = 1,
    updates: Annotated[int | None, typer.Option(min=1, help="Updates (default: 4 few-shot, 1 robot).")] = None,
    devices: Annotated[float | None, typer.Option(min=0, help="Devices an update programs, on average.")] = None,
    supports: Annotated[int, typer.Option(min=1, help="Few-shot: support images a task.")] = 25,
    queries: Annotated[int, typer.Option(min=1, help="Few-shot: query images a task.")] = 25,
    lsg: Annotated[str, typer.Option(metavar="crossbar|digital|elsewhere", help="Robot: where the LSG runs.")] = (
        "crossbar"
    ),
    activity: Annotated[
        float, typer.Option(min=0, max=1, help="Robot: spikes a neuron and step, which the twin computes with.")
    ] = 0.02,
    meta_flops: Annotated[float | None, typer.Option(min=0, help="Operations of meta-training.")] = None,
    meta_core_hours: Annotated[float | None, typer.Option(min=0, help="Or: hours of busy cores.")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw tornado, parts and break-even.", callback=folder_to_write)
    ] = None,
    json: JsonFile = None,
) -> None:
    """Count a task or lesson in closed form and cost it: on the arrays, and in a digital twin that does the same."""
    from ovonic.adapters.cost_files import read_costs
    from ovonic.models.accounting import estimate, training_energy
    from ovonic.models.deployment_costs import alternatives, experiment_named, scratch_energy
    from ovonic.models.energy import Costs

    if meta_flops is not None and meta_core_hours is not None:
        raise ConfigError("--meta-flops and --meta-core-hours: give one of them")
    if read_phases not in (1, 2, 4):
        raise ConfigError(f"--read-phases {read_phases}: choose 1, 2 or 4")
    prices = read_costs(costs) if costs else Costs()
    loads = _loads(layout)
    name = experiment_named(experiment)
    counted = _experiment(name, loads, read_phases, updates, devices, supports, queries, lsg, activity)
    if meta_core_hours is not None:
        meta = training_energy(prices, core_hours=meta_core_hours)
    else:
        meta = training_energy(prices, flops=counted.meta_flops if meta_flops is None else meta_flops)
    given = meta if meta_core_hours is not None or meta_flops is not None else None
    estimates = {f"{part}, array": estimate(counts, prices) for part, counts in counted.array.items()}
    estimates |= {f"{part}, twin": estimate(counts, prices) for part, counts in counted.twin.items()}
    ways = alternatives(counted, prices, meta_training_j=given)
    if str(json) != "-":
        _print(counted.name, estimates, ways, meta)
    write_json(
        json,
        "crossbar-cost",
        {
            "counts": {"array": counted.array, "twin": counted.twin},
            "estimates": {part: made.as_dict() for part, made in estimates.items()},
            "meta_training_j": meta._asdict(),
            "scratch_j": scratch_energy(counted, prices)._asdict(),
            "break_even": {way.name: way.as_dict() for way in ways},
            "costs": dict(prices),
        },
        {
            "experiment": name,
            "layout": layout,
            "costs": costs,
            "read_phases": read_phases,
            "updates": updates,
            "devices": devices,
            "supports": supports,
            "queries": queries,
            "lsg": lsg,
            "activity": activity,
            "command": command_line(),
        },
    )
    if figures:
        _draw(counted, prices, estimates, ways, meta, figures)


def _loads(layout: Path | None) -> tuple[Load, ...] | None:
    if layout is None:
        return None
    from ovonic.adapters.crossbar import Layout
    from ovonic.adapters.crossbar_loads import loads_of

    return loads_of(Layout.load(layout))


def _experiment(
    name: str,
    loads: tuple[Load, ...] | None,
    read_phases: int,
    updates: int | None,
    devices: float | None,
    supports: int,
    queries: int,
    lsg: str,
    activity: float,
) -> Experiment:
    from ovonic.models.deployment_costs import fewshot, robot
    from ovonic.models.experiment_counts import TRAINEE_LOADS, cnn_loads

    if name == "fewshot":
        if loads is not None and len(loads) < 2:
            raise ConfigError(
                "--layout: a few-shot task needs layers before the read-out; this layout has one load, "
                f"{loads[0].name!r}"
            )
        return fewshot(
            loads or cnn_loads(read_phases),
            supports=supports,
            queries=queries,
            updates=updates or 4,
            devices_per_update=devices,
        )
    return robot(loads or TRAINEE_LOADS, lsg=lsg, activity=activity, updates=updates or 1, devices_per_update=devices)


def _print(name: str, estimates: dict[str, Estimate], ways: list[Alternative], meta: Interval) -> None:
    from ovonic.validation.energy_figures import ALTERNATIVES, in_si

    def span(total: Interval, unit: str) -> str:
        return f"{in_si(total.typical, unit):>9} ({in_si(total.low, unit)} to {in_si(total.high, unit)})"

    typer.echo(f"{name}: typical (lowest to highest, all parameters anywhere in their ranges)")
    for part, made in estimates.items():
        typer.echo(f"  {part:<19}{span(made.energy_j, 'J'):<36}{span(made.latency_s, 's')}")
    typer.echo(f"  {'meta-training':<19}{span(meta, 'J')}")
    typer.echo("meta-training has paid for itself")
    for way in ways:
        drawn = f"; {way.never:.0%} of draws never" if way.never else ""
        typer.echo(f"  against {ALTERNATIVES[way.name]}: {way.break_even.verdict}{drawn}")


def _draw(
    counted: Experiment,
    prices: Costs,
    estimates: dict[str, Estimate],
    ways: list[Alternative],
    meta: Interval,
    folder: Path,
) -> None:
    from ovonic.validation.energy_figures import break_even_figure, parts_figure, tornado_figure
    from ovonic.validation.figure_style import save

    adaptation = counted.array["adaptation"]
    drawn: dict[str, Any] = {
        "energy_tornado": tornado_figure(adaptation, prices, what=f"an adaptation ({counted.name})"),
        "latency_tornado": tornado_figure(adaptation, prices, "latency", what=f"an adaptation ({counted.name})"),
        "energy_parts": parts_figure(estimates),
        "break_even": break_even_figure(ways, meta, what=counted.name),
    }
    for name, figure in drawn.items():
        typer.echo(str(save(figure, folder / f"{counted.name}_{name}.png", command=command_line())))
