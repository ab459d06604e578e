"""One small network for each feature of the description, which gives other spikes where that feature is dropped.

Beside the network stands what a toolchain that did not honour the feature would run: the same with the feature left out
or replaced by its common alternative, or the same on inputs without it. Weights are drawn until

    the spikes (of a read-out, its membrane) differ without the feature,
    every layer spikes, and
    no comparison of the run can be turned by rounding (``margins``), but for the rounding of weights to float32,

so that a toolchain either gives exactly these spikes or does not honour the feature.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

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
    SubtractThresholdOnce,
    Synapse,
    When,
    decay_from_tau,
)
from ovonic.models.layers import Pooling, Readout
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.dynamics import compare_traces
from ovonic.validation.feature_makers import (
    BASES,
    DECAY,
    Draw,
    Inputs,
    Made,
    Maker,
    N,
    biased,
    chain,
    changed,
    convolution,
    delays,
    dynamics,
    flattened,
    flipped,
    float32,
    graded,
    leaking,
    moved_groups,
    pool,
    read_out,
    recurrent,
    several_inputs,
    space,
    transposed,
    two_ways,
    unbiased,
)

__all__ = ["FEATURES", "Feature", "bases_of", "feature"]

DRAWS = 200
OWN_DECAYS = np.array([decay_from_tau(tau, 1.0) for tau in (4.0, 6.0, 8.0, 10.0, 15.0, 20.0)])
OWN_BETAS = np.array([0.0, 0.125, 0.25, 0.375, 0.5, 0.0])
OWN_THRESHOLDS = np.array([0.75, 0.875, 1.0, 1.125, 1.25, 1.375])


@dataclass(frozen=True, eq=False)
class Feature:
    """A feature of the description.

    Attributes:
        group, name: as a reader finds it. base: of ``BASES``, on which it stands.
        network, inputs: with it; inputs [B, T, *shape] by name, in the run's dtype.
        dropped: the network and the inputs without it.
    """

    group: str
    name: str
    base: str
    network: Network
    inputs: Inputs
    dropped: tuple[Network, Inputs]


FULL = Adaptation(DECAY, 0.25)
SIXTEENTHS = Dynamics(0.5, 1.0)
OUT = Readout(DECAY)


def _reset(reset: Reset, dropped: Reset) -> Maker:
    """A reset, beside adaptation if an adapted threshold is subtracted."""
    more = {"adaptation": FULL} if isinstance(reset, SubtractAdapted) else {}
    return changed({"reset": reset} | more, {"reset": dropped} | more)


def _sixteenths(**changes: Any) -> Maker:
    """Numbers on so coarse a grid that membranes often meet their threshold; the comparison is turned."""

    def make(draw: Draw) -> Made:
        rules = SIXTEENTHS.replace(gain=1.0 if draw.base.gain == 1 else 1 - SIXTEENTHS.decay, **changes)
        turned = next(comparison for comparison in Comparison if comparison is not rules.comparison)
        return dynamics(rules, rules.replace(comparison=turned), sixteenths=True)(draw)

    return make


_LATE, _BEFORE, _SAME = When.NEXT_AFTER_INPUT, When.NEXT_BEFORE_DECAY, When.SAME_STEP

MAKERS: Mapping[str, Mapping[str, Maker]] = {
    "Reset": {
        "subtract the threshold, next step, after the input": _reset(SubtractThreshold(_LATE), NoReset()),
        "subtract the threshold, next step, before the decay": _reset(
            SubtractThreshold(_BEFORE), SubtractThreshold(_LATE)
        ),
        "subtract the threshold, same step": _reset(SubtractThreshold(_SAME), SubtractThreshold(_LATE)),
        "subtract the threshold once (snnTorch)": _reset(SubtractThresholdOnce(), SubtractThreshold(_SAME)),
        "subtract the adapted threshold, next step, after the input": _reset(
            SubtractAdapted(_LATE), SubtractThreshold(_LATE)
        ),
        "subtract the adapted threshold, next step, before the decay": _reset(
            SubtractAdapted(_BEFORE), SubtractAdapted(_SAME)
        ),
        "subtract the adapted threshold, same step": _reset(SubtractAdapted(_SAME), SubtractThreshold(_SAME)),
        "to a value, next step, after the input": _reset(ResetToValue(-0.25, _LATE), ResetToValue(-0.25, _SAME)),
        "to a value, next step, before the decay": _reset(ResetToValue(-0.25, _BEFORE), ResetToValue(-0.25, _LATE)),
        "to a value, same step": _reset(ResetToValue(-0.25, _SAME), ResetToValue(0.0, _SAME)),
        "to 0, same step": _reset(ResetToValue(0.0, _SAME), SubtractThreshold(_SAME)),
        "none": _reset(NoReset(), SubtractThreshold()),
    },
    "Ties": {
        ">, the threshold subtracted": _sixteenths(),
        ">, reset to 0": _sixteenths(reset=ResetToValue(0.0)),
        ">=, the threshold subtracted": _sixteenths(comparison=Comparison.GREATER_EQUAL),
        ">=, reset to 0": _sixteenths(comparison=Comparison.GREATER_EQUAL, reset=ResetToValue(0.0)),
    },
    "Refractoriness": {
        "membrane integrates": changed({"refractory": Refractory(3)}),
        "membrane frozen": changed({"refractory": Refractory(3, frozen=True)}, {"refractory": Refractory(3)}),
        "one silence a neuron": changed({"refractory": Refractory(1 + np.arange(N))}, {"refractory": Refractory(1)}),
        "one silence a neuron, frozen": changed(
            {"refractory": Refractory(1 + np.arange(N), frozen=True)}, {"refractory": Refractory(1, frozen=True)}
        ),
    },
    "Adaptation": {
        "a spike counts in full": changed({"adaptation": FULL}),
        "a fresh spike decays": changed({"adaptation": FULL.replace(fresh_spike_decays=True)}, {"adaptation": FULL}),
        "in some neurons": changed({"adaptation": Adaptation(DECAY, OWN_BETAS)}, {"adaptation": FULL}),
    },
    "Membrane": {
        "gain 1 - decay": changed({"gain": 1 - DECAY, "threshold": 0.125}, {"gain": 1.0, "threshold": 0.125}),
        "another gain": changed({"gain": 0.5}),
        "rest": changed({"rest": 0.25}),
        "initial potential": changed({"v_init": 0.5}),
        "no leak (IF)": leaking(1.0),
        "no memory": leaking(0.0),
        "one decay a neuron": leaking(OWN_DECAYS),
        "one threshold a neuron": changed({"threshold": OWN_THRESHOLDS}),
    },
    "Synapse": {
        "current": changed({"synapse": Synapse(0.5)}),
        "current with a gain": changed({"synapse": Synapse(0.5, 0.5)}, {"synapse": Synapse(0.5)}),
    },
    "Recurrence": {
        "all to all": transposed,
        "diagonal masked": recurrent((N, N), {"masked_diagonal": False}, masked_diagonal=True),
        "one to one": recurrent((N,), None),
        "delay of 3 steps": recurrent((N, N), {"delay": 1}, delay=3),
        "one to one, delay of 2 steps": recurrent((N,), {"delay": 1}, delay=2),
    },
    "Edges": {
        "a layer reads another in the same step": chain,
        "input delayed": delays("x"),
        "spikes delayed between layers": delays("h"),
        "two edges into a layer": two_ways,
        "several inputs": several_inputs,
        "graded inputs (currents)": graded,
    },
    "Layers": {
        "linear with bias": biased,
        "convolution, one axis": space(convolution(2, 2, 3, padding=(1,), stride=(2,)), flipped, 2, 8),
        "convolution, two axes": space(convolution(1, 2, 3, 3, padding=(1,), stride=(2,)), flipped, 1, 5, 5),
        "convolution with bias": space(convolution(1, 2, 2, 2), unbiased, 1, 3, 3),
        "convolution in groups": space(convolution(1, 4, 2, 2, groups=2), moved_groups, 2, 3, 3),
        "convolution, dilated": space(convolution(1, 2, 2, 2, dilation=(2,)), flipped, 1, 4, 4),
        "mean over windows": pool(Pooling.MEAN, Pooling.MAX, 2, 2),
        "sum over windows": pool(Pooling.SUM, Pooling.MEAN, 2, 2),
        "maximum over windows": pool(Pooling.MAX, Pooling.SUM, 2, 2),
        "pooling over one axis": pool(Pooling.SUM, Pooling.MAX, 2),
        "flatten": flattened,
    },
    "Read-out": {
        "leaky": read_out(OUT, OUT.replace(decay=0.0)),
        "with gain and rest": read_out(OUT.replace(gain=0.5, rest=0.25, v_init=0.25), OUT),
        "initial potential": read_out(OUT.replace(v_init=0.5), OUT),
        "with a synapse": read_out(OUT.replace(synapse=Synapse(0.5)), OUT),
    },
    "Floats": {"float32": float32},
}

FEATURES = tuple((group, name) for group, makers in MAKERS.items() for name in makers)
"""Group and name of every feature."""


def bases_of(group: str) -> tuple[str, ...]:
    """The names of ``BASES`` on which the features of a group stand; not on other resets where they name their own."""
    *resets, one, gain = BASES
    own = {"Reset": (one, gain), "Ties": (one, gain), "Floats": (one,)}
    return own.get(group, tuple(resets))


@functools.cache
def feature(group: str, name: str, base: str) -> Feature:
    """The feature of that name, with weights that show it.

    Raises: RuntimeError: no draw shows it.
    """
    for seed in range(DRAWS):
        network, inputs, other, others = MAKERS[group][name](Draw(seed, BASES[base]))
        ours, dropped = run(network, inputs), run(other, others)
        if not _differ(ours, dropped):
            continue
        verdict = compare_traces(ours, ours, network)
        rounds = next(iter(inputs.values())).dtype == torch.float32
        if (verdict.certified or rounds) and not verdict.silent:
            return Feature(group, name, base, network, inputs, (other, others))
    raise RuntimeError(f"{group}, {name}, {base}: none of {DRAWS} draws shows it")


def _differ(a: Trace, b: Trace) -> bool:
    """Other spikes; of a network with read-outs, other read-outs by more than any rounding."""
    if a.readouts:
        return any(bool(((a.readouts[n] - b.readouts[n]).abs() > 1e-3).any()) for n in a.readouts)
    return any(not torch.equal(a[n].spikes.double(), b[n].spikes.double()) for n in a.layers)
