"""Cells of Norse's own parts: ``Cell``, spiking neurons of any ``models.dynamics``; ``Integrator``, a leaky read-out.

A cell is called as Norse's are, ``z, state = cell(x, state)``, and stands in a ``SequentialState`` or a ``Lift`` as
they do. The numerics of a step are Norse's functions:

    leak, of membrane, current and adaptation    li_box_feed_forward_step      v + dt tau_mem_inv (v_leak - v + x)
    a spike and its slope                        threshold                     ``method``, ``alpha``
    resets                                       reset_value, reset_subtract; after the input by v - z threshold

with dt = 1 and tau_mem_inv = 1 - decay, so that no division blurs a decay. Norse scales inputs by 1 - decay; where a
gain is another, the leak runs without input and gain * x is added. Gradients pass resets and recurrence, as in
``lif_box_feed_forward_step``, unless a cell is told other ``paths``. A spike by >= is one by > above the next smaller
float.

Reference: Norse 1.1.0.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.torch_layers import Hollow
from ovonic.models.dynamics import (
    Comparison,
    NoReset,
    ResetToValue,
    SubtractAdapted,
    SubtractThresholdOnce,
    Synapse,
    When,
)
from ovonic.models.errors import ToolchainError
from ovonic.models.layers import Readout, Spiking
from ovonic.models.lif import ALL_PATHS, LIFState

__all__ = ["Cell", "Integrator", "load"]


@functools.cache
def load() -> SimpleNamespace:
    """``torch``, the package norse.torch, and the functions that cells are made of.

    Raises: ToolchainError: Norse is not there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's, of torch.jit.script, which Norse 1.1 uses
            import norse.torch
            from norse.torch.functional.threshold import threshold
    except ImportError as error:
        raise ToolchainError(f"Norse cannot be imported ({error}): pip install 'ovonic[norse]'") from error
    f = norse.torch
    return SimpleNamespace(
        torch=f,
        threshold=threshold,
        leak=f.li_box_feed_forward_step,
        State=f.LIBoxState,
        Parameters=f.LIBoxParameters,
        reset_value=f.reset_value,
        reset_subtract=f.reset_subtract,
    )


