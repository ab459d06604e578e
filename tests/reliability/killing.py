"""Work that is killed (SIGKILL) at random moments: nothing is torn, and nothing but the last steps is lost.

    training   a run in a folder goes on from its checkpoint after every kill; at the end it is, bit for bit, the run
               that was never killed
    writing    every kind of file is written over and over, with two contents; after each kill every file that is there
               under its name is whole: the one content or the other

Processes are forked from this one, which has imported everything, so that a life takes milliseconds and not seconds.
Kills are uniform over the time that the whole work takes, begin included.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from ovonic.models.fewshot_cnn import CNNConfig
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig
from ovonic.tasks import fewshot_run, robot_run
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot_run import DataConfig
from ovonic.tasks.fewshot_training import TrainingConfig
from ovonic.tasks.robot_training import RobotTrainingConfig

from .writers import WRITERS

__all__ = ["RUNS", "kill_training", "kill_writing"]

PROVENANCE = {"command": "kills", "versions": {}}
FEWSHOT = TrainingConfig(
    network=CNNConfig(n_way=2, channels=4, updates=1),
    episode=EpisodeSpec(2, 1, 1),
    steps=16,
    tasks=1,
    validate_every=8,
    validation_tasks=2,
)
ROBOT = RobotTrainingConfig(
    NaturalEPropConfig(trainee=8, lsg_lif=6, lsg_alif=3, dt_ms=10.0),
    InnerLoop(1e-2, 1 / 16, "stochastic"),
    steps=16,
    batch=2,
    warmup=2,
    log_every=5,
    validate_every=8,
    validation_trajectories=2,
)
SAVE_EVERY = 3
NOTHING = struct.pack("<qq", -1, -1)
"""The steps at which a life began and that it reached, before it has begun."""

Run = Callable[[Path, Callable[[Any], None], Callable[[int], None]], None]


def _fewshot(out: Path, begun: Callable[[Any], None], done: Callable[[int], None]) -> None:
    fewshot_run.training_run(
        FEWSHOT,
        DataConfig(glyph_alphabets=1),
        out,
        provenance=PROVENANCE,
        resume=True,
        on_start=begun,
        on_step=lambda state, *_: done(state.step),
        save_every=SAVE_EVERY,
    )


def _robot(backend: str) -> Run:
    def run(out: Path, begun: Callable[[Any], None], done: Callable[[int], None]) -> None:
        robot_run.training_run(
            replace(ROBOT, backend=backend),
            out,
            provenance=PROVENANCE,
            resume=True,
            on_start=begun,
            on_step=lambda state, _: done(state.step),
            save_every=SAVE_EVERY,
        )

    return run


RUNS: dict[str, Run] = {"fewshot": _fewshot} | {
    f"robot-{backend}": _robot(backend) for backend in ("ovonic", "snntorch", "norse")
}


@functools.cache
def _prepared(name: str) -> None:
    """Make the glyphs and compile the kernels here, once, so that no life has to."""
    fewshot_run.training_data = functools.cache(fewshot_run.training_data)
    fewshot_run._readout_scale = lambda *_: 1.0  # two hundred more tasks after the last step, which no kill can touch
    with tempfile.TemporaryDirectory() as folder:
        _life(RUNS[name], Path(folder), mmap.mmap(-1, 16))


def kill_training(name: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill a run ``kills`` times; whenever it ends before that, it begins anew.

    Returns: what happened, JSON values; ``wrong`` names every breach, empty if all was well.
    """
    run, rng, wrong = RUNS[name], Random(seed), []
    done = lost = whole_runs = leftovers = 0
    _prepared(name)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shared = mmap.mmap(-1, 16)
        begun = time.monotonic()
        _alive(lambda: _life(run, root / "whole", shared), None)
        takes_s = time.monotonic() - begun
        out, number = root / "killed0", 0
        while done < kills:
            before = _saved_step(out)
            shared[:] = NOTHING  # here: a life may be killed before its first line
            killed = _alive(lambda out=out: _life(run, out, shared), rng.uniform(0, takes_s))
            started, reached = struct.unpack("<qq", shared[:])
            done += killed
            if started not in (-1, before):
                wrong.append(f"kill {done}: began at step {started}, the checkpoint was of step {before}")
            after = _saved_step(out)
            if after < before:
                wrong.append(f"kill {done}: checkpoint of step {before} before, {after} after")
            if killed and reached > after:
                lost = max(lost, reached - after)
            leftovers = max(leftovers, len(list(out.glob(".*.part"))))
            wrong += [f"kill {done}: {error}" for error in _torn(out)]
            if not killed:
                wrong += _differences(root / "whole", out)
                whole_runs, number = whole_runs + 1, number + 1
                out = root / f"killed{number}"
        _alive(lambda: _life(run, out, shared), None)
        wrong += _differences(root / "whole", out)
        leftovers_at_end = len(list(out.glob(".*.part")))
        shared.close()
    return {
        "run": name,
        "seed": seed,
        "kills": done,
        "runs_that_ended": whole_runs + 1,
        "save_every": SAVE_EVERY,
        "most_steps_lost": lost,
        "most_leftovers": leftovers,
        "leftovers_at_end": leftovers_at_end,
        "whole_run_s": round(takes_s, 2),
        "wrong": wrong,
    }


