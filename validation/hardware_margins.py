"""What hardware may lose over software, fixed before it was measured, and the verdicts that follow.

The ratio that the margins are about is to the best software row of the same weights: at 32 bit, with updates that are
not rounded. It is judged by its upper 95 % bound.

Reference: Ortner et al. 2025, Nature Communications 16:1243: the claim tested is that learning to learn makes up for
the non-idealities of the devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ovonic.validation.hardware_conditions import Condition, Size

__all__ = ["LEAST", "MARGINS", "Verdict", "preliminary", "ratio_margin", "verdicts"]

MARGINS = {"fewshot_first_read": 1.10, "fewshot_month": 1.25, "robot_ratio": 1.25, "robot_loss": 0.0164}
"""Most that the upper 95 % bound of error (loss) on hardware over that of the best software may be, at the first read
and a month later; and most that the arm's mean loss on hardware may be: what the published weights reach in software at
multiples of 1/16."""

LEAST = {"chips": 30, "tasks": 1000}
"""A verdict on fewer is marked as preliminary."""


@dataclass(frozen=True)
class Verdict:
    """One margin, and whether it was kept: measured (an upper 95 % bound, or a mean) <= margin."""

    condition: str
    what: str
    measured: float | None
    margin: float
    preliminary: bool

    @property
    def held(self) -> bool | None:
        return None if self.measured is None else self.measured <= self.margin


def preliminary(size: Size) -> bool:
    """Whether a verdict on so few chips or tasks is preliminary."""
    return size.chips < LEAST["chips"] or size.tasks < LEAST["tasks"]


def ratio_margin(condition: Condition) -> str:
    """The name of the margin that a condition's ratio is judged by."""
    if condition.experiment == "robot":
        return "robot_ratio"
    return "fewshot_first_read" if condition.read_time_s == 0 else "fewshot_month"


def verdicts(condition: Condition, size: Size, report: dict[str, Any]) -> list[Verdict]:
    """The margins that a condition of the headline is judged by."""

    def verdict(what: str, measured: float | None, margin: str) -> Verdict:
        return Verdict(condition.name, what, measured, MARGINS[margin], preliminary(size))

    high, margin = report["ratio"]["high"], ratio_margin(condition)
    if condition.experiment == "fewshot":
        return [verdict("error ratio, upper 95 % bound", high, margin)]
    return [
        verdict("loss ratio, upper 95 % bound", high, margin),
        verdict("mean loss", report["error"], "robot_loss"),
    ]
