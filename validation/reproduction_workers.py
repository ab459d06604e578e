"""Parts of ``ovonic reproduce`` in processes of their own, a few at a time.

A process a part: none sees what another left in a toolchain (NEST has one kernel a process), so that what a part gives
depends neither on the others nor on their order; and a toolchain that crashes costs its own part. Each process computes
on one thread and keeps its part itself before it says that it is done.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ovonic.models.errors import OvonicError
from ovonic.validation.reproduction_part import Part
from ovonic.validation.reproduction_store import Finished, keep

__all__ = ["Job", "compute", "run_jobs"]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """A part to compute: what opens it, and what it is kept under."""

    name: str
    open: Callable[[], Part]
    identity: Mapping[str, Any]
    seconds: float


def compute(job: Job, folder: Path, on_steps: Callable[[int], None]) -> None:
    """Measure a part and keep it in ``folder``, in this process, on one thread of torch where it is loaded already."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    wall, cpu = time.perf_counter(), _cpu_s()
    try:
        if torch:
            torch.set_num_threads(1)
        measured = job.open().measure(folder, on_steps)
    finally:
        if torch:
            torch.set_num_threads(threads)
    timing = {"cpu_s": round(_cpu_s() - cpu, 1), "wall_s": round(time.perf_counter() - wall, 1)}
    keep(folder, job.name, job.identity, Finished(measured, timing))


def run_jobs(
    jobs: list[Job],
    folder: Path,
    workers: int,
    on_steps: Callable[[str, int], None],
    on_end: Callable[[str, str | None], None],
) -> None:
    """Compute parts, the longest first, ``workers`` at a time; with 0 one after the other in this process.

    Args:
        on_steps: told of a part's steps. on_end: told of a part that is kept, or that failed and why.
    Raises: KeyboardInterrupt: Ctrl-C; the processes are gone then. Exception: of a part, where this process ran it.
    """
    waiting = sorted(jobs, key=lambda job: (-job.seconds, job.name))
    if not workers:
        for job in waiting:
            compute(job, folder, lambda n, name=job.name: on_steps(name, n))  # type: ignore[misc]
            on_end(job.name, None)
        return
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[Job, Any]] = {}
    try:
        with _one_thread():
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    here, there = context.Pipe(duplex=False)
                    process = context.Process(target=_worker, args=(job, folder, there), name=job.name)
                    process.start()
                    there.close()
                    running[here] = job, process
                ready = wait(list(running))
                for connection in [one for one in running if one in ready]:
                    job, process = running[connection]
                    try:
                        said: int | str | None = connection.recv()
                    except EOFError:
                        process.join()
                        said = f"its process ended with status {process.exitcode}"
                    if isinstance(said, int):
                        on_steps(job.name, said)
                        continue
                    del running[connection]
                    process.join()
                    on_end(job.name, said)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _worker(job: Job, folder: Path, tell: Connection) -> None:
    """The life of a process: steps are told as numbers, the end as None or what went wrong.

    A parent that is gone breaks the pipe, and this process ends with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # toolchains that chatter
    failed = None
    try:
        compute(job, folder, tell.send)
    except BrokenPipeError:
        sys.exit(1)
    except OvonicError as error:
        failed = str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        failed = f"a defect: {type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
    with contextlib.suppress(BrokenPipeError):
        tell.send(failed)


def _cpu_s() -> float:
    """CPU time of this process and of those it started and saw end."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that are started here compute on one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
