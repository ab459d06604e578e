"""The robot's figures: their marks carry the lesson's data, their captions what was measured; their files are whole."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop import InnerLoop, Lesson, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig
from ovonic.tasks.robot import kinematics, movement_errors
from ovonic.tasks.robot_evaluation import Errors, updated_fractions
from ovonic.tasks.scorbot import joint_positions
from ovonic.tasks.trajectories import TrajectoryBatch, TrajectorySpec, integrate, sample_trajectories
from ovonic.validation import arm_drawing
from ovonic.validation.arm_drawing import arm_gif, arm_strip, in_mm, motions
from ovonic.validation.figure_style import STYLE, alt_text, caption, save
from ovonic.validation.robot_curves import learning_curve, loss_distribution
from ovonic.validation.robot_figures import lesson_figures, path_figure, raster_figure, signal_figure

Taught = tuple[Lesson, TrajectoryBatch]
INDEX, LIF = 1, 20


def teach(
    inner: InnerLoop, joints: int = 2, trainee: int = 20, lsg: tuple[int, int] = (LIF, 10), dtype: Any = torch.float64
) -> Taught:
    config = NaturalEPropConfig(trainee=trainee, outputs=joints, lsg_lif=lsg[0], lsg_alif=lsg[1])
    batch = sample_trajectories(TrajectorySpec(joints=joints), 1, range(2), dtype)
    with torch.no_grad():
        return NaturalEProp.initial(config, seed=3, dtype=dtype)(batch.clock, batch.lsg_input, inner), batch


@pytest.fixture(scope="module")
def taught() -> Taught:
    """With a rate so high that many weights change."""
    return teach(InnerLoop(rate=3e-3))


def lines(ax: Axes) -> dict[str, Any]:
    return {str(line.get_label()): line for line in ax.lines}


def in_space(line: Any) -> np.ndarray:
    return np.stack(line.get_data_3d(), -1)


def titled(figure: Figure, start: str) -> Axes:
    (found,) = (ax for ax in figure.axes if ax.get_title(loc="left").startswith(start))
    return found


def inside(figure: Figure) -> None:
    """Draw the figure and assert that nothing is cut off at its edges."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.02


@pytest.fixture(scope="module")
def drawn(taught: Taught) -> dict[str, Figure]:
    """The figures of the lesson, which is left as it was."""
    lesson, batch = taught
    before = {name: change.clone() for name, change in lesson.changes.items()}
    assert before["trainee.recurrence"].diagonal(dim1=1, dim2=2).any()
    made = {
        "path": path_figure(lesson, batch, INDEX, setting="untrained"),
        "rasters": raster_figure(lesson, batch, INDEX, LIF),
        "signals": signal_figure(lesson, batch, INDEX),
        "arm": arm_strip(lesson, batch, INDEX, poses=4),
    }
    assert all(torch.equal(change, before[name]) for name, change in lesson.changes.items())
    return made


