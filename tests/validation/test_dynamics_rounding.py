"""The rounding bounds hold: against exact fractions, sums in any order, other ways to write a step, and both floats."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovonic.models.dynamics import Dynamics
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Pool, Pooling, Recurrence, Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.validation.margins import margins
from ovonic.validation.random_networks import random_network
from ovonic.validation.rounding import ROUNDINGS, format_of, grid, rounded

F32, F64 = format_of(torch.float32), format_of(torch.float64)


def test_grid_of_numbers() -> None:
    numbers = np.array([0.0, 1.0, 3.0, 0.5, -0.75, 1 / 16, 4096.0, 2.0**-1022, 0.1])
    assert grid(numbers).tolist() == [-math.inf, 0, 0, 1, 2, 4, -12, 1022, 55]


@pytest.mark.parametrize("numbers", [(0.1, 0.7, 1.3e-5, 900.0), (0.5, 0.25, 3.0)])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 60))
def test_sums_of_products_in_any_order(numbers: tuple[float, ...], seed: int, n: int) -> None:
    """Products and sums in float32 against fractions; for dyadic numbers the bound is zero and so is the error."""
    rng = np.random.default_rng(seed)
    w, x = rng.choice(numbers, n) * rng.choice([-1, 1], n), rng.choice([0.0, 1.0, 0.5, 0.25], n)
    exact = sum((Fraction(a) * Fraction(b) for a, b in zip(w, x, strict=True)), Fraction(0))
    computed = np.float32(0)
    for k in rng.permutation(n):
        computed = np.float32(computed + np.float32(np.float32(w[k]) * np.float32(x[k])))
    size, terms = np.array(np.abs(w * x).sum()), np.count_nonzero(x)
    q = grid(w).max() + grid(x[x != 0]).max(initial=-np.inf)
    bound = rounded(np.array(0.0), size, terms, q, F32)
    assert abs(Fraction(float(computed)) - exact) <= Fraction(float(bound))
    assert bound <= 1.01 * (n + ROUNDINGS) * 2.0**-24 * size + 1e-30
    if 0.5 in numbers:
        assert bound == 0


def test_a_bound_of_zero_ends_where_bits_run_out() -> None:
    one = np.array(1.0)
    for floats in (F32, F64):
        assert rounded(np.array(0.0), one, 3, floats.bits - 1, floats) == 0
        assert rounded(np.array(0.0), one, 3, floats.bits + 1, floats) > 0
    assert rounded(np.array(1e-9), one, 3, 0, F64) > 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_runs_lie_within_the_bounds(dtype: torch.dtype) -> None:
    """Of random networks of every feature: the plain step in either float against the bounds' own float64."""
    looseness = []
    for index in range(24):
        case = random_network(index, seed=5)
        x = case.inputs.to(dtype)
        trace = run(case.network, x)
        found = margins(case.network, x, {name: layer.spikes for name, layer in trace.layers.items()}, dtype)
        for name, bounds in found.items():
            v = trace[name].membrane if name in trace.layers else trace.readouts[name]
            gap = np.abs(v.double().numpy() - bounds.membrane)
            assert (gap <= bounds.membrane_bound / 2).all(), (index, name)
            assert (bounds.membrane_bound >= 0).all()
            if dtype == torch.float32 and gap.max() > 0:
                looseness.append(bounds.membrane_bound.max() / gap.max())
        for name, layer in trace.layers.items():
            bounds = found[name]
            due = case.network.layers[name].dynamics.comparison(bounds.membrane, bounds.level) & bounds.free
            clear = (np.abs(bounds.membrane - bounds.level) > bounds.bound) | (bounds.bound == 0)
            assert ((layer.spikes.numpy() > 0) == due)[clear].all(), (index, name)
    if dtype == torch.float32:
        assert np.median(looseness) < 500


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_step_written_otherwise(seed: int) -> None:
    """Norse's form v + k (I/k - v), in float32 and with its sums the other way round, stays within the bound."""
    rng = np.random.default_rng(seed)
    n, decay = 20, float(rng.uniform(0.05, 0.98))
    w, w_rec = rng.normal(0.2, 0.5, (8, n)), rng.normal(0, 0.3, (n, n))
    network = Network.stack(
        {"x": Input((8,)), "w": Linear(w), "core": Spiking(Dynamics(decay, 0.7), Recurrence(w_rec))}
    )
    x = torch.from_numpy(rng.random((1, 60, 8)) < 0.4).float()
    trace = run(network, x)
    z = trace["core"].spikes[0].numpy()
    k, v, before, membranes = np.float32(1 - decay), np.zeros(n, np.float32), np.zeros(n, np.float32), []
    for t in range(60):
        current = (before[::-1] @ w_rec.astype(np.float32)[::-1]) + (x[0, t].numpy()[::-1] @ w.astype(np.float32)[::-1])
        v = v + k * ((current - np.float32(0.7) * before) / k - v)
        membranes.append(v)
        before = z[t]
    bounds = margins(network, x, {"core": trace["core"].spikes}, torch.float32)["core"]
    assert (np.abs(np.stack(membranes) - bounds.membrane[0]) <= bounds.membrane_bound[0] / 2).all()


def test_exact_arithmetic_has_a_bound_of_zero() -> None:
    """IF neurons with weights of sixteenths: no sum can round, in float32 nor float64; with tenths all can."""
    rng = np.random.default_rng(0)
    for unit, exact in ((1 / 16, True), (0.1, False)):
        w, w_rec = unit * rng.integers(-8, 17, (6, 10)), unit * rng.integers(-8, 9, (10, 10))
        network = Network.stack(
            {"x": Input((6,)), "w": Linear(w), "core": Spiking(Dynamics(1.0, 16 * unit), Recurrence(w_rec))}
        )
        for dtype in (torch.float32, torch.float64):
            x = (torch.rand(1, 200, 6, generator=torch.Generator().manual_seed(1)) < 0.4).to(dtype)
            bounds = margins(network, x, {"core": run(network, x)["core"].spikes}, dtype)["core"]
            assert (bounds.bound == 0).all() == exact


def test_a_mean_over_three_is_never_exact() -> None:
    for window, exact in (((2,), True), ((3,), False)):
        layers = {"x": Input((1, 6)), "pool": Pool(Pooling.MEAN, window), "core": Spiking(Dynamics(0.5, 0.5))}
        network = Network.stack(layers)
        x = torch.ones(1, 3, 1, 6, dtype=torch.float64)
        bounds = margins(network, x, {"core": run(network, x)["core"].spikes}, torch.float64)["core"]
        assert (bounds.bound == 0).all() == exact


def test_what_is_not_bounded() -> None:
    case = random_network(0)
    with pytest.raises(ConfigError, match="float16"):
        margins(case.network, case.inputs, {}, torch.float16)
    with pytest.raises(ConfigError, match="are missing"):
        margins(case.network, case.inputs, {}, torch.float64)
