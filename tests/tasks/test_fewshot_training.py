"""Meta-training learns, repeats itself bit for bit, and survives kills; what it refuses, it refuses by name."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ovonic.models.errors import ConfigError, DivergenceError, WeightsError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.maml import Precision, meta_gradient
from ovonic.tasks import fewshot_training
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot import task_accuracy
from ovonic.tasks.fewshot_run import DataConfig, read_metrics, training_data, training_run
from ovonic.tasks.fewshot_training import TrainingConfig, TrainingState, meta_train
from ovonic.tasks.glyphs import glyph_alphabets

SMALL = TrainingConfig(
    network=CNNConfig(n_way=3, channels=8, updates=2),
    episode=EpisodeSpec(3, 2, 2, rotate=True, mirror=True),
    steps=12,
    tasks=2,
    validate_every=6,
    validation_tasks=4,
)
PROVENANCE = {"command": "test", "versions": {}}


@pytest.fixture(scope="module")
def glyphs() -> CharacterSet:
    return glyph_alphabets(1000, 2, characters=10)


def _train(config: TrainingConfig, glyphs: CharacterSet) -> FewshotCNN:
    net = FewshotCNN(config.network, torch.Generator().manual_seed(config.seed))
    return meta_train(TrainingState(config, net), None, glyphs, None)


def _equal(a: FewshotCNN, b: FewshotCNN) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_learns_new_characters(glyphs: CharacterSet) -> None:
    """60 small steps lift accuracy on unseen glyphs; the untrained network's interval lies far below."""
    config = replace(SMALL, network=replace(SMALL.network, channels=16), steps=60, tasks=8, lr=5e-3, average=0.9)
    unseen = glyph_alphabets(2000, 2, characters=20)
    spec = EpisodeSpec(3, 2, 3)
    before = task_accuracy(FewshotCNN(config.network, torch.Generator().manual_seed(0)), unseen, spec, 150, seed=1)
    after = task_accuracy(_train(config, glyph_alphabets(1000, 6)), unseen, spec, 150, seed=1)
    gain = (after[:, -1] - before[:, -1]).numpy()
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))
    assert after[:, -1].mean() > after[:, 0].mean() + 0.1


@pytest.mark.parametrize("bits", [32, 4])
def test_same_seed_same_weights_other_seed_other_weights(glyphs: CharacterSet, bits: int) -> None:
    config = replace(SMALL, precision=Precision(bits, weight_noise=0.02))
    assert _equal(_train(config, glyphs), _train(config, glyphs))
    assert not _equal(_train(config, glyphs), _train(replace(config, seed=1), glyphs))


def test_meta_learned_inner_rates_move_only_when_asked(glyphs: CharacterSet) -> None:
    rates = torch.full((2,), SMALL.network.inner_lr)
    assert torch.equal(_train(SMALL, glyphs).inner_lr, rates)
    assert not torch.equal(_train(replace(SMALL, learn_inner_lr=True), glyphs).inner_lr, rates)


def test_whole_network_maml_trains(glyphs: CharacterSet) -> None:
    net = _train(replace(SMALL, adapt="network", steps=3), glyphs)
    assert all(torch.isfinite(p).all() for p in net.parameters())


@pytest.mark.parametrize("step", [1, 5, 11])
@pytest.mark.parametrize("bits", [32, 4])
def test_resumed_run_equals_uninterrupted(tmp_path: Path, step: int, bits: int) -> None:
    config = replace(SMALL, precision=Precision(bits), learn_inner_lr=True)
    data = DataConfig(glyph_alphabets=2)
    whole, _ = training_run(config, data, tmp_path / "whole", provenance=PROVENANCE)
    steps_done = []

    def stop() -> bool:
        steps_done.append(1)
        return len(steps_done) == step

    with pytest.raises(KeyboardInterrupt):
        training_run(config, data, tmp_path / "parts", provenance=PROVENANCE, stop=stop)
    resumed, _ = training_run(config, data, tmp_path / "parts", provenance=PROVENANCE, resume=True)
    assert _equal(whole, resumed)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    data = DataConfig(glyph_alphabets=1)
    config = replace(SMALL, steps=2)
    training_run(config, data, tmp_path, provenance=PROVENANCE)
    with pytest.raises(ConfigError, match="--resume"):
        training_run(config, data, tmp_path, provenance=PROVENANCE)
    with pytest.raises(ConfigError, match=r"training.lr: 0.001 there, 0.01 asked"):
        training_run(replace(config, lr=0.01), data, tmp_path, provenance=PROVENANCE, resume=True)
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a whole checkpoint"):
        training_run(config, data, tmp_path, provenance=PROVENANCE, resume=True)


