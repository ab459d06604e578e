"""Leaky integrate-and-fire neurons on tensors: one step as a pure function of ``Dynamics``, a loop over time, a module.

The equations are those of ``models.dynamics``; here is what carries gradient. Forward, a spike is exact; backward it
has the slope of a surrogate, which is zero where the neuron is refractory. The paths a gradient may take from a spike
are a choice (``Paths``):

    recurrent    z[t-d] W in the input
    reset        z[t-1] and the threshold it subtracts
    adaptation   z[t-1] in b[t]
    threshold    z[t] falls with its own threshold A[t] (without adaptation there is nothing to pass)

``EPROP`` takes the first two away: then reverse-mode differentiation gives e-prop's gradient (Bellec et al. 2020).
``PUBLISHED`` takes the last away, as the published learning-signal generator does (Ortner et al. 2025).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ovonic.models.dynamics import Dynamics, SubtractThresholdOnce, When
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Readout, Spiking
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate, straight_through
from ovonic.models.trace import LayerTrace

__all__ = [
    "ALL_PATHS",
    "EPROP",
    "LIF",
    "PUBLISHED",
    "LIFState",
    "Paths",
    "constants",
    "initial_state",
    "leak",
    "masked",
    "product",
    "pseudo_derivative",
    "silence",
    "step",
    "unroll",
]


@dataclass(frozen=True)
class Paths:
    """The paths by which gradient flows back from a spike (see the module's text)."""

    recurrent: bool = True
    reset: bool = True
    adaptation: bool = True
    threshold: bool = True


ALL_PATHS = Paths()
EPROP = Paths(recurrent=False, reset=False)
PUBLISHED = Paths(threshold=False)


class LIFState(NamedTuple):
    """What a layer carries from step to step, each [B, *neurons].

    v: membrane before the reset. past: spikes of the last steps, newest first, as many as the recurrent delay.
    r: silent steps left, int16; b: adaptation; both as they held at the last comparison. i: synaptic current. None is
    absent.
    """

    v: Tensor
    past: tuple[Tensor, ...]
    r: Tensor | None = None
    b: Tensor | None = None
    i: Tensor | None = None


@functools.lru_cache(maxsize=256)
def constants(description: Dynamics | Readout, dtype: torch.dtype, device: torch.device) -> Any:
    """The description with tensors for arrays; made outside inference mode, since autograd will meet them again."""

    def tensor(array: Any) -> Tensor:
        with torch.inference_mode(False):
            return torch.tensor(array, dtype=dtype if array.dtype.kind == "f" else torch.int16, device=device)

    return description.map_arrays(tensor)


def initial_state(like: Tensor, dynamics: Dynamics, delay: int = 1) -> LIFState:
    """The state before the first step, for currents such as ``like`` [B, *neurons]: v = v_init, all else zero."""
    d = constants(dynamics, like.dtype, like.device)
    zero = torch.zeros_like(like)
    return LIFState(
        zero + d.v_init,
        (zero,) * delay,
        zero.to(torch.int16) if _any(d.refractory.silent_steps) else None,
        None if d.adaptation is None else zero,
        None if d.synapse is None else zero,
    )


def step(
    current: Tensor,
    state: LIFState,
    dynamics: Dynamics,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = ALL_PATHS,
) -> tuple[Tensor, LIFState]:
    """One step of ``models.dynamics``.

    Args:
        current: I[t], all that arrives, feed-forward and recurrent, [B, *neurons], any floating dtype.
        state: of the step before, or ``initial_state``.
        dynamics: the description; its numbers are taken in the current's dtype.
        surrogate: slope of a spike; paths: where gradient flows.
    Returns: the spikes z[t], 0 or 1 in the current's dtype, and the state.
    """
    d = constants(dynamics, current.dtype, current.device)
    z = state.past[0]
    i = None if state.i is None else d.synapse(state.i, current)
    r: Any = None if state.r is None else torch.where(z > 0, d.refractory.silent_steps, (state.r - 1).clamp(min=0))
    b = None if state.b is None else d.adaptation(state.b, z if paths.adaptation else z.detach())
    level = d.adapted(b)

    due = d.adapted(state.b) if d.reset.when is When.SAME_STEP else level
    z_reset, due = (z, due) if paths.reset else (z.detach(), _detached(due))
    reset = functools.partial(d.reset, z=z_reset, threshold=d.threshold, adapted=due)
    late = d.reset.when is When.NEXT_AFTER_INPUT
    before = state.v if late else reset(state.v)
    v = leak(before, current if i is None else i, d)
    v = reset(v) if late else v
    if d.refractory.frozen:
        v = torch.where(r > 0, reset(state.v) if late else before, v)

    if isinstance(d.reset, SubtractThresholdOnce):
        level = level + d.threshold * d.comparison(before, d.threshold).to(v.dtype)
    z = _fire(v, level, r, d, surrogate, paths)
    return z, LIFState(v, (z, *state.past[:-1]), r, b, i)


def unroll(
    currents: Tensor,
    dynamics: Dynamics,
    recurrent: Callable[[Tensor], Tensor] | Tensor | None = None,
    delay: int = 1,
    state: LIFState | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = ALL_PATHS,
) -> tuple[LayerTrace, LIFState]:
    """Run a layer: I[t] = currents[t] + recurrent(z[t - delay]).

    Args:
        currents: what arrives from other layers, [B, T, *neurons].
        recurrent: the recurrent weights as ``product`` takes them, or the product with them, z -> [B, *neurons]; None
            is no recurrence.
        delay: steps from a spike to its recurrent effect, at least 1.
        state: to go on from; its ``past`` holds ``delay`` steps.
    Returns: the trace, and the state after the last step.
    """
    state = initial_state(currents[:, 0], dynamics, delay) if state is None else state
    feed = functools.partial(product, weight=recurrent) if isinstance(recurrent, Tensor) else recurrent
    states = []
    for current in currents.unbind(1):
        if feed is not None:
            fed = state.past[-1]
            current = current + feed(fed if paths.recurrent else fed.detach())
        _, state = step(current, state, dynamics, surrogate, paths)
        states.append(state)

    def stacked(name: str) -> Tensor | None:
        values = [getattr(state, name) for state in states]
        return None if values[0] is None else torch.stack(values, 1)

    spikes, membrane = torch.stack([s.past[0] for s in states], 1), torch.stack([s.v for s in states], 1)
    return LayerTrace(spikes, membrane, stacked("r"), stacked("b")), state


def leak(v: Tensor, u: Tensor, d: Dynamics | Readout) -> Tensor:
    """rest + decay (v - rest) + gain u."""
    c: Any = d
    at_zero = isinstance(c.rest, float) and c.rest == 0
    kept = c.decay * v if at_zero else c.rest + c.decay * (v - c.rest)
    return kept + (u if isinstance(c.gain, float) and c.gain == 1 else c.gain * u)


def product(z: Tensor, weight: Tensor) -> Tensor:
    """z W for W [in, out], or [B, in, out], one a sample; z * w for w [n]."""
    if weight.ndim == 1:
        return z * weight
    if weight.ndim == 3 and z.ndim == 2:
        return torch.bmm(z.unsqueeze(1), weight).squeeze(1)
    return z @ weight


def masked(weight: Tensor) -> Tensor:
    """The matrix, or one a sample, with a zero diagonal."""
    return weight * (1 - torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device))


