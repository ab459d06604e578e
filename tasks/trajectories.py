"""Arm movements to learn in one shot: Brownian angular velocities, smoothed; their clock and their coordinate code.

With the arm's time step h (10 ms: the arm moves ten times slower than the network's 1 ms steps) and a Hann window w of
K = 120 steps that sums to one, a movement of T = 249 steps is, for each joint,

    xi[t] ~ N(0, .65^2 h),   walk[t] = xi[0] + .. + xi[t]
    pad = K - 1 zeros, walk, the last K - 1 samples of walk reversed
    omega[t] = clip(sum_k w[k] pad[t + K/2 + k], +-pi)   (rad/s)
    angles[t] = h (omega[0] + .. + omega[t])   (rad),   path[t] = forward kinematics of angles[t]   (m).

The zeros in front let the movement start near rest, the mirror behind lets it end in full motion; a padding of K - 1 on
either side leaves T + K - 1 complete windows, of which the T from K/2 on are those centred on the walk's own samples
(one step ahead: on walk[t + 1]). T is the clock's 250 ms less one step, the length of the published movements.

The network sees the movement through 53 inputs: a clock of five neurons, and x, y, z in 16 bits each.

**Consistent by default.** A movement that would leave the joint limits is drawn again from its own stream, so the
family is exactly the published one conditioned on staying inside: velocities, angles and path always agree. 52 % of the
draws are accepted. The accepted movements are gentler (mean squared omega .22 rad^2/s^2, squared distance of x, y, z
from home .10 m^2) than all (.48 and .16). ``TrajectorySpec.published()`` keeps every draw and clips its angles instead,
though not its velocities, as the published code does: there 48 % of the targets contradict themselves, and a perfect
omega still misses the path by .014 m^2.

Reference: Ortner et al. 2025, Nature Communications 16:1243, and its published code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ovonic.models.errors import ConfigError, DataError
from ovonic.tasks.scorbot import JOINTS, SCORBOT, Scorbot, forward_kinematics, joint_limits, within_limits

__all__ = [
    "PUBLISHED_CODE",
    "CoordinateCode",
    "TrajectoryBatch",
    "TrajectorySpec",
    "clock_signal",
    "integrate",
    "sample_trajectories",
]

MAX_DRAWS = 1000


@dataclass(frozen=True)
class CoordinateCode:
    """A coordinate as a binary number: n = trunc((c - low) 2^bits / span), least significant bit first.

    Attributes:
        low_m: lowest coordinate of x, y, z, m. The default is the cube of 2 m around the shoulder of the arm, which
            reaches .92 m sideways and .87 m up and down.
        span_m: range of each coordinate, m; bits: bits a coordinate, 1 to 20. 2 m in 16 bits resolve .031 mm.
        wraps: keep the low bits of what lies outside instead of refusing it. ``PUBLISHED_CODE`` does: it covers -1 to
            1 m in each coordinate, and a tip higher than 1 m is coded as one 2 m below (29 % of published movements).
    """

    low_m: tuple[float, float, float] = (-1.0, -1.0, SCORBOT.d1 - 1.0)
    span_m: float = 2.0
    bits: int = 16
    wraps: bool = False

    def __post_init__(self) -> None:
        if not (len(self.low_m) == 3 and all(map(math.isfinite, self.low_m)) and 0 < self.span_m < math.inf):
            raise ConfigError(f"code from {self.low_m} over {self.span_m} m: three finite bounds and a positive span")
        if not 1 <= self.bits <= 20:
            raise ConfigError(f"code of {self.bits} bits: choose 1 to 20 (float32 holds no more of a coordinate)")

    @property
    def resolution_mm(self) -> float:
        """Size of the least significant bit, mm."""
        return 1e3 * self.span_m / 2**self.bits

    def covers(self, arm: Scorbot) -> bool:
        """Whether every point that ``arm`` can reach lies inside the code."""
        low, high = arm.workspace
        return all(c <= a and b < c + self.span_m for c, a, b in zip(self.low_m, low, high, strict=True))

    def encode(self, path: Tensor) -> Tensor:
        """Code positions [..., 3] (m) as bits [..., 3 bits]: x, then y, then z, 0 or 1 in the dtype of ``path``.

        The number is computed in that dtype: in float32, as published, a coordinate within 1e-7 m of a step may fall
        on either side of it.

        Raises: DataError: a coordinate is not finite, or outside the code where the code does not wrap; the message
            names the sample.
        """
        level = (path - path.new_tensor(self.low_m)) * (2**self.bits / self.span_m)
        good = level.isfinite() if self.wraps else (level >= 0) & (level < 2**self.bits)
        if not bool(good.all()):
            *sample, axis = (~good).nonzero()[0].tolist()
            raise DataError(
                f"sample {sample}: {'xyz'[axis]} = {float(path[*sample, axis]):.6g} m is outside the code, "
                f"{self.low_m[axis]:.6g} to {self.low_m[axis] + self.span_m:.6g} m"
            )
        shifts = torch.arange(self.bits, device=path.device, dtype=torch.int32)
        return ((level.to(torch.int32).unsqueeze(-1) >> shifts) & 1).to(path.dtype).flatten(-2)


PUBLISHED_CODE = CoordinateCode(low_m=(-1.0, -1.0, -1.0), wraps=True)


@dataclass(frozen=True)
class TrajectorySpec:
    """How movements are drawn, and how a network is told of them.

    Attributes:
        joints: joints that move, 2 to 4; the others stay at home.
        dt_ms: time step of the network, ms; it must divide the clock's interval. The walk's diffusion, the window and
            the clock are fixed in time, so that another step samples the same family finer or coarser.
        duration_ms: length of the clock, network time, ms; the movement has ``steps`` = duration / dt - 1 samples.
        slowdown: seconds of the arm in a second of the network.
        sigma: standard deviation of the walk after one second of the arm, rad/s.
        window_ms: length of the smoothing window, network time, ms.
        omega_max: largest angular velocity, rad/s.
        clock_period_ms, clock_interval_ms: clock neuron j spikes from j period to (j + 1) period, once every interval.
        clip_angles: False draws movements again until they keep the arm's limits; True keeps the first draw and clips
            its angles, not its velocities (as published).
        code: how coordinates become bits; it must cover the workspace of ``arm`` or wrap.
        arm: link constants and joint limits.
    """

    joints: int = 2
    dt_ms: float = 1.0
    duration_ms: float = 250.0
    slowdown: float = 10.0
    sigma: float = 0.65
    window_ms: float = 120.0
    omega_max: float = math.pi
    clock_period_ms: float = 50.0
    clock_interval_ms: float = 10.0
    clip_angles: bool = False
    code: CoordinateCode = field(default_factory=CoordinateCode)
    arm: Scorbot = SCORBOT

    def __post_init__(self) -> None:
        if not 2 <= self.joints <= len(JOINTS):
            raise ConfigError(f"joints {self.joints}: 2 to {len(JOINTS)} of them can move")
        for name in ("slowdown", "sigma", "omega_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} {getattr(self, name)}: must be positive and finite")
        for whole, part in (
            ("clock_interval_ms", "dt_ms"),
            ("window_ms", "dt_ms"),
            ("clock_period_ms", "clock_interval_ms"),
            ("duration_ms", "clock_period_ms"),
        ):
            a, b = getattr(self, whole), getattr(self, part)
            if not (0 < b <= a < math.inf and abs(a / b - round(a / b)) < 1e-9):
                raise ConfigError(f"{whole} {a}: must be a whole multiple of {part} {b}")
        if self.steps < self.window_steps:
            raise ConfigError(f"a movement of {self.steps} steps is shorter than its window of {self.window_steps}")
        if not (self.code.wraps or self.code.covers(self.arm)):
            raise ConfigError(
                f"code from {self.code.low_m} over {self.code.span_m} m does not cover the workspace "
                f"{self.arm.workspace} m: widen it"
            )

    @classmethod
    def published(cls) -> TrajectorySpec:
        """The published family with its quirks: angles clipped, velocities not; coordinates of 1 m and more wrap."""
        return cls(clip_angles=True, code=PUBLISHED_CODE)

    @property
    def steps(self) -> int:
        """Samples of a movement, T."""
        return round(self.duration_ms / self.dt_ms) - 1

    @property
    def window_steps(self) -> int:
        """Samples of the smoothing window, K."""
        return round(self.window_ms / self.dt_ms)

    @property
    def arm_dt_s(self) -> float:
        """Time step of the arm, s."""
        return self.slowdown * self.dt_ms / 1e3

    @property
    def clock_neurons(self) -> int:
        """Neurons of the clock."""
        return round(self.duration_ms / self.clock_period_ms)


@dataclass(frozen=True, eq=False)
class TrajectoryBatch:
    """Movements side by side.

    Attributes:
        omega: angular velocities, [B, T, joints], rad/s.
        angles: joint angles from home, [B, T, joints], rad.
        path: tip positions, [B, T, 3], m.
        clock: clock spikes, [B, T, clock neurons] (one clock, expanded).
        code: coordinates as bits, [B, T, 3 bits].
        consistent: whether the angles are the summed velocities throughout (no limit clipped them), [B] bool.
        draws: draws that each movement took, [B] int64.
        spec: how they were drawn.
    """

    omega: Tensor
    angles: Tensor
    path: Tensor
    clock: Tensor
    code: Tensor
    consistent: Tensor
    draws: np.ndarray
    spec: TrajectorySpec

    def __len__(self) -> int:
        return len(self.omega)

    @property
    def lsg_input(self) -> Tensor:
        """Clock, then code: the input of the learning-signal generator, [B, T, clock neurons + 3 bits]."""
        return torch.cat([self.clock, self.code], -1)

    def recoded(self, code: CoordinateCode) -> TrajectoryBatch:
        """The same movements in another code, to pair networks that were trained with different ones."""
        return replace(self, code=code.encode(self.path), spec=replace(self.spec, code=code))

    def to(self, device: torch.device | str) -> TrajectoryBatch:
        """The same movements on another device."""
        tensors = ("omega", "angles", "path", "clock", "code", "consistent")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def sample_trajectories(
    spec: TrajectorySpec, seed: int, indices: range | list[int], dtype: torch.dtype = torch.float32
) -> TrajectoryBatch:
    """Draw the movements numbered ``indices`` of the endless stream that ``seed`` names.

    Movement i depends on (spec, seed, i) alone: any batching of the same indices gives the same movements. Where the
    first draw keeps the limits, the consistent and the published family agree in movement i. The angles are summed in
    float64 from ``omega`` as returned, and then rounded to ``dtype``, as is the path.

    Raises: ConfigError: no draw out of 1000 keeps the joint limits.
    """
    transform = _smoothed_walk(spec.steps, spec.window_steps)
    scale = spec.sigma * math.sqrt(spec.arm_dt_s)
    streams = [np.random.default_rng([seed, index]) for index in indices]
    omega = torch.empty(len(streams), spec.steps, spec.joints, dtype=torch.float64)
    angles = torch.empty_like(omega)
    consistent = torch.zeros(len(streams), dtype=torch.bool)
    draws = np.zeros(len(streams), dtype=np.int64)
    pending = np.arange(len(streams))
    while len(pending):
        if draws[pending[0]] == MAX_DRAWS:
            raise ConfigError(
                f"trajectory {indices[int(pending[0])]} of seed {seed}: none of {MAX_DRAWS} draws keeps the joint "
                f"limits {spec.arm.limits_deg[: spec.joints]} degrees; widen them, or lower sigma or the duration"
            )
        draws[pending] += 1
        noise = np.stack([streams[i].standard_normal((spec.steps, spec.joints)) for i in pending])
        # One product a movement, all of one shape: its rounding does not depend on the batch.
        drawn = torch.from_numpy(np.matmul(transform, scale * noise)).clamp(-spec.omega_max, spec.omega_max)
        drawn = drawn.to(dtype).double()
        summed = integrate(drawn, spec.arm_dt_s)
        inside = within_limits(summed, spec.arm).all(-1)
        keep = torch.ones_like(inside) if spec.clip_angles else inside
        rows = torch.from_numpy(pending)[keep]
        omega[rows], angles[rows], consistent[rows] = drawn[keep], summed[keep], inside[keep]
        pending = pending[~keep.numpy()]
    if spec.clip_angles:
        angles = angles.clamp(*joint_limits(angles, spec.arm))
    path = forward_kinematics(angles, spec.arm).to(dtype)
    return TrajectoryBatch(
        omega=omega.to(dtype),
        angles=angles.to(dtype),
        path=path,
        clock=clock_signal(spec, dtype).expand(len(streams), -1, -1),
        code=spec.code.encode(path),
        consistent=consistent,
        draws=draws,
        spec=spec,
    )


def integrate(omega: Tensor, arm_dt_s: float) -> Tensor:
    """Joint angles from home, [..., T, joints], rad, of angular velocities in rad/s from rest at home: their sum."""
    return torch.cumsum(omega, -2) * arm_dt_s


def clock_signal(spec: TrajectorySpec, dtype: torch.dtype = torch.float32) -> Tensor:
    """Clock spikes, [T, clock neurons], 0 or 1: neuron j spikes at j period + 0, 1, 2 .. intervals."""
    every, period = (round(ms / spec.dt_ms) for ms in (spec.clock_interval_ms, spec.clock_period_ms))
    clock = torch.zeros(spec.steps, spec.clock_neurons, dtype=dtype)
    times = torch.arange(0, spec.steps, every)
    clock[times, times // period] = 1
    return clock


@lru_cache(maxsize=8)
def _smoothed_walk(steps: int, window: int) -> np.ndarray:
    """The matrix [steps, steps] from the walk's increments to the smoothed walk; cached, read only."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    hann /= hann.sum()
    padded = np.concatenate([np.zeros((window - 1, steps)), np.eye(steps), np.eye(steps)[:-window:-1]])
    start = window // 2
    smooth = sum(hann[k] * padded[start + k : start + k + steps] for k in range(window))
    matrix = np.asarray(smooth) @ np.tri(steps)
    matrix.flags.writeable = False
    return matrix
