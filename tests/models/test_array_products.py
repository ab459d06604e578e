"""Products of an array: closed forms of mean and variance, and every path against every other.

Noise: chi-square tests with fixed seeds; false-alarm rates are stated in each test, 5e-4 for the file.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from ovonic.models import array_products
from ovonic.models.array_products import ArrayReader, NoiseStream
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.periphery import Periphery, normal_like
from ovonic.models.wire_resistance import effective_polarities

IDEAL = {"dac_bits": 0, "adc_bits": 0, "out_noise": 0.0, "w_noise": 0.0}


class Quiet:
    """Devices without noise of their own."""

    g_max_us = 16.0

    def product_sigma(self, g: Tensor) -> Tensor | None:
        return None


class Noisy(Quiet):
    """Devices whose noise in a product is a tenth of their conductance and a hundredth of full scale."""

    def product_sigma(self, g: Tensor) -> Tensor:
        return 0.1 * g + 0.16


def _seed(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def _grid(*shape: int, seed: int = 0, most: int = 64) -> Tensor:
    """Conductances that are whole multiples of 2^-2 uS: sums of a few hundred are exact in float32 in any order."""
    return torch.randint(0, most + 1, shape, generator=_seed(seed)) / 4.0


def _spikes(*shape: int, share: float = 0.1, seed: int = 1) -> Tensor:
    return (torch.rand(shape, generator=_seed(seed)) < share).float()


# -------------------------------------------------------------------------------------------- without noise, exact


@given(
    st.integers(1, 40), st.integers(1, 33), st.integers(0, 9), st.sampled_from([1, 2, 4]), st.integers(0, 2**31),
    st.sampled_from(["signed", "unsigned", "binary"]), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_without_noise_and_rounding_it_is_the_product(
    rows: int, columns: int, samples: int, phases: int, seed: int, inputs: str, batch: bool
) -> None:
    """Exactly: weights and inputs are dyadic. All phases, kinds of input, shapes, single arrays and batches."""
    lead = (3,) if batch else ()
    g = _grid(*lead, 4, rows, columns, seed=seed)
    x = torch.randint(-8, 9, (*lead, samples, rows), generator=_seed(seed)) / 8.0
    x = x if inputs == "signed" else x.abs() if inputs == "unsigned" else (x > 0).float()
    reader = ArrayReader.of(g, Quiet(), Periphery(**IDEAL, read_phases=phases))
    w = (g[..., 0, :, :] + g[..., 2, :, :] - g[..., 1, :, :] - g[..., 3, :, :]) / 32.0
    assert reader.weights.equal(w)
    assert reader.product(x, _seed(0), inputs).equal(x @ w)


@pytest.mark.parametrize("phases", [1, 2, 4])
@pytest.mark.parametrize("model", [Quiet(), Noisy()])
@pytest.mark.parametrize(("inputs", "samples"), [("signed", 3), ("signed", 40), ("unsigned", 40), ("binary", 40)])
def test_all_paths_agree_noise_and_counts_included(
    phases: int, model: Quiet, inputs: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same seed, same numbers, whichever path: but for rounding, which moves few values by one step."""
    g = _grid(4, 50, 30, most=8) + 1e-3
    gain, offset, scale = (torch.rand(30, generator=_seed(i)) + 0.5 for i in range(3))
    x = torch.randn(samples, 50, generator=_seed(3))
    x = _spikes(samples, 50) if inputs == "binary" else x
    p = Periphery(read_phases=phases, adc_range=2.0, out_noise=0.3)
    found = []
    for path in ("rows", "dense", "dense, by the caller's product", "plain"):
        monkeypatch.setattr(array_products, "FEW", 1.1 if path == "rows" else -1.0)
        monkeypatch.setattr(array_products, "SINGLE", 0)
        reader = ArrayReader.of(g, model, p, gain, offset, scale, count=True, compiled=path != "plain")
        y = reader.product(x, _seed(4), inputs, torch.matmul if "caller" in path else None)
        assert reader.saturation is not None
        found.append((y, reader.saturation.dac, reader.saturation.adc))
    step = 2.0 / 127 * scale
    for (a, dac_a, adc_a), (b, dac_b, adc_b) in itertools.pairwise(found):
        apart = (a - b).abs() > 1e-5
        assert apart.float().mean() < 5e-3
        assert ((a - b).abs() <= phases * step * 1.001).all()
        assert dac_a == dac_b
        assert abs(adc_a - adc_b) <= apart.sum()
    assert (found[0][1] > 0) == (inputs != "binary")
    assert found[0][2] > 0


