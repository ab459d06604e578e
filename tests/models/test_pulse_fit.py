"""Fits over pulses. Coverage as in ``test_pcm_fit``: 40 fits, 33 hits of 40 at least; false alarm 9e-4 a parameter."""

import dataclasses

import numpy as np
import pytest
import torch

from ovonic.models.errors import DataError
from ovonic.models.fitted_model import FittedModel
from ovonic.models.pulse_fit import fit_over_pulses

from .fit_cases import over_pulses

TRUTH = {"step mean, uS": 2.0, "step mean per uS": -0.1, "step sigma, uS": 0.2, "step sigma per uS": 0.02}


def test_intervals_cover_the_steps_that_made_the_data() -> None:
    fits = [fit_over_pulses(over_pulses(seed, n=60)) for seed in range(40)]
    for name, truth in TRUTH.items():
        assert sum(fit.parameters[name].low <= truth <= fit.parameters[name].high for fit in fits) >= 33
    assert [fit.warnings for fit in fits] == [[]] * 40


def test_the_model_programs_with_the_spread_over_devices() -> None:
    data = over_pulses(1, n=2000)
    fit = fit_over_pulses(data)
    curves = fit.devices
    assert fit.r_squared["mean curve"] > 0.999
    assert curves.predicted_mean == pytest.approx(20 * (1 - 0.9 ** curves.pulse.astype(float)), abs=0.1)
    sigma = fit.model.programming_sigma(torch.as_tensor(curves.mean[2:])).numpy()
    np.testing.assert_allclose(sigma, curves.spread[2:], rtol=0.1)
    assert fit.model.drift_moments(torch.tensor([5.0]))[0].item() == 0.0


def test_drift_and_read_noise_are_kept_from_another_model() -> None:
    base = FittedModel(g_max_us=30.0, nu_mean=(0.05,), q_scale=0.01, q_power=0.5)
    model = fit_over_pulses(over_pulses(1), onto=base, name="both").model
    same = {"nu_mean", "q_scale", "q_power", "g_max_us", "t_0_s"}
    assert {n for n in same if getattr(model, n) == getattr(base, n)} == same
    assert model.name == "both"
    assert model.prog_coeff != base.prog_coeff
    assert dataclasses.asdict(model).keys() == dataclasses.asdict(base).keys()


def test_devices_that_differ_are_found_out() -> None:
    fit = fit_over_pulses(over_pulses(1, n=300, spread=0.2))
    assert "spread after all pulses" in {t.name for t in fit.tests if t.alarm}
    assert any("not independent" in warning for warning in fit.warnings)


def test_steps_that_are_no_line_are_found_out() -> None:
    data = over_pulses(1, n=300)
    bent = data._replace(g_us=data.g_us**2 / 20)
    assert "mean step" in {t.name for t in fit_over_pulses(bent).tests if t.alarm}


def test_too_little_is_refused() -> None:
    with pytest.raises(DataError, match="9 devices"):
        fit_over_pulses(over_pulses(0, n=9))
    data = over_pulses(0, n=20)
    with pytest.raises(DataError, match="0 steps from one pulse to the next"):
        fit_over_pulses(data._replace(pulse=data.pulse * 2))
    with pytest.raises(DataError, match="steps from one pulse"):
        fit_over_pulses(data._replace(g_us=np.ones_like(data.g_us)))
    with pytest.raises(DataError, match="g_max -1"):
        fit_over_pulses(data, g_max_us=-1.0)
