"""Lessons on chips: equal to software where nothing is noisy, and what a lesson leaves alone is left alone.

Statistics: one test, fixed seed, false-alarm rate 1e-3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ovonic.models import crossbar
from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop import InnerLoop, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.verify import Verify
from ovonic.tasks.robot import Robot, spec_for
from ovonic.tasks.robot_crossbar import HEADROOM, CrossbarSettings, TraineeChip, place
from ovonic.tasks.robot_crossbar_evaluation import ChipEvaluation, evaluate_on_chips
from ovonic.tasks.robot_evaluation import evaluate_robot, rounding_stream
from ovonic.tasks.trajectories import TrajectoryBatch, sample_trajectories

SEED, B = 4, 3
INNER = InnerLoop(rate=2e-3, step=1 / 64, rounding="stochastic")
IDEAL = CrossbarSettings(device_model("none"), Periphery.ideal())
PCM = CrossbarSettings(device_model("pcm"))


@pytest.fixture(scope="module")
def robot() -> Robot:
    """A small one that spikes."""
    config = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10)
    pair = initial_pair(config, 3)
    lsg, trainee = pair.lsg.weights(), pair.trainee.weights()
    pair = pair._replace(
        lsg=pair.lsg.with_weights({"in.weight": 2 * lsg["in.weight"]}),
        trainee=pair.trainee.with_weights({"in.weight": 2 * trainee["in.weight"]}),
    )
    return Robot(config, pair)


class Class:
    """Movements, the software lessons on them, and chips for the same."""

    def __init__(self, robot: Robot, inner: InnerLoop, dtype: torch.dtype = torch.float64) -> None:
        self.inner, self.dtype = inner, dtype
        self.model = NaturalEProp(robot.pair, dtype=dtype).eval()
        self.movements: TrajectoryBatch = sample_trajectories(spec_for(robot), SEED, range(B), dtype)
        with torch.no_grad():
            self.software = self.model(self.movements.clock, self.movements.lsg_input, inner, self.rounding())

    def rounding(self) -> torch.Generator:
        return rounding_stream(SEED, range(B))

    def on(self, settings: CrossbarSettings, seed: int = 0, noise: int = 1) -> tuple[TraineeChip, Any]:
        """A chip and the lessons on it."""
        chip = TraineeChip(self.model.trainee.describe(), settings, seed=seed, dtype=self.dtype)
        generator = torch.Generator().manual_seed(noise)
        signal = self.software.learning_signal
        with torch.no_grad():
            done = chip.lessons(
                self.movements.clock, signal, self.inner, generator, self.rounding(), self.software.changes
            )
        return chip, done


@pytest.mark.parametrize("scale", ["column", "layer", "array"])
@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("adapt_on", ["device", "software"])
def test_ideal_devices_and_converters_are_software(robot: Robot, scale: str, updates: int, adapt_on: str) -> None:
    taught = Class(robot, replace(INNER, updates=updates))
    _, done = taught.on(replace(IDEAL, scale=scale, adapt_on=adapt_on))
    if scale == "array":  # the range of a small column is left by updates
        assert not done.counts["saturated"].any()
        for name, change in taught.software.changes.items():
            assert change.any()
            assert torch.equal(done.changes[name], change)
        torch.testing.assert_close(done.after, taught.software.after, rtol=0, atol=1e-12)
    torch.testing.assert_close(done.before, taught.software.before, rtol=0, atol=1e-12)
    assert (done.after - done.before).abs().max() > 1e-3


def test_without_adaptation_the_last_trial_is_that_of_the_programmed_chip(robot: Robot) -> None:
    _, done = Class(robot, INNER).on(replace(IDEAL, adapt_on="none"))
    assert torch.equal(done.before, done.after)
    assert done.changes == {}
    for name in ("devices_reprogrammed", "cells_reprogrammed", "pulses", "saturated"):
        assert not done.counts[name].any()


def dense(chip: TraineeChip, done: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Targets before and after each lesson, [B, 4, rows, columns], and where the latter lie beyond full scale."""
    placed, settings = chip.placed, chip.settings
    delta = torch.zeros(B, *placed.weight.shape, dtype=placed.weight.dtype)
    delta[:, :, : placed.n] = torch.cat(list(done.changes.values()), 1)
    wanted = placed.weight + torch.where(placed.used, delta, 0.0)
    before, after = (chip._targets(w, placed.w_max).expand(B, 4, *placed.weight.shape) for w in (placed.weight, wanted))
    assert settings.adapt_on == "device"
    return before, after, (wanted.abs() > placed.w_max) & (delta != 0) & placed.used


