"""NeuroBench's numbers against counts of our own, which share no code with it, and where it counts what few expect."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

pytest.importorskip("neurobench", reason="needs NeuroBench: pip install 'ovonic[neurobench]'")

from neurobench.benchmarks import Benchmark
from neurobench.metrics.workload import NeuronOperations, SynapticOperations
from neurobench.models import TorchModel
from torch.utils.data import DataLoader, TensorDataset

from ovonic.adapters import neurobench, neurobench_modules
from ovonic.adapters.neurobench import Complexity, mean_complexity, module_complexity, network_complexity
from ovonic.adapters.torch_layers import Hollow
from ovonic.models.dynamics import Adaptation, Dynamics, Refractory, SubtractAdapted
from ovonic.models.errors import ConfigError, ToolchainError, UnsupportedDynamics
from ovonic.models.experiment_counts import LSG_LOADS, TRAINEE_LOADS, cnn_loads, twin_counts
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.fewshot_inference import LearnedTask
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run

pytestmark = pytest.mark.toolchain


def spikes_in(*shape: int, rate: float = 0.2, seed: int = 0) -> torch.Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).double()


def recurrent(seed: int = 0, delay: int = 1, hollow: bool = True) -> Network:
    """5 inputs, 12 adaptive, refractory neurons, 3 outputs; some weights are zero."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Any:
        return rng.normal(size=shape) * (rng.random(shape) < 0.7)

    dynamics = Dynamics(
        0.9,
        0.4,
        reset=SubtractAdapted(),
        refractory=Refractory.from_n_ref(3),
        adaptation=Adaptation(0.99, np.repeat([0.0, 0.5], 6)),
    )
    return Network.stack(
        {
            "x": Input((5,)),
            "in": Linear(weight(5, 12)),
            "cells": Spiking(dynamics, Recurrence(weight(12, 12), delay, masked_diagonal=hollow)),
            "out": Linear(weight(12, 3)),
            "y": Readout(0.8),
        }
    )


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("hollow", [True, False])
def test_a_recurrent_network_against_counts_of_its_trace(delay: int, hollow: bool) -> None:
    network, x = recurrent(2, delay, hollow), spikes_in(7, 20, 5)
    found = network_complexity(network, x, batch=3)
    cells = run(network, x)["cells"]
    z, v, w = cells.spikes.numpy(), cells.membrane.numpy(), network.weights()
    w_rec = w["cells.recurrence"].copy()
    if hollow:
        np.fill_diagonal(w_rec, 0.0)
    fed = np.concatenate([np.zeros((7, delay, 12)), z[:, :-delay]], 1)
    fan_out = [(m != 0).sum(1) for m in (w["in.weight"], w_rec, w["out.weight"])]
    acs = sum(float((given @ out).sum()) for given, out in zip((x.numpy(), fed, z), fan_out, strict=True))
    weights = [w["in.weight"], w_rec, w["out.weight"]]
    assert z.sum() > 50
    assert found.effective_acs == acs / 7
    assert found.effective_macs == 0
    assert found.dense == 20 * (5 * 12 + 12 * 12 + 12 * 3)
    assert found.activation_sparsity == pytest.approx(1 - z.mean(), abs=1e-12)
    assert found.activation_sparsity_by_layer == {"cells": pytest.approx(1 - z.mean())}
    assert found.membrane_updates == (12 * 7 + (v[:, 1:] != v[:, :-1]).sum()) / 7
    zeros, count = sum((m == 0).sum() for m in weights), sum(m.size for m in weights)
    assert found.connection_sparsity == round(zeros / count, 4)
    assert found.parameters == count
    assert found.footprint_bytes == 4 * count + 16
    assert found.samples == 7


def test_membrane_updates_leave_out_neurons_whose_membrane_stays() -> None:
    """The first step of every batch counts every neuron; a neuron that nothing ever reaches is not counted again."""
    w = np.array([[1.0, 0.0]])
    network = Network.stack(
        {"x": Input((1,)), "in": Linear(w), "cells": Spiking(Dynamics(0.9, 10.0)), "out": Linear(np.ones((2, 1))),
         "y": Readout(0.8)}
    )  # fmt: skip
    x = torch.zeros(4, 6, 1, dtype=torch.float64)
    x[:, 2] = 1
    found = network_complexity(network, x, batch=2)
    trace = run(network, x)["cells"].membrane
    assert found.membrane_updates == (2 * 4 + int((trace[:, 1:] != trace[:, :-1]).sum())) / 4 == 2 + 4
    assert found.activation_sparsity == 1


