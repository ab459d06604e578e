"""Read a network from NEST's kernel: neurons by their parameters, connections by their weights and delays.

Read are the models of ``nest_forms.MODELS`` and their copies, joined by static or e-prop synapses (whose weights are
taken as they stand), with spike generators and parrot neurons as inputs. Of what comes in and goes out nothing is read:
generators that only feed parrots, recorders, learning signals, targets of read-outs. Everything else that acts on a
neuron is refused by name.

Time, where ``to_nest`` did not make the nodes: step t of every layer and input is what NEST stamps (t + 1) steps, and
an edge's delay is NEST's own. I_e is the bias of a Linear without weights: of iaf_psc_delta it acts in step 0, of the
e-prop neurons from step 1 on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.nest_building import NestNetwork, quiet
from ovonic.adapters.nest_forms import HARD, MODELS, READOUT, layer_of
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Layer, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["from_nest"]

Array = NDArray[Any]

INPUTS = ("spike_generator", "spike_train_injector", "parrot_neuron")
SYNAPSES = (
    "static_synapse",
    "static_synapse_hpc",
    "static_synapse_lbl",
    "eprop_synapse_bsshslm_2020",
    "eprop_synapse_bsshslm_2020_hpc",
)
LEARNING = ("eprop_learning_signal_connection_bsshslm_2020", "rate_connection_delayed")
"""Connections that carry errors and targets, by which no membrane moves."""

PARAMETERS = {
    "E_L",
    "V_m",
    "V_th",
    "V_reset",
    "V_min",
    "tau_m",
    "C_m",
    "I_e",
    "t_ref",
    "adapt_tau",
    "adapt_beta",
    "adaptation",
    "regular_spike_arrival",
    "refractory_input",
    "frozen",
    "ignore_and_spike",
}


class _Connections(NamedTuple):
    """Some of the kernel's connections: ids of nodes, weights, delays in steps, synapse models."""

    source: Array
    target: Array
    weight: Array
    steps: Array
    model: Array

    def where(self, chosen: Array) -> _Connections:
        return _Connections._make(column[chosen] for column in self)


NONE = _Connections._make(np.zeros(0, dtype=int) for _ in range(5))


def from_nest(nodes: NestNetwork | Mapping[str, Any] | None = None) -> Network:
    """The network that NEST's kernel holds, before it is simulated.

    Args:
        nodes: of ``to_nest``; or name -> ``NodeCollection`` of every input and layer; or None: all nodes, those of one
            model that were created after another as one layer, called by its model and first id.
    Raises: UnsupportedDynamics: naming the layer and the model, synapse, parameter or state that is not read.
        ConfigError: layers that make no ``Network``, such as two that feed each other. ToolchainError: no NEST.
    """
    with quiet() as nest:
        if nest.biological_time:
            raise UnsupportedDynamics(
                f"NEST's kernel has run until {nest.biological_time} ms, and its state is no longer the first: read it "
                "before nest.Simulate, or build it anew"
            )
        if isinstance(nodes, NestNetwork):
            return _OurReader(nest, nodes).network()
        return _Reader(nest, _scanned(nest) if nodes is None else nodes).network()


def _scanned(nest: Any) -> dict[str, Any]:
    if not len(found := nest.GetNodes()):
        return {}
    ids, models = np.atleast_1d(found.get("global_id")), np.atleast_1d(found.get("model"))
    layers: dict[str, list[int]] = {}
    name, last = "", ""
    for node, model in zip(ids.tolist(), models, strict=True):
        if nest.GetDefaults(model)["element_type"] not in ("neuron", "stimulator"):
            continue
        if model != last or node - 1 not in layers[name]:
            name, last = f"{model}_{node}", model
            layers[name] = []
        layers[name].append(node)
    collections = {name: nest.NodeCollection(members) for name, members in layers.items()}
    return {name: c for name, c in collections.items() if not _only_feeds_parrots(nest, c)}


def _only_feeds_parrots(nest: Any, nodes: Any) -> bool:
    """Whether nodes are devices that act, if at all, on parrots or on the targets of read-outs."""
    base = _base(nest, nodes)
    if nest.GetDefaults(base)["element_type"] != "stimulator":
        return False
    targets = nest.GetConnections(nodes).get("target")
    acted = set(np.atleast_1d(targets).tolist()) if len(nest.GetConnections(nodes)) else set()
    kinds = {_base(nest, nest.NodeCollection([node])) for node in acted}
    return kinds <= {"parrot_neuron"} if base != "step_rate_generator" else kinds <= {"parrot_neuron", READOUT}


