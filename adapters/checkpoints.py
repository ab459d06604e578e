"""Checkpoints of a training run: safetensors with a JSON description in the metadata key ``ovonic``; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovonic.adapters.files import write_atomically
from ovonic.adapters.weights import KINDS, Weights, locate, read_weights
from ovonic.models.errors import ConfigError, WeightsError

__all__ = ["checkpoint_weights", "load_checkpoint", "save_checkpoint"]

FORMAT = 1


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], progress: Mapping[str, Any]
) -> None:
    """Write a run's state in one piece; an existing checkpoint is replaced only by a whole one.

    Args: tensors: the state; config: what the run is (must be equal on resume); progress: step and histories.
    """
    description = json.dumps({"format": FORMAT, "config": config, "progress": progress})
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain, metadata={"ovonic": description}))


def load_checkpoint(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint of the run ``config``.

    Returns: the tensors, and the progress that was saved.
    Raises: WeightsError: damaged, or not a checkpoint. ConfigError: of a run with another configuration; the first
        differing fields are named.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})["ovonic"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        saved, progress = description["config"], description["progress"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise WeightsError(f"{path}: not a whole checkpoint ({error!r}): delete it and start anew") from error
    wanted = json.loads(json.dumps(config))
    if description.get("format") != FORMAT or saved != wanted:
        raise ConfigError(
            f"{path}: a checkpoint of another run ({_differences(saved, wanted)}); "
            "give the same options, or another folder"
        )
    return tensors, progress


def checkpoint_weights(source: str | Path, kind: str) -> Weights | None:
    """The network's weights in the checkpoint of any run: those of its last step, not their running average.

    Args: source: a shipped name or a path; kind: of the network, see ``adapters.weights``.
    Returns: the weights; None: no checkpoint.
    Raises: WeightsError: no such file; a checkpoint of another experiment, damaged, or weights that are not finite.
    """
    path = locate(source)
    try:
        with safe_open(path, framework="np") as file:
            training = json.loads((file.metadata() or {})["ovonic"])["config"]["training"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    parts = [name for name in KINDS[kind] if name != "training"]
    if not isinstance(training, dict) or not all(isinstance(training.get(name), dict) for name in parts):
        raise WeightsError(f"{path}: a checkpoint of another experiment where one of {kind!r} is needed")
    description = {"format": FORMAT, "kind": kind, **{name: training[name] for name in parts}, "training": {}}
    return read_weights(path, description, "net.")


def _differences(saved: Any, wanted: Any, where: str = "") -> str:
    if isinstance(saved, dict) and isinstance(wanted, dict):
        parts = [
            _differences(saved.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
            for key in sorted(saved.keys() | wanted.keys())
            if saved.get(key) != wanted.get(key)
        ]
        return "; ".join(part for part in parts[:3] if part)
    return f"{where}: {saved!r} there, {wanted!r} asked for"