class TestPath:
    def test_paths_and_distances_are_the_lessons(self, taught: Taught, drawn: dict[str, Figure]) -> None:
        lesson, batch = taught
        space, miss = drawn["path"].axes[:2]
        target = batch.path[INDEX].numpy()
        np.testing.assert_allclose(in_space(lines(space)["target"]), target, atol=1e-9)
        for name, output in (("before", lesson.before), ("after", lesson.after)):
            path = kinematics(batch.spec)(output[INDEX]).numpy()
            np.testing.assert_allclose(in_space(lines(space)[name]), path, atol=1e-9)
            distance = 1e3 * np.sqrt(((path - target) ** 2).sum(-1))
            np.testing.assert_allclose(lines(miss)[name].get_ydata(), distance, atol=1e-6)

    def test_joints_are_drawn_in_their_units_and_in_time(self, taught: Taught, drawn: dict[str, Figure]) -> None:
        lesson, batch = taught
        base, shoulder, base_angle, shoulder_angle = drawn["path"].axes[2:]
        assert (base.get_title(loc="left"), shoulder.get_title(loc="left")) == ("Base", "Shoulder")
        assert (base.get_ylabel(), base_angle.get_ylabel()) == ("omega (rad/s)", "angle (degrees)")
        for j, (omega, angle) in enumerate(((base, base_angle), (shoulder, shoulder_angle))):
            np.testing.assert_array_equal(lines(omega)["after"].get_ydata(), lesson.after[INDEX, :, j])
            np.testing.assert_array_equal(lines(omega)["target"].get_ydata(), batch.omega[INDEX, :, j])
            np.testing.assert_allclose(lines(angle)["target"].get_ydata(), batch.angles[INDEX, :, j].rad2deg())
            due = integrate(lesson.before[INDEX], 0.01)[:, j].rad2deg()
            np.testing.assert_allclose(lines(angle)["before"].get_ydata(), due, atol=1e-9)
            np.testing.assert_allclose(lines(omega)["after"].get_xdata(), 0.01 * np.arange(249))

    def test_a_metre_is_as_long_on_every_axis(self, drawn: dict[str, Figure]) -> None:
        space: Any = drawn["path"].axes[0]
        spans = np.ptp([space.get_xlim3d(), space.get_ylim3d(), space.get_zlim3d()], axis=1)
        np.testing.assert_allclose(space.get_box_aspect() / spans, (space.get_box_aspect() / spans)[0])

    def test_the_caption_tells_the_tip_errors(self, taught: Taught, drawn: dict[str, Figure]) -> None:
        lesson, batch = taught
        before, after = (movement_errors(o, batch).tip_rmse_mm[INDEX] for o in (lesson.before, lesson.after))
        figure = drawn["path"]
        assert f"{before:.3g} mm before, {after:.3g} mm after" in caption(figure)
        assert "one update" in caption(figure)
        assert caption(figure).endswith(" untrained.")
        assert f"{after:.3g} mm after" in alt_text(figure)


class TestRasters:
    def test_every_spike_is_drawn_once(self, taught: Taught, drawn: dict[str, Figure]) -> None:
        lesson, _ = taught
        assert lesson.lsg is not None
        figure = drawn["rasters"]
        lsg = lesson.lsg["lsg"].spikes[INDEX]
        for start, spikes in (
            ("LSG, LIF", lsg[:, :LIF]),
            ("LSG, ALIF", lsg[:, LIF:]),
            ("Trainee before", lesson.trials[0]["trainee"].spikes[INDEX]),
            ("Trainee after", lesson.trials[-1]["trainee"].spikes[INDEX]),
        ):
            ax = titled(figure, start)
            times, neurons = ax.lines[0].get_data()
            assert len(times) == spikes.sum() > 0
            np.testing.assert_array_equal(np.bincount(times.astype(int), minlength=249), spikes.sum(1))
            counts = np.bincount(neurons, minlength=spikes.shape[1] + 1)[1:]
            np.testing.assert_array_equal(np.sort(counts), np.sort(spikes.sum(0)))
            assert f"{1000 * spikes.mean():.1f} Hz" in ax.get_title(loc="left")
        clocks = [ax for ax in figure.axes if ax.get_title(loc="left") == "Clock"]
        for ax in clocks:
            np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(0, 249, 10))
        assert len(clocks) == 2

    def test_both_trials_keep_the_order_of_the_first(self, taught: Taught, drawn: dict[str, Figure]) -> None:
        lesson, _ = taught
        figure = drawn["rasters"]
        before = lesson.trials[0]["trainee"].spikes[INDEX].numpy()
        after = lesson.trials[-1]["trainee"].spikes[INDEX].numpy()
        first: dict[int, set[int]] = {row: set() for row in range(1, 21)}
        for time, row in zip(*titled(figure, "Trainee before").lines[0].get_data(), strict=True):
            first[row].add(int(time))
        times = [np.mean(list(first[row])) for row in sorted(first) if first[row]]
        assert times == sorted(times)
        drawn = np.bincount(titled(figure, "Trainee after").lines[0].get_ydata().astype(int), minlength=21)[1:]
        trains = [set(np.flatnonzero(train)) for train in before.T]
        for row, train in first.items():
            if trains.count(train) == 1:
                assert drawn[row - 1] == after[:, trains.index(train)].sum()

    def test_groups_that_are_not_there(self, taught: Taught) -> None:
        lesson, batch = taught
        assert [ax.get_title(loc="left")[:4] for ax in raster_figure(lesson, batch, 0).axes].count("LSG:") == 1
        alone = raster_figure(lesson._replace(lsg=None), batch, 0)
        assert len(alone.axes) == 3
        assert "LSG" not in caption(alone)
        assert len(raster_figure(lesson, batch, 0, 30).axes) == 5
        with pytest.raises(ConfigError, match="lsg_lif 31: the learning-signal generator has 30 neurons"):
            raster_figure(lesson, batch, 0, 31)


