"""``ovonic.deploy``: a user's own module on chips, torch's, snnTorch's or Norse's, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ovonic
from ovonic.adapters.crossbar_mapping import layout_of
from ovonic.adapters.crossbar_modules import OnChip
from ovonic.models.chip import SimulatedChip
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.tasks.deployment import Deployment, deploy

INPUTS, CLASSES, SAMPLES = 12, 3, 40
EXACT: dict[str, Any] = {"noise_model": "none", "periphery": Periphery.ideal(), "chips": 1}


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 20), nn.ReLU(), nn.BatchNorm1d(20), nn.Linear(20, CLASSES))


@pytest.fixture
def data() -> Tensor:
    return torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(1))


def test_importing_ovonic_stays_light() -> None:
    code = "import sys, ovonic; assert callable(ovonic.deploy); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_ideal_chip_is_the_module(data: Tensor) -> None:
    module = mlp().eval()
    deployed = ovonic.deploy(module, data=data, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(deployed.modules[0](data), module(data), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, (1, 3), groups=2)),
        nn.Sequential(nn.Unflatten(2, (1, 36)), nn.Flatten(2), nn.Conv1d(2, 5, 5, dilation=2, bias=False), nn.Tanh()),
        nn.Linear(6, 300),
    ],
    ids=["conv2d", "conv1d", "one wide layer"],
)
def test_convolutions_and_wide_layers(module: nn.Module) -> None:
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    x = x.flatten(2) if isinstance(module[0] if isinstance(module, nn.Sequential) else module, nn.Unflatten) else x
    deployed = deploy(module, data=x, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(deployed.modules[0](x), module(x), rtol=1e-4, atol=1e-5)


def test_the_module_stays_as_it_is(data: Tensor) -> None:
    module = mlp().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    deployed = deploy(module, data=data, chips=2)
    deployed.accuracy(data, torch.zeros(SAMPLES, dtype=torch.int64))
    assert module.training
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
    assert isinstance(module[0], nn.Linear)
    assert isinstance(deployed.modules[0][0], OnChip)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_ranges_are_those_of_the_data_unless_given(data: Tensor) -> None:
    seen = deploy(mlp(), data=data, chips=1).layout
    assert seen.layer("0.weight").inputs == "signed"
    assert seen.layer("0.weight").input_range == pytest.approx(float(data.abs().max()))
    wider = deploy(mlp(), data=data, chips=1, headroom=1.5).layout
    assert wider.layer("0.weight").input_range == pytest.approx(1.5 * float(data.abs().max()))
    given = deploy(mlp(), data=data, chips=1, headroom=1.5, input_ranges={"0.weight": 2.0}).layout
    assert given.layer("0.weight").input_range == 2.0
    assert given.layer("3.weight").input_range == wider.layer("3.weight").input_range
    blind = deploy(mlp(), chips=1, input_ranges={"0.weight": 4.0, "3.weight": 5.0}).layout
    assert [layer.input_range for layer in blind.layers] == [4.0, 5.0]


def test_accuracy_over_chips_beside_software(data: Tensor) -> None:
    module = mlp()
    labels = module.eval()(data).argmax(-1)
    found = deploy(module, data=data, chips=4, noise_model="hermes", seed=3).accuracy(data, labels, batch=16)
    assert found["software"]["mean"] == 1.0
    assert found["accuracy"]["mean"] == pytest.approx(sum(found["per_chip"]) / 4)
    assert found["difference"]["mean"] == pytest.approx(found["accuracy"]["mean"] - 1.0)
    assert found["chips"]["worst"] == min(found["per_chip"])
    assert 0.5 < found["accuracy"]["mean"] <= 1.0
    exact = deploy(module, data=data, **EXACT).accuracy(data, labels)
    assert exact["accuracy"]["mean"] == 1.0
    by_hand = deploy(module, data=data, **EXACT).accuracy(data, 1 - labels, predict=lambda y: 1 - y.argmax(-1))
    assert by_hand["accuracy"]["mean"] == 1.0


def test_chips_differ_repeat_and_age(data: Tensor) -> None:
    def outputs(seed: int, **options: Any) -> list[Tensor]:
        return [module(data) for module in deploy(mlp(), data=data, chips=2, seed=seed, **options).modules]

    first, same, other = outputs(1), outputs(1), outputs(2)
    assert torch.equal(first[0], same[0])
    assert torch.equal(first[1], same[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    quiet = Periphery(out_noise=0.0, w_noise=0.0)
    module = nn.Linear(INPUTS, CLASSES, bias=False)
    young = deploy(module, data=data, chips=1, periphery=quiet)
    before = young.modules[0](data).abs().mean()
    young.advance(86400.0)
    after = young.modules[0](data).abs().mean()
    assert after < 0.8 * before
    assert torch.equal(
        deploy(module, data=data, chips=1, periphery=quiet, read_time_s=86400.0).modules[0](data).abs().mean(), after
    )


def test_every_product_is_counted(data: Tensor) -> None:
    deployed = deploy(mlp(), data=data, chips=1)
    counters = deployed.placed[0].driver.counters
    assert counters.devices_programmed == 4 * (INPUTS * 20 + 20 * CLASSES)
    deployed.modules[0](data)
    assert counters.mvms == 2 * SAMPLES
    costs = deployed.energy()
    assert costs["inference"].energy_j.low < costs["inference"].energy_j.high
    assert costs["deployment"].energy_j.typical > 0


def test_chips_of_your_own(data: Tensor) -> None:
    layout = layout_of(mlp(), example=data)
    chip = SimulatedChip(1, device_model("none"), Periphery.ideal(), seed=0)
    deployed = deploy(mlp(), layout, drivers=[chip])
    deployed.modules[0](data)
    assert chip.counters.mvms == 2 * SAMPLES


@pytest.mark.toolchain
@pytest.mark.parametrize("toolchain", ["snntorch", "norse"])
def test_spiking_modules(toolchain: str) -> None:
    """On ideal chips the spikes are the module's own, at inputs that keep membranes off their thresholds' rounding."""
    package = pytest.importorskip(toolchain, reason=f"needs {toolchain}: pip install 'ovonic[{toolchain}]'")
    assert package

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(INPUTS, 16), nn.Linear(16, CLASSES)
            if toolchain == "snntorch":
                import snntorch as snn

                self.neurons = snn.RLeaky(beta=0.9, linear_features=16)
            else:
                import norse.torch as norse

                self.neurons = norse.LIFCell(dt=0.01)

        def forward(self, x: Tensor) -> Tensor:
            state: Any = self.neurons.reset_mem() if toolchain == "snntorch" else None
            total = torch.zeros(())
            for _ in range(10):
                if toolchain == "snntorch":
                    z, *state = state = self.neurons(self.fc(x), *state)
                else:
                    z, state = self.neurons(self.fc(x), state)
                total = total + self.out(z)
            return total

    torch.manual_seed(0)
    module = Net()
    with torch.no_grad():
        module.fc.weight.mul_(4)
    x = torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(1))
    deployed = deploy(module, data=x, **EXACT)
    names = {layer.name: layer.inputs for layer in deployed.layout.layers}
    assert names["fc.weight"] == "signed"
    assert names["out.weight"] == "binary"
    if toolchain == "snntorch":
        assert names["neurons.recurrent.weight"] == "binary"
    with torch.no_grad():
        expected = module(x)
        assert expected.std() > 0.1
        near = (deployed.modules[0](x) - expected).abs().amax(dim=1) < 1e-3
    assert near.float().mean() > 0.95
    noisy = deploy(module, data=x, chips=2).modules[0](x)
    assert not torch.allclose(noisy, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential(nn.Linear(INPUTS, 4), nn.GRU(4, 4)), "'1': its weight_ih_l0 of .* weight matrix of a GRU"),
        (nn.Bilinear(3, 3, 2), "Bilinear"),
        (nn.Embedding(5, 3), "Embedding"),
    ],
)
def test_what_cannot_be_placed_is_refused_by_name(module: nn.Module, said: str) -> None:
    with pytest.raises(UnsupportedDynamics, match=said):
        deploy(module, data=torch.zeros(2, INPUTS))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"input range of layer '0\.weight': unknown; give data"),
        ({"input_ranges": {"0.weight": 1.0}}, r"input range of layer '3\.weight'"),
        ({"noise_model": "pmc"}, "did you mean 'pcm'"),
        ({"chips": 0}, "chips 0"),
        ({"scale": "columns"}, "did you mean 'column'"),
        ({"split": "fil"}, "did you mean 'fill'"),
        ({"headroom": 0.0}, r"headroom 0\.0"),
        ({"periphery": Periphery(compensation="global")}, "compensation 'global'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str, data: Tensor) -> None:
    given = {} if not options or "input_ranges" in options else {"data": data}
    with pytest.raises(ConfigError, match=said):
        deploy(mlp(), **(given | options))


def test_a_layout_of_another_module_is_refused(data: Tensor) -> None:
    other = layout_of(nn.Sequential(nn.Linear(INPUTS, 21), nn.ReLU(), nn.ReLU(), nn.Linear(21, CLASSES)))
    with pytest.raises(ConfigError, match=r"layer '0\.weight': \(20, 12\), in the layout \(21, 12\)"):
        deploy(mlp(), other)
    with pytest.raises(ConfigError, match=r"layer '3\.weight' of the module is not in the layout"):
        deploy(mlp(), layout_of(nn.Sequential(nn.Linear(INPUTS, 20))))
    with pytest.raises(ConfigError, match=r"the module has no layer '1\.weight'"):
        deploy(mlp(), layout_of(nn.Sequential(nn.Linear(INPUTS, 20), nn.Linear(20, CLASSES))))


def test_labels_and_outputs_that_do_not_fit_are_refused(data: Tensor) -> None:
    deployed: Deployment = deploy(mlp(), data=data, chips=1)
    with pytest.raises(ConfigError, match=r"labels \(3,\): \[40\] are due"):
        deployed.accuracy(data, torch.zeros(3))
    with pytest.raises(ConfigError, match="give predict"):
        deploy(nn.Sequential(nn.Linear(INPUTS, 2), nn.Unflatten(1, (1, 2))), data=data, chips=1).accuracy(
            data, torch.zeros(SAMPLES)
        )
    with pytest.raises(ConfigError, match="80 classes for 40 samples"):
        deployed.accuracy(data, torch.zeros(SAMPLES), predict=lambda y: y[:, :2])
