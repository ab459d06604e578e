"""The paper's table as a page in Markdown, with the files and commands that its numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovonic.validation.paper import TITLES, PaperVerdict, asked, counts, found
from ovonic.validation.paper_files import by_name
from ovonic.validation.paper_row import KINDS

__all__ = ["paper_page"]

COLUMNS = "| where | the paper, in our words | measured | verdict |\n|---|---|---|---|\n"

HEAD = """# The paper, row by row

What Ortner et al. 2025 ([Nature Communications 16:1243](https://doi.org/10.1038/s41467-025-56345-4)) show and say, in
our words, and what the simulation finds. Written by

```
{command}
```

from the results in docs/results: our commands' own JSON, which `--keep` cut down to what a table can read. The commands
behind each stand at the end; a test writes this page anew and compares every line.

**Thresholds stand in code** (`validation/paper_panels.py` and its neighbours), and a test changes numbers and sees
verdicts turn. Those fixed before the runs are called so; the others were set when this table was made, with most runs
of docs/hardware.md known, and are the paper's own figures or round numbers. *Holds*: the number keeps its threshold,
with its whole 95 % interval where it has one. *Close*: the threshold lies within the interval. *In part*: the checks of
a row differ. *Not measured in this run*: the files given hold none of the numbers. *Tested*: no result holds it; the
test that is named checks it (all but that of Fig. 4b need the published files, and are skipped without them). *Not
done*: it could be simulated, and here it was not. *Not checkable*: nothing simulated could decide it.

**What was read of the paper**: a stored copy of its page from abstract to methods (equations, no pictures), the caption
of figure 2, and the published code. The supplement was not read, nor the captions of the other figures: their panels
are described as the text describes them.

"""


def paper_page(verdicts: Sequence[PaperVerdict], sources: Sequence[Mapping[str, Any]], command: str) -> str:
    """The page.

    Args: sources: of ``paper_files.gather``: file, command and day of each result. command: what makes the page.
    """
    total = ", ".join(f"{verdict}: {count}" for verdict, count in counts(verdicts).items())
    numbers: dict[str, int] = {}
    parts = [HEAD.format(command=command), f"{len(verdicts)} rows. {total[0].upper()}{total[1:]}.\n"]
    for kind in KINDS:
        rows = [v for v in verdicts if v.row.kind == kind]
        parts.append(f"\n## {TITLES[kind]}\n\n{COLUMNS}")
        parts += [f"| {_row(v, numbers)} |\n" for v in rows]
    parts.append("\n## Commands\n\nThe numbers in brackets above; seeds are the commands' own unless named.\n\n")
    parts += [f"{number}. `{text}`\n" for text, number in numbers.items()]
    if sources:
        parts.append("\n## Files\n\n| result | written | by |\n|---|---|---|\n")
        parts += [f"| {s['file']} | {s['written']} | {_code(s['command'])} |\n" for s in sources]
    return "".join(parts)


def _row(verdict: PaperVerdict, numbers: dict[str, int]) -> str:
    row = verdict.row
    measured = []
    for reading in verdict.readings:
        number = numbers.setdefault(reading.command, len(numbers) + 1)
        on = f" on {reading.place.on}" if reading.place and reading.place.on else ""
        value = f"**{found(reading)}**" if reading.value is not None else "not measured"
        measured.append(f"{reading.check.name}: {value}{on}, {asked(reading)}: {reading.verdict} [{number}]")
    measured += [
        text for text in (row.test and f"`{row.tested_by}`", row.why_not and f"{row.why_not}.", row.note) if text
    ]
    cells = (row.where, row.says, "<br>".join(measured), verdict.label)
    return " | ".join(cell.replace("|", "\\|") for cell in cells)


def _code(text: str) -> str:
    """A command as code, the user's data by name alone."""
    return f"`{by_name(text)}`".replace("|", "\\|") if text else ""
