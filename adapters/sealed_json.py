"""JSON that we write for ourselves to read again, with the checksum of what it holds.

What was damaged or edited since is refused as a whole, so that no number of it reaches a result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovonic.adapters.files import write_atomically
from ovonic.models.errors import DataError

__all__ = ["SEAL", "checksum", "read_sealed", "write_sealed"]

SEAL = "sha256"
"""The name that the checksum stands under."""


def write_sealed(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON values by name, in one piece.

    Raises: ValueError: a number that is not finite. TypeError: what JSON does not hold.
    """
    text = json.dumps({**content, SEAL: checksum(content)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def read_sealed(path: str | Path) -> dict[str, Any]:
    """What ``write_sealed`` wrote.

    Raises: DataError: no such file, no JSON, or not as it was written.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and content.pop(SEAL, None) == checksum(content)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not whole:
        raise DataError(f"{path}: damaged or edited since it was written (its checksum does not fit)")
    return dict(content)


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their names."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
