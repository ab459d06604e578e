"""The few-shot figures: their marks carry the data, their captions say what was measured, their files are whole."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from ovonic import __version__
from ovonic.models.errors import ConfigError
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeBatch, EpisodeSpec, sample_episodes
from ovonic.tasks.fewshot import Outcome
from ovonic.tasks.fewshot_evaluation import Evaluation
from ovonic.tasks.statistics import crossed_interval, interval
from ovonic.validation.figure_style import log_error_axis, percent, png, spread
from ovonic.validation.figures import (
    accuracy_over_updates,
    alt_text,
    caption,
    character_sheet,
    loss_curves,
    save,
    support_and_queries,
    weight_histograms,
)

SETTING = "5-way 3-shot, 32 bit, norm support"
TASKS, CHIPS, UPDATES = 30, 4, 3


def characters(n: int = 8, drawings: int = 6, level: int = 0) -> CharacterSet:
    """Each character a bar at a row of its own."""
    images = torch.full((n, drawings, 28, 28), 64, dtype=torch.uint8)
    for c in range(n):
        images[c, :, 3 * c + 1 : 3 * c + 3] = level
    return CharacterSet(
        images.flatten(0, 1), np.full(n, drawings), ("a",) * n, tuple(f"c{i}" for i in range(n)), "bars", 1 / 64
    )


def outcome(batch: EpisodeBatch, wrong: list[tuple[int, int]], n_way: int = 5) -> Outcome:
    """Answers that are right but for (query of task 0, class taken for)."""
    answers = batch.query_labels.clone()
    for query, taken_for in wrong:
        answers[0, query] = taken_for
    logits = torch.nn.functional.one_hot(answers, n_way).float()
    features = torch.zeros(len(batch), 1, 4)
    weights = torch.randn(UPDATES + 1, len(batch), n_way, 4, generator=torch.Generator().manual_seed(0))
    return Outcome(torch.stack([logits.flip(-1)] * UPDATES + [logits]), features, features, weights)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    rng = np.random.default_rng(0)
    right = np.array([0.2, 0.6, 0.9, 0.97])
    batch = sample_episodes(characters(), EpisodeSpec(n_way=5, k_shot=3, queries=3), 0, range(2))
    return Evaluation(
        software=rng.binomial(15, right, (TASKS, 4)) / 15,
        hardware=rng.binomial(15, right - 0.01, (CHIPS, TASKS, 4)) / 15,
        baselines={
            "nearest_class_mean": rng.binomial(15, 0.98, TASKS) / 15,
            "new_one": rng.binomial(15, 0.5, TASKS) / 15,
        },
        counts={},
        batch=batch,
        software_outcome=outcome(batch, []),
        hardware_outcome=outcome(batch, [(4, 3), (14, 0)]),
        seed=7,
    )


def line(ax: Axes, label: str) -> np.ndarray:
    (found,) = [entry for entry in ax.lines if entry.get_label() == label]
    return np.asarray(found.get_ydata(), dtype=np.float64)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def inside(figure: Figure) -> None:
    """Draw the figure and assert that nothing is cut off at its edges."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.02


