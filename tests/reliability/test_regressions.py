"""Files that once raised something else than our errors, and the moment at which a kill once left stale metrics."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ovonic.adapters.arrays import read_arrays
from ovonic.adapters.checkpoints import load_checkpoint
from ovonic.adapters.cost_files import read_costs
from ovonic.adapters.crossbar_imports import read_npz
from ovonic.adapters.crossbar_plain import chip_from_plain
from ovonic.adapters.hdf5 import Guard, _probe, read_guarded
from ovonic.adapters.nir_graph import Graph, Node
from ovonic.adapters.nir_reading import _conv, read_by_convention
from ovonic.adapters.nir_shapes import reads
from ovonic.adapters.published import load_published
from ovonic.adapters.weights import from_fields
from ovonic.models.errors import ConfigError, DataError, WeightsError
from ovonic.models.fewshot_cnn import CNNConfig
from ovonic.models.frozen import _checked
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.pcm import device_model
from ovonic.tasks import fewshot_run, robot_run
from ovonic.tasks.omniglot import _checksum, load_omniglot
from ovonic.tasks.restoring import continue_from

from . import seeds

DEEP = "[" * 3000 + "]" * 3000
STATES: dict[str, tuple[Any, Any]] = {
    "fewshot": (seeds.fewshot_state, seeds.fewshot_checkpoint),
    "robot": (seeds.robot_state, seeds.robot_checkpoint),
}


def _checkpoint(folder: Path, name: str, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """A checkpoint whose tensors and description are changed."""
    path = folder / "checkpoint.safetensors"
    path.write_bytes(STATES[name][1](folder)[0])
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["ovonic"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    change(tensors, description["progress"])
    save_file(tensors, path, metadata={"ovonic": json.dumps(description)})
    return path


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, progress: progress.pop("step"), "progress 'step' is missing"),
        (lambda tensors, progress: progress.update(step="x"), "progress 'step': 'x' means nothing"),
        (lambda tensors, progress: progress.update(step=99), "progress 'step': '99' means nothing"),
        (lambda tensors, progress: progress.update(history=[1]), "progress 'history'"),
        (lambda tensors, progress: progress.update(validation={}), "progress 'validation'"),
        (lambda tensors, progress: tensors.update({"adam.x.step": torch.zeros(())}), "'adam.x.step' does not belong"),
        (lambda tensors, progress: tensors.update({"adam.0.exp_avg": torch.zeros(7)}), "not a moment's"),
        (lambda tensors, progress: tensors.pop("adam.0.exp_avg"), "'adam.0.exp_avg' is missing"),
        (lambda tensors, progress: tensors.pop(min(t for t in tensors if t.startswith("net."))), "is missing"),
        (
            lambda tensors, progress: tensors.update(
                {min(t for t in tensors if t.startswith("net.")): torch.zeros(1, 2)}
            ),
            "another is due",
        ),
    ],
)
def test_a_checkpoint_of_another_shape(
    tmp_path: Path, name: str, change: Callable[[dict[str, Any], dict[str, Any]], None], message: str
) -> None:
    path = _checkpoint(tmp_path, name, change)
    state = STATES[name][0]()
    before = {key: tensor.clone() for key, tensor in state.tensors().items()}
    with pytest.raises(WeightsError, match=rf"checkpoint\.safetensors: not the state of this run: .*{message}"):
        continue_from(state, path, load_checkpoint(path, seeds.IDENTITY))
    assert all(torch.equal(before[key], tensor) for key, tensor in state.tensors().items())


@pytest.mark.parametrize("name", STATES)
def test_a_whole_checkpoint_is_restored(tmp_path: Path, name: str) -> None:
    path = _checkpoint(tmp_path, name, lambda tensors, progress: None)
    state = STATES[name][0]()
    continue_from(state, path, load_checkpoint(path, seeds.IDENTITY))
    tensors, progress = load_checkpoint(path, seeds.IDENTITY)
    assert state.progress() == progress
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in state.tensors().items())


def test_nesting_without_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"ovonic": DEEP})
    with pytest.raises(WeightsError, match="not a whole checkpoint"):
        load_checkpoint(path, {})
    (tmp_path / "metrics.json").write_text(DEEP)
    for run in (fewshot_run, robot_run):
        with pytest.raises(DataError, match="no readable metrics"):
            run.read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"programming": {"iterations": ' + "9" * 5000 + "}}"),
        ("c.toml", "[programming]\niterations = " + "9" * 5000),
        ("c.json", '{"programming": {"iterations": 1' + "0" * 400 + "}}"),
        ("c.toml", "[programming]\niterations = 1" + "0" * 400),
    ],
)
def test_costs_that_no_float_holds(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read_costs(tmp_path / name)


def test_numbers_that_no_float_holds() -> None:
    with pytest.raises(WeightsError, match="rate"):
        from_fields("file", {"rate": 10**400}, InnerLoop)
    with pytest.raises(ConfigError, match="beyond what float64 can keep"):
        _checked("field", 10**400, float)
    chip = dict.fromkeys(("seed", "calls", "split", "counters", "periphery", "verify", "faults"))
    with pytest.raises(DataError, match="now_s"):
        chip_from_plain({"now_s": 10**400, **chip})


def _npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize("value", [10**400, 1e300, float("nan"), -1.0], ids=["wide", "large", "nan", "negative"])
@pytest.mark.parametrize("name", ["inner_lr", "norm_eps"])
def test_rates_that_no_float32_holds(name: str, value: float) -> None:
    with pytest.raises(WeightsError, match=name):
        from_fields("w.safetensors", asdict(CNNConfig()) | {name: value}, CNNConfig)


@pytest.mark.parametrize(
    "data",
    [
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551617,), }"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"12345678"),
        _npy("{'descr': \x17"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", b"1234567"),
        b"PK\x03\x04 and no more",
        b"",
    ],
)
def test_arrays_that_only_declare(tmp_path: Path, data: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", data)
    for content in (data, file.getvalue()):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError, match=f"{tmp_path}/x: "):
            read_arrays(tmp_path / "x")


def test_arrays_as_they_are(tmp_path: Path) -> None:
    numbers = np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))
    np.save(tmp_path / "a.npy", numbers)
    np.savez_compressed(tmp_path / "b.npz", x=numbers, y=np.array(2.5))
    one, many = read_arrays(tmp_path / "a.npy"), read_arrays(tmp_path / "b.npz")
    assert isinstance(one, np.ndarray)
    assert isinstance(many, dict)
    np.testing.assert_array_equal(one, numbers)
    np.testing.assert_array_equal(many["x"], numbers)
    assert many["y"] == 2.5
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none")


def test_what_a_file_may_have_allocated_grows_with_it() -> None:
    """A file of 9 KB had HDF5 allocate 3 GB, all that the child had whatever the file."""
    _probe(lambda: bytearray(2**30), 2**22, "large")
    with pytest.raises(DataError, match="damaged"):
        _probe(lambda: bytearray(2**30), 9000, "small")


@pytest.mark.parametrize(
    ("kind", "field", "padding"),
    [("Conv2d", "groups", "valid"), ("Conv1d", "groups", 0), ("Conv1d", "dilation", "same")],
)
def test_more_sizes_than_a_window_has_axes(kind: str, field: str, padding: Any) -> None:
    axes = int(kind[-2])
    fields = {"weight": np.ones((1, 1, *[3] * axes)), "bias": np.zeros(1), "stride": 1, "padding": padding}
    fields |= {"dilation": 1, "groups": 1, field: np.array([1, 1])}
    with pytest.raises(DataError, match=f"{field} holds 2 numbers"):
        _conv("c", Node(kind, fields), (1, *[8] * axes))


def _with_empty(data: bytes, shape: list[int]) -> bytes:
    """A safetensors file and one more tensor, of no bytes."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["x"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("shape", [[0, 2**64 - 1], [0, 2**63 - 1, 256, 65535, 3]])
