"""Recordings of a chip: the same calls get the same answers, no other does, and no file does harm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.adapters.recorded_chip import RecordingChip, ReplayingChip
from ovonic.models.chip import SimulatedChip
from ovonic.models.driver import Driver
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery

ROWS, COLUMNS = slice(1, 5), slice(0, 3)


def chip() -> SimulatedChip:
    return SimulatedChip(2, device_model("pcm"), Periphery(), seed=3, rows=6, columns=5)


def cells() -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = torch.tensor([1, 2, 4]), torch.tensor([0, 2, 1])
    return rows, columns, torch.arange(12.0).reshape(4, 3)


def x() -> Tensor:
    return torch.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)


def use(driver: Driver) -> list[Tensor]:
    """A session of eight calls."""
    driver.program(1, *cells())
    answers = [driver.read(1)]
    driver.advance(100.0)
    answers.append(driver.mvm(1, x(), ROWS, COLUMNS))
    answers.append(driver.mvm(1, x().double(), ROWS, COLUMNS))
    answers.append(driver.mvm(1, x() > 0, ROWS, COLUMNS, "binary"))
    answers.append(driver.mvm(0, torch.zeros(0, 4), ROWS, COLUMNS, "unsigned"))
    return [*answers, driver.read(0)]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "session.h5"
    with RecordingChip(chip(), path) as driver:
        use(driver)
    return path


def test_a_recording_answers_as_the_chip_did(recorded: Path) -> None:
    plain, replaying = chip(), ReplayingChip(recorded)
    assert (replaying.n_arrays, replaying.rows, replaying.columns, replaying.g_max_us) == (2, 6, 5, 25.0)
    assert all(map(torch.equal, use(plain), use(replaying)))
    assert replaying.counters == plain.counters
    assert replaying.position == len(replaying) == 8
    replaying.rewind()
    assert replaying.counters.pulses == 0
    assert all(map(torch.equal, use(chip()), use(replaying)))


def test_answers_may_be_written_to(recorded: Path) -> None:
    replaying = ReplayingChip(recorded)
    first = use(replaying)
    kept = [answer.clone() for answer in first]
    for answer in first:
        answer.zero_()
    replaying.rewind()
    assert all(map(torch.equal, use(replaying), kept))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.read(1), "call 3, read, was not recorded: mvm comes next"),
        (lambda d: d.mvm(0, x(), ROWS, COLUMNS), "mvm, was not recorded: array is 0, recorded is 1"),
        (lambda d: d.mvm(1, x(), ROWS, slice(1, 4)), r"columns is \[1, 4\], recorded is \[0, 3\]"),
        (lambda d: d.mvm(1, x(), slice(0, 4), COLUMNS), r"rows is \[0, 4\], recorded is \[1, 5\]"),
        (lambda d: d.mvm(1, x(), ROWS, COLUMNS, "unsigned"), "inputs is 'unsigned', recorded is 'signed'"),
        (lambda d: d.mvm(1, x()[0], ROWS, COLUMNS), r"shape \(3, 4\), recorded is torch.float32 of shape \(2, 3, 4\)"),
        (lambda d: d.mvm(1, x().double(), ROWS, COLUMNS), r"x is torch.float64 .* recorded is torch.float32"),
        (
            lambda d: d.mvm(1, x().index_fill(2, torch.tensor([3]), 0.5), ROWS, COLUMNS),
            r"x\[0, 0, 3\] is 0\.5, recorded is -0\.739",
        ),
    ],
)
def test_a_call_that_was_not_recorded_is_refused(recorded: Path, call: Callable[[Driver], Any], message: str) -> None:
    replaying = ReplayingChip(recorded)
    replaying.program(1, *cells())
    replaying.read(1)
    replaying.advance(100.0)
    before = replaying.counters
    with pytest.raises(DataError, match=message):
        call(replaying)
    assert replaying.counters == before
    assert replaying.mvm(1, x(), ROWS, COLUMNS).shape == (2, 3, 3)


def test_the_end_and_the_targets_and_seconds_are_told(recorded: Path) -> None:
    replaying = ReplayingChip(recorded)
    rows, columns, g = cells()
    g[2, 1] += 0.25
    with pytest.raises(
        DataError, match=r"call 0, program, was not recorded: g_target\[2, 1\] is 7\.25, recorded is 7\.0"
    ):
        replaying.program(1, rows, columns, g)
    with pytest.raises(DataError, match=r"columns\[0\] is 1, recorded is 0"):
        replaying.program(1, rows, torch.tensor([1, 2, 1]), cells()[2])
    replaying.program(1, *cells())
    replaying.read(1)
    with pytest.raises(DataError, match=r"seconds is 99\.0, recorded is 100\.0"):
        replaying.advance(99)
    replaying.rewind()
    use(replaying)
    with pytest.raises(DataError, match="call 8, read: the recording ends after 8 calls"):
        replaying.read(0)


def test_what_the_chip_refuses_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with RecordingChip(chip(), path) as driver:
        for wrong in (lambda: driver.read(7), lambda: driver.advance(-1.0)):
            with pytest.raises(ConfigError):
                wrong()
        driver.read(0)
    replaying = ReplayingChip(path)
    with pytest.raises(ConfigError, match="array 7: the chip has 2"):
        replaying.read(7)
    with pytest.raises(ConfigError, match="seconds -1"):
        replaying.advance(-1.0)
    assert len(replaying) == 1


def test_a_file_appears_when_it_is_whole_and_survives_an_error(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.h5"
    path.parent.mkdir()
    path.write_bytes(b"older")
    with pytest.raises(ZeroDivisionError), RecordingChip(chip(), path) as driver:  # noqa: PT012
        driver.read(1)
        assert path.read_bytes() == b"older"
        [scratch] = set(path.parent.iterdir()) - {path}
        copy = tmp_path / "copy.h5"
        shutil.copy(scratch, copy)
        raise ZeroDivisionError
    assert len(ReplayingChip(copy)) == 1, "what a dying process leaves can be read"
    assert len(ReplayingChip(path)) == 1
    assert list(path.parent.iterdir()) == [path]
    driver.close()
    with pytest.raises(DataError, match="is closed; start another"):
        driver.read(0)


def test_a_recording_too_long_to_be_read_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovonic.adapters.recorded_chip.FULL", 1000)
    with RecordingChip(chip(), tmp_path / "a.h5") as driver:
        for _ in range(2):
            driver.read(0)
        with pytest.raises(DataError, match="bytes recorded, the limit is 1000: close it, start another"):
            driver.read(0)
    assert len(ReplayingChip(tmp_path / "a.h5")) == 2


def line(change: Callable[[dict[str, Any]], object], call: int = 3) -> Callable[[h5py.File], None]:
    """Change a call."""

    def edit(file: h5py.File) -> None:
        description = json.loads(file["calls"][call])
        change(description)
        file["calls"][call] = json.dumps(description)

    return edit


def replace(name: str, value: Any, **options: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        if value is not None or options:
            file.create_dataset(name, data=value, **options)

    return edit


def spoil(name: str, at: int, value: float) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[name][at] = value

    return edit


def link(file: h5py.File) -> None:
    del file["float32"]
    file["float32"] = h5py.ExternalLink("/etc/hostname", "/")


HOSTILE: list[tuple[Callable[[h5py.File], None], str]] = [
    (replace("format", "nir"), "no ovonic-chip-recording"),
    (replace("format", None), "no ovonic-chip-recording"),
    (replace("version", 2), "version 2: this release reads version 1"),
    (replace("version", [1, 1]), "version"),
    (replace("calls", None), "'calls': missing"),
    (lambda file: file.create_group("more"), "'more': not part of a recording"),
    (replace("chip", [2, 6]), "chip: int64 of shape"),
    (replace("chip", [2.0, 6.0, 5.0]), "chip: float64"),
    (replace("chip", [2, 2**40, 5]), "three numbers in 1"),
    (replace("chip", [2, 0, 5]), "three numbers in 1"),
    (replace("chip", [2, 6, 6]), r"answer: torch.float32 of shape \(4, 6, 5\), float32 \(4, 6, 6\) is due"),
    (replace("g_max_us", float("nan")), "g_max_us: a positive number is due"),
    (replace("g_max_us", -1.0), "g_max_us"),
    (replace("g_max_us", "25"), "."),
    (replace("float32", np.zeros(9)), "float32: float64 of shape"),
    (replace("float32", np.zeros((3, 3), np.float32)), r"float32: float32 of shape \(3, 3\)"),
    (replace("float32", None, shape=(2**50,), dtype="f4", chunks=(2**20,)), "float32"),
    (replace("float32", None, shape=(2**24,), dtype="f4", chunks=(2**20,), compression="gzip"), "float32"),
    (spoil("float32", 20, np.nan), r"float32\[20\]: not finite"),
    (spoil("float64", 3, np.inf), r"float64\[3\]: not finite"),
    (link, "a link"),
    (replace("calls", np.arange(3)), "calls: a list of texts is due"),
    (replace("calls", [["a"]]), "calls"),
    (replace("calls", ["{"]), "call 0: no JSON"),
    (replace("calls", ["[" * 100_000]), "call 0: no JSON"),
    (replace("calls", ["[]"]), "call 0: verb None"),
    (line(lambda c: c.update(verb="erase")), "call 3: verb 'erase'"),
    (line(lambda c: c.update(verb=[])), "call 3"),
    (line(lambda c: c.pop("inputs")), "is not what a mvm has"),
    (line(lambda c: c.update(more=1)), "is not what a mvm has"),
    (line(lambda c: c["given"].pop("x")), "call 3: given: x due"),
    (line(lambda c: c.update(answer=None)), "call 3: a mvm has an answer"),
    (line(lambda c: c.update(answer=["float32", [1], 0]), 0), "call 0: a program has no answer"),
    (line(lambda c: c["answer"].pop()), r"call 3: answer: \[dtype, shape, first entry\] is due"),
    (line(lambda c: c["answer"].__setitem__(0, "int64")), "call 3: answer"),
    (line(lambda c: c["answer"].__setitem__(0, [])), r"call 3: answer: \[dtype, shape, first entry\] is due"),
    (line(lambda c: c["answer"].__setitem__(2, -1)), "call 3: answer: shape .* from -1: no place in float32"),
    (line(lambda c: c["answer"].__setitem__(2, 10**6)), "call 3: answer: entries 1000000 to"),
    (line(lambda c: c["answer"].__setitem__(2, 0.5)), "no place in float32"),
    (line(lambda c: c["answer"].__setitem__(1, [2, 3, 10**18])), "no place in float32"),
    (line(lambda c: c["answer"].__setitem__(1, [2**30, 2**30, 2**30])), "answer: entries"),
    (line(lambda c: c["answer"].__setitem__(1, [0, 2**30, 2**30])), "call 3: answer|no whole"),
    (line(lambda c: c["answer"].__setitem__(1, [1] * 100)), "no place in float32"),
    (line(lambda c: c["answer"].__setitem__(1, [3, 2, 3])), r"answer: torch.float32 of shape \(3, 2, 3\)"),
    (line(lambda c: c.update(columns=[0, 1, 2])), "columns .*: .start, stop. is due"),
    (line(lambda c: c["given"].update(x=["float32", [], 0])), "x: one axis or more is due"),
    (line(lambda c: c["counters"].pop("mvms")), "call 3: counters: "),
    (line(lambda c: c["counters"].update(mvms=-1)), "counters: mvms -1: a count is due"),
    (line(lambda c: c["counters"].update(mvms=True)), "counters: mvms True: a count is due"),
    (line(lambda c: c["counters"].update(mvms=10**30)), "a count is due"),
]


@pytest.mark.parametrize(("edit", "message"), HOSTILE, ids=[str(k) for k in range(len(HOSTILE))])
def test_a_hostile_recording_is_refused(recorded: Path, edit: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(recorded, "r+") as file:
        edit(file)
    with pytest.raises(DataError, match=message) as caught:
        ReplayingChip(recorded)
    assert str(recorded) in str(caught.value)


def test_no_file_and_no_hdf5_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        ReplayingChip(tmp_path / "none.h5")
    with pytest.raises(DataError, match="no file that can be read as one"):
        ReplayingChip(tmp_path)
    (tmp_path / "text.h5").write_text("conductances")
    with pytest.raises(DataError, match="no whole recording file"):
        ReplayingChip(tmp_path / "text.h5")


def test_a_damaged_recording_is_refused_or_still_a_recording(recorded: Path) -> None:
    """Cut at 12 places, then 40 times eight bytes written over: an error of ours, or the chip's own answers' shapes."""
    whole = recorded.read_bytes()
    damaged = [whole[: len(whole) * k // 12] for k in range(12)]
    generator = np.random.default_rng(0)
    for _ in range(40):
        at = int(generator.integers(0, min(len(whole), 6000) - 8))
        damaged.append(whole[:at] + generator.bytes(8) + whole[at + 8 :])
    refused = 0
    for data in damaged:
        recorded.write_bytes(data)
        try:
            read = ReplayingChip(recorded)
        except DataError:
            refused += 1
        else:
            assert len(read) <= 8
    assert refused >= 12


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to know its memory")
def test_absurd_sizes_cost_no_memory(recorded: Path) -> None:
    import resource

    with h5py.File(recorded, "r+") as file:
        replace("int64", None, shape=(2**31,), dtype="i8", chunks=(2**17,), compression="gzip")(file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="int64: declares"):
        ReplayingChip(recorded)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
