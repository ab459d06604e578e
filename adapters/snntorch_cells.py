"""snnTorch's neurons, and ``Cell``: one of them with what it does not do itself around it.

A neuron leaks, adds the recurrent spikes and compares; that is always snnTorch's code. Its own reset is one of
``meaning``; every other option of ``models.dynamics`` is a ``Cell``'s. Gradients do not pass a reset, as in snnTorch,
unless a ``Cell`` is told other ``paths``. Reference: snnTorch 1.0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    When,
)
from ovonic.models.errors import ToolchainError
from ovonic.models.lif import LIFState, Paths

__all__ = ["MECHANISMS", "STATES", "Cell", "Gain", "Spike", "is_bare", "load", "meaning", "states_of", "step"]

STATES = {
    "Leaky": ("mem",),
    "Lapicque": ("mem",),
    "RLeaky": ("spk", "mem"),
    "Synaptic": ("syn", "mem"),
    "RSynaptic": ("spk", "syn", "mem"),
}
"""The neurons known here, and the state that each takes and returns."""

MECHANISMS = (("subtract", True), ("subtract", False), ("zero", True), ("zero", False), ("none", True))
"""Every ``reset_mechanism`` with every ``reset_delay`` that matters."""


def load() -> Any:
    """The package snntorch.

    Raises: ToolchainError: it is not there.
    """
    try:
        import snntorch
    except ImportError as error:
        raise ToolchainError(f"snnTorch cannot be imported ({error}): pip install 'ovonic[snntorch]'") from error
    return snntorch


def states_of(module: nn.Module) -> tuple[str, ...]:
    """The states of a neuron known here; none of any other module."""
    kind = type(module)
    return STATES.get(kind.__name__, ()) if kind.__module__.split(".")[0] == "snntorch" else ()


def meaning(kind: str, mechanism: str, reset_delay: bool) -> Reset:
    """What a neuron's ``reset_mechanism`` and ``reset_delay`` do.

    ``RSynaptic`` resets with ``reset_delay=False`` a local copy that it drops: it resets as with ``True``.
    """
    if mechanism == "none":
        return NoReset()
    late = reset_delay or kind == "RSynaptic"
    if mechanism == "subtract":
        return SubtractThreshold() if late else SubtractThresholdOnce()
    return ResetToValue(0.0, _late_zero(kind) if late else When.SAME_STEP)


def _late_zero(kind: str) -> When:
    return When.NEXT_BEFORE_DECAY if kind == "Leaky" else When.NEXT_AFTER_INPUT


def step(layer: nn.Module, x: Tensor, state: LIFState | None) -> tuple[Tensor, LIFState]:
    """One step of a neuron or a ``Cell`` from a state (None: the initial one) for what arrives, [B, *neurons]."""
    if isinstance(layer, Cell):
        stepped: tuple[Tensor, LIFState] = layer(x, layer.initial_state(x) if state is None else state)
        return stepped
    if state is None:
        zero = torch.zeros_like(x)
        state = LIFState(zero, (zero,), i=zero)
    z, i, v = _advance(layer, x, state.past[0], state.i, state.v)
    return z, LIFState(v, (z,), i=i)


def _advance(neuron: nn.Module, x: Tensor, z: Tensor, i: Tensor | None, v: Tensor) -> tuple[Tensor, Any, Tensor]:
    """One forward of a neuron from the spikes that it feeds back, its current and its membrane: (z, i, v)."""
    names = STATES[type(neuron).__name__]
    given = {"spk": z, "syn": i, "mem": v}
    spikes, *states = neuron(x, **{name: given[name] for name in names})
    found = dict(zip(names[-len(states) :], states, strict=True))
    return spikes, found.get("syn"), found["mem"]


@dataclass(frozen=True)
class Spike:
    """The ``spike_grad`` of a neuron: spikes by > or >= in the membrane's dtype, with the slope of a surrogate."""

    surrogate: Callable[[Tensor], Tensor]
    comparison: Comparison = Comparison.GREATER

    def __call__(self, above: Tensor) -> Tensor:
        spikes: Tensor = self.comparison(above, 0).to(above.dtype)
        if not above.requires_grad:
            return spikes
        sloped = self.surrogate(above).to(above.dtype)
        return sloped - sloped.detach() + spikes


class Gain(nn.Module):
    """The gains of a membrane and its synapse; as a parametrization of recurrent weights, [out, in], it scales them."""

    def __init__(self, membrane: Tensor, synapse: Tensor) -> None:
        super().__init__()
        self.register_buffer("membrane", membrane)
        self.register_buffer("synapse", synapse)

    @property
    def total(self) -> Tensor:
        """Their product: what a neuron's input is multiplied by."""
        return self.membrane * self.synapse  # type: ignore[operator]

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.total.unsqueeze(-1) if weight.ndim == 2 and self.total.ndim else self.total)


