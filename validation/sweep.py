"""A sweep: one of our commands at every point of a grid over its options, and one tidy table of what came out.

    grid    noise-model = pcm, hermes;  chips = 2, 4       point   noise-model=hermes,chips=4
    table   a row a point; columns: the grid's options, status, error, then the numbers of the results by path

A point is known by its arguments, the versions it is computed with and the contents of the files it is given: what was
recorded under the same is not computed again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ovonic.adapters.json_shape import fits
from ovonic.adapters.sealed_json import read_sealed
from ovonic.models.errors import ConfigError, DataError, nearest

__all__ = ["PLACE", "Grid", "Point", "leaves", "parse_axis", "points", "read_record", "table", "to_csv"]

Grid = Mapping[str, Sequence[str]]
"""Values of each option, as they are typed; options by their long names without dashes."""

PLACE = "{point}"
"""Stands in a command for the name of the point: in the path of a file that each point writes."""

APART = ("schema", "versions", "config")
"""Parts of a result that say how it was made and not what came out."""

SCHEMA = "ovonic/sweep-point/1"
RECORD = {"identity": dict, "status": int, "error": (str, None), "result": (dict, None)}


def parse_axis(text: str) -> tuple[str, tuple[str, ...]]:
    """An option and its values, from ``NAME=V1,V2,..``.

    ``A..B`` stands for the whole numbers from A to B. A value that holds a comma stands in double quotes.

    Raises: ConfigError: no name, no value, an empty or a repeated one.
    """
    name, equals, listed = text.partition("=")
    name = name.strip().lstrip("-")
    if not equals or not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise ConfigError(f"--grid {text}: give OPTION=VALUE,VALUE,.. such as chips=2,4 or seed=0..4")
    try:
        (given,) = csv.reader([listed], strict=True)
    except csv.Error as error:
        raise ConfigError(f"--grid {text}: {error}; a value that holds a comma stands in double quotes") from error
    except ValueError:
        given = []
    values = tuple(value for item in given for value in _range(text, item.strip()))
    if not values or "" in values:
        raise ConfigError(f"--grid {text}: {name} has {'an empty value' if values else 'no value'}")
    if repeated := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ConfigError(f"--grid {text}: {name} has {', '.join(repeated)} more than once")
    return name, values


def _range(text: str, item: str) -> Sequence[str]:
    ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", item)
    if ends is None:
        return [item]
    first, last = map(int, ends.groups())
    if not first <= last < first + 100_000:
        raise ConfigError(f"--grid {text}: {item} counts upwards, over at most 100,000 numbers")
    return [str(number) for number in range(first, last + 1)]


@dataclass(frozen=True)
class Point:
    """One run of the command.

    Attributes:
        options: the grid's options here, as typed. arguments: of ``ovonic``, whole, without --json and --quiet.
    """

    options: Mapping[str, str]
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """``option=value,..``: short, fit for a file's name, and no other point's."""
        label = ",".join(f"{name}={value}" for name, value in self.options.items())
        plain = re.sub(r"[^\w.,=+-]", "_", label)
        if plain == label and len(plain) <= 100:
            return plain
        return f"{plain[:80]}-{hashlib.blake2b(label.encode(), digest_size=4).hexdigest()}"

    def identity(self, versions: Mapping[str, str], folder: Path = Path()) -> dict[str, Any]:
        """What the point's result depends on: arguments, versions, and digests of the files among the arguments."""
        files = {}
        for argument in self.arguments:
            for word in (argument, argument.partition("=")[2]):
                if word and (path := folder / word).is_file():
                    with path.open("rb") as file:
                        files[word] = hashlib.file_digest(file, "sha256").hexdigest()
        return {"arguments": list(self.arguments), "versions": dict(versions), "files": files}


def points(command: Sequence[str], grid: Grid, flags: Mapping[str, tuple[str, str]] | None = None) -> list[Point]:
    """Every combination, the last option of the grid changing fastest.

    Args:
        command: arguments of ``ovonic`` that all share; ``{point}`` in them becomes the point's name.
        flags: what to type for yes and for no (may be empty), of the grid's options that are flags.
    Raises: ConfigError: a flag's value is neither yes nor no.
    """
    made = []
    for values in itertools.product(*grid.values()):
        options = dict(zip(grid, values, strict=True))
        added = [word for name, value in options.items() for word in _typed(name, value, flags or {})]
        name = Point(options, ()).name
        made.append(Point(options, tuple(word.replace(PLACE, name) for word in [*command, *added])))
    return made


def _typed(name: str, value: str, flags: Mapping[str, tuple[str, str]]) -> list[str]:
    if name not in flags:
        return [f"--{name}={value}"]
    if value not in ("yes", "no"):
        raise ConfigError(f"--grid {name}: {value!r}: --{name} is a flag, its values are yes and no")
    word = flags[name][value == "no"]
    return [word] if word else []


def read_record(path: Path) -> dict[str, Any] | None:
    """What an earlier run recorded of a point; None where nothing is, or not what it wrote."""
    try:
        record = read_sealed(path)
        dict(leaves(record.get("result")))  # nested too deep for the table: a RecursionError here, not there
    except (DataError, RecursionError):
        return None
    return record if record.get("schema") == SCHEMA and fits(record, RECORD) else None


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The scalars of a JSON value by their paths; an item of a list by its number, the last one as ``-1`` too."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}.{number}")
        if value:
            yield from leaves(value[-1], f"{path}.-1")
    else:
        yield path, value


def table(
    grid: Grid, found: Sequence[tuple[Point, Mapping[str, Any]]], chosen: Sequence[str] = ()
) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows: the grid's options, ``status``, ``error``, then the results' scalars by path.

    Without ``chosen``, every scalar outside lists and outside what says how the result was made; else those whose path
    fits one of these patterns (``loss.*``, ``validation.-1.accuracy``), in the patterns' order.

    Args: found: each point and its record. chosen: patterns as of ``fnmatch``.
    Raises: DataError: results are there, and a pattern fits none of their paths.
    """
    scalars = [dict(leaves(record["result"] or {})) for _, record in found]
    known = list(dict.fromkeys(path for row in scalars for path in row))
    columns = [path for path in known if path.split(".")[0] not in APART and not re.search(r"\.-?\d+(\.|$)", path)]
    if chosen:
        fitting = {pattern: [path for path in known if fnmatchcase(path, pattern)] for pattern in chosen}
        for pattern, paths in fitting.items():
            if known and not paths:
                raise DataError(f"--columns {pattern}: no result has it; {nearest(pattern, known)}")
        columns = list(dict.fromkeys(path for paths in fitting.values() for path in paths))
    head = {name: name if name not in columns else f"--{name}" for name in (*grid, "status", "error")}
    rows = []
    for (point, record), row in zip(found, scalars, strict=True):
        about = {**point.options, "status": record["status"], "error": record["error"]}
        rows.append({head[name]: value for name, value in about.items()} | {path: row.get(path) for path in columns})
    return [*head.values(), *columns], rows


def to_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as CSV; what is missing is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