def test_an_empty_tensor_of_any_size_in_a_checkpoint(tmp_path: Path, name: str, shape: list[int]) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(_with_empty(STATES[name][1](tmp_path)[0], shape))
    with pytest.raises(WeightsError, match="not a whole checkpoint"):
        load_checkpoint(path, seeds.IDENTITY)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("start_dim", np.array(np.inf), "must be whole numbers"),
        ("end_dim", np.array([np.nan]), "must be whole numbers"),
        ("end_dim", np.array([]), "holds 0 numbers"),
    ],
)
def test_axes_that_are_no_numbers(field: str, value: Any, said: str) -> None:
    fields = {"start_dim": np.array(0), "end_dim": np.array(-1), field: value}
    nodes = {"i": Node("Input", {"shape": np.array([2, 2])}), "f": Node("Flatten", fields)}
    nodes |= {"o": Node("Output", {"shape": np.array([4])})}
    with pytest.raises(DataError, match=f"'f': {field}:? .*{said}|'f': {field} {said}"):
        read_by_convention(Graph(nodes, (("i", "f"), ("f", "o"))), "snntorch-1.0", None, None)


def test_groups_that_are_no_number() -> None:
    fields = {"weight": np.ones((1, 1, 2, 2)), "groups": np.array(np.inf)}
    with pytest.raises(DataError, match=r"groups: .*must be whole numbers"):
        reads("c", Node("Conv2d", fields))


