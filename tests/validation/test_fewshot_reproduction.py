"""The few-shot part of ``ovonic reproduce`` at a small size: its figures are those of the commands that it names."""

from __future__ import annotations

import html
import json
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from ovonic.__main__ import main
from ovonic.validation.fewshot_reproduction import FEWSHOT_THRESHOLDS, RUNS, fewshot_part
from ovonic.validation.reproduction import reproduce


@pytest.mark.toolchain
def test_report_holds_what_the_single_commands_measure(tmp_path: Path) -> None:
    pytest.importorskip("aihwkit")
    small = {name: replace(run, tasks=8, chips=min(run.chips, 1)) for name, run in RUNS.items()}
    part, done = fewshot_part(2, small), list[int]()
    result = reproduce(
        tmp_path / "out",
        {"fewshot": part},
        seed=2,
        provenance={"command": "c", "versions": {}},
        progress=lambda *_: nullcontext(done.append),
    )
    assert sum(done) == part.steps
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
