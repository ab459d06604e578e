"""What the paper's text claims of devices: few are touched, writing is dear, they last, they are worth 4 bits."""

from __future__ import annotations

from ovonic.validation.hardware_margins import MARGINS
from ovonic.validation.paper_claims import PAR_ARM
from ovonic.validation.paper_panels import PAR
from ovonic.validation.paper_places import ARM, ARM_HERMES, FEW, FEW_MONTH, arm, chip, cost, headline
from ovonic.validation.paper_row import Check, PaperRow

__all__ = ["DEVICE_CLAIMS", "FULL_BITS"]

FULL_BITS = 100 * (2 / 2**4) / 12**0.5
"""Root mean square error of rounding to 4 bits over -1 .. 1, % of full scale: 3.61."""

MONTH_NAME = "0.0625-stochastic-crossbar-pcm-2592000s"
MONTH = "--hardware crossbar --chips 5 --trajectories 100 --read-time 2592000"


def _month(compensation: str, words: str) -> Check:
    name = MONTH_NAME + ("" if compensation == "none" else f"-{compensation}")
    options = MONTH + ("" if compensation == "none" else f" --compensation {compensation}")
    place = arm("robot-q16", "hardware/loss_ratio", options, name)
    return Check(f"the arm: loss over software's a month later, {words}", (place,), "<=", PAR_ARM, "ratio", PAR)


DEVICE_CLAIMS: tuple[PaperRow, ...] = (
    PaperRow(
        "few_devices",
        "Results",
        "claim",
        "An adaptation touches few devices: less than 1 % of the CNN's.",
        (
            Check(
                "few-shot: devices programmed in a task's four updates",
                (headline(FEW, "devices_reprogrammed"),),
                "<=",
                4 * 1120,
                "devices",
                "four times the dense layer",
            ),
            Check(
                "arm: share of its devices that a lesson programs",
                (headline(ARM, "devices_reprogrammed", "hardware/per_chip/devices"),),
                "<=",
                0.05,
                "percent",
                "one in twenty",
            ),
        ),
        note="The paper gives no count for the arm.",
    ),
    PaperRow(
        "costly_writes",
        "Results",
        "claim",
        "Programming is among the operations that cost most energy, so that few updates of few devices pay.",
        (
            Check(
                "few-shot: programming the chip once over reading 25 queries",
                (headline(FEW, "energy/deployment/energy_j", "energy/inference/energy_j"),),
                ">=",
                1.0,
                "ratio",
            ),
            Check(
                "few-shot: programming's part of an adaptation, typical costs",
                (
                    headline(
                        FEW,
                        "energy/adaptation/energy_parts_j/programming/typical",
                        "energy/adaptation/energy_j/typical",
                    ),
                ),
                ">=",
                0.1,
                "percent",
                "a tenth",
            ),
            Check(
                "arm: reprogramming over the two trials of a lesson",
                (headline(ARM, "energy/reprogramming/energy_j", "energy/trials/energy_j"),),
                ">=",
                0.1,
                "ratio",
            ),
        ),
        note="By assumed ranges of cost (docs/energy.md). A pulse costs thousands of times what reading a device "
        "costs; the CNN's adaptation is nearly all reads just because it programs so few.",
    ),
    PaperRow(
        "efficient",
        "Introduction",
        "claim",
        "In-memory hardware is energy-efficient.",
        tuple(
            Check(
                f"{experiment}: adaptation on arrays over that in a digital twin, energy",
                (cost(experiment, "estimates/adaptation, array/energy_j", "estimates/adaptation, twin/energy_j"),),
                "<=",
                1.0,
                "ratio",
            )
            for experiment in ("fewshot", "robot")
        ),
        note="The paper measures no energy. The ranges overlap widely: at typical costs the twin wins both "
        "(docs/energy.md).",
    ),
    PaperRow(
        "many_chips",
        "Results",
        "claim",
        "One meta-training serves many chips and tasks.",
        tuple(
            Check(
                f"{experiment}: deployments after which it has paid, against training each task from scratch",
                (cost(experiment, "break_even/scratch/deployments"),),
                "<=",
                1e6,
                "devices",
                "a million",
            )
            for experiment in ("fewshot", "robot")
        ),
        note="Row fig1a has the spread between chips.",
    ),
    PaperRow(
        "lasting",
        "Introduction",
        "claim",
        "Devices are non-volatile: once adapted, the system infers for an extended time.",
        (
            Check(
                "few-shot: error a month later over software's",
                (headline(FEW_MONTH, "ratio"),),
                "<=",
                MARGINS["fewshot_month"],
                "ratio",
                PAR,
            ),
            _month("none", "drift not corrected"),
        ),
        note="The CNN's norm reads its statistics anew; the arm has none, and drift is a loss of gain to it.",
    ),
    PaperRow(
        "drift",
        "Methods",
        "claim",
        "An affine correction of each column answers drift.",
        (
            Check(
                "the arm: loss a month later, one factor a column, over that without correction",
                (
                    arm(
                        "robot-q16",
                        "hardware/loss",
                        f"{MONTH} --compensation column",
                        f"{MONTH_NAME}-column",
                        over=f"{MONTH_NAME}/hardware/loss",
                    ),
                ),
                "<=",
                0.1,
                "ratio",
                "a tenth",
            ),
            _month("global", "one factor for the array"),
            _month("column", "one factor a column"),
        ),
        note="Ours corrects by exact factors, without an offset.",
    ),
    PaperRow(
        "four_bits",
        "Results",
        "claim",
        "The hardware's weights are worth about 4 bits.",
        tuple(
            Check(
                f"error of {layer.replace('_', '.')} at the first read, devices pcm, % of full scale",
                (chip(f"layers/{layer}/error_now"),),
                "<=",
                FULL_BITS,
                "number",
                "error of rounding to 4 bits",
            )
            for layer in ("convs_0", "convs_1", "convs_2", "convs_3")
        ),
        note="The simulated devices are a bit better than that.",
    ),
    PaperRow(
        "spiking",
        "Discussion",
        "claim",
        "More surprisingly than in a feed-forward network, inexact weights affect the recurrent spiking network only "
        "weakly.",
        (
            Check(
                "loss on chips over its software twin's, devices pcm",
                (headline(ARM, "own_ratio"),),
                "<=",
                PAR_ARM,
                "ratio",
                PAR,
            ),
            Check("the same, devices hermes", (headline(ARM_HERMES, "own_ratio"),), "<=", PAR_ARM, "ratio", PAR),
            Check(
                "the same of weights meta-trained with the devices' noise, devices pcm",
                (
                    arm(
                        "robot-q16-pcm",
                        "hardware/loss_ratio",
                        "--hardware crossbar --chips 5 --trajectories 100",
                        "0.0625-stochastic-crossbar-pcm-0s",
                    ),
                ),
                "<=",
                PAR_ARM,
                "ratio",
                PAR,
            ),
        ),
        note="On 30 chips and 1,000 movements the last is 1.158 [1.139, 1.178] (docs/hardware.md).",
    ),
)
