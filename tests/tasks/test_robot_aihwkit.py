"""Lessons on aihwkit's devices: software where nothing is noisy, and the crossbar's distribution where it is.

Statistics: two-sided tests of means and of variances of programmed weights (n = 2 x 24 chips x 500 cells) and of trial
outputs; false-alarm rate 1e-4 each, under 1e-3 in all; they would detect a programming error 5 % too large, or an
offset of a tenth of its standard deviation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

pytest.importorskip("aihwkit", reason="needs aihwkit: pip install 'ovonic[aihwkit]'")

from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.natural_eprop import InnerLoop, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.verify import Verify
from ovonic.tasks.robot import Robot, spec_for
from ovonic.tasks.robot_aihwkit import TraineeTiles, hardware_of
from ovonic.tasks.robot_crossbar import ChipLesson, CrossbarSettings, TraineeChip
from ovonic.tasks.robot_crossbar_evaluation import evaluate_on_chips
from ovonic.tasks.robot_evaluation import rounding_stream
from ovonic.tasks.trajectories import sample_trajectories

pytestmark = pytest.mark.toolchain

SEED, B, DAY_S, ALARM = 4, 3, 86400.0, 1e-4
INNER = InnerLoop(rate=2e-3, step=1 / 64, rounding="stochastic")
IDEAL = CrossbarSettings(device_model("none"), Periphery.ideal(), scale="array")
PCM = CrossbarSettings(device_model("pcm", zero_targets="noisy"))


@pytest.fixture(scope="module")
def robot() -> Robot:
    """A small one that spikes."""
    config = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10)
    pair = initial_pair(config, 3)
    lsg, trainee = pair.lsg.weights(), pair.trainee.weights()
    return Robot(
        config,
        pair._replace(
            lsg=pair.lsg.with_weights({"in.weight": 2 * lsg["in.weight"]}),
            trainee=pair.trainee.with_weights({"in.weight": 2 * trainee["in.weight"]}),
        ),
    )


@pytest.fixture(scope="module")
def lesson(robot: Robot) -> dict[str, Any]:
    """Movements and the software lesson on them, float64."""
    model = NaturalEProp(robot.pair, dtype=torch.float64).eval()
    movements = sample_trajectories(spec_for(robot), SEED, range(B), torch.float64)
    with torch.no_grad():
        software = model(movements.clock, movements.lsg_input, INNER, rounding_stream(SEED, range(B)))
    return {"clock": movements.clock, "software": software, "trainee": model.trainee.describe()}


def given(make: Any, lesson: dict[str, Any], settings: CrossbarSettings, seed: int = 0, noise: int = 1) -> ChipLesson:
    chip = make(lesson["trainee"], settings, seed=seed, dtype=torch.float64)
    signal, rounding = lesson["software"].learning_signal, rounding_stream(SEED, range(B))
    done: ChipLesson = chip.lessons(lesson["clock"], signal, INNER, torch.Generator().manual_seed(noise), rounding)
    return done


@pytest.mark.parametrize("split", ["fill", "equal"])
@pytest.mark.parametrize("read_time_s", [0.0, DAY_S])
def test_ideal_devices_and_converters_are_software(lesson: dict[str, Any], split: str, read_time_s: float) -> None:
    done, software = (
        given(TraineeTiles, lesson, replace(IDEAL, split=split, read_time_s=read_time_s)),
        lesson["software"],
    )
    torch.testing.assert_close(done.before, software.before, rtol=0, atol=1e-12)
    torch.testing.assert_close(done.after, software.after, rtol=0, atol=1e-12)
    for name, change in software.changes.items():
        assert torch.equal(done.changes[name], change)
        assert change.any()


def test_counts_are_the_crossbars(lesson: dict[str, Any]) -> None:
    """Without noise both touch the same devices, count the same saturated targets, and make the same reads."""
    settings = replace(IDEAL, model=device_model("none"), scale="column")
    mine, other = (given(make, lesson, settings).counts for make in (TraineeTiles, TraineeChip))
    for name in ("devices_reprogrammed", "cells_reprogrammed", "saturated", "reads"):
        assert torch.equal(mine[name], other[name]), name
    assert mine["cells_reprogrammed"].all()
    programmed = [make(lesson["trainee"], settings, seed=0).programming() for make in (TraineeTiles, TraineeChip)]
    assert programmed[0] == programmed[1]


def matrices(chip: TraineeTiles | TraineeChip) -> Tensor:
    """Errors of the trainee's weights as they read at the first and at the last trial, [2, cells], full scale 1."""
    if isinstance(chip, TraineeChip):
        used = chip.placed.used
        asked = chip._read(chip.state.g_target)[0]
        return torch.stack([(read[0] - asked)[used] for read in (chip._now, chip._then)])
    found = []
    for which in ("state", "late"):
        parts = []
        for tile in chip.tiles.tiles.values():
            read = chip.tiles.reads(getattr(tile, which)) - (tile.weight / tile.w_max).clamp(-1, 1)
            parts.append(read[tile.used])
        found.append(torch.cat(parts))
    return torch.stack(found)


