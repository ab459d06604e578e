"""Two tasks of Bellec et al. 2020, learned by our e-prop and by NEST's: the same weights, the same inputs, one curve.

    uv run python examples/bellec_tasks.py --figure bellec.png
    uv run python examples/bellec_tasks.py --fresh --updates 200 --figure evidence.png

The first ends in under a minute, and learns the same episodes over and over. The second takes some minutes: evidence
accumulation alone, with fresh episodes in every update, so that each is answered before it was ever learned from. NEST
learns in one simulation of all episodes, with its own updates and its own optimiser.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ovonic.tasks.bellec import Evidence, Pattern, evidence_accumulation, pattern_generation, repeated, task_network
from ovonic.tasks.statistics import interval
from ovonic.validation.eprop_learning import LearningCurves, accuracy_figure, learning_figure, side_by_side
from ovonic.validation.figure_style import save


def pattern(updates: int = 30, seed: int = 0, neurons: int = 40, steps: int = 150) -> LearningCurves:
    """Pattern generation: one episode an update."""
    task = pattern_generation(updates, seed, Pattern(steps=steps))
    return side_by_side(task_network(task, neurons, seed=seed), task, 3e-5)


def evidence(updates: int = 20, seed: int = 0, neurons: int = 40, batch: int = 4) -> LearningCurves:
    """Evidence accumulation: the same ``batch`` of episodes in every update; half of the neurons adapt."""
    size = Evidence(inputs=20, cues=3, delay=40)
    task = repeated(evidence_accumulation(batch, seed, size), updates)
    return side_by_side(task_network(task, neurons, neurons // 2, seed), task, 3e-4, batch)


def fresh_evidence(updates: int = 200, seed: int = 0, neurons: int = 40, batch: int = 16) -> LearningCurves:
    """Evidence accumulation: three cues, a delay, a recall; ``batch`` unseen episodes in every update."""
    task = evidence_accumulation(batch * updates, seed, Evidence(inputs=40, cues=3, delay=40, rate=0.2))
    return side_by_side(task_network(task, neurons, neurons // 2, seed), task, 3e-4, batch)


def report_fresh(updates: int, seed: int, file: Path | None) -> None:
    """Print accuracy on unseen episodes at the start and at the end, ours and NEST's, and draw it."""
    found = fresh_evidence(updates, seed)
    assert found.our_right is not None
    assert found.their_right is not None
    part = max(1, updates // 4)
    for name, right in (("ours", found.our_right), ("NEST's", found.their_right)):
        first, last = (interval(100 * answers.ravel()) for answers in (right[:part], right[-part:]))
        print(
            f"{name}: {first['mean']:.1f} ± {first['ci95']:.1f} % of unseen episodes right in the first {part} "
            f"updates, {last['mean']:.1f} ± {last['ci95']:.1f} % in the last"
        )
    other = (found.our_right != found.their_right).sum()
    print(
        f"{other} of {found.our_right.size} answers differ; largest relative difference of losses "
        f"{found.difference:.1e}, of weights {found.weight_difference:.1e}"
    )
    if file:
        print(save(accuracy_figure(found, setting=f"Seed {seed}."), file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--fresh", action="store_true", help="evidence accumulation, fresh episodes in every update")
    options = parser.parse_args()
    if options.fresh:
        report_fresh(options.updates, options.seed, options.figure)
        return
    curves = [learn(options.updates, options.seed) for learn in (pattern, evidence)]
    for found in curves:
        print(
            f"{found.task}: loss {found.ours[0]:.4f} to {found.ours[-1]:.4f} in {len(found.ours)} updates; largest "
            f"relative difference from NEST's losses {found.difference:.1e}, of weights {found.weight_difference:.1e}"
        )
    if options.figure:
        print(save(learning_figure(curves, setting=f"Seed {options.seed}."), options.figure))


if __name__ == "__main__":
    main()
