"""What ``forward`` does between the layers is seen: another order is read, and what no network says is refused."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ovonic.adapters.snntorch import from_snntorch
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run as run_plain

pytestmark = pytest.mark.toolchain
snn = pytest.importorskip("snntorch", reason="needs snntorch: pip install 'ovonic[snntorch]'")
utils = pytest.importorskip("snntorch.utils")


class Plain(nn.Module):
    """Two layers; what happens in a step is ``between``'s."""

    def __init__(self) -> None:
        super().__init__()
        self.lif2 = snn.Leaky(beta=0.8)  # registered in another order than they are called in
        self.fc2 = nn.Linear(5, 5)
        self.lif1 = snn.RLeaky(beta=0.9, linear_features=5)
        self.fc1 = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.spk1, self.mem1 = self.lif1.init_rleaky()
        self.mem2 = self.lif2.init_leaky()
        record = []
        for step in range(x.size(0)):
            self.step = step
            self.cur1 = self.fc1(x[step])
            self.spk1, self.mem1 = self.lif1(self.cur1, self.spk1, self.mem1)
            spk2, self.mem2 = self.lif2(self.between(self.spk1, x[step]), self.mem2)
            record.append(spk2)
        return torch.stack(record)

    def between(self, spk: Tensor, x: Tensor) -> Tensor:
        return self.fc2(spk)


CHAIN = {("input", "fc1"), ("fc1", "lif1"), ("lif1", "fc2"), ("fc2", "lif2")}


def edges_of(network: Network) -> set[tuple[str, ...]]:
    assert all(edge.delay == 0 for edge in network.edges)
    return {tuple(edge[:2]) for edge in network.edges}


def net_of(between: Any) -> Plain:
    return type("Plain", (Plain,), {"between": between})()


def test_the_order_of_calls_not_of_registration() -> None:
    assert edges_of(from_snntorch(Plain())) == CHAIN


def test_with_an_example() -> None:
    x = torch.zeros(3, 2, 7)
    for example in (x, (x,)):
        network = from_snntorch(Plain(), example=example)
        assert edges_of(network) == CHAIN
        assert network.shapes["input"] == (7,)


