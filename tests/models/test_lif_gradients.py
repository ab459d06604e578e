"""Gradient through spikes: each path by hand, none while refractory, the same under functional transforms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ovonic.models.dynamics import Adaptation, Dynamics, Refractory, SubtractAdapted, SubtractThresholdOnce
from ovonic.models.errors import ConfigError
from ovonic.models.lif import ALL_PATHS, EPROP, PUBLISHED, Paths, pseudo_derivative, unroll
from ovonic.models.surrogates import Boxcar, Triangular


@pytest.mark.parametrize("threshold", [True, False])
@pytest.mark.parametrize("adaptation", [True, False])
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("recurrent", [True, False])
def test_each_path_of_the_gradient_by_hand(recurrent: bool, reset: bool, adaptation: bool, threshold: bool) -> None:
    """dz[1]/dI[0] with v[1] = a v[0] + I[1] + w z[0] - z[0] A[1], A[1] = th + beta z[0]."""
    a, th, beta, w = 0.5, 1.0, 0.25, 0.5
    dynamics = Dynamics(a, th, reset=SubtractAdapted(), adaptation=Adaptation(0.5, beta))
    drive = torch.tensor([[[1.25], [1.5]]], dtype=torch.float64, requires_grad=True)
    paths = Paths(recurrent, reset, adaptation, threshold)
    trace, _ = unroll(drive, dynamics, lambda z: w * z, surrogate=Triangular(0.5), paths=paths)
    assert trace.membrane.flatten().tolist() == [1.25, 0.625 + 1.5 + 0.5 - 1.25]
    assert trace.spikes.flatten().tolist() == [1, 1]
    psi0, psi1 = 0.5 * (1 - 0.25), 0.5 * (1 - abs(1.375 - 1.25))
    through_z = w * recurrent - reset * (1.25 + beta * adaptation) - threshold * beta * adaptation
    (gradient,) = torch.autograd.grad(trace.spikes[0, 1, 0], drive)
    assert gradient.flatten().tolist() == pytest.approx([psi1 * (a + psi0 * through_z), psi1], abs=1e-15)


def test_the_named_choices_of_paths() -> None:
    assert Paths() == ALL_PATHS
    assert Paths(recurrent=False, reset=False) == EPROP
    assert Paths(threshold=False) == PUBLISHED


def test_no_slope_while_refractory() -> None:
    drive = torch.tensor([[[1.5], [1.5], [1.5]]], dtype=torch.float64, requires_grad=True)
    dynamics = Dynamics(0.5, 1.0, refractory=Refractory(1))
    trace, _ = unroll(drive, dynamics, surrogate=Boxcar(1.0, 5.0))
    (gradient,) = torch.autograd.grad(trace.spikes[0, 1, 0], drive, retain_graph=True)
    assert not gradient.any()
    assert pseudo_derivative(trace, dynamics, Boxcar(1.0, 5.0)).flatten().tolist() == [1, 0, 1]


def test_the_slope_of_a_trace_is_the_slope_of_its_spikes() -> None:
    rng = torch.Generator().manual_seed(0)
    drive = torch.rand(2, 30, 5, generator=rng, dtype=torch.float64).mul_(1.5).requires_grad_()
    dynamics = Dynamics(0.9, [1, 2, 1, 1.5, 1], 1, -0.5, 0, adaptation=Adaptation(0.9, 0.3), refractory=Refractory(2))
    trace, _ = unroll(drive, dynamics)
    direct = torch.autograd.grad(trace.spikes.sum(), trace.membrane, retain_graph=True, allow_unused=True)[0]
    assert direct is None  # the stacked membrane is a record, not a cause
    slope = pseudo_derivative(trace, dynamics)
    for t in (0, 7, 29):
        (gradient,) = torch.autograd.grad(trace.spikes[:, t].sum(), drive, retain_graph=True)
        torch.testing.assert_close(gradient[:, t], slope[:, t], rtol=1e-12, atol=1e-12)


def test_the_slope_of_a_spike_that_must_exceed_twice_is_refused() -> None:
    dynamics = Dynamics(0.5, 1.0, reset=SubtractThresholdOnce())
    with pytest.raises(ConfigError, match="SubtractThresholdOnce"):
        pseudo_derivative(unroll(torch.ones(1, 1, 1), dynamics)[0], dynamics)


def test_constants_first_used_in_inference_mode_serve_training_too() -> None:
    dynamics = Dynamics([0.5, 0.625], [1.0, 1.125])
    with torch.inference_mode():
        unroll(torch.ones(1, 3, 2), dynamics)
    drive = torch.ones(1, 3, 2, requires_grad=True)
    unroll(drive, dynamics)[0].spikes.sum().backward()
    assert drive.grad is not None


def test_functional_transforms_see_the_same_gradient() -> None:
    dynamics = Dynamics(0.9, [1.0, 1.5, 0.75], refractory=Refractory(1), adaptation=Adaptation(0.9, 0.3))
    drives = torch.rand(4, 12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def count(drive: Tensor) -> Tensor:
        return (unroll(drive[None], dynamics)[0].spikes * torch.arange(12)[:, None]).sum()

    together = torch.func.vmap(torch.func.grad(count))(drives)
    for drive, expected in zip(drives, together, strict=True):
        leaf = drive.clone().requires_grad_()
        count(leaf).backward()
        torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=0)
