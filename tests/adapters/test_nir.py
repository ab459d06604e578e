"""NIR: every network comes back bit for bit, its nodes say in NIR's terms what they can, and lies are refused."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from ovonic.adapters.nir import (
    load_nir,
    load_pair,
    network_from_nir,
    network_to_nir,
    pair_from_nir,
    pair_to_nir,
    save_nir,
    save_pair,
)
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
    When,
    decay_from_tau,
)
from ovonic.models.errors import ConfigError, DataError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Pair, initial_pair
from ovonic.models.network import Network
from ovonic.models.simulation import run

N = 3
RESETS = (
    NoReset(),
    *(kind(when) for kind in (SubtractThreshold, SubtractAdapted) for when in When),
    *(ResetToValue(value, when) for value in (-0.1, -0.0) for when in When),
    SubtractThresholdOnce(),
)
DECAY = st.floats(0, 1) | st.sampled_from([0.0, 1.0, math.exp(-1 / 20)])
POSITIVE = st.floats(1e-3, 1e3)


def _per_neuron(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return numbers | st.lists(numbers, min_size=N, max_size=N)


def _synapses() -> st.SearchStrategy[Synapse | None]:
    return st.none() | st.builds(Synapse, _per_neuron(DECAY), _per_neuron(POSITIVE))


@st.composite
def _dynamics(draw: st.DrawFn) -> Dynamics:
    return Dynamics(
        draw(_per_neuron(DECAY)),
        draw(_per_neuron(POSITIVE)),
        draw(_per_neuron(POSITIVE)),
        draw(_per_neuron(st.floats(-5, 0))),
        draw(_per_neuron(st.floats(-5, 5))),
        draw(st.sampled_from(Comparison)),
        draw(st.sampled_from(RESETS)),
        Refractory(draw(_per_neuron(st.integers(0, 9))), draw(st.booleans())),
        draw(st.none() | st.builds(Adaptation, _per_neuron(DECAY), _per_neuron(st.floats(-2, 2)), st.booleans())),
        draw(_synapses()),
    )


@st.composite
def _networks(draw: st.DrawFn) -> Network:
    """Two inputs, layers that read several others with delays, and names that collide with those of helper nodes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    delay = st.integers(0, 3)
    recurrence = st.sampled_from(
        [
            None,
            Recurrence(rng.normal(size=N), draw(st.integers(1, 4))),
            Recurrence(rng.normal(size=(N, N)), draw(st.integers(1, 4)), draw(st.booleans())),
        ]
    )
    hidden = draw(st.sampled_from(["hidden", "h"]))
    return Network(
        {
            "x": Input((2,)),
            "input": Input((N,)),
            "in": Linear(rng.normal(size=(2, N)), draw(st.sampled_from([None, rng.normal(size=N)]))),
            hidden: Spiking(draw(_dynamics()), draw(recurrence)),
            "h_recurrence": Spiking(draw(_dynamics()), draw(recurrence)),
            "out": Linear(rng.normal(size=(N, 2))),
            "out_output": Readout(draw(_per_neuron(DECAY).filter(lambda d: not isinstance(d, list))), draw(POSITIVE)),
            "y": Readout(draw(_per_neuron(DECAY)), rest=-0.1, v_init=draw(st.floats(-1, 1)), synapse=draw(_synapses())),
        },
        [
            ("x", "in"),
            ("in", hidden, draw(delay)),
            ("input", hidden),
            (hidden, "h_recurrence", 0),
            (hidden, "h_recurrence", 2),
            (hidden, "out"),
            ("out", "out_output", draw(delay)),
            ("h_recurrence", "y"),
        ],
        draw(POSITIVE),
    )


def _through_file(graph: nir.NIRGraph) -> nir.NIRGraph:
    file = io.BytesIO()
    nir.write(file, graph)
    return nir.read(io.BytesIO(file.getvalue()))


