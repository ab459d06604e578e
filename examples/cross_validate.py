"""Cross-validate the shipped few-shot weights over Omniglot's alphabets.

    uv run python examples/cross_validate.py images_background_small1.zip images_background_small2.zip

Four networks were trained by one recipe, each without the alphabets of its fold. Every network is tried on tasks from
the alphabets it never saw; the table pools all four. Options: --bits 4, --way 20 --shot 1, --norm transductive.
"""

from __future__ import annotations

import argparse

import numpy as np

import ovonic
from ovonic.models.maml import Precision
from ovonic.tasks.datasets import load_characters
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot import software_learner
from ovonic.tasks.fewshot_evaluation import evaluate
from ovonic.tasks.statistics import interval, paired_difference

FOLDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="the two images_background_small zips")
    parser.add_argument("--bits", type=int, default=32, choices=(4, 32))
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--norm", default="support")
    parser.add_argument("--tasks", type=int, default=500, help="tasks a fold")
    options = parser.parse_args()

    spec = EpisodeSpec(options.way, options.shot, queries=5)
    head, nearest = [], []
    for fold in range(FOLDS):
        net = ovonic.load(f"fewshot-{options.bits}bit" + (f"-fold{fold}" if fold else ""))
        unseen = load_characters(options.data, "test", folds=FOLDS, fold=fold)
        learner = software_learner(net, precision=Precision(options.bits), norm=options.norm)
        result = evaluate(learner, [], unseen, spec, options.tasks, seed=1000 + fold)
        head.append(result.software[:, -1])
        nearest.append(result.baselines["nearest_class_mean"])
        print(f"fold {fold}: {show(head[-1])}  {', '.join(unseen.alphabet_names)} ({len(unseen)} characters)")
    print(f"all:    {show(np.concatenate(head))}  {options.bits} bit, {options.way}-way {options.shot}-shot, 4 updates")
    difference = paired_difference(np.concatenate(head), np.concatenate(nearest))
    print(f"nearest class mean on the same features: {show(np.concatenate(nearest))}")
    print(f"the learned head above it: {100 * difference['mean']:+.2f} +- {100 * difference['ci95']:.2f} points")


def show(accuracy: np.ndarray) -> str:
    summary = interval(accuracy)
    return f"{100 * summary['mean']:.2f} +- {100 * summary['ci95']:.2f} %"


if __name__ == "__main__":
    main()
