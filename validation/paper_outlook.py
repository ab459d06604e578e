"""Where the paper sees its limits, and what it suggests to do next."""

from __future__ import annotations

from ovonic.validation.paper_claims import SWEEP_ARM, SWEEP_FEW
from ovonic.validation.paper_places import ARM, FEW, cost, headline, study
from ovonic.validation.paper_row import Check, PaperRow

__all__ = ["LIMITATIONS", "SUGGESTIONS"]


def _sweep(few: bool, name: str, first: str, second: str, threshold: float, because: str) -> Check:
    condition, (weights, size) = (FEW, SWEEP_FEW) if few else (ARM, SWEEP_ARM)
    return Check(
        name,
        (
            study(
                "adaptation",
                f"{condition}-{first}",
                "error",
                f"{condition}-{second}/error",
                weights=weights,
                size=size,
            ),
        ),
        "<=",
        threshold,
        "ratio",
        because,
    )


LIMITATIONS: tuple[PaperRow, ...] = (
    PaperRow(
        "limit_robust",
        "Discussion",
        "limitation",
        "Whether learning to learn made the spiking network robust against variation of devices is left open.",
        (
            _sweep(False, "arm: loss at twice the noise over that without", "noise2", "noise0", 1.25, "a quarter"),
            _sweep(True, "few-shot: error at twice the noise over that without", "noise2", "noise0", 1.25, "a quarter"),
            _sweep(
                False,
                "arm: loss at four times the noise, adapted on chips over adapted in software",
                "noise4",
                "on-software-noise4",
                1.0,
                "adapting makes up for noise",
            ),
        ),
        note="Here it does not for the arm: adapting on the devices is worse than adapting in software at every level "
        "of noise. The few-shot read-out loses nothing up to twice the noise.",
    ),
    PaperRow(
        "limit_size",
        "Results, Discussion",
        "limitation",
        "The arrays bound the networks: 56 filters in place of 64, and an emulator for CIFAR100-FS.",
        why_not="A limit of the chip at hand. The simulated crossbar takes as many arrays as are asked for",
    ),
    PaperRow(
        "limit_bptt",
        "Discussion",
        "limitation",
        "Backpropagation through time cannot be had on the hardware, so that the outer loop stays in software; 30,000 "
        "iterations there would be infeasible.",
        tuple(
            Check(
                f"{experiment}: energy of meta-training over that of an adaptation on arrays, typical",
                (cost(experiment, "meta_training_j/typical", "estimates/adaptation, array/energy_j/typical"),),
                ">=",
                1e6,
                "ratio",
            )
            for experiment in ("fewshot", "robot")
        ),
    ),
    PaperRow(
        "limit_host",
        "Methods",
        "limitation",
        "Only products run on the chip; neurons, norm, pooling and the arithmetic of updates run on the host.",
        why_not="A description; ours does the same, and costs them as digital work (docs/energy.md)",
    ),
    PaperRow(
        "limit_four_phases",
        "Methods",
        "limitation",
        "Products are made in four phases, one sign of input and weight each, for precision.",
        why_not="The simulated periphery reads in one phase and has no circuit error that four would avoid; "
        "`--read-phases 4` counts their time and energy",
        undone=True,
    ),
    PaperRow(
        "limit_slow_arm",
        "Methods",
        "limitation",
        "The real arm takes a minute for 250 steps, one held position after the other, and moves two of its joints.",
        why_not="Needs the arm. Ours simulates kinematics alone, for two to four joints; no motor, no load",
    ),
    PaperRow(
        "limit_four_paths",
        "Results",
        "limitation",
        "Four trajectories and 100 tasks were run on the hardware.",
        (
            Check("movements on each simulated chip", (headline(ARM, "trajectories"),), ">=", 1000, "devices"),
            Check("few-shot tasks on each", (headline(FEW, "tasks"),), ">=", 1000, "devices"),
        ),
    ),
)

SUGGESTIONS: tuple[PaperRow, ...] = (
    PaperRow(
        "try_local_rules",
        "Discussion",
        "suggestion",
        "MAML with e-prop, OSTL or OSTTP in the inner loop, so that deep networks learn forward in time.",
        why_not="The library has e-prop for any trace (models/eprop.py) and MAML for the CNN, but no spiking "
        "classifier in whose inner loop they would meet",
        undone=True,
    ),
    PaperRow(
        "try_on_chip",
        "Introduction",
        "suggestion",
        "The simple update rule could run on the chip itself in later generations.",
        (
            Check(
                "arm: digital work of a lesson's update over the energy of all a lesson, typical",
                (
                    cost(
                        "robot",
                        "estimates/adaptation, array/energy_parts_j/digital products/typical",
                        "estimates/adaptation, array/energy_j/typical",
                    ),
                ),
                ">=",
                0.01,
                "percent",
                "worth moving",
            ),
        ),
        note="How much there would be to save; the circuit itself is not modelled.",
    ),
    PaperRow(
        "try_middle_loop",
        "Discussion",
        "suggestion",
        "A third loop between evolution and the single task, with unsupervised learning.",
        why_not="The library has two loops; no third was built",
        undone=True,
    ),
    PaperRow(
        "try_memory",
        "Discussion",
        "suggestion",
        "Model-based learning to learn, with the arrays as external memory.",
        (
            Check(
                "what the learned head has over a memory of class means on the same features",
                (headline(FEW, "baselines/nearest_class_mean/difference"),),
                "<=",
                0.005,
                "points",
                "half a point",
            ),
        ),
        why_not="A controller that writes to arrays is not built",
        note="A memory that holds a mean for each class, in software, is as good as four updates of the head.",
    ),
    PaperRow(
        "try_larger",
        "Discussion",
        "suggestion",
        "Larger networks on newer chips with many cores.",
        why_not="Layouts of any number of arrays are placed and costed (`ovonic crossbar map`), but no larger network "
        "was meta-trained",
        undone=True,
    ),
)
