"""What energy and latency hang on: tornado plots, what is spent on what, and the break-even of meta-training."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ovonic.models.accounting import Counts, Estimate, Interval, Swing, estimate, tornado
from ovonic.models.deployment_costs import Alternative
from ovonic.models.energy import Costs, Range
from ovonic.models.errors import ConfigError
from ovonic.validation.figure_style import HARDWARE, MUTED, SERIES, SOFTWARE, finish, styled

__all__ = ["break_even_figure", "cost_table", "in_si", "parts_figure", "tornado_figure"]

WIDTH = 6.6
UNITS = {"energy": "J", "latency": "s"}
_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
ALTERNATIVES = {
    "twin": "a digital twin",
    "reprogram": "a twin, then programming",
    "scratch": "training from scratch",
}


def in_si(value: float, unit: str, digits: int = 3) -> str:
    """``"13.4 nJ"``: ``value`` with a prefix."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    power = min(max(3 * math.floor(math.log10(abs(value)) / 3), min(_PREFIXES)), max(_PREFIXES))
    return f"{value / 10**power:.{digits}g} {_PREFIXES[power]}{unit}"


def cost_table(costs: Costs | None = None) -> str:
    """Every cost parameter with its range and source, as a Markdown table (docs/energy.md)."""
    lines = ["| parameter | low | typical | high | source |", "|---|---|---|---|---|"]
    for name, value in costs or Costs():
        ends = (_in_unit(getattr(value, end), value) for end in ("low", "typical", "high"))
        lines.append(f"| `{name}` | {' | '.join(ends)} | {value.source} |")
    return "\n".join(lines)


def _in_unit(end: float, value: Range) -> str:
    return in_si(end, value.unit) if value.unit in ("J", "s", "W") else f"{end:g}"


@styled
def tornado_figure(
    counts: Counts, costs: Costs | None = None, quantity: str = "energy", *, what: str = "", most: int = 10
) -> Figure:
    """The total when one parameter moves over its range and the others stay typical; the widest on top.

    Args: quantity: ``"energy"`` or ``"latency"``; what: of what, for the caption; most: bars at the most.
    Raises: ConfigError: nothing was counted.
    """
    costs = costs or Costs()
    swings = tornado(counts, costs, quantity)
    if not swings:
        raise ConfigError("no cost changes the total: nothing was counted")
    swings = sorted(swings, key=_ratio)[::-1][:most]
    unit = UNITS[quantity]
    total = _total(estimate(counts, costs), quantity)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.28 * len(swings)))
    ax = figure.subplots()
    places = np.arange(len(swings))[::-1]
    for place, swing in zip(places, swings, strict=True):
        value = costs[swing.name]
        for end, at, colour in (("low", swing.at_low, SOFTWARE), ("high", swing.at_high, HARDWARE)):
            ax.barh(place, at - total.typical, left=total.typical, height=0.62, color=colour)
            aside = at < total.typical or (at == total.typical and end == "low")
            ax.annotate(
                _in_unit(getattr(value, end), value),
                (at, place),
                xytext=(-3 if aside else 3, 0),
                textcoords="offset points",
                ha="right" if aside else "left",
                va="center",
                fontsize=6.5,
                color=MUTED,
            )
    ax.axvline(total.typical, color="#000000", lw=0.8)
    ax.set_yticks(places, [_label(swing.name) for swing in swings])
    ax.grid(axis="y", visible=False)
    _log_axis(ax, unit, [end for swing in swings for end in swing[1:]])
    ax.set_xlabel(quantity)
    said = f"{in_si(total.typical, unit)} (all parameters in their ranges: {_span(total, unit)})"
    return finish(
        figure,
        f"{quantity.capitalize()} {f'of {what} ' if what else ''}when one parameter lies at the low (blue) or the high "
        f"(orange) end of its range and all others are typical. Line: {said}. Ranges are wide guesses where nothing is "
        "published: docs/energy.md.",
        f"Tornado of {quantity}, typically {said}; widest: {', '.join(s.name for s in swings[:3])}",
    )


