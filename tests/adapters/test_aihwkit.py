"""The few-shot CNN on a chip: what is programmed once, what is re-programmed, when it is read, and that it repeats."""

from __future__ import annotations

import subprocess
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.adapters.aihwkit import Chip, Hardware, StatefulReadout, deploy_convolutions
from ovonic.adapters.aihwkit_devices import DeviceState, derive_seed
from ovonic.models.errors import ConfigError, ToolchainError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.maml import Precision, SoftwareReadout, adapt
from ovonic.models.quantise import levels

IDEAL = Hardware("none", dac_bits=0, adc_bits=0, out_noise=0.0, w_noise=0.0)
TASKS, WAY, CHANNELS = 3, 4, 8
DAY = 86400.0


def test_importing_the_adapter_does_not_import_the_toolchain() -> None:
    code = "import sys, ovonic, ovonic.adapters.aihwkit; sys.exit('aihwkit' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def no_tiles(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    import ovonic.adapters

    monkeypatch.delitem(sys.modules, "ovonic.adapters.aihwkit_tiles", raising=False)
    monkeypatch.delattr(ovonic.adapters, "aihwkit_tiles", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "aihwkit"]:
        monkeypatch.delitem(sys.modules, name)
    return monkeypatch


def test_a_missing_aihwkit_names_the_extra(no_tiles: pytest.MonkeyPatch) -> None:
    class Absent(MetaPathFinder):
        def find_spec(self, fullname: str, *args: Any) -> None:
            if fullname == "aihwkit":
                raise ModuleNotFoundError("No module named 'aihwkit'", name="aihwkit")

    no_tiles.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ToolchainError, match=r"pip install 'ovonic\[aihwkit\]'"):
        Chip(FewshotCNN(), seed=0)


def test_a_foreign_abi_names_the_cure(no_tiles: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "aihwkit").mkdir()
    (tmp_path / "aihwkit" / "__init__.py").write_text("raise ImportError('rpu_base.so: undefined symbol: _ZN3c10')")
    no_tiles.syspath_prepend(tmp_path)
    with pytest.raises(ToolchainError, match=r"undefined symbol.*torch's ABI.*'torch>=2\.13,<2\.16'"):
        Chip(FewshotCNN(), seed=0)


