"""Why do two runs diverge? Known causes, found by trying them: the network is changed, run, and compared.

A change that makes our plain step give the other run's spikes explains the divergence. Where none does alone, those
that carry the agreement farthest are tried in twos.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.changes import Change, changes
from ovonic.validation.dynamics import compare_traces

__all__ = ["Explanation", "diagnose"]

FLOAT_WIDTH = "float width"
CARRIED_ON = 6
"""How many changes are tried together with a second one."""


@dataclass(frozen=True)
class Explanation:
    """A change, or two, under which our plain step gives the other run's spikes.

    Attributes:
        causes: of ``changes.CAUSES``, or ``"float width"``. texts: what was changed, with the layer.
        membranes: the membranes agree too, within rounding.
    """

    causes: tuple[str, ...]
    texts: tuple[str, ...]
    membranes: bool

    def __str__(self) -> str:
        return " and ".join(f"{cause}: {text}" for cause, text in zip(self.causes, self.texts, strict=True))


def diagnose(network: Network, trace: Trace, budget_s: float = 20.0) -> tuple[Explanation, ...]:
    """What explains that a run of a network diverges from our plain step.

    Args:
        trace: the other run, with its inputs.
        budget_s: time after which no further change is tried.
    Returns: the explanations, those whose membranes agree too first; empty: no known cause fits. Several can fit where
        the inputs do not tell them apart.
    """
    end = time.monotonic() + budget_s
    tried = [(change, *_reach(change, trace)) for change in _until(changes(network), end)]
    found = [_explained((change,), agrees) for change, fits, agrees, _ in tried if fits]
    found += _other_width(network, trace)
    if not found:
        for first, _, _, _ in sorted(tried, key=lambda entry: -entry[3])[:CARRIED_ON]:
            for second in _until(changes(first.network), end):
                fits, agrees, _ = _reach(second, trace)
                if fits and second.network != network:
                    found.append(_explained((first, second), agrees))
    return tuple(sorted(dict.fromkeys(found), key=lambda entry: not entry.membranes))


def _until(candidates: Iterator[Change], end: float) -> Iterator[Change]:
    for change in candidates:
        if time.monotonic() > end:
            return
        yield change


def _reach(change: Change, trace: Trace) -> tuple[bool, bool, int]:
    """Whether the spikes under a change are the run's, whether membranes are, and the step of the first difference."""
    with torch.no_grad():
        ours = run(change.network, trace.inputs)
    differs = [(ours[name].spikes != layer.spikes).flatten(2).any(2).any(0) for name, layer in trace.layers.items()]
    together = torch.stack(differs).any(0)
    if together.any():
        return False, False, int(together.int().argmax())
    found = compare_traces(ours, trace, change.network)
    return True, found.agree, len(together)


def _other_width(network: Network, trace: Trace) -> list[Explanation]:
    """Float32 for float64, or the other way round."""
    dtype = next(iter(trace.inputs.values())).dtype
    other = torch.float32 if dtype == torch.float64 else torch.float64
    inputs = {name: x.to(other) for name, x in trace.inputs.items()}
    if any(not torch.equal(x.to(dtype), trace.inputs[name]) for name, x in inputs.items()):
        return []
    with torch.no_grad():
        ours = run(network, inputs)
    found = compare_traces(ours, trace, network)
    text = f"computed in {str(other).removeprefix('torch.')}"
    return [Explanation((FLOAT_WIDTH,), (text,), found.agree)] if found.identical else []


def _explained(made: tuple[Change, ...], agrees: bool) -> Explanation:
    return Explanation(tuple(c.cause for c in made), tuple(f"layer {c.layer!r}, {c.text}" for c in made), agrees)
