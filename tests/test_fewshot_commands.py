"""``ovonic fewshot`` as a user meets it: train, evaluate, adapt; the JSON it promises; what wrong input prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovonic.__main__ import main
from ovonic.tasks.glyphs import glyph_alphabets

TRAIN = "fewshot train {out} --glyph-alphabets 2 --channels 8 --tasks 2 --steps 4 --validation-tasks 4 --quiet"
EVALUATE = "fewshot evaluate -w {out}/weights.safetensors --tasks 6 --seed 3 --quiet"


def run(line: str, **places: object) -> int:
    return main(shlex.split(line.format(**places)))


def result_of(line: str, json_file: Path, **places: object) -> dict[str, Any]:
    assert run(f"{line} --json {shlex.quote(str(json_file))}", **places) == 0
    loaded: dict[str, Any] = json.loads(json_file.read_text())
    return loaded


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "r"
    assert run(TRAIN, out=out) == 0
    return out


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: support/CLASS/*.png, three drawings each, and unknown/*.png."""
    folder = tmp_path_factory.mktemp("drawings")
    glyphs = glyph_alphabets(3000, 1, characters=4, drawers=5)
    for c, start in enumerate(glyphs.starts):
        for d in range(5):
            place = folder / "support" / f"class{c}" if d < 3 else folder / "unknown"
            place.mkdir(parents=True, exist_ok=True)
            pixels = (glyphs.images[start + d].numpy() * 3.98).astype(np.uint8)
            Image.fromarray(pixels).resize((60, 60)).save(place / f"c{c}_{d}.png")
    return folder


def test_training_leaves_weights_metrics_checkpoint_and_curve(trained: Path) -> None:
    names = {"checkpoint.safetensors", "loss.png", "metrics.json", "weights.safetensors"}
    assert {file.name for file in trained.iterdir()} == names


def test_evaluate_in_software(trained: Path, tmp_path: Path) -> None:
    r = result_of(EVALUATE + " --figures {figures}", tmp_path / "r.json", out=trained, figures=tmp_path / "figures")
    assert r["schema"] == "ovonic/fewshot-evaluate/1"
    assert r["tasks"] == 6
    assert len(r["accuracy_per_update"]) == 5
    assert r["accuracy"] == r["accuracy_per_update"][-1]
    assert 0 <= r["accuracy"]["mean"] <= 1
    wanted = {"nearest_class_mean", "ridge", "random_features", "pixels_nearest_class_mean", "pixels_ridge"}
    assert wanted == r["baselines"].keys()
    assert {"torch", "numpy", "ovonic", "python"} <= r["versions"].keys()
    assert r["config"]["norm"] == "support"
    assert r["config"]["weights"]["sha256"]
    assert "software" not in r
    assert len(list((tmp_path / "figures").glob("*.png"))) == 3


@pytest.mark.toolchain
@pytest.mark.parametrize("noise_model", ["pcm", "hermes"])
def test_evaluate_on_hardware_beside_its_twin(trained: Path, tmp_path: Path, noise_model: str) -> None:
    pytest.importorskip("aihwkit")
    line = EVALUATE + f" --hardware aihwkit --noise-model {noise_model} --chips 2 --read-time 86400"
    r = result_of(line, tmp_path / "r.json", out=trained)
    assert r["chips"]["n"] == 2
    assert r["chips"]["worst"] <= r["accuracy"]["mean"]
    assert len(r["devices_reprogrammed_per_update"]) == 4
    assert all(0 < n <= 4 * 5 * 8 for n in r["devices_reprogrammed_per_update"])
    assert r["versions"]["aihwkit"]
    software = result_of(EVALUATE, tmp_path / "s.json", out=trained)
    assert r["software"]["accuracy_per_update"] == software["accuracy_per_update"]
    again = result_of(line, tmp_path / "again.json", out=trained)
    assert again["accuracy_per_update"] == r["accuracy_per_update"]


def test_evaluate_on_the_crossbar_beside_its_twin(trained: Path, tmp_path: Path) -> None:
    line = EVALUATE + " --hardware crossbar --noise-model hermes --chips 2 --read-time 2592000"
    r = result_of(line, tmp_path / "r.json", out=trained)
    assert r["chips"]["n"] == 2
    assert r["chips"]["worst"] <= r["accuracy"]["mean"]
    assert r["devices_reprogrammed"] == pytest.approx(sum(r["devices_reprogrammed_per_update"]))
    assert 0 < r["devices_reprogrammed"] <= 4 * 4 * 5 * 8
    energy = r["energy"]["adaptation"]["energy_j"]
    assert 0 < energy["low"] < energy["typical"] < energy["high"]
    assert {"inference", "deployment", "twin adaptation", "twin inference"} < r["energy"].keys()
    assert r["config"]["chip"]["model"]["name"] == "hermes"
    assert r["config"]["adapt_on"] == "device"
    software = result_of(EVALUATE, tmp_path / "s.json", out=trained)
    assert r["software"]["accuracy_per_update"] == software["accuracy_per_update"]
    again = result_of(line, tmp_path / "again.json", out=trained)
    assert again["accuracy_per_update"] == r["accuracy_per_update"]


