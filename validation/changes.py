"""The ways in which two tools read one network differently, each as a change of the network.

What is known to happen (shared causes of diverging simulators; the numbers are the usual alternatives):

    reset order        when the reset acts                         reset kind      what it subtracts, or sets
    input scale        gain 1, 1 - decay, and their ratio          decay formula   exp(-dt/tau) for 1 - dt/tau, and back
    time step          dt ten times as long, or as short           delay           one step more, or less
    comparison         > for >=                                    refractoriness  one step more or less, none, frozen
    adaptation         a fresh spike decays, or not; none          synapse         none; gain 1 - decay
    recurrent wiring   W transposed, its diagonal kept or masked, each neuron on itself, none, the drive through W
    constants          rest, v_init or v_reset taken as 0          threshold       shared by all, the first neuron's
    input wiring       square input weights transposed

``validation.diagnosis`` tries them to explain a divergence; ``validation.mutants`` makes faults of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ovonic.models.dynamics import (
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    When,
)
from ovonic.models.errors import ConfigError
from ovonic.models.frozen import LONGEST
from ovonic.models.layers import Linear, Spiking
from ovonic.models.network import Edge, Network

__all__ = ["CAUSES", "Change", "changes"]

CAUSES = (
    "reset order", "reset kind", "input scale", "decay formula", "time step", "delay", "comparison", "refractoriness",
    "adaptation", "synapse", "recurrent wiring", "constants", "threshold", "input wiring",
)  # fmt: skip


class Change(NamedTuple):
    """A network read in another way: the ``cause`` (of ``CAUSES``), the ``layer`` concerned, and ``text`` says how."""

    cause: str
    layer: str
    text: str
    network: Network


def changes(network: Network) -> Iterator[Change]:
    """Every change that applies: of each spiking layer alone, and, where there are several, of all of them alike.

    Changes that leave the description equal, or that no spike can show (reset to the same step or to the start of the
    next without adaptation), are left out.
    """
    found: dict[tuple[str, str], dict[str, Spiking]] = {}
    for name in network.spiking:
        layer = network.layers[name]
        assert isinstance(layer, Spiking)
        for cause, text, changed in _of_layer(layer):
            if changed != layer:
                found.setdefault((cause, text), {})[name] = changed
                yield Change(cause, name, text, _with(network, {name: changed}))
    for (cause, text), layers in found.items():
        if len(layers) > 1:
            yield Change(cause, "all", text, _with(network, layers))
    yield from _of_edges(network)


def _with(network: Network, layers: dict[str, Spiking]) -> Network:
    return network.replace(layers=dict(network.layers) | layers)


def _of_layer(layer: Spiking) -> Iterator[tuple[str, str, Spiking]]:
    d = layer.dynamics
    for make in (_resets, _scales, _silences, _others):
        for cause, text, changed in _valid(make, d):
            yield cause, text, layer.replace(dynamics=changed)
    if (r := layer.recurrence) is None:
        return
    for delay in (r.delay - 1, r.delay + 1):
        if 1 <= delay <= LONGEST:
            yield "delay", f"recurrent delay {delay} for {r.delay}", layer.replace(recurrence=r.replace(delay=delay))
    wiring = "recurrent wiring"
    yield wiring, "no recurrence", layer.replace(recurrence=None)
    if r.weight.ndim == 2:
        yield wiring, "W_rec transposed", layer.replace(recurrence=r.replace(weight=r.weight.T))
        if np.diagonal(r.weight).any():
            kept = "kept" if r.masked_diagonal else "masked"
            mask = layer.replace(recurrence=r.replace(masked_diagonal=not r.masked_diagonal))
            yield wiring, f"diagonal of W_rec {kept}", mask
            own = r.replace(weight=np.diagonal(r.weight), masked_diagonal=False)
            yield wiring, "each neuron on itself alone", layer.replace(recurrence=own)


Alternatives = Iterator[tuple[str, str, Callable[[], Dynamics]]]


def _valid(make: Callable[[Dynamics], Alternatives], d: Dynamics) -> Iterator[tuple[str, str, Dynamics]]:
    """Those that describe something: a v_reset may not lie above the threshold, nor a decay below 0."""
    for cause, text, build in make(d):
        try:
            yield cause, text, build()
        except ConfigError:
            continue


def _resets(d: Dynamics) -> Alternatives:
    kinds: list[Reset] = [NoReset(), SubtractThresholdOnce()]
    kinds += [SubtractThreshold(when) for when in When]
    kinds += [SubtractAdapted(when) for when in When] if d.adaptation is not None else []
    values = [0.0, d.rest, *([d.reset.v_reset] if isinstance(d.reset, ResetToValue) else [])]
    kinds += [ResetToValue(value, when) for value in values for when in When]
    for reset in dict.fromkeys(kinds):
        same = _same_kind(reset, d.reset)
        late_twin = reset.when is When.NEXT_BEFORE_DECAY and not isinstance(reset, SubtractAdapted)
        if late_twin or (same and not _tells(reset.when, d.reset.when, d)):
            continue
        cause = "reset order" if same else "reset kind"
        yield cause, f"{_described(reset)} for {_described(d.reset)}", partial(d.replace, reset=reset)


def _same_kind(one: Reset, other: Reset) -> bool:
    value, other_value = (getattr(reset, "v_reset", 0.0) for reset in (one, other))
    return type(one) is type(other) and np.array_equal(value, other_value)


def _tells(one: When, other: When, d: Dynamics) -> bool:
    """Whether the two moments differ: the same step and the start of the next do only for an adapted threshold."""
    if one is other:
        return False
    return isinstance(d.reset, SubtractAdapted) or When.NEXT_AFTER_INPUT in (one, other)


def _described(reset: Reset) -> str:
    value = f" {reset.v_reset:g}" if isinstance(reset, ResetToValue) and isinstance(reset.v_reset, float) else ""
    return f"{type(reset).__name__}{value} ({reset.when.value})"


def _scales(d: Dynamics) -> Alternatives:
    decay: Any = d.decay
    gain: Any = d.gain
    if np.all(np.less(decay, 1)):
        yield "input scale", "gain (1 - decay) times", lambda: d.replace(gain=gain * (1 - decay))
        yield "input scale", "gain 1/(1 - decay) times", lambda: d.replace(gain=gain / (1 - decay))
    yield "input scale", "gain 1", lambda: d.replace(gain=1.0)
    yield "decay formula", "exp(-dt/tau) for 1 - dt/tau", lambda: d.replace(decay=np.exp(-(1 - np.asarray(decay))))
    if np.all(np.greater(decay, 0)):
        yield "decay formula", "1 - dt/tau for exp(-dt/tau)", lambda: d.replace(decay=1 + np.log(decay))
    for factor, text in ((10.0, "ten times as long"), (0.1, "a tenth as long")):
        yield "time step", f"steps {text}", partial(_sped, d, factor)


def _sped(d: Dynamics, factor: float) -> Dynamics:
    changed = d.replace(decay=np.asarray(d.decay) ** factor)
    if d.synapse is not None:
        changed = changed.replace(synapse=d.synapse.replace(decay=np.asarray(d.synapse.decay) ** factor))
    if d.adaptation is not None:
        changed = changed.replace(adaptation=d.adaptation.replace(decay=np.asarray(d.adaptation.decay) ** factor))
    return changed


def _silences(d: Dynamics) -> Alternatives:
    old, cause = d.refractory, "refractoriness"
    steps: Any = old.silent_steps
    yield cause, "one silent step more", lambda: d.replace(refractory=Refractory(np.asarray(steps) + 1, old.frozen))
    if np.any(steps):
        fewer = np.maximum(np.asarray(steps) - 1, 0)
        yield cause, "one silent step less", lambda: d.replace(refractory=Refractory(fewer, old.frozen))
        yield cause, "none", lambda: d.replace(refractory=Refractory())
        what = "integrates" if old.frozen else "is frozen"
        yield cause, f"the membrane {what} meanwhile", lambda: d.replace(refractory=Refractory(steps, not old.frozen))


def _others(d: Dynamics) -> Alternatives:
    other = Comparison.GREATER if d.comparison is Comparison.GREATER_EQUAL else Comparison.GREATER_EQUAL
    yield "comparison", f"{other.value} for {d.comparison.value}", lambda: d.replace(comparison=other)
    if (a := d.adaptation) is not None:
        text = "a fresh spike counts in full" if a.fresh_spike_decays else "a fresh spike decays first"
        fresh = a.replace(fresh_spike_decays=not a.fresh_spike_decays)
        yield "adaptation", text, lambda: d.replace(adaptation=fresh)
        yield "adaptation", "none", lambda: d.replace(adaptation=None)
    if (s := d.synapse) is not None:
        yield "synapse", "none", lambda: d.replace(synapse=None)
        decay: Any = s.decay
        gain: Any = s.gain
        if np.all(np.less(decay, 1)):
            yield "synapse", "gain (1 - decay) times", lambda: d.replace(synapse=s.replace(gain=gain * (1 - decay)))
    yield "constants", "rest 0", lambda: d.replace(rest=0.0)
    yield "constants", "v_init 0", lambda: d.replace(v_init=0.0)
    if isinstance(reset := d.reset, ResetToValue):
        yield "constants", "v_reset 0", lambda: d.replace(reset=reset.replace(v_reset=0.0))
    if isinstance(d.threshold, np.ndarray):
        first = float(d.threshold.flat[0])
        yield "threshold", "the first neuron's for all", lambda: d.replace(threshold=first)


def _of_edges(network: Network) -> Iterator[Change]:
    for edge in network.edges:
        others = set(network.edges) - {edge}
        for delay in (edge.delay - 1, edge.delay + 1):
            moved = edge._replace(delay=delay)
            if 0 <= delay <= LONGEST and moved not in others and _drives(network, edge.target):
                text = f"{edge}: delay {delay} for {edge.delay}"
                yield Change("delay", edge.target, text, network.replace(edges=(*others, moved)))
    for name in network.names(Linear):
        layer = network.layers[name]
        assert isinstance(layer, Linear)
        rows, columns = layer.weight.shape
        if rows == columns and (layer.weight != layer.weight.T).any() and _drives(network, name):
            turned = network.replace(layers=dict(network.layers) | {name: layer.replace(weight=layer.weight.T)})
            yield Change("input wiring", name, "W transposed", turned)
    for name in network.spiking:
        layer = network.layers[name]
        assert isinstance(layer, Spiking)
        if layer.recurrence is not None and layer.recurrence.weight.ndim == 2:
            yield Change("recurrent wiring", name, "the drive goes through W_rec", _through(network, name))


def _drives(network: Network, name: str) -> bool:
    """Whether a spiking layer is reached from here."""
    if name in network.spiking:
        return True
    return any(_drives(network, edge.target) for edge in network.edges if edge.source == name)


def _through(network: Network, name: str) -> Network:
    """The network whose drive of a layer passes its recurrent weights first."""
    layer = network.layers[name]
    assert isinstance(layer, Spiking)
    assert layer.recurrence is not None
    between = name
    while between in network.layers:
        between += "_drive"
    edges = [edge._replace(target=between) if edge.target == name else edge for edge in network.edges]
    layers = dict(network.layers) | {between: Linear(layer.recurrence.effective)}
    return network.replace(layers=layers, edges=(*edges, Edge(between, name)))
