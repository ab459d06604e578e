"""How far rounding alone can move a sum, and a step of a leaky integrator: a running error analysis.

A sum of n terms s_k, taken in any order, of which each meets up to c further roundings (the conversion of a constant, a
product, another way to write the same step), is off by

    |error| <= sum |error of s_k| + gamma_(n+c) sum |s_k|,    gamma_m = m u / (1 - m u)

for floats whose spacing at 1 is 2 u, and by nothing at all where no s_k is off, each is a multiple of some 2^-q, and
sum |s_k| <= 2^(p-q), with p bits of precision: then every partial sum is a float. So the bound is zero in exact
arithmetic (dyadic weights), and there alone.
A step of a membrane is one such sum,

    v[t] = rest + decay (v[t-1] - rest) + gain (every w z that arrives) - z[t-1] reset,

with sum |s_k| taken as if decay were 1, which also covers v + (1 - decay) (I - v); the error of v[t-1] is inherited
times decay. *Off* is measured from the description's own float64 numbers in real arithmetic, so that a run in float32
bears the rounding of its constants too.

Not covered: overflow, and a step that is written with more than c = ``ROUNDINGS`` further roundings a term.
Reference: N. J. Higham 2002, Accuracy and Stability of Numerical Algorithms, sections 3.1, 3.3 and 4.2.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ovonic.models.errors import ConfigError

__all__ = [
    "NO_GRID",
    "ROUNDINGS",
    "Constant",
    "FloatFormat",
    "Leak",
    "Sum",
    "atom",
    "constant",
    "filtered",
    "format_of",
    "grid",
    "rounded",
    "total",
]

ROUNDINGS = 16
"""Further roundings that a term may meet in a step (see the module's text)."""

NO_GRID = 1e6
"""The grid of numbers that are multiples of no power of two worth asking for."""

SAFE = 1 + 1e-9
"""Covers the float64 in which the bounds themselves are computed."""

Array = NDArray[np.float64]


class FloatFormat(NamedTuple):
    """``bits`` of the significand, unit roundoff ``u``, smallest normal number ``tiny``."""

    bits: int
    u: float
    tiny: float


def format_of(dtype: torch.dtype) -> FloatFormat:
    """The floats of a run.

    Raises: ConfigError: neither float32 nor float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"dtype {dtype}: rounding is bounded for torch.float32 and torch.float64")
    info = torch.finfo(dtype)
    return FloatFormat(24 if dtype == torch.float32 else 53, info.eps / 2, info.tiny)


class Sum(NamedTuple):
    """A sum and what is known of its terms, all of one shape.

    Attributes:
        value: in float64. error: bound on how far a run's is off. size: sum of |terms|. terms: their number.
        grid: q such that all are multiples of 2^-q; -inf: all are zero; ``NO_GRID``: none is known.
    """

    value: Array
    error: Array
    size: Array
    terms: Array
    grid: Array

    def step(self, t: int) -> Sum:
        """Step t of sums [B, T, *shape]."""
        return Sum(*(part[:, t] for part in self))


def grid(x: Any) -> Array:
    """For each number the least q such that it is a multiple of 2^-q; -inf for zero."""
    significand, exponent = np.frexp(x)
    whole = np.abs(np.ldexp(significand, 53)).astype(np.int64)
    lowest = np.maximum(whole & -whole, 1).astype(np.float64)
    return np.where(whole == 0, -np.inf, 53 - exponent - np.log2(lowest))


def atom(value: Array, error: Array | None = None) -> Sum:
    """A number as a sum of one term; of numbers that are all off the grid is not asked for."""
    error = np.zeros_like(value) if error is None else error
    q = np.full_like(value, NO_GRID) if error.all() else grid(value)
    return Sum(value, error, np.abs(value) + error, (value != 0).astype(np.float64), q)


def rounded(inherited: Array, size: Array, terms: Any, q: Any, floats: FloatFormat) -> Array:
    """The bound on the error of a sum (the module's text)."""
    m = (terms + ROUNDINGS) * floats.u
    fresh = m / (1 - m) * size + (terms + ROUNDINGS) * floats.tiny
    if inherited.all():
        return (inherited + fresh) * SAFE
    exact = (inherited == 0) & (size * SAFE <= np.exp2(floats.bits - q)) & (np.exp2(-q) >= floats.tiny)
    return np.where(exact, 0.0, (inherited + fresh) * SAFE)


def total(sums: list[Sum], floats: FloatFormat) -> Sum:
    """All terms of several sums as one."""
    if len(sums) == 1:
        return sums[0]
    value, error, size, terms = (functools.reduce(np.add, parts) for parts in list(zip(*sums, strict=True))[:4])
    q = functools.reduce(np.maximum, (part.grid for part in sums))
    return Sum(value, rounded(error, size, terms, q, floats), size, terms, q)


class Constant(NamedTuple):
    """A parameter, its absolute value, and its grid."""

    value: Any
    size: Any
    grid: Any


def constant(parameter: Any) -> Constant:
    """One number, or one a neuron, as a ``Constant``."""
    value = np.asarray(parameter, np.float64)
    return Constant(value, np.abs(value), grid(value))


def filtered(decay: Constant, i: Sum, gain: Constant, current: Sum, floats: FloatFormat) -> Sum:
    """decay i + gain I."""
    size, terms = i.size + gain.size * current.size, current.terms + 1
    q = np.maximum(decay.grid + i.grid, gain.grid + current.grid)
    off = rounded(decay.value * i.error + gain.size * current.error, size, terms, q, floats)
    return atom(decay.value * i.value + gain.value * current.value, off)


class Leak:
    """The step of a membrane without its reset, or with one that subtracts after the input: a callable.

    Args of a call: v, the membrane before; u, what arrives; taken, what the reset subtracts.
    """

    def __init__(self, decay: Any, gain: Any, rest: Any, floats: FloatFormat) -> None:
        self.decay, self.gain, self.rest, self.floats = constant(decay), constant(gain), constant(rest), floats
        self.rest_grid = np.maximum(self.rest.grid, self.rest.grid + self.decay.grid)

    def __call__(self, v: Sum, u: Sum, taken: Sum | None = None) -> Sum:
        value = self.rest.value + self.decay.value * (v.value - self.rest.value) + self.gain.value * u.value
        off = self.decay.value * v.error + self.gain.size * u.error
        size, terms = v.size + 2 * self.rest.size + self.gain.size * u.size, u.terms + 3
        q = np.maximum(np.maximum(self.decay.grid + v.grid, self.gain.grid + u.grid), self.rest_grid)
        if taken is not None:
            value, off, size, terms = value - taken.value, off + taken.error, size + taken.size, terms + taken.terms
            q = np.maximum(q, taken.grid)
        return atom(value, rounded(off, size, terms, q, self.floats))
