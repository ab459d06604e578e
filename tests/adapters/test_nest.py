"""NEST beside the plain step: spike for spike, and what is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovonic.adapters import nest as adapter
from ovonic.adapters.nest import run, to_nest, unsupported
from ovonic.adapters.toolchains import approximate
from ovonic.models import lif
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    Refractory,
    ResetToValue,
    SubtractAdapted,
    SubtractThresholdOnce,
    Synapse,
)
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run as simulate
from ovonic.models.trace import LayerTrace, Trace

from .nest_cases import Draw

pytestmark = pytest.mark.toolchain
A = float(np.exp(-1 / 20))
GE = Comparison.GREATER_EQUAL


@pytest.fixture(autouse=True)
def kernel() -> Iterator[Any]:
    nest = pytest.importorskip("nest", reason="needs NEST: pip install 'ovonic[nest]'")
    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.ResetKernel()
    yield nest
    nest.ResetKernel()


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _spikes(seed: int, *shape: int, p: float = 0.2) -> torch.Tensor:
    return torch.tensor(_rng(seed).random(shape) < p, dtype=torch.float64)


def _stack(dynamics: Dynamics, n: int = 6, recurrent: bool = True, seed: int = 0, **more: Any) -> Network:
    rng = _rng(seed)
    recurrence = Recurrence(rng.normal(0, 0.3, (n, n))) if recurrent else None
    weight = rng.normal(0.2, 0.5, (4, n))
    return Network.stack({"x": Input((4,)), "in": Linear(weight), "h": Spiking(dynamics, recurrence)}, **more)


def _assert_same(theirs: Trace, ours: Trace, tolerance: float = 1e-12) -> None:
    for name, layer in ours.layers.items():
        assert torch.equal(theirs[name].spikes, layer.spikes), name
        torch.testing.assert_close(theirs[name].membrane, layer.membrane, rtol=0, atol=tolerance)
        for part in ("refractory", "adaptation"):
            a, b = getattr(theirs[name], part), getattr(layer, part)
            assert (a is None) == (b is None), part
            if b is not None:
                torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    for name, readout in ours.readouts.items():
        torch.testing.assert_close(theirs.readouts[name], readout, rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------------------------ the same spikes


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_random_networks(seed: int) -> None:
    draw = Draw(seed)
    network = draw.network()
    assert not unsupported(network)
    x = draw.inputs(network)
    _assert_same(run(network, x), simulate(network, x))


@pytest.mark.parametrize("gain", [1.0, -0.3])
def test_current_based_neurons(gain: float) -> None:
    """Norse's LIF and its like: the membrane before the reset is reckoned from the recorded currents."""
    rng = _rng(8)
    decays, silence = np.exp(-1 / rng.uniform(5, 20, 20)), Refractory(rng.integers(0, 3, 20), frozen=True)
    dynamics = Dynamics(
        decays, 0.6, gain, 0.1, 0.1, reset=ResetToValue(-0.2), refractory=silence, synapse=Synapse(0.8, 0.5)
    )
    spiking = Spiking(dynamics, Recurrence(rng.normal(0, 0.1, (20, 20)), 2))
    layers = {"x": Input((4,)), "in": Linear(rng.normal(np.sign(gain) * 0.3, 0.5, (4, 20))), "h": spiking}
    network, x = Network.stack(layers), _spikes(9, 2, 200, 4)
    theirs = run(network, x)
    assert theirs["h"].spikes.sum() > 200
    _assert_same(theirs, simulate(network, x))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_ties_are_handled_or_refused(seed: int) -> None:
    """All sums exact, thresholds met: the same bits, or a refusal that names the first place where > and >= differ."""
    draw = Draw(seed, dyadic=True)
    network = draw.network()
    assert not unsupported(network)
    x = draw.inputs(network)
    ours = simulate(network, x)
    if any(_ties(network, name, trace).any() for name, trace in ours.layers.items()):
        with pytest.raises(UnsupportedDynamics, match="met its threshold"):
            run(network, x)
    else:
        _assert_same(run(network, x), ours, tolerance=0)


