"""Studies of hardware: their conditions, the margins, and runs that are taken up again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from ovonic.adapters.sealed_json import write_sealed
from ovonic.commands.validate import app
from ovonic.models.errors import ConfigError
from ovonic.tasks.datasets import load_characters
from ovonic.validation.hardware import measure
from ovonic.validation.hardware_conditions import MONTH_S, Condition, Size
from ovonic.validation.hardware_margins import LEAST, MARGINS, verdicts
from ovonic.validation.hardware_studies import STUDIES, study

RUNNER = CliRunner()
FULL = Size(LEAST["chips"], LEAST["tasks"])


def test_margins_are_those_that_were_fixed() -> None:
    due = {"fewshot_first_read": 1.10, "fewshot_month": 1.25, "robot_ratio": 1.25, "robot_loss": 0.0164}
    assert due == MARGINS
    assert LEAST == {"chips": 30, "tasks": 1000}


@pytest.mark.parametrize("name", STUDIES)
def test_conditions_of_a_study_have_names_of_their_own(name: str) -> None:
    names = [condition.name for condition in study(name)]
    assert len(set(names)) == len(names) > 0
    assert all(set(n) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") for n in names)


def test_the_headline_is_blind_to_noise_and_without_help() -> None:
    headline = study("headline")
    assert all(c.noise_scale == 1 and c.adapt_on == "device" and c.compensation is None for c in headline)
    assert {c.weights for c in headline} == {"fewshot-32bit-noise-blind", "robot-q16"}
    fewshot = {(c.n_way, c.k_shot, c.read_time_s) for c in headline if c.experiment == "fewshot"}
    assert fewshot == {(5, 5, 0.0), (5, 5, MONTH_S), (20, 1, 0.0), (20, 1, MONTH_S)}


def _report(high: float | None, error: float = 0.01) -> dict[str, Any]:
    return {"ratio": {"ratio": 1.0, "low": 0.9, "high": high}, "error": error}


@pytest.mark.parametrize(
    ("condition", "report", "held"),
    [
        (Condition("fewshot", "w"), _report(1.10), [True]),
        (Condition("fewshot", "w"), _report(1.11), [False]),
        (Condition("fewshot", "w", read_time_s=MONTH_S), _report(1.25), [True]),
        (Condition("fewshot", "w", read_time_s=MONTH_S), _report(1.26), [False]),
        (Condition("fewshot", "w"), _report(None), [None]),
        (Condition("robot", "w"), _report(1.25, 0.0164), [True, True]),
        (Condition("robot", "w"), _report(1.26, 0.02), [False, False]),
    ],
)
def test_verdicts(condition: Condition, report: dict[str, Any], held: list[bool | None]) -> None:
    judged = verdicts(condition, FULL, report)
    assert [v.held for v in judged] == held
    assert not any(v.preliminary for v in judged)
    assert all(v.preliminary for v in verdicts(condition, Size(30, 999), report))


def test_unknown_studies_and_missing_characters_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'headline'"):
        study("headlin")
    with pytest.raises(ConfigError, match="takes weights"):
        study("headline", ["robot-q16"])
    with pytest.raises(ConfigError, match="need characters"):
        measure(Condition("fewshot", "fewshot-32bit"), Size(1, 2), seed=0)


def test_noise_spoils_what_is_read_and_the_ratio_is_to_the_better_software_row() -> None:
    """Six movements: devices eight times noisier than pcm leave far more error than ideal ones."""
    size = Size(2, 6)
    ideal = measure(Condition("robot", "robot-q16", "none"), size, seed=3)
    noisy = measure(Condition("robot", "robot-q16", noise_scale=8.0), size, seed=3)
    assert noisy["error"] > 3 * ideal["error"]
    for report in (ideal, noisy):
        assert report["ratio"]["ratio"] >= report["own_ratio"]["ratio"]
    assert ideal["software"] == noisy["software"]


def test_few_shot_conditions() -> None:
    characters = load_characters(["glyphs"], "test")
    condition = Condition("fewshot", "fewshot-4bit", "none", n_way=5, k_shot=1)
    report = measure(condition, Size(1, 4), seed=0, characters=characters)
    assert report["error"] == pytest.approx(1 - report["accuracy"]["mean"])
    assert report["ratio"]["ratio"] is None or report["ratio"]["ratio"] >= report["own_ratio"]["ratio"]
    with pytest.raises(ConfigError):
        measure(replace(condition, noise_model="pmc"), Size(1, 4), seed=0, characters=characters)


def test_a_study_is_taken_up_again_and_refuses_other_settings(tmp_path: Path) -> None:
    options = ["hardware", "--out", str(tmp_path), "--chips", "1", "--only", "robot-q16-pcm", "--quiet"]
    first = RUNNER.invoke(app, [*options, "--tasks", "3", "--json", str(tmp_path / "all.json")])
    assert first.exit_code == 1, first.output
    assert "NOT HELD" in first.output
    assert "preliminary" in first.output
    (kept,) = tmp_path.glob("robot*.json")
    result = json.loads(kept.read_text())
    assert result["config"]["command"].startswith("ovonic robot evaluate --weights robot-q16 --hardware crossbar")
    result["error"] = 123.0
    kept.write_text(json.dumps(result))
    edited = str(RUNNER.invoke(app, [*options, "--tasks", "3"]).exception)
    assert "robot-q16-pcm" in edited
    assert "damaged or edited" in edited
    assert "remove it or choose another --out" in edited
    del result["sha256"]
    write_sealed(kept, result)
    again = RUNNER.invoke(app, [*options, "--tasks", "3"])
    assert "error 123" in again.output
    drawn = RUNNER.invoke(app, [*options, "--tasks", "3", "--figures", str(tmp_path / "f")])
    assert "hardware_headline.png" in drawn.output
    with Image.open(tmp_path / "f" / "hardware_headline.png") as image:
        assert image.width > 300
        assert "robot-q16" in image.info["Title"]
    other = RUNNER.invoke(app, [*options, "--tasks", "4"])
    assert "asked for" in str(other.exception)
    for other in ({"schema": "another/1"}, {"ratio": {"ratio": "1"}}, {"config": {}}, {"hardware": {}}):
        write_sealed(kept, result | other)
        assert "no result of a condition" in str(RUNNER.invoke(app, [*options, "--tasks", "3"]).exception)
    everything = json.loads((tmp_path / "all.json").read_text())
    assert [v["held"] for v in everything["verdicts"]] == [False, True]
