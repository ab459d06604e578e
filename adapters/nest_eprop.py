"""One episode of e-prop by NEST's own plasticity, read synapse by synapse.

    here                              NEST 3.10
    Input                             spike_generator, parrot_neuron
    LIF, ALIF                         eprop_iaf_bsshslm_2020, eprop_iaf_adapt_bsshslm_2020      ``models="2020"``
                                      eprop_iaf, eprop_iaf_adapt                                ``models="online"``
    Readout                           eprop_readout_bsshslm_2020; eprop_readout
    Linear, Recurrence                eprop_synapse_bsshslm_2020; eprop_synapse
    feedback (symmetric: W_out)       eprop_learning_signal_connection(_bsshslm_2020)
    target, steps with an error       step_rate_generator; eprop_learning_window, or a second step_rate_generator
    gain                              in the weights, and by the chain rule in the gradients
    reset that NEST does not do       a static synapse of each neuron to itself, which does not learn

An optimiser by gradient descent with eta = 1 changes each weight by the negative of its gradient; the difference of
the weights before and after is read. NEST's two families compute

                         2020                                       online (eprop_iaf)
    ebar[t]              kappa ebar[t-1] + (1 - kappa) e[t]         kappa ebar[t-1] + e[t]
    a synapse is updated at its first spike after the interval      at each of its spikes, with what has come since the
                                                                    spike before; weights move within the episode
    kappa                tau_m_readout of the synapse               kappa of the neuron
    rates                mean over the interval                     average that forgets by kappa_reg; own trace
    reset                threshold subtracted in the next step      in the same step
    error                eprop_learning_window at an interval's end a signal of the window

where zbar, e = psi (zbar - beta eps_b) and the sum of L ebar are the same. So 2020's gradient of input and recurrent
weights is 1 - kappa times that of 1/2 sum (y - target)^2, and is divided by it; the read-out's own is not normalised in
either. The online update is made one of fixed weights by ``batch_size``: NEST's optimiser adds gradients up until its
step count passes a multiple of it. Without that (``batch_size=1``) weights move while the episode runs, and no
conversion is exact: how far it is away is a matter of the learning rate (``moving``). NEST's own text has a
factor 1 - kappa for the online models, which their code has not.

A silent step is put in front, since NEST's 2020 synapses do not learn from a spike in the first.

Sources: NEST 3.10, models/eprop_*; Bellec et al., Nature Communications 11:3625 (2020); Korcsak-Gorzo et al. 2025,
arXiv:2511.21674.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.eprop_wiring import EpropEpisode, Wiring, misplaced, targets_by_name, wiring
from ovonic.adapters.nest import empty_kernel
from ovonic.adapters.nest_building import resolution
from ovonic.adapters.nest_currents import find_tau
from ovonic.adapters.toolchains import Unsupported, refuse
from ovonic.models.dynamics import Comparison, NoReset, SubtractThreshold, When
from ovonic.models.errors import ConfigError, UnsupportedDynamics, nearest
from ovonic.models.lif import silence
from ovonic.models.network import Network
from ovonic.models.simulation import inputs_by_name
from ovonic.models.surrogates import PUBLISHED_SLOPE, ArcTan, FastSigmoid, Surrogate, Triangular
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["MODELS", "Rates", "run_eprop", "unsupported"]

Array = NDArray[Any]
HUSH, FORCE = -1e6, 1e9
LEAD, TAIL = 1, 20
"""Silent steps before an episode and simulated steps behind it."""


class _Models(NamedTuple):
    plain: str
    adapting: str
    readout: str
    synapse: str
    feedback: str
    reset_in_next_step: bool


MODELS = {
    "2020": _Models(
        "eprop_iaf_bsshslm_2020",
        "eprop_iaf_adapt_bsshslm_2020",
        "eprop_readout_bsshslm_2020",
        "eprop_synapse_bsshslm_2020",
        "eprop_learning_signal_connection_bsshslm_2020",
        True,
    ),
    "online": _Models(
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


def unsupported(network: Network, surrogate: Surrogate = PUBLISHED_SLOPE) -> list[Unsupported]:
    """What NEST's e-prop cannot express exactly."""
    if found := list(misplaced(network)):
        return found
    found += _of_neurons(network, surrogate)
    dt = resolution(network.dt_ms)
    decays = {}
    for name in network.readouts:
        layer: Any = network.layers[name]
        decays[name] = np.unique(layer.decay)
        if layer.synapse is not None or np.any(layer.rest) or np.any(layer.v_init):
            feature = "synapse" if layer.synapse is not None else "rest"
            found.append(Unsupported(name, f"Readout.{feature}", "NEST's read-out starts at a rest of 0, without one"))
        if any(find_tau(float(decay), dt) is None for decay in decays[name]):
            found.append(Unsupported(name, "Readout.decay", "exp(-dt/tau_m) for no tau_m", "take exp(-dt/tau)"))
    if len(np.unique(np.concatenate([*decays.values(), np.zeros(0)]))) > 1:
        reason = "NEST's eligibility traces have one filter kappa, the read-outs' decays differ"
        found.append(Unsupported(", ".join(decays), "Readout.decay", reason, "give all read-outs one decay"))
    return found


