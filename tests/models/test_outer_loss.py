"""The outer loss: by hand, its gradients by differences, the published switch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from ovonic.models import lif
from ovonic.models.lif import ALL_PATHS
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.outer_loss import Objective
from ovonic.models.surrogates import Sigmoid

from .natural_eprop_cases import SMALL, inputs, loss_of, path_of, small_system


def test_the_outer_loss_by_hand() -> None:
    model, (clock, lsg_input) = small_system(), inputs()
    lesson = model(clock, lsg_input, InnerLoop(rate=0.02))
    got, target = loss_of(lesson), torch.linspace(-1, 1, 240, dtype=torch.float64).view(3, 40, 2).sin()
    both = torch.cat([trial["trainee"].spikes for trial in lesson.trials], 1)
    assert lesson.lsg is not None
    lsg = lesson.lsg["lsg"].spikes
    expected = (
        (target - lesson.after).square().mean() / 2
        + (path_of(target) - path_of(lesson.after)).square().mean() / 2
        + (both.mean((0, 1)) - 0.02).square().sum() / 4
        + (lsg.mean((0, 1)) - 0.01).square().sum() / 4
    )
    torch.testing.assert_close(got.total, expected)
    torch.testing.assert_close(got.task, (got.mse_omega + got.mse_path) / 2)
    assert not loss_of(lesson._replace(lsg=None)).lsg_rates


def test_the_published_switch_keeps_the_value_and_drops_the_gradient() -> None:
    model, (clock, lsg_input) = small_system(), inputs()
    losses = {
        name: loss_of(model(clock, lsg_input, InnerLoop(rate=0.02)), objective)
        for name, objective in {
            "ours": None,
            "published": Objective(path_gradient=False),
            "without": Objective(path=0),
        }.items()
    }
    assert losses["ours"].total == losses["published"].total
    assert losses["without"].total < losses["ours"].total
    ours, published, without = (torch.autograd.grad(loss.total, list(model.parameters())) for loss in losses.values())
    for a, b, c in zip(ours, published, without, strict=True):
        assert torch.equal(b, c)
        assert not torch.equal(a, b)
        assert a.any()


@pytest.mark.parametrize("updates", [1, 2])
def test_outer_gradients_by_finite_differences(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """With spikes sigmoid(k x), whose slope the surrogate is, the lesson is smooth: gradients to all six weights."""
    surrogate = Sigmoid(3.0)
    monkeypatch.setattr(lif, "straight_through", lambda x, z, slope: torch.sigmoid(surrogate.slope * x))
    config = dataclasses.replace(SMALL, n_ref=0)
    model, (clock, lsg_input) = small_system(config, surrogate=surrogate, paths=ALL_PATHS), inputs(batch=2, steps=12)
    inner = InnerLoop(rate=0.05, step=None, updates=updates)

    def value() -> Tensor:
        return loss_of(model(clock, lsg_input, inner)).total

    gradients = torch.autograd.grad(value(), list(model.parameters()))
    rng = torch.Generator().manual_seed(0)
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        direction = torch.randn(weight.shape, dtype=torch.float64, generator=rng)
        values = []
        for sign in (1, -1):
            weight.data += sign * 1e-5 * direction
            values.append(value().item())
            weight.data -= sign * 1e-5 * direction
        difference = (values[0] - values[1]) / 2e-5
        along = (gradient * direction).sum().item()
        assert abs(along) > 1e-5
        assert along == pytest.approx(difference, rel=1e-6)
