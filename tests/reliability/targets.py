"""Every reader of users' files, as a function of a path that returns or raises; only an ``OvonicError`` may come.

The three that read HDF5 try a file in a child process first (``adapters.hdf5``). Here that process is the harness's
own: what kills it or does not end is given to the reader as users call it, which must then refuse it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from ovonic.models.errors import OvonicError

from . import seeds
from .mutate_bytes import Mutate, damaged
from .mutate_hdf5 import mutated_hdf5
from .mutate_json import mutated_json, mutated_sealed, mutated_toml
from .mutate_pickle import mutated_pickle
from .mutate_safetensors import mutated_safetensors
from .mutate_table import mutated_table
from .mutate_torch import mutated_torch
from .mutate_zip import mutated_npy, mutated_npz, mutated_pictures

__all__ = ["TARGETS", "Target", "without_probe"]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: reads the file at a path.
        seeds: valid files, given a folder to write in.
        mutate: what knows their format. suffix: of the file. hdf5: it reads HDF5.
    """

    name: str
    read: Callable[[Path], Any]
    seeds: Callable[[Path], tuple[bytes, ...]]
    mutate: Mutate
    suffix: str = ""
    hdf5: bool = False

    def made(self, rng: Random, corpus: tuple[bytes, ...]) -> bytes:
        """An input: a seed, changed; seldom, the halves of two, or bytes of no format."""
        data, kind = rng.choice(corpus), rng.randint(0, 39)
        if kind == 0:
            return rng.randbytes(rng.randint(0, 64))
        if kind == 1:
            other = rng.choice(corpus)
            return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]
        return damaged(rng, data) if kind <= 5 else self.mutate(rng, data)


@contextlib.contextmanager
def without_probe() -> Any:
    """HDF5 is read in this process at once."""
    from ovonic.adapters import hdf5

    probe = hdf5._probe
    hdf5._probe = lambda *_: None
    try:
        yield
    finally:
        hdf5._probe = probe


def _each(*readers: Callable[[Path], Any]) -> Callable[[Path], None]:
    """All of them, whatever the others say; refused where all refuse."""

    def read(path: Path) -> None:
        refusals: list[OvonicError] = []
        for reader in readers:
            try:
                reader(path)
            except OvonicError as error:
                refusals.append(error)
        if len(refusals) == len(readers):
            raise refusals[0]

    return read


def _weights(path: Path) -> None:
    from ovonic.adapters.weights import describe, resolve_fewshot

    describe(path)
    resolve_fewshot(path)


def _robot(path: Path) -> None:
    from ovonic.tasks.robot import resolve_robot

    resolve_robot(path)


def _published(path: Path) -> None:
    from ovonic.adapters.published import fewshot_from_published, load_published
    from ovonic.adapters.published_robot import robot_from_published

    load_published(path)
    _each(fewshot_from_published, robot_from_published)(path)


def _fewshot_checkpoint(path: Path) -> None:
    from ovonic.adapters.checkpoints import load_checkpoint

    seeds.fewshot_state().restore(*load_checkpoint(path, seeds.IDENTITY))


def _robot_checkpoint(path: Path) -> None:
    from ovonic.adapters.checkpoints import load_checkpoint

    seeds.robot_state().restore(*load_checkpoint(path, seeds.IDENTITY))


def _metrics(path: Path) -> None:
    from ovonic.tasks import fewshot_run, robot_run

    _each(fewshot_run.read_metrics, robot_run.read_metrics)(path.parent)


def _nir(path: Path) -> None:
    """One of five readings, by the file's bytes."""
    from ovonic.adapters.nir import load_nir, load_pair

    which = sum(path.read_bytes()[-64:]) % 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if which == 0:
            load_pair(path)
        elif which <= 3:
            load_nir(path)
        elif which <= 5:
            load_nir(path, "nir-exact", "zero", 1.0)
        elif which == 6:
            load_nir(path, "snntorch-1.0", "zero")
        else:
            load_nir(path, "norse-1.1", None, 1.0)


def _image(path: Path) -> None:
    from ovonic.adapters.crossbar_file import load_image
    from ovonic.adapters.crossbar_image import chip_of

    chip_of(load_image(path))


def _recording(path: Path) -> None:
    from ovonic.adapters.recorded_chip import ReplayingChip

    ReplayingChip(path)


