"""From measured conductances over pulses to a device model: programming by counting pulses.

    step       g_{p+1} - g_p ~ N(a + b g_p, (c + d g_p)^2)                       maximum likelihood over all steps
    then       m_{p+1} = m_p + a + b m_p,   v_{p+1} = (1 + b)^2 v_p + (c + d m_p)^2      mean and variance over devices
    model      sigma_prog = polynomial in w through the measured spread of g over devices at mean g = w g_max

A device that is to hold g gets as many pulses as take the mean there, so that the spread over devices at that pulse is
its programming error. Pulses say nothing of drift and read noise: these are 0, or those of a model given as ``onto``.
Read noise in the data counts as step noise, and then makes steps anticorrelated: the tests of the curves show it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovonic.models.device_regressions import LEAST_DEVICES
from ovonic.models.errors import DataError
from ovonic.models.fit_statistics import (
    Test,
    binned_mean,
    binned_variance,
    chi2_test,
    intervals,
    maximum_likelihood,
    normality,
)
from ovonic.models.fitted_model import FittedModel
from ovonic.models.pcm_fit import Fit

__all__ = ["OverPulses", "PulseCurves", "fit_over_pulses"]

Array = NDArray[np.float64]


class OverPulses(NamedTuple):
    """Conductances of devices after each pulse: names [devices]; device, pulse (rising in each device) and g_us [n]."""

    names: tuple[str, ...]
    device: NDArray[np.intp]
    pulse: NDArray[np.int64]
    g_us: Array


class PulseCurves(NamedTuple):
    """Mean and spread over devices at each pulse number, measured and as the steps predict them; all [pulses]."""

    pulse: NDArray[np.int64]
    n: NDArray[np.int64]
    mean: Array
    spread: Array
    predicted_mean: Array
    predicted_spread: Array


def fit_over_pulses(
    data: OverPulses,
    *,
    g_max_us: float | None = None,
    degree: int = 2,
    onto: FittedModel | None = None,
    name: str = "fitted",
) -> Fit:
    """Fit a device model to conductances over pulses.

    Args:
        g_max_us: full scale of a device, by default that of ``onto``, or the highest mean.
        degree: of the polynomial of the programming error; onto: a model whose drift and read noise are kept.
    Raises: DataError: fewer than 10 devices, a single pulse number, or steps that all agree.
    """
    if len(data.names) < LEAST_DEVICES:
        raise DataError(f"{len(data.names)} devices; a fit over devices needs {LEAST_DEVICES} or more")
    follows = (np.diff(data.device) == 0) & (np.diff(data.pulse) == 1)
    before, step = data.g_us[:-1][follows], np.diff(data.g_us)[follows]
    if len(step) < LEAST_DEVICES or np.ptp(before) == 0 or np.std(step) == 0:
        raise DataError(f"{len(step)} steps from one pulse to the next; conductances must be given pulse by pulse")
    centre, unit = float(before.mean()), max(float(before.std()), 1e-12)
    x = (before - centre) / unit
    design = np.stack([np.ones_like(x), x], axis=1)
    floor = 1e-6 * float(np.std(step))

    def minus_log(at: Array) -> float:
        sigma = np.maximum(design @ at[2:], floor)
        return float(np.sum(np.log(sigma) + 0.5 * ((step - design @ at[:2]) / sigma) ** 2))

    mean, *_ = np.linalg.lstsq(design, step, rcond=None)
    spread, *_ = np.linalg.lstsq(design, np.abs(step - design @ mean) * math.sqrt(math.pi / 2), rcond=None)
    scale = np.full(4, float(np.std(step)) / math.sqrt(len(step)))
    best, covariance = maximum_likelihood(minus_log, np.concatenate([mean, spread]), scale)
    turn = np.array([[1.0, -centre / unit], [0.0, 1 / unit]])
    both = np.kron(np.eye(2), turn)
    a, b, c, d = both @ best
    parameters = intervals(
        ["step mean, uS", "step mean per uS", "step sigma, uS", "step sigma per uS"],
        both @ best,
        both @ covariance @ both.T,
    )
    sigma = np.maximum(design @ best[2:], floor)
    z = (step - design @ best[:2]) / sigma
    curves = _curves(data, a, b, c, d, floor)
    tests: list[Test | None] = [
        binned_mean("mean step", z, before, 2, "the mean step is no straight line over conductance"),
        binned_variance("spread of steps", z, before, 2, "the spread of steps is no straight line over conductance"),
        normality("normal steps", z, "steps are not normal"),
        *_curve_tests(curves),
    ]
    g_max = g_max_us or (onto.g_max_us if onto else float(curves.mean.max()))
    if not 0 < g_max < math.inf:
        raise DataError(f"g_max {g_max} uS: must be positive and finite")
    whole = curves.n >= max(LEAST_DEVICES, 0.5 * curves.n.max())
    w = curves.mean[whole] / g_max
    degree = min(degree, int(whole.sum()) - 1)
    if degree < 0:
        raise DataError("no pulse number that half of the devices were measured at")
    coefficients = np.polynomial.polynomial.polyfit(w, curves.spread[whole], degree, w=np.sqrt(curves.n[whole]))
    base = onto or FittedModel()
    model = replace(
        base,
        name=name,
        g_max_us=g_max,
        prog_coeff=tuple(float(k) for k in coefficients),
        prog_reference_us=g_max,
    )
    total = float(np.sum((step - step.mean()) ** 2))
    curve = float(np.sum((curves.mean - curves.mean.mean()) ** 2))
    r_squared = {
        "steps over conductance": 1 - float(np.sum((step - design @ best[:2]) ** 2)) / total,
        "mean curve": 1 - float(np.sum((curves.mean - curves.predicted_mean) ** 2)) / max(curve, 1e-300),
    }
    kept = tuple(test for test in tests if test is not None)
    n = len(data.names)
    return Fit(model, "pulses", n, len(data.g_us), n, {}, parameters, r_squared, kept, curves)


def _curves(data: OverPulses, a: float, b: float, c: float, d: float, floor: float) -> PulseCurves:
    pulse, place = np.unique(data.pulse, return_inverse=True)
    n = np.bincount(place)
    mean = np.bincount(place, data.g_us) / n
    spread = np.sqrt(np.bincount(place, (data.g_us - mean[place]) ** 2) / np.maximum(n - 1, 1))
    m, v = np.empty(len(pulse)), np.empty(len(pulse))
    m[0], v[0] = mean[0], spread[0] ** 2
    for k in range(1, len(pulse)):
        at, var = m[k - 1], v[k - 1]
        for _ in range(int(min(pulse[k] - pulse[k - 1], 100_000))):
            at, var = at + a + b * at, (1 + b) ** 2 * var + max(c + d * at, floor) ** 2
        m[k], v[k] = at, var
    return PulseCurves(pulse, n, mean, spread, m, np.sqrt(v))


def _curve_tests(curves: PulseCurves) -> list[Test | None]:
    """The last pulse number that most devices reached: steps that are independent add up to its mean and spread."""
    full = np.flatnonzero(curves.n >= 0.5 * curves.n.max())
    k = int(full[-1])
    if k == 0:
        return []
    n = int(curves.n[k])
    mean = (curves.mean[k] - curves.predicted_mean[k]) / (curves.predicted_spread[k] / math.sqrt(n))
    ratio = 2 * math.log(max(curves.spread[k], 1e-300) / curves.predicted_spread[k])
    return [
        chi2_test("mean after all pulses", mean**2, 1, "steps do not add up to the mean that was measured"),
        chi2_test(
            "spread after all pulses",
            ratio**2 * (n - 1) / 2,
            1,
            "steps are not independent: devices differ from one another, or read noise is counted as steps",
        ),
    ]
