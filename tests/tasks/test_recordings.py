"""Recordings: what is read back is what was written, the inverse undoes the kinematics, and faults are named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovonic.models.errors import ConfigError, DataError
from ovonic.tasks.recordings import (
    FAMILY_RMS_OMEGA,
    RecordedMovement,
    inverse_kinematics,
    read_recording,
    recording_batch,
)
from ovonic.tasks.scorbot import SCORBOT, Scorbot, forward_kinematics, within_limits
from ovonic.tasks.trajectories import TrajectoryBatch, TrajectorySpec, integrate, sample_trajectories

H = 0.01
T = 249
Rows = np.ndarray


def smooth(times: np.ndarray) -> np.ndarray:
    """Angles (rad) of a movement that is defined at all times, [N, 2]; it starts at home at t = -10 ms."""
    s = times + H
    return np.stack([0.5 * (1 - np.cos(1.3 * s)), -0.4 * (1 - np.cos(1.9 * s))], -1)


GOOD = smooth(H * np.arange(T))


def write(path: Path, header: str, rows: Any, separator: str = ",") -> Path:
    lines = [separator.join(repr(float(cell)) for cell in row) for row in rows]
    path.write_text("\n".join([header.replace(",", separator), *lines]) + "\n", encoding="utf-8")
    return path


def learnable(
    folder: Path, header: str, rows: Any, dt_ms: float | None = 10.0, spec: TrajectorySpec | None = None, **options: Any
) -> RecordedMovement:
    tolerance = options.pop("tolerance_mm", 5.0)
    recording = read_recording(write(folder / "r.csv", header, rows), dt_ms=dt_ms, **options)
    return recording_batch(recording, spec, tolerance, torch.float64)


@pytest.fixture(scope="module")
def sampled() -> TrajectoryBatch:
    return sample_trajectories(TrajectorySpec(), 11, range(12), torch.float64)


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("what", ["x,y,z", "q1,q2", "mm", "rad"])
def test_a_sampled_movement_comes_back(tmp_path: Path, dtype: torch.dtype, what: str) -> None:
    """Angles to the rounding of what was written; of the code, coordinates farther from a step than that."""
    batch = sample_trajectories(TrajectorySpec(), 5, range(3), dtype)
    rounding = 1e-6 if dtype == torch.float32 else 1e-12
    for index in range(3):
        tip, q = batch.path[index].double().numpy(), batch.angles[index].double().numpy()
        header, rows, options = {
            "x,y,z": ("x,y,z", tip, {}),
            "mm": ("x,y,z", 1e3 * tip, {"unit": "mm"}),
            "q1,q2": ("q1,q2", np.degrees(q), {}),
            "rad": ("q1,q2", q, {"angles": "rad"}),
        }[what]
        recording = read_recording(write(tmp_path / "r.csv", header, rows), dt_ms=10, **options)
        found = recording_batch(recording, batch.spec, dtype=dtype)
        assert (found.interpolated, found.unused) == (False, 0)
        got = found.batch
        assert got.angles.dtype == got.code.dtype == dtype
        assert float((got.angles[0] - batch.angles[index]).abs().max()) < rounding
        assert float((got.omega[0] - batch.omega[index]).abs().max()) < 3 * rounding / H
        assert torch.equal(got.clock[0], batch.clock[index])
        code = batch.spec.code
        level = (batch.path[index].double() - torch.tensor(code.low_m)) / code.resolution_mm * 1e3
        clear = ((level - level.round()).abs() > 1e3 * rounding / code.resolution_mm).repeat_interleave(16, -1)
        assert clear.float().mean() > 0.9
        assert torch.equal(got.code[0][clear], batch.code[index][clear])


def test_the_batch_is_consistent(tmp_path: Path) -> None:
    """As for sampled movements: angles are the summed velocities, the path their kinematics."""
    recording = read_recording(write(tmp_path / "r.csv", "q1,q2", np.degrees(GOOD)), dt_ms=10)
    batch = recording_batch(recording).batch
    assert len(batch) == 1
    angles = integrate(batch.omega.double(), H)
    assert torch.equal(batch.angles, angles.float())
    assert torch.equal(batch.path, forward_kinematics(angles).float())
    assert torch.equal(batch.code, batch.spec.code.encode(batch.path))
    assert batch.consistent.tolist() == [True]
    assert batch.lsg_input.shape == (1, T, 53)
    np.testing.assert_allclose(batch.angles[0], GOOD, atol=2e-7)
    np.testing.assert_allclose(batch.omega[0, 0], GOOD[0] / H, rtol=1e-6)
    np.testing.assert_allclose(batch.omega[0, 1:], np.diff(GOOD, axis=0) / H, atol=1e-6)


@pytest.mark.parametrize(("dt_ms", "most"), [(2.0, 1e-12), (4.0, 2e-6), (1000 / 60, 6e-5), (1000 / 30, 2e-4)])
def test_other_steps_are_interpolated(tmp_path: Path, dt_ms: float, most: float) -> None:
    """Of a smooth movement, in rad; where the samples fall on the grid, exactly."""
    times = 1e-3 * dt_ms * np.arange(math.ceil(2480 / dt_ms) + 4)
    found = learnable(tmp_path, "q1,q2", np.degrees(smooth(times)), dt_ms)
    assert found.interpolated
    assert found.unused == 3
    assert float(np.abs(found.batch.angles[0].numpy() - GOOD).max()) < most
    assert float(np.abs(found.t_s - H * np.arange(T)).max()) < 1e-12


def test_interpolation_stays_between_its_samples(tmp_path: Path) -> None:
    """A movement up to a limit and back, recorded coarsely, does not overshoot it."""
    times = 0.09 * np.arange(29)
    q = np.minimum(times / 1.2, 1) * 70
    q = np.where(times > 1.6, 70 - (times - 1.6) * 40, q)
    found = learnable(tmp_path, "q2,q1", np.stack([q, 0 * q], -1), 90.0)
    angles = found.batch.angles[0].rad2deg()
    assert float(angles[:, 1].max()) == pytest.approx(70, abs=1e-9)
    assert within_limits(found.batch.angles, tolerance_rad=1e-9).all()
    assert float(angles[:, 0].abs().max()) == 0


def test_time_stamps(tmp_path: Path) -> None:
    """From any start, with jitter of a few per cent; what is longer is cut and counted."""
    rng = np.random.default_rng(0)
    times = 7.5 + 0.02 * (np.arange(140) + np.concatenate([[0], rng.uniform(-0.05, 0.05, 139)]))
    rows = np.column_stack([np.degrees(smooth(times - 7.5)), times])
    found = learnable(tmp_path, "q1,q2,t", rows, None)
    assert found.unused == 140 - 1 - int(np.searchsorted(times, 7.5 + 2.48))
    np.testing.assert_allclose(found.t_s, 7.5 + H * np.arange(T))
    np.testing.assert_allclose(found.batch.angles[0], GOOD, atol=6e-5)
    exact = learnable(tmp_path, "t,q1,q2", np.column_stack([H * np.arange(T), np.degrees(GOOD)]), None)
    assert not exact.interpolated
    np.testing.assert_allclose(exact.batch.angles[0], GOOD, atol=1e-13)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_how_files_are_written(tmp_path: Path, encoding: str, newline: str, separator: str) -> None:
    """Comments and blank lines do not count, but lines are counted; columns come in any order and case."""
    text = f"# arm 3\n\nQ2 {separator} q1\n1.5{separator}2\n  # pause\n\n-3e-1{separator} 4.25 \n"
    (tmp_path / "r.csv").write_bytes(text.replace("\n", newline).encode(encoding))
    recording = read_recording(tmp_path / "r.csv", dt_ms=20)
    assert recording.columns == ("q1", "q2")
    assert recording.lines == (4, 7)
    np.testing.assert_allclose(np.degrees(recording.values), [[2, 1.5], [4.25, -0.3]])
    assert recording.t_s.tolist() == [0, 0.02]


# ------------------------------------------------------------------------------------------------ inverse


@settings(max_examples=200, deadline=None)
@given(st.floats(-130, 130), st.floats(-70, 70))
def test_the_inverse_undoes_the_kinematics(base: float, shoulder: float) -> None:
    q = torch.tensor([base, shoulder], dtype=torch.float64).deg2rad()
    found = inverse_kinematics(forward_kinematics(q))
    assert float((found - q).abs().max()) < 1e-13
    assert float((forward_kinematics(found) - forward_kinematics(q)).abs().max()) < 1e-13


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(0.05, 0.5)] * 4), st.tuples(*[st.floats(-0.1, 0.1)] * 2), st.integers(0, 2**31))
def test_the_inverse_of_any_arm(a: tuple, d: tuple, seed: int) -> None:
    arm = Scorbot(*a, 0.4, *d)
    q = (torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5) * 2
    q = q * torch.tensor([math.pi, math.radians(85)])
    tip = forward_kinematics(q, arm)
    reached = forward_kinematics(inverse_kinematics(tip, arm), arm)
    assert float((reached - tip).abs().max()) < 1e-9


def test_tips_beside_the_surface_move_to_their_nearest_point(sampled: TrajectoryBatch, tmp_path: Path) -> None:
    """Against a search over all angles; a tolerance of 5 mm takes 4 mm of error outwards, and says so."""
    tip = sampled.path[0].numpy()
    outwards = tip - np.array([0, 0, SCORBOT.d1])
    away = tip + 4e-3 * outwards / np.linalg.norm(outwards, axis=1, keepdims=True)
    found = learnable(tmp_path, "x,y,z", away)
    assert found.moved_mm == pytest.approx(4, rel=0.01)
    offset = np.arange(-0.02, 0.02, 5e-4)
    for k in (0, 100, 248):
        q = found.batch.angles[0, k].numpy() + np.stack(np.meshgrid(offset, offset), -1)
        distance = np.linalg.norm(forward_kinematics(torch.from_numpy(q)).numpy() - away[k], axis=-1)
        got = np.linalg.norm(found.batch.path[0, k].numpy() - away[k])
        assert got <= distance.min() * 1.01


# ------------------------------------------------------------------------------------------------ refusals

QUICK = GOOD.copy()
QUICK[100:] += 0.04
OUTSIDE = np.stack([np.linspace(0, 140, T), np.zeros(T)], -1)
TIP = forward_kinematics(torch.from_numpy(GOOD)).numpy()


def _changed(rows: Rows, index: Any, value: Any) -> Rows:
    rows = rows.copy()
    rows[index] = value
    return rows


def _stamped(*dropped: int) -> Rows:
    return np.delete(np.column_stack([H * np.arange(T + 9), np.degrees(smooth(H * np.arange(T + 9)))]), dropped, 0)


@pytest.mark.parametrize(
    ("header", "rows", "dt_ms", "message"),
    [
        ("x,y,z", TIP[:200], 10, r"r\.csv: ends with sample 199 after 1.99 s; a movement needs 249 samples, 10 ms ap"),
        ("x,y,z", TIP, 9, r"ends with sample 248 after 2.232 s; .* 249 samples, 10 ms apart, 2.48 s"),
        ("q1,q2", np.zeros((9, 2)), 500, r"r\.csv: samples 500 ms apart \(t is in s\): at most 100 ms"),
        ("t,q1,q2", _stamped(60), None, r"sample 60 \(line 62\): 20 ms after the one before, .* median step is 10 ms"),
        (
            "t,q1,q2",
            _changed(_stamped(), (60, 0), 0.59),
            None,
            r"sample 60 \(line 62\): t = 0.59 s does not come after",
        ),
        ("t,q1,q2", _changed(_stamped(), (60, 0), 0.2), None, r"sample 60 \(line 62\): t = 0.2 s does not come after"),
        ("x,y,z", _changed(TIP, (30, 1), math.nan), 10, r"sample 30 \(line 32\): column y holds 'nan', no number"),
        ("x,y,z", _changed(TIP, (30, 2), -math.inf), 10, r"sample 30 \(line 32\): column z holds '-inf'"),
        (
            "q1,q2",
            OUTSIDE,
            10,
            r"sample 231 \(line 233\): the base is at 130.403 degrees from home, its limits are -130",
        ),
        ("q2,q1", OUTSIDE, 10, r"sample 125 \(line 127\): the shoulder is at 70.56\d+ degrees from home"),
        (
            "q1,q2",
            np.degrees(GOOD) + 5,
            10,
            r"sample 0 \(line 2\): the base is 5.002 degrees from home; .*\(0.9200, -0",
        ),
        (
            "q1,q2",
            np.degrees(QUICK),
            10,
            r"sample 100 \(line 102\): the base turns to it at 4.\d+ rad/s, at most 3.142",
        ),
        (
            "x,y,z",
            _changed(TIP, (30, 2), 2.0),
            10,
            r"sample 30 \(line 32\): the tip at \(.*2.0000\) m is 986.6 mm from the",
        ),
        ("x,y,z", TIP * 1.01, 10, r"sample 0 \(line 2\): the tip at \(0.92.*\) m is [89].\d+ mm .* tolerance is 5 mm"),
        ("x,y,z", TIP * 1000, 10, r"sample 0 .* are these mm\?"),
        ("q1,q2,q3", np.zeros((T, 3)), 10, r"columns 'q1', 'q2', 'q3': expected a header with x, y, z \(or q1, q2\)"),
        ("x,y,z,q1,q2", np.zeros((T, 5)), 10, r"columns .*: expected a header"),
        ("x,y", np.zeros((T, 2)), 10, r"columns 'x', 'y': expected"),
        ("x,x,y,z", np.zeros((T, 4)), 10, r"columns 'x', 'x'"),
        ("time,q1,q2", np.zeros((T, 3)), None, r"columns 'time'.*, and t where"),
        ("1.0,2.0,3.0", np.zeros((T, 3)), 10, r"columns '1.0', '2.0', '3.0': expected a header"),
        ("q1,q2", np.zeros((0, 2)), 10, r"holds a header and no samples"),
        ("q1,q2", np.zeros((1, 2)), 10, r"ends with sample 0 after 0 s"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    tmp_path: Path, header: str, rows: Rows, dt_ms: float | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        learnable(tmp_path, header, rows, dt_ms)


def test_a_tip_behind_the_base_names_the_joint_and_the_nearest_point(tmp_path: Path) -> None:
    """Turned to 170 degrees, the nearest point is that at 130: 2 * .92 m * sin(20 degrees) away."""
    behind = forward_kinematics(torch.tensor([170.0, 0.0]).double().deg2rad()).numpy()
    with pytest.raises(DataError, match=r"the base is at 170 degrees from home, its limits are -130 and 130") as caught:
        learnable(tmp_path, "x,y,z", _changed(TIP, 30, behind))
    chord = 2e3 * math.hypot(0.92, 0.033) * math.sin(math.radians(20))
    assert f"is {chord:.4g} mm from the nearest" in str(caught.value)
    nearest = forward_kinematics(torch.tensor([130.0, 0.0]).double().deg2rad()).tolist()
    assert "({:.4f}, {:.4f}, {:.4f}) m (the base".format(*nearest) in str(caught.value)


def test_a_tip_past_a_limit_by_less_than_the_tolerance_is_moved(tmp_path: Path) -> None:
    q = np.stack([np.linspace(0, 130.2, T), np.zeros(T)], -1)
    tips = forward_kinematics(torch.from_numpy(np.radians(q))).numpy()
    found = learnable(tmp_path, "x,y,z", tips)
    assert found.moved_mm == pytest.approx(920.6 * math.radians(0.2), rel=1e-3)
    assert within_limits(found.batch.angles, tolerance_rad=1e-9).all()
    with pytest.raises(DataError, match=r"sample 248 .* is 3.\d+ mm from"):
        learnable(tmp_path, "x,y,z", tips, tolerance_mm=3.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "r.csv: empty; expected a header with x, y, z"),
        (b"q1,q2\n1,2\n3\n", r"sample 1 \(line 3\): 1 cells where the header has 2"),
        (b"q1,q2\n1,2\n3,4,5\n", r"sample 1 \(line 3\): 3 cells"),
        (b"q1,q2\n1,\n", r"sample 0 \(line 2\): column q2 is empty"),
        (b"q1,q2\n1,1_0\n", r"column q2 holds '1_0', no number"),
        (b"q1,q2\n1,1e200\n", r"column q2 holds '1e200', no number"),
        (b"q1;q2\n1;0,5\n", r"column q2 holds '0,5', no number"),
        (b"q1\tq2\n1\t2\n", r"columns 'q1\\tq2'"),
        (b'q1,q2\n1,"2\n', r"no CSV file"),
        (b"q1,q2\n1,\xff\n", r"no CSV file in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"no CSV file in UTF-8|columns"),
    ],
)
def test_strange_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_recording(tmp_path / "r.csv", dt_ms=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: read_recording(path), r"has no column t: give the time step dt_ms, 10"),
        (lambda path: read_recording(path, dt_ms=0), r"time step 0 ms: must be positive"),
        (lambda path: read_recording(path, dt_ms=10, unit="cm"), r"unit 'cm': positions are in m or mm"),
        (lambda path: read_recording(path, dt_ms=10, angles="grad"), r"angles 'grad': choose deg or rad"),
        (lambda path: recording_batch(read_recording(path, dt_ms=10), tolerance_mm=math.nan), r"tolerance nan mm"),
        (
            lambda path: recording_batch(read_recording(path, dt_ms=10), replace(TrajectorySpec(), joints=3)),
            r"x, y, z leave the angles of 3 joints open",
        ),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, call: Callable[[Path], object], message: str) -> None:
    path = write(tmp_path / "r.csv", "x,y,z", TIP)
    with pytest.raises(ConfigError, match=message):
        call(path)


def test_times_are_given_once(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "t,q1,q2", _stamped())
    with pytest.raises(ConfigError, match="has a column t: leave the time step out"):
        read_recording(path, dt_ms=10)


def test_three_joints_need_their_angles(tmp_path: Path) -> None:
    q = np.column_stack([GOOD, 0.1 * GOOD[:, 0]])
    recording = read_recording(write(tmp_path / "r.csv", "q1,q2,q3", np.degrees(q)), joints=3, dt_ms=10)
    batch = recording_batch(recording, replace(TrajectorySpec(), joints=3)).batch
    assert batch.omega.shape == (1, T, 3)
    np.testing.assert_allclose(batch.angles[0], q, atol=3e-7)


def test_the_bounds_of_the_family() -> None:
    batch = sample_trajectories(TrajectorySpec(), 0, range(1000))
    rms = batch.omega.square().mean((1, 2)).sqrt()
    assert (round(float(rms.min()), 3), round(float(rms.max()), 3)) == FAMILY_RMS_OMEGA
