"""``ovonic sweep``: nothing mistyped runs; a stopped sweep goes on where it stopped; the table is whole."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ovonic.__main__ import main

DOCS = Path(__file__).parents[1] / "docs"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-- crossbar cost", "nothing to sweep over"),
        ("-g updates=1 -- crosbar cost", "no such command: did you mean 'crossbar'?"),
        ("-g updates=1 -- crossbar csot", "no such command: did you mean 'cost'?"),
        ("-g updates=1 -- crossbar", "ovonic crossbar : no such command"),
        ("-g updates=1 -- fewshot curves runs/a", "a sweep runs commands that write a result with --json"),
        ("-g updates=1 -- sweep", "a sweep runs commands"),
        ("-g update=1 -- crossbar cost", "no option --update: did you mean 'updates'?"),
        ("-g zzz=1 -- crossbar cost", "ovonic crossbar cost --help lists them"),
        ("-g json=a,b -- crossbar cost", "the sweep gives --json to each point itself"),
        ("-g updates=1 -- crossbar cost --json x.json", "--json: the sweep gives it to each point itself"),
        ("-g updates=1 -- robot evaluate -q", "-q: the sweep gives it to each point itself"),
        ("-g updates=1,2 -- crossbar cost --updates 3", "--updates is in the command and in the grid"),
        ("-g updates=1 -g updates=2 -- crossbar cost", "each option once"),
        ("-g seed=1 --seeds 0..4 -- robot evaluate", "each option once"),
        ("-g updates=1,x -- crossbar cost", "Invalid value for '--updates'"),
        ("-g updates=1,0 -- crossbar cost", "Invalid value for '--updates'"),
        ("-g updates=1,2 -- crossbar cost --supprots 3", "No such option: --supprots. Did you mean '--supports'?"),
        ("-g updates=1,2 -- crossbar cost fewshot robot", "unexpected extra argument"),
        ("-g updates=1,2 -- crossbar cost --figures f", "would write to the same place: put {point} into its name"),
        ("-g steps=1,2 -- fewshot train runs/x", "out runs/x: points steps=1 and steps=2"),
        ("-g published=on -- robot evaluate", "--published is a flag"),
        ("-g updates=1 --backend ray -- crossbar cost", "choose one of loky, dask"),
        ("-g updates=1 --backend dask -- crossbar cost", "go together"),
        ("-g updates -- crossbar cost", "give OPTION=VALUE"),
        ("-g updates=1", "Missing argument"),
    ],
)
def test_what_is_mistyped_runs_nothing(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *shlex.split(line)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first command of docs/sweep.md gives the table that stands below it."""
    page = (DOCS / "sweep.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    command, shown = blocks[0], blocks[1]
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "ovonic"
    assert main([words[1], "--jobs", "1", *words[2:]]) == 0
    (table,) = tmp_path.glob("*.csv")
    assert table.read_text() == shown
    assert capsys.readouterr().out.startswith("costs.csv: 4 points")


def test_a_point_that_fails_is_a_row_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.csv"
    options = ["--out", str(out), "--jobs", "1", "--json", str(tmp_path / "t.json"), "--columns", "scratch_j.typical"]
    assert main(["sweep", "-g", "read-phases=1,3", *options, "--", "crossbar", "cost", "fewshot"]) == 1
    rows = _rows(out)
    assert [(row["read-phases"], row["status"], row["error"]) for row in rows] == [
        ("1", "0", ""),
        ("3", "2", "--read-phases 3: choose 1, 2 or 4"),
    ]
    assert float(rows[0]["scratch_j.typical"]) > 0
    assert rows[1]["scratch_j.typical"] == ""
    result = json.loads((tmp_path / "t.json").read_text())
    assert result["schema"] == "ovonic/sweep/1"
    assert result["columns"] == list(rows[0])
    assert result["failed"] == 1
    assert [str(row["scratch_j.typical"] or "") for row in result["rows"]] == [row["scratch_j.typical"] for row in rows]
    captured = capsys.readouterr()
    assert "read-phases=3: --read-phases 3: choose 1, 2 or 4" in captured.err
    assert "1 failed" in captured.out


def _sweep(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Six points of a second or more each, one at a time, in a session of its own."""
    line = "sweep -g updates=1..6 -o t.csv -j 1 -- crossbar cost fewshot"
    return subprocess.Popen(
        [sys.executable, "-m", "ovonic", *line.split(), *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C reaches the session and ends it with 130; SIGKILL ends it at once: either way finished points stay."""
    run = _sweep(tmp_path)
    points = tmp_path / "t.csv.points"
    deadline = time.monotonic() + 300
    while len(list(points.glob("*.json"))) < 2:
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, how)
    _, error = run.communicate(timeout=120)
    kept = {file.name: file.read_bytes() for file in points.glob("*.json")}
    assert 2 <= len(kept) < 6
    assert not (tmp_path / "t.csv").exists()
    if how == signal.SIGINT:
        assert run.returncode == 130
        assert re.search(r"^interrupted: \d of 6 points are kept in t.csv.points", error, re.MULTILINE)
        assert "Traceback" not in error
    again = _sweep(tmp_path)
    _, error = again.communicate(timeout=600)
    assert again.returncode == 0, error
    assert f"{len(kept)} of 6 points are in t.csv.points already" in error
    assert all((points / name).read_bytes() == data for name, data in kept.items())
    assert [row["updates"] for row in _rows(tmp_path / "t.csv")] == [str(n) for n in range(1, 7)]