class TestAccuracyOverUpdates:
    def test_lines_and_bands_are_the_evaluations(self, evaluation: Evaluation) -> None:
        figure = accuracy_over_updates(evaluation, setting=SETTING)
        assert evaluation.hardware is not None
        assert len(figure.axes) == 2
        for ax in figure.axes:
            np.testing.assert_allclose(line(ax, "software"), 100 * evaluation.software.mean(0))
            np.testing.assert_allclose(line(ax, "hardware"), 100 * evaluation.hardware.mean((0, 1)))
            chips = [entry.get_ydata() for entry in ax.lines if entry.get_label() == "_chip"]
            np.testing.assert_allclose(chips, 100 * evaluation.hardware.mean(1))
            for band, last in zip(
                ax.collections,
                (interval(evaluation.software[:, -1]), crossed_interval(evaluation.hardware[:, :, -1])),
                strict=True,
            ):
                vertices = band.get_paths()[0].vertices
                ends = vertices[vertices[:, 0] == UPDATES][:, 1]
                assert ends.min() == pytest.approx(100 * (last["mean"] - last["ci95"]))
                assert ends.max() == pytest.approx(100 * (last["mean"] + last["ci95"]))

    def test_final_accuracies_are_named_at_the_edge(self, evaluation: Evaluation) -> None:
        shown = texts(accuracy_over_updates(evaluation, setting=SETTING))
        best = interval(evaluation.baselines["nearest_class_mean"])
        assert f"nearest class mean  {percent(best['mean'], best['ci95'], short=True)}" in shown
        assert any(text.startswith("new one  ") for text in shown)
        assert any(text.startswith("hardware  ") for text in shown)

    def test_caption_states_n_interval_and_setting(self, evaluation: Evaluation) -> None:
        figure = accuracy_over_updates(evaluation, setting=SETTING)
        for part in (f"{TASKS} tasks on each of {CHIPS} chips", "95 % intervals", SETTING):
            assert part in caption(figure)
        assert percent(evaluation.software[:, -1].mean(), interval(evaluation.software[:, -1])["ci95"]) in alt_text(
            figure
        )

    @pytest.mark.parametrize("updates", [0, 1, 12])
    @pytest.mark.parametrize("tasks", [1, 5])
    def test_perfect_and_tiny_evaluations_can_be_drawn(self, evaluation: Evaluation, tasks: int, updates: int) -> None:
        perfect = np.ones((tasks, updates + 1))
        perfect[:, 0] = 0.2 if updates else 1.0
        small = dataclasses.replace(
            evaluation, software=perfect, hardware=perfect[None], baselines={"ridge": perfect[:, -1]}
        )
        figure = accuracy_over_updates(small, setting=SETTING)
        inside(figure)
        assert "upper edge" in caption(figure)
        ticks = [t for t in figure.axes[0].get_xticks() if -0.05 <= t <= updates]
        assert ticks
        assert all(t == int(t) for t in ticks)

    @pytest.mark.parametrize("setting", ["W" * 30 + " " + "MM " * 90, "i " * 200, "$\\notmath_$ of $HOME"])
    def test_nothing_is_cut_off(self, evaluation: Evaluation, setting: str) -> None:
        figure = accuracy_over_updates(evaluation, setting=setting)
        inside(figure)
        assert " ".join(setting.split()) in caption(figure)


class TestSupportAndQueries:
    def test_wrong_answers_are_marked_by_frame_and_class(self, evaluation: Evaluation) -> None:
        figure = support_and_queries(evaluation, 0, setting=SETTING)
        (ax,) = figure.axes
        frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
        wrong = [frame for frame in frames if frame.get_gid() == "wrong"]
        assert (len(frames), len(wrong)) == (15, 2)
        fine = next(frame for frame in frames if frame.get_gid() == "right")
        assert wrong[0].get_linewidth() > 2 * fine.get_linewidth()
        assert wrong[0].get_linestyle() != fine.get_linestyle()
        assert sorted(text for text in texts(figure) if text.startswith("✗ ")) == ["✗ A", "✗ D"]
        assert "13 of 15 queries right on the first chip (software: 15)" in caption(figure)
        inside(figure)

    def test_images_stand_in_the_row_of_their_class(self, evaluation: Evaluation) -> None:
        figure = support_and_queries(evaluation, 1, setting=SETTING)
        canvas = np.asarray(figure.axes[0].images[0].get_array())
        ink = (canvas < 0.5).any(axis=1)
        for row, c in enumerate(evaluation.batch.classes[1]):
            inked = np.flatnonzero(ink[row * 42 : row * 42 + 28])
            np.testing.assert_array_equal(inked, [3 * c + 1, 3 * c + 2])

    def test_without_hardware_the_software_answers(self, evaluation: Evaluation) -> None:
        alone = dataclasses.replace(evaluation, hardware=None, hardware_outcome=None)
        figure = support_and_queries(alone, setting=SETTING)
        assert "15 of 15 queries right in software" in caption(figure)
        assert not any(text.startswith("✗") for text in texts(figure))

    def test_many_classes_fold_into_stacks(self, evaluation: Evaluation) -> None:
        batch = sample_episodes(characters(27, 3), EpisodeSpec(n_way=27, k_shot=1, queries=2), 0, [0])
        many = dataclasses.replace(
            evaluation, batch=batch, hardware_outcome=None, software_outcome=outcome(batch, [(0, 26)], 27)
        )
        figure = support_and_queries(many, setting=SETTING)
        assert {str(c + 1) for c in range(27)} <= set(texts(figure))
        assert "✗ 27" in texts(figure)
        assert figure.get_figheight() < 1.6 * figure.get_figwidth()
        inside(figure)

    def test_a_task_that_is_not_there(self, evaluation: Evaluation) -> None:
        with pytest.raises(ConfigError, match="task 2: the first batch holds tasks 0 to 1"):
            support_and_queries(evaluation, 2, setting=SETTING)


