"""Tables of text with other cells, columns, separators, quotes and encodings."""

from __future__ import annotations

from random import Random

from .mutate_bytes import damaged

__all__ = ["mutated_table"]

CELLS = (
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1_0",
    "1e-400",
    "0",
    "-1",
    "-0.0",
    "1e12",
    "1e11",
    "9" * 400,
    "٣",
    "x",
)
CELLS += (
    "0x10",
    "1,5",
    '"',
    '"1',
    '"1"',
    "'1'",
    "\0",
    "\ufeff",
    "é",
    "=1+1",
    "a" * 5000,
    "1 2",
    "1;2",
    "1\t2",
    "#",
    "1.5",
)
CELLS += ("2147483648", "9223372036854775808", "1e3", ".5", "5.", "+1", "--1", "None", "True", "\u2028", "\x1c", "\x85")
SEPARATORS = (",", ";", "\t", "|", " ", ", ", ",,")
ENDS = ("\n", "\r\n", "\r", "\n\n", "\0\n", "\x0b", "\x85")
ENCODINGS = ("utf-8",) * 12 + ("utf-8-sig", "utf-16", "latin-1", "utf-32")


def mutated_table(rng: Random, data: bytes) -> bytes:
    """One to three changes of cells, lines and columns; sometimes of the whole text."""
    text = data.decode("utf-8", "replace")
    separator = max(SEPARATORS[:3], key=text.count)
    rows = [line.split(separator) for line in text.splitlines()] or [[""]]
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, min(len(rows) - 1, rng.choice((0, 3, len(rows)))))
        row = rows[at]
        cell = rng.randint(0, len(row) - 1)
        kind = rng.randint(0, 11)
        if kind <= 4:
            row[cell] = rng.choice(CELLS)
        elif kind == 5:
            row.insert(cell, rng.choice((*CELLS, row[cell])))
        elif kind == 6 and len(row) > 1:
            del row[cell]
        elif kind == 7:
            rows.insert(at, [*rng.choice(rows)] if rng.random() < 0.5 else [rng.choice(CELLS)])
        elif kind == 8 and len(rows) > 1:
            del rows[at : at + rng.randint(1, len(rows) - 1)]
        elif kind == 9:
            for other in rows:
                if cell < len(other):
                    other[cell] = rng.choice(CELLS) if rng.random() < 0.3 else rows[0][-1]
        elif kind == 10:
            a, b = rng.randint(0, len(rows) - 1), rng.randint(0, len(rows) - 1)
            rows[a], rows[b] = rows[b], rows[a]
        else:
            row[cell] = row[cell].upper() + rng.choice(("", " ", "x", "2", "\t"))
    if rng.random() < 0.15:
        separator = rng.choice(SEPARATORS)
    end = rng.choice(ENDS) if rng.random() < 0.15 else "\n"
    raw = (end.join(separator.join(row) for row in rows) + end).encode(rng.choice(ENCODINGS), "replace")
    return damaged(rng, raw) if rng.random() < 0.1 else raw
