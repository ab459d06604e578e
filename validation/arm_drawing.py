"""The arm along a movement: a strip of poses, and an animation.

Both show the arm as the first and the last trial of a lesson move it, beside the target path of the tip, in parallel
projection from the side and from above. Links run from the foot over shoulder, elbow and wrist to the tip
(``tasks.scorbot.joint_positions``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ovonic.adapters.files import atomic_writer
from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop import Lesson
from ovonic.tasks.scorbot import joint_positions
from ovonic.tasks.trajectories import TrajectoryBatch, integrate
from ovonic.validation.figure_style import SOFTWARE, STYLE, finish, styled
from ovonic.validation.figures import WIDTH

__all__ = ["LOOKS", "Motion", "Motions", "arm_gif", "arm_strip", "ending", "in_mm", "motions", "taught"]

Values = NDArray[np.float64]

LOOKS: dict[str, dict[str, Any]] = {
    "target": {"color": "black", "lw": 0.9, "ls": "-", "zorder": 4},
    "before": {"color": "#8c8c8c", "lw": 1.3, "ls": (0, (4, 1.4)), "zorder": 3},
    "after": {"color": SOFTWARE, "lw": 1.9, "ls": "-", "zorder": 2},
}
"""How each motion is drawn, thin over wide, so that lines that coincide are all seen."""

FRAME_S, MOST_FRAMES, LAST_FRAME_S, GIF_DPI = 0.05, 200, 1.5, 110
"""Of an animation: time between frames, how many at most, how long the last one stays, dots an inch."""

LINE = 0.2
"""Height of a line of text, inches."""

TURN = np.linspace(0, 2 * np.pi, 60)
FOOT = 0.07 * np.stack([np.cos(TURN), np.sin(TURN), 0 * TURN], -1)
"""A disc around the arm's foot, [points, 3], m."""


class Motion(NamedTuple):
    """One movement of the arm: omega, [T, joints], rad/s; angles from home, [T, joints], rad; points, [T, 5, 3], m."""

    omega: Values
    angles: Values
    points: Values

    @property
    def path(self) -> Values:
        """Positions of the tip, [T, 3], m."""
        return self.points[:, -1]


class Motions(NamedTuple):
    """The target of a lesson, and what its first and its last trial make of it; time_s: of the arm, [T], s."""

    target: Motion
    before: Motion
    after: Motion
    time_s: Values

    def named(self) -> dict[str, Motion]:
        """The three by name."""
        return {name: getattr(self, name) for name in LOOKS}

    def miss_mm(self, name: str) -> Values:
        """Distance of the tip of ``"before"`` or ``"after"`` from that of the target, [T], mm."""
        return 1e3 * np.linalg.norm(self.named()[name].path - self.target.path, axis=-1)

    def errors(self) -> str:
        """The root mean squares of both distances over time, in words."""
        rms = {name: float(np.sqrt(np.square(self.miss_mm(name)).mean())) for name in ("before", "after")}
        return "RMS distance of the tip from the target: " + ", ".join(f"{in_mm(mm)} {n}" for n, mm in rms.items())


def motions(lesson: Lesson, batch: TrajectoryBatch, index: int) -> Motions:
    """What a lesson made of movement ``index`` of its batch.

    Raises: ConfigError: no such movement, or a lesson of other movements than the batch's or without update.
    """
    if not 0 <= index < len(batch):
        raise ConfigError(f"movement {index}: the batch holds movements 0 to {len(batch) - 1}")
    if not lesson.updates:
        raise ConfigError("a lesson without update: there is no after to draw beside before")
    if lesson.after.shape != batch.omega.shape:
        raise ConfigError(
            f"lesson of outputs {tuple(lesson.after.shape)} beside movements {tuple(batch.omega.shape)}: "
            "draw a lesson with the batch that it was given on"
        )

    def motion(omega: Tensor, angles: Tensor) -> Motion:
        tensors = (omega, angles, joint_positions(angles, batch.spec.arm))
        return Motion(*(tensor.detach().cpu().double().numpy() for tensor in tensors))

    dt_s = batch.spec.arm_dt_s
    trials = [outputs[index].double() for outputs in (lesson.before, lesson.after)]
    before, after = (motion(omega, integrate(omega, dt_s)) for omega in trials)
    target = motion(batch.omega[index], batch.angles[index].double())
    return Motions(target, before, after, np.arange(len(target.omega), dtype=np.float64) * dt_s)


