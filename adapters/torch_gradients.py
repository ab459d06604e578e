"""Gradients by name, as ``models.eprop`` gives them, into the parameters of the module that a network was read from.

    name of the gradient        parameter of a module called NAME (its path, joined by "_")
    NAME.weight, NAME.bias      weight [out, in], bias
    NAME.recurrence             recurrent.weight or V of snnTorch's neurons, recurrent_weights of Norse's
    NAME_input.weight           input_weights of Norse's recurrent cells

Then any optimiser of torch does the step. A recurrent bias of snnTorch, which acts as a bias of the layer before, keeps
its value: that layer's own bias learns in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.models.errors import ConfigError, nearest

__all__ = ["give_gradients"]

INPUT = "_input"


def give_gradients(module: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """Set ``.grad`` of a snnTorch or Norse module's parameters; those that no gradient names are left as they are.

    Args:
        module: what ``from_snntorch`` or ``from_norse`` read, or ``to_snntorch`` or ``to_norse`` made.
        gradients: by name as ``Network.weights`` names the weights, each [in, out], or [n] one to one or of a bias.
    Raises: ConfigError: the module has no such parameter, or one of another shape.
    """
    known = {f"{name}.{part}": parameter for name, part, parameter in _parameters(module)}
    for name, gradient in gradients.items():
        if name not in known:
            remedy = " (of a recurrent bias? give the linear layer before one)" if name.endswith(".bias") else ""
            raise ConfigError(f"gradient {name!r}: no such parameter in the module: {nearest(name, known)}{remedy}")
        parameter, turned = known[name], gradient.T if gradient.ndim == 2 else gradient
        if turned.shape != parameter.shape:
            raise ConfigError(f"gradient {name!r}: {tuple(turned.shape)} for a parameter {tuple(parameter.shape)}")
        parameter.grad = turned.to(parameter).contiguous()


def _parameters(module: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    named: Any = module
    made = hasattr(module, "keys") and hasattr(module, "layers")
    whole = {name: named[name] for name in named.keys} if made else _by_path(module)
    for name, part in whole.items():
        neuron: Any = getattr(part, "neuron", part)
        recurrent = getattr(neuron, "recurrent", None)
        places = [
            (name, "weight", neuron, "weight"),
            (name, "bias", neuron, "bias"),
            (name, "recurrence", recurrent, "weight"),
            (name, "recurrence", recurrent, "V"),
            (name, "recurrence", neuron, "recurrent_weights"),
            (name + INPUT, "weight", neuron, "input_weights"),
        ]
        for layer, what, holder, attribute in places:
            parameter = _parameter(holder, attribute)
            if parameter is not None:
                yield layer, what, parameter


def _by_path(module: nn.Module) -> dict[str, nn.Module]:
    """The parts of a module by their paths, as the readers join them: a ``Lift`` adds nothing."""
    found = {}
    for path, part in module.named_modules():
        words = [word for word in path.split(".") if word != "lifted_module"]
        found["_".join(words) or type(module).__name__.lower()] = part
    return found


def _parameter(holder: Any, name: str) -> nn.Parameter | None:
    """The parameter itself, also under a parametrization that masks it."""
    if not isinstance(holder, nn.Module):
        return None
    if parametrize.is_parametrized(holder, name):
        holder, name = getattr(holder.parametrizations, name), "original"
    value = getattr(holder, name, None)
    return value if isinstance(value, nn.Parameter) else None
