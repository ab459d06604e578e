"""Intervals hold the truth as often as they say (by simulation), and the exact cases come out exactly.

A coverage test simulates n = 2,000 experiments with a fixed generator: the observed coverage of a true 95 % lies within
.93 .. .97 with a false alarm under 1e-4; the wider limits used below are stated where the interval is approximate.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from ovonic.models.errors import ConfigError
from ovonic.tasks.statistics import crossed_interval, error_ratio, interval, paired_difference, spread_of_chips

SIMULATIONS = 2000
values = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30)


# --------------------------------------------------------------------------------------------- one sample


def test_interval_by_hand() -> None:
    assert interval([1.0, 2.0, 3.0]) == {"mean": 2.0, "ci95": pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)}
    assert interval([0.5]) == {"mean": 0.5, "ci95": None}
    assert interval([0.25] * 4) == {"mean": 0.25, "ci95": 0.0}


def test_interval_covers_as_often_as_it_says() -> None:
    """Accuracies of 600 tasks of 25 queries at 98 %, as in the published table."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(SIMULATIONS):
        result = interval(rng.binomial(25, 0.98, 600) / 25)
        hits += abs(result["mean"] - 0.98) <= result["ci95"]
    assert 0.93 <= hits / SIMULATIONS <= 0.97


@settings(max_examples=50, deadline=None)
@given(values, st.floats(-3, 3), st.floats(0.1, 10))
def test_interval_moves_and_scales_with_its_values(v: list[float], shift: float, scale: float) -> None:
    a, b = interval(v), interval(np.array(v) * scale + shift)
    assert b["mean"] == pytest.approx(a["mean"] * scale + shift, abs=1e-9)
    assert b["ci95"] == pytest.approx(a["ci95"] * scale, abs=1e-9)


# ------------------------------------------------------------------------------------- paired differences


def test_pairing_takes_out_what_both_share() -> None:
    tasks = np.random.default_rng(0).normal(0.9, 0.05, 300)
    assert paired_difference(tasks, tasks) == {"mean": 0.0, "ci95": 0.0}
    shifted = paired_difference(tasks + 0.01, tasks)
    assert shifted["mean"] == pytest.approx(0.01)
    assert shifted["ci95"] < 1e-9 < interval(tasks)["ci95"]
    assert paired_difference([1, 3], [0, 1])["mean"] == 1.5


@pytest.mark.parametrize("other", [[0.1], [0.1, 0.2], 0.1])
def test_values_of_other_tasks_do_not_pair(other: object) -> None:
    with pytest.raises(ConfigError):
        paired_difference([0.1, 0.2, 0.3], other)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- chips crossed with tasks


def _table(rng: np.random.Generator, chips: int, tasks: int, sd: tuple[float, float, float]) -> np.ndarray:
    """Accuracy 0.9 plus a chip's, a task's and a cell's own deviation."""
    chip, task, cell = sd
    return (
        0.9
        + chip * rng.standard_normal((chips, 1))
        + task * rng.standard_normal((1, tasks))
        + cell * rng.standard_normal((chips, tasks))
    )


@pytest.mark.parametrize(
    "sd", [(0.01, 0.05, 0.05), (0.05, 0.05, 0.05), (0.05, 0.0, 0.02), (0.0, 0.05, 0.05), (0.0, 0.0, 0.05)]
)
@pytest.mark.parametrize(("chips", "tasks"), [(20, 200), (20, 40)])
def test_crossed_interval_covers_as_often_as_it_says(chips: int, tasks: int, sd: tuple[float, float, float]) -> None:
    """20 chips: a chip effect alone leaves 19 degrees of freedom, of which the normal interval covers .935.

    n = 2,000: .915 .. .985 alarm falsely under 1e-3 a test (a table without effects is covered somewhat too often).
    """
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(SIMULATIONS):
        result = crossed_interval(_table(rng, chips, tasks, sd))
        hits += abs(result["mean"] - 0.9) <= result["ci95"]
    assert 0.915 <= hits / SIMULATIONS <= 0.985


def test_cells_taken_as_independent_would_cover_half_as_often() -> None:
    """Why the crossed interval: the plain one over all cells misses the truth more often than not."""
    rng = np.random.default_rng(2)
    tables = [_table(rng, 20, 200, (0.01, 0.05, 0.05)) for _ in range(300)]
    plain = [interval(t.ravel()) for t in tables]
    assert np.mean([abs(r["mean"] - 0.9) <= r["ci95"] for r in plain]) < 0.6


def test_crossed_interval_of_chips_alone_or_tasks_alone() -> None:
    """Rows that differ only by chip are a sample of chips, columns that differ only by task one of tasks.

    The half-width is that of the plain sample, or more by up to Student's quantile of as many values.
    """
    chips, tasks = np.array([0.8, 0.9, 0.95, 0.85]), np.array([0.7, 1.0, 0.9, 0.8, 0.95, 0.75])
    for table, sample in ((np.repeat(chips[:, None], 6, 1), chips), (np.repeat(tasks[None], 4, 0), tasks)):
        ours, plain = crossed_interval(table), interval(sample)
        assert ours["mean"] == pytest.approx(plain["mean"])
        assert 1 - 1e-9 <= ours["ci95"] / plain["ci95"] <= student.ppf(0.975, len(sample) - 1) / 1.959964 * 1.01


