"""Wrong networks are caught, every one, and known mistakes are named by trying them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.models.dynamics import Comparison, Dynamics, Refractory, ResetToValue, SubtractThreshold, When
from ovonic.models.layers import Input, Linear, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.changes import CAUSES, changes
from ovonic.validation.diagnosis import diagnose
from ovonic.validation.dynamics import Judgement, compare_traces
from ovonic.validation.mutants import mutation_score
from ovonic.validation.random_networks import random_network

DECAY = float(np.exp(-1 / 20))
RNG = np.random.default_rng(4)
W, W_REC = RNG.normal(0.15, 0.4, (8, 12)), RNG.normal(0, 0.25, (12, 12))
LIF = Dynamics(DECAY, 0.6, refractory=Refractory(3))
X = (torch.rand(4, 250, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64) < 0.2).double()


def _network(dynamics: Dynamics = LIF, recurrence: Recurrence | None = None, late: int = 0) -> Network:
    recurrence = recurrence or Recurrence(W_REC, masked_diagonal=True)
    layers = {"x": Input((8,)), "w": Linear(W), "core": Spiking(dynamics, recurrence)}
    return Network(layers, (Edge("x", "w"), Edge("w", "core", late)))


ORIGINAL = _network()
WRONG = {
    "reset kind": _network(LIF.replace(reset=ResetToValue(0.0))),
    "reset order": _network(LIF.replace(reset=SubtractThreshold(When.SAME_STEP))),
    "delay": _network(recurrence=Recurrence(W_REC, 2, masked_diagonal=True)),
    "late input": _network(late=1),
    "decay formula": _network(LIF.replace(decay=1 - 1 / 20)),
    "time step": _network(LIF.replace(decay=DECAY**0.1)),
    "input scale": _network(LIF.replace(gain=1 - DECAY)),
    "transposed": _network(recurrence=Recurrence(W_REC.T, masked_diagonal=True)),
    "diagonal": _network(recurrence=Recurrence(W_REC)),
    "refractoriness": _network(LIF.replace(refractory=Refractory())),
    "one silent step": _network(LIF.replace(refractory=Refractory(4))),
    "frozen": _network(LIF.replace(refractory=Refractory(3, frozen=True))),
}
CAUSE = {"late input": "delay", "transposed": "recurrent wiring", "diagonal": "recurrent wiring"}
CAUSE |= {"one silent step": "refractoriness", "frozen": "refractoriness"}


def _run(network: Network, x: Tensor = X) -> Trace:
    with torch.no_grad():
        return run(network, x)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_network_is_different_and_diagnosed(name: str) -> None:
    other = _run(WRONG[name])
    found = compare_traces(_run(ORIGINAL), other, ORIGINAL)
    assert found.verdict is Judgement.DIFFERENT
    assert found.jaccard is not None
    assert found.jaccard < 1
    explanations = diagnose(ORIGINAL, other)
    assert explanations
    assert explanations[0].causes == (CAUSE.get(name, name),)
    assert explanations[0].membranes


@pytest.mark.parametrize("unit", [1 / 16, 0.1])
def test_a_wrong_comparison_needs_ties(unit: float) -> None:
    """On a grid of sixteenths > for >= is caught and diagnosed; on one of tenths rounding breaks the ties."""
    rng = np.random.default_rng(0)
    w, w_rec = unit * rng.integers(-4, 13, (8, 12)), unit * rng.integers(-6, 7, (12, 12))
    dynamics = Dynamics(1.0, 16 * unit)
    network, other = (
        Network.stack({"x": Input((8,)), "w": Linear(w), "core": Spiking(d, Recurrence(w_rec))})
        for d in (dynamics, dynamics.replace(comparison=Comparison.GREATER_EQUAL))
    )
    found = compare_traces(_run(network), _run(other), network)
    assert not found.identical
    assert found.verdict is (Judgement.DIFFERENT if unit == 1 / 16 else Judgement.UNDECIDABLE)
    if unit == 1 / 16:
        assert [e.causes for e in diagnose(network, _run(other))] == [("comparison",)]


def test_the_drive_through_the_recurrent_weights() -> None:
    """What snnTorch 1.0 makes of a recurrent NIR graph."""
    core = ORIGINAL.layers["core"]
    assert isinstance(core, Spiking)
    assert core.recurrence is not None
    layers = {"x": Input((8,)), "w": Linear(W @ core.recurrence.effective), "core": core}
    explanations = diagnose(ORIGINAL, _run(Network.stack(layers)))
    assert ("recurrent wiring",) in [e.causes for e in explanations]
    assert any("drive" in text for e in explanations for text in e.texts)


def test_float_width() -> None:
    """A run in float32 handed in as float64: rounding alone, and named."""
    rng = np.random.default_rng(1)
    network = Network.stack(
        {"x": Input((8,)), "w": Linear(0.1 * rng.integers(-4, 13, (8, 12))), "core": Spiking(Dynamics(1.0, 0.7))}
    )
    x = (torch.rand(4, 400, 8, generator=torch.Generator().manual_seed(2)) < 0.2).float()
    there = _run(network, x)
    assert not compare_traces(_run(network, x.double()), there, network).identical
    wide = Trace(there.layers, there.readouts, {"x": x.double()}, there.dt_ms)
    assert [e.causes for e in diagnose(network, wide)] == [("float width",)]


def test_two_causes_at_once() -> None:
    other = _network(LIF.replace(reset=ResetToValue(0.0)), Recurrence(W_REC, 2, masked_diagonal=True))
    explanations = diagnose(ORIGINAL, _run(other, X[:1, :80]), budget_s=120)
    assert {"reset kind", "delay"} in [set(e.causes) for e in explanations]


def test_an_unknown_cause_gets_no_explanation() -> None:
    w = W.copy()
    w[3, 5] += 0.5
    layers = {"x": Input((8,)), "w": Linear(w), "core": ORIGINAL.layers["core"]}
    assert diagnose(ORIGINAL, _run(Network.stack(layers)), budget_s=1.0) == ()


def test_changes_cover_their_causes() -> None:
    made = set()
    for index in range(25):
        network = random_network(index).network
        found = list(changes(network))
        made |= {change.cause for change in found}
        assert all(change.network != network for change in found)
    assert made == set(CAUSES)


def test_every_mutant_is_caught() -> None:
    """Of the networks 0..13: several hundred mutants, and a verdict of different for each whose run differs at all."""
    found = mutation_score(14)
    assert len(found.exercised) > 300
    assert found.survivors == ()
    assert found.score == 1.0
    assert found.score_by_spikes > 0.9
    assert len(found.by_cause()) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.long)])
def test_every_mutant_of_many_networks_is_caught(dtype: torch.dtype) -> None:
    found = mutation_score(150, start=1000, dtype=dtype)
    assert len(found.exercised) > 3000
    assert found.survivors == () if dtype == torch.float64 else found.score > 0.99
