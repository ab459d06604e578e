"""``ovonic robot curves``: runs one after the other on one axis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovonic.__main__ import main


def _run(folder: Path, steps: list[int], losses: list[float]) -> str:
    folder.mkdir()
    history = [{"step": s, "mse_omega": x, "mse_xyz": x} for s, x in zip(steps, losses, strict=True)]
    tried = {
        "loss": {"mean": losses[-1], "ci95": 0.01, "median": losses[-1]},
        "tip_rmse_mm": {"median": 9.0, "p95": 10.0},
    }
    metrics = {"history": history, "validation": [{"step": steps[-1], **tried}]}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return str(folder)


def test_runs_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    import ovonic.validation.robot_curves as module

    real = module.learning_curve
    monkeypatch.setattr(module, "learning_curve", lambda *given: drawn.extend(given) or real(*given))
    out = tmp_path / "curves.png"
    runs = [_run(tmp_path / "a", [10, 20], [0.4, 0.2]), _run(tmp_path / "b", [5, 10], [0.2, 0.1])]
    assert main(["robot", "curves", *runs, "--out", str(out)]) == 0
    assert out.stat().st_size > 1000
    assert [h["step"] for h in drawn[0]] == [10, 20, 25, 30]
    assert [v["step"] for v in drawn[1]] == [20, 30]


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["robot", "curves", str(tmp_path)]) == 2
    assert "metrics.json" in capsys.readouterr().err
