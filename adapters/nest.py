"""NEST 3.10: a network as nodes and connections of NEST's kernel, stepped by NEST.

    here                                    NEST                                              lost?
    Input                                   spike_generator                                   no
    Linear, Recurrence, edges               static_synapse_lbl (``nest_building``)            a masked diagonal's values
    delays in steps                         delay, and when a layer begins (``first``)        no
    Spiking, Readout                        ``nest_forms``: the neurons and what they can do  no
    v before its reset                      V_m of the e-prop neurons, which keep it; where   no
                                            it was reset to a value, from what the neuron received
    > beside a subtracted threshold         >=, and a run in which they differ is refused     no
    dt_ms that is no multiple of 1 us       resolution 1 ms, dt_ms beside it                  no
    several Linears in a row, shared ones   refused: connections lead from neuron to neuron
    Conv, Pool, Flatten                     refused: neurons stand in a line

NEST has one kernel, in double precision. ``run`` takes an empty one and leaves an empty one: it refuses where the
user's nodes stand, unless told to ``reset``; ``to_nest`` takes an empty one too. Spikes are those of
``models.simulation`` wherever no membrane is nearer to its threshold than the rounding of sums taken in another order,
with weights folded by a gain and resets mended to their last bit.

NEST's traps, each with a test: a spike of step t is stamped a step later, two where the input is stamped t + 1;
thresholds are compared by >=; iaf_psc_delta resets hard, and its V_m is recorded after the reset; I_e acts on the
e-prop neurons from the second step on; a default resets them every 1000 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.nest_building import NestNetwork, connect, create, quiet, resolution
from ovonic.adapters.nest_currents import propagator
from ovonic.adapters.nest_forms import ADAPTING, CURRENT, HARD, model_of
from ovonic.adapters.nest_reading import from_nest
from ovonic.adapters.nest_refusals import problems
from ovonic.adapters.toolchains import Unsupported, refuse
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Readout, Spiking
from ovonic.models.lif import silence
from ovonic.models.network import Network
from ovonic.models.simulation import inputs_by_name
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["NestNetwork", "empty_kernel", "from_nest", "run", "to_nest", "unsupported"]

MOST_CONNECTIONS = 10_000_000
"""Samples are run together while their connections are fewer."""

KEPT = (
    "tics_per_ms",
    "resolution",
    "local_num_threads",
    "rng_type",
    "rng_seed",
    "data_path",
    "data_prefix",
    "overwrite_files",
    "print_time",
    "eprop_update_interval",
    "eprop_learning_window",
    "eprop_reset_neurons_on_update",
)
"""What of an empty kernel a user may have set, and finds again after a run."""

RECORDED = {ADAPTING: ["V_th_adapt", "adaptation"], CURRENT: ["I_syn_ex", "I_syn_in"]}
"""What is recorded beside V_m."""

Array = NDArray[Any]


def unsupported(network: Network) -> list[Unsupported]:
    """What NEST, or this adapter in its terms, cannot express exactly."""
    found: list[Unsupported] = []
    for name, layer in network.layers.items():
        found += (Unsupported(name, *what) for what in _misplaced(network, name))
        if isinstance(layer, Spiking | Readout):
            found += problems(name, layer, resolution(network.dt_ms))
    return found


def _misplaced(network: Network, name: str) -> Iterator[tuple[str, str, str]]:
    """Feature, reason and remedy of what has no place between neurons and connections."""
    layer, sources = network.layers[name], network.sources(name)
    if isinstance(layer, Conv | Pool | Flatten):
        yield type(layer).__name__, "NEST's neurons stand in a line", "write it out as a Linear of flat neurons"
    elif len(network.shapes[name]) > 1:
        yield f"shape {network.shapes[name]}", "NEST's neurons stand in a line", "number them through"
    for edge in sources:
        source = network.layers[edge.source]
        if isinstance(source, Readout):
            yield f"edge {edge}", "connections carry spikes, not a membrane", "let nothing read a read-out"
        if isinstance(layer, Linear) and isinstance(source, Linear):
            yield f"edge {edge}", "connections lead from neuron to neuron", "multiply the two matrices"
    if isinstance(layer, Linear):
        readers = sum(edge.source == name for edge in network.edges)
        if len(sources) > 1:
            yield "Linear", "it reads several edges, connections one", "give each edge a Linear of its own"
        if readers != 1:
            remedy = "give each reader a Linear of its own" if readers else "leave it out"
            yield "Linear", f"{readers} edges lead from it, connections have one target", remedy


def to_nest(network: Network) -> NestNetwork:
    """The network as nodes and connections in NEST's kernel, which must be empty: to be run by ``nest.Simulate``.

    The kernel's resolution becomes the network's step, and its neurons are no longer reset every 1000 ms. Give
    ``spike_times`` to the generators in ``layers``, and connect recorders to the neurons.

    Raises: UnsupportedDynamics: see ``unsupported``. ConfigError: the kernel holds nodes. ToolchainError: no NEST.
    """
    refuse("NEST", unsupported(network))
    with quiet() as nest:
        _demand_empty(nest, "call nest.ResetKernel() first")
        made, joints = create(nest, network)
        connect(nest, made, joints, 1, made.layers)
    return made


def run(network: Network, inputs: Tensor | Mapping[str, Tensor], reset: bool = False) -> Trace:
    """Run a network in NEST from its initial state, samples side by side as neurons of one kernel.

    Args:
        network: the description.
        inputs: [B, T, *shape] of float64; by name where the network has several. Any values: NEST's generators weight
            their spikes.
        reset: drop the user's nodes. The kernel is empty afterwards in any case; resolution, threads, seeds and paths
            are put back, model defaults that were changed and models that were copied are not.
    Returns: the trace, without gradient; refractory counters are reckoned from the spikes, which determine them.
    Raises: UnsupportedDynamics: see ``unsupported``; or a membrane met its threshold exactly, where NEST fires and the
        network does not (layer, sample, step and neuron are named). ConfigError: a bad input, one of another dtype; the
        kernel holds nodes. ToolchainError: no NEST.
    """
    refuse("NEST", unsupported(network))
    given = {name: x.detach() for name, x in inputs_by_name(network, inputs).items()}
    first = next(iter(given.values()))
    if first.dtype != torch.float64:
        raise ConfigError(f"inputs: {first.dtype}; NEST computes in float64 alone: give inputs.double()")
    connections = sum(array.size for array in network.weights().values())
    together = max(1, MOST_CONNECTIONS // max(connections, 1))
    with empty_kernel(reset) as nest:
        parts = []
        for k in range(0, len(first), together):
            parts.append(_run(nest, network, {name: x[k : k + together].cpu().numpy() for name, x in given.items()}, k))
            nest.ResetKernel()

    def joined(key: str) -> Tensor:
        return torch.from_numpy(np.concatenate([part[key] for part in parts])).to(first)

    layers = {}
    for name in network.spiking:
        spikes, dynamics = joined(f"{name}.spikes"), network.layers[name].dynamics  # type: ignore[attr-defined]
        silent = dynamics.refractory.silent_steps
        layers[name] = LayerTrace(
            spikes,
            joined(f"{name}.V_m"),
            silence(spikes, silent) if np.any(silent) else None,
            None if dynamics.adaptation is None else joined(f"{name}.adaptation"),
        )
    return Trace(layers, {name: joined(f"{name}.V_m") for name in network.readouts}, given, network.dt_ms)


def _demand_empty(nest: Any, remedy: str) -> None:
    if nest.network_size or nest.biological_time:
        state = f"{nest.network_size} nodes at {nest.biological_time} ms"
        raise ConfigError(f"NEST's one kernel holds a simulation ({state}): {remedy}")


@contextmanager
def empty_kernel(reset: bool) -> Iterator[Any]:
    """NEST with an empty kernel, quiet; what was set before is set again afterwards.

    Args: reset: drop the nodes that are there; else they are an error.
    Raises: ConfigError: the kernel holds nodes. ToolchainError: no NEST.
    """
    with quiet() as nest:
        if not reset:
            _demand_empty(nest, "run(.., reset=True) drops it, nest.ResetKernel() too")
        before = {key: getattr(nest, key) for key in KEPT}
        nest.ResetKernel()
        try:
            yield nest
        finally:
            nest.ResetKernel()
            changed = {key: value for key, value in before.items() if getattr(nest, key) != value}
            if "tics_per_ms" in changed:
                changed |= {"tics_per_ms": int(before["tics_per_ms"]), "resolution": before["resolution"]}
            if changed:
                nest.set(**changed)


def _run(nest: Any, network: Network, inputs: Mapping[str, Array], sample: int) -> dict[str, Array]:
    """Everything of a run by "layer.spikes", "layer.V_m", "layer.adaptation", [B, T, N]; ``sample``: of the first."""
    batch, steps = next(iter(inputs.values())).shape[:2]
    made, joints = create(nest, network, batch)
    dt = nest.resolution
    for name, x in inputs.items():
        _play(made.layers[name], x, dt)
    probes = {}
    for name, nodes in made.layers.items():
        if not isinstance(layer := network.layers[name], Input) and model_of(layer) == HARD:  # type: ignore[arg-type]
            memoryless = {"E_L": 0.0, "V_m": 0.0, "V_th": 1e300, "V_reset": 0.0, "tau_m": 1e-3 * dt}
            probes[name] = nest.Create(HARD, len(nodes), memoryless)
    recorded, received, spiked = {}, {}, {}
    for name, nodes in made.layers.items():
        if isinstance(layer := network.layers[name], Input):
            continue
        more = RECORDED.get(model_of(layer), [])  # type: ignore[arg-type]
        recorded[name] = _recorder(nest, nodes, ["V_m", *more], dt)
        if name in probes:
            received[name] = _recorder(nest, probes[name], ["V_m"], dt)
        if isinstance(layer, Spiking):
            spiked[name] = nest.Create("spike_recorder", params={"time_in_steps": True})
            nest.Connect(nodes, spiked[name])
    connect(nest, made, joints, batch, made.layers)
    connect(nest, made, joints, batch, probes)
    length = steps + max(made.first.values())
    nest.Simulate(length * dt + 2 * nest.max_delay)

    out: dict[str, Array] = {}
    for name, nodes in made.layers.items():
        layer, first = network.layers[name], made.first[name]
        if isinstance(layer, Input):
            continue
        values = _values(recorded[name].events, nodes, length)
        out[f"{name}.V_m"] = v = _samples(values["V_m"][first : first + steps], batch)
        if "adaptation" in values:
            out[f"{name}.adaptation"] = _samples(values["adaptation"][first : first + steps], batch)
        if isinstance(layer, Spiking):
            out[f"{name}.spikes"] = z = _spikes(spiked[name].events, nodes, first, steps, batch)
            if name in received:
                values["received"] = _values(received[name].events, probes[name], length)["V_m"]
            if name in received or "I_syn_ex" in values:
                before = _before_reset(layer, values, nodes, dt)
                out[f"{name}.V_m"] = np.where(z > 0, _samples(before[first : first + steps], batch), v)
            if name in made.ties:
                level = np.atleast_1d(nodes.get("V_th"))[: v.shape[2]]
                if "V_th_adapt" in values:
                    level = _samples(values["V_th_adapt"][first : first + steps], batch)
                _demand_no_ties(name, (z > 0) & (v == level), v, sample)
    return out


def _play(generators: Any, x: Array, dt: float) -> None:
    """Make the generators fire x [B, T, n], step t stamped t + 1."""
    values = x.transpose(0, 2, 1).reshape(len(generators), -1)
    played: list[dict[str, Any]] = []
    for row in values:
        (at,) = np.nonzero(row)
        played.append({"spike_times": (at + 1) * dt, "spike_weights": [] if np.all(row[at] == 1) else row[at]})
    generators.set(played)


def _recorder(nest: Any, nodes: Any, what: list[str], dt: float) -> Any:
    meter = nest.Create("multimeter", params={"record_from": what, "interval": dt, "time_in_steps": True})
    nest.Connect(meter, nodes, "all_to_all", {"delay": dt})
    return meter


def _values(events: Mapping[str, Array], nodes: Any, length: int) -> dict[str, Array]:
    """What was recorded, [length, nodes], step k stamped k + 1."""
    step, node = events["times"] - 1, events["senders"] - nodes[0].global_id
    inside = step < length
    values = {}
    for key in set(events) - {"times", "senders", "offsets"}:
        values[key] = np.full((length, len(nodes)), np.nan)
        values[key][step[inside], node[inside]] = events[key][inside]
    return values


def _samples(values: Array, batch: int) -> Array:
    """[T, B n] -> [B, T, n]."""
    return values.reshape(len(values), batch, -1).swapaxes(0, 1)


def _spikes(events: Mapping[str, Array], nodes: Any, first: int, steps: int, batch: int) -> Array:
    step, node = events["times"].astype(int) - 1 - first, events["senders"].astype(int) - nodes[0].global_id
    inside = (step >= 0) & (step < steps)
    spikes = np.zeros((steps, len(nodes)))
    spikes[step[inside], node[inside]] = 1
    return _samples(spikes, batch)


def _before_reset(layer: Spiking, values: Mapping[str, Array], nodes: Any, dt: float) -> Array:
    """The membrane that was compared where a neuron fired that resets to a value, [length, nodes], by NEST's formula.

    V_m is recorded after the reset. What iaf_psc_delta received is what neurons without memory recorded that have its
    connections; the currents of iaf_psc_exp are recorded.
    """
    rest = np.atleast_1d(nodes.get("E_L"))
    decayed = np.resize(layer.dynamics.decay, len(nodes)) * _last(values["V_m"] - rest)
    if "received" in values:
        return decayed + values["received"] + rest
    taus = (np.atleast_1d(nodes.get(key)).tolist() for key in ("tau_syn_ex", "tau_m", "C_m"))
    gain = np.array([propagator(tau_syn, tau_m, c_m, dt) for tau_syn, tau_m, c_m in zip(*taus, strict=True)])
    return decayed + _last(values["I_syn_ex"]) * gain + _last(values["I_syn_in"]) * gain + rest


def _last(values: Array) -> Array:
    """The values of the step before."""
    return np.concatenate([np.zeros_like(values[:1]), values[:-1]])


def _demand_no_ties(name: str, ties: Array, v: Array, sample: int) -> None:
    if len(found := np.argwhere(ties)):
        b, t, j = (int(index) for index in found[0])
        raise UnsupportedDynamics(
            f"layer {name!r}, Dynamics.comparison: in step {t} of sample {sample + b} the membrane of neuron {j} met "
            f"its threshold ({v[b, t, j].item()!r}), where NEST fires and '>' does not; run it where > is compared "
            "(Brian2, Norse, snnTorch), or describe it with Comparison.GREATER_EQUAL"
        )
