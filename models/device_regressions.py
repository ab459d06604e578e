"""The regression of each device's conductance over time, all devices at once.

    ln g(t) = ln g_0 - nu ln(t / t_0) + e,      sd(e) = q sqrt(L(t)),     L = ln((t + t_read) / (2 t_read))

Weighted by 1 / var(e), with the moments of ln(1 + e) at relative noise s: mean -s^2/2 - 3 s^4/4, variance
s^2 (1 + 5 s^2 / 2). The tests look at what the two parameters of a device leave over.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovonic.models.errors import DataError
from ovonic.models.fit_statistics import Test, binned_variance, chi2_test

__all__ = ["LEAST_DEVICES", "DeviceFits", "OverTime", "Residuals", "noise_coefficient", "regress"]

Array = NDArray[np.float64]
LEAST_DEVICES = 10
"""Devices that a fit over devices needs."""


class OverTime(NamedTuple):
    """Conductances of devices over time.

    Attributes:
        names: of the devices; device: index into them, [n]; time_s: since programming, > 0, rising in each device, [n].
        g_us: [n]; target_us: of each device, or None.
    """

    names: tuple[str, ...]
    device: NDArray[np.intp]
    time_s: Array
    g_us: Array
    target_us: Array | None


class DeviceFits(NamedTuple):
    """The regression of each device that was used; all [devices].

    Attributes:
        which: index into ``OverTime.names``; w: target (or g_0) / g_max; g_0, g_0_error: conductance at t_0, uS.
        nu, nu_error: drift exponent and its error; q2: noise coefficient squared; k: its degrees of freedom.
        curvature: of ln g over ln t, in units of its error.
    """

    which: NDArray[np.intp]
    w: Array
    g_0: Array
    g_0_error: Array
    nu: Array
    nu_error: Array
    q2: Array
    k: Array
    curvature: Array


class Residuals(NamedTuple):
    """Residuals of all samples together."""

    z: Array
    log_read: Array
    n_devices: int
    r_squared: float

    def tests(self, fits: DeviceFits) -> list[Test | None]:
        """Whether drift is a power law, and read noise accumulates as its logarithm."""
        n = self.n_devices
        return [
            chi2_test(
                "power law",
                n * float(fits.curvature.mean()) ** 2,
                1,
                "drift is no power law: ln g bends over ln t",
            ),
            chi2_test(
                "curvature of single devices",
                float((fits.curvature**2).sum()),
                n,
                "some devices do not drift by a power law, or read noise does not have one size at one conductance",
            ),
            binned_variance(
                "read noise over time", self.z, self.log_read, 1, "read noise does not grow as sqrt(ln(t / t_read))"
            ),
        ]


def regress(
    data: OverTime,
    use: NDArray[np.bool_],
    g_max: float,
    t_0: float,
    t_read: float,
    q_of: tuple[float, float],
    g_0_before: Array | None,
) -> tuple[DeviceFits, Residuals]:
    """Regress the devices in ``use`` [devices].

    Args:
        g_max, t_0, t_read: of the device model; q_of: c and p of the read noise, (0, 0) where not known yet.
        g_0_before: conductances at t_0 of an earlier round, [devices], which the read noise belongs to.
    Raises: DataError: too few devices, or one whose times are all the same.
    """
    if int(use.sum()) < LEAST_DEVICES:
        raise DataError(f"{int(use.sum())} devices can be used; a fit over devices needs {LEAST_DEVICES} or more")
    rows = use[data.device]
    index = np.flatnonzero(use)
    place = np.cumsum(use)[data.device[rows]] - 1
    n = len(index)
    x, log_read = np.log(data.time_s[rows] / t_0), np.log((data.time_s[rows] + t_read) / (2 * t_read))

    def total(values: Array) -> Array:
        return np.bincount(place, values, minlength=n)

    y = np.log(data.g_us[rows])
    known = None if g_0_before is None or q_of[0] == 0 else noise_coefficient(q_of, g_0_before[index] / g_max) ** 2
    s2 = log_read * (0.0 if known is None else known[place])
    y = y + s2 / 2 + 0.75 * s2**2
    weight = 1 / (log_read * (1 + 2.5 * s2))
    centre = total(weight * x) / total(weight)
    dx = x - centre[place]
    sxx = total(weight * dx**2)
    if sxx.min() <= 0:
        raise DataError(f"device {data.names[int(index[int(np.argmin(sxx))])]!r}: no two times; drift needs them")
    mean = total(weight * y) / total(weight)
    slope = total(weight * dx * y) / sxx
    residual = y - mean[place] - slope[place] * dx
    k = total(np.ones_like(y)) - 2
    rss = total(weight * residual**2)
    q2 = rss / k
    q2_used = q2 if known is None else known
    bend = dx**2 - (total(weight * dx**3) / sxx)[place] * dx
    bend = bend - (total(weight * bend) / total(weight))[place]
    sbb = np.maximum(total(weight * bend**2), 1e-300)
    curvature = total(weight * bend * residual) / np.sqrt(sbb * np.maximum(q2_used, 1e-300))
    ln_g_0 = mean - slope * centre
    relative_error = np.sqrt(q2_used * (1 / total(weight) + centre**2 / sxx))
    g_0 = np.exp(ln_g_0)
    w = (g_0 if data.target_us is None else data.target_us[index]) / g_max
    fits = DeviceFits(index, w, g_0, g_0 * relative_error, -slope, np.sqrt(q2_used / sxx), q2, k, curvature)
    between = total(weight * (y - mean[place]) ** 2)
    leverage = 1 - weight * (1 / total(weight)[place] + dx**2 / sxx[place])
    z = residual * np.sqrt(weight / (np.maximum(q2_used, 1e-300)[place] * np.maximum(leverage, 1e-6)))
    return fits, Residuals(z, log_read, n, float(1 - rss.sum() / max(between.sum(), 1e-300)))


def noise_coefficient(q_of: tuple[float, float], w: Array) -> Array:
    """c w^-p."""
    return q_of[0] * np.maximum(w, 1e-6) ** -q_of[1]
