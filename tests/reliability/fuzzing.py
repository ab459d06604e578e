"""Many inputs to one reader, in worker processes that may crash, hang or grow: each is watched, and none is lost.

A worker that dies, stands still or outgrows the limit is replaced. What HDF5's library does to it is not yet a finding:
the file is then read as users read it (``adapters.hdf5`` sends a child ahead), and only if that fails too it is one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovonic.models.errors import OvonicError

from .engines import coverage, run_atheris, run_hypothesis
from .judge import Judge, counts, input_path, new_counts
from .mutate_bytes import MAX_INPUT
from .targets import Target, without_probe

__all__ = ["LIMIT_MB", "fuzz"]

LIMIT_MB = 2048
"""Resident memory of a worker at most, libraries included."""

PATIENCE_S = {False: 20.0, True: 4.0}
"""How long an input may take; for HDF5 until it is given to the reader that has a limit of its own."""

RETRY_S = {False: 20.0, True: 200.0}
"""How long one input may take when it is read again; one of HDF5 has 10 s of processor time, however long they take."""

CHUNK = 5000
"""Inputs of a worker. Under atheris some readers take 140 KB more with every input, without its instruments none; what
it found goes on in the next worker's corpus."""


def fuzz(
    target: Target, runs: int, engine: str, seed: int, told: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Give ``runs`` inputs to a reader.

    Args: engine: of ``engines.ENGINES``; told: gets a line of progress now and then.
    Returns: counts, seconds, the largest worker's memory, findings, JSON values; the inputs of findings in hexadecimal.
    """
    begun, spent = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        folder = Path(name)
        shared = new_counts(folder / "counts")
        judge = Judge(target, folder, shared)
        corpus = target.seeds(folder)
        if max(map(len, corpus)) > MAX_INPUT // 2:
            raise ValueError(f"{target.name}: seeds of {max(map(len, corpus))} bytes: changed, they would be cut")
        deaths: Counter[str] = Counter()
        found: list[dict[str, Any]] = []
        peak_mb = number = 0
        while (done := counts(shared)["inputs"]) < runs:
            part = min(CHUNK, runs - done)
            number += 1
            work = _work(target, corpus, judge, part, engine, 1000 * seed + number, folder)
            end, mb = _watched(work, lambda: counts(shared)["inputs"], PATIENCE_S[target.hdf5])
            peak_mb = max(peak_mb, mb)
            told(f"{target.name}: {counts(shared)} in {time.monotonic() - begun:.0f} s, {peak_mb} MB")
            if end is not None:
                found += _death(target, folder, end, deaths)
            elif counts(shared)["inputs"] == done:
                raise RuntimeError(f"{target.name}: a worker of {engine} ended without an input")
        found += [json.loads(file.read_text()) | _input(file) for file in sorted(judge.findings.glob("*.json"))]
        numbers = counts(shared)
        result = {
            "reader": target.name,
            "engine": engine,
            "seed": seed,
            **numbers,
            "seconds": round(time.monotonic() - begun, 1),
            "cpu_seconds": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - spent, 1),
            "peak_mb": peak_mb,
            "deaths": dict(deaths),
            "edges": coverage(folder),
            "findings": found,
        }
        shared.close()
    return result


def _work(
    target: Target, corpus: tuple[bytes, ...], judge: Judge, runs: int, engine: str, seed: int, folder: Path
) -> Callable[[], None]:
    def work() -> None:
        with without_probe():
            if engine == "atheris":
                run_atheris(target, corpus, judge, runs, seed, folder)
            else:
                run_hypothesis(target, corpus, judge, runs, seed)

    return work


def _watched(work: Callable[[], None], progress: Callable[[], int], patience_s: float) -> tuple[str | None, int]:
    """Run ``work`` in a child process until it ends well (None), or how it ended; and its peak of memory, MB."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    last, moved = progress(), time.monotonic()
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            end = None if code == 0 else f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
            return end, usage.ru_maxrss // 1024
        now = progress()
        if now != last:
            last, moved = now, time.monotonic()
        stands = time.monotonic() - moved > (patience_s if now else patience_s + 60)
        if stands or _resident_mb(child) > LIMIT_MB:
            os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            return f"no end in {patience_s:g} s" if stands else f"over {LIMIT_MB} MB", usage.ru_maxrss // 1024
        time.sleep(0.2)


def _resident_mb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def _death(target: Target, folder: Path, end: str, deaths: Counter[str]) -> list[dict[str, Any]]:
    """Judge the input on which a worker ended: a finding, unless HDF5 did it and the reader itself survives."""
    path = input_path(target, folder)
    data = path.read_bytes() if path.exists() else b""
    if target.hdf5 or end.startswith("no end"):  # a busy machine stops a worker too

        def read() -> None:
            with contextlib.suppress(OvonicError):
                target.read(path)

        again, _ = _watched(read, lambda: 1, RETRY_S[target.hdf5])
        if again is None:
            deaths[f"{end}; refused or read when read again as users do"] += 1
            return []
        end = f"{end}; read as users do: {again}"
    deaths[end] += 1
    return [
        {"what": end, "where": "worker", "says": "", "sha256": hashlib.sha256(data).hexdigest(), "input": data.hex()}
    ]


def _input(file: Path) -> dict[str, str]:
    data = file.with_suffix(".bin").read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "input": data.hex()}
