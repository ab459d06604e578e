"""What ``ovonic reproduce`` knows of a part of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ovonic.validation.report_content import Section

__all__ = ["Measured", "OnSteps", "Part"]

type OnSteps = Callable[[int], None]
"""Told how many steps were just finished."""


class Measured(NamedTuple):
    """What a part gave: its figures and settings, JSON values; its section of the page; files beside the page."""

    figures: dict[str, Any]
    config: dict[str, Any]
    section: Section
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of the report, its weights open.

    Attributes:
        title: in words. steps: of its progress, in all. distributions: what it depends on, beside torch and NumPy.
        measure: does it; told the folder of the report, for files beside it, and whom to tell of steps.
        identity: JSON values that decide what it gives: sizes, thresholds, hashes of weights.
        seconds: about how long it takes on one core; the longest is begun first.
    """

    title: str
    steps: int
    distributions: tuple[str, ...]
    measure: Callable[[Path, OnSteps], Measured]
    identity: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 60.0
