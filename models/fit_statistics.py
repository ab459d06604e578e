"""What a fit is judged by: intervals of its parameters from the likelihood's curvature, and tests of its assumptions.

interval    estimate +- 1.96 sqrt(diag(H^-1)),   H: second derivatives of -log L
mean        sum over bins of n_b (mean z)^2                  ~ chi^2   (z: standardised residuals)
variance    sum over bins of (ln(mean z^2) - E)^2 / V        ~ chi^2   E, V: of ln(chi^2_n / n)
normality   D'Agostino and Pearson's K^2 of z                ~ chi^2_2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

__all__ = ["ALARM", "Parameter", "Test", "binned_mean", "binned_variance", "maximum_likelihood", "normality"]

Array = NDArray[np.float64]
ALARM = 1e-6
"""A test whose p value lies below this is a warning that the model does not describe the data."""


class Parameter(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


class Test(NamedTuple):
    """A test of an assumption: the chance of data as odd as this if the assumption holds."""

    name: str
    chi2: float
    dof: int
    p_value: float
    if_not: str

    @property
    def alarm(self) -> bool:
        """The assumption does not hold."""
        return self.p_value < ALARM

    @property
    def chi2_per_dof(self) -> float:
        """About 1 where the assumption holds."""
        return self.chi2 / self.dof


def chi2_test(name: str, chi2: float, dof: int, if_not: str) -> Test:
    """The upper tail of chi^2."""
    return Test(name, float(chi2), dof, float(stats.chi2.sf(chi2, dof)), if_not)


def bins_of(x: Array, least: int, most: int = 20) -> list[NDArray[np.intp]]:
    """Indices of bins of about equal size along ``x``, equal values kept together, ``least`` entries or more each."""
    values, first = np.unique(x, return_inverse=True)
    sizes = np.bincount(first)
    wanted = max(len(x) // max(most, 1), least)
    groups: list[list[int]] = [[]]
    held = 0
    for value in range(len(values)):
        groups[-1].append(value)
        held += int(sizes[value])
        if held >= wanted:
            groups.append([])
            held = 0
    if held < least and len(groups) > 1:
        rest = groups.pop()
        groups[-1] += rest
    return [np.flatnonzero(np.isin(first, group)) for group in groups if group]


def binned_mean(name: str, z: Array, x: Array, fitted: int, if_not: str) -> Test | None:
    """Whether standardised residuals have mean 0 all along ``x``; None: no more bins than ``fitted`` parameters."""
    bins = bins_of(x, 8)
    if len(bins) <= fitted:
        return None
    return chi2_test(name, sum(len(b) * z[b].mean() ** 2 for b in bins), len(bins) - fitted, if_not)


def binned_variance(name: str, z: Array, x: Array, fitted: int, if_not: str) -> Test | None:
    """Whether standardised residuals have variance 1 everywhere along ``x``; None as for the mean."""
    bins = bins_of(x, 12)
    if len(bins) <= fitted:
        return None
    total = 0.0
    for b in bins:
        n = len(b)
        expected = special.digamma(n / 2) - np.log(n / 2)
        total += (np.log(np.mean(z[b] ** 2)) - expected) ** 2 / special.polygamma(1, n / 2)
    return chi2_test(name, total, len(bins) - fitted, if_not)


def normality(name: str, z: Array, if_not: str) -> Test | None:
    """Whether standardised residuals are normal; None for fewer than 20."""
    if len(z) < 20:
        return None
    result = stats.normaltest(z)
    return Test(name, float(result.statistic), 2, float(result.pvalue), if_not)


def maximum_likelihood(minus_log: Callable[[Array], float], start: Array, scale: Array) -> tuple[Array, Array]:
    """Minimise ``minus_log`` and return the estimate and its covariance.

    Args: scale: rough size of each parameter's uncertainty, for steps of the search and of the second derivatives.
    """
    found: Any = optimize.minimize(
        lambda u: minus_log(start + u * scale), np.zeros_like(start), method="BFGS", options={"gtol": 1e-4}
    )
    best = start + found.x * scale
    covariance = np.linalg.pinv(_hessian(minus_log, best, scale))
    return best, covariance


def intervals(names: list[str], values: Array, covariance: Array) -> dict[str, Parameter]:
    """Estimates by name, each with its 95 % interval."""
    half = 1.959964 * np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    return {
        name: Parameter(float(v), float(v - h), float(v + h)) for name, v, h in zip(names, values, half, strict=True)
    }


def _hessian(f: Callable[[Array], float], at: Array, step: Array) -> Array:
    n = len(at)
    h = 0.3 * step
    out = np.empty((n, n))
    eye = np.eye(n)
    here = f(at)
    for i in range(n):
        a = eye[i] * h
        out[i, i] = (f(at + a) - 2 * here + f(at - a)) / h[i] ** 2
        for j in range(i):
            b = eye[j] * h
            mixed = f(at + a + b) - f(at + a - b) - f(at - a + b) + f(at - a - b)
            out[i, j] = out[j, i] = mixed / (4 * h[i] * h[j])
    return out
