"""How much does one meta-training step of natural e-prop cost, and against whom?

One step at the paper's size: an LSG of 560 LIF and 240 adaptive neurons, a trainee of 250, 249 time steps, a batch of
movements; trial, update (not rounded), trial, outer loss, gradients of all six weights; float32. Contenders, all with
the same mathematics, checked for equal gradients (float64, small networks) before anything is timed:

  ours     models.natural_eprop on models.engine, as ``ovonic robot train`` runs it
  plain    the loop an expert writes in an hour (robot_peers): unbind, addmm, baddbmm. Every ratio is against this one;
           it must itself stay within 3.4 times of its bare products
  eager    our own readable step, models.simulation
  floor    every dense matrix product of the step, forward and backward, and nothing between them (robot_peers)
  floor, LSG   the same of the LSG's recurrence alone: forward, dz, and one product for dW

What sparse engines save depends on how much the networks spike, so there are two settings:

  trained  rates of trained networks (LSG 10 Hz, trainee 20 Hz): initial weights with every recurrent weight lowered, so
           that neurons inhibit each other; or ``--weights``, a robot's weights of the paper's size
  initial  the weights that training begins with (LSG 60 Hz, trainee 43 Hz)

Expected, one thread, CPU time at trained rates: ours 0.2 to 0.25 of plain at batch 90 and 0.1 to 0.2 at batch 8. Goals:
at most a third of plain, at most 1.5 of the floor, and less than 2 GB, all at batch 90. The published implementation
(TensorFlow 2.5) takes 17.5 s and 3.6 GB at batch 8 (25 CPU seconds, 2 threads).

    python benchmarks/robot_meta_step.py [--batch 8 90] [--rounds 5] [--threads 1] [--weights FILE] [--json FILE]
    python benchmarks/robot_meta_step.py --plot docs/robot_cost.png
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness
import torch
from matplotlib.figure import Figure
from robot_peers import RATE, Task, bare_products, plain

from ovonic.models.engine import run_fast
from ovonic.models.lif import pseudo_derivative
from ovonic.models.natural_eprop import Engine, InnerLoop, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Pair, initial_pair
from ovonic.models.outer_loss import outer_loss
from ovonic.models.simulation import run
from ovonic.tasks.robot import kinematics, movement_family, resolve_robot
from ovonic.tasks.trajectories import CoordinateCode, sample_trajectories
from ovonic.validation.figure_style import SERIES, finish, save, styled

PAPER = NaturalEPropConfig()
SMALL = replace(PAPER, trainee=12, lsg_lif=10, lsg_alif=6)
TOLERANCE = 1e-9  # gradients in float64, relative to the largest entry
INHIBITION = {"lsg": 85.0, "trainee": 0.8}  # recurrent weights are lowered by this / neurons at trained rates
FASTER, OF_FLOOR, GB, HONEST = 3.0, 1.5, 2.0, 3.4  # goals at batch 90; the peer's own

Setting = tuple[NaturalEProp, Task, NaturalEPropConfig]


# ------------------------------------------------------------------------------------------ the contenders


def with_engine(engine: Engine, model: NaturalEProp, task: Task, config: NaturalEPropConfig) -> None:
    model.engine = engine
    lesson = model(task.clock, task.lsg_input, InnerLoop(rate=RATE, step=None))
    outer_loss(lesson, task.omega, task.path, task.kinematics).total.backward()


CONTENDERS: dict[str, Callable[[NaturalEProp, Task, NaturalEPropConfig], None]] = {
    "ours": functools.partial(with_engine, run_fast),
    "plain": plain,
    "eager": functools.partial(with_engine, run),
}
FLOORS = ("floor", "floor, LSG")


def steps_of(names: Sequence[str], setting: Setting) -> dict[str, Callable[[], None]]:
    """The contenders and floors of these names, ready to run."""
    _, task, config = setting
    shape = len(task.omega), task.omega.shape[1]
    return {
        name: functools.partial(CONTENDERS[name], *setting)
        if name in CONTENDERS
        else bare_products(config, *shape, lsg_only=name == "floor, LSG")
        for name in names
    }


# --------------------------------------------------------------------------------------------- the settings


def inhibited(pair: Pair) -> Pair:
    """The pair with lowered recurrent weights, which spikes about as trained networks do."""

    def lowered(which: str) -> Any:
        network = getattr(pair, which)
        recurrence = network.weights()[f"{which}.recurrence"]
        return network.with_weights({f"{which}.recurrence": recurrence - INHIBITION[which] / len(recurrence)})

    return Pair(lowered("lsg"), lowered("trainee"))


def setting(
    batch: int,
    rates: str,
    seed: int = 0,
    config: NaturalEPropConfig = PAPER,
    weights: str | None = None,
    steps: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Setting:
    """Networks, and movements for them; of another number of steps they are cut, or repeated."""
    code = CoordinateCode()
    if weights and rates == "trained":
        robot = resolve_robot(weights)
        pair, config, code = robot.pair, robot.config, robot.code
    else:
        pair = initial_pair(config, seed)
        pair = inhibited(pair) if rates == "trained" else pair
    movements = sample_trajectories(movement_family(config, code), seed, range(batch), dtype)
    when = torch.arange(steps or movements.spec.steps) % movements.spec.steps
    tensors = movements.clock, movements.lsg_input, movements.omega, movements.path
    task = Task(*(x[:, when].contiguous() for x in tensors), kinematics=kinematics(movements.spec))
    return NaturalEProp(pair, dtype=dtype), task, config


def activity(setting: Setting) -> dict[str, float]:
    """Rates, and the share of neurons and steps at which the slope of a spike is not zero."""
    model, task, _ = setting
    model.engine = run_fast
    with torch.no_grad():
        lesson = model(task.clock, task.lsg_input, InnerLoop(rate=RATE, step=None))
    found: dict[str, float] = {}
    for name, simulator, traces in (("lsg", model.lsg, (lesson.lsg,)), ("trainee", model.trainee, lesson.trials)):
        layers = [trace[name] for trace in traces if trace is not None]
        dynamics: Any = simulator.network.layers[name]
        found[f"{name}_hz"] = 1e3 * float(torch.stack([layer.spikes for layer in layers]).mean())
        slopes = torch.stack([pseudo_derivative(layer, dynamics.dynamics) for layer in layers])
        found[f"{name}_slope_share"] = float((slopes != 0).float().mean())
    return found


def checks(seed: int = 0) -> dict[str, float]:
    """How far each contender's six gradients are from the readable step's: float64, small networks that spike."""
    small = setting(3, "initial", seed, SMALL, dtype=torch.float64)
    found = {name: harness.gradients(step, small[0]) for name, step in steps_of(list(CONTENDERS), small).items()}
    return {name: harness.differences(found[name], found["eager"]) for name in found}


# --------------------------------------------------------------------------------------------- the measurement


def peak_of(name: str, batch: int, options: argparse.Namespace) -> float:
    """Peak memory of a process that runs a contender twice, MiB."""
    like = ("--batch", str(batch), "--seed", str(options.seed), "--threads", str(options.threads))
    return harness.peak_mib(__file__, "--peak-of", name, *like)


def verdicts(measured: dict[str, Any]) -> list[str]:
    """What became of the goals, from the contenders at batch 90 and trained rates."""
    ours, honest = measured["ours"], measured["plain"]["cpu_ratio_to_floor"]["median"]
    speed, memory = 1 / ours["cpu_ratio_to_plain"]["median"], ours["peak_mib"] * 2**20 / 1e9
    floor, lsg = (ours[f"cpu_ratio_to_{of}"]["median"] for of in ("floor", "lsg_floor"))
    lines = [
        (speed >= FASTER, f"at least {FASTER:g} times faster than plain: {speed:.2f} times"),
        (floor <= OF_FLOOR, f"at most {OF_FLOOR:g} of the floor: {floor:.2f} (of the LSG's alone {lsg:.2f})"),
        (memory < GB, f"less than {GB:g} GB: {memory:.2f} GB"),
        (honest <= HONEST, f"plain within {HONEST:g} of its bare products: {honest:.2f}"),
    ]
    return [f"{'reached' if reached else 'MISSED':8s} {line}" for reached, line in lines]


def measure(batch: int, rates: str, options: argparse.Namespace, peaks: dict[str, float]) -> dict[str, Any]:
    """One table, printed and returned."""
    here = setting(batch, rates, options.seed, weights=options.weights)
    names = [*CONTENDERS, *FLOORS]
    active = activity(here)
    print(f"\nbatch {batch}, {rates} rates: LSG {active['lsg_hz']:.1f} Hz, trainee {active['trainee_hz']:.1f} Hz")
    times = harness.race(steps_of(names, here), options.rounds, here[0].zero_grad)
    print(f"{harness.HEADER} {'of floor':>9s}")
    contenders: dict[str, Any] = {}
    for name in names:
        measured = contenders[name] = {
            **harness.timings(times, name),
            "cpu_ratio_to_floor": harness.ratio(times, name, "floor"),
            "cpu_ratio_to_lsg_floor": harness.ratio(times, name, "floor, LSG"),
            "peak_mib": peaks[name],
        }
        print(f"{harness.row(name, measured)} {measured['cpu_ratio_to_floor']['median']:9.2f}")
    if batch == 90 and rates == "trained":
        print("goals at batch 90:", *verdicts(contenders), sep="\n  ")
    return {"batch": batch, "rates": rates, "activity": active, "contenders": contenders}


# ------------------------------------------------------------------------------------------------- the figure

LSG_SIZES, DURATIONS, BATCHES = (100, 200, 400, 800, 2000), (100, 249, 500, 1000), (4, 8, 16, 32, 64, 128)
Costs = dict[str, dict[int, dict[str, dict[str, float]]]]
"""CPU seconds by axis, place on it, and contender: median, min, max."""


def scaling(seed: int, rounds: int) -> Costs:
    """Costs over the LSG's neurons, the time steps and the batch; where they do not vary they are 800, 249 and 16."""

    def point(neurons: int = 800, steps: int = 249, batch: int = 16) -> dict[str, dict[str, float]]:
        lif = round(0.7 * neurons)
        config = replace(PAPER, lsg_lif=lif, lsg_alif=neurons - lif)
        here = setting(batch, "trained", seed, config, steps=steps)
        times = harness.race(steps_of(["ours", "plain", "floor"], here), rounds, here[0].zero_grad)
        costs = {name: harness.timings(times, name)["cpu_s"] for name in times}
        shown = "  ".join(f"{name} {cost['median']:.3f}" for name, cost in costs.items())
        print(f"neurons {neurons:4d}  steps {steps:4d}  batch {batch:3d}  CPU s:  {shown}", flush=True)
        return costs

    return {
        "LSG neurons": {n: point(neurons=n) for n in LSG_SIZES},
        "time steps": {n: point(steps=n) for n in DURATIONS},
        "batch": {n: point(batch=n) for n in BATCHES},
    }


