"""E-prop by NEST's own plasticity: every gradient, both families of models, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ovonic.adapters import nest_eprop, nest_eprop_building
from ovonic.adapters.nest_eprop import Rates, learn, run_eprop, unsupported
from ovonic.models.dynamics import Adaptation, Comparison, Dynamics, Refractory, ResetToValue, decay_from_tau
from ovonic.models.eprop import eprop
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.learning_signals import learning_signals, rate_signal
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run
from ovonic.models.surrogates import PUBLISHED_SLOPE, ArcTan, Boxcar, FastSigmoid
from ovonic.tasks.bellec import Evidence, Pattern, evidence_accumulation, pattern_generation, repeated, task_network
from ovonic.validation.eprop_learning import side_by_side
from ovonic.validation.gradients import Episode, compare_gradients, episode_of, factorised, random_episode, relative

pytestmark = pytest.mark.toolchain


@pytest.fixture(autouse=True)
def _nest() -> None:
    pytest.importorskip("nest", reason="needs NEST: pip install 'ovonic[nest]'")


@pytest.mark.parametrize("index", range(6))
def test_both_families_agree_with_the_rule(index: int) -> None:
    """LIF, ALIF, own thresholds, gains, resets, masked or absent recurrence, one to three read-outs."""
    episode = random_episode(index, seed=3, steps=50)
    assert factorised(episode).trace["hidden"].spikes.sum() > 10
    for agreement in compare_gradients(episode, ("nest", "nest-online")):
        assert agreement.agrees, agreement
        assert agreement.worst is not None
        assert agreement.worst < 1e-12


@pytest.mark.parametrize("silent", [0, 2])
def test_why_the_delta_models_are_no_reference(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """eprop_iaf_psc_delta runs our spikes with a reset to a value and a frozen membrane, and learns by other traces:
    filtered inputs that go on through the neuron's own reset, where the derivative of the membrane ends.
    """
    import nest

    defaults = nest.GetDefaults("eprop_iaf_psc_delta")
    assert {"V_reset", "refractory_input"} <= set(defaults)
    assert not {"V_reset", "refractory_input"} & set(nest.GetDefaults("eprop_iaf"))
    names = nest_eprop_building.MODELS["online"]._replace(plain="eprop_iaf_psc_delta")
    plain = nest_eprop_building._neuron

    def neuron(plan: Any, steps: int, dt: float) -> dict[str, Any]:
        return plain(plan, steps, dt) | {"V_reset": 0.0, "t_ref": silent * dt}

    monkeypatch.setitem(nest_eprop_building.MODELS, "delta", names)
    monkeypatch.setattr(nest_eprop_building, "_neuron", neuron)
    monkeypatch.setattr(nest_eprop_building, "_mend", lambda *_: None)
    monkeypatch.setattr(nest_eprop, "refuse", lambda *_: None)
    rng = np.random.default_rng(0)
    refractory = Refractory(silent, frozen=silent > 0)
    dynamics = Dynamics(0.95, 0.6, reset=ResetToValue(0.0), refractory=refractory, comparison=Comparison.GREATER_EQUAL)
    layers = {
        "x": Input((8,)),
        "in": Linear(rng.normal(0.15, 0.5, (8, 12))),
        "h": Spiking(dynamics, Recurrence(rng.normal(0, 0.1, (12, 12)), masked_diagonal=True)),
        "out": Linear(rng.normal(0, 0.5, (12, 2))),
        "y": Readout(0.93),
    }
    episode = episode_of("delta", Network.stack(layers), 60)
    ours = factorised(episode)
    theirs = run_eprop(episode.network, episode.inputs, episode.targets, models="delta")
    spikes = ours.trace["h"].spikes
    assert spikes.sum() > 50
    assert torch.equal(theirs.trace["h"].spikes, spikes)
    assert relative(theirs.gradients["out.weight"], ours.gradients["out.weight"]) < 1e-12
    assert relative(theirs.gradients["in.weight"], ours.gradients["in.weight"]) > 1

    slope = PUBLISHED_SLOPE.height / 0.6 * (1 - (ours.trace["h"].membrane[0] - 0.6).abs() / 0.6).clamp(min=0)
    for step, j in spikes[0].nonzero().tolist():
        slope[step + 1 : step + 1 + silent, j] = 0
    signal = (ours.trace.readouts["y"] - episode.targets["y"])[0] @ torch.tensor(
        episode.network.weights()["out.weight"].T
    )
    filtered, bar, gradient = torch.zeros(8).double(), torch.zeros(8, 12).double(), torch.zeros(8, 12).double()
    for x, psi, learning in zip(episode.inputs["x"][0], slope, signal, strict=True):
        filtered = 0.95 * filtered + x
        bar = 0.93 * bar + filtered[:, None] * psi
        gradient += learning * bar
    assert relative(theirs.gradients["in.weight"], gradient) < 1e-12


def test_the_trace_is_that_of_the_network() -> None:
    episode = random_episode(7, steps=50)
    ours = factorised(episode).trace
    for models in ("2020", "online"):
        theirs = run_eprop(episode.network, episode.inputs, episode.targets, models=models).trace
        torch.testing.assert_close(theirs["hidden"].membrane, ours["hidden"].membrane, rtol=0, atol=1e-12)
        torch.testing.assert_close(theirs["hidden"].adaptation, ours["hidden"].adaptation, rtol=0, atol=1e-12)
        for name, y in ours.readouts.items():
            torch.testing.assert_close(theirs.readouts[name], y, rtol=0, atol=1e-12)


def test_the_normalisation_is_the_one_that_is_told() -> None:
    """NEST's 2020 gradient of input and recurrent weights is 1 - kappa times the loss's; the online models' is not."""
    episode = random_episode(1, steps=50)
    kappa = episode.network.layers["y0"].decay  # type: ignore[attr-defined]
    ours = factorised(episode).gradients
    raw = run_eprop(episode.network, episode.inputs, episode.targets, as_nest=True).gradients
    for name in ("in.weight", "hidden.recurrence"):
        assert relative(raw[name] / (1 - kappa), ours[name]) < 1e-12
        assert relative(raw[name], ours[name]) > 0.5
    assert relative(raw["out0.weight"], ours["out0.weight"]) < 1e-12


