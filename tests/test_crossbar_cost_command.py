"""``ovonic crossbar cost``: what it prints and writes, and bad input."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ovonic.adapters.crossbar_mapping import trainee_layout
from ovonic.commands.crossbar_cost import cost
from ovonic.models.errors import OvonicError
from ovonic.models.natural_eprop_networks import initial_pair

app = typer.Typer()
app.command()(cost)


def run(*options: str) -> str:
    result = CliRunner().invoke(app, list(options))
    if result.exception is not None:
        raise result.exception
    return result.output


def test_both_experiments_print_ranges_and_a_verdict() -> None:
    for name in ("fewshot", "robot"):
        said = run(name)
        assert said.startswith(f"{name}: typical (lowest to highest")
        assert said.count(" to ") >= 11
        assert "against training from scratch: typically after" in said


def test_json_and_figures(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[array]\nmvm_energy_1_j = 1e-9\nmvm_energy_4_j = 4e-9\nmvm_share = 1")
    out = tmp_path / "cost.json"
    run("robot", "--costs", str(tmp_path / "mine.toml"), "--json", str(out), "--figures", str(tmp_path / "figures"))
    result = json.loads(out.read_text())
    assert result["schema"] == "ovonic/crossbar-cost/1"
    assert result["counts"]["array"]["inference"]["mvms"] == 250
    assert result["estimates"]["inference, array"]["energy_parts_j"]["mvm"]["high"] == pytest.approx(250e-9)
    assert result["costs"]["array.mvm_energy_1_j"]["source"] == "given by the user"
    assert set(result["break_even"]) == {"twin", "reprogram", "scratch"}
    assert len(list((tmp_path / "figures").glob("robot_*.png"))) == 4


def test_a_layout_of_ones_own(tmp_path: Path) -> None:
    trainee_layout(initial_pair(seed=1).trainee).save(tmp_path / "layout.json")
    assert run("robot", "--layout", str(tmp_path / "layout.json")) == run("robot")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["omniglot"], "experiment 'omniglot'"),
        (["fewshot", "--read-phases", "3"], "--read-phases 3"),
        (["fewshot", "--costs", "missing.toml"], "missing.toml"),
        (["robot", "--lsg", "gpu"], "lsg 'gpu'"),
        (["robot", "--meta-flops", "1", "--meta-core-hours", "1"], "give one of them"),
    ],
)
def test_bad_input(options: list[str], message: str) -> None:
    with pytest.raises(OvonicError, match=message):
        run(*options)
