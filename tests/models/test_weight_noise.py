"""Noise on weights for meta-training: its size, its gradient, and which weights get a new draw."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ovonic.models import crossbar
from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.pcm import device_model
from ovonic.models.splitting import conductances
from ovonic.models.weight_noise import Devices, NoisyWeights, Uniform, noisy, weight_noise

from .natural_eprop_cases import inputs, small_system


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_uniform_noise_has_the_stated_size_and_the_gradient_passes() -> None:
    w = torch.linspace(-1, 1, 40_000, dtype=torch.float64).reshape(200, 200).requires_grad_()
    read = noisy(w, Uniform(0.05), torch.tensor(2.0), _generator())
    error = (read - w).detach()
    assert error.std().item() == pytest.approx(0.1, rel=0.02)  # 5 standard errors of 40,000 draws are 1.8 %
    read.sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["pcm", "hermes"])
@pytest.mark.parametrize("split", ["equal", "fill"])
def test_noise_of_devices_has_the_moments_of_programmed_and_read_arrays(name: str, split: str) -> None:
    """Sigma of 20,000 cells a weight, drawn device by device: within 5 %: 5 standard errors are
    2.5 %, and moments leave out that read noise grows with what was programmed."""
    model, levels = device_model(name), torch.tensor([-0.9, -0.4, 0.3, 0.6, 1.0], dtype=torch.float64)
    w = levels.expand(20_000, -1)
    state = crossbar.program(model, conductances(w, model.g_max_us, split), generator=_generator(1))
    drawn = crossbar.weights(state, model.g_max_us).std(0)
    torch.testing.assert_close(drawn, Devices(model, split).sigma(w)[0], rtol=0.05, atol=0)


def test_a_weight_of_zero_has_no_noise_and_ones_beyond_full_scale_that_of_full_scale() -> None:
    noise = Devices(device_model("pcm"))
    sigma = noise.sigma(torch.tensor([[0.0, 1.0, 3.0, -3.0]]))
    assert sigma[0, 0] == 0
    assert sigma[0, 1] == sigma[0, 2] == sigma[0, 3] > 0
    column = torch.zeros(5, 2)
    column[:, 1] = 1.0
    read = noisy(column, noise, column.abs().amax(0), _generator())
    assert torch.equal(read[:, 0], column[:, 0])
    assert (read[:, 1] != 1).all()


def test_only_changed_weights_of_a_lesson_are_drawn_anew() -> None:
    w = {"a": torch.rand(30, 20, generator=_generator(2)) + 0.5}
    products = NoisyWeights(Uniform(0.1), _generator(3))
    before = products(w, {})["a"]
    mask = torch.rand(4, 30, 20, generator=_generator(4)) < 0.2
    change = {"a": torch.where(mask, 1 / 16, 0.0)}
    after = products(w, change)["a"]
    kept: Tensor = (after == before).masked_fill(mask, True)
    assert kept.all()
    assert (after - before)[mask].std() > 0.1
    assert torch.equal(products(w, change)["a"], after)


def test_a_lesson_on_noisy_weights_differs_and_is_differentiable() -> None:
    model, (clock, lsg_input) = small_system(), inputs(batch=2)
    inner = InnerLoop(rate=0.02, step=1 / 16)
    first, second, other = (
        model(clock, lsg_input, inner, products=NoisyWeights(Uniform(0.2), _generator(seed))) for seed in (5, 5, 6)
    )
    assert torch.equal(first.after, second.after)
    assert not torch.equal(first.after, other.after)
    first.after.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_options() -> None:
    assert weight_noise() is None
    assert weight_noise(0.1) == Uniform(0.1)
    assert weight_noise(0.0, "pcm") == Devices(device_model("pcm"))
    with pytest.raises(ConfigError, match="give one of them"):
        weight_noise(0.1, "pcm")
    with pytest.raises(ConfigError, match="did you mean 'pcm'"):
        weight_noise(0.0, "pcn")
    for bad in (-1.0, math.nan):
        with pytest.raises(ConfigError, match="weight noise"):
            weight_noise(bad)