class Cell(nn.Module):
    """A snnTorch neuron with ``reset_mechanism="none"``, and around it what it does not do itself.

    The equations are those of ``models.dynamics``; what is absent (None) has no buffer. Numbers are buffers, so that
    they follow ``.to``; the neuron's own beta, alpha, threshold, recurrent weights and ``spike_grad`` are read where
    they stand. What ``subtracts_input`` takes a late reset from what arrives, which is the same without a synapse; what
    ``fires_itself`` needs no second comparison after the neuron's own. ``paths``: where gradient flows back from a
    spike.
    """

    def __init__(
        self,
        neuron: nn.Module,
        number: Callable[[Any], Tensor],
        dynamics: Mapping[str, Any],
        delay: int = 1,
    ) -> None:
        super().__init__()
        self.neuron, self.delay = neuron, delay
        self.paths = Paths(reset=False)
        reset: Reset = dynamics.get("reset", NoReset())
        refractory: Refractory = dynamics.get("refractory", Refractory())
        adaptation: Adaptation | None = dynamics.get("adaptation")
        self.reset, self.when, self.frozen = type(reset), reset.when, refractory.frozen
        self.fresh_spike_decays = adaptation is not None and adaptation.fresh_spike_decays
        synapse = dynamics["synapse"]
        self.late = self.when is When.NEXT_AFTER_INPUT
        self.subtracts_input = self.late and self.reset is not ResetToValue and synapse is None
        self.fires_itself = (self.subtracts_input or not self.late) and not (
            self.frozen or adaptation is not None or np.any(dynamics["rest"])
        )
        gains = dynamics["gain"], 1.0 if synapse is None else synapse.gain
        self.gain = None if all(_is(gain, 1.0) for gain in gains) else Gain(*map(number, gains))
        silent = torch.tensor(refractory.silent_steps, dtype=torch.int16) if np.any(refractory.silent_steps) else None
        for name, value in {
            "rest": None if _is(dynamics["rest"], 0.0) else number(dynamics["rest"]),
            "v_init": None if _is(dynamics["v_init"], 0.0) else number(dynamics["v_init"]),
            "v_reset": number(reset.v_reset) if isinstance(reset, ResetToValue) else None,
            "silent_steps": silent,
            "adaptation_decay": None if adaptation is None else number(adaptation.decay),
            "adaptation_beta": None if adaptation is None else number(adaptation.beta),
        }.items():
            self.register_buffer(name, value)
        recurrent: Any = getattr(neuron, "recurrent", None)
        if self.gain is not None and recurrent is not None:
            part = "weight" if isinstance(recurrent, nn.Linear) else "V"
            parametrize.register_parametrization(recurrent, part, self.gain)

    def forward(self, x: Tensor, state: LIFState) -> tuple[Tensor, LIFState]:
        """One step: what arrives [B, *neurons] -> spikes and state; its ``v`` is the membrane before the reset."""
        c: Any = self
        fed, z, start = state.past[-1], state.past[0], state.v
        drive = x if c.gain is None else c.gain.total * x
        b, level, due = self._adapted(state)
        if not self.paths.recurrent:
            fed = fed.detach()
        if not self.paths.reset:
            z = z.detach()
        if self.subtracts_input:
            drive = drive - z * due
        elif not self.late:
            start = self._reset(start, z, due)
        spikes, i, v = _advance(c.neuron, drive, fed, state.i, start)
        if c.rest is not None:
            v = v + (1 - c.neuron.beta.clamp(0, 1)) * c.rest
        if self.late and not self.subtracts_input:
            v = self._reset(v, z, due)
        r = None if state.r is None else torch.maximum(state.r - 1, z.detach() * c.silent_steps)
        if self.frozen and r is not None:
            v = torch.where(r > 0, self._reset(start, z, due) if self.late else start, v)
        if self.reset is SubtractThresholdOnce:
            v_test = v - c.neuron.threshold * c.neuron.mem_reset(start)
            spikes = c.neuron.fire(v_test if level is None else v_test - level)
        elif not self.fires_itself:
            spikes = c.neuron.fire(v if level is None else v - level)
        spikes = spikes if r is None else spikes * (r == 0)
        return spikes, LIFState(v, (spikes, *state.past[:-1]), r, b, i)

    def initial_state(self, like: Tensor) -> LIFState:
        """The state before the first step, for what arrives such as ``like``."""
        c: Any = self
        zero = torch.zeros_like(like)
        return LIFState(
            zero if c.v_init is None else zero + c.v_init,
            (zero,) * self.delay,
            None if c.silent_steps is None else zero,
            None if c.adaptation_decay is None else zero,
            zero,
        )

    def _adapted(self, state: LIFState) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """The adaptation b, the height that it adds to the threshold, and what a reset subtracts."""
        c: Any = self
        if state.b is None:
            return None, None, c.neuron.threshold
        z = state.past[0] if self.paths.adaptation else state.past[0].detach()
        b = c.adaptation_decay * (state.b + z) if self.fresh_spike_decays else c.adaptation_decay * state.b + z
        height = c.adaptation_beta * b
        level = height if self.paths.threshold else height.detach()
        if self.reset is not SubtractAdapted:
            return b, level, c.neuron.threshold
        spent = c.adaptation_beta * state.b if self.when is When.SAME_STEP else height
        return b, level, c.neuron.threshold + (spent if self.paths.reset else spent.detach())

    def _reset(self, v: Tensor, z: Tensor, due: Tensor) -> Tensor:
        if self.reset is NoReset:
            return v
        v_reset: Any = self.v_reset
        return (1 - z) * v + z * v_reset if self.reset is ResetToValue else v - z * due


def is_bare(values: Mapping[str, Any]) -> bool:
    """Nothing of rest, gains and initial membrane that a snnTorch neuron has not."""
    synapse = values["synapse"]
    numbers = (values["gain"], 1.0), (values["rest"], 0.0), (values["v_init"], 0.0)
    return all(_is(*pair) for pair in numbers) and (synapse is None or _is(synapse.gain, 1.0))


def _is(value: Any, number: float) -> bool:
    """The same bits: -0.0 is not 0.0."""
    return isinstance(value, float) and value.hex() == number.hex()
