"""NIR against the tools that write and read it: their own runs, spike for spike; their defects, each by name."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovonic.adapters.nir import MendedGraph, load_nir, network_from_nir, network_to_nir, read_nir
from ovonic.adapters.nir_conventions import Convention
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
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
from ovonic.models.network import Network
from ovonic.models.simulation import run

pytestmark = [pytest.mark.toolchain, pytest.mark.filterwarnings("ignore")]
B, T, N = 4, 80, 8


@pytest.fixture
def snn() -> Any:
    return pytest.importorskip("snntorch", reason="needs snntorch: pip install 'ovonic[snntorch]'")


@pytest.fixture
def norse() -> Any:
    return pytest.importorskip("norse.torch", reason="needs norse: pip install 'ovonic[norse]'")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def _through_file(graph: nir.NIRGraph) -> nir.NIRGraph:
    file = io.BytesIO()
    nir.write(file, graph)
    return nir.read(io.BytesIO(file.getvalue()))


def _active(spikes: Tensor) -> bool:
    return bool(0.01 < spikes.mean() < 0.99)


# ------------------------------------------------------------------------------------------------ snnTorch's own run

RESETS = [("subtract", True), ("subtract", False), ("zero", True), ("zero", False), ("none", True)]


def _heaviside(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


class _Hidden(nn.Module):
    """snnTorch's idiom: a linear layer, neurons, a linear layer, neurons; their state inside."""

    def __init__(self, snn: Any, kind: str, mechanism: str, delay: bool, **more: Any) -> None:
        super().__init__()
        options: dict[str, Any] = {"reset_mechanism": mechanism, "reset_delay": delay, "spike_grad": _heaviside}
        numbers = {"beta": 0.7 + 0.25 * torch.rand(N), "threshold": 0.5 + 0.3 * torch.rand(N)}
        if "Synaptic" in kind:
            numbers["alpha"] = 0.5 + 0.3 * torch.rand(N)
        if kind.startswith("R") and not more:
            more = {"linear_features": N}
        self.fc1 = nn.Linear(3, N)
        self.fc1.weight.data *= 2
        self.lif1 = getattr(snn, kind)(**numbers, **options, **more, init_hidden=True)
        self.fc2 = nn.Linear(N, 2, bias=False)
        self.lif2 = snn.Leaky(torch.full((2,), 0.8), torch.full((2,), 0.2), init_hidden=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.lif1(self.fc1(x))
        out: Tensor = self.lif2(self.fc2(self.hidden))
        return out


def _snntorch_run(module: Any, x: Tensor) -> list[Tensor]:
    module.lif1.reset_mem(), module.lif2.reset_mem()
    hidden, out = [], []
    with torch.no_grad():
        for step in x.unbind(1):
            out.append(module(step))
            hidden.append(module.hidden)
    return [torch.stack(hidden, 1), torch.stack(out, 1)]


def _exported(module: nn.Module, sample: Tensor) -> nir.NIRGraph:
    from snntorch.export_nir import export_to_nir

    return export_to_nir(module, sample, ignore_dims=[0])


def _same_as_snntorch(module: Any, x: Tensor, path: Path, reset: str) -> None:
    nir.write(path, _exported(module, x[:, 0]))
    theirs = _snntorch_run(module, x)
    reading = read_nir(path, "snntorch-1.0", reset)
    assert reading.mended == ()
    ours = run(reading.network, x)
    assert _active(theirs[0])
    for name, spikes in zip(reading.network.spiking, theirs, strict=True):
        assert torch.equal(ours[name].spikes, spikes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mechanism", "delay"), RESETS)
@pytest.mark.parametrize("kind", ["Leaky", "RLeaky", "Synaptic", "RSynaptic"])
def test_a_file_of_snntorch_gives_its_own_spikes(
    snn: Any, tmp_path: Path, kind: str, mechanism: str, delay: bool, dtype: torch.dtype
) -> None:
    """Recurrent weights with their bias, per-neuron constants, every reset; the reset is told."""
    if kind == "RSynaptic" and not delay:
        pytest.skip("snnTorch 1.0's RSynaptic with reset_delay=False and init_hidden=True raises at its first step")
    module = _Hidden(snn, kind, mechanism, delay).to(dtype)
    x = 1.5 * torch.rand(B, T, 3, dtype=dtype)
    _same_as_snntorch(module, x, tmp_path / "net.nir", mechanism if delay else f"{mechanism}-same-step")


@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
def test_a_file_of_snntorch_one_to_one(snn: Any, tmp_path: Path, kind: str) -> None:
    module = _Hidden(snn, kind, "subtract", True, all_to_all=False, V=torch.randn(N)).double()
    _same_as_snntorch(module, torch.rand(B, T, 3).double() * 1.5, tmp_path / "net.nir", "subtract")


def test_a_file_of_snntorchs_convolutional_idiom(snn: Any, tmp_path: Path) -> None:
    options = {"init_hidden": True, "spike_grad": _heaviside}
    shape = (3, 8, 8)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False),
        snn.Leaky(torch.full(shape, 0.9), torch.full(shape, 0.5), **options),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 2),
        snn.Leaky(torch.full((2,), 0.9), torch.full((2,), 0.1), **options),
    )
    module[4].weight.data *= 5
    x = torch.rand(B, T, 2, 8, 8)
    nir.write(tmp_path / "net.nir", _exported(module, x[:, 0]))
    module[1].reset_mem(), module[5].reset_mem()
    with torch.no_grad():
        theirs = torch.stack([module(step) for step in x.unbind(1)], 1)
    network = load_nir(tmp_path / "net.nir", "snntorch-1.0", "subtract")
    assert _active(theirs)
    assert torch.equal(run(network, x)[network.spiking[-1]].spikes, theirs)


