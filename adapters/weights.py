"""Weight files: safetensors with a JSON description in the metadata key ``ovonic``.

    {"format": 1, "kind": "fewshot-cnn", "network": {the fields of CNNConfig},
     "training": {command, seed, data, versions, steps, precision, ..}}

The tensors' names, type (float32) and shapes follow from ``network`` and are checked before one of them is read:
a file that lies is refused with the tensor's name. Arrays are NumPy's: torch is imported only when a network is
asked for, so that listing weights stays quick.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ovonic.adapters.files import write_atomically
from ovonic.adapters.published import FEWSHOT_ALPHABETS, fewshot_from_published, is_published
from ovonic.models.errors import ConfigError, WeightsError, nearest

if TYPE_CHECKING:
    from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN

__all__ = [
    "Weights",
    "describe",
    "fewshot_from",
    "fewshot_tensors",
    "load_weights",
    "readout_w_max",
    "resolve_fewshot",
    "save_fewshot",
    "save_weights",
    "shipped",
]

FORMAT = 1
FEWSHOT = "fewshot-cnn"


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """What a weight file holds.

    Attributes:
        kind: the network it belongs to, ``"fewshot-cnn"``.
        tensors: float32 arrays by parameter name.
        config: the network's configuration (for ``fewshot-cnn`` the fields of ``CNNConfig``).
        training: where the weights come from: command, seed, data, versions, steps, precision, ...
        path: the file.
    """

    kind: str
    tensors: dict[str, NDArray[np.float32]]
    config: dict[str, Any]
    training: dict[str, Any]
    path: Path


def shipped() -> dict[str, Path]:
    """Weights inside the package: file by name, sorted."""
    folder = Path(str(resources.files("ovonic").joinpath("weights")))
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))}


def save_weights(path: str | Path, tensors: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> None:
    """Write a weight file in one piece.

    Args:
        path: the target; an existing file is replaced.
        tensors: arrays by parameter name, stored as float32.
        config: ``{"kind": .., "network": {..}, "training": {..}}``, JSON values.
    Raises: WeightsError: what would not load again: an unknown kind, a NaN, a missing tensor, a wrong shape.
    """
    description = {"format": FORMAT, **config}
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
    _check_layout(path, {name: ("F32", array.shape) for name, array in arrays.items()}, description)
    _check_finite(path, arrays)
    metadata = {"ovonic": json.dumps(description, allow_nan=False)}
    write_atomically(path, safetensors.numpy.save(arrays, metadata=metadata))


def save_fewshot(path: str | Path, net: FewshotCNN, training: Mapping[str, Any]) -> None:
    """Write a few-shot CNN with its configuration and the provenance of its weights."""
    config = {"kind": FEWSHOT, "network": dataclasses.asdict(net.config), "training": dict(training)}
    save_weights(path, fewshot_tensors(net), config)


def load_weights(source: str | Path) -> Weights:
    """Read a weight file, trusting nothing in it.

    Args:
        source: a shipped name (``"fewshot-32bit"``) or a path (``./name`` where a file is called like one).
    Raises: WeightsError: no such name or file; damaged, or of an unknown kind or format; a tensor is missing,
        superfluous, of a wrong type or shape, or not finite.
    """
    path = _locate(source)
    description = describe(path)
    try:
        with safe_open(path, framework="np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            layout = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
            _check_layout(path, layout, description)
            tensors = {name: np.array(file.get_tensor(name)) for name in layout}
    except SafetensorError as error:
        raise _damaged(path, error) from error
    _check_finite(path, tensors)
    return Weights(description["kind"], tensors, description["network"], description["training"], path)


def describe(source: str | Path) -> dict[str, Any]:
    """Read what a weight file says of itself (format, kind, network, training), without tensors or torch.

    Raises: WeightsError: no such name or file, damaged, or of an unknown format or kind.
    """
    path = _locate(source)
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get("ovonic")
    except SafetensorError as error:
        raise _damaged(path, error) from error
    if text is None:
        raise WeightsError(f"{path}: no 'ovonic' entry in its metadata: not weights that Ovonic wrote")
    try:
        description = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its 'ovonic' metadata is not JSON ({error})") from error
    _check_kind(path, description)
    return description


def fewshot_tensors(net: FewshotCNN) -> dict[str, NDArray[np.float32]]:
    """The network's parameters by name: ``convs.0.weight`` .., ``readout.weight``, ``inner_lr``."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()}


def fewshot_from(weights: Weights) -> FewshotCNN:
    """Build the few-shot CNN of a weight file, in eval mode."""
    import torch

    from ovonic.models.fewshot_cnn import FewshotCNN

    net = FewshotCNN(_fewshot_config(weights.path, weights.config))
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.tensors.items()})
    return net.eval()