def _ties(network: Network, name: str, trace: LayerTrace) -> torch.Tensor:
    """Where >= fires and the layer does not, unless its reset is to a value, of which NEST's threshold is shifted."""
    d: Any = network.layers[name].dynamics  # type: ignore[attr-defined]
    free = trace.refractory == 0 if trace.refractory is not None else torch.ones_like(trace.spikes, dtype=torch.bool)
    handled = d.comparison is GE or isinstance(d.reset, ResetToValue)
    return (trace.membrane == torch.as_tensor(d.adapted(trace.adaptation))) & free & (not handled)


def test_a_tie_is_named() -> None:
    network = Network.stack(
        {"x": Input((1,)), "in": Linear([[0.25, 0.5]]), "h": Spiking(Dynamics(0.5, 0.5)), "y": Readout(0.5)}
    )
    x = torch.zeros(2, 5, 1, dtype=torch.float64)
    x[1, 3] = 1
    with pytest.raises(UnsupportedDynamics, match=r"'h'.*step 3 of sample 1.*neuron 1.*0\.5.*GREATER_EQUAL"):
        run(network, x)
    x[1, 3] = 0.75
    _assert_same(run(network, x), simulate(network, x), tolerance=0)


@pytest.mark.parametrize("v_reset", [0.0, -0.25])
def test_a_tie_under_a_reset_to_a_value_is_handled(v_reset: float) -> None:
    for comparison in Comparison:
        dynamics = Dynamics(0.5, 0.5, comparison=comparison, reset=ResetToValue(v_reset))
        network = Network.stack({"x": Input((1,)), "in": Linear([[0.5, 0.25]]), "h": Spiking(dynamics)})
        x = torch.ones(1, 20, 1, dtype=torch.float64)
        trace = run(network, x)
        _assert_same(trace, simulate(network, x), tolerance=0)
        assert bool(trace["h"].spikes[0, 0, 0]) == (comparison is GE)


def test_golden_recipe() -> None:
    """FACTS 5: 250 neurons, 100 inputs, the robot's dynamics with its >."""
    rng = _rng(3)
    w_in, w_rec = rng.normal(0.02, 0.25, (100, 250)), rng.normal(0, 0.04, (250, 250))
    dynamics = Dynamics(A, 0.615, refractory=Refractory.from_n_ref(5))
    network = Network.stack(
        {
            "x": Input((100,)),
            "in": Linear(w_in),
            "h": Spiking(dynamics, Recurrence(w_rec, masked_diagonal=True)),
            "out": Linear(rng.normal(0, 0.1, (250, 2))),
            "y": Readout(A),
        }
    )
    x = _spikes(4, 1, 250, 100, p=0.05)
    theirs = run(network, x)
    assert theirs["h"].spikes.sum() > 5000
    _assert_same(theirs, simulate(network, x))


def test_membrane_before_a_hard_reset_is_what_was_compared() -> None:
    """iaf_psc_delta records V_m after the reset; it is at the threshold or above wherever it fired, below elsewhere."""
    dynamics = Dynamics(A, 0.6, comparison=GE, reset=ResetToValue(-0.1), refractory=Refractory(2, frozen=True))
    network = _stack(dynamics, n=20)
    x = _spikes(1, 3, 200, 4)
    layer = run(network, x)["h"]
    assert layer.spikes.sum() > 500
    assert torch.equal(layer.spikes == 1, (layer.membrane >= 0.6) & (layer.refractory == 0))
    torch.testing.assert_close(layer.membrane, simulate(network, x)["h"].membrane, rtol=0, atol=1e-14)


def test_several_inputs_without_linears_and_samples_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {"a": Input((3,)), "b": Input((3,)), "h": Spiking(Dynamics(A, 0.9)), "y": Readout(A)}
    network = Network(layers, (Edge("a", "h"), Edge("b", "h", 2), Edge("h", "y", 1)))
    inputs = {"a": 0.45 * _spikes(1, 5, 60, 3), "b": _spikes(2, 5, 60, 3)}
    monkeypatch.setattr(adapter, "MOST_CONNECTIONS", 2)
    theirs = run(network, inputs)
    _assert_same(theirs, simulate(network, inputs))
    assert theirs["h"].spikes.sum() > 20
    assert torch.equal(theirs.inputs["a"], inputs["a"])


