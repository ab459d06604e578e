"""Same seed, same result: twice in a process for every command; over 1 and 2 threads for what a seed alone decides.

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


def _results(folder: Path, threads: int, repeats: int, *only: str) -> dict[str, Any]:
    folder.mkdir()
    line = [sys.executable, str(HARNESS), "same-seed", str(folder), "--repeats", str(repeats)]
    line += [f"--only={name}" for name in only]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "OVONIC_CACHE": str(folder / "cache")}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert found["threads"] == threads
    return found["found"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _results(tmp_path_factory.mktemp("one") / "1", 1, 2)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _results(tmp_path_factory.mktemp("two") / "2", 2, 1, "crossbar program")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS, *DRAWS])
def test_twice_the_same(one: dict[str, Any], name: str) -> None:
    first, again = one[name]
    assert first == again


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DRAWS, "crossbar program"])
def test_one_thread_and_two(one: dict[str, Any], two: dict[str, Any], name: str) -> None:
    assert one[name][0] == two[name][0]
