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

__all__ = ["FEWSHOT_THRESHOLDS", "RUNS", "Run", "fewshot_part"]

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


RUNS: dict[str, Run] = {
    "software_32bit": Run("fewshot-32bit", 400),
    "software_4bit": Run("fewshot-4bit", 400),
    "pcm_32bit": Run("fewshot-32bit", 200, "pcm", chips=4),
    "hermes_32bit": Run("fewshot-32bit", 200, "hermes", chips=4),
    "pcm_4bit": Run("fewshot-4bit", 200, "pcm", chips=4),
    "pcm_32bit_day": Run("fewshot-32bit", 200, "pcm", DAY_S, chips=4),
}
LABELS = {
    "software_32bit": "software, 32 bit",
    "software_4bit": "software, 4 bit",
    "pcm_32bit": "PCM tiles, pcm, 32 bit, first read",
    "hermes_32bit": "PCM tiles, hermes, 32 bit, first read",
    "pcm_4bit": "PCM tiles, pcm, 4 bit, first read",
    "pcm_32bit_day": "PCM tiles, pcm, 32 bit, after a day",
}


def fewshot_part(seed: int, runs: Mapping[str, Run] = RUNS) -> Part:
    """The few-shot part of the report, its weights open.

    Args: runs: what is evaluated, by the names of ``RUNS``.
    Raises: WeightsError: weights are missing or damaged.
    """
    networks = {run.weights: resolve_fewshot(run.weights) for run in runs.values()}
    return Part(
        "few-shot classification",
        sum(run.tasks * (1 + run.chips) for run in runs.values()),
        ("aihwkit",),
        lambda _, on_steps: _measured(runs, networks, seed, on_steps),
    )


def _measured(
    runs: Mapping[str, Run], networks: Mapping[str, tuple[FewshotCNN, dict[str, Any]]], seed: int, on_steps: OnSteps
) -> Measured:
    characters = load_characters([GLYPHS], "test")
    evaluations: dict[str, Evaluation] = {}
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
        evaluations[name] = evaluate(learner, chips, characters, EpisodeSpec(), run.tasks, seed=seed, on_batch=on_steps)
    figures = {name: e.report() for name, e in evaluations.items()} | _differences(evaluations)
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
    hardware = evaluations["pcm_32bit"]
    setting = "glyph alphabets never trained on, 5-way 5-shot, norm support, 32 bit"
    assert hardware.hardware_outcome is not None
    drawn = (
        accuracy_over_updates(hardware, setting=setting),
        support_and_queries(hardware, setting=setting),
        weight_histograms(hardware.hardware_outcome.weights, setting=setting),
    )
    result, command = {"fewshot": figures}, runs["pcm_32bit"].command(seed) + " --figures figures"
    text = (
        "A network of four convolutions, meta-trained with MAML, learns five characters it has never seen from five "
        "drawings each: four updates of its dense layer alone. On the simulated hardware (aihwkit) the convolutions "
        "stay as programmed and only the devices of the dense layer whose target changes are programmed anew.\n\n"
        "Hardware and software see the same tasks; intervals are 95 % and include the spread between chips."
    )
    return Section(
        "Few-shot classification",
        text,
        claims=_claims(result, runs),
        tables=[
            systems_table(result, {LABELS[name]: f"fewshot/{name}" for name in runs}),
            baselines_table(result, "fewshot/software_32bit"),
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


def _claims(result: Mapping[str, Any], runs: Mapping[str, Run]) -> list[Claim]:
    def claim(text: str, at: At, relation: Literal["<=", ">="], limit: str) -> Claim:
        return Claim.about(result, text, at, relation, FEWSHOT_THRESHOLDS[limit])

    accuracy = At("fewshot/software_32bit/accuracy")
    claims = [
        claim("32 bit, software: accuracy on unseen alphabets", accuracy, ">=", "accuracy_32bit"),
        claim("4 bit: accuracy lost against 32 bit", At("fewshot/loss_at_4bit", "points"), "<=", "loss_at_4bit"),
        claim(
            "accuracy that the learned head lacks to the best classifier without learning",
            At("fewshot/below_best_baseline", "points"),
            "<=",
            "below_best_baseline",
        ),
    ]
    for name, run in runs.items():
        if run.noise_model is not None:
            limit = "error_ratio_after_a_day" if run.read_time_s else "error_ratio_first_read"
            at = At(f"fewshot/{name}/error_ratio", "ratio")
            claims.append(claim(f"{LABELS[name]}: error beside the software twin's", at, "<=", limit))
    return claims