def in_mm(distance: float) -> str:
    """A distance in mm, as text of three digits or more."""
    return f"{distance:.0f} mm" if distance >= 100 else f"{distance:.3g} mm"


def taught(lesson: Lesson) -> str:
    """How often a lesson updated the weights, in words."""
    return "one update" if len(lesson.updates) == 1 else f"{len(lesson.updates)} updates"


def ending(setting: str) -> str:
    """The last sentence of a caption."""
    return f" {setting.rstrip(' .')}." if setting else ""


@styled
def arm_strip(lesson: Lesson, batch: TrajectoryBatch, index: int, poses: int = 6, *, setting: str = "") -> Figure:
    """Poses along a movement, equally spaced in time, from the side and from above.

    Args: poses: how many, the first at the start and the last at the end of the movement.
    Raises: ConfigError: as ``motions``, or fewer than two poses.
    """
    if poses < 2:
        raise ConfigError(f"poses {poses}: a strip needs two or more")
    seen = motions(lesson, batch, index)
    samples = np.linspace(0, len(seen.time_s) - 1, poses).round().astype(int)
    views, panel = _views(seen), (WIDTH - 0.2) / poses
    boxes = [_box(view, seen, LINE / panel) for view in views]
    tall = [_shape(box) for box in boxes]
    figure = Figure(figsize=(WIDTH, 1.05 + panel * sum(tall)))
    grid = figure.subplots(2, poses, squeeze=False, height_ratios=tall, gridspec_kw={"wspace": 0, "hspace": 0})
    for row, view, box in zip(grid, views, boxes, strict=True):
        for ax, sample in zip(row, samples, strict=True):
            _scene(ax, view, seen, box)(sample)
        _name(row[0], view)
    for ax, sample in zip(grid[0], samples, strict=True):
        ax.set_title(f"{seen.time_s[sample]:.2f} s", fontweight="normal", loc="center")
    _scale_bar(grid[1, -1])
    _legend(figure, grid[0, 0])
    return finish(
        figure,
        f"The arm at {poses} times of a movement, before and after {taught(lesson)}, with the path of its tip so far; "
        "black: the target's path, and where its tip is now (dot). Parallel projection, one scale; circles: foot, "
        f"shoulder, elbow, wrist, tip. {seen.errors()}.{ending(setting)}",
        f"Drawings of the arm at {poses} times, from the side and from above. {seen.errors()}",
    )


def arm_gif(lesson: Lesson, batch: TrajectoryBatch, index: int, path: str | Path, *, setting: str = "") -> Path:
    """Write the movement as an endless animation in the arm's own time: a frame every 50 ms, at most 200 in all.

    Raises: ConfigError: as ``motions``, or a path that does not end in .gif.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ConfigError(f"{path.name}: an animation is saved as .gif")
    seen, dt_s = motions(lesson, batch, index), batch.spec.arm_dt_s
    stride = max(1, round(FRAME_S / dt_s), math.ceil(len(seen.time_s) / (MOST_FRAMES - 1)))
    samples = [*range(0, len(seen.time_s) - 1, stride), len(seen.time_s) - 1]
    with style.context([STYLE], after_reset=True):
        frames = list(_frames(seen, samples))
    palette = frames[-1].quantize(64, Image.Quantize.MAXCOVERAGE)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    shown_ms = [round(1e3 * stride * dt_s)] * len(others) + [round(1e3 * LAST_FRAME_S)]
    about = f"Target (black), before (grey) and after (blue) {taught(lesson)}. {seen.errors()}.{ending(setting)}"
    with atomic_writer(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, duration=shown_ms, loop=0, comment=about)
    return path


def _frames(seen: Motions, samples: Sequence[int]) -> Iterator[Image.Image]:
    views = _views(seen)
    boxes = [_box(view, seen, 2 * LINE / WIDTH) for view in views]
    figure = Figure(figsize=(WIDTH, 0.6 + WIDTH / 2 * max(map(_shape, boxes))), dpi=GIF_DPI)
    grid = figure.subplots(1, len(views))
    scenes = [_scene(ax, view, seen, box) for ax, view, box in zip(grid, views, boxes, strict=True)]
    for ax, view in zip(grid, views, strict=True):
        _name(ax, view)
        _scale_bar(ax)
    _legend(figure, grid[0])
    clock = figure.text(0.01, 0.985, "0", va="top", fontweight="bold")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    for sample in samples:
        for pose in scenes:
            pose(sample)
        misses = ", ".join(f"{seen.miss_mm(name)[sample]:.0f} mm {name}" for name in ("before", "after"))
        clock.set_text(f"{seen.time_s[sample]:.2f} s   off the target: {misses}")
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


class _View(NamedTuple):
    """A parallel projection; where the eye is, degrees."""

    name: str
    azimuth: float
    elevation: float

    def flat(self, points: Values) -> Values:
        """Positions [..., 3] as they are seen, right and up: [..., 2], m."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        right = (-math.sin(a), math.cos(a), 0.0)
        up = (-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e))
        return points @ np.array([right, up]).T


