"""Surrogates: the stated slope at points worked by hand, behind an exact spike; the same as namesakes elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from ovonic.models.errors import ConfigError
from ovonic.models.surrogates import (
    PUBLISHED_SLOPE,
    ArcTan,
    Boxcar,
    FastSigmoid,
    Sigmoid,
    Surrogate,
    Triangular,
    straight_through,
)

ALL: tuple[Surrogate, ...] = (Triangular(), Boxcar(), ArcTan(), FastSigmoid(), Sigmoid())


@pytest.mark.parametrize(
    ("surrogate", "scale", "slopes"),
    [
        # at x = v - A = -2, -1, -1/2, 0, 1/2, 1, 2
        (Triangular(0.3), 1.0, [0, 0, 0.15, 0.3, 0.15, 0, 0]),
        (Triangular(0.3), 2.0, [0, 0.075, 0.1125, 0.15, 0.1125, 0.075, 0]),
        (Boxcar(0.5, 1.0), 1.0, [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0]),
        (Boxcar(1.0, 0.5), 2.0, [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0]),
        (ArcTan(2.0), 7.0, [1 / (1 + (math.pi * x) ** 2) for x in (2, 1, 0.5, 0, 0.5, 1, 2)]),
        (FastSigmoid(2.0), 7.0, [1 / 25, 1 / 9, 1 / 4, 1, 1 / 4, 1 / 9, 1 / 25]),
        (Sigmoid(2.0), 7.0, [0.5 / (1 + math.cosh(2 * x)) * 2 for x in (2, 1, 0.5, 0, 0.5, 1, 2)]),
    ],
)
def test_slopes_by_hand(surrogate: Surrogate, scale: float, slopes: list[float]) -> None:
    x = torch.tensor([-2, -1, -0.5, 0, 0.5, 1, 2], dtype=torch.float64)
    assert surrogate(x, scale).tolist() == pytest.approx(slopes, abs=1e-15)
    assert surrogate(x, torch.full((7,), scale, dtype=torch.float64)).tolist() == pytest.approx(slopes, abs=1e-15)


def test_the_published_slope() -> None:
    """0.3 max(1 - |(v - thr) / thr|, 0) / thr."""
    v = torch.linspace(-1, 3, 41, dtype=torch.float64)
    expected = [0.3 * max(1 - abs((x - 0.6) / 0.6), 0) / 0.6 for x in v.tolist()]
    assert PUBLISHED_SLOPE(v - 0.6, 0.6).tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("surrogate", ALL)
def test_a_slope_is_even_keeps_the_dtype_and_grows_no_larger_than_at_the_threshold(surrogate: Surrogate) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.linspace(-3, 3, 61).to(dtype)
        slope = surrogate(x, 1.0)
        assert slope.dtype == dtype
        assert (slope >= 0).all()
        assert (slope <= surrogate(torch.zeros(1, dtype=dtype), 1.0) * 1.01).all()
        assert torch.allclose(slope, surrogate(-x, 1.0), rtol=1e-2)


@pytest.mark.parametrize("surrogate", [Triangular(), ArcTan(), FastSigmoid(), Sigmoid()])
def test_rules_may_differentiate_the_slope(surrogate: Surrogate) -> None:
    """Natural e-prop's outer gradient passes through the pseudo-derivative: finite differences away from the kinks."""
    x = torch.tensor([-0.7, -0.2, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: surrogate(x, 1.3), x)


def test_straight_through_passes_the_spike_and_its_slope() -> None:
    x = torch.tensor([-0.5, 0.5], dtype=torch.float64, requires_grad=True)
    z, slope = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([3.0, 5.0], dtype=torch.float64)
    out = straight_through(x, z, slope)
    assert torch.equal(out, z)
    (gradient,) = torch.autograd.grad((out**2).sum(), x, create_graph=True)
    assert gradient.tolist() == [0.0, 10.0]
    # d/dx of 2 z slope: again through z alone
    assert torch.autograd.grad(gradient.sum(), x)[0].tolist() == [18.0, 50.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Triangular(0.0), r"Triangular.height: 0.0 must be positive"),
        (lambda: Boxcar(1.0, -1.0), r"Boxcar.width: -1.0 must be positive"),
        (lambda: ArcTan(math.nan), r"ArcTan.alpha: nan must be positive"),
        (lambda: FastSigmoid(0), r"FastSigmoid.slope: 0 must be positive"),
    ],
)
def test_flat_surrogates_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.toolchain
def test_namesakes_of_snntorch() -> None:
    snn = pytest.importorskip("snntorch.surrogate", reason="needs snntorch: pip install 'ovonic[snntorch]'")
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    for ours, theirs in (
        (ArcTan(3.0), snn.atan(3.0)),
        (FastSigmoid(7.0), snn.fast_sigmoid(7)),
        (Sigmoid(4.0), snn.sigmoid(4)),
    ):
        leaf = x.clone().requires_grad_()
        theirs(leaf).sum().backward()
        torch.testing.assert_close(ours(x, 1.0), leaf.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.toolchain
def test_norses_super_ignores_its_alpha() -> None:
    norse = pytest.importorskip("norse.torch.functional.superspike", reason="needs norse: pip install 'ovonic[norse]'")
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    for alpha in (1.0, 100.0):
        leaf = x.clone().requires_grad_()
        norse.super_fn(leaf, alpha).sum().backward()
        torch.testing.assert_close(FastSigmoid(1.0)(x, 1.0), leaf.grad, rtol=1e-12, atol=1e-12)
