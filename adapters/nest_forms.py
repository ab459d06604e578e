"""The NEST neuron of a layer: its model and parameters, there and back.

    here                                        NEST 3.10
    ResetToValue                                iaf_psc_delta: V_reset, t_ref = silent_steps dt, frozen
    SubtractThreshold, NoReset                  eprop_iaf_bsshslm_2020: t_ref = (silent_steps + 1) dt, integrating
    the same with Adaptation                    eprop_iaf_adapt_bsshslm_2020: adapt_tau, adapt_beta
    Readout                                     eprop_readout_bsshslm_2020
    decay                                       tau_m of which exp(-dt / tau_m) is the decay, bit for bit
    threshold and >=                            V_th
    threshold and >                             V_th, the next float above it, where a spike resets to a value; else
                                                V_th itself, and ``run`` refuses a run in which a membrane meets it
    rest                                        E_L
    gain 1 - decay                              regular_spike_arrival = False; other gains go into the weights

The e-prop neurons subtract V_th - E_L one step after a spike. Another amount, as of a reset before the decay, is mended
by a connection of each neuron to itself (``self_weight``): its weight is what was subtracted too much.

NEST keeps potentials relative to E_L and tells them with E_L added: a rest other than zero is taken where the threshold
comes back from that unchanged. Sources: NEST 3.10, models/iaf_psc_delta.cpp, models/eprop_iaf_bsshslm_2020.cpp and the
files beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.toolchains import Unsupported
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    When,
)
from ovonic.models.layers import Readout, Spiking

__all__ = [
    "ADAPTING",
    "HARD",
    "MODELS",
    "READOUT",
    "SOFT",
    "by_gain",
    "find_tau",
    "fires_on_ties",
    "layer_of",
    "model_of",
    "parameters",
    "problems",
    "self_weight",
]

Array = NDArray[np.float64]

HARD, SOFT = "iaf_psc_delta", "eprop_iaf_bsshslm_2020"
ADAPTING, READOUT = "eprop_iaf_adapt_bsshslm_2020", "eprop_readout_bsshslm_2020"
MODELS = (HARD, SOFT, ADAPTING, READOUT)

NO_DECAY, ALL_DECAY = 1e17, 1e-3
"""Time constants in steps of which exp(-1 / tau) is 1 and 0."""


def find_tau(decay: float, dt: float) -> float | None:
    """The time constant, ms, of which NEST computes this decay, bit for bit; None: there is none."""
    return next((tau for tau in _near_taus(decay, dt) if math.exp(-dt / tau) == decay), None)


def _near_taus(decay: float, dt: float) -> Iterator[float]:
    if decay in (0.0, 1.0):
        yield dt * (NO_DECAY if decay else ALL_DECAY)
        return
    for direction in (math.inf, 0.0):
        tau = -dt / math.log(decay)
        for _ in range(16):
            yield tau
            tau = math.nextafter(tau, direction)


def _nearest(decay: float, dt: float) -> float:
    """The nearest decay that has a time constant."""
    return min((math.exp(-dt / tau) for tau in _near_taus(decay, dt)), key=lambda near: abs(near - decay))


def model_of(layer: Spiking | Readout) -> str:
    """The NEST model of a layer."""
    if isinstance(layer, Readout):
        return READOUT
    if isinstance(layer.dynamics.reset, ResetToValue):
        return HARD
    return SOFT if layer.dynamics.adaptation is None else ADAPTING


def fires_on_ties(layer: Spiking) -> bool:
    """Whether NEST fires at v = threshold where the layer does not."""
    return layer.dynamics.comparison is Comparison.GREATER and model_of(layer) != HARD


def self_weight(dynamics: Dynamics) -> Any:
    """What NEST's e-prop neurons subtract beyond what the reset does; 0 where a spike resets to a value."""
    if isinstance(dynamics.reset, ResetToValue):
        return 0.0
    threshold: Any = dynamics.threshold
    return (threshold - dynamics.rest) - _subtracted(dynamics, dynamics.reset)


def _subtracted(dynamics: Dynamics, reset: Reset) -> Any:
    """What a reset takes off the membrane of the next step, after its decay."""
    decay: Any = dynamics.decay
    if isinstance(reset, NoReset):
        return 0.0 * decay
    return dynamics.threshold * (1.0 if reset.when is When.NEXT_AFTER_INPUT else decay)


def by_gain(layer: Spiking | Readout) -> bool:
    """Whether the gain is that of ``regular_spike_arrival = False`` and nothing else arrives but what it scales."""
    d: Any = layer if isinstance(layer, Readout) else layer.dynamics
    if model_of(layer) == HARD or np.all(np.equal(d.gain, 1)) or not np.all(np.equal(d.gain, 1 - np.asarray(d.decay))):
        return False
    return bool(np.all(np.equal(d.v_init, d.rest))) and (isinstance(layer, Readout) or not np.any(self_weight(d)))


