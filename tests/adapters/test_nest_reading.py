"""What from_nest reads: our own nodes unchanged, and users' networks as NEST itself runs them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovonic.adapters.nest import from_nest, to_nest
from ovonic.models.dynamics import Adaptation, Comparison, Dynamics, Refractory, ResetToValue, SubtractThreshold, When
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run as simulate

from .nest_cases import Draw

pytestmark = pytest.mark.toolchain
A = float(np.exp(-1 / 20))
GE = Comparison.GREATER_EQUAL
EPROP = {"C_m": 1.0, "E_L": 0.0, "V_m": 0.0, "I_e": 0.0}


@pytest.fixture(autouse=True)
def kernel() -> Iterator[Any]:
    nest = pytest.importorskip("nest", reason="needs NEST: pip install 'ovonic[nest]'")
    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.ResetKernel()
    nest.set(resolution=1.0, eprop_reset_neurons_on_update=False)
    yield nest
    nest.ResetKernel()


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------------ round trips


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_round_trip(seed: int) -> None:
    import nest

    nest.ResetKernel()
    network = Draw(seed, native=True).network()
    made = to_nest(network)
    assert from_nest(made) == network


def _stack(dynamics: Dynamics, recurrence: Recurrence | None = None) -> Network:
    return Network.stack(
        {"x": Input((2,)), "in": Linear(np.ones((2, 3))), "h": Spiking(dynamics, recurrence), "y": Readout(A)}
    )


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (Dynamics(A, 0.6), Dynamics(A, 0.6, comparison=GE)),
        (
            Dynamics(A, 0.6, reset=ResetToValue(-0.5)),
            Dynamics(A, math.nextafter(0.6, 1), comparison=GE, reset=ResetToValue(-0.5)),
        ),
        (
            Dynamics(A, 0.6, comparison=GE, reset=ResetToValue(0.0, When.NEXT_BEFORE_DECAY)),
            Dynamics(A, 0.6, comparison=GE, reset=ResetToValue(0.0)),
        ),
        (
            Dynamics(A, 0.6, comparison=GE, reset=ResetToValue(0.0, When.NEXT_AFTER_INPUT)),
            Dynamics(A, 0.6, comparison=GE, reset=ResetToValue(0.0), refractory=Refractory(1, frozen=True)),
        ),
    ],
)
def test_what_nest_says_in_one_way_only_is_read_so(said: Dynamics, read: Dynamics) -> None:
    assert from_nest(to_nest(_stack(said))) == _stack(read)


def test_a_gain_is_read_in_the_weights_and_a_masked_diagonal_as_zeros() -> None:
    weight = np.arange(9.0).reshape(3, 3) + 1
    network = _stack(Dynamics(A, 0.6, 0.5, comparison=GE), Recurrence(weight, 2, masked_diagonal=True))
    back = from_nest(to_nest(network))
    hollow = 0.5 * weight * (1 - np.eye(3))
    due = _stack(Dynamics(A, 0.6, comparison=GE), Recurrence(hollow, 2, masked_diagonal=True))
    assert back == due.with_weights({"in.weight": np.full((2, 3), 0.5)})


def test_potentials_with_a_rest_are_read_to_their_last_bit() -> None:
    """NEST keeps V_th - E_L: 0.3 above a rest of -1 comes back as 0.30000000000000004."""
    for reset in (ResetToValue(-0.9), SubtractThreshold(When.SAME_STEP)):
        said = _stack(Dynamics(A, 0.3, rest=-1.0, v_init=-0.7, comparison=GE, reset=reset))
        nest = pytest.importorskip("nest")
        nest.ResetKernel()
        read = from_nest(to_nest(said)).layers["h"].dynamics  # type: ignore[attr-defined]
        assert read.threshold == pytest.approx(0.3, abs=1e-15)
        assert read.v_init == pytest.approx(-0.7, abs=1e-15)
        assert type(read.reset) is type(reset)
        assert read.reset.when is reset.when
        assert (read.decay, read.rest) == (A, -1.0)


@pytest.mark.parametrize("recurrence", [Recurrence([[0.5]]), Recurrence([0.5]), Recurrence([[0.0]], 3, True)])
def test_a_single_neuron(recurrence: Recurrence) -> None:
    network = Network.stack({"x": Input((1,)), "h": Spiking(Dynamics(A, 0.6, comparison=GE), recurrence)})
    back = from_nest(to_nest(network))
    assert back.layers["h"].recurrence.effective == recurrence.effective  # type: ignore[attr-defined]
    assert back.edges == network.edges


def test_what_the_user_changed_is_read(kernel: Any) -> None:
    made = to_nest(_stack(Dynamics(A, 0.6, comparison=GE)))
    made.layers["h"].V_th = [0.6, 0.7, 0.8]
    connections = kernel.GetConnections(made.layers["x"], made.layers["h"])
    connections.weight = [float(k) for k in range(6)]
    back = from_nest(made)
    assert back.layers["h"].dynamics.threshold.tolist() == [0.6, 0.7, 0.8]  # type: ignore[attr-defined]
    ends = zip(connections.get("source"), connections.get("target"), range(6), strict=True)
    x0, h0 = made.layers["x"][0].global_id, made.layers["h"][0].global_id
    for source, target, weight in ends:
        assert back.layers["in"].weight[source - x0, target - h0] == weight  # type: ignore[attr-defined]
    kernel.Connect(made.layers["h"][0], made.layers["h"][1])
    with pytest.raises(UnsupportedDynamics, match="that to_nest did not make"):
        from_nest(made)
    read = from_nest(made.layers)
    assert read.layers["h"].recurrence.weight[0, 1] == 1  # type: ignore[attr-defined]
    for changed in ({"I_e": 1.0}, {"V_m": 0.1}):
        kernel.ResetKernel()
        made = to_nest(_stack(Dynamics(A, 0.6, comparison=GE)))
        made.layers["h"].set(changed)
        with pytest.raises(UnsupportedDynamics, match=rf"'h': {next(iter(changed))} is no longer"):
            from_nest(made)
    kernel.ResetKernel()
    made = to_nest(_stack(Dynamics(A, 0.6, comparison=GE)))
    kernel.GetConnections(made.layers["x"], made.layers["h"]).delay = [1.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    with pytest.raises(UnsupportedDynamics, match="'h': connections of one kind have several delays"):
        from_nest(made)


def test_a_mended_reset_that_was_changed_is_refused(kernel: Any) -> None:
    made = to_nest(_stack(Dynamics(A, 0.6, comparison=GE, reset=SubtractThreshold(When.SAME_STEP))))
    kernel.GetConnections(made.layers["h"], made.layers["h"]).weight = 0.25
    with pytest.raises(UnsupportedDynamics, match=r"'h'.*mend its reset"):
        from_nest(made)


# ------------------------------------------------------------------------------------------------ NEST's own runs


def _nest_spikes(kernel: Any, layers: dict[str, Any], steps: int) -> dict[str, np.ndarray]:
    """What NEST itself fires, [T, n], step t stamped t + 1."""
    recorders = {name: kernel.Create("spike_recorder", params={"time_in_steps": True}) for name in layers}
    for name, nodes in layers.items():
        kernel.Connect(nodes, recorders[name])
    kernel.Simulate(steps * kernel.resolution)
    trains = {}
    for name, nodes in layers.items():
        events, ids = recorders[name].events, list(np.atleast_1d(nodes.get("global_id")))
        trains[name] = np.zeros((steps, len(nodes)))
        for time, sender in zip(events["times"].astype(int), events["senders"].astype(int), strict=True):
            trains[name][time - 1, ids.index(sender)] = 1
    return trains


def _played(generators: Any, x: np.ndarray, dt: float) -> None:
    """x [T, n], step t stamped t + 1."""
    for generator, train in zip(generators, x.T, strict=True):
        generator.spike_times = (np.flatnonzero(train) + 1) * dt


def _assert_as_nest_ran(network: Network, trains: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> None:
    trace = simulate(network, {name: torch.tensor(x)[None] for name, x in inputs.items()})
    for name, train in trains.items():
        assert train.sum() > 0.02 * train.size, name
        assert np.array_equal(trace[name].spikes[0].numpy(), train), name


@pytest.mark.parametrize("dt", [1.0, 0.1])
def test_a_balanced_network_of_iaf_psc_delta(kernel: Any, dt: float) -> None:
    """The textbook's: millivolts, sparse connections, excitation and inhibition, delays, I_e, voltages at random."""
    kernel.resolution = dt
    rng = _rng(1)
    x = (rng.random((300, 20)) < 0.2).astype(float)
    given = {"C_m": 200.0, "tau_m": rng.uniform(8, 20, 50).tolist(), "t_ref": 1.0, "E_L": -65.0, "V_th": -50.0}
    given |= {"V_reset": -60.0, "I_e": rng.uniform(100, 220, 50).tolist(), "V_m": rng.uniform(-65, -51, 50).tolist()}
    cells = kernel.Create("iaf_psc_delta", 50, given)
    inputs = kernel.Create("spike_generator", 20)
    _played(inputs, x, dt)
    excitation = {"weight": 1.5, "delay": 1.5}
    kernel.Connect(cells[:40], cells, {"rule": "fixed_indegree", "indegree": 5}, excitation)
    kernel.Connect(cells[40:], cells, {"rule": "fixed_indegree", "indegree": 3}, excitation | {"weight": -4.0})
    kernel.Connect(
        inputs, cells, {"rule": "pairwise_bernoulli", "p": 0.3}, {"weight": 3.0, "delay": 0.5 if dt < 1 else 2}
    )
    kernel.Connect(kernel.Create("voltmeter"), cells)
    network = from_nest({"x": inputs, "cells": cells})
    assert network.dt_ms == dt
    assert network.layers["cells"].recurrence.delay == round(1.5 / dt)  # type: ignore[attr-defined]
    trains = _nest_spikes(kernel, {"cells": cells}, 300)
    _assert_as_nest_ran(network, trains, {"x": x})


