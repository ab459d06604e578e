"""Program-and-verify against its closed form.

Statistical tests: n devices of one target, where the programming error is normal far from the clamp at 0. z-tests of
shares and variances with |z| < 4.4, a false alarm of 1e-5 each, 3e-4 in all for the 25 of this file.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import norm

from ovonic.models.crossbar import ArrayState, inject_faults, program, reprogram
from ovonic.models.device_faults import Faults
from ovonic.models.errors import ConfigError
from ovonic.models.pcm import device_model
from ovonic.models.verify import Convergence, Verify

Z = 4.4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def verified(
    model_name: str, g_us: float, verify: Verify, size: int = 60, **changes: float
) -> tuple[ArrayState, Convergence]:
    model = device_model(model_name, **changes)
    log: list[Convergence] = []
    g = torch.full((4, size, size), g_us)
    state = program(model, g, generator=seeded(7), verify=verify, on_verified=log.append)
    assert len(log) == 1
    return state, log[0]


@pytest.mark.parametrize("name", ["pcm", "hermes"])
def test_shares_and_errors_are_those_of_drawing_until_within_tolerance(name: str) -> None:
    """gain 0, no read noise: P(within after k) = 1 - (1 - p)^k, p = P(|sigma xi| <= tolerance); 4.4 standard errors of
    n = 14,400 devices find a share off by .018 and a standard deviation off by 3 %."""
    half = 0.5 * device_model(name).g_max_us
    sigma = float(device_model(name).programming_sigma(torch.full((4, 1, 1), half))[0])
    tolerance = 0.5 * sigma
    state, log = verified(name, half, Verify(5, tolerance, gain=0.0), read_scale=0.0)
    p, n = 2 * norm.cdf(0.5) - 1, log.devices
    inside = 1 - 2 * 0.5 * norm.pdf(0.5) / p  # variance of a normal cut at +- 1/2, and beyond it, in units of sigma^2
    outside = 1 + 2 * 0.5 * norm.pdf(0.5) / (1 - p)
    for k, (share, error) in enumerate(zip(log.within, log.error_us, strict=True), start=1):
        due = 1 - (1 - p) ** k
        assert abs(share - due) < Z * math.sqrt(due * (1 - due) / n), k
        variance = due * inside + (1 - due) * outside
        assert abs(error**2 / sigma**2 - variance) < Z * variance * math.sqrt(3.0 / n), k
    assert list(log.error_us) == sorted(log.error_us, reverse=True)
    done = (state.g_prog - state.g_target).abs() <= tolerance
    assert float(done.float().mean()) == pytest.approx(log.within[-1], abs=1e-6)


def test_pulses_are_counted_for_each_device() -> None:
    state, log = verified("pcm", 12.0, Verify(6, 0.4))
    assert log.active[0] == log.devices == state.pulses.numel()
    for k, active in enumerate(log.active):
        assert int((state.pulses > k).sum()) == active
    assert log.pulses == int(state.pulses.sum()) == sum(log.active)
    for before, share in zip(log.active[1:], log.within, strict=False):
        assert share == pytest.approx(1 - before / log.devices)


def test_a_device_that_errs_every_time_is_corrected_by_the_gain_alone() -> None:
    """No noise, a gain of 1.2 in each device: the command settles as e_k = (1 - 1.2 gain)^k e_0."""
    model = device_model("none")
    g = torch.full((4, 2, 2), 10.0)
    state = inject_faults(program(model, g, generator=None), Faults(device_sigma=0.2), seeded(0), g_max_us=25.0)
    mask = torch.ones(2, 2, dtype=torch.bool)
    for share, pulses in ((0.5, 6), (0.25, 6), (0.0, 6)):
        verify = Verify(pulses, 1e-5, share)
        after, _ = reprogram(state, model, g, now_s=0.0, generator=None, mask=mask, verify=verify)
        error = (state.gain - 1) * 10.0 * (1 - state.gain * share) ** (pulses - 1)
        torch.testing.assert_close(after.g_prog - 10.0, error, rtol=1e-3, atol=2e-5)


def test_it_ends_when_all_are_within() -> None:
    state, log = verified("none", 10.0, Verify(50, 0.1), size=3)
    assert log.active == (36,)
    assert log.within == (1.0,)
    assert log.error_us == (0.0,)
    assert bool((state.pulses == 1).all())


def test_read_noise_bounds_what_verification_reaches() -> None:
    """n = 14,400: the errors' standard deviations differ by far more than their standard error of .6 %."""
    errors = [
        verified("pcm", 12.0, Verify(8, 0.2, gain=0.0), read_scale=scale)[1].error_us[-1] for scale in (0.0, 0.5, 1.0)
    ]
    assert errors[0] < 0.95 * errors[1] < 0.95**2 * errors[2]


def test_more_iterations_bring_the_error_of_weights_down() -> None:
    """Targets over the whole range, read noise on, default gain; n = 14,400 devices, one-sided, 4.4 standard errors of
    the difference of two root mean squares (.6 % each, correlation ignored)."""
    model = device_model("pcm")
    g = 25.0 * torch.rand(4, 60, 60, generator=seeded(3))
    errors = []
    for iterations in (1, 3, 10):
        state = program(model, g, generator=seeded(4), verify=Verify(iterations, 0.5))
        errors.append(float((state.g_prog - g).square().mean().sqrt()))
    for worse, better in itertools.pairwise(errors):
        assert better < worse * (1 - Z * math.sqrt(2 * 0.75 / g.numel()))


def test_one_iteration_is_programming_without_verification() -> None:
    model = device_model("pcm")
    g = 25.0 * torch.rand(4, 5, 6, generator=seeded(3))
    one = program(model, g, generator=seeded(4), verify=Verify(1, 0.5))
    plain = program(model, g, generator=seeded(4))
    assert torch.equal(one.g_prog, plain.g_prog)
    assert torch.equal(one.pulses, plain.pulses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, 0.5), "iterations 0"),
        ((3, 0.0), r"tolerance_us 0\.0"),
        ((3, math.nan), "tolerance_us nan"),
        ((3, 0.5, 1.5), r"gain 1\.5"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Verify(*options)  # type: ignore[arg-type]
