"""Models as snnTorch's users write them, run by their own code on snnTorch: what we read of them gives their spikes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ovonic.adapters.snntorch import from_snntorch, run
from ovonic.models.dynamics import NoReset, ResetToValue, SubtractThreshold, SubtractThresholdOnce, When
from ovonic.models.layers import Linear, Pool, Pooling, Readout, Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import run as run_plain

pytestmark = pytest.mark.toolchain
snn = pytest.importorskip("snntorch", reason="needs snntorch: pip install 'ovonic[snntorch]'")
utils = pytest.importorskip("snntorch.utils")

N_IN, N, N_OUT, STEPS, BATCH = 10, 7, 4, 60, 3
MECHANISMS = [(how, delay) for how in ("subtract", "zero", "none") for delay in (True, False)]
KINDS = ["Leaky", "Lapicque", "Synaptic", "RLeaky", "RLeaky one to one", "RSynaptic", "RSynaptic one to one"]


def keeps_dtype(u: Tensor) -> Tensor:
    """A spike_grad of the membrane's dtype, as float64 needs it."""
    return (u > 0).to(u.dtype)


def neuron_of(kind: str, n: int, mechanism: str = "subtract", reset_delay: bool = True, **options: Any) -> Any:
    """A neuron as a user makes it: Python floats, defaults where there are some."""
    name, *rest = kind.split(" ", 1)
    options = {"beta": 0.85, "reset_mechanism": mechanism} | options
    if name == "Lapicque":
        options = {"threshold": 0.15} | options  # its input is divided by C
    else:
        options["reset_delay"] = reset_delay
    if "Synaptic" in name:
        options.setdefault("alpha", 0.4)
    if rest:
        options |= {"all_to_all": False, "V": torch.rand(n) - 0.3}
    elif name.startswith("R"):
        options["linear_features"] = n
    return getattr(snn, name)(**options)


class Net(nn.Module):
    """The class of snnTorch's tutorials: explicit states, time first, every spike recorded."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Linear(N_IN, N)
        self.lif1 = first
        self.fc2 = nn.Linear(N, N_OUT)
        self.lif2 = second
        with torch.no_grad():
            self.fc1.weight.mul_(3).add_(0.1)
            self.fc2.weight.mul_(2).add_(0.15)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch = x.size(1)
        states1 = zero_states(self.lif1, batch, N, x)
        states2 = zero_states(self.lif2, batch, N_OUT, x)
        record1, record2, membranes = [], [], []
        for step in range(x.size(0)):
            spk1, *states1 = advance(self.lif1, self.fc1(x[step]), states1)
            spk2, *states2 = advance(self.lif2, self.fc2(spk1), states2)
            record1.append(spk1)
            record2.append(spk2)
            membranes.append(states2[-1])
        return torch.stack(record1), torch.stack(record2), torch.stack(membranes)


def zero_states(neuron: nn.Module, batch: int, n: int, like: Tensor) -> list[Tensor]:
    name = type(neuron).__name__
    return [torch.zeros(batch, n, dtype=like.dtype) for _ in range(name.startswith("R") + ("Synaptic" in name) + 1)]


def advance(neuron: nn.Module, current: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
    """One call with explicit states: a recurrent neuron returns the spikes that it takes, others theirs beside."""
    out: tuple[Tensor, ...] = neuron(current, *states)
    return (out[0], *out) if type(neuron).__name__.startswith("R") else out


def spikes_of(rate: float = 0.3, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Input, time first as users have it, [T, B, N]."""
    return (torch.rand(STEPS, BATCH, N_IN, generator=torch.Generator().manual_seed(seed)) < rate).to(dtype)


def assert_reads(network: Network, x: Tensor, spikes: dict[str, Tensor], toolchain: bool = True) -> None:
    """Our plain step, and snnTorch by ``run``, on what was read: the user's spikes [T, B, N], none of them rare."""
    for how in (run_plain, run) if toolchain else (run_plain,):
        trace = how(network, x.transpose(0, 1))
        for name, theirs in spikes.items():
            assert torch.equal(trace[name].spikes, theirs.transpose(0, 1)), name
            assert 0.03 < theirs.double().mean() < 0.97, name


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("mechanism", "reset_delay"), MECHANISMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_class_with_explicit_states(kind: str, mechanism: str, reset_delay: bool, double: bool) -> None:
    torch.manual_seed(5)
    options = {"spike_grad": keeps_dtype} if double else {}
    net = Net(neuron_of(kind, N, mechanism, reset_delay, **options), snn.Leaky(beta=0.7, **options))
    x = spikes_of(dtype=torch.float64 if double else torch.float32)
    net = net.double() if double else net
    with torch.no_grad():
        spk1, spk2, _ = net(x)
    network = from_snntorch(net)
    assert_reads(network, x, {"lif1": spk1, "lif2": spk2})
    if kind != "Lapicque":
        layer: Any = network.layers["lif1"]
        assert layer.dynamics.decay == float(np.float32(0.85))