def test_a_tie_above_a_rest_is_named_too() -> None:
    """NEST compares 0.5 with 0.6 - 0.1: the potentials that it tells have 0.1 added."""
    dynamics = Dynamics(A, 0.6, rest=0.1, v_init=0.1)
    network = Network.stack({"x": Input((1,)), "in": Linear([[0.6 - 0.1]]), "h": Spiking(dynamics)})
    with pytest.raises(UnsupportedDynamics, match=r"step 0 of sample 0.*neuron 0"):
        run(network, torch.ones(1, 1, 1).double())


def test_one_step_and_no_spike() -> None:
    network = _stack(Dynamics(A, 1e6))
    x = torch.zeros(1, 1, 4, dtype=torch.float64)
    _assert_same(run(network, x), simulate(network, x), tolerance=0)


def test_nests_own_code_does_the_stepping(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = _stack(Dynamics(A, 0.6)), _spikes(1, 2, 50, 4)
    ours = simulate(network, x)

    def step(*_: Any, **__: Any) -> None:
        raise AssertionError("the adapter stepped by itself")

    for module in [m for name, m in sys.modules.items() if name.startswith("ovonic")]:
        for name in ("step", "unroll", "integrate", "leak"):
            if getattr(module, name, None) is getattr(lif, name, step):
                monkeypatch.setattr(module, name, step)
    with pytest.raises(AssertionError, match="by itself"):
        lif.step(x[:, 0], None, None)  # type: ignore[arg-type]
    _assert_same(run(network, x), ours)


# ------------------------------------------------------------------------------------------------ refusals


CASES = [
    (Dynamics(A, 0.6, synapse=Synapse(0.8)), "synapse", True),
    (Dynamics(A, 0.6, reset=ResetToValue(), synapse=Synapse(0.1)), "synapse.*0.1", True),
    (Dynamics(A, 0.6, reset=ResetToValue(), synapse=Synapse(0.8), v_init=0.1), "v_init", True),
    (Dynamics(0.0, 0.6, reset=ResetToValue(), synapse=Synapse(0.0)), "gain", False),
    (Dynamics(0.1, 0.6), "decay", True),
    (Dynamics(np.array([A] * 5 + [0.1]), 0.6), "decay.*neuron 5", True),
    (Dynamics(A, 0.6, reset=SubtractThresholdOnce()), "SubtractThresholdOnce", True),
    (Dynamics(A, 0.6, reset=SubtractAdapted(), adaptation=Adaptation(0.9, 0.5)), "SubtractAdapted", True),
    (Dynamics(A, 0.6, reset=ResetToValue(), adaptation=Adaptation(0.9, 0.5)), "reset.*adapting", True),
    (Dynamics(A, 0.6, reset=ResetToValue(), refractory=Refractory(2)), "refractory.*freezes", True),
    (Dynamics(A, 0.6, refractory=Refractory(2, frozen=True)), "refractory.*integrate", True),
    (Dynamics(A, 0.6, adaptation=Adaptation(0.9, -0.5)), "adaptation.*negative", True),
    (Dynamics(A, 0.6, adaptation=Adaptation(0.9, 0.5, True)), "adaptation.*fresh", True),
    (Dynamics(A, 0.6, adaptation=Adaptation(0.1, 0.5)), "adaptation.*0.1", True),
    (Dynamics(A, 0.6, v_init=0.7), "v_init", True),
]


@pytest.mark.parametrize(("dynamics", "match", "near"), CASES)
def test_refused_dynamics_have_a_nearest_that_runs(dynamics: Dynamics, match: str, near: bool) -> None:
    network, x = _stack(dynamics), _spikes(1, 1, 40, 4)
    for act in (lambda: run(network, x), lambda: to_nest(network)):
        with pytest.raises(UnsupportedDynamics, match=rf"layer 'h', Dynamics\.[^|]*{match}"):
            act()
    if near:
        words = {entry.consent for entry in unsupported(network)}
        other, losses = approximate(adapter, network, words)
        assert losses
        _assert_same(run(other, x), simulate(other, x))


def test_a_recurrence_through_a_current_takes_two_steps() -> None:
    network, x = _stack(Dynamics(A, 0.6, reset=ResetToValue(), synapse=Synapse(0.8))), _spikes(1, 1, 40, 4)
    with pytest.raises(UnsupportedDynamics, match=r"layer 'h', Recurrence\.delay"):
        run(network, x)
    later, losses = approximate(adapter, network, {"delay"})
    assert losses == ("layer 'h', Recurrence.delay: the recurrence acts one step later",)
    _assert_same(run(later, x), simulate(later, x))


def test_a_lossy_decay_moves_by_its_last_bits_only() -> None:
    (found,) = unsupported(_stack(Dynamics(np.array([A] * 5 + [0.1]), 0.6)))
    decay: Any = found.instead.dynamics.decay  # type: ignore[union-attr]
    assert np.array_equal(decay[:5], [A] * 5)
    assert 0 < abs(decay[5] - 0.1) < 4 * np.spacing(0.1)


def test_refused_read_outs() -> None:
    network = Network.stack({"x": Input((2,)), "y": Readout(0.1, synapse=Synapse(0.05))})
    with pytest.raises(UnsupportedDynamics, match=r"'y', Readout\.synapse.*'y', Readout\.decay"):
        to_nest(network)


def test_refused_layers() -> None:
    spiking = Spiking(Dynamics(A, 0.6))
    picture = Network.stack(
        {
            "x": Input((1, 6, 6)),
            "conv": Conv(np.ones((1, 2, 3, 3))),
            "pool": Pool(Pooling.SUM, (2, 2)),
            "flat": Flatten(),
            "h": spiking,
        }
    )
    with pytest.raises(UnsupportedDynamics) as refused:
        run(picture, torch.ones(1, 2, 1, 6, 6, dtype=torch.float64))
    for name in ("'x', shape", "'conv', Conv", "'pool', Pool", "'flat', Flatten"):
        assert name in str(refused.value)
    eye = Linear(np.eye(2))
    row = Network.stack({"x": Input((2,)), "a": eye, "b": eye, "h": spiking, "y": Readout(A), "z": Readout(A)})
    with pytest.raises(UnsupportedDynamics, match=r"'b', edge a -> b.*multiply.*'z', edge y -> z"):
        to_nest(row)
    edges = (Edge("x", "a"), Edge("x", "a", 1), Edge("a", "h"), Edge("a", "y"), Edge("x", "b"))
    shared = Network({"x": Input((2,)), "a": eye, "b": eye, "h": spiking, "y": Readout(A)}, edges)
    with pytest.raises(UnsupportedDynamics, match=r"'a', Linear: it reads several.*2 edges lead.*'b'.*leave it out"):
        to_nest(shared)


def test_single_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"float32.*\.double\(\)"):
        run(_stack(Dynamics(A, 0.6)), _spikes(1, 1, 5, 4).float())


