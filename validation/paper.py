"""The paper's table: every panel, supplementary figure, equation, claim, limitation, suggestion, and what we found.

Rows stand in ``paper_panels``, ``paper_arm_panels``, ``paper_supplement``, ``paper_claims``, ``paper_device_claims``
and ``paper_outlook``, with their thresholds; what a verdict means stands in ``paper_row``; where numbers come from in
``paper_files``. Here rows meet a result.

Read for it: the article's text (abstract to methods; Nature Communications is open access), the captions of figure 2,
and the published code. Not read: the supplement and the captions of the other figures; their panels are described as
the text describes them.

Reference: Ortner et al. 2025, Nature Communications 16:1243, arXiv 2405.05141.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovonic.validation.paper_arm_panels import ARM_PANELS
from ovonic.validation.paper_claims import CLAIMS
from ovonic.validation.paper_device_claims import DEVICE_CLAIMS
from ovonic.validation.paper_outlook import LIMITATIONS, SUGGESTIONS
from ovonic.validation.paper_panels import PANELS
from ovonic.validation.paper_row import KINDS, VERDICTS, Kind, PaperRow, Reading, Unit, Verdict, judge, shown
from ovonic.validation.paper_supplement import EQUATIONS, SUPPLEMENT
from ovonic.validation.report_content import At, Cell, Section, Table, look_up, middle_of
from ovonic.validation.report_content import Unit as ReportUnit

__all__ = ["ROWS", "TITLES", "PaperVerdict", "asked", "counts", "found", "paper_rows", "paper_section", "remarks"]

ROWS: tuple[PaperRow, ...] = (
    *PANELS,
    *ARM_PANELS,
    *SUPPLEMENT,
    *EQUATIONS,
    *CLAIMS,
    *DEVICE_CLAIMS,
    *LIMITATIONS,
    *SUGGESTIONS,
)

TITLES: Mapping[Kind, str] = {
    "panel": "Figures, panel by panel",
    "supplement": "Supplement",
    "equation": "Equations",
    "claim": "Claims",
    "limitation": "Limitations that the paper names",
    "suggestion": "Experiments that it suggests",
}

COLUMNS = ("Where", "The paper, in our words", "Measured here", "Verdict")

OPEN: tuple[tuple[Verdict, str, str], ...] = (
    ("tested", "Checked by a test of this library", "By"),
    ("not done", "Not done here", "Why"),
    ("not checkable", "Not checkable in simulation", "Why"),
)
"""Rows without checks: verdict, title of their table, heading of its last column."""

AS_REPORT: Mapping[Unit, ReportUnit] = {
    "percent": "percent",
    "points": "points",
    "ratio": "ratio",
    "mm": "tenths",
    "number": "number",
    "devices": "number",
}


@dataclass(frozen=True)
class PaperVerdict:
    """A row and what a result says of it."""

    row: PaperRow
    verdict: Verdict
    readings: tuple[Reading, ...]

    @property
    def label(self) -> str:
        """The verdict, and on how many of the row's checks it rests where some were not measured."""
        seen = sum(reading.value is not None for reading in self.readings)
        return f"{self.verdict} ({seen} of {len(self.readings)})" if 0 < seen < len(self.readings) else self.verdict

    def as_json(self) -> dict[str, Any]:
        """JSON values; ``readings`` in the order of the row's checks."""
        row = self.row
        return {
            "key": row.key,
            "where": row.where,
            "kind": row.kind,
            "says": row.says,
            "verdict": self.verdict,
            "readings": [reading.as_json() for reading in self.readings],
            "why_not": row.why_not or None,
            "test": row.test or None,
            "note": row.note or None,
        }


def paper_rows(result: Mapping[str, Any], rows: Sequence[PaperRow] = ROWS) -> list[PaperVerdict]:
    """Every row's verdict on what ``ovonic reproduce`` writes, or on what ``paper_files.gather`` makes of files."""
    return [PaperVerdict(row, *judge(row, result)) for row in rows]


def counts(verdicts: Sequence[PaperVerdict]) -> dict[str, int]:
    """How many rows have each verdict, in the order of ``VERDICTS``."""
    found = Counter(v.verdict for v in verdicts)
    return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}


def asked(reading: Reading) -> str:
    """The threshold in words."""
    check = reading.check
    because = f", {check.because}" if check.because else ""
    return f"{'at most' if check.relation == '<=' else 'at least'} {shown(check.threshold, check.unit)}{because}"


