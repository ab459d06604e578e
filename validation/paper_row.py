"""A row of the paper's table: what the paper says, where a result of ours speaks to it, and the verdict.

A check compares one number of a result, or the quotient or difference of two, with a threshold that stands in the row:

    holds           the number keeps the threshold, and so does its whole interval where it has one
    does not hold   it does not, and the whole interval lies on the wrong side
    close           the threshold lies within the interval: another draw could turn it

A row of several checks has the verdict that all measured ones share, and "in part" where they differ; "not measured in
this run" where the result holds none of its numbers. A row without checks says so by one of

    tested          no result holds it: a named test of this library checks it, whenever the tests run
    not done        it could be simulated, and here it was not
    not checkable   nothing simulated could decide it
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ovonic.models.errors import ConfigError
from ovonic.validation.report_content import look_up

__all__ = ["KINDS", "VERDICTS", "Check", "Kind", "PaperRow", "Place", "Reading", "Unit", "Verdict", "judge", "shown"]

Kind = Literal["panel", "supplement", "equation", "claim", "limitation", "suggestion"]
KINDS: tuple[Kind, ...] = ("panel", "supplement", "equation", "claim", "limitation", "suggestion")

Verdict = Literal[
    "holds", "tested", "in part", "close", "does not hold", "not measured in this run", "not done", "not checkable"
]
VERDICTS: tuple[Verdict, ...] = (
    "holds",
    "tested",
    "in part",
    "close",
    "does not hold",
    "not measured in this run",
    "not done",
    "not checkable",
)

LARGEST = 1e100
"""Of numbers that are read: their quotients are floats too, but for those of zero."""

Unit = Literal["percent", "points", "ratio", "number", "mm", "devices"]
"""How numbers are shown: a share in %, a difference of shares in points, a quotient, a plain number, mm, a count."""


@dataclass(frozen=True)
class Place:
    """Where a result holds a number, and the command that measures it alone.

    Attributes:
        path: as ``look_up`` has it, to a number or an interval. over: the number is this quotient's numerator.
            minus: it is a difference's first term. At most one of the two.
        command: what measures it, beginning with ``ovonic``. on: on what, in a few words.
    """

    path: str
    command: str
    on: str = ""
    over: str = ""
    minus: str = ""

    def __post_init__(self) -> None:
        if self.over and self.minus:
            raise ConfigError(f"{self.path}: a quotient or a difference, not both")


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: what is measured. places: where it may stand; the first that a result holds is taken.
        relation, threshold: fixed here, before the measurement. because: where the threshold comes from.
    """

    name: str
    places: tuple[Place, ...]
    relation: Literal["<=", ">="]
    threshold: float
    unit: Unit
    because: str = ""


@dataclass(frozen=True)
class PaperRow:
    """One thing that the paper shows or says.

    Attributes:
        key: unique. where: figure, section or page part. kind: see ``KINDS``. says: in our words.
        checks: what decides it. why_not: why it, or the rest of it, is not decided. undone: that is for want of work
            here, not because no simulation could. test: FILE::NAME of the test that checks a row without checks.
        note: what a reader of the verdict should know.
    """

    key: str
    where: str
    kind: Kind
    says: str
    checks: tuple[Check, ...] = ()
    why_not: str = ""
    undone: bool = False
    test: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.checks and not self.why_not and not self.test:
            raise ConfigError(f"row {self.key}: needs a check or a test, or why there is none")

    @property
    def unmeasured(self) -> Verdict:
        """The verdict of a row without checks."""
        if self.test:
            return "tested"
        return "not done" if self.undone else "not checkable"

    @property
    def tested_by(self) -> str:
        """The command that runs ``test``."""
        file, _, name = self.test.partition("::")
        return f"pytest {file} -k {name}" if self.test else ""


