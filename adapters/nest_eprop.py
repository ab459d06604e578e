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

Silent steps are put in front, since NEST's 2020 synapses do not learn from a spike in an interval's first step, and
lose the last learning signals of an interval if they carry one in the next three.

Sources: NEST 3.10, models/eprop_*; Bellec et al., Nature Communications 11:3625 (2020); Korcsak-Gorzo et al. 2025,
arXiv:2511.21674.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.eprop_wiring import EpropEpisode, misplaced, targets_by_name, wiring
from ovonic.adapters.nest import empty_kernel
from ovonic.adapters.nest_building import resolution
from ovonic.adapters.nest_currents import find_tau
from ovonic.adapters.nest_eprop_building import LEAD, MODELS, Plan, Rates, run_plan
from ovonic.adapters.toolchains import Unsupported, refuse
from ovonic.models.dynamics import NoReset, SubtractThreshold
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.lif import silence
from ovonic.models.network import Network
from ovonic.models.simulation import inputs_by_name
from ovonic.models.surrogates import PUBLISHED_SLOPE, ArcTan, FastSigmoid, Surrogate, Triangular
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["LOSSES", "MODELS", "Learned", "Rates", "learn", "run_eprop", "unsupported"]

Array = NDArray[Any]

LOSSES = ("mean_squared_error", "cross_entropy")
"""Of ``learn``: errors y - target, or softmax(y) - target, in the steps of the window."""


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
    targets: Mapping[str, Tensor] | None = None,
    *,
    signal: Tensor | None = None,
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
        signal: learning signals instead, L of the spiking layer, [B, T, N]; then read-outs do not learn. NEST gets them
            as the errors of read-outs that read nothing, one a neuron, and with a kappa of 0.
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
    if (targets is None) == (signal is None):
        raise ConfigError("run_eprop: give either targets or a signal")
    due = {} if targets is None else targets_by_name(network, targets, first)
    hidden = wiring(network).hidden
    if signal is not None and signal.shape != (*first.shape[:2], *network.shapes[hidden]):
        raise ConfigError(f"signal: shape {tuple(signal.shape)} does not fit {tuple(first.shape[:2])} and {hidden!r}")
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
    names = MODELS[models]
    plan = Plan(
        network, wiring(network), names, window or steps, back, surrogate, rates, batch, eta, signal is not None
    )
    total: dict[str, Any] = {}
    states: list[dict[str, Array]] = []
    with empty_kernel(reset) as nest:
        for sample in range(len(first)):
            x = {name: values[sample].cpu().numpy() for name, values in given.items()}
            y = {name: values[sample].cpu().numpy() for name, values in due.items()}
            taught = None if signal is None else signal[sample].detach().cpu().numpy()
            found, state = run_plan(nest, plan, x, y, taught)
            nest.ResetKernel()
            states.append(state)
            total = {name: total.get(name, 0.0) + g for name, g in found.items()}
    kappa = plan.kappa
    if models == "2020" and not as_nest:
        readouts = {f"{linear}.weight" for linear, _ in plan.wiring.out}
        total = {name: g if name in readouts else g / (1 - kappa) for name, g in total.items()}
    gradients = {name: torch.from_numpy(g).to(first) for name, g in total.items()}
    return EpropEpisode(gradients, _trace(network, hidden, states, given))


class Learned(NamedTuple):
    """readouts: name -> y, [episodes, T, O], as it was when each episode ran. weights: after the last, by name."""

    readouts: dict[str, Tensor]
    weights: dict[str, Array]


def learn(
    network: Network,
    inputs: Tensor,
    targets: Mapping[str, Tensor],
    rate: float,
    *,
    batch: int = 1,
    loss: str = "mean_squared_error",
    window: int | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    reset: bool = False,
) -> Learned:
    """Let NEST's 2020 models learn over episodes in one simulation, with NEST's own optimiser and its own resets.

    Args:
        network: see ``unsupported``; gains of 1. inputs: [episodes, T, in], zeros and ones of float64, in the order in
            which they are met. targets: of every read-out, [episodes, T, O].
        rate: w changes by -rate times the mean gradient of ``batch`` episodes, NEST's gradient: with its factor
            1 - kappa on input and recurrent weights (``learning_signals(normalised=True)``).
        loss: one of ``LOSSES``, in the last ``window`` steps of each episode.
    Raises: as ``run_eprop``.
    """
    refuse("NEST's e-prop", unsupported(network, surrogate))
    if loss not in LOSSES:
        raise ConfigError(f"loss {loss!r}: {nearest(loss, LOSSES)}")
    gains = [np.ravel(d.gain) for name in (*network.spiking, *network.readouts) for d in [_described(network, name)]]
    if np.any(np.concatenate(gains) != 1):
        raise ConfigError("learn: a gain is not 1: put it into the weights, which NEST changes")
    given = inputs_by_name(network, inputs)
    first = next(iter(given.values()))
    episodes, steps = first.shape[:2]
    due = targets_by_name(network, targets, first)
    if first.dtype != torch.float64 or bool(((first != 0) & (first != 1)).any()) or not 1 <= batch <= episodes:
        raise ConfigError("learn: inputs must be zeros and ones of float64, and hold a batch")
    wired = wiring(network)
    plan = Plan(
        network, wired, MODELS["2020"], window or steps, {}, surrogate, None, batch, rate, False, episodes, loss
    )
    x, y = ({name: _one_after_another(values) for name, values in found.items()} for found in (given, due))
    with empty_kernel(reset) as nest:
        gradients, state = run_plan(nest, plan, x, y, None)
    weights = {name: network.weights()[name] - rate / batch * g for name, g in gradients.items()}
    readouts = {}
    for name in network.readouts:
        whole = np.pad(state[f"{name}.V_m"], ((LEAD, 0), (0, 0)))
        readouts[name] = torch.from_numpy(whole.reshape(episodes, steps + LEAD, -1)[:, LEAD:].copy())
    return Learned(readouts, weights)


def _described(network: Network, name: str) -> Any:
    layer: Any = network.layers[name]
    return getattr(layer, "dynamics", layer)


def _one_after_another(values: Tensor) -> Array:
    """[episodes, T, n] with silent steps before each, without those of the first, which ``run_plan`` gives: [.., n]."""
    array = np.pad(values.cpu().numpy(), ((0, 0), (LEAD, 0), (0, 0)))
    return array.reshape(-1, array.shape[2])[LEAD:]


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