ALLOWED = {
    "casts": lambda net, spk, x: net.fc2(spk.double().to(torch.float32).clone().detach()),
    "shapes": lambda net, spk, x: net.fc2(spk.view(spk.shape).reshape(-1, 5)),
    "by keyword": lambda net, spk, x: net.fc2(input=spk),
    "looked at": lambda net, spk, x: net.fc2(spk) if spk.sum() >= 0 and spk.shape[-1] == 5 else None,
    "dropout out of training": lambda net, spk, x: net.fc2(nn.functional.dropout(spk, 0.5, False)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_between_layers(name: str) -> None:
    assert edges_of(from_snntorch(net_of(ALLOWED[name]), example=torch.zeros(3, 2, 7))) == CHAIN


def test_a_sum_is_two_edges() -> None:
    net = net_of(lambda net, spk, x: net.fc2(spk) + net.cur1)
    x = (torch.rand(30, 2, 7, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    net.lif1.recurrent.bias = None  # type: ignore[union-attr]
    with torch.no_grad():
        net.fc1.weight.mul_(3).add_(0.2)
        spikes = net(x)
    network = from_snntorch(net)
    assert edges_of(network) == CHAIN | {("fc1", "lif2")}
    ours = run_plain(network, x.transpose(0, 1))["lif2"].spikes
    assert torch.equal(ours, spikes.transpose(0, 1))
    assert ours.any()


def scaled_in_place(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    current: Tensor = net.fc2(spk)
    current *= 2
    return current


def entries_set(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    current: Tensor = net.fc2(spk)
    current[..., 0] = 0
    return current


def late(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    before, net.kept = getattr(net, "kept", spk) if net.step else spk, spk
    return net.fc2(before)  # type: ignore[no-any-return]


def alternating(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    return net.fc2(spk if net.step == 0 else net.cur1)  # type: ignore[no-any-return]


REFUSED = {
    "scaled": (lambda net, spk, x: net.fc2(spk * 0.5), "'fc2': it reads 'mul' of what 'lif1' gives"),
    "negated": (lambda net, spk, x: net.fc2(-spk), "'neg|__neg__' of what 'lif1' gives"),
    "relu": (lambda net, spk, x: torch.relu(net.fc2(spk)), "'lif2': it reads 'relu' of what 'fc2' gives"),
    "with the input": (lambda net, spk, x: net.fc2(spk) + x[..., :5], "'add' of what 'fc2' gives"),
    "in place": (scaled_in_place, "'lif2': it reads '.*mul.*' of what 'fc2' gives"),
    "entries set": (entries_set, "'lif2': it reads '__setitem__' of what 'fc2' gives"),
    "part of it": (lambda net, spk, x: net.fc2(spk)[..., :3], "'__getitem__' of what 'fc2' gives"),
    "membrane": (lambda net, spk, x: net.fc2(net.mem1), "it reads the mem of 'lif1', which gives its spk"),
    "a second input": (lambda net, spk, x: net.fc2(torch.ones(5)), "'fc2': it reads what no layer gave"),
    "the step before": (late, "'fc2': in step 2 it reads what 'lif1' gave in step 1"),
    "another in the next step": (alternating, "'fc2': in step 2 it reads something else"),
    "left out": (lambda net, spk, x: spk, "'fc2': the module's forward does not call it"),
    "twice a step": (lambda net, spk, x: net.fc2(net.fc2(spk)), "'fc2': in step 2 it reads something else"),
    "weights by hand": (lambda net, spk, x: spk @ net.fc2.weight, "'fc2': the module's forward does not call it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_between_layers(name: str) -> None:
    between, message = REFUSED[name]
    with pytest.raises(UnsupportedDynamics, match=message):
        from_snntorch(net_of(between))


def leaks_twice(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    net.mem1 = net.mem1 * 0.9
    return net.fc2(spk)  # type: ignore[no-any-return]


def masks_spikes(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    net.spk1 = spk * (spk.sum() < 3)
    return net.fc2(spk)  # type: ignore[no-any-return]


def forgets(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    net.mem1 = torch.zeros_like(net.mem1)
    return net.fc2(spk)  # type: ignore[no-any-return]


def mixes_states(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    net.mem1 = net.mem2 if net.step else net.mem1
    return net.fc2(spk)  # type: ignore[no-any-return]


def hidden_in_place(net: Any, spk: Tensor, x: Tensor) -> Tensor:
    net.lif1.mem.mul_(0.5)
    return net.fc2(spk)  # type: ignore[no-any-return]


@pytest.mark.parametrize("between", [leaks_twice, masks_spikes, forgets, mixes_states, hidden_in_place])
def test_a_state_changed_between_steps(between: Any) -> None:
    with pytest.raises(UnsupportedDynamics, match=r"'lif1': its (mem|spk) in step [23] is not what it gave"):
        from_snntorch(net_of(between))


def test_a_state_that_does_not_start_at_zero() -> None:
    class Charged(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.lif2(self.fc2(self.lif1(self.fc1(x))[0]), torch.ones(5))[0]  # type: ignore[no-any-return]

    with pytest.raises(UnsupportedDynamics, match="'lif2': its mem does not start at zero"):
        from_snntorch(Charged())


def test_one_step_a_call_with_the_states_as_arguments() -> None:
    class Step(Plain):
        def forward(self, x: Tensor, spk1: Tensor, mem1: Tensor, mem2: Tensor) -> Any:
            spk1, mem1 = self.lif1(self.fc1(x), spk1, mem1)
            return *self.lif2(self.fc2(spk1), mem2), spk1, mem1

    assert edges_of(from_snntorch(Step())) == CHAIN
    zero = torch.zeros(2, 5)
    assert edges_of(from_snntorch(Step(), example=(torch.zeros(2, 7), zero, zero, zero))) == CHAIN


def test_blocks_inside_blocks_and_what_is_not_called() -> None:
    class Block(nn.Module):
        def __init__(self, n_in: int, n: int) -> None:
            super().__init__()
            self.neurons = nn.ModuleList([snn.Leaky(beta=0.9, init_hidden=True)])
            self.weights = nn.Sequential(nn.Identity(), nn.Linear(n_in, n))

        def forward(self, x: Tensor) -> Tensor:
            for neuron in self.neurons:
                x = neuron(self.weights(x))
            return x

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = nn.CrossEntropyLoss()
            self.blocks = nn.ModuleDict({"a": Block(4, 3), "b": Block(3, 2)})

        def forward(self, x: Tensor, num_steps: int = 50) -> Tensor:
            utils.reset(self)
            return torch.stack([self.blocks["b"](self.blocks["a"](x)) for _ in range(num_steps)])

    names = ("input", "blocks_a_weights_1", "blocks_a_neurons_0", "blocks_b_weights_1", "blocks_b_neurons_0")
    assert edges_of(from_snntorch(Whole())) == set(itertools.pairwise(names))


def test_a_forward_that_cannot_be_guessed_asks_for_an_example() -> None:
    class Odd(Plain):
        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return super().forward(x["events"])

    with pytest.raises(UnsupportedDynamics, match=r"Odd.forward cannot be followed.*give .*example="):
        from_snntorch(Odd())
    assert edges_of(from_snntorch(Odd(), example={"events": torch.zeros(3, 2, 7)})) == CHAIN


def test_the_module_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(7, 5), snn.Leaky(beta=0.9, init_hidden=True))
    holder = type("Holder", (nn.Module,), {"forward": lambda self, x: self.net(x)})()
    holder.net = net
    holder.net(torch.ones(3, 7)).sum().backward()  # its membrane is now part of a graph
    mem, grad, random = net[1].mem, net[0].weight.grad.clone(), torch.get_rng_state()
    before = copy.deepcopy(holder.state_dict())
    listed, made = snn.SpikingNeuron.instances, len(snn.SpikingNeuron.instances)
    keys = set(vars(net[1]))
    from_snntorch(holder)
    assert net[1].mem is mem
    assert mem.requires_grad
    assert set(vars(net[1])) == keys
    assert torch.equal(net[0].weight.grad, grad)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in holder.modules())
    assert snn.SpikingNeuron.instances is listed
    assert len(listed) == made
    assert all(torch.equal(value, before[name]) for name, value in holder.state_dict().items())


def test_a_sequential_needs_no_call() -> None:
    net = nn.Sequential(nn.Linear(7, 5), snn.Leaky(beta=0.9, init_hidden=True), nn.Linear(5, 2))
    net.forward = None  # type: ignore[assignment]
    network = from_snntorch(net)
    assert network.edges == Network(network.layers, (Edge("input", "0"), Edge("0", "1"), Edge("1", "2"))).edges
    with pytest.raises(ConfigError, match="holds no layers"):
        from_snntorch(nn.Sequential())
