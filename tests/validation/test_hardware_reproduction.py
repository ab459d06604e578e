"""The hardware part of ``ovonic reproduce`` at a tiny size, with a toolchain that is missing; what judges agreement."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovonic.models.errors import ToolchainError
from ovonic.tasks.statistics import loss_ratio
from ovonic.validation import hardware_reproduction, parity
from ovonic.validation.hardware import measure
from ovonic.validation.hardware_conditions import Condition, Size
from ovonic.validation.hardware_margins import MARGINS
from ovonic.validation.hardware_reproduction import HardwareRuns, hardware_part, hardware_runs
from ovonic.validation.report import write_report

from .report_commands import check_commands, parsed

CURE = "aihwkit is not installed: pip install 'ovonic[aihwkit]'"
ARM = Condition("robot", "robot-q16")
BOTH = tuple(
    Condition("fewshot", "fewshot-4bit", hardware=hardware, zero_targets=zeros)
    for hardware, zeros in (("aihwkit", None), ("crossbar", "noisy"))
)


def made_up(error: float, seed: int) -> dict[str, Any]:
    """A report as ``measure`` gives it, of errors drawn around ``error``."""
    rng = np.random.default_rng(seed)
    software, hardware = rng.gamma(4, 0.02 / 4, 300), rng.gamma(4, error / 4, (4, 300))
    ratio = loss_ratio(hardware, software, seed=0)
    report = {"error": float(hardware.mean()), "ratio": ratio, "own_ratio": ratio, "devices_reprogrammed": 4.0}
    return report | {"errors": {"software": software, "hardware": hardware}}


def test_a_condition_is_measured_and_a_missing_toolchain_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured_or_missing(condition: Condition, size: Size, **how: Any) -> dict[str, Any]:
        if condition.hardware == "aihwkit":
            raise ToolchainError(CURE)
        return measure(condition, size, **how) if condition.experiment == "robot" else made_up(0.021, 1)

    monkeypatch.setattr(hardware_reproduction, "measure", measured_or_missing)
    monkeypatch.setattr(parity, "software_rows", lambda *_, **__: {"32 bit": {"mean": 0.02, "ci95": 0.01}})
    runs = HardwareRuns({"headline": (ARM,), "parity": BOTH}, Size(2, 4))
    measured = hardware_part(3, runs=runs).measure(tmp_path, lambda n: None)
    figures = measured.figures
    assert figures["absent"] == {BOTH[0].name: CURE}
    assert figures["conditions"][ARM.name]["trajectories"] == 4
    assert "errors" not in figures["conditions"][ARM.name]
    assert all(verdict["preliminary"] for verdict in figures["verdicts"])
    claims = {claim.name: claim for claim in measured.section.claims}
    assert sum(claim.held is None for claim in claims.values()) == 1
    (loss,) = (claim for name, claim in claims.items() if name.endswith(": loss"))
    assert loss.measured == figures["conditions"][ARM.name]["error"]
    assert loss.threshold == MARGINS["robot_loss"]
    check_commands(measured.section)
    page, kept = write_report(tmp_path, [measured.section], {"hardware": figures})
    assert CURE in html.unescape(page.read_text())
    assert json.loads(kept.read_text())["hardware"] == figures


@pytest.mark.parametrize(("error", "held"), [(0.0205, [True, True]), (0.03, [False, True]), (0.01, [True, False])])
def test_implementations_that_differ_are_told(
    error: float, held: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = {BOTH[0]: made_up(0.02, 1), BOTH[1]: made_up(error, 2)}
    monkeypatch.setattr(hardware_reproduction, "measure", lambda condition, *_, **__: reports[condition])
    monkeypatch.setattr(parity, "software_rows", lambda *_, **__: {})
    part = hardware_part(3, runs=HardwareRuns({"parity": BOTH}, Size(4, 300)))
    claims = part.measure(tmp_path, lambda n: None).section.claims
    assert [claim.held for claim in claims if claim.path.startswith("hardware/agreement")] == held


@pytest.mark.parametrize("full", [False, True])
def test_each_condition_of_both_sizes_has_a_command_that_finds_it(full: bool) -> None:
    runs = hardware_runs(full)
    assert dict(runs).keys() == {"headline", "parity"}
    for of, condition in runs:
        found = parsed(runs.command(of, condition, 2))
        assert (found["study"], found["chips"], found["tasks"], found["seed"]) == (
            of,
            runs.size.chips,
            runs.size.tasks,
            2,
        )
        assert found["only"] in condition.name
