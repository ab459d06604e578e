"""Few-shot tasks on the crossbar: learners, counts, cost, and the same experiment on aihwkit's tiles."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ovonic.adapters.crossbar_fewshot import CrossbarChip, FewshotCrossbar
from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_chip import FewshotChip
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.maml import adapt
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.seeds import derive_seed
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeBatch, EpisodeSpec, sample_episodes
from ovonic.tasks.fewshot import software_learner
from ovonic.tasks.fewshot_chips import chip_learner, for_ways
from ovonic.tasks.fewshot_crossbar import crossbar_chips
from ovonic.tasks.fewshot_energy import task_counts, task_energy
from ovonic.tasks.fewshot_evaluation import evaluate
from ovonic.tasks.glyphs import glyph_alphabets

WAY, SHOT, CHANNELS, TASKS = 4, 2, 8, 6
IDEAL = FewshotCrossbar(device_model("none"), Periphery.ideal())
DAY = 86400.0


@pytest.fixture(scope="module")
def net() -> FewshotCNN:
    generator = torch.Generator().manual_seed(0)
    net = FewshotCNN(CNNConfig(n_way=WAY, channels=CHANNELS), generator).requires_grad_(False)
    net.readout.weight.normal_(0.0, 0.1, generator=generator)
    return net


@pytest.fixture(scope="module")
def characters() -> CharacterSet:
    return glyph_alphabets(3000, 1, characters=8, drawers=8)


@pytest.fixture(scope="module")
def spec() -> EpisodeSpec:
    return EpisodeSpec(WAY, SHOT, 3)


@pytest.fixture(scope="module")
def batch(characters: CharacterSet, spec: EpisodeSpec) -> EpisodeBatch:
    return sample_episodes(characters, spec, 0, range(TASKS))


@pytest.mark.parametrize("way", [WAY, 7])
@pytest.mark.parametrize("read_time_s", [0.0, DAY])
def test_an_ideal_chip_learns_as_software(
    net: FewshotCNN, characters: CharacterSet, way: int, read_time_s: float
) -> None:
    tasks = sample_episodes(characters, EpisodeSpec(way, SHOT, 3), 0, range(TASKS))
    (program,) = crossbar_chips(net, IDEAL, chips=1, seed=0, n_way=way, read_time_s=read_time_s)
    hardware, software = program()(tasks, 0), software_learner(net)(tasks, 0)
    torch.testing.assert_close(hardware.logits, software.logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(hardware.weights, software.weights, rtol=1e-3, atol=1e-5)
    w = hardware.weights
    changed = (w[1:] != w[:-1]).sum(dim=(2, 3))
    assert torch.equal(hardware.counts["cells_reprogrammed"], changed)
    assert not hardware.counts["saturated"].any()


def test_devices_reprogrammed_are_those_whose_target_changes(net: FewshotCNN, batch: EpisodeBatch) -> None:
    """Filled devices: one of each weight that moves within half of full scale, two of each that crosses 0."""
    (program,) = crossbar_chips(net, FewshotCrossbar(readout_w_max=4.0), chips=1, seed=0, n_way=WAY)
    outcome = program()(batch, 0)
    old, new = outcome.weights[:-1], outcome.weights[1:]
    assert new.abs().max() < 2.0, "the second device of each polarity stays idle"
    expected = ((old != new).int() + (old * new < 0).int()).sum(dim=(2, 3))
    assert torch.equal(outcome.counts["devices_reprogrammed"], expected)


def test_the_twins_weights_are_programmed_once(net: FewshotCNN, batch: EpisodeBatch) -> None:
    twin = software_learner(net)
    (program,) = crossbar_chips(net, None, chips=1, seed=0, n_way=WAY, adapt_on="software", twin=twin)
    outcome = program()(batch, 0)
    learned = twin(batch, 0)
    assert outcome.logits.shape[0] == 2
    assert torch.equal(outcome.weights[0], learned.weights[0])
    assert torch.equal(outcome.weights[1], learned.weights[-1])
    assert outcome.counts["devices_reprogrammed"].shape == (1, TASKS)
    assert torch.equal(
        outcome.counts["cells_reprogrammed"][0], (learned.weights[-1] != learned.weights[0]).sum(dim=(1, 2))
    )


def test_without_adaptation_the_chip_is_read_as_programmed(net: FewshotCNN, batch: EpisodeBatch) -> None:
    (program,) = crossbar_chips(net, IDEAL, chips=1, seed=0, n_way=WAY, adapt_on="none")
    outcome = program()(batch, 0)
    assert outcome.logits.shape[0] == 1
    torch.testing.assert_close(outcome.logits[0], software_learner(net)(batch, 0).logits[0], rtol=1e-3, atol=1e-4)
    assert outcome.counts["devices_reprogrammed"].shape == (0, TASKS)


def test_adapting_on_the_device_sees_the_devices(net: FewshotCNN, batch: EpisodeBatch) -> None:
    """Device and software learn other weights from a chip of large errors, the same from an ideal one."""
    for hardware, same in ((IDEAL, True), (replace(IDEAL, model=device_model("hermes")), False)):
        chips = {
            where: crossbar_chips(
                net, hardware, chips=1, seed=0, n_way=WAY, adapt_on=where, twin=software_learner(net)
            )[0]()(batch, 0)
            for where in ("device", "software")
        }
        difference = (chips["device"].weights[-1] - chips["software"].weights[-1]).abs().max()
        assert (difference < 1e-5) == same


def test_what_cannot_be_learned_is_refused(net: FewshotCNN) -> None:
    with pytest.raises(ConfigError, match="did you mean 'device'"):
        crossbar_chips(net, chips=1, seed=0, n_way=WAY, adapt_on="devise")
    with pytest.raises(ConfigError, match="software twin"):
        crossbar_chips(net, chips=1, seed=0, n_way=WAY, adapt_on="software")[0]()


def test_chips_differ_and_repeat(net: FewshotCNN, batch: EpisodeBatch) -> None:
    first, second = (chip()(batch, 0).logits for chip in crossbar_chips(net, chips=2, seed=5, n_way=WAY))
    again = crossbar_chips(net, chips=1, seed=5, n_way=WAY)[0]()(batch, 0).logits
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_an_evaluation_counts_and_costs(net: FewshotCNN, characters: CharacterSet, spec: EpisodeSpec) -> None:
    chips = crossbar_chips(net, chips=2, seed=0, n_way=WAY)
    found = evaluate(software_learner(net), chips, characters, spec, TASKS, seed=0)
    report = found.report()
    assert math.isclose(report["devices_reprogrammed"], sum(report["devices_reprogrammed_per_update"]))
    assert 0 < report["devices_reprogrammed"] <= 4 * 4 * WAY * CHANNELS
    assert report["software"]["accuracy"]["mean"] <= 1


# -------------------------------------------------------------------------------------------------------------- energy


def counts_of(net: FewshotCNN, **changes: object) -> dict[str, object]:
    given = {
        "n_way": WAY,
        "supports": 8,
        "queries": 12,
        "updates": 4,
        "devices_reprogrammed": 100.0,
    }
    return task_counts(net, FewshotCrossbar(), **(given | changes))  # type: ignore[arg-type,return-value]


def test_products_of_a_task_are_counted_by_hand(net: FewshotCNN) -> None:
    """An image: 196 + 49 + 16 + 4 products of one array each; a read of the read-out is one more."""
    image = 196 + 49 + 16 + 4
    counts = counts_of(net)
    assert counts["adaptation"].mvms == 8 * image + 4 * 8  # type: ignore[attr-defined]
    assert counts["inference"].mvms == 12 * (image + 1)  # type: ignore[attr-defined]
    assert counts["adaptation"].devices_programmed == 100.0  # type: ignore[attr-defined]
    assert counts["deployment"].devices_programmed == 4 * (9 * 8 + 3 * 72 * 8 + 8 * WAY)  # type: ignore[attr-defined]
    macs = 9 * 8 * 196 + 72 * 8 * (49 + 16 + 4) + 8 * WAY
    assert counts["twin inference"].macs == 12 * macs  # type: ignore[attr-defined]
    later = counts_of(net, read_time_s=DAY)
    assert later["inference"].mvms == 12 * (image + 1) + 8 * image, "supports are read again"  # type: ignore[attr-defined]


def test_every_averaged_read_is_counted(net: FewshotCNN) -> None:
    given = {"n_way": WAY, "supports": 8, "queries": 12, "updates": 4, "devices_reprogrammed": 100.0}
    counts = task_counts(net, FewshotCrossbar(reads=3, readout_reads=2), **given)  # type: ignore[arg-type]
    assert counts["inference"].mvms == 12 * (3 * (196 + 49 + 16 + 4) + 2)


def test_where_learning_takes_place_is_what_it_costs(net: FewshotCNN) -> None:
    device, software, none = (counts_of(net, adapt_on=where) for where in ("device", "software", "none"))
    assert software["adaptation"].macs == software["twin adaptation"].macs  # type: ignore[attr-defined]
    assert software["adaptation"].devices_programmed == 100.0  # type: ignore[attr-defined]
    assert none["adaptation"].devices_programmed == none["adaptation"].macs == 0  # type: ignore[attr-defined]
    assert device["adaptation"].mvms > none["adaptation"].mvms  # type: ignore[attr-defined]
    costs = task_energy(device)  # type: ignore[arg-type]
    assert costs["adaptation"]["energy_j"]["low"] < costs["adaptation"]["energy_j"]["typical"]


# --------------------------------------------------------------------------------------------- beside aihwkit's tiles


def errors_of(chip: FewshotChip, net: FewshotCNN, batch: EpisodeBatch, read_time_s: float) -> list[float]:
    """log10 of the mean square error of features and of adapted logits on one chip, beside software."""
    own = net.features(batch.support, batch.query)
    read = chip.features(batch.support, batch.query, read_time_s=read_time_s)
    readout = adapt(chip.readout.for_tasks(len(batch)), own[0], batch.support_labels, net.inner_lr)[-1]
    twin = software_learner(net)(batch, 0).logits[-1]
    pairs: list[tuple[Tensor, Tensor]] = [(read[1], own[1]), (readout.at(read_time_s).logits(own[1]), twin)]
    return [math.log10(float((a - b).square().mean())) for a, b in pairs]


@pytest.mark.slow
@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["pcm", "hermes"])
def test_the_same_experiment_on_aihwkits_tiles(net: FewshotCNN, batch: EpisodeBatch, name: str) -> None:
    """Errors of features and of adapted logits, at the first read and after a day, on 30 chips of either kind.

    Same devices (``zero_targets`` noisy, as aihwkit has it), split, scale and converters; no seeds in common. Welch's t
    on log10 of each chip's mean square error, 4 tests a model, each at 1e-4: false alarm 8e-4 for both models. Chips
    spread by about 0.1, so that a difference of 0.11 (an error power 1.3 times as large) is found 9 times in 10.
    """
    pytest.importorskip("aihwkit", reason="needs aihwkit: pip install 'ovonic[aihwkit]'")
    from ovonic.adapters.aihwkit import Chip, Hardware

    net, n = for_ways(net, WAY), 30
    crossbar = FewshotCrossbar(device_model(name, zero_targets="noisy"))
    few = EpisodeBatch(
        *(getattr(batch, field)[:2] for field in ("support", "support_labels", "query", "query_labels", "classes"))
    )
    for read_time_s in (0.0, DAY):
        ours = [
            errors_of(CrossbarChip(net, crossbar, seed=derive_seed("a", i)), net, few, read_time_s) for i in range(n)
        ]
        theirs = [
            errors_of(Chip(net, Hardware(name), seed=derive_seed("b", i)), net, few, read_time_s) for i in range(n)
        ]
        for a, b in zip(np.transpose(ours), np.transpose(theirs), strict=True):
            assert stats.ttest_ind(a, b, equal_var=False).pvalue > 1e-4, (read_time_s, a.mean(), b.mean())


def test_a_learner_of_any_chip_needs_only_the_protocol(net: FewshotCNN, batch: EpisodeBatch) -> None:
    chip = CrossbarChip(for_ways(net, WAY), IDEAL, seed=0)
    outcome = chip_learner(chip, updates=1)(batch, 0)
    assert outcome.logits.shape[:2] == (2, TASKS)