@pytest.mark.parametrize("split", ["fill", "equal"])
@pytest.mark.parametrize("model", ["pcm", "hermes-pair"])
def test_exactly_the_devices_whose_target_changes_are_programmed(robot: Robot, split: str, model: str) -> None:
    taught = Class(robot, INNER, torch.float32)
    chip, done = taught.on(replace(PCM, split=split, model=device_model(model)))
    before, after, beyond = dense(chip, done)
    changed = before != after
    assert changed.any()
    assert done.counts["devices_reprogrammed"].tolist() == changed.sum((1, 2, 3)).tolist()
    assert done.counts["cells_reprogrammed"].tolist() == changed.any(1).sum((1, 2)).tolist()
    assert done.counts["pulses"].tolist() == changed.sum((1, 2, 3)).tolist()
    assert done.counts["saturated"].tolist() == beyond.sum((1, 2)).tolist()


@pytest.mark.parametrize("read_time_s", [0.0, 1e6])
def test_untouched_devices_keep_every_bit(robot: Robot, read_time_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last trial reads, against the devices of the chip itself at that time."""
    from ovonic.tasks import robot_crossbar

    seen: list[Any] = []
    real: Callable[..., Any] = robot_crossbar.trials

    def spy(*args: Any) -> Any:
        seen.append(args)
        return real(*args)

    monkeypatch.setattr(robot_crossbar, "trials", spy)
    taught = Class(robot, replace(INNER, updates=2), torch.float32)
    settings = replace(PCM, read_time_s=read_time_s, split="equal")
    chip = TraineeChip(taught.model.trainee.describe(), settings, seed=0)
    kept = crossbar.ArrayState(*(field.clone() for field in chip.state))
    done = chip.lessons(
        taught.movements.clock, taught.software.learning_signal, taught.inner, torch.Generator().manual_seed(0),
        taught.rounding(),
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(kept, chip.state, strict=True))
    _, _, weight, load, _, _, _, cells = seen[-1]
    late = kept if not read_time_s else chip.late
    assert torch.equal(weight, crossbar.weights(late, 25.0))
    _, after, _ = dense(chip, done)
    size = chip.placed.weight.numel()
    changed = (after != kept.g_target).any(1).reshape(B, size)
    touched = torch.zeros(B, size, dtype=torch.bool)
    touched.view(-1)[cells.place] = True
    assert bool(touched[changed].all())
    assert bool((load >= 0).all())
    # a cell has four devices: those of the polarity that stays at 0 uS were not touched, and still hold 0
    sign = torch.where(after[:, 0] + after[:, 2] > 0, 1.0, -1.0).reshape(B, size)
    fresh = cells.weight * sign.view(-1)[cells.place]
    assert bool((fresh >= -1e-6).float().mean() > 0.9)


def test_the_masked_diagonal_costs_nothing(robot: Robot) -> None:
    chip, done = Class(robot, INNER, torch.float32).on(PCM)
    n_in, n = chip.placed.n_in, chip.placed.n
    diagonal = torch.stack([f.float()[:, n_in:, :n].diagonal(dim1=1, dim2=2) for f in chip.state[:3]])
    assert not diagonal.any()
    assert not chip.state.pulses[:, n_in:, :n].diagonal(dim1=1, dim2=2).any()
    assert not chip.state.g_prog[:, :n_in, n:].any()
    (rec,) = (c for c in done.changes.values() if c.shape[1] == n)
    assert rec.diagonal(dim1=1, dim2=2).any()
    assert int(chip.programmed.any(0).sum()) == chip.placed.used.sum() == (n_in + n) * (n + 2) - n - 2 * n_in


def test_seeds(robot: Robot) -> None:
    taught = Class(robot, INNER, torch.float32)
    (chip, a), (_, again), (other, b), (_, c) = (taught.on(PCM, *seeds) for seeds in ((0, 1), (0, 1), (1, 1), (0, 2)))
    assert torch.equal(a.after, again.after)
    assert not torch.equal(a.after, b.after)
    assert not torch.equal(a.after, c.after)
    assert not torch.equal(chip.state.g_prog, other.state.g_prog)


def test_full_scale(robot: Robot) -> None:
    net = robot.pair.trainee
    weights = {name: np.abs(w) for name, w in net.weights().items()}
    np.fill_diagonal(weights["trainee.recurrence"], 0)
    n_in, n = 5, 20
    column, layer, array = (place(net, scale, torch.float64) for scale in ("column", "layer", "array"))
    assert column.w_max[0, :n].numpy() == pytest.approx(weights["in.weight"].max(0) + HEADROOM)
    assert column.w_max[n_in, :n].numpy() == pytest.approx(weights["trainee.recurrence"].max(0) + HEADROOM)
    assert column.w_max[-1, n:].numpy() == pytest.approx(weights["out.weight"].max(0))
    assert layer.w_max[n_in, 0].item() == pytest.approx(weights["trainee.recurrence"].max())
    assert layer.w_max[-1, -1].item() == pytest.approx(weights["out.weight"].max())
    assert array.w_max[array.used].unique().tolist() == pytest.approx([max(w.max() for w in weights.values())])


def test_programmed_weights_have_the_error_of_the_devices(robot: Robot) -> None:
    """sum over cells of ((w - w_T) / sigma)^2 is chi-square but for the clamp at 0 uS: cells of w_T > .2 are taken.

    False-alarm rate 1e-3; n about 100 cells: a sigma off by 40 % would be found with probability > .99.
    """
    from ovonic.models.splitting import weight_sigma

    model = device_model("pcm", read_scale=0.0)
    chip = TraineeChip(robot.pair.trainee, replace(PCM, model=model), seed=2, dtype=torch.float64)
    target = chip.placed.weight / chip.placed.w_max
    large = target.abs() > 0.2
    error = (crossbar.weights(chip.state, 25.0) - target)[large] / weight_sigma(target, model)[large]
    n, chi = int(large.sum()), float(error.square().sum())
    assert n > 80
    assert 2 * min(stats.chi2.cdf(chi, n), stats.chi2.sf(chi, n)) > 1e-3


@pytest.mark.parametrize("compensation", ["global", "column"])
def test_compensation_gives_back_what_drift_took(robot: Robot, compensation: str) -> None:
    """Without read noise, and with one exponent for all devices, the factor is exact."""

    class Alike:
        """pcm whose devices all drift with nu = .05."""

        def __getattr__(self, name: str) -> Any:
            return getattr(device_model("pcm", prog_scale=0.0, read_scale=0.0), name)

        def draw_nu(self, g_target: Tensor, generator: torch.Generator | None) -> Tensor:
            return torch.full_like(g_target, 0.05)

    taught = Class(robot, INNER)
    late = replace(IDEAL, model=Alike(), read_time_s=1e6)
    _, software = taught.on(replace(IDEAL, scale="layer"))
    _, drifted = taught.on(replace(late, scale="layer"))
    periphery = replace(late.periphery, compensation=compensation)
    _, restored = taught.on(replace(late, scale="layer", periphery=periphery))
    torch.testing.assert_close(restored.after, software.after, rtol=0, atol=1e-9)
    assert not torch.allclose(drifted.after, software.after, atol=1e-3)


def test_verified_lessons_count_their_pulses(robot: Robot) -> None:
    taught = Class(robot, replace(INNER, updates=2), torch.float32)
    chip, done = taught.on(replace(PCM, verify=Verify(4, 0.5)))
    assert (done.counts["pulses"] > done.counts["devices_reprogrammed"]).all()
    assert (done.counts["pulses"] <= 4 * done.counts["devices_reprogrammed"]).all()
    assert chip.state.pulses.max() == 4


def test_averaged_reads_are_counted(robot: Robot) -> None:
    taught = Class(robot, INNER)
    _, once = taught.on(IDEAL)
    _, thrice = taught.on(replace(IDEAL, reads=3))
    assert torch.equal(thrice.counts["reads"], 3 * once.counts["reads"])
    torch.testing.assert_close(once.after, thrice.after)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": "colum"}, "column"),
        ({"adapt_on": "chip"}, "adapt_on 'chip'"),
        ({"read_time_s": -1.0}, "read_time_s -1.0"),
        ({"reads": 0}, "reads 0"),
        ({"periphery": Periphery(wire_ohm=1.0)}, "wire_ohm"),
        ({"periphery": Periphery(read_phases=4)}, "read_phases 4"),
    ],
)
def test_bad_settings(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(PCM, **wrong)


def test_software_adaptation_needs_the_twins_changes(robot: Robot) -> None:
    taught = Class(robot, INNER)
    chip = TraineeChip(robot.pair.trainee, replace(IDEAL, adapt_on="software"), seed=0, dtype=torch.float64)
    with pytest.raises(ConfigError, match="adapt_on 'software'"):
        chip.lessons(taught.movements.clock, taught.software.learning_signal, INNER, torch.Generator())


def evaluated(robot: Robot, settings: CrossbarSettings, chips: int = 2, inner: InnerLoop = INNER) -> ChipEvaluation:
    return evaluate_on_chips(robot, spec_for(robot), 5, inner, settings, chips, SEED, batch=2)


def test_the_twin_is_the_software_evaluation(robot: Robot) -> None:
    on_chips = evaluated(robot, PCM)
    software = evaluate_robot(robot, spec_for(robot), 5, INNER, SEED, batch=2)
    assert np.array_equal(on_chips.software_after["loss"], software.after.loss)
    assert np.array_equal(on_chips.software_before["tip_rmse_mm"], software.before.tip_rmse_mm)


def test_ideal_chips_evaluate_as_software(robot: Robot) -> None:
    report = evaluated(robot, replace(IDEAL, scale="array")).report()
    assert report["hardware"]["loss_ratio"]["ratio"] == pytest.approx(1, abs=1e-3)
    assert report["hardware"]["chips"]["sd"] == pytest.approx(0, abs=1e-9)
    assert report["loss"]["mean"] == pytest.approx(report["software"]["loss"]["mean"], rel=1e-3)


def test_a_chip_does_not_depend_on_how_many_there_are(robot: Robot) -> None:
    two, three = evaluated(robot, PCM, 2), evaluated(robot, PCM, 3)
    assert np.array_equal(two.after["loss"], three.after["loss"][:2])
    assert not np.array_equal(two.after["loss"][0], two.after["loss"][1])


def test_unrounded_updates_program_every_cell_that_learns(robot: Robot) -> None:
    """All but those whose neuron or input was silent."""
    found, rounded = (evaluated(robot, PCM, 1, i) for i in (replace(INNER, step=None, rounding="nearest"), INNER))
    assert found.counts["cells_reprogrammed"].min() > 0.7 * 20 * 24
    assert rounded.counts["cells_reprogrammed"].max() < 0.65 * 20 * 24


@pytest.mark.parametrize(("chips", "updates", "said"), [(0, 1, "0 chips"), (1, 0, "updates 0")])
def test_bad_evaluations(robot: Robot, chips: int, updates: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluated(robot, PCM, chips, replace(INNER, updates=updates))


@pytest.mark.parametrize("model", ["none", "pcm"])
def test_agrees_with_the_network_placed_on_a_simulated_chip(robot: Robot, model: str) -> None:
    """The general path, ``adapters.crossbar_placed``: equal targets, and lessons equal where nothing is drawn."""
    from ovonic.adapters.crossbar_mapping import trainee_layout
    from ovonic.adapters.crossbar_placed import PlacedChip, PlacedTrials
    from ovonic.adapters.crossbar_weights import targets
    from ovonic.models.chip import SimulatedChip

    taught = Class(robot, INNER, torch.float32)
    settings = replace(IDEAL, scale="layer", model=device_model(model))
    chip, done = taught.on(settings)
    net = taught.model.trainee.describe()
    own, n_in, n = chip.placed.w_max, chip.placed.n_in, chip.placed.n
    names = list(net.weights())
    full = dict(zip(names, (own[0, 0].item(), own[n_in, 0].item(), own[-1, -1].item()), strict=True))
    layout = trainee_layout(net, together="rows", w_max=full)
    weights = {name: torch.tensor(w, dtype=torch.float32) for name, w in net.weights().items()}
    (target,) = targets(layout, weights, 25.0, "fill")
    rows, columns = chip.placed.weight.shape
    torch.testing.assert_close(target[:, :rows, :columns], chip.state.g_target, rtol=0, atol=2e-5)
    if model != "none":
        return
    general = SimulatedChip(1, settings.model, settings.periphery, seed=1)
    PlacedChip.program(layout, weights, general)
    products = PlacedTrials(layout, general, seed=1)
    with torch.no_grad():
        lesson = taught.model.teach(
            taught.movements.clock, taught.software.learning_signal, INNER, taught.rounding(), products
        )
    assert n == 20
    torch.testing.assert_close(done.before, lesson.before, rtol=0, atol=1e-5)
    torch.testing.assert_close(done.after, lesson.after, rtol=0, atol=1e-5)
    assert products.counters.devices_programmed == int(done.counts["devices_reprogrammed"].sum()) > 0
    assert products.counters.cells_programmed == int(done.counts["cells_reprogrammed"].sum())