def test_rates_windows_feedback_and_slopes() -> None:
    drawn = random_episode(0, seed=1, steps=50)
    network = drawn.network
    inputs, targets = ({k: v[:1] for k, v in found.items()} for found in (drawn.inputs, drawn.targets))
    rng = np.random.default_rng(0)
    feedback = {"out0": torch.from_numpy(rng.normal(size=network.weights()["out0.weight"].T.shape))}
    for surrogate in (ArcTan(), FastSigmoid(5.0)):
        trace = run(network, inputs)
        error = trace.readouts["y0"] - targets["y0"]
        error[:, :-20] = 0
        signal = learning_signals(network, {"y0": error}, feedback)["hidden"]
        signal = signal + rate_signal(trace["hidden"].spikes, 0.02, 40.0)
        ours = eprop(network, trace, {"hidden": signal}, {"y0": error}, surrogate)
        theirs = run_eprop(
            network, inputs, targets, window=20, feedback=feedback, surrogate=surrogate, rates=Rates(40.0, 0.02)
        )
        for name, g in ours.items():
            assert relative(theirs.gradients[name], g) < 1e-11, name


def test_online_weights_that_move_are_off_by_their_rate() -> None:
    """No conversion makes the online update one of fixed weights: the difference falls with the learning rate."""
    episode = random_episode(1, seed=2, steps=60)
    ours = factorised(episode).gradients["in.weight"]
    gaps = []
    for rate in (1e-5, 1e-6, 1e-7):
        moved = run_eprop(episode.network, episode.inputs, episode.targets, models="online", moving=rate)
        gaps.append(relative(moved.gradients["in.weight"], ours))
    assert gaps[0] > 1e-6
    assert gaps[2] < gaps[0] / 10


@pytest.mark.parametrize("which", ["pattern", "evidence"])
def test_learning_goes_the_same_way(which: str) -> None:
    """NEST's own optimiser over episodes in one simulation: losses and final weights of our descent."""
    if which == "pattern":
        task, rate, batch = pattern_generation(6, size=Pattern(inputs=8, steps=60)), 1e-5, 1
        network = task_network(task, 15)
    else:
        task = repeated(evidence_accumulation(2, size=Evidence(inputs=8, cues=1, delay=10)), 4)
        network, rate, batch = task_network(task, 15, 7), 3e-4, 2
    found = side_by_side(network, task, rate, batch)
    assert found.difference < 1e-10
    assert found.weight_difference < 1e-9
    assert found.ours[-1] < 0.97 * found.ours[0]