def _base(nest: Any, nodes: Any) -> str:
    models = set(np.atleast_1d(nodes.get("model")).tolist())
    if len(models) != 1:
        raise UnsupportedDynamics(f"NEST layer of the models {', '.join(sorted(models))}: a layer has one")
    base: str = nest.GetDefaults(models.pop())["type_id"]
    return base


class _Reader:
    """Reads layers that were made by a user of NEST."""

    def __init__(self, nest: Any, collections: Mapping[str, Any]) -> None:
        self.nest, self.dt = nest, nest.resolution
        self.collections = {name: nodes for name, nodes in collections.items() if len(nodes)}
        if not self.collections:
            raise ConfigError("NEST's kernel holds no nodes to read")
        self.ids = {name: np.atleast_1d(nodes.get("global_id")) for name, nodes in self.collections.items()}
        self.kinds = {name: _base(nest, nodes) for name, nodes in self.collections.items()}
        self.inputs = [name for name, kind in self.kinds.items() if kind in INPUTS]
        self.given = {name: self._parameters(name) for name in self.collections if name not in self.inputs}
        self.layers: dict[str, Layer] = {name: Input((len(self.ids[name]),)) for name in self.inputs}
        self.edges: list[Edge] = []

    def network(self) -> Network:
        connections = self._connections()
        for name, given in self.given.items():
            layer = layer_of(self.kinds[name], given, self.dt)
            self.layers[name] = layer
            self._drive(name, layer)
        for target in self.given:
            into = connections.where(np.isin(connections.target, self.ids[target]))
            for source in (*self.inputs, *self.given):
                between = into.where(np.isin(into.source, self.ids[source]))
                if source == target:
                    self._recurrence(target, between)
                    continue
                for steps in np.unique(between.steps).tolist():
                    self._feed(source, target, between.where(between.steps == steps), steps)
        return Network(self.layers, tuple(self.edges), self.dt)

    def _parameters(self, name: str) -> dict[str, Array]:
        """What a layer's neurons were given, one number a neuron.

        Raises: UnsupportedDynamics: another model, or what its description has no word for.
        """
        kind, nodes = self.kinds[name], self.collections[name]
        if kind not in MODELS:
            raise UnsupportedDynamics(f"NEST layer {name!r}: {kind}: read are {', '.join((*MODELS, *INPUTS))}")
        known = PARAMETERS & set(self.nest.GetDefaults(kind))
        given = {key: np.atleast_1d(np.array(nodes.get(key), dtype=float)) for key in known}
        steps = given.get("t_ref", np.zeros(1)) / self.dt
        wrong = {
            "V_min, a floor of the membrane": np.any(given["V_min"] > -1e300),
            "refractory_input=True": np.any(given.get("refractory_input", 0)),
            "frozen=True, which leaves neurons out": np.any(given["frozen"]),
            "ignore_and_spike=True": np.any(given.get("ignore_and_spike", 0)),
            "an adaptation that does not start at 0": np.any(given.get("adaptation", 0)),
            "t_ref, which is no whole number of steps": np.any(np.abs(steps - np.round(steps)) > 1e-6),
            "the kernel's eprop_reset_neurons_on_update, by which neurons start anew every eprop_update_interval: set "
            "it to False": kind != HARD and self.nest.eprop_reset_neurons_on_update,
        }
        for what, found in wrong.items():
            if found:
                raise UnsupportedDynamics(f"NEST layer {name!r}: {kind}: no description has {what}")
        return given

    def _connections(self) -> _Connections:
        """The connections between layers, all others being of no effect on them.

        Raises: UnsupportedDynamics: some are of another effect.
        """
        found = self.nest.GetConnections()
        if not len(found):
            return NONE
        every = self._columns(found)
        neurons = np.concatenate([self.ids[name] for name in self.given] or [np.zeros(0, dtype=int)])
        parrots = np.concatenate([self.ids[name] for name in self.inputs] or [np.zeros(0, dtype=int)])
        if np.any(fed := np.isin(every.target, parrots) & np.isin(every.source, neurons)):
            raise UnsupportedDynamics(f"NEST: neuron {every.source[fed][0]} feeds an input: connect neurons directly")
        acting = every.where(np.isin(every.target, neurons) & ~np.isin(every.model, LEARNING))
        layers = np.concatenate(list(self.ids.values()))
        others = np.unique(acting.source[~np.isin(acting.source, layers)])
        recorders = [node for node in others if self._kind(node)["element_type"] == "recorder"]
        acting = acting.where(~np.isin(acting.source, recorders))
        plain = self._plain_synapses(acting.model)
        known = np.isin(acting.source, layers)
        for k in np.flatnonzero(~(plain & known))[:1]:
            kind = self._kind(acting.source[k])
            what = f"{kind['type_id']} {acting.source[k]} acts by {acting.model[k]} on neuron {acting.target[k]}"
            remedy = "name it as a layer" if plain[k] else f"read are {', '.join(SYNAPSES)}"
            if kind["element_type"] == "stimulator":
                remedy = "put parrot neurons behind it, which are read as an input; for a constant current use I_e"
            raise UnsupportedDynamics(f"NEST: {what}: {remedy}")
        return acting

    def _kind(self, node: int) -> Any:
        return self.nest.GetDefaults(self.nest.NodeCollection([int(node)]).get("model"))

    def _plain_synapses(self, models: Array) -> Array:
        """Which connections carry a constant weight: static and e-prop synapses, and copies of static ones."""
        kinds = {}
        plain = self.nest.GetDefaults("static_synapse")
        for model in np.unique(models).tolist():
            given = self.nest.GetDefaults(model)
            kinds[model] = model in SYNAPSES or (
                set(given) == set(plain) and given["sizeof"] == plain["sizeof"] and model.partition("_")[0] != "cont"
            )
        return np.array([kinds[model] for model in models.tolist()], dtype=bool)

    def _columns(self, found: Any) -> _Connections:
        keys = ("source", "target", "weight", "delay", "synapse_model")
        source, target, weight, delay, model = (np.atleast_1d(np.array(found.get(key))) for key in keys)
        return _Connections(source, target, weight, np.round(delay / self.dt).astype(int), model)

    def _matrix(self, source: str, target: str, among: _Connections) -> tuple[Array, Array]:
        """Weights [in, out], those of several connections added up, and how many there are."""
        shape = len(self.ids[source]), len(self.ids[target])
        weights, count = np.zeros(shape), np.zeros(shape, dtype=int)
        at = self._index(source, among.source), self._index(target, among.target)
        np.add.at(weights, at, among.weight)
        np.add.at(count, at, 1)
        return weights, count

    def _index(self, name: str, ids: Array) -> Array:
        order = np.argsort(self.ids[name])
        return order[np.searchsorted(self.ids[name], ids, sorter=order)]

    def _drive(self, name: str, layer: Spiking | Readout) -> None:
        """I_e as a bias."""
        given = self.given[name]
        if not np.any(given["I_e"]):
            return
        decay = np.array([math.exp(-self.dt / tau) for tau in given["tau_m"]])
        hard = self.kinds[name] == HARD
        if hard:
            bias = 1 / given["C_m"] * (1 - decay) * given["tau_m"] * given["I_e"]
        else:
            d: Any = layer.dynamics if isinstance(layer, Spiking) else layer
            bias = given["tau_m"] / given["C_m"] * (1 - decay) * given["I_e"] / d.gain
        source = self.inputs[0] if self.inputs else "I_e"
        if source not in self.layers:
            self.layers[source] = Input((1,))
        (n,) = self.layers[source].gives(getattr(self.layers[source], "shape", ()))
        self._linear(f"{name}_I_e", source, name, np.zeros((n, len(bias))), 0, 0 if hard else 1, bias)

    def _feed(self, source: str, target: str, among: _Connections, steps: int) -> None:
        weights, count = self._matrix(source, target, among)
        self._insert(f"{source}_{target}", source, target, weights, count, steps)

    def _insert(self, name: str, source: str, target: str, weights: Array, count: Array, steps: int) -> None:
        """An edge where connections are one to one and of weight 1, else a Linear."""
        n, m = weights.shape
        if n == m > 1 and np.array_equal(count, np.eye(n)) and np.array_equal(weights, np.eye(n)):
            self.edges.append(Edge(source, target, steps))
        else:
            self._linear(name, source, target, weights, steps, 0)

    def _linear(
        self, name: str, source: str, target: str, weights: Array, steps: int, behind: int, bias: Array | None = None
    ) -> None:
        while name in self.layers or name in self.collections:
            name += "_"
        self.layers[name] = Linear(weights, bias)
        self.edges += [Edge(source, name, steps), Edge(name, target, behind)]

    def _recurrence(self, name: str, among: _Connections) -> None:
        delays = np.unique(among.steps).tolist()
        if not delays:
            return
        if len(delays) > 1:
            steps = ", ".join(map(str, delays))
            raise UnsupportedDynamics(f"NEST layer {name!r}: recurrent delays of {steps} steps: a recurrence has one")
        if self.kinds[name] == READOUT:
            raise UnsupportedDynamics(f"NEST layer {name!r}: a read-out that feeds on itself")
        weights, count = self._matrix(name, name, among)
        self.layers[name] = self.layers[name].replace(recurrence=_recurrence(weights, count, delays[0]))


