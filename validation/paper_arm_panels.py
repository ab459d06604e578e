"""Figures 4 and 5 of the paper, of the arm, panel by panel."""

from __future__ import annotations

from ovonic.validation.paper_panels import SCHEME
from ovonic.validation.paper_places import ARM, ARM_HERMES, arm, headline, measured, published_arm, reproduced
from ovonic.validation.paper_row import Check, PaperRow

__all__ = ["ARM_PANELS"]

PAPERS_MM = "the paper's mean over its four trajectories"

FIGURE_4 = (
    PaperRow("fig4a", "Fig. 4a", "panel", "Trial, one update, second trial; the outer loop around.", why_not=SCHEME),
    PaperRow(
        "fig4b",
        "Fig. 4b",
        "panel",
        "Trainee and learning-signal generator: 250 LIF neurons and 5 clock inputs; 800 neurons, 30 % of them "
        "adaptive.",
        test="tests/test_shipped_robots.py::test_a_shipped_robot_has_the_papers_sizes",
        note="Of the pairs that ship; their model cards say so too.",
    ),
    PaperRow("fig4c", "Fig. 4c", "panel", "The ED-Scorbot arm.", why_not="Needs the arm"),
    PaperRow(
        "fig4d",
        "Fig. 4d",
        "panel",
        "Input and recurrent weights of the trainee lie on one core; weights that do not learn stay in software.",
        (Check("cells taken", (headline(ARM, "hardware/per_chip/cells"),), "<=", 65536, "devices", "one core's"),),
        note="We put the read-out, which does not learn, on the array too.",
    ),
)

FIGURE_5 = (
    PaperRow(
        "fig5a",
        "Fig. 5a",
        "panel",
        "Before the update the velocities are close to zero and the arm hardly moves.",
        tuple(
            Check(
                f"{whose}: {what} before the update, over the target's",
                (measured("still", f"{stem}/{name}", "movements, software", f"-w {weights}"),),
                "<=",
                0.1,
                "ratio",
                "our reading of hardly",
            )
            for whose, stem, weights in (
                ("the paper's weights", "robot_checkpoint", "robot_checkpoint.npz"),
                ("ours", "robot-q16", "robot-q16"),
            )
            for name, what in (("omega", "velocity"), ("way", "way of the tip"))
        ),
    ),
    PaperRow(
        "fig5b",
        "Fig. 5b",
        "panel",
        "After one update: joint velocities are off by 0.038 and 0.036 rad/s in software, by 0.127 and 0.067 on the "
        "chip; the tip by 2.21 ± 1.10 cm, by 6.69 ± 3.40 cm, and on the real arm by 7.82 ± 2.50 cm (four "
        "trajectories).",
        (
            Check(
                "software, the paper's weights: tip error",
                (published_arm("tip_rmse_mm/after"),),
                "<=",
                22.1,
                "mm",
                PAPERS_MM,
            ),
            Check(
                "software, ours: tip error",
                (
                    arm("robot-float", "tip_rmse_mm/after"),
                    reproduced("robot/float/tip_rmse_mm/after"),
                ),
                "<=",
                22.1,
                "mm",
                PAPERS_MM,
            ),
            Check(
                "software, the paper's weights: mean square error of the velocities",
                (published_arm("mse_omega/after"),),
                "<=",
                0.00138,
                "number",
                "mean of .0381² and .0363²",
            ),
            Check(
                "chips, ours: tip error, devices pcm",
                (headline(ARM, "hardware/tip_rmse_mm/after"),),
                "<=",
                66.9,
                "mm",
                PAPERS_MM,
            ),
            Check(
                "chips, ours: tip error, devices hermes",
                (headline(ARM_HERMES, "hardware/tip_rmse_mm/after"),),
                "<=",
                66.9,
                "mm",
                PAPERS_MM,
            ),
            Check(
                "chips, ours: loss, which bounds half the velocities' mean square error",
                (headline(ARM, "error"),),
                "<=",
                0.00517,
                "number",
                "half the mean of .1274² and .0668²",
            ),
        ),
        why_not="The real arm's execution needs the arm",
    ),
)

ARM_PANELS: tuple[PaperRow, ...] = (*FIGURE_4, *FIGURE_5)
