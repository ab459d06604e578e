"""The NEST neuron of a layer: its model and parameters, there and back.

    here                                        NEST 3.10
    ResetToValue                                iaf_psc_delta: V_reset, t_ref = silent_steps dt, frozen
    the same with Synapse                       iaf_psc_exp: tau_syn_ex = tau_syn_in
    SubtractThreshold, NoReset                  eprop_iaf_bsshslm_2020: t_ref = (silent_steps + 1) dt, integrating
    the same with Adaptation                    eprop_iaf_adapt_bsshslm_2020: adapt_tau, adapt_beta
    Readout                                     eprop_readout_bsshslm_2020; with Synapse an iaf_psc_exp that never fires
    decay                                       tau_m of which exp(-dt / tau_m) is the decay, bit for bit
    threshold and >=                            V_th
    threshold and >                             V_th, the next float above it, where a spike resets to a value; else
                                                V_th itself, and ``run`` refuses a run in which a membrane meets it
    rest                                        E_L
    gain                                        with Synapse by C_m; 1 - decay of e-prop neurons by
                                                regular_spike_arrival = False; others go into the weights

The e-prop neurons subtract V_th - E_L one step after a spike. Another amount, as of a reset before the decay, is mended
by a connection of each neuron to itself (``self_weight``): its weight is what was subtracted too much.

NEST keeps potentials relative to E_L and tells them with E_L added: with a rest other than zero, V_m and what from_nest
reads may differ in the last bit. Sources: NEST 3.10, models/iaf_psc_delta.cpp, models/eprop_iaf_bsshslm_2020.cpp and
the files beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.nest_currents import find_currents, find_tau, propagator
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractThreshold,
    Synapse,
    When,
)
from ovonic.models.layers import Readout, Spiking

__all__ = [
    "ADAPTING",
    "CURRENT",
    "HARD",
    "MODELS",
    "READOUT",
    "currents",
    "fires_on_ties",
    "layer_of",
    "model_of",
    "parameters",
    "self_weight",
    "weight_scale",
]

Array = NDArray[np.float64]

HARD, CURRENT, SOFT = "iaf_psc_delta", "iaf_psc_exp", "eprop_iaf_bsshslm_2020"
ADAPTING, READOUT = "eprop_iaf_adapt_bsshslm_2020", "eprop_readout_bsshslm_2020"
MODELS = (HARD, CURRENT, SOFT, ADAPTING, READOUT)

NEVER = 1e300
"""The V_th of a read-out that has to be a neuron."""


def model_of(layer: Spiking | Readout) -> str:
    """The NEST model of a layer."""
    if isinstance(layer, Readout):
        return READOUT if layer.synapse is None else CURRENT
    if layer.dynamics.synapse is not None:
        return CURRENT
    if isinstance(layer.dynamics.reset, ResetToValue):
        return HARD
    return SOFT if layer.dynamics.adaptation is None else ADAPTING


def fires_on_ties(layer: Spiking) -> bool:
    """Whether NEST fires at v = threshold where the layer does not."""
    return layer.dynamics.comparison is Comparison.GREATER and not isinstance(layer.dynamics.reset, ResetToValue)


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
    if (
        model_of(layer) in (HARD, CURRENT)
        or np.all(np.equal(d.gain, 1))
        or not np.all(np.equal(d.gain, 1 - np.asarray(d.decay)))
    ):
        return False
    return bool(np.all(np.equal(d.v_init, d.rest))) and (isinstance(layer, Readout) or not np.any(self_weight(d)))


def weight_scale(layer: Spiking | Readout, dt: float) -> Any:
    """What the weights of everything that arrives are multiplied by."""
    d: Any = layer if isinstance(layer, Readout) else layer.dynamics
    if d.synapse is None:
        return 1.0 if by_gain(layer) else d.gain
    native = np.array([found[3] for found in currents(d, dt) if found is not None])
    return d.gain / native * d.synapse.gain


def parameters(layer: Spiking | Readout, dt: float) -> dict[str, Any]:
    """What the neurons are created with: each a number, or an array of one a neuron."""
    d: Any = layer if isinstance(layer, Readout) else layer.dynamics
    given: dict[str, Any] = {"E_L": d.rest, "V_m": d.rest, "I_e": 0.0}
    model = model_of(layer)
    if model == CURRENT:
        found = np.array(currents(d, dt), dtype=float).T[:3]
        given |= zip(("tau_m", "tau_syn_ex", "C_m"), found if found.shape[1] > 1 else found[:, 0], strict=True)
        given |= {"tau_syn_in": given["tau_syn_ex"], "delta": 0.0}
    else:
        given |= {"tau_m": _taus(d.decay, dt), "C_m": 1.0}
    if model not in (HARD, CURRENT):
        given["regular_spike_arrival"] = not by_gain(layer)
    if isinstance(layer, Spiking):
        given["V_th"] = _v_th(layer)
        given["t_ref"] = _refractory_steps(d) * dt
        if isinstance(d.reset, ResetToValue):
            given["V_reset"] = d.reset.v_reset
    elif model == CURRENT:
        given |= {"V_th": NEVER, "V_reset": d.rest}
    if model == HARD:
        given["refractory_input"] = False
    if model == ADAPTING:
        given |= {"adapt_beta": d.adaptation.beta, "adapt_tau": _taus(d.adaptation.decay, dt), "adaptation": 0.0}
    return given


def currents(d: Any, dt: float) -> list[tuple[float, float, float, float] | None]:
    """tau_m, tau_syn, C_m and NEST's gain of each neuron, of one where all are equal; None where there are none.

    NEST's gain is |gain| where it can be, else a number near 1; their quotient goes into the weights.
    """
    columns = np.broadcast_arrays(np.atleast_1d(d.decay), d.synapse.decay, np.abs(d.gain))
    neurons = zip(*(column.ravel().tolist() for column in columns), strict=True)
    return [_current(decay, decay_syn, gain, dt) for decay, decay_syn, gain in neurons]


def _current(decay: float, decay_syn: float, gain: float, dt: float) -> tuple[float, float, float, float] | None:
    for native in (gain, 1.0, 0.75, 1.25, 1.5):
        if (found := find_currents(decay, decay_syn, native, dt)) is not None:
            return *found, native
    return None


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
    gain = (
        np.ones_like(decay)
        if model in (HARD, CURRENT)
        else np.where(given["regular_spike_arrival"] != 0, 1.0, 1 - decay)
    )
    if model == READOUT:
        return Readout(decay, gain, rest, v_init)
    synapse = None
    if model == CURRENT:
        taus = given["tau_syn_ex"].tolist(), given["tau_m"].tolist(), given["C_m"].tolist()
        gain = np.array([propagator(*values, dt) for values in zip(*taus, strict=True)])
        synapse = Synapse(np.array([math.exp(-dt / tau) for tau in given["tau_syn_ex"]]))
        rest = rest + given["I_e"] * given["tau_m"] / given["C_m"]
        if np.all(given["V_th"] >= NEVER):
            return Readout(decay, gain, rest, v_init, synapse)
    steps = np.round(given["t_ref"] / dt).astype(np.int64)
    threshold = given["V_th"]
    if model in (HARD, CURRENT):
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
    how = Comparison.GREATER_EQUAL
    dynamics = Dynamics(decay, threshold, gain, rest, v_init, how, reset, refractory, adaptation, synapse)
    return Spiking(dynamics if extra is None else dynamics.replace(reset=_mended(dynamics, extra)))


def _mended(dynamics: Dynamics, extra: Array) -> Reset:
    """The reset that the connections to themselves make of NEST's, whose V_th is told to its last bits only."""
    largest: Any = np.maximum(np.abs(dynamics.threshold), np.abs(dynamics.rest))
    rounding = 8 * np.spacing(largest) * np.any(dynamics.rest)
    for reset in (SubtractThreshold(), SubtractThreshold(When.SAME_STEP), NoReset()):
        if np.all(np.abs(self_weight(dynamics.replace(reset=reset)) - extra) <= rounding):
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
    """V_th, of which NEST compares V_th - E_L: for > the first of them beyond threshold - rest."""
    d: Any = layer.dynamics
    v_th, level = np.array(d.threshold, dtype=float), np.asarray(d.threshold - d.rest)
    if d.comparison is Comparison.GREATER and isinstance(d.reset, ResetToValue):
        while np.any(low := v_th - d.rest <= level):
            v_th = np.where(low, np.nextafter(v_th, math.inf), v_th)
    return v_th
