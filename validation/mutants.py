"""Does the comparison catch a wrong network? Seeded faults in random networks, and the share that is caught.

A mutant is a random network with one change of ``validation.changes``: another reset, delay, comparison, decay, scale,
wiring, refractoriness. A mutant whose every spike is the original's, and every membrane to ``NOTICED``, was not
exercised by these inputs (a comparison without ties, the order of resets of a neuron that does not leak): there is
nothing to catch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.changes import changes
from ovonic.validation.dynamics import Judgement, compare_traces
from ovonic.validation.margins import margins
from ovonic.validation.random_networks import random_network

__all__ = ["NOTICED", "Mutant", "MutationScore", "mutation_score"]

NOTICED = {torch.float64: 1e-9, torch.float32: 1e-3}
"""A difference of membranes that counts as one; thresholds are about 1."""


@dataclass(frozen=True)
class Mutant:
    """The number of a network, its change, what caught it, and whether there was anything to catch."""

    index: int
    cause: str
    layer: str
    text: str
    by_spikes: bool
    by_membranes: bool
    exercised: bool


@dataclass(frozen=True)
class MutationScore:
    """The mutants of some networks."""

    mutants: tuple[Mutant, ...]

    @property
    def exercised(self) -> tuple[Mutant, ...]:
        """Those whose run differs at all."""
        return tuple(m for m in self.mutants if m.exercised)

    @property
    def survivors(self) -> tuple[Mutant, ...]:
        """Those whose run differs, and that were not caught."""
        return tuple(m for m in self.exercised if not (m.by_spikes or m.by_membranes))

    @property
    def score(self) -> float:
        """The share of the exercised mutants that were caught: a spike, or a membrane, differs beyond rounding."""
        return 1 - len(self.survivors) / max(1, len(self.exercised))

    @property
    def score_by_spikes(self) -> float:
        """The share that the verdict on spikes alone called different."""
        return sum(m.by_spikes for m in self.exercised) / max(1, len(self.exercised))

    def by_cause(self) -> dict[str, tuple[int, int, int]]:
        """By cause: mutants, exercised ones, caught ones."""
        table: dict[str, tuple[int, int, int]] = {}
        for m in self.mutants:
            made, live, caught = table.get(m.cause, (0, 0, 0))
            table[m.cause] = made + 1, live + m.exercised, caught + (m.exercised and (m.by_spikes or m.by_membranes))
        return table


def mutation_score(
    count: int,
    seed: int = 0,
    start: int = 0,
    dtype: torch.dtype = torch.float64,
    on_network: Callable[..., None] | None = None,
) -> MutationScore:
    """Every mutant of the random networks ``start`` .. ``start + count``, compared with its original.

    Args:
        on_network: called after each network.
    """
    found: list[Mutant] = []
    for index in range(start, start + count):
        case = random_network(index, seed)
        x = case.inputs.to(dtype)
        with torch.no_grad():
            original = run(case.network, x)
            bounds = margins(case.network, x, {n: layer.spikes for n, layer in original.layers.items()}, dtype)
            for change in changes(case.network):
                mutant = run(change.network, x)
                judged = compare_traces(original, mutant, case.network, bounds=bounds)
                exercised = _differs(original, mutant, case.network, NOTICED[dtype])
                by_spikes = judged.verdict is Judgement.DIFFERENT
                about = index, change.cause, change.layer, change.text
                found.append(Mutant(*about, by_spikes, not judged.agree, exercised))
        if on_network is not None:
            on_network()
    return MutationScore(tuple(found))


def _differs(a: Trace, b: Trace, network: Network, noticed: float) -> bool:
    """In a spike, or in a membrane by more than ``noticed``."""
    return any(
        not torch.equal(a[n].spikes, b[n].spikes) or bool((a[n].membrane - b[n].membrane).abs().max() > noticed)
        for n in network.spiking
    )