@pytest.mark.parametrize("dt", [1.0, 0.1])
def test_a_network_of_iaf_psc_exp(kernel: Any, dt: float) -> None:
    """Current-based neurons: a spike moves the membrane a step after it came, I_e shifts the rest."""
    kernel.resolution = dt
    rng = _rng(6)
    x = (rng.random((300, 20)) < 0.3).astype(float)
    given = {
        "C_m": rng.uniform(20, 40, 30).tolist(),
        "tau_m": 12.0,
        "t_ref": 2.0,
        "V_m": rng.uniform(-70, -56, 30).tolist(),
    }
    given |= {"tau_syn_ex": 3.0, "tau_syn_in": 3.0, "I_e": rng.uniform(0, 25, 30).tolist()}
    cells, inputs = kernel.Create("iaf_psc_exp", 30, given), kernel.Create("spike_generator", 20)
    _played(inputs, x, dt)
    kernel.Connect(cells, cells, "all_to_all", {"weight": rng.normal(2, 20, (30, 30)), "delay": 1.0})
    kernel.Connect(inputs, cells, "all_to_all", {"weight": rng.normal(8, 20, (30, 20)), "delay": 1.0})
    network = from_nest({"x": inputs, "cells": cells})
    assert network.layers["cells"].recurrence.delay == round(1 / dt) + 1  # type: ignore[attr-defined]
    trains = _nest_spikes(kernel, {"cells": cells}, 300)
    _assert_as_nest_ran(network, trains, {"x": x})


