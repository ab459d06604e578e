"""``ovonic robot adapt`` as a user meets it: a recording in, velocities and the path out; what wrong input prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from ovonic import __main__ as cli
from ovonic.adapters.weights_robot import save_robot
from ovonic.commands.robot_adapt import _leaves_limits, adapt
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.tasks.robot import movement_errors, resolve_robot, spec_for
from ovonic.tasks.scorbot import forward_kinematics
from ovonic.tasks.trajectories import TrajectoryBatch, integrate, sample_trajectories

SMALL = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10)
CODE = {"low_m": [-1.0, -1.0, -0.6415], "span_m": 2.0, "bits": 16, "wraps": False}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command line as ``ovonic`` does, errors and all."""
    app, robot = typer.Typer(cls=cli._Group), typer.Typer()
    robot.command("adapt")(adapt)
    robot.callback()(lambda: None)
    app.add_typer(robot, name="robot")
    monkeypatch.setattr(cli, "app", app)
    return lambda line, **places: cli.main(shlex.split(line.format(**places)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained small robot whose updates are coarse enough to change its output."""
    path = tmp_path_factory.mktemp("weights") / "robot.safetensors"
    save_robot(path, SMALL, initial_pair(SMALL, 1), InnerLoop(rate=3e-3), CODE, {})
    return path


@pytest.fixture(scope="module")
def movement(weights: Path) -> TrajectoryBatch:
    return sample_trajectories(spec_for(resolve_robot(weights)), 3, [4])


@pytest.fixture
def recording(movement: TrajectoryBatch, tmp_path: Path) -> Path:
    path = tmp_path / "recording.csv"
    np.savetxt(path, movement.angles[0].double().rad2deg(), "%.9g", ",", header="q1,q2", comments="")
    return path


LINE = "robot adapt {csv} -w {w} --dt-ms 10 -o {out} --json {json} --quiet"


def _table(path: Path) -> dict[str, np.ndarray]:
    names = path.read_text().splitlines()[0].split(",")
    return dict(zip(names, np.loadtxt(path, delimiter=",", skiprows=1).T, strict=True))


def _columns(table: dict[str, np.ndarray], *names: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([table[name] for name in names], -1))


def test_velocities_and_path_come_out(
    run: Callable[..., int],
    weights: Path,
    movement: TrajectoryBatch,
    recording: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The table is the lesson's, taken step by step; the JSON's errors are those of the table."""
    out, file = tmp_path / "learned.csv", tmp_path / "r.json"
    assert run(LINE, csv=recording, w=weights, out=out, json=file) == 0
    printed = capsys.readouterr()
    assert "taken as 249 samples, 10 ms apart" in printed.out
    assert str(out) in printed.out
    table = _table(out)
    shown = ["omega1", "omega2", "q1_deg", "q2_deg", "x_m", "y_m", "z_m"]
    assert list(table) == ["t_s", *(prefix + name for prefix in ("", "target_", "before_") for name in shown)]
    np.testing.assert_allclose(table["t_s"], 0.01 * np.arange(249), atol=1e-12)

    robot = resolve_robot(weights)
    with torch.no_grad():
        lesson = robot.module()(movement.clock, movement.lsg_input, robot.inner)
    for prefix, omega in (("target_", movement.omega), ("before_", lesson.before)):
        np.testing.assert_allclose(_columns(table, f"{prefix}omega1", f"{prefix}omega2"), omega[0], atol=1e-4)
    for prefix in ("", "target_", "before_"):
        omega = _columns(table, f"{prefix}omega1", f"{prefix}omega2")
        angles = integrate(omega, 0.01)
        np.testing.assert_allclose(_columns(table, f"{prefix}q1_deg", f"{prefix}q2_deg"), angles.rad2deg(), atol=1e-5)
        tip = _columns(table, *(f"{prefix}{axis}_m" for axis in "xyz"))
        np.testing.assert_allclose(tip, forward_kinematics(angles), atol=1e-7)
    assert not np.allclose(table["omega1"], table["before_omega1"])

    r: dict[str, Any] = json.loads(file.read_text())
    assert r["schema"] == "ovonic/robot-adapt/1"
    for when, prefix in (("before", "before_"), ("after", "")):
        errors = movement_errors(_columns(table, f"{prefix}omega1", f"{prefix}omega2")[None], movement)
        for name in ("mse_omega", "mse_xyz", "tip_rmse_mm", "loss"):
            assert r[name][when] == pytest.approx(float(getattr(errors, name)), rel=1e-3)
    assert 0 < r["update"]["W_in"] <= 1
    assert 0 < r["update"]["W_rec"] <= 1
    assert r["movement"]["unused_samples"] == 0
    assert r["config"]["weights"]["sha256"]
    assert r["config"]["inner"] == {"rate": 3e-3, "step": 0.0625, "rounding": "nearest", "updates": 1}
    assert {"ovonic", "torch", "numpy", "scipy"} <= r["versions"].keys()


def test_how_the_lesson_goes_can_be_chosen(
    run: Callable[..., int], weights: Path, recording: Path, tmp_path: Path
) -> None:
    def learned(options: str) -> bytes:
        out = tmp_path / "o.csv"
        assert run(LINE + options, csv=recording, w=weights, out=out, json=tmp_path / "r.json") == 0
        return out.read_bytes()

    plain = learned("")
    assert learned("") == plain
    assert learned(" --quantise 1/16 --seed 9") == plain
    assert learned(" --quantise none") != plain
    assert learned(" --updates 2") != plain
    stochastic = learned(" --rounding stochastic --seed 9")
    assert learned(" --rounding stochastic --seed 9") == stochastic != learned(" --rounding stochastic --seed 8")


def test_tips_with_their_own_times(
    run: Callable[..., int],
    weights: Path,
    movement: TrajectoryBatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In mm, every 5 ms from 3 s on, too long: what is cut and interpolated is said."""
    angles = movement.angles[0].double().numpy()
    fine = np.stack([np.interp(np.arange(0, 248.5, 0.5), np.arange(249), q) for q in angles.T], -1)
    fine = np.concatenate([fine, np.repeat(fine[-1:], 7, 0)])
    tips = 1e3 * forward_kinematics(torch.from_numpy(fine)).numpy()
    csv = tmp_path / "tips.csv"
    rows = np.column_stack([3 + 0.005 * np.arange(len(tips)), tips])
    np.savetxt(csv, rows, "%.9g", ";", header="t;x;y;z", comments="")
    line = "robot adapt {csv} -w {w} -o {out} --unit mm --json {json}"
    assert run(line, csv=csv, w=weights, out=tmp_path / "o.csv", json=tmp_path / "r.json") == 0
    printed = capsys.readouterr().out
    assert "interpolated to 249 samples" in printed
    assert "not used: its last 7 samples, after t = 5.48 s" in printed
    movement_of = json.loads((tmp_path / "r.json").read_text())["movement"]
    assert movement_of["unused_samples"] == 7
    assert movement_of["tip_moved_mm"] < 1e-3
    table = _table(tmp_path / "o.csv")
    assert (table["t_s"][0], table["t_s"][-1]) == (3, 5.48)
    np.testing.assert_allclose(_columns(table, "target_q1_deg", "target_q2_deg"), np.degrees(angles), atol=1e-4)


def test_a_movement_unlike_the_family_is_warned_of(
    run: Callable[..., int], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "still.csv").write_text("q1,q2\n" + "0,0\n" * 249)
    line = "robot adapt {csv} -w {w} --dt-ms 10 -o {out} --json -"
    assert run(line, csv=tmp_path / "still.csv", w=weights, out=tmp_path / "o.csv") == 0
    printed = capsys.readouterr()
    assert "warning: its RMS angular velocity is 0 rad/s" in printed.err
    assert json.loads(printed.out)["movement"]["rms_omega"] == 0


def test_where_a_learned_movement_leaves_the_limits(movement: TrajectoryBatch) -> None:
    """At 1.5 rad/s the shoulder passes 70 degrees in the 82nd step."""
    assert _leaves_limits(movement.omega, movement) is None
    assert _leaves_limits(torch.full((1, 249, 2), 1.5), movement) == 81


@pytest.mark.slow
def test_figures(run: Callable[..., int], weights: Path, recording: Path, tmp_path: Path) -> None:
    line = LINE + " --figures {figures}"
    assert run(line, csv=recording, w=weights, out=tmp_path / "o", json=tmp_path / "r", figures=tmp_path / "f") == 0
    assert {"path.png", "rasters.png", "signals.png", "arm.png"} <= {file.name for file in (tmp_path / "f").iterdir()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{csv} -w {w}", "recording.csv: has no column t: give the time step dt_ms, 10 for"),
        ("{csv} -w {w} --dt-ms 5", "recording.csv: ends with sample 248 after 1.24 s; a movement needs 249 samples"),
        ("{csv} -w {w} --dt-ms 10 --angles rad", "recording.csv: sample"),
        ("{csv} -w {w} --dt-ms 10 --angles degrees", "angles 'degrees': choose deg or rad"),
        ("{csv} -w {w} --dt-ms 10 --quantise x", "--quantise x: give a step such as 0.0625 or 1/16, or none"),
        ("{csv} -w {w} --dt-ms 10 --quantise none --rounding nearest", "--rounding nearest: "),
        ("{csv} -w {w} --dt-ms 10 -o {csv}", "this is the recording itself"),
        ("{csv} -w robot-q17 --dt-ms 10", "robot-q17: neither a file nor shipped weights"),
        ("{csv}x -w {w} --dt-ms 10", "recording.csvx: No such file or directory"),
    ],
)
def test_wrong_input_is_one_line(
    run: Callable[..., int],
    weights: Path,
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = recording.read_bytes()
    assert run(f"robot adapt {options}", csv=recording, w=weights) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert recording.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["recording.csv"]
