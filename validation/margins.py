"""How near to its threshold each membrane of a run came, beside how far rounding can move it.

Two runs of one network that gave the same spikes up to step t differ at t by no more than ``bound`` in v - A, whatever
the order of their sums (``validation.rounding``). Where |v - A| exceeds it, both must spike or both be silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.models.dynamics import (
    Adaptation,
    Dynamics,
    NoReset,
    ResetToValue,
    SubtractAdapted,
    SubtractThresholdOnce,
    When,
)
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Pool, Pooling, Readout, Spiking
from ovonic.models.lif import product
from ovonic.models.network import Network
from ovonic.models.simulation import delayed, inputs_by_name, stateless
from ovonic.validation.rounding import (
    NO_GRID,
    ROUNDINGS,
    Array,
    Constant,
    FloatFormat,
    Leak,
    Sum,
    atom,
    constant,
    filtered,
    format_of,
    grid,
    rounded,
    total,
)

__all__ = ["Margins", "margins"]


@dataclass(frozen=True, eq=False)
class Margins:
    """A layer under the spikes of a run, all [B, T, *neurons].

    Attributes:
        membrane, level: v and A in float64; a read-out's level is infinite.
        free: not refractory, so that the comparison of v with A counts.
        membrane_bound: two runs differ in v by no more, and also where no sum rounds, if one of them writes its step
            otherwise: never zero. bound: nor in v - A; zero where no sum rounds; infinite where v and A depend on a
            comparison inside the step that rounding can decide.
    """

    membrane: Array
    level: Array
    free: NDArray[np.bool_]
    membrane_bound: Array
    bound: Array


def margins(
    network: Network, inputs: Tensor | Mapping[str, Tensor], spikes: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Margins]:
    """The bounds for runs in ``dtype`` that gave these spikes, for spiking layers and read-outs by name.

    Args:
        inputs: as of ``simulation.run``, as the runs had them.
        spikes: of every spiking layer, [B, T, *neurons].
    Raises: ConfigError: a layer's spikes are missing; a dtype that is neither float32 nor float64.
    """
    floats = format_of(dtype)
    if missing := set(network.spiking) - set(spikes):
        raise ConfigError(f"spikes: those of layer {', '.join(sorted(missing))} are missing")
    given = inputs_by_name(network, inputs)
    values: dict[str, Sum] = {}
    found = {}
    for name, layer in network.layers.items():
        if isinstance(layer, Input):
            values[name] = atom(_array(given[name]))
            continue
        arriving = [_late(values[edge.source], edge.delay) for edge in network.sources(name)]
        if isinstance(layer, Spiking):
            z = _array(spikes[name])
            values[name] = atom(z)
            if layer.recurrence is not None:
                back = _late(values[name], layer.recurrence.delay)
                arriving.append(_recurrent(back, layer.recurrence.effective, floats))
            found[name] = _neurons(total(arriving, floats), z, layer.dynamics, floats)
        elif isinstance(layer, Readout):
            found[name] = _readout(total(arriving, floats), layer, floats)
            values[name] = atom(found[name].membrane, found[name].membrane_bound / 2)
        else:
            values[name] = _between(total(arriving, floats), layer, floats)
    return found


def _array(x: Tensor) -> Array:
    return x.detach().cpu().double().numpy()


def _late(x: Sum, delay: int) -> Sum:
    if delay == 0:
        return x
    late = Sum(*(delayed(torch.from_numpy(np.ascontiguousarray(part)), delay).numpy() for part in x))
    return late._replace(grid=np.where(late.terms == 0, -np.inf, late.grid))


def _coarsest(*arrays: Array | None) -> float:
    """The grid on which all entries lie."""
    return max(float(grid(a).max()) for a in arrays if a is not None)


def _recurrent(z: Sum, weight: Array, floats: FloatFormat) -> Sum:
    if weight.ndim == 2:
        return _linear(z, weight, None, floats)
    value = z.value * weight
    return atom(value, rounded(np.zeros_like(value), np.abs(value), 1, grid(value), floats))


def _linear(x: Sum, weight: Array, bias: Array | None, floats: FloatFormat) -> Sum:
    present = x.size != 0
    value, size = x.value @ weight, x.size @ np.abs(weight)
    terms = present.astype(np.float64) @ (weight != 0)
    q = np.where(present, grid(x.value), -np.inf).max(-1, keepdims=True) + _coarsest(weight)
    if bias is not None:
        value, size, terms = value + bias, size + np.abs(bias), terms + (bias != 0)
        q = np.maximum(q, _coarsest(bias))
    q = np.broadcast_to(q, value.shape)
    return Sum(value, rounded(x.error @ np.abs(weight), size, terms, q, floats), size, terms, q)


def _between(x: Sum, layer: Layer, floats: FloatFormat) -> Sum:
    """A layer without state."""
    x = atom(x.value, x.error)
    if isinstance(layer, Linear):
        return _linear(x, layer.weight, layer.bias, floats)

    def through(array: Array, weight: Array | None = None, bias: Array | None = None) -> Array:
        w, b = (None if a is None else torch.tensor(a, dtype=torch.float64) for a in (weight, bias))
        return stateless(torch.from_numpy(np.ascontiguousarray(array)), layer, w, b, product).numpy()

    if isinstance(layer, Flatten):
        return Sum(*map(through, x))
    if isinstance(layer, Pool) and layer.how is Pooling.MAX:
        return atom(through(x.value), through(x.error))
    present = (x.size != 0).astype(np.float64)
    q = np.where(present, x.grid, -np.inf).max(tuple(range(2, present.ndim)), keepdims=True)
    if isinstance(layer, Conv):
        weight, bias = layer.weight, layer.bias
        size_bias, one = (None, None) if bias is None else (np.abs(bias), bias != 0)
        value, error = through(x.value, weight, bias), through(x.error, np.abs(weight))
        size, terms = through(x.size, np.abs(weight), size_bias), through(present, weight != 0, one)
        q = q + _coarsest(weight)
        q = q if bias is None else np.maximum(q, _coarsest(bias))
    elif isinstance(layer, Pool):
        value, error, size = through(x.value), through(x.error), through(x.size)
        n = int(np.prod(layer.window))
        terms = np.full_like(value, n)
        if layer.how is Pooling.MEAN:
            q = q + (np.log2(n) if n & (n - 1) == 0 else NO_GRID)
    else:
        raise ConfigError(f"{type(layer).__name__}: no bound on its rounding is known")
    q = np.broadcast_to(q, value.shape)
    return Sum(value, rounded(error, size, terms, q, floats), size, terms, q)


def _start(v_init: object, shape: tuple[int, ...], floats: FloatFormat) -> Sum:
    v = np.broadcast_to(np.asarray(v_init, np.float64), shape)
    return _converted(v, floats)


def _converted(value: Array, floats: FloatFormat) -> Sum:
    """A constant as a run has it."""
    return atom(value, rounded(np.zeros_like(value), np.abs(value), 0, grid(value), floats))


class _Current:
    """What drives the membrane, step by step, its gain included: what arrives, or the current of a synapse.

    The gain of the membrane is taken into the filter, gain i' = decay gain i + gain gain_s I: some write it so, and the
    bound holds for both.
    """

    def __init__(self, arriving: Sum, d: Dynamics | Readout, floats: FloatFormat) -> None:
        self.arriving, self.floats = arriving, floats
        self.leak = Leak(d.decay, d.gain if d.synapse is None else 1.0, d.rest, floats)
        self.synapse = d.synapse
        if d.synapse is not None:
            own, gain = constant(d.synapse.gain), constant(d.gain)
            self.decay = constant(d.synapse.decay)
            self.scale = Constant(own.value * gain.value, own.size * gain.size, own.grid + gain.grid)
        self.i = atom(np.zeros_like(arriving.value[:, 0]))

    def __call__(self, t: int) -> Sum:
        if self.synapse is None:
            return self.arriving.step(t)
        self.i = filtered(self.decay, self.i, self.scale, self.arriving.step(t), self.floats)
        return self.i


def _readout(arriving: Sum, d: Readout, floats: FloatFormat) -> Margins:
    current = _Current(arriving, d, floats)
    leak = current.leak
    v = _start(d.v_init, arriving.value[:, 0].shape, floats)
    reach, columns = v.size, []
    for t in range(arriving.value.shape[1]):
        u = current(t)
        v = leak(v, u)
        reach = np.maximum(reach, v.size + leak.gain.size * u.size)
        columns.append((v.value, _otherwise(v, reach, floats)))
    membrane, bound = (np.stack(column, 1) for column in zip(*columns, strict=True))
    return Margins(membrane, np.full_like(membrane, np.inf), np.zeros(membrane.shape, bool), bound, bound)


def _otherwise(v: Sum, reach: Array, floats: FloatFormat) -> Array:
    """The bound on v of two runs that may write their steps otherwise; ``reach``: the largest terms so far."""
    return 2 * np.maximum(v.error, ROUNDINGS * floats.u * reach)


class _Threshold:
    """The level A, step by step, under the spikes of the step before."""

    def __init__(self, d: Dynamics, shape: tuple[int, ...], floats: FloatFormat) -> None:
        self.floats = floats
        self.bare = self.level = _converted(np.broadcast_to(np.asarray(d.threshold, np.float64), shape).copy(), floats)
        self.adaptation: Adaptation | None = d.adaptation
        self.b = atom(np.zeros(shape))
        if d.adaptation is not None:
            self.decay, self.beta = constant(d.adaptation.decay), constant(d.adaptation.beta)

    def advance(self, z: Array) -> None:
        if self.adaptation is None:
            return
        decay, beta, b, fresh = self.decay, self.beta, self.b, self.adaptation.fresh_spike_decays
        value = decay.value * (b.value + z) if fresh else decay.value * b.value + z
        q = np.maximum(decay.grid + b.grid, np.where(z > 0, np.maximum(decay.grid, 0.0) if fresh else 0.0, -np.inf))
        self.b = b = atom(value, rounded(decay.value * b.error, b.size + z, 2, q, self.floats))
        size, q = self.bare.size + beta.size * b.size, np.maximum(self.bare.grid, beta.grid + b.grid)
        off = rounded(self.bare.error + beta.size * b.error, size, 2, q, self.floats)
        self.level = atom(self.bare.value + beta.value * b.value, off)


def _neurons(arriving: Sum, z: Array, d: Dynamics, floats: FloatFormat) -> Margins:
    shape = z[:, 0].shape
    current = _Current(arriving, d, floats)
    leak = current.leak
    threshold = _Threshold(d, shape, floats)
    v, before = _start(d.v_init, shape, floats), np.zeros(shape)
    silent, r = np.asarray(d.refractory.silent_steps), np.zeros(shape, np.int64)
    late = d.reset.when is When.NEXT_AFTER_INPUT
    reach, columns = v.size, []
    for t in range(z.shape[1]):
        r = np.where(before > 0, silent, np.maximum(r - 1, 0))
        old = threshold.level
        threshold.advance(before)
        due = threshold.bare
        if isinstance(d.reset, SubtractAdapted):
            due = old if d.reset.when is When.SAME_STEP else threshold.level
        w = _reset(v, before, due, d, floats)
        u = current(t)
        if not late:
            after = leak(w, u)
        elif isinstance(d.reset, ResetToValue):
            after = _reset(leak(v, u), before, due, d, floats)
        else:
            after = leak(v, u, _where(before, due))
        if d.refractory.frozen:
            after = Sum(*(np.where(r > 0, held, moved) for held, moved in zip(w, after, strict=True)))
        v, level = after, threshold.level
        bound = 2 * (v.error + level.error)
        if isinstance(d.reset, SubtractThresholdOnce):
            off = 2 * (w.error + threshold.bare.error)
            unsure = (off > 0) & (np.abs(w.value - threshold.bare.value) <= off)
            twice = d.comparison(w.value, threshold.bare.value).astype(np.float64)
            level = total([level, _where(twice, threshold.bare)], floats)
            bound = np.where(unsure, np.inf, 2 * (v.error + level.error))
        reach = np.maximum(reach, v.size + leak.gain.size * u.size)
        columns.append((v.value, level.value, r == 0, _otherwise(v, reach, floats), bound))
        before = z[:, t]
    return Margins(*(np.stack(np.broadcast_arrays(*column), 1) for column in zip(*columns, strict=True)))


def _where(z: Array, x: Sum) -> Sum:
    """z x for z of 0 and 1."""
    return Sum(z * x.value, z * x.error, z * x.size, z, np.where(z > 0, x.grid, -np.inf))


def _reset(v: Sum, z: Array, due: Sum, d: Dynamics, floats: FloatFormat) -> Sum:
    """The membrane after a reset."""
    if isinstance(d.reset, NoReset):
        return v
    if isinstance(d.reset, ResetToValue):
        value = _converted(np.broadcast_to(np.asarray(d.reset.v_reset, np.float64), z.shape).copy(), floats)
    else:
        taken = _where(z, due)
        off = rounded(v.error + taken.error, v.size + taken.size, 2, np.maximum(v.grid, taken.grid), floats)
        value = atom(v.value - taken.value, off)
    return Sum(*(np.where(z > 0, changed, kept) for changed, kept in zip(value, v, strict=True)))
