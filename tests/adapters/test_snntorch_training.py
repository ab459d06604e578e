"""What was built trains as snnTorch's users train; and the traps of snnTorch 1.0, each by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovonic.adapters.snntorch import from_snntorch, run, to_snntorch
from ovonic.models.dynamics import Adaptation, Dynamics, Refractory, ResetToValue, SubtractThreshold, Synapse, When
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import run as run_plain

from .snntorch_cases import spikes_in

pytestmark = pytest.mark.toolchain
snn = pytest.importorskip("snntorch", reason="needs snntorch: pip install 'ovonic[snntorch]'")
surrogate = pytest.importorskip("snntorch.surrogate")

DYNAMICS = {
    "its own neuron": Dynamics(0.8, 0.7),
    "a Cell": Dynamics(
        0.8, 0.7, 1.5, 0.05, refractory=Refractory(2), adaptation=Adaptation(0.9, 0.2), synapse=Synapse(0.3, 0.8)
    ),
}


def network_of(dynamics: Dynamics, seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    return Network.stack(
        {
            "x": Input((6,)),
            "w_in": Linear(rng.normal(0.2, 0.4, (6, 12)), np.zeros(12)),
            "h": Spiking(dynamics, Recurrence(rng.normal(0, 0.2, (12, 12)), masked_diagonal=True)),
            "w_out": Linear(rng.normal(0, 0.3, (12, 2))),
            "out": Readout(0.9),
        }
    )


@pytest.mark.parametrize("name", DYNAMICS)
def test_a_few_steps_of_bptt_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    network = network_of(DYNAMICS[name])
    module = to_snntorch(network, surrogate.fast_sigmoid(slope=10), torch.float32)
    x = spikes_in((6,), 0, torch.float32, batch=4, steps=25)
    target = torch.sin(torch.arange(25) / 4).unsqueeze(-1).expand(4, 25, 2)
    optimizer = torch.optim.Adam(module.parameters(), 2e-2)
    losses = []
    for _ in range(20):
        state, out = None, []
        for now in x.unbind(1):
            values, state = module(now, state)
            out.append(values["out"])
        loss = nn.functional.mse_loss(torch.stack(out, 1), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    learned = from_snntorch(module)
    assert learned != network
    trace = run_plain(learned, x)
    assert torch.equal(trace["h"].spikes, run(learned, x)["h"].spikes)
    with torch.no_grad():
        state, out = None, []
        for now in x.unbind(1):
            values, state = module(now, state)
            out.append(values["out"])
    torch.testing.assert_close(torch.stack(out, 1), trace.readout, rtol=1e-4, atol=1e-4)


def test_the_slope_is_the_surrogates_and_the_spike_is_exact() -> None:
    module = to_snntorch(
        Network.stack({"x": Input((1,)), "h": Spiking(Dynamics(0.0, 1.0))}), surrogate.fast_sigmoid(10)
    )
    x = torch.tensor([[1.25]], dtype=torch.float64, requires_grad=True)
    values, _ = module(x)
    values["h"].sum().backward()
    assert values["h"].item() == 1
    assert x.grad.item() == pytest.approx(1 / (10 * 0.25 + 1) ** 2)  # type: ignore[union-attr]


def test_the_masked_diagonal_does_not_learn() -> None:
    module: Any = to_snntorch(network_of(DYNAMICS["its own neuron"]), surrogate.atan())
    state, total = None, torch.zeros((), dtype=torch.float64)
    for now in spikes_in((6,), 0, torch.float64, steps=10).unbind(1):
        values, state = module(now, state)
        total = total + values["out"].sum()
    total.backward()
    grad = module["h"].recurrent.parametrizations.weight.original.grad
    assert not torch.diag(grad).any()
    assert grad.any()


# ---------------------------------------------------------------------------------------------- traps of snnTorch 1.0


def drive(n: int = 5, steps: int = 60) -> Tensor:
    return torch.randn(2, steps, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.4


def test_defect_subtract_resets_on_the_membrane_not_on_the_emitted_spike() -> None:
    """A membrane above threshold whose spike is barred must not be reset: snnTorch's own "subtract" does it."""
    network = Network.stack({"x": Input((5,)), "h": Spiking(Dynamics(0.9, 0.5, refractory=Refractory(4)))})
    x = drive()
    ours = run_plain(network, x)["h"]
    assert torch.equal(run(network, x)["h"].spikes, ours.spikes)
    stock = snn.Leaky(beta=torch.tensor(0.9).double(), threshold=torch.tensor(0.5).double())
    mem = torch.zeros(2, 5, dtype=torch.float64)
    r = torch.zeros_like(mem)
    spikes = []
    for now in x.unbind(1):
        spk, mem = stock(now, mem)
        spikes.append(spk * (r == 0))
        r = torch.where(spikes[-1] > 0, 4.0, (r - 1).clamp(min=0).float())
    assert not torch.equal(torch.stack(spikes, 1).double(), ours.spikes)