class TestSignals:
    def test_heat_map_and_traces_are_the_signals(self, taught: Taught, drawn: dict[str, Figure]) -> None:
        lesson, _ = taught
        figure = drawn["signals"]
        heat, traces = figure.axes[0], next(ax for ax in figure.axes if ax.get_ylabel() == "learning signal L")
        signals = lesson.learning_signal[INDEX].numpy()
        rows = signals[:, np.argsort(signals.mean(0))].T
        np.testing.assert_array_equal(np.asarray(heat.images[0].get_array()), rows)
        assert set(lines(traces)) == {"neuron 1", "neuron 7", "neuron 14", "neuron 20"}
        for label, line in lines(traces).items():
            np.testing.assert_array_equal(line.get_ydata(), rows[int(label.split()[1]) - 1])

    def test_bars_and_matrices_are_the_changes(self, taught: Taught, drawn: dict[str, Figure]) -> None:
        lesson, _ = taught
        figure = drawn["signals"]
        w_in, w_rec = (change[INDEX].numpy() for change in lesson.changes.values())
        share = {name: 100 * values[INDEX] for name, values in updated_fractions(lesson).items()}
        assert share["W_rec"] > 5
        ax = next(ax for ax in figure.axes if ax.get_xlabel() == "change of weight")
        off_diagonal = w_rec[~np.eye(20, dtype=bool)]
        for name, values in (("W_in", w_in.ravel()), ("W_rec", off_diagonal)):
            (bars,) = (c for c in ax.containers if str(c.get_label()).startswith(f"{name}:"))
            assert f"{share[name]:.2g} % changed" in str(bars.get_label())
            assert f"{share[name]:.2g} % of {name}" in caption(figure)
            for bar in bars:
                assert isinstance(bar, Rectangle)
                level = round(16 * (bar.get_x() + bar.get_width() / 2)) / 16
                assert bar.get_height() == pytest.approx(100 * np.mean(values == level))
            assert sum(bar.get_height() for bar in bars) == pytest.approx(100)
        for start, change in (("Change of W_in", w_in), ("Change of W_rec", w_rec * ~np.eye(20, dtype=bool))):
            drawn = np.asarray(titled(figure, start).images[0].get_array())
            np.testing.assert_array_equal(np.sort(drawn, None), np.sort(change, None))
        assert (np.diag(drawn) == 0).all()


class TestArm:
    def test_poses_are_the_arms_seen_from_above(self, taught: Taught, drawn: dict[str, Figure]) -> None:
        lesson, _ = taught
        figure = drawn["arm"]
        assert [ax.get_title() for ax in figure.axes[:4]] == ["0.00 s", "0.83 s", "1.65 s", "2.48 s"]
        points = joint_positions(integrate(lesson.after[INDEX], 0.01)).numpy()
        for ax, sample in zip(figure.axes[4:], (0, 83, 165, 248), strict=True):
            seen = np.stack(lines(ax)["_arm after"].get_data(), -1)
            for a in range(5):  # a view from above keeps horizontal distances, and the scale bar is half a metre
                due = np.linalg.norm(points[sample, :, :2] - points[sample, a, :2], axis=-1)
                np.testing.assert_allclose(np.linalg.norm(seen - seen[a], axis=-1), due, atol=1e-9)
            assert len(lines(ax)["after"].get_xdata()) == sample + 1
        assert np.ptp(lines(figure.axes[-1])["_scale"].get_xdata()) == pytest.approx(0.5)
        scales = [ax.get_window_extent().width / np.ptp(ax.get_xlim()) for ax in figure.axes]
        np.testing.assert_allclose(scales, scales[0], rtol=0.02)

    def test_the_side_view_keeps_heights_apart(self, drawn: dict[str, Figure]) -> None:
        ax = drawn["arm"].axes[0]
        foot, shoulder = np.stack(lines(ax)["_arm before"].get_data(), -1)[:2]
        assert shoulder[1] - foot[1] > 0.3
        tip = np.stack(lines(ax)["_due"].get_data(), -1)[0]
        assert tip[0] - foot[0] > 0.7  # the target lies to the right

    def test_distances_have_three_digits(self) -> None:
        assert [in_mm(d) for d in (0.0, 9.876, 99.4, 123.4, 1234.5)] == [
            "0 mm",
            "9.88 mm",
            "99.4 mm",
            "123 mm",
            "1234 mm",
        ]

    def test_a_strip_of_one(self, taught: Taught) -> None:
        with pytest.raises(ConfigError, match="poses 1: a strip needs two or more"):
            arm_strip(*taught, INDEX, poses=1)

    def test_the_animation_moves_in_the_arms_time(
        self, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arm_drawing, "GIF_DPI", 50)
        path = arm_gif(*taught, INDEX, tmp_path / "new" / "arm.gif", setting="untrained")
        with Image.open(path) as gif:
            assert (gif.n_frames, gif.info["loop"]) == (51, 0)  # type: ignore[attr-defined]
            assert "mm after. untrained." in gif.info["comment"].decode()
            frames, shown = [], []
            for k in range(51):
                gif.seek(k)
                frames.append(np.asarray(gif.convert("RGB"), dtype=int))
                shown.append(gif.info["duration"])
        assert shown == [50] * 50 + [1500]
        assert (frames[0][-1, -1] == 255).all()
        assert all((a != b).any() for a, b in itertools.pairwise(frames))
        assert [file.name for file in path.parent.iterdir()] == ["arm.gif"]

    def test_long_movements_get_no_more_frames(
        self, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arm_drawing, "MOST_FRAMES", 9)
        with Image.open(arm_gif(*taught, INDEX, tmp_path / "arm.gif")) as gif:
            assert gif.n_frames == 9  # type: ignore[attr-defined]
            assert gif.info["duration"] == 320

    def test_another_suffix_is_refused(self, taught: Taught, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"arm\.mp4: an animation is saved as \.gif"):
            arm_gif(*taught, INDEX, tmp_path / "arm.mp4")
        assert not list(tmp_path.iterdir())