def test_the_public_product_takes_the_path_that_its_inputs_suit() -> None:
    """Few spikes, many, and a single dense vector give the plain path's numbers."""
    g = _grid(4, 64, 32, most=4)
    fast, plain = (ArrayReader.of(g, Quiet(), Periphery(), compiled=c) for c in (True, False))
    for z in (_spikes(20, 64, share=0.05), _spikes(20, 64, share=0.9), _spikes(1, 64, share=0.9)):
        a, b = (r.binary(z, _seed(5)) for r in (fast, plain))
        assert ((a - b).abs() > 1e-5).float().mean() < 5e-3


def test_saturation_counts_are_exact() -> None:
    """Without noise: what rounds beyond the last level, of inputs and of currents, counted one by one in float64."""
    g = _grid(4, 40, 20)
    x = torch.randn(30, 40, generator=_seed(2))
    p = Periphery(out_noise=0.0, w_noise=0.0, adc_range=3.0)
    for compiled in (True, False):
        reader = ArrayReader.of(g, Quiet(), p, count=True, compiled=compiled)
        for _ in range(2):
            reader.product(x, None)
        u = (x.double() * 127).round().clamp(-127, 127) / 127
        beyond = ((u @ reader.weights.double()) * 127 / 3.0).abs() > 127.5
        assert reader.saturation is not None
        assert reader.saturation.dac == 2 * int(((x.double() * 127).round().abs() > 127).sum())
        assert reader.saturation.adc == 2 * int(beyond.sum()) > 0


def test_gain_offset_and_scale_stand_where_they_should() -> None:
    """ADC(gain I + offset) scale; the offset is gone after two signed phases, and no gain reaches the scale."""
    g, x = _grid(4, 16, 8), torch.randint(-4, 5, (6, 16), generator=_seed(1)) / 4.0
    gain, offset, scale = torch.full((8,), 1.5), torch.arange(8.0), torch.full((8,), 2.0)
    due = (x @ ArrayReader.of(g, Quiet(), Periphery(**IDEAL)).weights) * 1.5
    for phases, left in ((1, offset), (2, 0.0), (4, 0.0)):
        reader = ArrayReader.of(g, Quiet(), Periphery(**IDEAL, read_phases=phases), gain, offset, scale)
        torch.testing.assert_close(reader.product(x, None), (due + left) * 2.0)
    one = ArrayReader.of(g, Quiet(), Periphery(**IDEAL), scale=2.0).product(x, None)
    torch.testing.assert_close(one, due / 1.5 * 2.0)


def test_a_batch_of_arrays_is_each_array_by_itself() -> None:
    g, x = _grid(5, 4, 20, 10), torch.randint(-4, 5, (5, 7, 20), generator=_seed(1)) / 4.0
    gain = torch.rand(5, 1, 10, generator=_seed(2)) + 0.5
    p = Periphery(out_noise=0.0, w_noise=0.0)
    for inputs in (x, (x > 0).float()):
        every = ArrayReader.of(g, Quiet(), p, gain).product(inputs, None)
        for k in range(5):
            assert every[k].equal(ArrayReader.of(g[k], Quiet(), p, gain[k, 0]).product(inputs[k], None))


def test_results_are_not_overwritten_by_later_products() -> None:
    """The dense path uses its memory again; what it returned stays, in threads and for changing sizes too."""
    g, p = _grid(4, 30, 20), Periphery()
    xs = [torch.rand(n, 30, generator=_seed(n)) for n in (9, 9, 12, 9, 12, 12) * 20]
    due = [ArrayReader.of(g, Quiet(), p).product(x, _seed(i)) for i, x in enumerate(xs)]
    reader = ArrayReader.of(g, Quiet(), p)
    one_by_one = [reader.product(x, _seed(i)) for i, x in enumerate(xs)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda i: reader.product(xs[i], _seed(i)), range(len(xs))))
    for found in (one_by_one, threaded):
        assert all(a.equal(b) for a, b in zip(found, due, strict=True))
    with torch.inference_mode():
        inside = reader.product(xs[0], _seed(0))
    assert inside.equal(due[0])
    assert reader.product(xs[0], _seed(0)).equal(due[0])