def test_defect_a_python_float_becomes_float32() -> None:
    assert snn.Leaky(beta=0.9).beta.dtype == torch.float32
    network = Network.stack({"x": Input((5,)), "h": Spiking(Dynamics(0.9, 0.7))})
    module: Any = to_snntorch(network)
    assert module["h"].beta.dtype == module["h"].threshold.dtype == torch.float64
    assert module["h"].beta.item() == 0.9
    read: Any = from_snntorch(snn.Leaky(beta=0.9).double(), (5,))
    assert read.layers["leaky"].dynamics.decay == float(np.float32(0.9))


def test_defect_surrogates_return_float32() -> None:
    """Multiplied with float32 spikes a single float64 threshold is rounded; ours keep the membrane's dtype."""
    assert surrogate.atan()(torch.ones(1, dtype=torch.float64)).dtype == torch.float32
    network = Network.stack({"x": Input((5,)), "h": Spiking(Dynamics(0.9, 0.7))})
    values, _ = to_snntorch(network)(drive()[:, 0].requires_grad_())
    assert values["h"].dtype == torch.float64
    neuron = snn.Leaky(beta=0.9, threshold=torch.tensor(0.7, dtype=torch.float64))
    with pytest.raises(Exception, match=r"'leaky': its spikes, of torch.float32, round 0.7"):
        from_snntorch(neuron, (5,))
    one_each = snn.Leaky(beta=torch.tensor(0.9).double(), threshold=torch.full((5,), 0.7).double())
    mem, spikes = torch.zeros(2, 5, dtype=torch.float64), []
    for now in drive().unbind(1):
        spk, mem = one_each(now, mem)
        spikes.append(spk)
    assert torch.equal(run_plain(from_snntorch(one_each), drive())["leaky"].spikes, torch.stack(spikes, 1).double())


def test_defect_the_recurrent_bias_starts_non_zero() -> None:
    assert snn.RLeaky(beta=0.9, linear_features=5).recurrent.bias.any()
    network = Network.stack({"x": Input((5,)), "h": Spiking(Dynamics(0.9, 0.7), Recurrence(np.eye(5)))})
    module: Any = to_snntorch(network)
    assert module["h"].recurrent.bias is None
    assert from_snntorch(module) == network


def test_defect_the_class_wide_list_of_neurons_grows() -> None:
    network = Network.stack({"x": Input((5,)), "h": Spiking(Dynamics(0.9, 0.7)), "o": Readout(0.5)})
    mine = snn.Leaky(beta=0.9)
    before = list(snn.SpikingNeuron.instances)
    assert before[-1] is mine
    run(network, drive())
    from_snntorch(mine, (5,))
    assert snn.SpikingNeuron.instances == before
    with pytest.raises(RuntimeError):
        run(
            Network.stack({"x": Input((5,)), "h": Spiking(Dynamics(0.9, 0.7))}),
            drive().to("meta").requires_grad_().int().sqrt().cpu(),
        )
    assert snn.SpikingNeuron.instances == before


@pytest.mark.parametrize("mechanism", ["subtract", "zero"])
def test_defect_rsynaptic_without_reset_delay_resets_a_local_copy(mechanism: str) -> None:
    """``reset_delay=False`` acts as True; a reset in the same step needs a Cell, which to_snntorch makes."""
    late: dict[str, Any] = {"subtract": SubtractThreshold(), "zero": ResetToValue(0.0, When.NEXT_AFTER_INPUT)}
    same: dict[str, Any] = {"subtract": SubtractThreshold(When.SAME_STEP), "zero": ResetToValue(0.0)}
    options = {"alpha": 0.3, "beta": 0.8, "linear_features": 5, "reset_mechanism": mechanism}
    neuron = snn.RSynaptic(reset_delay=False, **options)
    read: Any = from_snntorch(neuron)
    (name,) = read.spiking
    assert read.layers[name].dynamics.reset == late[mechanism]
    layer = read.layers[name].replace(dynamics=read.layers[name].dynamics.replace(reset=same[mechanism]))
    network = read.replace(layers=dict(read.layers) | {name: layer})
    assert torch.equal(run(network, drive())[name].spikes, run_plain(network, drive())[name].spikes)
    assert not torch.equal(run(network, drive())[name].spikes, run(read, drive())[name].spikes)
