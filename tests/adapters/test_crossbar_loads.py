"""The closed forms of ``models.experiment_counts`` are those of the layouts that the networks are really placed by."""

from dataclasses import replace

import torch

from ovonic.adapters.crossbar_loads import loads_of
from ovonic.adapters.crossbar_mapping import cnn_layout, lsg_layout, trainee_layout
from ovonic.models.experiment_counts import LSG_LOADS, TRAINEE_LOADS, cnn_loads, inference_counts, programming_counts
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.natural_eprop_networks import initial_pair


def test_the_cnn() -> None:
    placed = loads_of(cnn_layout(FewshotCNN(generator=torch.Generator().manual_seed(0))))
    assert [replace(x, name="") for x in placed] == [replace(x, name="") for x in cnn_loads(2)]


def test_trainee_and_learning_signal_generator() -> None:
    pair = initial_pair(seed=1)
    assert [replace(x, name="trainee") for x in loads_of(trainee_layout(pair.trainee))] == list(TRAINEE_LOADS)
    placed, closed = (inference_counts(x, 249) for x in (loads_of(lsg_layout(pair.lsg)), LSG_LOADS))
    assert (placed.mvms, placed.phases, placed.elements) == (closed.mvms, closed.phases, closed.elements)
    assert programming_counts(loads_of(lsg_layout(pair.lsg))) == programming_counts(LSG_LOADS)
