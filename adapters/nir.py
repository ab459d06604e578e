"""NIR: a network as a plain NIR graph that any NIR tool reads; what NIR cannot say travels in its metadata.

    here                    NIR node                              said by the contract alone
    Input                   Input
    Linear W [in, out], b   Linear, or Affine with b; [out, in]
    Spiking                 LIF; CubaLIF with a synapse; IF if    when a reset acts, and what it does unless it sets a
                            no neuron leaks                       value; refractoriness, adaptation, comparison, v_init
    Readout                 LI; CubaLI with a synapse; I          v_init
    Recurrence W, or w      NAME_recurrence: Linear, or Scale     that a cycle takes a step; the masked diagonal
    a delay of n steps      Delay of n dt; n - 1 in a cycle       dt
    what no layer reads     NAME_output: Output

The constants are those with which NIR's equations, solved exactly while the input (and the current) stands still for a
step, take the step of ``models.dynamics``; times in s:

    tau = -dt / ln(decay),   r = gain / (1 - decay), without leak gain / dt,   v_leak = rest,   v_threshold = threshold
    tau_syn, w_in            likewise from the synapse
    v_reset                  what the reset makes of a membrane at its threshold: 0 where the threshold is subtracted

They are infinite where NIR has no node (leaky and leakless neurons in one layer, no leak behind or in a synapse): such
a file is for Ovonic alone.

The contract, JSON under the key ``ovonic`` of the graph's metadata, is ``Network.to_dict()`` with the name of a node in
the place of each array of weights. Reading takes the weights from the nodes, all else from the contract, and refuses a
graph whose nodes or edges say otherwise. Reference: nir 1.0.8, whose ``metadata`` survives its files.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nir  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.files import write_atomically
from ovonic.models.dynamics import Dynamics, tau_ms
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.frozen import Parameter
from ovonic.models.layers import Input, Layer, Linear, Readout, Recurrence, Spiking
from ovonic.models.natural_eprop_networks import Pair
from ovonic.models.network import Network

__all__ = [
    "load_nir",
    "load_pair",
    "network_from_nir",
    "network_to_nir",
    "pair_from_nir",
    "pair_to_nir",
    "save_nir",
    "save_pair",
]

FORMAT = 1
KEY = "ovonic"
DIAGONAL = "diagonal"

AGREES = 1e-6
"""Relative difference up to which a node's constant and the contract agree: that of a file rewritten in float32."""

Shape = tuple[int, ...]
Array = NDArray[np.float64]


def network_to_nir(network: Network) -> nir.NIRGraph:
    """The network as a NIR graph with its contract.

    Raises: ConfigError: a layer that is neither Input, Linear, Spiking nor Readout.
    """
    contract = network.to_dict()
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
        layer, shape, entry = network.layers[name], network.shapes[name], contract["layers"][name]
        nodes[name] = _node(name, layer, shape, network.dt_ms)
        if isinstance(layer, Linear):
            entry["weight"] = name
            del entry["bias"]
        if isinstance(layer, Spiking) and layer.recurrence is not None:
            back = entry["recurrence"]["weight"] = add(f"{name}_recurrence", _recurrence(layer.recurrence))
            edges.append((name, back))
            connect(back, name, layer.recurrence.delay - 1, shape)
        if name not in read:
            edges.append((name, add(f"{name}_output", nir.Output({"output": np.array(shape)}))))
    for edge in network.edges:
        connect(*edge, network.shapes[edge.source])
    return nir.NIRGraph(nodes, edges, _metadata("network", network=contract))


def network_from_nir(graph: nir.NIRGraph) -> Network:
    """The network of a NIR graph that carries its contract.

    Raises: DataError: no contract (the graph is another tool's), a damaged one, or nodes and edges that contradict it:
        node and field are named.
    """
    data = _contract(graph, "network").get("network")
    try:
        network = Network.from_dict(_with_weights(data, graph))
    except ConfigError as error:
        raise DataError(f"its contract and its weights make no network: {error}") from error
    _check_agreement(graph, network_to_nir(network))
    return network


def save_nir(path: str | Path, network: Network) -> None:
    """Write a network as a NIR file in one piece.

    Raises: ConfigError: as ``network_to_nir``.
    """
    _write(path, network_to_nir(network))


def load_nir(path: str | Path) -> Network:
    """Read a network from a NIR file.

    Raises: DataError: damaged, or as ``network_from_nir``; the file is named.
    """
    return _named(path, lambda: network_from_nir(_read(path)))


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
    return nir.NIRGraph(nodes, edges, _metadata("pair"))


