"""The networks of natural e-prop: their initial weights, their constants, what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from ovonic.models.errors import ConfigError
from ovonic.models.layers import Spiking
from ovonic.models.natural_eprop_networks import (
    NaturalEPropConfig,
    Start,
    initial_pair,
    lsg_network,
    trainee_network,
)

from .natural_eprop_cases import SMALL


def test_initial_weights() -> None:
    pair = initial_pair()
    assert {name: w.shape for name, w in pair.lsg.weights().items()} == {
        "in.weight": (53, 800),
        "lsg.recurrence": (800, 800),
        "out.weight": (800, 250),
    }
    assert pair == initial_pair(NaturalEPropConfig(), seed=0)
    assert pair != initial_pair(seed=1)
    assert pair.trainee == initial_pair(NaturalEPropConfig(lsg_lif=50, lsg_alif=20)).trainee
    out = 1 - np.exp(-1 / 20)
    for network, name, deviation in (
        *((pair.lsg, "in.weight", 53**-0.5), (pair.lsg, "lsg.recurrence", 800**-0.5)),
        *((pair.lsg, "out.weight", (2 / 1050) ** 0.5), (pair.trainee, "in.weight", 5**-0.5)),
        *((pair.trainee, "trainee.recurrence", 250**-0.5), (pair.trainee, "out.weight", out * 250**-0.5)),
    ):
        weight = network.weights()[name]
        assert weight.std() == pytest.approx(deviation, rel=4 / (2 * weight.size) ** 0.5), name
        assert abs(weight.mean()) < 4 * deviation / weight.size**0.5
    assert abs(pair.lsg.weights()["out.weight"]).max() <= (6 / 1050) ** 0.5
    layer = pair.lsg.layers["lsg"]
    assert isinstance(layer, Spiking)
    assert layer.dynamics.adaptation is not None
    assert np.array_equal(layer.dynamics.adaptation.beta, [0.0] * 560 + [1.6] * 240)


def test_graded_weights_feel_a_coordinate_as_a_number() -> None:
    """Columns of ones and zeros times graded weights are the coordinate times a weight, whatever its bits."""
    plain = initial_pair()
    graded = initial_pair(start=Start(code_gain=0.3, lsg_recurrence=0.5, trainee_recurrence=2.0))
    coordinates = np.array([[3, 1000, 65535], [40000, 2**15, 2**15 - 1]])
    bits = (coordinates[..., None] >> np.arange(16)) & 1
    w = graded.lsg.weights()["in.weight"][5:]
    unit = w.reshape(3, 16, 800)[:, -1] * 2
    assert np.allclose(bits.reshape(2, 48) @ w, coordinates / 2**16 @ unit, rtol=1e-12)
    assert unit.std() == pytest.approx(0.3, rel=4 / (2 * unit.size) ** 0.5)
    assert np.array_equal(graded.lsg.weights()["in.weight"][:5], plain.lsg.weights()["in.weight"][:5])
    for network, factor in (("lsg", 0.5), ("trainee", 2.0)):
        before, after = (getattr(pair, network).weights()[f"{network}.recurrence"] for pair in (plain, graded))
        assert np.array_equal(after, before * factor)


def test_a_slower_clock_of_half_steps() -> None:
    fine = initial_pair(dataclasses.replace(SMALL, dt_ms=0.5))
    assert fine.trainee.dt_ms == 0.5
    layer = fine.trainee.layers["trainee"]
    assert isinstance(layer, Spiking)
    assert layer.dynamics.decay == pytest.approx(np.exp(-0.5 / 20))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NaturalEPropConfig(trainee=0), "trainee 0: must be a whole number, at least 1"),
        (lambda: NaturalEPropConfig(lsg_lif=0, lsg_alif=0), "lsg_lif 0 and lsg_alif 0"),
        (lambda: NaturalEPropConfig(tau_mem_ms=0.0), "tau_mem_ms 0.0: must be positive"),
        (lambda: NaturalEPropConfig(beta=float("nan")), "beta nan"),
        (lambda: Start(code_gain=float("inf")), "code_gain inf: must be finite"),
        (lambda: trainee_network(np.zeros((6, 3)), 0, 0, SMALL), r"trainee w_in: shape \(6, 3\) where \(3, 6\)"),
        (lambda: lsg_network(np.zeros((7, 9)), np.zeros((9, 8)), 0, SMALL), r"lsg w_rec: shape \(9, 8\)"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
