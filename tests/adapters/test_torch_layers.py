"""Layers without state as torch modules: the same numbers out, the same layer back, and options that are refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from ovonic.adapters.torch_layers import Hollow, build_layer, per_neuron, read_layer
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Pool, Pooling, Readout
from ovonic.models.network import Network
from ovonic.models.simulation import run

RNG = np.random.default_rng(1)
DOUBLE = functools.partial(torch.tensor, dtype=torch.float64)
CASES: list[tuple[Layer, tuple[int, ...]]] = [
    (Linear(RNG.normal(size=(3, 4))), (3,)),
    (Linear(RNG.normal(size=(3, 4)), RNG.normal(size=4)), (3,)),
    (Conv(RNG.normal(size=(2, 4, 3)), stride=(2,), padding=(1,)), (2, 9)),
    (Conv(RNG.normal(size=(1, 4, 3, 2)), RNG.normal(size=4), (2, 1), (1, 0), (1, 2), groups=2), (2, 7, 8)),
    *((Pool(how, (3, 2), (2, 1), (1, 1)), (2, 7, 8)) for how in Pooling),
    *((Pool(how, (2,)), (2, 8)) for how in Pooling),
    (Flatten(), (2, 3, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_module_gives_what_the_layer_gives_and_reads_back(layer: Layer, shape: tuple[int, ...]) -> None:
    module, x = build_layer(layer, DOUBLE), DOUBLE(RNG.normal(size=(3, 1, *shape)))
    network = Network.stack({"x": Input(shape), "y": layer, "flat": Flatten(), "out": Readout(0.0)})
    with torch.no_grad():
        given = module(x[:, 0])
    assert given.shape[1:] == network.shapes["y"]
    assert torch.allclose(given.flatten(1), run(network, x).readout[:, 0], 0, 1e-12)
    assert read_layer("y", module) == layer


def test_effective_weights_are_read() -> None:
    """Weight norm and pruning are parametrizations or masks: what counts is the weight that acts."""
    normed = parametrizations.weight_norm(nn.Linear(3, 2).double())
    assert read_layer("y", normed) == Linear(normed.weight.detach().numpy().T, normed.bias.detach().numpy())
    pruned = prune.random_unstructured(nn.Linear(3, 2).double(), "weight", 0.5)
    with pytest.raises(UnsupportedDynamics, match=r"layer 'y': has forward hooks.*prune.remove"):
        read_layer("y", pruned)


def test_hollow_weights_have_no_diagonal() -> None:
    linear = nn.Linear(3, 3, bias=False)
    parametrize.register_parametrization(linear, "weight", Hollow())
    linear(torch.ones(1, 3)).sum().backward()
    original = linear.parametrizations.weight.original  # type: ignore[union-attr]
    assert linear.weight.diagonal().abs().sum() == 0
    assert original.diagonal().abs().min() > 0  # type: ignore[operator]
    assert torch.equal(original.grad, 1 - torch.eye(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), "padding_mode 'circular'"),
        (nn.Conv1d(1, 1, 2, padding="same"), "'same' of an even window"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.MaxPool2d(2, dilation=2), "dilation"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override 3"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "count_include_pad"),
        (nn.Flatten(2), r"nn.Flatten\(2, -1\)"),
        (nn.LazyLinear(3), "not initialised; run it once"),
    ],
)
def test_options_that_no_layer_has_are_refused(module: nn.Module, match: str) -> None:
    with pytest.raises(UnsupportedDynamics, match=f"layer 'y': .*{match}"):
        read_layer("y", module)


def test_padding_by_name() -> None:
    same = read_layer("y", nn.Conv2d(1, 1, (3, 5), padding="same"))
    assert isinstance(same, Conv)
    assert same.padding == (1, 2)


def test_numbers_are_spread_as_torch_spreads_them() -> None:
    assert per_neuron(DOUBLE(0.5), (3,)) == per_neuron(0.5, (2, 2)) == 0.5
    assert np.array_equal(per_neuron(DOUBLE([[1.0, 2.0]]), (2,)), [1.0, 2.0])
    assert np.array_equal(per_neuron(DOUBLE([[[1.0]], [[2.0]]]), (2, 1, 2)), [[[1.0, 1.0]], [[2.0, 2.0]]])
    with pytest.raises(ConfigError, match=r"\(3,\) numbers for neurons of \(2,\)"):
        per_neuron(DOUBLE([1.0, 2.0, 3.0]), (2,))
