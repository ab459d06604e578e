"""NIR graphs without our contract: what each convention makes of a node, cycles, subgraphs, mending, and refusals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovonic.adapters.nir import MendedGraph, network_from_nir, network_to_nir, read_nir, save_nir
from ovonic.adapters.nir_graph import as_graph
from ovonic.adapters.nir_reading import NirReading, read_by_convention
from ovonic.models.dynamics import (
    Dynamics,
    NoReset,
    Refractory,
    ResetToValue,
    SubtractThreshold,
    Synapse,
    When,
)
from ovonic.models.errors import ConfigError, DataError, UnsupportedDynamics
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run

N = 4


def _full(value: float, n: int = N) -> Any:
    return np.full(n, value)


def _lif(n: int = N, **changes: Any) -> nir.LIF:
    fields = {"tau": 0.01, "r": 2.0, "v_leak": 0.0, "v_threshold": 0.5, "v_reset": 0.0} | changes
    return nir.LIF(**{k: v if isinstance(v, np.ndarray) else _full(v, n) for k, v in fields.items()})


def _graph(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> nir.NIRGraph:
    return nir.NIRGraph(nodes, edges, type_check=False)


def _chain(**nodes: Any) -> nir.NIRGraph:
    names = list(nodes)
    return _graph(nodes, list(itertools.pairwise(names)))


def _read(graph: Any, convention: str = "nir-exact", reset: Any = None, dt_ms: float | None = 1.0) -> NirReading:
    return read_by_convention(as_graph(graph), convention, reset, dt_ms)


def _in(*shape: int) -> nir.Input:
    return nir.Input({"input": np.array(shape)})


def _out(*shape: int) -> nir.Output:
    return nir.Output({"output": np.array(shape)})


# ------------------------------------------------------------------------------------------------ conventions, by hand


def _neuron(node: Any, convention: str, reset: Any = None, dt_ms: float | None = 1.0) -> Any:
    network = _read(_chain(x=_in(N), s=node, y=_out(N)), convention, reset, dt_ms).network
    layer = network.layers["s"]
    return layer.dynamics if isinstance(layer, Spiking) else layer


def test_nir_exact_by_hand() -> None:
    d = _neuron(_lif(v_leak=-0.1, v_reset=-0.2), "nir-exact")
    kept = math.exp(-0.1)
    assert d == Dynamics(d.decay, 0.5, d.gain, -0.1, -0.1, reset=ResetToValue(-0.2))
    assert (d.decay, d.gain) == pytest.approx((kept, 2 * (1 - kept)))
    d = _neuron(nir.IF(r=_full(300.0), v_threshold=_full(0.5)), "nir-exact")
    assert d == Dynamics(1.0, 0.5, d.gain, reset=ResetToValue(0.0))
    assert d.gain == pytest.approx(0.3)
    cuba = nir.CubaLIF(_full(0.005), _full(0.01), _full(2.0), _full(0.0), _full(0.5), w_in=3.0)
    d = _neuron(cuba, "nir-exact")
    assert d.synapse is not None
    synaptic = math.exp(-0.2)
    assert (d.synapse.decay, d.synapse.gain, d.decay) == pytest.approx((synaptic, 3 * (1 - synaptic), kept))
    assert _neuron(nir.Threshold(_full(0.7)), "nir-exact") == Dynamics(0.0, 0.7, reset=NoReset())
    li = _neuron(nir.LI(_full(0.01), _full(2.0), _full(0.3)), "nir-exact")
    assert li == Readout(li.decay, li.gain, 0.3, 0.3)
    assert _neuron(nir.I(_full(500.0)), "nir-exact") == Readout(1.0, 0.5)


def test_nir_euler_by_hand() -> None:
    d = _neuron(_lif(), "nir-euler", "subtract")
    assert d == Dynamics(0.9, 0.5, d.gain, reset=SubtractThreshold(When.SAME_STEP))
    assert d.gain == pytest.approx(0.2)
    with pytest.raises(DataError, match=r"node 's': tau 0.01 s is less than a step of 0.02 s; tell a shorter dt"):
        _neuron(_lif(), "nir-euler", "zero", 20.0)


def test_snntorch_by_hand() -> None:
    """r of tau/dt is a gain of 1; another divides the threshold; a synapse likewise by w_in."""
    told = {"convention": "snntorch-1.0", "reset": "zero", "dt_ms": None}
    d = _neuron(_lif(tau=0.001, r=10.0), **told)
    assert d == Dynamics(0.9, 0.5, reset=ResetToValue(0.0, When.NEXT_BEFORE_DECAY))
    assert _neuron(_lif(tau=0.001, r=5.0), **told).threshold == pytest.approx(1.0)
    cuba = nir.CubaLIF(_full(0.0005), _full(0.001), _full(10.0), _full(0.0), _full(0.5), w_in=10.0)
    d = _neuron(cuba, **told)
    assert d.threshold == pytest.approx(0.25)
    assert d.synapse == Synapse(0.8)
    assert d.reset == ResetToValue(0.0, When.NEXT_AFTER_INPUT)


@pytest.mark.parametrize(
    ("node", "convention", "reset", "dt_ms", "message"),
    [
        (_lif(), "nir-exact", None, None, r"the duration of a step is not in the file, and nir-exact has none"),
        (
            _lif(v_reset=-0.2),
            "nir-exact",
            "subtract",
            1.0,
            r"a spike sets the membrane to v_reset -0.2, and reset 'sub",
        ),
        (_lif(v_leak=0.1), "snntorch-1.0", "zero", None, r"node 's': v_leak must be 0: snnTorch's neurons decay to 0"),
        (_lif(tau=1e-5), "snntorch-1.0", "zero", None, r"tau 1e-05 s is less than snnTorch's step of 0.0001 s"),
        (_lif(r=-1.0), "snntorch-1.0", "zero", None, r"node 's': r must be positive"),
        (_lif(tau=0.0), "nir-exact", None, 1.0, r"node 's': tau 0.0 must be positive"),
        (_lif(tau=-1.0), "nir-euler", None, 1.0, r"node 's': tau -1.0 must be positive"),
        (_lif(tau=math.inf), "nir-exact", None, 1.0, r"node 's': tau inf must be finite"),
        (_lif(v_threshold=math.nan), "nir-exact", None, 1.0, r"node 's': v_threshold nan must be finite"),
        (_lif(v_threshold=-0.1), "nir-exact", None, 1.0, r"node 's': .*threshold: \[-0.1 .*\] must lie above rest"),
        (_lif(r=0.0), "nir-exact", None, 1.0, r"node 's': Dynamics.gain\[0\]: 0.0 must not be zero"),
        (nir.LI(*np.ones((3, N))), "norse-1.1-import", None, None, r"leaves an LI out in silence; nir-euler reads it"),
        (nir.Scale(_full(2.0)), "snntorch-1.0", "zero", None, r"node 's': a Scale: snnTorch 1.0.0, nir 1.0.8 neither"),
        (nir.Threshold(_full(1.0)), "norse-1.1", "zero", None, r"node 's': a Threshold: Norse 1.1.0, nir 1.0.8 neith"),
        (_lif(tau=0.01, r=1.0), "norse-1.1", "zero", None, r"say norse-1.1-export or norse-1.1-import"),
        (_lif(tau=1e-5, r=2.0), "norse-1.1", "zero", None, r"neither a graph that Norse 1.1 wrote"),
        (_lif(tau=1e-5, r=1.0), "norse-1.1", None, None, r"Norse 1.1 writes neither its v_reset nor its reset_method"),
    ],
)
def test_what_a_convention_does_not_take(
    node: Any, convention: str, reset: Any, dt_ms: float | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _neuron(node, convention, reset, dt_ms)


def test_what_is_told_of_a_graph_with_a_contract() -> None:
    """It must be what the contract says; a convention is the one that the nodes were written for."""
    network = Network.stack({"x": Input((N,)), "s": Spiking(Dynamics(0.5, 1, reset=ResetToValue(0.0)))}, 2.0)
    graph, form = network_to_nir(network), network_to_nir(network, "snntorch-1.0")
    assert network_from_nir(graph, dt_ms=2.0) == network
    assert network_from_nir(form, "snntorch-1.0") == network
    for told, what in (
        ({"convention": "nir-exact"}, "convention 'nir-exact'"),
        ({"dt_ms": 1.0}, "dt_ms 1.0"),
        ({"reset": "zero"}, "reset 'zero'"),
    ):
        with pytest.raises(DataError, match=f"{what} was told, but its contract leaves nothing open: leave"):
            network_from_nir(graph, **told)  # type: ignore[arg-type]
    form.nodes["s"].tau[0] *= 2
    with pytest.raises(DataError, match=r"node 's': tau .* contradicts its contract"):
        network_from_nir(form)


DECAYS = st.floats(0.05, 0.99)


@settings(max_examples=25, deadline=None)
@given(st.lists(DECAYS, min_size=N, max_size=N), DECAYS, st.floats(0.1, 5), st.booleans(), st.integers(1, 3))
def test_nir_exact_reads_what_nir_exact_writes(
    decay: list[float], synaptic: float, gain: float, cuba: bool, delay: int
) -> None:
    """Without the contract: the same layers, to the rounding of time constants; other dynamics are refused."""
    rng = np.random.default_rng(0)
    synapse = Synapse(synaptic, gain) if cuba else None
    dynamics = Dynamics(decay, 0.7, gain, -0.1, -0.1, reset=ResetToValue(-0.2), synapse=synapse)
    network = Network(
        {
            "x": Input((3,)),
            "a": Linear(rng.normal(size=(3, N)), rng.normal(size=N)),
            "s": Spiking(dynamics, Recurrence(rng.normal(size=(N, N)), delay)),
            "y": Readout(synaptic, gain),
        },
        [("x", "a"), ("a", "s", 2), ("s", "y", delay - 1)],
        0.5,
    )
    graph = network_to_nir(network, "nir-exact")
    graph.metadata.clear()
    again = network_from_nir(graph, "nir-exact", dt_ms=0.5)
    assert again.edges == network.edges
    assert again.weights().keys() == network.weights().keys()
    for name, array in network.weights().items():
        assert np.array_equal(again.weights()[name], array)
    s, t = network.layers["s"], again.layers["s"]
    assert isinstance(s, Spiking)
    assert isinstance(t, Spiking)
    assert t.recurrence == s.recurrence
    np.testing.assert_allclose(t.dynamics.decay, s.dynamics.decay, rtol=1e-12)
    np.testing.assert_allclose(t.dynamics.gain, s.dynamics.gain, rtol=1e-12)
    assert (t.dynamics.reset, t.dynamics.rest, t.dynamics.v_init) == (ResetToValue(-0.2), -0.1, -0.1)
    refractory = network.layers["s"].replace(dynamics=dynamics.replace(refractory=Refractory(2)))
    with pytest.raises(UnsupportedDynamics, match=r"layer 's', Dynamics\.refractory"):
        network_to_nir(network.replace(layers=dict(network.layers) | {"s": refractory}), "nir-exact")


# ------------------------------------------------------------------------------------------------ layers


def _spatial() -> Network:
    rng = np.random.default_rng(3)
    s = Spiking(Dynamics(0.8, 0.9, reset=ResetToValue(0.0)))
    return Network.stack(
        {
            "x": Input((4, 9, 7)),
            "c": Conv(rng.normal(size=(2, 6, 3, 2)), rng.normal(size=6), (2, 1), (1, 0), (1, 2), groups=2),
            "s": s,
            "p": Pool(Pooling.SUM, (2, 3), (1, 2), (1, 1)),
            "q": Pool(Pooling.MEAN, (2, 2)),
            "f": Flatten(),
            "out": Linear(rng.normal(size=(18, 2))),
            "z": s,
        }
    )


def test_convolution_pooling_and_flatten_come_back(tmp_path: Any) -> None:
    """By the contract and by nir-exact; also grouped and oblong, which nir 1.0.8 cannot type."""
    network = _spatial()
    save_nir(tmp_path / "net.nir", network)
    assert read_nir(tmp_path / "net.nir").network == network
    with pytest.raises(ValueError, match="mismatch"):
        nir.read(tmp_path / "net.nir")
    assert len(nir.read(tmp_path / "net.nir", type_check=False).nodes) == 9
    bare = network_to_nir(network)
    bare.metadata.clear()
    reading = _read(bare)
    assert reading.mended == ()
    for name in ("x", "c", "p", "q", "f", "out"):
        assert reading.network.layers[name] == network.layers[name]


def test_what_nir_can_type_is_typed(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    network = Network.stack(
        {
            "x": Input((2, 8, 8)),
            "c": Conv(rng.normal(size=(2, 3, 3, 3)), padding=1, stride=(2,)),
            "p": Pool(Pooling.MEAN, (2, 2)),
            "f": Flatten(),
            "s": Spiking(Dynamics(0.9, 1)),
        }
    )
    line = Network.stack(
        {"x": Input((2, 8)), "c": Conv(rng.normal(size=(2, 3, 3)), rng.normal(size=3)), "y": Readout(0.5)}
    )
    for given_network, shape in ((network, [12]), (line, [3, 6])):
        save_nir(tmp_path / "net.nir", given_network)
        graph = nir.read(tmp_path / "net.nir")
        assert list(next(iter(graph.output_type.values()))) == shape
        assert network_from_nir(graph) == given_network
    contract = network_to_nir(network)
    contract.nodes["c"].stride = (1, 2)
    with pytest.raises(DataError, match=r"node 'c': stride 1 contradicts its contract, which makes it 2"):
        network_from_nir(contract)


def test_scale_and_delay_by_value() -> None:
    graph = _chain(
        x=_in(3), scale=nir.Scale(np.array([1.0, 2, 3])), late=nir.Delay(np.full(3, 0.002)), y=nir.I(np.ones(3))
    )
    network = _read(graph).network
    assert network.layers["scale"] == Linear(np.diag([1.0, 2, 3]))
    assert network.edges == (Edge("x", "scale", 0), Edge("scale", "y", 2))
    spatial = _chain(
        x=_in(2, 3, 3), scale=nir.Scale(np.ones((2, 3, 3)) * np.array([2.0, 3])[:, None, None]), y=_out(2, 3, 3)
    )
    x = torch.rand(1, 1, 2, 3, 3, dtype=torch.float64)
    network = _read(spatial).network
    network = network.replace(
        layers=dict(network.layers) | {"v": Readout(0.0)}, edges=(*network.edges, Edge("scale", "v"))
    )
    expected = x * torch.tensor([2.0, 3]).double()[:, None, None]
    torch.testing.assert_close(run(network, x).readout, expected)


# ------------------------------------------------------------------------------------------------ cycles and subgraphs


def _recurrent(*back: Any, **more: Any) -> nir.NIRGraph:
    """x -> fc -> s -> y, and s -> back nodes in a row -> s."""
    nodes = {"x": _in(3), "fc": nir.Linear(np.ones((N, 3))), "s": _lif(), "y": _out(N)} | more
    edges = [("x", "fc"), ("fc", "s"), ("s", "y")]
    names = [f"b{k}" for k in range(len(back))]
    nodes |= dict(zip(names, back, strict=True))
    ring = ["s", *names, "s"]
    return _graph(nodes, edges + list(itertools.pairwise(ring)))


A, C = np.arange(16.0).reshape(N, N), np.linspace(-1, 1, 16).reshape(N, N)


@pytest.mark.parametrize(
    ("back", "weight", "delay"),
    [
        ([nir.Linear(A)], A.T, 1),
        ([nir.Scale(np.arange(1.0, 5))], np.arange(1.0, 5), 1),
        ([], np.ones(N), 1),
        ([nir.Linear(A), nir.Delay(_full(0.003))], A.T, 4),
        ([nir.Delay(_full(0.001)), nir.Linear(A), nir.Delay(_full(0.001))], A.T, 3),
        ([nir.Linear(A), nir.Linear(C)], A.T @ C.T, 1),
        ([nir.Linear(A), nir.Scale(np.arange(1.0, 5))], A.T * np.arange(1.0, 5), 1),
        ([nir.Scale(np.arange(1.0, 5)), nir.Linear(A)], np.arange(1.0, 5)[:, None] * A.T, 1),
    ],
)
def test_a_cycle_is_a_recurrence(back: list[Any], weight: Any, delay: int) -> None:
    layer = _read(_recurrent(*back)).network.layers["s"]
    assert isinstance(layer, Spiking)
    assert layer.recurrence == Recurrence(weight, delay)


def test_a_recurrent_bias_acts_in_every_step() -> None:
    bias = np.arange(1.0, 5)
    network = _read(_recurrent(nir.Affine(A, bias), nir.Linear(C))).network
    assert network.layers["fc"] == Linear(np.ones((3, N)), bias @ C.T)
    fed_twice = _recurrent(nir.Affine(A, bias), fc2=nir.Linear(np.ones((N, 3))))
    fed_twice.edges += [("x", "fc2"), ("fc2", "s")]
    network = _read(fed_twice).network
    assert network.layers["s_bias"] == Linear(np.eye(N), bias)
    assert {edge.source for edge in network.sources("s_bias")} == {"fc", "fc2"}


def test_a_drive_through_w_rec_is_a_layer_and_a_recurrence() -> None:
    """As snnTorch's import wires it: W_rec reads both the drive and the spikes."""
    graph = _recurrent(nir.Affine(A, _full(0.5)))
    graph.edges = [edge if edge != ("fc", "s") else ("fc", "b0") for edge in graph.edges]
    network = _read(graph).network
    layer = network.layers["s"]
    assert isinstance(layer, Spiking)
    assert layer.recurrence == Recurrence(A.T)
    assert network.layers["b0"] == Linear(A.T, _full(0.5))
    assert [edge.source for edge in network.sources("s")] == ["b0"]


