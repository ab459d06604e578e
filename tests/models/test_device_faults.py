"""Faulty devices: how many, where they stick, how they spread, what limited levels cost.

Statistical tests use fixed seeds: exact binomial tests of the counts and 5 standard errors elsewhere, false alarm below
1e-5 for the file.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest, kstest

from ovonic.models.device_faults import Faults, draw, faulty, to_levels
from ovonic.models.errors import ConfigError

SHAPE = (4, 100, 100)
N = 40_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stuck_low": -0.1}, "stuck_low -0.1: a fraction of devices, 0 to 1"),
        ({"stuck_high": 1.1}, "stuck_high 1.1"),
        ({"stuck_low": 0.6, "stuck_random": 0.6}, "add up to 1.2: at most 1"),
        ({"device_sigma": math.inf}, "device_sigma inf"),
        ({"levels": 1}, "levels 1: a whole number of 2 or more"),
        ({"levels": 4.5}, "levels 4.5"),
        ({"levels": True}, "levels True"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Faults(**changes)


def test_none_by_default() -> None:
    drawn = draw(Faults(), SHAPE, generator())
    g = torch.rand(SHAPE, generator=generator(1)) * 25
    assert not drawn.stuck.any()
    assert torch.equal(faulty(g, drawn, 25.0), g)


def test_as_many_are_stuck_as_was_asked_and_where() -> None:
    """n = 40,000 devices, binomial at 1e-6 each; the random ones uniform by Kolmogorov and Smirnov at 1e-6."""
    faults = Faults(stuck_low=0.02, stuck_high=0.01, stuck_random=0.05)
    assert faults.stuck == pytest.approx(0.08)
    drawn = draw(faults, SHAPE, generator())
    g = faulty(torch.full(SHAPE, 12.0), drawn, 25.0)
    counts = {0.02: int((g == 0).sum()), 0.01: int((g == 25).sum()), 0.08: int(drawn.stuck.sum())}
    for fraction, count in counts.items():
        assert binomtest(count, N, fraction).pvalue > 1e-6
    between = g[drawn.stuck & (g > 0) & (g < 25)]
    assert kstest(between.numpy() / 25.0, "uniform").pvalue > 1e-6
    assert (g[~drawn.stuck] == 12).all()


def test_all_devices_stuck() -> None:
    drawn = draw(Faults(stuck_high=1.0), SHAPE, generator())
    assert (faulty(torch.zeros(SHAPE), drawn, 25.0) == 25).all()


def test_the_spread_from_device_to_device() -> None:
    """n = 40,000: log gain is normal with the stated sigma (KS at 1e-6); its mean is 1 within 5 standard errors."""
    drawn = draw(Faults(device_sigma=0.2), SHAPE, generator())
    g = faulty(torch.full(SHAPE, 10.0), drawn, 25.0)
    standard = (torch.log(g / 10) + 0.02) / 0.2
    assert kstest(standard.flatten().numpy(), "norm").pvalue > 1e-6
    assert abs(float(g.mean()) / 10 - 1) < 5 * 0.2 / math.sqrt(N)


def test_draws_repeat_with_the_generator_alone() -> None:
    faults = Faults(stuck_random=0.5, device_sigma=0.1)
    before = torch.random.get_rng_state()
    a, b, c = (draw(faults, (4, 5, 5), generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a.level, c.level)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("levels", [2, 16, 33])
def test_limited_levels_err_uniformly(levels: int) -> None:
    """n = 40,000 uniform targets: the error is uniform in half a step (KS at 1e-6), sigma step / sqrt(12)."""
    g = torch.rand(N, generator=generator(), dtype=torch.float64) * 25
    held = to_levels(g, 25.0, levels)
    step = 25.0 / (levels - 1)
    error = (held - g) / step
    assert len(held.unique()) == levels
    assert kstest(error.numpy() + 0.5, "uniform").pvalue > 1e-6
    assert float(error.std() * step) == pytest.approx(step / math.sqrt(12), rel=0.03)
    assert torch.equal(to_levels(held, 25.0, levels), held)


def test_levels_keep_the_gradient_and_zero() -> None:
    g = torch.tensor([0.0, 3.0, 25.0], requires_grad=True)
    held = to_levels(g, 25.0, 4)
    held.sum().backward()
    assert held[0] == 0
    assert held[2] == 25
    assert torch.equal(g.grad, torch.ones(3))
    assert to_levels(g, 25.0, None) is g
