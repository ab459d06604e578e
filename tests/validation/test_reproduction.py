"""``ovonic reproduce`` puts its parts together: one report, what is finished kept and taken up, each part alone."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ovonic.__main__ import main
from ovonic.adapters.sealed_json import read_sealed, write_sealed
from ovonic.models.errors import WeightsError
from ovonic.validation import reproduction, reproduction_store
from ovonic.validation.report import At, Claim, Section
from ovonic.validation.reproduction_part import Measured, OnSteps, Part

Opener = Callable[[int, bool], Part]


def part(name: str, value: float | None, seen: list[str]) -> Opener:
    """A part that measures ``value``, claimed to be 1 at the least; None: interrupted."""

    def opened(seed: int, full: bool) -> Part:
        def measure(folder: Path, on_steps: OnSteps) -> Measured:
            seen.append(name)
            on_steps(3)
            if value is None:
                raise KeyboardInterrupt
            figures = {"score": value, "seed": seed, "full": full}
            claim = Claim.about({name: figures}, f"{name} scores", At(f"{name}/score", "number"), ">=", 1.0)
            return Measured(figures, {"of": name}, Section(f"Part {name}", claims=[claim]))

        return Part(f"part {name}", 3, ("typer",), measure, {"value": value, "full": full})

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
    return main(["reproduce", "--out", str(tmp_path / "out"), "--jobs", "0", *arguments])


def report(folder: Path) -> dict[str, Any]:
    """What the JSON of a folder holds; nothing before there is one."""
    file = folder / "report.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def page(folder: Path) -> str:
    """The report's page; nothing before there is one."""
    file = folder / "report.html"
    return file.read_text() if file.exists() else ""


def test_the_parts() -> None:
    assert reproduction.NAMES == ("fewshot", "robot", "gradients", "simulators", "hardware", "paper")


def test_one_report_of_both(tmp_path: Path, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--only", "fewshot", "--only", "robot")
    assert run(tmp_path, *both, "--seed", "4", "--quiet", "--json", str(tmp_path / "r.json")) == 0
    assert sorted(seen) == ["fewshot", "robot"]
    result = report(tmp_path / "out")
    assert result["config"] == {"seed": 4, "size": "small", "fewshot": {"of": "fewshot"}, "robot": {"of": "robot"}}
    assert result["fewshot"] == {"score": 2.0, "seed": 4, "full": False}
    assert result["robot"]["score"] == 0.5
    assert "typer" in result["versions"]
    assert result["timing"].keys() == {"fewshot", "robot"}
    assert [claim["held"] for claim in result["claims"]] == [True, False]
    text = page(tmp_path / "out")
    assert text.index("<h2>Part fewshot") < text.index("<h2>Part robot")
    assert "1 of 2 claims held." in text
    assert "This is the small run" in text
    assert json.loads((tmp_path / "r.json").read_text()) == result
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "held      fewshot scores: 2 >= 1",
        "NOT HELD  robot scores: 0.5 >= 1",
        f"report: {tmp_path / 'out' / 'report.html'}",
    ]


