"""Closed-form counts of the two experiments, by hand and against what simulated trials count."""

import pytest

from ovonic.models.accounting import Counts, estimate
from ovonic.models.errors import ConfigError
from ovonic.models.experiment_counts import (
    LSG_LOADS,
    TRAINEE_LOADS,
    Load,
    cnn_loads,
    fewshot_counts,
    fewshot_twin_counts,
    inference_counts,
    matrix_load,
    programming_counts,
    robot_counts,
    robot_twin_counts,
    twin_counts,
)

POSITIONS = 196 + 2 * (49 + 16 + 4)
"""MVMs of one image in the convolutions: positions, times two arrays where 504 rows are split."""


def test_a_fewshot_task_by_hand() -> None:
    made = fewshot_counts(cnn_loads(4), supports=25, queries=75, updates=4, devices_per_update=100)
    learning, queries = made["adaptation"], made["inference"]
    assert learning.mvms == 25 * POSITIONS + 4 * 25
    assert learning.phases == 25 * (196 * 2 + 2 * 69 * 4) + 4 * 25 * 4
    assert learning.serial_mvms == 25 * (196 + 69) + 4 * 25
    assert learning.devices_programmed == 400
    assert learning.macs == 4 * 25 * 280
    assert queries.mvms == 75 * (POSITIONS + 1)
    assert queries.devices_programmed == 0
    assert made["deployment"].devices_programmed == 4 * (9 * 56 + 3 * 504 * 56 + 280)


def test_a_fewshot_task_in_the_twin_by_hand() -> None:
    image = 56 * (9 * 196 + 504 * 69)
    made = fewshot_twin_counts(supports=25, queries=10, updates=4)
    assert made["adaptation"].macs == 25 * image + 2 * 4 * 25 * 280
    assert made["inference"].macs == 10 * (image + 280)
    assert made["adaptation"].mvms == made["adaptation"].devices_programmed == 0


def test_a_lesson_by_hand() -> None:
    made = robot_counts(devices_programmed=1000)
    assert made["inference"].mvms == made["inference"].phases == 250
    assert made["adaptation"].mvms == 250 + 250 * 20
    assert made["adaptation"].serial_mvms == 250
    assert made["adaptation"].macs == 249 * 250 * 255
    assert made["adaptation"].devices_programmed == 1000
    assert made["deployment"].devices_programmed == 4 * (64_250 + 853 * 800 + 800 * 250)


def test_where_the_learning_signal_generator_runs() -> None:
    places = {place: robot_counts(lsg=place)["adaptation"] for place in ("crossbar", "digital", "elsewhere")}
    assert places["digital"].mvms == places["elsewhere"].mvms == 250
    lsg = 882_400 * 249 * 0.02
    assert places["digital"].macs - places["elsewhere"].macs == pytest.approx(lsg)
    assert places["crossbar"].macs == places["elsewhere"].macs
    one_by_one = robot_counts(parallel=False)["adaptation"]
    assert one_by_one.serial_mvms == 250 * (1 + 2)
    assert estimate(one_by_one).energy_j == pytest.approx(estimate(places["crossbar"]).energy_j)
    assert estimate(one_by_one).latency_s.typical > estimate(places["crossbar"]).latency_s.typical


def test_more_updates_repeat_the_lesson() -> None:
    one, three = robot_counts()["adaptation"], robot_counts(updates=3, trials=4)["adaptation"]
    assert estimate(three).energy_j == pytest.approx(estimate(one * 3).energy_j)


def test_a_twin_that_skips_silent_rows_computes_in_proportion() -> None:
    dense, sparse = (robot_twin_counts(activity=a)["inference"] for a in (1.0, 0.02))
    assert dense.macs == 249 * 64_250
    assert sparse.macs == pytest.approx(0.02 * dense.macs)
    assert sparse.elements == dense.elements


def test_matrices_over_arrays() -> None:
    assert [load.mvms for load in LSG_LOADS] == [16, 4]
    assert [load.mvms for load in TRAINEE_LOADS] == [1]
    load = matrix_load("wide", 257, 10, side=256, phases=2)
    assert (load.mvms, load.in_sequence, load.conversions, load.outputs) == (2, 1, 20, 10)
    counts = inference_counts([load], 3)
    assert (counts.mvms, counts.phases, counts.serial_mvms, counts.elements) == (6, 12, 3, 60)
    assert twin_counts([load], 3).macs == 3 * 2570
    assert programming_counts([load]) == Counts(devices_programmed=4 * 2570)


def test_what_makes_no_sense_is_refused() -> None:
    for bad in ({"weights": 0}, {"phases": 5}, {"mvms": 1, "in_sequence": 2}, {"phases": 0}):
        with pytest.raises(ConfigError, match="odd"):
            Load("odd", **{"weights": 4, "outputs": 2} | bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"activity 1\.5"):
        twin_counts(TRAINEE_LOADS, activity=1.5)
    with pytest.raises(ConfigError, match="did you mean 'crossbar'"):
        robot_counts(lsg="crosbar")
    with pytest.raises(ConfigError, match="the last trial tests"):
        robot_counts(updates=2)
