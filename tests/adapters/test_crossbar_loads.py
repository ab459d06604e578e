"""The closed forms of ``models.experiment_counts`` are those of the layouts that the networks are really placed by."""

from dataclasses import replace

import torch

from ovonic.adapters.crossbar_loads import loads_of
from ovonic.adapters.crossbar_mapping import cnn_layout, lsg_layout, trainee_layout
from ovonic.adapters.crossbar_placed import PlacedChip
from ovonic.models.accounting import Counts
from ovonic.models.chip import SimulatedChip
from ovonic.models.experiment_counts import (
    LSG_LOADS,
    TRAINEE_LOADS,
    cnn_loads,
    inference_counts,
    programming_counts,
    robot_counts,
)
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.natural_eprop_networks import initial_pair
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.simulation import run


def test_the_cnn() -> None:
    placed = loads_of(cnn_layout(FewshotCNN(generator=torch.Generator().manual_seed(0))))
    assert [replace(x, name="") for x in placed] == [replace(x, name="") for x in cnn_loads(2)]


def test_trainee_and_learning_signal_generator() -> None:
    pair = initial_pair(seed=1)
    assert [replace(x, name="trainee") for x in loads_of(trainee_layout(pair.trainee))] == list(TRAINEE_LOADS)
    placed, closed = (inference_counts(x, 249) for x in (loads_of(lsg_layout(pair.lsg)), LSG_LOADS))
    assert (placed.mvms, placed.phases, placed.elements) == (closed.mvms, closed.phases, closed.elements)
    assert programming_counts(loads_of(lsg_layout(pair.lsg))) == programming_counts(LSG_LOADS)


def test_a_simulated_trial_counts_what_the_closed_form_says() -> None:
    pair = initial_pair(seed=1)
    layout = trainee_layout(pair.trainee)
    chip = SimulatedChip(1, device_model("none"), Periphery.ideal(), seed=3)
    placed = PlacedChip.program(layout, pair.trainee.weights(), chip)
    closed = robot_counts(loads_of(layout), steps=6, lsg="elsewhere")
    assert chip.counters.devices_programmed == closed["deployment"].devices_programmed - 4 * 250  # masked diagonal
    before = chip.counters.copy()
    run(pair.trainee, torch.zeros(1, 6, 5), placed.trial())
    counted = Counts.of(chip.counters - before)
    assert (counted.mvms, counted.phases) == (closed["inference"].mvms, closed["inference"].phases)
