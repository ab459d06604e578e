"""Devices that keep their state: mapping, converters, verbs. No toolchain; a stub with visible draws as noise model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.adapters.aihwkit_devices import (
    SPLITS,
    Converters,
    DeviceState,
    Hardware,
    advance,
    derive_seed,
    program,
    reprogram,
    to_conductances,
    to_weights,
)
from ovonic.models.errors import ConfigError
from ovonic.models.maml import Precision

G_MAX = 25.0


class StubModel:
    """g_prog = target + N(0, 1); nu = 0.05 + 0.01 N(0, 1); drift without read noise, t_0 = 20 s."""

    g_max = G_MAX

    def apply_programming_noise_to_conductance(self, g_target: Tensor) -> Tensor:
        return (g_target + torch.randn_like(g_target)).clamp(min=0.0)

    def generate_drift_coefficients(self, g_target: Tensor) -> Tensor:
        return 0.05 + 0.01 * torch.randn_like(g_target)

    def apply_drift_noise_to_conductance(self, g_prog: Tensor, nu: Tensor, t_inference: float) -> Tensor:
        return g_prog * ((t_inference + 20.0) / 20.0) ** -nu


def programmed(w: Tensor, seed: int = 1) -> DeviceState:
    return program(StubModel(), to_conductances(w, G_MAX), now_s=0.0, seed=seed, zero_targets="noisy")


@pytest.mark.parametrize("split", SPLITS)
@settings(deadline=None)
@given(weights=st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=20))
def test_weights_survive_the_way_to_conductances_and_back(split: str, weights: list[float]) -> None:
    w = torch.tensor([weights])
    g = to_conductances(w, G_MAX, split)
    assert g.shape == (4, 1, len(weights))
    assert g.min() >= 0
    assert g.max() <= G_MAX
    assert not ((g[0] > 0) & (g[1] > 0)).any(), "one polarity stays idle"
    torch.testing.assert_close(to_weights(g, G_MAX), w.clamp(-1, 1), rtol=0, atol=2e-7)


def test_split_says_which_device_carries_the_weight() -> None:
    w = torch.tensor([[0.25, -0.75, 0.0]])
    equal = to_conductances(w, G_MAX, "equal")[:, 0].T.tolist()
    assert equal == [[6.25, 0, 6.25, 0], [0, 18.75, 0, 18.75], [0, 0, 0, 0]]
    fill = to_conductances(w, G_MAX, "fill")[:, 0].T.tolist()
    assert fill == [[12.5, 0, 0, 0], [0, 25, 0, 12.5], [0, 0, 0, 0]]


def test_the_scale_of_a_weight_does_not_depend_on_its_neighbours() -> None:
    alone = to_conductances(torch.tensor([[0.3, 0.0]]), G_MAX)
    beside = to_conductances(torch.tensor([[0.3, 0.9]]), G_MAX)
    assert torch.equal(alone[..., 0], beside[..., 0])


def test_converters_by_hand() -> None:
    converters = Converters(input_range=2.0, adc_range=4.0, dac_bits=3, adc_bits=3, out_noise=0.0, w_noise=0.0)
    # 3 bits: -3 .. 3 thirds; half to even
    x = torch.tensor([0.0, 0.3, 0.34, -1.0, 2.0, 9.0])
    expected = torch.tensor([0.0, 0.0, 1.0, -2.0, 3.0, 3.0]) / 3
    torch.testing.assert_close(converters.dac(x), expected)
    y = torch.tensor([0.0, 0.6, 0.7, -2.1, 99.0])
    expected = torch.tensor([0.0, 0.0, 1.0, -2.0, 3.0]) * 4 / 3 * 2.0
    torch.testing.assert_close(converters.adc(y, None, torch.Generator()), expected)


def test_eight_bits_are_254_steps_and_the_input_is_not_changed() -> None:
    x = torch.linspace(-1, 1, 10001)
    kept = x.clone()
    assert len(Converters(dac_bits=8).dac(x).unique()) == 255
    assert torch.equal(x, kept)


def test_read_noise_of_a_product_has_the_stated_variance() -> None:
    """n = 200,000 draws; the ratio of standard deviations is 1 +- 0.0016, so 1 +- 0.008 is 5 sigma (false alarm 6e-7).

    Would detect a wrong power of |w| or u, or the two parts added as amplitudes.
    """
    converters = Converters(input_range=3.0, dac_bits=0, adc_bits=0, out_noise=0.03, w_noise=0.05)
    w = torch.tensor([[0.4, -0.9, 0.1]])
    x = torch.tensor([[1.5, 3.0, -0.6]])
    y = converters.product(x.expand(200_000, -1), w, torch.Generator().manual_seed(0))
    u = x[0] / 3.0
    sigma = (0.03**2 + 0.05**2 * (w[0].abs() * u**2).sum()).sqrt() * 3.0
    assert abs(float(y.std() / sigma) - 1) < 0.008
    assert abs(float(y.mean() - x[0] @ w[0])) < 5 * float(sigma) / 200_000**0.5


def test_product_is_batched_over_tasks() -> None:
    converters = Converters(out_noise=0.0, w_noise=0.0)
    x, w = torch.randn(3, 7, 11), torch.rand(3, 5, 11) - 0.5
    together = converters.product(x, w, torch.Generator())
    for t in range(3):
        torch.testing.assert_close(together[t], converters.product(x[t], w[t], torch.Generator()))


def test_reprogramming_leaves_every_other_device_bit_for_bit() -> None:
    w = torch.tensor([[0.5, -0.5, 0.2, 0.0]])
    before = advance(programmed(w), StubModel(), now_s=50.0, seed=2)
    new_w = torch.tensor([[0.5, -0.4, -0.2, 0.0]])
    after, touched = reprogram(
        before, StubModel(), to_conductances(new_w, G_MAX), now_s=50.0, seed=3, zero_targets="noisy"
    )
    assert touched[:, 0].T.tolist() == [[False] * 4, [False, True, False, True], [True] * 4, [False] * 4]
    for name in DeviceState._fields[1:]:
        old, new = getattr(before, name), getattr(after, name)
        assert torch.equal(old[~touched], new[~touched]), name
        assert (old != new)[touched].all(), name
    assert set(after.t_prog_s[touched].tolist()) == {50.0}


def test_a_mask_programs_devices_whose_target_stays() -> None:
    before = programmed(torch.tensor([[0.5, -0.5]]))
    mask = torch.zeros(4, 1, 2, dtype=torch.bool)
    mask[2, 0, 1] = True
    after, touched = reprogram(before, StubModel(), before.g_target, now_s=0.0, seed=9, zero_targets="noisy", mask=mask)
    assert torch.equal(touched, mask)
    assert torch.equal(after.g_prog != before.g_prog, mask)


def test_each_device_drifts_from_its_own_state_for_its_own_age() -> None:
    state = programmed(torch.rand(3, 5) - 0.5)
    old = torch.rand(4, 3, 5) < 0.5
    state = state._replace(t_prog_s=torch.where(old, 0.0, 100.0).double())
    read = advance(state, StubModel(), now_s=300.0, seed=4).g_read
    age = torch.where(old, 300.0, 200.0)
    torch.testing.assert_close(read, state.g_prog * ((age + 20) / 20) ** -state.nu)


def test_time_does_not_run_backwards() -> None:
    state = programmed(torch.rand(3, 5))._replace(t_prog_s=torch.full((4, 3, 5), 60.0, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"time 10\.0 s lies before 60\.0 s"):
        advance(state, StubModel(), now_s=10.0, seed=0)


def test_idle_devices_are_noisy_or_at_reset_as_chosen() -> None:
    g_target = to_conductances(torch.full((40, 40), 0.5), G_MAX)
    noisy, reset = (
        program(StubModel(), g_target, now_s=0.0, seed=5, zero_targets=choice) for choice in ("noisy", "reset")
    )
    idle = g_target == 0
    assert (noisy.g_prog[idle] > 0).float().mean() > 0.4
    assert (reset.g_prog[idle] == 0).all()
    assert (reset.g_read[idle] == 0).all()
    assert torch.equal(noisy.g_prog[~idle], reset.g_prog[~idle])


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    w = torch.rand(6, 6) - 0.5
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, two, other = programmed(w, 1), programmed(w, 1), programmed(w, 2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.g_prog, other.g_prog)


def test_seeds_are_pinned_and_do_not_depend_on_the_kind_of_number() -> None:
    assert derive_seed(0) == 6197007067532723406
    assert derive_seed(3, "read", 1.0) == derive_seed(np.arange(4)[3], "read", np.float64(1.0))
    assert len({derive_seed(1, 2), derive_seed(2, 1), derive_seed(12), derive_seed(1, "2"), derive_seed(1, 2.0)}) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_model": "hermse"}, "noise_model 'hermse': did you mean 'hermes'?"),
        ({"split": "half"}, "split 'half': choose one of 'equal', 'fill'"),
        ({"zero_targets": "rest"}, "did you mean 'reset'"),
        ({"scale": "layer"}, "scale 'layer'"),
        ({"adc_bits": 1}, "adc_bits 1: choose 2 to 16, or 0"),
        ({"adc_range": 0.0}, "adc_range 0.0: must be positive"),
        ({"readout_w_max": -1.0}, "readout_w_max -1.0: must be positive"),
        ({"w_noise": -0.1}, "w_noise -0.1: must not be negative"),
    ],
)
def test_hardware_refuses_what_means_nothing(options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Hardware(**options)
    assert message in str(error.value)


def test_readout_scale_is_fixed_by_the_initial_weights() -> None:
    w = torch.tensor([[0.6, -0.8]])
    assert Hardware().readout_scale(w, Precision()) == pytest.approx(0.88)
    assert Hardware().readout_scale(torch.zeros(2, 2), Precision()) == 0.5
    assert Hardware().readout_scale(w, Precision(4)) == 1.0
    assert Hardware().readout_scale(w, Precision(4, readout_range=0.2)) == 0.2
    assert Hardware(readout_w_max=0.3).readout_scale(w, Precision(4)) == 0.3
