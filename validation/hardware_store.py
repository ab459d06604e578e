"""Results of conditions, each a sealed JSON file that a later run of the same takes up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovonic.adapters.json_shape import fits
from ovonic.adapters.sealed_json import read_sealed
from ovonic.models.errors import DataError

__all__ = ["KIND", "kept"]

KIND = "validate-hardware-condition"
RATIO = {"ratio": (float, None), "low": (float, None), "high": (float, None)}
MEAN = {"mean": float}
CHIPS = {"chips": {"n": int, "worst": float}}
REPORT = {
    "schema": str,
    "config": {"condition": {"experiment": str}},
    "error": float,
    "ratio": RATIO,
    "own_ratio": RATIO,
    "devices_reprogrammed": float,
}
OF = {
    "fewshot": {**CHIPS, "software": {"accuracy": MEAN}},
    "robot": {"hardware": CHIPS, "software": {"loss": MEAN}},
}
ERRORS = {"errors": {"software": [float], "hardware": [[float]]}}
SOFTWARE = {"software_rows": {"32 bit": MEAN, "4 bit": MEAN}}


def kept(path: Path, head: Mapping[str, Any], *, with_errors: bool = False) -> dict[str, Any] | None:
    """The result of an earlier run of the very same condition; None where there is none.

    Args: head: what its ``config`` must say, as JSON has it; with_errors: the tables of errors are needed too.
    Raises: DataError: a file that is no such result, or one of other settings.
    """
    if not path.exists():
        return None
    cure = "remove it or choose another --out"
    try:
        found = read_sealed(path)
    except DataError as error:
        raise DataError(f"{error}: {cure}") from error
    if not _whole(found, with_errors):
        raise DataError(f"{path}: no result of a condition: {cure}")
    for name, value in head.items():
        if found["config"].get(name) != value:
            raise DataError(f"{path}: {name} {found['config'].get(name)} there, {value} asked for: {cure}")
    return found


def _whole(found: Mapping[str, Any], with_errors: bool) -> bool:
    if not fits(found, REPORT) or found["schema"] != f"ovonic/{KIND}/1":
        return False
    experiment = found["config"]["condition"]["experiment"]
    if experiment not in OF or not fits(found, OF[experiment]):
        return False
    if not with_errors:
        return True
    return fits(found, ERRORS) and _a_table(**found["errors"]) and (experiment == "robot" or fits(found, SOFTWARE))


def _a_table(software: list[float], hardware: list[list[float]], **_: Any) -> bool:
    return bool(software and hardware) and all(len(chip) == len(software) for chip in hardware)