class TestLessonFigures:
    def test_all_are_written_with_their_origin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arm_drawing, "MOST_FRAMES", 4)
        monkeypatch.setitem(STYLE, "savefig.dpi", 60)
        tiny = teach(InnerLoop(), trainee=10, lsg=(3, 2))
        files = lesson_figures(*tiny, 0, tmp_path / "new", 3, setting="tiny", command="ovonic robot adapt")
        assert [file.name for file in files] == ["path.png", "rasters.png", "signals.png", "arm.png", "arm.gif"]
        assert sorted(files) == sorted((tmp_path / "new").iterdir())
        for file in files:
            with Image.open(file) as image:
                assert np.asarray(image.convert("L")).std() > 10
                assert file.suffix == ".gif" or image.text["Comment"] == "ovonic robot adapt"  # type: ignore[attr-defined]
                about = image.info.get("comment", b"").decode() or image.text["Description"]  # type: ignore[attr-defined]
                assert about.endswith(" tiny.")

    def test_more_joints_updates_and_words_fit(self) -> None:
        lesson, batch = teach(InnerLoop(rate=3e-2, step=None, updates=2), 4, dtype=torch.float32)
        path, signals = (f(lesson, batch, 0, setting="words that go on " * 12) for f in (path_figure, signal_figure))
        for figure in (path, signals):
            inside(figure)
            assert "2 updates" in caption(figure)
        assert [ax.get_title(loc="left") for ax in path.axes[2:6]] == ["Base", "Shoulder", "Elbow", "Wrist"]
        ax = next(ax for ax in signals.axes if ax.get_xlabel() == "change of weight")
        for bars in ax.containers:  # changes that are not rounded are binned, every one
            assert len(bars) == 41
            assert sum(bar.get_height() for bar in bars) == pytest.approx(100)

    @pytest.mark.parametrize("index", [-1, 2])
    def test_a_movement_that_is_not_there(self, taught: Taught, tmp_path: Path, index: int) -> None:
        with pytest.raises(ConfigError, match=f"movement {index}: the batch holds movements 0 to 1"):
            lesson_figures(*taught, index, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_other_lessons_are_refused(self, taught: Taught) -> None:
        lesson, batch = taught
        with pytest.raises(ConfigError, match="the batch that it was given on"):
            motions(lesson, sample_trajectories(batch.spec, 1, range(3)), 0)
        with pytest.raises(ConfigError, match="without update"):
            motions(teach(InnerLoop(updates=0))[0], batch, 0)

    def test_nothing_is_cut_off(self, drawn: dict[str, Figure]) -> None:
        for figure in drawn.values():
            inside(figure)

    def test_a_vector_file(self, drawn: dict[str, Figure], tmp_path: Path) -> None:
        assert save(drawn["path"], tmp_path / "path.pdf").read_bytes().startswith(b"%PDF")


def recorded(steps: range) -> list[dict[str, float]]:
    return [{"step": s, "loss": 9.0, "mse_omega": 3 / s, "mse_xyz": 1 / s} for s in steps]


VALIDATION = [
    {
        "step": s,
        "loss": {"mean": 2 / s, "ci95": 0.1 / s, "median": 1 / s},
        "tip_rmse_mm": {"median": 900 / s, "p95": 4000 / s},
    }
    for s in (50, 100)
]


class TestLearningCurve:
    def test_lines_are_history_and_validation(self) -> None:
        figure = learning_curve(recorded(range(1, 101)), VALIDATION, setting="made up")
        left, right = figure.axes
        assert left.get_yscale() == right.get_yscale() == "log"
        np.testing.assert_allclose(lines(left)["_raw"].get_ydata(), [2 / s for s in range(1, 101)])
        assert lines(left)["training"].get_ydata()[50] == pytest.approx((2 / 50 + 2 / 51) / 2)
        (points,) = left.containers
        bars = points.lines[2][0].get_segments()
        np.testing.assert_allclose([bar[:, 1] for bar in bars], [[1.9 / s, 2.1 / s] for s in (50, 100)])
        np.testing.assert_allclose(lines(left)["validation, median"].get_ydata(), [1 / 50, 1 / 100])
        np.testing.assert_allclose(lines(right)["validation, median"].get_ydata(), [18, 9])
        np.testing.assert_allclose(lines(right)["validation, 95th percentile"].get_ydata(), [80, 40])
        assert right.get_ylabel() == "tip error after the update (mm)"
        assert "validation loss 0.02 (median 0.01), median tip error 9 mm. made up." in caption(figure)
        inside(figure)

    def test_a_run_of_one_record_and_no_validation(self) -> None:
        figure = learning_curve(recorded(range(7, 8)), [])
        (ax,) = figure.axes
        assert lines(ax)["training"].get_marker() == "o"
        low, high = ax.get_ylim()
        assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 2
        inside(figure)

    def test_one_validated_movement_has_no_interval(self) -> None:
        lone = {**VALIDATION[0], "loss": {"mean": 1.0, "ci95": None, "median": 1.0}}
        inside(learning_curve(recorded(range(1, 3)), [lone]))

    def test_nothing_to_draw(self) -> None:
        with pytest.raises(ConfigError, match="no history"):
            learning_curve([], VALIDATION)


def errors(scale: float, n: int = 200) -> Errors:
    values = scale * np.exp(np.random.default_rng(0).normal(size=n))
    return Errors(values, values / 4, 500 * np.sqrt(values))


class TestLossDistribution:
    def test_curves_are_the_shares_of_movements(self) -> None:
        named = {"after": errors(0.01), "no_update": errors(0.2), "shuffled": errors(0.3)}
        figure = loss_distribution(named, setting="made up")
        for ax, what in zip(figure.axes, ("loss", "tip_rmse_mm"), strict=True):
            for label, e in named.items():
                curve, values = lines(ax)[label.replace("_", " ")], getattr(e, what)
                x, share = curve.get_data()
                for at in np.quantile(values, [0.1, 0.5, 0.9]):
                    assert share[x <= at].max() == pytest.approx(np.mean(values <= at))
                assert lines(ax)[f"_{label}"].get_xdata() == pytest.approx(np.median(values))
        assert lines(figure.axes[0])["no update"].get_color() == arm_drawing.LOOKS["before"]["color"]
        assert [ax.get_xlabel() for ax in figure.axes] == ["loss", "tip error (mm)"]
        assert f"after {np.median(named['after'].loss):.3g} and" in caption(figure)
        assert "200 movements" in caption(figure)
        inside(figure)

    @pytest.mark.parametrize("bad", [errors(np.nan), errors(1.0, 0)])
    def test_errors_that_have_no_distribution(self, bad: Errors) -> None:
        with pytest.raises(ConfigError, match="random: "):
            loss_distribution({"after": errors(0.1), "random": bad})
        with pytest.raises(ConfigError, match="no errors"):
            loss_distribution({})