@pytest.mark.parametrize("index", [[], [["a", 4]], [[1, 2, 3, 4, 5, 4]], [["a", "b", "c", "d", 3]], "[" * 9000, "x"])
def test_a_cache_with_a_right_checksum_and_a_wrong_index(tmp_path: Path, index: Any) -> None:
    source = tmp_path / "drawings.zip"
    source.write_bytes(seeds.omniglot_zips(tmp_path)[0])
    due = load_omniglot(source, cache_dir=tmp_path / "cache")
    (cached,) = (tmp_path / "cache").iterdir()
    with safe_open(cached, framework="pt") as file:
        images = file.get_tensor("images")
    text = index if isinstance(index, str) else json.dumps(index)
    save_file({"images": images}, cached, {"index": text, "sha256": _checksum(text, images)})
    assert torch.equal(load_omniglot(source, cache_dir=tmp_path / "cache").images, due.images)


def test_a_key_whose_hash_never_ends(tmp_path: Path) -> None:
    """A tuple of twice the same tuple, 64 deep: 256 opcodes to write, 2^64 steps to hash."""
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x04}()\x94" + b"".join(b"h" + bytes([k]) + b"\x86\x94" for k in range(64)) + b"Nu.")
    with pytest.raises(WeightsError, match="a key that is a tuple"):
        load_published(path)


def test_an_npz_whose_directory_points_before_the_file(tmp_path: Path) -> None:
    data = bytearray(seeds.conductances_npz(tmp_path)[1])
    start = data.index(b"PK\x05\x06") + 16
    data[start : start + 4] = (2**31).to_bytes(4, "little")
    path = tmp_path / "g.npz"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"g\.npz: not a whole npz"):
        read_npz(path, seeds.layout(), device_model("pcm"))


def test_metrics_are_the_checkpoints_after_a_kill_between_the_two(tmp_path: Path) -> None:
    from .killing import RUNS

    def life() -> None:
        RUNS["robot-ovonic"](tmp_path, lambda _: None, lambda _: None)

    life()
    due = (tmp_path / "metrics.json").read_bytes()
    stale = json.loads(due)
    stale["history"].pop()
    (tmp_path / "metrics.json").write_text(json.dumps(stale))
    (tmp_path / "weights.safetensors").unlink()
    life()
    assert (tmp_path / "metrics.json").read_bytes() == due


READ_ON_THREADS = """
import sys, torch
from ovonic.adapters.crossbar_file import load_image
torch.set_num_threads(2)
torch.randn(1000, 1000).exp().cumsum(0)
load_image(sys.argv[1])
"""


def test_an_image_is_read_beside_threads_of_openmp(tmp_path: Path) -> None:
    """The process that reads a file first is a fork of this one, without its threads: it must not wait for them."""
    image = tmp_path / "chip.h5"
    image.write_bytes(seeds.images(tmp_path)[0])
    subprocess.run([sys.executable, "-c", READ_ON_THREADS, str(image)], check=True, timeout=200)


def test_a_text_that_declares_gigabytes(tmp_path: Path) -> None:
    """HDF5 allocates what the length of a text says before it looks for the text: 3.9 GB here."""
    path = tmp_path / "text.h5"
    with h5py.File(path, "w") as file:
        file["type"] = "LIF"
    data = path.read_bytes()
    at = data.index(struct.pack("<IQ", 3, data.index(b"GCOL")))
    path.write_bytes(data[:at] + struct.pack("<I", 0xF0000000) + data[at + 4 :])
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    before = max(resource.getrusage(who).ru_maxrss for who in whose)
    with pytest.raises(DataError, match="no whole small file"):
        read_guarded(path, "small", lambda file, size: Guard(size).text(file["type"], "type"))
    assert max(resource.getrusage(who).ru_maxrss for who in whose) < before + 200_000