def test_wires_reach_the_product() -> None:
    g, x = _grid(4, 12, 9), torch.rand(5, 12, generator=_seed(1)) / 2
    reader = ArrayReader.of(g, Quiet(), Periphery(**IDEAL, wire_ohm=50.0))
    plus, minus = effective_polarities(g, 50.0)
    torch.testing.assert_close(reader.product(x, None), x @ (plus - minus) / 32.0)
    ideal = ArrayReader.of(g, Quiet(), Periphery(**IDEAL)).product(x, None)
    assert (reader.product(x, None) - ideal).abs().max() > 1e-3


def test_gradients_reach_devices_and_inputs() -> None:
    """Through converters straight through; against finite differences where these are ideal and the noise is fixed."""
    g = (_grid(4, 6, 5).double() + 0.3).requires_grad_()
    x = torch.rand(3, 6, dtype=torch.float64, generator=_seed(1)).requires_grad_()
    p = Periphery(dac_bits=0, adc_bits=0)
    assert torch.autograd.gradcheck(lambda a, b: ArrayReader.of(a, Noisy(), p).product(b, _seed(2)), (g, x))
    ArrayReader.of(g, Noisy(), Periphery()).product(x, _seed(2)).sum().backward()
    assert g.grad is not None
    assert x.grad is not None
    assert (g.grad != 0).all()
    assert (x.grad != 0).all()


# --------------------------------------------------------------------------------------------------- noise, closed form


@pytest.mark.parametrize("phases", [1, 2, 4])
@pytest.mark.parametrize("inputs", ["signed", "binary"])
@pytest.mark.parametrize("samples", [1, 20_000])
def test_noise_has_the_mean_and_variance_of_its_closed_form(phases: int, inputs: str, samples: int) -> None:
    """Reads of 12 columns, 20,000 in one call (dense), 5,000 one by one (by rows): chi-square of squares and means.

    variance = u^2 (w_noise^2 |w| + sum sigma^2) a polarity that is read, + out_noise^2 a conversion. 24 tests of
    false-alarm rate 1e-5: 2.4e-4. Would detect 9 % of a variance, so w^2 for |w|, or one conversion's noise for two.
    """
    n = 20_000 if samples > 1 else 5_000
    g = _grid(4, 10, 12, seed=3)
    x = torch.linspace(-1, 1, 10) if inputs == "signed" else torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0, 0, 1])
    p = Periphery(dac_bits=0, adc_bits=0, out_noise=0.05, w_noise=0.1, read_phases=phases)
    reader = ArrayReader.of(g, Noisy(), p)
    if samples > 1:
        y = reader.product(x.expand(n, -1), _seed(6), inputs)
    else:
        stream = NoiseStream(_seed(6))
        y = torch.cat([reader.product(x[None], stream, inputs) for _ in range(n)])
    pairs = (g[0] + g[2]) / 32.0, (g[1] + g[3]) / 32.0
    own = ((0.1 * g + 0.16) / 32.0).square().sum(0)
    size = pairs[0] + pairs[1] if phases == 4 else (pairs[0] - pairs[1]).abs()
    variance = x.square() @ (0.01 * size + own) + p.phases(inputs) * 0.05**2
    z = (y - x @ (pairs[0] - pairs[1])).double() / variance.double().sqrt()
    low, high = stats.chi2.ppf([5e-6 / 2, 1 - 5e-6 / 2], n)
    assert ((z.square().sum(0) > low) & (z.square().sum(0) < high)).all()
    assert stats.chi2.sf((z.mean(0).square() * n).sum(), 12) > 1e-5


def test_noise_is_fresh_in_every_product_and_the_same_from_the_same_seed() -> None:
    reader = ArrayReader.of(_grid(4, 10, 12), Quiet(), Periphery())
    x = torch.rand(6, 10, generator=_seed(1))
    stream, again = NoiseStream(_seed(2)), NoiseStream(_seed(2))
    first, second = reader.product(x, stream), reader.product(x, stream)
    assert not first.equal(second)
    assert reader.product(x, again).equal(first)
    assert reader.product(x, again).equal(second)
    assert reader.product(x, _seed(2)).equal(first)
    generator = _seed(2)
    assert not reader.product(x, generator).equal(reader.product(x, generator)), "a generator moves on"
    torch.manual_seed(5)
    kept = torch.rand(1)
    torch.manual_seed(5)
    reader.product(x, _seed(2))
    assert torch.rand(1).equal(kept), "torch's own stream is left alone"


