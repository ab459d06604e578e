"""The harness itself: mutations change seeds and keep what lets them through, and what is wrong is seen."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import h5py
import pytest

from ovonic.models.errors import DataError

from .engines import run_hypothesis
from .fuzzing import fuzz
from .judge import Judge, counts, input_path, new_counts
from .mutate_bytes import MAX_INPUT
from .mutate_hdf5 import lookup3, sealed
from .mutate_table import mutated_table
from .targets import TARGETS, Target


def test_lookup3_is_jenkins_own() -> None:
    """His test vectors: lookup3.c, driver5, initial value 0."""
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


def test_what_hdf5_seals_is_sealed_alike() -> None:
    file = io.BytesIO()
    with h5py.File(file, "w", libver="v110") as made:
        made["a/b"], made["t"] = [1.0, 2.0], "text"
    data = file.getvalue()
    assert sealed(data) == data
    broken = bytearray(data)
    broken[data.index(b"OHDR") + 20] ^= 1
    assert sealed(bytes(broken)) != bytes(broken)


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_is_changed_in_many_ways_and_again_alike(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    corpus = target.seeds(tmp_path)
    made = [target.made(Random(k), corpus) for k in range(40)]
    assert len(set(made)) > 30
    again = [target.made(Random(k), corpus) for k in range(40)]
    assert target.hdf5 or made == again, "HDF5 leaves bytes that it does not use as they come"


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_is_read_and_leaves_room_for_what_is_added(name: str, tmp_path: Path) -> None:
    """A seed as large as the limit would be cut by every change, and nothing but a cut file ever be read."""
    target = TARGETS[name]
    corpus = target.seeds(tmp_path)
    assert max(map(len, corpus)) <= MAX_INPUT // 2
    with new_counts(tmp_path / "counts") as shared:
        judge = Judge(target, tmp_path, shared)
        assert all(judge(data) for data in corpus)
        assert counts(shared)["accepted"] > 0


def _toy(read: Any) -> Target:
    return Target("toy", read, lambda _: (b"a,b\n1,2\n",), mutated_table, ".csv")


def test_an_error_that_is_not_ours_is_a_finding(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        text = path.read_bytes()
        if b"nan" in text:
            raise DataError("no")
        if text.count(b",") < 2:
            raise IndexError("beyond")

    with new_counts(tmp_path / "counts") as shared:
        run_hypothesis(_toy(read), (b"a,b\n1,2\n",), Judge(_toy(read), tmp_path, shared), 300, 0)
        found = counts(shared)
    assert found["inputs"] == 300 == found["accepted"] + found["refused"] + found["wrong"]
    assert min(found.values()) > 0
    (kept,) = (tmp_path / "findings").glob("*.json")
    assert json.loads(kept.read_text())["what"] == "IndexError"
    input_path(_toy(read), tmp_path).write_bytes(kept.with_suffix(".bin").read_bytes())
    with pytest.raises(IndexError):
        read(input_path(_toy(read), tmp_path))


@pytest.mark.parametrize("end", ["dies", "hangs"])
def test_a_worker_that_dies_or_hangs_is_a_finding_and_replaced(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setitem(fuzz.__globals__, "PATIENCE_S", {False: 1.0, True: 1.0})
    monkeypatch.setitem(fuzz.__globals__, "RETRY_S", {False: 1.0, True: 1.0})

    def read(path: Path) -> None:
        if b"1_0" in path.read_bytes():
            os.kill(os.getpid(), 9) if end == "dies" else time.sleep(1000)

    result = fuzz(_toy(read), 60, "hypothesis", 2)
    assert result["inputs"] == 60
    assert result["deaths"] == {
        "signal SIGKILL" if end == "dies" else "no end in 1 s; read as users do: no end in 1 s": len(result["findings"])
    }
    assert all(b"1_0" in bytes.fromhex(finding["input"]) for finding in result["findings"])
    assert result["findings"]
