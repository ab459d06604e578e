"""The few-shot CNN on two arrays: where it lies, what is programmed, when it is read, and that it repeats."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ovonic.adapters.crossbar_fewshot import CrossbarChip, FewshotCrossbar
from ovonic.adapters.crossbar_weights import weights_of
from ovonic.models.array_convolution import ArrayConvolution
from ovonic.models.crossbar import ArrayState
from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.maml import Precision, SoftwareReadout, adapt
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.quantise import levels
from ovonic.models.verify import Verify

TASKS, WAY, CHANNELS = 3, 4, 8
DAY = 86400.0
IDEAL = FewshotCrossbar(device_model("none"), Periphery.ideal())
QUIET = FewshotCrossbar(periphery=Periphery(w_noise=0.0, out_noise=0.0))


def network(channels: int = CHANNELS, way: int = WAY) -> FewshotCNN:
    generator = torch.Generator().manual_seed(0)
    net = FewshotCNN(CNNConfig(n_way=way, channels=channels), generator).requires_grad_(False)
    net.readout.weight.normal_(0.0, 0.1, generator=generator)
    return net


@pytest.fixture
def net() -> FewshotCNN:
    return network()


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(TASKS, 2 * WAY, 1, 28, 28, generator=generator),
        torch.rand(TASKS, 5, 1, 28, 28, generator=generator),
    )


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(WAY).repeat_interleave(2).expand(TASKS, -1)


@pytest.fixture
def features() -> Tensor:
    return torch.randn(TASKS, 2 * WAY, CHANNELS, generator=torch.Generator().manual_seed(2))


# ---------------------------------------------------------------------------------------------------------- the arrays


@pytest.mark.parametrize(("way", "columns"), [(5, 229), (20, 244)])
def test_the_papers_network_takes_the_papers_two_arrays(way: int, columns: int) -> None:
    chip = CrossbarChip(network(56, way), seed=0)
    assert [(array.rows, array.columns) for array in chip.layout.arrays] == [(256, 256)] * 2
    assert chip.layout.used(0) == (slice(0, 252), slice(0, columns))
    for layer in range(1, 4):
        blocks = chip.layout.blocks_of(f"convs.{layer}.weight")
        assert [(block.height, block.width) for block in blocks] == [(252, 56)] * 2
        assert {block.array for block in blocks} == {0, 1}
        assert chip.convolutions().convs[layer].grouped
    assert chip.layout.n_weights == 9 * 56 + 3 * 504 * 56 + 56 * way


@pytest.mark.parametrize("split", ["fill", "equal", "set_and_tune"])
def test_the_arrays_hold_the_networks_weights(net: FewshotCNN, split: str) -> None:
    chip = CrossbarChip(net, replace(IDEAL, split=split), seed=0)
    held = weights_of(chip.layout, [state.g_read for state in chip.states], chip.hardware.model.g_max_us)
    for layer in chip.layout.layers:
        torch.testing.assert_close(held[layer.name], net.get_parameter(layer.name).data, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(chip.readout.weights()[0], net.readout.weight.data, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [CHANNELS, 29, 56])
@pytest.mark.parametrize("norm", ["support", "transductive", "meta-batch"])
@pytest.mark.parametrize("read_time_s", [0.0, DAY])
def test_an_ideal_chip_equals_software(
    images: tuple[Tensor, Tensor], channels: int, norm: str, read_time_s: float
) -> None:
    net = network(channels)
    software = net.features(*images, norm=norm)
    hardware = CrossbarChip(net, IDEAL, seed=0).features(*images, norm=norm, read_time_s=read_time_s)
    for a, b in zip(software, hardware, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_networks_own_modules_are_untouched(net: FewshotCNN) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    deployed = CrossbarChip(net, seed=0).convolutions(DAY)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(isinstance(conv, ArrayConvolution) for conv in deployed.convs)


def test_a_seed_is_a_chip_bit_for_bit_at_any_age(net: FewshotCNN) -> None:
    def weights(seed: int, read_time_s: float) -> list[Tensor]:
        return [conv.readers[0].weights for conv in CrossbarChip(net, seed=seed).convolutions(read_time_s).convs]

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    young, same, old, other = weights(1, 0.0), weights(1, 0.0), weights(1, DAY), weights(2, 0.0)
    assert torch.equal(torch.rand(2), expected), "the caller's random stream is left alone"
    for a, b, c, d in zip(young, same, old, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, d)
        assert c.abs().mean() < 0.8 * a.abs().mean(), "it has drifted"


def test_features_of_a_task_do_not_depend_on_its_batch(net: FewshotCNN, images: tuple[Tensor, Tensor]) -> None:
    chip = CrossbarChip(net, seed=4)
    together = chip.features(*images, first_task=10)
    alone = chip.features(images[0][2:], images[1][2:], first_task=12)
    again = CrossbarChip(net, seed=4).features(*images, first_task=10)
    other = chip.features(*images, first_task=11)
    for i in (0, 1):
        assert torch.equal(together[i][2:], alone[i])
        assert torch.equal(together[i], again[i])
        assert not torch.equal(together[i], other[i])


def test_support_is_read_at_adaptation_and_queries_later(net: FewshotCNN, images: tuple[Tensor, Tensor]) -> None:
    chip = CrossbarChip(net, QUIET, seed=4)
    now = chip.features(*images, norm="transductive")
    later = chip.features(*images, norm="transductive", read_time_s=DAY)
    assert torch.equal(now[0], later[0])
    assert not torch.equal(now[1], later[1])


def test_stored_statistics_let_the_signal_drift_away(net: FewshotCNN, images: tuple[Tensor, Tensor]) -> None:
    """At the first read both ways agree; after a day the stored numbers belong to a stronger signal."""
    chip = CrossbarChip(net, QUIET, seed=4)
    deviation = {}
    for statistics in ("recalibrated", "stored"):
        now, later = (chip.features(*images, norm="support", read_time_s=t, statistics=statistics) for t in (0.0, DAY))
        torch.testing.assert_close(now[0], later[0], rtol=1e-5, atol=1e-5)
        deviation[statistics] = float((now[1] - later[1]).square().mean())
    assert deviation["stored"] > 2 * deviation["recalibrated"] > 0


def test_kernels_are_rounded_once_a_chip(net: FewshotCNN) -> None:
    chip = CrossbarChip(net, replace(IDEAL, scale="layer"), seed=0, precision=Precision(4, "nearest"))
    held = weights_of(chip.layout, [state.g_read for state in chip.states], chip.hardware.model.g_max_us)
    for layer in chip.layout.layers[:-1]:
        assert ((held[layer.name].flatten()[:, None] - levels(4)).abs().amin(dim=1) < 1e-5).all()


def test_uneven_columns_are_read_unevenly(net: FewshotCNN, images: tuple[Tensor, Tensor], features: Tensor) -> None:
    """Gains and offsets of 10 % change what is read, of convolutions and read-out; each column keeps its own."""
    uneven = replace(IDEAL, periphery=replace(Periphery.ideal(), column_gain_sigma=0.1, column_offset_sigma=0.1))
    chip, even = CrossbarChip(net, uneven, seed=0), CrossbarChip(net, IDEAL, seed=0)
    assert (chip.features(*images)[0] - even.features(*images)[0]).abs().max() > 0.01
    logits = chip.readout.logits(features[:1])
    assert torch.equal(logits, chip.readout.logits(features[:1]))
    (block,) = chip.layout.blocks_of("readout.weight")
    gain, offset = (part[block.columns] for part in chip.columns[block.array])
    y = even.readout.logits(features[:1]) * gain + offset * chip.readout.w_max * uneven.activation_range
    torch.testing.assert_close(logits, y, rtol=1e-4, atol=1e-5)


def test_verified_devices_are_nearer_to_their_targets(net: FewshotCNN) -> None:
    def error(verify: Verify | None) -> float:
        states = CrossbarChip(net, replace(FewshotCrossbar(), verify=verify), seed=0).states
        return float(sum((s.g_prog - s.g_target).square().sum() for s in states))

    assert error(Verify(10, 0.5)) < 0.7 * error(None)


# ------------------------------------------------------------------------------------------------------------ read-out


def test_an_ideal_array_learns_as_software_does(net: FewshotCNN, features: Tensor, labels: Tensor) -> None:
    software = adapt(SoftwareReadout.of(net, TASKS, Precision()), features, labels, net.inner_lr)
    hardware = adapt(CrossbarChip(net, IDEAL, seed=0).readout.for_tasks(TASKS), features, labels, net.inner_lr)
    for a, b in zip(software, hardware, strict=True):
        torch.testing.assert_close(b.w, a.w, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(b.weights(), a.w, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(b.at(DAY).logits(features), a.logits(features), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["pcm", "hermes", "hermes-pair"])
def test_an_update_leaves_every_other_device_bit_for_bit(net: FewshotCNN, name: str) -> None:
    hardware = FewshotCrossbar(device_model(name), split="equal")
    before = CrossbarChip(net, hardware, seed=0).readout.for_tasks(TASKS)
    delta = torch.zeros(TASKS, WAY, CHANNELS)
    delta[0, 1, 2] = 0.3
    delta[1, :, 5] = -3 * before.w[1, :, 5]
    after = before.updated(delta)
    assert after.cells_reprogrammed.tolist() == [1, WAY, 0]
    flips = int((before.w[0, 1, 2] * (before.w[0, 1, 2] + 0.3)) < 0)
    assert after.devices_reprogrammed.tolist() == [2 + 2 * flips, 4 * WAY, 0]
    touched = before.devices.g_target != after.devices.g_target
    assert torch.equal(touched.sum(dim=(1, 2, 3)), after.devices_reprogrammed)
    for field, old, new in zip(ArrayState._fields, before.devices, after.devices, strict=True):
        assert torch.equal(old[~touched], new[~touched]), field
    on = touched & (after.devices.g_target > 0)
    assert not (before.devices.g_prog == after.devices.g_prog)[on].any()
    assert torch.equal(after.devices.pulses, before.devices.pulses + touched)


def test_every_task_starts_from_the_one_programmed_array(net: FewshotCNN) -> None:
    chip = CrossbarChip(net, seed=0)
    start = chip.readout.for_tasks(TASKS)
    (block,) = chip.layout.blocks_of("readout.weight")
    for held, state in zip(chip.states[block.array], start.devices, strict=True):
        assert (state == held[:, block.rows, block.columns]).all()
    after = start.updated(torch.full((TASKS, WAY, CHANNELS), 0.1))
    assert not torch.equal(after.devices.g_prog[0], after.devices.g_prog[1]), "each programs with its own draws"
    assert torch.equal(chip.readout.devices.g_prog, start.devices.g_prog[:1])


def test_the_same_chip_batch_and_updates_give_the_same_bits(net: FewshotCNN, features: Tensor, labels: Tensor) -> None:
    def run(seed: int, first_task: int) -> Tensor:
        start = CrossbarChip(net, seed=seed).readout.for_tasks(TASKS, first_task)
        return adapt(start, features, labels, net.inner_lr)[-1].at(DAY).logits(features)

    assert torch.equal(run(0, 0), run(0, 0))
    assert not torch.equal(run(0, 0), run(1, 0))
    assert not torch.equal(run(0, 0), run(0, TASKS))


def test_targets_beyond_full_scale_are_clipped_and_counted(net: FewshotCNN) -> None:
    start = CrossbarChip(net, FewshotCrossbar(readout_w_max=0.5), seed=0).readout.for_tasks(2)
    delta = torch.zeros(2, WAY, CHANNELS)
    delta[1, 0, :3] = 2.0
    after = start.updated(delta)
    assert after.saturated.tolist() == [0, 3]
    assert torch.equal(after.w[1, 0, :3], torch.full((3,), 0.5))
    assert after.updated(delta).devices_reprogrammed.tolist() == [0, 0], "not wound up beyond it"


def test_weights_can_be_set_as_a_whole(net: FewshotCNN) -> None:
    """A target that is kept costs nothing; one that is new is programmed, whatever the precision of updates."""
    start = CrossbarChip(net, seed=0, precision=Precision(4)).readout.for_tasks(2)
    target = start.w.clone()
    target[1, 2] = 0.0123
    after = start.programmed_to(target)
    assert torch.equal(after.w, target)
    assert after.devices_reprogrammed[0] == 0
    assert 0 < after.devices_reprogrammed[1] <= 4 * CHANNELS


def test_averaged_reads_have_less_noise(net: FewshotCNN, features: Tensor) -> None:
    """Spread of 96 logits over 50 reads each, 4 products a read: half, known to 1.5 %, band 10 % (over 6 sigma)."""
    spread = []
    for reads in (1, 4):
        hardware = FewshotCrossbar(periphery=Periphery(adc_bits=0), readout_reads=reads)
        start = CrossbarChip(net, hardware, seed=0).readout.for_tasks(TASKS)
        spread.append(torch.stack([start.logits(features) for _ in range(50)]).std(dim=0).square().mean().sqrt())
    assert abs(float(spread[1] / spread[0]) - 0.5) < 0.05


def test_averaged_convolutions_have_less_noise(net: FewshotCNN) -> None:
    """Variance of 56 outputs over n = 200 equal images, 4 products a read: a quarter.

    Known to 1.3 % a setting (11,200 products, 2 variances): band 10 %, over 5 deviations.
    """
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(3)).expand(200, -1, -1, -1)
    spread = []
    for reads in (1, 4):
        chip = CrossbarChip(net, FewshotCrossbar(periphery=Periphery(adc_bits=0), reads=reads), seed=0)
        spread.append(chip.reseeded(0.0, 0).convs[0](image)[:, :, 3:10, 3].var(dim=0).mean())
    assert abs(float(4 * spread[1] / spread[0]) - 1) < 0.1


def test_time_moves_on_and_never_back(net: FewshotCNN) -> None:
    readout = CrossbarChip(net, seed=0).readout
    old = readout.at(100.0)
    assert old.weights().abs().mean() < 0.95 * readout.weights().abs().mean()
    with pytest.raises(ConfigError, match=r"clock already shows 100\.0 s"):
        old.at(50.0)
    with pytest.raises(ConfigError, match="read time -1"):
        CrossbarChip(net, seed=0).convolutions(-1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "fil"}, "did you mean 'fill'"),
        ({"scale": "columns"}, "did you mean 'column'"),
        ({"activation_range": 0.0}, "activation_range 0.0"),
        ({"readout_w_max": -1.0}, "readout_w_max -1.0"),
        ({"readout_reads": 0}, "readout_reads 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FewshotCrossbar(**options)  # type: ignore[arg-type]


def test_a_read_out_larger_than_an_array_is_refused() -> None:
    with pytest.raises(ConfigError, match="8 rows and 40 columns: an array has 32 x 32"):
        CrossbarChip(network(8, 40), FewshotCrossbar(rows=32, columns=32), seed=0)


@pytest.mark.parametrize("kind", ["global", "column"])
def test_compensation_gives_the_signal_back(net: FewshotCNN, features: Tensor, kind: str) -> None:
    """After a day: the products of every layer shrink without, and are again of the size they had with it."""
    periphery = replace(Periphery.ideal(), compensation=kind)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(3))

    def sizes(hardware: FewshotCrossbar, read_time_s: float) -> list[float]:
        chip = CrossbarChip(net, hardware, seed=0)
        first = chip.convolutions(read_time_s).convs[0](images).abs().mean()
        logits = chip.readout.at(read_time_s).logits(features[:1]).abs().mean()
        return [float(first), float(logits)]

    young = sizes(FewshotCrossbar(periphery=Periphery.ideal()), 0.0)
    for y, old, kept in zip(
        young,
        sizes(FewshotCrossbar(periphery=Periphery.ideal()), DAY),
        sizes(FewshotCrossbar(periphery=periphery), DAY),
        strict=True,
    ):
        assert old < 0.8 * y
        assert kept == pytest.approx(y, rel=0.1)
