"""One self-contained HTML page for a run: claims with their verdicts, key figures, pictures, settings.

The page needs no network and no script: style inline, pictures as base64 PNG. Every number on it is looked up in the
very ``result`` that is saved as JSON beside it, and stands in a ``<data value=.. data-path=..>`` element, so that a
program can compare the two.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

from matplotlib.figure import Figure

from ovonic.adapters.files import write_atomically
from ovonic.models.errors import ConfigError, nearest
from ovonic.validation.figure_style import alt_text, caption, png
from ovonic.validation.figures import BASELINE_NAMES

__all__ = [
    "At",
    "Claim",
    "Picture",
    "Section",
    "Table",
    "baselines_table",
    "html_report",
    "systems_table",
    "write_report",
]

Unit = Literal["percent", "points", "ratio", "number"]

LEAD = (
    "This page is the outcome of one run of Ovonic, a library for learning to learn on simulated phase-change memory. "
    "It says what was claimed before the run, what was measured, and how sure that is. Every ± is a 95 % half-width; "
    "systems that are compared saw the same tasks."
)
REFERENCES = (("Ortner et al. 2025, Nature Communications 16:1243", "10.1038/s41467-025-56345-4"),)


@dataclass(frozen=True)
class At:
    """A number of the result, by its place: ``At("fewshot/pcm/accuracy")``.

    The place holds a number or one of the intervals of ``tasks.statistics``: {mean, ci95}, {ratio, low, high}.
    """

    path: str
    unit: Unit = "percent"


Cell = str | At | tuple[str | At, ...]
"""What stands in a table: text, a number of the result, or a mixture in order."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Claim:
    """A threshold fixed before the run, and what was measured.

    Attributes:
        name: the claim in words. measured: the measured value, None where it was not.
        threshold, relation: it is claimed that measured ``"<="`` (or ``">="``) threshold.
        low, high: 95 % interval of the measured value, where known (a ``low`` alone: no upper end).
        unit: how the numbers are shown. path: where the result holds the value.
    """

    name: str
    measured: float | None
    threshold: float
    relation: Literal["<=", ">="]
    low: float | None = None
    high: float | None = None
    unit: Unit = "percent"
    path: str = ""

    @classmethod
    def about(
        cls, result: Mapping[str, Any], name: str, at: At, relation: Literal["<=", ">="], threshold: float
    ) -> Self:
        """The claim about the number at ``at`` of ``result`` (None where the result does not hold it)."""
        try:
            value = _look_up(result, at.path)
        except ConfigError:
            value = None
        if not isinstance(value, Mapping):
            return cls(name, value, threshold, relation, unit=at.unit, path=at.path)
        measured, low, high = _interval(value)
        key = "ratio" if "ratio" in value else "mean"
        return cls(name, measured, threshold, relation, low, high, at.unit, f"{at.path}/{key}")

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
    """A chapter of the page. ``text``: paragraphs, parted by empty lines."""

    title: str
    text: str = ""
    claims: Sequence[Claim] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def systems_table(result: Mapping[str, Any], runs: Mapping[str, str]) -> Table:
    """Key figures of few-shot evaluations side by side.

    Args: runs: label -> place in ``result`` of an ``Evaluation.report()``.
    """
    rows: list[list[Cell]] = []
    for label, path in runs.items():
        report = _look_up(result, path)
        n: list[str | At] = [At(f"{path}/tasks", "number"), " tasks"]
        if "chips" in report:
            n += [" × ", At(f"{path}/chips/n", "number"), " chips, worst ", At(f"{path}/chips/worst")]
        ratio: Cell = At(f"{path}/error_ratio", "ratio") if "error_ratio" in report else "–"
        rows.append([label, At(f"{path}/accuracy"), ratio, tuple(n)])
    return Table("Accuracy after the last update", ("System", "Accuracy, %", "Error ÷ software's", "n"), rows)


def baselines_table(result: Mapping[str, Any], path: str, title: str = "Baselines on the same tasks") -> Table:
    """Baselines of the ``Evaluation.report()`` at ``path``, and how far the learned head lies above each."""
    names = _look_up(result, f"{path}/baselines")
    rows: list[list[Cell]] = [["learned head, software", _twin(result, path), "–"]]
    for name in names:
        at = f"{path}/baselines/{name}"
        rows.append([BASELINE_NAMES.get(name, name.replace("_", " ")), At(at), At(f"{at}/difference", "points")])
    return Table(title, ("Classifier", "Accuracy, %", "Head minus this, points"), rows)


