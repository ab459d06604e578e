"""Are two runs the same? A verdict with a margin, never a rate of agreement.

    identical      every spike is equal, and there are enough of them to mean something
    different      a spike differs where no rounding can make it differ: the membranes of the two runs are farther from
                   the threshold than ``margins`` bounds their rounding, or were farther from one another before, or
                   the arithmetic is exact
    undecidable    spikes differ, but first where rounding can do it; or the runs are silent

Samples of a batch do not touch each other, so each has its first divergent step; there a layer is judged unless a layer
that drives it in the same step has diverged itself. What comes later has other inputs, and says nothing.

A verdict ``identical`` is *certified* where every membrane kept clear of its threshold by more than its bound up to the
end (or no sum can round at all): then any exact execution gives these spikes, not only the two that were run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.network import Network
from ovonic.models.trace import Trace
from ovonic.validation.margins import Margins, margins

__all__ = ["LEAST_SHARE", "LEAST_SPIKES", "Divergence", "Judgement", "Verdict", "compare_traces", "is_silent"]

LEAST_SPIKES, LEAST_SHARE = 10, 0.1
"""A layer with fewer spikes in all, or in which a smaller share of the neurons spikes at all, is silent."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Judgement(StrEnum):
    """What can be said of two runs."""

    IDENTICAL = "identical"
    DIFFERENT = "different"
    UNDECIDABLE = "undecidable"


@dataclass(frozen=True)
class Divergence:
    """Where two runs part.

    Attributes:
        sample, step, layer: where; neuron: its index within the layer, one number an axis.
        spikes, membranes: of run a and run b there.
        threshold: A. bound: how far v - A of the two may lie apart by rounding; decisive: it was exceeded.
    """

    sample: int
    step: int
    layer: str
    neuron: tuple[int, ...]
    spikes: tuple[int, int]
    membranes: tuple[float, float]
    threshold: float
    bound: float
    decisive: bool


@dataclass(frozen=True)
class Verdict:
    """The comparison of runs ``a`` and ``b``.

    Attributes:
        identical: every spike is equal. verdict: see the module's text.
        certified: no comparison of the run can be turned by rounding, up to the first divergence.
        agree: membranes and read-outs differ by no more than rounding, up to the first divergence.
        jaccard: spikes of both over spikes of either; None where there are none.
        first_divergence: the first decisive one; else the first; None where spikes are equal.
        max_dv: largest difference of membranes up to the first divergence. max_dv_readout: of read-outs; None: none.
        margin: smallest |v - A| of a neuron that was free to spike, up to the first divergence; None: none was free.
        bound: the bound where |v - A| is smallest beside it.
        silent: both runs are.
    """

    a: str
    b: str
    identical: bool
    verdict: Judgement
    certified: bool
    agree: bool
    jaccard: float | None
    first_divergence: Divergence | None
    max_dv: float
    max_dv_readout: float | None
    margin: float | None
    bound: float | None
    silent: bool


def compare_traces(
    a: Trace,
    b: Trace,
    network: Network,
    names: tuple[str, str] = ("a", "b"),
    bounds: Mapping[str, Margins] | None = None,
) -> Verdict:
    """Judge two runs of one network on the same inputs.

    Args:
        a, b: the runs; where their floats differ, the shorter bound them.
        bounds: ``margins`` of a, if they are known; None computes them.
    Raises: ConfigError: the runs do not have the network's layers, or differ in shape or inputs.
    """
    _demand_alike(a, b, network, names)
    if bounds is None:
        bounds = margins(network, a.inputs, {name: a[name].spikes for name in network.spiking}, shorter_float(a, b))
    (za, va), (zb, vb) = (
        [{name: _array(getattr(run[name], part)) for name in network.spiking} for part in ("spikes", "membrane")]
        for run in (a, b)
    )
    differs = {name: za[name] != zb[name] for name in za}
    first = _first(differs)
    judged = _comparable(network, differs, first)

    dv = {name: _gap(va[name], vb[name]) for name in va}
    agree = all((dv[n] <= bounds[n].membrane_bound)[judged[n]].all() for n in dv)
    readout = {n: _gap(_array(a.readouts[n]), _array(b.readouts[n])) for n in network.readouts}
    agree &= all((readout[n] <= bounds[n].membrane_bound)[judged[n]].all() for n in readout)
    found = [
        entry
        for name in network.spiking
        for entry in _divergences(name, differs[name], judged[name], za, zb, va, vb, bounds[name], agree)
    ]
    identical, silent = not found, is_silent(a) and is_silent(b)
    if identical:
        verdict = Judgement.UNDECIDABLE if silent else Judgement.IDENTICAL
    else:
        verdict = Judgement.DIFFERENT if any(d.decisive for d in found) else Judgement.UNDECIDABLE
    margin, bound, certified = _smallest({name: bounds[name] for name in network.spiking}, judged)
    return Verdict(
        *names,
        identical,
        verdict,
        certified,
        agree,
        _jaccard(za, zb),
        min(found, key=lambda d: (not d.decisive, d.step, d.sample), default=None),
        _largest(dv, judged) or 0.0,
        _largest(readout, judged),
        margin,
        bound,
        silent,
    )


def shorter_float(a: Trace, b: Trace) -> torch.dtype:
    """The floating dtype of fewer bits of two runs."""
    dtypes = {layer.membrane.dtype for trace in (a, b) for layer in trace.layers.values()}
    return torch.float32 if torch.float32 in dtypes else torch.float64


