"""The chapter of hardware in the report on a user's model: layout, mapping, and what chips do beside software."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovonic.validation.crossbar_figures import layout_figure
from ovonic.validation.crossbar_inspection import lasting
from ovonic.validation.own_hardware import Hardware
from ovonic.validation.report import At, Cell, Picture, Section, Table

__all__ = ["hardware_section"]

AT = "hardware"
TEXT = (
    "Every weight is the difference of two pairs of phase-change devices on arrays of 256 x 256 cells, read through "
    "8-bit converters with noise at each product; every column has a full scale of its own. A chip is one draw of all "
    "devices, programmed once and read again later: its drift is not compensated. The full scale of a layer's DAC is "
    "the largest magnitude that these samples bring it in software; other samples may saturate. Biases, neurons, "
    "pooling and one-to-one weights are digital. ± is over chips crossed with samples (of weights: over chips)."
)
SPIKES = ("Jaccard's index", "Rate, Hz", "Software, Hz")
WAYS = {
    "mean": "the read-out {} that is largest on average",
    "last": "the read-out {} that is largest in the last step",
    "spikes": "the neuron of {} with the most spikes",
    "largest": "the largest {}",
}


def hardware_section(found: Hardware, result: Mapping[str, Any], command: str, setting: str) -> Section:
    """The chapter. Args: result: holds ``figures()`` under "hardware". command: that draws the figure alone."""
    figures = result[AT]
    text = TEXT
    if found.decide is not None:
        way, _, name = found.decide.partition(" ")
        text += f"\n\nThe class of a sample is {WAYS[way].format(f'`{name}`')}."
    tables = [_totals(figures), _mapping(figures), *_outcomes(figures), *_details(figures)]
    picture = Picture.of(layout_figure(found.layout, setting=f"{setting}."), command)
    return Section("Hardware", text, (), [table for table in tables if table.rows], (picture,))


def _totals(figures: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("Arrays", At(f"{AT}/arrays", "number")),
        ("Weights on them", At(f"{AT}/weights", "number")),
        ("Cells in use, %", At(f"{AT}/fill")),
        ("Samples run on every chip", At(f"{AT}/samples", "number")),
        ("Chips", At(f"{AT}/conditions/0/chips", "number")),
    ]
    for k, condition in enumerate(figures["conditions"]):
        if condition["read_time_s"] == figures["conditions"][0]["read_time_s"]:
            named = f"Full conductance of a device, uS: {condition['noise_model']}"
            rows.append((named, At(f"{AT}/conditions/{k}/g_max_us", "number")))
    if figures["digital"]:
        rows.append(("Digital parameters", ", ".join(figures["digital"])))
    return Table("Layout", ("What", "Value"), rows)


def _mapping(figures: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for k, layer in enumerate(figures["layers"]):
        at = f"{AT}/layers/{k}"
        matrix = (At(f"{at}/rows", "number"), " x ", At(f"{at}/columns", "number"))
        driven = (f"{layer['inputs']}, up to ", At(f"{at}/input_range", "number"))
        scale: Cell = At(f"{at}/w_max_low", "number")
        if layer["w_max_low"] != layer["w_max_high"]:
            scale = (At(f"{at}/w_max_low", "number"), " to ", At(f"{at}/w_max_high", "number"))
        rows.append((layer["name"], matrix, At(f"{at}/arrays", "number"), driven, At(f"{at}/phases", "number"), scale))
    columns = ("Weights", "Rows x columns", "Arrays", "Driven by", "Phases of a read", "Weight at full conductance")
    return Table("Conductance mapping", columns, rows)


def _outcomes(figures: Mapping[str, Any]) -> list[Table]:
    tables = []
    for measure, title, unit in (("accuracy", "Accuracy, %", "percent"), ("mse", "Mean square error", "number")):
        rows: list[tuple[Cell, ...]] = []
        for k, condition in enumerate(figures["conditions"]):
            if measure not in condition:
                continue
            at = f"{AT}/conditions/{k}/{measure}"
            signed: Any = "points" if unit == "percent" else unit
            shown: Any = unit
            row: tuple[Cell, ...] = (
                _named(condition),
                At(f"{at}/hardware", shown),
                At(f"{at}/software", shown),
                At(f"{at}/difference", signed),
                At(f"{at}/worst_chip", shown),
            )
            rows.append(row + ((At(f"{at}/ratio", "ratio"),) if measure == "mse" else ()))
        columns = ("Devices, read", "Chips", "Software", "Difference, same samples", "Worst chip")
        if measure == "accuracy":
            columns = (*columns[:3], "Difference, same samples, points", columns[4])
        tables.append(Table(title, (*columns, "Ratio") if measure == "mse" else columns, rows))
    return tables


def _details(figures: Mapping[str, Any]) -> list[Table]:
    spikes: list[tuple[Cell, ...]] = []
    outputs: list[tuple[Cell, ...]] = []
    weights: list[tuple[Cell, ...]] = []
    for k, condition in enumerate(figures["conditions"]):
        at, named = f"{AT}/conditions/{k}", _named(condition)
        for n, layer in enumerate(condition["layers"]):
            where = f"{at}/layers/{n}"
            jaccard, rate = At(f"{where}/jaccard", "number"), At(f"{where}/rate_hz", "number")
            spikes.append((f"{named}: {layer['name']}", jaccard, rate, At(f"{where}/software_rate_hz", "number")))
        outputs += [
            (f"{named}: {output['name']}", At(f"{at}/outputs/{n}/error"))
            for n, output in enumerate(condition["outputs"])
        ]
        weights += [
            (f"{named}: {weight['name']}", At(f"{at}/weights/{n}/error"))
            for n, weight in enumerate(condition["weights"])
        ]
    return [
        Table("Spikes of chips beside software's", ("Devices, read: layer", *SPIKES), spikes),
        Table("Outputs: RMS of chips' difference, % of software's RMS", ("Devices, read: output", "Error, %"), outputs),
        Table("Weights held: RMS of the error, % of the weights' RMS", ("Devices, read: weights", "Error, %"), weights),
    ]


def _named(condition: Mapping[str, Any]) -> str:
    seconds = condition["read_time_s"]
    return f"{condition['noise_model']}, " + ("first read" if seconds == 0 else f"after {lasting(seconds)}")