def test_snntorch_exports_v_reset_zero_whatever_its_reset(snn: Any) -> None:
    """Two modules that spike differently have the same file: so the reset must be told."""
    subtract, zero = (_Hidden(snn, "Leaky", mechanism, True) for mechanism in ("subtract", "zero"))
    zero.load_state_dict(subtract.state_dict() | {k: v for k, v in zero.state_dict().items() if "reset" in k})
    x = torch.rand(B, T, 3) * 1.5
    graphs = [_exported(module, x[:, 0]) for module in (subtract, zero)]
    assert not torch.equal(_snntorch_run(subtract, x)[0], _snntorch_run(zero, x)[0])
    for graph in graphs:
        assert all(not node.v_reset.any() for node in graph.nodes.values() if isinstance(node, nir.LIF))
        with pytest.raises(DataError, match=r"node 'lif1': snnTorch writes v_reset 0 .* one of 'subtract': reset_mech"):
            network_from_nir(graph, "snntorch-1.0")
    for graph, module, word in zip(graphs, (subtract, zero), ("subtract", "zero"), strict=True):
        spikes = run(network_from_nir(graph, "snntorch-1.0", word), x)["lif1"].spikes
        assert torch.equal(spikes, _snntorch_run(module, x)[0])


def test_snntorch_hard_codes_dt(snn: Any) -> None:
    module = _Hidden(snn, "Leaky", "zero", True)
    graph = _exported(module, torch.rand(1, 3))
    np.testing.assert_allclose(graph.nodes["lif1"].tau, 1e-4 / (1 - module.lif1.beta.numpy()), rtol=1e-6)
    assert network_from_nir(graph, "snntorch-1.0", "zero").dt_ms == 0.1
    with pytest.raises(DataError, match=r"dt_ms 1.0: snntorch-1.0 has a step of 0.1 ms, whatever one is told"):
        network_from_nir(graph, "snntorch-1.0", "zero", 1.0)


def test_snntorch_cannot_type_its_own_documented_example(snn: Any) -> None:
    """Single numbers and a batch axis: snnTorch's export raises; the graph that it had made is mended and read."""
    from snntorch.export_nir import _extract_snntorch_module, export_to_nir

    module = nn.Sequential(nn.Linear(3, N), snn.Leaky(beta=0.9, init_hidden=True, spike_grad=_heaviside))
    module[0].weight.data *= 3
    with pytest.raises(ValueError, match="type mismatch"):
        export_to_nir(module, torch.rand(1, 3))
    nirtorch = pytest.importorskip("nirtorch")
    graph = nirtorch.extract_nir_graph(module, _extract_snntorch_module, torch.rand(1, 3))
    with pytest.warns(MendedGraph, match=r"mended: node 'input': shape \(1, 3\) has axes of batch or time in front"):
        network = network_from_nir(graph, "snntorch-1.0", "subtract")
    x = torch.rand(B, T, 3)
    module[1].reset_mem()
    with torch.no_grad():
        theirs = torch.stack([module(step) for step in x.unbind(1)], 1)
    assert _active(theirs)
    assert torch.equal(run(network, x)["1"].spikes, theirs)


