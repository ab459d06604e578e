"""How much faster is a meta-step when several processes share its batch, one thread each?

The same global batch by one process, and by N under torchrun: wall seconds a step, and the CPU seconds of the busiest
process, which is what the step would take on cores of its own; one process over N is the speed-up. To expect: close to
N where the samples' work dominates, less what every process does for itself (Adam, the draws of the whole
batch) and the all-reduce of the gradients. On fewer free cores than processes the wall time
gains nothing; the CPU ratio still says what more cores would bring. Rounds alternate between the numbers of processes.

    python benchmarks/data_parallel.py fewshot --processes 2 --json data_parallel.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from harness import machine, spread, versions, write_json

from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision
from ovonic.tasks.data_parallel import Processes, joined, world
from ovonic.tasks.fewshot_training import TrainingConfig, TrainingState, meta_train
from ovonic.tasks.glyphs import glyph_alphabets
from ovonic.tasks.robot_training import RobotTrainingConfig, RobotTrainingState, robot_train

EXPERIMENTS = ("fewshot", "fewshot-4bit", "robot")
WARM_UP = 2


def steps(experiment: str, batch: int, count: int, processes: Processes) -> list[tuple[float, float]]:
    """(wall, CPU) seconds of each of ``count`` steps of this process, without those that warm up."""
    marks: list[tuple[float, float]] = []

    def mark(*_: Any) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    total = WARM_UP + count + 1
    if experiment == "robot":
        robot = RobotTrainingConfig(steps=total, batch=batch, validation_trajectories=2)
        robot_train(RobotTrainingState(robot), on_step=mark, processes=processes)
    else:
        precision = Precision(4, readout_range=0.2) if experiment == "fewshot-4bit" else Precision()
        fewshot = TrainingConfig(steps=total, tasks=batch, precision=precision)
        state = TrainingState(fewshot, FewshotCNN(fewshot.network, torch.Generator().manual_seed(0)))
        meta_train(state, None, glyph_alphabets(1000, 4), None, on_step=mark, processes=processes)
    kept = marks[WARM_UP - 1 : -1]
    return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(kept)]


def worker(experiment: str, batch: int, count: int) -> None:
    """Measure under torchrun; process 0 prints the medians: wall, and the CPU time of the busiest process."""
    torch.set_num_threads(1)
    with joined(world()) as processes:
        wall, cpu = (statistics.median(t) for t in zip(*steps(experiment, batch, count, processes), strict=True))
        busiest = max(processes.gather(round(1e6 * cpu))) / 1e6
    if processes.first:
        print(json.dumps({"wall_s": wall, "cpu_s": busiest}))


def launch(experiment: str, batch: int, count: int, processes: int) -> dict[str, float]:
    """One run by so many processes, and what its ``worker`` printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [__file__, experiment, "--worker", "--batch", str(batch), "--steps", str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="of all processes together")
    parser.add_argument("--steps", type=int, default=8, help="a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.experiment, given.batch, given.steps)
        return
    counts = (1, given.processes)
    rounds = [
        {n: launch(given.experiment, given.batch, given.steps, n) for n in counts[:: 1 if turn % 2 else -1]}
        for turn in range(given.rounds)
    ]
    result: dict[str, Any] = {"experiment": given.experiment, "batch": given.batch, "steps": given.steps, "seed": 0}
    for what in ("wall_s", "cpu_s"):
        result[what] = {str(n): spread([r[n][what] for r in rounds]) for n in counts}
        speed_up = spread([r[1][what] / r[given.processes][what] for r in rounds])
        result[f"speed_up_{what}"] = speed_up
        times = ", ".join(f"{n}: {1e3 * result[what][str(n)]['median']:.0f} ms" for n in counts)
        print(f"{what}  {times}  speed-up {speed_up['median']:.2f} ({speed_up['min']:.2f}..{speed_up['max']:.2f})")
    if given.json:
        write_json(given.json, result | {"machine": machine(), "versions": versions("torch", "numpy")})


if __name__ == "__main__":
    main()
