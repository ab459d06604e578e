"""Finished parts of ``ovonic reproduce``, kept as JSON in the folder of the report, so that a second run takes them up.

A part is taken up if everything that decides it is the same: seed, sizes, thresholds, hashes of weights, versions of
libraries, and the source of Ovonic itself. A file that is damaged, or of another run, is computed anew and replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ovonic
from ovonic.adapters.sealed_json import read_sealed, write_sealed
from ovonic.models.errors import OvonicError
from ovonic.validation.report_content import Section
from ovonic.validation.reproduction_part import Measured

__all__ = ["Finished", "keep", "kept", "plain", "source_hash"]

SCHEMA = "ovonic/reproduce-part/1"
PACKAGES = ("adapters", "models", "tasks", "validation")


class Finished(NamedTuple):
    """A part that is done; ``timing``: ``cpu_s`` and ``wall_s`` that it took, which no other figure depends on."""

    measured: Measured
    timing: dict[str, float]


@cache
def source_hash() -> str:
    """SHA-256 of Ovonic's modules, the command line left out."""
    home = Path(ovonic.__file__).parent
    found = hashlib.sha256()
    for folder in PACKAGES:
        for file in sorted((home / folder).resolve().glob("*.py")):
            found.update(f"{folder}/{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def plain(value: Any) -> Any:
    """JSON values as they are read back; NumPy's numbers and arrays become JSON's own.

    Raises: ValueError: a number that is not finite. TypeError: what JSON does not hold.
    """
    return json.loads(json.dumps(value, allow_nan=False, default=lambda item: item.tolist()))


def keep(folder: Path, name: str, identity: Mapping[str, Any], finished: Finished) -> None:
    """Write a part to ``folder/parts/NAME.json``, in one piece; its files beside the page are there already."""
    measured = finished.measured
    files = {file: _hash(folder / file) for file in measured.files}
    data = {
        "schema": SCHEMA,
        "identity": identity,
        "timing": finished.timing,
        "figures": measured.figures,
        "config": measured.config,
        "section": measured.section.to_json(),
        "files": files,
    }
    write_sealed(_path(folder, name), data)


def kept(folder: Path, name: str, identity: Mapping[str, Any]) -> Finished | None:
    """A part of that identity, if ``folder`` holds it whole, its files beside the page too; None otherwise."""
    try:
        data = read_sealed(_path(folder, name))
        if data["schema"] != SCHEMA or data["identity"] != plain(identity):
            return None
        if any(not (folder / f).is_file() or _hash(folder / f) != there for f, there in data["files"].items()):
            return None
        section = Section.from_json(data["section"])
        measured = Measured(dict(data["figures"]), dict(data["config"]), section, tuple(data["files"]))
        return Finished(measured, dict(data["timing"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OvonicError):
        return None


def _path(folder: Path, name: str) -> Path:
    return folder / "parts" / f"{name}.json"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
