"""The robot part of ``ovonic reproduce`` at a tiny size: its figures are those of the commands that it names."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from ovonic.__main__ import main
from ovonic.adapters.weights_robot import save_robot
from ovonic.models.errors import WeightsError
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.tasks.trajectories import CoordinateCode
from ovonic.validation.report import write_report
from ovonic.validation.robot_reproduction import PUBLISHED, ROBOT_THRESHOLDS, RUNS, RobotRun, _median, robot_part

from .report_commands import check_commands

SEED = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RobotRun]:
    """Two small robots; the one that is not rounded has another size."""
    folder = tmp_path_factory.mktemp("small robots")
    found = {}
    for name, lif, inner in (("float", 15, InnerLoop(1e-3, None)), ("q16", 20, InnerLoop(1e-3))):
        config = NaturalEPropConfig(trainee=20, lsg_lif=lif, lsg_alif=10)
        code = dataclasses.asdict(CoordinateCode())
        save_robot(folder / name, config, initial_pair(config, 1), inner, code, {"seed": 5})
        found[name] = RobotRun(str(folder / name), 5)
    return found


@pytest.fixture(scope="module")
def out(runs: dict[str, RobotRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report."""
    folder = tmp_path_factory.mktemp("out")
    part, done = robot_part(SEED, runs=runs), list[int]()
    measured = part.measure(folder, done.append)
    assert sum(done) == part.steps == 10
    assert measured.files == ("robot-lesson.gif",)
    check_commands(measured.section)
    write_report(folder, [measured.section], {"robot": measured.figures, "config": {"robot": measured.config}})
    return folder


@pytest.fixture
def result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def alone(command: str, folder: Path) -> dict[str, Any]:
    """What a command that the report names measures."""
    assert main([*shlex.split(command)[1:], "--quiet", "--json", str(folder / "r.json")]) == 0
    measured: dict[str, Any] = json.loads((folder / "r.json").read_text())
    return measured


@pytest.mark.parametrize("name", ["float", "q16"])
def test_each_network_is_as_its_command_measures_it(
    name: str, runs: dict[str, RobotRun], result: dict[str, Any], tmp_path: Path
) -> None:
    measured = alone(runs[name].command(SEED), tmp_path)
    assert result["robot"][name] == {key: measured[key] for key in result["robot"][name]}
    assert result["robot"][name].keys() == measured.keys() - {"schema", "versions", "config"}
    assert result["config"]["robot"]["inner"][name] == measured["config"]["inner"]
    assert result["config"]["robot"]["weights"][runs[name].weights] == measured["config"]["weights"]


def test_the_pairing_is_as_its_command_measures_it(
    runs: dict[str, RobotRun], out: Path, result: dict[str, Any], tmp_path: Path
) -> None:
    command = f"{runs['q16'].command(SEED)} --against {shlex.quote(runs['float'].weights)}"
    assert command in html.unescape((out / "report.html").read_text())
    assert alone(command, tmp_path)["paired"] == result["robot"]["paired"]


def test_every_claim_is_of_a_threshold_and_of_what_was_measured(out: Path, result: dict[str, Any]) -> None:
    robot, page = result["robot"], html.unescape((out / "report.html").read_text())
    claims = {claim["path"]: claim for claim in result["claims"]}
    assert len(claims) == len(result["claims"]) == 6
    for name in ("float", "q16"):
        ratio = robot["control_ratio"][name]
        for path, measured, limit in (
            (f"robot/{name}/loss/mean", robot[name]["loss"]["mean"], f"{name}_loss"),
            (
                f"robot/tip_median_mm/{name}/median",
                robot[name]["tip_rmse_mm"]["after"]["median"],
                f"{name}_tip_median_mm",
            ),
            (
                f"robot/control_ratio/{name}/least",
                min(ratio[control]["low"] for control in ("no_update", "random", "shuffled")),
                "control_ratio",
            ),
        ):
            claim = claims[path]
            assert (claim["measured"], claim["threshold"]) == (measured, ROBOT_THRESHOLDS[limit])
            assert claim["relation"] == (">=" if limit == "control_ratio" else "<=")
            assert claim["held"] is False  # the networks know nothing
            assert claim["name"] in page
        for control in ("no_update", "random", "shuffled"):
            means = robot[name]["controls"][control]["loss"]["mean"], robot[name]["loss"]["mean"]
            assert ratio[control]["ratio"] == pytest.approx(means[0] / means[1])


def test_the_published_figures_are_cited_and_nowhere_measured(out: Path, result: dict[str, Any]) -> None:
    assert "published" not in json.dumps(result["robot"])
    assert not [claim for claim in result["claims"] if "published" in claim["path"]]
    assert result["config"]["robot"]["published"] == PUBLISHED
    page = (out / "report.html").read_text()
    assert PUBLISHED["command"] in html.unescape(page)
    cited = set(re.findall(r'data-path="(config/[^"]*)"', page))
    assert {path.split("/")[2] for path in cited} == {"published"}


def test_every_figure_stands_with_its_command_and_the_animation_beside(
    runs: dict[str, RobotRun], out: Path, result: dict[str, Any]
) -> None:
    assert sorted(file.name for file in out.iterdir()) == ["report.html", "report.json", "robot-lesson.gif"]
    assert (out / "robot-lesson.gif").read_bytes().startswith(b"GIF8")
    page = html.unescape((out / "report.html").read_text())
    commands = re.findall("This figure alone: <code>(.*?)</code>", page)
    each = {name: f"{run.command(SEED)} --figures figures" for name, run in runs.items()}
    assert commands == [f"ovonic reproduce --only robot --seed {SEED}", *4 * [each["q16"]], each["float"]]
    (index,) = set(
        re.findall(rf"q16, update rounded to 1/16; movement (\d) of seed {SEED}, the one of median loss", page)
    )
    assert 0 <= int(index) < 5


def test_weights_that_are_missing_are_named_before_anything_runs() -> None:
    with pytest.raises(WeightsError, match="robot-q17"):
        robot_part(0, runs=RUNS | {"float": RobotRun("robot-q17")})


def test_the_interval_of_a_median() -> None:
    """Order statistics of textbooks: 2 and 9 of 10; never less likely than 95 %, save of the fewest values."""
    assert _median(range(10, 0, -1)) == {"median": 5.5, "low": 2.0, "high": 9.0}
    assert _median([3.0, 1.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    for n in range(6, 300):
        interval = _median(range(1, n + 1))
        rank = int(interval["low"])
        assert interval["high"] == n + 1 - rank
        assert 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5) >= 0.95 > 1 - 2 * stats.binom.cdf(rank, n, 0.5)
