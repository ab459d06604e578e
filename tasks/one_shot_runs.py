"""Lake's within-alphabet one-shot classification: 20 fixed runs of 20-way 1-shot, an evaluation of its own.

Layout, folder or zip, with or without outer folders: ``run01/training/class01.png`` to ``class20.png``,
``run01/test/item01.png`` to ``item20.png``, and ``run01/class_labels.txt``, whose lines pair
``run01/test/item01.png run01/training/class05.png``.

Reference: Lake, Salakhutdinov and Tenenbaum, Science 350 (2015); ``all_runs.zip`` of brendenlake/omniglot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from ovonic.adapters.filetree import TreeFile, file_tree
from ovonic.adapters.images import bilinear_levels, decode_bits
from ovonic.models.errors import DataError
from ovonic.tasks.characters import BILINEAR_SCALE
from ovonic.tasks.pictures import is_image

__all__ = ["OneShotRun", "load_one_shot_runs"]

LAYOUT = "runNN/training/classNN.png, runNN/test/itemNN.png, runNN/class_labels.txt"


@dataclass(frozen=True, eq=False)
class OneShotRun:
    """One run.

    Attributes:
        name: e.g. ``"run01"``.
        support: a drawing of each class, [n_way, 1, 28, 28] float32, strokes 0 on 0.9999.
        query: drawings to classify, [n_items, 1, 28, 28] float32.
        labels: the row of ``support`` that each query shows, [n_items] int64.
    """

    name: str
    support: Tensor
    query: Tensor
    labels: Tensor


def load_one_shot_runs(source: Path | str) -> list[OneShotRun]:
    """Read all runs of a folder or zip, sorted by name.

    Raises: DataError: no run, an image outside the layout or not an Omniglot drawing, runs of different
        numbers of classes, a class_labels.txt that is missing, does not parse, or does not label every item
        once.
    """
    source = Path(source)
    with file_tree(source) as tree:
        runs: dict[PurePosixPath, dict[str, dict[str, TreeFile]]] = {
            folder: {} for folder in tree.folders if _is_run(folder)
        }
        for file in tree.files:
            labels = file.path.name == "class_labels.txt"
            if not (labels or is_image(file)):
                continue
            folder = file.path.parent
            run, kind = (folder, "labels") if labels else (folder.parent, folder.name)
            if kind not in ("training", "test", "labels") or not _is_run(run):
                raise DataError(f"{file.origin}: does not belong to the layout of one-shot runs ({LAYOUT})")
            runs.setdefault(run, {}).setdefault(kind, {})[file.path.name] = file
        if not runs:
            raise DataError(f"{source}: holds no one-shot run; the layout is {LAYOUT}")
        loaded = [_read_run(f"{source}: {run}", run.name, parts) for run, parts in sorted(runs.items())]
    names = [run.name for run in loaded]
    if len(set(names)) < len(names):
        raise DataError(f"{source}: two runs of one name ({', '.join(names)}); give the folder of one set of runs")
    ways = {len(run.support) for run in loaded}
    if len(ways) > 1:
        raise DataError(f"{source}: runs of {sorted(ways)} classes; a file is missing, copy or download it again")
    return loaded


def _is_run(folder: PurePosixPath) -> bool:
    return re.fullmatch(r"run\d+", folder.name) is not None


def _read_run(where: str, name: str, parts: dict[str, dict[str, TreeFile]]) -> OneShotRun:
    for kind in ("training", "test", "labels"):
        if kind not in parts:
            raise DataError(f"{where}: has no {'class_labels.txt' if kind == 'labels' else kind + ' image'} ({LAYOUT})")
    support, query = sorted(parts["training"]), sorted(parts["test"])
    if len(support) < 2:
        raise DataError(f"{where}: one training class alone, at least 2 are needed ({LAYOUT})")
    answers = _answers(parts["labels"]["class_labels.txt"], name, support, query)
    return OneShotRun(
        name=name,
        support=_images(parts["training"], support),
        query=_images(parts["test"], query),
        labels=torch.tensor([support.index(answers[item]) for item in query]),
    )


def _answers(file: TreeFile, run: str, support: list[str], query: list[str]) -> dict[str, str]:
    """Parse class_labels.txt to {item: class}, every item once."""
    try:
        lines = file.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file.origin}: is not text ({error}); copy or download it again") from error
    answers: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = re.fullmatch(rf"(?:.*/)?{run}/test/([^/\s]+)\s+(?:.*/)?{run}/training/([^/\s]+)", line.strip())
        if not match or match[1] not in query or match[2] not in support or match[1] in answers:
            fault = "labels an item again" if match and match[1] in answers else "is not an item and its class"
            raise DataError(
                f"{file.origin}, line {number}: {line.strip()[:80]!r} {fault}; "
                f"expected '{run}/test/item01.png {run}/training/class01.png', both files there"
            )
        answers[match[1]] = match[2]
    if missing := [item for item in query if item not in answers]:
        raise DataError(f"{file.origin}: gives no class for {', '.join(missing)}; add {len(missing)} lines")
    return answers


def _images(files: dict[str, TreeFile], names: list[str]) -> Tensor:
    levels = bilinear_levels(np.stack([decode_bits(files[name]) for name in names]))
    return torch.from_numpy(levels)[:, None].to(torch.float32) * BILINEAR_SCALE
