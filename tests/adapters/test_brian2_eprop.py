"""E-prop inside Brian2: traces by Brian2's equations give the rule's gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovonic.adapters import brian2_eprop
from ovonic.models.dynamics import Adaptation, Dynamics, ResetToValue, SubtractThreshold, When
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network
from ovonic.models.surrogates import ArcTan
from ovonic.validation.gradients import Episode, compare_gradients, factorised, random_episode, relative

pytestmark = pytest.mark.toolchain


@pytest.fixture(autouse=True)
def _brian2() -> None:
    pytest.importorskip("brian2", reason="needs Brian2: pip install 'ovonic[brian2]'")


@pytest.mark.parametrize("index", [0, 5])
def test_agrees_with_the_rule(index: int) -> None:
    episode = random_episode(index, seed=5, steps=40)
    assert factorised(episode).trace["hidden"].spikes.sum() > 10
    (agreement,) = compare_gradients(episode, ("brian2",))
    assert agreement.agrees, agreement
    assert agreement.worst is not None
    assert agreement.worst < 1e-12


def test_what_nest_has_not_and_given_signals() -> None:
    """A rest, a recurrence two steps late, a fresh spike that decays; learning signals from outside."""
    rng = np.random.default_rng(0)
    n = 6
    dynamics = Dynamics(
        rng.uniform(0.8, 0.95, n),
        0.7,
        rest=0.1,
        v_init=0.2,
        reset=SubtractThreshold(When.NEXT_BEFORE_DECAY),
        adaptation=Adaptation(0.9, 0.2, fresh_spike_decays=True),
    )
    network = Network.stack(
        {
            "x": Input((4,)),
            "in": Linear(rng.normal(0.2, 0.5, (4, n))),
            "hidden": Spiking(dynamics, Recurrence(rng.normal(0, 0.2, (n, n)), delay=2)),
            "out": Linear(rng.normal(size=(n, 2))),
            "y": Readout(0.9, rest=0.3, v_init=-0.2),
        }
    )
    x = torch.from_numpy((rng.random((2, 40, 4)) < 0.3).astype(float))
    episodes = [
        Episode("targets", network, {"x": x}, {"y": torch.from_numpy(rng.normal(size=(2, 40, 2)))}),
        Episode("signal", network, {"x": x}, {}, torch.from_numpy(rng.normal(size=(2, 40, n)))),
    ]
    for episode in episodes:
        assert factorised(episode).trace["hidden"].spikes.sum() > 10
        for agreement in compare_gradients(episode, ("autograd", "written-out", "brian2")):
            assert agreement.agrees, agreement


def test_refusals_name_the_feature() -> None:
    layers = {
        "x": Input((2,)),
        "in": Linear(np.ones((2, 3))),
        "hidden": Spiking(Dynamics(0.9, 0.6, reset=ResetToValue(0.0))),
        "out": Linear(np.ones((3, 1))),
        "y": Readout(0.9),
    }
    network, x = Network.stack(layers), torch.zeros(1, 5, 2, dtype=torch.float64)
    with pytest.raises(UnsupportedDynamics, match=r"'hidden', Dynamics\.reset"):
        brian2_eprop.run_eprop(network, x, {"y": x[:, :, :1]})
    network = Network.stack(layers | {"hidden": Spiking(Dynamics(0.9, 0.6))})
    with pytest.raises(ConfigError, match="either targets or a signal"):
        brian2_eprop.run_eprop(network, x)
    with pytest.raises(ConfigError, match="window 9"):
        brian2_eprop.run_eprop(network, x, {"y": x[:, :, :1]}, window=9)


def test_windows_and_slopes() -> None:
    episode = random_episode(1, seed=6, steps=30)
    from ovonic.models.eprop import eprop
    from ovonic.models.learning_signals import learning_signals

    trace = factorised(episode).trace
    errors = {name: trace.readouts[name] - target for name, target in episode.targets.items()}
    for error in errors.values():
        error[:, :-10] = 0
    ours = eprop(episode.network, trace, learning_signals(episode.network, errors), errors, ArcTan())
    theirs = brian2_eprop.run_eprop(
        episode.network, episode.inputs, episode.targets, window=10, surrogate=ArcTan()
    ).gradients
    assert max(relative(theirs[name], g) for name, g in ours.items()) < 1e-12
