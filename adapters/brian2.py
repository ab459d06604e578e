"""Brian2: a network as a Brian2 ``Network``, stepped by Brian2's own code objects.

    here                          Brian2                                              lost?
    Input                         NeuronGroup NAME: an event for each y != 0 of the   no
                                  TimedArray ``drive``; NAME_late2 for a delay of 2
    Linear W, b                   Synapses NAME, on_pre 'I_post += w' (from an Input  no
                                  'w*y_pre'); b in the target: bias_NAME
    an edge without a Linear      Synapses SOURCE_TARGET_DELAY, one to one            no
    Spiking                       NeuronGroup NAME (``brian2_forms``)                 no
    Recurrence W, or w            Synapses NAME_recurrence, Brian2's delay one less;  no
                                  masked diagonal: 'w*others', others = [i != j]
    Readout                       NeuronGroup NAME without threshold                  no
    order within a step           slots for each layer: synapses, groups,             no
                                  thresholds, resets, synapses_1, groups_1, ..
    dt_ms; a name that Brian2     the attribute ``ovonic`` of the Network, of which   the attribute
    forbids; the part of a delay  no spike depends
    behind a Linear
    Conv, Pool, Flatten           refused: Brian2's neurons stand in a line
    Linear of Linear, or shared   refused: synapses lead from neurons to neurons

Brian2's own schedule has the thresholds before the synapses, by which a layer reads the step before: hence the slots.
Every object is named, since Brian2 compiles anew for each new name. Gradients do not pass. Reference: Brian2 2.10.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.brian2_building import build
from ovonic.adapters.brian2_reading import from_brian2
from ovonic.adapters.toolchains import Unsupported, refuse
from ovonic.models.errors import ConfigError, ToolchainError
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Readout, Spiking
from ovonic.models.lif import silence
from ovonic.models.network import Network
from ovonic.models.simulation import inputs_by_name
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["from_brian2", "loaded", "run", "to_brian2", "unsupported"]

MOST_SYNAPSES = 10_000_000
"""Samples are run together while their synapses are fewer."""

Array = NDArray[Any]


def unsupported(network: Network) -> list[Unsupported]:
    """What Brian2, or this adapter in its terms, cannot express exactly."""
    found = []
    for name, layer in network.layers.items():
        readers = [edge for edge in network.edges if edge.source == name]

        def add(feature: str, reason: str, remedy: str, name: str = name) -> None:
            found.append(Unsupported(name, feature, reason, remedy))

        if isinstance(layer, Conv | Pool | Flatten):
            add(type(layer).__name__, "Brian2's neurons stand in a line", "write it out as a Linear of flat neurons")
        elif len(network.shapes[name]) > 1:
            add(f"shape {network.shapes[name]}", "Brian2's neurons stand in a line", "number them through")
        for edge in network.sources(name):
            source = network.layers[edge.source]
            if isinstance(source, Readout):
                add(f"edge {edge}", "synapses carry spikes, not a membrane", "let nothing read a read-out")
            if isinstance(layer, Linear) and isinstance(source, Linear):
                add(f"edge {edge}", "synapses lead from neurons to neurons", "multiply the two matrices")
        if isinstance(layer, Linear):
            if len(network.sources(name)) > 1:
                add("Linear", "it reads several edges, synapses one", "give each edge a Linear of its own")
            if len(readers) != 1:
                remedy = "give each reader a Linear of its own" if readers else "leave it out"
                add("Linear", f"{len(readers)} edges lead from it, synapses have one target", remedy)
            if layer.bias is not None and any(edge.delay for edge in readers):
                add("Linear.bias", "it would set in late", "put the delay on the edge into the Linear")
    return found


def run(network: Network, inputs: Tensor | Mapping[str, Tensor], target: str = "numpy") -> Trace:
    """Run a network in Brian2 from its initial state, samples side by side as neurons of one Brian2 network.

    Args:
        network: the description.
        inputs: [B, T, *shape], float64 or float32, which is the run's; by name where the network has several.
        target: Brian2's code generation, ``"numpy"`` or ``"cython"`` (which compiles first).
    Returns: the trace, without gradient; refractory counters are reckoned from the spikes, which determine them.
    Raises: UnsupportedDynamics: see ``unsupported``. ConfigError: an input is missing or of the wrong shape or dtype;
        an unknown target. ToolchainError: no Brian2, or one that builds standalone code.
    """
    refuse("Brian2", unsupported(network))
    given = {name: x.detach() for name, x in inputs_by_name(network, inputs).items()}
    first = next(iter(given.values()))
    if first.dtype not in (torch.float64, torch.float32):
        raise ConfigError(f"inputs: {first.dtype}; Brian2 computes in float64 or float32")
    synapses = sum(array.size for array in network.weights().values())
    together = max(1, MOST_SYNAPSES // max(synapses, 1))
    parts = [
        _run({name: x[k : k + together] for name, x in given.items()}, network, target)
        for k in range(0, len(first), together)
    ]

    def joined(key: str) -> Tensor:
        return torch.from_numpy(np.concatenate([part[key] for part in parts])).to(first)

    layers = {}
    for name in network.spiking:
        spikes, dynamics = joined(f"{name}.spikes"), network.layers[name].dynamics  # type: ignore[attr-defined]
        silent = dynamics.refractory.silent_steps
        layers[name] = LayerTrace(
            spikes,
            joined(f"{name}.v"),
            silence(spikes, silent) if np.any(silent) else None,
            joined(f"{name}.b") if dynamics.adaptation is not None else None,
        )
    return Trace(layers, {name: joined(f"{name}.v") for name in network.readouts}, given, network.dt_ms)


def to_brian2(network: Network, inputs: Tensor | Mapping[str, Tensor] | None = None, dtype: Any = np.float64) -> Any:
    """The network as a Brian2 ``Network``, to be run by Brian2: ``net.run(..)``, ``net["hidden"].v``, monitors.

    Args:
        network: the description.
        inputs: [B, T, *shape] as of ``run``: what its inputs give in the steps to come (the last step's for ever
            after: Brian2's TimedArray); neuron n of sample b is number b N + n. None: one sample of nothing.
        dtype: of states and weights, float64 or float32; times are float64.
    Raises: UnsupportedDynamics: see ``unsupported``. ConfigError: a bad input. ToolchainError: no Brian2.
    """
    refuse("Brian2", unsupported(network))
    if inputs is None:
        inputs = {name: torch.zeros(1, 1, *network.shapes[name]) for name in network.inputs}
    with loaded("numpy") as b2:
        return build(b2, network, inputs_by_name(network, inputs), np.dtype(dtype)).net


@contextmanager
def loaded(target: str) -> Iterator[Any]:
    """Brian2 with that code generation, and the user's preferences back in place afterwards."""
    try:
        import brian2
    except Exception as error:
        raise ToolchainError(f"Brian2 does not load ({error}): run ovonic doctor brian2") from error
    if type(brian2.get_device()).__name__ != "RuntimeDevice":
        raise ToolchainError("Brian2 is set to build standalone code: call brian2.set_device('runtime') first")
    if target not in ("numpy", "cython"):
        raise ConfigError(f"target {target!r}: choose 'numpy' or 'cython'")
    before = brian2.prefs["codegen.target"], brian2.prefs["legacy.refractory_timing"]
    brian2.prefs["codegen.target"], brian2.prefs["legacy.refractory_timing"] = target, False
    try:
        yield brian2
    finally:
        brian2.prefs["codegen.target"], brian2.prefs["legacy.refractory_timing"] = before


def _run(inputs: Mapping[str, Tensor], network: Network, target: str) -> dict[str, Array]:
    """Everything of a run by "layer.spikes", "layer.v", "layer.b", [B, T, N]."""
    first = next(iter(inputs.values()))
    batch, steps = first.shape[:2]
    out = {}
    with loaded("numpy") as b2:
        built = build(b2, network, inputs, np.dtype(str(first.dtype).removeprefix("torch.")))
        states, spikes = {}, {}
        for name, group in built.groups.items():
            layer = network.layers[name]
            if isinstance(layer, Input):
                continue
            record = ["v", "b"] if isinstance(layer, Spiking) and layer.dynamics.adaptation is not None else ["v"]
            when = f"after_{group.state_updater.when}"
            states[name] = b2.StateMonitor(group, record, True, when=when, name=f"{group.name}_states_")
            if isinstance(layer, Spiking):
                spikes[name] = b2.SpikeMonitor(group, name=f"{group.name}_spikes_")
        built.net.add(*states.values(), *spikes.values())
        with loaded(target):
            built.net.run(steps * built.clock.dt, namespace={})
        _check_compiled(built.net)
        for name, monitor in states.items():
            for variable in monitor.record_variables:
                array = np.array(monitor.variables[variable].get_value())  # [T, B N]; its memory dies with the monitor
                out[f"{name}.{variable}"] = array.reshape(steps, batch, -1).swapaxes(0, 1)
        for name, monitor in spikes.items():
            z = np.zeros((steps, len(built.groups[name])))
            z[np.round(np.asarray(monitor.t_) / built.clock.dt_).astype(int), np.asarray(monitor.i)] = 1
            out[f"{name}.spikes"] = z.reshape(steps, batch, -1).swapaxes(0, 1)
    return out


def _check_compiled(net: Any) -> None:
    """Brian2 2.10.1 leaves out, without a word, code that Cython could not compile: say so.

    Raises: ToolchainError.
    """
    for obj in net.sorted_objects:
        for made in obj.code_objects:
            text = str(getattr(made.code, "run", ""))
            if text.strip() and "EMPTY_CODE_BLOCK" not in text and made.compiled_code.get("run") is None:
                raise ToolchainError(f"Brian2 ran without the code of {obj.name!r}, which did not compile: use numpy")