def pair_from_nir(graph: nir.NIRGraph) -> Pair:
    """Both networks of a graph that ``pair_to_nir`` made.

    Raises: DataError: as ``network_from_nir``.
    """
    _contract(graph, "pair")
    return Pair(*(_named(name, partial(network_from_nir, graph.nodes.get(name))) for name in Pair._fields))


def save_pair(path: str | Path, pair: Pair) -> None:
    """Write both networks as one NIR file in one piece.

    Raises: ConfigError: as ``pair_to_nir``.
    """
    _write(path, pair_to_nir(pair))


def load_pair(path: str | Path) -> Pair:
    """Read both networks from a NIR file.

    Raises: DataError: damaged, or as ``network_from_nir``; the file is named.
    """
    return _named(path, lambda: pair_from_nir(_read(path)))


def _node(name: str, layer: Layer, shape: Shape, dt_ms: float) -> Any:
    if isinstance(layer, Input):
        return nir.Input({"input": np.array(shape)})
    if isinstance(layer, Linear):
        weight = layer.weight.T.copy()
        return nir.Linear(weight) if layer.bias is None else nir.Affine(weight, layer.bias.copy())
    if isinstance(layer, Readout):
        constants = _constants(layer, shape, dt_ms)
        kind = nir.CubaLI if "tau_syn" in constants else nir.LI if "tau" in constants else nir.I
        return kind(**constants)
    if isinstance(layer, Spiking):
        d = layer.dynamics
        constants = _constants(d, shape, dt_ms)
        kind = nir.CubaLIF if "tau_syn" in constants else nir.LIF if "tau" in constants else nir.IF
        at_threshold = d.reset(d.threshold, 1, d.threshold, d.threshold)
        return kind(**constants, v_threshold=_spread(d.threshold, shape), v_reset=_spread(at_threshold, shape))
    raise ConfigError(f"layer {name!r}: a {type(layer).__name__} has no place in these NIR graphs yet")


def _constants(layer: Dynamics | Readout, shape: Shape, dt_ms: float) -> dict[str, Array]:
    """Constants of a membrane, and of its synapse, by NIR's names, one a neuron; without tau where nothing leaks."""
    tau, r = _exact(layer.decay, layer.gain, shape, dt_ms)
    v_leak = _spread(layer.rest, shape)
    if layer.synapse is not None:
        tau_syn, w_in = _exact(layer.synapse.decay, layer.synapse.gain, shape, dt_ms)
        return {"tau_syn": tau_syn, "tau_mem": tau, "r": r, "v_leak": v_leak, "w_in": w_in}
    if np.all(np.equal(layer.decay, 1)):
        return {"r": _spread(layer.gain, shape) / (dt_ms / 1e3)}
    return {"tau": tau, "r": r, "v_leak": v_leak}


def _exact(decay: Parameter, gain: Parameter, shape: Shape, dt_ms: float) -> tuple[Array, Array]:
    """Time constant (s) and gain of the equation tau dx/dt = -x + gain I whose exact solution takes this step."""
    with np.errstate(divide="ignore"):
        return _spread(tau_ms(decay, dt_ms), shape) / 1e3, _spread(gain, shape) / (1 - _spread(decay, shape))


def _spread(value: Parameter, shape: Shape) -> Array:
    return np.broadcast_to(np.asarray(value, np.float64), shape).copy()


def _recurrence(recurrence: Recurrence) -> Any:
    if recurrence.weight.ndim == 1:
        return nir.Scale(recurrence.weight.copy())
    weight = recurrence.weight.T.copy()
    if not recurrence.masked_diagonal:
        return nir.Linear(weight)
    diagonal = np.diagonal(weight).copy()
    np.fill_diagonal(weight, 0)
    return nir.Linear(weight, metadata={DIAGONAL: diagonal})


