"""What does it cost to run a network through an adapter, and which simulator is how fast?

Three questions, about one recurrent layer:

  loops    ``run`` on snnTorch and on Norse against the loop that a user of theirs writes by hand (toolchain_peers), of
           the same neurons, with the same spikes: CPU time, 250 neurons, batch 32, 250 steps, float64. Expected: about
           1; the goal is at most 1.2
  brian2   the first run in Brian2 against later runs of other networks of that form: code is generated (numpy) or
           compiled (cython, into an empty cache) once, since every object has a name. Expected: later runs in cython
           take less than a tenth of the first
  sizes    wall time of every simulator over the number of neurons, batch 1, 200 steps, 100 recurrent weights a neuron
           that are not zero; building and reading out included, compiling not. What would take over a minute, by the
           size before and the number of weights, is left out and said so

Before times, spikes are checked for equality: adapters and loops at the size of the first question, simulators at the
smallest of the third.

    python benchmarks/toolchain_runs.py [--only loops brian2 sizes] [--rounds 5] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from matplotlib.figure import Figure
from toolchain_peers import PEERS
from torch import Tensor

from ovonic.adapters.toolchains import adapter
from ovonic.models.dynamics import Dynamics, Refractory, ResetToValue, SubtractThreshold, decay_from_tau
from ovonic.models.engine import run_fast
from ovonic.models.layers import Input, Linear, Recurrence, Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.figure_style import SERIES, finish, save, styled

GOAL = 1.2
INPUTS, TAU_MS = 100, 20.0
SIZES, SPARSE, LONGEST_S = (100, 250, 500, 1000, 2000, 4000), 100, 60.0
LABELS = {
    "plain": "Ovonic, plain step",
    "engine": "Ovonic, engine",
    "snntorch": "snnTorch",
    "norse": "Norse",
    "brian2 numpy": "Brian2, numpy",
    "brian2 cython": "Brian2, cython",
    "nest": "NEST",
}
QUESTIONS = ("loops", "brian2", "sizes")


# ------------------------------------------------------------------------------------------------- the networks


def dynamics(toolchain: str, neuron: str) -> Dynamics:
    """Of the neurons whose loop is in ``toolchain_peers``."""
    decay = decay_from_tau(TAU_MS, 1.0)
    if neuron == "refractory":
        return Dynamics(decay, 0.615, refractory=Refractory.from_n_ref(5))
    if toolchain == "norse":
        return Dynamics(decay, 0.02, gain=1 - decay, reset=ResetToValue(0.0))
    return Dynamics(decay, 0.615, reset=SubtractThreshold())


def network(rules: Dynamics, neurons: int, seed: int, sparse: int | None = None) -> Network:
    """One recurrent layer behind ``INPUTS`` inputs; ``sparse``: recurrent weights a neuron that are not zero."""
    rng = np.random.default_rng(seed)
    w_rec = rng.normal(0, 1, (neurons, neurons)) / np.sqrt(min(sparse or neurons, neurons)) * 0.3
    if sparse is not None and sparse < neurons:
        w_rec *= rng.random((neurons, neurons)) < sparse / neurons
    layers = {
        "x": Input((INPUTS,)),
        "w_in": Linear(rng.normal(0.0, 0.12, (INPUTS, neurons))),
        "h": Spiking(rules, Recurrence(w_rec)),
    }
    return Network.stack(layers)


def spikes_in(batch: int, steps: int, seed: int, rate: float = 0.03) -> Tensor:
    """Poisson spikes [B, T, INPUTS], float64."""
    return (torch.rand(batch, steps, INPUTS, generator=torch.Generator().manual_seed(seed)) < rate).double()


# ------------------------------------------------------------------------------------------------------- loops


def loop_steps(
    toolchain: str, neuron: str, neurons: int = 250, batch: int = 32, steps: int = 250, seed: int = 0
) -> dict[str, Callable[[], Tensor]]:
    """The adapter (``"ours"``) and the hand-written loop (``"plain"``), each giving its spikes."""
    net, x = network(dynamics(toolchain, neuron), neurons, seed), spikes_in(batch, steps, seed)
    through: Callable[..., Trace] = adapter(toolchain).run
    return {"ours": lambda: through(net, x)["h"].spikes, "plain": lambda: PEERS[toolchain, neuron](net, x)[0]}


def same_spikes(contenders: Mapping[str, Callable[[], Tensor]]) -> int:
    """How many spikes all contenders give; -1 where they differ."""
    given = [step() for step in contenders.values()]
    return int(given[0].sum()) if all(torch.equal(z, given[0]) for z in given) else -1


def measure_loops(rounds: int, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    print(
        f"\nrun through an adapter against a hand-written loop (plain), 250 neurons, batch 32, 250 steps\n{'':22s}",
        end="",
    )
    print("CPU ms: ours, loop; ours of loop: median (min..max)")
    for toolchain, neuron in PEERS:
        contenders = loop_steps(toolchain, neuron, seed=seed)
        count = same_spikes(contenders)
        if count <= 0:
            raise SystemExit(f"{toolchain}, {neuron}: the loop gives other spikes than run, or none")
        times = harness.race(contenders, rounds, lambda: None)
        found = {name: harness.timings(times, name) for name in times} | {"spikes": count}
        result[f"{toolchain}, {neuron}"] = found
        part = found["ours"]["cpu_ratio_to_plain"]
        cpu = "  ".join(f"{1e3 * found[name]['cpu_s']['median']:6.0f}" for name in times)
        verdict = "reached" if part["median"] <= GOAL else "MISSED"
        middle = f"{part['median']:.2f} ({part['min']:.2f}..{part['max']:.2f})"
        print(f"{toolchain + ', ' + neuron:22s}{cpu}   {middle}  {verdict}")
    return result


# ------------------------------------------------------------------------------------------------------ brian2


def brian2_seconds(target: str, runs: int) -> list[float]:
    """Wall seconds of the first runs of a process, each of another network; compiled code goes to an empty cache."""
    import brian2

    from ovonic.adapters.brian2 import run as run_brian2

    with tempfile.TemporaryDirectory() as folder:
        brian2.prefs["codegen.runtime.cython.cache_dir"] = folder
        taken = []
        for seed in range(runs):
            net, x = network(dynamics("brian2", "refractory"), 250, seed), spikes_in(1, 200, seed)
            start = time.perf_counter()
            run_brian2(net, x, target)
            taken.append(time.perf_counter() - start)
    return taken


def measure_brian2(runs: int = 4) -> dict[str, Any]:
    result: dict[str, Any] = {}
    print("\nBrian2, 250 neurons, 200 steps, wall s: the first run of a process, then later ones (of the first)")
    for target in ("numpy", "cython"):
        command = [sys.executable, "-W", "ignore", __file__, "--brian2-runs", target, str(runs)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        first, *later = json.loads(out.splitlines()[-1])
        result[target] = {"first_s": first, "later_s": harness.spread(later)}
        middle = result[target]["later_s"]["median"]
        print(f"{target:22s}{first:7.2f}  {middle:.2f} ({middle / first:.3f})", flush=True)
    return result


# ------------------------------------------------------------------------------------------------------- sizes


def simulators() -> dict[str, Callable[[Network, Tensor], Trace]]:
    """Every simulator, our two among them."""
    brian2 = adapter("brian2").run
    return {
        "plain": run,
        "engine": run_fast,
        "snntorch": adapter("snntorch").run,
        "norse": adapter("norse").run,
        "brian2 numpy": functools.partial(brian2, target="numpy"),
        "brian2 cython": functools.partial(brian2, target="cython"),
        "nest": adapter("nest").run,
    }


def size_setting(neurons: int, seed: int, steps: int = 200) -> tuple[Network, Tensor]:
    """A sparse network, and its inputs."""
    return network(dynamics("nest", "refractory"), neurons, seed, SPARSE), spikes_in(1, steps, seed)


def predicted(times: Mapping[int, float], neurons: int) -> float:
    """Seconds at that size if time goes with the square of the last size measured."""
    if not times:
        return 0.0
    last = max(times)
    return times[last] * (neurons / last) ** 2


def measure_sizes(sizes: Sequence[int], seed: int) -> dict[str, Any]:
    """Wall seconds by simulator and size: the shorter of two runs where the first took less than 5 s."""
    ways = simulators()
    small = size_setting(sizes[0], seed)
    with torch.no_grad():
        count = same_spikes(
            {name: functools.partial(lambda go: go(*small)["h"].spikes, go) for name, go in ways.items()}
        )
    if count <= 0:
        raise SystemExit("the simulators do not give equal spikes, or none")
    found: dict[str, dict[int, float]] = {name: {} for name in ways}
    skipped: dict[str, list[int]] = {name: [] for name in ways}
    rates: dict[int, float] = {}
    print(f"\nwall s over the number of neurons, {count} equal spikes at {sizes[0]}\n{'':16s}", end="")
    print("".join(f"{name:>15s}" for name in ways))
    for neurons in sizes:
        net, x = size_setting(neurons, seed)
        for name, go in ways.items():
            if predicted(found[name], neurons) > LONGEST_S:
                skipped[name].append(neurons)
                continue
            for _ in range(2):
                start = time.perf_counter()
                with torch.no_grad():
                    made = go(net, x)
                taken = time.perf_counter() - start
                found[name][neurons] = min(taken, found[name].get(neurons, taken))
                if taken > 5:
                    break
            rates[neurons] = 1e3 * float(made["h"].spikes.mean())
        cells = (
            f"{found[name][neurons]:15.3f}" if neurons in found[name] else f"{'over a minute':>15s}" for name in ways
        )
        print(f"{neurons:5d} {rates.get(neurons, math.nan):6.1f} Hz {''.join(cells)}", flush=True)
    return {"wall_s": found, "left_out": skipped, "rates_hz": rates, "equal_spikes": count}


@styled
def sizes_figure(measured: Mapping[str, Any], about: str) -> Figure:
    """Wall time over the number of neurons, both axes logarithmic."""
    figure = Figure(figsize=(4.6, 3.6))
    ax = figure.subplots()
    styles = (*SERIES, ("#E69F00", (0, (3, 1, 1, 1)), "X"))
    sizes: set[int] = set()
    for (name, label), (colour, line, marker) in zip(LABELS.items(), styles, strict=True):
        points = {int(n): seconds for n, seconds in measured["wall_s"][name].items()}
        sizes |= set(points)
        ax.plot(list(points), list(points.values()), color=colour, linestyle=line, marker=marker, label=label)
    ax.set(xscale="log", yscale="log", xlabel="neurons", ylabel="wall time of a run (s)")
    ax.set_xticks(sorted(sizes), [f"{n}" for n in sorted(sizes)])
    ax.set_yticks([0.001, 0.01, 0.1, 1, 10], ["0.001", "0.01", "0.1", "1", "10"])
    ax.minorticks_off()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    gone = [
        f"{LABELS[name]} beyond {max(map(int, measured['wall_s'][name]))}"
        for name, n in measured["left_out"].items()
        if n
    ]
    text = (
        "Wall time of one run of 200 steps, batch 1, over the number of neurons of a recurrent layer with 100 weights "
        "a neuron that are not zero, told as a dense matrix; all simulators give the same spikes. Building included, "
        f"compiling not. {f'Left out, since over a minute: {chr(44).join(gone)}. ' if gone else ''}{about}."
    )
    return finish(figure, text, "Log-log lines of wall time over neurons, one for each of seven simulators.")


# ---------------------------------------------------------------------------------------------------- the program


def main() -> int:
    parser = argparse.ArgumentParser(description="What adapters cost, and how fast each simulator is.")
    parser.add_argument(
        "--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="questions (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds after the warm-up (default: 5)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of neurons")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw wall time over sizes")
    parser.add_argument("--brian2-runs", nargs=2, metavar=("TARGET", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.brian2_runs:
        target, runs = options.brian2_runs
        print(json.dumps(brian2_seconds(target, int(runs))))
        return 0
    if options.plot and "sizes" not in options.only:
        parser.error("--plot draws the question sizes: add it to --only")
    before = harness.machine()
    used = harness.versions("ovonic", "torch", "snntorch", "norse", "brian2", "numpy")
    threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    about = f"{threads}, {before['cpu']}, load {before['load_average'][0]:.1f}"
    print(about)
    result: dict[str, Any] = {
        "question": "cost of adapters and speed of simulators",
        "machine": before,
        "versions": used,
    }
    result |= {name: getattr(options, name) for name in ("seed", "threads", "rounds")}
    if "loops" in options.only:
        result["loops"] = measure_loops(options.rounds, options.seed)
    if "brian2" in options.only:
        result["brian2"] = measure_brian2()
    if "sizes" in options.only:
        result["sizes"] = measure_sizes(options.sizes, options.seed)
    if options.plot:
        command = "python benchmarks/toolchain_runs.py --only sizes --plot FILE"
        save(sizes_figure(result["sizes"], about), options.plot, command=command)
    if options.json:
        harness.write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
