"""What an image's file says in JSON: the chip beside its arrays, and the software side, whose arrays stand elsewhere.

    {"weights": {"w_in.weight": {"$array": 0}, ..}, "network": .., "config": {..}}         array 0 lies in the file

Everything is checked as a stranger's: names, types, and what the values may be.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.crossbar_image import CrossbarImage, Software
from ovonic.adapters.weights import from_fields
from ovonic.models.counters import Counters
from ovonic.models.device_faults import Faults
from ovonic.models.errors import ConfigError, DataError, OvonicError, WeightsError
from ovonic.models.network import Network
from ovonic.models.periphery import Periphery
from ovonic.models.verify import Verify

__all__ = [
    "chip_from_plain",
    "chip_to_plain",
    "exactly",
    "parsed",
    "references",
    "software_from_plain",
    "software_to_plain",
    "written",
]

CHIP = {"now_s", "seed", "calls", "split", "counters", "periphery", "verify", "faults"}

ARRAY = "$array"
"""The key that stands for an array: ``{"$array": its number}``."""


def chip_to_plain(image: CrossbarImage) -> dict[str, Any]:
    """The chip beside its arrays and its device model."""
    return {
        "now_s": image.now_s,
        "seed": image.seed,
        "calls": [[verb, array, count] for (verb, array), count in sorted(image.calls.items())],
        "split": image.split,
        "counters": image.counters.as_dict(),
        "periphery": dataclasses.asdict(image.periphery),
        "verify": None if image.verify is None else dataclasses.asdict(image.verify),
        "faults": dataclasses.asdict(image.faults),
    }


def chip_from_plain(chip: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of ``CrossbarImage`` that ``chip_to_plain`` wrote.

    Raises: DataError: something is missing, unknown, or not of its type.
    """
    exactly(chip, CHIP, "chip")
    now_s, seed, calls, split = (chip[name] for name in ("now_s", "seed", "calls", "split"))
    if not isinstance(now_s, (int, float)) or isinstance(now_s, bool) or not abs(now_s) < 1e300:
        raise DataError(f"chip, now_s: {str(now_s)[:40]!r}, where seconds are due")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise DataError(f"chip, seed: {str(seed)[:40]!r}, where a whole number is due")
    if not isinstance(split, str):
        raise DataError(f"chip, split: {str(split)[:40]!r}, where a name is due")
    counted: dict[tuple[str, int], int] = {}
    for entry in calls if isinstance(calls, list) else [calls]:
        if not isinstance(entry, list) or [type(part) for part in entry] != [str, int, int]:
            raise DataError(f"chip, calls: {str(entry)[:40]!r}, where [verb, array, count] is due")
        counted[entry[0], entry[1]] = entry[2]
    return {
        "now_s": float(now_s),
        "seed": seed,
        "calls": counted,
        "split": split,
        "counters": _fields("counters", chip["counters"], Counters),
        "periphery": _fields("periphery", chip["periphery"], Periphery),
        "verify": None if chip["verify"] is None else _fields("verify", chip["verify"], Verify),
        "faults": _fields("faults", chip["faults"], Faults),
    }


def _fields[C](name: str, values: Any, kind: type[C]) -> C:
    """A dataclass from a JSON object with every field, each of its type."""
    if not isinstance(values, Mapping):
        raise DataError(f"chip, {name}: expected an object")
    try:
        return from_fields("chip", values, kind, name)
    except WeightsError as error:
        raise DataError(str(error)) from None


def software_to_plain(software: Software | None, arrays: list[NDArray[Any]]) -> Any:
    """JSON values, and the arrays that they refer to, appended to ``arrays``; a network holds its own weights."""
    if software is None:
        return None
    network = None if software.network is None else software.network.to_dict()
    weights = dict(software.weights) if network is None else {}
    return _hoisted({"weights": weights, "network": network, "config": dict(software.config)}, arrays)


def software_from_plain(plain: Any, arrays: Mapping[int, NDArray[Any]]) -> Software | None:
    """What ``software_to_plain`` wrote; ``arrays``: those that ``references`` names.

    Raises: DataError: something is missing, unknown, or not of its type.
    """
    if plain is None:
        return None
    plain = _lowered(plain, arrays)
    exactly(plain, {"weights", "network", "config"}, "software")
    weights, config = plain["weights"], plain["config"]
    if not isinstance(weights, dict) or not all(isinstance(weight, np.ndarray) for weight in weights.values()):
        raise DataError("software, weights: expected an array a name")
    if not isinstance(config, dict):
        raise DataError("software, config: expected an object")
    if plain["network"] is None:
        return Software(weights, None, config)
    try:
        network = Network.from_dict(plain["network"])
    except (OvonicError, TypeError, ValueError) as error:
        raise DataError(f"software, network: {error}") from None
    if weights:
        raise DataError("software, weights: a network has its own")
    return Software.of(network, config)


def _hoisted(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False))
        return {ARRAY: len(arrays) - 1}
    if isinstance(value, Mapping):
        return {name: _hoisted(entry, arrays) for name, entry in value.items()}
    return [_hoisted(entry, arrays) for entry in value] if isinstance(value, (list, tuple)) else value


def references(value: Any) -> Iterator[int]:
    """The numbers of the arrays that JSON values refer to.

    Raises: DataError: one is no number.
    """
    if isinstance(value, dict):
        if value.keys() == {ARRAY}:
            if type(value[ARRAY]) is not int:
                raise DataError(f"software: {ARRAY} {str(value[ARRAY])[:40]!r}, where a number is due")
            yield value[ARRAY]
        else:
            for entry in value.values():
                yield from references(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from references(entry)


def _lowered(value: Any, arrays: Mapping[int, NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {ARRAY}:
            return arrays[value[ARRAY]]
        return {name: _lowered(entry, arrays) for name, entry in value.items()}
    return [_lowered(entry, arrays) for entry in value] if isinstance(value, list) else value


def exactly(names: Any, due: set[str], where: str, optional: frozenset[str] = frozenset()) -> None:
    """Refuse names, or an object, that lack one that is due or have one that is unknown.

    Raises: DataError: naming it.
    """
    if not isinstance(names, (list, Mapping)):
        raise DataError(f"{where}: expected an object")
    if missing := sorted(due - set(names)):
        raise DataError(f"{where}: {missing[0]!r} is missing")
    if strange := sorted(set(names) - due - optional):
        raise DataError(f"{where}: has a {strange[0][:40]!r}, which is unknown")


def written(where: str, value: Any) -> str:
    """JSON text.

    Raises: ConfigError: a value that JSON cannot say.
    """
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: not JSON: {error}") from error


def parsed(text: str, where: str, nothing: bool = False) -> Any:
    """The object that a text says, or None where ``nothing`` may be said.

    Raises: DataError: no JSON, or something else.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(value, dict) and not (nothing and value is None):
        raise DataError(f"{where}: expected an object of JSON")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