# ------------------------------------------------------------------------------------------------ Norse's own run


def _norse_cell(norse: Any, kind: str, dtype: torch.dtype) -> Any:
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.module.lif_box import LIFBoxCell

    def some(low: float, width: float) -> Tensor:
        return (low + width * torch.rand(N)).to(dtype)

    each = {"tau_mem_inv": some(50, 200), "v_th": some(0.3, 0.3), "v_leak": some(0, 0.1)}
    one = torch.tensor(0.4, dtype=dtype)
    cells: dict[str, Callable[[], Any]] = {
        "box, one for all": lambda: LIFBoxCell(LIFBoxParameters(v_th=one)),
        "box": lambda: LIFBoxCell(LIFBoxParameters(**each)),
        "box, subtract": lambda: LIFBoxCell(LIFBoxParameters(**each, reset_method=reset_subtract)),
        "box, v_reset": lambda: LIFBoxCell(LIFBoxParameters(**each, v_reset=torch.tensor(-0.2, dtype=dtype))),
        "lif, one for all": lambda: norse.LIFCell(norse.LIFParameters(v_th=one)),
        "lif": lambda: norse.LIFCell(norse.LIFParameters(**each, tau_syn_inv=some(100, 400))),
        "iaf": lambda: norse.IAFCell(norse.IAFParameters(v_th=2 * one)),
        "iaf, v_reset": lambda: norse.IAFCell(
            norse.IAFParameters(v_th=2 * one, v_reset=torch.tensor(-0.2, dtype=dtype))
        ),
    }
    return cells[kind]()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "kind",
    ["box, one for all", "box", "box, subtract", "box, v_reset", "lif, one for all", "lif", "iaf", "iaf, v_reset"],
)
def test_a_graph_of_norse_gives_its_own_spikes(norse: Any, kind: str, dtype: torch.dtype) -> None:
    """With the batch axis and single numbers that Norse exports, and the reset that it does not, told."""
    from norse.torch.functional.leaky_integrator_box import LIBoxParameters
    from norse.torch.module.leaky_integrator_box import LIBoxCell

    readout = LIBoxCell(LIBoxParameters(tau_mem_inv=torch.tensor(80.0, dtype=dtype)))
    cell = _norse_cell(norse, kind, dtype)
    module = norse.SequentialState(nn.Linear(3, N), cell, nn.Linear(N, 2, bias=False), readout).to(dtype)
    module[0].weight.data *= 3
    x = torch.rand(B, T, 3, dtype=dtype)
    graph = norse.to_nir(module, x[:, 0])
    reset = "subtract" if "subtract" in kind else ResetToValue(-0.2) if "v_reset" in kind else "zero"
    with pytest.warns(MendedGraph):
        network = network_from_nir(graph, "norse-1.1", reset)
    spikes, out, state = [], [], None
    module[1].register_forward_hook(lambda module, given, found: spikes.append(found[0]))
    with torch.no_grad():
        for step in x.unbind(1):
            y, state = module(step, state)
            out.append(y)
    ours = run(network, x.double() if dtype is torch.float64 else x)
    assert _active(torch.stack(spikes))
    assert torch.equal(ours[network.spiking[0]].spikes, torch.stack(spikes, 1).to(dtype))
    tolerance = 1e-14 if dtype is torch.float64 else 1e-6
    torch.testing.assert_close(ours.readout, torch.stack(out, 1), rtol=0, atol=tolerance)


def test_a_file_of_norse_that_nir_refuses_is_mended(norse: Any, tmp_path: Path) -> None:
    module = norse.SequentialState(nn.Linear(3, N), _norse_cell(norse, "box", torch.float32))
    nir.write(tmp_path / "norse.nir", norse.to_nir(module, torch.rand(1, 3)))
    with pytest.raises(ValueError, match="type mismatch"):
        nir.read(tmp_path / "norse.nir")
    reading = read_nir(tmp_path / "norse.nir", "norse-1.1", "zero")
    assert reading.mended == (
        "node 'input': shape (1, 3) has axes of batch or time in front: it is (3,)",
        "node 'output': shape (1, 8) has axes of batch or time in front: it is (8,)",
    )
    assert reading.convention is not None
    assert reading.convention.name == "norse-1.1-export"
    assert reading.network.dt_ms == 1.0


