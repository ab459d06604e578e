"""``ovonic validate complexity``: NeuroBench's complexity metrics of both experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, progress, versions, write_json
from ovonic.commands.fewshot_options import Bits, Data, Shot, Way
from ovonic.models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from ovonic.adapters.neurobench import Complexity

__all__ = ["complexity"]

EXPERIMENTS = {"fewshot": "fewshot-32bit", "robot": "robot-q16"}
"""With the weights by default."""

ROWS = {
    "footprint_bytes": "footprint, bytes",
    "parameters": "parameters",
    "connection_sparsity": "connection sparsity",
    "activation_sparsity": "activation sparsity",
    "dense": "synaptic operations, dense",
    "effective_macs": "effective MACs",
    "effective_acs": "effective ACs",
    "membrane_updates": "membrane updates",
}


def complexity(
    experiment: Annotated[str, typer.Argument(metavar="fewshot|robot", help="Whose networks.")],
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="A shipped name or a file (fewshot-32bit, robot-q16).")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Few-shot tasks to learn, or movements of the arm.")] = 10,
    way: Way = 5,
    shot: Shot = 5,
    bits: Bits = None,
    data: Data = None,
    seed: Seed = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Measure footprint, sparsities, synaptic operations and membrane updates with NeuroBench's own package.

    A sample is an image asked after a task was learned, or a trial of all its steps: docs/complexity.md.
    """
    if experiment not in EXPERIMENTS:
        raise ConfigError(f"{experiment!r}: {nearest(experiment, EXPERIMENTS)}")
    from ovonic.adapters.neurobench import load

    load()
    source = weights or EXPERIMENTS[experiment]
    if experiment == "robot":
        if bits is not None or data:
            raise ConfigError("--precision and --data are of the few-shot network")
        config, found, result = _robot(source, samples, seed, quiet)
    else:
        config, found, result = _fewshot(source, samples, way, shot, bits, data or ["glyphs"], seed, quiet)
    if str(json) != "-":
        _print(f"{experiment}, {source}, {samples} {'movements' if experiment == 'robot' else 'tasks'}", found)
    config |= {"experiment": experiment, "weights": source, "samples": samples, "seed": seed, "command": command_line()}
    result |= {"networks": {name: part.as_dict() for name, part in found.items()}}
    write_json(json, "validate-complexity", result, config, versions("neurobench", "snntorch"))


def _robot(
    source: str, movements: int, seed: int, quiet: bool
) -> tuple[dict[str, Any], dict[str, Complexity], dict[str, Any]]:
    from ovonic.tasks.complexity import robot_complexity
    from ovonic.tasks.robot import resolve_robot

    robot = resolve_robot(source)
    with progress("networks", movements + 2, quiet) as advance:
        found = robot_complexity(robot, movements, seed=seed, on_step=advance)
    return {"inner": robot.inner}, found, {}


def _fewshot(
    source: str, tasks: int, way: int, shot: int, bits: int | None, data: list[str], seed: int, quiet: bool
) -> tuple[dict[str, Any], dict[str, Complexity], dict[str, Any]]:
    from ovonic.adapters.weights import readout_w_max, resolve_fewshot
    from ovonic.models.maml import Precision
    from ovonic.tasks.complexity import fewshot_complexity
    from ovonic.tasks.datasets import load_characters
    from ovonic.tasks.episodes import EpisodeSpec

    net, provenance = resolve_fewshot(source)
    precision = Precision(bits or provenance.get("precision", 32), readout_range=readout_w_max(provenance) or 1.0)
    characters = load_characters(data, "test" if data == ["glyphs"] else "all")
    with progress("tasks", tasks, quiet) as advance:
        found = fewshot_complexity(
            net, characters, EpisodeSpec(way, shot), tasks, seed=seed, precision=precision, on_step=advance
        )
    config = {"way": way, "shot": shot, "precision": precision.bits, "data": characters.source}
    return config, {"image": found["image"]}, {"packed_bytes": found["packed_bytes"]}


def _print(title: str, found: Mapping[str, Complexity]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("NeuroBench's metric, a sample", *found, title=title)
    for name, label in ROWS.items():
        values = [getattr(part, name) for part in found.values()]
        table.add_row(label, *("-" if v is None else f"{v:.4f}" if "sparsity" in name else f"{v:,.0f}" for v in values))
    Console().print(table)
