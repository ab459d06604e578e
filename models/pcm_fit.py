"""From measured conductances over time to a device model, with its goodness of fit.

    ln g_i(t) = ln g_0i - nu_i ln(t / t_0) + e,      sd(e) = q(w_i) sqrt(L(t)),     L = ln((t + t_read) / (2 t_read))
    nu_i ~ N(mu(w_i), sigma(w_i)^2 + s_i^2)                                         s_i: error of the regression
    g_0i ~ N(target_i, sigma_prog(w_i)^2 + s_0i^2),  sigma_prog a polynomial in w = target / g_max
    ln q_i^2 = 2 ln c - 2 p ln w_i + ln(chi^2_k / k)                                k = samples of device i - 2

Per device: weighted regression, with the bias of the logarithm under noise taken out (E ln(1 + e) = -var / 2). Over
devices: maximum likelihood. Drift exponents and programming are functions of the target, read noise of g_0, as in
``models.device_model``; without targets in the data g_0 stands for them, and the programming error is not measured.

Left out, and counted: devices that ever read 0, devices whose noise would exceed a third of their conductance (a
logarithm of that says little), and, from the programming error, targets within three of its sigma from 0, where the
clamp at 0 uS cuts the distribution.

The tests (``Fit.tests``) find out a wrong model: drift that is no power law, spreads that are no such functions of the
conductance, noise that is not normal or does not grow as sqrt(L). ``Fit.warnings`` says which failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ovonic.models.device_regressions import LEAST_DEVICES, DeviceFits, OverTime, noise_coefficient, regress
from ovonic.models.errors import DataError
from ovonic.models.fit_statistics import (
    Parameter,
    Test,
    binned_mean,
    binned_variance,
    intervals,
    maximum_likelihood,
    normality,
)
from ovonic.models.fitted_model import FittedModel

__all__ = ["Fit", "fit_over_time"]

Array = NDArray[np.float64]
TOO_NOISY = 1 / 3
LEAST_SAMPLES = 4


@dataclass(frozen=True)
class Fit:
    """A fitted device model and how well it describes what was measured.

    Attributes:
        model: the device model; kind: ``"time"`` or ``"pulses"``.
        n_devices, n_samples: measured; n_used: devices the fit rests on; left_out: how many not, by reason.
        parameters: by name, with 95 % intervals; r_squared: share of the variance explained, by what.
        tests: of the assumptions; devices: regressions of the devices, for figures.
    """

    model: FittedModel
    kind: str
    n_devices: int
    n_samples: int
    n_used: int
    left_out: dict[str, int]
    parameters: dict[str, Parameter]
    r_squared: dict[str, float]
    tests: tuple[Test, ...]
    devices: Any = None

    @property
    def warnings(self) -> list[str]:
        """What the data contradict, in words; empty where the model fits."""
        return [f"{test.if_not} ({test.name}: p = {test.p_value:.1g})" for test in self.tests if test.alarm]

    def report(self) -> dict[str, Any]:
        """Plain data for JSON, without the regressions."""
        return {
            "kind": self.kind,
            "n_devices": self.n_devices,
            "n_samples": self.n_samples,
            "n_used": self.n_used,
            "left_out": dict(self.left_out),
            "parameters": {name: p._asdict() for name, p in self.parameters.items()},
            "r_squared": {name: value if math.isfinite(value) else None for name, value in self.r_squared.items()},
            "tests": [t._asdict() | {"chi2_per_dof": t.chi2_per_dof, "alarm": t.alarm} for t in self.tests],
            "warnings": self.warnings,
        }


def fit_over_time(
    data: OverTime,
    *,
    g_max_us: float | None = None,
    t_0_s: float | None = None,
    t_read_s: float = 250e-9,
    degree: int = 2,
    knots: int = 5,
    name: str = "fitted",
) -> Fit:
    """Fit a device model to conductances over time.

    Args:
        g_max_us: full scale of a device, by default the largest target (or conductance).
        t_0_s: time of the first read, by default the earliest in the data.
        t_read_s: duration of a read, s.
        degree: of the polynomial of the programming error; knots: of the drift's mean and spread, at the most.
    Raises: DataError: fewer than 10 devices that can be used, or than 4 samples of a device.
    """
    n_devices = len(data.names)
    samples = np.bincount(data.device, minlength=n_devices)
    if (short := np.flatnonzero(samples < LEAST_SAMPLES)).size:
        worst = int(short[0])
        raise DataError(
            f"device {data.names[worst]!r}: {samples[worst]} samples; a drift exponent and its noise need "
            f"{LEAST_SAMPLES} or more"
        )
    g_max = g_max_us or float(data.g_us.max() if data.target_us is None else data.target_us.max())
    t_0 = t_0_s or float(data.time_s.min())
    if not (0 < g_max < math.inf and 0 < t_0 < math.inf and 0 < t_read_s < t_0):
        raise DataError(f"g_max {g_max} uS, t_0 {t_0} s, t_read {t_read_s} s: must be positive, t_read below t_0")
    left_out = {"read 0 uS": 0, "too noisy": 0, "target 0": 0}
    dark = np.zeros(n_devices, bool)
    dark[data.device[data.g_us <= 0]] = True
    reset = np.zeros(n_devices, bool) if data.target_us is None else data.target_us == 0
    left_out["target 0"], left_out["read 0 uS"] = int(reset.sum()), int((dark & ~reset).sum())
    use = ~dark & ~reset
    q_of = (0.0, 0.0)
    g_0 = None
    for _ in range(4):
        fits, noise = regress(data, use, g_max, t_0, t_read_s, q_of, g_0)
        g_0 = np.zeros(n_devices)
        g_0[fits.which] = fits.g_0
        q_of, q_parameters, q_test = _read_noise(fits, g_max)
        too_noisy = np.zeros(n_devices, bool)
        longest = math.log((data.time_s.max() + t_read_s) / (2 * t_read_s))
        too_noisy[fits.which] = noise_coefficient(q_of, fits.g_0 / g_max) * math.sqrt(longest) > TOO_NOISY
        left_out["too noisy"] += int(too_noisy.sum())
        use &= ~too_noisy
    fits, noise = regress(data, use, g_max, t_0, t_read_s, q_of, g_0)
    nodes, mu, sigma, nu_parameters, nu_tests, nu_r2 = _drift(fits, knots)
    tests = [*noise.tests(fits), q_test, *nu_tests]
    parameters = q_parameters | nu_parameters
    r_squared = {"ln g over ln t, within devices": noise.r_squared, "drift exponent over conductance": nu_r2}
    model = FittedModel(
        name,
        g_max,
        t_0,
        t_read_s,
        prog_reference_us=g_max,
        nu_knots=tuple(nodes),
        nu_mean=tuple(mu),
        nu_sigma=tuple(sigma),
        q_scale=q_of[0],
        q_power=q_of[1],
        q_floor=float(np.clip((fits.g_0 / g_max).min(), 1e-6, 1.0)),
    )
    if data.target_us is not None:
        coefficients, prog_parameters, prog_tests, left_out["target near 0"] = _programming(
            fits, data.target_us, g_max, degree
        )
        model = replace(model, prog_coeff=tuple(coefficients))
        parameters |= prog_parameters
        tests += prog_tests
    kept = tuple(test for test in tests if test is not None)
    return Fit(model, "time", n_devices, len(data.g_us), len(fits.which), left_out, parameters, r_squared, kept, fits)


def _read_noise(fits: DeviceFits, g_max: float) -> tuple[tuple[float, float], dict[str, Parameter], Test | None]:
    """c and p of q = c w^-p from each device's own estimate, whose logarithm has a known mean and variance."""
    if fits.q2.max() < 1e-14:
        return (0.0, 0.0), {"q_scale": Parameter(0.0, 0.0, 0.0)}, None
    x = np.log(fits.g_0 / g_max)
    y = np.log(np.maximum(fits.q2, 1e-16)) - (special.digamma(fits.k / 2) - np.log(fits.k / 2))
    variance = special.polygamma(1, fits.k / 2)
    design = np.stack([np.ones_like(x), x], axis=1)
    if np.ptp(x) < 1e-3:
        design = design[:, :1]
    normal = np.linalg.inv(design.T @ (design / variance[:, None]))
    beta = normal @ (design.T @ (y / variance))
    z = (y - design @ beta) / np.sqrt(variance)
    slope = float(beta[1]) if len(beta) > 1 else 0.0
    found = intervals(["ln q2 at g_max", "slope"][: len(beta)], beta, normal)
    base = found["ln q2 at g_max"]
    parameters = {"q_scale": Parameter(*(math.exp(end / 2) for end in base))}
    if len(beta) > 1:
        p = found["slope"]
        parameters["q_power"] = Parameter(-p.value / 2, -p.high / 2, -p.low / 2)
    # ln chi^2 is skewed: its mean over a bin is near normal, single values are not
    test = binned_mean("read noise over conductance", z, x, len(beta), "read noise is no power of the conductance")
    return (math.exp(float(beta[0]) / 2), -slope / 2), parameters, test


