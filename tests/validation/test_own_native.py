"""A user's module run as it is: in which way it is called, what is recorded of it, and that it is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ovonic.models.errors import ConfigError
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.validation.own_native import run_natively

snn = pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
pytestmark = pytest.mark.toolchain

BATCH, STEPS, INPUTS, NEURONS = 3, 12, 4, 6
X = (torch.rand(BATCH, STEPS, INPUTS, generator=torch.Generator().manual_seed(1)) < 0.5).double()
FREE: dict[str, Any] = {"constant": False, "random": False, "seed": 0}


class Looping(nn.Module):
    """Calls its layers for every step, which stand on this axis; or STEPS times for a sample without time."""

    def __init__(self, axis: int | None, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.axis, self.factor = axis, factor
        self.fc = nn.Linear(INPUTS, NEURONS)
        self.hidden = snn.Leaky(beta=0.8, threshold=0.4)
        with torch.no_grad():
            self.fc.weight.mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        mem, made = self.hidden.reset_mem(), []
        for now in [x] * STEPS if self.axis is None else x.unbind(self.axis):
            spikes, mem = self.hidden(self.fc(self.factor * now), mem)
            made.append(spikes)
        return torch.stack(made, 1)


def stepping() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, NEURONS), snn.Leaky(beta=0.8, threshold=0.2, init_hidden=True))


def read(module: nn.Module) -> Network:
    from ovonic.adapters.snntorch import from_snntorch

    return from_snntorch(module)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Looping(1), "with all steps of a sample, batch first"),
        (lambda: Looping(0), "with all steps of a sample, time first"),
        (stepping, "step by step"),
    ],
)
def test_the_way_of_calling_is_found(make: Any, said: str) -> None:
    module = make()
    network = read(module)
    native = run_natively(module, network, X, **FREE)
    assert native.call == said
    assert native.as_given
    assert torch.equal(native.inputs.double(), X)
    assert not native.by_order
    ours = run(network, native.inputs)
    (name,) = network.spiking
    assert native.spikes[name].sum() > 20
    assert torch.equal(ours[name].spikes, native.spikes[name])


@pytest.mark.parametrize("steps", [STEPS, BATCH])
def test_as_many_steps_as_samples_are_not_confused(steps: int) -> None:
    x = X[:, :steps]
    for axis in (0, 1):
        module = Looping(axis)
        native = run_natively(module, read(module), x, **FREE)
        assert native.as_given
        assert torch.equal(native.inputs.double(), x)
    module = stepping()
    assert run_natively(module, read(module), x, **FREE).call == "step by step"


def test_samples_without_time_are_looped_over_by_the_module() -> None:
    module = Looping(None)
    constant = X[:, :1].expand(BATCH, 5, INPUTS)
    native = run_natively(module, read(module), constant, constant=True, random=False, seed=0)
    assert native.call.startswith("once")
    assert native.inputs.shape == (BATCH, STEPS, INPUTS)
    assert torch.equal(native.inputs[:, 7].double(), X[:, 0])
    with pytest.raises(ConfigError, match="called"):
        run_natively(module, read(module), X, **FREE)
    assert run_natively(module, read(module), X, constant=False, random=True, seed=0).inputs.shape[1] == STEPS


def test_what_the_module_makes_of_its_input_is_recorded() -> None:
    module = Looping(1, factor=0.5)
    native = run_natively(module, read(module), X, **FREE)
    assert not native.as_given
    assert torch.equal(native.inputs.double(), 0.5 * X)


def test_the_module_is_left_as_it_was() -> None:
    module = stepping()
    network = read(module)
    module(X[:, 0].float())
    before = {name: value.clone() for name, value in module.named_buffers()}
    random = torch.get_rng_state()
    first = run_natively(module, network, X, **FREE)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    again = run_natively(module, network, X, **FREE)
    assert torch.equal(first.spikes["1"], again.spikes["1"])


def test_a_module_of_other_neurons_is_refused() -> None:
    more = nn.Sequential(*stepping(), snn.Leaky(beta=0.5, init_hidden=True))
    network = read(Looping(1))
    with pytest.raises(ConfigError, match="the description has the layers hidden, the module the neurons 1, 2"):
        run_natively(more, network, X, **FREE)


def test_neurons_of_another_name_are_matched_by_order() -> None:
    native = run_natively(stepping(), read(Looping(1)), X, **FREE)
    assert native.by_order
    assert list(native.spikes) == ["hidden"]


@pytest.mark.parametrize("timed", [False, True])
def test_norse(timed: bool) -> None:
    norse = pytest.importorskip("norse.torch", reason="needs Norse: pip install 'ovonic[norse]'")
    from ovonic.adapters.norse import from_norse

    torch.manual_seed(0)
    neurons, leaky = (norse.LIF(), norse.LI()) if timed else (norse.LIFCell(), norse.LICell())
    module = norse.SequentialState(nn.Linear(INPUTS, NEURONS), neurons, nn.Linear(NEURONS, 2), leaky)
    with torch.no_grad():
        module[0].weight.mul_(60)
    network = from_norse(module)
    native = run_natively(module, network, X, **FREE)
    assert native.call == ("with all steps of a sample, time first" if timed else "step by step")
    ours = run(network, native.inputs)
    assert native.spikes["1"].sum() > 5
    assert torch.equal(ours["1"].spikes, native.spikes["1"])
    assert torch.allclose(ours.readout, native.readouts["3"], atol=1e-6)