def _twin(result: Mapping[str, Any], path: str) -> At:
    return At(f"{path}/software/accuracy" if "software" in _look_up(result, path) else f"{path}/accuracy")


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


def _section(section: Section, result: Mapping[str, Any], anchor: str) -> str:
    parts = [f'<section id="{anchor}"><h2>{escape(section.title)}</h2>', _paragraphs(section.text)]
    if section.claims:
        parts.append(_claims(section.claims, f"Claims: {section.title}"))
    for table in section.tables:
        cells = ([_cell(cell, result) for cell in row] for row in table.rows)
        parts.append(_table(table.title, table.columns, cells))
    parts += [_picture(picture) for picture in section.pictures]
    return "\n".join([*parts, "</section>"])


def _claims(claims: Iterable[Claim], title: str) -> str:
    rows = []
    for claim in claims:
        verdict, symbol = {True: ("held", "✓"), False: ("not held", "✗"), None: ("not measured", "–")}[claim.held]
        seen = "–"
        if claim.measured is not None:
            seen = _data(claim.measured, claim.unit, claim.path) + _sign(claim.unit)
            if claim.low is not None:
                high = "∞" if claim.high is None else _shown(claim.high, claim.unit)
                seen += f" <small>({_shown(claim.low, claim.unit)} to {high})</small>"
        asked = (
            f"{'at most' if claim.relation == '<=' else 'at least'} {_shown(claim.threshold, claim.unit, signed=False)}"
        )
        close = "<br><small>within the interval: this run alone does not decide</small>" if claim.close else ""
        mark = f'<span class="verdict {verdict.replace(" ", "-")}">{symbol} {verdict}</span>{close}'
        rows.append([escape(claim.name), seen, asked + _sign(claim.unit), mark])
    return _table(title, ("Claim", "Measured", "Claimed", "Verdict"), rows)


def _picture(picture: Picture) -> str:
    if not picture.alt.strip():
        raise ConfigError(f"a picture needs an alternative text (caption: {picture.caption!r})")
    width, height = struct.unpack(">II", picture.png[16:24])
    code = base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure><div class="wide" tabindex="0"><img src="data:image/png;base64,{code}" width="{width}" '
        f'height="{height}" alt="{escape(picture.alt)}"></div><figcaption>{escape(picture.caption)}'
        f'<span class="alone">This figure alone: <code>{escape(picture.command)}</code></span></figcaption></figure>'
    )


def _settings(result: Mapping[str, Any]) -> str:
    parts = ["<section><h2>How this was made</h2>"]
    if result.get("command"):
        parts.append(f"<pre><code>{escape(str(result['command']))}</code></pre>")
    for key, title in (("config", "Configuration"), ("versions", "Versions")):
        rows = [
            [f"<code>{escape(name)}</code>", f"<code>{escape(text)}</code>"]
            for name, text in _flat(result.get(key, {}))
        ]
        if rows:
            parts.append(_table(title, ("Name", "Value"), rows, kind="settings"))
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
        f'<table class="{kind}"><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _cell(cell: Cell, result: Mapping[str, Any]) -> str:
    if isinstance(cell, str):
        return escape(cell)
    if isinstance(cell, tuple):
        return "".join(_cell(part, result) for part in cell)
    value = _look_up(result, cell.path)
    if not isinstance(value, Mapping):
        return "–" if value is None else _data(value, cell.unit, cell.path)
    if "ratio" in value:
        if value["ratio"] is None:
            return "– <small>(software makes no error)</small>"
        high = "∞" if value["high"] is None else _data(value["high"], cell.unit, f"{cell.path}/high")
        low = _data(value["low"], cell.unit, f"{cell.path}/low")
        return f"{_data(value['ratio'], cell.unit, f'{cell.path}/ratio')} <small>({low} to {high})</small>"
    text = _data(value["mean"], cell.unit, f"{cell.path}/mean")
    if value["ci95"] is not None:
        text += (
            f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{_data(value['ci95'], cell.unit, f'{cell.path}/ci95', signed=False)}"
        )
    return text