def is_silent(trace: Trace) -> bool:
    """Whether a spiking layer spikes too little for equal spikes to mean anything (``LEAST_SPIKES``, ``LEAST_SHARE``).

    A network without spiking layers is silent.
    """
    counts = [layer.spikes.sum((0, 1)) for layer in trace.layers.values()]
    few = (c.sum() < LEAST_SPIKES or (c > 0).double().mean() < LEAST_SHARE for c in counts)
    return not counts or any(map(bool, few))


def _demand_alike(a: Trace, b: Trace, network: Network, names: tuple[str, str]) -> None:
    for trace, who in ((a, names[0]), (b, names[1])):
        if set(trace.layers) != set(network.spiking) or set(trace.readouts) < set(network.readouts):
            raise ConfigError(f"run {who!r}: layers {sorted(trace.layers)} where {sorted(network.spiking)} are due")
    for name, layer in a.layers.items():
        if layer.spikes.shape != b[name].spikes.shape:
            shapes = f"{tuple(layer.spikes.shape)} and {tuple(b[name].spikes.shape)}"
            raise ConfigError(f"layer {name!r}: runs {names[0]!r} and {names[1]!r} have shapes {shapes}")
    for name, x in a.inputs.items():
        if name not in b.inputs or not torch.equal(x.double(), b.inputs[name].double()):
            raise ConfigError(f"input {name!r}: runs {names[0]!r} and {names[1]!r} had different ones")


def _array(x: Tensor) -> Array:
    return x.detach().cpu().double().numpy()


def _gap(x: Array, y: Array) -> Array:
    """|x - y|, infinite where it is no number."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.abs(x - y), nan=np.inf, posinf=np.inf)


def _first(differs: Mapping[str, Mask]) -> NDArray[np.int64]:
    """For each sample the first step in which any layer differs; the number of steps where none does."""
    anywhere = np.any([d.any(tuple(range(2, d.ndim))) for d in differs.values()], 0)
    return np.where(anywhere.any(1), anywhere.argmax(1), anywhere.shape[1])


def _comparable(network: Network, differs: Mapping[str, Mask], first: NDArray[np.int64]) -> dict[str, Mask]:
    """Where the two runs had the same history, layer by layer, [B, T].

    Up to the first divergence; and in its step, unless a layer that drives this one in the same step diverges there.
    """
    steps = next(iter(differs.values())).shape[1]
    before = np.arange(steps) < first[:, None]
    at = np.arange(steps) == first[:, None]
    moved: dict[str, Mask] = {}
    judged = {}
    for name in network.layers:
        driven = np.zeros_like(at)
        for edge in network.sources(name):
            if edge.delay == 0:
                driven |= moved[edge.source]
        judged[name] = before | (at & ~driven)
        moved[name] = driven
        if name in differs:
            moved[name] = driven | differs[name].any(tuple(range(2, differs[name].ndim)))
    return judged


def _divergences(
    name: str, differs: Mask, judged: Mask, za: Mapping[str, Array], zb: Mapping[str, Array], va: Mapping[str, Array],
    vb: Mapping[str, Array], bounds: Margins, agree: bool,
) -> list[Divergence]:  # fmt: skip
    found = []
    for index in map(tuple, np.argwhere(differs & judged.reshape(*judged.shape, *(1,) * (differs.ndim - 2)))):
        a, b, level, bound = float(va[name][index]), float(vb[name][index]), bounds.level[index], bounds.bound[index]
        within = bounds.free[index] and bound > 0 and max(abs(a - level), abs(b - level)) <= bound
        spikes = int(za[name][index]), int(zb[name][index])
        sample, step, *neuron = map(int, index)
        decisive = not (within and agree)
        found.append(
            Divergence(sample, step, name, tuple(neuron), spikes, (a, b), float(level), float(bound), decisive)
        )
    return found


def _smallest(bounds: Mapping[str, Margins], judged: Mapping[str, Mask]) -> tuple[float | None, float | None, bool]:
    """The smallest |v - A|, the bound where it is largest beside |v - A|, and whether all are clear of their bounds."""
    distances, limits = [], []
    for name, found in bounds.items():
        counted = found.free & judged[name].reshape(*judged[name].shape, *(1,) * (found.free.ndim - 2))
        distances.append(np.abs(found.membrane - found.level)[counted])
        limits.append(found.bound[counted])
    distance, limit = (np.concatenate(parts) if parts else np.empty(0) for parts in (distances, limits))
    if not distance.size:
        return None, None, True
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(limit == 0, np.inf, distance / limit)
    return float(distance.min()), float(limit[ratio.argmin()]), bool((ratio > 1).all())


def _largest(gaps: Mapping[str, Array], judged: Mapping[str, Mask]) -> float | None:
    values = [gap[judged[name]] for name, gap in gaps.items()]
    return max((float(value.max(initial=0.0)) for value in values), default=None)


def _jaccard(za: Mapping[str, Array], zb: Mapping[str, Array]) -> float | None:
    both = sum(int(((za[name] > 0) & (zb[name] > 0)).sum()) for name in za)
    either = sum(int(((za[name] > 0) | (zb[name] > 0)).sum()) for name in za)
    return both / either if either else None
