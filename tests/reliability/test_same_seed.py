"""Same seed, same result: for every command, twice in a process and in another, each of 1 and of 2 threads; and over
1 and 2 threads for what a seed alone decides.

What training and evaluation compute is promised for one number of threads, and a run refuses to go on with another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .same_seed import COMMANDS, DRAWS

HARNESS = Path(__file__).parent


def _results(folder: Path, threads: int, repeats: int) -> dict[str, Any]:
    folder.mkdir()
    line = [sys.executable, str(HARNESS), "same-seed", str(folder), "--repeats", str(repeats)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "OVONIC_CACHE": str(folder / "cache")}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert results["threads"] == threads
    return results["found"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """By threads: three results a name, the last of another process."""
    folder = tmp_path_factory.mktemp("same-seed")
    results: dict[int, dict[str, Any]] = {}
    for threads in (1, 2):
        first = _results(folder / f"{threads}", threads, 2)
        other = _results(folder / f"{threads}-again", threads, 1)
        results[threads] = {name: [*first[name], *other[name]] for name in first}
    return results


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*COMMANDS, *DRAWS])
def test_three_times_the_same(found: dict[int, dict[str, Any]], name: str, threads: int) -> None:
    first, again, other = found[threads][name]
    assert first == again == other


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DRAWS, "crossbar program"])
def test_one_thread_and_two(found: dict[int, dict[str, Any]], name: str) -> None:
    assert found[1][name][0] == found[2][name][0]
