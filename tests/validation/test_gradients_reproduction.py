"""The learning rule in ``ovonic reproduce`` at a tiny size, with a toolchain that is missing and a wrong rule."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovonic.models.errors import ToolchainError
from ovonic.validation import gradients, gradients_reproduction, gradients_summary
from ovonic.validation.eprop_learning import LearningCurves
from ovonic.validation.gradients_reproduction import FULL_RUNS, GRADIENT_THRESHOLDS, RUNS, GradientRuns, gradients_part
from ovonic.validation.report import write_report

from .report_commands import check_commands, parsed

CURE = "NEST is not installed: pip install 'ovonic[nest]'"
TINY = GradientRuns(networks=2, steps=20, lessons=("robot-q16",), updates=2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two references that cost little, a wrong one, and one that is missing; one task learned, one that cannot be."""
    real = gradients._by

    def by(reference: str, episode: Any) -> Any:
        if reference == "nest":
            raise ToolchainError(CURE)
        found = real("written-out" if reference == "norse" else reference, episode)
        if reference == "norse":
            found = found._replace(gradients={name: 1.001 * g for name, g in found.gradients.items()})
        return found

    def missing(updates: int, seed: int) -> LearningCurves:
        raise ToolchainError(CURE)

    def learned(updates: int, seed: int) -> LearningCurves:
        losses, zeros = np.linspace(1, 0.5, updates), {"w": np.zeros(2)}
        return LearningCurves("a task", losses, losses * (1 + 1e-15), zeros, {"w": np.ones(2)}, {"w": np.ones(2)})

    monkeypatch.setattr(gradients, "_by", by)
    monkeypatch.setattr(gradients_reproduction, "REFERENCES", ("written-out", "autograd", "norse", "nest"))
    monkeypatch.setattr(gradients_reproduction, "TASKS", {"pattern": missing, "evidence": learned})
    for module in (gradients_summary, gradients_reproduction):
        monkeypatch.setattr(module, "SIZES", (10,))
        monkeypatch.setattr(module, "LENGTHS", (10, 20))
        monkeypatch.setattr(module, "DRAWS", 2)


@pytest.mark.usefixtures("tiny")
def test_references_agree_a_wrong_one_is_caught_and_a_missing_one_named(tmp_path: Path) -> None:
    part, done = gradients_part(1, runs=TINY), list[int]()
    measured = part.measure(tmp_path, done.append)
    figures, section = measured.figures, measured.section
    assert sum(done) == part.steps
    assert figures["absent"] == {"nest": CURE, "learning beside NEST": CURE}
    assert figures["references"].keys() == {"written-out", "autograd", "norse"}
    for place in ("references", "natural"):
        assert figures[place]["autograd"]["worst"] <= GRADIENT_THRESHOLDS["gradient"]
        assert figures[place]["norse"]["worst"] == pytest.approx(1e-3)
    claims = {claim.path: claim.held for claim in section.claims}
    assert claims["gradients/references/written-out/worst"] is True
    assert claims["gradients/natural/norse/worst"] is False
    assert claims["gradients/references/nest/worst"] is None
    assert claims["gradients/learning/pattern/difference"] is None
    assert claims["gradients/learning/evidence/difference"] is True
    assert len(section.pictures) == 3
    check_commands(section)
    page, kept = write_report(tmp_path, [section], {"gradients": figures})
    assert html.unescape(page.read_text()).count(CURE) == 2
    assert json.loads(kept.read_text())["gradients"] == figures


@pytest.mark.parametrize("runs", [RUNS, FULL_RUNS])
def test_the_commands_of_both_sizes_say_those_sizes(runs: GradientRuns) -> None:
    found = parsed(runs.command(5))
    assert (found["networks"], found["steps"], found["seed"], found["bptt"]) == (runs.networks, runs.steps, 5, True)
    assert parsed(runs.lesson("robot-q16", 5))["network"] == "robot-q16"
