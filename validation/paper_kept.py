"""Results of our commands, cut down to what the paper's table can read, to be kept beside the page made of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovonic.adapters.sealed_json import write_sealed
from ovonic.validation.paper_files import by_name, load, result_files, written

__all__ = ["cut_down", "keep"]

LONG = frozenset({"alphabets", "episodes", "errors", "losses", "rows", "sources"})
"""Lists by these names, wherever they stand: one entry an episode, an error, a chip, a character or a row."""


def keep(sources: Iterable[str | Path], folder: str | Path) -> list[Path]:
    """Write each result to ``folder``, under the name of the folder that it came from, with its day and a checksum.

    Raises: DataError: a file that cannot be read, or that the table cannot use.
    """
    paths = []
    for path, _ in result_files(sources):
        found = load(path)
        target = Path(folder) / path.resolve().parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(target, {**cut_down(found), "written": written(found, path)})
        paths.append(target)
    return paths


def cut_down(value: Any) -> Any:
    """JSON values without ``LONG`` lists, and with data files by name alone."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if not (name in LONG and isinstance(item, list))}
        return {name: cut_down(item) for name, item in kept.items()}
    if isinstance(value, list):
        return [cut_down(item) for item in value]
    return by_name(value) if isinstance(value, str) else value