def _data(value: float, unit: Unit, path: str, signed: bool = True) -> str:
    where = f' data-path="{escape(path)}"' if path else ""
    return f'<data value="{value!r}"{where}>{_shown(value, unit, signed)}</data>'


def _shown(value: float, unit: Unit, signed: bool = True) -> str:
    match unit:
        case "percent":
            return f"{100 * value:.1f}"
        case "points":
            return (f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}").replace("-", "−")
        case "ratio":
            return f"{value:.2f}"
        case "number":
            return f"{value:.4g}" if isinstance(value, float) else f"{value}"
    raise ConfigError(f"unit {unit!r}: {nearest(unit, ('percent', 'points', 'ratio', 'number'))}")


def _sign(unit: Unit) -> str:
    return {"percent": "\N{NO-BREAK SPACE}%", "points": " points"}.get(unit, "")


def _interval(value: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """The value and the ends of one of the intervals of ``tasks.statistics``."""
    if "ratio" in value:
        return value["ratio"], value["low"], value["high"]
    mean, half = value["mean"], value["ci95"]
    return (mean, None, None) if half is None else (mean, mean - half, mean + half)


def _look_up(result: Any, path: str) -> Any:
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


STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--line:#d5dae0;--tint:#f5f7f9;--link:#0a5cad;
--good:#0a6b4b;--bad:#b03a00}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a6adb5;--paper:#15181c;--line:#3a4149;--tint:#1e2329;
--link:#7cb7f5;--good:#5fd3a5;--bad:#ff9c66}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:54rem;padding:1.5rem 1rem 3rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .6rem}
h2{font-size:1.25rem;margin:2.2rem 0 .5rem;border-top:1px solid var(--line);padding-top:1.2rem}
p{margin:.5rem 0;max-width:44rem}
a{color:var(--link)}
code,pre{font-family:ui-monospace,monospace;font-size:.86em}
pre{background:var(--tint);border:1px solid var(--line);border-radius:.3rem;padding:.6rem .8rem;white-space:pre-wrap;
overflow-wrap:anywhere}
small{font-size:.82em;color:var(--soft)}
.summary{border-left:.3rem solid var(--good);background:var(--tint);padding:.6rem .9rem;margin:1rem 0}
.summary.missed{border-color:var(--bad)}
.wide{overflow-x:auto}
.wide:focus-visible{outline:2px solid var(--link)}
table{border-collapse:collapse;width:100%;margin:.4rem 0 1.2rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--line)}
thead th{font-size:.85rem;color:var(--soft);border-bottom:2px solid var(--line)}
tbody th{font-weight:400}
.settings{font-size:.88rem}
.settings th,.settings td{padding-top:.15rem;padding-bottom:.15rem;overflow-wrap:anywhere}
.verdict{font-weight:600;white-space:nowrap}
.held{color:var(--good)}
.not-held{color:var(--bad)}
figure{margin:1.4rem 0 2rem}
figure .wide{background:#fff;border:1px solid var(--line);border-radius:.4rem;padding:.5rem}
img{display:block;width:100%;height:auto;min-width:34rem}
figcaption{font-size:.88rem;color:var(--soft);margin-top:.5rem;max-width:46rem}
.alone{display:block;margin-top:.3rem}
.alone code{overflow-wrap:anywhere}
footer{border-top:1px solid var(--line);margin-top:2rem;font-size:.88rem;color:var(--soft)}
@media screen and (max-width:40rem){table,caption,tbody,tr,tbody th,td{display:block}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tr{padding:.5rem 0;border-bottom:1px solid var(--line)}th,td{border:0;padding:.1rem 0}tbody th{font-weight:600}
td{display:flex;gap:.8rem}td::before{content:attr(data-label);flex:0 0 8rem;color:var(--soft);font-size:.88rem}
.settings td::before{content:none}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--paper:#fff;--line:#bbb;--tint:#fff;--good:#0a6b4b;
--bad:#b03a00}body{max-width:none;padding:0;font-size:10pt}figure{margin:1rem 0}h2,caption{break-after:avoid}
figure,table,tr,pre,.summary{break-inside:avoid}.wide{overflow:visible}figure .wide{border:0;padding:0}
img{min-width:0;max-height:8.5cm;width:auto;max-width:100%}}
"""