def pseudo_derivative(trace: LayerTrace, dynamics: Dynamics, surrogate: Surrogate = PUBLISHED_SLOPE) -> Tensor:
    """The slope dz/dv of every spike of a run, zero while refractory, [B, T, *neurons]; differentiable.

    Raises: ConfigError: ``SubtractThresholdOnce``, whose level a trace does not hold.
    """
    if isinstance(dynamics.reset, SubtractThresholdOnce):
        raise ConfigError("pseudo_derivative: under SubtractThresholdOnce the level of a spike is not in its trace")
    d: Any = constants(dynamics, trace.membrane.dtype, trace.membrane.device)
    slope = surrogate(trace.membrane - d.adapted(trace.adaptation), d.threshold - d.rest)
    return slope if trace.refractory is None else slope * (trace.refractory == 0)


def silence(spikes: Tensor, silent_steps: Any) -> Tensor:
    """The refractory counter r of a run, int16, as its spikes [B, T, *neurons] determine it.

    Args: silent_steps: of ``Refractory``, one number or one a neuron.
    """
    silent = torch.as_tensor(np.array(silent_steps), dtype=torch.int16, device=spikes.device)
    r = torch.zeros_like(spikes[:, 0], dtype=torch.int16)
    counters = []
    for z in torch.cat([torch.zeros_like(spikes[:, :1]), spikes[:, :-1]], 1).unbind(1):
        r = torch.where(z > 0, silent, (r - 1).clamp(min=0))
        counters.append(r)
    return torch.stack(counters, 1)


class LIF(nn.Module):
    """A spiking layer with learnable recurrent weights: ``unroll`` as a module.

    Args:
        layer: the description.
        surrogate, paths: of ``step``.
        dtype: of the weights.
    """

    def __init__(
        self,
        layer: Spiking,
        surrogate: Surrogate = PUBLISHED_SLOPE,
        paths: Paths = ALL_PATHS,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.layer, self.surrogate, self.paths = layer, surrogate, paths
        self.weight: nn.Parameter | None = None
        if layer.recurrence is not None:
            self.weight = nn.Parameter(torch.tensor(layer.recurrence.weight, dtype=dtype))

    def forward(self, currents: Tensor, state: LIFState | None = None) -> tuple[LayerTrace, LIFState]:
        """Currents [B, T, *neurons] -> the trace and the state after the last step."""
        recurrence, recurrent, delay = self.layer.recurrence, None, 1
        if self.weight is not None and recurrence is not None:
            weight = masked(self.weight) if recurrence.masked_diagonal else self.weight
            recurrent, delay = functools.partial(product, weight=weight), recurrence.delay
        return unroll(currents, self.layer.dynamics, recurrent, delay, state, self.surrogate, self.paths)


def _fire(v: Tensor, level: Any, r: Tensor | None, d: Any, surrogate: Surrogate, paths: Paths) -> Tensor:
    free = None if r is None else r == 0
    fires = d.comparison(v, level)
    z = (fires if free is None else fires & free).to(v.dtype)
    x = v - (level if paths.threshold else _detached(level))
    if not x.requires_grad:
        return z
    with torch.no_grad():
        slope = surrogate(x, d.threshold - d.rest)
        slope = slope if free is None else slope * free
    return straight_through(x, z, slope)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _any(steps: Any) -> bool:
    return bool(steps.any()) if isinstance(steps, Tensor) else steps > 0
