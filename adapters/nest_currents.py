"""The time constants and capacitance of which NEST computes a given decay and gain, bit for bit.

    decay                   exp(-dt / tau_m), of a synapse exp(-dt / tau_syn)
    gain of a current       P21 = beta / C_m * exp(-dt (1 / tau_syn)) * expm1(dt / beta)
                            beta = tau_syn tau_m / (tau_m - tau_syn)

P21 is what iaf_psc_exp adds to its membrane a unit of the current of the step before. Source: NEST 3.10,
libnestutil/iaf_propagator.cpp and numerics.cpp, whose expm1 is a series. ``math.exp`` is the C library's, as NEST's is;
NumPy's differs in last bits.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator

__all__ = ["find_currents", "find_tau", "nearest_decay", "propagator"]

NO_DECAY, ALL_DECAY = 1e17, 1e-3
"""Time constants in steps of which exp(-1 / tau) is 1 and 0."""

REACH = 16
"""How many floats on either side are tried."""


@functools.lru_cache(maxsize=2**16)
def find_tau(decay: float, dt: float) -> float | None:
    """The time constant, ms, of which NEST computes this decay; None: there is none."""
    return next(_exact_taus(decay, dt), None)


def nearest_decay(decay: float, dt: float) -> float:
    """The nearest decay that has a time constant."""
    return min((math.exp(-dt / tau) for tau in _near_taus(decay, dt)), key=lambda near: abs(near - decay))


def propagator(tau_syn: float, tau_m: float, c_m: float, dt: float) -> float:
    """P21."""
    difference = tau_m - tau_syn
    if difference:
        gamma = tau_syn * tau_m / difference / c_m
        p = gamma * math.exp(-dt * (1 / tau_syn)) * _expm1(dt * (difference / (tau_syn * tau_m)))
        if sys.float_info.min <= p < math.inf:
            return p
    return dt * (1 / c_m) * math.exp(-dt * (1 / tau_m))


@functools.lru_cache(maxsize=2**16)
def find_currents(decay: float, decay_syn: float, gain: float, dt: float) -> tuple[float, float, float] | None:
    """tau_m, tau_syn and C_m of these decays and this P21 > 0; None: there are none."""
    for tau_syn in _exact_taus(decay_syn, dt):
        for tau_m in _exact_taus(decay, dt):
            if (of_one := propagator(tau_syn, tau_m, 1.0, dt)) > 0:
                for c_m in _around(of_one / gain):
                    if propagator(tau_syn, tau_m, c_m, dt) == gain:
                        return tau_m, tau_syn, c_m
    return None


def _expm1(x: float) -> float:
    if x == 0 or abs(x) > math.log(2):
        return math.exp(x) - 1 if x < 700 else math.inf
    total, term, n = x, x * x / 2, 2
    while abs(term) > abs(total) * sys.float_info.epsilon:
        total += term
        n += 1
        term *= x / n
    return total


def _exact_taus(decay: float, dt: float) -> Iterator[float]:
    return (tau for tau in _near_taus(decay, dt) if math.exp(-dt / tau) == decay)


def _near_taus(decay: float, dt: float) -> Iterator[float]:
    if decay in (0.0, 1.0):
        yield from (dt * (NO_DECAY if decay else ALL_DECAY) * (1 + k / 64) for k in range(REACH))
    else:
        yield from _around(-dt / math.log(decay))


def _around(middle: float) -> Iterator[float]:
    """The floats about one, from the middle."""
    low = high = middle
    yield middle
    for _ in range(REACH):
        low, high = math.nextafter(low, 0.0), math.nextafter(high, math.inf)
        yield from (low, high)
