"""Read a network from NEST's kernel: neurons by their parameters, connections by their weights and delays.

Read are the models of ``nest_forms.MODELS`` and their copies, joined by static or e-prop synapses (whose weights are
taken as they stand), with spike generators and parrot neurons as inputs. Of what comes in and goes out nothing is read:
generators that only feed parrots, recorders, learning signals, targets of read-outs. Everything else that acts on a
neuron is refused by name.

Time, where ``to_nest`` did not make the nodes: step t of every layer and input is what NEST stamps (t + 1) steps, and
an edge's delay is NEST's own. I_e is the bias of a Linear without weights: of iaf_psc_delta it acts in step 0, of the
e-prop neurons from step 1 on; of iaf_psc_exp it shifts the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.nest_building import NestNetwork, quiet
from ovonic.adapters.nest_forms import CURRENT, HARD, MODELS, READOUT, layer_of
from ovonic.adapters.nest_kernel import INPUTS, Connections, acting, base_of, columns, scanned
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Layer, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["from_nest"]

Array = NDArray[Any]

PARAMETERS = {
    "E_L",
    "V_m",
    "V_th",
    "V_reset",
    "V_min",
    "tau_m",
    "tau_syn_ex",
    "tau_syn_in",
    "delta",
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
        return _Reader(nest, scanned(nest) if nodes is None else nodes).network()


class _Reader:
    """Reads layers that were made by a user of NEST."""

    def __init__(self, nest: Any, collections: Mapping[str, Any]) -> None:
        self.nest, self.dt = nest, nest.resolution
        self.collections = {name: nodes for name, nodes in collections.items() if len(nodes)}
        if not self.collections:
            raise ConfigError("NEST's kernel holds no nodes to read")
        self.ids = {name: np.atleast_1d(nodes.get("global_id")) for name, nodes in self.collections.items()}
        self.kinds = {name: base_of(nest, nodes) for name, nodes in self.collections.items()}
        self.inputs = [name for name, kind in self.kinds.items() if kind in INPUTS]
        self.given = {name: self._parameters(name) for name in self.collections if name not in self.inputs}
        self.layers: dict[str, Layer] = {name: Input((len(self.ids[name]),)) for name in self.inputs}
        self.edges: list[Edge] = []

    def network(self) -> Network:
        connections = acting(self.nest, self.ids, self.inputs)
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
                    among = between.where(between.steps == steps)
                    self._feed(source, target, among, steps + self._late(target))
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
            "V_min, a floor of the membrane": np.any(given.get("V_min", -math.inf) > -1e300),
            "two time constants of currents, tau_syn_ex and tau_syn_in": np.any(
                given.get("tau_syn_ex", 0) != given.get("tau_syn_in", 0)
            ),
            "delta, a threshold at random": np.any(given.get("delta", 0)),
            "an I_e that drives the membrane to its threshold past the current": self._driven(kind, given),
            "refractory_input=True": np.any(given.get("refractory_input", 0)),
            "frozen=True, which leaves neurons out": np.any(given["frozen"]),
            "ignore_and_spike=True": np.any(given.get("ignore_and_spike", 0)),
            "an adaptation that does not start at 0": np.any(given.get("adaptation", 0)),
            "t_ref, which is no whole number of steps": np.any(np.abs(steps - np.round(steps)) > 1e-6),
            "the kernel's eprop_reset_neurons_on_update, by which neurons start anew every eprop_update_interval: set "
            "it to False": kind not in (HARD, CURRENT) and self.nest.eprop_reset_neurons_on_update,
        }
        for what, found in wrong.items():
            if found:
                raise UnsupportedDynamics(f"NEST layer {name!r}: {kind}: no description has {what}")
        return given

    def _driven(self, kind: str, given: Mapping[str, Array]) -> bool:
        """Whether the potential to which I_e shifts the rest of iaf_psc_exp is no rest below its threshold."""
        if kind != CURRENT or not np.any(given["I_e"]):
            return False
        return bool(np.any(given["E_L"] + given["I_e"] * given["tau_m"] / given["C_m"] >= given["V_th"]))

    def _late(self, name: str) -> int:
        return int(self.kinds[name] == CURRENT)

    def _matrix(self, source: str, target: str, among: Connections) -> tuple[Array, Array]:
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
        if not np.any(given["I_e"]) or self.kinds[name] == CURRENT:
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

    def _feed(self, source: str, target: str, among: Connections, steps: int) -> None:
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

    def _recurrence(self, name: str, among: Connections) -> None:
        delays = np.unique(among.steps).tolist()
        if not delays:
            return
        if len(delays) > 1:
            steps = ", ".join(map(str, delays))
            raise UnsupportedDynamics(f"NEST layer {name!r}: recurrent delays of {steps} steps: a recurrence has one")
        if isinstance(self.layers[name], Readout):
            raise UnsupportedDynamics(f"NEST layer {name!r}: a read-out that feeds on itself")
        weights, count = self._matrix(name, name, among)
        self.layers[name] = self.layers[name].replace(
            recurrence=_recurrence(weights, count, delays[0] + self._late(name))
        )


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
            _, _, source, target, _ = joint
            if len(np.unique(among.steps)) > 1:
                raise UnsupportedDynamics(f"NEST layer {target!r}: connections of one kind have several delays now")
            steps = int(among.steps[0]) + self._late(target) if len(among.source) else 1
            found[target].append((joint, *self._matrix(source, target, among), steps))
        if total != len(acting(self.nest, self.ids, self.inputs).source):
            raise UnsupportedDynamics("NEST: connections that to_nest did not make: read nodes.layers instead")
        for name, joints in found.items():
            self._layer(name, joints)
        return Network(self.layers, tuple(self.edges), self.made.dt_ms)

    def _labelled(self, label: int) -> Connections:
        return columns(self.nest, self.nest.GetConnections(synapse_label=label))

    def _layer(self, name: str, joints: list[tuple[Any, Array, Array, int]]) -> None:
        given, n = dict(self.given[name]), len(self.ids[name])
        moved = "V_m" if np.any(given["V_m"] != given["E_L"]) else "I_e" if np.any(given["I_e"]) else ""
        if moved:
            raise UnsupportedDynamics(f"NEST layer {name!r}: {moved} is no longer what to_nest set: read nodes.layers")
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
            layer = layer_of(kind, given, self.dt, None if kind in (HARD, CURRENT, READOUT) else extra)
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