@pytest.mark.parametrize("name", ["fewshot", "robot"])
def test_one_alone(name: str, tmp_path: Path, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--only", name, "--full", "--json", "-") == 0
    assert seen == [name]
    result = json.loads(capsys.readouterr().out)
    assert result == report(tmp_path / "out")
    assert result.keys() == {"schema", "command", "versions", "config", "claims", "timing", name}
    assert result["config"]["size"] == "full"
    assert result[name]["full"] is True


def test_an_experiment_that_is_none(tmp_path: Path, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--only", "robt") == 2
    assert capsys.readouterr().err == "error: --only robt: did you mean 'robot'?\n"
    assert not seen
    assert not (tmp_path / "out").exists()


def test_the_paper_is_judged_by_what_the_parts_found(tmp_path: Path, seen: list[str]) -> None:
    assert run(tmp_path, "--quiet") == 0
    result = report(tmp_path / "out")
    assert len(result["paper"]) > 10
    assert "not measured in this run" in {row["verdict"] for row in result["paper"]}


def test_progress_is_in_percent_of_the_time_of_all_parts() -> None:
    told: list[int] = []
    sizes = (("a", 4, 90.0), ("b", 2, 10.0))
    nothing = Measured({}, {}, Section(""))
    parts = {name: Part(name, steps, (), lambda *_: nothing, seconds=s) for name, steps, s in sizes}
    on_steps = reproduction._percent(parts, ["a", "b"], lambda steps, **shown: told.append(steps))
    for name, steps in (("a", 1), ("b", 1), ("a", 3), ("b", 1), ("b", 5)):
        on_steps(name, steps)
    assert told == [22, 5, 68, 5]


class TestResuming:
    def test_what_is_finished_is_taken_up_and_nothing_else_differs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        seen: list[str] = []
        interrupted = {"fewshot": part("fewshot", 2.0, seen), "robot": part("robot", None, seen)}
        monkeypatch.setattr(reproduction, "PARTS", interrupted)
        assert run(tmp_path, "--quiet") == 130
        assert "what was finished is kept" in capsys.readouterr().err
        assert report(tmp_path / "out").keys() >= {"fewshot"}
        assert "robot" not in report(tmp_path / "out")
        whole = interrupted | {"robot": part("robot", 0.5, seen)}
        monkeypatch.setattr(reproduction, "PARTS", whole)
        seen.clear()
        assert run(tmp_path) == 0
        assert seen == ["robot"]
        assert "finished before: fewshot (--fresh computes them anew)" in capsys.readouterr().err
        resumed = report(tmp_path / "out")
        assert main(["reproduce", "--out", str(tmp_path / "new"), "--jobs", "0", "--quiet"]) == 0
        assert {**report(tmp_path / "new"), "timing": 0, "command": ""} == {**resumed, "timing": 0, "command": ""}

    def test_fresh_computes_everything(self, tmp_path: Path, seen: list[str]) -> None:
        assert run(tmp_path, "--quiet") == 0
        assert run(tmp_path, "--quiet") == 0
        assert run(tmp_path, "--quiet", "--fresh") == 0
        assert sorted(seen) == ["fewshot", "fewshot", "robot", "robot"]

    @pytest.mark.parametrize("change", ["seed", "full", "identity", "versions", "source", "torn", "edited", "schema"])
    def test_another_identity_or_a_damaged_file_is_computed_anew(
        self, change: str, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = ["--only", "robot", "--quiet"]
        assert run(tmp_path, *arguments) == 0
        file = tmp_path / "out" / "parts" / "robot.json"
        match change:
            case "seed":
                arguments += ["--seed", "1"]
            case "full":
                arguments += ["--full"]
            case "identity":
                monkeypatch.setitem(reproduction.PARTS, "robot", part("robot", 0.75, seen))
            case "versions":
                monkeypatch.setattr("ovonic.commands.reproduce.versions", lambda *names: {"typer": "0"})
            case "source":
                monkeypatch.setattr(reproduction, "source_hash", lambda: "0")
            case "torn":
                file.write_bytes(file.read_bytes()[:-20])
            case "edited":
                file.write_text(file.read_text().replace("0.5", "0.6"))
            case "schema":
                write_sealed(file, read_sealed(file) | {"schema": "ovonic/reproduce-part/0"})
        assert run(tmp_path, *arguments) == 0
        assert seen == ["robot", "robot"]
        assert run(tmp_path, *arguments) == 0
        assert seen == ["robot", "robot"]

    def test_a_file_beside_the_page_belongs_to_its_part(self, tmp_path: Path) -> None:
        (tmp_path / "a.gif").write_bytes(b"GIF89a")
        finished = reproduction_store.Finished(Measured({"x": 1.5}, {}, Section("s"), ("a.gif",)), {"cpu_s": 1.0})
        reproduction_store.keep(tmp_path, "p", {"seed": 1}, finished)
        assert reproduction_store.kept(tmp_path, "p", {"seed": 1}) == finished._replace(
            measured=finished.measured._replace(section=Section("s", claims=[], tables=[], pictures=[]))
        )
        (tmp_path / "a.gif").write_bytes(b"GIF87a")
        assert reproduction_store.kept(tmp_path, "p", {"seed": 1}) is None
        (tmp_path / "a.gif").unlink()
        assert reproduction_store.kept(tmp_path, "p", {"seed": 1}) is None


def test_weights_that_are_missing_stop_everything_at_once(
    tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(seed: int, full: bool) -> Part:
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
    monkeypatch.setattr(reproduction, "PARTS", {"fewshot": lambda seed, full: empty})
    assert run(tmp_path, "--quiet") == 0
    assert capsys.readouterr().out.startswith("unknown   the ratio: – <= 1.1\n")


STUBS = '''
"""Parts for processes: one ends at once, one waits for a file, one crashes, one has a defect."""

import os
import time
from pathlib import Path

from ovonic.validation.report_content import Section
from ovonic.validation.reproduction_part import Measured, Part

HERE = Path(__file__).parent


def part(name, measure):
    return Part(name, 2, (), measure, seconds=1.0 if name == "quick" else 2.0)


def quick(seed, full):
    def measure(folder, on_steps):
        print("a toolchain that chatters")
        on_steps(2)
        return Measured({"value": 0.1 + seed}, {}, Section("quick"))

    return part("quick", measure)


def slow(seed, full):
    def measure(folder, on_steps):
        (HERE / "began").write_text(str(os.getpid()))
        while not (HERE / "go").exists():
            on_steps(0)
            time.sleep(0.05)
        return Measured({"value": 0.2}, {}, Section("slow"))

    return part("slow", measure)


def crash(seed, full):
    return part("crash", lambda folder, on_steps: os._exit(7))


def defect(seed, full):
    return part("defect", lambda folder, on_steps: 1 // 0)
'''


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Parts that processes can import."""
    (tmp_path / "stubs").mkdir()
    (tmp_path / "stubs" / "reproduction_stubs.py").write_text(STUBS)
    monkeypatch.syspath_prepend(str(tmp_path / "stubs"))
    yield importlib.import_module("reproduction_stubs")
    del sys.modules["reproduction_stubs"]


class TestProcesses:
    def test_a_part_that_fails_costs_itself_and_is_tried_again(
        self,
        stubs: ModuleType,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        parts = {"crash": stubs.crash, "quick": stubs.quick, "defect": stubs.defect}
        monkeypatch.setattr(reproduction, "PARTS", parts)
        names = [word for name in parts for word in ("--only", name)]
        monkeypatch.setattr(reproduction, "NAMES", tuple(parts))
        arguments = ["reproduce", *names, "--out", str(tmp_path / "out"), "--json", "-", "--quiet"]
        assert main([*arguments, "--jobs", "2"]) == 1
        out, err = capfd.readouterr()
        result = json.loads(out)
        assert result["quick"] == {"value": 0.1}
        assert result["failed"]["crash"] == "its process ended with status 7"
        assert "ZeroDivisionError" in result["failed"]["defect"]
        assert "error: crash failed: its process ended with status 7" in err
        text = page(tmp_path / "out")
        assert text.index("<h2>Crash") < text.index("<h2>quick") < text.index("<h2>Defect")
        assert [file.name for file in (tmp_path / "out" / "parts").iterdir()] == ["quick.json"]

        here = tmp_path / "here"
        monkeypatch.setattr(reproduction, "PARTS", {"quick": stubs.quick})
        assert main(["reproduce", "--only", "quick", "--out", str(here), "--jobs", "0", "--quiet"]) == 0
        assert report(here)["quick"] == result["quick"]

    @pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
    def test_killed_at_work_nothing_finished_is_lost_and_no_process_is_left(
        self, kill: signal.Signals, stubs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, out = tmp_path / "stubs", tmp_path / "out"
        script = (
            "import sys, reproduction_stubs as stubs; from ovonic.validation import reproduction as r; "
            "from ovonic.__main__ import main; r.PARTS = {'slow': stubs.slow, 'quick': stubs.quick}; "
            "r.NAMES = tuple(r.PARTS); sys.exit(main(sys.argv[1:]))"
        )
        names = ["--only", "slow", "--only", "quick"]
        arguments = ["reproduce", *names, "--out", str(out)]
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments, "--quiet", "--jobs", "2"],
            env=os.environ | {"PYTHONPATH": str(folder)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(lambda: (folder / "began").exists() and "<h2>quick" in page(out))  # the page is written last
            process.send_signal(kill)
            _, err = process.communicate(timeout=300)
        finally:
            process.kill()
        worker = int((folder / "began").read_text())
        wait_for(lambda: not alive(worker))
        if kill is signal.SIGINT:
            assert process.returncode == 130
            assert "what was finished is kept" in err
            assert report(out)["quick"] == {"value": 0.1}
        assert not list(out.rglob("*.part"))

        (folder / "go").touch()
        monkeypatch.setattr(reproduction, "PARTS", {"slow": stubs.slow, "quick": stubs.quick})
        monkeypatch.setattr(reproduction, "NAMES", ("slow", "quick"))
        done = (out / "parts" / "quick.json").read_bytes()
        assert main([*arguments, "--jobs", "0", "--quiet"]) == 0
        assert (out / "parts" / "quick.json").read_bytes() == done
        whole = tmp_path / "whole"
        assert main(["reproduce", *names, "--out", str(whole), "--jobs", "0", "--quiet"]) == 0
        first, second = ({**report(f), "timing": 0, "command": ""} for f in (out, whole))
        assert first == second


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
