"""Do chips differ as much on the crossbar as on aihwkit's tiles? One standard deviation each, of what chips are.

    python examples/spread_of_chips.py --weights fewshot-4bit --noise-model pcm

Wrong answers are few and tell chips apart badly, so that the margin of each answer is measured too: the logit of the
right class less the largest other. Every chip learns the same tasks; what a chip adds to all of them is told from
the chance of each task on each chip (``tasks.statistics.spread_of_chips``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

import ovonic
from ovonic.adapters.aihwkit import Hardware
from ovonic.adapters.crossbar_fewshot import FewshotCrossbar
from ovonic.adapters.weights import readout_w_max
from ovonic.models.maml import Precision
from ovonic.models.pcm import device_model
from ovonic.tasks.datasets import load_characters
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot import Learner, run_tasks
from ovonic.tasks.fewshot_crossbar import crossbar_chips
from ovonic.tasks.fewshot_hardware import aihwkit_chips
from ovonic.tasks.statistics import spread_of_chips


def margins(chip: Learner, tasks: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of wrong answers and mean margin after the last update, [tasks] each."""
    characters, wrong, margin = load_characters(["glyphs"], "test"), [], []
    for batch, outcome in run_tasks(chip, characters, EpisodeSpec(5, 5), tasks, seed=seed):
        logits, right = outcome.logits[-1].double(), batch.query_labels[..., None]
        own = logits.gather(-1, right)[..., 0]
        other = logits.scatter(-1, right, -np.inf).amax(-1)
        margin += (own - other).mean(1).tolist()
        wrong += (own <= other).double().mean(1).tolist()
    return np.array(wrong), np.array(margin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="fewshot-4bit")
    parser.add_argument("--noise-model", default="pcm", choices=("pcm", "hermes"))
    parser.add_argument("--chips", type=int, default=40)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    net, model, seed = ovonic.load(options.weights), options.noise_model, options.seed
    bits = net.provenance.get("precision", 32)
    settings = {
        "chips": options.chips,
        "seed": seed,
        "n_way": 5,
        "precision": Precision(bits, readout_range=readout_w_max(net.provenance) or 1.0),
    }
    both: dict[str, Iterable] = {
        "aihwkit tiles": aihwkit_chips(net, Hardware(model), **settings),
        "crossbar": crossbar_chips(net, FewshotCrossbar(device_model(model)), **settings),
    }
    print(f"{options.weights}, {model}, {options.chips} chips x {options.tasks} tasks of generated glyphs")
    for name, chips in both.items():
        tables = zip(*(margins(program(), options.tasks, seed) for program in chips), strict=True)
        for what, unit, scale, table in zip(("wrong", "margin"), (" %", ""), (100, 1), tables, strict=True):
            found, mean = spread_of_chips(scale * np.array(table)), scale * np.mean(table)
            print(
                f"  {name:14} {what:7} mean {mean:.4g}{unit}, chips differ by {found['sd']:.3f}{unit} "
                f"[{found['low']:.3f}, {found['high']:.3f}], p = {found['p']:.2g}"
            )


if __name__ == "__main__":
    main()