def _small() -> Network:
    """A recurrent network with something of everything that NIR cannot say."""
    rng = np.random.default_rng(0)
    dynamics = Dynamics(
        [0.9, 0.95, 0.99],
        0.6,
        reset=SubtractAdapted(),
        refractory=Refractory(4),
        adaptation=Adaptation(0.998, [0, 0, 1.6]),
    )
    return Network(
        {
            "x": Input((2,)),
            "in": Linear(rng.normal(size=(2, N))),
            "s": Spiking(dynamics, Recurrence(rng.normal(size=(N, N)), 2, True)),
            "out": Linear(rng.normal(size=(N, 2)), rng.normal(size=2)),
            "y": Readout(0.9),
        },
        [("x", "in"), ("in", "s", 1), ("s", "out"), ("out", "y")],
    )


# ------------------------------------------------------------------------------------------------ there and back


@settings(max_examples=30, deadline=None)
@given(_networks())
def test_every_network_comes_back(network: Network) -> None:
    """Equal by value: every float of constants, weights, delays and masked diagonals with its bits."""
    assert network_from_nir(_through_file(network_to_nir(network))) == network


def test_a_file_is_whole_and_the_same_every_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "network.nir"
    save_nir(path, _small())
    assert load_nir(path) == _small()
    first = path.read_bytes()
    save_nir(path, _small())
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["network.nir"]


def test_weights_keep_their_bits() -> None:
    weight = np.array([[-0.0, 5e-324], [np.nextafter(1, 2), -1.7976931348623157e308]])
    network = Network.stack({"x": Input((2,)), "w": Linear(weight), "y": Readout(0.5)})
    node = _through_file(network_to_nir(network)).nodes["w"]
    assert node.weight.dtype == np.float64
    assert node.weight.T.tobytes() == weight.tobytes()


def test_the_pair_comes_back(tmp_path: Path) -> None:
    pair = initial_pair(NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10), 3)
    save_pair(tmp_path / "pair.nir", pair)
    assert load_pair(tmp_path / "pair.nir") == pair
    graph = nir.read(tmp_path / "pair.nir")
    assert set(graph.inputs) == {"lsg_input", "trainee_input"}
    assert network_from_nir(graph.nodes["trainee"]) == pair.trainee
    w_rec = pair.trainee.weights()["trainee.recurrence"]
    node = graph.nodes["trainee"].nodes["trainee_recurrence"]
    assert np.array_equal(node.weight, (w_rec * (1 - np.eye(20))).T)
    assert np.diagonal(w_rec).any()


# ------------------------------------------------------------------------------------------------ NIR's terms


def test_the_graph_that_other_tools_read() -> None:
    """Node by node, by hand: tau 20 ms, a gain of 1 as r = 1 / (1 - decay), the delays in s, weights [out, in]."""
    decay = decay_from_tau(20.0, 1.0)
    w_in, w_rec, w_out = np.arange(6.0).reshape(2, 3), np.arange(1.0, 10).reshape(3, 3), np.ones((3, 1))
    network = Network(
        {
            "x": Input((2,)),
            "in": Linear(w_in, np.ones(3)),
            "s": Spiking(
                Dynamics(decay, 0.6, rest=-0.2, reset=ResetToValue(-0.3)), Recurrence(w_rec, 4, masked_diagonal=True)
            ),
            "out": Linear(w_out),
            "y": Readout(0.5, gain=0.5),
        },
        [("x", "in"), ("in", "s", 2), ("s", "out"), ("out", "y")],
    )
    graph = _through_file(network_to_nir(network))
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    assert kinds == {
        "x": "Input",
        "in": "Affine",
        "in_s_delay2": "Delay",
        "s": "LIF",
        "s_recurrence": "Linear",
        "s_recurrence_s_delay3": "Delay",
        "out": "Linear",
        "y": "LI",
        "y_output": "Output",
    }
    assert set(graph.edges) == {
        ("x", "in"),
        ("in", "in_s_delay2"),
        ("in_s_delay2", "s"),
        ("s", "s_recurrence"),
        ("s_recurrence", "s_recurrence_s_delay3"),
        ("s_recurrence_s_delay3", "s"),
        ("s", "out"),
        ("out", "y"),
        ("y", "y_output"),
    }
    nodes = graph.nodes
    np.testing.assert_array_equal(nodes["in"].weight, w_in.T)
    np.testing.assert_array_equal(nodes["s_recurrence"].weight, [[0, 4, 7], [2, 0, 8], [3, 6, 0]])
    np.testing.assert_allclose(nodes["in_s_delay2"].delay, [0.002] * 3)
    np.testing.assert_allclose(nodes["s_recurrence_s_delay3"].delay, [0.003] * 3)
    s = nodes["s"]
    for field, value in {"tau": 0.02, "r": 20.504166, "v_leak": -0.2, "v_threshold": 0.6, "v_reset": -0.3}.items():
        np.testing.assert_allclose(getattr(s, field), [value] * 3, rtol=1e-7)
    np.testing.assert_allclose([nodes["y"].tau[0], nodes["y"].r[0]], [1e-3 / math.log(2), 1.0])


