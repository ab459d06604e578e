"""A movement that a user recorded: CSV -> the same kind of batch as the sampled movements.

A file has a header and one sample a row, separated by commas or semicolons:

    x, y, z       position of the tip, m or mm, or
    q1, q2, ..    angles of the moving joints from home, degrees or rad,
    t             if it is there, time of the sample, s; otherwise the samples stand a given step apart.

Blank lines and lines that start with # do not count. A movement has T samples h apart (249, 10 ms of the arm's time),
and the arm starts at home, one step before the first sample:

    omega[0] = q[0] / h,   omega[k] = (q[k] - q[k-1]) / h,   angles[k] = h (omega[0] + .. + omega[k]).

Samples that already stand h apart are taken as they are. Others are interpolated joint by joint with a piecewise cubic
that keeps their shape (PCHIP): velocities are continuous, no angle leaves the range of its two neighbours and so none
its limits, and nothing is extrapolated. (Of sampled movements recorded at 50 or 25 Hz it errs by up to .006 or .018
rad/s; a spline by less, but it overshoots.) A tip that is not on the surface which the two joints reach within their
limits is moved to its nearest point there, if that is within a tolerance. What cannot be learned is refused, with the
sample named.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares
from torch import Tensor

from ovonic.models.errors import ConfigError, DataError
from ovonic.tasks.scorbot import JOINTS, SCORBOT, Scorbot, forward_kinematics, joint_limits, within_limits
from ovonic.tasks.trajectories import TrajectoryBatch, TrajectorySpec, clock_signal, integrate

__all__ = [
    "FAMILY_RMS_OMEGA",
    "RecordedMovement",
    "Recording",
    "inverse_kinematics",
    "read_recording",
    "recording_batch",
]

FAMILY_RMS_OMEGA = (0.097, 0.953)
"""Smallest and largest RMS angular velocity (over time and joints, rad/s) of 1,000 consistent movements:

    sample_trajectories(TrajectorySpec(), 0, range(1000)).omega.square().mean((1, 2)).sqrt()
