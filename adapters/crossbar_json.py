"""A layout as JSON, and back from a file that nobody vouches for.

    {"format": "ovonic crossbar layout", "version": 1, "arrays": [...], "layers": [...], "blocks": [...], ...}

with the fields of ``crossbar.ArraySpec``, ``PlacedLayer`` and ``Block`` by name. What is unknown, missing, doubled or
out of range is refused; the file's size is bounded, and with it what parsing takes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ovonic.models.errors import DataError, nearest

if TYPE_CHECKING:
    from ovonic.adapters.crossbar import Layout

__all__ = ["FORMAT", "MAX_BYTES", "VERSION", "read_bounded", "read_json", "write_json"]

FORMAT, VERSION = "ovonic crossbar layout", 1
MAX_BYTES = 64 * 2**20
FIELDS = {"arrays": True, "layers": True, "blocks": True, "together": False, "digital": False}
"""The fields of a layout, and whether one must be there."""


def write_json(layout: Layout) -> str:
    """The layout as text, one array, layer and block a line."""
    head = [f'"format": {json.dumps(FORMAT)}', f'"version": {VERSION}']
    body = layout.to_dict()
    for name in FIELDS:
        lines = [json.dumps(_untyped(entry), allow_nan=False) for entry in body[name]]
        head.append(f'"{name}": [' + ",".join(f"\n  {line}" for line in lines) + ("\n ]" if lines else "]"))
    return "{\n " + ",\n ".join(head) + "\n}\n"


def read_bounded(path: str | Path) -> bytes:
    """The bytes of a file. Raises: DataError: it cannot be read, or exceeds ``MAX_BYTES``."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: more than {MAX_BYTES} bytes: not a layout")
    return data


def read_json(text: str | bytes, source: str) -> dict[str, Any]:
    """The fields of a layout, each still to be checked by ``Layout``.

    Raises: DataError: no JSON, another format or version, unknown or missing fields.
    """
    if len(text) > MAX_BYTES:
        raise DataError(f"{source}: more than {MAX_BYTES} bytes: not a layout")
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DataError(f"{source}: not a layout: its 'format' must be {FORMAT!r}")
    if data.get("version") != VERSION or isinstance(data["version"], bool):
        raise DataError(f"{source}: version {str(data.get('version'))[:40]}: this Ovonic reads version {VERSION}")
    for name in data.keys() - {"format", "version"}:
        if name not in FIELDS:
            raise DataError(f"{source}: field {name[:40]!r}: {nearest(name[:40], FIELDS)}")
    if missing := [name for name, due in FIELDS.items() if due and name not in data]:
        raise DataError(f"{source}: field {missing[0]!r} is missing")
    return {name: data[name] for name in FIELDS if name in data}


def _untyped(entry: Any) -> Any:
    return {name: value for name, value in entry.items() if name != "type"} if isinstance(entry, dict) else entry


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("an object has a key twice")
    return made


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
