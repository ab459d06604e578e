"""Every reader meets a few hundred hostile files: our errors, and no others. More: python tests/reliability fuzz."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from .engines import run_hypothesis
from .judge import Judge, counts, new_counts
from .targets import TARGETS

RUNS = 200
SLOW = {"nir": 25, "crossbar-image": 25, "chip-recording": 25, "checkpoint-fewshot": 50, "checkpoint-robot": 50}
"""Inputs where one takes milliseconds; HDF5 is read in a child process first, as users read it."""


@pytest.mark.parametrize("name", TARGETS)
def test_only_our_errors(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovonic.adapters.hdf5.PROBE_S", 2)
    target, runs = TARGETS[name], SLOW.get(name, RUNS)
    with warnings.catch_warnings(), new_counts(tmp_path / "counts") as shared:
        warnings.simplefilter("ignore")
        judge = Judge(target, tmp_path, shared)
        run_hypothesis(target, target.seeds(tmp_path), judge, runs, 0)
        found = counts(shared)
    says = [json.loads(file.read_text())["trace"] for file in judge.findings.glob("*.json")]
    assert not says, says[0]
    assert found["inputs"] == runs
    assert found["refused"] > 0 or name in ("metrics", "omniglot-cache", "reproduction-part", "sweep-record")


@pytest.mark.slow
def test_guided_by_coverage(tmp_path: Path) -> None:
    """Atheris instruments the project as it is imported, hence in a process of its own."""
    pytest.importorskip("atheris", reason="atheris is not installed")
    line = [sys.executable, str(Path(__file__).parent), "fuzz", "all", "--engine", "atheris", "--runs", "100"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*line, "--json", str(tmp_path)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    results = {file.name: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert len(results) == len(TARGETS)
    assert all(result["inputs"] >= 100 and not result["findings"] and result["edges"] for result in results.values())