"""

ON_GRID = 1e-3
"""Samples this close to where they are due, in steps h, are taken as they are."""

GAP = 0.2
"""A step between samples may differ from the median step by this share of it."""

COARSEST = 10
"""Samples may stand this many steps h apart: what lies between is unknown."""

HUGE = 1e12
"""No time, position or angle is as large as this; NaN is refused by the same test."""

POSITIONS = {"m": 1.0, "mm": 1e-3}
ANGLES = {"deg": math.pi / 180, "rad": 1.0}

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recording:
    """What a file holds.

    Attributes:
        path: the file.
        columns: ``("x", "y", "z")``, or ``("q1", "q2", ..)``.
        values: [N, columns], m or rad.
        t_s: time of each sample, [N], s, in the arm's time; not yet checked.
        lines: line of each sample in the file, counted from 1, [N].
    """

    path: Path
    columns: tuple[str, ...]
    values: Float
    t_s: Float
    lines: tuple[int, ...]

    def sample(self, index: int) -> str:
        """How an error names a sample."""
        return f"{self.path}: sample {index} (line {self.lines[index]})"


class RecordedMovement(NamedTuple):
    """A recording, ready to be learned.

    batch: the one movement. t_s: the recording's time at each of its T steps, s. interpolated: False where the
    samples were taken as they are. unused: how many of the last samples lie beyond the movement's end. moved_mm: the
    farthest that a tip was moved to where the arm can reach; None for angles.
    """

    batch: TrajectoryBatch
    t_s: Float
    interpolated: bool
    unused: int
    moved_mm: float | None


def read_recording(
    path: str | Path, joints: int = 2, dt_ms: float | None = None, unit: str = "m", angles: str = "deg"
) -> Recording:
    """Read a recorded movement.

    Args:
        joints: how many joints move: the angles a file must hold.
        dt_ms: step between samples, ms of the arm's time, where the file has no column t.
        unit: of positions, ``"m"`` or ``"mm"``; angles: ``"deg"`` or ``"rad"``.
    Raises:
        DataError: other columns than these, a cell that is no finite number, a row of another length; line and column
            are named. ConfigError: an unknown unit; a time step missing, not positive, or given twice.
    """
    path = Path(path)
    if unit not in POSITIONS:
        raise ConfigError(f"unit {unit!r}: positions are in m or mm")
    if angles not in ANGLES:
        raise ConfigError(f"angles {angles!r}: choose deg or rad")
    if dt_ms is not None and not 0 < dt_ms < math.inf:
        raise ConfigError(f"time step {dt_ms} ms: must be positive and finite")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(_rows(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no CSV file in UTF-8 ({error})") from error
    if not rows:
        raise DataError(f"{path}: empty; {_expected(joints)}")
    header = [name.lower() for name in rows[0][1]]
    columns = _columns(path, header, joints)
    numbers = np.array(list(_numbers(path, header, rows[1:]))).reshape(len(rows) - 1, len(header))
    if not len(numbers):
        raise DataError(f"{path}: holds a header and no samples")
    if ("t" in header) == (dt_ms is not None):
        rule = "leave the time step out" if dt_ms else "give the time step dt_ms, 10 for 100 samples a second"
        raise ConfigError(f"{path}: has {'a' if dt_ms else 'no'} column t: {rule}")
    counted = np.arange(len(numbers), dtype=np.float64)
    stamps: Float = numbers[:, header.index("t")] if dt_ms is None else counted * (dt_ms / 1e3)
    scale = POSITIONS[unit] if columns[0] == "x" else ANGLES[angles]
    values = numbers[:, [header.index(name) for name in columns]] * scale
    return Recording(path, columns, values, stamps, tuple(line for line, _ in rows[1:]))


def recording_batch(
    recording: Recording,
    spec: TrajectorySpec | None = None,
    tolerance_mm: float = 5.0,
    dtype: torch.dtype = torch.float32,
) -> RecordedMovement:
    """The recording as a batch of one movement; what lies beyond the movement's end is left out, and counted.

    As for sampled movements, the angles are the sum in float64 of the velocities in ``dtype``, and the path follows
    from the angles.

    Args:
        spec: the movement's length and step, the arm, its fastest angular velocity, and the code.
        tolerance_mm: how far a tip may be from the nearest point that the joints reach within their limits.
    Raises:
        DataError: the sample is named: time stands still or runs back, a step is missing, the recording is too short,
            an angle leaves its limits, a tip is out of reach, the arm does not start at home, or it turns too fast.
        ConfigError: a recording of tips for an arm of more than two moving joints, whose angles they leave open.
    """
    spec = spec or TrajectorySpec()
    if not 0 <= tolerance_mm < math.inf:
        raise ConfigError(f"tolerance {tolerance_mm} mm: must be at least 0 and finite")
    if recording.columns[0] == "x" and spec.joints != 2:
        raise ConfigError(f"{recording.path}: x, y, z leave the angles of {spec.joints} joints open: give angles")
    t, used = _grid(recording, spec)
    if recording.columns[0] == "x":
        angles, moved_mm = _from_tips(recording, used, spec.arm, tolerance_mm)
    else:
        angles, moved_mm = recording.values[:used], None
        _check_limits(recording, angles, spec.arm)
    stamps = recording.t_s[:used]
    interpolated = used != spec.steps or bool(np.abs(stamps - t).max() > ON_GRID * spec.arm_dt_s)
    if interpolated:
        angles = PchipInterpolator(stamps, angles)(t.clip(stamps[0], stamps[-1]))
    omega = np.diff(angles, axis=0, prepend=0.0) / spec.arm_dt_s
    _check_speed(recording, omega, t, spec)
    batch = _batch(torch.from_numpy(omega).to(dtype)[None], spec)
    return RecordedMovement(batch, t, interpolated, len(recording.t_s) - used, moved_mm)


def inverse_kinematics(tip: Tensor, arm: Scorbot = SCORBOT) -> Tensor:
    """Angles of base and shoulder, elbow and wrist at home, that bring the tip to a place, or close to it.

    With L = a_2 + a_3 + a_4 and d = d_2 + d_3,

        rho = sqrt(x^2 + y^2 - d^2),  q_2 = atan2(z - d_1, rho - a_1),  q_1 = atan2(d, rho) - atan2(y, x).

    Args:
        tip: [..., 3], m.
    Returns: [..., 2], rad from home, q_1 in -pi..pi. Exact where the tip is on the surface that these joints reach with
        the tip in front of the base's axis (rho >= 0); elsewhere the nearest elevation on the circle of radius L.
    """
    x, y, z = tip.unbind(-1)
    aside = arm.d2 + arm.d3
    rho = (x.square() + y.square() - aside**2).clamp(min=0).sqrt()
    base = torch.atan2(torch.full_like(rho, aside), rho) - torch.atan2(y, x)
    base = torch.remainder(base + math.pi, 2 * math.pi) - math.pi
    return torch.stack([base, torch.atan2(z - arm.d1, rho - arm.a1)], -1)


def _rows(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped cells of each row that counts."""
    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip() and line.lstrip()[0] != "#")
    delimiter = ""
    for number, line in lines:
        delimiter = delimiter or (";" if ";" in line else ",")
        (cells,) = csv.reader([line], delimiter=delimiter, strict=True)
        yield number, [cell.strip() for cell in cells]


