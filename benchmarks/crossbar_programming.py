"""How long does it take to program 256 x 256 cells of four devices? Ours against aihwkit's dual pair.

    python benchmarks/crossbar_programming.py --rounds 20 --json programming.json

All of them take 65,536 weights of one scale, fill the first pair of devices and then the second (aihwkit:
``DualPairConductanceConverter([1, 1])``, PCMLikeNoiseModel), and draw programming errors and drift exponents of all
262,144 devices:

    plain            the noise model object alone: ``apply_programming_noise``; no read
    plain + read     the same, then ``apply_drift_noise`` at 0 s: the first read, which ours always has
    aihwkit tile     ``AnalogLinear`` on ``TorchInferenceRPUConfig``: ``program_analog_weights``, without drift
                     compensation; no read
    tile + read      the same, then ``drift_analog_weights(0.)``
    ours             ``splitting.conductances`` and ``crossbar.program``: devices with state, and their first read
    ours, reset      the same with ``zero_targets="reset"``, the default: devices at 0 stay at 0
    ours, chip       ``SimulatedChip.program`` of all cells of a blank array: checked, masked, counted
    ours, 5 %        ``crossbar.reprogram`` of 5 % of the cells

Expected: "ours" below 1 of "plain" though it also reads, and below .7 of "plain + read". CPU time of one thread.
Checked first: the standard deviation of the programming error of a weight, on the same weights, within 2 % of aihwkit's
(65,536 weights; both have a standard error of about .4 %).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from aihwkit.inference import PCMLikeNoiseModel
from aihwkit.inference.converter.conductance import DualPairConductanceConverter
from aihwkit.nn import AnalogLinear
from aihwkit.simulator.configs import TorchInferenceRPUConfig
from torch import Tensor

from ovonic.models.chip import SimulatedChip
from ovonic.models.crossbar import program, reprogram, weights
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.splitting import conductances

SIZE = 256
TO = "plain"


def normal_weights(seed: int) -> Tensor:
    """N(0, .3), clipped to -1..1, whose largest is 1 (aihwkit rescales by it)."""
    w = (0.3 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed))).clamp(-1.0, 1.0)
    return w / w.abs().max()


def contenders(w: Tensor, seed: int) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], Tensor]]]:
    """What is timed; and what gives the programmed weights, to be compared before."""
    noise = PCMLikeNoiseModel(g_converter=DualPairConductanceConverter([1.0, 1.0], g_max=25.0))
    config = TorchInferenceRPUConfig(noise_model=noise, drift_compensation=None)
    config.mapping.max_input_size = config.mapping.max_output_size = SIZE
    layer = AnalogLinear(SIZE, SIZE, bias=False, rpu_config=config).eval()
    layer.set_weights(w)
    noisy, reset = device_model("pcm", zero_targets="noisy"), device_model("pcm")
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (at.flatten() for at in torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij"))
    base = program(reset, conductances(w, 25.0, "fill"), generator=generator)
    changed = torch.rand(SIZE, SIZE, generator=generator) < 0.05
    other = conductances(torch.where(changed, -w, w), 25.0, "fill")

    def object_and_read() -> None:
        programmed, nu = noise.apply_programming_noise(w)
        noise.apply_drift_noise(programmed, nu, 0.0)

    def tile_and_read() -> None:
        layer.program_analog_weights()
        layer.drift_analog_weights(0.0)

    def chip() -> None:
        simulated = SimulatedChip(1, reset, Periphery(), seed=seed, rows=SIZE, columns=SIZE)
        simulated.program(0, rows, columns, conductances(w, 25.0, "fill").reshape(4, -1))

    steps: dict[str, Callable[[], object]] = {
        TO: lambda: noise.apply_programming_noise(w),
        "plain + read": object_and_read,
        "aihwkit tile": layer.program_analog_weights,
        "tile + read": tile_and_read,
        "ours": lambda: program(noisy, conductances(w, 25.0, "fill"), generator=generator),
        "ours, reset": lambda: program(reset, conductances(w, 25.0, "fill"), generator=generator),
        "ours, chip": chip,
        "ours, 5 %": lambda: reprogram(base, reset, other, now_s=1.0, generator=generator),
    }

    def tile_weights() -> Tensor:
        layer.program_analog_weights()
        return layer.get_weights()[0].T

    def our_weights() -> Tensor:
        state = program(noisy, conductances(w.T, 25.0, "fill"), generator=generator)
        return weights(state._replace(g_read=state.g_prog), 25.0)

    programmed = {TO: lambda: noise.apply_programming_noise(w.T)[0], "tile": tile_weights, "ours": our_weights}
    return steps, programmed


def errors(w: Tensor, programmed: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Standard deviation of the programming error of a weight, in units of the largest weight."""
    return {name: float((make() - w.T).std()) for name, make in programmed.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Programming 256 x 256 cells of four devices, against aihwkit.")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds after the warm-up (default: 10)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    before = harness.machine()
    w = normal_weights(options.seed)
    with torch.no_grad():
        steps, programmed = contenders(w, options.seed)
        found = errors(w, programmed)
        if any(abs(error / found[TO] - 1) > 0.02 for error in found.values()):
            raise SystemExit(f"the programming errors differ: {found}")
        times = harness.race(steps, options.rounds, lambda: None)
    load = before["load_average"][0]
    print(f"{options.threads} thread(s), {before['cpu']}, load {load:.1f}; error of a weight {found['ours']:.4f}")
    print(f"{'':16s} {'CPU ms':>8s} {'of the object alone':>26s} {'of object and read':>24s}")
    measured: dict[str, Any] = {}
    for name in steps:
        measured[name] = harness.timings(times, name) | {
            "cpu_ratio_to_plain_and_read": harness.ratio(times, name, "plain + read")
        }
        alone, both = (measured[name][key] for key in ("cpu_ratio_to_plain", "cpu_ratio_to_plain_and_read"))
        cells = [f"{part['median']:.2f} ({part['min']:.2f}..{part['max']:.2f})" for part in (alone, both)]
        print(f"{name:16s} {1e3 * measured[name]['cpu_s']['median']:8.1f} {cells[0]:>26s} {cells[1]:>24s}")
    if options.json:
        result = {
            "question": "programming 256 x 256 cells of four devices",
            "machine": before,
            "versions": harness.versions("ovonic", "torch", "aihwkit"),
            "seed": options.seed,
            "threads": options.threads,
            "rounds": options.rounds,
            "error_of_a_weight": found,
            "contenders": measured,
        }
        harness.write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
