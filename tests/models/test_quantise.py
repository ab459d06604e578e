"""Rounding to a few bits: on the grid, unbiased inside it, clipped at its ends, invisible to the gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.quantise import ROUNDINGS, levels, quantise, round_to_step

BITS = st.integers(2, 16)
WEIGHTS = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=20)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_published_grid_of_four_bits() -> None:
    assert levels(4).tolist() == [k / 8 for k in range(-8, 8)]
    assert levels(2).tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert len(levels(16)) == 65536


def test_nearest_rounds_half_to_even_and_clips() -> None:
    eighths = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 0.51, 6.9, 7.5, 80.0, -8.4, -80.0])
    expected = [0.0, 2.0, 2.0, 0.0, -2.0, 0.0, 1.0, 7.0, 7.0, 7.0, -8.0, -8.0]
    assert (quantise(eighths / 8, 4, "nearest") * 8).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(WEIGHTS, BITS, st.sampled_from(ROUNDINGS), st.integers(0, 10**6))
def test_results_lie_on_the_grid_within_a_step(values: list[float], bits: int, rounding: str, seed: int) -> None:
    w = torch.tensor(values)
    rounded, grid = quantise(w, bits, rounding, _seeded(seed)), levels(bits)
    assert torch.isin(rounded, grid).all()
    step = 2.0 ** (1 - bits)
    distance = (rounded - w.clamp(grid[0], grid[-1])).abs()
    assert distance.max() <= step * (0.5 if rounding == "nearest" else 1) + 1e-6


@settings(max_examples=60, deadline=None)
@given(BITS, st.sampled_from(ROUNDINGS), st.data())
def test_levels_stay_where_they_are(bits: int, rounding: str, data: st.DataObject) -> None:
    k = data.draw(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    w = torch.full((50,), k / 2 ** (bits - 1))
    assert torch.equal(quantise(w, bits, rounding, _seeded(k % 97)), w)


@pytest.mark.parametrize(("bits", "k"), [(4, 5), (4, -7), (8, 77), (16, 20001), (16, -32767)])
def test_a_million_stochastic_draws_move_no_level(bits: int, k: int) -> None:
    """An update of zero must change no weight: it would re-program devices (a rate of 1e-5 is seen surely)."""
    w = torch.full((1_000_000,), k / 2 ** (bits - 1))
    assert int((quantise(w, bits, "stochastic", _seeded(0)) != w).sum()) == 0


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("place", [0.03, 0.25, 0.5, 0.9])
def test_stochastic_rounding_is_unbiased(bits: int, place: float) -> None:
    """n = 4e5 draws a value, exact binomial test at 1e-5 (24 of them: 2.4e-4); a bias of .004 steps is seen surely."""
    n, draws = 2 ** (bits - 1), 400_000
    for below in (-n, n - 2):
        w = torch.full((draws,), (below + place) / n, dtype=torch.float64)
        steps = quantise(w, bits, "stochastic", _seeded(bits)) * n - below
        assert set(steps.unique().tolist()) <= {0.0, 1.0}
        assert binomtest(int(steps.sum()), draws, place).pvalue > 1e-5


def test_stochastic_draws_are_independent() -> None:
    """n = 1e5 pairs: correlation of neighbours within 5 / sqrt(n) (false alarm 6e-7)."""
    rounded = quantise(torch.full((100_000,), 0.4, dtype=torch.float64), 2, "stochastic", _seeded(0))
    assert abs(torch.corrcoef(torch.stack([rounded[:-1], rounded[1:]]))[0, 1]) < 5 / 100_000**0.5


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_gradient_passes_straight_through(rounding: str) -> None:
    """Also where the value was clipped: the published code clips inside the straight-through estimator."""
    w = torch.tensor([-3.0, -0.7, 0.0, 0.3, 3.0], requires_grad=True)
    g = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    assert torch.equal(torch.autograd.grad(quantise(w, 4, rounding, _seeded(0)), w, g)[0], g)
    assert torch.equal(torch.autograd.grad(round_to_step(w, 0.1, rounding, _seeded(0)), w, g)[0], g)


def test_the_gradient_passes_twice() -> None:
    w = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((quantise(w, 4, "nearest") * w**2).sum(), w, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), w)
    # d/dw [q w^2] = w^2 + 2 q w, then 2 w + 2 w + 2 q
    torch.testing.assert_close(curvature, 4 * w + 2 * quantise(w, 4, "nearest"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_generator_names_the_draw(dtype: torch.dtype) -> None:
    w = torch.linspace(-1, 1, 1001, dtype=dtype)
    one, again, other = (quantise(w, 4, "stochastic", _seeded(s)) for s in (1, 1, 2))
    assert one.dtype == dtype
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    quantise(w, 4, "stochastic", _seeded(1))
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone


def test_thirty_two_bits_are_the_weights_themselves() -> None:
    w = torch.randn(5)
    assert quantise(w, 32) is w


def test_the_input_is_left_alone() -> None:
    w = torch.tensor([0.3, 5.0])
    for rounding in ROUNDINGS:
        quantise(w, 4, rounding)
        round_to_step(w, 0.25, rounding)
    assert w.tolist() == [pytest.approx(0.3), 5.0]


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.floats(0.01, 1), st.sampled_from(ROUNDINGS), st.integers(0, 10**6))
def test_round_to_step_gives_multiples(values: list[float], step: float, rounding: str, seed: int) -> None:
    w = torch.tensor(values, dtype=torch.float64)
    rounded = round_to_step(w, step, rounding, _seeded(seed))
    multiples: Tensor = rounded / step
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-9)
    assert (rounded - w).abs().max() <= step * (0.5 if rounding == "nearest" else 1) * (1 + 1e-9)
    assert torch.equal(round_to_step(torch.zeros(3), step, rounding, _seeded(seed)), torch.zeros(3))


@pytest.mark.parametrize("bits", [-4, 0, 1, 17, 31, 33, 64])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=f"bits {bits}"):
        quantise(torch.zeros(2), bits)


def test_other_roundings_and_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="rounding 'up': choose one of stochastic, nearest"):
        quantise(torch.zeros(2), 4, "up")
    for step in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="must be positive"):
            round_to_step(torch.zeros(2), step)