@pytest.mark.parametrize("model", ["pcm", "hermes"])
def test_devices_are_distributed_as_the_crossbars(robot: Robot, model: str) -> None:
    settings = replace(PCM, model=device_model(model, zero_targets="noisy"), read_time_s=DAY_S)
    errors = [
        torch.stack([matrices(make(robot.pair.trainee, settings, seed=seed)) for seed in range(24)])
        for make in (TraineeTiles, TraineeChip)
    ]
    for time in range(2):
        mine, other = (e[:, time].double() for e in errors)
        sd = float(other.std(0).mean())
        assert sd > 0.005, "there is noise to compare"
        per_chip = [e.mean(1).numpy() for e in (mine, other)]
        assert stats.ttest_ind(*per_chip).pvalue > ALARM
        spreads = [(e.square()).mean(1).numpy() for e in (mine, other)]
        assert stats.ttest_ind(*spreads).pvalue > ALARM
        assert abs(spreads[0].mean() / spreads[1].mean() - 1) < 0.15


def test_trials_are_distributed_as_the_crossbars(lesson: dict[str, Any]) -> None:
    """The mean square of the difference from software, one number a chip and trial, 16 chips each."""
    off = []
    for make in (TraineeTiles, TraineeChip):
        done = [given(make, lesson, PCM, seed=seed, noise=seed) for seed in range(16)]
        software = lesson["software"]
        off.append(
            [
                [float((d.before - software.before).square().mean()) for d in done],
                [float((d.after - software.after).square().mean()) for d in done],
            ]
        )
    for mine, other in zip(*off, strict=True):
        assert stats.ranksums(mine, other).pvalue > ALARM
        assert 0.4 < np.mean(mine) / np.mean(other) < 2.5


def test_reads_without_spikes_are_not_made_and_the_diagonal_holds_nothing(lesson: dict[str, Any]) -> None:
    n = len(lesson["trainee"].weights()["trainee.recurrence"])
    products = TraineeTiles(lesson["trainee"], PCM, seed=0).tiles.lesson(3)
    given_products = products({}, {})
    for name in ("trainee.recurrence", "out.weight"):
        assert not given_products[name](torch.zeros(2, n)).any()
        assert given_products[name](torch.ones(2, n)).any()
    assert products.counts["reads"].tolist() == [1, 1]
    quiet = replace(PCM, periphery=Periphery.ideal())
    product = TraineeTiles(lesson["trainee"], quiet, seed=0).tiles.lesson(3)({}, {})["trainee.recurrence"]
    found = product(torch.eye(n))
    assert not found.diagonal().any()
    assert (found != 0).sum() == n * (n - 1)


def test_a_chip_is_its_seed_and_a_lesson_its_own(lesson: dict[str, Any]) -> None:
    first, again = (given(TraineeTiles, lesson, PCM) for _ in range(2))
    assert torch.equal(first.after, again.after)
    assert not torch.equal(first.after, given(TraineeTiles, lesson, PCM, noise=2).after)
    assert not torch.equal(first.before, given(TraineeTiles, lesson, PCM, seed=1).before)


def test_evaluation_and_what_is_refused(robot: Robot) -> None:
    def evaluated(settings: CrossbarSettings, inner: InnerLoop = INNER) -> Any:
        return evaluate_on_chips(robot, spec_for(robot), 4, inner, settings, 2, SEED, batch=2, make=TraineeTiles)

    report = evaluated(PCM).report()
    assert report["hardware"]["per_lesson"]["pulses"] == report["devices_reprogrammed"] > 0
    assert report["hardware"]["chips"]["n"] == 2
    for change, said in (
        ({"split": "set_and_tune"}, "set_and_tune"),
        ({"verify": Verify(3, 0.5)}, "program-and-verify"),
        ({"reads": 4}, "reads 4"),
        ({"periphery": Periphery(compensation="global")}, "compensation global"),
        ({"periphery": Periphery(column_gain_sigma=0.1)}, "spread of columns"),
        ({"adapt_on": "software"}, "adapt_on software"),
    ):
        with pytest.raises(ConfigError, match=said):
            hardware_of(replace(PCM, **change))
    with pytest.raises(UnsupportedDynamics, match="published"):
        hardware_of(replace(PCM, model=device_model("published")))
    with pytest.raises(ConfigError, match="updates 2"):
        evaluated(PCM, replace(INNER, updates=2))
