"""What does a product on a simulated array cost, with the noise of each product and 8-bit converters?

The array of the paper's trainee, 255 x 252, read at each of 250 steps, as a recurrent layer reads it. Two batches:

  32   spikes (5 % of the rows) and analog inputs, against ``nn.Linear`` without bias in the same rounds. The goals: at
       most 1.5 and 2.5 times. A plain torch tile, x W + sqrt(x^2 S) randn between round and clamp, stands beside them
  1    against aihwkit's TorchInference tile and aihwkit-lightning, with the same converters and noise at the output,
       but without the noise of the devices, which these two do not have in a product: they do less. The goal: at most
       half of the faster of the two

``ours`` draws the key of its noise once a run (``NoiseStream``), ``ours, generator`` once a product. Before times,
means are checked: without noise every contender is within two steps of its converters of the exact product.
aihwkit-lightning pins an older torch; without its Triton kernels, which need a GPU, it runs on newer ones too:
``uv pip install --no-deps --target DIR aihwkit-lightning``, ``PYTHONPATH=DIR``. What is not installed is left out.

    python benchmarks/crossbar_products.py [--rounds 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor, nn

from ovonic.models.array_products import ArrayReader, NoiseStream
from ovonic.models.periphery import Periphery
from ovonic.models.splitting import conductances, fill

ROWS, COLUMNS, STEPS = 255, 252, 250
G_MAX_US = 25.0
GOALS = {"spikes": 1.5, "analog": 2.5}
GOAL_SINGLE = 0.5
PEERS = ("aihwkit", "aihwkit-lightning")
STEP = 1.0 / (2**8 - 2)

Product = Callable[[Tensor], Tensor]


class Devices:
    """Without noise in a product beyond ``Periphery.w_noise``, as aihwkit's PCM-like model."""

    g_max_us = G_MAX_US

    def product_sigma(self, g: Tensor) -> None:
        return None


def reader(w: Tensor, periphery: Periphery) -> ArrayReader:
    """The array whose weights are ``w``, [rows, columns], in -1..1."""
    return ArrayReader.of(conductances(w, G_MAX_US, fill), Devices(), periphery)


def plain_tile(w: Tensor, p: Periphery) -> Product:
    """What one writes in torch in ten minutes."""
    load = w.abs() * p.w_noise**2

    def product(x: Tensor) -> Tensor:
        u = (x * 127).round().clamp(-127, 127) / 127
        y = u @ w
        y = y + (u.square() @ load + p.out_noise**2).sqrt() * torch.randn_like(y)
        return (y * (127 / p.adc_range)).round().clamp(-127, 127) * (p.adc_range / 127)

    return product


def aihwkit_tile(w: Tensor, p: Periphery) -> Product:
    """aihwkit's TorchInference tile with these converters and this noise at the output."""
    from aihwkit.nn import AnalogLinear
    from aihwkit.simulator.configs import TorchInferenceRPUConfig
    from aihwkit.simulator.parameters.enums import BoundManagementType, NoiseManagementType

    config = TorchInferenceRPUConfig()
    f = config.forward
    f.inp_bound, f.inp_res, f.out_bound, f.out_res, f.out_noise = 1.0, STEP, p.adc_range, STEP, p.out_noise
    f.noise_management, f.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
    config.mapping.weight_scaling_omega = 0.0
    config.drift_compensation = None
    layer = AnalogLinear(ROWS, COLUMNS, bias=False, rpu_config=config)
    layer.set_weights(w.T.contiguous())
    return layer.eval()


def lightning_tile(w: Tensor, p: Periphery) -> Product:
    """aihwkit-lightning's layer; it knows its ADC's range in terms of the largest weight and of the input range."""
    from aihwkit_lightning.nn import AnalogLinear
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig()
    config.forward.inp_res = config.forward.out_res = STEP
    config.forward.out_bound, config.forward.out_noise = p.adc_range, p.out_noise
    config.pre_post.input_range.enable = True
    config.pre_post.input_range.init_value = 1.0
    config.pre_post.input_range.learn_input_range = False
    config.pre_post.input_range.init_from_data = 0
    layer = AnalogLinear(ROWS, COLUMNS, bias=False, rpu_config=config)
    with torch.no_grad():
        layer.weight.copy_(w.T)
    return layer.eval()


def peers(w: Tensor, p: Periphery) -> dict[str, Product]:
    """Those that are installed."""
    found: dict[str, Product] = {}
    for name, make in zip(PEERS, (aihwkit_tile, lightning_tile), strict=True):
        try:
            found[name] = make(w, p)
        except ImportError as error:
            print(f"{name}: left out ({error})")
    return found


def check(name: str, product: Product, x: Tensor, w: Tensor, p: Periphery) -> None:
    """Without noise, each output is within two steps of ADC and one of every DAC of x w, where nothing clips."""
    due = x @ w
    bound = 2 * p.adc_range / 127 + 0.5 / 127 * w.abs().sum(0)
    if not ((product(x) - due).abs() < bound)[due.abs() < 0.9 * p.adc_range].all():
        raise SystemExit(f"{name}: another product")