def test_it_agrees_with_converters_product() -> None:
    """``adapters.aihwkit_devices.Converters``: same numbers without noise; given its normals, the same with them."""
    from ovonic.adapters.aihwkit_devices import Converters

    g = _grid(4, 30, 20, most=20) + 1e-3
    x = torch.randn(50, 30, generator=_seed(1)) / 2
    for noise in (0.0, 1.0):
        p = Periphery(out_noise=0.04 * noise, w_noise=0.0175 * noise)
        theirs = Converters(out_noise=p.out_noise, w_noise=p.w_noise)
        reader = ArrayReader.of(g, Quiet(), p, compiled=False)

        class Theirs(NoiseStream):
            def normals(self, n: int):  # type: ignore[no-untyped-def]
                return normal_like(torch.empty(n), _seed(7)).numpy()

        a = reader.product(x, Theirs())
        b = theirs.product(x, reader.weights.T.contiguous(), _seed(7))
        assert ((a - b).abs() > 1e-5).float().mean() < 5e-3


@pytest.mark.toolchain
def test_it_agrees_with_the_noise_of_aihwkits_compiled_tile() -> None:
    """PCM_READ of the C++ tile: 20 outputs, 20,000 reads of each; ratio of variances (F): 1e-4 over all 20."""
    pytest.importorskip("aihwkit")
    from aihwkit.nn import AnalogLinear
    from aihwkit.simulator.configs import InferenceRPUConfig
    from aihwkit.simulator.parameters.enums import BoundManagementType, NoiseManagementType, WeightNoiseType

    n = 20_000
    g = _grid(4, 30, 20, seed=4)
    g[2:] = 0
    p = Periphery(dac_bits=0, adc_bits=0, out_noise=0.03, w_noise=0.1)
    reader = ArrayReader.of(g, Quiet(), p)
    config = InferenceRPUConfig()
    f = config.forward
    f.inp_res = f.out_res = -1.0
    f.inp_noise, f.out_noise, f.w_noise, f.w_noise_type = 0.0, 0.03, 0.1, WeightNoiseType.PCM_READ
    f.inp_bound, f.out_bound = 1.0, 1e6
    f.noise_management, f.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
    config.mapping.weight_scaling_omega = 0.0
    tile = AnalogLinear(30, 20, bias=False, rpu_config=config)
    tile.set_weights(reader.weights.T)
    tile.eval()
    x = torch.linspace(-1, 1, 30).expand(n, -1)
    with torch.no_grad():
        theirs, ours = tile(x).double(), reader.product(x, _seed(8)).double()
    ratio = ours.var(0) / theirs.var(0)
    low, high = stats.f.ppf([1e-4 / 40, 1 - 1e-4 / 40], n - 1, n - 1)
    assert ((ratio > low) & (ratio < high)).all()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5.5 * (2 * ours.var(0) / n).sqrt()).all()


# ---------------------------------------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused() -> None:
    g = _grid(4, 6, 5)
    reader = ArrayReader.of(g, Quiet(), Periphery())
    with pytest.raises(ConfigError, match="4, rows, columns"):
        ArrayReader.of(g[:3], Quiet(), Periphery())
    with pytest.raises(ConfigError, match="column_gain"):
        ArrayReader.of(g, Quiet(), Periphery(), torch.ones(4))
    with pytest.raises(ConfigError, match="expected"):
        reader.product(torch.ones(2, 5), None)
    with pytest.raises(ConfigError, match="expected"):
        ArrayReader.of(g[None], Quiet(), Periphery()).product(torch.ones(2, 3, 6), None)
    for compiled in (True, False):
        for samples in (1, 50):
            wrong = torch.full((samples, 6), 0.5)
            with pytest.raises(DataError, match="binary"):
                ArrayReader.of(g, Quiet(), Periphery(), compiled=compiled).binary(wrong, None)
