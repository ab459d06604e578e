"""The fast engine against the plain step: spikes, traces, gradients of every path, and its adjoint by differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models import engine, engine_kernels
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
    When,
)
from ovonic.models.eligibility import presynaptic_trace
from ovonic.models.engine import fast_filter, fast_product, fast_unroll, run_fast, treats
from ovonic.models.layers import Readout
from ovonic.models.lif import Paths, product, unroll
from ovonic.models.natural_eprop import NaturalEProp
from ovonic.models.natural_eprop_networks import Pair
from ovonic.models.simulation import integrate, run
from ovonic.models.surrogates import ArcTan, Sigmoid, Surrogate, Triangular
from ovonic.models.trace import LayerTrace

from .natural_eprop_cases import gradients_of, inputs, small_system

B, T, N = 3, 40, 12
DYNAMICS = {
    "lif": Dynamics(0.9, 1.0, refractory=Refractory(3)),
    "alif": Dynamics(
        0.9, 1.0, reset=SubtractAdapted(), adaptation=Adaptation(0.95, np.arange(N) % 3 * 0.4), refractory=Refractory(2)
    ),
    "own": Dynamics(
        np.linspace(0.5, 0.95, N),
        np.linspace(0.8, 1.4, N),
        v_init=np.linspace(-1, 1, N),
        comparison=Comparison.GREATER_EQUAL,
        refractory=Refractory(np.arange(N) % 4),
    ),
    "fresh": Dynamics(0.8, 1.0, adaptation=Adaptation(np.linspace(0.5, 0.99, N), 0.3, fresh_spike_decays=True)),
    "none": Dynamics(0.5, 1.0, reset=NoReset(), adaptation=Adaptation(0.9, 0.5)),
}


def _drawn(seed: int, dtype: torch.dtype = torch.float64, own: bool = False) -> tuple[Tensor, Tensor]:
    """Currents [B, T, N] and weights [N, N], or [B, N, N], that make neurons spike."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(B, N, N) if own else (N, N)) * 0.4
    return torch.tensor(rng.normal(0.25, 0.6, (B, T, N))).to(dtype), torch.tensor(weights).to(dtype)


def _parts(trace: LayerTrace) -> list[Tensor]:
    return [x for x in (trace.spikes, trace.membrane, trace.refractory, trace.adaptation) if x is not None]


@pytest.mark.parametrize("recurrence", ["none", "shared", "own"])
@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=list(DYNAMICS))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), delay=st.integers(1, 3))
def test_every_spike_of_the_plain_step(dynamics: Dynamics, recurrence: str, seed: int, delay: int) -> None:
    x, w = _drawn(seed, own=recurrence == "own")
    weight = None if recurrence == "none" else w
    assert treats(dynamics, weight, x)
    fast, plain = (f(x, dynamics, weight, delay)[0] for f in (fast_unroll, unroll))
    assert torch.equal(fast.spikes, plain.spikes)
    assert len(_parts(fast)) == len(_parts(plain))
    for ours, theirs in zip(_parts(fast), _parts(plain), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 if weight is not None else 0.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_bit_for_bit_where_no_sum_rounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.integers(-12, 33, (B, 12, N)) / 16)
    w = torch.tensor(rng.integers(-16, 17, (N, N)) / 16)
    dynamics = Dynamics(0.5, 1.0, reset=SubtractAdapted(), adaptation=Adaptation(0.5, 0.5), refractory=Refractory(1))
    fast, plain = (f(x, dynamics, w)[0] for f in (fast_unroll, unroll))
    assert all(torch.equal(a, b) for a, b in zip(_parts(fast), _parts(plain), strict=True))


