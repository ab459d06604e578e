"""What of a network or of a torch module goes on a crossbar: its layers with weight matrices, and how they are driven.

    models.network.Network    linear layers, convolutions, recurrent matrices, by ``Network.weights``' names
    torch.nn.Module           every nn.Linear, nn.Conv1d and nn.Conv2d, nested too, by ``named_parameters``' names;
                              anything else with a weight matrix of its own is refused by name

Biases, norms, neurons' constants and one-to-one weights are digital.

A network says what drives its rows: spikes are binary, a mean of spikes unsigned; what comes from outside or from
another product is taken as signed. A torch module does not, but an example input does: it is run, and the values that
reach each layer are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.torch_layers import READERS, Hollow, read_layer, refuse_layer
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Spiking
from ovonic.models.network import Network

__all__ = ["Driven", "Found", "found_in_module", "found_in_network", "observed"]


@dataclass(frozen=True)
class Driven:
    """What reaches the rows of a layer: its kind, its largest magnitude (the DAC's full scale), vectors a step."""

    inputs: str = "signed"
    input_range: float = 1.0
    vectors: int = 1


@dataclass(frozen=True)
class Found:
    """A layer with a weight matrix.

    Attributes:
        name: of its weight; layer: with its weights [in, out, window]; kind: see ``crossbar.PlacedLayer``.
        transposed: its own weight has outputs first; masked_diagonal: of a recurrence.
        driven: what reaches it; reads, feeds, lag: see ``crossbar``.
    """

    name: str
    layer: Linear | Conv
    kind: str
    transposed: bool = False
    masked_diagonal: bool = False
    driven: Driven = Driven()
    reads: str = ""
    feeds: str = ""
    lag: int = 0


def found_in_network(network: Network) -> tuple[list[Found], list[tuple[str, ...]], list[str]]:
    """The layers of a network, names of those that are read together, and names of its digital parameters.

    Read together: a recurrent matrix, the linear layers that feed these neurons alone, and the linear layers that read
    them alone and feed no recurrent neurons; all without other delays.
    """
    signals = _signals(network)
    found: dict[str, Found] = {}
    digital = [name for name in network.weights() if name.endswith(".bias")]
    for name, layer in network.layers.items():
        if isinstance(layer, Linear | Conv):
            vectors = math.prod(network.shapes[name][1:])
            kind = "linear" if isinstance(layer, Linear) else "convolution"
            inputs, top = _arriving(network, name, signals)
            reads = _only_source(network, name) or f"into {name}"
            weight = f"{name}.weight"
            found[weight] = Found(weight, layer, kind, driven=Driven(inputs, top, vectors), reads=reads, feeds=name)
        elif isinstance(layer, Spiking) and layer.recurrence is not None:
            recurrence, weight = layer.recurrence, f"{name}.recurrence"
            if recurrence.weight.ndim == 1:
                digital.append(weight)
                continue
            found[weight] = Found(
                weight,
                Linear(recurrence.weight),
                "recurrence",
                masked_diagonal=recurrence.masked_diagonal,
                driven=Driven("binary"),
                reads=name,
                feeds=name,
                lag=recurrence.delay,
            )
    together = _together(network, found)
    for recurrence_name, *others in together:
        whole = found[recurrence_name]
        for other in others:
            member, layer_name = found[other], other.removesuffix(".weight")
            if _feeds(network, layer_name) == whole.feeds:
                changes: dict[str, Any] = {"feeds": whole.feeds}
            else:
                changes = {"reads": whole.reads, "lag": whole.lag}
            found[other] = Found(**vars(member) | changes)
    return list(found.values()), [tuple(name for name in found if name in group) for group in together], digital


def found_in_module(module: nn.Module) -> tuple[list[Found], list[str]]:
    """The linear layers and convolutions of a torch module, and names of its digital parameters.

    Raises: UnsupportedDynamics: names a module with another weight matrix, options that no layer has, or a weight that
        two modules share.
    """
    found: list[Found] = []
    digital: list[str] = []
    owners: dict[int, str] = {}
    for path, part in module.named_modules():
        kind = parametrize.type_before_parametrizations(part)
        if kind in (nn.Linear, nn.Conv1d, nn.Conv2d):
            layer: Any = read_layer(path or kind.__name__, part)
            name = f"{path}.weight" if path else "weight"
            key = id(part._parameters.get("weight", part))
            if key in owners:
                refuse_layer(path, f"shares its weight with {owners[key]!r}", "give each its own")
            owners[key] = name
            shape = "linear" if isinstance(layer, Linear) else "convolution"
            found.append(Found(name, layer, shape, True, _is_hollow(part), reads=name, feeds=name))
            digital += [name.removesuffix("weight") + "bias"] if layer.bias is not None else []
        elif kind not in READERS and not isinstance(part, parametrize.ParametrizationList):
            for name, parameter in part.named_parameters(recurse=False):
                if isinstance(parameter, nn.parameter.UninitializedParameter):
                    refuse_layer(path or kind.__name__, f"its {name} is not initialised", "run it once")
                if parameter.ndim > 1:
                    what = f"its {name} of {tuple(parameter.shape)} is a weight matrix of a {kind.__name__}"
                    refuse_layer(path or kind.__name__, what, "make it an nn.Linear, nn.Conv1d or nn.Conv2d")
                digital.append(f"{path}.{name}" if path else name)
    if not found:
        raise ConfigError(f"{type(module).__name__}: holds no linear layer and no convolution to place")
    return found, digital


def observed(module: nn.Module, example: Any) -> dict[str, Driven]:
    """What reaches the linear layers and convolutions when the module runs on an example, by the weight's name.

    Args: example: one inference of one or more samples on axis 0, a tensor or the tuple of the module's arguments.
        Vectors are counted over the whole run, all steps of time included, a sample.
    """
    args = example if isinstance(example, tuple) else (example,)
    samples = len(next((arg for arg in args if isinstance(arg, Tensor) and arg.ndim), torch.zeros(1)))
    seen: dict[str, list[tuple[bool, bool, float, int]]] = {}

    def watch(name: str, part: nn.Module) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            x = given[0].detach()
            vectors = out.numel() // part.weight.shape[0]  # type: ignore[index]
            binary, unsigned = bool(((x == 0) | (x == 1)).all()), bool((x >= 0).all())
            seen.setdefault(name, []).append((binary, unsigned, float(x.abs().max()), int(vectors)))

        return part.register_forward_hook(hook)

    hooks = [
        watch(f"{path}.weight" if path else "weight", part)
        for path, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(*args)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return {name: _summed(calls, samples) for name, calls in seen.items()}


def _summed(calls: list[tuple[bool, bool, float, int]], samples: int) -> Driven:
    binary, unsigned = (all(call[k] for call in calls) for k in (0, 1))
    top = max(call[2] for call in calls)
    inputs = "binary" if binary else "unsigned" if unsigned else "signed"
    vectors = max(1, round(sum(call[3] for call in calls) / samples))
    return Driven(inputs, 1.0 if binary or not top > 0 else top, vectors)


def _is_hollow(part: nn.Module) -> bool:
    if not parametrize.is_parametrized(part, "weight"):
        return False
    return any(isinstance(one, Hollow) for one in part.parametrizations["weight"])  # type: ignore[index]


def _signals(network: Network) -> Mapping[str, tuple[str, float]]:
    """Kind and largest magnitude of what each layer gives; what cannot be known is signed up to 1."""
    known: dict[str, tuple[str, float]] = {}
    for name, layer in network.layers.items():
        if isinstance(layer, Spiking):
            known[name] = "binary", 1.0
        elif isinstance(layer, Flatten | Pool):
            kind, top = _arriving(network, name, known)
            if isinstance(layer, Pool) and layer.how is not Pooling.MAX and kind == "binary":
                kind, top = "unsigned", math.prod(layer.window) if layer.how is Pooling.SUM else 1.0
            elif isinstance(layer, Pool) and layer.how is Pooling.SUM:
                top *= math.prod(layer.window)
            known[name] = kind, float(top)
        else:
            known[name] = "signed", 1.0
    return known


def _arriving(network: Network, name: str, signals: Mapping[str, tuple[str, float]]) -> tuple[str, float]:
    given = [signals[edge.source] for edge in network.sources(name)]
    if len(given) == 1:
        return given[0]
    return "signed" if any(kind == "signed" for kind, _ in given) else "unsigned", sum(top for _, top in given)


def _only_source(network: Network, name: str) -> str:
    """The layer that ``name`` alone reads without delay, or nothing."""
    edges = network.sources(name)
    return edges[0].source if len(edges) == 1 and not edges[0].delay else ""


def _feeds(network: Network, name: str) -> str:
    """The layer that ``name`` alone feeds without delay, or nothing."""
    edges = [edge for edge in network.edges if edge.source == name]
    return edges[0].target if len(edges) == 1 and not edges[0].delay else ""


def _together(network: Network, found: Mapping[str, Found]) -> list[tuple[str, ...]]:
    """Groups of names, each with the recurrence first."""
    recurrent = {f.feeds: name for name, f in found.items() if f.kind == "recurrence"}
    groups: dict[str, list[str]] = {neurons: [name] for neurons, name in recurrent.items()}
    for name, f in found.items():
        if f.kind != "linear":
            continue
        own = name.removesuffix(".weight")
        feeds, reads = _feeds(network, own), _only_source(network, own)
        if feeds in recurrent:
            groups[feeds].append(name)
        elif reads in recurrent:
            groups[reads].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def inputs_of(network: Network) -> tuple[str, ...]:
    """Names of the weights of layers that read an input alone: what drives them is the caller's to say."""
    return tuple(
        f"{name}.weight"
        for name, layer in network.layers.items()
        if isinstance(layer, Linear | Conv) and isinstance(network.layers.get(_only_source(network, name)), Input)
    )