def _nested(depth: int, inner: nir.NIRGraph) -> nir.NIRGraph:
    for _ in range(depth):
        inner = _chain(input=_in(N), inner=inner, output=_out(N))
    return inner


def test_subgraphs_are_laid_flat() -> None:
    """Two levels deep, with the recurrence inside (as snnTorch nests an RLeaky), the names joined."""
    rnn = _graph(
        {"input": _in(N), "lif": _lif(), "w_rec": nir.Linear(A), "output": _out(N)},
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )
    nested = _nested(2, rnn)
    reading = _read(_chain(x=_in(3), fc=nir.Linear(np.ones((N, 3))), rnn=nested, y=nir.LI(*np.ones((3, N)))))
    layer = reading.network.layers["rnn_inner_inner_lif"]
    assert isinstance(layer, Spiking)
    assert layer.recurrence == Recurrence(A.T)
    assert reading.network.edges == (
        *(Edge("x", "fc"), Edge("fc", "rnn_inner_inner_lif"), Edge("rnn_inner_inner_lif", "y")),
    )
    outside = _graph(
        {"x": _in(N), "g": _chain(i=_in(N), s=_lif(), o=_out(N)), "w": nir.Linear(A), "y": _out(N)},
        [("x", "g"), ("g", "w"), ("w", "g"), ("g", "y")],
    )
    layer = _read(outside).network.layers["g_s"]
    assert isinstance(layer, Spiking)
    assert layer.recurrence == Recurrence(A.T)


