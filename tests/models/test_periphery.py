"""Converters and phases: closed forms and exact counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.periphery import INPUTS, Periphery, adc, add_noise, clipped, convert, dac, normal_like


def _seed(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20),
    st.integers(2, 16),
    st.floats(0.25, 20, width=32),
)
@settings(max_examples=80, deadline=None)
def test_a_converter_rounds_to_its_nearest_level(values: list[float], bits: int, bound: float) -> None:
    """Levels k bound / (2^(b-1) - 1); the nearest, to float64's rounding; what lies beyond is clipped, and counted."""
    x = torch.tensor(values, dtype=torch.float64)
    y = convert(x.clone(), bound, bits)
    step = bound / (2 ** (bits - 1) - 1)
    levels = (y / step).round()
    torch.testing.assert_close(y, levels * step, rtol=1e-12, atol=0)
    inside = x.abs() <= bound
    assert ((y - x).abs()[inside] <= step / 2 * (1 + 1e-9)).all()
    assert torch.equal(y[~inside].sign(), x[~inside].sign())
    torch.testing.assert_close(y[~inside].abs(), torch.full_like(y[~inside], bound), rtol=1e-12, atol=0)
    assert clipped(x, bound, bits) == int((x.abs() / step > 2 ** (bits - 1) - 0.5).sum()) or _tied(x, step, bits)


def _tied(x: Tensor, step: float, bits: int) -> bool:
    """An entry lies on the edge between the last level and the clipped ones, to rounding."""
    return bool(((x.abs() / step - (2 ** (bits - 1) - 0.5)).abs() < 1e-6).any())


def test_eight_bits_are_254_steps_and_saturation_is_counted_exactly() -> None:
    x = torch.tensor([-1.01, -1.003, 1.0, 0.0, 1 / 254.01, 1.0, 1.0040, 7.0])
    assert dac(x, 1.0, 8).mul(127).tolist() == [-127, -127, 127, 0, 0, 127, 127, 127]
    assert clipped(x, 1.0, 8) == 3, "1.003 lies within half a step of the last level, 1.004 does not"
    assert clipped(x, 1.0, 0) == 0
    assert dac(2 * x, 2.0, 8).equal(dac(x, 1.0, 8))
    y = torch.tensor([3.0])
    assert adc(y, 10.0, 8) is y, "in place"
    assert y.item() == pytest.approx(38 * 10 / 127)


def test_no_bits_are_an_ideal_converter() -> None:
    x = torch.tensor([1e3, -0.123])
    assert dac(x, 1.0, 0).equal(x)


def test_gradients_pass_straight_through_and_stop_where_a_converter_clips() -> None:
    x = torch.tensor([-3.0, -0.5, 0.2, 1.5], requires_grad=True)
    y = dac(x, 1.0, 4)
    assert y.detach().equal(dac(x.detach(), 1.0, 4))
    (y * torch.arange(1.0, 5.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 0]


def test_phases_are_the_documented_conversions() -> None:
    due = {("signed", 1): 1, ("signed", 2): 2, ("signed", 4): 4}
    due |= {(i, n): max(1, n // 2) for i in ("unsigned", "binary") for n in (1, 2, 4)}
    for (inputs, phases), cost in due.items():
        p = Periphery(read_phases=phases)
        assert p.phases(inputs) == len(p.conversions(inputs)) == cost
    for phases in (1, 2, 4):
        for inputs in INPUTS:
            u, plus, minus = (0.5, -0.3), (0.2, 0.9), (0.7, 0.1)
            total = 0.0
            for c in Periphery(read_phases=phases).conversions(inputs):
                w = {0: [a - b for a, b in zip(plus, minus, strict=True)], 1: plus, -1: minus}[c.bitlines]
                rows = [v if not c.rows else max(c.rows * v, 0.0) for v in (u if inputs == "signed" else map(abs, u))]
                total += c.sign * sum(r * g for r, g in zip(rows, w, strict=True))
            v = u if inputs == "signed" else [abs(x) for x in u]
            assert total == pytest.approx(sum(x * (a - b) for x, a, b in zip(v, plus, minus, strict=True)))


def test_columns_are_drawn_with_their_spread() -> None:
    """n = 100,000: standard deviations and means within 1.2 % of the spread, 5 sigma: false alarm 2e-6."""
    p = Periphery(column_gain_sigma=0.03, column_offset_sigma=0.2)
    gain, offset = p.draw_columns(100_000, _seed(1))
    assert gain is not None
    assert offset is not None
    for values, mean, sigma in ((gain, 1.0, 0.03), (offset, 0.0, 0.2)):
        assert abs(values.mean().item() - mean) < 5 / math.sqrt(1e5) * sigma
        assert abs(values.std().item() / sigma - 1) < 5 / math.sqrt(2e5)
    again = p.draw_columns(100_000, _seed(1))
    assert gain.equal(again[0])
    assert Periphery().draw_columns(4, None) == (None, None)


def test_noise_has_the_variance_it_is_given() -> None:
    """n = 40,000 of each of 4 variances: chi-square of the sum of squares, false alarm 1e-4 each side."""
    from scipy import stats

    variance = torch.tensor([0.0, 0.01, 0.3, 2.0], dtype=torch.float64).repeat(40_000, 1)
    y = add_noise(torch.ones_like(variance), variance.clone(), 0.2, _seed(2)) - 1.0
    sums = (y.square() / (variance + 0.04)).sum(0)
    low, high = stats.chi2.ppf([1e-4 / 2, 1 - 1e-4 / 2], 40_000)
    assert ((sums > low) & (sums < high)).all()
    x = torch.zeros(3)
    assert add_noise(x, None, 0.0, None) is x
    assert add_noise(torch.zeros(5), None, 0.5, _seed(4)).equal(0.5 * normal_like(torch.zeros(5), _seed(4)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dac_bits", 1),
        ("adc_bits", 17),
        ("adc_range", 0.0),
        ("adc_range", math.inf),
        ("out_noise", -0.1),
        ("w_noise", math.nan),
        ("column_gain_sigma", -1.0),
        ("wire_ohm", math.inf),
        ("compensation", "tile"),
        ("read_phases", 3),
    ],
)
def test_values_without_meaning_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        Periphery(**{field: value})  # type: ignore[arg-type]


def test_unknown_inputs_are_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="unsigned"):
        Periphery().phases("unsinged")
