"""What a report holds: claims with their verdicts, tables, pictures, by chapters.

A number of a table is named by its place in the result that is saved as JSON, so that page and JSON cannot differ.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from matplotlib.figure import Figure

from ovonic.models.errors import ConfigError
from ovonic.validation.figure_style import alt_text, caption, png

__all__ = ["At", "Cell", "Claim", "Picture", "Section", "Table", "Unit", "look_up", "middle_of"]

Unit = Literal["percent", "points", "ratio", "number", "tenths"]
"""How a number is shown: a share in %, a difference of shares in points, two decimals, four digits, one decimal."""


@dataclass(frozen=True)
class At:
    """A number of the result, by its place: ``At("fewshot/pcm/accuracy")``.

    The place holds a number or an interval: {mean, ci95}, {ratio, low, high}, {median, low, high} or {typical, low,
    high}. With ``over`` or ``minus``, the place of another number, it is the quotient or difference of two numbers.
    """

    path: str
    unit: Unit = "percent"
    over: str = ""
    minus: str = ""

    def __post_init__(self) -> None:
        if self.over and self.minus:
            raise ConfigError(f"{self.path}: a quotient or a difference, not both")


Cell = str | At | tuple[str | At, ...]
"""What stands in a table: text, a number of the result, or a mixture in order."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; ``command``: what measures it alone."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    command: str = ""


@dataclass(frozen=True)
class Claim:
    """A threshold fixed before the run, and what was measured.

    Attributes:
        name: the claim in words. measured: the measured value, None where it was not.
        threshold, relation: it is claimed that measured ``"<="`` (or ``">="``) threshold.
        low, high: 95 % interval of the measured value, where known (a ``low`` alone: no upper end).
        unit: how the numbers are shown. path: where the result holds the value. command: what measures it alone.
    """

    name: str
    measured: float | None
    threshold: float
    relation: Literal["<=", ">="]
    low: float | None = None
    high: float | None = None
    unit: Unit = "percent"
    path: str = ""
    command: str = ""

    @classmethod
    def about(
        cls,
        result: Mapping[str, Any],
        name: str,
        at: At,
        relation: Literal["<=", ">="],
        threshold: float,
        command: str = "",
    ) -> Self:
        """The claim about the number at ``at`` of ``result`` (None where the result does not hold it)."""
        try:
            value = look_up(result, at.path)
        except ConfigError:
            value = None
        if not isinstance(value, Mapping):
            return cls(name, value, threshold, relation, unit=at.unit, path=at.path, command=command)
        measured, low, high = _interval(value)
        path = f"{at.path}/{middle_of(value)}"
        return cls(name, measured, threshold, relation, low, high, at.unit, path, command)

    @property
    def held(self) -> bool | None:
        """Whether the measured value keeps the claim; None where it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.threshold if self.relation == "<=" else self.measured >= self.threshold

    @property
    def close(self) -> bool:
        """Whether the threshold lies within the interval, so that another draw could reverse the verdict."""
        high = self.threshold if self.high is None else self.high
        return self.low is not None and self.low <= self.threshold <= high

    def as_json(self) -> dict[str, Any]:
        """The claim as JSON, verdict included."""
        return asdict(self) | {"held": self.held, "close": self.close}


@dataclass(frozen=True)
class Picture:
    """A figure on the page: PNG bytes, alternative text, caption, and the command that makes it alone."""

    png: bytes
    alt: str
    caption: str
    command: str

    @classmethod
    def of(cls, figure: Figure, command: str) -> Self:
        """A figure of ``validation.figures``."""
        return cls(png(figure), alt_text(figure), caption(figure), command)


@dataclass(frozen=True)
class Section:
    """A chapter of the page. ``text``: paragraphs, parted by empty lines; `code` between backticks."""

    title: str
    text: str = ""
    claims: Sequence[Claim] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values that ``from_json`` makes the same section of; pictures in base64."""
        tables = [vars(t) | {"rows": [[_cell_to_json(cell) for cell in row] for row in t.rows]} for t in self.tables]
        pictures = [vars(p) | {"png": base64.b64encode(p.png).decode("ascii")} for p in self.pictures]
        return vars(self) | {"claims": [asdict(c) for c in self.claims], "tables": tables, "pictures": pictures}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises: KeyError, TypeError, ValueError: not what ``to_json`` gives."""
        tables = [
            Table(**t | {"rows": [[_cell_from_json(cell) for cell in row] for row in t["rows"]]})
            for t in data["tables"]
        ]
        pictures = [Picture(**p | {"png": base64.b64decode(p["png"], validate=True)}) for p in data["pictures"]]
        return cls(data["title"], data["text"], [Claim(**c) for c in data["claims"]], tables, pictures)


def _cell_to_json(cell: Cell) -> Any:
    if isinstance(cell, str):
        return cell
    return vars(cell) if isinstance(cell, At) else [_cell_to_json(part) for part in cell]


def _cell_from_json(data: Any) -> Any:
    if isinstance(data, str):
        return data
    return At(**data) if isinstance(data, Mapping) else tuple(_cell_from_json(part) for part in data)


def middle_of(interval: Mapping[str, Any]) -> str:
    """Where an interval holds its value."""
    if "low" not in interval:
        return "ratio" if "ratio" in interval else "mean"
    return next((name for name in ("ratio", "median", "typical") if name in interval), "median")


def _interval(value: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """The value and the ends of an interval."""
    if "low" in value:
        return value[middle_of(value)], value["low"], value["high"]
    mean, half = value["mean"], value["ci95"]
    return (mean, None, None) if half is None else (mean, mean - half, mean + half)


def look_up(result: Any, path: str) -> Any:
    """Follow ``"a/b/0"`` through mappings and lists.

    Raises: ConfigError: there is nothing at ``path``.
    """
    here = result
    for step in path.split("/"):
        try:
            here = here[int(step)] if isinstance(here, list) else here[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ConfigError(f"the result holds nothing at {path!r} (no {step!r})") from None
    return here