def kill_writing(kills: int, seed: int) -> dict[str, Any]:
    """Kill a process that writes every kind of file without end, ``kills`` times.

    Returns: as ``kill_training``.
    """
    rng, wrong = Random(seed), []
    present = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        begun = time.monotonic()
        due = {name: [_contents(write, root / f"due{k}", k) for k in range(2)] for name, write in WRITERS.items()}
        takes_s = time.monotonic() - begun
        out = root / "out"
        for number in range(kills):
            _alive(lambda: _write_on(out), rng.uniform(0, takes_s))
            for name, contents in due.items():
                for file in sorted(set(contents[0]) | set(contents[1])):
                    path = out / name / file
                    present += path.exists()
                    if path.exists() and path.read_bytes() not in (contents[0][file], contents[1][file]):
                        wrong.append(f"kill {number + 1}: {name}, {file}: {path.stat().st_size} bytes, torn")
        leftovers = len(list(out.rglob(".*.part")))
    files = sum(len(contents[0]) for contents in due.values())
    return {
        "run": "writing",
        "seed": seed,
        "kills": kills,
        "writers": sorted(WRITERS),
        "files": files,
        "files_looked_at": present,
        "most_leftovers": leftovers,
        "wrong": wrong,
    }


def _alive(work: Callable[[], None], seconds: float | None) -> bool:
    """Let ``work`` run in a child process; whether it was killed after ``seconds``."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    ends = None if seconds is None else time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG if ends else 0)
        if pid:
            if status:
                raise RuntimeError(f"the work failed by itself ({status})")
            return False
        if ends and time.monotonic() >= ends:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.0005)


def _life(run: Run, out: Path, shared: mmap.mmap) -> None:
    torch.set_num_threads(1)

    def begun(state: Any) -> None:
        shared[:8] = struct.pack("<q", state.step)

    def done(step: int) -> None:
        shared[8:] = struct.pack("<q", step)

    run(out, begun, done)


def _saved_step(out: Path) -> int:
    """The step of a checkpoint, 0 without one; reading fails where it is torn."""
    from safetensors import safe_open

    path = out / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="np") as file:
        return int(json.loads(file.metadata()["ovonic"])["progress"]["step"])


def _torn(out: Path) -> list[str]:
    """What is not whole of the files that are there."""
    from ovonic.adapters.weights import load_weights

    found = []
    readers: dict[str, Callable[[Path], Any]] = {
        "metrics.json": lambda path: fewshot_run.read_metrics(path.parent),
        "weights.safetensors": load_weights,
    }
    for name, read in readers.items():
        if (out / name).exists():
            try:
                read(out / name)
            except Exception as error:
                found.append(f"{name}: {error}")
    return found


def _differences(whole: Path, killed: Path) -> list[str]:
    return [
        f"{name} of the killed run differs from the uninterrupted one"
        for name in ("weights.safetensors", "metrics.json", "checkpoint.safetensors")
        if (whole / name).read_bytes() != (killed / name).read_bytes()
    ]


def _contents(write: Callable[[Path, int], None], folder: Path, version: int) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    write(folder, version)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _write_on(out: Path) -> None:
    version = 0
    while True:
        for name, write in WRITERS.items():
            (out / name).mkdir(parents=True, exist_ok=True)
            write(out / name, version)
        version = 1 - version
