"""What of a layer's dynamics NEST's neurons do not do, and the nearest that they do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ovonic.adapters.nest_currents import find_tau, nearest_decay
from ovonic.adapters.nest_forms import currents
from ovonic.adapters.toolchains import Unsupported
from ovonic.models.dynamics import (
    Adaptation,
    NoReset,
    Refractory,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    When,
)
from ovonic.models.layers import Readout, Spiking

__all__ = ["problems"]


def problems(name: str, layer: Spiking | Readout, dt: float) -> Iterator[Unsupported]:
    """What of a layer's dynamics NEST's neurons do not do."""
    d: Any = layer if isinstance(layer, Readout) else layer.dynamics
    owner = "Readout" if isinstance(layer, Readout) else "Dynamics"

    def no(feature: str, reason: str, remedy: str, loss: str = "", **instead: Any) -> Unsupported:
        near = d.replace(**instead)
        near = near if isinstance(layer, Readout) else layer.replace(dynamics=near)
        return Unsupported(name, f"{owner}.{feature}", reason, remedy, near if instead else None, loss)

    if d.synapse is not None:
        yield from _synapses(no, dt, layer, d)
        if isinstance(layer, Spiking) and layer.recurrence is not None and layer.recurrence.delay == 1:
            later = layer.replace(recurrence=layer.recurrence.replace(delay=2))
            reason = "through iaf_psc_exp's current a spike moves the membrane after two steps at the earliest"
            loss = "the recurrence acts one step later"
            yield Unsupported(name, "Recurrence.delay", reason, "use a delay of 2", later, loss)
    yield from _decays(no, dt, d, "decay", lambda decay: {"decay": decay})
    if isinstance(layer, Readout):
        return
    yield from _resets(no, d)
    if d.adaptation is not None:
        yield from _adaptations(no, dt, d)
    if np.any(np.greater_equal(d.v_init, d.threshold)):
        reason = "the membrane would fire before the first step"
        yield no("v_init", reason, "start it below the threshold", "the membrane starts at rest", v_init=d.rest)


def _synapses(no: Any, dt: float, layer: Spiking | Readout, d: Any) -> Iterator[Unsupported]:
    if isinstance(layer, Spiking) and (not isinstance(d.reset, ResetToValue) or d.adaptation is not None):
        yield no(
            "synapse",
            "NEST's neurons with synaptic currents reset to a value, and do not adapt",
            "use ResetToValue(..) without adaptation",
            "the membrane is driven by the input itself, not by a current",
            synapse=None,
        )
        return
    yield from _decays(no, dt, d.synapse, "synapse", lambda decay: {"synapse": d.synapse.replace(decay=decay)})
    if np.any(np.not_equal(d.v_init, d.rest)):
        reason = "a spike before the first step moves the current, not the membrane"
        yield no("v_init", reason, "start it at rest", "the membrane starts at rest", v_init=d.rest)
    decays = np.ravel(d.decay).tolist() + np.ravel(d.synapse.decay).tolist()
    if all(find_tau(decay, dt) is not None for decay in decays) and None in currents(d, dt):
        yield no("gain", "with these decays there is no C_m of which NEST computes it", "take another decay")


def _decays(no: Any, dt: float, owner: Any, feature: str, changed: Any) -> Iterator[Unsupported]:
    values = np.asarray(owner.decay)
    missing = [k for k, decay in enumerate(values.flat) if find_tau(float(decay), dt) is None]
    if missing:
        near = values.copy()
        near.flat[missing] = [nearest_decay(float(values.flat[k]), dt) for k in missing]
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