def test_norse_multiplies_its_time_constants_by_dt(norse: Any) -> None:
    """Its export of 10 ms is 1e-5 s, of which its own import makes a neuron that explodes; we read what was meant."""
    graph = norse.to_nir(
        norse.SequentialState(nn.Linear(3, N), _norse_cell(norse, "box, one for all", torch.float32)), torch.rand(1, 3)
    )
    assert float(graph.nodes["1"].tau) == pytest.approx(1e-5)
    with pytest.warns(MendedGraph):
        network = network_from_nir(graph, "norse-1.1", "zero")
    layer = network.layers["1"]
    assert isinstance(layer, Spiking)
    assert layer.dynamics.decay == pytest.approx(0.9)
    with pytest.raises(
        DataError, match=r"node '1': tau 1\.0+\d?e-05 makes a decay of -99 in a step of 1.0 ms by norse-1.1-im"
    ):
        network_from_nir(graph, "norse-1.1-import")


@pytest.mark.parametrize("kind", ["LIFRecurrentCell", "LSNNCell", "LIFRefracCell"])
def test_norse_exports_none_nodes(norse: Any, kind: str) -> None:
    cell = norse.LIFRecurrentCell(N, N) if kind == "LIFRecurrentCell" else getattr(norse, kind)()
    graph = norse.to_nir(norse.SequentialState(nn.Linear(3, N), cell), torch.rand(1, 3))
    assert graph.nodes["1"] is None
    with pytest.raises(DataError, match=r"node '1': None, since its exporter has no node for this module"):
        network_from_nir(graph, "norse-1.1", "zero")


def test_norse_ignores_r_v_reset_and_dt(norse: Any) -> None:
    """Its import of a LIF with r, v_reset and another dt is what norse-1.1-import says, not what the nodes say."""
    rng = np.random.default_rng(0)
    ones = np.ones(N, np.float32)
    lif = nir.LIF(tau=0.01 * ones, r=5 * ones, v_leak=0 * ones, v_threshold=0.4 * ones, v_reset=-0.3 * ones)
    weight = 2 * rng.normal(size=(N, 3)).astype(np.float32)
    graph = nir.NIRGraph.from_list(nir.Linear(weight), lif)
    x = torch.rand(B, T, 3)
    theirs = _norse_run(norse.from_nir(graph), x)
    ours = network_from_nir(graph, "norse-1.1-import")
    assert _active(theirs)
    assert torch.equal(run(ours, x)["lif"].spikes, theirs)
    with pytest.raises(DataError, match=r"neither a graph that Norse 1.1 wrote|tau 0.01"):
        network_from_nir(graph, "norse-1.1", dt_ms=20.0)
    said = network_from_nir(graph, "nir-exact", dt_ms=0.1)
    assert not torch.equal(run(said, x)["lif"].spikes, theirs)


def _norse_run(module: Any, x: Tensor) -> Tensor:
    state, out = None, []
    with torch.no_grad():
        for step in x.unbind(1):
            y, state = module(step, state)
            out.append(y)
    return torch.stack(out, 1)


@pytest.mark.parametrize("form", ["norse-1.1-import", "norse-1.1"])
def test_what_norse_reads_is_what_its_convention_reads(norse: Any, form: str) -> None:
    """CubaLIF with w_in and r, IF, and LIF in one graph."""
    rng, ones = np.random.default_rng(1), np.ones(N, np.float32)
    tau = (0.005 + 0.01 * rng.random(N)).astype(np.float32)
    graph = nir.NIRGraph.from_list(
        nir.Linear(4 * rng.normal(size=(N, 3)).astype(np.float32)),
        nir.CubaLIF(
            tau_syn=tau[::-1].copy(), tau_mem=tau, r=2 * ones, v_leak=0 * ones, v_threshold=0.3 * ones, w_in=1.5
        ),
        nir.Linear(rng.normal(size=(N, N)).astype(np.float32)),
        nir.IF(r=ones, v_threshold=0.8 * ones),
        nir.Linear(9 * rng.normal(size=(N, N)).astype(np.float32)),
        nir.LIF(tau=tau, r=ones, v_leak=0.1 * ones, v_threshold=0.5 * ones),
    )
    x = torch.rand(B, T, 3)
    theirs = _norse_run(norse.from_nir(graph, ignore_warnings=True), x)
    assert _active(theirs)
    assert torch.equal(run(network_from_nir(graph, form), x)["lif"].spikes, theirs)


