"""Supplementary figures of the paper, as its text speaks of them, and its equations."""

from __future__ import annotations

from ovonic.validation.gradients import TOLERANCE
from ovonic.validation.paper_device_claims import FULL_BITS
from ovonic.validation.paper_places import ARM, OMNIGLOT, chip, headline, measured
from ovonic.validation.paper_row import Check, PaperRow, Place

__all__ = ["EQUATIONS", "SUPPLEMENT"]

GOLDEN = "tests/models/test_natural_eprop_published.py"
UNSEEN = "The supplement itself was not read, only what the text says of it"


def _spread(layer: str, source: str = "fewshot-32bit") -> Check:
    return Check(
        f"mean size of the weights of {layer.replace('_', '.')}, as read over as asked for, devices pcm",
        (chip(f"layers/{layer}/signal_left", source=source),),
        ">=",
        0.98,
        "ratio",
    )


SUPPLEMENT: tuple[PaperRow, ...] = (
    PaperRow(
        "supp_table",
        "Suppl. table",
        "supplement",
        "Related work on learning to learn with neuromorphic hardware, compared.",
        why_not="Literature: nothing to measure",
    ),
    PaperRow(
        "supp1",
        "Suppl. Fig. 1",
        "supplement",
        "Distributions of the CNN's weights on the chip.",
        tuple(_spread(layer) for layer in ("convs_0", "convs_1", "convs_2", "convs_3")),
        note=f"{UNSEEN}, so that there is no number of theirs; ours says whether the chip's distributions are those "
        "asked for. `ovonic crossbar inspect --figure` draws them, row four_bits has their errors.",
    ),
    PaperRow(
        "supp2a",
        "Suppl. Fig. 2a",
        "supplement",
        "Trained from scratch by backpropagation on a task's 25 images, the same network fits them within few steps.",
        (
            Check(
                "accuracy on the 25 images after 10 steps from scratch",
                (measured("scratch", "support/4", "whole network, Adam, software", OMNIGLOT),),
                ">=",
                0.95,
                "percent",
            ),
        ),
        note=f"{UNSEEN}; the paper names neither optimiser nor rate for it, ours are its outer loop's (Adam, 0.001).",
    ),
    PaperRow(
        "supp2b",
        "Suppl. Fig. 2b",
        "supplement",
        "But it overfits, and classifies the test images poorly.",
        (
            Check(
                "accuracy on new images that it lacks to the meta-trained network, at its best step",
                (measured("scratch", "lacks", "whole network, Adam, software", OMNIGLOT),),
                ">=",
                0.1,
                "points",
                "ten points",
            ),
        ),
        note=UNSEEN + ".",
    ),
    PaperRow(
        "supp3to5",
        "Suppl. Figs. 3, 4, 5",
        "supplement",
        "Three more trajectories after one update, which follow their targets like that of Fig. 5b.",
        (
            Check(
                "tip error on chips of the worst twentieth of 1,000 movements",
                (headline(ARM, "hardware/tip_rmse_mm/after/p95"),),
                "<=",
                100.9,
                "mm",
                "the paper's mean and one standard deviation",
            ),
        ),
        note=UNSEEN + ".",
    ),
    PaperRow(
        "supp6",
        "Suppl. Fig. 6",
        "supplement",
        "Distributions of the trainee's weights on the chip.",
        (
            *(_spread(layer, "robot-q16") for layer in ("in", "trainee_recurrence")),
            *(
                Check(
                    f"error of {layer.replace('_', '.')} at the first read, devices pcm, % of full scale",
                    (chip(f"layers/{layer}/error_now", source="robot-q16"),),
                    "<=",
                    FULL_BITS,
                    "number",
                    "error of rounding to 4 bits",
                )
                for layer in ("in", "trainee_recurrence")
            ),
        ),
        note=f"{UNSEEN}; `ovonic crossbar inspect --figure` draws ours.",
    ),
    PaperRow("video1", "Suppl. Video 1", "supplement", "The arm follows a trajectory.", why_not="Needs the arm"),
)


