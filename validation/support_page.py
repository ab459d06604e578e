"""The page that says which toolchain supports what: a table of verdicts, the reasons below it, versions and date."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

from ovonic.validation.feature_networks import FEATURES, bases_of, feature
from ovonic.validation.toolchain_support import COLUMNS, Kind, Support, support

__all__ = ["Verdicts", "cell", "page", "table", "verdicts"]

Verdicts = Mapping[tuple[str, str], Mapping[str, Mapping[str, Support]]]
"""(group, name) of a feature -> column -> base -> verdict."""

TITLES = {
    "snntorch": "snnTorch",
    "norse": "Norse",
    "brian2": "Brian2",
    "nest": "NEST",
    "nir": "NIR, contract",
    "nir-exact": "NIR, plain",
    "nir-snntorch": "NIR for snnTorch",
    "nir-norse": "NIR for Norse",
}

DISTRIBUTIONS = {
    "snnTorch": "snntorch",
    "Norse": "norse",
    "Brian2": "brian2",
    "NEST": "nest-simulator",
    "nir": "nir",
    "torch": "torch",
}

HEAD = """# What each toolchain supports

Made by `python examples/toolchain_table.py --out docs/toolchains.md`, {date}, with {versions}. Do not edit it.

For each feature of the description there is a small network whose spikes depend on that feature: without it they are
others, which is checked. It is run on the toolchain, and judged against our plain step: {count} networks a column.

| | |
|---|---|
| exact | the same spikes, membranes within rounding |
| exact with .. | if the layer does this besides; else the next best, below |
| lossy: word | refused, unless `lossy={{word}}` (`--lossy word`) accepts a loss, which is named; the rest is exact |
| refused | an error that names layer and feature |

There is nothing else: a spike that differs in silence fails the suite (`tests/validation/test_conformance.py`).

The NIR columns are files. *Contract*: NIR's nodes with Ovonic's contract in their metadata; the network comes back bit
for bit. *Plain*: NIR's equations alone say it all (`ovonic convert --to nir-exact`), for any reader. *For snnTorch*,
*for Norse*: what these tools' own imports of NIR do (`--to snntorch-1.0`, `--to norse-1.1`). These three are read back
here without the contract, under their convention.
"""


def verdicts(
    columns: tuple[str, ...] = COLUMNS, on_verdict: Callable[[str, Support], None] = lambda column, found: None
) -> Verdicts:
    """Every feature on every toolchain.

    Raises: ToolchainError: one of them is missing.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Support]]] = {}
    for group, name in FEATURES:
        row = found[group, name] = {column: {} for column in columns}
        for column in columns:
            for base in bases_of(group):
                row[column][base] = support(column, feature(group, name, base))
                on_verdict(column, row[column][base])
    return found


def cell(by_base: Mapping[str, Support]) -> str:
    """The verdicts on all bases in a few words."""
    kinds = {base: found.kind for base, found in by_base.items()}
    exact = [base for base, kind in kinds.items() if kind is Kind.EXACT]
    if Kind.WRONG in kinds.values():
        return "**WRONG**"
    if len(exact) == len(kinds):
        return "exact"
    if exact:
        return f"exact with {_common(exact)}"
    lossy = sorted(
        (found.words for found in by_base.values() if found.kind is Kind.LOSSY), key=lambda words: len(words)
    )
    return f"lossy: {', '.join(lossy[0])}" if lossy else "refused"


def _common(bases: list[str]) -> str:
    """What bases have in common: one that the others only add to, or all of them."""
    short = min(bases, key=len)
    return short if all(base.startswith(short) for base in bases) else " or ".join(bases)


def table(found: Verdicts) -> str:
    """The table, in Markdown."""
    columns = list(next(iter(found.values())))
    lines = [f"| | {' | '.join(TITLES.get(column, column) for column in columns)} |", "|---" * (len(columns) + 1) + "|"]
    last = ""
    for (group, name), row in found.items():
        if group != last:
            lines.append(f"| **{group}** |" + " |" * len(columns))
            last = group
        lines.append(f"| {name} | {' | '.join(cell(row[column]) for column in columns)} |")
    return "\n".join(lines) + "\n"


def reasons(found: Verdicts) -> str:
    """Why, column by column: each reason once, with the features that it stands against, where nothing is exact.

    Of several refusals that one is told which stands on the layers that the column runs most often.
    """
    lines = []
    for column in next(iter(found.values())):
        why: dict[str, list[str]] = {}
        usual = Counter(base for row in found.values() for base, one in row[column].items() if one.kind is Kind.EXACT)
        for (group, name), row in found.items():
            by_base = row[column]
            if any(one.kind is Kind.EXACT for one in by_base.values()):
                continue
            ranked = sorted(by_base, key=lambda base: -usual[base])
            best = min((by_base[base] for base in ranked), key=lambda one: (one.kind is not Kind.LOSSY, len(one.words)))
            why.setdefault(_without_places(best), []).append(f"{group.lower()}: {name}")
        lines += [f"\n### {TITLES.get(column, column)}\n"] if why else []
        lines += [f"- {reason} ({'; '.join(names)})" for reason, names in why.items()]
    return "\n".join(lines) + "\n"


def _without_places(found: Support) -> str:
    """The text of a verdict without layers, samples and steps, which belong to the network at hand."""
    text, tie, _ = found.text.partition(": in step ")
    text += ": a membrane met its threshold, which is found in the run" if tie else ""
    text = re.sub(r", this layer does \w+\([^)]*\)", "", text.split("; run it")[0])
    text = re.sub(r"layer '\w+', ", "", text)
    parts = dict.fromkeys(part for part in text.split("; ") if not part.startswith("shape ("))
    return ("lossy: " if found.kind is Kind.LOSSY else "") + "; ".join(parts)


def page(found: Verdicts, date: datetime.date) -> str:
    """The whole page."""
    used = ", ".join(f"{name} {_version(package)}" for name, package in DISTRIBUTIONS.items())
    count = sum(len(bases_of(group)) for group, _ in FEATURES)
    head = HEAD.format(date=date.isoformat(), versions=used, count=count)
    resets, others = (" / ".join(bases_of(group)) for group in ("Reset", "Membrane"))
    note = f"\nThe rest of a layer: {others}; beside resets and ties: {resets}. Weights go with the gain.\n"
    return f"{head}{note}\n{table(found)}\n## Why\n\nWhere nothing is exact, what stands against it.\n{reasons(found)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
