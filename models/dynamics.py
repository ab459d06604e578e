"""The dynamics of a layer of spiking neurons: what happens in one time step, exactly.

With I[t] the sum of all that arrives in step t, from the state (v, z, r, b, i) of step t-1:

    1.  i[t] = decay_s i[t-1] + gain_s I[t],   u = i[t]     with a synapse; without one u = I[t]
    2.  r[t] = silent_steps if z[t-1] else max(r[t-1] - 1, 0)
    3.  b[t] = decay_b b[t-1] + z[t-1]                      or decay_b (b[t-1] + z[t-1]), the fresh spike decays too
        A[t] = threshold + beta b[t]                        without adaptation A[t] = threshold
    4.  w    = R(v[t-1])                                    if the reset acts before the decay; R changes v where z[t-1]
        v[t] = rest + decay (w - rest) + gain u
        v[t] = R(v[t])                                      if the reset acts after the input
        v[t] = R(v[t-1]) instead of these                   where r[t] > 0 and the membrane is frozen meanwhile
    5.  z[t] = [v[t] > A[t]]  or  [v[t] >= A[t]],           and 0 where r[t] > 0

v[t] is the membrane before the reset that z[t] causes: what every toolchain compares, and what a trace keeps. A reset
in the same step is written at the start of the next, which is the same; where it matters whether the threshold of the
spike or that of the next step is subtracted, ``When`` says so. Before the first step v = v_init, all else is 0.

**The decay is the truth, and tau its view** (``tau_ms``): exp(-dt/tau) and 1 - dt/tau are both in use, so that a time
constant alone does not determine a step, and the float of a decay does not come back from its tau.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ovonic.models.errors import ConfigError
from ovonic.models.frozen import LONGEST, Parameter, PerNeuron, Record, frozen

__all__ = [
    "Adaptation",
    "Comparison",
    "Dynamics",
    "NoReset",
    "Refractory",
    "Reset",
    "ResetToValue",
    "SubtractAdapted",
    "SubtractThreshold",
    "SubtractThresholdOnce",
    "Synapse",
    "When",
    "decay_from_tau",
    "tau_ms",
]

Values = Any
"""A number, a NumPy array or a torch tensor: these formulas are plain arithmetic."""

Number = Annotated[Parameter, PerNeuron(np.isfinite, "be finite")]
NonZero = Annotated[Parameter, PerNeuron(lambda x: x != 0, "not be zero")]
Decay = Annotated[Parameter, PerNeuron(lambda x: (x >= 0) & (x <= 1), "lie in 0..1")]
Steps = Annotated[
    int | NDArray[np.int64], PerNeuron(lambda n: (n >= 0) & (n <= LONGEST), f"lie in 0..{LONGEST}", whole=True)
]


def decay_from_tau(tau_ms: float, dt_ms: float) -> float:
    """The decay of one step of the exact solution, exp(-dt / tau); both in ms, tau may be infinite."""
    return float(np.exp(-dt_ms / tau_ms))


def tau_ms(decay: Parameter, dt_ms: float) -> Parameter:
    """The time constant -dt / ln(decay) whose exact solution decays so in one step, ms; infinite where decay is 1."""
    with np.errstate(divide="ignore"):
        tau = np.where(np.equal(decay, 1.0), np.inf, -dt_ms / np.log(decay))
    return tau.item() if tau.ndim == 0 else tau


class Comparison(Enum):
    """How the membrane is compared with its threshold."""

    GREATER = ">"
    GREATER_EQUAL = ">="

    def __call__(self, v: Values, level: Values) -> Values:
        return v > level if self is Comparison.GREATER else v >= level


class When(Enum):
    """When a reset acts; the threshold it may subtract is A of that step.

    SAME_STEP: right after the spike, thus before the next decay.
    NEXT_BEFORE_DECAY: in the next step, before the decay: differs from SAME_STEP only where A has moved on.
    NEXT_AFTER_INPUT: in the next step, after decay and input: a reset to a value discards that step's input.
    """

    SAME_STEP = "same step"
    NEXT_BEFORE_DECAY = "next step, before the decay"
    NEXT_AFTER_INPUT = "next step, after the input"


class Reset(Record):
    """What a spike does to the membrane: a callable (v, z, threshold, adapted threshold) -> v."""

    when: When

    def __call__(self, v: Values, z: Values, threshold: Values, adapted: Values) -> Values:
        raise NotImplementedError


@frozen
class NoReset(Reset):
    """The membrane does not notice its spikes."""

    when = When.SAME_STEP

    def __call__(self, v: Values, z: Values, threshold: Values, adapted: Values) -> Values:
        return v


@frozen
class SubtractThreshold(Reset):
    """v - z threshold, the threshold without its adaptation."""

    when: When = When.NEXT_AFTER_INPUT

    def __call__(self, v: Values, z: Values, threshold: Values, adapted: Values) -> Values:
        return v - z * threshold


@frozen
class SubtractAdapted(Reset):
    """v - z A."""

    when: When = When.NEXT_AFTER_INPUT

    def __call__(self, v: Values, z: Values, threshold: Values, adapted: Values) -> Values:
        return v - z * adapted


@frozen
class ResetToValue(Reset):
    """v_reset where z, else v."""

    v_reset: Number = 0.0
    when: When = When.SAME_STEP

    def __call__(self, v: Values, z: Values, threshold: Values, adapted: Values) -> Values:
        return (1 - z) * v + z * self.v_reset


@frozen
class SubtractThresholdOnce(Reset):
    """v - z threshold in the same step; while the remainder still exceeds the threshold, a spike must exceed it twice.

    snnTorch 1.0 with ``reset_mechanism="subtract", reset_delay=False`` does this: so as not to reset twice for one
    spike it tests v - threshold against the threshold after a spike from above twice the threshold.
    """

    when = When.SAME_STEP

    def __call__(self, v: Values, z: Values, threshold: Values, adapted: Values) -> Values:
        return v - z * threshold


@frozen
class Refractory(Record):
    """Silence after a spike.

    Attributes:
        silent_steps: steps after a spike in which the neuron cannot spike; 0 is none.
        frozen: the membrane keeps its value in the silent steps: no decay, and their input is lost (a synaptic current
            goes on). Otherwise it integrates.

    ``silent_steps`` says what the counters of others mean. The published r' = clip(r + n_ref z - 1, 0, n_ref), blocked
    if r > 0.1, NEST's e-prop neurons and Brian2's ``refractory=n_ref*ms`` at 1 ms: n_ref - 1 silent steps (0 for 0).
    Norse's ``rho_reset`` and NEST's ``iaf_psc_delta``: as many as their number, frozen.
    """

    silent_steps: Steps = 0
    frozen: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.any(self.silent_steps):
            object.__setattr__(self, "frozen", False)

    @classmethod
    def from_n_ref(cls, n_ref: int) -> Refractory:
        """The published counter of that n_ref: the membrane integrates."""
        return cls(max(n_ref - 1, 0))


@frozen
class Adaptation(Record):
    """A threshold that rises with the neuron's own spikes (ALIF).

    Attributes:
        decay: of b in a step, 0..1.
        beta: height of the threshold a unit of b; 0 in neurons that do not adapt.
        fresh_spike_decays: False: b[t] = decay b[t-1] + z[t-1], the spike of the step before counts in full (published,
            NEST). True: b[t] = decay (b[t-1] + z[t-1]): b was raised by its new spike and decays before it is used
            (Norse's LSNN).
    """

    decay: Decay
    beta: Number
    fresh_spike_decays: bool = False

    def __call__(self, b: Values, z: Values) -> Values:
        """b of the next step."""
        decay: Values = self.decay
        return decay * (b + z) if self.fresh_spike_decays else decay * b + z


@frozen
class Synapse(Record):
    """A current between input and membrane: i' = decay i + gain I, and the membrane is driven by i' in the same step.

    A toolchain that drives it by the old i says the same with every input one step later (delays + 1).
    """

    decay: Decay
    gain: NonZero = 1.0

    def __call__(self, i: Values, current: Values) -> Values:
        decay: Values = self.decay
        return decay * i + self.gain * current


@frozen
class Dynamics(Record):
    """One step of a spiking layer (the module's text has the equations). Each number is one for all, or one a neuron.

    Attributes:
        decay: of the membrane in a step, 0..1; 1 is an integrate-and-fire neuron, 0 a bare threshold.
        threshold: above ``rest``.
        gain: scale of the input: 1 (published), 1 - decay (NIR), dt/tau (Norse), R (1 - decay).
        rest: potential to which the membrane decays.
        v_init: potential before the first step.
        comparison: > (snnTorch, Norse, Brian2, published) or >= (NEST).
        reset, refractory, adaptation, synapse: see there; None is none.
    """

    decay: Decay
    threshold: Number
    gain: NonZero = 1.0
    rest: Number = 0.0
    v_init: Number = 0.0
    comparison: Comparison = Comparison.GREATER
    reset: Reset = SubtractThreshold()
    refractory: Refractory = Refractory()
    adaptation: Adaptation | None = None
    synapse: Synapse | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _below(self.rest, self.threshold):
            raise ConfigError(f"Dynamics.threshold: {self.threshold} must lie above rest ({self.rest})")
        if isinstance(self.reset, ResetToValue) and not _below(self.reset.v_reset, self.threshold):
            raise ConfigError(f"ResetToValue.v_reset: {self.reset.v_reset} must lie below the threshold")

    def adapted(self, b: Values | None) -> Values:
        """A = threshold + beta b; the bare threshold without adaptation."""
        if self.adaptation is None:
            return self.threshold
        beta: Values = self.adaptation.beta
        return self.threshold + beta * b


def _below(low: Parameter, high: Parameter) -> bool:
    try:
        return bool(np.all(np.less(low, high)))
    except ValueError:
        raise ConfigError(f"Dynamics: arrays of {np.shape(low)} and {np.shape(high)} neurons") from None