def _of_neurons(network: Network, surrogate: Surrogate) -> Iterator[Unsupported]:
    hidden = wiring(network).hidden
    layer: Any = network.layers[hidden]
    d, dt = layer.dynamics, resolution(network.dt_ms)

    def no(feature: str, reason: str, remedy: str = "") -> Unsupported:
        return Unsupported(hidden, feature, reason, remedy)

    if d.synapse is not None:
        yield no("Dynamics.synapse", "NEST's e-prop neurons have no synaptic current", "leave it out")
    subtracts = isinstance(d.reset, SubtractThreshold)
    if not subtracts and not isinstance(d.reset, NoReset):
        reason = "NEST's e-prop neurons subtract their bare threshold"
        yield no("Dynamics.reset", reason, "use SubtractThreshold() or NoReset()")
    if d.refractory.frozen:
        yield no("Dynamics.refractory", "NEST's e-prop neurons integrate while silent", "use frozen=False")
    if np.any(d.rest) or np.any(d.v_init):
        yield no("Dynamics.rest", "the episode starts at a rest of 0", "shift the membrane")
    values = [("decay", d.decay)]
    if d.adaptation is not None:
        values.append(("adaptation", d.adaptation.decay))
        if d.adaptation.fresh_spike_decays:
            yield no("Dynamics.adaptation", "in NEST a fresh spike counts in full", "use Adaptation(decay, beta decay)")
        if np.any(np.less(d.adaptation.beta, 0)):
            yield no("Dynamics.adaptation", "NEST's adapt_beta may not be negative")
    for feature, given in values:
        if any(find_tau(float(decay), dt) is None for decay in np.unique(given)):
            yield no(f"Dynamics.{feature}", "NEST computes exp(-dt/tau), which is this for no tau", "take exp(-dt/tau)")
    if layer.recurrence is not None and layer.recurrence.delay != 1:
        yield no("Recurrence.delay", f"NEST's e-prop synapses take one step, not {layer.recurrence.delay}", "use 1")
    if not isinstance(surrogate, Triangular | ArcTan | FastSigmoid):
        yield no(f"surrogate {type(surrogate).__name__}", "NEST has none of its form", "use Triangular")


def run_eprop(
    network: Network,
    inputs: Tensor | Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    *,
    models: str = "2020",
    window: int | None = None,
    feedback: Mapping[str, Tensor] | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    rates: Rates | None = None,
    moving: float | None = None,
    as_nest: bool = False,
    reset: bool = False,
) -> EpropEpisode:
    """Run an episode from the initial state in NEST and read what its synapses learned.

    Args:
        network: see ``unsupported``. inputs: [B, T, in] of float64, zeros and ones, by name where there are several.
        targets: of every read-out, [B, T, O]; the loss is 1/2 sum (y - target)^2 over samples, steps and components.
        models: ``"2020"`` or ``"online"``.
        window: the last steps, which alone have an error; None is all.
        feedback: Linear's name -> B, [out, neurons]; None is symmetric.
        surrogate: slope of a spike. rates: regularisation (2020 only; for one sample).
        moving: a learning rate by which the online models' weights move at each spike, as NEST means it; gradients are
            then changes by minus the rate. None holds the weights fixed.
        as_nest: leave NEST's factor 1 - kappa in the gradients.
        reset: drop the user's nodes (as ``adapters.nest.run``).
    Raises: UnsupportedDynamics: see ``unsupported``; a membrane met its threshold exactly where the network does not
        fire. ConfigError: a bad input, target or option; the kernel holds nodes. ToolchainError: no NEST.
    """
    refuse("NEST's e-prop", unsupported(network, surrogate))
    if models not in MODELS:
        raise ConfigError(f"models {models!r}: {nearest(models, MODELS)}")
    given = {name: x.detach() for name, x in inputs_by_name(network, inputs).items()}
    first = next(iter(given.values()))
    due = targets_by_name(network, targets, first)
    steps = first.shape[1]
    if any(bool(((x != 0) & (x != 1)).any()) for x in given.values()) or first.dtype != torch.float64:
        raise ConfigError("inputs: NEST's e-prop learns from spikes: zeros and ones of float64")
    if window is not None and not 1 <= window <= steps:
        raise ConfigError(f"window {window}: must lie in 1..{steps}, the steps of the episode")
    if rates is not None and (models == "online" or len(first) != 1):
        raise ConfigError(
            "rates: NEST's online models regularise by an average that forgets, and goes on after the episode; "
            "use models='2020', one sample"
        )
    if moving is not None and models == "2020":
        raise ConfigError("moving: the 2020 models' weights are fixed during an episode; use models='online'")
    batch, eta = (1, 1.0) if models == "2020" else (steps + LEAD + 6, 1.0) if moving is None else (1, moving)
    back = dict(feedback or {})
    told = _Episode(network, wiring(network), MODELS[models], window or steps, back, surrogate, rates, batch, eta)
    total: dict[str, Array] = {}
    states: list[dict[str, Array]] = []
    with empty_kernel(reset) as nest:
        for sample in range(len(first)):
            x = {name: values[sample].cpu().numpy() for name, values in given.items()}
            y = {name: values[sample].cpu().numpy() for name, values in due.items()}
            gradients, state = _run(nest, told, x, y)
            nest.ResetKernel()
            states.append(state)
            total = {name: total.get(name, 0.0) + g for name, g in gradients.items()}
    kappa = told.kappa
    if models == "2020" and not as_nest:
        readouts = {f"{linear}.weight" for linear, _ in told.wiring.out}
        total = {name: g if name in readouts else g / (1 - kappa) for name, g in total.items()}
    gradients = {name: torch.from_numpy(g).to(first) for name, g in total.items()}
    return EpropEpisode(gradients, _trace(network, told.wiring.hidden, states, given))