def _npz(path: Path) -> None:
    from ovonic.adapters.crossbar_imports import read_npz
    from ovonic.models.pcm import device_model

    _each(read_npz, lambda p: read_npz(p, _layout(), device_model("pcm")))(path)


def _cells(path: Path) -> None:
    from ovonic.adapters.crossbar_imports import read_cells
    from ovonic.models.pcm import device_model

    read_cells(path, _layout(), device_model("pcm"))


@cache
def _layout() -> Any:
    return seeds.layout()


def _layout_file(path: Path) -> None:
    from ovonic.adapters.crossbar import Layout

    Layout.load(path)


def _omniglot(path: Path) -> None:
    from ovonic.tasks.omniglot import load_omniglot

    cache_dir = path.with_name("cache")
    try:
        load_omniglot(path, cache_dir=cache_dir)
    finally:
        if cache_dir.exists():
            shutil.rmtree(cache_dir)


def _omniglot_cache(path: Path) -> None:
    from ovonic.tasks.omniglot import load_omniglot

    source = path.with_name("drawings.zip")
    if not source.exists():
        source.write_bytes(_drawings())
    folder = path.with_name("cache")
    folder.mkdir(exist_ok=True)
    cached = folder / _cached_name()
    path.replace(cached)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        load_omniglot(source, cache_dir=folder)
    finally:
        logging.disable(before)


@cache
def _drawings() -> bytes:
    return seeds.omniglot_zips(Path())[0]


@cache
def _cached_name() -> str:
    import hashlib

    from ovonic.tasks.omniglot import CACHE_VERSION

    return f"omniglot-v{CACHE_VERSION}-{hashlib.sha256(_drawings()).hexdigest()}.safetensors"


def _omniglot_caches(folder: Path) -> tuple[bytes, ...]:
    from ovonic.tasks.omniglot import load_omniglot

    source, cache_dir = folder / "drawings.zip", folder / "made"
    source.write_bytes(_drawings())
    load_omniglot(source, cache_dir=cache_dir)
    return ((cache_dir / _cached_name()).read_bytes(),)


def _pictures(path: Path) -> None:
    from ovonic.tasks.pictures import load_images, load_labelled_folder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _each(load_labelled_folder, load_images)(path)


def _trajectory(path: Path) -> None:
    from ovonic.tasks.recordings import read_recording, recording_batch

    def read(dt_ms: float | None) -> None:
        recording_batch(read_recording(path, dt_ms=dt_ms), seeds.SPEC)

    _each(lambda _: read(None), lambda _: read(1e3 * seeds.SPEC.arm_dt_s))(path)


def _measurements(path: Path) -> None:
    from ovonic.adapters.measurements import read_measurements

    read_measurements(path)


def _costs(path: Path) -> None:
    from ovonic.adapters.cost_files import read_costs

    read_costs(path)


def _device_model(path: Path) -> None:
    from ovonic.adapters.fitted_models import device_model_from

    device_model_from(path)


def _inputs(path: Path) -> None:
    from ovonic.commands.compare import read_inputs

    read_inputs(path, _input_network())


def _samples(path: Path) -> None:
    from ovonic.adapters.samples import read_samples

    read_samples(path)


def _state_dict(path: Path) -> None:
    """Read, as a chain of layers, and into a module."""
    from ovonic.adapters.state_dicts import linear_chain, load_into, read_state_dict

    state = read_state_dict(path)
    _each(lambda _: linear_chain(state, "relu", "x"), lambda _: load_into(seeds.chain(), state, "x"))(path)


def _results(path: Path) -> None:
    from ovonic.validation.paper import paper_rows
    from ovonic.validation.paper_files import gather
    from ovonic.validation.paper_page import paper_page

    result = gather([path])
    paper_page(paper_rows(result), result["sources"], "x").encode()


def _part(path: Path) -> None:
    from ovonic.validation.reproduction_store import kept

    folder = path.with_name("parts")
    folder.mkdir(exist_ok=True)
    path.replace(folder / "part.json")
    kept(path.parent, "part", {"seed": 0})


def _sweep_record(path: Path) -> None:
    from ovonic.validation.sweep import Point, read_record, table, to_csv

    record = read_record(path)
    if record is not None:
        to_csv(*table({"chips": ("2",)}, [(Point({"chips": "2"}, ()), record)])).encode()


