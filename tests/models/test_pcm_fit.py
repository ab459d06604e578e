"""Fits recover what made the data, say how sure they are, and find out models that are wrong.

Statistics, fixed seeds. Coverage: 40 fits of 400 devices, 95 % intervals; fewer than 33 of 40 hits has probability
9e-4 at 95 % and would show intervals of half the width (hit 67 %: 27 of 40) with probability .99. Tests of a right
model: an alarm is p < 1e-6, so 40 fits of 10 tests raise one with probability 4e-4 at most. Each wrong model is one
that a user could meet, with the test that must find it.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovonic.models.device_regressions import OverTime
from ovonic.models.errors import DataError
from ovonic.models.fit_statistics import bins_of
from ovonic.models.pcm import PCM, device_model
from ovonic.models.pcm_fit import Fit, fit_over_time

from .fit_cases import over_time

PCM_MODEL = device_model("pcm")
TRUTH = {
    "q_scale": 0.0088,
    "q_power": 0.65,
    "prog_coeff[0]": 0.26348,
    "prog_coeff[1]": 1.965,
    "prog_coeff[2]": -1.1731,
    "mean programming error, uS": 0.0,
    "nu_mean at w = 1": 0.049,
    "nu_sigma at w = 1": 0.008,
}


def fitted(data: OverTime, **options: object) -> Fit:
    return fit_over_time(data, g_max_us=25.0, t_0_s=20.0, t_read_s=250e-9, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fits() -> list[Fit]:
    return [fitted(over_time(PCM_MODEL, seed, n=400)) for seed in range(40)]


@pytest.mark.parametrize("name", TRUTH)
def test_intervals_cover_what_made_the_data(fits: list[Fit], name: str) -> None:
    hits = sum(fit.parameters[name].low <= TRUTH[name] <= fit.parameters[name].high for fit in fits)
    assert hits >= 33


def test_no_test_objects_to_the_model_that_made_the_data(fits: list[Fit]) -> None:
    assert [fit.warnings for fit in fits] == [[]] * len(fits)
    p = np.array([test.p_value for fit in fits for test in fit.tests])
    # share of p < .05 over 400 tests that are nearly independent: .05 +- .011; .10 would be a test that cries wolf
    assert (p < 0.05).mean() < 0.1


def test_the_fitted_model_draws_as_the_one_that_made_the_data(fits: list[Fit]) -> None:
    g = torch.linspace(3, 25, 12, dtype=torch.float64)
    sigma = torch.stack([fit.model.programming_sigma(g) for fit in fits]).mean(0)
    torch.testing.assert_close(sigma, PCM_MODEL.programming_sigma(g), rtol=0.05, atol=0)
    mu = torch.stack([fit.model.drift_moments(g)[0] for fit in fits]).mean(0)
    torch.testing.assert_close(mu, PCM_MODEL.drift_moments(g)[0], rtol=0.08, atol=0)
    for age in (0.0, 1e4):
        read = torch.stack([fit.model.read_sigma(g, age) for fit in fits]).mean(0)
        torch.testing.assert_close(read, PCM_MODEL.read_sigma(g, age), rtol=0.05, atol=0)


def test_more_devices_give_narrower_intervals() -> None:
    few, many = (fitted(over_time(PCM_MODEL, 3, n=n)).parameters["q_scale"] for n in (200, 3200))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.3)


def alarms(fit: Fit) -> set[str]:
    return {test.name for test in fit.tests if test.alarm}


def test_drift_that_levels_off_is_found_out() -> None:
    def saturating(g: torch.Tensor, nu: torch.Tensor, age: float) -> torch.Tensor:
        return g * (0.75 + 0.25 * torch.exp(-nu * 20 * math.log1p(age / 20)))

    fit = fitted(over_time(PCM_MODEL, 1, drift=saturating))
    assert "power law" in alarms(fit)
    assert any("no power law" in warning for warning in fit.warnings)


def test_white_read_noise_is_found_out() -> None:
    fit = fitted(over_time(PCM_MODEL, 1, noise=lambda g, age: torch.full_like(g, 0.08 if age > 2e4 else 0.02)))
    assert "read noise over time" in alarms(fit)


def test_read_noise_of_single_bad_devices_is_found_out() -> None:
    def some_bad(g: torch.Tensor, age: float) -> torch.Tensor:
        return PCM_MODEL.read_sigma(g, age) * torch.where(torch.arange(len(g)) % 20 == 0, 4.0, 1.0)

    assert "curvature of single devices" in alarms(fitted(over_time(PCM_MODEL, 1, noise=some_bad)))


def test_read_noise_that_is_no_power_of_the_conductance_is_found_out() -> None:
    fit = fitted(over_time(PCM_MODEL, 1, noise=lambda g, age: torch.where(g > 12, 0.02, 0.08)))
    assert "read noise over conductance" in alarms(fit)


def test_biased_programming_is_found_out() -> None:
    fit = fitted(over_time(PCM_MODEL, 1, program=lambda g, r: PCM_MODEL.program(g * 0.95, r)))
    assert "unbiased programming" in alarms(fit)
    assert fit.parameters["mean programming error, uS"].high < 0


def test_a_programming_error_that_is_no_polynomial_is_found_out() -> None:
    def step(g: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        sigma = torch.where((g > 8) & (g < 15), 0.3, 1.2)
        return g + sigma * torch.randn(g.shape, generator=generator, dtype=g.dtype)

    data = over_time(PCM_MODEL, 1, program=step, least=0.3)
    assert "programming error over target" in alarms(fitted(data, degree=1))
    assert fitted(data, degree=6).parameters.keys() > {"prog_coeff[6]"}


def test_two_populations_of_drift_are_found_out() -> None:
    def two(g: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        fast = torch.rand(g.shape, generator=generator, dtype=g.dtype) < 0.1
        return torch.where(fast, 0.15, 0.03) + 0.004 * torch.randn(g.shape, generator=generator, dtype=g.dtype)

    assert "normal drift exponents" in alarms(fitted(over_time(PCM_MODEL, 1, nu=two)))


def test_one_knot_does_not_hold_a_drift_that_depends_on_conductance() -> None:
    def slope(g: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return 0.1 - 0.06 * g / 25 + 0.004 * torch.randn(g.shape, generator=generator, dtype=g.dtype)

    data = over_time(PCM_MODEL, 1, nu=slope)
    assert "mean drift exponent" in alarms(fitted(data, knots=1))
    many = fitted(data, knots=6)
    assert "mean drift exponent" not in alarms(many)
    assert many.r_squared["drift exponent over conductance"] > 0.8


def test_what_is_left_out_is_counted() -> None:
    model = PCM(zero_targets="reset")
    data = over_time(model, 2, n=400, targets=41, least=0.0)
    fit = fitted(data)
    assert data.target_us is not None
    assert fit.left_out["target 0"] == int((data.target_us == 0).sum()) > 0
    assert fit.left_out["too noisy"] > 0
    quiet = fitted(over_time(PCM(read_scale=0.1), 2, n=400, targets=41, least=0.0))
    assert quiet.left_out["target near 0"] > 0
    assert fit.n_used + sum(fit.left_out[why] for why in ("read 0 uS", "too noisy", "target 0")) == 400
    assert fit.report()["left_out"] == fit.left_out


def test_without_targets_the_programming_error_is_not_measured() -> None:
    data = over_time(PCM_MODEL, 4)._replace(target_us=None)
    fit = fitted(data)
    assert fit.model.programming_sigma(torch.tensor([10.0])).item() == 0.0
    assert not any(name.startswith("prog") for name in fit.parameters)
    assert fit.parameters["q_power"].low < 0.65 < fit.parameters["q_power"].high


def test_data_without_noise() -> None:
    quiet = PCM(read_scale=0.0, prog_scale=0.0)
    fit = fitted(over_time(quiet, 0, n=120, times=5))
    assert fit.parameters["q_scale"].value < 1e-6
    assert fit.model.programming_sigma(torch.tensor([12.0])).item() < 1e-3
    assert fit.parameters["nu_mean at w = 1"].value == pytest.approx(0.049, abs=0.006)


def test_defaults_come_from_the_data() -> None:
    data = over_time(PCM_MODEL, 5)
    fit = fit_over_time(data, name="mine")
    assert (fit.model.name, fit.model.g_max_us, fit.model.t_0_s) == ("mine", 25.0, pytest.approx(20.0))


def test_too_little_is_refused() -> None:
    data = over_time(PCM_MODEL, 0, n=9)
    with pytest.raises(DataError, match="9 devices can be used; a fit over devices needs 10"):
        fitted(data)
    short = data.device != 4
    short[np.flatnonzero(data.device == 4)[:3]] = True
    few = OverTime(data.names, data.device[short], data.time_s[short], data.g_us[short], data.target_us)
    with pytest.raises(DataError, match="device 'd4': 3 samples"):
        fitted(few)
    with pytest.raises(DataError, match="must be positive"):
        fit_over_time(data, g_max_us=-1.0)
    dark = replace_g(data, 0.0)
    with pytest.raises(DataError, match="0 devices can be used"):
        fitted(dark)


def replace_g(data: OverTime, value: float) -> OverTime:
    return data._replace(g_us=np.full_like(data.g_us, value))


def test_bins_keep_equal_values_together() -> None:
    x = np.repeat([1.0, 2.0, 3.0], [5, 30, 4])
    bins = bins_of(x, 8)
    assert sum(map(len, bins)) == len(x)
    assert all(len(b) >= 8 for b in bins)
    assert sum(2.0 in x[b] for b in bins) == 1


def test_a_report_is_plain_and_complete() -> None:
    fit = fitted(over_time(PCM_MODEL, 0, n=100))
    report = replace(fit, devices=None).report()
    assert report["n_devices"] == 100
    assert {t["name"] for t in report["tests"]} == {t.name for t in fit.tests}
    assert all(p["low"] <= p["value"] <= p["high"] for p in report["parameters"].values())
