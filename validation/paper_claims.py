"""What the paper's text claims of learning: few updates, on par with software, meta-trained without hardware models."""

from __future__ import annotations

from ovonic.validation.hardware_margins import MARGINS
from ovonic.validation.paper_panels import ON_CHIPS, PAR, PAR_FEWSHOT
from ovonic.validation.paper_places import (
    ARM,
    ARM_HERMES,
    FEW,
    FEW_20,
    fewshot,
    headline,
    reproduced,
    study,
)
from ovonic.validation.paper_row import Check, PaperRow

__all__ = ["CLAIMS", "PAR_ARM", "SWEEP_ARM", "SWEEP_FEW"]

PAR_ARM = MARGINS["robot_ratio"]
SLACK = 1.05
"""Most by which one meta-training may beat another and still be called needless."""

TRAINED = "--chips 10 --tasks 200"
ARM_RUNS, FEW_RUNS = (
    " ".join(f"-w runs/{run}-{noise}/weights.safetensors" for noise in ("none", "crude", "pcm"))
    for run in ("noise", "few")
)
SWEEP_FEW = ("-w fewshot-32bit-noise-blind", "--chips 5 --tasks 100")
SWEEP_ARM = ("-w robot-q16", "--chips 10 --tasks 200")


def _trained(experiment: str, other: str, accurate: bool = True) -> Check:
    """Loss or error of meta-training without (or with crude) noise over that with the devices' own, devices pcm."""
    runs, weights, size = (
        ("noise", ARM_RUNS, TRAINED) if experiment == "robot" else ("few", FEW_RUNS, "--chips 5 --tasks 200")
    )
    tail = "pcm-0s" if experiment == "robot" else "pcm-0s-5w5s"
    what = "loss" if experiment == "robot" else "error"
    named = "the arm" if experiment == "robot" else "few-shot"
    of = {"none": "without noise", "crude": "with crude noise (3 %)"}[other]
    return Check(
        f"{named}: {what} on chips, meta-trained {of}, over that meta-trained with the devices' noise",
        (
            study(
                "training-noise",
                f"{experiment}-runs_{runs}-{other}_weights-{tail}",
                "error",
                f"{experiment}-runs_{runs}-pcm_weights-{tail}/error",
                weights=weights,
                size=size,
            ),
        ),
        "<=",
        SLACK,
        "ratio",
        "5 % counts as none",
    )


def _updates(few: bool, name: str, first: int, second: int, threshold: float) -> Check:
    condition, (weights, size) = (FEW, SWEEP_FEW) if few else (ARM, SWEEP_ARM)
    other = f"{condition}-{second}updates/error"
    place = study("updates", f"{condition}-{first}updates", "error", other, weights=weights, size=size)
    return Check(name, (place,), "<=", threshold, "ratio")


CLAIMS: tuple[PaperRow, ...] = (
    PaperRow(
        "few_updates",
        "Abstract, Results",
        "claim",
        "Both models learn with few updates: four for characters, a single one for a movement.",
        (
            _updates(True, "few-shot: error on chips after 4 updates over that after 8", 4, 8, 1.10),
            _updates(False, "arm: loss on chips after 1 update over that after 2", 1, 2, 1.0),
            Check(
                "arm: loss on chips without update over that after it",
                (
                    headline(ARM, "hardware/controls/no_update/loss", "hardware/loss"),
                    reproduced("robot/control_ratio/q16/no_update"),
                ),
                ">=",
                10.0,
                "ratio",
            ),
        ),
        note="A second update of the arm, from learning signals that do not know of the first, overshoots.",
    ),
    PaperRow(
        "par",
        "Abstract",
        "claim",
        "On the chip both models do as well as in software.",
        (
            Check(
                "few-shot, 5 ways: error over software's, devices pcm",
                (headline(FEW, "ratio"), reproduced("fewshot/pcm_32bit/error_ratio")),
                "<=",
                PAR_FEWSHOT,
                "ratio",
                PAR,
            ),
            Check("few-shot, 20 ways, 1 shot", (headline(FEW_20, "ratio"),), "<=", PAR_FEWSHOT, "ratio", PAR),
            Check(
                "arm: loss over the best software's, devices pcm",
                (headline(ARM, "ratio"),),
                "<=",
                PAR_ARM,
                "ratio",
                PAR,
            ),
            Check("the same, devices hermes", (headline(ARM_HERMES, "ratio"),), "<=", PAR_ARM, "ratio", PAR),
        ),
        note="For the arm the paper's own figures do not say so either: its chip is off by 6.69 cm where software is "
        "by 2.21. Row arm_gap takes them as the claim.",
    ),
    PaperRow(
        "arm_gap",
        "Results",
        "claim",
        "The chip's path deviates more than software's, 6.69 against 2.21 cm, little for weights of so few bits.",
        (
            Check(
                "tip error on chips over that of their software twin, devices pcm",
                (headline(ARM, "hardware/tip_rmse_mm/after", "software/tip_rmse_mm/after"),),
                "<=",
                3.02,
                "ratio",
                "the paper's own quotient",
            ),
            Check(
                "the same, devices hermes",
                (headline(ARM_HERMES, "hardware/tip_rmse_mm/after", "software/tip_rmse_mm/after"),),
                "<=",
                3.02,
                "ratio",
                "the paper's own quotient",
            ),
        ),
    ),
    PaperRow(
        "no_model",
        "Abstract, Discussion",
        "claim",
        "Meta-training in software at full precision is enough: neither accurate models of the hardware nor training "
        "with the hardware in the loop is needed.",
        (_trained("fewshot", "none"), _trained("robot", "none")),
        note="All three went on from the same weights for the same steps (docs/hardware.md). On the arm the devices' "
        "noise in the outer loop takes a tenth off the loss, also on devices it was not trained with.",
    ),
    PaperRow(
        "crude",
        "Introduction, Discussion",
        "claim",
        "A crude software approximation of the hardware already gives good results.",
        (_trained("fewshot", "crude"), _trained("robot", "crude")),
        note="Crude noise makes the arm insensitive (its loss grows by 5 % on chips, not by 25) at the price of a "
        "worse start; on the noisiest devices it wins.",
    ),
    PaperRow(
        "bits_for_nothing",
        "Results",
        "claim",
        "Meta-training at 4 bits, in imitation of the hardware, brings nothing on it.",
        (
            Check(
                "accuracy on chips of the 4-bit weights less that of the 32-bit ones",
                (
                    fewshot("fewshot-4bit", "accuracy", ON_CHIPS, "crossbar-pcm-0s", minus="fewshot-32bit"),
                    reproduced("fewshot/pcm_4bit/accuracy", minus="fewshot/pcm_32bit/accuracy"),
                ),
                "<=",
                0.0,
                "points",
            ),
        ),
    ),
)
