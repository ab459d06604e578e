"""Figures of the ``validation.hardware_studies``: error over noise by where adaptation takes place; over updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ovonic.models.errors import ConfigError
from ovonic.validation.figure_style import MUTED, SERIES, finish, styled
from ovonic.validation.hardware_conditions import Condition

__all__ = ["adaptation_figure", "updates_figure"]

Found = Mapping[Condition, Mapping[str, Any]]
TITLES = {"fewshot": "few-shot classification", "robot": "one-shot movements"}
QUANTITIES = {"fewshot": "share of wrong answers", "robot": "loss"}
PLACES = {"device": "adapted on the device", "software": "adapted in software, then programmed", "none": "not adapted"}


def _experiments(found: Found) -> list[str]:
    kinds = list(dict.fromkeys(c.experiment for c in found))
    if not kinds:
        raise ConfigError("no conditions to draw")
    return kinds


def _panels(found: Found) -> tuple[Figure, dict[str, Axes]]:
    kinds = _experiments(found)
    figure = Figure(figsize=(3.5 * max(len(kinds), 1.6), 3.1))
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for ax, kind in zip(axes, kinds, strict=True):
        ax.set_title(TITLES[kind])
        ax.set_ylabel(QUANTITIES[kind])
    return figure, dict(zip(kinds, axes, strict=True))


def _software(report: Mapping[str, Any], kind: str) -> float:
    twin = report["software"]
    return float(1 - twin["accuracy"]["mean"] if kind == "fewshot" else twin["loss"]["mean"])


@styled
def adaptation_figure(found: Found) -> Figure:
    """Error over the factor on device noise, a line for each place of adaptation; the software twin as a level."""
    figure, panels = _panels(found)
    for kind, ax in panels.items():
        for (place, label), (colour, line, marker) in zip(PLACES.items(), SERIES, strict=False):
            rows = sorted(
                (c.noise_scale, r["error"]) for c, r in found.items() if (c.experiment, c.adapt_on) == (kind, place)
            )
            if rows:
                ax.plot(*zip(*rows, strict=True), color=colour, linestyle=line, marker=marker, label=label)
        twins = [_software(r, kind) for c, r in found.items() if c.experiment == kind]
        ax.axhline(min(twins), color=MUTED, linewidth=0.8)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("factor on the devices' noise")
    lines, labels = next(iter(panels.values())).get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=len(lines))
    caption = (
        "Mean error on simulated chips over the noise of their devices (1: as fitted). The grey level is the software "
        "twin. Not adapted: the weights as programmed."
    )
    return finish(figure, caption, "Error over the factor on device noise, by where adaptation takes place.")


@styled
def updates_figure(found: Found) -> Figure:
    """Error over the number of updates on chips and in software, and the devices they program."""
    figure, panels = _panels(found)
    for kind, ax in panels.items():
        rows = sorted((c.updates or 0, r) for c, r in found.items() if c.experiment == kind)
        numbers = [n for n, _ in rows]
        (first, second, third), devices = SERIES[:3], ax.twinx()
        ax.plot(numbers, [r["error"] for _, r in rows], color=second[0], linestyle=second[1], marker=second[2])
        ax.plot(numbers, [_software(r, kind) for _, r in rows], color=first[0], linestyle=first[1], marker=first[2])
        devices.plot(numbers, [r["devices_reprogrammed"] for _, r in rows], color=third[0], linestyle=third[1])
        devices.set_ylabel("devices re-programmed", color=third[0])
        devices.grid(False)
        devices.set_ylim(bottom=0)
        ax.set_ylim(bottom=0)
        ax.set_xticks(numbers)
        ax.set_xlabel("updates")
    caption = (
        "Mean error after so many updates: on simulated chips (dashed, squares) and in software (circles); devices "
        "that all updates of a task program (dash-dotted, right axis)."
    )
    return finish(figure, caption, "Error and re-programmed devices over the number of updates.")