# ------------------------------------------------------------------------------------------------ the user's kernel


def test_a_users_simulation_is_not_dropped_without_consent(kernel: Any) -> None:
    network, x = _stack(Dynamics(A, 0.6)), _spikes(1, 1, 5, 4)
    mine = kernel.Create("iaf_psc_delta", 3, {"V_m": -60.0})
    for act in (lambda: run(network, x), lambda: to_nest(network)):
        with pytest.raises(ConfigError, match=r"3 nodes.*ResetKernel"):
            act()
    assert mine.get("V_m") == (-60.0,) * 3
    run(network, x, reset=True)
    assert kernel.network_size == 0


def test_the_kernel_is_left_empty_and_set_as_before(kernel: Any) -> None:
    kernel.set(resolution=0.25, rng_seed=7, local_num_threads=2, overwrite_files=True)
    kernel.verbosity = kernel.VerbosityLevel.WARNING
    run(_stack(Dynamics(A, 0.6)), _spikes(1, 1, 5, 4))
    assert (kernel.network_size, kernel.biological_time) == (0, 0.0)
    assert (kernel.resolution, kernel.rng_seed, kernel.local_num_threads) == (0.25, 7, 2)
    assert kernel.overwrite_files is True
    assert kernel.verbosity == kernel.VerbosityLevel.WARNING


