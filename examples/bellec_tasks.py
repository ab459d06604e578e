"""Two tasks of Bellec et al. 2020, learned by our e-prop and by NEST's: the same weights, the same inputs, one curve.

    uv run python examples/bellec_tasks.py --figure bellec.png

Both end in under a minute. NEST learns in one simulation of all episodes, with its own updates and its own optimiser.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ovonic.tasks.bellec import Evidence, Pattern, evidence_accumulation, pattern_generation, repeated, task_network
from ovonic.validation.eprop_learning import LearningCurves, learning_figure, side_by_side
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
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