def test_convolutions_pools_and_delays_are_seen_and_their_spikes_ours() -> None:
    rng = np.random.default_rng(1)
    layers = {
        "x": Input((2, 6, 6)),
        "conv": Conv(rng.normal(size=(2, 3, 3, 3)), padding=(1, 1)),
        "first": Spiking(Dynamics(0.8, 0.5)),
        "pool": Pool(Pooling.MAX, (2, 2)),
        "flat": Flatten(),
        "in": Linear(rng.normal(size=(27, 4))),
        "second": Spiking(Dynamics(0.8, 0.5)),
    }
    names = list(layers)
    edges = [Edge(a, b, 2 if a == "flat" else 0) for a, b in itertools.pairwise(names)]
    network, x = Network(layers, edges, 1.0), spikes_in(3, 10, 2, 6, 6)
    found = network_complexity(network, x)
    assert found.activation_sparsity_by_layer.keys() == {"first", "second"}
    taps = 16**2  # of a 3 x 3 window over 6 positions with padding 1: 2 + 4 x 3 + 2 on each axis
    assert found.dense == 10 * (2 * 3 * taps + 27 * 4)
    trace = run(network, x)
    kernel = (torch.tensor(layers["conv"].weight).transpose(0, 1) != 0).double()
    convolved = nn.functional.conv2d((x != 0).double().flatten(0, 1), kernel, padding=1).sum()
    pooled = nn.functional.max_pool2d(trace["first"].spikes.flatten(0, 1), 2).flatten(1).reshape(3, 10, 27)
    assert found.effective_acs == float(convolved + pooled[:, :8].sum() * 4) / 3


def test_full_size_networks_against_the_counts_of_energy() -> None:
    """Every product of the arm's networks, and of the few-shot network but for the zeros around its images."""
    config = NaturalEPropConfig()
    pair = initial_pair(config)
    for network, loads, steps in ((pair.trainee, TRAINEE_LOADS, 4), (pair.lsg, LSG_LOADS, 2)):
        (name,) = network.inputs
        found = network_complexity(network, spikes_in(2, steps, *network.shapes[name]))
        assert found.dense == twin_counts(loads, steps).macs
        assert found.connection_sparsity == round(network.shapes[network.spiking[0]][0] / found.parameters, 4)
    net = FewshotCNN(generator=torch.Generator().manual_seed(0))
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    image = module_complexity(LearnedTask(net, images, torch.randn(5, 56)), images)
    per_axis = {28: 41, 14: 20, 7: 10, 4: 5}  # rows of a 3 x 3 window, stride 2, padding 1, that lie in the image
    first, *deep = (taps**2 for taps in per_axis.values())
    assert image.dense == 56 * first + 56**2 * sum(deep) + 56 * 5 == 1_740_816
    textbook = twin_counts(cnn_loads()).macs
    assert textbook == 56 * 9 * 14**2 + 504 * 56 * (7**2 + 4**2 + 2**2) + 280
    assert image.dense < textbook
    assert image.footprint_bytes == 4 * (85_456 + 2 * 4 * 56)
    assert image.parameters == 85_456
    assert image.membrane_updates is None


def test_macs_of_the_few_shot_network_by_unfolding() -> None:
    """Effective MACs are pairs of a value and a weight that are both not 0, in the images that really arrive."""
    net = FewshotCNN(CNNConfig(channels=6, blocks=3), torch.Generator().manual_seed(2))
    with torch.no_grad():
        for kernel in net.conv_weights():
            kernel[kernel.abs() < 0.1] = 0
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(3)).round(decimals=1)
    images[images > 0.8] = 0
    module = LearnedTask(net, images, torch.randn(5, 6, generator=torch.Generator().manual_seed(4)))
    found, counted = module_complexity(module, images, batch=2), 0
    double = LearnedTask(net, images, module.readout.weight, dtype=torch.float64)
    h, zeros, outputs = images.double(), 0, 0
    for block, conv in enumerate(double.convs):
        patches = nn.functional.unfold(h, 3, padding=1, stride=2).transpose(1, 2)
        counted += int(((patches != 0).double() @ (conv.weight.flatten(1) != 0).double().T).sum())
        r = torch.relu(conv(h))
        zeros, outputs = zeros + int((r == 0).sum()), outputs + r.numel()
        h = (r - double.mean[block].view(-1, 1, 1)) * double.rstd[block].view(-1, 1, 1)
    counted += 5 * 6 * 5
    assert found.effective_macs == counted / 5
    assert found.effective_acs == 0
    assert found.activation_sparsity == pytest.approx(zeros / outputs, rel=1e-12)
    assert 0.2 < found.activation_sparsity < 0.8
    assert (h != 0).all(), "the norm leaves no zero for the next convolution to skip"


def benchmark_of(module: nn.Module, x: torch.Tensor, *metrics: Any) -> dict[str, Any]:
    data = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=len(x))
    return dict(Benchmark(TorchModel(module), data, [], [], [[], list(metrics)]).run(quiet=True))


