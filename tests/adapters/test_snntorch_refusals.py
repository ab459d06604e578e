"""What no network says is refused: layer, feature, remedy."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from ovonic.adapters.snntorch import from_snntorch, to_snntorch
from ovonic.adapters.snntorch_cells import Cell
from ovonic.models.dynamics import Dynamics, Refractory
from ovonic.models.errors import ConfigError, ToolchainError, UnsupportedDynamics
from ovonic.models.layers import Input, Spiking
from ovonic.models.network import Network

pytestmark = pytest.mark.toolchain
snn = pytest.importorskip("snntorch", reason="needs snntorch: pip install 'ovonic[snntorch]'")
quant = pytest.importorskip("snntorch.functional.quant")


class Subclass(snn.Leaky):  # type: ignore[misc]
    pass


class Square(nn.Module):
    pass


def hooked(neuron: nn.Module) -> nn.Module:
    neuron.register_forward_hook(lambda module, args, out: out)
    return neuron


def with_reset_changed() -> Any:
    neuron = snn.Leaky(beta=0.9)
    neuron.reset_mechanism = "zero"
    return neuron


NEURONS: dict[str, tuple[Any, str]] = {
    "SLSTM": (lambda: snn.SLSTM(3, 3), "SLSTM has no meaning here; known are Leaky"),
    "SConv2dLSTM": (lambda: snn.SConv2dLSTM(1, 1, 3), "SConv2dLSTM has no meaning here"),
    "Alpha": (lambda: snn.Alpha(alpha=0.9, beta=0.8), "Alpha has no meaning here"),
    "LeakyParallel": (lambda: snn.LeakyParallel(3, 3), "LeakyParallel has no meaning here"),
    "GradedSpikes": (lambda: snn.GradedSpikes(3, 2.0), "GradedSpikes has no meaning here"),
    "LSTM": (lambda: nn.LSTM(3, 3), "LSTM has no meaning here"),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), "BatchNorm1d has no meaning here"),
    "a class of one's own": (Square, "Square has no meaning here"),
    "subclass": (lambda: Subclass(beta=0.9), "Subclass is a subclass of Leaky and may do otherwise"),
    "graded spikes": (lambda: snn.Leaky(beta=0.9, graded_spikes_factor=2.0), "graded_spikes_factor.*weights behind"),
    "inhibition": (lambda: snn.Leaky(beta=0.9, inhibition=True), "inhibition: only the neuron with the highest"),
    "quantised state": (lambda: snn.Leaky(beta=0.9, state_quant=quant.state_quant(num_bits=4)), "state_quant rounds"),
    "hooks": (lambda: hooked(snn.Leaky(beta=0.9)), "has forward hooks"),
    "hooks on weights": (lambda: hooked(nn.Linear(3, 3)), "has forward hooks"),
    "reset changed later": (with_reset_changed, "reset_mechanism 'zero' was set after it was built with 'subtract'"),
    "soft spikes": (lambda: snn.Leaky(beta=0.9, spike_grad=torch.sigmoid), "its spike_grad is no step"),
    "shifted spikes": (lambda: snn.Leaky(beta=0.9, spike_grad=lambda u: (u > 0.1).float()), "its spike_grad is no"),
    "broken spike_grad": (lambda: snn.Leaky(beta=0.9, spike_grad=lambda u: u.missing), "spike_grad cannot be called"),
    "convolutional recurrence": (
        lambda: snn.RLeaky(beta=0.9, conv2d_channels=3, kernel_size=3),
        r"convolutional recurrence \(conv2d_channels\); all-to-all",
    ),
    "RSynaptic that cannot run": (
        lambda: snn.RSynaptic(
            alpha=0.5, beta=0.9, linear_features=3, reset_delay=False, reset_mechanism="none", init_hidden=True
        ),
        "cannot run RSynaptic",
    ),
    "Lapicque, negative decay": (lambda: snn.Lapicque(R=0.5, C=1.0), "Dynamics.decay: -1.0 must lie in 0..1"),
    "threshold at zero": (lambda: snn.Leaky(beta=0.9, threshold=0.0), "Dynamics.threshold: 0.0 must lie above rest"),
    "numbers that do not fit": (lambda: snn.Leaky(beta=torch.rand(4)), r"\(4,\) numbers for neurons of \(3,\)"),
    "dropout in training": (lambda: nn.Dropout(0.5), "Dropout draws at random in training; call .eval"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NEURONS)
def test_refused_by_name(name: str) -> None:
    make, message = NEURONS[name]
    with pytest.raises((UnsupportedDynamics, ConfigError), match=rf"layer '1'[:,].*{message}"):
        from_snntorch(nn.Sequential(nn.Linear(3, 3), make()))


LAYERS: dict[str, tuple[Any, str]] = {
    "padding mode": (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), "padding_mode 'circular'"),
    "even window": (nn.Conv2d(1, 1, 2, padding="same"), "padding 'same' of an even window"),
    "ceil mode": (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
    "dilated pool": (nn.MaxPool2d(2, dilation=2), "MaxPool with a dilation or indices"),
    "indices": (nn.MaxPool2d(2, return_indices=True), "MaxPool with a dilation or indices"),
    "divisor": (nn.AvgPool2d(2, divisor_override=3), "divisor_override 3"),
    "uncounted padding": (nn.AvgPool2d(2, padding=1, count_include_pad=False), "count_include_pad=False"),
    "partial flatten": (nn.Flatten(0), r"nn.Flatten\(0, -1\)"),
    "lazy": (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "its weights are not initialised; run it once"),
    "transposed": (nn.ConvTranspose2d(1, 1, 3), "ConvTranspose2d has no meaning here"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_torch_refused_by_name(name: str) -> None:
    layer, message = LAYERS[name]
    with pytest.raises(UnsupportedDynamics, match=message):
        from_snntorch(nn.Sequential(layer), (1, 8, 8))


def test_parametrized_weights_are_what_they_give() -> None:
    """Weight normalisation by torch's parametrizations acts on the weight that is read."""
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    network: Any = from_snntorch(nn.Sequential(layer, snn.Leaky(beta=0.5)))
    assert torch.equal(torch.tensor(network.layers["0"].weight).float().T, layer.weight)


