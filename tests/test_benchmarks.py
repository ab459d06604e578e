"""The benchmarks' contenders agree, their floor is what it says, and the harness does what it says. Never times."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ovonic.validation.figure_style import caption

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a benchmark as its command does: with its folder on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def robot(load: Any) -> ModuleType:
    return load("robot_meta_step")


def test_contenders_of_the_fewshot_step_agree(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fewshot = load("fewshot_meta_step")
    monkeypatch.setattr(fewshot, "TASKS", 2)
    names = [name for name in fewshot.CONTENDERS if name != "higher"]  # takes seconds to import
    in64, in32 = fewshot.checks(names, *fewshot.setting(0, tasks=2))
    assert set(in64) == set(names) - {"convolutions"}
    assert max(in64.values()) < fewshot.TOLERANCE
    assert 0 < max(in32.values()) < 0.05


def test_contenders_of_the_robot_step_agree(robot: ModuleType) -> None:
    found = robot.checks()
    assert set(found) == set(robot.CONTENDERS)
    assert max(found.values()) < robot.TOLERANCE


def test_another_rule_is_seen(robot: ModuleType, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load("robot_peers"), "RATE", 1.01e-4)
    assert robot.checks()["plain"] > 1e-5


def test_the_floor_is_the_products_of_the_plain_loop(robot: ModuleType) -> None:
    """Counted by torch, not by us. The loop also multiplies in the first and in the last step, where nothing comes."""
    here = robot.setting(2, "initial", config=robot.SMALL)
    counts = []
    for step in robot.steps_of(["plain", "floor"], here).values():
        with FlopCounterMode(display=False) as counter:
            step()
        counts.append(counter.get_total_flops())
    assert counts[1] == pytest.approx(counts[0], rel=0.002)


def test_settings(robot: ModuleType) -> None:
    trained, initial = (robot.activity(robot.setting(2, rates)) for rates in ("trained", "initial"))
    assert 7 < trained["lsg_hz"] < 13 < 40 < initial["lsg_hz"]
    assert 15 < trained["trainee_hz"] < 25 < 35 < initial["trainee_hz"]
    assert trained["lsg_slope_share"] < initial["lsg_slope_share"] < 0.2
    for steps in (100, 600):
        _, task, _ = robot.setting(2, "trained", config=robot.SMALL, steps=steps)
        assert {x.shape[1] for x in task[:4]} == {steps}


def test_verdicts_can_be_missed(robot: ModuleType) -> None:
    def measured(of_plain: float, of_floor: float, mib: float) -> dict[str, Any]:
        ours = {"cpu_ratio_to_plain": {"median": of_plain}, "peak_mib": mib}
        ours |= {f"cpu_ratio_to_{of}": {"median": of_floor} for of in ("floor", "lsg_floor")}
        return {"ours": ours, "plain": {"cpu_ratio_to_floor": {"median": 2 * of_floor}}}

    assert all(line.startswith("reached") for line in robot.verdicts(measured(0.3, 1.5, 1900)))
    assert all(line.startswith("MISSED") for line in robot.verdicts(measured(0.4, 1.8, 1910)))


def test_the_figure_of_costs(robot: ModuleType) -> None:
    cost = {"median": 1.0, "min": 0.9, "max": 1.2}
    points = {n: dict.fromkeys(("ours", "plain", "floor"), cost) for n in (100, 200)}
    figure = robot.cost_figure({"LSG neurons": points, "batch": points}, "1 thread")
    assert [ax.get_xlabel() for ax in figure.axes] == ["LSG neurons", "batch"]
    assert all(ax.get_xscale() == ax.get_yscale() == "log" and len(ax.lines) == 3 for ax in figure.axes)
    assert caption(figure).endswith("1 thread.")


def test_rounds_rotate_after_a_warm_up(load: Any) -> None:
    harness, seen = load("harness"), []
    steps = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    times = harness.race(steps, 3, lambda: seen.append("-"))
    assert "".join(seen).replace("-", "") == "cab" + "abc" + "bca" + "cab"
    assert seen[::2] == ["-"] * 12
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_round_by_round(load: Any) -> None:
    times = {"ours": [(1.0, 5.0), (4.0, 5.0), (3.0, 5.0)], "plain": [(2.0, 5.0), (4.0, 5.0), (1.0, 5.0)]}
    assert load("harness").ratio(times, "ours", "plain") == {"median": 1.0, "min": 0.5, "max": 3.0}


def test_a_gradient_that_is_zero_compares_nothing(load: Any) -> None:
    harness, one = load("harness"), torch.ones(2)
    assert harness.differences([one, one * 3], [one, one * 2]) == 0.5
    assert harness.differences([one, one * 0], [one, one * 0]) == math.inf