def found(reading: Reading) -> str:
    """The number that was read and its interval, as text."""
    if reading.value is None:
        return "not measured"
    text = shown(reading.value, reading.check.unit)
    if reading.low is None:
        return text
    high = "∞" if reading.high is None else shown(reading.high, reading.check.unit)
    return f"{text} [{shown(reading.low, reading.check.unit)}, {high}]"


def remarks(row: PaperRow) -> str:
    """What a row says beside its checks, as sentences: the test that checks it, why the rest is open, its note."""
    texts = (row.test and f"`{row.tested_by}`", row.why_not, row.note)
    return " ".join(f"{text.rstrip('.')}." for text in texts if text)


def paper_section(result: Mapping[str, Any]) -> Section:
    """The table as a chapter of a report on ``result``: numbers by place, the command where one is missing."""
    verdicts = paper_rows(result)
    number = counts(verdicts)
    text = (
        "Every panel, supplementary figure, equation, claim, limitation and suggestion of the paper, in our words, "
        "beside what this run measured of it. Thresholds stand in the code (`validation/paper_panels.py` and its "
        "neighbours); those fixed before any run are called so. Rows whose checks differ hold in part; a check is "
        "close where its threshold lies within the interval.\n\n"
        + "; ".join(f"{verdict}: {count}" for verdict, count in number.items())
        + f". Of {len(verdicts)} rows.\n\n"
        "`ovonic validate paper --from FILE` fills in more rows from the results of other commands."
    )
    command = "ovonic validate paper --from report.json"
    tables = []
    for kind in KINDS:
        decided = [v for v in verdicts if v.row.kind == kind and v.readings]
        if decided:
            rows = [(v.row.where, v.row.says, _measured(v, result), v.label) for v in decided]
            tables.append(Table(TITLES[kind], COLUMNS, rows, command))
    for verdict, title, last in OPEN:
        open_rows = [(v.row.where, v.row.says, remarks(v.row)) for v in verdicts if v.verdict == verdict]
        if open_rows:
            tables.append(Table(title, (*COLUMNS[:2], last), open_rows, command))
    return Section("The paper, row by row", text, tables=tables)


def _measured(verdict: PaperVerdict, result: Mapping[str, Any]) -> Cell:
    parts: list[str | At] = []
    for reading in verdict.readings:
        if reading.value is None:
            continue
        parts.append(f"{'; ' if parts else ''}{reading.check.name}: ")
        unit = {"percent": " %", "points": " points", "mm": " mm"}.get(reading.check.unit, "")
        parts += [*_numbers(reading, result), unit]
        parts.append(f" ({asked(reading)}: {reading.verdict})")
    if missing := list(dict.fromkeys(r.command for r in verdict.readings if r.value is None)):
        parts.append(f"{'; ' if parts else ''}not measured in this run: {', '.join(missing)}")
    if verdict.row.note:
        parts.append(f". {verdict.row.note}")
    return tuple(parts)


def _numbers(reading: Reading, result: Mapping[str, Any]) -> Iterator[str | At]:
    """A measured number and its interval, by their places: one or two each."""
    place = reading.place
    assert place is not None
    ends = [abs(end) for end in (reading.value, reading.low, reading.high) if end is not None]
    plain = reading.check.unit == "ratio" and not all(0.1 <= end < 100 for end in ends)
    unit = "number" if plain else AS_REPORT[reading.check.unit]
    held = look_up(result, place.path)
    other = place.over or place.minus
    if not other and (not isinstance(held, Mapping) or {middle_of(held), "low", "high"} <= set(held) or "ci95" in held):
        yield At(place.path, unit)
        return

    def at(middle: bool, end: str = "", far: str = "") -> At:
        beside = other and (_leaf(result, other) if middle else f"{other}/{far}")
        path = _leaf(result, place.path) if middle else f"{place.path}/{end}"
        return At(path, unit, beside if place.over else "", beside if place.minus else "")

    yield at(True)
    if reading.low is not None:
        yield from (
            " (",
            at(False, "low", "high"),
            " to ",
            "∞" if reading.high is None else at(False, "high", "low"),
            ")",
        )


def _leaf(result: Mapping[str, Any], path: str) -> str:
    """The place of a number itself, where ``path`` may be an interval's."""
    held = look_up(result, path)
    return f"{path}/{middle_of(held)}" if isinstance(held, Mapping) else path
