"""A training run's state from a checkpoint that nobody vouches for: every tensor, name and number is checked first.

net.NAME, average.NAME          the parameters of the network and of its running average
adam.I.MOMENT                   step, exp_avg and exp_avg_sq of the optimizer's parameter I, all three or none
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from ovonic.models.errors import WeightsError

__all__ = ["check_progress", "continue_from", "restore_tensors"]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Restorable(Protocol):
    """The state of a run."""

    def restore(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Continue from an earlier state."""


def continue_from(state: Restorable, path: Path, saved: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    """Restore the state of a run from what its checkpoint at ``path`` holds.

    Raises: WeightsError: not the state of such a run; the message names the file.
    """
    try:
        state.restore(*saved)
    except WeightsError as error:
        raise WeightsError(f"{path}: not the state of this run: {error}: delete it and start anew") from error


def restore_tensors(tensors: Mapping[str, Tensor], net: nn.Module, average: nn.Module, optimizer: Optimizer) -> None:
    """Load the networks and Adam's moments, or nothing.

    Raises: WeightsError: a tensor is missing, strange, or of another type or shape; it is named.
    """
    parameters = optimizer.state_dict()["param_groups"][0]["params"]
    shapes = [p.shape for p in optimizer.param_groups[0]["params"]]
    modules = {"net.": net, "average.": average}
    due = {f"{prefix}{name}": v for prefix, module in modules.items() for name, v in module.state_dict().items()}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.removeprefix("adam.").partition(".")
        if name in due:
            if tensor.shape != due[name].shape or tensor.dtype != due[name].dtype:
                raise WeightsError(f"tensor {name!r}: {tensor.dtype} of shape {list(tensor.shape)}: another is due")
        elif name.startswith("adam.") and moment in MOMENTS and number in map(str, parameters):
            shape = shapes[int(number)] if moment != "step" else ()
            if tensor.shape != shape or not tensor.is_floating_point():
                raise WeightsError(f"tensor {name!r}: {tensor.dtype} of shape {list(tensor.shape)}, not a moment's")
            moments.setdefault(int(number), {})[moment] = tensor
        else:
            raise WeightsError(f"tensor {name!r} does not belong to the state")
    missing = due.keys() - tensors.keys()
    missing |= {f"adam.{k}.{name}" for k, found in moments.items() for name in MOMENTS if name not in found}
    if missing:
        raise WeightsError(f"tensor {min(missing)!r} is missing")
    for prefix, module in modules.items():
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def check_progress(progress: Any, steps: int, like: Mapping[str, Any]) -> None:
    """Check what a checkpoint says beside its tensors.

    Args: steps: of the whole run; like: a state's progress, whose names and types are due.
    Raises: WeightsError: a name is missing, or a value not of its type.
    """
    if not isinstance(progress, dict):
        raise WeightsError("its progress is no object")
    for name, value in like.items():
        if name not in progress:
            raise WeightsError(f"progress {name!r} is missing")
        found = progress[name]
        fits = type(found) is type(value)
        if fits and isinstance(found, list):
            fits = all(isinstance(entry, dict) and type(entry.get("step")) is int for entry in found)
        elif fits and isinstance(found, dict):
            fits = all(type(entry) in (int, float) for entry in found.values())
        elif fits and isinstance(found, int):
            fits = 0 <= found <= steps
        if not fits:
            raise WeightsError(f"progress {name!r}: {str(found)[:60]!r} means nothing")