def parameters(layer: Spiking | Readout, dt: float) -> dict[str, Any]:
    """What the neurons are created with: each a number, or an array of one a neuron."""
    d: Any = layer if isinstance(layer, Readout) else layer.dynamics
    given: dict[str, Any] = {"E_L": d.rest, "V_m": d.rest, "tau_m": _taus(d.decay, dt), "C_m": 1.0, "I_e": 0.0}
    model = model_of(layer)
    if model != HARD:
        given["regular_spike_arrival"] = not by_gain(layer)
    if isinstance(layer, Spiking):
        given["V_th"] = _v_th(layer)
        given["t_ref"] = _refractory_steps(d) * dt
    if model == HARD:
        given |= {"V_reset": d.reset.v_reset, "refractory_input": False}
    if model == ADAPTING:
        given |= {"adapt_beta": d.adaptation.beta, "adapt_tau": _taus(d.adaptation.decay, dt), "adaptation": 0.0}
    return given


def layer_of(model: str, given: Mapping[str, Array], dt: float, extra: Array | None = None) -> Spiking | Readout:
    """The layer that neurons are, one number a neuron; without recurrence.

    Args:
        model: one of ``MODELS``. given: their parameters by NEST's names, [n] each.
        extra: weights of the connections to themselves that mend the reset; None: as NEST resets.
    Raises: LookupError: the weights mend no reset.

    Potentials of e-prop neurons are told relative to E_L, as these neurons keep them, unless the reset is mended.
    """
    decay = np.array([math.exp(-dt / tau) for tau in given["tau_m"]])
    rest, v_init = given["E_L"], given["V_m"]
    gain = np.ones_like(decay) if model == HARD else np.where(given["regular_spike_arrival"] != 0, 1.0, 1 - decay)
    if model == READOUT:
        return Readout(decay, gain, rest, v_init)
    steps = np.round(given["t_ref"] / dt).astype(np.int64)
    threshold = given["V_th"]
    if model == HARD:
        reset: Reset = ResetToValue(given["V_reset"])
        refractory = Refractory(steps, frozen=True)
    else:
        reset, refractory = SubtractThreshold(), Refractory(np.maximum(steps - 1, 0))
        if extra is None:
            threshold, v_init, rest = threshold - rest, v_init - rest, 0 * rest
    adaptation = None
    if model == ADAPTING:
        decay_b = np.array([math.exp(-dt / tau) for tau in given["adapt_tau"]])
        adaptation = Adaptation(decay_b, given["adapt_beta"])
    dynamics = Dynamics(decay, threshold, gain, rest, v_init, Comparison.GREATER_EQUAL, reset, refractory, adaptation)
    return Spiking(dynamics if extra is None else dynamics.replace(reset=_mended(dynamics, extra)))


def _mended(dynamics: Dynamics, extra: Array) -> Reset:
    for reset in (SubtractThreshold(), SubtractThreshold(When.SAME_STEP), NoReset()):
        if np.array_equal(np.broadcast_to(self_weight(dynamics.replace(reset=reset)), extra.shape), extra):
            return reset
    raise LookupError


def _taus(decay: Any, dt: float) -> Any:
    taus = np.array([find_tau(d, dt) for d in np.ravel(decay)], dtype=float)
    return taus.item() if np.ndim(decay) == 0 else taus


def _refractory_steps(d: Dynamics) -> Any:
    """``t_ref`` in steps."""
    silent = np.asarray(d.refractory.silent_steps)
    if not isinstance(d.reset, ResetToValue):
        return silent + 1
    return np.maximum(silent, 1) if d.reset.when is When.NEXT_AFTER_INPUT else silent


def _v_th(layer: Spiking) -> Any:
    """V_th of which V_th - E_L is the first level that fires."""
    d: Any = layer.dynamics
    level = np.asarray(d.threshold - d.rest)
    if d.comparison is Comparison.GREATER and model_of(layer) == HARD:
        return np.nextafter(level, math.inf) + d.rest
    return d.threshold


# ------------------------------------------------------------------------------------------------ refusals


