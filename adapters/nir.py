"""NIR: a network as a plain NIR graph that any NIR tool reads; what NIR cannot say travels in its metadata.

    here                    NIR node                              said by the contract alone
    Input                   Input
    Linear W [in, out], b   Linear, or Affine with b; [out, in]
    Conv W, b               Conv1d, Conv2d; a bias of zeros if    whether there is a bias
                            there is none
    Pool                    AvgPool2d, SumPool2d; none for the
                            maximum, or over one axis
    Flatten                 Flatten of all dims
    Spiking                 LIF; CubaLIF with a synapse; IF if    when a reset acts, and what it does unless it sets a
                            no neuron leaks                       value; refractoriness, adaptation, comparison, v_init
    Readout                 LI; CubaLI with a synapse; I          v_init
    Recurrence W, or w      NAME_recurrence: Linear, or Scale     that a cycle takes a step; the masked diagonal
    a delay of n steps      Delay of n dt; n - 1 in a cycle       dt
    what no layer reads     NAME_output: Output

The constants are ``nir_nodes``'s, the contract is ``nir_contract``'s. A graph that carries it comes back bit for bit;
any other is read under a convention that the caller names (``nir_conventions``), never guessed. ``convention=`` in
writing gives the form that one tool's own import reproduces (``nir_forms``). Reference: nir 1.0.8, whose ``metadata``
survives its files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nir  # type: ignore[import-untyped]
import numpy as np
from torch import nn

from ovonic.adapters.nir_contract import ONE_TO_ONE, check_agreement, contract, has_contract, metadata, with_weights
from ovonic.adapters.nir_files import read_graph, write_graph
from ovonic.adapters.nir_forms import FORMS
from ovonic.adapters.nir_graph import Graph, as_graph
from ovonic.adapters.nir_nodes import Shape, typed
from ovonic.adapters.nir_reading import CONVENTIONS, NirReading, read_by_convention
from ovonic.adapters.toolchains import refuse
from ovonic.models.dynamics import Reset
from ovonic.models.errors import ConfigError, DataError, UnsupportedDynamics, nearest
from ovonic.models.layers import Conv, Linear, Spiking
from ovonic.models.natural_eprop_networks import Pair
from ovonic.models.network import Network

__all__ = [
    "CONVENTIONS",
    "MendedGraph",
    "NirReading",
    "load_nir",
    "load_pair",
    "network_from_nir",
    "network_to_nir",
    "pair_from_nir",
    "pair_to_nir",
    "read_nir",
    "save_nir",
    "save_pair",
]


class MendedGraph(UserWarning):
    """A graph that nir itself refuses was mended in reading; the text says how."""


def network_to_nir(network: Network, convention: str | None = None) -> nir.NIRGraph:
    """The network as a NIR graph with its contract.

    Args:
        convention: None: NIR's own terms, for all readers. A name of ``nir_forms.FORMS``: the form that this tool's own
            import reproduces (Norse's called with ``dt`` of the network).
    Raises: UnsupportedDynamics: layer, feature and remedy: NIR has no node for it, or the tool would do something else;
        a torch module. ConfigError: an unknown convention.
    """
    if isinstance(network, nn.Module):
        raise _no_network(network)
    if convention not in FORMS:
        raise ConfigError(f"convention {convention!r}: {nearest(str(convention), [name for name in FORMS if name])}")
    form = FORMS[convention]
    refuse(form.reader, form.unsupported(network))
    data = network.to_dict()
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []

    def add(name: str, node: Any) -> str:
        while name in nodes or name in network.layers:
            name += "_"
        nodes[name] = node
        return name

    def connect(source: str, target: str, steps: int, shape: Shape) -> None:
        if steps:
            late = add(f"{source}_{target}_delay{steps}", nir.Delay(np.full(shape, steps * network.dt_ms / 1e3)))
            edges.append((source, late))
            source = late
        edges.append((source, target))

    read = {edge.source for edge in network.edges}
    for name in sorted(network.layers):
        layer, shape, entry = network.layers[name], network.shapes[name], data["layers"][name]
        nodes[name] = form.node(name, layer, _read_shape(network, name), shape, network.dt_ms)
        if isinstance(layer, Linear):
            entry["weight"] = name
            del entry["bias"]
        if isinstance(layer, Conv):
            entry |= {"weight": name, "bias": None if layer.bias is None else name}
        if isinstance(layer, Spiking) and layer.recurrence is not None:
            back = name
            for k, node in enumerate(form.recurrence(layer.recurrence)):
                edges.append((back, back := add(f"{name}_recurrence" + "_" * k, node)))
                if not k:
                    own = isinstance(node, nir.Linear) and layer.recurrence.weight.ndim == 1
                    entry["recurrence"] |= {"weight": back} | ({ONE_TO_ONE: True} if own else {})
            connect(back, name, layer.recurrence.delay - 1, shape)
        if name not in read:
            edges.append((name, add(f"{name}_output", nir.Output({"output": np.array(shape)}))))
    for edge in network.edges:
        connect(*edge, network.shapes[edge.source])
    content: dict[str, Any] = {"network": data} | ({} if convention is None else {"convention": convention})
    check = all(map(typed, network.layers.values()))
    return nir.NIRGraph(nodes, edges, metadata("network", **content), type_check=check)


def network_from_nir(
    graph: nir.NIRGraph, convention: str | None = None, reset: str | Reset | None = None, dt_ms: float | None = None
) -> Network:
    """The network of a NIR graph: by its contract, or under a convention (as ``read_nir``, which says what it mended).

    Warns: MendedGraph: nir would refuse the graph as it is.
    Raises: as ``read_nir``.
    """
    return _said(_reading(as_graph(graph), convention, reset, dt_ms))


def read_nir(
    path: str | Path, convention: str | None = None, reset: str | Reset | None = None, dt_ms: float | None = None
) -> NirReading:
    """Read a network from a NIR file, and say what was mended.

    Args:
        convention: how to read a graph without Ovonic's contract: a name of ``CONVENTIONS``.
        reset: what a spike does, where neither file nor convention says: a word of the convention's ``resets``, or a
            ``Reset``. dt_ms: the duration of a step, likewise.
    Raises: DataError: damaged, hostile, or no network; nodes that contradict the contract; something that is neither
        said nor told, with the choices; something told of a graph that carries a contract and says otherwise. File and
        node are named. ConfigError: an unknown convention or reset.
    """
    return _named(path, lambda: _reading(read_graph(path), convention, reset, dt_ms))


def save_nir(path: str | Path, network: Network, convention: str | None = None) -> None:
    """Write a network as a NIR file in one piece.

    Raises: as ``network_to_nir``.
    """
    write_graph(path, network_to_nir(network, convention))


def load_nir(
    path: str | Path, convention: str | None = None, reset: str | Reset | None = None, dt_ms: float | None = None
) -> Network:
    """Read a network from a NIR file: ``read_nir`` without its notes.

    Warns: MendedGraph: nir would refuse the graph as it is.
    Raises: as ``read_nir``.
    """
    return _said(read_nir(path, convention, reset, dt_ms))


def pair_to_nir(pair: Pair) -> nir.NIRGraph:
    """Both networks of natural e-prop as one graph of two unconnected graphs, ``lsg`` and ``trainee``.

    Raises: ConfigError: a network of several inputs or outputs, which NIR cannot nest; or as ``network_to_nir``.
    """
    nodes: dict[str, Any] = {}
    edges = []
    for name, network in pair._asdict().items():
        graph = nodes[name] = network_to_nir(network)
        for kind, ends in (("input", graph.input_type), ("output", graph.output_type)):
            if len(ends) != 1:
                raise ConfigError(f"{name}: {len(ends)} {kind}s; a NIR graph inside another has one")
        (x,), (y,) = graph.input_type.values(), graph.output_type.values()
        nodes[f"{name}_input"], nodes[f"{name}_output"] = nir.Input({"input": x}), nir.Output({"output": y})
        edges += [(f"{name}_input", name), (name, f"{name}_output")]
    return nir.NIRGraph(nodes, edges, metadata("pair"))


def pair_from_nir(graph: nir.NIRGraph) -> Pair:
    """Both networks of a graph that ``pair_to_nir`` made.

    Raises: DataError: as ``network_from_nir``.
    """
    return _pair(as_graph(graph))


def save_pair(path: str | Path, pair: Pair) -> None:
    """Write both networks as one NIR file in one piece.

    Raises: as ``pair_to_nir``.
    """
    write_graph(path, pair_to_nir(pair))


def load_pair(path: str | Path) -> Pair:
    """Read both networks from a NIR file.

    Raises: DataError: damaged, or as ``network_from_nir``; the file is named.
    """
    return _named(path, lambda: _pair(read_graph(path)))


def _pair(graph: Graph) -> Pair:
    contract(graph, "pair")
    return Pair(*(_named(name, partial(_inner, graph.nodes.get(name))) for name in Pair._fields))


def _inner(graph: Any) -> Network:
    if not isinstance(graph, Graph):
        raise DataError("no NIR graph")
    return _reading(graph, None, None, None).network


def _reading(graph: Graph, convention: str | None, reset: str | Reset | None, dt_ms: float | None) -> NirReading:
    if not has_contract(graph):
        return read_by_convention(graph, convention, reset, dt_ms)
    found = contract(graph, "network")
    form = found.get("convention")
    if form is not None and (not isinstance(form, str) or form not in FORMS):
        raise DataError(f"its contract is for {form!r}, which this Ovonic does not know")
    try:
        network = Network.from_dict(with_weights(found.get("network"), graph))
        due = as_graph(network_to_nir(network, form))
    except (ConfigError, UnsupportedDynamics) as error:
        raise DataError(f"its contract and its weights make no network: {error}") from error
    check_agreement(graph, due)
    for what, told, said in (
        ("convention", convention, form),
        ("dt_ms", dt_ms, network.dt_ms),
        ("reset", reset, None),
    ):
        if told is not None and told != said:
            raise DataError(f"{what} {told!r} was told, but its contract leaves nothing open: leave {what} out")
    return NirReading(network)


def _read_shape(network: Network, name: str) -> Shape:
    sources = network.sources(name)
    return network.shapes[sources[0].source] if sources else network.shapes[name]


def _no_network(module: nn.Module) -> UnsupportedDynamics:
    kind = type(module).__name__
    if kind == "FewshotCNN":
        return UnsupportedDynamics(
            f"{kind}, norm: it normalises by the mean and variance of the batch at hand, and NIR has no node for the "
            "statistics of a batch; deploy the CNN on the crossbar or on analog tiles instead"
        )
    norm = [name for name, part in module.named_modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    if norm:
        return UnsupportedDynamics(
            f"{kind}, layer {norm[0]!r}: a norm by the statistics of a batch; NIR has no node for it; fold its running "
            "statistics into the layer before"
        )
    return UnsupportedDynamics(f"{kind}: a torch module, not a network: read it with from_snntorch or from_norse first")


def _said(reading: NirReading) -> Network:
    for note in reading.mended:
        warnings.warn(f"mended: {note}", MendedGraph, stacklevel=3)
    return reading.network


def _named[T](where: str | Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
