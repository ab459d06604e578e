"""Run a described network on tensors: a pure function of inputs and weights, and a module that holds the weights.

Layers are run one after the other, each over all of time: feed-forward products are then one product each. Weights are
named as ``Network.weights`` names them. Whoever calls may replace any of them: by a tensor (also one a sample, [B, in,
out], as after learning), or by a callable that does the product (a crossbar).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovonic.models.errors import ConfigError, nearest
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Pool, Pooling, Readout, Spiking
from ovonic.models.lif import ALL_PATHS, Paths, constants, leak, masked, product, unroll
from ovonic.models.network import Network
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate
from ovonic.models.trace import LayerTrace, Trace

__all__ = [
    "PLAIN",
    "Operations",
    "Product",
    "Simulator",
    "delayed",
    "inputs_by_name",
    "integrate",
    "run",
    "stateless",
]

Product = Callable[[Tensor], Tensor]
"""The product of what arrives, [..., in], with weights: [..., out]."""


class Operations(NamedTuple):
    """What a run is made of: ``lif.unroll`` for spiking layers, ``lif.product``, ``integrate`` for read-outs; or theirs
    of a faster engine."""

    unroll: Callable[..., tuple[LayerTrace, Any]]
    product: Callable[[Tensor, Tensor], Tensor]
    integrate: Callable[[Tensor, Readout], Tensor]


def run(
    network: Network,
    inputs: Tensor | Mapping[str, Tensor],
    weights: Mapping[str, Tensor | Product] | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = ALL_PATHS,
    operations: Operations | None = None,
) -> Trace:
    """Run a network from its initial state.

    Args:
        network: the description.
        inputs: [B, T, *shape] of a floating dtype, which is the run's; by name where the network has several.
        weights: replacements by name: tensors, or callables for linear layers, convolutions and recurrence.
        surrogate, paths: of ``lif.step``. operations: None is the plain step.
    Raises: ConfigError: an input or a weight is missing, unknown, or of the wrong shape.
    """
    do = operations or PLAIN
    given = inputs_by_name(network, inputs)
    like = next(iter(given.values()))
    ready = _weights(network, weights or {}, like)
    values: dict[str, Tensor] = dict(given)
    traces: dict[str, LayerTrace] = {}
    for name, layer in network.layers.items():
        if isinstance(layer, Input):
            continue
        arriving = [delayed(values[edge.source], edge.delay) for edge in network.sources(name)]
        current = functools.reduce(torch.add, arriving)
        if isinstance(layer, Spiking):
            recurrent, delay = _recurrence(layer, ready.get(f"{name}.recurrence"))
            traces[name], _ = do.unroll(current, layer.dynamics, recurrent, delay, None, surrogate, paths)
            values[name] = traces[name].spikes
        elif isinstance(layer, Readout):
            values[name] = do.integrate(current, layer)
        else:
            parts = ready.get(f"{name}.weight"), ready.get(f"{name}.bias")
            values[name] = stateless(current, layer, *parts, do.product)
    return Trace(traces, {name: values[name] for name in network.readouts}, given, network.dt_ms)


def integrate(currents: Tensor, readout: Readout) -> Tensor:
    """The membrane of a leaky read-out: v[t] = rest + decay (v[t-1] - rest) + gain u[t], [B, T, *neurons]."""
    d = constants(readout, currents.dtype, currents.device)
    i = torch.zeros_like(currents[:, 0])
    v = i + d.v_init
    potentials = []
    for current in currents.unbind(1):
        if d.synapse is not None:
            i = current = d.synapse(i, current)
        v = leak(v, current, d)
        potentials.append(v)
    return torch.stack(potentials, 1)


PLAIN = Operations(unroll, product, integrate)


class Simulator(nn.Module):
    """A network with learnable weights: ``run`` as a module.

    ``forward`` takes inputs as ``run`` does and returns a ``Trace``; ``describe`` gives the network with the weights as
    they are now. Parameters are named as ``Network.weights`` names them, with "/" for ".".
    """

    def __init__(
        self,
        network: Network,
        surrogate: Surrogate = PUBLISHED_SLOPE,
        paths: Paths = ALL_PATHS,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network, self.surrogate, self.paths = network, surrogate, paths
        for name, array in network.weights().items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(torch.tensor(array, dtype=dtype)))

    def weights(self) -> dict[str, Tensor]:
        """The weights by their names."""
        return {name.replace("/", "."): weight for name, weight in self.named_parameters()}

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Trace:
        return run(self.network, inputs, self.weights(), self.surrogate, self.paths)

    def describe(self) -> Network:
        """The network with the present weights."""
        arrays = {name: weight.detach().cpu().double().numpy() for name, weight in self.weights().items()}
        return self.network.with_weights(arrays)


def inputs_by_name(network: Network, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a run by name, each [B, T, *shape].

    Raises: ConfigError: an input is missing, unknown, or of the wrong shape or dtype.
    """
    names = network.inputs
    if isinstance(inputs, Tensor):
        if len(names) != 1:
            raise ConfigError(f"inputs: the network has {len(names)}: give them by name: {', '.join(names)}")
        inputs = {names[0]: inputs}
    for name in inputs:
        if name not in names:
            raise ConfigError(f"input {name!r}: {nearest(name, names)}")
    if missing := set(names) - set(inputs):
        raise ConfigError(f"inputs: {', '.join(sorted(missing))} missing")
    given = {name: inputs[name] for name in names}
    first = given[names[0]]
    for name, x in given.items():
        if x.shape[2:] != network.shapes[name] or not x.is_floating_point():
            due = f"[batch, time, {', '.join(map(str, network.shapes[name]))}] of a floating dtype"
            raise ConfigError(f"input {name!r}: {tuple(x.shape)} of {x.dtype} where {due} is due")
        if x.shape[:2] != first.shape[:2] or x.dtype != first.dtype or 0 in x.shape:
            raise ConfigError(
                f"input {name!r}: {tuple(x.shape)} of {x.dtype} beside {tuple(first.shape)} {first.dtype}"
            )
    return given


