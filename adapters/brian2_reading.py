"""Reading a Brian2 ``Network``: its groups by their code, its delays by the order in which its objects run.

    NeuronGroup                         Spiking, or Readout without a threshold (its membrane at the end of a step): the
                                        code of ``brian2_forms``, or the textbook neuron (``brian2_textbook``)
    SpikeGeneratorGroup, PoissonGroup   Input; their own spikes are no part of a network
    Synapses, on_pre 'x_post += w'      Linear [in, out], or Recurrence from a group to itself
    monitors                            nothing

Where objects stand in a step decides the delays: a spike reaches synapses that run after its threshold in the same
step, others in the next; a target feels it in the same step if it is updated (a current, or a group we wrote) or
compared (a textbook membrane) afterwards, else in the next. What has another code, another clock, or a state that is
not that of the start, is refused by name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.brian2_forms import FORMS, HOLLOW, INPUT_CODE, READOUTS, Form, code_of
from ovonic.adapters.brian2_textbook import (
    Neuron,
    Place,
    layer_of,
    numeric,
    refusal,
    silent_steps,
    textbook,
)
from ovonic.models.dynamics import Adaptation, Dynamics, Refractory, ResetToValue, Synapse
from ovonic.models.layers import Input, Layer, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["from_brian2"]

Array = NDArray[Any]
MONITORS = ("StateMonitor", "SpikeMonitor", "EventMonitor", "PopulationRateMonitor")
OURS = {"y_pre": "1", "w*y_pre": "w"}
"""What our inputs' synapses add, as synapses of spikes would write it."""


class _Source(NamedTuple):
    """Where events come from: the layer, its place in the order of a step, and of an input of ours its lag."""

    layer: str
    position: float
    lag: int = 0
    graded: bool = False


class _Target(NamedTuple):
    """A group that synapses act on, by raising ``variable``.

    Attributes:
        what: the layer of a group of ours, or a textbook neuron.
        order: positions of its update, comparison and reset in a step.
        biases: of the Linears into it, by the name of their synapses.
        places: where synapses raised its membrane, filled as they are read.
    """

    layer: str
    group: Any
    variable: str
    what: Any
    order: tuple[float, float, float]
    biases: Mapping[str, Array]
    places: set[Place]

    def arrival(self, position: int) -> int:
        """The steps from synapses at that position to what they do; notes the place."""
        update, comparison, reset = self.order
        if not isinstance(self.what, Neuron) or self.what.current is not None:
            return int(position > update)
        if update < position < comparison:
            self.places.add(Place.UPDATED)
            return 0
        self.places.add(Place.COMPARED if comparison < position < reset else Place.RESET)
        return int(position > update)

    def finished(self, recurrence: Recurrence | None) -> Layer:
        """The layer, when all synapses are known."""
        layer: Any = self.what
        if isinstance(layer, Neuron):
            places = self.places or {Place.RESET}
            if Place.UPDATED in places or layer.reset[0] == 0:
                if len(places) > 1:
                    where = " and ".join(sorted(place.value for place in places))
                    raise refusal(self.group, f"synapses raise its membrane {where}", "let all run in one slot")
            else:
                places = {Place.RESET}  # COMPARED is the same where a spike subtracts
            layer = layer_of(self.group, layer, *places)
        return layer if recurrence is None else layer.replace(recurrence=recurrence)


def from_brian2(net: Any, namespace: Mapping[str, Any] | None = None) -> Network:
    """The network that a Brian2 ``Network`` is, numbers in SI units (a volt is 1).

    Args:
        net: a Brian2 ``Network`` that has not run: of ``to_brian2``, or of textbook neurons.
        namespace: what its equations and strings name from outside; None: the names at the place of the call, as in
            Brian2.
    Raises: UnsupportedDynamics: naming the object, code or state that is not read. ConfigError: an unknown name; layers
        that make no ``Network``, such as two groups that feed each other.
    """
    if namespace is None:
        frame: Any = inspect.currentframe()
        namespace = {**frame.f_back.f_globals, **frame.f_back.f_locals}
    return _Reader(net, namespace).network()


