"""A fitted model is a device model like any other: its fits by hand, gradients, vmap, and refusals."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from ovonic.models.crossbar import advance, program
from ovonic.models.errors import ConfigError
from ovonic.models.fitted_model import FittedModel, through_knots
from ovonic.models.pcm import DeviceModel, device_model

MODEL = FittedModel(
    "mine",
    g_max_us=20.0,
    prog_coeff=(0.2, 1.0, -0.5),
    prog_reference_us=20.0,
    nu_knots=(-3.0, -1.0, 0.0),
    nu_mean=(0.1, 0.05, 0.04),
    nu_sigma=(0.03, 0.01, 0.008),
    q_scale=0.009,
    q_power=0.6,
    q_floor=0.02,
)


def test_lines_through_knots() -> None:
    x = torch.linspace(-6, 2, 200, dtype=torch.float64)
    by_numpy = np.interp(x.numpy(), MODEL.nu_knots, MODEL.nu_mean)
    np.testing.assert_allclose(through_knots(x, MODEL.nu_knots, MODEL.nu_mean).numpy(), by_numpy, atol=1e-15)
    assert through_knots(x, (0.5,), (3.0,)).eq(3.0).all()


def test_fits_by_hand() -> None:
    g = torch.tensor([0.0, 2.0, 20.0], dtype=torch.float64)
    w = 0.1
    assert MODEL.programming_sigma(g).tolist() == pytest.approx([0.0, 0.2 + w - 0.5 * w * w, 0.7])
    mu, sigma = MODEL.drift_moments(g)
    share = (math.log(w) + 3) / 2
    assert mu.tolist() == pytest.approx([0.0, 0.1 - 0.05 * share, 0.04])
    assert sigma.tolist() == pytest.approx([0.0, 0.03 - 0.02 * share, 0.008])
    log = math.log((100 + 20 + 250e-9) / 500e-9)
    expected = [0.009 * max(x, 0.02) ** -0.6 * math.sqrt(log) for x in (0.0, 0.1, 1.0)]
    assert MODEL.read_sigma(g, 100.0).tolist() == pytest.approx(expected)


def test_a_polynomial_below_zero_is_no_spread() -> None:
    model = FittedModel(prog_coeff=(0.1, -1.0))
    assert model.programming_sigma(torch.tensor([25.0])).item() == 0.0


def test_an_array_of_fitted_devices() -> None:
    model: DeviceModel = MODEL
    target = torch.full((4, 8, 8), 10.0)
    target[1] = 0.0
    state = program(model, target, generator=torch.Generator().manual_seed(0))
    assert state.g_prog[1].eq(0).all()
    later = advance(state, model, now_s=1e5, generator=torch.Generator().manual_seed(1))
    ratio = later.g_read[0] / state.g_prog[0]
    assert 0.3 < ratio.mean() < 0.8
    gradient = torch.func.grad(lambda g: MODEL.programming_sigma(g).sum())(target)
    assert gradient[0].eq(gradient[0, 0, 0]).all()
    both = torch.func.vmap(MODEL.drift_moments)(torch.stack([target, target / 2]))
    torch.testing.assert_close(both[0][1], MODEL.drift_moments(target / 2)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nu_knots": (0.0, -1.0, 1.0)}, "must rise"),
        ({"nu_mean": (0.1,)}, "1 numbers for 3 knots"),
        ({"nu_sigma": (0.1, -0.1, 0.0)}, "0 or more"),
        ({"nu_mean": (0.1, math.nan, 0.0)}, "finite numbers"),
        ({"q_scale": -1.0}, "q_scale -1.0: must be 0 or more"),
        ({"q_power": math.inf}, "a finite power"),
        ({"q_floor": 0.0}, "floor in 0..1"),
        ({"g_max_us": 0.0}, "positive and finite"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MODEL, **change)


def test_without_fits_devices_hold_their_target() -> None:
    target = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(0)) * 25
    state = program(FittedModel(), target, generator=torch.Generator().manual_seed(1))
    ideal = program(device_model("none"), target, generator=None)
    torch.testing.assert_close(state.g_read, ideal.g_read)
