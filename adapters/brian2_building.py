"""Building a Brian2 ``Network``: groups with the code of ``brian2_forms``, synapses, slots of the schedule.

Each layer of neurons has slots of its own within a step, in the order of the layers: synapses, groups, thresholds,
resets, synapses_1, groups_1, .. so that a layer sees in a step what those before it gave in that step. Samples stand
side by side in the groups: neuron n of sample b is number b N + n.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.brian2_forms import HOLLOW, INPUT_CODE, code, form_of
from ovonic.models.dynamics import ResetToValue
from ovonic.models.layers import Input, Linear, Readout, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["Built", "build"]

Array = NDArray[Any]
TAKEN = r"_(\w*thresholder|\w*resetter|stateupdater|update|states|spikes|clock|drive|recurrence|late\d+|pre|post)$"
"""Endings of names that belong to parts of a layer, or that Brian2 forbids."""


class Built(NamedTuple):
    """The network, its groups by layer, and its clock."""

    net: Any
    groups: Mapping[str, Any]
    clock: Any


def build(b2: Any, network: Network, inputs: Mapping[str, Tensor], dtype: np.dtype[Any]) -> Built:
    """The objects of a network that ``adapters.brian2.unsupported`` finds nothing in.

    Args:
        b2: the module ``brian2``. inputs: [B, T, *shape] by name. dtype: of states and weights.
    """
    builder = _Builder(b2, network, inputs, dtype)
    return Built(builder.net, builder.groups, builder.clock)


class _Builder:
    def __init__(self, b2: Any, network: Network, inputs: Mapping[str, Tensor], dtype: np.dtype[Any]) -> None:
        self.b2, self.network, self.dtype = b2, network, dtype
        self.batch = len(next(iter(inputs.values())))
        self.clock = b2.Clock(network.dt_ms * b2.ms, name="ovonic_clock")
        self.net = b2.Network(name="ovonic")
        self.net.ovonic = {"dt_ms": network.dt_ms, "names": {}, "delay_behind": {}}
        self.used: set[str] = set()
        self.groups: dict[str, Any] = {}
        self.late: dict[tuple[str, int], Any] = {}
        self.linears: dict[str, str] = {}
        self.slots: dict[str, str] = {}
        self.inputs = {name: x.cpu().numpy() for name, x in inputs.items()}
        schedule = ["start"]
        for name, layer in network.layers.items():
            if isinstance(layer, Input):
                self.groups[name] = self._input(name, 0)
            elif isinstance(layer, Spiking | Readout):
                slot = self.slots[name] = f"_{len(self.slots)}" if self.slots else ""
                schedule += [f"{part}{slot}" for part in ("synapses", "groups", "thresholds", "resets")]
                self.groups[name] = self._layer(name, layer, slot)
            else:
                self.linears[name] = self._name(name)
        if not self.slots:
            schedule += ["synapses", "groups", "thresholds", "resets"]
        self.net.schedule = [*schedule, "end"]
        for edge in network.edges:
            if edge.target in self.groups:
                self._feed(edge)
        for name in network.spiking:
            self._recurrence(name)

    def _name(self, name: str, layer: bool = True) -> str:
        """A name that Brian2 takes; ``layer``: noted if it is another than the layer's."""
        given, name = name, re.sub(r"\W", "_", name, flags=re.ASCII)
        name = name if name[0].isalpha() else f"n{name}"
        while name in self.used or re.search(TAKEN, name):
            name += "_"
        self.used.add(name)
        if layer and name != given:
            self.net.ovonic["names"][name] = given
        return name

    def _add(self, made: Any) -> None:
        """Into the network; marked as its own at once, or Brian2 warns of objects whose network never ran."""
        self.net.add(made)
        made._network = self.net.id

    def _set(self, owner: Any, **values: Any) -> None:
        for name, value in values.items():
            variable = owner.variables[name]
            variable.set_value(np.tile(np.broadcast_to(value, (variable.size // self.batch,)), self.batch))

    def _group(self, name: str, neurons: int, equations: tuple[str, ...], slot: str, **more: Any) -> Any:
        times = {"t_ref", "lastspike"}
        words = [line.split()[0] for line in equations if "integer" not in line]
        dtype = {word: np.float64 if word in times else self.dtype for word in [*words, "lastspike"]}
        n, text = self.batch * neurons, "\n".join(equations)
        group = self.b2.NeuronGroup(n, text, clock=self.clock, dtype=dtype, name=name, **more)
        group.state_updater.when = f"groups{slot}"
        if "threshold" in more:
            group.set_event_schedule("spike", f"thresholds{slot}")
        if "reset" in more:
            group.resetter["spike"].when = f"resets{slot}"
        self._add(group)
        return group

    def _input(self, layer: str, lag: int) -> Any:
        if (layer, lag) not in self.late:
            name = self._name(f"{layer}_late{lag}", False) if lag else self._name(layer)
            values = self.inputs[layer].swapaxes(0, 1).reshape(self.inputs[layer].shape[1], -1)
            drive = (
                self.late[layer, 0].namespace["drive"]
                if lag
                else self.b2.TimedArray(values, self.clock.dt, name=self._name(f"{name}_drive", False))
            )
            more = {"threshold": INPUT_CODE.threshold, "reset": INPUT_CODE.reset, "namespace": {"drive": drive}}
            group = self._group(name, self.network.shapes[layer][0], INPUT_CODE.equations, "", **more)
            group.variables["lag"].set_value(lag)
            group.run_regularly(INPUT_CODE.update, clock=self.clock, when="start", order=-1, name=f"{name}_update")
            group.set_event_schedule("spike", "start")
            self.late[layer, lag] = group
        return self.late[layer, lag]

    def _layer(self, layer: str, description: Spiking | Readout, slot: str) -> Any:
        d: Any = description.dynamics if isinstance(description, Spiking) else description
        spiking = isinstance(description, Spiking)
        form = form_of(d, spiking and bool(np.any(d.refractory.silent_steps)))
        text = code(form)
        name = self._name(layer)
        sources = {edge.source: self.network.layers[edge.source] for edge in self.network.sources(layer)}
        biases = {
            f"bias_{self.linears[source]}": linear.bias
            for source, linear in sources.items()
            if isinstance(linear, Linear) and linear.bias is not None
        }
        equations = (*text.equations, *(f"{word} : 1 (constant)" for word in biases))
        more: dict[str, Any] = {"namespace": {}}
        if spiking:
            more |= {"threshold": text.threshold, "reset": text.reset, "refractory": text.refractory}
        group = self._group(name, self.network.shapes[layer][0], equations, slot, **more)
        when = f"groups{slot}"
        for word, bias in biases.items():
            self._set(group, **{word: bias})
            update = f"{name}_{word}_update"
            group.run_regularly(f"I += {word}", clock=self.clock, when=when, order=1, name=update)
        group.run_regularly(text.update, clock=self.clock, when=when, order=2, name=f"{name}_update")
        self._set(group, v=d.v_init, decay=d.decay, gain=d.gain, rest=d.rest)
        if d.synapse is not None:
            self._set(group, decay_syn=d.synapse.decay, gain_syn=d.synapse.gain)
        if spiking:
            self._set(group, threshold=d.threshold)
            if form.refractory:
                self._set(group, t_ref=(np.asarray(d.refractory.silent_steps) + 1) * self.clock.dt_)
            if d.adaptation is not None:
                self._set(group, decay_b=d.adaptation.decay, beta=d.adaptation.beta)
            if isinstance(d.reset, ResetToValue):
                self._set(group, v_reset=d.reset.v_reset)
        return group

    def _feed(self, edge: Edge) -> None:
        """The synapses of an edge into a group, with those of the Linear it may come from."""
        name, weight, source, delay = "", None, edge.source, edge.delay
        if isinstance(linear := self.network.layers[source], Linear):
            name, weight = self.linears[source], linear.weight
            (before,) = self.network.sources(source)
            if delay:
                self.net.ovonic["delay_behind"][name] = delay
            source, delay = before.source, before.delay + delay
        name = name or self._name(f"{source}_{edge.target}_{delay}", False)
        text = "1" if weight is None else "w"
        if isinstance(self.network.layers[source], Input):
            text = "y_pre" if weight is None else "w*y_pre"
            self._synapses(name, self._input(source, delay), edge.target, text, 0, weight)
        else:
            self._synapses(name, self.groups[source], edge.target, text, delay, weight)

    def _recurrence(self, layer: str) -> None:
        recurrence, group = self.network.layers[layer].recurrence, self.groups[layer]  # type: ignore[attr-defined]
        if recurrence is not None:
            text = "own" if recurrence.weight.ndim == 1 else HOLLOW if recurrence.masked_diagonal else "w"
            name = self._name(f"{group.name}_recurrence", False)
            self._synapses(name, group, layer, text, recurrence.delay - 1, recurrence.weight)

    def _synapses(self, name: str, source: Any, layer: str, text: str, delay: int, weight: Array | None) -> None:
        """Synapses of a matrix [in, out]; one to one, of weights [n] or of none."""
        target = self.groups[layer]
        variable = {"own": "own", "1": None, "y_pre": None}.get(text, "w")
        words = [word for word in (variable, "others") if word and word in text]
        made = self.b2.Synapses(
            source,
            target,
            "\n".join(f"{word} : 1 (constant)" for word in words),
            on_pre=f"I_post += {text}",
            delay=delay * self.clock.dt,
            clock=self.clock,
            dtype=dict.fromkeys(words, self.dtype),
            namespace={},
            name=name,
        )
        made.pre.when = f"synapses{self.slots[layer]}"
        sizes = len(source) // self.batch, len(target) // self.batch
        if weight is None or weight.ndim == 1:
            i, j = np.tile(np.arange(len(source)), (2, 1))
        else:
            cells = np.indices(sizes).reshape(2, 1, -1)
            i, j = (cells + np.array(sizes)[:, None, None] * np.arange(self.batch)[:, None]).reshape(2, -1)
        made.connect(i=i, j=j)
        if variable and weight is not None:
            made.variables[variable].set_value(np.tile(weight.ravel(), self.batch))
        if "others" in words:
            made.variables["others"].set_value(i != j)
        self._add(made)