@styled
def parts_figure(estimates: Mapping[str, Estimate], *, quantity: str = "energy") -> Figure:
    """What each kind of work takes, typically, with the range of the total: one row an estimate."""
    if not estimates:
        raise ConfigError("no estimate to draw")
    unit = UNITS[quantity]
    figure = Figure(figsize=(WIDTH, 1.3 + 0.4 * len(estimates)))
    ax = figure.subplots()
    places = np.arange(len(estimates))[::-1]
    kinds = list(dict.fromkeys(kind for e in estimates.values() for kind in _parts(e, quantity)))
    width = 0.8 / max(len(kinds), 1)
    totals = []
    for place, made in zip(places, estimates.values(), strict=True):
        total = _total(made, quantity)
        totals.append(total)
        ax.fill_betweenx([place - 0.45, place + 0.45], total.low, total.high, color="#ececec", lw=0)
        ax.plot([total.typical] * 2, [place - 0.45, place + 0.45], color="#000000", lw=1.0)
    for k, kind in enumerate(kinds):
        colour, _, marker = SERIES[k]
        for place, made in zip(places, estimates.values(), strict=True):
            part = _parts(made, quantity)[kind]
            if part.high > 0:
                y = place + 0.4 - width * (k + 0.5)
                ax.plot([part.low, part.high], [y, y], color=colour, lw=1.2)
                ax.plot(part.typical, y, marker, color=colour, ms=4)
        ax.plot([], [], marker, color=colour, ls="-", lw=1.2, label=kind)
    ax.set_yticks(places, list(estimates))
    ax.grid(axis="y", visible=False)
    _log_axis(ax, unit, [end for total in totals for end in total])
    ax.set_xlabel(quantity)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(kinds), borderaxespad=0.2)
    said = "; ".join(
        f"{name} {in_si(t.typical, unit)} ({_span(t, unit)})" for name, t in zip(estimates, totals, strict=True)
    )
    return finish(
        figure,
        f"{quantity.capitalize()} by kind of work: typical value (mark) and range (line), and of all together (black, "
        f"grey). {said}.",
        f"Ranges of {quantity} by kind of work. {said}",
    )


@styled
def break_even_figure(alternatives: Sequence[Alternative], meta_training_j: Interval, *, what: str = "") -> Figure:
    """Energy spent after so many deployments: meta-training and adaptation, beside each way to do without.

    Raises: ConfigError: nothing to compare with.
    """
    if not alternatives:
        raise ConfigError("no alternative to compare with")
    figure = Figure(figsize=(WIDTH, 3.0))
    panels: Sequence[Axes] = figure.subplots(1, len(alternatives), sharey=True, squeeze=False)[0]
    finite = [n for a in alternatives for n in a.break_even.deployments if 0 < n < 1e15]
    last = max(10.0 ** math.ceil(math.log10(max(finite, default=1e6)) + 0.5), 1e3)
    n = np.geomspace(1, last, 200)
    for ax, other in zip(panels, alternatives, strict=True):
        ways = (
            (f"meta-trained, adapts{' on the array'}", other.adapted_j, meta_training_j, SERIES[1]),
            (ALTERNATIVES.get(other.name, other.name), other.other_j, Interval(0.0, 0.0, 0.0), SERIES[0]),
        )
        for label, each, once, (colour, dashes, _) in ways:
            low, typical, high = (o + n * e for o, e in zip(once, each, strict=True))
            ax.fill_between(n, np.maximum(low, 1e-18), high, color=colour, alpha=0.18, lw=0)
            ax.plot(n, typical, color=colour, ls=dashes, label=label)
        at = other.break_even.deployments.typical
        if math.isfinite(at) and at >= 1:
            ax.axvline(at, color="#000000", lw=0.8, ls=":")
        ax.set(xscale="log", yscale="log", xlabel="deployments", xlim=(1, last))
        ax.set_title(f"against {ALTERNATIVES.get(other.name, other.name)}", fontsize=6.8)
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_si(value, "").strip()))
        ax.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("energy in all")
    panels[0].yaxis.set_major_locator(LogLocator(numticks=7))
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_si(value, "J")))
    said = ". ".join(f"Against {ALTERNATIVES.get(a.name, a.name)}: {a.break_even.verdict}" for a in alternatives)
    return finish(
        figure,
        f"Energy after so many deployments{f' of {what}' if what else ''}: with meta-training once and adaptation on "
        "the array (orange, dashed), and without (blue). Bands: all parameters in their ranges. Dotted: break-even. "
        f"{said}.",
        f"Energy over deployments. {said}",
    )


def _ratio(swing: Swing) -> float:
    """By how much the total grows from one end to the other, as it looks on a logarithmic axis."""
    low, high = sorted(swing[1:])
    return high / low if low > 0 else math.inf


def _label(name: str) -> str:
    """``"pulse energy"`` of ``"programming.pulse_energy_j"``."""
    return re.sub("_(j|s|w)$", "", name.partition(".")[2]).replace("_", " ").replace("mvm", "MVM")


def _total(made: Estimate, quantity: str) -> Interval:
    return made.energy_j if quantity == "energy" else made.latency_s


def _parts(made: Estimate, quantity: str) -> dict[str, Interval]:
    return made.energy_parts_j if quantity == "energy" else made.latency_parts_s


def _span(total: Interval, unit: str) -> str:
    return f"{in_si(total.low, unit)} to {in_si(total.high, unit)}"


def _log_axis(ax: Axes, unit: str, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    ax.set_xscale("log")
    ax.set_xlim(min(positive) / 2, max(positive) * 2)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if max(positive) / min(positive) > 50 else (1.0, 2.0, 5.0)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_si(value, unit)))
