"""The simulators' part of ``ovonic reproduce``: one description of a network, the same spikes in every toolchain.

Small random networks that hold every pair of features of the description, each run exactly, refused by name, or caught;
and whole networks, the arm's among them, in all toolchains at once. Thresholds stand here. A toolchain that is missing
costs its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ovonic.adapters.toolchains import TOOLCHAINS
from ovonic.models.errors import ToolchainError
from ovonic.models.network import Network
from ovonic.tasks.robot import resolve_robot
from ovonic.validation.comparison import REFERENCE, Comparison, compare
from ovonic.validation.conformance import ENGINE, conformance
from ovonic.validation.dynamics_figures import membrane_figure, raster_overlay, verdict_matrix
from ovonic.validation.random_networks import recurrent_example
from ovonic.validation.report_content import At, Cell, Claim, Picture, Section, Table
from ovonic.validation.reproduction_part import Measured, OnSteps, Part
from ovonic.validation.reproduction_store import plain

__all__ = ["SIMULATOR_THRESHOLDS", "SimulatorRuns", "simulators_part"]

SIMULATOR_THRESHOLDS = {"wrong_networks": 0, "spikes_apart": 0}
"""Most networks that a toolchain may run otherwise than described without saying so, and most spikes in which it may
differ from the plain step."""

RUNS = (ENGINE, *TOOLCHAINS)


@dataclass(frozen=True)
class SimulatorRuns:
    """Sizes: random networks on each toolchain; networks of 50 neurons and robot weights in all, and their steps."""

    networks: int = 40
    recurrent: int = 2
    robots: tuple[str, ...] = ("robot-q16", "robot-float")
    steps: int = 249

    def dynamics(self, toolchain: str, seed: int) -> str:
        """The command that runs the random networks on one toolchain alone."""
        return f"ovonic validate dynamics --networks {self.networks} --toolchains {toolchain} --seed {seed}"

    def comparison(self, network: str, seed: int) -> str:
        """The command that compares one network in all toolchains alone."""
        return f"ovonic compare {network} --steps {self.steps} --seed {seed}"


SMALL, FULL = SimulatorRuns(), SimulatorRuns(1000, 20)


def simulators_part(seed: int, full: bool = False, runs: SimulatorRuns | None = None) -> Part:
    """The simulators' part of the report.

    Raises: WeightsError: the weights of a robot are missing or damaged.
    """
    asked = runs or (FULL if full else SMALL)
    robots = {name: resolve_robot(name) for name in asked.robots}
    compared = asked.recurrent + len(robots)
    return Part(
        "one network in every toolchain",
        asked.networks * len(RUNS) + compared * (1 + len(RUNS)),
        ("snntorch", "norse", "brian2", "nest-simulator", "elephant"),
        lambda _, on_steps: _measured(asked, seed, full, on_steps),
        {
            "runs": asdict(asked),
            "thresholds": SIMULATOR_THRESHOLDS,
            "toolchains": RUNS,
            "weights": {name: robot.provenance["sha256"] for name, robot in robots.items()},
        },
        seconds=12 + 0.4 * asked.networks + compared,
    )


def _measured(runs: SimulatorRuns, seed: int, full: bool, on_steps: OnSteps) -> Measured:
    networks: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name in RUNS:
        try:
            found = conformance(name, runs.networks, seed, on_network=lambda: on_steps(1))
        except ToolchainError as error:
            absent[name] = str(error)
            continue
        wrong = len(found.diverged) + len(found.deviating) + len(found.failed)
        failed = {str(index): reason for index, reason in found.failed.items()}
        networks[name] = asdict(found) | {"failed": failed, "wrong": wrong, "undecided": len(found.undecidable)}
    kinds = [("random", recurrent_example(seed + k), seed + k) for k in range(runs.recurrent)]
    kinds += [(name, resolve_robot(name).pair.trainee, seed) for name in runs.robots]
    comparisons: dict[str, list[Comparison]] = {}
    for name, network, draw in kinds:
        comparisons.setdefault(name, []).append(_compared(network, runs.steps, draw, on_steps))
    compared = {name: _summary(several) for name, several in comparisons.items()}
    apart = {run: [found["apart"].get(run) for found in compared.values()] for run in RUNS}
    figures: dict[str, Any] = {
        "networks": networks,
        "compared": compared,
        "apart": {run: sum(counts) for run, counts in apart.items() if counts and None not in counts},
        "absent": absent,
    }
    figures = plain(figures)
    config = {"runs": asdict(runs), "thresholds": SIMULATOR_THRESHOLDS, "toolchains": list(RUNS)}
    return Measured(figures, config, _section(runs, figures, comparisons, seed, full))


def _compared(network: Network, steps: int, seed: int, on_steps: OnSteps) -> Comparison:
    return compare(network, "all", steps=steps, seed=seed, dtype=torch.float64, on_run=lambda: on_steps(1))


def _summary(several: list[Comparison]) -> dict[str, Any]:
    """JSON values: spikes of the plain step; in how many each run differs from it; what each comparison reports."""
    apart: dict[str, int] = {}
    for one in several:
        ours = one.traces[REFERENCE]
        for name in RUNS:
            if name in one.traces:
                there = one.traces[name]
                differing = sum(int((there[layer].spikes != ours[layer].spikes).sum()) for layer in one.network.spiking)
                apart[name] = apart.get(name, 0) + differing
    spikes = sum(int(layer.spikes.sum()) for one in several for layer in one.traces[REFERENCE].layers.values())
    reports = [{key: value for key, value in one.report().items() if key != "seconds"} for one in several]
    pairs = [pair for one in several for pair in one.pairs]
    return {
        "networks": len(several),
        "spikes": spikes,
        "apart": apart,
        "pairs": {
            "compared": len(pairs),
            "identical": sum(p.verdict.identical for p in pairs),
            "certified": sum(p.verdict.certified and p.verdict.identical for p in pairs),
        },
        "reports": reports,
    }


def _section(
    runs: SimulatorRuns,
    figures: Mapping[str, Any],
    comparisons: Mapping[str, list[Comparison]],
    seed: int,
    full: bool,
) -> Section:
    text = (
        "A network has one description, with its whole meaning in discrete time; a toolchain gives the same spikes or "
        f"refuses by name. {runs.networks} small random networks that hold pairs of features (resets, "
        "refractoriness, adaptation, delays, thresholds, wiring) go to each toolchain; what must never happen is a run "
        f"that differs in silence. Then {runs.recurrent} recurrent networks of 50 neurons, and the trainees of the "
        f"arm's networks, run {runs.steps} steps of random input in all toolchains at once, in float64.\n\n"
        f"`engine` is our fast engine, `{REFERENCE}` the plain step, which defines what a description means. A pair of "
        "runs is certified if no membrane came nearer to its threshold than rounding can move it."
    )
    result = {"simulators": figures}
    alone = f"ovonic reproduce --only simulators --seed {seed}" + " --full" * full
    tables = [_networks_table(runs, figures, seed), _compared_table(figures, alone)]
    pictures = []
    if runs.robots:
        shown = comparisons[runs.robots[0]][0]
        command = runs.comparison(runs.robots[0], seed) + " --figures figures"
        setting = f"Trainee of {runs.robots[0]}, {runs.steps} steps, seed {seed}, float64"
        drawn = [draw(shown, setting=setting) for draw in (verdict_matrix, raster_overlay, membrane_figure)]
        pictures = [Picture.of(figure, command) for figure in drawn]
    return Section("One network in every toolchain", text, _claims(result, runs, seed, alone), tables, pictures)


def _networks_table(runs: SimulatorRuns, figures: Mapping[str, Any], seed: int) -> Table:
    keys = ("exact", "refused_networks", "undecided", "wrong")
    rows: list[list[Cell]] = [
        [name, *(At(f"simulators/networks/{name}/{key}", "number") for key in keys)] for name in figures["networks"]
    ]
    rows += [[name, "–", "–", "–", cure] for name, cure in figures["absent"].items()]
    columns = ("Toolchain", "Exact", "Refused by name", "Undecidable", "Differs in silence")
    names = ",".join(RUNS)
    return Table(f"{runs.networks} random networks on each", columns, rows, runs.dynamics(names, seed))


def _compared_table(figures: Mapping[str, Any], command: str) -> Table:
    rows: list[list[Cell]] = []
    for name, found in figures["compared"].items():
        at = f"simulators/compared/{name}"
        label: Cell = (At(f"{at}/networks", "number"), " recurrent networks") if name == "random" else name
        pairs = (At(f"{at}/pairs/identical", "number"), " of ", At(f"{at}/pairs/compared", "number"), " (certified ")
        verdicts = (*pairs, At(f"{at}/pairs/certified", "number"), ")")
        apart = [At(f"{at}/apart/{run}", "number") if run in found["apart"] else "–" for run in RUNS]
        rows.append([label, At(f"{at}/spikes", "number"), verdicts, *apart])
    columns = ("Network", "Spikes", "Identical pairs of runs", *RUNS)
    return Table("Spikes that differ from the plain step's, by toolchain", columns, rows, command)


def _claims(result: Mapping[str, Any], runs: SimulatorRuns, seed: int, alone: str) -> list[Claim]:
    limits = SIMULATOR_THRESHOLDS
    claims = [
        Claim.about(
            result,
            f"{name}: random networks that it ran otherwise than described, in silence",
            At(f"simulators/networks/{name}/wrong", "number"),
            "<=",
            limits["wrong_networks"],
            runs.dynamics(name, seed),
        )
        for name in RUNS
    ]
    return claims + [
        Claim.about(
            result,
            f"{name}: spikes that differ from the plain step's, all recurrent networks and trainees",
            At(f"simulators/apart/{name}", "number"),
            "<=",
            limits["spikes_apart"],
            alone,
        )
        for name in RUNS
    ]
