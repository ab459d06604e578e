"""NIR files from strangers: whatever the bytes, a network or one of our errors, in bounded time and memory."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovonic.adapters import hdf5, nir_files
from ovonic.adapters.nir import load_nir, save_nir
from ovonic.models.dynamics import Dynamics, ResetToValue
from ovonic.models.errors import DataError, OvonicError
from ovonic.models.layers import Conv, Flatten, Input, Linear, Recurrence, Spiking
from ovonic.models.network import Network

N = 4


def _network() -> Network:
    rng = np.random.default_rng(0)
    neurons = Dynamics([0.5, 0.6, 0.7, 0.8], 0.4, reset=ResetToValue(0.0))
    return Network.stack(
        {
            "x": Input((1, 3, 3)),
            "c": Conv(rng.normal(size=(1, 1, 2, 2)), rng.normal(size=1)),
            "f": Flatten(),
            "s": Spiking(neurons, Recurrence(rng.normal(size=(N, N)))),
            "out": Linear(rng.normal(size=(N, 2)), rng.normal(size=2)),
        }
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file without the contract."""
    path = tmp_path_factory.mktemp("nir") / "bare.nir"
    save_nir(path, _network())
    with h5py.File(path, "r+") as file:
        del file["node/metadata"]
    load_nir(path, "nir-exact", dt_ms=1.0)
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with the contract."""
    path = tmp_path_factory.mktemp("nir") / "whole.nir"
    save_nir(path, _network())
    return path.read_bytes()


def _read(path: Path) -> None:
    """Read the file as both kinds; only our errors may come."""
    for told in ((), ("nir-exact", "zero", 1.0), ("snntorch-1.0", "zero", None)):
        with contextlib.suppress(OvonicError):
            load_nir(path, *told)  # type: ignore[arg-type]


Edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.booleans(), edits=Edits, cut=st.none() | st.floats(0, 1))
def test_flipped_and_missing_bytes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bare: bytes,
    whole: bytes,
    which: bool,
    edits: list[tuple[float, int]],
    cut: float | None,
) -> None:
    monkeypatch.setattr(hdf5, "PROBE_S", 2)
    data = bytearray(whole if which else bare)
    for at, value in edits:
        data[int(at * (len(data) - 1))] = value
    path = tmp_path / "mutated.nir"
    path.write_bytes(data[: None if cut is None else int(cut * len(data))])
    _read(path)


VALUES: list[Any] = [
    np.zeros((0, 3)),
    np.full((2, 2), np.nan),
    np.float64(np.inf),
    -np.ones(4),
    np.ones((1, 2, 2, 2, 2)),
    np.arange(3, dtype=np.int64) - 5,
    np.array([1 + 2j]),
    np.array([True, False]),
    "words",
    np.array([b"a", b"b"]),
    np.float32(1e30),
    np.int64(2**62),
]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.booleans(), data=st.data())
def test_swapped_missing_and_foreign_arrays(
    tmp_path: Path, bare: bytes, whole: bytes, which: bool, data: st.DataObject
) -> None:
    path = tmp_path / "swapped.nir"
    path.write_bytes(whole if which else bare)
    with h5py.File(path, "r+") as file:
        arrays: list[str] = []
        file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
        for _ in range(data.draw(st.integers(1, 3))):
            name = data.draw(st.sampled_from(arrays))
            other = data.draw(st.sampled_from(arrays) | st.sampled_from(range(len(VALUES))) | st.none())
            value = None if other is None else VALUES[other] if isinstance(other, int) else file.get(other)
            if isinstance(value, h5py.Dataset):
                value = value[()]
            if name in file and (value is not None or other is None):
                del file[name]
                if value is not None:
                    file.create_dataset(name, data=value)
    _read(path)


def _hostile(path: Path, change: Callable[[h5py.File], None]) -> None:
    save_nir(path, _network())
    with h5py.File(path, "r+") as file:
        change(file)


def _put(name: str, **array: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **array)

    return change


def _link(name: str, link: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return change


def _inside_itself(file: h5py.File) -> None:
    file["node/nodes/s/metadata"] = file["node/nodes"]


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", shape=(4,))
    del file["node/nodes/s/tau"]
    file.create_virtual_dataset("node/nodes/s/tau", layout)


def _external(file: h5py.File) -> None:
    del file["node/nodes/s/tau"]
    file.create_dataset("node/nodes/s/tau", shape=(4,), dtype="f8", external=[("/etc/hostname", 0, 32)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _link("node/nodes/s/tau", h5py.SoftLink("/node/nodes/s/r")),
            r"node 's', 'tau': a link, which may lead anywhere",
        ),
        (
            _link("node/nodes/s", h5py.ExternalLink("other.h5", "/x")),
            r"the graph, 's': a link, which may lead anywhere",
        ),
        (_link("node", h5py.SoftLink("/version")), r"'node': a link"),
        (_virtual, r"node 's': tau: an array whose numbers lie in another file"),
        (_external, r"node 's': tau: an array whose numbers lie in another file"),
        (
            _put("node/nodes/s/tau", shape=(2**20, 2**16), dtype="f8", chunks=(1024, 64)),
            r"tau: declares 549755813888 byt",
        ),
        (_put("node/nodes/s/tau", shape=(2**40,), dtype="f8", chunks=(2**20,)), r"tau: declares .* the file holds 0"),
        (_put("node/nodes/s/tau", data=h5py.Empty("f8")), r"node 's': tau: holds float64"),
        (_put("node/nodes/s/tau", data=np.ones(4, "c16")), r"node 's': tau: holds complex128"),
        (_put("node/nodes/s/tau", data=np.array([b"x"] * 4)), r"node 's': tau: holds object, not numbers"),
        (_put("node/nodes/s/type", data=3), r"node 's': type: no text"),
        (_put("node/nodes/s/type", data="Izhikevich"), r"type 'Izhikevich' is unknown to nir 1.0.8: "),
        (_put("node/edges", data=np.ones((3, 2))), r"the graph: edges: float64 of shape \(3, 2\), not pairs of names"),
        (_put("node/edges", data=[["x"] * 3]), r"the graph: edges: .* not pairs of names"),
        (lambda f: f["node/nodes/s"].create_dataset("u", data=1.0), r"node 's': a LIF has no 'u'"),
        (lambda f: f["node"].create_dataset("u", data=1.0), r"the graph: a NIRGraph has no 'u'"),
        (lambda f: f["node/nodes/s"].pop("tau"), r"node 's': tau missing"),
        (lambda f: f["node/nodes/s"].pop("type"), r"node 's': type missing"),
        (lambda f: f["node"].pop("edges"), r"the graph: edges missing"),
        (lambda f: f.pop("node"), r"HDF5, but no NIR file: it has no group 'node'"),
        (lambda f: f["node/nodes"].create_dataset("q", data=1.0), r"node 'q': an array where a node is due"),
        (_inside_itself, r"node 's': metadata, 's': a group inside itself"),
    ],
)
def test_files_that_pretend(tmp_path: Path, change: Callable[[h5py.File], None], message: str) -> None:
    path = tmp_path / "hostile.nir"
    _hostile(path, change)
    with pytest.raises(DataError, match=f"hostile.nir: .*(?:{message})"):
        load_nir(path)


def test_constants_of_different_shapes_on_a_cycle(tmp_path: Path, bare: bytes) -> None:
    path = tmp_path / "uneven.nir"
    path.write_bytes(bare)
    with h5py.File(path, "r+") as file:
        _put("node/nodes/s/r", data=np.ones(3))(file)
    with pytest.raises(DataError, match=r"uneven.nir: node 's': a LIF of numbers of different shapes: .*r \(3,\)"):
        load_nir(path, "nir-exact", "zero", 1.0)


def test_depth_and_number_are_bounded(tmp_path: Path) -> None:
    def deep(file: h5py.File) -> None:
        group = file["node/nodes/s"].create_group("metadata")
        for _ in range(60):
            group = group.create_group("m")

    _hostile(tmp_path / "deep.nir", deep)
    with pytest.raises(DataError, match=r"deep.nir: node 's': metadata, .*: deeper than 32"):
        load_nir(tmp_path / "deep.nir")

    def wide(file: h5py.File) -> None:
        group = file["node/nodes/s"].create_group("metadata")
        for k in range(32_001):
            group[f"m{k}"] = file["node/nodes/s/tau"]

    _hostile(tmp_path / "wide.nir", wide)
    with pytest.raises(DataError, match=r"wide.nir: node 's': metadata: more than"):
        load_nir(tmp_path / "wide.nir")


def test_a_chunk_that_inflates_beyond_its_size_is_refused(tmp_path: Path) -> None:
    def bomb(file: h5py.File) -> None:
        del file["node/nodes/s/tau"]
        array = file.create_dataset("node/nodes/s/tau", shape=(4,), dtype="f8", chunks=(4,), compression="gzip")
        array.id.write_direct_chunk((0,), zlib.compress(bytes(10**7)))

    _hostile(tmp_path / "bomb.nir", bomb)
    with pytest.raises(DataError, match=r"bomb.nir: node 's': tau: a chunk that inflates to more than its 32 bytes"):
        load_nir(tmp_path / "bomb.nir")


def test_text_that_repeats_itself_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every edge as long as the file: read in blocks, and stopped when the budget is spent."""
    monkeypatch.setattr(hdf5, "MAX_BYTES", 10**6)
    monkeypatch.setattr(hdf5, "INFLATES", 1)
    _hostile(tmp_path / "long.nir", _put("node/edges", data=[["x" * 1000, "y" * 1000]] * 600))
    with pytest.raises(DataError, match=r"long.nir: .*(more data than a file of|bytes, more than the)"):
        load_nir(tmp_path / "long.nir")


def test_what_hdf5_never_ends_on_is_met_by_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that loops, and one that crashes: this process goes on, with an error that names the file."""
    path = tmp_path / "loop.nir"
    save_nir(path, _network())
    here = os.getpid()

    def loop(self: Any, file: Any) -> Any:
        while os.getpid() != here:
            pass

    def crash(self: Any, file: Any) -> Any:
        if os.getpid() != here:
            os.abort()

    monkeypatch.setattr(hdf5, "PROBE_S", 1)
    for reader, signal in ((loop, r"\d+"), (crash, "6")):
        monkeypatch.setattr(nir_files._Reader, "file", reader)
        with pytest.raises(DataError, match=rf"loop.nir: no whole NIR file: HDF5 crashes .* \(signal {signal}\)"):
            load_nir(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nir")
    for path in (tmp_path / "pipe.nir", tmp_path):
        with pytest.raises(DataError, match="no file that can be read as one"):
            load_nir(path)
    huge = tmp_path / "huge.nir"
    with huge.open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(DataError, match=r"huge.nir: 1073741825 bytes, more than the 1073741824 that are read"):
        load_nir(huge)
