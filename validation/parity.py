"""Two implementations of the same chips, beside software at 32 and at 4 bit; the margins fixed before any run.

    crossbar    our arrays (``tasks.fewshot_crossbar``, ``tasks.robot_crossbar``)
    aihwkit     tiles on that package's own noise models (``tasks.fewshot_hardware``, ``tasks.robot_aihwkit``)

Both have the same devices by name, devices of target 0 as aihwkit draws them, the same converters, tasks and seeds,
and no random number in common. Full scales are the same but for convolutions of two tiles: there a column has one on
the crossbar, the larger of the two that its halves have on the tiles.

What is claimed, each by the 95 % interval of a ratio of mean errors, chips and tasks both drawn at random:

    few-shot   error on hardware over that of the software twin of the same bits:   upper end <= MARGINS
    arm        loss on hardware over that of the best software row, and the loss itself, as in the headline
    agreement  error on the crossbar over error on the tiles, all conditions of the same tasks pooled:
               both ends within 1 / m .. m (two one-sided tests of 2.5 % each)

An interval that lies wholly outside says that they differ; one that lies across an end decides nothing.

**4 bit** means: of the few-shot network, every weight is one of the 16 numbers k / 8, k = -8 .. 7 (the read-out's times
its range), rounded stochastically: kernels once a chip (in software once a task), the read-out after every update. Of
the arm, ``robot-q16``: base weights are not rounded, the lesson's change is a multiple of 1/16, rounded stochastically.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ovonic.adapters.weights import readout_w_max, resolve_fewshot
from ovonic.models.errors import ConfigError
from ovonic.models.maml import Precision
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot import task_accuracy
from ovonic.tasks.statistics import interval
from ovonic.validation.hardware_conditions import MONTH_S, Condition, Size, experiment_of
from ovonic.validation.hardware_margins import Verdict, preliminary, ratio_margin

__all__ = [
    "PARITY_MARGINS",
    "agreement",
    "agreements",
    "parity_conditions",
    "parity_verdicts",
    "software_rows",
    "table",
]

PARITY_MARGINS = {
    "fewshot_first_read": 1.10,
    "fewshot_month": 1.25,
    "robot_ratio": 1.25,
    "robot_loss": 0.0164,
    "agreement": 1.10,
}
"""Most that the upper 95 % bound of error on hardware over its software twin's may be, at the first read and a month
later; the arm's as in ``hardware_margins.MARGINS``; and the factor within which the two implementations must agree."""

DEVICES = ("pcm", "hermes")
IMPLEMENTATIONS = (("aihwkit", None), ("crossbar", "noisy"))
"""Each with its ``zero_targets``: devices of target 0 are drawn like all others, as aihwkit's tiles do by default."""


def parity_conditions(weights: Sequence[str]) -> list[Condition]:
    """The conditions of the study: few-shot weights at their own bits, 5-way 5-shot over devices and read times (and
    20-way 1-shot at the first read, of weights that are not rounded: most wrong answers a task), the arm's at the first
    read; each on both implementations."""
    found = []
    for name in weights:
        for hardware, zeros in IMPLEMENTATIONS:
            for model in DEVICES:
                if experiment_of(name) == "robot":
                    found.append(Condition("robot", name, model, hardware=hardware, zero_targets="noisy"))
                    continue
                found += [
                    Condition("fewshot", name, model, read, hardware=hardware, zero_targets=zeros)
                    for read in (0.0, MONTH_S)
                ]
                if resolve_fewshot(name)[1].get("precision", 32) == 32:
                    found.append(
                        Condition(
                            "fewshot", name, model, n_way=20, k_shot=1, queries=1, hardware=hardware, zero_targets=zeros
                        )
                    )
    return found


def parity_verdicts(condition: Condition, size: Size, report: Mapping[str, Any]) -> list[Verdict]:
    """The margins that a condition is judged by."""

    def verdict(what: str, measured: float | None, margin: str) -> Verdict:
        return Verdict(condition.name, what, measured, PARITY_MARGINS[margin], preliminary(size))

    margin = ratio_margin(condition)
    if condition.experiment == "robot":
        return [
            verdict("loss ratio, upper 95 % bound", report["ratio"]["high"], margin),
            verdict("mean loss", report["error"], "robot_loss"),
        ]
    return [verdict("error ratio to the twin, upper 95 % bound", report["own_ratio"]["high"], margin)]