# ------------------------------------------------------------------------------------------------ mending and refusing


@pytest.mark.parametrize(
    ("graph", "notes"),
    [
        (
            _chain(x=_in(5, 1, 3), fc=nir.Linear(np.ones((N, 3))), s=_lif(), y=_out(5, 1, N)),
            ["axes of batch or time"] * 2,
        ),
        (_chain(x=_in(2, N), s=_lif(1), fc=nir.Linear(A), y=_out(N)), ["axes of batch", "one number of shape (1,)"]),
        (_chain(fc=nir.Linear(np.ones((N, 3))), s=_lif()), ["node 'fc': reads nothing: given an input 'input_fc'"]),
        (
            _graph({"x": _in(N), "s": _lif(), "y": _out(N)}, [("x", "s"), ("x", "s"), ("s", "y")]),
            ["edge x -> s: given twice, read once"],
        ),
        (
            _chain(
                x=_in(2, 2, 1),
                f=nir.Flatten({"input": np.array([2, 2, 1])}, 0, -1),
                fc=nir.Linear(A),
                y=_out(N),
            ),
            [],
        ),
        (
            _chain(x=_in(2, 2), s=_lif(1), f=nir.Flatten({"input": None}, 1, -1), fc=nir.Linear(A), y=_out(N)),
            ["one number of shape", "its dims 1..-1 count a batch axis: it flattens all of (2, 2)"],
        ),
    ],
)
def test_what_nir_refuses_is_mended_and_said(graph: nir.NIRGraph, notes: list[str]) -> None:
    reading = _read(graph)
    assert len(reading.mended) == len(notes)
    for note, part in zip(reading.mended, notes, strict=True):
        assert part in note
    if notes:
        with pytest.warns(MendedGraph, match="mended: "):
            network_from_nir(graph, "nir-exact", dt_ms=1.0)