class TestWeightHistograms:
    def test_bars_count_every_weight_once(self) -> None:
        w = np.random.default_rng(0).normal(0, 0.3, (UPDATES + 1, 2, 5, 8))
        figure = weight_histograms(w)
        assert len(figure.axes) == UPDATES + 1
        for k, ax in enumerate(figure.axes):
            counts = [bar.get_height() * w[k].size / 100 for bar in ax.patches if isinstance(bar, Rectangle)]
            expected = [
                np.sum(
                    (np.abs(w[k]) >= b * np.abs(w).max() / 5)
                    & (np.abs(w[k]) < (b + 1) * np.abs(w).max() / 5 + (b == 4))
                )
                for b in range(5)
            ]
            np.testing.assert_allclose(counts, expected)
            assert sum(counts) == pytest.approx(w[k].size)
            cumulative = line(ax, "weights, cumulative")
            assert (np.diff(cumulative) >= 0).all()
            assert cumulative[-1] == 100
            np.testing.assert_allclose(cumulative[40::40], np.cumsum(expected) / w[k].size * 100)
        assert "n = 80 weights a panel" in caption(figure)

    def test_decoded_weights_beyond_the_largest_target_stay_counted(self) -> None:
        target = torch.full((2, 1, 5, 4), 0.5)
        figure = weight_histograms(target, target * 1.5)
        for ax in figure.axes:
            heights = np.array([bar.get_height() for bar in ax.patches if isinstance(bar, Rectangle)]).reshape(2, 5)
            np.testing.assert_array_equal(heights, [[0, 0, 0, 0, 100]] * 2)
        inside(figure)

    def test_zero_weights_and_many_updates(self) -> None:
        inside(weight_histograms(np.zeros((9, 1, 5, 4))))

    @pytest.mark.parametrize("bad", [np.zeros((5, 4)), np.zeros((3, 0, 5, 4)), np.full((2, 1, 5, 4), np.nan)])
    def test_other_shapes_and_nan_are_refused(self, bad: np.ndarray) -> None:
        with pytest.raises(ConfigError, match="finite weights"):
            weight_histograms(bad)

    def test_decoded_of_another_shape_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"on the hardware: .*\(2, 1, 5, 3\) beside \(2, 1, 5, 4\)"):
            weight_histograms(np.zeros((2, 1, 5, 4)), np.zeros((2, 1, 5, 3)))


RUNS = {
    label: {
        "history": [{"step": 10 * i, "loss": 2 * shift / i, "accuracy": 1 - shift / (i + 1)} for i in range(1, 101)],
        "validation": [{"step": 500, "accuracy": 0.9, "ci95": 0.02}, {"step": 1000, "accuracy": 0.95, "ci95": 0.01}],
    }
    for label, shift in (("32 bit", 0.5), ("4 bit", 0.7))
}


class TestLossCurves:
    def test_lines_are_the_history_and_its_running_mean(self) -> None:
        figure = loss_curves(RUNS)
        loss, accuracy = figure.axes
        raw = [entry for entry in loss.lines if entry.get_label() == "_raw"]
        for entry, run in zip(raw, RUNS.values(), strict=True):
            np.testing.assert_allclose(entry.get_ydata(), [h["loss"] for h in run["history"]])
        smooth = line(accuracy, "4 bit")
        values = np.array([100 * h["accuracy"] for h in RUNS["4 bit"]["history"]])
        assert smooth[50] == pytest.approx(values[49:51].mean())  # 100 records, a window of 2
        assert smooth.shape == values.shape
        inside(figure)

    def test_validation_points_carry_their_intervals(self) -> None:
        accuracy = loss_curves(RUNS).axes[1]
        points = {c.get_label(): c for c in accuracy.containers}["32 bit, held out"]
        np.testing.assert_allclose(points.lines[0].get_ydata(), [90, 95])
        bars = points.lines[2][0].get_segments()
        np.testing.assert_allclose([segment[:, 1] for segment in bars], [[88, 92], [94, 96]])

    def test_one_record_without_validation_is_a_visible_point(self) -> None:
        figure = loss_curves({"a": {"history": [{"step": 10, "loss": 1.0, "accuracy": 1.0}], "validation": []}})
        assert figure.axes[0].lines[-1].get_marker() == "o"
        inside(figure)

    def test_nothing_to_draw(self) -> None:
        with pytest.raises(ConfigError, match="no run"):
            loss_curves({})
        with pytest.raises(ConfigError, match="'x' has no history"):
            loss_curves({"x": {"history": [], "validation": []}})


