"""Weight files: safetensors with a JSON description in the metadata key ``ovonic``.

    {"format": 1, "kind": "fewshot-cnn", "network": {the fields of CNNConfig},
     "training": {command, seed, data, versions, steps, precision, ..}}

or of the kind ``"robot-natural-eprop"``, which says more (``adapters.weights_robot``). The tensors' names, type
(float32) and shapes follow from ``network`` and are checked before one of them is read: a file that lies is refused
with the tensor's name. Arrays are NumPy's: torch is imported only when a network is asked for, so that listing weights
stays quick.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

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
    "FEWSHOT",
    "KINDS",
    "PUBLISHED",
    "ROBOT",
    "Weights",
    "describe",
    "fewshot_from",
    "fewshot_tensors",
    "from_fields",
    "load_weights",
    "locate",
    "origin",
    "read_weights",
    "readout_w_max",
    "resolve_fewshot",
    "save_fewshot",
    "save_weights",
    "shipped",
]

FORMAT = 1
FEWSHOT, ROBOT = "fewshot-cnn", "robot-natural-eprop"
KINDS = {FEWSHOT: ("network", "training"), ROBOT: ("network", "inner", "code", "training")}
"""The JSON objects that describe each kind."""
PUBLISHED = {"origin": "a checkpoint as published with Ortner et al. 2025"}


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """What a weight file holds.

    Attributes:
        kind: the network it belongs to, ``"fewshot-cnn"`` or ``"robot-natural-eprop"``.
        tensors: float32 arrays by parameter name.
        config: the network's configuration (the fields of ``CNNConfig``, or of ``NaturalEPropConfig``).
        training: where the weights come from: command, seed, data, versions, steps, precision, ...
        path: the file.
        more: the other objects of the kind's description.
    """

    kind: str
    tensors: dict[str, NDArray[np.float32]]
    config: dict[str, Any]
    training: dict[str, Any]
    path: Path
    more: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def shipped() -> dict[str, Path]:
    """Weights inside the package: file by name, sorted."""
    folder = Path(str(resources.files("ovonic").joinpath("weights")))
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))}


def save_weights(path: str | Path, tensors: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> None:
    """Write a weight file in one piece.

    Args:
        path: the target; an existing file is replaced.
        tensors: arrays by parameter name, stored as float32.
        config: ``{"kind": .., "network": {..}, "training": {..}}`` and what else describes the kind, JSON values.
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


def load_weights(source: str | Path, kind: str | None = None) -> Weights:
    """Read a weight file, trusting nothing in it.

    Args:
        source: a shipped name (``"fewshot-32bit"``) or a path (``./name`` where a file is called like one).
        kind: the only one that will do; None: any.
    Raises: WeightsError: no such name or file; damaged, of an unknown kind or format, or of another kind; a tensor is
        missing, superfluous, of a wrong type or shape, or not finite.
    """
    path = locate(source)
    description = describe(path)
    if kind not in (None, description["kind"]):
        raise WeightsError(f"{source}: weights of the kind {description['kind']!r} where {kind!r} is needed")
    return read_weights(path, description)


def read_weights(path: Path, description: Mapping[str, Any], prefix: str = "") -> Weights:
    """Read the tensors that a description asks for, of a file where their names begin with ``prefix``.

    Raises: WeightsError: as ``load_weights``.
    """
    try:
        with safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (no mapping)
            parts = {name.removeprefix(prefix): file.get_slice(name) for name in names}
            layout = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
            _check_layout(path, layout, description)
            tensors = {name: np.array(file.get_tensor(prefix + name)) for name in layout}
    except SafetensorError as error:
        raise _damaged(path, error) from error
    _check_finite(path, tensors)
    more = {key: description[key] for key in KINDS[description["kind"]] if key not in ("network", "training")}
    return Weights(description["kind"], tensors, description["network"], description["training"], path, more)


