"""A learning rule beside independent computations: they agree with a right rule and catch wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.adapters.eprop_wiring import EpropEpisode, misplaced
from ovonic.models.dynamics import NoReset
from ovonic.models.eprop import eprop
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Pool, Pooling, Readout
from ovonic.models.learning_signals import learning_signals
from ovonic.models.lif import Paths
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import inputs_by_name, run
from ovonic.models.trace import LayerTrace, Trace
from ovonic.tasks.robot import resolve_robot
from ovonic.validation.figure_style import alt_text, caption
from ovonic.validation.gradients import (
    TOLERANCE,
    Agreement,
    Bptt,
    Episode,
    against_bptt,
    beside_bptt,
    compare_gradients,
    differentiated,
    episode_of,
    factorised,
    lesson_episode,
    natural_update,
    random_episode,
)
from ovonic.validation.gradients_figures import agreement_figure, bptt_figure
from ovonic.validation.random_networks import recurrent_example

matplotlib.use("Agg")
OWN = ("written-out", "autograd")


@pytest.mark.parametrize("index", range(10))
def test_the_rule_agrees_with_what_needs_no_toolchain(index: int) -> None:
    episode = random_episode(index, seed=1, steps=40)
    assert factorised(episode).trace["hidden"].spikes.sum() > 5
    for agreement in compare_gradients(episode, OWN):
        assert agreement.agrees, agreement
        assert set(agreement.by_weight) == set(factorised(episode).gradients)


@pytest.mark.toolchain
@pytest.mark.parametrize("toolchain", ["snntorch", "norse"])
def test_traces_of_toolchains_end_to_end(toolchain: str) -> None:
    pytest.importorskip(toolchain, reason=f"needs {toolchain}: pip install 'ovonic[{toolchain}]'")
    for index in (1, 2):
        (agreement,) = compare_gradients(random_episode(index, seed=1, steps=40), (toolchain,))
        assert agreement.agrees, agreement


# ------------------------------------------------------------------------------------------------ wrong rules


def _detached_once(path: str) -> Any:
    return lambda episode: differentiated(episode, Paths(**{"recurrent": False, "reset": False, path: True}))


def _ours(episode: Episode, change: Any = None, normalised: bool = False, ahead: int = 0) -> EpropEpisode:
    network, right = episode.network, factorised(episode)
    trace = right.trace
    errors = {name: trace.readouts[name] - target for name, target in episode.targets.items()}
    signals = learning_signals(network, errors, normalised=normalised)
    if ahead:
        signals = {name: torch.roll(signal, ahead, 1) for name, signal in signals.items()}
    if change is not None:
        trace = Trace(
            {name: change(layer) for name, layer in trace.layers.items()}, trace.readouts, trace.inputs, trace.dt_ms
        )
    return EpropEpisode(eprop(network, trace, signals, errors), right.trace)


def _late(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def _without(name: str) -> Any:
    return lambda layer: LayerTrace(**{**vars(layer), name: torch.zeros_like(getattr(layer, name))})


WRONG: dict[str, Any] = {
    "only the reset detached": _detached_once("recurrent"),
    "only the recurrence detached": _detached_once("reset"),
    "nothing through the adaptation": lambda e: differentiated(e, Paths(False, False, adaptation=False)),
    "spikes of the recurrence a step late": lambda e: _ours(
        e, lambda layer: LayerTrace(_late(layer.spikes), layer.membrane, layer.refractory, layer.adaptation)
    ),
    "slopes a step late": lambda e: _ours(
        e, lambda layer: LayerTrace(layer.spikes, _late(layer.membrane), layer.refractory, layer.adaptation)
    ),
    "learning signals a step late": lambda e: _ours(e, ahead=1),
    "1 - kappa not converted": lambda e: _ours(e, normalised=True),
    "slopes in refractory steps": lambda e: _ours(e, _without("refractory")),
    "the bare threshold in the slope": lambda e: _ours(e, _without("adaptation")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_caught(wrong: str) -> None:
    """On an adapting, refractory network (number 1); by both references, by a thousand tolerances at least."""
    episode = random_episode(1, seed=0, steps=60)
    assert factorised(episode).trace["hidden"].refractory is not None
    for agreement in compare_gradients(episode, OWN, WRONG[wrong](episode)):
        assert agreement.agrees is False
        assert agreement.worst is not None
        assert agreement.worst > 1000 * TOLERANCE


def test_other_spikes_never_agree() -> None:
    episode = random_episode(2, steps=30)
    ours = factorised(episode)
    layer = ours.trace["hidden"]
    spikes = layer.spikes.clone()
    spikes[0, 3, 0] = 1 - spikes[0, 3, 0]
    trace = Trace({"hidden": LayerTrace(spikes, layer.membrane)}, {}, {})
    (agreement,) = compare_gradients(episode, ("written-out",), EpropEpisode(ours.gradients, trace))
    assert agreement.worst is not None
    assert agreement.worst <= TOLERANCE
    assert agreement.agrees is False


# ------------------------------------------------------------------------------------------------ natural e-prop


def test_natural_eprop_agrees_and_a_wrong_one_does_not() -> None:
    config = NaturalEPropConfig(clock=3, target=4, trainee=12, lsg_lif=3, lsg_alif=2)
    rng = np.random.default_rng(0)
    clock = torch.from_numpy((rng.random((2, 40, 3)) < 0.4).astype(float))
    signal = torch.from_numpy(rng.normal(size=(2, 40, 12)))
    episode, ours = natural_update("small", initial_pair(config, 1).trainee, clock, signal)
    assert ours.trace["trainee"].spikes.sum() > 10
    for agreement in compare_gradients(episode, OWN, ours):
        assert agreement.agrees, agreement
    _, late = natural_update("late", episode.network, clock, torch.roll(signal, 1, 1))
    assert [a.agrees for a in compare_gradients(episode, OWN, late)] == [False, False]


def test_the_shipped_teacher_and_pupil() -> None:
    episode, ours = lesson_episode("lesson", resolve_robot("robot-q16"))
    (agreement,) = compare_gradients(episode, ("autograd",), ours)
    assert agreement.agrees, agreement
    assert ours.gradients["in.weight"].abs().max() > 1


@pytest.mark.shared
def test_the_published_teacher_and_pupil(shared: Path) -> None:
    episode, ours = lesson_episode("lesson", resolve_robot(shared / "published" / "robot_checkpoint.npz"))
    (agreement,) = compare_gradients(episode, ("autograd",), ours)
    assert agreement.agrees, agreement


# ------------------------------------------------------------------------------------------------ the full gradient


def test_what_natural_eprop_leaves_out() -> None:
    """With the signals given: nothing without recurrence and reset, and something with either."""
    config = NaturalEPropConfig(clock=3, target=4, trainee=12, lsg_lif=3, lsg_alif=2)
    rng = np.random.default_rng(0)
    clock = torch.from_numpy((rng.random((2, 40, 3)) < 0.4).astype(float))
    signal = torch.from_numpy(rng.normal(size=(2, 40, 12)))
    trainee = initial_pair(config, 1).trainee
    hidden: Any = trainee.layers["trainee"]
    still = hidden.dynamics.replace(reset=NoReset())
    found = {}
    for name, layer in (
        ("none", hidden.replace(recurrence=None, dynamics=still)),
        ("recurrence", hidden.replace(dynamics=still)),
        ("reset", hidden.replace(recurrence=None)),
        ("both", hidden),
    ):
        network = trainee.replace(layers={**trainee.layers, "trainee": layer})
        found[name] = beside_bptt(Episode(name, network, inputs_by_name(network, clock), {}, signal))
    assert found["none"] == (pytest.approx(1, abs=1e-12), pytest.approx(0, abs=1e-12))
    for name in ("recurrence", "reset", "both"):
        assert found[name][0] < 0.9999, name
        assert found[name][1] > 0.01, name


def test_the_shipped_pupil_beside_the_full_gradient() -> None:
    """The surrogate loss differentiated here by hand: sum L z along all paths."""
    episode, ours = lesson_episode("lesson", resolve_robot("robot-q16"))
    names = ("in.weight", "trainee.recurrence")
    weights = {name: torch.tensor(w, requires_grad=True) for name, w in episode.network.weights().items()}
    spikes = run(episode.network, episode.inputs, weights)["trainee"].spikes
    assert episode.signal is not None
    full = torch.autograd.grad((episode.signal * spikes).sum(), [weights[name] for name in names])
    a, b = torch.cat([ours.gradients[n].flatten() for n in names]), torch.cat([g.flatten() for g in full])
    cosine, difference = beside_bptt(episode)
    assert cosine == pytest.approx(float(a @ b / a.norm() / b.norm()))
    assert difference == pytest.approx(float((a - b).norm() / b.norm()))
    assert 0.8 < cosine < 0.9


def test_what_eprop_leaves_out() -> None:
    """Without recurrence, reset and adaptation nothing is left out; with them, something is."""
    plain = recurrent_example()
    layers: Any = dict(plain.layers)
    hidden = layers["hidden"]
    layers["hidden"] = hidden.replace(recurrence=None, dynamics=hidden.dynamics.replace(reset=NoReset()))
    cosine, difference = beside_bptt(episode_of("feed-forward", plain.replace(layers=layers), 40))
    assert cosine > 1 - 1e-12
    assert difference < 1e-12
    cosine, difference = beside_bptt(episode_of("recurrent", plain, 40))
    assert cosine < 0.999
    assert difference > 0.05
    assert against_bptt(10, 30, 1) == against_bptt(10, 30, 1)


# ------------------------------------------------------------------------------------------------ refusals, figures


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="did you mean 'brian2'"):
        list(compare_gradients(random_episode(0, steps=5), ("brian",)))
    pooled = Network.stack({"x": Input((1, 4)), "pool": Pool(Pooling.MEAN, (2,))})
    assert {entry.feature for entry in misplaced(pooled)} >= {"Spiking", "Pool"}
    with pytest.raises(UnsupportedDynamics, match="0 spiking layers"):
        episode_of("pooled", pooled)
    drawn = random_episode(1, steps=10)
    (other, *_) = drawn.network.readouts
    layers: Any = dict(drawn.network.layers) | {other: Readout(0.5)}
    mixed = Episode("mixed", drawn.network.replace(layers=layers), drawn.inputs, drawn.targets)
    (agreement,) = compare_gradients(mixed, ("written-out",))
    assert agreement.agrees is None
    assert agreement.refused is not None
    assert "one decay" in agreement.refused
    shared_linear = Network(
        {"x": Input((2,)), "in": Linear(np.ones((2, 2)), np.ones(2)), "y": Readout(0.9)},
        (Edge("x", "in", 1), Edge("in", "y")),
    )
    assert {"Linear.bias", "edge x -> in"} <= {entry.feature for entry in misplaced(shared_linear)}


def test_figures_say_what_they_show() -> None:
    found = [
        Agreement("a", "autograd", 3e-16, {"in.weight": 3e-16, "out.weight": 0.0}, True),
        Agreement("a", "norse", 1e-15, {"in.weight": 1e-15}, True),
        Agreement("a", "nest", None, {}, None, "refused"),
    ]
    figure = agreement_figure(found)
    assert "autograd 3.0e-16" in alt_text(figure)
    assert "end-to-end" in caption(figure)
    sweep = [Bptt(n, t, 0, 0.9, 0.3) for n in (10, 20) for t in (50, 100)]
    assert "difference at 20 neurons 0.30 to 0.30" in alt_text(bptt_figure(sweep))