@pytest.mark.parametrize(("mechanism", "reset_delay"), MECHANISMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequential_with_hidden_states(kind: str, mechanism: str, reset_delay: bool) -> None:
    torch.manual_seed(6)
    name = kind.split()[0]
    if name == "RSynaptic" and not reset_delay:
        pytest.skip("snnTorch 1.0 cannot run it")
    hidden = neuron_of(kind, N, mechanism, reset_delay, init_hidden=True)
    out = snn.Leaky(beta=0.7, init_hidden=True, output=True)
    net = nn.Sequential(nn.Linear(N_IN, N), hidden, nn.Dropout(0.5), nn.Linear(N, N_OUT), out).eval()
    with torch.no_grad():
        net[0].weight.mul_(3).add_(0.1)
        net[3].weight.mul_(2).add_(0.2)
    x, record = spikes_of(), []
    utils.reset(net)
    with torch.no_grad():
        for step in range(STEPS):
            spk, _ = net(x[step])
            record.append(spk)
    assert_reads(from_snntorch(net), x, {"4": torch.stack(record)})


@pytest.mark.parametrize("kind", KINDS)
def test_learned_numbers_one_a_neuron(kind: str) -> None:
    """learn_beta, learn_threshold, vectors; beta beyond 1 acts clamped."""
    torch.manual_seed(7)
    beta = 0.7 + 0.5 * torch.rand(N)
    assert (beta > 1).any()
    options: dict[str, Any] = {"beta": beta, "threshold": 0.5 + torch.rand(N), "learn_threshold": True}
    if kind == "Lapicque":
        options |= {"beta": False, "R": 2.5, "C": 3.5, "threshold": 0.1 + 0.2 * torch.rand(N)}
    else:
        options["learn_beta"] = True
    if "Synaptic" in kind:
        options |= {"alpha": torch.rand(N), "learn_alpha": True}
    first = neuron_of(kind, N, **options)
    net = Net(first, snn.Leaky(beta=0.7, threshold=0.8))
    x = spikes_of(0.5)
    with torch.no_grad():
        spk1, spk2, _ = net(x)
    network: Any = from_snntorch(net)
    assert_reads(network, x, {"lif1": spk1, "lif2": spk2})
    if kind != "Lapicque":
        assert np.array_equal(network.layers["lif1"].dynamics.decay, beta.clamp(0, 1).double().numpy())


def test_recurrence_autapses_biases_and_orientation() -> None:
    torch.manual_seed(8)
    net = Net(snn.RLeaky(beta=0.8, linear_features=N), snn.Leaky(beta=0.7))
    recurrent, bias = net.lif1.recurrent, net.fc1.bias.detach().double().numpy()  # type: ignore[union-attr]
    network: Any = from_snntorch(net)
    weight = recurrent.weight.detach().double().numpy()  # type: ignore[union-attr]
    assert np.array_equal(network.layers["lif1"].recurrence.weight, weight.T)
    assert np.diag(weight).all()
    assert np.array_equal(network.layers["fc1"].bias, bias + recurrent.bias.detach().double().numpy())  # type: ignore[union-attr]
    assert np.array_equal(network.layers["fc1"].weight, net.fc1.weight.detach().double().numpy().T)


@pytest.mark.parametrize("where", ["no bias before", "no layer before"])
def test_a_recurrent_bias_finds_a_place(where: str) -> None:
    torch.manual_seed(9)
    lif = snn.RLeaky(beta=0.8, linear_features=N, init_hidden=True)
    first = [nn.Linear(N_IN, N, bias=False)] if where == "no bias before" else []
    net = nn.Sequential(*first, lif)
    x = 3 * spikes_of()[:, :, : N_IN if first else N]
    record = []
    with torch.no_grad():
        for step in range(STEPS):
            record.append(net(x[step]))
    assert_reads(from_snntorch(net), x, {str(len(first)): torch.stack(record)})


def test_an_integrator_as_read_out() -> None:
    """Regression from a membrane: a neuron without reset whose membrane is used."""
    torch.manual_seed(10)
    net = Net(snn.Leaky(beta=0.9), snn.Leaky(beta=0.95, reset_mechanism="none"))
    x = spikes_of()
    with torch.no_grad():
        spk1, _, mem2 = net(x)
    network = from_snntorch(net, readouts=["lif2"], dt_ms=0.1)
    assert isinstance(network.layers["lif2"], Readout)
    assert network.dt_ms == 0.1
    assert_reads(network, x, {"lif1": spk1})
    torch.testing.assert_close(run_plain(network, x.transpose(0, 1)).readout, mem2.transpose(0, 1))


class Convolutional(nn.Module):
    """snnTorch's tutorial 6: pooling and flattening are functions in ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.lif1 = snn.Leaky(beta=0.8)
        self.conv2 = nn.Conv2d(4, 3, 3, padding="same", bias=False)
        self.lif2 = snn.Leaky(beta=0.8, reset_mechanism="zero")
        self.fc1 = nn.Linear(3 * 9, 5)
        self.lif3 = snn.Leaky(beta=0.8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        batch, second, third = x.size(1), [], []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(nn.functional.max_pool2d(self.conv1(x[step]), 2), mem1)
            spk2, mem2 = self.lif2(nn.functional.avg_pool2d(self.conv2(spk1), kernel_size=2), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.view(batch, -1)), mem3)
            second.append(spk2)
            third.append(spk3)
        return torch.stack(second), torch.stack(third)


@pytest.mark.parametrize("how", ["example", "input_shape"])
def test_a_convolutional_class_whose_pools_are_functions(how: str) -> None:
    torch.manual_seed(11)
    net = Convolutional()
    with torch.no_grad():
        net.conv1.weight.add_(0.15)
        net.fc1.weight.add_(0.1)
    x = (torch.rand(20, 2, 1, 14, 14) < 0.4).float()
    with torch.no_grad():
        spk2, spk3 = net(x)
    network = from_snntorch(net, (1, 14, 14)) if how == "input_shape" else from_snntorch(net, example=x[:2])
    pools = [layer.how for layer in network.layers.values() if isinstance(layer, Pool)]
    assert pools == [Pooling.MAX, Pooling.MEAN]
    assert_reads(network, x, {"lif2": spk2, "lif3": spk3})


@pytest.mark.parametrize("learned", [True, False])
def test_v_acts_as_the_recurrent_part_holds_it(learned: bool) -> None:
    """``.double()`` leaves a V that is not learned behind in float32: what acts is read."""
    options: dict[str, Any] = {"all_to_all": False, "V": torch.full((N,), 0.1, dtype=torch.float64)}
    neuron = snn.RLeaky(beta=0.9, learn_recurrent=learned, **options).float()
    network: Any = from_snntorch(neuron)
    acting = float(neuron.recurrent.V[0])
    assert (acting == 0.1) != learned
    assert network.layers["rleaky"].recurrence.weight[0] == acting


# ---------------------------------------------------------------------------------------------- resets by their names


@pytest.mark.parametrize(
    ("kind", "mechanism", "reset_delay", "reset"),
    [
        ("Leaky", "subtract", True, SubtractThreshold()),
        ("Leaky", "subtract", False, SubtractThresholdOnce()),
        ("Leaky", "zero", True, ResetToValue(0.0, When.NEXT_BEFORE_DECAY)),
        ("RLeaky", "zero", True, ResetToValue(0.0, When.NEXT_AFTER_INPUT)),
        ("Lapicque", "zero", True, ResetToValue(0.0, When.NEXT_AFTER_INPUT)),
        ("RLeaky", "zero", False, ResetToValue(0.0)),
        ("RSynaptic", "zero", False, ResetToValue(0.0, When.NEXT_AFTER_INPUT)),
        ("RSynaptic", "none", True, NoReset()),
    ],
)
def test_resets(kind: str, mechanism: str, reset_delay: bool, reset: Any) -> None:
    layer: Any = from_snntorch(neuron_of(kind, 3, mechanism, reset_delay), (3,)).layers[kind.lower()]
    assert layer.dynamics.reset == reset


# ---------------------------------------------------------------------------------------------- a fresh process

SCRIPT = """
import json, sys
import snntorch as snn, torch
from safetensors.torch import load_file
from torch import nn
from ovonic.adapters.snntorch import from_snntorch

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(10, 7)
        self.lif1 = snn.RSynaptic(alpha=0.1, beta=torch.zeros(7), linear_features=7, learn_beta=True)
        self.fc2 = nn.Linear(7, 4)
        self.lif2 = snn.Leaky(beta=0.3, threshold=0.7, reset_mechanism="zero")

    def forward(self, x):
        state1, mem2 = [torch.zeros(x.size(1), 7)] * 3, None
        for step in range(x.size(0)):
            state1 = self.lif1(self.fc1(x[step]), *state1)
            spk2, mem2 = self.lif2(self.fc2(state1[0]), mem2)
        return spk2

def network_of(path):
    net = Net()
    state = load_file(path) if path.endswith("safetensors") else torch.load(path, weights_only=True)
    net.load_state_dict(state)
    return from_snntorch(net)
"""


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_state_dict_in_a_fresh_process(ending: str, tmp_path: Path) -> None:
    space: dict[str, Any] = {}
    exec(compile(SCRIPT, "net.py", "exec"), space)
    torch.manual_seed(12)
    net = space["Net"]()
    with torch.no_grad():
        net.lif1.beta.copy_(torch.rand(7))
        net.lif1.alpha.fill_(0.35)
        net.lif2.beta.fill_(0.6)
    path = tmp_path / f"net.{ending}"
    if ending == "pt":
        torch.save(net.state_dict(), path)
    else:
        save_file(net.state_dict(), path)
    told = "print(json.dumps(network_of(sys.argv[1]).to_dict(), default=lambda a: a.tolist()))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT + told, str(path)], capture_output=True, text=True, check=True
    )
    read: Any = Network.from_dict(json.loads(done.stdout))
    assert read == from_snntorch(net)
    assert read.layers["lif1"].dynamics.synapse.decay == float(np.float32(0.35))
    assert read.layers["lif2"].dynamics.decay == float(np.float32(0.6))


# ---------------------------------------------------------------------------------------------- plain layers


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, 2, 1, 2, 2), (4, 15)),
        (nn.Conv2d(2, 4, (3, 2), (1, 2), (1, 0), 1, 2, bias=False), (2, 8, 9)),
        (nn.Conv2d(2, 4, 3, padding="valid"), (2, 8, 9)),
        (nn.AvgPool1d(3, 2, 1), (2, 9)),
        (nn.AvgPool2d(2), (2, 8, 8)),
        (nn.AvgPool2d(2, divisor_override=1), (2, 8, 8)),
        (nn.AvgPool2d(2, divisor_override=4), (2, 8, 8)),
        (nn.MaxPool1d(2), (2, 8)),
        (nn.MaxPool2d((2, 3), (1, 2), (1, 1)), (2, 8, 8)),
        (nn.Flatten(), (2, 3, 4)),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_layers_of_torch(layer: nn.Module, shape: tuple[int, ...]) -> None:
    network = from_snntorch(nn.Sequential(layer, snn.Leaky(beta=0.0, threshold=0.1)), shape)
    x = torch.randn(2, 5, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = layer(x.flatten(0, 1)).unflatten(0, (2, 5))
    ours = run_plain(network, x)["1"]
    torch.testing.assert_close(
        ours.membrane, theirs - 0.1 * torch.nn.functional.pad(ours.spikes, (0,) * 2 * len(theirs.shape[2:]) + (1, -1))
    )
    assert ours.spikes.any()


def test_neurons_alone_and_the_shape_they_tell() -> None:
    for neuron, shape in (
        (snn.Leaky(beta=torch.rand(5)), (5,)),
        (snn.Leaky(beta=0.5, threshold=torch.rand(2, 3) + 0.1), (2, 3)),
        (snn.RLeaky(beta=0.5, linear_features=6), (6,)),
        (snn.RLeaky(beta=0.5, all_to_all=False, V=torch.rand(4)), (4,)),
    ):
        network = from_snntorch(neuron)
        assert network.shapes["input"] == shape
        assert any(isinstance(layer, Spiking) for layer in network.layers.values())
    assert isinstance(from_snntorch(nn.Linear(3, 2)).layers["linear"], Linear)
