"""``ovonic reproduce`` at a small size: its figures are those that its commands print one by one."""

from __future__ import annotations

import html
import json
import shlex
from pathlib import Path

import pytest

from ovonic.__main__ import main
from ovonic.validation import reproduction


@pytest.mark.toolchain
def test_report_holds_what_the_single_commands_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aihwkit")
    small = {
        name: reproduction.Run(run.weights, 8, run.noise_model, run.read_time_s, min(run.chips, 1))
        for name, run in reproduction.RUNS.items()
    }
    monkeypatch.setattr(reproduction, "RUNS", small)
    done = []
    result = reproduction.reproduce_fewshot(
        tmp_path / "out", seed=2, provenance={"command": "c", "versions": {}}, on_tasks=done.append
    )
    assert sum(done) == reproduction.total_tasks()
    assert result == json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(result["claims"]) == 3 + sum(run.noise_model is not None for run in small.values())
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    for name in ("software_4bit", "pcm_32bit_day"):
        command = small[name].command()
        assert name != "pcm_32bit_day" or "--read-time 86400" in command
        alone = tmp_path / f"{name}.json"
        assert main([*shlex.split(command)[1:], "--seed", "2", "--quiet", "--json", str(alone)]) == 0
        measured = json.loads(alone.read_text())
        assert measured["accuracy_per_update"] == result["fewshot"][name]["accuracy_per_update"]
    for claim in result["claims"]:
        assert claim["name"] in page
        assert claim["threshold"] in reproduction.FEWSHOT_THRESHOLDS.values()
