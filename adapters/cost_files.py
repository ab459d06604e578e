"""Cost parameters in a file of one's own, TOML or JSON, in place of the defaults (docs/energy.md has an example).

[programming]
pulse_energy_j = [5e-12, 8e-12, 12e-12]                                              # low, typical, high
iterations = 12                                                                      # known: all three
pulse_time_s = { low = 1e-7, typical = 2e-7, high = 5e-7, source = "our lab, 2026" }
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from ovonic.models.energy import Costs, costs_from
from ovonic.models.errors import ConfigError, DataError

__all__ = ["read_costs"]

MAX_BYTES = 1 << 20


def read_costs(path: str | Path, base: Costs | None = None) -> Costs:
    """The defaults (or ``base``) with the costs that the file gives.

    Raises: DataError: the file cannot be read, is too large or is no TOML or JSON (by its suffix), or a cost in it is
        unknown or makes no sense; the message names the file.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; a file of costs has at most {MAX_BYTES}")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from None
    return _costs(path, _parsed(path, text), base)


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        if path.suffix.lower() == ".json":
            data = json.loads(text)
            if not isinstance(data, dict):
                raise DataError(f"{path}: holds {type(data).__name__}; give an object of costs by name")
            return data
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # a whole number of too many digits is a bare ValueError
        raise DataError(f"{path}: no {path.suffix[1:].upper()}: {str(error)[:200]}") from None
    raise DataError(f"{path}: suffix {path.suffix!r}; costs are read from .toml and .json")


def _costs(path: Path, data: dict[str, Any], base: Costs | None) -> Costs:
    try:
        return costs_from(data, base)
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from None