def _gradient(name: str, reference: str) -> Check:
    return Check(
        f"relative difference to {name}",
        (
            Place(
                f"gradients/natural/robot-q16/{reference}/worst",
                f"ovonic validate eprop robot-q16 --networks 1 --references {reference}",
                "a lesson of robot-q16, float64",
            ),
            Place(
                f"gradients/references/{reference}/worst",
                f"ovonic validate eprop random --networks 10 --steps 60 --references {reference}",
                "random networks, float64",
            ),
        ),
        "<=",
        TOLERANCE,
        "number",
    )


EQUATIONS: tuple[PaperRow, ...] = (
    PaperRow(
        "eq3",
        "Eq. 3",
        "equation",
        "With the dense layer alone to learn, gradient descent is the delta rule: error times presynaptic feature.",
        (
            Check(
                "relative difference to reverse-mode differentiation",
                (measured("delta", "worst", "random features, float64"),),
                "<=",
                1e-12,
                "number",
            ),
        ),
        note="Summed over images; the published code, and ours, take the mean over the 25. Eq. 11, its like for "
        "biases, is of the CIFAR network.",
    ),
    PaperRow(
        "eq4",
        "Eqs. 4, 5, 14 to 16",
        "equation",
        "The update is the sum over time of learning signal times eligibility trace, from quantities local to a "
        "synapse.",
        (
            _gradient("traces of every synapse, written out", "written-out"),
            _gradient("autograd with the recurrent and the reset path detached", "autograd"),
            _gradient("Brian2's own equations", "brian2"),
            _gradient("NEST's e-prop plasticity", "nest"),
        ),
    ),
    PaperRow(
        "eq8",
        "Eqs. 8 to 10",
        "equation",
        "Position of the tip from the joint angles.",
        tuple(
            Check(
                f"{axis}, {how}, less the published code's",
                (measured("kinematics", name, "10,000 poses"),),
                "<=",
                1e-12,
                "number",
                "m",
            )
            for axis, how, name in (
                ("x", "as printed", "x"),
                ("y", "as printed", "y"),
                ("z", "as printed", "z"),
                ("y", "mended", "y_mended"),
            )
        ),
        note="As our copy prints it, Eq. 9 (y) has cos in place of sin of theta_1 in its second term and in place of "
        "sin of theta_4 in its last; with both mended it agrees too. The published code has it right, and the results "
        "rest on the code.",
    ),
    PaperRow(
        "eq12",
        "Eqs. 12, 13, 17, 18",
        "equation",
        "Neurons: leaky membrane, subtractive reset, adaptive threshold.",
        test=f"{GOLDEN}::test_the_published_batch",
        note="Every spike of both networks is the published code's, potentials agree to 6e-5. It spikes strictly "
        "above threshold, where the text says at it, and has a refractory counter that the equations leave out; ours "
        "follows the code (docs/robot.md).",
    ),
    PaperRow(
        "eq19",
        "Eqs. 19, 20",
        "equation",
        "The outer loss: half the squares of path and velocity errors, and a penalty on firing rates.",
        test=f"{GOLDEN}::test_the_published_batch",
        note="The loss, its penalties and its gradients are the published batch's. In that code no gradient flows "
        "through the path's half; in ours it does unless asked otherwise.",
    ),
    PaperRow(
        "eq21",
        "Eq. 21",
        "equation",
        "Targets are a Wiener process of variance 0.09, smoothed by a Hann window of 120 steps.",
        test="tests/tasks/test_trajectories.py::test_golden_velocities_are_smoothed_walks",
        note="The published velocities are such walks, of a variance of 0.4225 a second of the arm, which the code "
        "has in place of 0.09; it codes each coordinate in 16 bits, where the text speaks of 16 regions of which "
        "one neuron is active. Ours follows the code.",
    ),
)
