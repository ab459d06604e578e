"""The tables of the few-shot part of ``ovonic reproduce``: every number by its place in the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovonic.validation.figures import BASELINE_NAMES
from ovonic.validation.report import At, Cell, Table, look_up

__all__ = ["baselines_table", "systems_table"]


def systems_table(
    result: Mapping[str, Any], runs: Mapping[str, str], unavailable: Mapping[str, str] | None = None, command: str = ""
) -> Table:
    """Key figures of few-shot evaluations side by side.

    Args: runs: label -> place in ``result`` of an ``Evaluation.report()``. unavailable: label -> why it did not run.
    """
    rows: list[list[Cell]] = []
    for label, path in runs.items():
        report = look_up(result, path)
        n: list[str | At] = [At(f"{path}/tasks", "number"), " tasks"]
        if "chips" in report:
            n += [" × ", At(f"{path}/chips/n", "number"), " chips, worst ", At(f"{path}/chips/worst")]
        ratio: Cell = At(f"{path}/error_ratio", "ratio") if "error_ratio" in report else "–"
        rows.append([label, At(f"{path}/accuracy"), ratio, tuple(n)])
    rows += [[label, "–", "–", reason] for label, reason in (unavailable or {}).items()]
    columns = ("System", "Accuracy, %", "Error ÷ software's", "n")
    return Table("Accuracy after the last update", columns, rows, command)


def baselines_table(
    result: Mapping[str, Any], path: str, title: str = "Baselines on the same tasks", command: str = ""
) -> Table:
    """Baselines of the ``Evaluation.report()`` at ``path``, and how far the learned head lies above each."""
    names = look_up(result, f"{path}/baselines")
    rows: list[list[Cell]] = [["learned head, software", _twin(result, path), "–"]]
    for name in names:
        at = f"{path}/baselines/{name}"
        rows.append([BASELINE_NAMES.get(name, name.replace("_", " ")), At(at), At(f"{at}/difference", "points")])
    return Table(title, ("Classifier", "Accuracy, %", "Head minus this, points"), rows, command)


def _twin(result: Mapping[str, Any], path: str) -> At:
    return At(f"{path}/software/accuracy" if "software" in look_up(result, path) else f"{path}/accuracy")
