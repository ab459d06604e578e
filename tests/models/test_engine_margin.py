"""Spikes of the fast engine and the plain step where the order of a sum decides: 800 neurons, weights that cancel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.models import engine
from ovonic.models.dynamics import Adaptation, Comparison, Dynamics, Refractory, SubtractAdapted
from ovonic.models.engine import fast_product, fast_unroll, run_fast
from ovonic.models.engine_margin import product_margin, spike_margin
from ovonic.models.layers import Input, Linear, Recurrence, Spiking
from ovonic.models.lif import product, unroll
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import LayerTrace

N = 800
LIF = Dynamics(0.95, 1.0, refractory=Refractory(2))
ALIF = Dynamics(
    0.9, 1.0, reset=SubtractAdapted(), adaptation=Adaptation(0.95, np.arange(N) % 3 * 0.4), refractory=Refractory(1)
)


def _balanced(seed: int, dtype: torch.dtype, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """Currents [6, 120, N], and weights [N, N] of which the first half excites as much as the second inhibits."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size, size / 10, (N, N))
    w[N // 2 :] *= -1
    return torch.tensor(rng.normal(0.06, 0.3, (6, 120, N))).to(dtype), torch.tensor(w).to(dtype)


def _in_another_order(ours: Tensor, plain: Tensor) -> None:
    if torch.equal(ours, plain):
        pytest.skip("here torch's products of 800 terms run in the engine's own order: nothing to compare")


def _within(fast: LayerTrace, plain: LayerTrace, margin: Tensor, d: Dynamics) -> tuple[float, int]:
    """Checks a margin until the first step at which a sample's spikes differ; later steps have other inputs.

    Returns: the largest |dv| over the margin until then, and how many samples had spikes that differ.
    """
    worst, differing = 0.0, 0
    for s in range(len(margin)):
        differs = (fast.spikes[s] != plain.spikes[s]).any(1)
        alike = int(differs.int().argmax()) if differs.any() else len(differs)
        apart = (fast.membrane - plain.membrane)[s, :alike].abs()
        assert (apart <= margin[s, :alike]).all()
        worst = max(worst, float((apart / margin[s, :alike]).max()))
        if differs.any():
            differing += 1
            where = fast.spikes[s, alike] != plain.spikes[s, alike]
            level = d.threshold
            if plain.adaptation is not None and d.adaptation is not None:
                level = d.threshold + torch.tensor(d.adaptation.beta) * plain.adaptation[s, alike]
            assert ((plain.membrane[s, alike] - level).abs() <= margin[s, alike])[where].all()
    return worst, differing


@pytest.mark.parametrize(("dynamics", "size"), [(LIF, 1.0), (LIF, 5.0), (ALIF, 1.0)], ids=["lif", "strong", "alif"])
def test_float32_differs_only_within_the_margin(dynamics: Dynamics, size: float) -> None:
    found = []
    for seed in range(3):
        x, w = _balanced(seed, torch.float32, size)
        fast, plain = (f(x, dynamics, w)[0] for f in (fast_unroll, unroll))
        _in_another_order(fast.membrane, plain.membrane)
        found.append(_within(fast, plain, spike_margin(plain, x, dynamics, w), dynamics))
        assert 0.01 < plain.spikes.mean() < 0.3
    assert max(worst for worst, _ in found) > 1e-3, "a bound a thousand times what is seen says nothing"


def test_weights_a_sample_and_a_longer_delay() -> None:
    x, w = _balanced(7, torch.float32)
    own = torch.stack([w * (1 + 0.1 * k) for k in range(len(x))])
    fast, plain = (f(x, LIF, own, 3)[0] for f in (fast_unroll, unroll))
    _in_another_order(fast.membrane, plain.membrane)
    _within(fast, plain, spike_margin(plain, x, LIF, own, 3), LIF)


def test_float32_with_products_before_the_layer() -> None:
    x, w = _balanced(3, torch.float32)
    spikes = (x > 0.6).float()
    feed = w / 20
    ours, theirs = fast_product(spikes, feed), product(spikes, feed)
    _in_another_order(ours, theirs)
    before = product_margin(spikes, feed)
    assert ((ours - theirs).abs() <= before).all()
    fast, plain = fast_unroll(ours, LIF, w)[0], unroll(theirs, LIF, w)[0]
    _within(fast, plain, spike_margin(plain, theirs, LIF, w, currents_margin=before), LIF)


def test_the_margin_by_hand() -> None:
    """One neuron with itself: v = 1.5, spike; then -.25 + 2 = ..; u = 2^-53."""
    d = Dynamics(0.5, 1.0)
    x, w = torch.tensor([[[1.5], [0.25]]], dtype=torch.float64), torch.tensor([[-2.0]], dtype=torch.float64)
    trace, _ = unroll(x, d, w)
    u = 2.0**-53
    first = 2 * u * (2 * 1.5 + 0 + 1.5)
    v = 0.75 + 0.25 - 2 - 1
    second = 0.5 * first + 2 * 2 * u * 2 + 2 * u * (2 * (0.25 + 2) + 2 * 0.75 + abs(v))
    assert trace.membrane[0, 1, 0] == v
    torch.testing.assert_close(
        spike_margin(trace, x, d, w)[0, :, 0],
        1.01 * torch.tensor([first, second], dtype=torch.float64),
        rtol=1e-9,
        atol=0,
    )


def _tenths() -> tuple[Tensor, Tensor]:
    """Inputs, and weights of one tenth of either sign: the last bit of a sum decides whether it meets 1.1."""
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.random((4, 60, N)) < 0.04).double()
    return x, torch.tensor(np.where(rng.random((N, N)) < 0.5, 0.1, -0.1))


