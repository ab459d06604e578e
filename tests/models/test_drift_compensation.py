"""Compensation of drift against its closed form: all devices drift by one exponent, so every factor is t^nu."""

import pytest
import torch
from torch import Tensor

from ovonic.models.array_products import ArrayReader
from ovonic.models.drift_compensation import exact_signature, factors, measured_signature
from ovonic.models.errors import ConfigError
from ovonic.models.periphery import Periphery


class Devices:
    g_max_us = 25.0

    def product_sigma(self, g: Tensor) -> Tensor | None:
        return None


def _seed(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def _array(seed: int = 0, rows: int = 40, columns: int = 12) -> Tensor:
    """Conductances with more positive than negative weights in each column, so that a measured signature is large."""
    g = torch.rand(4, rows, columns, dtype=torch.float64, generator=_seed(seed)) * 5
    g[1] *= 0.2
    g[3] *= 0.1
    return g


@pytest.mark.parametrize("kind", ["global", "column"])
@pytest.mark.parametrize("signature", ["exact", "measured"])
def test_uniform_drift_is_undone_exactly(kind: str, signature: str) -> None:
    """nu = 0.06 for a month: factor t^nu = 2.1, and the compensated product is the one of the first read."""
    g, p = _array(), Periphery.ideal()
    factor = ((86400 * 30 + 20) / 20) ** 0.06
    first, late = (ArrayReader.of(x, Devices(), p) for x in (g, g / factor))
    if signature == "exact":
        before, now = exact_signature(first.weights), exact_signature(late.weights)
    else:
        before, now = measured_signature(first, None), measured_signature(late, None)
        torch.testing.assert_close(before, first.weights.sum(0))
    scale = factors(before, now, kind)
    torch.testing.assert_close(scale, torch.full_like(scale, factor))
    assert scale.shape == ((12,) if kind == "column" else (1,))
    x = torch.rand(5, 40, dtype=torch.float64, generator=_seed(1))
    again = ArrayReader.of(g / factor, Devices(), p, scale=scale if kind == "column" else float(scale))
    torch.testing.assert_close(again.product(x, None), first.product(x, None))


def test_columns_that_drift_apart_need_a_factor_each() -> None:
    g = _array()
    drift = torch.linspace(0.5, 0.9, 12, dtype=torch.float64)
    first, late = exact_signature(_weights(g)), exact_signature(_weights(g * drift))
    torch.testing.assert_close(factors(first, late, "column"), 1 / drift)
    whole = factors(first, late, "global")
    torch.testing.assert_close(whole, first.sum(-1, keepdim=True) / (first * drift).sum(-1, keepdim=True))


def test_a_measured_factor_has_the_spread_of_its_converters() -> None:
    """Gain cancels, offset cancels; noise: 400 measurements of 12 columns against the propagated standard deviation.

    The s.d. of a signature is gain out_noise / sqrt(2 repeats) (w_noise = 0, no rounding), and of the ratio r = a/b to
    first order r sqrt(1/a^2 + 1/b^2) times it. Ratio of standard deviations within 17 %, 4.8 s.d. of its estimate:
    false alarm 2e-5 over 12 columns. Would detect reads that are not averaged, a sign not used.
    """
    g = _array()
    p = Periphery(dac_bits=0, adc_bits=0, out_noise=0.05, w_noise=0.0)
    gain, offset = (torch.rand(12, dtype=torch.float64, generator=_seed(i)) + 0.5 for i in (1, 2))
    readers = [ArrayReader.of(x, Devices(), p, gain, offset) for x in (g, g / 2)]
    generator = _seed(3)
    found = torch.stack(
        [factors(*(measured_signature(r, generator, repeats=4) for r in readers), "column") for _ in range(400)]
    )
    a, b = _weights(g).sum(0), _weights(g / 2).sum(0)
    due = 2.0 * 0.05 / 8**0.5 * (1 / a**2 + 1 / b**2).sqrt()
    assert ((found.std(0) / due - 1).abs() < 0.17).all()
    assert ((found.mean(0) - 2.0).abs() < 5 * due / 20 + 2 * due**2).all()


def test_eight_bits_measure_within_a_percent() -> None:
    """The default converters, 8 reads of each sign, level .8: no column saturates; errors stay within 1 %."""
    g = _array().float()
    readers = [ArrayReader.of(x, Devices(), Periphery(), count=True) for x in (g, g / 1.5)]
    scale = factors(*(measured_signature(r, _seed(i), level=0.8) for i, r in enumerate(readers)), "column")
    assert all(r.saturation is not None and r.saturation.adc == 0 for r in readers)
    assert ((scale / 1.5 - 1).abs() < 0.03).all()
    whole = factors(*(measured_signature(r, _seed(i), level=0.8) for i, r in enumerate(readers)), "global")
    assert abs(float(whole) / 1.5 - 1) < 0.01


def test_a_column_without_signature_takes_the_global_factor() -> None:
    before, now = torch.tensor([2.0, 0.0, 4.0]), torch.tensor([1.0, 0.0, 1.0])
    assert factors(before, now, "column").tolist() == [2.0, 3.0, 4.0]
    assert factors(torch.zeros(3), torch.zeros(3), "column").tolist() == [1.0, 1.0, 1.0]
    assert factors(torch.zeros(2, 3), torch.zeros(2, 3), "global").tolist() == [[1.0], [1.0]]


def test_batches_of_arrays_are_measured_each() -> None:
    g = torch.stack([_array(0), _array(1)])
    reader = ArrayReader.of(g, Devices(), Periphery.ideal())
    torch.testing.assert_close(measured_signature(reader, None), reader.weights.sum(-2))


def test_what_does_not_fit_is_refused() -> None:
    reader = ArrayReader.of(_array(), Devices(), Periphery())
    with pytest.raises(ConfigError, match="level"):
        measured_signature(reader, None, level=1.5)
    with pytest.raises(ConfigError, match="repeats"):
        measured_signature(reader, None, repeats=0)
    with pytest.raises(ConfigError, match="tile"):
        factors(torch.ones(3), torch.ones(3), "tile")
    with pytest.raises(ConfigError, match="shapes"):
        factors(torch.ones(3), torch.ones(4), "global")
    with pytest.raises(ConfigError, match="floor"):
        factors(torch.ones(3), torch.ones(3), "global", floor=0.0)


def _weights(g: Tensor) -> Tensor:
    return (g[0] + g[2] - g[1] - g[3]) / 50.0