@pytest.mark.parametrize(
    ("dynamics", "kind", "v_reset"),
    [
        (Dynamics(0.9, 0.7), nir.LIF, 0.0),
        (Dynamics(0.9, 0.7, rest=-1, reset=SubtractAdapted()), nir.LIF, 0.0),
        (Dynamics(0.9, 0.7, reset=NoReset()), nir.LIF, 0.7),
        (Dynamics(0.9, 0.7, reset=ResetToValue(-0.5)), nir.LIF, -0.5),
        (Dynamics(1.0, 0.7), nir.IF, 0.0),
        (Dynamics(0.9, 0.7, synapse=Synapse(0.8)), nir.CubaLIF, 0.0),
    ],
)
def test_which_neuron_and_which_reset(dynamics: Dynamics, kind: type, v_reset: float) -> None:
    node = network_to_nir(Network.stack({"x": Input((N,)), "s": Spiking(dynamics)})).nodes["s"]
    assert type(node) is kind
    np.testing.assert_array_equal(node.v_reset, [v_reset] * N)
    if kind is nir.IF:
        np.testing.assert_allclose(node.r, [1000.0] * N)


@pytest.mark.parametrize(("decay", "synapse"), [(0.9, None), (1.0, None), (0.9, Synapse(0.7, 1.3))])
def test_nirs_equations_take_our_steps(decay: float, synapse: Synapse | None) -> None:
    """The nodes' own differential equations, integrated numerically over steps of constant input, give our membrane.

    With a synapse the current stands still for the step too, at its new value.
    """
    network = Network.stack({"x": Input((1,)), "y": Readout(decay, 0.4, -0.5, 0.3, synapse)}, dt_ms=2.0)
    node = network_to_nir(network).nodes["y"]
    x = np.random.default_rng(1).normal(size=20)
    ours = run(network, torch.from_numpy(x)[None, :, None]).readout[0, :, 0].numpy()
    tau, leak = (node.tau_mem if synapse else node.tau, 1) if decay < 1 else (np.ones(1), 0)
    v_leak = node.v_leak if leak else 0

    def step(equation: Callable[..., Any], start: float) -> float:
        return float(solve_ivp(equation, (0, 2e-3), [start], rtol=1e-11, atol=1e-13).y[0, -1])

    v, i = 0.3, 0.0
    for t in range(20):
        drive = x[t]
        if synapse:
            drive = i = step(lambda _, i, s=x[t]: (-i + node.w_in * s) / node.tau_syn, i)
        v = step(lambda _, v, s=drive: (leak * (v_leak - v) + node.r * s) / tau, v)
        assert v == pytest.approx(ours[t], abs=1e-8)


def test_where_nir_has_no_node_its_constants_are_infinite() -> None:
    node = network_to_nir(Network.stack({"x": Input((2,)), "s": Spiking(Dynamics([0.9, 1.0], 1))})).nodes["s"]
    assert np.isinf(node.tau).tolist() == np.isinf(node.r).tolist() == [False, True]


# ------------------------------------------------------------------------------------------------ refusals


def _set(name: str, field: str, value: Any) -> Callable[[nir.NIRGraph], None]:
    def change(graph: nir.NIRGraph) -> None:
        getattr(graph.nodes[name], field)[...] = value

    return change


