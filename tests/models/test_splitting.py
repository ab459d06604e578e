"""Weights on the four devices of a cell: the way there and back, which device carries what, closed forms of the errors.

The statistical test uses a fixed seed and n = 40,000 draws for each of 24 errors, compared at 5 standard errors
(1.8 %): false alarm below 2e-5 for the file. It would find a split whose devices carry 4 % too much.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.pcm import DEVICE_MODELS, device_model
from ovonic.models.splitting import SPLITS, conductances, equal, split_named, weight_sigma, weights

G_MAX = 25.0


@pytest.mark.parametrize("split", SPLITS)
@settings(deadline=None)
@given(w=st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=20), g_max_us=st.floats(0.1, 100.0))
def test_weights_survive_the_way_to_conductances_and_back(split: str, w: list[float], g_max_us: float) -> None:
    matrix = torch.tensor([w])
    g = conductances(matrix, g_max_us, split)
    assert g.shape == (4, 1, len(w))
    assert float(g.min()) >= 0
    assert float(g.max()) <= g_max_us * (1 + 1e-6)
    assert not ((g[0] + g[2] > 0) & (g[1] + g[3] > 0)).any(), "one polarity stays idle"
    torch.testing.assert_close(weights(g, g_max_us), matrix.clamp(-1, 1), rtol=0, atol=2e-7)


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_weights_survive_devices_without_noise(name: str) -> None:
    """w -> conductances -> programmed, drifted and read with every effect off -> w, to float precision."""
    off = {} if name == "none" else {"prog_scale": 0.0, "drift_scale": 0.0, "read_scale": 0.0}
    model = device_model(name, **off)
    w = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    g = model.program(conductances(w, model.g_max_us), None)
    read = model.read(g, model.draw_nu(g, None), 1e6, None)
    torch.testing.assert_close(weights(read, model.g_max_us), w, rtol=0, atol=2e-7)


def test_which_device_carries_the_weight() -> None:
    w = torch.tensor([[0.25, -0.75, 0.5, 0.0]])
    expected = {
        "equal": [[6.25, 0, 6.25, 0], [0, 18.75, 0, 18.75], [12.5, 0, 12.5, 0], [0, 0, 0, 0]],
        "fill": [[12.5, 0, 0, 0], [0, 25, 0, 12.5], [25, 0, 0, 0], [0, 0, 0, 0]],
        "set_and_tune": [[0, 0, 12.5, 0], [0, 25, 0, 12.5], [0, 0, 25, 0], [0, 0, 0, 0]],
    }
    assert set(expected) == set(SPLITS)
    for name, targets in expected.items():
        assert conductances(w, G_MAX, name)[:, 0].T.tolist() == targets, name


def test_one_device_of_set_and_tune_is_never_between() -> None:
    g = conductances(torch.linspace(-1, 1, 1001)[None], G_MAX, "set_and_tune")
    assert set(g[:2].unique().tolist()) == {0.0, G_MAX}


def test_a_weight_has_the_same_targets_beside_any_other() -> None:
    alone = conductances(torch.tensor([[0.3, 0.0]]), G_MAX)
    beside = conductances(torch.tensor([[0.3, 0.9]]), G_MAX)
    assert torch.equal(alone[..., 0], beside[..., 0])


def test_a_split_of_ones_own() -> None:
    def quarter(p: Tensor) -> Tensor:
        return torch.stack([0.5 * p, 1.5 * p], dim=-1)

    w = torch.tensor([[0.4, -0.2]])
    g = conductances(w, G_MAX, quarter)
    torch.testing.assert_close(g[:, 0, 0], torch.tensor([5.0, 0.0, 15.0, 0.0]))
    torch.testing.assert_close(weights(g, G_MAX), w)
    assert split_named(quarter) is quarter
    assert split_named("equal") is equal
    with pytest.raises(ConfigError, match="split 'fil': did you mean 'fill'"):
        split_named("fil")


@pytest.mark.parametrize("split", SPLITS)
def test_the_gradient_of_the_round_trip_is_one(split: str) -> None:
    """Also at 0, where both polarities meet, and beyond full scale, where the weight is clipped."""
    w = torch.tensor([[-1.7, -1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0, 1.7]], requires_grad=True)
    weights(conductances(w, G_MAX, split), G_MAX).sum().backward()
    torch.testing.assert_close(w.grad, torch.ones_like(w))


@pytest.mark.parametrize("name", ["pcm", "hermes"])
def test_errors_of_programming_are_the_closed_forms(name: str) -> None:
    """sigma of a weight of magnitude p: sqrt(2) s(p) for equal, s(2p) or hypot(s(1), s(2p - 1)) for the others."""
    model = device_model(name)
    g_max = model.g_max_us

    def s(fraction: float) -> float:
        return float(model.programming_sigma(torch.full((4, 1, 1), fraction * g_max))[0, 0, 0]) / (2 * g_max)

    for k, p in enumerate((0.25, 0.4, 0.65, 0.8)):
        uneven = s(2 * p) if p <= 0.5 else math.hypot(s(1.0), s(2 * p - 1))
        for split, sigma in (("equal", math.sqrt(2) * s(p)), ("fill", uneven), ("set_and_tune", uneven)):
            w = torch.full((1, 40_000), -p if k % 2 else p)
            assert float(weight_sigma(w, model, split)[0, 0]) == pytest.approx(sigma, rel=1e-5)
            g = model.program(conductances(w, g_max, split), torch.Generator().manual_seed(k))
            error = weights(g, g_max) - w
            assert abs(float(error.std()) / sigma - 1) < 5 / math.sqrt(2 * 40_000), (p, split)


@pytest.mark.parametrize(("name", "worst"), [("pcm", 1.001), ("hermes", 1.05)])
def test_filling_beats_sharing(name: str, worst: float) -> None:
    """Filling one device first errs less than sharing, but for a few weights where it is hardly worse."""
    w = torch.linspace(0.001, 0.999, 999)[None]
    model = device_model(name)
    ratio = weight_sigma(w, model, "fill") / weight_sigma(w, model, "equal")
    assert float(ratio.max()) < worst
    assert float(ratio.min()) < 0.75
    assert float((ratio < 1).float().mean()) > 0.8
