"""``ovonic robot evaluate --hardware crossbar`` as a user meets it: the JSON it promises, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ovonic.__main__ import main
from ovonic.adapters.weights_robot import save_robot
from ovonic.models.fitted_model import FittedModel
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.tasks.trajectories import CoordinateCode

EVALUATE = "robot evaluate -w {a} --hardware crossbar --chips 2 --trajectories 4 --seed 3 --quiet"
SUMMARY = {"mean", "ci95", "median", "p95"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    config = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10)
    file = folder / "a.safetensors"
    code, training = dataclasses.asdict(CoordinateCode()), {"command": "made a"}
    save_robot(file, config, initial_pair(config, 1), InnerLoop(rate=1e-2), code, training)
    return {"a": file, "folder": folder}


def run(line: str, places: dict[str, Path]) -> int:
    return main(shlex.split(line.format(**places)))


def result_of(line: str, places: dict[str, Path]) -> dict[str, Any]:
    file = places["folder"] / "r.json"
    assert run(f"{line} --json {shlex.quote(str(file))}", places) == 0
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def test_the_promised_json(weights: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    r = result_of(f"{EVALUATE} --read-time 3600", weights)
    assert r["schema"] == "ovonic/robot-evaluate/1"
    assert r["trajectories"] == 4
    hardware, software = r["hardware"], r["software"]
    assert r["loss"] == hardware["loss"]
    for block in (hardware, software):
        assert block["loss"].keys() == SUMMARY
        assert block["tip_rmse_mm"].keys() == {"before", "after"}
        assert block["controls"]["no_update"]["loss"].keys() == SUMMARY
    assert hardware["chips"].keys() == {"n", "sd", "worst", "losses"}
    assert hardware["chips"]["n"] == len(hardware["chips"]["losses"]) == 2
    assert hardware["chips"]["worst"] == max(hardware["chips"]["losses"])
    ratio = hardware["loss_ratio"]
    assert ratio["ratio"] == pytest.approx(hardware["loss"]["mean"] / software["loss"]["mean"])
    assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert r["devices_reprogrammed"] >= r["cells_reprogrammed"] > 0
    assert hardware["per_lesson"]["pulses"] == r["devices_reprogrammed"]
    assert hardware["per_chip"]["cells"] == 25 * 22 - 20 - 10
    assert r["energy"].keys() == {"deployment", "adaptation", "inference", "twin adaptation", "twin inference"}
    for part in r["energy"].values():
        assert 0 < part["energy_j"]["low"] <= part["energy_j"]["typical"] <= part["energy_j"]["high"]
    config = r["config"]
    assert (config["hardware"], config["noise_model"], config["chip"]["read_time_s"]) == ("crossbar", "pcm", 3600)
    assert config["chip"]["model"]["g_max_us"] == 25
    assert config["seed"] == 3
    assert "loss, hardware / software" in capsys.readouterr().out


def test_the_twin_is_what_the_software_command_reports(weights: dict[str, Path]) -> None:
    software = result_of("robot evaluate -w {a} --trajectories 4 --seed 3 --quiet", weights)
    hardware = result_of(EVALUATE, weights)
    assert hardware["software"]["loss"]["mean"] == software["loss"]["mean"]
    assert hardware["software"]["controls"]["no_update"]["loss"] == software["controls"]["no_update"]["loss"]


def test_the_options_reach_the_chip(weights: dict[str, Path]) -> None:
    options = (
        "--noise-model hermes --adapt-on software --device-split equal --scale layer --reads 2 --verify 3 "
        "--noise-scale 2 --compensation global --adc-range 5 --zero-targets noisy"
    )
    chip = result_of(f"{EVALUATE} {options}", weights)["config"]["chip"]
    assert (chip["model"]["name"], chip["model"]["prog_scale"], chip["model"]["read_scale"]) == ("hermes", 2, 2)
    assert (chip["adapt_on"], chip["split"], chip["scale"], chip["reads"]) == ("software", "equal", "layer", 2)
    assert chip["verify"]["iterations"] == 3
    assert chip["model"]["zero_targets"] == "noisy"
    periphery = chip["periphery"]
    assert (periphery["compensation"], periphery["adc_range"], periphery["w_noise"]) == ("global", 5, 0.035)


def test_a_fitted_model(weights: dict[str, Path]) -> None:
    file = weights["folder"] / "fitted.json"
    model = dataclasses.asdict(FittedModel(name="ours", prog_coeff=(0.5,)))
    file.write_text(json.dumps({"format": "ovonic/device-model/1", "model": model}))
    found = result_of(f"{EVALUATE} --noise-model {shlex.quote(str(file))} --noise-scale 2", weights)["config"]["chip"]
    assert (found["model"]["name"], found["model"]["prog_coeff"]) == ("ours", [0.5])
    assert found["model"]["prog_scale"] == 2


def test_without_adaptation_nothing_is_programmed(weights: dict[str, Path]) -> None:
    r = result_of(f"{EVALUATE} --adapt-on none --noise-model none", weights)
    assert r["devices_reprogrammed"] == r["cells_reprogrammed"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--hardware chip", "--hardware chip"),
        ("--noise-model pmc", "pcm"),
        ("--adapt-on cloud", "adapt_on 'cloud'"),
        ("--device-split half", "split 'half'"),
        ("--scale row", "scale 'row'"),
        ("--compensation row", "compensation 'row'"),
        ("--adc-range 0", "adc_range 0"),
        ("--against {a}", "--against"),
        ("--zero-targets loud", "zero_targets 'loud'"),
        ("--hardware software --scale layer", "--chips 2"),
        ("--noise-model absent.json", "absent.json"),
    ],
)
def test_bad_options(weights: dict[str, Path], options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{EVALUATE} {options}", weights) != 0
    assert said in capsys.readouterr().err


@pytest.mark.toolchain
def test_on_aihwkits_devices(weights: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The same JSON, the same twin, other devices; and what these tiles do not have is refused in one line."""
    pytest.importorskip("aihwkit", reason="needs aihwkit: pip install 'ovonic[aihwkit]'")
    line = EVALUATE.replace("crossbar", "aihwkit")
    tiles, crossbar = result_of(line, weights), result_of(EVALUATE, weights)
    assert tiles.keys() == crossbar.keys()
    assert tiles["software"] == crossbar["software"]
    assert tiles["hardware"]["loss"] != crossbar["hardware"]["loss"]
    assert tiles["config"]["hardware"] == "aihwkit"
    capsys.readouterr()
    assert run(f"{line} --reads 4", weights) == 2
    assert "use the crossbar" in capsys.readouterr().err