def test_nirtorchs_default_map_beats_the_users() -> None:
    """Upstream the user's map is overwritten, so that what it meant is lost; we write without nirtorch's maps."""
    nirtorch = pytest.importorskip("nirtorch", reason="needs nirtorch, which snntorch brings")
    module = nn.Sequential(nn.Linear(2, 3, bias=False))

    def doubled(layer: nn.Linear) -> nir.NIRNode:
        return nir.Linear(2 * layer.weight.detach().numpy())

    graph = nirtorch.torch_to_nir(module, {nn.Linear: doubled})
    (node,) = [node for node in graph.nodes.values() if isinstance(node, nir.Linear)]
    np.testing.assert_array_equal(node.weight, module[0].weight.detach().numpy())
    with pytest.raises(UnsupportedDynamics, match="Sequential: a torch module, not a network: read it with from_snn"):
        network_to_nir(module)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ for their imports


def _weights(*shape: int, scale: float = 0.5) -> Any:
    return np.random.default_rng(sum(shape)).normal(size=shape) * scale


def _networks(norse: bool) -> dict[str, Network]:
    """Networks that an import does exactly: feed-forward, recurrent, one to one with a synapse, IF, convolutional."""
    rng, scale = np.random.default_rng(5), 3.0 if norse else 0.5
    zero = ResetToValue(0.0)

    def neurons(*recurrence: Any, synapse: bool = False) -> Spiking:
        decay = rng.uniform(0.6, 0.95, N)
        gain = 1 - decay if norse else np.ones(N)
        threshold = rng.uniform(0.3, 0.5, N) if norse else 0.4
        current = Synapse(rng.uniform(0.3, 0.6, N), 0.7 if norse else 1.0) if synapse else None
        back = Recurrence(*recurrence) if recurrence else None
        return Spiking(Dynamics(decay, threshold, gain, reset=zero, synapse=current), back)

    spatial = Spiking(Dynamics(0.9, 0.4, 1 - 0.9 if norse else 1.0, reset=zero))
    pool = Pool(Pooling.SUM if norse else Pooling.MEAN, (2, 2))
    head = {"x": Input((3,)), "a": Linear(_weights(3, N, scale=scale))}
    tail = {"b": Linear(_weights(N, N, scale=scale), _weights(N))}
    conv = {
        "x": Input((2, 6, 6)),
        "c": Conv(_weights(2, 3, 3, 3, scale=scale / 2), _weights(3), padding=1),
        "s": spatial,
        "p": pool,
        "f": Flatten(),
        "b": Linear(_weights(27, N, scale=scale)),
        "s2": neurons(),
    }
    found = {
        "feed-forward": Network.stack(head | {"s": neurons()} | tail | {"s2": neurons()}),
        "recurrent": Network.stack(
            head | {"s": neurons(_weights(N, N), 1, True)} | tail | {"s2": neurons(_weights(N, N))}
        ),
        "one to one": Network.stack(
            head | {"s": neurons(_weights(N))} | tail | {"s2": neurons(_weights(N, N), synapse=True)}
        ),
        "no leak": Network.stack(head | {"s": Spiking(Dynamics(1.0, 4.0, reset=zero))}),
        "convolutional": Network.stack(conv),
    }
    if not norse:
        line = {"x": Input((2, 9)), "c": Conv(_weights(2, 3, 3, scale=1), stride=2), "s": spatial, "f": Flatten()}
        found["one axis"] = Network.stack(line | {"b": Linear(_weights(12, N)), "s2": neurons()})
        found["skip"] = Network(
            head | {"s": neurons()} | tail | {"s2": neurons(_weights(N, N))},
            [("x", "a"), ("a", "s"), ("s", "b"), ("b", "s2"), ("a", "s2")],
        )
    return found


def _imported(name: str, graph: nir.NIRGraph, dt_ms: float) -> Any:
    if name == "norse-1.1":
        import norse.torch

        return norse.torch.from_nir(graph, dt=dt_ms / 1e3)
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):
        return import_from_nir(graph)


def _spikes_of_import(name: str, network: Network, x: Tensor) -> Tensor:
    """What the tool's own import makes of the file, run step by step; with a Flatten without the batch axis."""
    module, state, out = _imported(name, _through_file(network_to_nir(network, name)), network.dt_ms), None, []
    flat = "f" in network.layers
    with torch.no_grad():
        for step in x.unbind(1):
            y, state = module(step[0] if flat else step, state)
            out.append(y[None] if flat else y)
    return torch.stack(out, 1)