def test_after_an_error_the_kernel_is_empty_too(kernel: Any) -> None:
    network = Network.stack({"x": Input((1,)), "in": Linear([[0.5]]), "h": Spiking(Dynamics(0.5, 0.5))})
    with pytest.raises(UnsupportedDynamics):
        run(network, torch.ones(1, 3, 1, dtype=torch.float64))
    assert kernel.network_size == 0


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    run(_stack(Dynamics(A, 0.6)), _spikes(1, 1, 5, 4))
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------ NEST's traps


def test_to_nest_is_run_by_nest_at_the_stamps_it_tells(kernel: Any) -> None:
    """Input of step t is stamped t + 1, a spike that it causes in the same step t + 2."""
    network, x = _stack(Dynamics(A, 0.6), dt_ms=0.5), _spikes(1, 1, 80, 4)
    made = to_nest(network)
    assert made.first == {"x": 0, "h": 1}
    for neuron, train in zip(made.layers["x"], x[0].T, strict=True):
        neuron.spike_times = [(t + 1) * 0.5 for t in train.nonzero()[:, 0].tolist()]
    recorder = kernel.Create("spike_recorder")
    kernel.Connect(made.layers["h"], recorder)
    kernel.Simulate(82 * 0.5)
    ids = made.layers["h"].get("global_id")
    recorded = zip(recorder.events["times"], recorder.events["senders"], strict=True)
    stamps = {(round(t / 0.5), int(j)) for t, j in recorded}
    ours = {(t + 2, ids[j]) for t, j in simulate(network, x)["h"].spikes[0].nonzero().tolist()}
    assert {s for s in stamps if s[0] < 82} == {s for s in ours if s[0] < 82}
    assert len(ours) > 50


def test_nest_fires_at_the_threshold(kernel: Any) -> None:
    for model in ("iaf_psc_delta", "eprop_iaf_bsshslm_2020"):
        kernel.ResetKernel()
        kernel.resolution = 1.0
        both = {"E_L": 0.0, "V_m": 0.5, "V_th": [0.5, np.nextafter(0.5, 1)], "tau_m": 1e17}
        neurons = kernel.Create(model, 2, both | ({"V_reset": 0.0} if model == "iaf_psc_delta" else {}))
        recorder = kernel.Create("spike_recorder")
        kernel.Connect(neurons, recorder)
        kernel.Simulate(1.0)
        assert recorder.events["senders"].tolist() == [neurons[0].global_id], model


def test_iaf_psc_delta_resets_hard_and_records_after_it(kernel: Any) -> None:
    kernel.resolution = 1.0
    given = {"E_L": 0.0, "V_m": 2.5, "V_th": 1.0, "V_reset": -0.25, "tau_m": 1e17, "t_ref": 1.0}
    neuron = kernel.Create("iaf_psc_delta", 1, given)
    meter = kernel.Create("multimeter", params={"record_from": ["V_m"], "interval": 1.0})
    kernel.Connect(meter, neuron)
    kernel.Simulate(4.0)
    assert meter.events["V_m"].tolist() == [-0.25] * 3


@pytest.mark.shared
def test_the_published_trainee_runs_with_its_greater_than(shared: Path) -> None:
    """Its own weights and clock: refusal of what NEST does identically would be a failure."""
    weights = np.load(shared / "published" / "robot_checkpoint.npz")
    golden = np.load(shared / "published" / "robot_golden.npz")
    network = Network.stack(
        {
            "clock": Input((5,)),
            "in": Linear(weights["W_in_trainee"]),
            "trainee": Spiking(
                Dynamics(A, 0.6, refractory=Refractory.from_n_ref(5)),
                Recurrence(weights["W_rec_trainee"], masked_diagonal=True),
            ),
        }
    )
    x = torch.tensor(golden["clock_signal_trainee"]).double()[:2]
    theirs = run(network, x)
    _assert_same(theirs, simulate(network, x), tolerance=1e-12)
    assert np.array_equal(theirs["trainee"].spikes, golden["trainee_spikes_training"][:2])