class _Reader:
    def __init__(self, net: Any, namespace: Mapping[str, Any]) -> None:
        if float(net.t_) != 0:
            raise refusal(net, f"it has run until {net.t}", "read it before, or net.restore() its start")
        self.net, self.namespace = net, namespace
        self.notes = {"names": {}, "delay_behind": {}, "dt_ms": 0.0} | getattr(net, "ovonic", {})
        self.ordered = [obj for obj in net.sorted_objects if type(obj).__name__ not in MONITORS]
        self.position = {id(obj): k for k, obj in enumerate(self.ordered)}
        clocks = set()
        for obj in self.ordered:
            clocks.add(float(obj.clock.dt_))
            if not obj.active:
                raise refusal(obj, "it is switched off", "set active=True, or remove it from the Network")
        if len(clocks) != 1:
            raise refusal(net, f"it has {len(clocks)} time steps", "a network has one")
        (self.dt,) = clocks
        self.read: set[int] = set()
        self.layers: dict[str, Layer] = {}
        self.edges: list[Edge] = []
        self.sources: dict[str, _Source] = {}
        self.targets: dict[str, _Target] = {}
        self.recurrent: dict[str, Recurrence] = {}

    def network(self) -> Network:
        """All groups, then all synapses, then what depends on both."""
        kinds: dict[str, list[Any]] = {}
        for obj in sorted(self.net.objects, key=lambda obj: obj.name):
            kinds.setdefault(type(obj).__name__, []).append(obj)
        for group in kinds.get("NeuronGroup", []):
            self._group(group)
        for group in kinds.get("SpikeGeneratorGroup", []):
            self.sources[group.name] = _Source(self._layer(group, Input((len(group),))), self._use(group))
        for group in kinds.get("PoissonGroup", []):
            position = self._use(group.thresholder["spike"], group)
            self.sources[group.name] = _Source(self._layer(group, Input((len(group),))), position)
        for synapses in kinds.get("Synapses", []):
            self._synapses(synapses)
        for obj in self.ordered:
            if id(obj) not in self.read:
                what = f": {obj.abstract_code!r}" if getattr(obj, "abstract_code", None) else ""
                raise refusal(obj, f"neither neurons, input, synapses nor a monitor{what}", "remove it")
        for target in self.targets.values():
            self.layers[target.layer] = target.finished(self.recurrent.get(target.layer))
        dt_ms = self.notes["dt_ms"]
        return Network(self.layers, tuple(self.edges), dt_ms if _close(dt_ms, self.dt * 1e3) else self.dt * 1e3)

    def _use(self, *objects: Any) -> int:
        """Note objects as read; the position of the first."""
        self.read.update(id(obj) for obj in objects)
        return self.position[id(objects[0])]

    def _layer(self, obj: Any, layer: Layer) -> str:
        name: str = self.notes["names"].get(obj.name, obj.name)
        if name in self.layers:
            raise refusal(obj, f"two layers are called {name!r}", "rename one")
        self.layers[name] = layer
        return name

    def _group(self, group: Any) -> None:
        found = code_of(group)
        if found.code == INPUT_CODE:
            self._input(group, found.updates)
            return
        _starts_free(group)
        form = FORMS.get(found.code) or READOUTS.get(found.code)
        comparison, reset = (
            self._use(part["spike"]) if "spike" in part else np.inf for part in (group.thresholder, group.resetter)
        )
        update = self._use(group.state_updater, group)
        biases: dict[str, Array] = {}
        what: Neuron | Layer
        if form is None:
            neuron = textbook(group, self.namespace)
            variable, what = neuron.current or neuron.membrane, neuron
        else:
            variable, what = "I", _ours(group, form, self.dt)
            before = max(update, *(self._use(obj) for obj in found.updates[:-1]), -1)
            update = self._use(found.updates[-1])
            if before > update:
                raise refusal(group, "its update does not run behind its biases and its refractoriness")
            biases = {word.removeprefix("bias_"): _number(group, word) for word in found.biases}
        if not update < comparison <= reset:
            raise refusal(group, "its update, comparison and reset do not run in this order within a step")
        layer = self._layer(group, Readout(0.0) if comparison == np.inf else Spiking(Dynamics(0.0, 1.0)))
        self.targets[group.name] = _Target(layer, group, variable, what, (update, comparison, reset), biases, set())
        if comparison < np.inf:
            self.sources[group.name] = _Source(layer, comparison)

    def _input(self, group: Any, updates: tuple[Any, ...]) -> None:
        """An input of ours: those that read the same ``drive`` are one layer, some of them late."""
        position = self._use(group.thresholder["spike"], group, group.state_updater, group.resetter["spike"])
        if self._use(*updates) > position:
            raise refusal(group, "it is compared before its update")
        drive = group.namespace["drive"]
        twins = [g for g in self.net.objects if type(g) is type(group) and (g.namespace or {}).get("drive") is drive]
        first = min(twins, key=_lag)
        if first is group:
            self._layer(group, Input((len(group),)))
        name = self.notes["names"].get(first.name, first.name)
        self.sources[group.name] = _Source(name, position, _lag(group), True)

    def _synapses(self, synapses: Any) -> None:
        pathway = _pathway(synapses)
        source: _Source = _end(synapses, synapses.source, self.sources)
        target: _Target = _end(synapses, synapses.target, self.targets)
        position = self._use(pathway, synapses)
        text = _added(synapses, pathway, target.variable)
        text = OURS.get(text, text) if source.graded else text
        delay = _delay(synapses, pathway, self.dt) + target.arrival(position)
        delay += source.lag + int(position < source.position)
        i, j = (np.array(synapses.variables[end].get_value()) for end in ("_synaptic_pre", "_synaptic_post"))
        rows, columns = len(synapses.source), len(synapses.target)
        alone = rows == columns and np.array_equal(i, np.arange(rows)) and np.array_equal(i, j)
        recurrent = source.layer == target.layer
        if text == "1" and alone and not recurrent and not isinstance(target.what, Neuron):
            self.edges.append(Edge(source.layer, target.layer, delay))
            return
        masked = recurrent and text == HOLLOW and np.array_equal(synapses.variables["others"].get_value(), i != j)
        values = numeric(synapses, "w" if masked else text, self.namespace)
        weight = np.zeros((rows, columns))
        if len(np.unique(i * columns + j)) == len(i):
            weight[i, j] = values  # -0.0 stays
        else:
            np.add.at(weight, (i, j), values)
        if not recurrent:
            behind = min(self.notes["delay_behind"].get(synapses.name, 0), delay)
            name = self._layer(synapses, Linear(weight, target.biases.get(synapses.name)))
            self.edges += [Edge(source.layer, name, delay - behind), Edge(name, target.layer, behind)]
        elif target.layer in self.recurrent:
            raise refusal(synapses, f"{target.layer!r} has other synapses onto itself", "join them")
        else:
            own = text == "own" and alone
            self.recurrent[target.layer] = Recurrence(weight.diagonal() if own else weight, delay, masked)


