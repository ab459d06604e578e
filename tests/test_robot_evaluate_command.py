"""``ovonic robot evaluate`` as a user meets it: the JSON it promises, what it prints, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ovonic.__main__ import main
from ovonic.adapters.weights_robot import save_robot
from ovonic.commands.common import parse_step
from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.tasks.trajectories import PUBLISHED_CODE, CoordinateCode

EVALUATE = "robot evaluate -w {a} --trajectories 5 --seed 3 --quiet"
SUMMARY = {"mean", "ci95", "median", "p95"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two small robots, the second with another code and an inner loop of its own."""
    folder = tmp_path_factory.mktemp("weights")
    found = {"a": folder / "a.safetensors", "b": folder / "b.safetensors", "folder": folder}
    own = {
        "a": (NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10), InnerLoop(rate=1e-2), CoordinateCode()),
        "b": (NaturalEPropConfig(trainee=25, lsg_lif=20, lsg_alif=0), InnerLoop(step=None, updates=2), PUBLISHED_CODE),
    }
    for name, (config, inner, code) in own.items():
        training = {"seed": 3, "command": f"made {name}"}
        save_robot(found[name], config, initial_pair(config, 1), inner, dataclasses.asdict(code), training)
    return found


def run(line: str, places: dict[str, Path]) -> int:
    return main(shlex.split(line.format(**places)))


def result_of(line: str, places: dict[str, Path]) -> dict[str, Any]:
    file = places["folder"] / "r.json"
    assert run(f"{line} --json {shlex.quote(str(file))}", places) == 0
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def check_block(block: dict[str, Any]) -> None:
    """The words of the issue."""
    for name in ("mse_omega", "mse_xyz", "tip_rmse_mm"):
        assert block[name].keys() == {"before", "after"}
        assert all(found.keys() == SUMMARY for found in block[name].values())
    assert block["loss"].keys() == {"mean", "median", "ci95"}
    assert block["controls"].keys() == {"no_update", "random", "shuffled"}
    for control in block["controls"].values():
        assert control.keys() == {"loss", "tip_rmse_mm"}
        assert all(found.keys() == SUMMARY for found in control.values())
    assert block["rates_hz"].keys() == {"lsg", "trainee"}
    assert all(0 <= rate["mean"] <= 200 for rate in block["rates_hz"].values())  # 5 ms a spike at the least
    assert block["update"].keys() == {"W_in", "W_rec"}
    assert all(0 <= share <= 1 for share in block["update"].values())
    after = (block["mse_omega"]["after"]["mean"] + block["mse_xyz"]["after"]["mean"]) / 2
    assert block["loss"]["mean"] == pytest.approx(after)
    assert block["controls"]["no_update"]["tip_rmse_mm"] == block["tip_rmse_mm"]["before"]