class TestOnAihwkit:
    """Everything below runs aihwkit."""

    pytestmark = pytest.mark.toolchain

    @pytest.fixture(autouse=True)
    def _needs_aihwkit(self) -> None:
        pytest.importorskip("aihwkit", reason="needs aihwkit: pip install 'ovonic[aihwkit]'")

    @pytest.fixture
    def net(self) -> FewshotCNN:
        generator = torch.Generator().manual_seed(0)
        net = FewshotCNN(CNNConfig(n_way=WAY, channels=CHANNELS), generator).requires_grad_(False)
        net.readout.weight.normal_(0.0, 0.1, generator=generator)
        return net

    @pytest.fixture
    def images(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        return (
            torch.rand(TASKS, 2 * WAY, 1, 28, 28, generator=generator),
            torch.rand(TASKS, 5, 1, 28, 28, generator=generator),
        )

    @pytest.fixture
    def labels(self) -> Tensor:
        return torch.arange(WAY).repeat_interleave(2).expand(TASKS, -1)

    @pytest.fixture
    def features(self) -> Tensor:
        return torch.randn(TASKS, 2 * WAY, CHANNELS, generator=torch.Generator().manual_seed(2))

    # -------------------------------------------------------------------------------------------- convolutions

    @pytest.mark.parametrize("norm", ["support", "transductive", "meta-batch"])
    @pytest.mark.parametrize("read_time_s", [0.0, DAY])
    def test_an_ideal_chip_equals_software(
        self, net: FewshotCNN, images: tuple[Tensor, Tensor], norm: str, read_time_s: float
    ) -> None:
        software = net.features(*images, norm=norm)
        hardware = Chip(net, IDEAL, seed=0).features(*images, norm=norm, read_time_s=read_time_s)
        for a, b in zip(software, hardware, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

    def test_the_networks_own_modules_are_untouched(self, net: FewshotCNN) -> None:
        kernels = [k.clone() for k in net.conv_weights()]
        deployed = deploy_convolutions(net, seed=0)
        assert all(isinstance(conv, torch.nn.Conv2d) for conv in net.convs)
        assert all(torch.equal(a, b) for a, b in zip(kernels, net.conv_weights(), strict=True))
        assert not any(p.requires_grad for conv in deployed.convs for p in conv.parameters())

    def test_a_seed_is_a_chip_bit_for_bit_at_any_age(self, net: FewshotCNN) -> None:
        def devices(seed: int, read_time_s: float) -> list[DeviceState]:
            deployed = deploy_convolutions(net, Hardware("hermes", split="equal"), seed=seed, read_time_s=read_time_s)
            return [tile.state() for conv in deployed.convs for tile in conv.analog_tiles()]  # type: ignore[operator]

        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        young, same, old, other = devices(1, 0.0), devices(1, 0.0), devices(1, DAY), devices(2, 0.0)
        assert torch.equal(torch.rand(2), expected), "the caller's random stream is left alone"
        for a, b, c, d in zip(young, same, old, other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
            assert torch.equal(a.g_prog, c.g_prog)
            assert torch.equal(a.nu, c.nu)
            assert not torch.equal(a.g_prog, d.g_prog)
            used = a.g_target > 0
            assert c.g_read[used].mean() < 0.8 * a.g_read[used].mean(), "it has drifted"
        assert len({float(state.nu.flatten()[0]) for state in young}) == len(young), "no two tiles share draws"

    def test_features_of_a_task_do_not_depend_on_its_batch(
        self, net: FewshotCNN, images: tuple[Tensor, Tensor]
    ) -> None:
        chip = Chip(net, Hardware("pcm"), seed=4)
        together = chip.features(*images, first_task=10)
        alone = chip.features(images[0][2:], images[1][2:], first_task=12)
        again = Chip(net, Hardware("pcm"), seed=4).features(*images, first_task=10)
        other = chip.features(*images, first_task=11)
        for i in (0, 1):
            assert torch.equal(together[i][2:], alone[i])
            assert torch.equal(together[i], again[i])
            assert not torch.equal(together[i], other[i])

    def test_support_is_read_at_adaptation_and_queries_later(
        self, net: FewshotCNN, images: tuple[Tensor, Tensor]
    ) -> None:
        chip = Chip(net, Hardware("pcm", w_noise=0.0, out_noise=0.0), seed=4)
        now = chip.features(*images, norm="transductive")
        later = chip.features(*images, norm="transductive", read_time_s=DAY)
        assert torch.equal(now[0], later[0])
        assert not torch.equal(now[1], later[1])

    def test_stored_statistics_let_the_signal_drift_away(self, net: FewshotCNN, images: tuple[Tensor, Tensor]) -> None:
        """At the first read both ways agree; after a day the stored numbers belong to a stronger signal."""
        chip = Chip(net, Hardware("pcm", w_noise=0.0, out_noise=0.0), seed=4)
        deviation = {}
        for statistics in ("recalibrated", "stored"):
            now, later = (
                chip.features(*images, norm="support", read_time_s=t, statistics=statistics) for t in (0.0, DAY)
            )
            torch.testing.assert_close(now[0], later[0], rtol=1e-5, atol=1e-5)
            deviation[statistics] = float((now[1] - later[1]).square().mean())
        assert deviation["stored"] > 2 * deviation["recalibrated"] > 0

    def test_kernels_are_rounded_once_a_chip(self, net: FewshotCNN) -> None:
        deployed = deploy_convolutions(net, IDEAL, seed=0, precision=Precision(4, "nearest"))
        grid = levels(4)
        for conv in deployed.convs:
            weight, _ = conv.analog_module.get_weights()  # type: ignore[union-attr,operator]
            assert ((weight.flatten()[:, None] - grid).abs().amin(dim=1) < 1e-5).all()

    # ------------------------------------------------------------------------------------------------- read-out

    def test_an_ideal_array_learns_as_software_does(self, net: FewshotCNN, features: Tensor, labels: Tensor) -> None:
        software = adapt(SoftwareReadout.of(net, TASKS, Precision()), features, labels, net.inner_lr)
        start = StatefulReadout.program(net.readout.weight, IDEAL, seed=0).for_tasks(TASKS)
        hardware = adapt(start, features, labels, net.inner_lr)
        for a, b in zip(software, hardware, strict=True):
            torch.testing.assert_close(b.w, a.w, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(b.weights(), a.w, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(b.at(DAY).logits(features), a.logits(features), rtol=1e-3, atol=1e-5)

    def test_an_update_leaves_every_other_device_bit_for_bit(self, net: FewshotCNN) -> None:
        hardware = Hardware("pcm", split="equal")
        before = StatefulReadout.program(net.readout.weight, hardware, seed=0).for_tasks(TASKS)
        delta = torch.zeros(TASKS, WAY, CHANNELS)
        delta[0, 1, 2] = 0.3
        delta[1, :, 5] = -3 * before.w[1, :, 5]
        after = before.updated(delta)
        assert after.cells_reprogrammed.tolist() == [1, WAY, 0]
        flips = int((before.w[0, 1, 2] * (before.w[0, 1, 2] + 0.3)) < 0)
        assert after.devices_reprogrammed.tolist() == [2 + 2 * flips, 4 * WAY, 0]
        touched = before.devices.g_target != after.devices.g_target
        assert torch.equal(touched.sum(dim=(1, 2, 3)), after.devices_reprogrammed)
        for name, old, new in zip(DeviceState._fields, before.devices, after.devices, strict=True):
            assert torch.equal(old[~touched], new[~touched]), name
        assert not (before.devices.g_prog == after.devices.g_prog)[touched].any()
        assert not (before.devices.nu == after.devices.nu)[touched].any()

    def test_every_task_starts_from_the_one_programmed_array(self, net: FewshotCNN) -> None:
        chip = Chip(net, Hardware("pcm"), seed=0)
        start = chip.readout.for_tasks(TASKS)
        for state in start.devices:
            assert (state == state[:1]).all()
        after = start.updated(torch.full((TASKS, WAY, CHANNELS), 0.1))
        assert not torch.equal(after.devices.g_prog[0], after.devices.g_prog[1]), "each programs with its own draws"
        assert torch.equal(chip.readout.devices.g_prog, start.devices.g_prog[:1])

    def test_the_same_chip_batch_and_updates_give_the_same_bits(
        self, net: FewshotCNN, features: Tensor, labels: Tensor
    ) -> None:
        def run(seed: int, first_task: int) -> Tensor:
            start = Chip(net, Hardware("pcm"), seed=seed).readout.for_tasks(TASKS, first_task)
            return adapt(start, features, labels, net.inner_lr)[-1].at(DAY).logits(features)

        assert torch.equal(run(0, 0), run(0, 0))
        assert not torch.equal(run(0, 0), run(1, 0))
        assert not torch.equal(run(0, 0), run(0, TASKS))

    @pytest.mark.parametrize("name", ["pcm", "hermes"])
    def test_a_module_with_the_tile_equals_the_batched_read_out(self, name: str, features: Tensor) -> None:
        """One task, the same seeds: an aihwkit AnalogLinear on a DeviceTile, through updates, ageing and reads."""
        from aihwkit.nn import AnalogLinear

        from ovonic.adapters.aihwkit_tiles import rpu_config

        hardware = Hardware(name, readout_w_max=0.5)
        weight = torch.randn(WAY, CHANNELS, generator=torch.Generator().manual_seed(5)) * 0.15
        readout = StatefulReadout.program(weight, hardware, seed=9)
        converters = hardware.converters(hardware.activation_range, hardware.readout_adc_range)
        module = AnalogLinear(CHANNELS, WAY, False, rpu_config(hardware, converters)).eval()
        (tile,) = module.analog_tiles()
        tile.set_weights(weight / 0.5, apply_weight_scaling=False)
        tile.set_scales(torch.full((WAY,), 0.5))

        def same(readout: StatefulReadout) -> None:
            for a, b in zip(readout.devices, tile.state(), strict=True):
                assert torch.equal(a[0], b)
            tile.reseed(tile.seed, readout.products_seed)
            for _ in range(2):
                torch.testing.assert_close(module(features[0]), readout.logits(features[:1])[0], rtol=1e-6, atol=1e-7)

        tile.reseed(9)
        module.program_analog_weights()
        same(readout)
        for now_s in (0.0, 500.0):
            if now_s:
                readout = readout.at(now_s)
                module.drift_analog_weights(now_s)
                same(readout)
            delta = torch.zeros(1, WAY, CHANNELS)
            delta[0, 2] = 0.07
            readout = readout.updated(delta)
            touched = tile.reprogram(readout.w[0], now_s=now_s)
            assert int(touched.sum()) == int(readout.devices_reprogrammed)
            same(readout)
        module.drift_analog_weights(DAY)
        same(readout.at(DAY))
        assert len(readout.devices.t_prog_s.unique()) == 2, "devices of two ages"

    def test_four_bit_targets_stay_on_the_grid_and_few_devices_change(self, net: FewshotCNN, features: Tensor) -> None:
        start = StatefulReadout.program(net.readout.weight, Hardware("pcm"), seed=0, precision=Precision(4))
        assert start.w_max == 1.0
        after = start.for_tasks(TASKS).updated(torch.full((TASKS, WAY, CHANNELS), 1 / 80))
        grid = levels(4)
        assert torch.isin(start.w, grid).all()
        assert torch.isin(after.w, grid).all()
        # a tenth of a step: 96 weights, each changed with probability 0.1: 1 to 25 but once in 10^4
        assert 1 <= int(after.cells_reprogrammed.sum()) <= 25

    def test_update_step_rounds_the_change_stochastically(self, net: FewshotCNN) -> None:
        """Mean of n = 3,200 changes of 0.1 of a step: 0.1 +- 0.0053, band of 5 sigma (false alarm 6e-7)."""
        start = StatefulReadout.program(net.readout.weight, Hardware("pcm"), seed=0, update_step=1 / 16).for_tasks(100)
        after = start.updated(torch.full((100, WAY, CHANNELS), 0.1 / 16))
        steps = (after.w - start.w) * 16
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-5)
        assert abs(float(steps.mean()) - 0.1) < 0.0265
        assert torch.equal(after.cells_reprogrammed, (steps.round() != 0).sum(dim=(1, 2)))

    def test_targets_beyond_full_scale_are_clipped_and_counted(self, net: FewshotCNN) -> None:
        start = StatefulReadout.program(net.readout.weight, Hardware("pcm", readout_w_max=0.5), seed=0).for_tasks(2)
        delta = torch.zeros(2, WAY, CHANNELS)
        delta[1, 0, :3] = 2.0
        after = start.updated(delta)
        assert after.saturated.tolist() == [0, 3]
        assert torch.equal(after.w[1, 0, :3], torch.full((3,), 0.5)), "clipped, not folded to 2 - w"
        assert after.updated(delta).devices_reprogrammed.tolist() == [0, 0], "and not wound up beyond it"

    def test_each_read_has_noise_of_its_own(self, net: FewshotCNN, features: Tensor) -> None:
        start = Chip(net, Hardware("pcm"), seed=0).readout.for_tasks(TASKS)
        first, second, at_once = start.logits(features), start.logits(features), start.at(0.0)
        assert not torch.equal(first, second)
        assert torch.equal(at_once.devices.g_read, start.devices.g_read), "no time has passed"
        assert not torch.equal(at_once.logits(features), first)

    def test_averaged_reads_have_less_noise(self, net: FewshotCNN, features: Tensor) -> None:
        """Spread of 96 logits over 50 reads each, 4 products a read: half, known to 1.5 %, band 10 % (over 6 sigma)."""
        spread = []
        for reads in (1, 4):
            chip = Chip(net, Hardware("pcm", adc_bits=0, readout_reads=reads), seed=0)
            start = chip.readout.for_tasks(TASKS)
            spread.append(torch.stack([start.logits(features) for _ in range(50)]).std(dim=0).square().mean().sqrt())
        assert abs(float(spread[1] / spread[0]) - 0.5) < 0.05

    def test_time_moves_on_and_never_back(self, net: FewshotCNN) -> None:
        readout = Chip(net, Hardware("pcm"), seed=0).readout
        old = readout.at(100.0)
        assert old.weights().abs().mean() < 0.95 * readout.weights().abs().mean()
        with pytest.raises(ConfigError, match=r"clock already shows 100\.0 s"):
            old.at(50.0)
        with pytest.raises(ConfigError, match="read time -1"):
            Chip(net, seed=0).convolutions(-1.0)

    def test_what_does_not_fit_an_array_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="300 rows and 5 columns: an array has 256 x 256"):
            StatefulReadout.program(torch.zeros(5, 300), seed=0)

    def test_an_unknown_way_to_keep_statistics_is_refused(self, net: FewshotCNN, images: tuple[Tensor, Tensor]) -> None:
        with pytest.raises(ConfigError, match="did you mean 'stored'"):
            Chip(net, seed=0).features(*images, statistics="store")


@pytest.mark.shared
@pytest.mark.toolchain
def test_the_published_network_keeps_its_features_on_a_chip(shared: Path) -> None:
    """Golden images, 504 x 56 kernels on 256-row arrays: features on a pcm chip correlate above 0.9 (0.94 seen)."""
    pytest.importorskip("aihwkit", reason="needs aihwkit: pip install 'ovonic[aihwkit]'")
    checkpoint = np.load(shared / "published" / "cnn_checkpoint.npz")
    net = FewshotCNN(CNNConfig(norm="transductive")).requires_grad_(False)
    for layer, conv in enumerate(net.convs):
        conv.weight.copy_(torch.from_numpy(checkpoint[f"kernel{layer + 1}"]).permute(3, 2, 0, 1))  # type: ignore[operator]
    golden = np.load(shared / "published" / "cnn_golden.npz")
    support, query = (
        torch.from_numpy(golden[f"{name}_images"]).permute(0, 1, 4, 2, 3) for name in ("support", "query")
    )
    chip = Chip(net, Hardware("pcm"), seed=derive_seed("golden"))
    tiles = [[tile.in_size for tile in conv.analog_tiles()] for conv in chip.convolutions().convs]  # type: ignore[operator]
    assert tiles == [[9], [252, 252], [252, 252], [252, 252]]
    software, hardware = net.features(support, query), chip.features(support, query)
    for a, b in zip(software, hardware, strict=True):
        assert float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) > 0.9