@dataclass(frozen=True)
class Reading:
    """A check's outcome. ``place``: where the number was found; None: it was not. ``low``, ``high``: its interval."""

    check: Check
    place: Place | None
    value: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> Verdict:
        if self.value is None:
            return "not measured in this run"
        low = self.value if self.low is None else self.low
        high = (self.value if self.low is None else math.inf) if self.high is None else self.high
        kept = (low, high) if self.check.relation == ">=" else (-high, -low)
        threshold = self.check.threshold if self.check.relation == ">=" else -self.check.threshold
        if kept[0] >= threshold:
            return "holds"
        return "does not hold" if kept[1] < threshold else "close"

    @property
    def command(self) -> str:
        """What measures it alone: as it was found here, or as it should be."""
        return (self.place or self.check.places[0]).command

    def as_json(self) -> dict[str, Any]:
        """JSON values, the threshold included."""
        place = self.place
        return {
            "check": self.check.name,
            "relation": self.check.relation,
            "threshold": self.check.threshold,
            "unit": self.check.unit,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "verdict": self.verdict,
            "command": self.command,
            "path": None if place is None else place.path,
            "over": None if place is None else place.over or None,
            "minus": None if place is None else place.minus or None,
            "on": None if place is None else place.on,
        }


def judge(row: PaperRow, result: Mapping[str, Any]) -> tuple[Verdict, tuple[Reading, ...]]:
    """The row's verdict on ``result``, and what each of its checks read there."""
    readings = tuple(_read(check, result) for check in row.checks)
    if not readings:
        return row.unmeasured, ()
    found = {r.verdict for r in readings if r.value is not None}
    if not found:
        return "not measured in this run", readings
    return (found.pop() if len(found) == 1 else "in part"), readings


def _read(check: Check, result: Mapping[str, Any]) -> Reading:
    for place in check.places:
        value, low, high = _number(result, place)
        if value is not None:
            return Reading(check, place, value, low, high)
    return Reading(check, None, None, None, None)


def _number(result: Mapping[str, Any], place: Place) -> tuple[float | None, float | None, float | None]:
    """The number at a place and its interval. A quotient of energies has that of the worst pairs of ends."""
    value, low, high = _interval(result, place.path)
    other = place.over or place.minus
    if value is None or not other:
        return value, low, high
    under, least, most = _interval(result, other)
    if under is None or not _alike(result, place.path, other):
        return None, None, None
    if place.minus:
        return value - under, None, None
    if under == 0:
        return None, None, None
    if place.path.endswith("energy_j") and low is not None and high is not None and least and most:
        return value / under, low / most, high / least
    return value / under, None, None


def _interval(result: Mapping[str, Any], path: str) -> tuple[float | None, float | None, float | None]:
    """Value and ends at ``path``; None for what is not there or no finite number."""
    try:
        found = look_up(result, path)
    except ConfigError:
        return None, None, None
    if not isinstance(found, Mapping):
        return _finite(found), None, None
    if "low" in found:
        value = _finite(next((found[name] for name in ("ratio", "median", "typical") if name in found), None))
        return (None, None, None) if value is None else (value, _finite(found["low"]), _finite(found.get("high")))
    value, half = _finite(found.get("mean")), _finite(found.get("ci95"))
    if value is None or half is None:
        return value, None, None
    return value, value - half, value + half


def _finite(value: Any) -> float | None:
    """A number of a result that may be anybody's; None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return None
    return float(value)


def _alike(result: Mapping[str, Any], first: str, second: str) -> bool:
    """Whether two conditions of a study, or two evaluations, met as many tasks (and chips) of the same seed."""

    def settings(path: str) -> Any:
        parts = path.split("/")
        depth = {"hardware": 3, "evaluations": 2}.get(parts[0])
        report = look_up(result, "/".join(parts[:depth])) if depth else None
        config = report.get("config") if isinstance(report, Mapping) else None
        if not isinstance(report, Mapping) or not isinstance(config, Mapping):
            return None
        inner = report.get("hardware", report)
        chips = inner.get("chips") if depth == 2 and isinstance(inner, Mapping) else None
        count = chips.get("n") if isinstance(chips, Mapping) else None
        return config.get("size", (report.get("tasks"), report.get("trajectories"), count)), config.get("seed")

    settled = settings(first), settings(second)
    return None in settled or bool(settled[0] == settled[1])


def shown(value: float, unit: Unit) -> str:
    """A number as text, with its unit."""
    match unit:
        case "percent":
            return f"{100 * value:.2f} %"
        case "points":
            return f"{100 * value:+.2f} points"
        case "mm":
            return f"{value:.1f} mm"
        case "devices":
            return f"{value:,.0f}"
        case "ratio" if 0.1 <= abs(value) < 100:
            return f"{value:.3f}"
        case _:
            return f"{value:.3g}"
