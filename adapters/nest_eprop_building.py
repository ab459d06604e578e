"""Nodes and synapses of an episode of e-prop in NEST's kernel, and what is read of them (``adapters.nest_eprop``).

Step t of the episode is step t + LEAD of the simulation, so that x[t] is a spike at t + LEAD + 1, z[t] is recorded two
steps behind it, and y[t] three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.eprop_wiring import Wiring
from ovonic.adapters.nest_building import resolution
from ovonic.adapters.nest_currents import find_tau
from ovonic.models.dynamics import Comparison, NoReset, SubtractThreshold, When
from ovonic.models.errors import UnsupportedDynamics
from ovonic.models.network import Network
from ovonic.models.surrogates import ArcTan, FastSigmoid, Surrogate, Triangular

__all__ = ["LEAD", "MODELS", "Models", "Plan", "Rates", "run_plan"]

Array = NDArray[Any]
HUSH, FORCE = -1e6, 1e9
LEAD, TAIL = 5, 20
"""Silent steps before an episode, and simulated steps behind the last.

Synapses of the 2020 models do not notice a spike in an interval's first step; and one in the next three would update
the synapse before the learning signals of the last steps of the interval before have come: they would be lost.
"""


class Models(NamedTuple):
    """NEST's names of a family of e-prop models; and whether its neurons reset in the step after the spike."""

    plain: str
    adapting: str
    readout: str
    synapse: str
    feedback: str
    reset_in_next_step: bool


MODELS = {
    "2020": Models(
        "eprop_iaf_bsshslm_2020",
        "eprop_iaf_adapt_bsshslm_2020",
        "eprop_readout_bsshslm_2020",
        "eprop_synapse_bsshslm_2020",
        "eprop_learning_signal_connection_bsshslm_2020",
        True,
    ),
    "online": Models(
        "eprop_iaf",
        "eprop_iaf_adapt",
        "eprop_readout",
        "eprop_synapse",
        "eprop_learning_signal_connection",
        False,
    ),
}
"""NEST's two families of e-prop models."""


class Rates(NamedTuple):
    """Regularisation of firing rates: strength / 2 sum_j (f_j - target)^2, f_j spikes a step (``rate_signal``)."""

    strength: float
    target: float


class Plan(NamedTuple):
    """What ``run_plan`` simulates: ``nest_eprop.run_eprop`` and ``learn`` say what each entry means.

    signalled: whether the learning signals are given, and ``feedback`` brings them.
    """

    network: Network
    wiring: Wiring
    models: Models
    window: int
    feedback: dict[str, Tensor]
    surrogate: Surrogate
    rates: Rates | None
    batch_size: int
    eta: float
    signalled: bool
    episodes: int = 1
    loss: str = "mean_squared_error"

    @property
    def dynamics(self) -> Any:
        return self.network.layers[self.wiring.hidden].dynamics  # type: ignore[attr-defined]

    @property
    def kappa(self) -> float:
        """The filter of the eligibility traces: the read-outs' decay; none with given learning signals."""
        if self.signalled:
            return 0.0
        return float(np.ravel(self.network.layers[self.wiring.out[0][1]].decay)[0])  # type: ignore[attr-defined]