@styled
def cost_figure(costs: Costs, about: str) -> Figure:
    """CPU time of a step over size, duration and batch, both axes logarithmic."""
    figure = Figure(figsize=(6.6, 3.0))
    axes = figure.subplots(1, len(costs), sharey=True)
    labels = {"plain": "plain torch loop", "floor": "its dense products alone", "ours": "Ovonic"}
    styles = dict(zip(("ours", "plain", "floor"), SERIES, strict=False))
    for ax, (axis, points) in zip(axes, costs.items(), strict=True):
        for name, label in labels.items():
            colour, line, marker = styles[name]
            middle, low, high = ([cost[name][part] for cost in points.values()] for part in ("median", "min", "max"))
            ax.plot(list(points), middle, color=colour, linestyle=line, marker=marker, label=label)
            ax.fill_between(list(points), low, high, color=colour, alpha=0.2, linewidth=0)
        ax.set(xscale="log", yscale="log", xlabel=axis)
        ax.set_xticks(list(points), [f"{n}" for n in points])
        ax.set_yticks([0.03, 0.1, 0.3, 1, 3, 10], ["0.03", "0.1", "0.3", "1", "3", "10"])
        ax.minorticks_off()
    axes[0].set_ylabel("CPU time of a step (s)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(labels))
    text = (
        "CPU time of one meta-training step of natural e-prop, forward and backward, over the LSG's neurons, the time "
        "steps and the batch; where they do not vary they are 800, 249 and 16. Trainee of 250 neurons; rates of "
        f"trained networks (LSG about 10 Hz). Lines: medians; bands: ranges. {about}."
    )
    return finish(figure, text, "Three log-log panels: Ovonic below a plain torch loop and below its dense products.")


# ---------------------------------------------------------------------------------------------------- the program


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time and memory of one meta-training step of natural e-prop.")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 90], help="movements a step (default: 8 90)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds after the warm-up (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", metavar="FILE", help="a robot's weights, for the trained rates")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the cost over size, duration and batch instead")
    parser.add_argument("--peak-of", choices=[*CONTENDERS, *FLOORS, "nothing"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        here = setting(options.batch[0], "trained", options.seed)
        for _ in range(0 if options.peak_of == "nothing" else 2):
            here[0].zero_grad()
            steps_of([options.peak_of], here)[options.peak_of]()
        print(harness.own_peak_mib())
        return 0
    idle = peak_of("nothing", options.batch[0], options)
    peaks = {
        batch: {name: peak_of(name, batch, options) for name in (*CONTENDERS, *FLOORS)}
        for batch in options.batch
        if not options.plot
    }
    found = checks(options.seed)
    print("six gradients in float64, largest relative difference from the readable step:")
    print("  " + ", ".join(f"{name} {difference:.1e}" for name, difference in found.items()))
    if not max(found.values()) <= TOLERANCE:
        print(f"not the same mathematics: a difference above {TOLERANCE:g}", file=sys.stderr)
        return 1
    before = harness.machine()
    threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    about = f"{threads}, {before['cpu']}, load {before['load_average'][0]:.1f}, torch {version('torch')}"
    result: dict[str, Any] = {
        "question": "CPU time and memory of one meta-training step of natural e-prop, LSG 800, trainee 250, T 249",
        "machine": before,
        "versions": harness.versions("ovonic", "torch", "numpy", "numba"),
        **{name: getattr(options, name) for name in ("seed", "threads", "rounds", "weights")},
        "gradient_difference_float64": found,
        "peak_mib_before_any_step": idle,
    }
    print(f"\n{options.rounds} rounds, {about}; a process before any step: {idle:.0f} MiB")
    if options.plot:
        result["costs_s"] = scaling(options.seed, options.rounds)
        command = "python benchmarks/robot_meta_step.py --plot FILE"
        save(cost_figure(result["costs_s"], about), options.plot, command=command)
    else:
        places = [(batch, rates) for batch in options.batch for rates in ("trained", "initial")]
        result["settings"] = [measure(*place, options, peaks[place[0]]) for place in places]
    if options.json:
        harness.write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
