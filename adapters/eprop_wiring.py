"""The networks whose e-prop NEST and Brian2 compute themselves, and what such a run returns.

    x -> Linear -> hidden (recurrent or not) -> Linear -> y, with any number of inputs and of read-outs

One spiking layer, one Linear on every edge from an input and to a read-out, no delay but the recurrence's, no bias: the
wiring of Bellec et al. 2020. What differs is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from ovonic.adapters.toolchains import Unsupported
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Readout, Spiking
from ovonic.models.network import Network
from ovonic.models.trace import Trace

__all__ = ["EpropEpisode", "Wiring", "misplaced", "targets_by_name", "wiring"]


class Wiring(NamedTuple):
    """hidden: the spiking layer. into: (Linear, Input) of every way in. out: (Linear, Readout) of every way out."""

    hidden: str
    into: tuple[tuple[str, str], ...]
    out: tuple[tuple[str, str], ...]


class EpropEpisode(NamedTuple):
    """An episode as a toolchain ran it and learned from it.

    Attributes:
        gradients: by name as ``Network.weights`` names them, [in, out], summed over the samples; of the loss
            1/2 sum (y - target)^2, whatever the toolchain normalises.
        trace: the run.
    """

    gradients: dict[str, Tensor]
    trace: Trace


def misplaced(network: Network) -> Iterator[Unsupported]:
    """What of a network's graph is not the wiring of the module's text."""
    spiking = network.spiking
    if len(spiking) != 1:
        yield Unsupported(
            ", ".join(spiking) or "network", "Spiking", f"{len(spiking)} spiking layers, e-prop here learns one"
        )
    for name, layer in network.layers.items():
        if not isinstance(layer, Input | Linear | Spiking | Readout):
            yield Unsupported(
                name, type(layer).__name__, "e-prop here learns Linear layers", "write it out as a Linear"
            )
        elif len(network.shapes[name]) > 1:
            yield Unsupported(name, f"shape {network.shapes[name]}", "neurons stand in a line", "number them through")
        if isinstance(layer, Linear):
            if layer.bias is not None:
                yield Unsupported(name, "Linear.bias", "it is no synapse that learns", "give an input that is always 1")
            readers = [edge for edge in network.edges if edge.source == name]
            kinds = [type(network.layers[edge.source]) for edge in network.sources(name)]
            if len(kinds) != 1 or len(readers) != 1:
                yield Unsupported(name, "Linear", "synapses have one source and one target", "give each edge its own")
                continue
            pair = kinds[0], type(network.layers[readers[0].target])
            if pair not in ((Input, Spiking), (Spiking, Readout)):
                said = f"it leads from {pair[0].__name__} to {pair[1].__name__}"
                yield Unsupported(name, "Linear", said, "lead from an Input to the neurons or from them to a Readout")
    for edge in network.edges:
        if edge.delay:
            yield Unsupported(edge.target, f"edge {edge}", f"a delay of {edge.delay}", "leave delays to the recurrence")
        if not isinstance(network.layers[edge.source], Linear) and not isinstance(network.layers[edge.target], Linear):
            yield Unsupported(edge.target, f"edge {edge}", "no weights on it", "put a Linear between")


def wiring(network: Network) -> Wiring:
    """The wiring of a network in which ``misplaced`` finds nothing."""
    (hidden,) = network.spiking
    read = {edge.source: edge.target for edge in network.edges}
    into, out = [], []
    for name in network.names(Linear):
        (edge,) = network.sources(name)
        if edge.source == hidden:
            out.append((name, read[name]))
        else:
            into.append((name, edge.source))
    return Wiring(hidden, tuple(into), tuple(out))


def targets_by_name(network: Network, targets: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    """The targets of all read-outs, [B, T, O] as ``like``.

    Raises: ConfigError: one is missing, unknown or of another shape.
    """
    if set(targets) != set(network.readouts):
        raise ConfigError(f"targets: of {sorted(targets)}; the network's read-outs are {sorted(network.readouts)}")
    for name, target in targets.items():
        due = (*like.shape[:2], *network.shapes[name])
        if tuple(target.shape) != due:
            raise ConfigError(f"targets {name!r}: shape {tuple(target.shape)} where {due} is due")
    return {name: target.detach().to(like) for name, target in targets.items()}
