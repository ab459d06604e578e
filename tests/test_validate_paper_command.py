"""``ovonic validate paper``: its table, its JSON and page, its measurements, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovonic import __main__ as cli
from ovonic.validation.paper import ROWS

FEW = "fewshot-32bit-noise-blind-pcm-0s-5w5s"


def _run(*args: str) -> int:
    return cli.main(["validate", "paper", *args, "--quiet"])


def _study(path: Path, high: float) -> Path:
    report = {"ratio": {"ratio": 1.05, "low": 1.02, "high": high}, "tasks": 1000, "chips": {"n": 30, "sd": 0.0004}}
    config = {"size": {"chips": 30, "tasks": 1000}, "seed": 2025, "command": "ovonic validate hardware"}
    content: dict[str, Any] = {"schema": "ovonic/validate-hardware/1", "config": config, "conditions": {FEW: report}}
    path.write_text(json.dumps(content))
    return path


def test_without_files_every_row_names_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.json"
    assert _run("--json", str(file)) == 0
    said = capsys.readouterr().out
    assert "fig2g (Fig. 2g): not measured in this run" in said
    assert "fig4c (Fig. 4c): not checkable" in said
    assert "not measured in this run: ovonic validate paper --measure delta\n" in said
    found = json.loads(file.read_text())
    assert found["schema"] == "ovonic/validate-paper/1"
    assert [row["key"] for row in found["rows"]] == [row.key for row in ROWS]
    assert "eq12 (Eqs. 12, 13, 17, 18): tested\n" in said
    assert "    - pytest tests/models/test_natural_eprop_published.py -k test_the_published_batch\n" in said
    assert "fig3c (Fig. 3c): not done\n" in said
    assert set(found["counts"]) == {"tested", "not measured in this run", "not done", "not checkable"}
    assert sum(found["counts"].values()) == len(ROWS)


def test_a_changed_number_in_a_file_turns_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for high, verdict in ((1.09, "holds"), (1.11, "close")):
        file = _study(tmp_path / "study.json", high)
        assert _run("--from", str(file), "--only", "fig2g", "--json", str(tmp_path / "out.json")) == 0
        assert f"fig2g (Fig. 2g): {verdict} (1 of 4)\n" in capsys.readouterr().out
        (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
        (reading,) = (r for r in row["readings"] if r["value"] is not None)
        assert (reading["value"], reading["high"], reading["threshold"]) == (1.05, high, 1.1)
        assert reading["path"] == f"hardware/conditions/{FEW}/ratio"
        assert row["verdict"] == reading["verdict"] == verdict


def test_measurements_are_written_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, page = tmp_path / "first.json", tmp_path / "paper.md"
    assert _run("--measure", "delta", "--measure", "kinematics", "--json", str(first), "--only", "eq") == 0
    capsys.readouterr()
    study = _study(tmp_path / "study.json", 1.09)
    assert _run("--from", str(first), "--from", str(study), "--only", "eq", "--markdown", str(page), "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    verdicts = {row["key"]: row["verdict"] for row in found["rows"]}
    assert verdicts["eq3"] == "holds"
    assert verdicts["eq8"] == "in part"
    assert set(found["measured"]) == {"delta", "kinematics"}
    assert [source["file"] for source in found["sources"]] == ["first.json", "study.json"]
    text = page.read_text()
    assert "| Eq. 3 |" in text
    assert "| study.json |" in text
    assert "Fig. 2g" not in text


def test_results_are_kept_and_give_the_same_page(tmp_path: Path) -> None:
    study = _study(tmp_path / "study.json", 1.09)
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    assert _run("--from", str(study), "--keep", str(tmp_path / "kept"), "--markdown", str(first)) == 0
    assert _run("--from", str(tmp_path / "kept"), "--markdown", str(second)) == 0
    name = f"{tmp_path.name}/study.json"
    assert second.read_text() == first.read_text().replace("| study.json |", f"| {name} |")
    file = tmp_path / "kept" / name
    file.write_text(file.read_text().replace("1.09", "1.08"))
    assert _run("--from", str(tmp_path / "kept")) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--from", "{folder}/none.json"], "none.json: cannot be read"),
        (["--from", "{folder}/wrong.json"], "wrong.json: has the schema 'ovonic/doctor/1', which the paper's table"),
        (["--from", "{folder}/empty"], "empty: no .json file in this folder"),
        (["--measure", "scrach"], "--measure scrach: did you mean 'scratch'?"),
        (["--only", "fig2gg"], "--only fig2gg: no row; did you mean 'fig2g'?"),
        (["--measure", "still", "-w", "no-such"], "no-such"),
    ],
)
def test_bad_input_gets_one_line_and_2(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.json").write_text('{"schema": "ovonic/doctor/1"}')
    (tmp_path / "empty").mkdir()
    assert _run(*(arg.format(folder=tmp_path) for arg in args)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
