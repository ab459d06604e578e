"""The description: equal to the last bit, unchangeable, plain data there and back, refused where it makes no sense."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    tau_ms,
)
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network

RESETS = (
    NoReset(),
    *(kind(when) for kind in (SubtractThreshold, SubtractAdapted) for when in When),
    *(ResetToValue(-0.1, when) for when in When),
    SubtractThresholdOnce(),
)
N = 3
UNIT = st.floats(0, 1)
POSITIVE = st.floats(1e-3, 1e3)


def _per_neuron(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    return numbers | st.lists(numbers, min_size=N, max_size=N)


@st.composite
def _dynamics(draw: st.DrawFn) -> Dynamics:
    return Dynamics(
        draw(_per_neuron(UNIT)),
        draw(_per_neuron(POSITIVE)),
        draw(_per_neuron(POSITIVE)),
        draw(_per_neuron(st.floats(-5, 0))),
        draw(_per_neuron(st.floats(-5, 5))),
        draw(st.sampled_from(Comparison)),
        draw(st.sampled_from(RESETS)),
        Refractory(draw(st.integers(0, 9) | st.lists(st.integers(0, 9), min_size=N, max_size=N)), draw(st.booleans())),
        draw(st.none() | st.builds(Adaptation, _per_neuron(UNIT), _per_neuron(st.floats(-2, 2)), st.booleans())),
        draw(st.none() | st.builds(Synapse, _per_neuron(UNIT), _per_neuron(POSITIVE))),
    )


@st.composite
def _network(draw: st.DrawFn) -> Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    recurrence = st.sampled_from(
        [None, Recurrence(rng.normal(size=N)), Recurrence(rng.normal(size=(N, N)), draw(st.integers(1, 4)), True)]
    )
    return Network(
        {
            "x": Input((2,)),
            "in": Linear(rng.normal(size=(2, N)), rng.normal(size=N)),
            "hidden": Spiking(draw(_dynamics()), draw(recurrence)),
            "out": Linear(rng.normal(size=(N, 2))),
            "y": Readout(draw(UNIT), synapse=draw(st.none() | st.just(Synapse(0.5)))),
        },
        [("x", "in"), ("in", "hidden", draw(st.integers(0, 3))), ("hidden", "out"), ("out", "y"), ("x", "y", 1)],
        draw(POSITIVE),
    )


def _small(**layers: Any) -> Network:
    return Network.stack({"x": Input((N,)), **layers})


# ------------------------------------------------------------------------------------------------ values


@settings(max_examples=60, deadline=None)
@given(_network())
def test_plain_data_there_and_back(network: Network) -> None:
    """Through JSON text: every float returns with its bits, and every copy is equal and hashes alike."""
    text = json.dumps(network.to_dict(), default=lambda array: array.tolist())
    for other in (
        Network.from_dict(json.loads(text)),
        Network.from_dict(network.to_dict()),
        pickle.loads(pickle.dumps(network)),  # noqa: S301  our own bytes
        copy.deepcopy(network),
        network.replace(),
    ):
        assert other == network
        assert hash(other) == hash(network)
        assert json.dumps(other.to_dict(), default=lambda array: array.tolist()) == text
        assert not other.weights()["in.weight"].flags.writeable


@settings(max_examples=30, deadline=None)
@given(_network(), st.data())
def test_one_bit_makes_a_difference(network: Network, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(network.weights())))
    array = network.weights()[name].copy()
    array.flat[0] = np.nextafter(array.flat[0], 9)
    other = network.with_weights({name: array})
    assert other != network
    assert hash(other) != hash(network)
    assert other.with_weights(network.weights()) == network
    assert network.replace(dt_ms=np.nextafter(network.dt_ms, 2e3)) != network


def test_neither_the_order_of_layers_nor_of_edges_counts() -> None:
    layers = {"x": Input((2,)), "a": Linear(np.eye(2)), "b": Linear(2 * np.eye(2)), "y": Readout(0.9)}
    edges = [("x", "a"), ("x", "b"), ("a", "y"), ("b", "y", 2)]
    network = Network(layers, edges)
    shuffled = Network(dict(reversed(layers.items())), edges[::-1])
    assert network == shuffled
    assert hash(network) == hash(shuffled)
    assert network.sources("y") == (Edge("a", "y"), Edge("b", "y", 2))
    assert list(shuffled.layers).index("x") < list(shuffled.layers).index("a") < list(shuffled.layers).index("y")


def test_one_number_for_all_is_one_number() -> None:
    """Adapters read arrays of one number a neuron: where all are the same, the meaning is that of one."""
    plain = _small(hidden=Spiking(Dynamics(0.9, 1.0, adaptation=Adaptation(0.99, 0.5))))
    spread = _small(hidden=Spiking(Dynamics([0.9] * N, np.ones(N), adaptation=Adaptation(0.99, np.full(N, 0.5)))))
    assert spread == plain
    assert isinstance(spread.layers["hidden"].dynamics.decay, float)  # type: ignore[attr-defined]


def test_nothing_can_be_changed() -> None:
    source = np.eye(N)
    network = _small(w=Linear(source))
    source[0, 0] = 7
    weight = network.weights()["w.weight"]
    assert weight[0, 0] == 1
    assert weight.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        weight.setflags(write=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        network.dt_ms = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        network.layers["w"] = Flatten()  # type: ignore[index]


def test_the_description_needs_no_framework() -> None:
    probe = "import sys, ovonic.models.network; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_float32_weights_come_back_as_they_were() -> None:
    w = np.random.default_rng(0).normal(size=(N, N)).astype(np.float32)
    stored = _small(w=Linear(w)).weights()["w.weight"]
    assert np.array_equal(stored.astype(np.float32).view(np.uint32), w.view(np.uint32))


# ------------------------------------------------------------------------------------------------ meaning


@pytest.mark.parametrize(("n_ref", "silent"), [(0, 0), (1, 0), (2, 1), (5, 4)])
def test_the_published_counter_in_silent_steps(n_ref: int, silent: int) -> None:
    r, blocked = np.clip(n_ref - 1, 0, n_ref), 0
    while r > 0.1:
        r, blocked = np.clip(r - 1, 0, n_ref), blocked + 1
    assert blocked == silent == Refractory.from_n_ref(n_ref).silent_steps


def test_without_silence_nothing_is_frozen() -> None:
    assert Refractory(0, frozen=True) == Refractory()
    assert Refractory([0, 2], frozen=True).frozen


def test_tau_is_a_view_of_the_decay() -> None:
    assert decay_from_tau(20.0, 1.0) == np.exp(-1 / 20)
    assert decay_from_tau(np.inf, 1.0) == 1.0
    assert tau_ms(np.array([1.0, np.exp(-1 / 20), 0.0]), 1.0) == pytest.approx([np.inf, 20.0, 0.0])
    assert tau_ms(decay_from_tau(7.0, 0.1), 0.1) == pytest.approx(7.0)
    assert tau_ms(1.0, 1.0) == np.inf


def test_shapes_follow_the_graph() -> None:
    network = Network.stack(
        {
            "x": Input((2, 9, 8)),
            "conv": Conv(np.ones((1, 4, 3, 2)), stride=(2, 1), padding=1, groups=2),
            "spikes": Spiking(Dynamics(0.9, np.full((4, 5, 9), 1.5))),
            "pool": Pool(Pooling.SUM, (2, 2)),
            "flat": Flatten(),
            "w": Linear(np.ones((32, 3))),
            "y": Readout(0.9),
        }
    )
    assert dict(network.shapes) == {
        "x": (2, 9, 8),
        "conv": (4, 5, 9),
        "spikes": (4, 5, 9),
        "pool": (4, 2, 4),
        "flat": (32,),
        "w": (3,),
        "y": (3,),
    }
    assert (network.inputs, network.spiking, network.readouts) == (("x",), ("spikes",), ("y",))


def test_weights_are_replaced_by_name() -> None:
    network = _small(s=Spiking(Dynamics(0.9, 1.0), Recurrence(np.eye(N), masked_diagonal=True)), w=Linear(np.eye(N)))
    changed = network.with_weights({"s.recurrence": 2 * np.eye(N)})
    assert changed.weights()["s.recurrence"][0, 0] == 2
    assert changed.layers["s"].recurrence.masked_diagonal  # type: ignore[attr-defined]
    assert not changed.layers["s"].recurrence.effective.any()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"weights 's.recurence': did you mean 's.recurrence'"):
        network.with_weights({"s.recurence": np.eye(N)})
    with pytest.raises(ConfigError, match=r"weights 'w.weight': shape \(2, 2\) where \(3, 3\)"):
        network.with_weights({"w.weight": np.eye(2)})


# ------------------------------------------------------------------------------------------------ refusals

LIF = Spiking(Dynamics(0.9, 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dynamics(1.2, 1), r"Dynamics.decay: 1.2 must lie in 0..1"),
        (lambda: Dynamics([0.1, -1], 1), r"Dynamics.decay\[1\]: -1.0 must lie in 0..1"),
        (lambda: Dynamics(0.9, np.nan), r"Dynamics.threshold: nan must be finite"),
        (lambda: Dynamics(0.9, 0), r"Dynamics.threshold: 0.0 must lie above rest \(0.0\)"),
        (lambda: Dynamics(0.9, -50, rest=-45), r"threshold: -50.0 must lie above rest \(-45.0\)"),
        (lambda: Dynamics(0.9, 1, gain=0), r"Dynamics.gain: 0.0 must not be zero"),
        (lambda: Dynamics("fast", 1), r"Dynamics.decay: holds <U4"),
        (lambda: Dynamics(1j, 1), r"Dynamics.decay: holds complex128"),
        (lambda: Dynamics([], 1), r"Dynamics.decay: shape \(0,\) holds nothing"),
        (lambda: Dynamics([[0.9], [0.9, 0.8]], 1), r"Dynamics.decay: setting an array element"),
        (lambda: Dynamics([0.9, 0.8], [1, 2, 3], rest=[0, 0]), r"arrays of \(2,\) and \(3,\) neurons"),
        (lambda: Dynamics(0.9, 1, reset=ResetToValue(1.5)), r"v_reset: 1.5 must lie below the threshold"),
        (lambda: Dynamics(0.9, 1, comparison="=="), r"Dynamics.comparison: '==': choose one of '>', '>='"),
        (lambda: Dynamics(0.9, 1, reset="subtract"), r"Dynamics.reset: 'subtract' must be Reset"),
        (lambda: Refractory(1.5), r"Refractory.silent_steps: 1.5 must be whole"),
        (lambda: Refractory(-1), r"Refractory.silent_steps: -1.0 must lie in 0..32767"),
        (lambda: Refractory(3, 1), r"Refractory.frozen: 1 must be bool"),
        (lambda: Linear(np.ones(3)), r"Linear.weight: shape \(3,\) where 2 axes are due"),
        (lambda: Linear([[1, np.inf]]), r"Linear.weight\[0, 1\]: inf must be finite"),
        (lambda: Linear(np.ones((2, 3)), np.ones(2)), r"bias: shape \(2,\) where \(3,\) is due"),
        (lambda: Recurrence(np.ones((2, 3))), r"Recurrence.weight: shape \(2, 3\) is not square"),
        (lambda: Recurrence(np.ones((2, 2)), delay=0), r"Recurrence.delay: 0 must be a whole number in 1..32767"),
        (lambda: Recurrence(np.ones(2), masked_diagonal=True), r"masked_diagonal: of one-to-one weights nothing"),
        (lambda: Conv(np.ones((1, 3, 2, 2)), groups=2), r"Conv.groups: 2 do not divide 3 outputs"),
        (lambda: Conv(np.ones((1, 3, 2, 2)), stride=(1, 1, 1)), r"Conv.stride: \(1, 1, 1\) must hold 1 or 2 numbers"),
        (lambda: Pool("most", 2), r"Pool.how: 'most': did you mean 'max'|choose one of"),
        (lambda: Pool("max", 2, padding=2), r"Pool.padding: \(2,\) exceeds half the window"),
        (lambda: Input((0,)), r"Input.shape\[0\]: 0 must be a whole number in 1"),
        (lambda: Network.stack({"x": Input((2,)), "w": Linear(np.ones((3, 1)))}), r"layer 'w': Linear.weight: shape"),
        (
            lambda: _small(s=Spiking(Dynamics([0.9, 0.8], 1))),
            r"layer 's': Dynamics.decay: shape \(2,\), the neurons' is",
        ),
        (lambda: _small(s=Spiking(Dynamics(0.9, 1), Recurrence(np.ones(2)))), r"layer 's': Recurrence.weight: shape"),
        (lambda: _small(c=Conv(np.ones((1, 1, 2)))), r"layer 'c': Conv.weight: shape \(1, 1, 2\) wants"),
        (lambda: _small(p=Pool("max", 2)), r"layer 'p': Pool.window: \(2,\) does not fit an input of \(3,\)"),
        (
            lambda: Network.stack({"x": Input((1, 3)), "c": Conv(np.ones((1, 1, 5)))}),
            r"layer 'c': Conv: a window of \(5,\) does not fit into \(3,\)",
        ),
        (lambda: Network({"x": Input((3,)), "s": LIF}, []), r"layer 's': reads nothing"),
        (lambda: Network({"x": Input((3,)), "s": LIF}, [("x", "z")]), r"edge x -> z: no layer 'z'"),
        (lambda: Network({"x": Input((3,)), "s": LIF}, [("x", "s"), ("x", "s")]), r"edge x -> s: given twice"),
        (lambda: Network({"x": Input((3,)), "s": LIF}, [("x", "s", -1)]), r"edge x -> s: delay: -1 must be"),
        (lambda: Network({"x": Input((3,)), "s": LIF}, ["xs"]), r"Network.edges: 'xs' must be \(source, target\)"),
        (lambda: Network({"x": Input((3,)), "y": Input((3,))}, [("x", "y")]), r"layer 'y': an input reads nothing"),
        (
            lambda: Network({"x": Input((3,)), "y": Input((2,)), "s": LIF}, [("x", "s"), ("y", "s")]),
            r"layer 's': reads shapes that cannot be added: x -> s \(3,\), y -> s \(2,\)",
        ),
        (
            lambda: Network({"x": Input((3,)), "a": LIF, "b": LIF}, [("x", "a"), ("a", "b"), ("b", "a")]),
            r"edges (a -> b -> a|b -> a -> b): a cycle; only a spiking layer",
        ),
        (lambda: Network({"a.b": Input((3,))}, []), r"layer 'a.b': a name is a word"),
        (lambda: Network({"x": 3}, []), r"layer 'x': int is not a layer"),
        (lambda: Network({}, []), r"Network.layers: expected a mapping"),
        (lambda: Network({"x": Input((3,))}, [], 0.0), r"Network.dt_ms: 0.0 must be positive"),
        (lambda: Network({"x": Input((3,))}, [], "1 ms"), r"Network.dt_ms: holds"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(type="Netwrok"), r"type 'Netwrok' is unknown: did you mean 'Network'"),
        (lambda d: d.update(dt=1), r"Network.dt is unknown"),
        (lambda d: d.pop("edges"), r"Network: edges missing"),
        (lambda d: d.pop("type"), r"dict without a 'type': expected a Network"),
        (lambda d: d.update(type="Flatten", layers=0), r"Flatten.layers is unknown|Flatten.edges is unknown"),
        (lambda d: d["layers"]["s"]["dynamics"].update(treshold=1), r"'s': Dynamics.treshold is unknown: did you mean"),
        (lambda d: d["layers"]["s"]["dynamics"].update(decay="0.9"), r"'s': Dynamics.decay: holds"),
        (lambda d: d["layers"]["s"]["dynamics"].update(reset=None), r"'s': Dynamics.reset: None must be Reset"),
        (lambda d: d["layers"]["s"].update(dynamics={"type": "Synapse", "decay": 0}), r"'s': Spiking.dynamics: Syn"),
        (lambda d: d["layers"].update(s=3), r"layer 's': int is not a layer"),
    ],
)
def test_strange_data_is_refused(change: Callable[[Any], object], message: str) -> None:
    data = json.loads(json.dumps(_small(s=LIF).to_dict()))
    change(data)
    with pytest.raises(ConfigError, match=message):
        Network.from_dict(data)


def test_a_layer_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="Synapse: expected a Dynamics"):
        Dynamics.from_dict(Synapse(0.5).to_dict())
    with pytest.raises(ConfigError, match="list without a 'type'"):
        Dynamics.from_dict([1])