def _append(*edges: tuple[str, str], **nodes: Any) -> Callable[[nir.NIRGraph], None]:
    def change(graph: nir.NIRGraph) -> None:
        graph.nodes.update(nodes)
        graph.edges += list(edges)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_append(("s", "nowhere")), r"edge s -> nowhere: no node 'nowhere': "),
        (_append(("s", "x")), r"edge s -> x: an Input reads nothing"),
        (_append(("y", "fc")), r"node 'y': an Output that feeds another node"),
        (_append(("fc", "y")), r"node 'y': adds up fc, s: put a Linear or Scale node in between"),
        (
            _append(("fc", "w"), ("w", "fc"), w=nir.Linear(np.ones((3, N)))),
            r"a cycle without a spiking node: 'fc' \(Lin",
        ),
        (_append(("s", "t"), ("t", "s"), t=_lif()), r"a cycle through 2 spiking nodes: 's' \(LIF\), 't' \(LIF\); join"),
        (
            _append(("s", "l"), ("l", "s"), l=nir.LI(*np.ones((3, N)))),
            r"node 'l': a LI on the cycle of 's'; only Linear",
        ),
        (
            _append(("s", "w"), ("w", "s"), ("w", "z"), w=nir.Linear(A), z=_lif()),
            r"'w': lies on the cycle of 's' and is",
        ),
        (
            _append(("s", "w"), ("w", "s"), ("s", "d"), ("d", "s"), w=nir.Linear(A), d=nir.Delay(_full(0.001))),
            r"node 's': feeds itself back after 1, 2 steps; a layer has one recurrent delay",
        ),
        (_append(("s", "w"), ("w", "s"), w=nir.Linear(np.ones((3, N)))), r"node 's': Recurrence.weight: .* not square"),
        (_append(("s", "d"), d=nir.Delay(_full(0.0015))), r"node 'd': delay 0.0015 s is 1.5 steps of 1 ms; it must be"),
        (_append(("s", "d"), d=nir.Delay(np.arange(4.0))), r"node 'd': 4 delays; a network delays an edge as a whole"),
        (_append(("s", "d"), ("d", "d"), d=nir.Delay(_full(0.001))), r"node 'd': feeds itself, with no neuron"),
        (
            _append(("s", "w"), w=nir.Linear(np.ones((2, 9)))),
            r"node 'w': Linear.weight: shape \(9, 2\) .* does not fit",
        ),
        (_append(("s", "t"), t=_lif(5)), r"node 't': numbers of shape \(5,\) for neurons of \(4,\)"),
        (_append(("x", "t"), t=_lif(5)), r"node 't': numbers of shape \(5,\)|node 'x': gives \(3,\)"),
        (_append(("s", "g"), g=_chain(a=_in(N), s=_lif())), r"mended|"),
        (
            _append(("s", "g"), g=_graph({"a": _in(N), "b": _in(N)}, [])),
            r"the graph 'g' has 2 inputs: name one, as g.NODE",
        ),
        (_append(w=None), r"node 'w': None, since its exporter has no node for this module"),
        (_append(w=nir.Linear(np.array([["a", "b"]]))), r"node 'w': weight: holds <U1, not numbers"),
        (_append(w=nir.Linear(np.ones((2, 2), complex))), r"node 'w': weight: holds complex128, not numbers"),
        (_append(w=nir.Linear(np.ones((2, 2), np.longdouble))), r"node 'w': weight: holds float128, not numbers"),
        (_append(w=nir.Linear(np.array([[None, 1]]))), r"node 'w': weight: holds object, not numbers"),
        (_append(w=nir.Linear(_full(math.nan, 16).reshape(4, 4))), r"node 'w': Linear.weight\[0, 0\]: nan must be fin"),
    ],
)
def test_other_graphs_are_refused_with_the_cause(change: Callable[[nir.NIRGraph], None], message: str) -> None:
    graph = _chain(x=_in(3), fc=nir.Linear(np.ones((N, 3))), s=_lif(), y=_out(N))
    change(graph)
    if message == "mended|":
        assert "g_s" in _read(graph).network.layers
        return
    if "w" in graph.nodes and not any("w" in edge for edge in graph.edges):
        graph.edges.append(("s", "w"))
    with pytest.raises(DataError, match=message):
        _read(graph)


