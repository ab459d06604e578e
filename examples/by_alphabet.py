"""How well are the classes of ONE alphabet told apart? The shipped few-shot weights on each alphabet of Omniglot.

    uv run python examples/by_alphabet.py images_background_small1.zip images_background_small2.zip

The weights were meta-trained on generated glyphs alone, so every alphabet is one they never saw. Classes of one
alphabet resemble each other: this is harder than tasks mixed from all alphabets. Options: --bits 4, --way 20 --shot 1.
"""

from __future__ import annotations

import argparse

import numpy as np

import ovonic
from ovonic.adapters.weights import readout_w_max
from ovonic.models.maml import Precision
from ovonic.tasks.datasets import load_characters
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot import software_learner
from ovonic.tasks.fewshot_evaluation import evaluate
from ovonic.tasks.statistics import interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders or zips in Omniglot's layout")
    parser.add_argument("--bits", type=int, default=32, choices=(4, 32))
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=300, help="tasks an alphabet")
    options = parser.parse_args()

    net = ovonic.load(f"fewshot-{options.bits}bit")
    precision = Precision(options.bits, readout_range=readout_w_max(net.provenance) or 1.0)
    learner = software_learner(net, precision=precision)
    characters = load_characters(options.data, "all")
    spec = EpisodeSpec(options.way, options.shot, queries=5)
    means = []
    for name in characters.alphabet_names:
        alphabet = characters.select([i for i, a in enumerate(characters.alphabets) if a == name])
        if len(alphabet) < options.way:
            print(f"{name:24} {len(alphabet)} characters: too few for {options.way} ways")
            continue
        result = evaluate(learner, [], alphabet, spec, options.tasks, seed=0)
        summary, nearest = interval(result.software[:, -1]), interval(result.baselines["nearest_class_mean"])
        means.append(summary["mean"])
        print(
            f"{name:24} {100 * summary['mean']:6.2f} +- {100 * summary['ci95']:.2f} %   "
            f"nearest class mean {100 * nearest['mean']:6.2f} %   ({len(alphabet)} characters)"
        )
    print(f"{'mean of alphabets':24} {100 * np.mean(means):6.2f} %   {options.bits} bit, norm {net.config.norm}")


if __name__ == "__main__":
    main()
