"""Fitted device models as JSON files, and device models by name or by such a file.

    {"format": "ovonic/device-model/1", "model": {"name": .., "g_max_us": .., ..}, "fit": {..}}

``model`` holds the attributes of ``models.fitted_model.FittedModel``; ``fit`` is the report of how it was made
(``models.pcm_fit.Fit.report``), for the record.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ovonic.adapters.files import write_atomically
from ovonic.models.errors import ConfigError, DataError, nearest
from ovonic.models.fitted_model import FittedModel
from ovonic.models.pcm import DEVICE_MODELS, DeviceModel, device_model
from ovonic.models.pcm_fit import Fit

__all__ = ["device_model_from", "resolve_device_model", "save_fit"]

FORMAT = "ovonic/device-model/1"
MAX_BYTES = 1 << 20
MAX_NUMBERS = 64
MAX_SIZE = 1e30


def save_fit(path: str | Path, fit: Fit, **provenance: Any) -> None:
    """Write a fit, and where it comes from (plain data)."""
    data = {
        "format": FORMAT,
        "model": dataclasses.asdict(fit.model),
        "fit": fit.report(),
        "provenance": provenance,
    }
    write_atomically(path, json.dumps(data, indent=2, allow_nan=False, default=str) + "\n")


def device_model_from(path: str | Path) -> FittedModel:
    """Read the device model of a file that ``save_fit`` wrote.

    Raises: DataError: what is wrong, naming the file and the attribute.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; a device model has at most {MAX_BYTES}")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON: {str(error)[:200]}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = str(data.get("format"))[:60] if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{path}: format {found!r}; a device model of {FORMAT!r} is due (ovonic crossbar fit)")
    try:
        return _model(data.get("model"))
    except (ConfigError, DataError) as error:
        raise DataError(f"{path}: {error}") from None


def resolve_device_model(name_or_path: str | Path, **changes: Any) -> DeviceModel:
    """A device model by name (``models.pcm.DEVICE_MODELS``), or from a JSON file of a fit.

    Args: changes: attributes to change, such as ``zero_targets``.
    Raises: ConfigError: neither a name nor a file, or an unknown attribute. DataError: a file that is no device model.
    """
    text = str(name_or_path)
    if text in DEVICE_MODELS:
        return device_model(text, **changes)
    if Path(text).suffix.lower() != ".json" and not Path(text).is_file():
        raise ConfigError(f"device model {text!r}: {nearest(text, DEVICE_MODELS)}, or give a JSON file of a fit")
    model = device_model_from(text)
    for change in changes:
        if change not in FittedModel.__dataclass_fields__:
            raise ConfigError(f"a fitted model has no {change!r}: {nearest(change, FittedModel.__dataclass_fields__)}")
    return dataclasses.replace(model, **changes)


def _model(values: Any) -> FittedModel:
    if not isinstance(values, dict):
        raise DataError("model: an object with the attributes of a fitted model is due")
    known = dataclasses.asdict(FittedModel())
    for name in values:
        if name not in known:
            raise DataError(f"model.{name}: unknown: {nearest(name, known)}")
    for name, like in known.items():
        if name not in values:
            raise DataError(f"model.{name}: missing")
        if not _alike(values[name], like):
            raise DataError(f"model.{name}: {str(values[name])[:40]!r} where one like {like!r} is due")
    return FittedModel(**values)


def _alike(value: Any, like: Any) -> bool:
    if isinstance(like, tuple):
        return isinstance(value, list) and 0 < len(value) <= MAX_NUMBERS and all(_alike(v, 0.0) for v in value)
    if isinstance(like, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_SIZE < value < MAX_SIZE
    return isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable()
