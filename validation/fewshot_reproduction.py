"""The few-shot part of ``ovonic reproduce``: shipped weights on glyph alphabets they never saw, in software and on PCM.

Every threshold stands here, fixed before the run. The glyphs are the embedded data, so the figures are of the
machinery; real Omniglot is measured by ``ovonic fewshot evaluate --data``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ovonic.adapters.aihwkit_devices import Hardware
from ovonic.adapters.weights import readout_w_max, resolve_fewshot
from ovonic.models.errors import ToolchainError
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision
from ovonic.tasks.datasets import GLYPHS, load_characters
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot import software_learner
from ovonic.tasks.fewshot_evaluation import Evaluation, evaluate
from ovonic.tasks.fewshot_hardware import aihwkit_chips
from ovonic.tasks.statistics import paired_difference
from ovonic.validation.fewshot_tables import baselines_table, systems_table
from ovonic.validation.figures import accuracy_over_updates, support_and_queries, weight_histograms
from ovonic.validation.report import At, Claim, Picture, Section
from ovonic.validation.reproduction_part import Measured, OnSteps, Part

__all__ = ["FEWSHOT_THRESHOLDS", "FULL_RUNS", "RUNS", "Run", "fewshot_part"]

FEWSHOT_THRESHOLDS = {
    "accuracy_32bit": 0.97,
    "loss_at_4bit": 0.01,
    "error_ratio_first_read": 1.10,
    "error_ratio_after_a_day": 1.25,
    "below_best_baseline": 0.005,
}
"""5-way 5-shot, support statistics: least accuracy at 32 bit; most that 4 bit may lose of it; most that the error may
grow on hardware; most that the learned head may lie below the best classifier without learning on the same features."""

DAY_S = 86400.0


@dataclass(frozen=True)
class Run:
    """One evaluation.

    ``weights``: a shipped name; ``noise_model``: None for software; ``read_time_s``: age of the chip, s.
    """

    weights: str
    tasks: int
    noise_model: str | None = None
    read_time_s: float = 0.0
    chips: int = 0

    def command(self, seed: int) -> str:
        """The command that measures this alone."""
        text = f"ovonic fewshot evaluate --weights {self.weights} --data glyphs --tasks {self.tasks}"
        if self.noise_model is not None:
            text += f" --hardware aihwkit --noise-model {self.noise_model} --chips {self.chips}"
            text += f" --read-time {self.read_time_s:g}" if self.read_time_s else ""
        return text + f" --seed {seed}"


def _runs(tasks: int, chips: int, tasks_on_chips: int) -> dict[str, Run]:
    return {
        "software_32bit": Run("fewshot-32bit", tasks),
        "software_4bit": Run("fewshot-4bit", tasks),
        "pcm_32bit": Run("fewshot-32bit", tasks_on_chips, "pcm", chips=chips),
        "hermes_32bit": Run("fewshot-32bit", tasks_on_chips, "hermes", chips=chips),
        "pcm_4bit": Run("fewshot-4bit", tasks_on_chips, "pcm", chips=chips),
        "pcm_32bit_day": Run("fewshot-32bit", tasks_on_chips, "pcm", DAY_S, chips=chips),
    }


RUNS, FULL_RUNS = _runs(300, 3, 130), _runs(1000, 20, 400)
LABELS = {
    "software_32bit": "software, 32 bit",
    "software_4bit": "software, 4 bit",
    "pcm_32bit": "PCM tiles, pcm, 32 bit, first read",
    "hermes_32bit": "PCM tiles, hermes, 32 bit, first read",
    "pcm_4bit": "PCM tiles, pcm, 4 bit, first read",
    "pcm_32bit_day": "PCM tiles, pcm, 32 bit, after a day",
}


def fewshot_part(seed: int, full: bool = False, runs: Mapping[str, Run] | None = None) -> Part:
    """The few-shot part of the report, its weights open.

    Args: runs: what is evaluated, by the names of ``RUNS``; None: ``RUNS``, or ``FULL_RUNS``.
    Raises: WeightsError: weights are missing or damaged.
    """
    asked = runs or (FULL_RUNS if full else RUNS)
    networks = {run.weights: resolve_fewshot(run.weights) for run in asked.values()}
    return Part(
        "few-shot classification",
        sum(run.tasks * (1 + run.chips) for run in asked.values()),
        ("aihwkit",),
        lambda _, on_steps: _measured(asked, networks, seed, on_steps),
        {
            "runs": {name: asdict(run) for name, run in asked.items()},
            "thresholds": FEWSHOT_THRESHOLDS,
            "weights": {name: origin["sha256"] for name, (_, origin) in networks.items()},
        },
        seconds=8 + sum(run.tasks * (0.012 + 0.036 * run.chips) for run in asked.values()),
    )


def _measured(
    runs: Mapping[str, Run], networks: Mapping[str, tuple[FewshotCNN, dict[str, Any]]], seed: int, on_steps: OnSteps
) -> Measured:
    characters = load_characters([GLYPHS], "test")
    evaluations: dict[str, Evaluation] = {}
    unavailable: dict[str, str] = {}
    for name, run in runs.items():
        net, origin = networks[run.weights]
        precision = Precision(origin["precision"], readout_range=readout_w_max(origin) or 1.0)
        chips = []
        if run.noise_model is not None:
            chips = aihwkit_chips(
                net,
                Hardware(run.noise_model, readout_w_max=readout_w_max(origin)),
                chips=run.chips,
                seed=seed,
                n_way=5,
                read_time_s=run.read_time_s,
                precision=precision,
            )
        learner = software_learner(net, precision=precision, seed=seed)
        try:
            evaluations[name] = evaluate(
                learner, chips, characters, EpisodeSpec(), run.tasks, seed=seed, on_batch=on_steps
            )
        except ToolchainError as error:
            unavailable[name] = str(error)
    figures = {name: e.report() for name, e in evaluations.items()} | _differences(evaluations)
    if unavailable:
        figures["unavailable"] = unavailable
    config = {
        "data": characters.source,
        "runs": {name: asdict(run) for name, run in runs.items()},
        "thresholds": FEWSHOT_THRESHOLDS,
        "weights": {name: origin for name, (_, origin) in networks.items()},
    }
    return Measured(figures, config, _section(runs, evaluations, figures, seed))


def _section(
    runs: Mapping[str, Run], evaluations: Mapping[str, Evaluation], figures: Mapping[str, Any], seed: int
) -> Section:
    shown = "pcm_32bit" if "pcm_32bit" in evaluations else "software_32bit"
    evaluation, setting = evaluations[shown], "glyph alphabets never trained on, 5-way 5-shot, norm support, 32 bit"
    drawn = [
        accuracy_over_updates(evaluation, setting=setting),
        support_and_queries(evaluation, setting=setting),
    ]
    if evaluation.hardware_outcome is not None:
        drawn.append(weight_histograms(evaluation.hardware_outcome.weights, setting=setting))
    result, command = {"fewshot": figures}, runs[shown].command(seed) + " --figures figures"
    text = (
        "A network of four convolutions, meta-trained with MAML, learns five characters it has never seen from five "
        "drawings each: four updates of its dense layer alone. On the simulated hardware (aihwkit) the convolutions "
        "stay as programmed and only the devices of the dense layer whose target changes are programmed anew.\n\n"
        "Hardware and software see the same tasks; intervals are 95 % and include the spread between chips."
    )
    return Section(
        "Few-shot classification",
        text,
        claims=_claims(result, runs, seed),
        tables=[
            systems_table(
                result,
                {LABELS[name]: f"fewshot/{name}" for name in evaluations},
                {LABELS[name]: reason for name, reason in figures.get("unavailable", {}).items()},
                command=f"ovonic reproduce --only fewshot --seed {seed}" + " --full" * (runs is FULL_RUNS),
            ),
            baselines_table(result, "fewshot/software_32bit", command=runs["software_32bit"].command(seed)),
        ],
        pictures=[Picture.of(figure, command) for figure in drawn],
    )


def _differences(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    wide, narrow = evaluations["software_32bit"].software[:, -1], evaluations["software_4bit"].software[:, -1]
    baselines = evaluations["software_32bit"].baselines
    best = max(("nearest_class_mean", "ridge"), key=lambda name: float(baselines[name].mean()))
    return {
        "loss_at_4bit": paired_difference(wide, narrow),
        "below_best_baseline": paired_difference(baselines[best], wide) | {"baseline": best},
    }


def _claims(result: Mapping[str, Any], runs: Mapping[str, Run], seed: int) -> list[Claim]:
    def claim(text: str, at: At, relation: Literal["<=", ">="], limit: str, run: str) -> Claim:
        return Claim.about(result, text, at, relation, FEWSHOT_THRESHOLDS[limit], runs[run].command(seed))

    accuracy, lost = At("fewshot/software_32bit/accuracy"), At("fewshot/loss_at_4bit", "points")
    behind = At("fewshot/below_best_baseline", "points")
    claims = [
        claim("32 bit, software: accuracy on unseen alphabets", accuracy, ">=", "accuracy_32bit", "software_32bit"),
        claim("4 bit: accuracy lost against 32 bit", lost, "<=", "loss_at_4bit", "software_4bit"),
        claim(
            "accuracy that the learned head lacks to the best classifier without learning",
            behind,
            "<=",
            "below_best_baseline",
            "software_32bit",
        ),
    ]
    for name, run in runs.items():
        if run.noise_model is not None:
            limit = "error_ratio_after_a_day" if run.read_time_s else "error_ratio_first_read"
            at = At(f"fewshot/{name}/error_ratio", "ratio")
            claims.append(claim(f"{LABELS[name]}: error beside the software twin's", at, "<=", limit, name))
    return claims
