"""Training and writing killed at random moments; fifty kills, other backends too: python tests/reliability kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, which forks many lives from one that has imported everything."""
    file = tmp_path_factory.mktemp("kills") / "kills.json"
    line = [sys.executable, str(Path(__file__).parent), "kill", "--kills", "8", "--seed", "1", "--json", str(file)]
    done = subprocess.run(
        [*line, "--only", "fewshot", "robot-ovonic", "writing"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert file.exists(), done.stderr[-3000:]
    return {result["run"]: result for result in json.loads(file.read_text())}


KILLED_AT_ONCE = """
import sys
import torch
from reliability import killing

class Alternating:
    def __init__(self, seed):
        self.drawn = 0

    def uniform(self, low, high):
        self.drawn += 1
        return 0.6 * high if self.drawn % 2 else 0.0

torch.set_num_threads(1)
killing.Random = Alternating
sys.exit("; ".join(killing.kill_training("robot-ovonic", 4, 0)["wrong"]) or 0)
"""


@pytest.mark.slow
def test_a_life_that_is_killed_at_once_is_not_taken_for_the_one_before() -> None:
    """The harness itself: a life that did not come to its first line said what the life before it had said."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", KILLED_AT_ONCE], env=env, check=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["fewshot", "robot-ovonic"])
def test_a_run_ends_as_if_it_had_not_been_killed(results: dict[str, Any], run: str) -> None:
    """Eight kills, uniform over a life: the same bytes of weights, metrics and checkpoint; nothing torn on the way."""
    found = results[run]
    assert found["wrong"] == []
    assert found["kills"] == 8
    assert found["most_steps_lost"] < found["save_every"]


@pytest.mark.slow
def test_every_file_is_whole_whenever_its_writer_dies(results: dict[str, Any]) -> None:
    found = results["writing"]
    assert found["wrong"] == []
    assert found["files_looked_at"] > found["files"]