def _pathway(synapses: Any) -> Any:
    """What a spike does: the only pathway."""
    for name, equation in synapses.equations.items():
        if equation.type != "parameter":
            raise refusal(synapses, f"{name!r} changes with time (plasticity, or a synapse's own current)")
    for pathway in synapses._pathways:
        if pathway.prepost == "post":
            raise refusal(synapses, "on_post (plasticity such as STDP)", "weights are constant here")
        if pathway.event != "spike":
            raise refusal(synapses, f"the event {pathway.event!r}", "only spikes are read")
    if len(synapses._pathways) != 1:
        raise refusal(synapses, f"{len(synapses._pathways)} pathways", "give each its own Synapses")
    if not synapses._connect_called:
        raise refusal(synapses, "it has no synapses yet", "call connect(..)")
    return synapses._pathways[0]


def _end(synapses: Any, group: Any, known: Mapping[str, Any]) -> Any:
    if type(group).__name__ == "Subgroup":
        raise refusal(synapses, f"{group.name!r} is a part of a group", "make it a NeuronGroup of its own")
    if group.name not in known:
        raise refusal(synapses, f"{group.name!r} at its end is not in the Network, or cannot stand there")
    return known[group.name]


def _added(synapses: Any, pathway: Any, variable: str) -> str:
    """The expression that a spike adds to the variable of its target."""
    statement = pathway.code.strip()
    match = re.fullmatch(r"(\w+)\s*\+=\s*([^\n;#]+)", statement)
    if match is None:
        raise refusal(synapses, f"on_pre {statement!r}", "only one statement, 'x_post += w', is read")
    if match[1] not in (variable, f"{variable}_post") or match[1] in synapses.equations:
        raise refusal(synapses, f"on_pre {statement!r}", f"only {variable!r} of {synapses.target.name!r} may be raised")
    return match[2].strip()


def _delay(synapses: Any, pathway: Any, dt: float) -> int:
    steps = np.unique(np.floor(pathway.variables["delay"].get_value() / dt + 0.5).astype(int))
    if len(steps) > 1:
        listed = ", ".join(map(str, steps[:4]))
        raise refusal(synapses, f"delays of {listed} .. steps", "give each delay its own Synapses")
    return int(steps[0]) if len(steps) else 0


def _starts_free(group: Any) -> None:
    """Check that no neuron starts refractory, and that periods are counted in whole steps."""
    from brian2 import prefs

    if group._refractory is False:
        return
    if prefs["legacy.refractory_timing"]:
        raise refusal(group, "refractoriness by the preference legacy.refractory_timing", "set it to False")
    if not np.all(group.variables["not_refractory"].get_value()) or np.any(
        group.variables["lastspike"].get_value() > -1e4
    ):
        raise refusal(group, "it starts refractory")


def _ours(group: Any, form: Form, dt: float) -> Layer:
    """The numbers of a group that we wrote."""
    for word in ("I", "spiked", "i_syn", "b"):
        if word in group.variables and np.any(group.variables[word].get_value() != 0):
            raise refusal(group, f"{word!r} does not start at 0")

    def number(word: str) -> Any:
        return _number(group, word)

    synapse = Synapse(number("decay_syn"), number("gain_syn")) if form.synapse else None
    decay, gain, rest, v_init = (number(word) for word in ("decay", "gain", "rest", "v"))
    if form.reset is None:
        return Readout(decay, gain, rest, v_init, synapse)
    kind, when = form.reset
    options: dict[str, Any] = {"when": when} if "when" in kind.hints else {}
    if kind is ResetToValue:
        options["v_reset"] = number("v_reset")
    silent = silent_steps(number("t_ref"), dt) - 1 if form.refractory else 0
    adaptation = None if form.fresh is None else Adaptation(number("decay_b"), number("beta"), form.fresh)
    how: Any = (form.comparison, kind(**options), Refractory(silent, form.frozen), adaptation, synapse)
    return Spiking(Dynamics(decay, number("threshold"), gain, rest, v_init, *how))


def _number(group: Any, word: str) -> Any:
    return np.array(group.variables[word].get_value(), float)


def _lag(group: Any) -> int:
    return int(np.asarray(group.variables["lag"].get_value()).item())


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-12 * b
