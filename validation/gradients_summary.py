"""What comparisons of e-prop's update come to: who agrees, and what the rule leaves out over sizes and lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ovonic.validation.gradients import END_TO_END, Agreement, Bptt, against_bptt

__all__ = ["DRAWS", "LENGTHS", "SIZES", "bptt_sweep", "summary"]

SIZES, LENGTHS, DRAWS = (10, 30, 100), (25, 50, 100, 200, 400), 5
"""Of the comparison with the full gradient: neurons, steps, networks of each."""


def summary(found: Iterable[Agreement]) -> dict[str, dict[str, Any]]:
    """By reference, JSON values: ``kind``, ``episodes`` that it ran, ``refused``, ``worst`` relative difference of a
    gradient, ``same_spikes``, ``agrees`` (None: it ran none).
    """
    found = list(found)
    by_reference = {}
    for reference in dict.fromkeys(a.reference for a in found):
        ran = [a for a in found if a.reference == reference and a.worst is not None]
        by_reference[reference] = {
            "kind": "end to end" if reference in END_TO_END else "independent",
            "episodes": len(ran),
            "refused": sum(a.reference == reference for a in found) - len(ran),
            "worst": max((a.worst for a in ran if a.worst is not None), default=None),
            "same_spikes": all(a.same_spikes for a in ran) if ran else None,
            "agrees": all(bool(a.agrees) for a in ran) if ran else None,
        }
    return by_reference


def bptt_sweep(seed: int, on_step: Callable[[int], None]) -> list[Bptt]:
    """E-prop beside the full gradient, over ``SIZES`` and ``LENGTHS``, ``DRAWS`` networks each."""
    sweep = []
    for size in SIZES:
        for length in LENGTHS:
            for draw in range(DRAWS):
                sweep.append(against_bptt(size, length, seed + draw))
                on_step(1)
    return sweep