@pytest.mark.parametrize("surrogate", [Triangular(0.3), ArcTan()], ids=["triangular", "arctan"])
@pytest.mark.parametrize("recurrence", ["none", "shared", "own"])
@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=list(DYNAMICS))
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    delay=st.integers(1, 2),
    paths=st.builds(Paths, *[st.booleans()] * 4),
    few=st.sampled_from([0.0, 1.0]),
)
def test_gradients_of_every_path(
    dynamics: Dynamics, recurrence: str, surrogate: Surrogate, seed: int, delay: int, paths: Paths, few: float
) -> None:
    """A loss of spikes, membrane and adaptation; sums of rows and dense products alike."""
    x, w = _drawn(seed, own=recurrence == "own")
    rng = torch.Generator().manual_seed(seed)
    mix = torch.rand(3, B, T, N, dtype=torch.float64, generator=rng)

    def gradients(run_layer: Any) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        weight = None if recurrence == "none" else leaves[1]
        trace, _ = run_layer(leaves[0], dynamics, weight, delay, None, surrogate, paths)
        loss = (mix[0] * trace.spikes).sum() + (mix[1] * trace.membrane.sin()).sum()
        if trace.adaptation is not None and trace.adaptation.requires_grad:
            loss = loss + (mix[2] * trace.adaptation.square()).sum()
        return torch.autograd.grad(loss, leaves[: 1 if weight is None else 2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "FEW", few)
        fast = gradients(fast_unroll)
    for ours, theirs in zip(fast, gradients(unroll), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    "dynamics", [DYNAMICS["alif"], DYNAMICS["own"], DYNAMICS["fresh"]], ids=["alif", "own", "fresh"]
)
def test_the_adjoint_by_finite_differences_of_smooth_spikes(dynamics: Dynamics, own: bool) -> None:
    """Spikes S(v - A), S the integral of the surrogate, have a true gradient: the adjoint must be it."""
    dynamics, surrogate = replace_refractory(dynamics), Sigmoid(2.0)
    x, w = _drawn(5, own=own)
    mix = torch.rand(2, B, T, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    w.requires_grad_()

    def smooth(currents: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Written here, after the equations of ``models.dynamics``."""
        a = dynamics.adaptation
        v, z, b = torch.zeros(B, N).double() + torch.tensor(dynamics.v_init), torch.zeros(B, N), torch.zeros(B, N)
        rows = []
        for t in range(T):
            if a is not None:
                rho = torch.tensor(a.decay)
                b = rho * (b + z) if a.fresh_spike_decays else rho * b + z
            level = torch.tensor(dynamics.threshold) + (torch.tensor(a.beta) * b if a is not None else 0)
            due = level if isinstance(dynamics.reset, SubtractAdapted) else torch.tensor(dynamics.threshold)
            fed = product(z.double(), weight)
            v = torch.tensor(dynamics.decay) * v + currents[:, t] + fed - z * due
            z = torch.sigmoid(2.0 * (v - level))
            rows.append((z, v, b.double()))
        z_all, v_all, b_all = (torch.stack(part, 1) for part in zip(*rows, strict=True))
        return z_all, v_all, b_all

    def loss(currents: Tensor, weight: Tensor) -> Tensor:
        z, v, _ = smooth(currents, weight)
        return (mix[0] * z).sum() + (mix[1] * v).sum()

    z, v, b = (part.detach() for part in smooth(x, w))
    spec = engine._Spec(dynamics, 1, surrogate, Paths())
    b = b if dynamics.adaptation else b.new_empty(0, T, N)
    given = [mix[0], mix[1], torch.empty(0, T, N)]
    empty = torch.empty(0, T, N, dtype=torch.int16)
    adjoint = engine._adjoint
    dx, dw = adjoint(spec, w.detach(), z, v, empty, b, given, True)
    assert dw is not None
    rng = torch.Generator().manual_seed(2)
    for leaf, gradient in ((x, dx), (w, dw)):
        for _ in range(5):
            direction = torch.randn(leaf.shape, generator=rng, dtype=torch.float64)
            h = 1e-5
            shifted = [loss(*(p + sign * h * direction if p is leaf else p for p in (x, w))).item() for sign in (1, -1)]
            difference = (shifted[0] - shifted[1]) / (2 * h)
            assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-5, abs=1e-5)


def replace_refractory(dynamics: Dynamics) -> Dynamics:
    return dynamics.replace(refractory=Refractory())


UNTREATED = {
    "same step": Dynamics(0.9, 1.0, reset=SubtractThreshold(When.SAME_STEP)),
    "before the input": Dynamics(0.9, 1.0, reset=SubtractThreshold(When.NEXT_BEFORE_DECAY)),
    "to a value": Dynamics(0.9, 1.0, reset=ResetToValue()),
    "once": Dynamics(0.9, 1.0, reset=SubtractThresholdOnce()),
    "gain": Dynamics(0.9, 1.0, gain=0.1),
    "rest": Dynamics(0.9, 1.0, rest=0.25),
    "frozen": Dynamics(0.9, 1.0, refractory=Refractory(2, frozen=True)),
    "synapse": Dynamics(0.9, 1.0, synapse=Synapse(0.5)),
}


@pytest.mark.parametrize("dynamics", UNTREATED.values(), ids=list(UNTREATED))
def test_what_it_does_not_treat_runs_in_the_plain_step(dynamics: Dynamics) -> None:
    x, w = _drawn(0)
    assert not treats(dynamics, w, x)
    fast, plain = (f(x, dynamics, w)[0] for f in (fast_unroll, unroll))
    assert all(torch.equal(a, b) for a, b in zip(_parts(fast), _parts(plain), strict=True))


def test_products_from_outside_integers_and_half_precision_are_not_treated() -> None:
    x, w = _drawn(0)
    assert not treats(DYNAMICS["lif"], lambda z: z @ w, x)
    assert not treats(DYNAMICS["lif"], w[0], x)
    assert not treats(DYNAMICS["lif"], w.half(), x.half())
    assert not treats(DYNAMICS["lif"], None, x.unsqueeze(-1))
    trace, _ = fast_unroll(x, DYNAMICS["lif"], lambda z: z @ w)
    assert torch.equal(trace.spikes, fast_unroll(x, DYNAMICS["lif"], w)[0].spikes)


def test_the_gradient_of_a_matrix_in_many_parts() -> None:
    """More entries of dE/dI than stay in the cache (``engine_kernels.CACHE``)."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.random((4, 75, 20)) < 0.05).double()
    w = torch.tensor(rng.normal(size=(20, 800))).requires_grad_()
    g = torch.tensor(rng.normal(size=(4, 75, 800)))
    assert g.numel() > engine_kernels.CACHE
    (ours,), (theirs,) = (torch.autograd.grad(f(x, w), w, g) for f in (fast_product, product))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("few", [0.0, 1.0])
def test_products_of_few_and_of_many_entries(few: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FEW", few)
    x, _ = _drawn(1)
    x = (x * (x > 0.8)).requires_grad_()
    w = torch.randn(N, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g = torch.randn(B, T, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fast, plain = fast_product(x, w), product(x, w)
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(fast, (x, w), g), torch.autograd.grad(plain, (x, w), g), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_filter_is_the_loop_bit_for_bit(dtype: torch.dtype) -> None:
    x, _ = _drawn(2, dtype)
    assert torch.equal(fast_filter(x, 0.9), integrate(x, Readout(0.9)))
    assert torch.equal(fast_filter(x.transpose(0, 1), 0.9), integrate(x.transpose(0, 1), Readout(0.9)))
    assert torch.equal(fast_filter(x, 0.9), presynaptic_trace(x, Dynamics(0.9, 1.0)))


def test_the_filter_has_derivatives_of_any_order() -> None:
    x = _drawn(3)[0][:, :6, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: fast_filter(v, 0.9), x)
    assert torch.autograd.gradgradcheck(lambda v: fast_filter(v, 0.9) ** 3, x)


def test_a_second_derivative_through_spikes_is_refused() -> None:
    x, w = _drawn(4)
    x.requires_grad_()
    trace, _ = fast_unroll(x, DYNAMICS["lif"], w)
    (gradient,) = torch.autograd.grad(trace.membrane.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_threads_change_nothing() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model = small_system(engine=run_fast)
            lesson = model(*inputs(7))
            results.append((lesson.after, *gradients_of(model, lesson)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("delay", [1, 2])
def test_a_lesson_and_its_six_gradients(delay: int) -> None:
    results = []
    for run_network in (run_fast, run):
        model = small_system(engine=run_network)
        if delay == 2:
            slower = [_delayed(network) for network in model.describe()]
            model = NaturalEProp(Pair(*slower), engine=run_network, dtype=torch.float64)
        lesson = model(*inputs())
        assert lesson.lsg is not None
        traces = [next(iter(t.layers.values())) for t in (lesson.lsg, *lesson.trials)]
        results.append(([t.spikes for t in traces], [*lesson.changes.values()], gradients_of(model, lesson)))
    for ours, theirs in zip(results[0][0], results[1][0], strict=True):
        assert ours.any()
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(results[0][2], results[1][2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def _delayed(network: Any) -> Any:
    (name,) = network.spiking
    layer = network.layers[name]
    layers = dict(network.layers) | {name: layer.replace(recurrence=layer.recurrence.replace(delay=2))}
    return network.replace(layers=layers)


def test_without_gradient_nothing_is_kept() -> None:
    x, w = _drawn(6)
    with torch.inference_mode():
        trace, _ = fast_unroll(x, DYNAMICS["alif"], w)
    assert not trace.spikes.requires_grad
    assert torch.equal(trace.spikes, unroll(x, DYNAMICS["alif"], w)[0].spikes)


def test_currents_laid_out_otherwise() -> None:
    x, w = _drawn(7)
    turned = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not turned.is_contiguous()
    assert torch.equal(
        fast_unroll(turned, DYNAMICS["lif"], w.t())[0].spikes, unroll(x, DYNAMICS["lif"], w.t())[0].spikes
    )
