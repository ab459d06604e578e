"""One self-contained HTML page for a run: claims with their verdicts, key figures, pictures, settings.

The page needs no network and no script: style inline, pictures as base64 PNG. Every number on it is looked up in the
very ``result`` that is saved as JSON beside it, and stands in a ``<data value=.. data-path=..>`` element, so that a
program can compare the two; a quotient has the place of what it is over as ``data-over``, a difference ``data-minus``.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from ovonic.adapters.files import write_atomically
from ovonic.models.errors import ConfigError, nearest
from ovonic.validation.report_content import At, Cell, Claim, Picture, Section, Table, Unit, look_up, middle_of
from ovonic.validation.report_style import STYLE

__all__ = [
    "At",
    "Cell",
    "Claim",
    "Picture",
    "Section",
    "Table",
    "Unit",
    "html_report",
    "look_up",
    "write_report",
]

LEAD = (
    "This page is the outcome of one run of Ovonic, a library for learning to learn on simulated phase-change memory. "
    "It says what was claimed before the run, what was measured, and how sure that is. Every ± is a 95 % half-width; "
    "systems that are compared saw the same tasks."
)
CLAIMED = ("Claim", "Measured", "Claimed", "Verdict")
REFERENCES = (("Ortner et al. 2025, Nature Communications 16:1243", "10.1038/s41467-025-56345-4"),)


def write_report(
    folder: str | Path,
    sections: Sequence[Section],
    result: Mapping[str, Any],
    *,
    title: str = "Ovonic",
    lead: str = LEAD,
) -> tuple[Path, Path]:
    """Write ``report.json`` (``result`` and the claims with their verdicts) and ``report.html``, each in one piece.

    Returns: both paths, the page first.
    """
    folder = Path(folder)
    full = dict(result) | {"claims": [claim.as_json() for section in sections for claim in section.claims]}
    page = html_report(sections, full, title=title, lead=lead, json_name="report.json")
    write_atomically(folder / "report.json", json.dumps(full, indent=1, allow_nan=False) + "\n")
    write_atomically(folder / "report.html", page)
    return folder / "report.html", folder / "report.json"


def html_report(
    sections: Sequence[Section],
    result: Mapping[str, Any],
    *,
    title: str = "Ovonic",
    lead: str = LEAD,
    json_name: str = "",
) -> str:
    """The page.

    Args:
        sections: its chapters, in order.
        result: what was measured, JSON values; ``command``, ``config`` and ``versions`` are shown at the end.
        json_name: name of the file beside the page that holds ``result``.
    Raises: ConfigError: a table asks for a number that ``result`` does not hold.
    """
    claims = [claim for section in sections for claim in section.claims]
    beside = f"<p>All numbers stand in <code>{escape(json_name)}</code>, beside this page.</p>" if json_name else ""
    references = "; ".join(
        f'<a href="https://doi.org/{quote(doi, safe="/")}">{escape(text)}</a>' for text, doi in REFERENCES
    )
    body = [
        f"<header><h1>{escape(title)}</h1>{_paragraphs(lead)}{beside}{_summary(claims)}</header><main>",
        _overview(sections),
        *(_section(section, result, f"section-{i}") for i, section in enumerate(sections)),
        _settings(result),
        f"</main><footer><p>After {references}.</p></footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        "<body>" + "\n".join(body) + "</body></html>\n"
    )


def _summary(claims: Sequence[Claim]) -> str:
    if not claims:
        return ""
    missed = [claim for claim in claims if claim.held is False]
    unmeasured = sum(claim.held is None for claim in claims)
    text = f"<strong>{sum(claim.held is True for claim in claims)} of {len(claims)} claims held.</strong>"
    if missed:
        text += " Not held: " + "; ".join(escape(claim.name) for claim in missed) + "."
    if unmeasured:
        text += f" Not measured: {unmeasured}."
    if close := sum(claim.close for claim in claims):
        text += f" Verdicts within their interval, which this run alone does not decide: {close}."
    return f'<p class="summary {"missed" if missed else "fine"}">{text}</p>'


def _overview(sections: Sequence[Section]) -> str:
    """Every claim of every chapter in one table, where there is more than one chapter."""
    if len(sections) < 2 or not any(section.claims for section in sections):
        return ""
    links = "; ".join(
        f'<a href="#section-{i}">{escape(section.title)}</a>' for i, section in enumerate(sections) if section.title
    )
    rows = [
        [f'<a href="#section-{i}">{escape(claim.name)}</a>', *_judged(claim)]
        for i, section in enumerate(sections)
        for claim in section.claims
    ]
    table = _table("Every validation, its tolerance and what was measured", CLAIMED, rows, kind="claims")
    return f'<section id="validations"><h2>Validations</h2><nav>Chapters: {links}</nav>{table}</section>'


def _section(section: Section, result: Mapping[str, Any], anchor: str) -> str:
    parts = [f'<section id="{anchor}"><h2>{escape(section.title)}</h2>', _paragraphs(section.text)]
    if section.claims:
        rows = ([escape(claim.name), *_judged(claim)] for claim in section.claims)
        parts += [_table(f"Claims: {section.title}", CLAIMED, rows, kind="claims"), _commands(section.claims)]
    for table in section.tables:
        cells = ([_cell(cell, result) for cell in row] for row in table.rows)
        alone = _alone("This table", table.command) if table.command else ""
        parts.append(_table(table.title, table.columns, cells) + alone)
    parts += [_picture(picture) for picture in section.pictures]
    return "\n".join([*parts, "</section>"])


def _judged(claim: Claim) -> tuple[str, str, str]:
    """What was measured, what was claimed, the verdict."""
    verdict, symbol = {True: ("held", "✓"), False: ("not held", "✗"), None: ("not measured", "–")}[claim.held]
    seen = "–"
    if claim.measured is not None:
        half = None if claim.low is None or claim.high is None else (claim.high - claim.low) / 2
        seen = _data(claim.measured, claim.unit, claim.path, half=half) + _sign(claim.unit)
        if claim.low is not None:
            high = "∞" if claim.high is None else _shown(claim.high, claim.unit, half=half)
            seen += f' <small class="whole">({_shown(claim.low, claim.unit, half=half)} to {high})</small>'
    asked = f"{'at most' if claim.relation == '<=' else 'at least'} {_shown(claim.threshold, claim.unit, signed=False)}"
    close = "<br><small>within the interval: this run alone does not decide</small>" if claim.close else ""
    mark = f'<span class="verdict {verdict.replace(" ", "-")}">{symbol} {verdict}</span>{close}'
    return seen, f'<span class="whole">{asked}{_sign(claim.unit)}</span>', mark


def _commands(claims: Iterable[Claim]) -> str:
    """The commands that measure claims alone, each with the claims that it measures."""
    by_command: dict[str, list[str]] = {}
    for claim in claims:
        if claim.command:
            by_command.setdefault(claim.command, []).append(claim.name)
    items = "".join(
        f"<li><code>{escape(command)}</code><br>{escape('; '.join(names))}</li>"
        for command, names in by_command.items()
    )
    return f'<div class="alone">Each alone:<ul>{items}</ul></div>' if items else ""


def _alone(what: str, command: str) -> str:
    return f'<span class="alone">{what} alone: <code>{escape(command)}</code></span>'


def _picture(picture: Picture) -> str:
    if not picture.alt.strip():
        raise ConfigError(f"a picture needs an alternative text (caption: {picture.caption!r})")
    width, height = struct.unpack(">II", picture.png[16:24])
    code = base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure><div class="wide" tabindex="0"><img src="data:image/png;base64,{code}" width="{width}" '
        f'height="{height}" alt="{escape(picture.alt)}"></div><figcaption>{escape(picture.caption)}'
        f"{_alone('This figure', picture.command)}</figcaption></figure>"
    )


def _settings(result: Mapping[str, Any]) -> str:
    parts = ["<section><h2>How this was made</h2>"]
    if result.get("command"):
        parts.append(f"<pre><code>{escape(str(result['command']))}</code></pre>")
    for key, title in (("config", "Configuration"), ("timing", "Time, s"), ("versions", "Versions")):
        rows = [
            [f"<code>{escape(name)}</code>", f"<code>{escape(text)}</code>"]
            for name, text in _flat(result.get(key, {}))
        ]
        if rows:
            table = _table(title, ("Name", "Value"), rows, kind="settings")
            parts.append(f"<details><summary>{title}</summary>{table}</details>" if key == "config" else table)
    return "\n".join([*parts, "</section>"])


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    if isinstance(value, Mapping):
        pairs = (_flat(inner, f"{prefix}.{name}" if prefix else str(name)) for name, inner in value.items())
        return [pair for inner in pairs for pair in inner]
    return [(prefix, value if isinstance(value, str) else json.dumps(value, default=str))]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "figures") -> str:
    """A table, whose rows become cards on a narrow screen; cells are HTML already."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    labels = [f'<td data-label="{escape(column)}">' for column in columns[1:]]
    body = "".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"{label}<span>{cell}</span></td>" for label, cell in zip(labels, rest, strict=True))
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table class="{kind}"><caption>{escape(title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _paragraphs(text: str) -> str:
    parts = (re.sub("`([^`]+)`", r"<code>\1</code>", escape(part.strip())) for part in text.split("\n\n"))
    return "".join(f"<p>{part}</p>" for part in parts if part)


def _cell(cell: Cell, result: Mapping[str, Any]) -> str:
    if isinstance(cell, str):
        return escape(cell)
    if isinstance(cell, tuple):
        return "".join(_cell(part, result) for part in cell)
    value = look_up(result, cell.path)
    if cell.over or cell.minus:
        other = look_up(result, cell.over or cell.minus)
        return _data(
            value / other if cell.over else value - other, cell.unit, cell.path, over=cell.over, minus=cell.minus
        )
    if not isinstance(value, Mapping):
        return "–" if value is None else _data(value, cell.unit, cell.path)
    middle, half = middle_of(value), value.get("ci95")
    if value[middle] is None:
        return "– <small>(software makes no error)</small>"
    text = _data(value[middle], cell.unit, f"{cell.path}/{middle}", half=half)
    if middle != "mean":
        high = "∞" if value["high"] is None else _data(value["high"], cell.unit, f"{cell.path}/high")
        low = _data(value["low"], cell.unit, f"{cell.path}/low")
        return f'{text} <small class="whole">({low} to {high})</small>'
    if half is None:
        return text
    beside = _data(half, cell.unit, f"{cell.path}/ci95", signed=False, half=half)
    return f"{text}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{beside}"


def _data(
    value: float,
    unit: Unit,
    path: str,
    signed: bool = True,
    half: float | None = None,
    over: str = "",
    minus: str = "",
) -> str:
    places = {"path": path, "over": over, "minus": minus}
    where = "".join(f' data-{name}="{escape(place)}"' for name, place in places.items() if place)
    return f'<data value="{value!r}"{where}>{_shown(value, unit, signed, half)}</data>'


def _shown(value: float, unit: Unit, signed: bool = True, half: float | None = None) -> str:
    """A number as text; ``half``: of its interval, of which a plain number shows two digits."""
    match unit:
        case "percent":
            return f"{100 * value:.1f}"
        case "points":
            return (f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}").replace("-", "−")
        case "ratio":
            return f"{value:.2f}"
        case "tenths":
            return f"{value:.1f}"
        case "number" if half:
            return f"{value:.{max(0, 1 - math.floor(math.log10(half)))}f}"
        case "number":
            return f"{value:.4g}" if isinstance(value, float) else f"{value}"
    raise ConfigError(f"unit {unit!r}: {nearest(unit, get_args(Unit))}")


def _sign(unit: Unit) -> str:
    return {"percent": "\N{NO-BREAK SPACE}%", "points": " points"}.get(unit, "")
