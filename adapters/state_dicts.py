"""Weights of torch modules from files that hold tensors and nothing else: safetensors, and torch's state dicts.

    .safetensors                 read by safetensors
    .pt, .pth, .bin, .ckpt       read by ``torch_files``, without ``torch.load``: tensors in plain containers; no code
                                 of it runs, and nothing is allocated that it only declares

A state dict names tensors and not what happens between them, so that it needs the module of a Python file. A chain of
linear layers alone is complete once the function between them is told: ``linear_chain``.

Refused by name: TorchScript archives and exported programs, which are code, and pickles of modules, which run any.
"""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovonic.models.errors import ConfigError, WeightsError, nearest

__all__ = ["ACTIVATIONS", "SUFFIXES", "linear_chain", "load_into", "read_state_dict"]

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt2")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
REMEDY = (
    "write its tensors alone, torch.save(module.state_dict(), FILE) or safetensors.torch.save_file, and give the "
    "module itself as FILE.py:NAME with --weights"
)
MOST_BYTES = 2**32
DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16}
DTYPES |= {torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Raises: WeightsError: damaged, or something else than tensors by name, with a remedy. OSError: no such file.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: weights are read from {', '.join(SUFFIXES[:-1])}")
    if path.stat().st_size > MOST_BYTES:
        raise WeightsError(f"{path}: {path.stat().st_size} bytes: at most {MOST_BYTES}")
    loaded = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{path}: {type(loaded).__name__}, where tensors by name are due")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {str(name)[:60]!r} is a {type(value).__name__}, where a tensor is due")
        if value.dtype not in DTYPES:
            raise WeightsError(f"{path}: {name[:60]!r} holds {value.dtype}, which is not read")
        if math.prod(max(n, 1) for n in value.shape) > MOST_BYTES:  # an empty one may say any other size
            raise WeightsError(f"{path}: {name[:60]!r} is of {tuple(value.shape)}: more than {MOST_BYTES} numbers")
        if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{path}: {name[:60]!r} holds numbers that are not finite")
    return dict(loaded)


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Give a module these weights, all of its own and no others.

    Raises: WeightsError: naming what is missing, unknown, or of another shape.
    """
    own = module.state_dict()
    for name in state:
        if name not in own:
            raise WeightsError(f"{source}: {name!r}, which {type(module).__name__} has not: {nearest(name, own)}")
    for name, tensor in own.items():
        if name not in state:
            raise WeightsError(f"{source}: no {name!r}, which {type(module).__name__} has")
        if tensor.shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)} where {tuple(tensor.shape)} is due"
            raise WeightsError(f"{source}: {name!r}: shape {shapes}")
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise WeightsError(f"{source}: {error}") from error


def linear_chain(state: Mapping[str, Tensor], activation: str | None, source: str) -> nn.Sequential:
    """The chain of linear layers that a state dict of nothing else names, in the file's order.

    Args: activation: of ``ACTIVATIONS``, between every two layers, not behind the last; None is not told.
    Raises: WeightsError: other tensors than those of linear layers, or layers that do not fit one another. ConfigError:
        an unknown activation, or none where it is due.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise ConfigError(f"--activation {activation}: {nearest(activation, ACTIVATIONS)}")
    weights = {name: w for name, w in state.items() if name.endswith("weight") and w.ndim == 2 and not w.is_complex()}
    for name, tensor in state.items():
        owner = name.removesuffix("bias") + "weight"
        is_bias = name.endswith("bias") and owner in weights and tensor.ndim == 1 and not tensor.is_complex()
        if name in weights or is_bias:
            continue
        what = f"{name!r} of {tuple(tensor.shape)} is not of a linear layer, and a file does not say what else is done"
        raise WeightsError(f"{source}: {what}: give the module as FILE.py:NAME, and this file as --weights")
    ordered = sorted(weights, key=_natural)
    for before, after in itertools.pairwise(ordered):
        if weights[before].shape[0] != weights[after].shape[1]:
            fits = f"{before!r} gives {weights[before].shape[0]}, {after!r} takes {weights[after].shape[1]}"
            raise WeightsError(f"{source}: no chain: {fits}: give the module as FILE.py:NAME with --weights")
    if not weights:
        raise WeightsError(f"{source}: holds no weights")
    if len(ordered) > 1 and activation is None:
        raise ConfigError(
            f"{source}: {len(ordered)} linear layers; what happens between them no file of weights says: --activation "
            f"{'|'.join(ACTIVATIONS)}, or the module as FILE.py:NAME with --weights"
        )
    parts: list[nn.Module] = []
    for name in ordered:
        bias = state.get(name.removesuffix("weight") + "bias")
        out, n_in = weights[name].shape
        if bias is not None and bias.shape != (out,):
            raise WeightsError(f"{source}: {name!r} has a bias of {tuple(bias.shape)} where ({out},) is due")
        layer = nn.Linear(n_in, out, bias is not None)
        with torch.no_grad():
            layer.weight.copy_(weights[name])
            if bias is not None:
                layer.bias.copy_(bias)
        parts += [*([ACTIVATIONS[activation]()] if parts and activation else []), layer]
    return nn.Sequential(*parts).eval()


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Parts of a name in order, numbers by their value."""
    return tuple((int(part), "") if part.isdecimal() and len(part) < 20 else (-1, part) for part in name.split("."))


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors and torch raise what comes
        if isinstance(error, OSError) and error.filename is not None:  # the file itself cannot be opened
            raise
        raise WeightsError(f"{path}: no safetensors file ({str(error)[:200]})") from error


def _torch(path: Path) -> Any:
    from ovonic.adapters.torch_files import MoreThanTensors, read_tensors

    try:
        if kind := _program(path):
            raise WeightsError(f"{path}: {kind}, which is code: {REMEDY}")
        return read_tensors(path)
    except WeightsError:
        raise
    except MoreThanTensors as error:
        raise WeightsError(
            f"{path}: more than tensors is pickled in it, which would run its code ({error}): {REMEDY}"
        ) from None
    except Exception as error:  # zipfile, struct and torch raise what comes
        if isinstance(error, OSError) and error.filename is not None:  # the file itself cannot be opened
            raise
        raise WeightsError(f"{path}: no file of torch tensors ({type(error).__name__}: {str(error)[:200]})") from error


def _program(path: Path) -> str:
    """What kind of program an archive of torch is; "" if it is none."""
    if not zipfile.is_zipfile(path):
        return "an exported program" if path.suffix == ".pt2" else ""
    with zipfile.ZipFile(path) as archive:
        inner = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        return "a TorchScript archive"
    if path.suffix == ".pt2" or {"archive_format", "serialized_exported_program.json", "models/model.json"} & inner:
        return "an exported program"
    return ""
