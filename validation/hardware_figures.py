"""Figures of the ``validation.hardware_studies``: ratios beside their margins; error over noise by where adaptation
takes place; over updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ovonic.models.errors import ConfigError
from ovonic.validation.figure_style import MUTED, SERIES, finish, styled
from ovonic.validation.hardware_conditions import MONTH_S, Condition
from ovonic.validation.hardware_margins import MARGINS, ratio_margin
from ovonic.validation.margin_figure import Judged, margin_figure
from ovonic.validation.parity import PARITY_MARGINS

__all__ = ["adaptation_figure", "headline_figure", "judged", "judged_by", "label", "parity_figure", "updates_figure"]

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


def headline_figure(found: Found) -> Figure:
    """The ratios of the headline to the best software row, beside their margins."""
    return _margins("headline", found)


def parity_figure(found: Found) -> Figure:
    """The ratios of both implementations to software, beside their margins."""
    return _margins("parity", found)


def label(c: Condition) -> str:
    """A condition in words."""
    what = f"{c.n_way}-way {c.k_shot}-shot" if c.experiment == "fewshot" else "arm"
    when = {0.0: "first read", MONTH_S: "a month later"}.get(c.read_time_s, f"after {c.read_time_s:g} s")
    zeros = ", targets of 0 noisy" if c.zero_targets == "noisy" and c.hardware == "crossbar" else ""
    return f"{what}, {c.weights}, {c.noise_model}, {when}, {c.hardware}{zeros}"


def judged_by(study: str, c: Condition) -> tuple[str, float]:
    """Which ratio of a condition's report ``headline`` or ``parity`` judges, and its margin."""
    limits = MARGINS if study == "headline" else PARITY_MARGINS
    to_best = study == "headline" or c.experiment == "robot"
    return "ratio" if to_best else "own_ratio", limits[ratio_margin(c)]


def judged(study: str, c: Condition, report: Mapping[str, Any]) -> Judged | None:
    """The ratio that is judged, beside its margin; None where software made no error."""
    key, limit = judged_by(study, c)
    found = report[key]
    return None if found["ratio"] is None else Judged(label(c), found["ratio"], found["low"], found["high"], limit)


def _margins(study: str, found: Found) -> Figure:
    rows = [row for c, report in found.items() if (row := judged(study, c, report)) is not None]
    if not rows:
        raise ConfigError("no ratios to draw")
    return margin_figure(rows)