def _nodes(w: Array, most: int) -> Array:
    """Knots in ln w: quantiles, at least 12 devices a knot and distinct."""
    x = np.log(np.maximum(w, 1e-7))
    count = max(min(most, len(x) // 12, len(np.unique(np.round(x, 6)))), 1)
    if count == 1:
        return np.array([float(np.median(x))])
    wanted = np.linspace(x.min(), x.max(), count)
    kept = [wanted[0]]
    for knot in wanted[1:]:
        if knot - kept[-1] > 1e-3:
            kept.append(knot)
    return np.array(kept)


def _hats(x: Array, nodes: Array) -> Array:
    """[n, knots]: what each knot's value weighs in the line through the knots at x."""
    return np.stack([np.interp(x, nodes, unit) for unit in np.eye(len(nodes))], axis=1)


def _drift(fits: DeviceFits, most: int) -> tuple[Array, Array, Array, dict[str, Parameter], list[Test | None], float]:
    nodes = _nodes(fits.w, most)
    x = np.log(np.maximum(fits.w, 1e-7))
    hats = _hats(x, nodes)
    n = len(nodes)
    mu, *_ = np.linalg.lstsq(hats, fits.nu, rcond=None)
    spread = max(float(np.std(fits.nu - hats @ mu)), 1e-6)
    share = np.maximum(hats.sum(0), 1.0)

    def minus_log(at: Array) -> float:
        variance = (hats @ np.exp(np.clip(at[n:], -20, 5))) ** 2 + fits.nu_error**2
        error = fits.nu - hats @ at[:n]
        return 0.5 * float(np.sum(np.log(variance) + error**2 / variance))

    start = np.concatenate([mu, np.full(n, math.log(spread))])
    scale = np.concatenate([spread / np.sqrt(share), 0.7 / np.sqrt(share)])
    best, covariance = maximum_likelihood(minus_log, start, scale)
    mu, sigma = best[:n], np.exp(np.clip(best[n:], -20, 5))
    names = [f"{of} at w = {math.exp(node):.3g}" for of in ("nu_mean", "ln nu_sigma") for node in nodes]
    found = intervals(names, best, covariance)
    parameters = {
        key.removeprefix("ln "): Parameter(*np.exp(np.clip(p, -700, 700)).tolist()) if key.startswith("ln ") else p
        for key, p in found.items()
    }
    z = (fits.nu - hats @ mu) / np.sqrt((hats @ sigma) ** 2 + fits.nu_error**2)
    tests = [
        binned_mean("mean drift exponent", z, x, n, "the mean drift exponent is no line through its knots: add some"),
        binned_variance("spread of the drift exponent", z, x, n, "the spread of drift exponents is no such function"),
        normality("normal drift exponents", z, "drift exponents are not normal around their mean"),
    ]
    total = float(np.sum((fits.nu - fits.nu.mean()) ** 2))
    return nodes, mu, sigma, parameters, tests, 1 - float(np.sum((fits.nu - hats @ mu) ** 2)) / max(total, 1e-300)


def _programming(
    fits: DeviceFits, target: Array, g_max: float, degree: int
) -> tuple[Array, dict[str, Parameter], list[Test | None], int]:
    asked = target[fits.which]
    error = fits.g_0 - asked
    inside = np.ones(len(asked), bool)
    degree = min(degree, len(np.unique(asked)) - 1)
    for _ in range(3):
        x, e, s2 = asked[inside] / g_max, error[inside], fits.g_0_error[inside] ** 2
        if len(e) < LEAST_DEVICES:
            raise DataError(f"{len(e)} devices with targets far enough from 0; {LEAST_DEVICES} or more are needed")
        # orthogonal polynomials: their coefficients are all but uncorrelated, those of powers are not
        basis, to_powers = np.linalg.qr(np.vander(x, degree + 1, increasing=True))
        basis, to_powers = basis * math.sqrt(len(x)), np.linalg.inv(to_powers) * math.sqrt(len(x))

        def minus_log(c: Array, basis: Array = basis, e: Array = e, s2: Array = s2) -> float:
            variance = np.maximum(basis @ c, 1e-6 * g_max) ** 2 + s2
            return 0.5 * float(np.sum(np.log(variance) + e**2 / variance))

        start = basis.T @ np.abs(e) * (math.sqrt(math.pi / 2) / len(x))
        scale = np.full(degree + 1, max(float(np.std(e)), 1e-6 * g_max) / math.sqrt(len(x)))
        best, covariance = maximum_likelihood(minus_log, start, scale)
        best, covariance = to_powers @ best, to_powers @ covariance @ to_powers.T
        sigma = np.maximum(np.vander(asked / g_max, degree + 1, increasing=True) @ best, 1e-6 * g_max)
        inside = asked > 3 * sigma
    sigma = np.maximum(np.vander(x, degree + 1, increasing=True) @ best, 1e-6 * g_max)
    z = e / np.sqrt(sigma**2 + s2)
    parameters = intervals([f"prog_coeff[{k}]" for k in range(degree + 1)], best, covariance)
    mean = float(np.average(e, weights=1 / (sigma**2 + s2)))
    half = 1.959964 / math.sqrt(float(np.sum(1 / (sigma**2 + s2))))
    parameters["mean programming error, uS"] = Parameter(mean, mean - half, mean + half)
    tests = [
        binned_mean("unbiased programming", z, x, 0, "programming misses its targets on average"),
        binned_variance(
            "programming error over target", z, x, degree + 1, f"sigma_prog is no polynomial of degree {degree}"
        ),
        normality("normal programming error", z, "programming errors are not normal"),
    ]
    return best, parameters, tests, len(asked) - len(e)
