"""What snnTorch 1.0 makes of NIR: its habits as a convention to read by, and as the form that it imports.

    NIR                           snnTorch 1.0.0                                    note
    LIF                           Leaky of beta = 1 - dt/tau, dt = 1e-4 s           written: tau = dt/(1 - beta)
    r                             1 if r dt/tau is; else thresholds are divided     written: tau/dt
    CubaLIF                       Synaptic of alpha = 1 - dt/tau_syn, and beta
    LIF or CubaLIF on a cycle     RLeaky, RSynaptic
    v_reset                       0, whatever ``reset_mechanism`` is                so the reset has to be told
    v_leak                        0, else its import stops

Known of its import: it sends the drive of a layer through W_rec wherever a neuron and a Linear read each other, so
that no recurrent network comes back; it makes an IF a Leaky of beta 0.9 that subtracts; it hands NIR's Flatten
to torch, which counts the batch. Lost in its export, and not to be seen: ``inhibition``, ``state_quant``, spikes
that are graded, the padding of AvgPool2d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovonic.adapters.nir_conventions import Convention, Shape, Values, positive
from ovonic.adapters.nir_graph import Node
from ovonic.models.dynamics import (
    NoReset,
    Reset,
    ResetToValue,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
    When,
)
from ovonic.models.errors import DataError

__all__ = ["DT_S", "Snntorch10"]

DT_S = 1e-4
"""The step that snnTorch's import and export take for granted, s."""


@dataclass(frozen=True)
class Snntorch10(Convention):
    """Graphs as snnTorch 1.0.0 writes them (``export_to_nir``), and as its import takes them.

    dt: 0.1 ms, fixed. LIF: decay = 1 - dt/tau, gain 1, rest 0, v = 0 before the first step; where r dt/tau is not 1 (to
    1e-5), the threshold is divided by it, as the import does, and the membrane is in that unit. CubaLIF: the current
    i = (1 - dt/tau_syn) i + S, likewise with w_in dt/tau_syn; r must be tau_mem/dt. All in the file's own type
    (float32). v_leak must be 0. Reset: told, as ``reset_mechanism`` and ``reset_delay`` (its default is True; what it
    does differs between Leaky, RLeaky and Synaptic; RSynaptic ignores False). Its import takes zero-same-step.
    """

    name: ClassVar[str] = "snntorch-1.0"
    versions: ClassVar[str] = "snnTorch 1.0.0, nir 1.0.8"
    usual_dt_ms: ClassVar[float | None] = 0.1
    fixed_dt: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = (
        *("Input", "Output", "Linear", "Affine", "Conv1d", "Conv2d", "AvgPool2d", "SumPool2d", "Flatten"),
        *("LIF", "CubaLIF"),
    )
    resets: ClassVar[Mapping[str, str]] = {
        "subtract": "reset_mechanism='subtract', with its default reset_delay=True",
        "zero": "reset_mechanism='zero', with its default reset_delay=True",
        "none": "reset_mechanism='none'",
        "subtract-same-step": "reset_mechanism='subtract', reset_delay=False",
        "zero-same-step": "reset_mechanism='zero', reset_delay=False",
    }

    def membrane(self, name: str, node: Node, shape: Shape) -> dict[str, Any]:
        if self.number(name, node, "v_leak", shape).any():
            raise DataError(f"node {name!r}: v_leak must be 0: snnTorch's neurons decay to 0 (nir-euler reads others)")
        threshold = self.number(name, node, "v_threshold", shape)
        if node.kind == "LIF":
            decay, scale = self.decays(name, node, "tau", "r", shape)
            return {"decay": decay, "threshold": _divided(threshold, scale)}
        decay, scale = self.decays(name, node, "tau_mem", "r", shape)
        if not np.allclose(scale, 1):
            raise DataError(f"node {name!r}: r must be tau_mem/dt: snnTorch 1.0 knows no other (nir-euler reads it)")
        alpha, scale = self.decays(name, node, "tau_syn", "w_in", shape)
        return {"decay": decay, "threshold": _divided(threshold, scale), "synapse": Synapse(alpha)}

    def decays(self, name: str, node: Node, field: str, r: str, shape: Shape) -> tuple[Values, Values]:
        """1 - dt/tau, and the scale of the input r dt/tau, in the file's own type."""
        tau = positive(name, field, self.number(name, node, field, shape))
        if (tau < DT_S * (1 - 1e-6)).any():
            raise DataError(f"node {name!r}: {field} {tau.min():.9g} s is less than snnTorch's step of {DT_S} s")
        factor = self.number(name, node, r, shape) if r in node.fields else np.ones(shape)
        if not (factor > 0).all():
            raise DataError(f"node {name!r}: {r} must be positive: snnTorch divides thresholds by it")
        return np.clip(1 - DT_S / tau, 0, 1), factor * DT_S / tau

    def resets_by(self, name: str, node: Node, shape: Shape, recurrent: bool) -> Reset:
        if self.reset is None:
            raise self.asked(name, "snnTorch writes v_reset 0 whatever its reset")
        if isinstance(self.reset, Reset):
            return self.reset
        mechanism, _, now = self.reset.partition("-")
        synaptic = node.kind == "CubaLIF"
        late = not now or (recurrent and synaptic)
        if mechanism == "none":
            return NoReset()
        if mechanism == "subtract":
            return SubtractThreshold() if late else SubtractThresholdOnce()
        after = When.NEXT_AFTER_INPUT if recurrent or synaptic else When.NEXT_BEFORE_DECAY
        return ResetToValue(0.0, after if late else When.SAME_STEP)


def _divided(threshold: Values, scale: Values) -> Values:
    return threshold if np.allclose(scale, 1) else threshold / scale