def test_divergence_names_step_and_checkpoint(glyphs: CharacterSet, tmp_path: Path) -> None:
    """Step 3 is told of once the next gradient with its weights was finite: what spoils them then is seen at step 4."""

    def poison(state: TrainingState, loss: float, accuracy: float) -> None:
        if state.step == 3:
            state.net.conv_weights()[1].data[0] = float("nan")

    state = TrainingState(SMALL, FewshotCNN(SMALL.network))
    with pytest.raises(DivergenceError, match=r"step 4.*kept here"):
        meta_train(state, None, glyphs, None, on_step=poison, save=lambda _: tmp_path / "kept here", save_every=1)


def test_a_gradient_that_is_not_finite_is_divergence(glyphs: CharacterSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def steep(net: FewshotCNN, *tensors: torch.Tensor, **options: Any) -> tuple[float, float]:
        found = meta_gradient(net, *tensors, **options)
        gradient = net.conv_weights()[0].grad
        assert gradient is not None
        gradient.mul_(float("inf"))
        return found

    monkeypatch.setattr(fewshot_training, "meta_gradient", steep)
    state = TrainingState(SMALL, FewshotCNN(SMALL.network))
    with pytest.raises(DivergenceError, match=r"step 0: loss [\d.]+, gradient (inf|nan).*checkpoint: none"):
        meta_train(state, None, glyphs, None)


def test_the_checkpoint_that_is_named_trains_on_as_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that one step makes absurd are never written; those before it are, and the command goes on from them."""
    data, out = DataConfig(glyph_alphabets=1), tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingConfig, "rate", lambda self, step: 1e38 if step == 4 else self.lr)
        with pytest.raises(DivergenceError, match="diverged at step 5: ") as failed:
            training_run(SMALL, data, out, provenance=PROVENANCE, save_every=1)
    advised = shlex.split(str(failed.value)[str(failed.value).index("ovonic fewshot train") :])
    assert advised[2:] == ["train", "NEWDIR", "--init", f"{out}/checkpoint.safetensors", "--lr", "0.0001"]
    saved = load_file(advised[5])
    began: list[int] = []

    def note(state: TrainingState) -> None:
        for name, w in state.net.named_parameters():
            began.append(int(torch.equal(w, saved[f"net.{name}"])))

    config = replace(SMALL, lr=float(advised[7]), steps=3)
    _, state = training_run(config, data, tmp_path / "next", init=advised[5], provenance=PROVENANCE, on_start=note)
    assert began == [1] * 6
    assert all(np.isfinite(entry["loss"]) for entry in state.history)
    assert len(state.history) == 3


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ConfigError, match="nothing to learn from"):
        meta_train(TrainingState(SMALL, FewshotCNN(SMALL.network)), None, None, None)


def test_validation_alphabets_are_not_trained_on() -> None:
    _, glyphs, held_out = training_data(DataConfig(glyph_alphabets=3))
    assert glyphs is not None
    assert not set(glyphs.alphabet_names) & set(held_out.alphabet_names)


def test_rate_is_constant_then_falls_to_zero() -> None:
    config = replace(SMALL, steps=100, decay=0.4, lr=2.0)
    assert [config.rate(s) for s in (0, 59)] == [2.0, 2.0]
    assert config.rate(80) == pytest.approx(1.0)
    assert 0 < config.rate(99) < 0.01


def _command(out: Path, *more: str) -> list[str]:
    options = "--glyph-alphabets 2 --way 3 --shot 2 --queries 2 --channels 8 --updates 2 --tasks 2 --steps 60"
    options += " --save-every 3 --validate-every 30 --validation-tasks 4 --threads 1 --quiet"
    return [sys.executable, "-m", "ovonic", "fewshot", "train", str(out), *options.split(), *more]


@pytest.mark.slow
def test_interrupt_keeps_the_work(tmp_path: Path) -> None:
    out = tmp_path / "run"
    endless = _command(out, "--steps", "100000")
    run = subprocess.Popen(endless, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "Traceback" not in stderr
    assert (out / "checkpoint.safetensors").exists()
    steps = len(read_metrics(out)["history"])
    assert steps >= 3