def test_one_module_twice_and_two_of_one_name() -> None:
    neuron = snn.Leaky(beta=0.9)
    with pytest.raises(UnsupportedDynamics, match="'2': the same module as '1'"):
        from_snntorch(nn.Sequential(nn.Linear(3, 3), neuron, neuron))
    net = nn.Sequential()
    net.add_module("a_b", nn.Linear(3, 3))
    net.add_module("a", nn.Sequential())
    net.a.add_module("b", nn.Linear(3, 3))  # type: ignore[operator]
    with pytest.raises(UnsupportedDynamics, match="'a_b': two modules come by this name"):
        from_snntorch(net)


def test_readouts_must_not_reset_and_must_be_there() -> None:
    net = nn.Sequential(nn.Linear(3, 3), snn.Leaky(beta=0.9))
    with pytest.raises(UnsupportedDynamics, match=r"'1': a read-out only leaks and integrates.*reset_mechanism='none'"):
        from_snntorch(net, readouts=["1"])
    with pytest.raises(ConfigError, match="readouts: '2'"):
        from_snntorch(net, readouts=["2"])
    with pytest.raises(ConfigError, match="a Linear has no membrane"):
        from_snntorch(net, readouts=["0"])


def test_an_open_input_shape_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="'0': Leaky leaves the shape of its input open: give input_shape"):
        from_snntorch(nn.Sequential(snn.Leaky(beta=0.9)))


def test_a_cell_whose_neuron_resets_itself() -> None:
    layer = Spiking(Dynamics(0.9, 1.0, refractory=Refractory(2)))
    module: Any = to_snntorch(Network.stack({"x": Input((3,)), "h": layer}))
    assert isinstance(module["h"], Cell)
    module["h"].neuron = snn.Leaky(beta=0.9)
    with pytest.raises(UnsupportedDynamics, match="'h': a Cell around a neuron that resets itself"):
        from_snntorch(module)


def test_without_snntorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "snntorch", None)
    with pytest.raises(ToolchainError, match=r"pip install 'ovonic\[snntorch\]'"):
        to_snntorch(Network.stack({"x": Input((3,)), "h": Spiking(Dynamics(0.9, 1.0))}))