def runs(products: dict[str, Product], inputs: dict[str, list[Tensor]]) -> dict[str, Callable[[], object]]:
    """One run of all steps for each contender, named "contender: inputs"."""

    def run(product: Product, xs: list[Tensor]) -> Callable[[], object]:
        def steps() -> None:
            for x in xs:
                product(x)

        return steps

    return {f"{name}: {kind}": run(products[name], xs) for kind, xs in inputs.items() for name in products}


def contenders(w: Tensor, p: Periphery) -> dict[str, Product]:
    """All but the peers; ``ours`` takes spikes as spikes."""
    array = reader(w, p)
    stream, generator = NoiseStream(torch.Generator().manual_seed(1)), torch.Generator().manual_seed(1)
    linear = nn.Linear(ROWS, COLUMNS, bias=False)
    with torch.no_grad():
        linear.weight.copy_(w.T)
    return {
        "nn.Linear": linear,
        "ours": lambda x: array.product(x, stream),
        "ours, generator": lambda x: array.product(x, generator),
        "plain tile": plain_tile(w, p),
    }


def inputs_of(batch: int, seed: int) -> dict[str, list[Tensor]]:
    """Spikes, 5 % of the rows, and analog values within the DAC's range, of every step."""
    generator = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(STEPS, batch, ROWS, generator=generator) < 0.05).float()
    analog = (torch.randn(STEPS, batch, ROWS, generator=generator) * 0.3).clamp(-1, 1)
    return {"spikes": list(spikes.unbind()), "analog": list(analog.unbind())}


def measure(batch: int, rounds: int, seed: int) -> dict[str, Any]:
    """CPU time of each contender and its ratio to those that the goals name, printed."""
    generator = torch.Generator().manual_seed(seed)
    w = (torch.randn(ROWS, COLUMNS, generator=generator) * 0.15).clamp(-1, 1)
    quiet = Periphery(out_noise=0.0, w_noise=0.0)
    inputs = inputs_of(batch, seed)
    for name, product in (contenders(w, quiet) | peers(w, quiet)).items():
        for xs in inputs.values():
            check(name, product, xs[0], w, quiet)
    products = contenders(w, Periphery()) | peers(w, Periphery())
    steps = runs(products, inputs)
    array, stream = reader(w, Periphery()), NoiseStream(torch.Generator().manual_seed(1))
    steps |= runs({"ours": lambda z: array.binary(z, stream)}, {"spikes": inputs["spikes"]})
    times = harness.race(steps, rounds, lambda: None)
    result: dict[str, Any] = {}
    for kind in inputs:
        print(f"\nbatch {batch}, {kind}: CPU us a product, ratio to nn.Linear: median (min..max)")
        own: dict[str, Any] = {}
        for name in products:
            key = f"{name}: {kind}"
            cpu = harness.spread([t[0] / STEPS for t in times[key]])
            own[name] = {"cpu_s": cpu, "ratio_to_linear": harness.ratio(times, key, f"nn.Linear: {kind}")}
            line = own[name]["ratio_to_linear"]
            print(f"{name:20s} {1e6 * cpu['median']:8.1f} {line['median']:8.2f} ({line['min']:.2f}..{line['max']:.2f})")
        present = [name for name in PEERS if name in products]
        if present:
            fastest = min(present, key=lambda name: own[name]["cpu_s"]["median"])
            part = harness.ratio(times, f"ours: {kind}", f"{fastest}: {kind}")
            own["ours_to_fastest_peer"] = part | {"peer": fastest}
            print(f"ours of {fastest}: {part['median']:.2f} ({part['min']:.2f}..{part['max']:.2f})")
        result[kind] = own
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    before = harness.machine()
    used = harness.versions("ovonic", "torch", "numba", "numpy", "aihwkit", "aihwkit_lightning")
    print(f"1 thread, {before['cpu']}, load {before['load_average'][0]:.1f}, {used}")
    with torch.inference_mode():
        measured = {str(batch): measure(batch, options.rounds, options.seed) for batch in (32, 1)}
    print()
    for kind, goal in GOALS.items():
        ratio = measured["32"][kind]["ours"]["ratio_to_linear"]["median"]
        print(f"batch 32, {kind}: {ratio:.2f} of nn.Linear, goal {goal}: {'reached' if ratio <= goal else 'missed'}")
        single = measured["1"][kind].get("ours_to_fastest_peer")
        if single:
            reached = "reached" if single["median"] <= GOAL_SINGLE else "missed"
            print(f"batch 1, {kind}: {single['median']:.2f} of {single['peer']}, goal {GOAL_SINGLE}: {reached}")
    if options.json:
        result = {"question": "cost of a product on an array", "machine": before, "versions": used}
        harness.write_json(options.json, result | {"seed": options.seed, "rounds": options.rounds, "batches": measured})
    return 0


if __name__ == "__main__":
    sys.exit(main())
