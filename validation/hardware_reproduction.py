"""The hardware part of ``ovonic reproduce``: software beside our crossbar and aihwkit's tiles, with fixed margins.

The conditions and their margins stand in ``validation.hardware_studies``, ``hardware_margins`` and ``parity``; the
small run takes those of the pcm devices that end in minutes. A toolchain that is missing costs its own rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from ovonic.adapters.weights import locate
from ovonic.models.errors import ConfigError, ToolchainError
from ovonic.tasks.datasets import GLYPHS, load_characters
from ovonic.validation import parity
from ovonic.validation.hardware import measure, steps
from ovonic.validation.hardware_conditions import Condition, Size
from ovonic.validation.hardware_figures import judged, judged_by, label
from ovonic.validation.hardware_margins import LEAST, MARGINS, verdicts
from ovonic.validation.hardware_studies import study
from ovonic.validation.margin_figure import margin_figure
from ovonic.validation.report_content import At, Cell, Claim, Picture, Section, Table, Unit
from ovonic.validation.reproduction_part import Measured, OnSteps, Part
from ovonic.validation.reproduction_store import plain

__all__ = ["HardwareRuns", "hardware_part"]

PLACES = {"headline": "conditions", "parity": "parity"}
"""Study -> where the figures hold its conditions."""


@dataclass(frozen=True)
class HardwareRuns:
    """Conditions by study, and how many chips and tasks each has."""

    conditions: Mapping[str, tuple[Condition, ...]]
    size: Size

    def __iter__(self) -> Iterator[tuple[str, Condition]]:
        return ((name, condition) for name, several in self.conditions.items() for condition in several)

    def command(self, of: str, condition: Condition, seed: int) -> str:
        """The command that measures one condition of a study alone, and judges it."""
        return (
            f"ovonic validate hardware --study {of} --only {condition.name} --chips {self.size.chips} "
            f"--tasks {self.size.tasks} --seed {seed}"
        )


def hardware_runs(full: bool) -> HardwareRuns:
    """What is measured: both studies whole, or what a few minutes allow of them."""
    headline, both = study("headline"), study("parity")
    if full:
        return HardwareRuns({"headline": tuple(headline), "parity": tuple(both)}, Size())
    few = tuple(c for c in both if c.noise_model == "pcm" and c.read_time_s == 0 and c.n_way == 5)
    return HardwareRuns({"headline": tuple(c for c in headline if c.noise_model == "pcm"), "parity": few}, Size(3, 80))


def hardware_part(seed: int, full: bool = False, runs: HardwareRuns | None = None) -> Part:
    """The hardware part of the report.

    Raises: WeightsError: weights are missing.
    """
    asked = runs or hardware_runs(full)
    files = {condition.weights: locate(condition.weights) for _, condition in asked}
    return Part(
        "software beside crossbar and tiles",
        sum(steps(condition, asked.size) for _, condition in asked),
        ("aihwkit", "scipy", "numba"),
        lambda _, on_steps: _measured(asked, seed, full, on_steps),
        {
            "conditions": {name: [c.settings() for c in several] for name, several in asked.conditions.items()},
            "size": asdict(asked.size),
            "margins": {"headline": MARGINS, "parity": parity.PARITY_MARGINS},
            "weights": {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items()},
        },
        seconds=15 + 0.03 * sum(steps(condition, asked.size) for _, condition in asked),
    )


def _measured(runs: HardwareRuns, seed: int, full: bool, on_steps: OnSteps) -> Measured:
    characters = load_characters([GLYPHS], "all")
    found: dict[str, dict[Condition, dict[str, Any]]] = {name: {} for name in runs.conditions}
    absent: dict[str, str] = {}
    for of, condition in runs:
        try:
            report = measure(condition, runs.size, seed=seed, characters=characters, on_steps=on_steps)
        except (ToolchainError, ConfigError) as error:
            absent[condition.name] = str(error)
            continue
        if of == "parity":
            report["software_rows"] = parity.software_rows(condition, runs.size, seed=seed, characters=characters)
        found[of][condition] = report
    figures = _figures(found, absent, runs, seed)
    config = {
        "data": characters.source,
        "conditions": {of: [c.settings() for c in several] for of, several in runs.conditions.items()},
        "size": asdict(runs.size),
        "margins": {"headline": MARGINS, "parity": parity.PARITY_MARGINS},
    }
    return Measured(figures, config, _section(runs, figures, seed, full))


def _figures(
    found: Mapping[str, dict[Condition, dict[str, Any]]], absent: dict[str, str], runs: HardwareRuns, seed: int
) -> dict[str, Any]:
    """JSON values; the errors of single tasks stay out."""
    headline, both = found.get("headline", {}), found.get("parity", {})
    judged = [verdict for c, report in headline.items() for verdict in verdicts(c, runs.size, report)]
    judged += [verdict for c, report in both.items() for verdict in parity.parity_verdicts(c, runs.size, report)]
    figures: dict[str, Any] = {
        PLACES[of]: {c.name: {key: v for key, v in report.items() if key != "errors"} for c, report in reports.items()}
        for of, reports in found.items()
    }
    figures |= {
        "table": parity.table(both),
        "agreement": {row["name"]: row for row in parity.agreements(both, seed=seed) if row["judged"]},
        "verdicts": [{**vars(verdict), "held": verdict.held} for verdict in judged],
        "absent": absent,
    }
    return dict(plain(figures))


def _section(runs: HardwareRuns, figures: Mapping[str, Any], seed: int, full: bool) -> Section:
    size = runs.size
    text = (
        "Weights that were trained for it learn on simulated phase-change memory: on our crossbar of four devices a "
        "weight, and on aihwkit's devices, with 8-bit converters, beside software that sees the same tasks. "
        f"{size.chips} chips, each a draw of all devices, meet {size.tasks} tasks each; intervals are 95 % over chips "
        "and tasks. Margins were fixed before any run.\n\n"
        "The ratio of the headline is to the best software row of the same weights, at 32 bit and with updates that "
        "are not rounded; that of the tiles and of the crossbar beside them is to the software twin of the same bits. "
        "A margin is kept beyond doubt where the upper end of the interval keeps it too: the last table says so, and "
        f"marks as preliminary what fewer than {LEAST['chips']} chips or {LEAST['tasks']} tasks say."
    )
    alone = f"ovonic reproduce --only hardware --seed {seed}" + " --full" * full
    result = {"hardware": figures}
    tables = [_conditions_table(runs, figures, alone), *_parity_table(figures, alone), _verdict_table(figures, alone)]
    rows = [judged(of, c, figures[PLACES[of]][c.name]) for of, c in runs if c.name in figures[PLACES[of]]]
    drawn = [row for row in rows if row is not None]
    pictures = [Picture.of(margin_figure(drawn, setting=f"Seed {seed}."), alone)] if drawn else []
    return Section("Software beside crossbar and tiles", text, _claims(result, runs, seed), tables, pictures)


def _conditions_table(runs: HardwareRuns, figures: Mapping[str, Any], command: str) -> Table:
    rows: list[list[Cell]] = []
    for of, c in runs:
        at = f"hardware/{PLACES[of]}/{c.name}"
        if c.name in figures["absent"]:
            rows.append([label(c), "–", "–", "–", figures["absent"][c.name]])
            continue
        error: Cell = At(f"{at}/error", "number")
        if c.experiment == "fewshot":
            error = (At(f"{at}/error"), " %")
        ratios = At(f"{at}/ratio", "ratio"), At(f"{at}/own_ratio", "ratio")
        rows.append([label(c), error, *ratios, At(f"{at}/devices_reprogrammed", "tenths")])
    columns = ("Condition", "Error or loss", "÷ best software row", "÷ twin", "Devices programmed a task")
    return Table("On simulated chips", columns, rows, command)


def _parity_table(figures: Mapping[str, Any], command: str) -> list[Table]:
    """Software at 32 and 4 bit, tiles and crossbar side by side; whether the two implementations agree."""
    rows: list[list[Cell]] = []
    for index, row in enumerate(figures["table"]):
        at = f"hardware/table/{index}"
        unit: Unit = "percent" if "way" in row["tasks"] else "number"
        cells: list[Cell] = [f"{row['weights']}, {row['tasks']}, {row['devices']}"]
        cells += [At(f"{at}/software/{name}", unit) if name in row["software"] else "–" for name in ("32 bit", "4 bit")]
        cells += [At(f"{at}/{name}/error", unit) if name in row else "–" for name in ("aihwkit", "crossbar")]
        rows.append(cells)
    if not rows:
        return []
    columns = ("Weights and tasks", "Software, 32 bit", "Software, 4 bit", "aihwkit tiles", "Crossbar")
    return [Table("Error (%, of the arm its loss) in software and on both implementations", columns, rows, command)]


def _verdict_table(figures: Mapping[str, Any], command: str) -> Table:
    words = {True: "kept", False: "not kept", None: "unbounded"}
    rows: list[list[Cell]] = []
    for index, verdict in enumerate(figures["verdicts"]):
        at = f"hardware/verdicts/{index}"
        mark = words[verdict["held"]] + (", preliminary" if verdict["preliminary"] else "")
        measured: Cell = At(f"{at}/measured", "number") if verdict["measured"] is not None else "–"
        rows.append([f"{verdict['condition']}: {verdict['what']}", measured, At(f"{at}/margin", "number"), mark])
    return Table(
        "Margins by the upper end of the interval", ("Margin of", "Measured", "Margin", "Verdict"), rows, command
    )


def _claims(result: Mapping[str, Any], runs: HardwareRuns, seed: int) -> list[Claim]:
    claims = []
    for of, c in runs:
        at, (key, margin) = f"hardware/{PLACES[of]}/{c.name}", judged_by(of, c)
        beside = "best software row" if key == "ratio" else "software twin"
        command = runs.command(of, c, seed)
        text = f"{label(c)}: error ÷ {beside}'s"
        claims.append(Claim.about(result, text, At(f"{at}/{key}", "ratio"), "<=", margin, command))
        if c.experiment == "robot":
            limits = MARGINS if of == "headline" else parity.PARITY_MARGINS
            loss = At(f"{at}/hardware/loss", "number")
            claims.append(Claim.about(result, f"{label(c)}: loss", loss, "<=", limits["robot_loss"], command))
    size, margin = runs.size, parity.PARITY_MARGINS["agreement"]
    for name in result["hardware"]["agreement"]:
        command = f"ovonic validate hardware --study parity --only {name.partition('-5w5s')[0]} --chips {size.chips} "
        command += f"--tasks {size.tasks} --seed {seed}"
        at = f"hardware/agreement/{name}"
        text = f"{name}: error on the crossbar ÷ on aihwkit's tiles"
        claims += [
            Claim.about(result, f"{text}, most", At(at, "ratio"), "<=", margin, command),
            Claim.about(result, f"{text}, least", At(at, "ratio"), ">=", 1 / margin, command),
        ]
    return claims