def test_the_promised_json(weights: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    r = result_of(EVALUATE, weights)
    check_block(r)
    assert r["schema"] == "ovonic/robot-evaluate/1"
    assert {"ovonic", "python", "torch", "numpy"} <= r["versions"].keys()
    assert r["trajectories"] == 5
    config = r["config"]
    assert config["inner"] == {"rate": 0.01, "step": 0.0625, "rounding": "nearest", "updates": 1}
    assert (config["seed"], config["family"]) == (3, "consistent")
    assert config["weights"]["command"] == "made a"
    assert config["weights"]["sha256"]
    assert config["network"]["trainee"] == 20
    assert not config["movements"]["clip_angles"]
    assert not {"against", "paired"} & r.keys()
    printed = capsys.readouterr()
    assert f"{r['loss']['mean']:.5f} +- {r['loss']['ci95']:.5f}" in printed.out
    assert "shuffled signals" in printed.out
    assert printed.err == ""
    assert result_of(EVALUATE, weights) == r


def test_standard_output_can_be_the_json_alone(weights: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(EVALUATE + " --json -", weights) == 0
    assert json.loads(capsys.readouterr().out)["trajectories"] == 5


def test_against_other_weights_on_the_same_movements(
    weights: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its own inner loop and code; what is given holds for both."""
    r = result_of(EVALUATE + " --against {b}", weights)
    check_block(r)
    check_block(r["against"])
    assert r["config"]["inner"]["step"] == 0.0625
    assert r["against"]["config"]["inner"] == {"rate": 0.0001, "step": None, "rounding": "nearest", "updates": 2}
    assert r["against"]["config"]["weights"]["command"] == "made b"
    assert r["against"]["config"]["movements"]["code"]["wraps"]
    alone = result_of(EVALUATE.replace("{a}", "{b}"), weights)
    assert r["against"]["loss"] == alone["loss"]
    for name in ("loss", "tip_rmse_mm"):
        found = r["paired"][name]
        assert found.keys() == {"difference", "ratio_of_means", "ratio_of_medians"}
        assert found["ratio_of_means"]["low"] <= found["ratio_of_means"]["ratio"] <= found["ratio_of_means"]["high"]
    assert r["paired"]["loss"]["difference"]["mean"] == pytest.approx(r["loss"]["mean"] - alone["loss"]["mean"])
    assert "paired" in capsys.readouterr().out
    both = result_of(EVALUATE + " --against {b} --quantise 1/8 --updates 3 --inner-rate 1e-3", weights)
    for block in (both["config"], both["against"]["config"]):
        assert block["inner"] == {"rate": 0.001, "step": 0.125, "rounding": "nearest", "updates": 3}


def test_options_of_the_lesson_and_of_the_movements(weights: dict[str, Path]) -> None:
    plain = result_of(EVALUATE, weights)
    for options, key, value in (
        ("--quantise none", "step", None),
        ("--quantise 0.0625 --rounding stochastic", "rounding", "stochastic"),
        ("--inner-rate 1e-3", "rate", 0.001),
    ):
        r = result_of(f"{EVALUATE} {options}", weights)
        assert r["config"]["inner"][key] == value
        assert r["loss"] != plain["loss"]
        assert r["controls"]["no_update"] == plain["controls"]["no_update"]
    published = result_of(EVALUATE + " --published", weights)
    assert published["config"]["family"] == "published"
    assert published["config"]["movements"]["clip_angles"]
    assert published["controls"]["no_update"] != plain["controls"]["no_update"]


@pytest.mark.toolchain
def test_on_the_neurons_of_a_toolchain(weights: dict[str, Path]) -> None:
    pytest.importorskip("norse", reason="needs Norse: pip install 'ovonic[norse]'")
    ours, theirs = result_of(EVALUATE, weights), result_of(EVALUATE + " --backend norse", weights)
    assert (ours["config"]["backend"], theirs["config"]["backend"]) == ("ovonic", "norse")
    assert "norse" in theirs["versions"]
    for name, rates in ours["rates_hz"].items():
        assert theirs["rates_hz"][name] == pytest.approx(rates)
    assert theirs["loss"]["mean"] == pytest.approx(ours["loss"]["mean"], rel=1e-5)


@pytest.mark.parametrize(("text", "step"), [("0.0625", 1 / 16), ("1/16", 1 / 16), ("5e-1", 0.5), ("none", None)])
def test_steps(text: str, step: float | None) -> None:
    assert parse_step(text) == step


@pytest.mark.parametrize("text", ["", "1/0", "1/2/4", "/16", "nan", "inf", "-1", "0", "sixteenth", "None"])
def test_no_steps(text: str) -> None:
    with pytest.raises(ConfigError, match="1/16, or none"):
        parse_step(text)


def test_the_movement_of_median_loss_is_drawn(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ovonic.validation import robot_figures

    drawn: list[tuple[float, str]] = []

    def note(lesson: Any, movements: Any, row: int, folder: Path, *_: Any, setting: str, **__: Any) -> list[Path]:
        drawn.append((float((lesson.after[row] - movements.omega[row]).square().mean()), setting))
        return [folder / "path.png"]

    monkeypatch.setattr(robot_figures, "lesson_figures", note)
    r = result_of(EVALUATE + f" --figures {shlex.quote(str(tmp_path))} --quantise none", weights)
    ((mse, setting),) = drawn
    assert mse / 2 <= r["loss"]["median"]
    assert f"median loss ({r['loss']['median']:.4g})" in setting
    assert "median loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--quantise 1/x", "1/16"),
        ("--quantise -1", "1/16, or none"),
        ("--rounding up", "nearest"),
        ("--quantise none --rounding stochastic", "--quantise STEP"),
        ("--against {b} --rounding stochastic", "b.safetensors"),
        ("--trajectories 1", "--trajectories"),
        ("--updates 0", "--updates"),
        ("--inner-rate nan", "finite"),
        ("--quantise none --inner-rate 1e38", "trajectory 0 of seed 3"),
        ("--against {folder}/c.safetensors", "c.safetensors"),
        ("--against {folder}", "folder"),
        ("--device tpu", "cpu"),
        ("--backend nest", "norse"),
        ("--quantize none", "--quantise"),
    ],
)
def test_wrong_input_is_one_clear_line(
    weights: dict[str, Path], options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = weights["folder"] / "never.json"
    assert run(f"{EVALUATE} --json {shlex.quote(str(file))} {options}", weights) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert said in err[0]
    assert not file.exists()