def test_a_convolution_that_does_not_fit_is_refused() -> None:
    def conv(**changes: Any) -> nir.NIRGraph:
        fields: dict[str, Any] = {"input_shape": (6, 6), "weight": np.ones((3, 2, 3, 3)), "stride": 1, "padding": 0}
        fields |= {"dilation": 1, "groups": 1, "bias": np.zeros(3)}
        node = nir.Conv2d(**fields)
        for name, value in changes.items():
            setattr(node, name, value)
        return _chain(x=_in(2, 6, 6), c=node)

    same = _read(conv(padding="same")).network.layers["c"]
    assert isinstance(same, Conv)
    assert same.padding == (1, 1)
    for changes, message in (
        ({"input_shape": (5, 5)}, r"node 'x': gives \(2, 6, 6\), and the nodes behind it read \(2, 5, 5\)"),
        ({"padding": "same", "stride": (2, 2)}, r"node 'c': padding 'same' with stride \(2, 2\)"),
        ({"padding": "mirror"}, r"node 'c': padding 'mirror': 'same', 'valid' or numbers"),
        ({"stride": (0, 1)}, r"node 'c': stride: \[0, 1\] must be whole numbers in 1..16777216"),
        ({"stride": (1, 1, 1)}, r"node 'c': stride holds 3 numbers"),
        ({"stride": (0.5, 1)}, r"node 'c': stride: .* must be whole numbers"),
        ({"weight": np.ones((3, 2, 9, 9))}, r"node 'c': Conv: a window of \(9, 9\) does not fit"),
        ({"weight": np.ones((3, 2))}, r"node 'c': weight of shape \(3, 2\), not \[out, in / groups, window\]"),
        ({"bias": np.zeros(2)}, r"node 'c': bias: shape \(2,\) where \(3,\) is due"),
    ):
        with pytest.raises(DataError, match=message):
            _read(conv(**changes))


def test_graphs_in_a_circle_and_beyond_all_bounds_are_refused() -> None:
    circle = _chain(x=_in(N), s=_lif(), y=_out(N))
    circle.nodes["g"] = circle
    with pytest.raises(DataError, match=r"graphs lie in each other deeper than 32, or in a circle"):
        _read(circle)
    with pytest.raises(DataError, match=r"graphs lie in each other deeper than 32"):
        _read(_nested(40, _chain(i=_in(N), s=_lif(), o=_out(N))))
    many = _graph({f"n{k}": _lif() for k in range(2001)}, [])
    with pytest.raises(DataError, match="more than 2000 nodes"):
        _read(many)
    for wrong in (_lif(), None, {"nodes": {}}):
        with pytest.raises(DataError, match="no NIR graph"):
            network_from_nir(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"dt_ms -1\.0: must be positive"):
        _read(_chain(x=_in(N), s=_lif()), dt_ms=-1.0)