@pytest.mark.parametrize("beta", [None, 0.4])
def test_an_e_prop_network(kernel: Any, beta: float | None) -> None:
    """NEST's tutorial wiring: generators, parrots, recurrent neurons, read-outs, learning signals and targets.

    Its recorders, generators and error signals are no part of the network; the parrots are its input. NEST's own
    synapses would learn from a spike in the first step.
    """
    rng = _rng(2)
    x = (rng.random((200, 8)) < 0.2).astype(float)
    x[0] = 0
    sources, parrots = kernel.Create("spike_generator", 8), kernel.Create("parrot_neuron", 8)
    model, more = "eprop_iaf_bsshslm_2020", {}
    if beta is not None:
        model, more = "eprop_iaf_adapt_bsshslm_2020", {"adapt_beta": beta, "adapt_tau": 100.0}
    neurons = kernel.Create(model, 12, {**EPROP, "V_th": 0.6, "tau_m": 20.0, "t_ref": 3.0, **more})
    outs = kernel.Create("eprop_readout_bsshslm_2020", 2, {**EPROP, "tau_m": 12.0, "regular_spike_arrival": False})
    targets = kernel.Create("step_rate_generator", 2)
    _played(sources, x, 1.0)
    kernel.Connect(sources, parrots, "one_to_one", {"delay": 1.0})
    learns = {"synapse_model": "eprop_synapse_bsshslm_2020", "delay": 1.0, "tau_m_readout": 12.0}
    for pre, post in ((parrots, neurons), (neurons, neurons), (neurons, outs)):
        weight = rng.normal(0.1, 0.4, (len(post), len(pre)))
        kernel.Connect(pre, post, {"rule": "all_to_all", "allow_autapses": False}, learns | {"weight": weight})
    back = {"synapse_model": "eprop_learning_signal_connection_bsshslm_2020", "delay": 1.0}
    kernel.Connect(outs, neurons, "all_to_all", back | {"weight": rng.normal(size=(12, 2))})
    rate = {"synapse_model": "rate_connection_delayed", "delay": 1.0, "receptor_type": 2}
    kernel.Connect(targets, outs, "one_to_one", rate)
    meter = kernel.Create("multimeter", params={"record_from": ["V_m"], "interval": 1.0, "time_in_steps": True})
    kernel.Connect(meter, outs)

    scanned = from_nest()
    network = from_nest({"x": parrots, "h": neurons, "y": outs})
    assert network.layers["h"].recurrence.masked_diagonal  # type: ignore[attr-defined]
    assert [len(net.names(kind)) for net in (scanned, network) for kind in (Input, Spiking, Readout)] == [1] * 6
    trains = _nest_spikes(kernel, {"x": parrots, "h": neurons}, 200)
    shifted = {"x": np.vstack([np.zeros((1, 8)), x[:-1]])}
    assert np.array_equal(trains.pop("x"), shifted["x"])
    _assert_as_nest_ran(network, trains, shifted)
    again = simulate(scanned, torch.tensor(shifted["x"])[None])
    (name,) = scanned.spiking
    assert np.array_equal(again[name].spikes[0].numpy(), trains["h"])
    events = meter.events
    v = np.zeros((199, 2))
    v[events["times"].astype(int) - 1, events["senders"].astype(int) - outs[0].global_id] = events["V_m"]
    readout = simulate(network, torch.tensor(shifted["x"])[None]).readout[0, :199].numpy()
    np.testing.assert_allclose(v, readout, rtol=0, atol=1e-12)


