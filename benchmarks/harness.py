"""What every benchmark here does alike: checks before times, interleaved rounds, memory of a process of its own.

A contender is a callable that leaves its gradients in the parameters of a module. CPU time is that of the process, all
threads: on a busy machine its ratios hold where wall times mean nothing.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "HEADER",
    "Times",
    "differences",
    "gradients",
    "machine",
    "own_peak_mib",
    "peak_mib",
    "race",
    "ratio",
    "row",
    "spread",
    "timings",
    "versions",
    "write_json",
]

Times = dict[str, list[tuple[float, float]]]
"""(CPU, wall) seconds of each contender in each round."""

HEADER = f"{'':20s} {'CPU ms':>8s} {'of plain: median (min..max)':>30s} {'wall ms':>8s} {'peak MiB':>9s}"
"""Heads the lines of ``row``."""


def gradients(step: Callable[[], object], module: nn.Module) -> list[Tensor]:
    """The gradients that a contender leaves."""
    module.zero_grad(set_to_none=True)
    step()
    return [p.grad for p in module.parameters() if p.grad is not None]


def differences(found: Sequence[Tensor], due: Sequence[Tensor]) -> float:
    """How far gradients are from those due, relative to the largest entry of each; the worst of them.

    Infinite where one is zero throughout: nothing is compared there.
    """
    scales = [float(y.abs().max()) for y in due]
    return max(
        float((x - y).abs().max()) / scale if scale else math.inf
        for x, y, scale in zip(found, due, scales, strict=True)
    )


def race(steps: Mapping[str, Callable[[], object]], rounds: int, before: Callable[[], object]) -> Times:
    """Run all contenders in each round, after one that warms up; the order rotates from round to round.

    Args:
        before: called before each run, not timed (frees the gradients of the run before).
    """
    names = list(steps)
    times: Times = {name: [] for name in names}
    for turn in range(-1, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            before()
            wall, cpu = time.perf_counter(), time.process_time()
            steps[name]()
            taken = time.process_time() - cpu, time.perf_counter() - wall
            if turn >= 0:
                times[name].append(taken)
    return times


def peak_mib(script: str, *arguments: str) -> float:
    """Peak resident memory of a process that runs one contender alone, Python and torch included.

    The process is ``script`` with these arguments, and ends by printing ``own_peak_mib()``. Measure before anything
    else: a child begins with the peak that its parent had reached.
    """
    command = [sys.executable, script, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def own_peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(times: Times, name: str, to: str) -> dict[str, float]:
    """CPU time of one contender in terms of another's, round by round."""
    return spread([a[0] / b[0] for a, b in zip(times[name], times[to], strict=True)])


def timings(times: Times, name: str) -> dict[str, dict[str, float]]:
    """CPU and wall seconds of a contender, and its CPU time in terms of ``plain``'s."""
    cpu, wall = ([t[i] for t in times[name]] for i in (0, 1))
    return {"cpu_s": spread(cpu), "wall_s": spread(wall), "cpu_ratio_to_plain": ratio(times, name, "plain")}


def row(name: str, measured: Mapping[str, Any]) -> str:
    """A contender's line under ``HEADER``, from its ``timings`` and its ``peak_mib``."""
    part = measured["cpu_ratio_to_plain"]
    low_high = f"({part['min']:.2f}..{part['max']:.2f})"
    cpu, wall = (1e3 * measured[of]["median"] for of in ("cpu_s", "wall_s"))
    return f"{name:20s} {cpu:8.0f} {part['median']:15.2f} {low_high:14s} {wall:8.0f} {measured['peak_mib']:9.0f}"


def machine() -> dict[str, Any]:
    """What it runs on, and how busy that is."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "load_average": list(os.getloadavg()),
    }


def versions(*packages: str) -> dict[str, str]:
    """Of the packages that are installed, and of Python."""
    return {p: version(p) for p in packages if find_spec(p)} | {"python": platform.python_version()}


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a benchmark's result."""
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