def _recurrence(weights: Array, count: Array, delay: int) -> Recurrence:
    n = len(weights)
    if n > 1 and np.array_equal(count, np.eye(n)):
        return Recurrence(np.diag(weights), delay)
    return Recurrence(weights, delay, bool(np.array_equal(count, 1 - np.eye(n))))


class _OurReader(_Reader):
    """Reads what ``to_nest`` made, by the labels of its connections."""

    def __init__(self, nest: Any, made: NestNetwork) -> None:
        super().__init__(nest, made.layers)
        self.made = made
        for name, nodes in ((name, nodes) for name, nodes in (("one", made.one), ("start", made.start)) if nodes):
            self.ids[name] = np.atleast_1d(nodes.get("global_id"))

    def network(self) -> Network:
        found: dict[str, list[tuple[Any, Array, Array, int]]] = {name: [] for name in self.given}
        total = 0
        for label, joint in enumerate(self.made.joints):
            among = self._labelled(label)
            total += len(among.source)
            steps = int(among.steps[0]) if len(among.source) else 1
            _, _, source, target, _ = joint
            found[target].append((joint, *self._matrix(source, target, among), steps))
        if total != len(self._connections().source):
            raise UnsupportedDynamics("NEST: connections that to_nest did not make: read nodes.layers instead")
        for name, joints in found.items():
            self._layer(name, joints)
        return Network(self.layers, tuple(self.edges), self.made.dt_ms)

    def _labelled(self, label: int) -> _Connections:
        found = self.nest.GetConnections(synapse_label=label)
        if not len(found):
            return NONE
        return self._columns(found)

    def _layer(self, name: str, joints: list[tuple[Any, Array, Array, int]]) -> None:
        given, n = dict(self.given[name]), len(self.ids[name])
        extra = np.zeros(n)
        biases = {}
        for (kind, linear, *_), weights, _, steps in joints:
            if kind == "reset":
                extra = np.diag(weights)
            elif kind == "start":
                given["V_m"] = given["E_L"] + weights[0]
            elif kind == "bias":
                biases[linear] = weights[0], steps
        kind = self.kinds[name]
        try:
            layer = layer_of(kind, given, self.dt, None if kind in (HARD, READOUT) else extra)
        except LookupError:
            raise UnsupportedDynamics(f"NEST layer {name!r}: connections that mend its reset were changed") from None
        for (kind, linear, source, _, behind), weights, count, steps in joints:
            if kind in ("own", "recurrence"):
                own = Recurrence(np.diag(weights), steps)
                layer = layer.replace(recurrence=own if kind == "own" else _matrix_of(weights, count, steps))
            elif kind in ("linear", "edge"):
                delay = steps - (self.made.first[name] - self.made.first[source])
                if kind == "edge" and np.array_equal(np.diag(weights), np.ones(n)):
                    self.edges.append(Edge(source, name, delay))
                elif kind == "edge":
                    self._linear(f"{source}_{name}", source, name, weights, delay, 0)
                else:
                    bias = biases[linear][0] if linear in biases else None
                    self._linear(linear, source, name, weights, delay - behind, behind, bias)
        self.layers[name] = layer


def _matrix_of(weights: Array, count: Array, delay: int) -> Recurrence:
    """A matrix, of which autapses that are absent are masked."""
    return Recurrence(weights, delay, not count.diagonal().any())