@pytest.mark.parametrize("regular", [True, False])
def test_e_prop_neurons_with_currents_and_resting_potentials(kernel: Any, regular: bool) -> None:
    """The defaults' millivolts are read relative to E_L; I_e acts from the second step on; no other input."""
    given = {"I_e": [300.0, 500.0, 900.0], "V_m": [-70.0, -60.0, -69.0], "regular_spike_arrival": regular}
    neurons = kernel.Create("eprop_iaf_bsshslm_2020", 3, given)
    kernel.Connect(neurons, neurons, "all_to_all", {"weight": [[4.0, 2.0, 9.0], [3.0, 1.0, -8.0], [5.0, 6.0, 7.0]]})
    network = from_nest({"h": neurons})
    assert network.inputs == ("I_e",)
    d = network.layers["h"].dynamics  # type: ignore[attr-defined]
    assert (d.threshold, d.rest, d.v_init.tolist()) == (15.0, 0.0, [0.0, 10.0, 1.0])
    trains = _nest_spikes(kernel, {"h": neurons}, 150)
    _assert_as_nest_ran(network, trains, {"I_e": np.zeros((150, 1))})


def test_populations_in_a_row_scanned_from_the_kernel(kernel: Any) -> None:
    """Layers by model and first id; two delays between the same layers; a copied model; a one-to-one edge."""
    rng = _rng(5)
    x = (rng.random((200, 6)) < 0.3).astype(float)
    kernel.CopyModel("iaf_psc_delta", "mine", {"V_th": 0.75, "V_reset": 0.0, "E_L": 0.0, "V_m": 0.0, "t_ref": 2.0})
    kernel.CopyModel("static_synapse", "wire")
    inputs, low = kernel.Create("spike_generator", 6), kernel.Create("mine", 6)
    top = kernel.Create("eprop_iaf_bsshslm_2020", 4, {**EPROP, "V_th": 0.7})
    _played(inputs, x, 1.0)
    kernel.Connect(inputs, low, "one_to_one", {"weight": 1.0, "delay": 2.0, "synapse_model": "wire"})
    for delay in (1.0, 3.0):
        kernel.Connect(low, top, "all_to_all", {"weight": rng.normal(0.3, 0.4, (4, 6)), "delay": delay})
    network = from_nest()
    names = [f"spike_generator_{inputs[0].global_id}", f"mine_{low[0].global_id}"]
    names.append(f"eprop_iaf_bsshslm_2020_{top[0].global_id}")
    assert set(names) <= set(network.layers)
    assert Edge(names[0], names[1], 2) in network.edges
    assert len(network.names(Linear)) == 2
    trains = _nest_spikes(kernel, {names[1]: low, names[2]: top}, 200)
    _assert_as_nest_ran(network, trains, {names[0]: x})


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "model", ["izhikevich", "aeif_cond_exp", "iaf_cond_exp", "hh_psc_alpha", "iaf_psc_alpha", "mat2_psc_exp"]
)
def test_other_neurons_are_refused_by_name(kernel: Any, model: str) -> None:
    neurons = kernel.Create(model, 2)
    for nodes in ({"cells": neurons}, None):
        with pytest.raises(UnsupportedDynamics, match=f"layer '(cells|{model}_1)': {model}"):
            from_nest(nodes)


