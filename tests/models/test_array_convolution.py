"""Convolutions on arrays: the same currents as unfolded products, the same noise, and software's where all is ideal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovonic.models.array_convolution import ArrayConvolution, RowBlock
from ovonic.models.array_products import ArrayReader
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.splitting import conductances

NONE = device_model("none")
OUT = 6


def kernel(channels: int, side: int = 3) -> Tensor:
    return torch.randn(OUT, channels, side, side, generator=torch.Generator().manual_seed(0)) / 4


def images(channels: int, n: int = 5, side: int = 9) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)


def convolution(
    w: Tensor,
    parts: list[int],
    periphery: Periphery,
    *,
    stride: int = 2,
    padding: int = 1,
    seed: int = 0,
    columns: tuple[Tensor | None, Tensor | None] = (None, None),
) -> ArrayConvolution:
    """``w`` on ideal devices, its rows cut into ``parts``, at a full scale of its own a column."""
    w_max = w.abs().amax(dim=(1, 2, 3))
    g = conductances(w.flatten(1).T / w_max, NONE.g_max_us)
    return ArrayConvolution(
        [RowBlock(block, *columns) for block in g.split(parts, dim=-2)],
        NONE,
        periphery,
        kernel_size=w.shape[-1],
        stride=stride,
        padding=padding,
        input_range=3.0,
        w_max=w_max,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize(
    ("channels", "parts", "grouped"),
    [(1, [9], True), (4, [18, 18], True), (6, [18, 18, 18], True), (4, [27, 9], False), (5, [23, 22], False)],
)
@pytest.mark.parametrize(("stride", "padding"), [(2, 1), (1, 0), (3, 2)])
@pytest.mark.parametrize("phases", [1, 2, 4])
def test_ideal_arrays_convolve_as_software(
    channels: int, parts: list[int], grouped: bool, stride: int, padding: int, phases: int
) -> None:
    ideal = Periphery(dac_bits=0, adc_bits=0, out_noise=0.0, w_noise=0.0, read_phases=phases)
    conv = convolution(kernel(channels), parts, ideal, stride=stride, padding=padding)
    assert conv.grouped == grouped
    y = conv(images(channels))
    expected = F.conv2d(images(channels), kernel(channels), stride=stride, padding=padding)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_another_window() -> None:
    conv = convolution(kernel(4, 5), [50, 50], Periphery.ideal(), padding=2)
    torch.testing.assert_close(
        conv(images(4)), F.conv2d(images(4), kernel(4, 5), stride=2, padding=2), rtol=1e-4, atol=1e-5
    )


def unfolded(
    w: Tensor, parts: list[int], periphery: Periphery, x: Tensor, columns: tuple[Tensor | None, ...]
) -> Tensor:
    """The obvious way: every window a vector, every block of rows a product, each converted by itself."""
    w_max = w.abs().amax(dim=(1, 2, 3))
    g = conductances(w.flatten(1).T / w_max, NONE.g_max_us)
    rows = F.unfold(x / 3.0, 3, padding=1, stride=2).mT
    total = torch.zeros(())
    for u, block in zip(rows.split(parts, dim=-1), g.split(parts, dim=-2), strict=True):
        total = total + ArrayReader.of(block, NONE, periphery, *columns).product(u, None)
    return (total * w_max * 3.0).mT.reshape(len(x), OUT, 5, 5)


@pytest.mark.parametrize("columns", [(None, None), (torch.linspace(0.5, 1.5, OUT), torch.linspace(-1, 1, OUT))])
@pytest.mark.parametrize("parts", [[18, 18], [27, 9]])
def test_coarse_converters_see_what_they_see_of_unfolded_images(
    parts: list[int], columns: tuple[Tensor | None, Tensor | None]
) -> None:
    """Without noise both ways take the same steps, but where a current lies on a step's very edge."""
    coarse = Periphery(dac_bits=4, adc_bits=5, adc_range=2.0, out_noise=0.0, w_noise=0.0)
    a = convolution(kernel(4), parts, coarse, columns=columns)(images(4))
    b = unfolded(kernel(4), parts, coarse, images(4), columns)
    software = F.conv2d(images(4), kernel(4), stride=2, padding=1)
    assert (a - software).abs().gt(1e-3).float().mean() > 0.9, "the converters are coarse"
    assert (a - b).abs().gt(1e-4).float().mean() < 0.01


@pytest.mark.parametrize("parts", [[18, 18], [27, 9]])
def test_the_noise_of_products_has_the_variance_of_the_equations(parts: list[int]) -> None:
    """Var = sum over blocks (out_noise^2 + w_noise^2 u^2 |w|), n = 4,000 draws of 150 outputs.

    Each ratio of variances has a relative deviation of sqrt(2 / 4000) = .022; all within 5.5 of them (false alarm
    150 x 4e-8), their mean within 1 % (5.5 deviations), which would show a block's share of ADC noise left out.
    """
    noisy = Periphery(dac_bits=0, adc_bits=0, out_noise=0.02, w_noise=0.1)
    w, x = kernel(4), images(4, 1)
    conv = convolution(w, parts, noisy)
    y = conv(x.expand(4000, -1, -1, -1)).double()
    w_max = w.abs().amax(dim=(1, 2, 3)).view(1, -1, 1, 1)
    own = F.conv2d((x / 3.0).square(), (w.abs() / w_max.view(-1, 1, 1, 1)) * 0.1**2, stride=2, padding=1)
    expected = (own + len(parts) * 0.02**2) * (w_max * 3.0) ** 2
    ratio = y.var(dim=0, correction=1) / expected[0].double()
    assert ratio.sub(1).abs().max() < 5.5 * 0.022
    assert abs(float(ratio.mean()) - 1) < 0.01
    z = (y.mean(dim=0) - F.conv2d(x, w, stride=2, padding=1)[0].double()) / (expected[0] / 4000).sqrt()
    assert z.abs().max() < 5.5


def test_a_generator_gives_the_same_bits_again() -> None:
    first, same, other = (convolution(kernel(4), [18, 18], Periphery(), seed=seed)(images(4)) for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
