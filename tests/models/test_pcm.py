"""Device models: their equations, what zero targets do, gradients, vmap. No toolchain.

Statistical tests use fixed seeds. Each compares a mean and a standard deviation of n = 40,000 draws with the closed
form at 5 standard errors (false alarm 6e-7 each, below 1e-4 for the file): a mean wrong by 2.5 % of a sigma, or a sigma
wrong by 1.8 %, would be found.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.device_model import at_least, at_most
from ovonic.models.errors import ConfigError
from ovonic.models.pcm import DEVICE_MODELS, DeviceModel, device_model

DRAWN = ("pcm", "hermes", "hermes-pair")
N = 10_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(model: DeviceModel, fraction: float, n: int = N, dtype: torch.dtype = torch.float32) -> Tensor:
    """n cells whose four devices all have the same target."""
    return torch.full((4, 1, n), fraction * model.g_max_us, dtype=dtype)


def check_moments(draws: Tensor, mean: float, sigma: float) -> None:
    n = draws.numel()
    assert abs(float(draws.mean()) - mean) < 5 * sigma / math.sqrt(n)
    assert abs(float(draws.std()) / sigma - 1) < 5 / math.sqrt(2 * n)


def independent(g: Tensor, name: str) -> Tensor:
    """Draws that are independent of each other: one device of each polarity where two share one draw."""
    return g[..., :2, :, :] if name == "hermes-pair" else g


def test_the_names() -> None:
    assert DEVICE_MODELS == ("pcm", "hermes", "hermes-pair", "published", "none")
    for name in DEVICE_MODELS:
        assert device_model(name).name == name
        assert device_model(name) == device_model(name)
        assert device_model(name) != device_model(name, g_max_us=7.0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hermess", {}, "device model 'hermess': did you mean 'hermes'"),
        ("pcm", {"g_max": 3.0}, "device model 'pcm' has no 'g_max': did you mean 'g_max_us'"),
        ("pcm", {"g_max_us": 0.0}, "g_max_us 0.0: must be positive"),
        ("pcm", {"t_0_s": math.inf}, "t_0_s inf: must be positive and finite"),
        ("hermes", {"read_scale": -1.0}, "read_scale -1.0: must be 0 or more"),
        ("hermes", {"prog_coeff": (math.nan,)}, "prog_coeff .*: must be finite"),
        ("pcm", {"zero_targets": "rest"}, "zero_targets 'rest': did you mean 'reset'"),
        ("pcm", {"read_exponent_base": "uS"}, "read_exponent_base 'uS'"),
        ("published", {"read_log": "pairs"}, "read_log 'pairs': did you mean 'pair'"),
        ("none", {"g_max_us": -1.0}, "g_max_us -1.0: must be positive"),
    ],
)
def test_what_is_wrong_is_said(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        device_model(name, **changes)


def test_fits_by_hand() -> None:
    """Pencil and paper at w = 1, .1 and 1e-4; HERMES devices at full scale."""
    pcm = device_model("pcm")
    g = torch.tensor([25.0, 2.5, 0.0025]).reshape(1, 1, 3).expand(4, 1, 3)
    sigma = pcm.programming_sigma(g)[0, 0]
    torch.testing.assert_close(sigma, torch.tensor([1.05538, 0.448249, 0.2636765]), rtol=1e-5, atol=0)
    mu, spread = pcm.drift_moments(g)
    torch.testing.assert_close(mu[0, 0], torch.tensor([0.049, 0.06009, 0.1]), rtol=1e-4, atol=0)
    torch.testing.assert_close(spread[0, 0], torch.tensor([0.008, 0.022882, 0.045]), rtol=1e-4, atol=0)
    q = torch.tensor([0.0088, 0.039308, 0.2])
    at_first_read = math.sqrt(math.log(20.00000025 / 5e-7))
    torch.testing.assert_close(pcm.read_sigma(g, 0.0)[0, 0], q * at_first_read, rtol=1e-4, atol=0)
    hermes = device_model("hermes").programming_sigma(torch.full((4, 1, 1), 10.35))
    torch.testing.assert_close(hermes, torch.full((4, 1, 1), 1.00756712), rtol=1e-5, atol=0)
    pair = device_model("hermes-pair").programming_sigma(torch.full((4, 1, 1), 10.35))
    torch.testing.assert_close(pair, torch.full((4, 1, 1), 1.09269857 / 2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("fraction", [0.3, 0.6, 1.0])
def test_draws_have_the_moments_of_the_closed_forms(name: str, fraction: float) -> None:
    model = device_model(name)
    g = cells(model, fraction, 2 * N if name == "hermes-pair" else N)
    draws = generator(int(10 * fraction))
    g_prog, nu = model.program(g, draws), model.draw_nu(g, draws)
    check_moments(independent(g_prog, name), float(g[0, 0, 0]), float(model.programming_sigma(g)[0, 0, 0]))
    mu, sigma = model.drift_moments(g)
    check_moments(independent(nu, name), float(mu[0, 0, 0]), float(sigma[0, 0, 0]))
    for age in (0.0, 1e6):
        drifted = model.drift(g, torch.full_like(g, 0.06), age)
        read = model.read(g, torch.full_like(g, 0.06), age, draws)
        check_moments(independent(read / drifted, name), 1.0, float(model.read_sigma(g, age)[0, 0, 0]))


def test_a_polarity_of_two_hermes_devices_is_one_unit() -> None:
    """n = 20,000 polarities: the sum has the fit's sigma, whatever the split; each device holds its share exactly."""
    model = device_model("hermes-pair")
    g = torch.tensor([7.5, 3.0, 2.5, 0.0]).reshape(4, 1, 1).expand(4, 1, N)
    g_prog = model.program(g, generator())
    plus = g_prog[0] + g_prog[2]
    x = 10.0 / 20.7
    sigma = 0.16603222 + 4.71806468 * x - 8.48101252 * x**2 + 4.68961419 * x**3
    check_moments(plus, 10.0, sigma)
    torch.testing.assert_close(g_prog[0], 0.75 * plus)
    nu = model.draw_nu(g, generator(1))
    assert torch.equal(nu[0], nu[2])
    assert not torch.equal(nu[0], nu[1])
    assert torch.equal(g_prog[3], torch.zeros(1, N))
    noise = model.read(g, nu, 0.0, generator(2)) / g - 1
    torch.testing.assert_close(noise[0], noise[2], rtol=0, atol=1e-6)
    check_moments(noise[0], 0.0, float(model.read_sigma(g, 0.0)[0, 0, 0]))


