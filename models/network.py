"""The description of a spiking network: layers, the edges between them, one clock; no framework, and nothing left open.

    I_layer[t] = sum over the edges into it of y_source[t - delay]          (zero before the first step)

A layer reads any number of earlier ones. Weights are float64, [in, out]; every spiking layer has its exact
``Dynamics`` and may feed back on itself. Two equal networks give equal spikes: everything that moves between toolchains
moves through this description, and what it does not say, no adapter may assume.

Example, the robot arm's trainee (Ortner et al. 2025):

    Network.stack(
        {
            "clock": Input((5,)),
            "w_in": Linear(w_in),
            "trainee": Spiking(
                Dynamics(exp(-1 / 20), threshold=0.6, refractory=Refractory.from_n_ref(5)),
                Recurrence(w_rec, masked_diagonal=True),
            ),
            "w_out": Linear(w_out),
            "omega": Readout(exp(-1 / 20)),
        },
        dt_ms=1.0,
    )
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, Self

import numpy as np

from ovonic.models.errors import ConfigError, nearest
from ovonic.models.frozen import Array, PerNeuron, Record, Whole, frozen
from ovonic.models.layers import Input, Layer, Readout, Spiking

__all__ = ["Edge", "Network"]


class Edge(NamedTuple):
    """``target`` reads in step t what ``source`` gave in step t - ``delay``."""

    source: str
    target: str
    delay: int = 0

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


def _layers(where: str, value: Any) -> Mapping[str, Layer]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{where}: expected a mapping of names to layers")
    for name, layer in value.items():
        if not isinstance(name, str) or not name or set(name) & set("./ "):
            raise ConfigError(f"layer {name!r}: a name is a word without dots, slashes and spaces")
        if not isinstance(layer, Layer):
            raise ConfigError(f"layer {name!r}: {type(layer).__name__} is not a layer")
    return MappingProxyType(dict(value))


def _edges(where: str, value: Any) -> tuple[Edge, ...]:
    edges = []
    for entry in value if isinstance(value, Iterable) else ():
        if not isinstance(entry, (tuple, list)) or not 2 <= len(entry) <= 3:
            raise ConfigError(f"{where}: {entry!r} must be (source, target) or (source, target, delay)")
        edge = Edge(*entry)
        Whole(0)(f"edge {edge}: delay", edge.delay)
        edges.append(edge._replace(delay=int(edge.delay)))
    return tuple(edges)


@frozen
class Network(Record):
    """A directed graph of layers without cycles (a layer's own recurrence aside).

    Attributes:
        layers: name -> layer, kept in an order in which every layer stands behind those it reads.
        edges: who reads whom; what arrives at one layer is added up. Kept sorted: neither their order nor the layers'
            counts in a comparison.
        dt_ms: duration of one step, for all layers.
    Raises: ConfigError: naming layer and field, a bad name, an unknown end of an edge, a cycle, a layer that reads
        nothing, shapes that do not fit.
    """

    layers: Annotated[Mapping[str, Layer], _layers]
    edges: Annotated[tuple[Edge, ...], _edges]
    dt_ms: Annotated[float, PerNeuron(lambda x: x > 0, "be positive")] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for edge in self.edges:
            for end in edge[:2]:
                if end not in self.layers:
                    raise ConfigError(f"edge {edge}: no layer {end!r}: {nearest(str(end), self.layers)}")
        edges = tuple(sorted(self.edges, key=lambda e: (e.target, e.source, e.delay)))
        for edge, other in itertools.pairwise(edges):
            if edge == other:
                raise ConfigError(f"edge {edge}: given twice; double the weights instead")
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "layers", MappingProxyType({name: self.layers[name] for name in self._order()}))
        shapes: dict[str, tuple[int, ...]] = {}
        fitted = {}
        for name, layer in self.layers.items():
            arriving = {str(edge): shapes[edge.source] for edge in self.sources(name)}
            try:
                fitted[name] = layer.fitted(layer.arrives(arriving))
                shapes[name] = layer.gives(layer.arrives(arriving))
            except ConfigError as error:
                raise ConfigError(f"layer {name!r}: {error}") from None
        object.__setattr__(self, "layers", MappingProxyType(fitted))
        object.__setattr__(self, "_shapes", MappingProxyType(shapes))

    @classmethod
    def stack(cls, layers: Mapping[str, Layer], dt_ms: float = 1.0) -> Self:
        """The network in which each layer reads the one before it, without delay."""
        names = list(layers)
        return cls(layers, tuple(Edge(*pair) for pair in itertools.pairwise(names)), dt_ms)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """What each layer gives in a step, without batch and time."""
        return self._shapes  # type: ignore[attr-defined]

    def sources(self, name: str) -> tuple[Edge, ...]:
        """The edges into a layer."""
        return tuple(edge for edge in self.edges if edge.target == name)

    def names(self, kind: type[Layer]) -> tuple[str, ...]:
        """The layers of a kind, for example ``Spiking``, in the order of ``layers``."""
        return tuple(name for name, layer in self.layers.items() if isinstance(layer, kind))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what comes from outside."""
        return self.names(Input)

    @property
    def spiking(self) -> tuple[str, ...]:
        """The names of the spiking layers."""
        return self.names(Spiking)

    @property
    def readouts(self) -> tuple[str, ...]:
        """The names of the leaky read-outs."""
        return self.names(Readout)

    def weights(self) -> dict[str, Array]:
        """All weights and biases: ``"layer.weight"``, ``"layer.bias"``, ``"layer.recurrence"``."""
        return {
            f"{name}.{part}": array for name, layer in self.layers.items() for part, array in layer.weights().items()
        }

    def with_weights(self, weights: Mapping[str, Any]) -> Self:
        """This network with some weights replaced, named as ``weights()`` names them.

        Raises: ConfigError: an unknown name (with the nearest), or another shape.
        """
        known = self.weights()
        changes: dict[str, dict[str, Any]] = {}
        for key, value in weights.items():
            if key not in known:
                raise ConfigError(f"weights {key!r}: {nearest(key, known)}")
            if np.shape(value) != known[key].shape:
                raise ConfigError(f"weights {key!r}: shape {np.shape(value)} where {known[key].shape} is due")
            name, part = key.split(".")
            changes.setdefault(name, {})[part] = value
        changed = {name: self.layers[name].with_weights(parts) for name, parts in changes.items()}
        return self.replace(layers=dict(self.layers) | changed)

    def _order(self) -> tuple[str, ...]:
        reads: dict[str, list[str]] = {name: [] for name in self.layers}
        for edge in self.edges:
            reads[edge.target].append(edge.source)
        try:
            return tuple(graphlib.TopologicalSorter(reads).static_order())
        except graphlib.CycleError as error:
            raise ConfigError(
                f"edges {' -> '.join(error.args[1])}: a cycle; only a spiking layer may feed back, on itself "
                "(Spiking(recurrence=...)): join layers that feed each other into one"
            ) from None
