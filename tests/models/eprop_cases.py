"""Every kind of dynamics in a network of two inputs and a recurrence, with spikes to feed it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    Synapse,
    When,
)
from ovonic.models.eligibility import EPROP_FIXED_THRESHOLD
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.lif import EPROP
from ovonic.models.network import Network
from ovonic.models.trace import Trace

N, T, B = 12, 60, 3
A = math.exp(-1 / 20)
SPREAD = np.linspace(0.8, 1.2, N)
ADAPTS = Adaptation(0.97, np.where(np.arange(N) % 3, 0.4, 0.0))
DYNAMICS = {
    "lif": Dynamics(A, 0.6),
    "lif, refractory": Dynamics(A, 0.6, refractory=Refractory(3)),
    "lif, own constants": Dynamics(SPREAD - 0.25, 0.6 * SPREAD, SPREAD, -0.1, 0.2, refractory=Refractory(np.arange(N))),
    "lif, no reset, >=": Dynamics(A, 0.6, reset=NoReset(), comparison=Comparison.GREATER_EQUAL),
    "lif, frozen": Dynamics(A, 0.6, refractory=Refractory(2, frozen=True)),
    "lif, frozen, same step": Dynamics(A, 0.6, refractory=Refractory(2, True), reset=SubtractThreshold(When.SAME_STEP)),
    "lif, synapse": Dynamics(A, 0.6, synapse=Synapse(0.8, 0.5)),
    "lif, synapse, own": Dynamics(A, 0.6, synapse=Synapse(SPREAD - 0.4, SPREAD), reset=ResetToValue(0.0)),
    "alif": Dynamics(A, 0.6, adaptation=ADAPTS),
    "alif, refractory": Dynamics(A, 0.6, adaptation=ADAPTS, refractory=Refractory(4)),
    "alif, fresh spike decays": Dynamics(A, 0.6, adaptation=Adaptation(0.9, 0.3, True), refractory=Refractory(1)),
    "alif, synapse": Dynamics(A, 0.6, adaptation=ADAPTS, synapse=Synapse(0.7), refractory=Refractory(2)),
    "alif, frozen": Dynamics(A, 0.6, adaptation=ADAPTS, refractory=Refractory(2, True), reset=ResetToValue(0.1)),
}
for _when in When:
    DYNAMICS[f"alif, subtracts A, {_when.value}"] = Dynamics(A, 0.6, adaptation=ADAPTS, reset=SubtractAdapted(_when))
    DYNAMICS[f"lif, to value, {_when.value}"] = Dynamics(A, 0.6, reset=ResetToValue(0.05, _when))
every_dynamics = pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=list(DYNAMICS))
both_conventions = pytest.mark.parametrize("paths", [EPROP, EPROP_FIXED_THRESHOLD], ids=["bellec", "published"])


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def inputs(seed: int = 1, batch: int = B, steps: int = T) -> Tensor:
    return torch.tensor(rng_of(seed).random((batch, steps, 7)) < 0.15, dtype=torch.float64)


def network_of(dynamics: Dynamics, recurrence: Recurrence | None = None, readout: Readout | None = None) -> Network:
    """Two linear layers in (one delayed, one with a bias), a recurrence, a read-out behind a delay."""
    rng = rng_of(2)
    recurrence = recurrence or Recurrence(rng.normal(0, 0.3, (N, N)), masked_diagonal=True)
    return Network(
        {
            "x": Input((7,)),
            "a": Linear(rng.normal(0.2, 0.5, (7, N))),
            "b": Linear(rng.normal(0, 0.3, (7, N)), rng.normal(0, 0.05, N)),
            "hidden": Spiking(dynamics, recurrence),
            "out": Linear(rng.normal(0, 1, (N, 2)), rng.normal(0, 1, 2)),
            "y": readout or Readout(0.9, gain=0.5, rest=0.1, synapse=Synapse(0.6)),
        },
        [*(("x", "a"), ("x", "b", 2), ("a", "hidden", 1), ("b", "hidden")), *(("hidden", "out", 1), ("out", "y", 2))],
    )


def errors_of(trace: Trace, target: Tensor) -> dict[str, Tensor]:
    return {"y": trace.readout - target}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], bound: float = 1e-10) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.norm() > 0, name
        assert (ours[name] - gradient).norm() <= bound * gradient.norm(), name