def agreement(
    crossbar: ArrayLike, tiles: ArrayLike, *, seed: int, margin: float | None = None, resamples: int = 4000
) -> dict[str, Any]:
    """Whether two implementations make the same errors.

    Args:
        crossbar, tiles: error of each chip on each task, [conditions, chips, tasks] or [chips, tasks]; the numbers of
            chips may differ, tasks are the same. margin: the factor within which they agree; seed: of the bootstrap.
    Returns: ``ratio`` of the mean errors, ``low`` and ``high`` (95 %, percentile bootstrap: tasks drawn jointly for
        both, chips of each by themselves, all conditions alike), ``margin``, and ``agree``: True (the interval lies
        within 1 / margin .. margin), False (it lies outside) or None (undecided).
        All None where one of them makes no error at all.
    Raises: ConfigError: tables that do not pair.
    """
    margin = PARITY_MARGINS["agreement"] if margin is None else margin
    a, b = (_pooled(t) for t in (crossbar, tiles))
    if np.shape(crossbar)[:-2] != np.shape(tiles)[:-2] or a.shape[1] != b.shape[1] or not margin > 1:
        raise ConfigError(f"errors {np.shape(crossbar)} and {np.shape(tiles)} (margin {margin}) do not pair")
    if a.mean() == 0 or b.mean() == 0:
        return {"ratio": None, "low": None, "high": None, "margin": margin, "agree": None}
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for i in range(resamples):
        tasks = rng.integers(a.shape[1], size=a.shape[1])
        drawn = [t[rng.integers(len(t), size=len(t))][:, tasks].mean() for t in (a, b)]
        ratios[i] = drawn[0] / drawn[1] if drawn[1] > 0 else np.inf
    low, high = (float(end) for end in np.percentile(ratios, [2.5, 97.5], method="inverted_cdf"))
    agree = None
    if 1 / margin <= low and high <= margin:
        agree = True
    elif high < 1 / margin or low > margin:
        agree = False
    return {
        "ratio": float(a.mean() / b.mean()),
        "low": low,
        "high": high if np.isfinite(high) else None,
        "margin": margin,
        "agree": agree,
    }


def agreements(found: Mapping[Condition, Mapping[str, Any]], *, seed: int) -> list[dict[str, Any]]:
    """Agreement of every condition that was measured on both, and of all of the same weights and tasks, pooled.

    Returns: rows as ``agreement`` gives them, with ``name``, ``pooled`` (the number of conditions in it) and, only on
        pooled rows, a verdict that counts: ``judged``.
    """
    pairs: dict[str, list[tuple[str, Any, Any]]] = {}
    by_key: dict[Condition, dict[str, Condition]] = {}
    for condition in found:
        key = Condition(**{**vars(condition), "hardware": "crossbar", "zero_targets": None})
        by_key.setdefault(key, {})[condition.hardware] = condition
    for key, both in by_key.items():
        if both.keys() == {"crossbar", "aihwkit"}:
            tables = (found[both[name]]["errors"]["hardware"] for name in ("crossbar", "aihwkit"))
            tasks = f"-{key.n_way}w{key.k_shot}s" if key.experiment == "fewshot" else ""
            pairs.setdefault(f"{key.weights}{tasks}", []).append((key.name, *tables))
    rows = []
    for name, members in pairs.items():
        rows += [
            {"name": single, "pooled": 1, "judged": False} | agreement(a, b, seed=seed) for single, a, b in members
        ]
        stacked = [np.stack([np.asarray(member[side]) for member in members]) for side in (1, 2)]
        rows.append({"name": name, "pooled": len(members), "judged": True} | agreement(*stacked, seed=seed))
    return rows


@cache
def _accuracy(
    weights: str, bits: int, spec: EpisodeSpec, tasks: int, seed: int, updates: int | None, characters: CharacterSet
) -> NDArray[np.float64]:
    net, provenance = resolve_fewshot(weights)
    precision = Precision(bits, readout_range=readout_w_max(provenance) or 1.0)
    found = task_accuracy(net, characters, spec, tasks, seed=seed, precision=precision, updates=updates)
    return found[:, -1].numpy()


def software_rows(
    condition: Condition, size: Size, *, seed: int, characters: CharacterSet | None = None
) -> dict[str, Any]:
    """Mean error of the same few-shot weights in software at 32 and at 4 bit, on the tasks of the condition; empty for
    the arm, whose report has both its software rows."""
    if condition.experiment == "robot" or characters is None:
        return {}
    spec = EpisodeSpec(condition.n_way, condition.k_shot, condition.queries)
    rows = {}
    for bits in (32, 4):
        right = _accuracy(condition.weights, bits, spec, size.tasks, seed, condition.updates, characters)
        rows[f"{bits} bit"] = interval(1 - right)
    return rows


def table(found: Mapping[Condition, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a weight, kind of task, device and read time: errors of software at 32 and 4 bit, tiles and crossbar."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for c, report in found.items():
        tasks = f"{c.n_way}-way {c.k_shot}-shot" if c.experiment == "fewshot" else "movements"
        key = (c.weights, tasks, c.noise_model, c.read_time_s)
        row = rows.setdefault(
            key, dict(zip(("weights", "tasks", "devices", "read_time_s"), key, strict=True)) | {"software": {}}
        )
        row["software"] |= report.get("software_rows", {})
        row["software"]["twin"] = {"mean": float(np.mean(report["errors"]["software"]))}
        row[c.hardware] = {
            "error": report["error"],
            "ratio": report["ratio"],
            "own_ratio": report["own_ratio"],
            "chips": len(report["errors"]["hardware"]),
        }
    return list(rows.values())


def _pooled(errors: ArrayLike) -> NDArray[np.float64]:
    """[.., chips, tasks] -> the mean over what stands in front, [chips, tasks]."""
    e = np.asarray(errors, dtype=np.float64)
    return e.reshape(-1, *e.shape[-2:]).mean(0)