def resolve_fewshot(source: str | Path) -> tuple[FewshotCNN, dict[str, Any]]:
    """Load a few-shot CNN from whatever a user names, told apart by content and not by suffix.

    Args:
        source: a shipped name, a safetensors file, or a published checkpoint (npz or pickle).
    Returns: the network in eval mode; its provenance: ``source``, ``sha256`` of the file, and what the file says
        of its training.
    Raises: WeightsError: nothing of that name, or not the weights of a few-shot CNN.
    """
    path = _locate(source)
    with path.open("rb") as file:
        provenance = {"source": str(source), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    if is_published(path):
        origin = {
            "origin": "a checkpoint as published with Ortner et al. 2025",
            "precision": 32,
            "alphabets": list(FEWSHOT_ALPHABETS),
        }
        return fewshot_from_published(path), provenance | origin
    weights = load_weights(path)
    return fewshot_from(weights), provenance | weights.training


def readout_w_max(provenance: Mapping[str, Any]) -> float | None:
    """Full scale that the read-out's array needs: the largest |w| seen when the weights were trained, if they say it.

    Raises: WeightsError: not a positive number.
    """
    value = provenance.get("readout_w_max")
    if value is None:
        return None
    if not isinstance(value, float | int) or not 0 < value < math.inf:
        raise WeightsError(f"readout_w_max {value!r}: a positive number is needed")
    return float(value)


def _locate(source: str | Path) -> Path:
    names = shipped()
    if str(source) in names:
        return names[str(source)]
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        raise WeightsError(f"{path}: a folder, not a weight file")
    hint = nearest(str(source), names) if names else "this installation ships no weights"
    raise WeightsError(f"{source}: neither a file nor shipped weights: {hint}")


def _damaged(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path}: not a whole safetensors file ({error}): fetch or train it again")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _check_kind(path: str | Path, description: Any) -> None:
    if not isinstance(description, dict):
        raise WeightsError(f"{path}: its 'ovonic' metadata is not a JSON object")
    if description.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {description.get('format')!r}: this Ovonic reads format {FORMAT}")
    if description.get("kind") != FEWSHOT:
        raise WeightsError(f"{path}: kind {description.get('kind')!r}: this Ovonic knows {FEWSHOT!r}")
    for key in ("network", "training"):
        if not isinstance(description.get(key), dict):
            raise WeightsError(f"{path}: its 'ovonic' metadata has no object {key!r}")


def _fewshot_config(path: str | Path, values: Mapping[str, Any]) -> CNNConfig:
    from ovonic.models.fewshot_cnn import CNNConfig

    types = {field.name: type(field.default) for field in dataclasses.fields(CNNConfig)}
    for name, value in values.items():
        if name not in types:
            raise WeightsError(f"{path}: unknown configuration {name!r}: {nearest(name, types)}")
        fits = type(value) in (float, int) if types[name] is float else type(value) is types[name]
        if not fits or (types[name] is float and not math.isfinite(value)):
            raise WeightsError(f"{path}: configuration {name} {value!r}: expected {types[name].__name__}")
    if missing := sorted(types.keys() - values.keys()):
        raise WeightsError(f"{path}: its configuration lacks {', '.join(missing)}")
    try:
        return CNNConfig(**values)
    except ConfigError as error:
        raise WeightsError(f"{path}: configuration {error}") from error


def _check_layout(
    path: str | Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], description: Mapping[str, Any]
) -> None:
    """Compare names, types and shapes with those that follow from the configuration."""
    _check_kind(path, description)
    config = _fewshot_config(path, description["network"])
    expected: dict[str, tuple[int, ...]] = {
        f"convs.{block}.weight": (config.channels, config.channels if block else 1, 3, 3)
        for block in range(config.blocks)
    }
    expected |= {"readout.weight": (config.n_way, config.channels), "inner_lr": (config.updates,)}
    if missing := sorted(expected.keys() - layout.keys()):
        raise WeightsError(f"{path}: tensor {missing[0]!r} is missing")
    for name, (dtype, shape) in layout.items():
        if name not in expected:
            raise WeightsError(f"{path}: tensor {name!r} does not belong to a {FEWSHOT}")
        if dtype != "F32":
            raise WeightsError(f"{path}: tensor {name!r}: type {dtype}, expected F32")
        if shape != expected[name]:
            raise WeightsError(
                f"{path}: tensor {name!r}: shape {list(shape)}, its configuration says {list(expected[name])}"
            )


def _check_finite(path: str | Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{path}: tensor {name!r}: holds NaN or infinity")