def run_plan(
    nest: Any, plan: Plan, inputs: Mapping[str, Array], targets: Mapping[str, Array], signal: Array | None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Gradients by name, [in, out]; spikes, membranes, read-outs by name, [T, N]."""
    network, wired, names = plan.network, plan.wiring, plan.models
    steps = len(next(iter(inputs.values()))) + LEAD
    d, dt = plan.dynamics, resolution(network.dt_ms)
    nest.resolution = dt
    if names.reset_in_next_step:
        nest.set(
            eprop_update_interval=steps // plan.episodes * dt,
            eprop_learning_window=plan.window * dt,
            eprop_reset_neurons_on_update=plan.episodes > 1,
        )
    layer: Any = network.layers[wired.hidden]
    (n,) = network.shapes[wired.hidden]
    neurons = _create(nest, names.plain if d.adaptation is None else names.adapting, n, _neuron(plan, steps, dt))
    parrots, edges = {}, []
    for linear, source in wired.into:
        if source not in parrots:
            parrots[source] = _play(nest, inputs[source], dt)
        edges.append((f"{linear}.weight", parrots[source], neurons, np.broadcast_to(d.gain, (n,)), "all_to_all"))
    if layer.recurrence is not None:
        rule = "one_to_one" if layer.recurrence.weight.ndim == 1 else "all_to_all"
        edges.append((f"{wired.hidden}.recurrence", neurons, neurons, np.broadcast_to(d.gain, (n,)), rule))
    # an update comes with a synapse's first spike after the window: none before the last learning signals are in
    hush = nest.Create("spike_generator", params={"spike_times": [(steps + 2.0) * dt]})
    trigger = nest.Create("spike_generator", params={"spike_times": [(steps + 8.0) * dt]})
    nest.Connect(hush, neurons, "all_to_all", {"delay": dt, "weight": HUSH})
    for nodes in (neurons, *parrots.values()):
        nest.Connect(trigger, nodes, "all_to_all", {"delay": dt, "weight": FORCE})
    _mend(nest, neurons, d, names, dt)
    _optimise(nest, plan, steps)
    tau_out = 1e-3 * dt if plan.signalled else find_tau(plan.kappa, dt)
    outs = {}
    for linear, name in wired.out:
        (size,) = network.shapes[name]
        gain = np.broadcast_to(network.layers[name].gain, (size,))  # type: ignore[attr-defined]
        if name not in outs:
            tau = find_tau(float(np.ravel(network.layers[name].decay)[0]), dt)  # type: ignore[attr-defined]
            outs[name] = _readout(nest, plan, size, tau, targets.get(name), steps, dt)
        if plan.signalled:
            w = (network.weights()[f"{linear}.weight"] * gain).T
            nest.Connect(neurons, outs[name], "all_to_all", {"delay": dt, "weight": w})
        else:
            edges.append((f"{linear}.weight", neurons, outs[name], gain, "all_to_all"))
    weights = network.weights()
    for name, source, target, gain, rule in edges:
        w = weights[name] * gain
        synapse = {"synapse_model": names.synapse, "delay": dt, "weight": w.T if w.ndim == 2 else w}
        if names.reset_in_next_step:
            synapse["tau_m_readout"] = tau_out
        hollow = name.endswith(".recurrence") and layer.recurrence.masked_diagonal
        nest.Connect(source, target, {"rule": rule, "allow_autapses": not hollow}, synapse)
    if signal is not None:
        teachers = _readout(nest, plan, n, tau_out, -signal, steps, dt)
        nest.Connect(teachers, neurons, "one_to_one", {"synapse_model": names.feedback, "delay": dt, "weight": 1.0})
    for linear, name in () if plan.signalled else wired.out:
        back = plan.feedback.get(linear)
        gain = np.broadcast_to(network.layers[name].gain, network.shapes[name])  # type: ignore[attr-defined]
        b = weights[f"{linear}.weight"] * gain if back is None else back.cpu().numpy().T * gain
        nest.Connect(outs[name], neurons, "all_to_all", {"synapse_model": names.feedback, "delay": dt, "weight": b})
    spikes = nest.Create("spike_recorder", params={"time_in_steps": True})
    nest.Connect(neurons, spikes)
    record = ["V_m"] + ["adaptation"] * (d.adaptation is not None)
    meters = {wired.hidden: (neurons, _meter(nest, neurons, record, dt))}
    meters |= {name: (nodes, _meter(nest, nodes, ["V_m"], dt)) for name, nodes in outs.items()}
    nest.Simulate((steps + TAIL) * dt)

    gradients = {}
    for name, source, target, gain, _ in edges:
        found = nest.GetConnections(source, target, names.synapse)
        if len(found):
            at = np.array(found.source) - source[0].global_id, np.array(found.target) - target[0].global_id
        w = weights[name]
        gradient = np.zeros_like(w)
        where = at if w.ndim == 2 else at[1]
        gradient[where] = ((w * gain)[where] - np.array(found.weight)) * plan.batch_size / plan.eta
        gradients[name] = gradient * gain
    return gradients, _states(nest, plan, spikes, meters, steps)


def _create(nest: Any, model: str, n: int, given: Mapping[str, Any]) -> Any:
    """Neurons with parameters of numbers, or of one a neuron: words and lists do not go together in one call."""
    nodes = nest.Create(model, n, {key: value for key, value in given.items() if not isinstance(value, list)})
    own = {key: value for key, value in given.items() if isinstance(value, list)}
    if own:
        nodes.set([{key: value[k] for key, value in own.items()} for k in range(n)])
    return nodes


def _neuron(plan: Plan, steps: int, dt: float) -> dict[str, Any]:
    d, names = plan.dynamics, plan.models
    form, height, width = _slope(plan.surrogate, d.threshold)
    given = {
        "C_m": 1.0,
        "E_L": 0.0,
        "I_e": 0.0,
        "V_m": 0.0,
        "V_th": _each(d.threshold),
        "tau_m": _each(_taus(d.decay, dt)),
        "t_ref": _each((np.asarray(d.refractory.silent_steps) + 1) * dt),
        "surrogate_gradient_function": form,
        "surrogate_gradient_height": _each(height),
        "surrogate_gradient_width": _each(width),
    }
    if names.reset_in_next_step:
        given["regular_spike_arrival"] = True
        if plan.rates is not None:
            true = steps - LEAD
            given["c_reg"] = plan.rates.strength * (steps / true) ** 2 * (1 - plan.kappa)
            given["f_target"] = plan.rates.target * true / steps / dt * 1000
    else:
        given["kappa"] = plan.kappa
    if d.adaptation is not None:
        given |= {"adapt_beta": _each(d.adaptation.beta), "adapt_tau": _each(_taus(d.adaptation.decay, dt))}
    return given


def _slope(surrogate: Surrogate, threshold: Any) -> tuple[str, Any, Any]:
    """NEST's form, height and width: of |v - A| / width."""
    if isinstance(surrogate, Triangular):
        return "piecewise_linear", surrogate.height / np.asarray(threshold), threshold
    if isinstance(surrogate, ArcTan):
        return "arctan_derivative", surrogate.alpha / 2, 2 / (math.pi * surrogate.alpha)
    assert isinstance(surrogate, FastSigmoid)
    return "fast_sigmoid_derivative", 1.0, 1 / surrogate.slope


def _mend(nest: Any, neurons: Any, d: Any, names: Models, dt: float) -> None:
    """Give back what NEST's reset takes off the next membrane beyond what the description's does."""
    threshold, decay = np.asarray(d.threshold), np.asarray(d.decay)
    theirs = threshold if names.reset_in_next_step else decay * threshold
    late = isinstance(d.reset, SubtractThreshold) and d.reset.when is When.NEXT_AFTER_INPUT
    ours = 0.0 * threshold if isinstance(d.reset, NoReset) else threshold if late else decay * threshold
    more = np.broadcast_to(theirs - ours, (len(neurons),))
    if more.any():
        nest.Connect(neurons, neurons, "one_to_one", {"delay": dt, "weight": np.array(more)})


def _optimise(nest: Any, plan: Plan, steps: int) -> None:
    optimiser = {
        "type": "gradient_descent",
        "batch_size": plan.batch_size,
        "eta": plan.eta,
        "Wmin": -1e12,
        "Wmax": 1e12,
    }
    if plan.models.reset_in_next_step:
        nest.SetDefaults(plan.models.synapse, {"average_gradient": False, "optimizer": optimiser})
        return
    nest.SetDefaults(plan.models.synapse, {"optimizer": optimiser | {"optimize_each_step": False}})


def _readout(nest: Any, plan: Plan, size: int, tau: float | None, target: Array | None, steps: int, dt: float) -> Any:
    given: dict[str, Any] = {"C_m": 1.0, "E_L": 0.0, "I_e": 0.0, "V_m": 0.0, "tau_m": tau}
    late = plan.models.reset_in_next_step
    if late:
        given |= {"regular_spike_arrival": True, "loss": plan.loss}
    nodes = nest.Create(plan.models.readout, size, given)
    if plan.loss == "cross_entropy":
        softmax = {"synapse_model": "rate_connection_delayed", "delay": dt, "receptor_type": 1, "weight": 1.0}
        nest.Connect(nodes, nodes, {"rule": "all_to_all", "allow_autapses": False}, softmax)
    if target is None:
        return nodes
    played = nest.Create("step_rate_generator", size)
    offset = 4.0 if late else 3.0
    times = (np.arange(LEAD, steps) + offset) * dt
    for component, generator in enumerate(played):
        generator.set(amplitude_times=times, amplitude_values=target[:, component])
    rate = {"synapse_model": "rate_connection_delayed", "delay": dt}
    nest.Connect(played, nodes, "one_to_one", rate | {"receptor_type": 2})
    if not late:
        open_ms = [(steps - plan.window + 3.0) * dt, (steps + 3.0) * dt]
        gate = nest.Create("step_rate_generator", params={"amplitude_times": open_ms, "amplitude_values": [1.0, 0.0]})
        nest.Connect(gate, nodes, "all_to_all", rate | {"receptor_type": 1})
    return nodes


def _play(nest: Any, x: Array, dt: float) -> Any:
    generators, parrots = (nest.Create(model, x.shape[1]) for model in ("spike_generator", "parrot_neuron"))
    generators.set([{"spike_times": (np.flatnonzero(column) + 1.0 + LEAD) * dt} for column in x.T])
    nest.Connect(generators, parrots, "one_to_one", {"delay": dt})
    return parrots


def _meter(nest: Any, nodes: Any, what: list[str], dt: float) -> Any:
    meter = nest.Create("multimeter", params={"record_from": what, "interval": dt, "time_in_steps": True})
    nest.Connect(meter, nodes, "all_to_all", {"delay": dt})
    return meter


def _states(nest: Any, plan: Plan, spikes: Any, meters: Mapping[str, Any], steps: int) -> dict[str, Array]:
    """Spikes and potentials of the episode; a membrane that met its threshold is refused."""
    d, hidden = plan.dynamics, plan.wiring.hidden
    out: dict[str, Array] = {}
    for name, (nodes, meter) in meters.items():
        first = 3 + LEAD + (name != hidden)
        for key in set(meter.events) - {"times", "senders"}:
            values = np.zeros((steps - LEAD, len(nodes)))
            at, node = meter.events["times"] - first, meter.events["senders"] - nodes[0].global_id
            inside = (at >= 0) & (at < len(values))
            values[at[inside], node[inside]] = meter.events[key][inside]
            out[f"{name}.{key}"] = values
    z = np.zeros_like(out[f"{hidden}.V_m"])
    at = np.asarray(spikes.events["times"]).astype(int) - 3 - LEAD
    node = np.asarray(spikes.events["senders"]) - meters[hidden][0][0].global_id
    inside = (at >= 0) & (at < len(z))
    z[at[inside], node[inside]] = 1
    out["spikes"] = z
    if not plan.models.reset_in_next_step:
        out[f"{hidden}.V_m"] += z * d.threshold
    level = d.adapted(out.get(f"{hidden}.adaptation"))
    if d.comparison is Comparison.GREATER and np.any(ties := (z > 0) & (out[f"{hidden}.V_m"] == level)):
        step, neuron = np.argwhere(ties)[0]
        raise UnsupportedDynamics(
            f"layer {hidden!r}: neuron {neuron} met its threshold exactly in step {step}, where NEST fires and > does "
            "not: use Comparison.GREATER_EQUAL"
        )
    return out


def _each(value: Any) -> Any:
    return np.asarray(value).item() if np.ndim(value) == 0 else np.asarray(value).tolist()


def _taus(decay: Any, dt: float) -> Any:
    taus = np.array([find_tau(float(value), dt) for value in np.ravel(decay)], dtype=float)
    return taus.item() if np.ndim(decay) == 0 else taus