@pytest.mark.parametrize("name", DRAWN)
def test_a_reset_device_conducts_nothing(name: str) -> None:
    """The default leaves a device with target 0 at exactly 0 uS for ever; "noisy" is the clamped half-normal."""
    g = torch.zeros(4, 1, N)
    reset = device_model(name)
    assert not reset.program(g, generator()).any()
    assert not reset.draw_nu(g, generator()).any()
    assert not reset.read(reset.program(g, generator()), reset.draw_nu(g, generator()), 1e6, generator()).any()
    assert not reset.programming_sigma(g).any()
    noisy = device_model(name, zero_targets="noisy")
    drawn = independent(noisy.program(g, generator()), name)
    half = float(noisy.programming_sigma(g)[0, 0, 0]) / math.sqrt(2 * math.pi)
    assert abs(float(drawn.mean()) - half) < 0.02 * half  # 5 standard errors of 20,000 draws
    assert float((drawn == 0).float().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_draws_come_from_the_generator_alone(name: str) -> None:
    model = device_model(name)
    g = torch.rand(2, 4, 3, 5) * model.g_max_us
    before = torch.random.get_rng_state()
    a, b, c = (model.program(g, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert torch.equal(a, c) == (name == "none")
    nu = model.draw_nu(g, generator(1))
    assert torch.equal(model.read(a, nu, 9.0, generator(1)), model.read(a, nu, 9.0, generator(1)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.program(g, None).shape == g.shape


@pytest.mark.parametrize("name", DEVICE_MODELS)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), ages=st.lists(st.floats(0, 1e9), min_size=2, max_size=5))
def test_drift_without_noise_never_raises_a_conductance(name: str, seed: int, ages: list[float]) -> None:
    model = device_model(name)
    g = torch.rand(4, 2, 3, generator=generator(seed)) * model.g_max_us
    g_prog, nu = model.program(g, generator(seed)), model.draw_nu(g, generator(seed))
    assert torch.equal(model.drift(g_prog, nu, 0.0), g_prog)
    assert float(g_prog.min()) >= 0
    levels = [model.drift(g_prog, nu, age) for age in (0.0, *sorted(ages))]
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(levels))
    assert (model.read(g_prog, nu, ages[0], generator(seed)) >= 0).all()


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_each_device_has_its_own_age(name: str) -> None:
    """A tensor of ages, in the clock's float64, gives each device what a call with its own age gives it."""
    model = device_model(name)
    g = torch.full((4, 1, 3), 0.4 * model.g_max_us)
    nu = model.draw_nu(g, generator(3))
    ages = torch.tensor([0.0, 60.0, 3e7], dtype=torch.float64)
    together = model.read(g, nu, ages.expand(4, 1, 3), generator(4))
    assert together.dtype == torch.float32
    for column, age in enumerate(ages.tolist()):
        alone = model.read(g, nu, age, generator(4))
        torch.testing.assert_close(together[..., column], alone[..., column], rtol=1e-6, atol=0)
        torch.testing.assert_close(model.read_sigma(g, ages)[..., column], model.read_sigma(g, age)[..., column])


def test_a_device_is_not_read_before_it_is_programmed() -> None:
    g = torch.ones(4, 1, 1)
    with pytest.raises(ConfigError, match=r"age_s -1.0"):
        device_model("pcm").read(g, g, -1.0, None)


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_vmap_over_arrays(name: str) -> None:
    """Under vmap the deterministic parts equal a plain call, and each array has draws of its own."""
    model = device_model(name)
    g = (0.5 * model.g_max_us) * torch.ones(3, 4, 2, 6)
    nu = torch.full_like(g, 0.05)
    ages = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    mapped = torch.func.vmap(model.drift)(g, nu, ages)
    torch.testing.assert_close(mapped, model.drift(g, nu, ages.reshape(3, 1, 1, 1)))
    torch.testing.assert_close(torch.func.vmap(model.programming_sigma)(g), model.programming_sigma(g))

    def life(target: Tensor) -> Tensor:
        return model.read(model.program(target, None), model.draw_nu(target, None), 5.0, None)

    arrays = torch.func.vmap(life, randomness="different")(g)
    assert arrays.shape == g.shape
    assert torch.equal(arrays[0], arrays[1]) == (name == "none")


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_gradients_pass_to_the_target(name: str) -> None:
    """Finite everywhere, also at 0, at full scale and where the draw was clamped; twice, as meta-learning needs."""
    model = device_model(name)
    g = torch.linspace(0, model.g_max_us, 400, dtype=torch.float64).reshape(1, 1, 400).repeat(4, 1, 1).requires_grad_()

    def read(target: Tensor) -> Tensor:
        draws = generator(5)
        return model.read(model.program(target, draws), model.draw_nu(target, draws), 100.0, draws)

    first = torch.autograd.grad(read(g).square().sum(), g, create_graph=True)[0]
    assert first.isfinite().all()
    second = torch.autograd.grad(first.sum(), g)[0]
    assert second.isfinite().all()
    assert second.abs().max() > 0.1

    clamped = device_model(name, zero_targets="noisy") if name != "none" else model
    small = torch.full((4, 1, 200), 0.01 * model.g_max_us, dtype=torch.float64, requires_grad=True)
    g_prog = clamped.program(small, generator(6))
    if name != "none":
        assert (g_prog == 0).any()
    grad = torch.autograd.grad(g_prog.sum(), small)[0]
    assert (grad[g_prog == 0] != 0).all(), "straight through the clamp"


def test_clamps_pass_every_kind_of_gradient() -> None:
    """Reverse, forward and mapped: 1, also where the value is clamped; the values are those of a plain clamp."""
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    for clamp, plain in ((lambda v: at_least(v, 0.0), x.clamp(min=0)), (lambda v: at_most(v, 1.0), x.clamp(max=1))):
        assert torch.equal(clamp(x), plain)
        assert torch.equal(torch.func.vmap(torch.func.grad(clamp))(x), torch.ones(4))
        assert torch.equal(torch.func.jvp(clamp, (x,), (torch.ones(4),))[1], torch.ones(4))
        assert torch.equal(torch.func.jacrev(clamp)(x), torch.eye(4))


@pytest.mark.parametrize("name", DRAWN)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    """Where nothing is clamped: central differences of the whole life at fixed draws, relative 1e-5."""
    model = device_model(name, drift_scale=0.5, read_scale=0.2)
    g = torch.tensor([0.42, 0.55, 0.68, 0.81], dtype=torch.float64).reshape(4, 1, 1) * model.g_max_us

    def read(target: Tensor) -> Tensor:
        draws = generator(7)
        return model.read(model.program(target, draws), model.draw_nu(target, draws), 1e4, draws).sum()

    step = 1e-5
    grad = torch.autograd.functional.jacobian(read, g)
    for k in range(4):
        shift = torch.zeros_like(g)
        shift[k] = step
        numeric = (read(g + shift) - read(g - shift)) / (2 * step)
        assert float(grad[k]) == pytest.approx(float(numeric), rel=1e-5)


def test_scales_of_zero_turn_each_effect_off() -> None:
    for name in DRAWN:
        still = device_model(name, prog_scale=0.0, drift_scale=0.0, read_scale=0.0)
        g = torch.rand(4, 3, 3) * still.g_max_us
        assert torch.equal(still.program(g, generator()), g)
        assert torch.equal(still.read(g, still.draw_nu(g, generator()), 1e6, generator()), g)


def test_another_full_scale_keeps_the_fit_in_its_own_unit() -> None:
    """sigma_prog is a fraction of full scale: at half the g_max half the uS, unless the reference says otherwise."""
    full, half = device_model("pcm"), device_model("pcm", g_max_us=12.5)
    g = torch.rand(4, 2, 2) * 12.5
    torch.testing.assert_close(half.programming_sigma(g), 0.5 * full.programming_sigma(2 * g))
    own = device_model("pcm", prog_coeff=(0.5,), prog_reference_us=25.0, g_max_us=12.5)
    torch.testing.assert_close(own.programming_sigma(g), torch.full_like(g, 0.25))


def test_two_readings_of_the_read_noise_are_8_1_fold_apart() -> None:
    g = torch.full((4, 1, 1), 10.0)
    relative = device_model("pcm").read_sigma(g, 1e5)
    microsiemens = device_model("pcm", read_exponent_base="microsiemens").read_sigma(g, 1e5)
    torch.testing.assert_close(relative / microsiemens, torch.full((4, 1, 1), 25.0**0.65))
    assert float(relative[0] / microsiemens[0]) == pytest.approx(8.1, abs=0.01)


def test_published_by_its_equations() -> None:
    """n = 40,000 draws at w = .5, where nothing is clipped: mean g 32^-nu, sigma as ``pcm``; clipped at full scale."""
    model = device_model("published")
    g = cells(model, 0.5)
    g_prog = model.program(g, generator())
    mu, _ = model.drift_moments(g)
    factor = 32.0 ** -float(mu[0, 0, 0])
    spread_of_drift = 12.5 * factor * math.log(32.0) * float(model.drift_moments(g)[1][0, 0, 0])
    sigma = math.hypot(float(model.programming_sigma(g)[0, 0, 0]), spread_of_drift)
    n = g_prog.numel()
    assert abs(float(g_prog.mean()) - 12.5 * factor) < 5 * sigma / math.sqrt(n) + 0.01  # + curvature of 32^-nu
    assert abs(float(g_prog.std()) / sigma - 1) < 0.02
    assert not model.draw_nu(g, None).any()
    assert torch.equal(model.read(g_prog, g_prog, 1e6, None), g_prog)
    full = device_model("published", drift_scale=0.0).program(cells(model, 1.0), generator())
    assert float(full.max()) == 25.0
    assert 0.45 < float((full == 25.0).float().mean()) < 0.55


def test_read_noise_of_published_is_that_of_a_weight_on_two_devices() -> None:
    """A weight on two equal devices has the published sigma: sqrt(L / 2), or sqrt(L) with the other logarithm."""
    w, t_r = 0.4, 250e-9
    q = 0.0088 / 10.0**0.65
    for log, variance in (("pair", math.log((32 + t_r) / t_r) / 2), ("single", math.log((32 + t_r) / (2 * t_r)))):
        sigma = device_model("published", read_log=log).product_sigma(torch.full((4, 1, 1), 10.0))
        assert sigma is not None
        of_weight = float(torch.sqrt(sigma[0] ** 2 + sigma[2] ** 2)) / 50.0
        assert of_weight == pytest.approx(w * q * math.sqrt(variance), rel=1e-5)
    assert device_model("pcm").product_sigma(torch.ones(4, 1, 1)) is None


def test_ideal_devices_are_their_targets() -> None:
    model = device_model("none")
    g = torch.rand(4, 2, 2)
    assert model.program(g, None) is g
    assert model.read(g, model.draw_nu(g, None), 1e9, None) is g
    assert not model.programming_sigma(g).any()
    assert not model.read_sigma(g, 1.0).any()
    assert model.product_sigma(g) is None
