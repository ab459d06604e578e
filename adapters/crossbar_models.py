"""Device models as plain data, for files: the name by which ``models.pcm`` knows one, and its attributes.

    {"kind": "pcm", "name": "pcm", "g_max_us": 25.0, "t_0_s": 20.0, .., "zero_targets": "reset"}

Only models in closed form can be written: one that wraps another program's object has no attributes to write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ovonic.models.errors import ConfigError, DataError, OvonicError, nearest
from ovonic.models.fitted_model import FittedModel
from ovonic.models.pcm import DEVICE_MODELS, DeviceModel, device_model

__all__ = ["model_from_plain", "model_to_plain"]

KINDS: dict[str, type[Any]] = {kind: type(device_model(kind)) for kind in DEVICE_MODELS} | {"fitted": FittedModel}


def model_to_plain(model: DeviceModel) -> dict[str, Any]:
    """A device model as JSON values.

    Raises: ConfigError: not of a kind that has a closed form.
    """
    for kind, made in KINDS.items():
        if made is type(model):
            return {"kind": kind} | dataclasses.asdict(model)  # type: ignore[call-overload]
    raise ConfigError(f"device model {type(model).__name__}: a file holds models in closed form: {', '.join(KINDS)}")


def model_from_plain(values: Any) -> DeviceModel:
    """The device model that ``model_to_plain`` wrote.

    Raises: DataError: another kind, an unknown or missing attribute, or a value that means nothing.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("kind"), str):
        raise DataError("device model: expected an object with its 'kind'")
    kind = values["kind"]
    if kind not in KINDS:
        raise DataError(f"device model {kind[:40]!r}: {nearest(kind[:40], KINDS)}")
    given = {name: value for name, value in values.items() if name != "kind"}
    expected = dataclasses.asdict(KINDS[kind]())
    if given.keys() != expected.keys():
        odd = min(given.keys() ^ expected.keys())
        raise DataError(f"device model {kind!r}: {odd[:40]!r} is {'unknown' if odd in given else 'missing'}")
    for name, value in given.items():
        if not _alike(value, expected[name]):
            like = f"where one like {expected[name]!r} is due"
            raise DataError(f"device model {kind!r}: {name} {str(value)[:40]!r} {like}")
    try:
        made: DeviceModel = KINDS[kind](**given)
    except OvonicError as error:
        raise DataError(f"device model {kind!r}: {error}") from None
    return made


def _alike(value: Any, like: Any) -> bool:
    """Whether a JSON value is of the type of an attribute's default."""
    if isinstance(like, tuple):
        return isinstance(value, (list, tuple)) and len(value) <= 64 and all(_alike(entry, 0.0) for entry in value)
    if isinstance(like, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return type(value) is type(like)