def _expected(joints: int) -> str:
    angles = ", ".join(f"q{j + 1}" for j in range(joints))
    return f"expected a header with x, y, z (or {angles}), and t where the samples have their own times"


def _columns(path: Path, header: list[str], joints: int) -> tuple[str, ...]:
    tip, angles = ("x", "y", "z"), tuple(f"q{j + 1}" for j in range(joints))
    found = set(header) - {"t"}
    if len(set(header)) == len(header):
        for columns in (tip, angles):
            if found == set(columns):
                return columns
    raise DataError(f"{path}: columns {', '.join(map(repr, header))}: {_expected(joints)}")


def _numbers(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> Iterator[list[float]]:
    for index, (line, cells) in enumerate(rows):
        where = f"{path}: sample {index} (line {line})"
        if len(cells) != len(header):
            raise DataError(f"{where}: {len(cells)} cells where the header has {len(header)}")
        numbers = []
        for name, cell in zip(header, cells, strict=True):
            try:
                number = float(cell.replace("_", "?"))  # Python reads 1_0 as 10
            except ValueError:
                number = math.nan
            if not abs(number) < HUGE:
                raise DataError(f"{where}: column {name} " + (f"holds {cell!r}, no number" if cell else "is empty"))
            numbers.append(number)
        yield numbers


def _grid(recording: Recording, spec: TrajectorySpec) -> tuple[Float, int]:
    """Times of the movement's samples, and how many of the recording's samples they need."""
    t, h = recording.t_s, spec.arm_dt_s
    due = f"{spec.steps} samples, {1e3 * h:g} ms apart, {(spec.steps - 1) * h:g} s"
    steps = np.diff(t)
    if (late := np.flatnonzero(~(steps > 0))).size:
        k = int(late[0])
        raise DataError(f"{recording.sample(k + 1)}: t = {t[k + 1]:.6g} s does not come after {t[k]:.6g} s")
    if steps.size:
        median = float(np.median(steps))
        if (odd := np.flatnonzero(np.abs(steps - median) > GAP * median)).size:
            k = int(odd[0])
            raise DataError(
                f"{recording.sample(k + 1)}: {1e3 * steps[k]:.6g} ms after the one before, where the median step is "
                f"{1e3 * median:.6g} ms: samples are missing or double"
            )
        if median > COARSEST * h * (1 + ON_GRID):
            raise DataError(
                f"{recording.path}: samples {1e3 * median:.6g} ms apart (t is in s): at most {1e3 * COARSEST * h:g} ms"
            )
    grid = t[0] + h * np.arange(spec.steps)
    if t[-1] < grid[-1] - ON_GRID * h:
        raise DataError(
            f"{recording.path}: ends with sample {len(t) - 1} after {t[-1] - t[0]:.6g} s; a movement needs {due}"
        )
    return grid, int(np.searchsorted(t, grid[-1] - ON_GRID * h)) + 1


def _check_limits(recording: Recording, angles: Float, arm: Scorbot) -> None:
    q = torch.from_numpy(angles)
    if (bad := (~within_limits(q, arm, 1e-9)).nonzero()).numel():
        k = int(bad[0])
        raise DataError(f"{recording.sample(k)}: {_beyond(q[k], arm)}")


def _beyond(q: Tensor, arm: Scorbot) -> str:
    """The first joint that leaves its limits, empty if none does."""
    for joint, angle, (low, high) in zip(JOINTS, q.rad2deg().tolist(), arm.limits_deg, strict=False):
        if not low - 1e-7 <= angle <= high + 1e-7:
            return f"the {joint} is at {angle:.6g} degrees from home, its limits are {low:g} and {high:g}"
    return ""


def _from_tips(recording: Recording, used: int, arm: Scorbot, tolerance_mm: float) -> tuple[Float, float]:
    """Angles of the first tips, [used, 2], and how far the farthest tip was moved, mm."""
    tips = torch.from_numpy(recording.values[:used])
    angles = inverse_kinematics(tips, arm)
    off_mm = 1e3 * (forward_kinematics(angles, arm) - tips).norm(dim=-1)
    for k in ((off_mm > tolerance_mm) | ~within_limits(angles, arm)).nonzero().flatten().tolist():
        wanted = angles[k].clone()
        angles[k] = _nearest(tips[k], wanted, arm)
        reached = forward_kinematics(angles[k], arm)
        off_mm[k] = 1e3 * (reached - tips[k]).norm()
        if off_mm[k] > tolerance_mm:
            why = _beyond(wanted, arm)
            why = f" ({why})" if why and abs(wanted.sub(angles[k])).max() > 1e-6 else ""
            hint = "; are these mm?" if tips[k].abs().max() > 10 else ""
            raise DataError(
                f"{recording.sample(k)}: the tip at {_point(tips[k])} is {off_mm[k]:.4g} mm from the nearest point "
                f"that the arm reaches, {_point(reached)}{why}; the tolerance is {tolerance_mm:g} mm{hint}"
            )
    return angles.numpy(), float(off_mm.max())


def _nearest(tip: Tensor, start: Tensor, arm: Scorbot) -> Tensor:
    """The angles within the limits whose tip is nearest."""
    low, high = joint_limits(start, arm)

    def off(q: Float) -> Float:
        return (forward_kinematics(torch.from_numpy(q), arm) - tip).numpy()

    found = least_squares(off, start.clamp(low, high).numpy(), bounds=(low.numpy(), high.numpy()), xtol=1e-12)
    return torch.from_numpy(found.x)


def _point(tip: Tensor) -> str:
    return "({:.4f}, {:.4f}, {:.4f}) m".format(*tip.tolist())


def _check_speed(recording: Recording, omega: Float, t: Float, spec: TrajectorySpec) -> None:
    """Refuse what turns faster than the family does, above all a first sample too far from home."""
    fast = np.argwhere(np.abs(omega) > spec.omega_max * (1 + 1e-4))
    if not fast.size:
        return
    step, joint = map(int, fast[0])
    h, limit = spec.arm_dt_s, f"{spec.omega_max:.4g} rad/s"
    if step == 0:
        home = forward_kinematics(torch.zeros(spec.joints, dtype=torch.float64), spec.arm)
        raise DataError(
            f"{recording.sample(0)}: the {JOINTS[joint]} is {math.degrees(h * omega[0, joint]):.4g} degrees from home; "
            f"it starts there (all angles 0, the tip at {_point(home)}), and {1e3 * h:g} ms later it is at most "
            f"{math.degrees(h * spec.omega_max):.3g} degrees away ({limit})"
        )
    k = int(np.searchsorted(recording.t_s, t[step] - ON_GRID * h))
    raise DataError(
        f"{recording.sample(k)}: the {JOINTS[joint]} turns to it at {omega[step, joint]:.4g} rad/s, at most {limit}"
    )


def _batch(omega: Tensor, spec: TrajectorySpec) -> TrajectoryBatch:
    """Velocities [B, T, joints] as a batch."""
    angles = integrate(omega.double(), spec.arm_dt_s)
    path = forward_kinematics(angles, spec.arm).to(omega.dtype)
    return TrajectoryBatch(
        omega=omega,
        angles=angles.to(omega.dtype),
        path=path,
        clock=clock_signal(spec, omega.dtype).expand(len(omega), -1, -1),
        code=spec.code.encode(path),
        consistent=torch.ones(len(omega), dtype=torch.bool),
        draws=np.ones(len(omega), dtype=np.int64),
        spec=spec,
    )
