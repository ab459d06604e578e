"""``ovonic reproduce``: both experiments of the paper with the shipped weights, in one report.

What each experiment claims and measures stands in ``fewshot_reproduction`` and in ``robot_reproduction``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ovonic.validation.fewshot_reproduction import fewshot_part
from ovonic.validation.report import write_report
from ovonic.validation.reproduction_part import Measured, OnSteps, Part
from ovonic.validation.robot_reproduction import robot_part

__all__ = ["PARTS", "reproduce"]

PARTS: dict[str, Callable[[int], Part]] = {"fewshot": fewshot_part, "robot": robot_part}
"""The experiments by name; each takes the seed and opens the weights that it needs."""


def reproduce(
    out: Path,
    parts: Mapping[str, Part],
    *,
    seed: int,
    provenance: Mapping[str, Any],
    progress: Callable[[str, int], AbstractContextManager[OnSteps]],
) -> dict[str, Any]:
    """Measure ``parts`` one after the other; ``report.html`` and ``report.json`` in ``out`` hold what is finished.

    Args:
        parts: some of ``PARTS``, opened; their names are places in the result.
        provenance: command and versions.
        progress: shows how a part goes: its title and its steps in all -> what is told of steps just finished.
    Returns: what the JSON holds.
    """
    measured: dict[str, Measured] = {}
    path = out / "report.json"
    for number, (name, part) in enumerate(parts.items(), 1):
        counted = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
        with progress(part.title + counted, part.steps) as on_steps:
            measured[name] = part.measure(out, on_steps)
        result = {
            "schema": "ovonic/reproduce/1",
            **provenance,
            "config": {"seed": seed} | {name: m.config for name, m in measured.items()},
            **{name: m.figures for name, m in measured.items()},
        }
        _, path = write_report(out, [m.section for m in measured.values()], result)
    found: dict[str, Any] = json.loads(path.read_text())
    return found