def _contract(change: Callable[[dict[str, Any]], object]) -> Callable[[nir.NIRGraph], None]:
    def edit(graph: nir.NIRGraph) -> None:
        contract = json.loads(graph.metadata["ovonic"])
        change(contract)
        graph.metadata["ovonic"] = json.dumps(contract)

    return edit


def _dynamics_of(contract: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = contract["network"]["layers"]["s"]["dynamics"]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("s", "tau", 0.02), r"node 's': tau 0\.02 contradicts its contract, which makes it 0\.0094912"),
        (_set("s", "v_threshold", 0.61), r"node 's': v_threshold 0\.61 contradicts its contract, which makes it 0\.6;"),
        (_set("s", "v_reset", -1), r"node 's': v_reset -1 contradicts"),
        (_set("s", "r", math.nan), r"node 's': r nan contradicts"),
        (_set("in_s_delay1", "delay", 0.002), r"node 'in_s_delay1': delay 0\.002 contradicts"),
        (_set("s_recurrence", "weight", 1.0), r"node 's_recurrence': its diagonal is masked: 0 here"),
        (lambda g: g.nodes.update(s_recurrence=nir.Linear(np.ones((2, 3)))), r"shape \(3, 2\) is not square"),
        (_contract(lambda c: c["network"]["layers"]["s"]["recurrence"].update(masked_diagonal=1)), r"must be bool"),
        (_set("in", "weight", math.nan), r"Linear.weight\[0, 0\]: nan must be finite"),
        (lambda g: g.nodes.pop("y_output"), r"node 'y_output': missing, but in its contract"),
        (lambda g: g.nodes.pop("s"), r"node 's': missing"),
        (lambda g: g.nodes.pop("in"), r"node 'in': absent, its contract says Linear or Affine"),
        (lambda g: g.nodes.update(z=nir.Scale(np.ones(2))), r"node 'z': not in its contract"),
        (lambda g: g.nodes.update(y=nir.I(np.ones(2))), r"node 'y': a I, its contract says LI"),
        (lambda g: g.nodes.update(s_recurrence=nir.LI(*np.ones((3, 2)))), r"'s_recurrence': of type LI"),
        (lambda g: g.nodes.update(x=nir.Input({"input": np.array([3])})), r"node 'x': shape 3 contradicts .* it 2"),
        (lambda g: g.edges.remove(("s", "out")), r"edge s -> out: missing, but in its contract"),
        (lambda g: g.edges.append(("x", "y")), r"edge x -> y: not in its contract"),
        (lambda g: g.edges.append(("x", "in")), r"edge x -> in: not in its contract"),
        (lambda g: g.metadata.clear(), r"a NIR graph without Ovonic's contract: NIR leaves open its time step"),
        (lambda g: g.metadata.update(ovonic="{"), r"its contract is no JSON"),
        (lambda g: g.metadata.update(ovonic=3.0), r"its contract is no JSON"),
        (lambda g: g.metadata.update(ovonic="[]"), r"a contract of another format: this Ovonic reads format 1"),
        (_contract(lambda c: c.update(format=2)), r"a contract of another format"),
        (_contract(lambda c: c.update(kind="pair")), r"holds a pair, not a network"),
        (_contract(lambda c: c.pop("network")), r"its contract describes no layers"),
        (_contract(lambda c: c["network"].update(layers={"x": 3})), r"its contract describes no layers"),
        (_contract(lambda c: c["network"].update(dt_ms=2.0)), r"node '\w+': \w+ [\d.]+ contradicts its contract"),
        (_contract(lambda c: _dynamics_of(c).update(decay=0.5)), r"node 's': r 10 contradicts .* 2|node 's': tau"),
        (_contract(lambda c: _dynamics_of(c).update(threshold=math.inf)), r"threshold: inf must be finite"),
        (_contract(lambda c: _dynamics_of(c).update(treshold=1)), r"Dynamics.treshold is unknown: did you mean"),
        (_contract(lambda c: c["network"]["layers"]["in"].update(weight=["in"])), r"node \['in'\]: absent"),
    ],
)
def test_a_graph_that_contradicts_its_contract_is_refused(change: Callable[[nir.NIRGraph], Any], message: str) -> None:
    graph = network_to_nir(_small())
    change(graph)
    with pytest.raises(DataError, match=message):
        network_from_nir(graph)