def _weights(network: Network, replaced: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    known = network.weights()
    for name, weight in replaced.items():
        if name not in known:
            raise ConfigError(f"weights {name!r}: {nearest(name, known)}")
        due, convolution = known[name].shape, isinstance(network.layers[name.split(".")[0]], Conv)
        if isinstance(weight, Tensor):
            if tuple(weight.shape) not in ((due,) if convolution else (due, (len(like), *due))):
                raise ConfigError(f"weights {name!r}: shape {tuple(weight.shape)} where {due} is due")
        elif name.endswith(".bias"):
            raise ConfigError(f"weights {name!r}: only the product of a layer or a recurrence may be a callable")
    fixed = {
        name: torch.tensor(array, dtype=like.dtype, device=like.device)
        for name, array in known.items()
        if name not in replaced
    }
    return fixed | dict(replaced)


def _recurrence(layer: Spiking, weight: Any) -> tuple[Product | Tensor | None, int]:
    if layer.recurrence is None:
        return None, 1
    if isinstance(weight, Tensor) and layer.recurrence.weight.ndim == 1:
        return functools.partial(torch.mul, weight), layer.recurrence.delay
    hollow = isinstance(weight, Tensor) and layer.recurrence.masked_diagonal
    return masked(weight) if hollow else weight, layer.recurrence.delay


def delayed(y: Tensor, delay: int) -> Tensor:
    """y[t - delay], zero before the first step."""
    if delay == 0:
        return y
    steps = min(delay, y.shape[1])
    return torch.cat([torch.zeros_like(y[:, :steps]), y[:, : y.shape[1] - steps]], 1)


def stateless(
    x: Tensor, layer: Layer, weight: Any, bias: Tensor | None, multiply: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What a layer without state gives for what arrives, [B, T, *shape], all steps at once."""
    if isinstance(layer, Linear):
        y = multiply(x, weight) if isinstance(weight, Tensor) else weight(x)
        return y if bias is None else y + (bias if bias.ndim == 1 else bias.unsqueeze(1))
    batch, flat = x.shape[:2], x.flatten(0, 1)
    if isinstance(layer, Flatten):
        return x.flatten(2)
    if isinstance(layer, Conv):
        if not isinstance(weight, Tensor):
            y = weight(flat)
            y = y if bias is None else y + bias.reshape(-1, *(1 for _ in y.shape[2:]))
            return y.unflatten(0, batch)
        convolve: Any = F.conv1d if weight.ndim == 3 else F.conv2d
        kernel = weight.transpose(0, 1)
        y = convolve(flat, kernel, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        return y.unflatten(0, batch)
    if isinstance(layer, Pool):
        return _pool(flat, layer).unflatten(0, batch)
    raise ConfigError(f"{type(layer).__name__}: no way to run it is known")


def _pool(x: Tensor, layer: Pool) -> Tensor:
    if line := len(layer.window) == 1:
        x = x.unsqueeze(-2)
    window, stride, padding = (
        (default, *given) if line else given
        for default, given in ((1, layer.window), (1, layer.stride), (0, layer.padding))
    )
    if layer.how is Pooling.MAX:
        y = F.max_pool2d(x, window, stride, padding)
    else:
        divisor = 1 if layer.how is Pooling.SUM else None
        y = F.avg_pool2d(x, window, stride, padding, divisor_override=divisor)
    return y.squeeze(-2) if line else y
