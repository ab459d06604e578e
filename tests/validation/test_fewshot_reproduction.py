"""The few-shot part of ``ovonic reproduce`` at a small size: its figures are those of the commands that it names."""

from __future__ import annotations

import html
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovonic.__main__ import main
from ovonic.models.errors import ToolchainError
from ovonic.validation import fewshot_reproduction
from ovonic.validation.fewshot_reproduction import FEWSHOT_THRESHOLDS, FULL_RUNS, RUNS, Run, fewshot_part
from ovonic.validation.report import write_report
from ovonic.validation.reproduction_part import Measured

from .report_commands import check_commands, parsed

CURE = "aihwkit is not installed: pip install 'ovonic[aihwkit]'"


def reported(measured: Measured, folder: Path) -> dict[str, Any]:
    """What the JSON of a report of this part holds."""
    _, kept = write_report(folder, [measured.section], {"fewshot": measured.figures})
    return dict(json.loads(kept.read_text()))


def test_without_its_toolchain_the_rows_of_software_stand_and_the_cure_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> list[Any]:
        def program() -> None:
            raise ToolchainError(CURE)

        return [program]

    monkeypatch.setattr(fewshot_reproduction, "aihwkit_chips", missing)
    small = {name: replace(run, tasks=4, chips=min(run.chips, 1)) for name, run in RUNS.items()}
    measured = fewshot_part(2, runs=small).measure(tmp_path, lambda n: None)
    result = reported(measured, tmp_path)
    on_chips = {name for name, run in small.items() if run.noise_model is not None}
    assert result["fewshot"]["unavailable"] == dict.fromkeys(on_chips, CURE)
    assert [claim["held"] is None for claim in result["claims"]] == [False] * 3 + [True] * len(on_chips)
    assert html.unescape((tmp_path / "report.html").read_text()).count(CURE) == len(on_chips)
    check_commands(measured.section)


@pytest.mark.parametrize("runs", [RUNS, FULL_RUNS])
def test_the_commands_of_both_sizes_say_those_sizes(runs: dict[str, Run]) -> None:
    for run in runs.values():
        found = parsed(run.command(5))
        assert (found["tasks"], found["weights"], found["seed"]) == (run.tasks, run.weights, 5)
        assert found["read_time"] == run.read_time_s


@pytest.mark.toolchain
def test_report_holds_what_the_single_commands_measure(tmp_path: Path) -> None:
    pytest.importorskip("aihwkit")
    small = {name: replace(run, tasks=8, chips=min(run.chips, 1)) for name, run in RUNS.items()}
    part, done = fewshot_part(2, runs=small), list[int]()
    measured = part.measure(tmp_path, done.append)
    result = reported(measured, tmp_path / "out")
    assert sum(done) == part.steps
    check_commands(measured.section)
    assert len(result["claims"]) == 3 + sum(run.noise_model is not None for run in small.values())
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    for name in ("software_4bit", "pcm_32bit_day"):
        command = small[name].command(2)
        assert name != "pcm_32bit_day" or "--read-time 86400" in command
        alone = tmp_path / f"{name}.json"
        assert main([*shlex.split(command)[1:], "--quiet", "--json", str(alone)]) == 0
        measured = json.loads(alone.read_text())
        assert measured["accuracy_per_update"] == result["fewshot"][name]["accuracy_per_update"]
    assert small["pcm_32bit"].command(2) in page
    for claim in result["claims"]:
        assert claim["name"] in page
        assert claim["threshold"] in FEWSHOT_THRESHOLDS.values()