@pytest.mark.parametrize(("where", "reads"), [("software", 2), ("none", 1)])
def test_learning_elsewhere_than_on_the_crossbar(trained: Path, tmp_path: Path, where: str, reads: int) -> None:
    r = result_of(EVALUATE + f" --hardware crossbar --chips 1 --adapt-on {where}", tmp_path / "r.json", out=trained)
    assert len(r["accuracy_per_update"]) == reads
    assert len(r["devices_reprogrammed_per_update"]) == reads - 1
    assert len(r["software"]["accuracy_per_update"]) == 5


def test_options_of_the_chip_reach_it(trained: Path, tmp_path: Path) -> None:
    line = EVALUATE + " --hardware crossbar --chips 1 --device-split set_and_tune --scale layer --zero-targets noisy"
    line += " --reads 2 --verify 3 --noise-scale 0.5 --adc-range 7"
    chip = result_of(line, tmp_path / "r.json", out=trained)["config"]["chip"]
    assert (chip["split"], chip["scale"], chip["reads"]) == ("set_and_tune", "layer", 2)
    assert chip["verify"]["iterations"] == 3
    assert chip["periphery"]["adc_range"] == 7
    assert chip["periphery"]["w_noise"] == pytest.approx(0.5 * 0.0175)
    model = chip["model"]
    assert (model["zero_targets"], model["prog_scale"], model["read_scale"]) == ("noisy", 0.5, 0.5)


def test_other_ways_and_few_bits(trained: Path, tmp_path: Path) -> None:
    r = result_of(EVALUATE + " --way 8 --shot 1 --precision 4 --updates 2", tmp_path / "r.json", out=trained)
    assert len(r["accuracy_per_update"]) == 3
    assert r["config"]["precision"]["bits"] == 4


def test_training_alphabets_are_called_no_result(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    r = result_of(EVALUATE + " --split train --glyph-alphabets 2", tmp_path / "r.json", out=trained)
    assert "not a result" in capsys.readouterr().err
    assert len(r["config"]["seen_in_training"]) == 2


@pytest.mark.parametrize("hardware", ["software", "crossbar", pytest.param("aihwkit", marks=pytest.mark.toolchain)])
def test_adapt_to_a_users_drawings(trained: Path, drawings: Path, tmp_path: Path, hardware: str) -> None:
    pytest.importorskip(hardware if hardware == "aihwkit" else "torch")
    line = "fewshot adapt {d}/support {d}/unknown -w {out}/weights.safetensors --hardware " + hardware
    r = result_of(line, tmp_path / "r.json", d=drawings, out=trained)
    assert [p["class"] in {f"class{c}" for c in range(4)} for p in r["predictions"]] == [True] * 8
    assert all(0 < p["probability"] <= 1 for p in r["predictions"])


def test_two_runs_side_by_side(trained: Path, tmp_path: Path) -> None:
    assert run("fewshot curves {a} {a} -o {png}", a=trained, png=tmp_path / "c.png") == 0
    assert Image.open(tmp_path / "c.png").size[0] > 500


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fewshot evaluate -w {out}/weights.safetensors --hardware aihwkitt", "aihwkit"),
        ("fewshot evaluate -w {out}/weights.safetensors --hardware crossbar --noise-model pmc", "pcm"),
        ("fewshot evaluate -w {out}/weights.safetensors --hardware crossbar --adapt-on devise", "device"),
        ("fewshot evaluate -w {out}/weights.safetensors --hardware crossbar --device-split fil", "fill"),
        ("fewshot evaluate -w {out}/weights.safetensors --hardware crossbar --adc-range 0", "adc_range"),
        (
            "fewshot evaluate -w {out}/weights.safetensors --hardware crossbar --noise-model {out}/none.json",
            "none.json",
        ),
        ("fewshot evaluate -w {out}/weights.safetensors --hardware aihwkit --reads 4", "--hardware crossbar"),
        ("fewshot evaluate -w {out}/weights.safetensors --noise-model hermes", "software has no devices"),
        ("fewshot evaluate -w {out}/weights.safetensors --norm suport", "support"),
        ("fewshot evaluate -w {out}/weights.safetensors --data {out}/none.zip", "none.zip"),
        ("fewshot evaluate -w {out}/weights.safetensors --split tset", "test"),
        ("fewshot evaluate -w {out}/weights.safetensors --shot 30", "drawings"),
        ("fewshot evaluate -w {out}/weights.safetensors --precision 1", "bits"),
        ("fewshot evaluate -w {out}/weights.safetensors --device tpu", "cpu"),
        ("fewshot evaluate -w {out}/weights.safetensors --sampler all", "distinct"),
        ("fewshot evaluate -w {out}/metrics.json", "metrics.json"),
        ("fewshot evaluate -w fewshot-23bit", "fewshot-23bit"),
        ("fewshot evaluate --taks 3", "--tasks"),
        ("fewshot train {out}", "--resume"),
        ("fewshot train {out}x --adapt body", "head"),
        ("fewshot train {out}x --data {out}", "loss.png"),
        ("fewshot curves {out}x", "metrics.json"),
        ("fewshot one-shot {out} -w {out}/weights.safetensors", "run"),
        ("fewshot adapt {out} {out} -w {out}/weights.safetensors", "class/drawing.png"),
    ],
)
def test_wrong_input_is_one_clear_line(trained: Path, line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line, out=trained) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert said in err[0]
    assert not Path(f"{trained}x").exists() or not list(Path(f"{trained}x").iterdir())