def _network(dynamics: Dynamics, **more: Any) -> Network:
    kappas = more.get("kappas", (0.9,))
    layers: dict[str, Any] = {"x": Input((2,)), "in": Linear(np.ones((2, 3)), more.get("bias"))}
    layers |= {"h": Spiking(dynamics, Recurrence(np.ones((3, 3)), more.get("delay", 1)))}
    edges = [Edge("x", "in"), Edge("in", "h", more.get("late", 0))]
    for k, kappa in enumerate(kappas):
        layers |= {f"out{k}": Linear(np.ones((3, 1))), f"y{k}": Readout(decay_from_tau(10 * kappa, 1.0))}
        edges += [Edge("h", f"out{k}"), Edge(f"out{k}", f"y{k}")]
    return Network(layers, tuple(edges))


A = math.exp(-1 / 20)


@pytest.mark.parametrize(
    ("network", "feature"),
    [
        (_network(Dynamics(A, 0.6, reset=ResetToValue(0.0))), "Dynamics.reset"),
        (_network(Dynamics(A, 0.6, refractory=Refractory(2, frozen=True))), "Dynamics.refractory"),
        (_network(Dynamics(A, 0.6, rest=0.1)), "Dynamics.rest"),
        (_network(Dynamics(A, 0.6, adaptation=Adaptation(0.9, -0.1))), "Dynamics.adaptation"),
        (_network(Dynamics(A, 0.6, adaptation=Adaptation(0.9, 0.1, True))), "Dynamics.adaptation"),
        (_network(Dynamics(A, 0.6), delay=2), "Recurrence.delay"),
        (_network(Dynamics(A, 0.6), late=1), "edge in -> h"),
        (_network(Dynamics(A, 0.6), bias=np.ones(3)), "Linear.bias"),
        (_network(Dynamics(A, 0.6), kappas=(0.9, 0.8)), "Readout.decay"),
    ],
)
def test_what_nest_cannot_say_is_refused_by_name(network: Network, feature: str) -> None:
    assert feature in [entry.feature for entry in unsupported(network)]
    x = torch.zeros(1, 5, 2, dtype=torch.float64)
    with pytest.raises(UnsupportedDynamics, match=feature.split(" ")[0].replace(".", r"\.")):
        run_eprop(network, x, {name: x[:, :, :1] for name in network.readouts})


def test_other_refusals_name_the_value() -> None:
    import nest

    network, x = _network(Dynamics(A, 0.6)), torch.zeros(1, 5, 2, dtype=torch.float64)
    target = {"y0": x[:, :, :1]}
    assert "surrogate Boxcar" in [entry.feature for entry in unsupported(network, Boxcar())]
    for wrong, said in (
        ({"models": "2021"}, "models '2021'"),
        ({"window": 6}, "window 6"),
        ({"moving": 1e-3}, "moving"),
        ({"models": "online", "rates": Rates(1.0, 0.1)}, "rates"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_eprop(network, x, target, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="zeros and ones"):
        run_eprop(network, x + 0.5, target)
    with pytest.raises(ConfigError, match="targets"):
        run_eprop(network, x, {})
    with pytest.raises(ConfigError, match="loss"):
        learn(network, x, target, 1e-3, loss="absolute")
    nest.Create("parrot_neuron")
    with pytest.raises(ConfigError, match="kernel"):
        run_eprop(network, x, target)
    run_eprop(network, x, target, reset=True)
    assert nest.network_size == 0


def test_given_signals_are_natural_eprops() -> None:
    drawn = random_episode(3, seed=4, steps=40)
    signal = torch.from_numpy(
        np.random.default_rng(1).normal(size=(*drawn.inputs["x"].shape[:2], drawn.network.shapes["hidden"][0]))
    )
    episode = Episode("signal", drawn.network, drawn.inputs, {}, signal)
    for agreement in compare_gradients(episode, ("autograd", "written-out", "nest", "nest-online")):
        assert agreement.agrees, agreement
