"""``ovonic reproduce``: both experiments, the learning rule, the simulators, the hardware and the paper, in one report.

What each part claims and measures stands beside it, in ``fewshot_reproduction`` and its like. Parts are independent of
each other (``reproduction_workers``) and kept when they are done (``reproduction_store``); the paper's table is
computed from what they found.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from ovonic.validation.report import LEAD, Section, write_report
from ovonic.validation.reproduction_part import Part
from ovonic.validation.reproduction_store import Finished, kept, plain, source_hash
from ovonic.validation.reproduction_workers import Job, run_jobs

__all__ = ["NAMES", "PARTS", "reproduce"]


def _open(name: str, seed: int, full: bool) -> Part:
    """The part of ``NAME_reproduction``, which is imported when it is opened: a process loads what its part needs."""
    module = importlib.import_module(f"ovonic.validation.{name}_reproduction")
    part: Part = getattr(module, f"{name}_part")(seed, full)
    return part


PARTS: dict[str, Callable[[int, bool], Part]] = {
    name: partial(_open, name) for name in ("fewshot", "robot", "gradients", "simulators", "hardware")
}
"""The parts by name, in the order of the report; each takes the seed and whether at full size, and opens weights."""

PAPER = "paper"
NAMES = (*PARTS, PAPER)
"""What ``--only`` takes: the parts, and the paper's table, which is computed from what they found."""

SIZES = {
    False: "This is the small run, which ends in minutes: its intervals are wide, and a verdict whose interval holds "
    "the threshold is marked as not decided. `ovonic reproduce --full` has the sizes of the documentation's figures.",
    True: "This is the full run.",
}


def reproduce(
    out: Path,
    names: Iterable[str],
    *,
    seed: int,
    full: bool = False,
    fresh: bool = False,
    workers: int = 0,
    command: str = "",
    versions: Callable[..., dict[str, str]] = lambda *distributions: {},
    progress: Callable[[str, int], AbstractContextManager[Callable[..., None]]],
    on_kept: Callable[[list[str]], None] = lambda names: None,
) -> dict[str, Any]:
    """Measure parts; ``report.html`` and ``report.json`` in ``out`` hold what is finished.

    Args:
        names: some of ``NAMES``. fresh: compute also what an earlier run of the same left in ``out/parts``.
        workers: processes; 0: all in this one.
        versions: of distributions, by name. progress: shows how it goes, in percent: title and total -> what is told.
        on_kept: told of the parts that an earlier run had finished.
    Returns: what the JSON holds; ``failed``: part -> why it has no figures, where one failed in its process.
    Raises: OvonicError: weights are missing or damaged.
    """
    asked = set(names)
    openers = {name: partial(part, seed, full) for name, part in PARTS.items() if name in asked}
    parts = {name: opener() for name, opener in openers.items()}
    used = {name: versions(*part.distributions) for name, part in parts.items()}
    identity = {
        name: plain({"seed": seed, "part": part.identity, "versions": used[name], "source": source_hash()})
        for name, part in parts.items()
    }
    found = {} if fresh else {name: kept(out, name, identity[name]) for name in parts}
    done: dict[str, Finished] = {name: finished for name, finished in found.items() if finished is not None}
    failed: dict[str, str] = {}
    if done:
        on_kept(list(done))

    def write() -> Path:
        provenance = {"command": command, "versions": _merged(used) or versions()}
        return _write(out, parts, done, failed, provenance, seed, full, PAPER in asked)

    def on_end(name: str, failure: str | None) -> None:
        finished = None if failure else kept(out, name, identity[name])
        if finished is None:
            failed[name] = failure or "what it wrote cannot be read back"
        else:
            done[name] = finished
        write()

    path = write()
    missing = [name for name in parts if name not in done]
    jobs = [Job(name, openers[name], identity[name], parts[name].seconds) for name in missing]
    if jobs:
        with progress("reproducing, %", 100) as advance:
            run_jobs(jobs, out, workers, _percent(parts, missing, advance), on_end)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _merged(used: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {name: version for versions in used.values() for name, version in versions.items()}


def _percent(
    parts: Mapping[str, Part], running: Iterable[str], advance: Callable[..., None]
) -> Callable[[str, int], None]:
    """Turns the steps of parts, which differ in length, into percent of all."""
    done: Counter[str] = Counter()
    running = list(running)
    whole = sum(parts[name].seconds for name in running)
    told = 0

    def on_steps(name: str, steps: int) -> None:
        nonlocal told
        done[name] += steps
        now = sum(parts[n].seconds * min(done[n] / max(parts[n].steps, 1), 1.0) for n in running) / whole
        if (percent := int(100 * now)) > told:
            advance(percent - told, now=name)
            told = percent

    return on_steps


def _write(
    out: Path,
    parts: Mapping[str, Part],
    done: Mapping[str, Finished],
    failed: Mapping[str, str],
    provenance: Mapping[str, Any],
    seed: int,
    full: bool,
    paper: bool,
) -> Path:
    """The report of what is done, in the order of the parts. Returns: the JSON file."""
    finished = {name: done[name] for name in parts if name in done}
    sections = []
    for name, part in parts.items():
        if name in finished:
            sections.append(finished[name].measured.section)
        elif name in failed:
            text = f"This part failed, the others are not touched by it: {failed[name]}"
            sections.append(Section(part.title.capitalize(), text + "\n\nThe same command tries it again."))
    result = {
        "schema": "ovonic/reproduce/1",
        **provenance,
        "config": {"seed": seed, "size": "full" if full else "small"}
        | {name: one.measured.config for name, one in finished.items()},
        **{name: one.measured.figures for name, one in finished.items()},
        "timing": {name: one.timing for name, one in finished.items()},
    }
    if failed:
        result["failed"] = dict(failed)
    if paper:
        from ovonic.validation.paper import paper_rows, paper_section

        sections.append(paper_section(result))
        result["paper"] = [verdict.as_json() for verdict in paper_rows(result)]
    _, path = write_report(out, sections, result, lead=f"{LEAD}\n\n{SIZES[full]}")
    return path
