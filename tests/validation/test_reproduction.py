"""``ovonic reproduce`` puts its parts together: one report, what is finished kept, one experiment alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from ovonic.__main__ import main
from ovonic.models.errors import WeightsError
from ovonic.validation import reproduction
from ovonic.validation.report import At, Claim, Section
from ovonic.validation.reproduction_part import Measured, OnSteps, Part


def part(name: str, value: float | None, seen: list[str]) -> Callable[[int], Part]:
    """A part that measures ``value``, claimed to be 1 at the least; None: interrupted."""

    def opened(seed: int) -> Part:
        def measure(folder: Path, on_steps: OnSteps) -> Measured:
            seen.append(name)
            on_steps(3)
            if value is None:
                raise KeyboardInterrupt
            figures = {"score": value, "seed": seed}
            claim = Claim.about({name: figures}, f"{name} scores", At(f"{name}/score", "number"), ">=", 1.0)
            return Measured(figures, {"of": name}, Section(f"Part {name}", claims=[claim]))

        return Part(f"part {name}", 3, ("typer",), measure)

    return opened


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts that were measured; ``fewshot`` keeps its claim, ``robot`` does not."""
    seen: list[str] = []
    monkeypatch.setattr(
        reproduction, "PARTS", {"fewshot": part("fewshot", 2.0, seen), "robot": part("robot", 0.5, seen)}
    )
    return seen


def run(tmp_path: Path, *arguments: str) -> int:
    return main(["reproduce", "--out", str(tmp_path / "out"), *arguments])


def test_the_parts() -> None:
    assert list(reproduction.PARTS) == ["fewshot", "robot"]


def test_one_report_of_both(tmp_path: Path, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--seed", "4", "--quiet", "--json", str(tmp_path / "r.json")) == 0
    assert seen == ["fewshot", "robot"]
    result = json.loads((tmp_path / "out" / "report.json").read_text())
    assert result["config"] == {"seed": 4, "fewshot": {"of": "fewshot"}, "robot": {"of": "robot"}}
    assert (result["fewshot"], result["robot"]) == ({"score": 2.0, "seed": 4}, {"score": 0.5, "seed": 4})
    assert "typer" in result["versions"]
    assert [claim["held"] for claim in result["claims"]] == [True, False]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("Part fewshot") < page.index("Part robot")
    assert "1 of 2 claims held." in page
    assert json.loads((tmp_path / "r.json").read_text()) == result
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "held      fewshot scores: 2 >= 1",
        "NOT HELD  robot scores: 0.5 >= 1",
        f"report: {tmp_path / 'out' / 'report.html'}",
    ]


@pytest.mark.parametrize("name", ["fewshot", "robot"])
def test_one_alone(name: str, tmp_path: Path, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--only", name, "--json", "-") == 0
    assert seen == [name]
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "report.json").read_text())
    assert result.keys() == {"schema", "command", "versions", "config", "claims", name}


def test_an_experiment_that_is_none(tmp_path: Path, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--only", "robt") == 2
    assert capsys.readouterr().err == "error: --only robt: did you mean 'robot'?\n"
    assert not seen
    assert not (tmp_path / "out").exists()


def test_progress_tells_the_parts_apart(tmp_path: Path) -> None:
    shown: list[tuple[str, int]] = []
    done: list[int] = []

    def progress(label: str, total: int) -> nullcontext[OnSteps]:
        shown.append((label, total))
        return nullcontext(done.append)

    parts = {"a": part("a", 1.0, [])(0), "b": part("b", 1.0, [])(0)}
    reproduction.reproduce(tmp_path, parts, seed=0, provenance={}, progress=progress)
    reproduction.reproduce(tmp_path, {"a": parts["a"]}, seed=0, provenance={}, progress=progress)
    assert shown == [("part a (1 of 2)", 3), ("part b (2 of 2)", 3), ("part a", 3)]
    assert done == [3, 3, 3]


def test_an_interrupted_part_leaves_the_report_of_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = {"fewshot": part("fewshot", 2.0, []), "robot": part("robot", None, [])}
    monkeypatch.setattr(reproduction, "PARTS", both)
    assert run(tmp_path, "--quiet") == 130
    assert "what was finished is kept" in capsys.readouterr().err
    result = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "fewshot" in result
    assert "robot" not in result


def test_weights_that_are_missing_stop_everything_at_once(
    tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(seed: int) -> Part:
        raise WeightsError("robot-q16: neither a file nor shipped weights")

    monkeypatch.setitem(reproduction.PARTS, "robot", missing)
    assert run(tmp_path) == 2
    assert "robot-q16" in capsys.readouterr().err
    assert not seen


def test_a_claim_that_was_not_measured_is_said_to_be_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = Claim("the ratio", None, 1.1, "<=")
    empty = Part("empty", 1, (), lambda *_: Measured({}, {}, Section("s", claims=[claim])))
    monkeypatch.setattr(reproduction, "PARTS", {"fewshot": lambda seed: empty})
    assert run(tmp_path, "--quiet") == 0
    assert capsys.readouterr().out.startswith("unknown   the ratio: – <= 1.1\n")