def describe(source: str | Path) -> dict[str, Any]:
    """Read what a weight file says of itself (format, kind, network, training, ..), without tensors or torch.

    Raises: WeightsError: no such name or file, damaged, or of an unknown format or kind.
    """
    path = locate(source)
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
    path = locate(source)
    provenance = origin(source, path)
    if is_published(path):
        return fewshot_from_published(path), provenance | PUBLISHED | {
            "precision": 32,
            "alphabets": list(FEWSHOT_ALPHABETS),
        }
    weights = load_weights(source, FEWSHOT)
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


def origin(source: str | Path, path: Path) -> dict[str, str]:
    """Where weights come from: what the user called them, ``source``, and ``sha256`` of the file."""
    with path.open("rb") as file:
        return {"source": str(source), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def locate(source: str | Path) -> Path:
    """The file that ``source``, a shipped name or a path, names.

    Raises: WeightsError: none.
    """
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


def from_fields[C](path: str | Path, values: Mapping[str, Any], config: type[C], label: str = "configuration") -> C:
    """Build the dataclass ``config`` from what a file says: every field, each of its type, none unknown.

    Raises: WeightsError: it does not say that; the message names file, ``label`` and field.
    """
    hints = get_type_hints(config)
    for name, value in values.items():
        if name not in hints:
            raise WeightsError(f"{path}: unknown {label} {name!r}: {nearest(name, hints)}")
        if not _fits(value, hints[name]):
            expected = getattr(hints[name], "__name__", None) if not get_args(hints[name]) else None
            raise WeightsError(f"{path}: {label} {name} {value!r}: expected {expected or hints[name]}")
    if missing := sorted(hints.keys() - values.keys()):
        raise WeightsError(f"{path}: its {label} lacks {', '.join(missing)}")
    try:
        return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except ConfigError as error:
        raise WeightsError(f"{path}: {label} {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type: a number, text, a union of such, or a tuple, which JSON calls list."""
    if get_origin(hint) is tuple:
        types = get_args(hint)
        return type(value) is list and len(value) == len(types) and all(map(_fits, value, types))
    if get_args(hint):
        return any(_fits(value, choice) for choice in get_args(hint))
    if hint is float:
        return type(value) in (float, int) and abs(value) <= sys.float_info.max
    return type(value) is hint


def _check_kind(path: str | Path, description: Any) -> None:
    if not isinstance(description, dict):
        raise WeightsError(f"{path}: its 'ovonic' metadata is not a JSON object")
    if description.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {description.get('format')!r}: this Ovonic reads format {FORMAT}")
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise WeightsError(f"{path}: kind {kind!r}: this Ovonic knows {', '.join(map(repr, KINDS))}")
    for key in KINDS[kind]:
        if not isinstance(description.get(key), dict):
            raise WeightsError(f"{path}: its 'ovonic' metadata has no object {key!r}")


def _fewshot_config(path: str | Path, values: Mapping[str, Any]) -> CNNConfig:
    from ovonic.models.fewshot_cnn import CNNConfig

    return from_fields(path, values, CNNConfig)


def _fewshot_shapes(path: str | Path, description: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    config = _fewshot_config(path, description["network"])
    shapes: dict[str, tuple[int, ...]] = {
        f"convs.{block}.weight": (config.channels, config.channels if block else 1, 3, 3)
        for block in range(config.blocks)
    }
    return shapes | {"readout.weight": (config.n_way, config.channels), "inner_lr": (config.updates,)}


def _check_layout(
    path: str | Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], description: Mapping[str, Any]
) -> None:
    """Compare names, types and shapes with those that follow from the configuration."""
    _check_kind(path, description)
    kind = description["kind"]
    if kind == ROBOT:
        from ovonic.adapters.weights_robot import robot_shapes

        expected = robot_shapes(path, description)
    else:
        expected = _fewshot_shapes(path, description)
    if missing := sorted(expected.keys() - layout.keys()):
        raise WeightsError(f"{path}: tensor {missing[0]!r} is missing")
    for name, (dtype, shape) in layout.items():
        if name not in expected:
            raise WeightsError(f"{path}: tensor {name!r} does not belong to a {kind}")
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
