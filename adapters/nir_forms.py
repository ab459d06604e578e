"""The forms in which a network is written as NIR: for all readers, by NIR's own equations, or for one tool's import.

    form            constants                                recurrence                 for
    (none)          ``nir_nodes``                            Linear or Scale            any NIR tool, and Ovonic
    nir-exact       the same                                 the same                   readers of ``NirExact``
    snntorch-1.0    tau = 1e-4 s / (1 - decay), r = tau/dt   Linear W, then Linear 1    ``import_from_nir(graph)``
    norse-1.1       tau = dt / (1 - decay), r = 1            Linear W                   ``from_nir(graph, dt=dt)``

A tool's form is for its own import, which computes in float32: it then does what ``models.simulation.run`` does in
float32, up to the order of sums. snnTorch's import sends a drive through W_rec where a neuron and a Linear read each
other; the second Linear, of ones, keeps it from seeing that, and its executor then feeds back after one step. Both
hand NIR's Flatten to torch, which counts a batch axis: with a Flatten, give them inputs without one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nir  # type: ignore[import-untyped]
import numpy as np
from torch import fx, nn

from ovonic.adapters.nir_nodes import Shape, layer_node, recurrence_node, spread
from ovonic.adapters.nir_snntorch import DT_S
from ovonic.adapters.toolchains import Unsupported
from ovonic.models.dynamics import Comparison, ResetToValue, When
from ovonic.models.frozen import Parameter
from ovonic.models.layers import Conv, Input, Layer, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Network

__all__ = ["FORMS", "Form"]

FLOAT32 = 2.0**-24
"""Half the distance of float32 numbers in 0.5..1."""

FOREVER_S = 1e20
"""A time constant of neurons that do not leak, for importers that know LIF only: dt/tau rounds away."""


@dataclass(frozen=True)
class Form:
    """A way to write.

    Attributes:
        reader: who reads it.
        node: (name, layer, shape read, shape given, dt_ms) -> node.
        recurrence: the nodes from a layer back to itself.
        unsupported: what of a network the reader would not do exactly.
    """

    reader: str
    node: Callable[[str, Layer, Shape, Shape, float], Any]
    recurrence: Callable[[Recurrence], list[Any]]
    unsupported: Callable[[Network], list[Unsupported]]


def _plain(recurrence: Recurrence) -> list[Any]:
    return [recurrence_node(recurrence)]


def _dense(recurrence: Recurrence) -> list[Any]:
    if recurrence.weight.ndim == 1:
        return [nir.Linear(np.diag(recurrence.weight))]
    return [recurrence_node(recurrence)]


def _hidden(recurrence: Recurrence) -> list[Any]:
    return [*_dense(recurrence), nir.Linear(np.eye(len(recurrence.weight)))]


# ------------------------------------------------------------------------------------------------ what must hold


def _common(name: str, layer: Spiking) -> list[Unsupported]:
    """What no reader of NIR does by its equations."""
    d, found = layer.dynamics, []

    def no(feature: str, reason: str, remedy: str = "write it without a convention: the contract keeps it") -> None:
        found.append(Unsupported(name, feature, reason, remedy))

    if d.adaptation is not None:
        no("Dynamics.adaptation", "NIR's thresholds do not adapt")
    if np.any(d.refractory.silent_steps):
        no("Dynamics.refractory", "NIR's neurons are never refractory")
    if d.comparison is not Comparison.GREATER:
        no("Dynamics.comparison", "NIR spikes where v > v_threshold")
    at_once = isinstance(d.reset, ResetToValue) and d.reset.when is not When.NEXT_AFTER_INPUT
    if not at_once:
        no("Dynamics.reset", f"NIR resets to a value in the step of the spike, this layer does {d.reset}")
    return found


def _leaks_finitely(name: str, layer: Spiking | Readout) -> list[Unsupported]:
    d = layer.dynamics if isinstance(layer, Spiking) else layer
    kept = np.asarray(d.decay)
    mixed = (kept == 1).any() and (d.synapse is not None or not (kept == 1).all())
    if mixed or (kept == 0).any() or (d.synapse is not None and not np.all(_inside(d.synapse.decay))):
        return [Unsupported(name, "decay", "has no finite time constant in one NIR node", "split the layer")]
    rest = 0.0 if (kept == 1).all() else d.rest
    if np.any(np.not_equal(d.v_init, rest)):
        return [Unsupported(name, "v_init", "NIR's membranes start where they rest", "start at rest")]
    return []


def _inside(decay: Parameter) -> Any:
    return (np.asarray(decay) > 0) & (np.asarray(decay) < 1)


def _exact(network: Network) -> list[Unsupported]:
    found = []
    for name, layer in network.layers.items():
        if isinstance(layer, Spiking):
            found += _common(name, layer)
        if isinstance(layer, (Spiking, Readout)):
            found += _leaks_finitely(name, layer)
    return found


def _tool(network: Network, tool: str, neuron: Callable[[str, Spiking], list[Unsupported]]) -> list[Unsupported]:
    """What both importers have in common: one input, one output, no delays, no read-outs, sums of simple windows."""
    found = []

    def no(name: str, feature: str, reason: str, remedy: str) -> None:
        found.append(Unsupported(name, feature, reason, remedy))

    read = {edge.source for edge in network.edges}
    for ends, what in ((network.inputs, "input"), ([n for n in network.layers if n not in read], "layer nobody reads")):
        for name in ends[1:]:
            no(name, "edges", f"a second {what}; {tool} has one", "write one network an output")
    for edge in network.edges:
        if edge.delay:
            no(edge.target, "Edge.delay", f"{tool} has no Delay", "write it without a convention")
    for name, layer in network.layers.items():
        if hasattr(fx.GraphModule, name) or hasattr(nn.ModuleDict, name):
            no(name, "name", "torch's modules have an attribute of this name", "rename the layer")
        if isinstance(layer, Spiking):
            if layer.recurrence is not None and layer.recurrence.delay != 1:
                no(name, "Recurrence.delay", f"{tool} feeds back after one step", "delay 1")
            found += _common(name, layer) + neuron(name, layer)
            reset = layer.dynamics.reset
            if isinstance(reset, ResetToValue) and np.any(reset.v_reset):
                no(name, "ResetToValue.v_reset", f"{tool} resets to 0", "move the potentials so that it is 0")
        if isinstance(layer, Readout):
            no(name, "Readout", f"{tool} has no LI", "end at the layer before, and integrate outside")
        if isinstance(layer, Conv) and layer.groups != 1:
            no(
                name,
                "Conv.groups",
                f"{tool} takes the groups' inputs for all inputs",
                "groups=1 with zeros between them",
            )
        if isinstance(layer, Pool) and layer.how is Pooling.SUM:
            size = int(np.prod(layer.window))
            if size & (size - 1) or any(layer.padding):
                reason = f"{tool} multiplies the mean of a window, without padding, by its size, which rounds"
                no(name, "Pool.how", reason, "pool by the mean with larger weights, or over 2, 4, 8, .. values")
    return found


def _is(value: Parameter, number: float) -> bool:
    return bool(np.all(np.equal(value, number)))


def _starts(name: str, layer: Spiking, tool: str, at_zero: bool) -> list[Unsupported]:
    d, found = layer.dynamics, []
    if at_zero and not _is(d.rest, 0):
        found.append(Unsupported(name, "Dynamics.rest", f"{tool} decays to 0", "move the potentials so that rest is 0"))
    if np.any(np.not_equal(d.v_init, d.rest)):
        found.append(Unsupported(name, "Dynamics.v_init", f"{tool} starts where it rests", "start at rest"))
    return found


# ------------------------------------------------------------------------------------------------ snnTorch


def _snntorch(network: Network) -> list[Unsupported]:
    tool = "snnTorch 1.0's import"

    def neuron(name: str, layer: Spiking) -> list[Unsupported]:
        d, found = layer.dynamics, _starts(name, layer, tool, True)
        if np.unique(np.float32(d.threshold)).size > 1:
            remedy = "scale each neuron's weights so that thresholds are equal"
            found.append(Unsupported(name, "Dynamics.threshold", f"{tool} wants one for all neurons", remedy))
        for feature, gain in (
            ("Dynamics.gain", d.gain),
            ("Synapse.gain", 1.0 if d.synapse is None else d.synapse.gain),
        ):
            if not _is(gain, 1):
                reason = f"{tool} divides the threshold by it, and the membrane is then another"
                found.append(Unsupported(name, feature, reason, "multiply the weights before it instead, to gain 1"))
        return found

    return _tool(network, tool, neuron)


def _snntorch_node(name: str, layer: Layer, reads: Shape, gives: Shape, dt_ms: float) -> Any:
    if not isinstance(layer, Spiking):
        return layer_node(name, layer, reads, gives, dt_ms)
    d = layer.dynamics
    tau = _tau(d.decay, gives, DT_S)
    fields = {"r": tau / DT_S, "v_leak": np.zeros(gives), "v_reset": np.zeros(gives)}
    fields["v_threshold"] = spread(d.threshold, gives)
    if d.synapse is None:
        return nir.LIF(tau=tau, **fields)
    tau_syn = _tau(d.synapse.decay, gives, DT_S)
    return nir.CubaLIF(tau_mem=tau, tau_syn=tau_syn, w_in=tau_syn / DT_S, **fields)


def _tau(decay: Parameter, shape: Shape, dt_s: float) -> Any:
    """tau of which 1 - dt/tau is the decay, to its bits in float32."""
    kept = spread(decay, shape)
    with np.errstate(divide="ignore"):
        tau = np.where(kept == 1, FOREVER_S, dt_s / (1 - kept))
    for _ in range(8):
        off = np.float32(1 - dt_s / tau).astype(float) - np.float32(kept)
        tau = np.where(off == 0, tau, np.nextafter(tau, np.where(off > 0, 0, np.inf)))
    return tau


# ------------------------------------------------------------------------------------------------ Norse


def _norse(network: Network) -> list[Unsupported]:
    tool = "Norse 1.1's import"

    def neuron(name: str, layer: Spiking) -> list[Unsupported]:
        d, found = layer.dynamics, _starts(name, layer, tool, layer.dynamics.synapse is not None)
        if d.synapse is not None:
            if _is(d.decay, 1) or not np.all(_inside(d.synapse.decay) & (np.asarray(d.decay) < 1)):
                reason = f"{tool} has no synapse or membrane without leak or without memory"
                found.append(Unsupported(name, "Synapse.decay", reason, "decays between 0 and 1"))
        elif _is(d.decay, 1):
            if not (_is(d.gain, 1) and _is(d.rest, 0)):
                reason = f"{tool} ignores r of an IF"
                found.append(Unsupported(name, "Dynamics.gain", reason, "multiply the weights before it instead"))
        elif (np.abs(np.asarray(d.gain) - (1 - np.asarray(d.decay))) > FLOAT32).any():
            remedy = "gain 1 - decay; multiply the weights before it instead"
            found.append(Unsupported(name, "Dynamics.gain", f"{tool} ignores r: its gain is 1 - decay", remedy))
        return found

    found = _tool(network, tool, neuron)
    for name, layer in network.layers.items():
        readers = [edge for edge in network.edges if edge.source == name]
        if len(network.sources(name)) > 1 or len(readers) > 1:
            reason = f"{tool} runs its nodes depth first, some before what they read"
            found.append(Unsupported(name, "edges", reason, "a chain, in which each layer reads the one before"))
        if isinstance(layer, Conv) and layer.weight.ndim == 3:
            found.append(Unsupported(name, "Conv", f"{tool} leaves a Conv1d out in silence", "a window of height 1"))
        if isinstance(layer, Pool) and layer.how is Pooling.MEAN:
            reason = f"{tool} leaves an AvgPool2d out in silence"
            found.append(Unsupported(name, "Pool.how", reason, "pool by the sum with smaller weights"))
    return found


def _norse_node(name: str, layer: Layer, reads: Shape, gives: Shape, dt_ms: float) -> Any:
    if isinstance(layer, Input) or not isinstance(layer, Spiking):
        return layer_node(name, layer, reads, gives, dt_ms)
    d, ones, dt_s = layer.dynamics, np.ones(gives), dt_ms / 1e3
    threshold, zeros = spread(d.threshold, gives), np.zeros(gives)
    if d.synapse is None and _is(d.decay, 1):
        return nir.IF(r=ones, v_threshold=threshold, v_reset=zeros)
    share = 1 - spread(d.decay, gives)
    fields = {"v_leak": spread(d.rest, gives), "v_threshold": threshold, "v_reset": zeros}
    if d.synapse is None:
        return nir.LIF(tau=dt_s / share, r=ones, **fields)
    taken = 1 - spread(d.synapse.decay, gives)
    r, w_in = spread(d.gain, gives) / share, spread(d.synapse.gain, gives) / taken
    return nir.CubaLIF(tau_mem=dt_s / share, tau_syn=dt_s / taken, r=r, w_in=w_in, **fields)


FORMS: dict[str | None, Form] = {
    None: Form("any NIR tool", layer_node, _plain, lambda network: []),
    "nir-exact": Form("NIR's equations", layer_node, _plain, _exact),
    "snntorch-1.0": Form("snnTorch 1.0's import of NIR", _snntorch_node, _hidden, _snntorch),
    "norse-1.1": Form("Norse 1.1's import of NIR", _norse_node, _dense, _norse),
}
"""The forms by the names of their conventions."""