def _condition(path: Path) -> None:
    """Every file that is taken up is judged, tabled and printed."""
    from ovonic.validation import parity
    from ovonic.validation.hardware_conditions import Condition, Size
    from ovonic.validation.hardware_margins import verdicts
    from ovonic.validation.hardware_store import kept

    condition = Condition("robot", "robot-q16")
    report = kept(path, seeds.CONDITION, with_errors=True)
    assert report is not None
    found = {condition: report}
    verdicts(condition, Size(2, 3), report)
    parity.parity_verdicts(condition, Size(2, 3), report)
    parity.table(found)
    f"{report['devices_reprogrammed']:.0f} {report['hardware']['chips']['worst']:.5g} {report['ratio']['low'] or 0:.3f}"


@cache
def _input_network() -> Any:
    return seeds._small_network()


def _npy_or_npz(rng: Random, data: bytes) -> bytes:
    return (mutated_npz if data[:2] == b"PK" else mutated_npy)(rng, data)


def _picture_or_zip(rng: Random, data: bytes) -> bytes:
    from .mutate_png import mutated_png

    return (mutated_pictures if data[:2] == b"PK" else mutated_png)(rng, data)


TARGETS = {
    target.name: target
    for target in (
        Target("weights-fewshot", _weights, seeds.fewshot_weights, mutated_safetensors),
        Target("weights-robot", _robot, seeds.robot_weights, mutated_safetensors),
        Target("published-pickle", _published, seeds.published_pickle, mutated_pickle),
        Target("published-npz", _published, seeds.published_npz, mutated_npz),
        Target("checkpoint-fewshot", _fewshot_checkpoint, seeds.fewshot_checkpoint, mutated_safetensors),
        Target("checkpoint-robot", _robot_checkpoint, seeds.robot_checkpoint, mutated_safetensors),
        Target("metrics", _metrics, seeds.metrics, mutated_json, "metrics.json"),
        Target("nir", _nir, seeds.nir_graphs, mutated_hdf5, ".nir", hdf5=True),
        Target("crossbar-image", _image, seeds.images, mutated_hdf5, ".h5", hdf5=True),
        Target("chip-recording", _recording, seeds.recordings, mutated_hdf5, ".h5", hdf5=True),
        Target("conductances-npz", _npz, seeds.conductances_npz, mutated_npz, ".npz"),
        Target("cells-csv", _cells, seeds.cells, mutated_table, ".csv"),
        Target("layout", _layout_file, seeds.layouts, mutated_json, ".json"),
        Target("omniglot-zip", _omniglot, seeds.omniglot_zips, mutated_pictures, ".zip"),
        Target("omniglot-cache", _omniglot_cache, _omniglot_caches, mutated_safetensors),
        Target("pictures", _pictures, seeds.picture_zips, _picture_or_zip, ".zip"),
        Target("trajectory-csv", _trajectory, seeds.trajectories, mutated_table, ".csv"),
        Target("measurements-csv", _measurements, seeds.measurements, mutated_table, ".csv"),
        Target("costs-toml", _costs, seeds.costs_toml, mutated_toml, ".toml"),
        Target("costs-json", _costs, seeds.costs_json, mutated_json, ".json"),
        Target("device-model", _device_model, seeds.device_models, mutated_json, ".json"),
        Target("inputs", _inputs, seeds.inputs, _npy_or_npz),
        Target("results-json", _results, seeds.results, mutated_json, ".json"),
        Target("reproduction-part", _part, seeds.parts, mutated_sealed, ".json"),
        Target("sweep-record", _sweep_record, seeds.sweep_records, mutated_sealed, ".json"),
        Target("hardware-condition", _condition, seeds.hardware_conditions, mutated_sealed, ".json"),
        Target("samples-npz", _samples, seeds.samples_npz, _npy_or_npz, ".npz"),
        Target("samples-csv", _samples, seeds.samples_csv, mutated_table, ".csv"),
        Target("torch-file", _state_dict, seeds.torch_files, mutated_torch, ".pt"),
        Target("torch-safetensors", _state_dict, seeds.tensors, mutated_safetensors, ".safetensors"),
    )
}
