"""Intervals: every half-width is 95 % unless named otherwise; comparisons are paired on the same tasks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ovonic.models.errors import ConfigError

__all__ = ["crossed_interval", "error_ratio", "interval", "loss_ratio", "paired_difference", "spread_of_chips"]


def _half_width(variance: float, degrees_of_freedom: float) -> float:
    return float(stats.t.ppf(0.975, degrees_of_freedom)) * math.sqrt(variance)


def interval(values: ArrayLike) -> dict[str, Any]:
    """Mean and 95 % half-width of independent values (Student's t; None for fewer than two)."""
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 1 or len(v) == 0:
        raise ConfigError(f"an interval needs a list of values, got shape {v.shape}")
    half = None if len(v) < 2 else _half_width(float(v.var(ddof=1)) / len(v), len(v) - 1)
    return {"mean": float(v.mean()), "ci95": half}


def crossed_interval(values: ArrayLike) -> dict[str, Any]:
    """Mean and 95 % half-width of a [chips, tasks] table in which both chips and tasks are random.

    The variance of the grand mean of a fully crossed table is  s_chip / C + s_task / T + s_rest / (C T)  with the
    variance components of the two-way layout, estimated here by its mean squares (Cornfield and Tukey 1956):
    (MS_chip + MS_task - MS_rest) / (C T). Its degrees of freedom are Satterthwaite's (1946), and never fewer than those
    of the rarer factor, so that few chips widen the interval. With one chip only the tasks are sampled.
    """
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 2:
        raise ConfigError(f"a crossed interval needs a [chips, tasks] table, got shape {v.shape}")
    chips, tasks = v.shape
    if chips < 2 or tasks < 2:
        return interval(v.reshape(-1))
    ms_chip, ms_task, ms_rest = _mean_squares(v)
    total, df = ms_chip + ms_task - ms_rest, float((chips - 1) * (tasks - 1))
    if total > ms_rest:
        df = total**2 / (ms_chip**2 / (chips - 1) + ms_task**2 / (tasks - 1) + ms_rest**2 / df)
    half = _half_width(max(total, ms_rest) / (chips * tasks), max(df, min(chips, tasks) - 1))
    return {"mean": float(v.mean()), "ci95": half}


def spread_of_chips(values: ArrayLike) -> dict[str, float]:
    """How much chips differ by what they are, beyond the chance of each task on each: of a [chips, tasks] table.

    The two-way layout of ``crossed_interval``: s_chip^2 = (MS_chip - MS_rest) / T, its interval that of MS_chip, with
    MS_rest taken as known (it has T - 1 times as many degrees of freedom).

    Returns: ``sd``, s_chip; ``low`` and ``high``, 95 %; ``p``: of so large a ratio of the two mean squares if chips did
        not differ (F).
    Raises: ConfigError: fewer than two chips or tasks.
    """
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 2 or min(v.shape) < 2:
        raise ConfigError(f"chips are compared by a [chips, tasks] table of two and more each, got shape {v.shape}")
    (chips, tasks), (ms_chip, _, ms_rest) = v.shape, _mean_squares(v)
    df = chips - 1
    ends = df * ms_chip / stats.chi2.ppf((0.975, 0.025), df)
    sd, low, high = (math.sqrt(max(ms - ms_rest, 0.0) / tasks) for ms in (ms_chip, *ends))
    p = stats.f.sf(ms_chip / ms_rest, df, df * (tasks - 1)) if ms_rest else float(ms_chip == 0)
    return {"sd": sd, "low": low, "high": high, "p": float(p)}


def _mean_squares(v: NDArray[np.float64]) -> tuple[float, float, float]:
    """Of a [chips, tasks] table: between chips, between tasks, of the rest."""
    (chips, tasks), rows, columns, mean = v.shape, v.mean(1), v.mean(0), v.mean()
    rest = v - rows[:, None] - columns[None] + mean
    return (
        float(tasks * np.sum((rows - mean) ** 2) / (chips - 1)),
        float(chips * np.sum((columns - mean) ** 2) / (tasks - 1)),
        float(np.sum(rest**2) / ((chips - 1) * (tasks - 1))),
    )


def paired_difference(a: ArrayLike, b: ArrayLike) -> dict[str, Any]:
    """Mean and half-width of a - b on the same tasks."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ConfigError(f"values {a.shape} and {b.shape} are not of the same tasks")
    return interval(a - b)


def error_ratio(hardware: ArrayLike, software: ArrayLike, *, seed: int, resamples: int = 4000) -> dict[str, Any]:
    """Error of hardware over error of its software twin, with a percentile bootstrap over chips and tasks.

    Args:
        hardware: accuracy in 0..1, [chips, tasks]. software: accuracy of the twin on the same tasks, [tasks].
        seed: of the bootstrap. Chips and tasks are resampled independently, tasks jointly in both systems.
    Returns: ``ratio`` (None where the software makes no error), ``low`` and ``high`` (95 %).
    """
    return loss_ratio(
        1 - np.asarray(hardware, np.float64), 1 - np.asarray(software, np.float64), seed=seed, resamples=resamples
    )


def loss_ratio(hardware: ArrayLike, software: ArrayLike, *, seed: int, resamples: int = 4000) -> dict[str, Any]:
    """Mean loss of hardware over that of its software twin: as ``error_ratio``, of losses, which are at least 0."""
    h, s = np.asarray(hardware, dtype=np.float64), np.asarray(software, dtype=np.float64)
    if h.ndim != 2 or s.shape != h.shape[1:]:
        raise ConfigError(f"hardware [chips, tasks] {h.shape} and software [tasks] {s.shape} do not pair")
    if s.mean() == 0:
        return {"ratio": None, "low": None, "high": None}
    rng = np.random.default_rng(seed)
    ratios: NDArray[np.float64] = np.empty(resamples)
    for i in range(resamples):
        tasks = rng.integers(h.shape[1], size=h.shape[1])
        chips = rng.integers(h.shape[0], size=h.shape[0])
        below = s[tasks].mean()
        ratios[i] = h[chips][:, tasks].mean() / below if below > 0 else np.inf
    low, high = np.percentile(ratios, [2.5, 97.5], method="inverted_cdf")
    return {
        "ratio": float(h.mean() / s.mean()),
        "low": float(low),
        "high": float(high) if np.isfinite(high) else None,
    }
