"""``ovonic fewshot one-shot``: Lake's twenty runs of within-alphabet one-shot classification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovonic.commands.common import JsonFile, Seed, write_json
from ovonic.commands.fewshot_options import Bits, Norm, Rounding, Updates, WeightsName, load, percent


def one_shot(
    runs: Annotated[Path, typer.Argument(help="all_runs.zip of Omniglot, or its folder.")],
    weights: WeightsName = "fewshot-32bit",
    norm: Norm = None,
    updates: Updates = None,
    bits: Bits = None,
    rounding: Rounding = "stochastic",
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Lake's within-alphabet 20-way one-shot classification: the 20 fixed runs of Omniglot."""
    from ovonic.adapters.weights import readout_w_max
    from ovonic.models.maml import Precision
    from ovonic.tasks.fewshot import one_shot_accuracy, software_learner
    from ovonic.tasks.one_shot_runs import load_one_shot_runs
    from ovonic.tasks.statistics import interval

    net, provenance = load(weights)
    precision = Precision(bits or provenance.get("precision", 32), rounding, readout_w_max(provenance) or 1.0)
    loaded = load_one_shot_runs(runs)
    learner = software_learner(net, updates=updates, precision=precision, norm=norm, seed=seed)
    accuracy = one_shot_accuracy(learner, loaded)
    summary = interval(accuracy)
    typer.echo(f"{len(loaded)} runs: accuracy {percent(summary)}, error {100 * (1 - summary['mean']):.2f} %")
    result = {"accuracy": summary, "runs": {run.name: float(a) for run, a in zip(loaded, accuracy, strict=True)}}
    config = {"weights": provenance, "norm": norm or net.config.norm, "precision": precision, "seed": seed}
    write_json(json, "fewshot-one-shot", result, config)