class _Episode(NamedTuple):
    network: Network
    wiring: Wiring
    models: _Models
    window: int
    feedback: dict[str, Tensor]
    surrogate: Surrogate
    rates: Rates | None
    batch_size: int
    eta: float

    @property
    def dynamics(self) -> Any:
        return self.network.layers[self.wiring.hidden].dynamics  # type: ignore[attr-defined]

    @property
    def kappa(self) -> float:
        return float(np.ravel(self.network.layers[self.wiring.out[0][1]].decay)[0])  # type: ignore[attr-defined]


def _run(
    nest: Any, told: _Episode, inputs: Mapping[str, Array], targets: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Gradients by name, [in, out]; spikes, membranes, read-outs by name, [T, N]."""
    network, wired, names = told.network, told.wiring, told.models
    steps = len(next(iter(inputs.values()))) + LEAD
    d, dt = told.dynamics, resolution(network.dt_ms)
    nest.resolution = dt
    if names.reset_in_next_step:
        nest.set(
            eprop_update_interval=steps * dt,
            eprop_learning_window=told.window * dt,
            eprop_reset_neurons_on_update=False,
        )
    layer: Any = network.layers[wired.hidden]
    (n,) = network.shapes[wired.hidden]
    neurons = _create(nest, names.plain if d.adaptation is None else names.adapting, n, _neuron(told, steps, dt))
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
    _optimise(nest, told, steps)
    tau_out = find_tau(told.kappa, dt)
    outs = {}
    for linear, name in wired.out:
        (size,) = network.shapes[name]
        gain = np.broadcast_to(network.layers[name].gain, (size,))  # type: ignore[attr-defined]
        if name not in outs:
            outs[name] = _readout(nest, told, size, tau_out, targets[name], steps, dt)
        edges.append((f"{linear}.weight", neurons, outs[name], gain, "all_to_all"))
    weights = network.weights()
    for name, source, target, gain, rule in edges:
        w = weights[name] * gain
        synapse = {"synapse_model": names.synapse, "delay": dt, "weight": w.T if w.ndim == 2 else w}
        if names.reset_in_next_step:
            synapse["tau_m_readout"] = tau_out
        hollow = name.endswith(".recurrence") and layer.recurrence.masked_diagonal
        nest.Connect(source, target, {"rule": rule, "allow_autapses": not hollow}, synapse)
    for linear, name in wired.out:
        back = told.feedback.get(linear)
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
        gradient[where] = ((w * gain)[where] - np.array(found.weight)) * told.batch_size / told.eta
        gradients[name] = gradient * gain
    return gradients, _states(nest, told, spikes, meters, steps)


def _create(nest: Any, model: str, n: int, given: Mapping[str, Any]) -> Any:
    """Neurons with parameters of numbers, or of one a neuron: words and lists do not go together in one call."""
    nodes = nest.Create(model, n, {key: value for key, value in given.items() if not isinstance(value, list)})
    own = {key: value for key, value in given.items() if isinstance(value, list)}
    if own:
        nodes.set([{key: value[k] for key, value in own.items()} for k in range(n)])
    return nodes


def _neuron(told: _Episode, steps: int, dt: float) -> dict[str, Any]:
    d, names = told.dynamics, told.models
    form, height, width = _slope(told.surrogate, d.threshold)
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
        if told.rates is not None:
            true = steps - LEAD
            given["c_reg"] = told.rates.strength * (steps / true) ** 2 * (1 - told.kappa)
            given["f_target"] = told.rates.target * true / steps / dt * 1000
    else:
        given["kappa"] = told.kappa
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


def _mend(nest: Any, neurons: Any, d: Any, names: _Models, dt: float) -> None:
    """Give back what NEST's reset takes off the next membrane beyond what the description's does."""
    threshold, decay = np.asarray(d.threshold), np.asarray(d.decay)
    theirs = threshold if names.reset_in_next_step else decay * threshold
    late = isinstance(d.reset, SubtractThreshold) and d.reset.when is When.NEXT_AFTER_INPUT
    ours = 0.0 * threshold if isinstance(d.reset, NoReset) else threshold if late else decay * threshold
    more = np.broadcast_to(theirs - ours, (len(neurons),))
    if more.any():
        nest.Connect(neurons, neurons, "one_to_one", {"delay": dt, "weight": np.array(more)})


def _optimise(nest: Any, told: _Episode, steps: int) -> None:
    optimiser = {"type": "gradient_descent", "batch_size": 1, "eta": told.eta, "Wmin": -1e12, "Wmax": 1e12}
    if told.models.reset_in_next_step:
        nest.SetDefaults(told.models.synapse, {"average_gradient": False, "optimizer": optimiser})
        return
    optimiser |= {"batch_size": told.batch_size, "optimize_each_step": False}
    nest.SetDefaults(told.models.synapse, {"optimizer": optimiser})


def _readout(nest: Any, told: _Episode, size: int, tau: float | None, target: Array, steps: int, dt: float) -> Any:
    given = {"C_m": 1.0, "E_L": 0.0, "I_e": 0.0, "V_m": 0.0, "tau_m": tau}
    late = told.models.reset_in_next_step
    nodes = nest.Create(told.models.readout, size, given | ({"regular_spike_arrival": True} if late else {}))
    played = nest.Create("step_rate_generator", size)
    offset = 4.0 if late else 3.0
    times = (np.arange(LEAD, steps) + offset) * dt
    for component, generator in enumerate(played):
        generator.set(amplitude_times=times, amplitude_values=target[:, component])
    rate = {"synapse_model": "rate_connection_delayed", "delay": dt}
    nest.Connect(played, nodes, "one_to_one", rate | {"receptor_type": 2})
    if not late:
        open_ms = [(steps - told.window + 3.0) * dt, (steps + 3.0) * dt]
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


def _states(nest: Any, told: _Episode, spikes: Any, meters: Mapping[str, Any], steps: int) -> dict[str, Array]:
    """Spikes and potentials of the episode; a membrane that met its threshold is refused."""
    d, hidden = told.dynamics, told.wiring.hidden
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
    if not told.models.reset_in_next_step:
        out[f"{hidden}.V_m"] += z * d.threshold
    level = d.adapted(out.get(f"{hidden}.adaptation"))
    if d.comparison is Comparison.GREATER and np.any(ties := (z > 0) & (out[f"{hidden}.V_m"] == level)):
        step, neuron = np.argwhere(ties)[0]
        raise UnsupportedDynamics(
            f"layer {hidden!r}: neuron {neuron} met its threshold exactly in step {step}, where NEST fires and > does "
            "not: use Comparison.GREATER_EQUAL"
        )
    return out


def _trace(network: Network, hidden: str, states: list[dict[str, Array]], given: Mapping[str, Tensor]) -> Trace:
    like = next(iter(given.values()))

    def joined(key: str) -> Tensor:
        return torch.from_numpy(np.stack([state[key] for state in states])).to(like)

    d: Any = network.layers[hidden].dynamics  # type: ignore[attr-defined]
    z, silent = joined("spikes"), d.refractory.silent_steps
    counted = silence(z, silent) if np.any(silent) else None
    adaptation = None if d.adaptation is None else joined(f"{hidden}.adaptation")
    layer = LayerTrace(z, joined(f"{hidden}.V_m"), counted, adaptation)
    readouts = {name: joined(f"{name}.V_m") for name in network.readouts}
    return Trace({hidden: layer}, readouts, dict(given), network.dt_ms)


def _each(value: Any) -> Any:
    return np.asarray(value).item() if np.ndim(value) == 0 else np.asarray(value).tolist()


def _taus(decay: Any, dt: float) -> Any:
    taus = np.array([find_tau(float(value), dt) for value in np.ravel(decay)], dtype=float)
    return taus.item() if np.ndim(decay) == 0 else taus