class _Leaky(nn.Module):
    """What spiking neurons and read-outs share: membrane and synaptic current.

    Numbers are buffers, so that they follow ``.to`` and travel in a ``state_dict``; None is absent. Where the gain is
    1 - decay, Norse's own scale, ``leak`` holds that gain; elsewhere ``decay`` and ``gain`` are apart.
    """

    def __init__(self, values: Any, number: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.leaks: dict[str, Tensor] = {}
        synapse: Synapse | None = values.synapse
        own = _same(1.0 - values.gain, values.decay)
        for name, value in {
            "leak": values.gain if own else None,
            "decay": None if own else values.decay,
            "gain": None if own or _same(values.gain, 1.0) else values.gain,
            "rest": None if _same(values.rest, 0.0) else values.rest,
            "v_init": None if _same(values.v_init, 0.0) else values.v_init,
            "synapse_decay": None if synapse is None else synapse.decay,
            "synapse_gain": None if synapse is None or _same(synapse.gain, 1.0) else synapse.gain,
        }.items():
            self.register_buffer(name, None if value is None else number(value))
        self.register_buffer("zero", number(0.0), persistent=False)

    def current(self, i: Tensor, x: Tensor) -> Tensor:
        """The synaptic current of this step: decay i + gain x."""
        c: Any = self
        kept = self._leaked(i, c.zero, self._leak("synapse_decay"), c.zero)
        return kept + (x if c.synapse_gain is None else c.synapse_gain * x)

    def membrane(self, v: Tensor, u: Tensor) -> Tensor:
        """rest + decay (v - rest) + gain u."""
        c: Any = self
        rest = c.zero if c.rest is None else c.rest
        if c.leak is not None:
            return self._leaked(v, u, c.leak, rest)
        kept = self._leaked(v, c.zero, self._leak("decay"), rest)
        return kept + (u if c.gain is None else c.gain * u)

    def start(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Membrane and current before the first step."""
        c: Any = self
        zero = torch.zeros_like(like)
        return zero if c.v_init is None else zero + c.v_init, None if c.synapse_decay is None else zero

    def freeze(self) -> None:
        """From now on look numbers up at once and compute 1 - decay no more: for a run in which nothing changes."""
        numbers = {name: value for name, value in self._buffers.items() if value is not None}
        self.leaks = {name: 1 - value for name, value in numbers.items() if name.endswith("decay")}
        vars(self).update(self._buffers)

    def _leak(self, decay: str) -> Tensor:
        leak: Tensor = self.leaks[decay] if decay in self.leaks else 1 - getattr(self, decay)
        return leak

    @staticmethod
    def _leaked(v: Tensor, x: Tensor, leak: Tensor, rest: Tensor) -> Tensor:
        norse = load()
        leaked: Tensor = norse.leak(x, norse.State(v), norse.Parameters(leak, rest), 1.0)[0]
        return leaked


class Integrator(_Leaky):
    """A leaky read-out: what it gives is its membrane."""

    def __init__(self, layer: Readout, number: Callable[[Any], Tensor]) -> None:
        super().__init__(layer, number)

    def forward(self, x: Tensor, state: LIFState | None = None) -> tuple[Tensor, LIFState]:
        """One step: what arrives [B, *neurons] -> membrane and state."""
        v, i = self.start(x) if state is None else (state.v, state.i)
        if i is not None:
            i = x = self.current(i, x)
        v = self.membrane(v, x)
        return v, LIFState(v, (), i=i)


class Cell(_Leaky):
    """Spiking neurons.

    Attributes:
        recurrent_weights: [out, in] as Norse keeps them, or [n], each neuron on itself; None without recurrence. A
            masked diagonal is a parametrization (``Hollow``): the weights under it stay as they are, which Norse's
            ``autapses=False`` overwrites.
        delay: of the recurrence. method, alpha: of Norse's ``threshold``; or ``fire``, v - A -> z, in its place.
        paths: where gradient flows back from a spike.
    """

    def __init__(
        self,
        layer: Spiking,
        number: Callable[[Any], Tensor],
        method: str = "super",
        alpha: float = 100.0,
    ) -> None:
        d, recurrence = layer.dynamics, layer.recurrence
        super().__init__(d, number)
        self.method, self.alpha, self.comparison, self.paths = method, alpha, d.comparison, ALL_PATHS
        self.fire: Callable[[Tensor], Tensor] | None = None
        self.reset, self.when, self.frozen = type(d.reset), d.reset.when, d.refractory.frozen
        self.fresh_spike_decays = d.adaptation is not None and d.adaptation.fresh_spike_decays
        self.register_buffer("threshold", number(d.threshold))
        self.register_buffer("v_reset", number(d.reset.v_reset) if isinstance(d.reset, ResetToValue) else None)
        steps = d.refractory.silent_steps
        self.register_buffer("silent_steps", torch.tensor(steps, dtype=torch.int16) if np.any(steps) else None)
        for part in ("decay", "beta"):
            value = None if d.adaptation is None else number(getattr(d.adaptation, part))
            self.register_buffer(f"adaptation_{part}", value)
        self.delay, self.recurrent_weights = 1, None
        if recurrence is not None:
            self.delay, self.recurrent_weights = recurrence.delay, nn.Parameter(number(recurrence.weight.T))
            if recurrence.masked_diagonal:
                parametrize.register_parametrization(self, "recurrent_weights", Hollow())

    def forward(self, x: Tensor, state: LIFState | None = None) -> tuple[Tensor, LIFState]:
        """One step: what arrives [B, *neurons] -> spikes and state; its ``v`` is the membrane before the reset."""
        c: Any = self
        state = self.initial_state(x) if state is None else state
        z, weights = state.past[0], c.recurrent_weights
        if weights is not None:
            fed = state.past[-1] if self.paths.recurrent else state.past[-1].detach()
            x = x + (F.linear(fed, weights) if weights.ndim == 2 else fed * weights)
        i = None if state.i is None else self.current(state.i, x)
        r = None if state.r is None else torch.where(z > 0, c.silent_steps, (state.r - 1).clamp(min=0))
        b = None if state.b is None else self._adaptation(state.b, z if self.paths.adaptation else z.detach())

        level = due = c.threshold
        if b is not None:
            level = c.threshold + c.adaptation_beta * b
            if c.reset is SubtractAdapted:
                due = c.threshold + c.adaptation_beta * state.b if c.when is When.SAME_STEP else level
        if not self.paths.reset:
            z, due = z.detach(), due.detach()
        late = c.when is When.NEXT_AFTER_INPUT
        after = state.v if late and not c.frozen else self._reset(state.v, z, due)
        start = state.v if late else after
        v = self.membrane(start, x if i is None else i)
        if late:
            v = self._reset(v, z, due) if c.reset is ResetToValue else v - z * due
        if c.frozen and r is not None:
            v = torch.where(r > 0, after, v)

        if c.reset is SubtractThresholdOnce:
            level = level + c.threshold * self._spikes(start.detach(), c.threshold, "heaviside")
        z = self._spikes(v, level if self.paths.threshold else level.detach(), c.method)
        z = z if r is None else z * (r == 0)
        return z, LIFState(v, (z, *state.past[:-1]), r, b, i)

    def initial_state(self, like: Tensor) -> LIFState:
        """The state before the first step, for what arrives such as ``like``."""
        c: Any = self
        zero = torch.zeros_like(like)
        v, i = self.start(like)
        r = None if c.silent_steps is None else zero.to(torch.int16)
        return LIFState(v, (zero,) * self.delay, r, None if c.adaptation_beta is None else zero, i)

    def _adaptation(self, b: Tensor, z: Tensor) -> Tensor:
        c: Any = self
        raised = b + z if c.fresh_spike_decays else b
        b = self._leaked(raised, c.zero, self._leak("adaptation_decay"), c.zero)
        return b if c.fresh_spike_decays else b + z

    def _spikes(self, v: Tensor, level: Tensor, method: str) -> Tensor:
        if self.comparison is Comparison.GREATER_EQUAL:
            below = torch.nextafter(level.detach(), level.new_tensor(-torch.inf))
            level = level + (below - level).detach()
        if self.fire is not None:
            return self.fire(v - level)
        spikes: Tensor = load().threshold(v - level, method, self.alpha)
        return spikes

    def _reset(self, v: Tensor, z: Tensor, due: Tensor) -> Tensor:
        if self.reset is NoReset:
            return v
        reset = load().reset_value if self.reset is ResetToValue else load().reset_subtract
        after: Tensor = reset(z, v, self.v_reset, due)
        return after


def _same(a: Any, b: Any) -> bool:
    """The same bits, -0.0 is not 0.0, in the same shape."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return bool(a.shape == b.shape and a.tobytes() == b.tobytes())
