"""The points of a sweep, run by joblib: each in a process of its own, its record kept as soon as it is there.

A worker, on this machine (loky) or on a Dask cluster, starts ``python -m ovonic .. --json FILE --quiet``, so that a
crash or a leak is one point's; it sends the record back, and this process writes it: the machines of a cluster need no
folder in common.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import joblib

from ovonic.adapters.sealed_json import write_sealed
from ovonic.models.errors import ConfigError, ToolchainError
from ovonic.validation.sweep import SCHEMA, Point, read_record

__all__ = ["BACKENDS", "Record", "run_points"]

BACKENDS = ("loky", "dask")
ADDRESS = re.compile(r"([a-z]+://)?([\w.-]+|\[[0-9a-fA-F:.%]+\]):[0-9]{1,5}(/.*)?|inproc://.+")
"""Of a Dask scheduler: a protocol that distributed knows by name or none, host and port."""
STOPPED = (130, -2)
"""Exit status of a point that Ctrl-C ended: it is not recorded."""

Record = dict[str, Any]
"""``identity``, ``status`` (exit status), ``error`` (one line, or None), ``result`` (the command's JSON, or None)."""


def run_points(
    points: Sequence[Point],
    folder: Path,
    versions: Mapping[str, str],
    *,
    added: Sequence[str] = (),
    jobs: int = 1,
    backend: str = "loky",
    scheduler: str | None = None,
    on_start: Callable[[int], None] | None = None,
    on_record: Callable[[Point, Record], None] | None = None,
) -> list[Record]:
    """Run what ``folder`` does not hold yet, or holds of other files or versions, or as failed.

    Args:
        versions: of what runs here; a worker with others refuses its point.
        added: options for every point that are no part of it, such as --quiet.
        jobs: points at a time; on Dask the cluster decides.
        scheduler: address of the Dask scheduler.
        on_start: told how many points are kept; on_record: told of each new record.
    Returns: a record a point, in order.
    Raises: ConfigError: an unknown backend, an address without Dask, or one that is none. ToolchainError: no Dask, or
        no scheduler.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"--backend {backend}: choose one of {', '.join(BACKENDS)}")
    if (backend == "dask") != (scheduler is not None):
        raise ConfigError("--backend dask and --scheduler ADDRESS go together")
    if scheduler is not None and not ADDRESS.fullmatch(scheduler):
        raise ConfigError(f"--scheduler {scheduler}: no address; give host and port, such as tcp://host:8786")
    identities = [point.identity(versions) for point in points]
    files = [folder / f"{point.name}.json" for point in points]
    kept = [_kept(file, identity) for file, identity in zip(files, identities, strict=True)]
    missing = [number for number, record in enumerate(kept) if record is None]
    if on_start:
        on_start(len(points) - len(missing))
    tasks = [joblib.delayed(_run)(number, points[number].arguments, added, dict(versions)) for number in missing]
    if tasks:
        with _workers(backend, jobs, scheduler) as parallel, contextlib.closing(parallel(tasks)) as done:
            for number, found in done:
                record: Record = {"schema": SCHEMA, "identity": identities[number], **found}
                if record["status"] in STOPPED:
                    raise KeyboardInterrupt
                write_sealed(files[number], record)
                kept[number] = record
                if on_record:
                    on_record(points[number], record)
    return [record for record in kept if record is not None]


def _kept(file: Path, identity: Mapping[str, Any]) -> Record | None:
    record = read_record(file)
    return record if record is not None and record["identity"] == identity and record["status"] == 0 else None


@contextlib.contextmanager
def _workers(backend: str, jobs: int, scheduler: str | None) -> Iterator[joblib.Parallel]:
    options = {"return_as": "generator_unordered", "batch_size": 1}
    if backend == "loky":
        with joblib.parallel_config("loky"):
            yield joblib.Parallel(n_jobs=jobs, pre_dispatch="all", **options)
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ToolchainError(f"--backend dask: {error}; pip install 'ovonic[dask]'") from error
    try:
        client = Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ToolchainError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from error
    with client, joblib.parallel_config("dask", client=client):
        yield joblib.Parallel(n_jobs=-1, pre_dispatch="all", **options)


def _run(number: int, arguments: Sequence[str], added: Sequence[str], due: Mapping[str, str]) -> tuple[int, Record]:
    """Run a point here. Returns: its number, and ``status``, ``error``, ``result``."""
    here = {name: _version(name) for name in due}
    if here != dict(due):
        other = ", ".join(f"{name} {here[name]} where {due[name]}" for name in due if here[name] != due[name])
        return number, {"status": 2, "error": f"this worker has {other} is asked for", "result": None}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", "ovonic", *arguments, "--json", str(file), *added]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
    result = _parsed(text)
    error = None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        error = said[-1].removeprefix("error: ") if said else f"ended with exit status {done.returncode}"
        if done.returncode < 0 and done.returncode not in STOPPED:
            error = f"killed by signal {-done.returncode}"
    elif result is None:
        return number, {"status": 1, "error": "wrote no result", "result": None}
    return number, {"status": done.returncode, "error": error, "result": result}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: None)
    except ValueError:
        return None


def _version(name: str) -> str:
    try:
        return platform.python_version() if name == "python" else version(name)
    except PackageNotFoundError:
        return "absent"