class TestCharacterSheet:
    def test_sheets_show_the_drawings(self) -> None:
        figure = character_sheet({"bars": characters(), "pale": characters(3, 4, level=32)}, 5, 4, seed=1)
        assert [ax.get_title(loc="left") for ax in figure.axes] == ["bars", "pale"]
        sheet, pale = (np.asarray(ax.images[0].get_array()) for ax in figure.axes)
        assert (sheet == 0).sum() == 5 * 4 * 2 * 28
        assert (pale == 0.5).sum() == 3 * 4 * 2 * 28  # a set smaller than the sheet leaves paper
        again = character_sheet({"bars": characters()}, 5, 4, seed=1)
        np.testing.assert_array_equal(np.asarray(again.axes[0].images[0].get_array()), sheet)
        inside(figure)

    def test_nothing_to_draw(self) -> None:
        with pytest.raises(ConfigError, match="a sheet needs"):
            character_sheet({}, 2, 2)


class TestFiles:
    def test_png_names_command_version_and_caption(self, evaluation: Evaluation, tmp_path: Path) -> None:
        figure = support_and_queries(evaluation, setting=SETTING)
        path = save(figure, tmp_path / "new" / "task.png", command="ovonic fewshot evaluate --figures new")
        with Image.open(path) as image:
            about = image.text  # type: ignore[attr-defined]
        assert about["Comment"] == "ovonic fewshot evaluate --figures new"
        assert f"Ovonic {__version__}" in about["Software"]
        assert about["Description"] == caption(figure)
        assert [file.name for file in path.parent.iterdir()] == ["task.png"]

    @pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
    def test_equal_figures_give_equal_files(self, tmp_path: Path, suffix: str) -> None:
        w = np.random.default_rng(0).normal(size=(2, 1, 5, 8))
        first, second = (
            save(weight_histograms(w), tmp_path / f"{name}{suffix}", command="c").read_bytes() for name in "ab"
        )
        assert first == second

    def test_another_suffix_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"figure\.jpg: figures are saved as \.png, \.svg, \.pdf"):
            save(weight_histograms(np.ones((1, 1, 1, 1))), tmp_path / "figure.jpg")
        assert not list(tmp_path.iterdir())

    def test_a_page_gets_the_figure_without_caption_and_the_file_keeps_it(self, evaluation: Evaluation) -> None:
        figure = accuracy_over_updates(evaluation, setting=SETTING)
        before = caption(figure)
        assert png(figure).startswith(b"\x89PNG")
        assert caption(figure) == before
        (text,) = [t for t in figure.texts if t.get_text() == figure.get_supxlabel()]
        assert text.get_visible()
        assert text.get_in_layout()


class TestStyle:
    def test_pyplot_and_the_users_settings_are_left_alone(self, evaluation: Evaluation, tmp_path: Path) -> None:
        before = dict(matplotlib.rcParams)
        with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red"}):
            figure = accuracy_over_updates(evaluation, setting=SETTING)
            save(figure, tmp_path / "a.png")
            assert matplotlib.rcParams["font.size"] == 31.0
        assert dict(matplotlib.rcParams) == before
        assert figure.axes[0].get_facecolor() == (1.0, 1.0, 1.0, 1.0)
        pyplot = sys.modules.get("matplotlib.pyplot")
        assert pyplot is None or not pyplot.get_fignums()

    @settings(deadline=None)
    @given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.2))
    def test_labels_keep_order_distance_and_bounds(self, wanted: list[float], gap: float) -> None:
        placed = spread(wanted, gap, 0.0, 1.0)
        assert ((placed >= -1e-9) & (placed <= 1 + 1e-9)).all()
        order = np.argsort(wanted, kind="stable")
        room = min(gap, 1 / max(1, len(wanted) - 1))
        assert (np.diff(placed[order]) >= room - 1e-9).all()

    def test_labels_with_room_stay_where_they_are_wanted(self) -> None:
        np.testing.assert_allclose(spread([0.5, 0.1, 0.9], 0.1, 0, 1), [0.5, 0.1, 0.9])
        np.testing.assert_allclose(spread([0.5, 0.5], 0.1, 0, 1), [0.45, 0.55])

    @settings(deadline=None)
    @given(st.floats(0.0, 99.0), st.floats(0.01, 20.0))
    def test_equal_ratios_of_error_are_equal_distances(self, accuracy: float, worst: float) -> None:
        height = log_error_axis(Figure().subplots(), worst, 99.99)
        halved = [100 - (100 - accuracy) / 2**k for k in range(3)]
        steps = np.diff(height([max(a, worst) if accuracy >= worst else a for a in halved]))
        np.testing.assert_allclose(steps[0], steps[1], rtol=1e-6)
        np.testing.assert_allclose(height([worst, 99.99, 100.0]), [0, 1, 1])