def test_weights_come_from_the_nodes() -> None:
    """So that a tool that trains them, even in float32, need not know the contract."""
    graph = network_to_nir(_small())
    for node in graph.nodes.values():
        for field, value in vars(node).items():
            if isinstance(value, np.ndarray) and value.dtype == np.float64:
                setattr(node, field, value.astype(np.float32))
    graph.nodes["in"].weight += 1
    changed = network_from_nir(_through_file(graph))
    expected = (_small().weights()["in.weight"].astype(np.float32) + np.float32(1)).astype(np.float64)
    assert np.array_equal(changed.weights()["in.weight"], expected)
    weights = {"in.weight": changed.weights()["in.weight"]}
    rest = {key: w.astype(np.float32) for key, w in _small().weights().items() if key not in weights}
    diagonal = np.diag(np.diagonal(_small().weights()["s.recurrence"]))
    rest["s.recurrence"] = rest["s.recurrence"] * (1 - np.eye(N)) + diagonal
    assert changed == _small().with_weights(weights | rest)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "no whole NIR file"),
        (lambda data: data[: len(data) // 2], "no whole NIR file"),
        (lambda data: b"q1,q2\n0,0\n", "no whole NIR file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "network.nir"
    save_nir(path, _small())
    path.write_bytes(damage(path.read_bytes()))
    for load in (load_nir, load_pair):
        with pytest.raises(DataError, match=f"network.nir: {message}"):
            load(path)


def test_other_files_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h5.nir", "w") as file:
        file["data"] = np.ones(3)
    with pytest.raises(DataError, match=r"h5.nir: HDF5, but no NIR file: it has no group 'node'"):
        load_nir(tmp_path / "h5.nir")
    save_nir(tmp_path / "one.nir", _small())
    with pytest.raises(DataError, match=r"one.nir: holds a network, not a pair"):
        load_pair(tmp_path / "one.nir")
    pair = initial_pair(NaturalEPropConfig(trainee=4, lsg_lif=3, lsg_alif=2))
    save_pair(tmp_path / "two.nir", pair)
    with pytest.raises(DataError, match=r"two.nir: holds a pair, not a network"):
        load_nir(tmp_path / "two.nir")
    graph = pair_to_nir(pair)
    graph.nodes["lsg"].nodes["lsg"].v_threshold[2] = 2
    with pytest.raises(DataError, match=r"lsg: node 'lsg': v_threshold 2 contradicts"):
        pair_from_nir(graph)
    del graph.nodes["lsg"]
    with pytest.raises(DataError, match="lsg: no NIR graph"):
        pair_from_nir(graph)
    with pytest.raises(FileNotFoundError):
        load_nir(tmp_path / "none.nir")


def test_layers_without_a_node_are_refused() -> None:
    for pool, message in (
        (Pool(Pooling.MAX, 2), r"layer 'pool', Pool.how: NIR has no maximum pooling; pool by the mean or sum"),
        (Pool(Pooling.MEAN, 2), r"layer 'pool', Pool.window: NIR pools over two axes only; give the space"),
    ):
        shape = (2, 4, 4) if pool.how is Pooling.MAX else (2, 4)
        pool = pool.replace(window=pool.window * (len(shape) - 1), stride=(), padding=())
        with pytest.raises(UnsupportedDynamics, match=message):
            network_to_nir(Network.stack({"x": Input(shape), "pool": pool, "s": Spiking(Dynamics(0.9, 1))}))
    two = Network({"a": Input((1,)), "b": Input((1,)), "y": Readout(0.9)}, [("a", "y"), ("b", "y")])
    with pytest.raises(ConfigError, match="lsg: 2 inputs; a NIR graph inside another has one"):
        pair_to_nir(Pair(two, two))


@pytest.mark.shared
def test_a_file_of_another_tool_is_refused_by_name(shared: Path) -> None:
    with pytest.raises(DataError, match=r"lif_norse.nir: a NIR graph without Ovonic's contract"):
        load_nir(shared / "nir" / "lif_norse.nir")
