"""A fitted device model beside what was measured: data, fit, residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from ovonic.models.device_regressions import DeviceFits, OverTime, noise_coefficient
from ovonic.models.errors import ConfigError
from ovonic.models.fitted_model import FittedModel
from ovonic.models.pcm_fit import Fit
from ovonic.models.pulse_fit import OverPulses, PulseCurves
from ovonic.validation.figure_style import HARDWARE, MUTED, SOFTWARE, finish, styled

__all__ = ["fit_figure"]

WIDTH = 6.6
SHOWN = 60
DOTS: dict[str, Any] = {"ls": "", "marker": ".", "ms": 2.2, "color": SOFTWARE, "alpha": 0.5, "rasterized": True}
LINE: dict[str, Any] = {"color": HARDWARE, "lw": 1.6}


def fit_figure(data: OverTime | OverPulses, fit: Fit) -> Figure:
    """Draw a fit made by ``fit_over_time`` or ``fit_over_pulses`` of ``data``.

    Raises: ConfigError: a fit without its regressions (read from a file).
    """
    if isinstance(data, OverTime) and isinstance(fit.devices, DeviceFits):
        return _over_time(data, fit, fit.devices)
    if isinstance(data, OverPulses) and isinstance(fit.devices, PulseCurves):
        return _over_pulses(data, fit, fit.devices)
    raise ConfigError("the fit is not one of these data: fit them again to draw them")


@styled
def _over_time(data: OverTime, fit: Fit, devices: DeviceFits) -> Figure:
    figure = Figure(figsize=(WIDTH, 4.6))
    grid: Any = figure.subplots(2, 3)
    _traces(grid[0, 0], data, devices, fit.model)
    _programming(grid[0, 1], data, devices, fit.model)
    _exponents(grid[0, 2], devices, fit.model)
    _noise(grid[1, 0], devices, fit.model)
    z = _standardised(devices, fit.model)
    _residuals(grid[1, 1], devices.w, z)
    _quantiles(grid[1, 2], z)
    for ax in grid.flat:
        _plain_ticks(ax)
    return finish(figure, _caption(fit, "drift exponents"), f"Fit of {fit.n_used} devices. {_verdict(fit)}")


def _traces(ax: Axes, data: OverTime, devices: DeviceFits, model: FittedModel) -> None:
    order = np.argsort(devices.g_0)
    for place in order[:: max(len(order) // SHOWN, 1)]:
        mine = data.device == devices.which[place]
        t = data.time_s[mine]
        ax.plot(t, data.g_us[mine], color=SOFTWARE, lw=0.5, alpha=0.5)
        ax.plot(t, devices.g_0[place] * (t / model.t_0_s) ** -devices.nu[place], color=HARDWARE, lw=0.5, alpha=0.7)
    ax.set(xscale="log", yscale="log", xlabel="time (s)", ylabel="conductance (µS)", title="drift")


def _programming(ax: Axes, data: OverTime, devices: DeviceFits, model: FittedModel) -> None:
    ax.set_title("programming error")
    if data.target_us is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no targets in the data", ha="center", transform=ax.transAxes, color=MUTED)
        return
    asked = data.target_us[devices.which]
    ax.plot(asked, devices.g_0 - asked, **DOTS)
    grid = np.linspace(0, model.g_max_us, 100)[1:]
    sigma = model.programming_sigma(torch.as_tensor(grid)).numpy()
    for sign in (-1, 1):
        ax.plot(grid, sign * sigma, **LINE)
    ax.set(xlabel="target (µS)", ylabel="error (µS), fit ± σ")


def _exponents(ax: Axes, devices: DeviceFits, model: FittedModel) -> None:
    ax.plot(devices.w, devices.nu, **DOTS)
    w = np.geomspace(devices.w.min(), devices.w.max(), 100)
    mu, sigma = (m.numpy() for m in model.drift_moments(torch.as_tensor(w * model.g_max_us)))
    ax.plot(w, mu, **LINE)
    ax.fill_between(w, mu - sigma, mu + sigma, color=HARDWARE, alpha=0.2, lw=0)
    ax.set(xscale="log", xlabel="g / g_max", ylabel="drift exponent ν", title="fit: mean ± σ")


def _noise(ax: Axes, devices: DeviceFits, model: FittedModel) -> None:
    w = devices.g_0 / model.g_max_us
    ax.plot(w, np.sqrt(np.maximum(devices.q2, 1e-16)), **DOTS)
    grid = np.geomspace(w.min(), w.max(), 50)
    if model.q_scale > 0:
        ax.plot(grid, noise_coefficient((model.q_scale, model.q_power), grid), **LINE)
    ax.set(xscale="log", yscale="log", xlabel="g / g_max", ylabel="read noise q", title="read noise")


def _standardised(devices: DeviceFits, model: FittedModel) -> NDArray[np.float64]:
    mu, sigma = (m.numpy() for m in model.drift_moments(torch.as_tensor(devices.w * model.g_max_us)))
    return np.asarray((devices.nu - mu) / np.sqrt(sigma**2 + devices.nu_error**2))


def _residuals(ax: Axes, x: NDArray[np.float64], z: NDArray[np.float64]) -> None:
    ax.plot(x, z, **DOTS)
    for level in (-2, 0, 2):
        ax.axhline(level, color=MUTED, lw=0.7, ls=":" if level else "-")
    ax.set(xscale="log", xlabel="g / g_max", ylabel="residual of ν (σ)", title="residuals")


def _quantiles(ax: Axes, z: NDArray[np.float64]) -> None:
    from scipy import stats

    n = len(z)
    expected = stats.norm.ppf((np.arange(1, n + 1) - 0.5) / n)
    ax.plot(expected, np.sort(z), **DOTS)
    ax.plot(expected[[0, -1]], expected[[0, -1]], **LINE)
    ax.set(xlabel="normal quantile", ylabel="residual (σ)", title="normality")


@styled
def _over_pulses(data: OverPulses, fit: Fit, curves: PulseCurves) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.7))
    axes: Sequence[Axes] = figure.subplots(1, 3)
    names = np.unique(data.device)
    for name in names[:: max(len(names) // SHOWN, 1)]:
        mine = data.device == name
        axes[0].plot(data.pulse[mine], data.g_us[mine], color=SOFTWARE, lw=0.4, alpha=0.4)
    axes[0].plot(curves.pulse, curves.predicted_mean, **LINE)
    axes[0].set(xlabel="pulses", ylabel="conductance (µS)", title="devices and fit")
    error = curves.spread / np.sqrt(curves.n)
    axes[1].errorbar(curves.pulse, curves.mean - curves.predicted_mean, error, fmt="o", ms=2.5, lw=0.8, color=SOFTWARE)
    axes[1].axhline(0, color=MUTED, lw=0.7)
    axes[1].set(xlabel="pulses", ylabel="mean, measured - fit (µS)", title="residuals")
    axes[2].plot(curves.mean, curves.spread, "o", ms=2.5, color=SOFTWARE, label="measured")
    axes[2].plot(curves.predicted_mean, curves.predicted_spread, **LINE, label="from steps")
    grid = np.linspace(0, fit.model.g_max_us, 100)[1:]
    sigma = fit.model.programming_sigma(torch.as_tensor(grid)).numpy()
    axes[2].plot(grid, sigma, color="#000000", lw=1.0, ls="--", label="model")
    axes[2].set(xlabel="mean (µS)", ylabel="spread (µS)", title="spread over devices")
    axes[2].legend()
    return finish(figure, _caption(fit, "pulses"), f"Fit of {fit.n_used} devices over pulses. {_verdict(fit)}")


def _plain_ticks(ax: Axes) -> None:
    """Few ticks on logarithmic axes, as plain numbers."""
    for axis, scale, (low, high) in (
        (ax.xaxis, ax.get_xscale(), ax.get_xlim()),
        (ax.yaxis, ax.get_yscale(), ax.get_ylim()),
    ):
        if scale == "log":
            axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 30 else (1.0, 2.0, 5.0), numticks=6))
            axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
            axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    return f"{value:g}" if 1e-4 < value < 1e4 else f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")


def _caption(fit: Fit, what: str) -> str:
    out = ", ".join(f"{n} {why}" for why, n in fit.left_out.items() if n)
    return (
        f"{fit.n_samples} measurements of {fit.n_devices} devices (blue) and the fit (orange) to {fit.n_used} of them"
        f"{f' (left out: {out})' if out else ''}. Residuals are those of {what}. {_verdict(fit)}"
    )


def _verdict(fit: Fit) -> str:
    tests = "; ".join(f"{t.name} χ²/dof {t.chi2_per_dof:.2f}, p {t.p_value:.2g}" for t in fit.tests)
    head = "The data contradict the model: " + ". ".join(fit.warnings) + "." if fit.warnings else "No test objects."
    return f"{head} Tests: {tests}."