@pytest.mark.parametrize(
    ("model", "given", "match"),
    [
        ("iaf_psc_delta", {"refractory_input": True}, "refractory_input"),
        ("iaf_psc_delta", {"V_min": -80.0}, "V_min"),
        ("iaf_psc_delta", {"t_ref": 1.5}, "t_ref"),
        ("iaf_psc_delta", {"frozen": True}, "frozen"),
        ("iaf_psc_delta", {"ignore_and_spike": True}, "ignore_and_spike"),
        ("eprop_iaf_adapt_bsshslm_2020", {"adaptation": 0.5}, "adaptation"),
        ("iaf_psc_exp", {"tau_syn_ex": 1.0}, "tau_syn_ex and tau_syn_in"),
        ("iaf_psc_exp", {"delta": 1.0}, "delta"),
        ("iaf_psc_exp", {"I_e": 1000.0}, "I_e"),
    ],
)
def test_parameters_without_a_word_are_refused(kernel: Any, model: str, given: dict[str, Any], match: str) -> None:
    neurons = kernel.Create(model, 2, given)
    with pytest.raises(UnsupportedDynamics, match=f"layer 'h': {model}.*{match}"):
        from_nest({"h": neurons})


def test_resets_at_updates_are_refused(kernel: Any) -> None:
    """NEST's default sets e-prop neurons back every 1000 ms."""
    kernel.eprop_reset_neurons_on_update = True
    neurons = kernel.Create("eprop_iaf_bsshslm_2020", 2)
    with pytest.raises(UnsupportedDynamics, match=r"eprop_reset_neurons_on_update.*set it to False"):
        from_nest({"h": neurons})


@pytest.mark.parametrize("model", ["stdp_synapse", "tsodyks_synapse", "bernoulli_synapse", "cont_delay_synapse"])
def test_other_synapses_are_refused_by_name(kernel: Any, model: str) -> None:
    neurons = kernel.Create("iaf_psc_delta", 2)
    kernel.Connect(neurons, neurons, syn_spec={"synapse_model": model})
    with pytest.raises(UnsupportedDynamics, match=f"by {model} on neuron"):
        from_nest({"h": neurons})


@pytest.mark.parametrize("model", ["poisson_generator", "dc_generator", "step_current_generator", "noise_generator"])
def test_generators_that_are_no_input_are_refused_by_name(kernel: Any, model: str) -> None:
    neurons = kernel.Create("iaf_psc_delta", 2)
    kernel.Connect(kernel.Create(model), neurons)
    for nodes in ({"h": neurons}, None):
        with pytest.raises(UnsupportedDynamics, match=rf"{model}.*(parrot|read are)"):
            from_nest(nodes)


def test_other_refusals(kernel: Any) -> None:
    with pytest.raises(ConfigError, match="no nodes"):
        from_nest()
    neurons = kernel.Create("iaf_psc_delta", 2)
    for delay in (1.0, 2.0):
        kernel.Connect(neurons, neurons, "one_to_one", {"delay": delay})
    with pytest.raises(UnsupportedDynamics, match=r"'h'.*delays of 1, 2 steps"):
        from_nest({"h": neurons})
    other = kernel.Create("iaf_psc_delta", 1)
    kernel.Connect(other, neurons)
    with pytest.raises(UnsupportedDynamics, match=r"iaf_psc_delta 3 acts by static_synapse.*name it as a layer"):
        from_nest({"h": neurons})
    mixed = neurons + kernel.Create("parrot_neuron", 1)
    with pytest.raises(UnsupportedDynamics, match="iaf_psc_delta, parrot_neuron"):
        from_nest({"h": mixed})
    parrots = kernel.Create("parrot_neuron", 2)
    kernel.Connect(other, parrots)
    with pytest.raises(UnsupportedDynamics, match="feeds an input"):
        from_nest({"x": parrots, "o": other})
    kernel.Simulate(3.0)
    with pytest.raises(UnsupportedDynamics, match=r"has run until 3\.0 ms"):
        from_nest()


def test_adaptation_is_read(kernel: Any) -> None:
    given = {**EPROP, "V_th": 0.7, "adapt_beta": [0.1, 0.2], "adapt_tau": 50.0, "tau_m": 20.0, "t_ref": 1.0}
    neurons = kernel.Create("eprop_iaf_adapt_bsshslm_2020", 2, given)
    kernel.Connect(kernel.Create("spike_generator"), neurons)
    d = from_nest().layers[f"eprop_iaf_adapt_bsshslm_2020_{neurons[0].global_id}"].dynamics  # type: ignore[attr-defined]
    assert d == Dynamics(A, 0.7, comparison=GE, adaptation=Adaptation(math.exp(-1 / 50), np.array([0.1, 0.2])))