@pytest.mark.parametrize("chip", [0.0, 0.003, 0.02])
def test_spread_of_chips_covers_what_it_was_made_with(chip: float) -> None:
    """n = 2,000: .93 .. .97 alarm falsely under 1e-4; without a chip effect, p is below .05 in .03 .. .07."""
    rng = np.random.default_rng(3)
    found = [spread_of_chips(_table(rng, 12, 60, (chip, 0.05, 0.02))) for _ in range(SIMULATIONS)]
    assert 0.93 <= np.mean([f["low"] <= chip <= f["high"] for f in found]) <= (0.97 if chip else 1.0)
    assert np.sqrt(np.mean([f["sd"] ** 2 for f in found])) == pytest.approx(chip, rel=0.1, abs=0.003)
    if not chip:
        assert 0.03 <= np.mean([f["p"] < 0.05 for f in found]) <= 0.07


def test_spread_of_chips_that_differ_in_nothing_else_is_the_sample_s() -> None:
    chips = np.array([0.8, 0.9, 0.95, 0.85])
    found = spread_of_chips(np.repeat(chips[:, None], 6, 1) + np.linspace(0, 0.1, 6))
    assert found["sd"] == pytest.approx(chips.std(ddof=1))
    assert found["p"] < 1e-9
    with pytest.raises(ConfigError, match=r"two and more each, got shape \(1, 6\)"):
        spread_of_chips(np.ones((1, 6)))


def test_one_chip_or_one_task_is_a_plain_sample() -> None:
    v = np.random.default_rng(0).random(8)
    assert crossed_interval(v[None]) == interval(v)
    assert crossed_interval(v[:, None]) == interval(v)
    assert crossed_interval([[0.5]]) == {"mean": 0.5, "ci95": None}


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(2, 8), st.integers(0, 999))
def test_crossed_interval_does_not_care_which_side_is_which(chips: int, tasks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.random((chips, tasks))
    result = crossed_interval(table)
    assert crossed_interval(table.T) == pytest.approx(result)
    assert crossed_interval(table[rng.permutation(chips)][:, rng.permutation(tasks)]) == pytest.approx(result)
    assert result["ci95"] >= 0


# ------------------------------------------------------------------------------------------------ error ratio


def test_a_chip_like_its_twin_has_ratio_one() -> None:
    software = np.random.default_rng(0).binomial(25, 0.97, 200) / 25
    result = error_ratio(np.repeat(software[None], 5, axis=0), software, seed=0)
    assert [result[k] for k in ("ratio", "low", "high")] == pytest.approx([1, 1, 1], abs=1e-12)


def test_twice_the_errors_are_ratio_two() -> None:
    software = 1 - np.random.default_rng(0).random(100) * 0.1
    hardware = np.repeat((1 - 2 * (1 - software))[None], 3, axis=0)
    result = error_ratio(hardware, software, seed=0)
    assert [result[k] for k in ("ratio", "low", "high")] == pytest.approx([2, 2, 2], abs=1e-9)


def test_software_without_error_has_no_ratio() -> None:
    assert error_ratio(np.full((3, 10), 0.9), np.ones(10), seed=0) == {"ratio": None, "low": None, "high": None}
    assert error_ratio(np.ones((3, 10)), np.full(10, 0.9), seed=0)["ratio"] == 0


@pytest.mark.filterwarnings("error")
def test_one_wrong_task_leaves_the_ratio_unbounded() -> None:
    """A resample without the one wrong task has no ratio (36 % of them): no upper limit, and no warning."""
    software = np.r_[0.0, np.ones(49)]
    result = error_ratio(np.repeat(software[None], 4, axis=0), software, seed=0)
    assert (result["ratio"], result["high"]) == (1, None)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_seed_names_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    hardware, software = rng.binomial(25, 0.95, (4, 60)) / 25, rng.binomial(25, 0.96, 60) / 25
    one, again, other = (error_ratio(hardware, software, seed=s, resamples=500) for s in (1, 1, 2))
    assert one == again
    assert one["ratio"] == other["ratio"]
    assert one != other


@pytest.mark.slow
def test_error_ratio_covers_as_often_as_it_says() -> None:
    """300 experiments of 20 chips and 150 tasks, hardware at 1.2 times the error: .89 .. .99 alarms falsely under 1e-3.

    Task difficulty is shared by both systems, each chip has its own factor (sd 5 %), answers are binomial.
    """
    rng = np.random.default_rng(3)
    hits, n = 0, 300
    for i in range(n):
        p = rng.beta(0.5, 9.5, 150)  # error of a task: mean 5 %
        chip = 1.2 * (1 + 0.05 * rng.standard_normal((20, 1)))
        hardware = 1 - rng.binomial(25, np.clip(p * chip, 0, 1)) / 25
        result = error_ratio(hardware, 1 - rng.binomial(25, p) / 25, seed=i, resamples=400)
        hits += result["low"] <= 1.2 <= result["high"]
    assert 0.89 <= hits / n <= 0.99


# -------------------------------------------------------------------------------------------------- bad input


def test_wrong_shapes_are_refused() -> None:
    for empty in ([], [[0.1, 0.2]], 0.5):
        with pytest.raises(ConfigError, match="interval needs a list"):
            interval(empty)
    with pytest.raises(ConfigError, match="table, got shape"):
        crossed_interval([0.1, 0.2])
    with pytest.raises(ConfigError, match="do not pair"):
        error_ratio(np.ones((3, 10)), np.ones(9), seed=0)
    with pytest.raises(ConfigError, match="do not pair"):
        error_ratio(np.ones(10), np.ones(10), seed=0)