def _with_weights(data: Any, graph: nir.NIRGraph) -> dict[str, Any]:
    """The contract's network with the arrays of the nodes that it names."""
    layers = data.get("layers") if isinstance(data, dict) else None
    if not isinstance(layers, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
        raise DataError("its contract describes no layers")
    filled: dict[str, Any] = {}
    for name, layer in layers.items():
        filled[name] = dict(layer)
        if layer.get("type") == "Linear":
            node = _weighted(graph, layer.get("weight"), nir.Linear, nir.Affine)
            filled[name] |= {"weight": node.weight.T, "bias": getattr(node, "bias", None)}
        if isinstance(recurrence := layer.get("recurrence"), dict):
            node = _weighted(graph, recurrence.get("weight"), nir.Linear, nir.Scale)
            weight = node.scale if isinstance(node, nir.Scale) else node.weight.T
            if recurrence.get("masked_diagonal") is True and DIAGONAL in node.metadata:
                weight = _with_diagonal(recurrence["weight"], weight, node.metadata[DIAGONAL])
            filled[name]["recurrence"] = recurrence | {"weight": weight}
    return data | {"layers": filled}


def _with_diagonal(name: str, weight: NDArray[Any], diagonal: Any) -> Array:
    square = weight.ndim == 2 and len(set(weight.shape)) == 1
    if not square or np.shape(diagonal) != weight.shape[:1] or np.diagonal(weight).any():
        raise DataError(f"node {name!r}: its diagonal is masked: 0 here, and its values in the node's metadata")
    return np.where(np.eye(len(weight), dtype=bool), diagonal, weight)


def _weighted(graph: nir.NIRGraph, name: Any, *kinds: type) -> Any:
    node = graph.nodes.get(name) if isinstance(name, str) else None
    if not isinstance(node, kinds):
        found = "absent" if node is None else f"of type {type(node).__name__}"
        raise DataError(f"node {name!r}: {found}, its contract says {' or '.join(kind.__name__ for kind in kinds)}")
    return node


def _check_agreement(graph: nir.NIRGraph, due: nir.NIRGraph) -> None:
    """Refuse a graph that is not ``due`` in its nodes, their constants or its edges."""
    if strange := sorted(graph.nodes.keys() ^ due.nodes.keys()):
        raise DataError(
            f"node {strange[0]!r}: {'not in' if strange[0] in graph.nodes else 'missing, but in'} its contract"
        )
    for name, node in due.nodes.items():
        other = graph.nodes[name]
        if type(other) is not type(node):
            raise DataError(f"node {name!r}: a {type(other).__name__}, its contract says {type(node).__name__}")
        wanted = _numbers(node)
        for field, found in _numbers(other).items():
            if found.shape != wanted[field].shape:
                raise DataError(f"node {name!r}: {field} of shape {found.shape}, {wanted[field].shape} by its contract")
            if (wrong := ~np.isclose(found, wanted[field], rtol=AGREES, atol=0)).any():
                k = tuple(np.argwhere(wrong)[0])
                raise DataError(
                    f"node {name!r}: {field} {found[k]:.9g} contradicts its contract, which makes it "
                    f"{wanted[field][k]:.9g}; change the network in Ovonic and save it again"
                )
    found_edges, due_edges = (Counter((str(a), str(b)) for a, b in g.edges) for g in (graph, due))
    for edges, what in ((found_edges - due_edges, "not in"), (due_edges - found_edges, "missing, but in")):
        for a, b in edges:
            raise DataError(f"edge {a} -> {b}: {what} its contract")


def _numbers(node: Any) -> dict[str, Array]:
    """What a node holds, by field."""
    skipped = {"metadata", "input_type", "output_type"}
    values = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name not in skipped}
    if isinstance(node, nir.Input):
        values["shape"] = node.input_type["input"]
    if isinstance(node, nir.Output):
        values["shape"] = node.output_type["output"]
    try:
        return {name: np.asarray(value, np.float64) for name, value in values.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"a {type(node).__name__} holds what are no numbers ({error})") from error


def _metadata(kind: str, **content: Any) -> dict[str, str]:
    head = {"format": FORMAT, "kind": kind}
    return {KEY: json.dumps(head | content, default=lambda array: array.tolist(), allow_nan=False)}


def _contract(graph: Any, kind: str) -> dict[str, Any]:
    if not isinstance(graph, nir.NIRGraph):
        raise DataError("no NIR graph")
    text = graph.metadata.get(KEY)
    if text is None:
        raise DataError(
            "a NIR graph without Ovonic's contract: NIR leaves open its time step, its resets and its delays, and "
            "conventions of other tools are not known here yet"
        )
    try:
        contract = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"its contract is no JSON ({error})") from error
    if not isinstance(contract, dict) or contract.get("format") != FORMAT:
        raise DataError(f"a contract of another format: this Ovonic reads format {FORMAT}")
    if contract.get("kind") != kind:
        raise DataError(f"holds a {contract.get('kind')}, not a {kind}")
    return contract


def _write(path: str | Path, graph: nir.NIRGraph) -> None:
    file = io.BytesIO()
    nir.write(file, graph)
    write_atomically(path, file.getvalue())


def _read(path: str | Path) -> nir.NIRGraph:
    data = Path(path).read_bytes()
    try:
        return nir.read(io.BytesIO(data))
    except Exception as error:  # nir and h5py raise what comes: KeyError, AssertionError, OSError, ...
        raise DataError(f"no whole NIR file ({type(error).__name__}: {error})") from error


def _named[T](where: str | Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