@pytest.mark.parametrize(
    "kind", ["feed-forward", "recurrent", "one to one", "no leak", "convolutional", "one axis", "skip"]
)
@pytest.mark.parametrize("tool", ["snntorch-1.0", "norse-1.1"])
def test_a_tools_own_import_reproduces_the_network(tool: str, kind: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("norse" if tool == "norse-1.1" else "snn")
    networks = _networks(tool == "norse-1.1")
    if kind not in networks:
        pytest.skip("refused: see test_what_an_import_would_not_do_is_refused")
    network = networks[kind]
    assert network_from_nir(_through_file(network_to_nir(network, tool))) == network
    x = torch.rand(1 if "f" in network.layers else B, T, *network.shapes["x"])
    theirs = _spikes_of_import(tool, network, x)
    assert _active(theirs)
    assert torch.equal(run(network, x)[network.spiking[-1]].spikes, theirs)


def test_snntorchs_import_wires_the_drive_through_w_rec(snn: Any) -> None:
    """Upstream, an RLeaky does not come back from its own export; read by us it does."""
    module = _Hidden(snn, "RLeaky", "zero", False)
    one = {"beta": torch.full((N,), 0.8), "threshold": torch.full((N,), 0.5), "spike_grad": _heaviside}
    reset = {"reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}
    module.lif1 = snn.RLeaky(**one, **reset, linear_features=N)
    module.fc2.weight.data = module.fc2.weight.data.abs()
    x = torch.rand(B, T, 3) * 1.5
    graph = _exported(module, x[:, 0])
    theirs = _snntorch_run(module, x)[1]
    assert _active(theirs)
    network = network_from_nir(graph, "snntorch-1.0", "zero-same-step")
    assert torch.equal(run(network, x)["lif2"].spikes, theirs)
    upstream, state, out = _imported("snntorch-1.0", graph, 0.1), None, []
    with torch.no_grad():
        for step in x.unbind(1):
            y, state = upstream(step, state)
            out.append(y)
    assert (torch.stack(out, 1) != theirs).float().mean() > 0.05


def _with(**changes: Any) -> Callable[[Network], Network]:
    def change(network: Network) -> Network:
        layer = network.layers["s"]
        assert isinstance(layer, Spiking)
        dynamics = layer.dynamics.replace(**changes)
        return network.replace(layers=dict(network.layers) | {"s": layer.replace(dynamics=dynamics)})

    return change


def _then(**layers: Any) -> Callable[[Network], Network]:
    return lambda network: Network.stack(dict(network.layers) | layers)


def _late(network: Network) -> Network:
    return network.replace(edges=tuple(e._replace(delay=1) if e.target == "s" else e for e in network.edges))


def _slow(network: Network) -> Network:
    layer = network.layers["s"]
    assert isinstance(layer, Spiking)
    return network.replace(layers=dict(network.layers) | {"s": layer.replace(recurrence=Recurrence(_weights(N, N), 2))})


REFUSED: list[tuple[str, Callable[[Network], Network], str]] = [
    ("both", _with(adaptation=Adaptation(0.9, 1.0)), r"layer 's', Dynamics.adaptation: NIR's thresholds do not adapt"),
    ("both", _with(refractory=Refractory(2)), r"layer 's', Dynamics.refractory: NIR's neurons are never refractory"),
    ("both", _with(comparison=Comparison.GREATER_EQUAL), r"Dynamics.comparison: NIR spikes where v > v_threshold"),
    ("both", _with(reset=SubtractThreshold()), r"Dynamics.reset: NIR resets to a value in the step"),
    ("both", _with(reset=NoReset()), r"Dynamics.reset: "),
    ("both", _with(reset=ResetToValue(0.0, When.NEXT_AFTER_INPUT)), r"Dynamics.reset: "),
    ("both", _with(reset=ResetToValue(-0.1)), r"ResetToValue.v_reset: .*'s import resets to 0; move the potentials"),
    ("both", _with(v_init=0.1), r"Dynamics.v_init: .* starts where it rests; start at rest"),
    ("both", _with(gain=0.3), r"Dynamics.gain: .*; .*multiply the weights before it instead"),
    ("both", _late, r"layer 's', Edge.delay: .* has no Delay; write it without a convention"),
    ("both", _slow, r"layer 's', Recurrence.delay: .* feeds back after one step; delay 1"),
    ("both", _then(o=Linear(_weights(N, 2)), y=Readout(0.9)), r"layer 'y', Readout: .* has no LI; end at the layer"),
    ("snntorch-1.0", _with(rest=-0.1, v_init=-0.1), r"Dynamics.rest: snnTorch 1.0's import decays to 0"),
    ("snntorch-1.0", _with(threshold=np.linspace(1, 2, N)), r"Dynamics.threshold: .* wants one for all neurons"),
    ("snntorch-1.0", _with(synapse=Synapse(0.5, 2.0)), r"Synapse.gain: .* divides the threshold by it"),
    ("norse-1.1", _with(synapse=Synapse(1.0)), r"Synapse.decay: .* no synapse or membrane without leak"),
    ("norse-1.1", _with(decay=1.0, gain=2.0), r"Dynamics.gain: .* ignores r of an IF"),
]


@pytest.mark.parametrize(
    ("tool", "change", "message"), REFUSED, ids=lambda entry: None if callable(entry) else str(entry)[:40]
)
def test_what_an_import_would_not_do_is_refused(tool: str, change: Callable[[Network], Network], message: str) -> None:
    for name in ("snntorch-1.0", "norse-1.1") if tool == "both" else (tool,):
        network = change(_networks(name == "norse-1.1")["feed-forward"])
        with pytest.raises(UnsupportedDynamics, match=message):
            network_to_nir(network, name)


def test_layers_that_an_import_would_not_do_are_refused() -> None:
    s = Spiking(Dynamics(0.9, 1.0, reset=ResetToValue(0.0)))
    norse = Spiking(Dynamics(0.9, 1.0, 1 - 0.9, reset=ResetToValue(0.0)))
    x, sums = Input((4, 6, 6)), Pool(Pooling.SUM, (3, 3))
    grouped = Conv(_weights(2, 4, 3, 3), groups=2)
    for name, layers, message in (
        ("snntorch-1.0", {"x": x, "p": sums, "s": s}, r"layer 'p', Pool.how: .* multiplies the mean of a window"),
        ("snntorch-1.0", {"x": x, "c": grouped, "s": s}, r"layer 'c', Conv.groups: .*; groups=1 with zeros"),
        ("norse-1.1", {"x": x, "p": Pool(Pooling.MEAN, (2, 2)), "s": norse}, r"leaves an AvgPool2d out in silence"),
        ("norse-1.1", {"x": Input((2, 6)), "c": Conv(_weights(2, 3, 3)), "s": norse}, r"leaves a Conv1d out in sil"),
        ("snntorch-1.0", {"x": x, "train": s}, r"layer 'train', name: .*; rename the layer"),
    ):
        with pytest.raises(UnsupportedDynamics, match=message):
            network_to_nir(Network.stack(layers), name)
    two = Network({"a": Input((2,)), "b": Input((2,)), "s": norse}, [("a", "s"), ("b", "s")])
    with pytest.raises(UnsupportedDynamics, match=r"layer 'b', edges: a second input; .*depth first"):
        network_to_nir(two, "norse-1.1")
    with pytest.raises(ConfigError, match=r"convention 'norse': did you mean 'norse-1.1'\?"):
        network_to_nir(two, "norse")


def test_the_few_shot_cnn_has_no_nir_form() -> None:
    from ovonic.models.fewshot_cnn import FewshotCNN

    with pytest.raises(
        UnsupportedDynamics, match=r"FewshotCNN, norm: .* NIR has no node for the statistics of a batch"
    ):
        network_to_nir(FewshotCNN())  # type: ignore[arg-type]
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UnsupportedDynamics, match=r"Sequential, layer '1': a norm by the statistics of a batch"):
        network_to_nir(normed)  # type: ignore[arg-type]


def test_every_convention_states_its_rules() -> None:
    from ovonic.adapters.nir import CONVENTIONS

    assert list(CONVENTIONS) == [
        *("nir-exact", "nir-euler", "snntorch-1.0", "norse-1.1", "norse-1.1-export", "norse-1.1-import")
    ]
    for convention in CONVENTIONS.values():
        rules = type(convention).__doc__ or ""
        assert isinstance(convention, Convention)
        assert len(rules) > 200
        assert convention.versions
