"""``ovonic validate complexity``: its table, its JSON, and what bad input gets."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from ovonic.__main__ import main
from ovonic.adapters.weights_robot import save_robot
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.tasks.trajectories import CoordinateCode

pytestmark = pytest.mark.toolchain


def run(*args: str) -> int:
    return main(["validate", "complexity", *args])


@pytest.fixture(autouse=True)
def _package() -> None:
    pytest.importorskip("neurobench", reason="needs NeuroBench: pip install 'ovonic[neurobench]'")


def test_the_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, weights, file = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10), tmp_path / "w.safetensors", ""
    save_robot(weights, config, initial_pair(config, 1), InnerLoop(rate=1e-2), dataclasses.asdict(CoordinateCode()), {})
    file = str(tmp_path / "r.json")
    assert run("robot", "-w", str(weights), "--samples", "1", "--quiet", "--json", file) == 0
    assert "effective ACs" in capsys.readouterr().out
    result = json.loads(Path(file).read_text())
    assert result["schema"] == "ovonic/validate-complexity/1"
    assert result["networks"].keys() == {"lsg", "trainee before", "trainee after"}
    assert result["networks"]["lsg"]["dense"] == 249 * (53 * 30 + 30 * 30 + 30 * 20)
    for trainee in ("trainee before", "trainee after"):
        assert result["networks"][trainee]["dense"] == 249 * (5 * 20 + 20 * 20 + 20 * 2)
        assert result["networks"][trainee]["samples"] == 1
    assert result["versions"]["neurobench"] != "absent"


def test_the_few_shot_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """4 bits: weights of 0 are many, and the footprint is that of float32 all the same."""
    file = tmp_path / "f.json"
    assert run("fewshot", "-w", "fewshot-4bit", "--samples", "1", "--quiet", "--json", str(file)) == 0
    assert "footprint" in capsys.readouterr().out
    result = json.loads(file.read_text())
    image = result["networks"]["image"]
    assert (image["dense"], image["samples"]) == (1_740_816, 25)
    assert 0.1 < image["connection_sparsity"] < 0.6
    assert image["effective_macs"] < 0.9 * image["dense"]
    assert image["footprint_bytes"] == 343_616
    assert result["packed_bytes"] == 85_456 / 2 + 4 * 448
    assert result["config"]["precision"] == 4


def test_bad_input_gets_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for args, said in (
        (["fewshots"], "did you mean 'fewshot'"),
        (["robot", "--precision", "4"], "--precision"),
        (["robot", "-w", "nothing-there"], "nothing-there"),
    ):
        assert run(*args, "--quiet") == 2
        assert said in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "ovonic.adapters.neurobench_modules", raising=False)
    monkeypatch.delattr("ovonic.adapters.neurobench_modules", raising=False)
    monkeypatch.setitem(sys.modules, "neurobench.benchmarks", None)
    assert run("robot", "--quiet") == 2
    assert "pip install 'ovonic[neurobench]'" in capsys.readouterr().err