def _views(seen: Motions) -> tuple[_View, _View]:
    """Both with the target to the right of the foot: a horizontal line across the page is the same in both."""
    x, y, _ = seen.target.path.mean(0)
    azimuth = math.degrees(math.atan2(y, x)) - 80
    return _View("from the side", azimuth, 15), _View("from above", azimuth, 90)


def _box(view: _View, seen: Motions, below: float) -> Values:
    """Lower left and upper right corner of all that moves, [2, 2], m, ``below`` the width left free for text."""
    flat = view.flat(np.concatenate([FOOT, *(motion.points.reshape(-1, 3) for motion in seen.named().values())]))
    low, high = flat.min(0), flat.max(0)
    width = 1.1 * (high - low)[0]
    return np.array([low - [0.05 * width, (0.05 + below) * width], high + 0.05 * width])


def _shape(box: Values) -> float:
    """Height over width."""
    width, height = box[1] - box[0]
    return float(height / width)


def _scene(axes: Axes, view: _View, seen: Motions, box: Values) -> Callable[[int], None]:
    """Draw what stands still; what is returned poses both arms, and the target's tip, at a sample."""
    axes.set(xlim=box[:, 0], ylim=box[:, 1], aspect="equal")
    axes.axis("off")
    axes.fill(*view.flat(FOOT).T, color="#d9d9d9", lw=0)
    axes.plot(*view.flat(seen.target.path).T, **LOOKS["target"], label="target")
    (due,) = axes.plot([], [], "ko", ms=3.5, zorder=6, label="_due")
    moving = {}
    for name, width in (("before", 1.6), ("after", 2.4)):
        (trail,) = axes.plot([], [], **LOOKS[name], label=name)
        colour = LOOKS[name]["color"]
        (links,) = axes.plot([], [], "o-", color=colour, lw=width, ms=1.7 * width, mfc="white", mew=1, zorder=5)
        links.set_label(f"_arm {name}")
        moving[name] = trail, links

    def pose(sample: int) -> None:
        due.set_data(*view.flat(seen.target.path[[sample]]).T)
        for name, (trail, links) in moving.items():
            motion = seen.named()[name]
            trail.set_data(*view.flat(motion.path[: sample + 1]).T)
            links.set_data(*view.flat(motion.points[sample]).T)

    return pose


def _name(axes: Axes, view: _View) -> None:
    axes.text(0.03, 0, view.name, transform=axes.transAxes)


def _scale_bar(axes: Axes) -> None:
    """Half a metre, in the lower right corner."""
    (left, right), bottom = axes.get_xlim(), axes.get_ylim()[0]
    end, y = right - 0.03 * (right - left), bottom + 0.04 * (right - left)
    axes.plot([end - 0.5, end], [y, y], color="black", lw=1.8, solid_capstyle="butt", label="_scale")
    axes.text(end - 0.55, y, "0.5 m", ha="right", va="center")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3)