@pytest.mark.parametrize("comparison", [Comparison.GREATER, Comparison.GREATER_EQUAL])
def test_float64_is_the_plain_step_where_thresholds_are_met_exactly(comparison: Comparison) -> None:
    x, w = _tenths()
    feed, loop = Dynamics(0.0, 2.0, comparison=comparison), Dynamics(0.0, 1.1, comparison=comparison)
    cases = (
        (Network.stack({"x": Input((N,)), "w": Linear(np.full((N, 20), 0.1)), "s": Spiking(feed)}), x, 2.0),
        (Network.stack({"x": Input((N,)), "s": Spiking(loop, Recurrence(w.numpy()))}), 1.2 * x, 1.1),
    )
    for network, given, threshold in cases:
        fast, plain = run_fast(network, given)["s"], run(network, given)["s"]
        assert torch.equal(fast.spikes, plain.spikes)
        assert 0.01 < plain.spikes.mean() < 0.99
        assert ((plain.membrane - threshold).abs() < 1e-12).sum() > 20


def test_there_the_order_of_a_sum_would_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plain step's help spikes differ: the test above can fail."""
    x, w = _tenths()
    d = Dynamics(0.0, 1.1, comparison=Comparison.GREATER_EQUAL)
    monkeypatch.setattr(engine, "_may_differ", lambda *_: False)
    fast, plain = (f(1.2 * x, d, w)[0] for f in (fast_unroll, unroll))
    _in_another_order(fast.membrane, plain.membrane)
    assert not torch.equal(fast.spikes, plain.spikes)
    feed = torch.full((N, 20), 0.1, dtype=torch.float64)
    ours, theirs = fast_product(x, feed), product(x, feed)
    _in_another_order(ours, theirs)
    assert not torch.equal(ours >= 2, theirs >= 2)


def test_float64_runs_in_the_plain_step_only_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(engine, "unroll", lambda *a: asked.append(a) or unroll(*a))
    x, w = _balanced(0, torch.float64)
    trace, _ = fast_unroll(x, LIF, w)
    assert not asked
    x[2, 50] += (1 - trace.membrane[2, 50]) * (torch.arange(N) == int(trace.membrane[2, 50].argmin()))
    near, _ = fast_unroll(x, LIF, w)
    assert len(asked) == 1
    assert torch.equal(near.spikes, unroll(x, LIF, w)[0].spikes)