def problems(name: str, layer: Spiking | Readout, dt: float) -> Iterator[Unsupported]:
    """What of a layer's dynamics NEST's neurons do not do."""
    d: Any = layer if isinstance(layer, Readout) else layer.dynamics
    owner = "Readout" if isinstance(layer, Readout) else "Dynamics"

    def no(feature: str, reason: str, remedy: str, loss: str = "", **instead: Any) -> Unsupported:
        near = d.replace(**instead)
        near = near if isinstance(layer, Readout) else layer.replace(dynamics=near)
        return Unsupported(name, f"{owner}.{feature}", reason, remedy, near if instead else None, loss)

    if d.synapse is not None:
        yield no(
            "synapse",
            "these neurons jump with each spike, without a synaptic current",
            "run it on Brian2, Norse or snnTorch",
            "the membrane is driven by the input itself, not by the current",
            synapse=None,
        )
    yield from _decays(no, dt, d, "decay", lambda decay: {"decay": decay})
    if isinstance(layer, Readout):
        if np.any((d.v_init - np.asarray(d.rest)) + d.rest != d.v_init):
            yield no(*_RELATIVE, v_init=d.rest, loss="the membrane starts at rest")
        return
    yield from _resets(no, d)
    if d.adaptation is not None:
        yield from _adaptations(no, dt, d)
    threshold, rest = np.asarray(d.threshold), np.asarray(d.rest)
    first = threshold - rest
    told = [((d.v_init - rest) + rest, d.v_init), (first + rest, threshold)]
    if isinstance(d.reset, ResetToValue):
        told.append(((d.reset.v_reset - rest) + rest, d.reset.v_reset))
        if d.comparison is Comparison.GREATER:
            told[1] = (_v_th(layer) - rest, np.nextafter(first, math.inf))
    if any(np.any(got != due) for got, due in told):
        changes: dict[str, Any] = {}
        if isinstance(d.reset, ResetToValue):
            changes = {"threshold": first, "rest": 0.0, "v_init": d.v_init - rest}
            changes["reset"] = d.reset.replace(v_reset=d.reset.v_reset - rest)
        yield no(*_RELATIVE, loss="potentials are relative to rest, the threshold rounded to its last bit", **changes)
    elif np.any(np.asarray(d.v_init) >= threshold):
        reason = "the membrane would fire before the first step"
        yield no("v_init", reason, "start it below the threshold", "the membrane starts at rest", v_init=d.rest)


_RELATIVE = (
    "rest",
    "NEST keeps potentials relative to E_L, from where these do not come back to the last bit",
    "shift all potentials of the layer so that rest is 0",
)


def _decays(no: Any, dt: float, owner: Any, feature: str, changed: Any) -> Iterator[Unsupported]:
    values = np.asarray(owner.decay)
    missing = [k for k, decay in enumerate(values.flat) if find_tau(float(decay), dt) is None]
    if missing:
        near = values.copy()
        near.flat[missing] = [_nearest(float(values.flat[k]), dt) for k in missing]
        where = f" of neuron {missing[0]}" if values.ndim else ""
        yield no(
            feature,
            f"NEST computes exp(-dt/tau_m), which is {float(values.flat[missing[0]])!r}{where} for no tau_m",
            "take a decay that exp(-dt/tau) gives",
            "the decay differs in its last bits",
            **changed(near if near.ndim else near.item()),
        )


def _resets(no: Any, d: Any) -> Iterator[Unsupported]:
    hard, silent = isinstance(d.reset, ResetToValue), np.asarray(d.refractory.silent_steps)
    if hard and d.adaptation is not None:
        yield no(
            "reset",
            "NEST's adapting e-prop neuron subtracts its threshold",
            "use SubtractThreshold()",
            "the threshold is subtracted, one step later, and the membrane integrates through its silence",
            reset=SubtractThreshold(),
            refractory=Refractory(d.refractory.silent_steps),
        )
    elif hard and not d.refractory.frozen and np.any(silent > (d.reset.when is When.NEXT_AFTER_INPUT)):
        yield no(
            "refractory",
            "iaf_psc_delta, which resets to a value, freezes its membrane while it is silent",
            "use Refractory(.., frozen=True)",
            "the membrane keeps its value in the silent steps",
            refractory=d.refractory.replace(frozen=True),
        )
    elif not hard and d.refractory.frozen:
        yield no(
            "refractory",
            "NEST's e-prop neurons, which subtract, integrate while they are silent",
            "use Refractory(.., frozen=False)",
            "the membrane integrates in the silent steps",
            refractory=d.refractory.replace(frozen=False),
        )
    adapted = isinstance(d.reset, SubtractAdapted)
    if not isinstance(d.reset, ResetToValue | SubtractThreshold | NoReset) and not (adapted and d.adaptation is None):
        yield no(
            "reset",
            f"no neuron of NEST does {type(d.reset).__name__}",
            f"use SubtractThreshold(When.{d.reset.when.name})",
            "the bare threshold is subtracted" if adapted else "the threshold is subtracted each time",
            reset=SubtractThreshold(d.reset.when),
        )


def _adaptations(no: Any, dt: float, d: Any) -> Iterator[Unsupported]:
    adaptation = d.adaptation
    if np.any(np.asarray(adaptation.beta) < 0):
        beta = np.maximum(adaptation.beta, 0.0)
        yield no(
            "adaptation",
            "NEST's adapt_beta may not be negative",
            "use a beta of at least 0",
            "neurons of negative beta do not adapt",
            adaptation=adaptation.replace(beta=beta),
        )
    elif adaptation.fresh_spike_decays:
        yield no(
            "adaptation",
            "in NEST a fresh spike counts in full",
            "use Adaptation(decay, beta * decay), which raises the threshold by as much",
            "the adaptation is told in units of a decay, and rounded to its last bits",
            adaptation=Adaptation(adaptation.decay, adaptation.beta * np.asarray(adaptation.decay)),
        )
    else:
        yield from _decays(
            no, dt, adaptation, "adaptation", lambda decay: {"adaptation": adaptation.replace(decay=decay)}
        )
