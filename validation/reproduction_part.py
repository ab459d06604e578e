"""What ``ovonic reproduce`` knows of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ovonic.validation.report import Section

__all__ = ["Measured", "OnSteps", "Part"]

type OnSteps = Callable[[int], None]
"""Told how many steps were just finished."""


class Measured(NamedTuple):
    """What an experiment gave: its figures and settings, JSON values, and its section of the page."""

    figures: dict[str, Any]
    config: dict[str, Any]
    section: Section


@dataclass(frozen=True)
class Part:
    """An experiment, its weights open.

    Attributes:
        title: in words. steps: of its progress, in all. distributions: what it depends on, beside torch and NumPy.
        measure: does it; told the folder of the report, for files beside it, and whom to tell of steps.
    """

    title: str
    steps: int
    distributions: tuple[str, ...]
    measure: Callable[[Path, OnSteps], Measured]