def test_what_neurobench_counts_and_few_expect() -> None:
    """Each of these is in docs/complexity.md: a version that counts otherwise fails here."""
    layer = nn.Sequential(nn.Linear(4, 3, bias=False))
    binary = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    assert benchmark_of(layer, binary, SynapticOperations)["SynapticOperations"] == {
        "Effective_MACs": 0.0,
        "Effective_ACs": 9.0,
        "Dense": 12.0,
    }, "any call with inputs of 0 and +-1 alone counts as spiking"
    hollow = nn.Linear(4, 4, bias=False)
    nn.init.constant_(hollow.weight, 0.25)
    parametrize.register_parametrization(hollow, "weight", Hollow())
    found = benchmark_of(nn.Sequential(hollow), binary * 2, SynapticOperations)["SynapticOperations"]
    assert found["Effective_MACs"] != 3 * 3, "a masked weight is not binarised: its products are not counted as one"
    assert benchmark_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(1, 2), NeuronOperations) == {
        "NeuronOperations": 0.0
    }, "a metric that fails is printed and counts as 0"
    big, many = nn.Sequential(nn.Linear(513, 513, bias=False)), torch.full((101, 513), 2.0)
    nn.init.constant_(big[0].weight, 1.0)
    many[0, 0] = 0
    assert 101 * 513**2 > 2**24, "beyond what float32, in which NeuroBench would add, holds exactly"
    assert module_complexity(big, many, batch=101).effective_macs == (101 * 513 - 1) * 513 / 101


def test_a_metric_that_fails_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurobench_modules, "WORKLOAD", (NeuronOperations, *neurobench_modules.WORKLOAD))
    with pytest.raises(ToolchainError, match="Error running workload metric 'NeuronOperations'"):
        network_complexity(recurrent(), spikes_in(1, 5, 5))


def test_other_spikes_than_the_networks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    step = neurobench_modules.step

    def blind(current: Any, state: Any, dynamics: Any) -> Any:
        return step(current, state._replace(r=None if state.r is None else torch.zeros_like(state.r)), dynamics)

    monkeypatch.setattr(neurobench_modules, "step", blind)
    with pytest.raises(ToolchainError, match=r"layer 'cells': \d+ spikes of NeuroBench's run are not those"):
        network_complexity(recurrent(2), spikes_in(7, 20, 5, rate=0.5))


def test_nothing_is_left_behind() -> None:
    """No neuron stays in snnTorch's list, and no hook on the module."""
    from snntorch import SpikingNeuron

    before = len(SpikingNeuron.instances)
    network_complexity(recurrent(), spikes_in(2, 5, 5))
    assert len(SpikingNeuron.instances) == before
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    module_complexity(module, torch.ones(2, 3))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module)


def test_the_mean_of_several() -> None:
    a, b = (network_complexity(recurrent(seed), spikes_in(2, 10, 5, seed=seed)) for seed in (1, 2))
    mean = mean_complexity([a, b])
    assert mean.effective_acs == (a.effective_acs + b.effective_acs) / 2
    assert mean.samples == 4
    assert mean.activation_sparsity_by_layer["cells"] == pytest.approx(mean.activation_sparsity)
    assert mean_complexity([a]) == a
    with pytest.raises(ConfigError, match="0 measurements"):
        mean_complexity([])
    with pytest.raises(ConfigError, match="2 measurements"):
        mean_complexity([a, Complexity(**a.as_dict() | {"samples": 3})])


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = recurrent()
    layers = dict(alone.layers) | {"cells": alone.layers["cells"].replace(recurrence=Recurrence(np.ones(12)))}
    with pytest.raises(UnsupportedDynamics, match="'cells': recurrence of one weight a neuron"):
        network_complexity(Network.stack(layers), spikes_in(1, 5, 5))
    with pytest.raises(ConfigError, match="one sample or more"):
        network_complexity(alone, torch.zeros(0, 5, 5))
    with pytest.raises(ConfigError, match="'x'"):
        network_complexity(alone, spikes_in(1, 5, 4))
    net = FewshotCNN(CNNConfig(norm="transductive"))
    with pytest.raises(ConfigError, match="transductive"):
        LearnedTask(net, torch.rand(5, 1, 28, 28), torch.randn(5, 56))
    monkeypatch.delitem(sys.modules, "ovonic.adapters.neurobench_modules")
    monkeypatch.delattr("ovonic.adapters.neurobench_modules")
    monkeypatch.setitem(sys.modules, "neurobench.benchmarks", None)
    with pytest.raises(ToolchainError, match=r"pip install 'ovonic\[neurobench\]'"):
        neurobench.load()
