"""E-prop on a user's network: what is moved out of the references' way changes no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovonic.models.dynamics import Dynamics
from ovonic.models.errors import UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.validation.gradients import Episode, factorised
from ovonic.validation.own_gradients import measure_gradients, without_biases
from ovonic.validation.own_subject import Settings, given_to_network

OWN = Settings(steps=40, samples=1, rate=0.3, references=("written-out", "autograd"), seed=3)


def network(readout: bool = True) -> Network:
    rng = np.random.default_rng(0)
    layers = {
        "x": Input((5,)),
        "fc": Linear(rng.normal(0.2, 0.5, (5, 8)), rng.normal(0.1, 0.1, 8)),
        "hidden": Spiking(Dynamics(0.9, 1.0), Recurrence(rng.normal(0, 0.2, (8, 8)))),
    }
    if readout:
        layers |= {
            "out": Linear(rng.normal(0, 0.5, (8, 2)), rng.normal(0, 1, 2)),
            "y": Readout(0.8, gain=0.5, rest=0.3),
        }
    return Network.stack(layers)


def test_biases_move_and_no_gradient_does() -> None:
    own = network()
    given = given_to_network(own, None, OWN)
    moved, always, said = without_biases(own)
    assert always
    assert len(said) == 2
    assert not any(name.endswith(".bias") for name in moved.weights())
    found = measure_gradients(own, given.inputs, given, OWN, lambda *_: None)
    assert [a.agrees for a in found.agreements] == [True, True]
    assert not found.values["silent"]
    rng = np.random.default_rng([OWN.seed, 7])
    target = torch.from_numpy(rng.normal(size=(1, 40, 2)))
    plain = factorised(Episode("as it is", own, given.inputs, {"y": target}))
    assert plain.trace["hidden"].spikes.sum() > 20
    x = dict(given.inputs) | {"always_1": torch.ones(1, 40, 1, dtype=torch.float64)}
    ours = run(moved, x)
    assert torch.equal(ours["hidden"].spikes, plain.trace["hidden"].spikes)
    shift = plain.trace.readouts["y"] - ours.readouts["y"]
    assert float(shift.abs().max()) > 0.1
    there = factorised(Episode("moved", moved, x, {"y": target - shift}))
    for name in ("fc.weight", "hidden.recurrence", "out.weight"):
        assert torch.allclose(there.gradients[name], plain.gradients[name], rtol=1e-12, atol=1e-12)
    assert torch.allclose(
        there.gradients["fc_bias.weight"][0], plain.gradients["fc.weight"].new_tensor(0) + _bias(plain, own)
    )


def _bias(plain: object, own: Network) -> torch.Tensor:
    """The bias's gradient by finite sums: that of an input which is 1 in every step."""
    from ovonic.models.eprop import eprop
    from ovonic.models.learning_signals import learning_signals

    trace = plain.trace  # type: ignore[attr-defined]
    rng = np.random.default_rng([OWN.seed, 7])
    errors = {"y": trace.readouts["y"] - torch.from_numpy(rng.normal(size=(1, 40, 2)))}
    return eprop(own, trace, learning_signals(own, errors), errors)["fc.bias"]


def test_without_a_readout_signals_are_given() -> None:
    own = network(readout=False)
    given = given_to_network(own, None, OWN)
    found = measure_gradients(own, given.inputs, given, OWN, lambda *_: None)
    assert [a.agrees for a in found.agreements] == [True, True]
    assert any("learning signals are given" in line for line in found.conventions)


def test_two_spiking_layers_are_refused_by_name() -> None:
    own = network()
    layers = dict(own.layers)
    two = {name: layers[name] for name in ("x", "fc", "hidden")} | {"w": Linear(np.eye(8)), "second": layers["hidden"]}
    twice = Network.stack(two)
    given = given_to_network(twice, None, OWN)
    with pytest.raises(UnsupportedDynamics, match=r"'hidden, second'.*2 spiking layers"):
        measure_gradients(twice, given.inputs, given, OWN, lambda *_: None)
