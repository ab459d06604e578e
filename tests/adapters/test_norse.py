"""Norse: what is built from a network and run on Norse's functions spikes as the plain step does, and comes back."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ovonic.adapters import norse as adapter
from ovonic.adapters import norse_cells
from ovonic.adapters.toolchains import TOOLCHAINS
from ovonic.models import lif, simulation
from ovonic.models.dynamics import (
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    ResetToValue,
    SubtractThreshold,
    Synapse,
    When,
)
from ovonic.models.errors import ConfigError, ToolchainError, UnsupportedDynamics
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.trace import Trace

from .norse_cases import N_IN, all_pairs, draw, network_of, pairs_of, spikes_in

pytestmark = pytest.mark.toolchain
t = pytest.importorskip("norse.torch", reason="needs Norse: pip install 'ovonic[norse]'")


def _same(ours: Trace, theirs: Trace, tolerance: float = 1e-12) -> None:
    assert ours.layers.keys() == theirs.layers.keys()
    for name, layer in ours.layers.items():
        assert torch.equal(layer.spikes, theirs[name].spikes)
        assert torch.allclose(layer.membrane, theirs[name].membrane, 0, tolerance)
        for part in ("refractory", "adaptation"):
            mine, other = getattr(layer, part), getattr(theirs[name], part)
            assert (mine is None) == (other is None)
            assert mine is None or torch.allclose(mine.double(), other.double(), 0, tolerance)
    for name, readout in ours.readouts.items():
        assert torch.allclose(readout, theirs.readouts[name], 0, tolerance)
    assert ours.dt_ms == theirs.dt_ms


def _stepped(module: Any, inputs: Tensor) -> dict[str, Tensor]:
    """What a built module gives when its user calls it step by step, by layer, [B, T, ..]."""
    given, state = [], None
    with torch.no_grad():
        for x in inputs.unbind(1):
            values, state = module(x, state)
            given.append(values)
    return {name: torch.stack([values[name] for values in given], 1) for name in given[0]}


def test_every_pair_of_features_runs_and_comes_back() -> None:
    """300 random networks that cover all pairs of options; spikes identical, membranes to rounding; equal when read."""
    rng = np.random.default_rng(1)
    missing, silent = all_pairs(), 0
    for seed in range(300):
        chosen = draw(rng)
        missing -= pairs_of(chosen)
        network, x = network_of(chosen, rng), spikes_in(seed, 2, 40)
        ours = simulation.run(network, x)
        silent += int(ours["train"].spikes.sum() == 0)
        try:
            _same(ours, adapter.run(network, x))
            module = adapter.to_norse(network)
            given = _stepped(module, x)
            assert torch.equal(given["train"], ours["train"].spikes)
            assert torch.allclose(given["out"], ours.readout, 0, 1e-12)
            assert adapter.from_norse(module) == network
        except AssertionError as error:
            raise AssertionError(f"{seed}: {chosen}") from error
    assert not missing
    assert silent < 10


SIXTEENTHS = np.arange(-24, 25) / 16


@pytest.mark.parametrize(
    ("decay", "steps", "dtype"),
    [
        (1.0, 200, torch.float64),
        (1.0, 200, torch.float32),
        (0.5, 30, torch.float64),
        (0.625, 12, torch.float64),
        (0.75, 5, torch.float32),
    ],
)
@pytest.mark.parametrize("gain", [1.0, "own"])
@pytest.mark.parametrize("comparison", list(Comparison))
def test_exact_sums_match_bit_for_bit_through_ties(
    decay: float, steps: int, dtype: torch.dtype, gain: Any, comparison: Comparison
) -> None:
    rng = np.random.default_rng(2)
    gain, ties = 0.5 if gain == "own" and decay == 1 else 1 - decay if gain == "own" else gain, 0
    for reset in (SubtractThreshold(), SubtractThreshold(When.SAME_STEP), ResetToValue(-0.25)):
        dynamics = Dynamics(decay, 0.5, gain, comparison=comparison, reset=reset, refractory=Refractory(1))
        layers = {
            "in": Input((4,)),
            "w": Linear(rng.choice(SIXTEENTHS, (4, 30))),
            "z": Spiking(dynamics, Recurrence(rng.choice(SIXTEENTHS, (30, 30)) / 4)),
        }
        network, x = Network.stack(layers), spikes_in(3, 3, steps, n=4).to(dtype)
        ours, theirs = simulation.run(network, x)["z"], adapter.run(network, x)["z"]
        assert theirs.membrane.dtype == dtype
        assert torch.equal(ours.spikes, theirs.spikes)
        assert torch.equal(ours.membrane, theirs.membrane)
        ties += int(((ours.membrane == 0.5) & (ours.refractory == 0)).sum())
        assert torch.equal(_stepped(adapter.to_norse(network, dtype=dtype), x)["z"], ours.spikes)
    assert ties > 1 or gain == 0.375


def test_float32_runs_in_float32() -> None:
    rng = np.random.default_rng(4)
    network = network_of(dict.fromkeys(("decay", "threshold"), "each") | draw(rng), rng)
    x = spikes_in(5, 2, 60).float()
    trace = adapter.run(network, x)
    assert trace["train"].membrane.dtype == trace.readout.dtype == torch.float32
    _same(simulation.run(network, x), trace, 1e-5)


def _graph() -> Network:
    """Two inputs, convolution in one and two dimensions, every pooling, delays, a sum of three."""
    rng = np.random.default_rng(6)
    layers: dict[str, Layer] = {
        "image": Input((2, 6, 6)),
        "line": Input((3, 8)),
        "conv": Conv(rng.normal(0, 0.5, (2, 4, 3, 3)), rng.normal(0, 0.1, 4), padding=(1,)),
        "a": Spiking(Dynamics(rng.uniform(0.5, 0.9, (4, 6, 6)), 0.7)),
        "pool": Pool(Pooling.MAX, (2, 2)),
        "flat": Flatten(),
        "to_z": Linear(rng.normal(0, 0.3, (36, 5))),
        "conv1": Conv(rng.normal(0, 0.5, (3, 4, 3)), stride=(2,)),
        "sum": Pool(Pooling.SUM, (2,), (1,)),
        "mean": Pool(Pooling.MEAN, (2,)),
        "flat1": Flatten(),
        "to_z1": Linear(rng.normal(0, 0.5, (4, 5))),
        "z": Spiking(Dynamics(0.8, 0.6), Recurrence(rng.normal(0, 0.3, (5, 5)), masked_diagonal=True)),
        "out": Readout(0.9),
    }
    chain = ("image", "conv", "a", "pool", "flat", "to_z", "z", "out")
    other = ("line", "conv1", "sum", "mean", "flat1", "to_z1", "z")
    edges = [Edge(*pair) for names in (chain, other) for pair in itertools.pairwise(names)]
    return Network(layers, (*edges, Edge("to_z", "z", 3), Edge("z", "out", 1)), 2.0)


def test_a_graph_of_every_kind_of_layer() -> None:
    network, rng = _graph(), np.random.default_rng(7)
    inputs = {name: torch.tensor(rng.random((2, 30, *network.shapes[name])) < 0.3).double() for name in network.inputs}
    trace = adapter.run(network, inputs)
    _same(simulation.run(network, inputs), trace)
    assert trace["z"].spikes.mean() > 0.05
    module, state = adapter.to_norse(network), None
    for step in range(30):
        values, state = module({name: x[:, step] for name, x in inputs.items()}, state)
        assert torch.equal(values["z"], trace["z"].spikes[:, step])
    assert adapter.from_norse(module) == network
    with pytest.raises(ConfigError, match="2 inputs: give them by name: image, line"):
        module(inputs["image"][:, 0])


# ------------------------------------------------------------------------------------------------ round trips

NUMBER = st.floats(-2, 2)
UNIT = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.1, 1 - 0.1, 2**-30])


@st.composite
def _networks(draws: st.DrawFn) -> Network:
    n = draws(st.integers(1, 3))

    def one(values: st.SearchStrategy[float]) -> Any:
        return draws(values) if draws(st.booleans()) else np.array([draws(values) for _ in range(n)])

    chosen = draw(np.random.default_rng(draws(st.integers(0, 2**32))))
    base = network_of(chosen, np.random.default_rng(draws(st.integers(0, 2**32)))).layers["train"]
    assert isinstance(base, Spiking)
    scalar = {name: value for name, value in base.dynamics.items() if not isinstance(value, np.ndarray)}
    kept = {name: scalar[name] for name in ("comparison", "reset")}
    decay = one(UNIT)
    gain = 1 - decay if draws(st.booleans()) and np.all(np.less(decay, 1)) else one(st.floats(0.01, 3))
    dynamics = Dynamics(decay, one(st.floats(0.5, 2)), gain, one(st.floats(-2, 0.4)), one(NUMBER), **kept)
    if draws(st.booleans()):
        dynamics = dynamics.replace(synapse=Synapse(one(UNIT), draws(st.sampled_from([1.0, 0.3]))))
    if draws(st.booleans()):
        dynamics = dynamics.replace(refractory=Refractory(draws(st.integers(1, 9)), draws(st.booleans())))
    readout = Readout(one(UNIT), one(st.floats(0.01, 3)), one(NUMBER), one(NUMBER))
    layers = {"x": Input((n,)), "a": Spiking(dynamics), "y": readout}
    return Network.stack(layers, draws(st.sampled_from([1.0, 0.1, 1 / 3, 7.0])))


@settings(max_examples=150, deadline=None)
@given(_networks())
def test_round_trip_is_exact(network: Network) -> None:
    assert adapter.from_norse(adapter.to_norse(network)) == network


def _stack(neuron: Layer, dt_ms: float = 1.0) -> Network:
    return Network.stack({"x": Input((N_IN,)), "a": neuron}, dt_ms)


LEAK = 0.001 * 100.0
OWN: list[tuple[str, Layer]] = [
    ("LIFBoxCell", Spiking(Dynamics(1 - LEAK, 0.6, LEAK, reset=ResetToValue(-0.1)))),
    ("LIFBoxCell", Spiking(Dynamics(1 - LEAK, 0.6, LEAK, 0.1, 0.1, reset=SubtractThreshold(When.SAME_STEP)))),
    ("LIFCell", Spiking(Dynamics(1 - LEAK, 0.6, LEAK, reset=ResetToValue(), synapse=Synapse(0.75)))),
    (
        "LIFRefracCell",
        Spiking(
            Dynamics(1 - LEAK, 0.6, LEAK, refractory=Refractory(3, True), reset=ResetToValue(), synapse=Synapse(0.75))
        ),
    ),
    ("IAFCell", Spiking(Dynamics(1.0, 0.6, v_init=-0.1, reset=ResetToValue(-0.1)))),
    ("LIBoxCell", Readout(1 - LEAK, LEAK)),
    ("LICell", Readout(1 - LEAK, LEAK, synapse=Synapse(0.75))),
]


@pytest.mark.parametrize(("kind", "layer"), OWN)
def test_norses_own_module_is_taken_where_it_is_exact(kind: str, layer: Layer) -> None:
    network, x = _stack(layer), 3 * spikes_in(8, 3, 60)
    module = adapter.to_norse(network)
    assert type(module["a"]).__name__ == kind
    assert adapter.from_norse(module) == network
    ours = simulation.run(network, x)
    expected = ours.readouts["a"] if isinstance(layer, Readout) else ours["a"].spikes
    assert torch.allclose(_stepped(module, x)["a"], expected, 0, 1e-12)
    assert expected.sum() > 10
    _same(ours, adapter.run(network, x))
    for other in ({"threshold": np.full(N_IN, 0.6) + np.arange(N_IN) / 8}, {"comparison": Comparison.GREATER_EQUAL}):
        if isinstance(layer, Spiking):
            cells = adapter.to_norse(_stack(layer.replace(dynamics=layer.dynamics.replace(**other))))
            assert type(cells["a"]).__name__ == "Cell"


# ------------------------------------------------------------------------------------------------ Norse's own code


def test_norse_does_the_stepping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our step never runs; every leak, spike and reset is a call of Norse's functions."""
    rng = np.random.default_rng(9)
    network, x = network_of(draw(rng) | {"reset": "value SAME_STEP", "decay": "one"}, rng), spikes_in(10, 2, 20)
    expected = simulation.run(network, x)["train"].spikes
    norse, calls = norse_cells.load(), dict.fromkeys(("leak", "threshold", "reset_value"), 0)

    def counted(name: str, *args: Any) -> Any:
        calls[name] += 1
        return kept[name](*args)

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("ours")

    kept = {name: getattr(norse, name) for name in calls}
    for name in calls:
        monkeypatch.setattr(norse, name, functools.partial(counted, name))
    for name in ("step", "unroll", "leak"):
        monkeypatch.setattr(lif, name, forbidden)
    monkeypatch.setattr(simulation, "unroll", forbidden)
    monkeypatch.setattr(simulation, "integrate", forbidden)
    assert torch.equal(adapter.run(network, x)["train"].spikes, expected)
    assert calls["leak"] >= 40
    assert calls["threshold"] == calls["reset_value"] == 20
    assert torch.equal(_stepped(adapter.to_norse(network), x)["train"], expected)


def test_run_leaves_generator_and_gradients_alone() -> None:
    network = _graph()
    before = torch.random.get_rng_state()
    adapter.to_norse(network)
    assert torch.equal(torch.random.get_rng_state(), before)
    x = spikes_in(1, 2, 5).requires_grad_()
    assert not adapter.run(_stack(Spiking(Dynamics(0.9, 0.5))), x)["a"].membrane.requires_grad


def test_every_method_of_norse_trains() -> None:
    """Adam on the weights of a recurrent network, in Norse's way: cells stepped, surrogate by ``method``."""
    rng = np.random.default_rng(11)
    layers = {
        "in": Input((N_IN,)),
        "w": Linear(rng.normal(0.3, 0.5, (N_IN, 12))),
        "z": Spiking(Dynamics(0.9, 0.8, refractory=Refractory(2)), Recurrence(rng.normal(0, 0.2, (12, 12)), 1, True)),
        "w_out": Linear(rng.normal(0, 0.3, (12, 1))),
        "y": Readout(0.9),
    }
    network, x = Network.stack(layers), spikes_in(12, 4, 20)
    target = torch.linspace(-1, 1, 20, dtype=torch.float64)[None, :, None]
    for method in ("super", "triangle", "tanh", "circ", "heavi_erfc"):
        module = adapter.to_norse(network, method, alpha=1.0)
        optimiser, losses = torch.optim.Adam(module.parameters(), 0.02), []
        for _ in range(5):
            y, state = [], None
            for step in x.unbind(1):
                values, state = module(step, state)
                y.append(values["y"])
            loss = ((torch.stack(y, 1) - target) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0], method
        cell: Any = module["z"]
        assert cell.parametrizations.recurrent_weights.original.grad.diagonal().abs().sum() == 0
        trained = adapter.from_norse(module)
        assert trained != network
        assert torch.equal(adapter.run(trained, x)["z"].spikes, _stepped(module, x)["z"])
        assert np.array_equal(_weight(trained).diagonal(), _weight(network).diagonal())
    with pytest.raises(ConfigError, match="method 'supr': choose one of 'heaviside'"):
        adapter.to_norse(network, "supr")


def _weight(network: Network) -> Any:
    layer = network.layers["z"]
    assert isinstance(layer, Spiking)
    assert layer.recurrence is not None
    return layer.recurrence.weight


def test_gradient_is_that_of_norses_own_cell() -> None:
    """A ``Cell`` and LIFBoxCell of the same neuron give the same loss and the same gradient of the weights."""
    weight = 3 * torch.randn(N_IN, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dynamics = Dynamics(1 - LEAK, 0.1, LEAK, reset=ResetToValue(0.0))
    gradients = []
    for threshold in (0.1, np.array([0.1, 0.1, np.nextafter(0.1, 1)])):  # one number for all: LIFBoxCell
        layers = {"x": Input((N_IN,)), "w": Linear(weight.numpy()), "z": Spiking(dynamics.replace(threshold=threshold))}
        module = adapter.to_norse(Network.stack(layers))
        state, total = None, torch.zeros((), dtype=torch.float64)
        for step in spikes_in(13, 3, 20).unbind(1):
            values, state = module(step, state)
            total = total + (values["z"] * torch.arange(1.0, 4)).sum()
        total.backward()
        linear: Any = module["w"]
        gradients.append((type(module["z"]).__name__, total.item(), linear.weight.grad))
    (own, loss, gradient), (cell, other, same) = gradients
    assert (own, cell) == ("LIFBoxCell", "Cell")
    assert loss == other > 0
    assert torch.allclose(gradient, same, 1e-12)


def test_cells_stand_in_norses_containers() -> None:
    """A ``Cell`` beside torch's and Norse's modules in ``SequentialState`` and ``Lift``, read as a chain."""
    rng = np.random.default_rng(14)
    network = network_of(draw(rng) | {"delay": "0", "threshold": "each"}, rng)
    module = adapter.to_norse(network)
    x = spikes_in(15, 2, 25)
    chain = t.SequentialState(module["w"], module["train"], module["w_out"], module["out"])
    y, _ = t.Lift(chain)(x.transpose(0, 1))
    assert torch.allclose(y.transpose(0, 1), simulation.run(network, x).readout, 0, 1e-12)
    read = adapter.from_norse(t.Lift(chain), dt_ms=0.5)
    named = {name: f"{k}" for k, name in enumerate(("w", "train", "w_out", "out"))}
    assert {named.get(name, "input"): layer for name, layer in network.layers.items()} == dict(read.layers)


FRESH = """
import json, sys
import numpy as np, torch
from ovonic.adapters.norse import from_norse, to_norse
from ovonic.models.dynamics import Dynamics, Refractory, SubtractThreshold, Synapse
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network
blank = Dynamics(0.5, 1.0, 2.0, 0.1, 0.2, refractory=Refractory(1), synapse=Synapse(0.5))
layers = {"x": Input((3,)), "w": Linear(np.zeros((3, 4))),
          "z": Spiking(blank, Recurrence(np.zeros((4, 4)), 2, True)), "y": Readout(0.5, 2.0)}
module = to_norse(Network.stack(layers))
module.load_state_dict(torch.load(sys.argv[1], weights_only=True))
print(json.dumps(from_norse(module).to_dict(), default=lambda array: array.tolist()))
"""


def test_a_fresh_process_reads_a_state_dict(tmp_path: Path) -> None:
    """The numbers of cells travel in a ``state_dict``; the process that reads it never saw the network."""
    rng = np.random.default_rng(16)
    dynamics = Dynamics(
        0.9, 0.7, 1.3, -0.1, -0.2, refractory=Refractory(4), synapse=Synapse(0.3), reset=SubtractThreshold()
    )
    layers = {
        "x": Input((3,)),
        "w": Linear(rng.normal(size=(3, 4))),
        "z": Spiking(dynamics, Recurrence(rng.normal(size=(4, 4)), 2, True)),
        "y": Readout(0.8, 1.1),
    }
    network = Network.stack(layers)
    torch.save(adapter.to_norse(network).state_dict(), tmp_path / "net.pt")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, str(tmp_path / "net.pt")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Network.from_dict(json.loads(done.stdout)) == network


# ------------------------------------------------------------------------------------------------ the interface


def test_it_is_a_toolchain() -> None:
    assert "norse" in TOOLCHAINS
    assert adapter.unsupported(_graph()) == []


def test_an_unknown_kind_of_layer_is_refused() -> None:
    class Odd(Layer):
        pass

    network = _stack(Odd())
    (found,) = adapter.unsupported(network)
    assert (found.layer, found.feature) == ("a", "Odd")
    for call in (adapter.to_norse, lambda n: adapter.run(n, spikes_in(1, 1, 2))):
        with pytest.raises(UnsupportedDynamics, match="Norse cannot run this network exactly: layer 'a', Odd"):
            call(network)


def test_without_norse_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    norse_cells.load.cache_clear()
    monkeypatch.setitem(sys.modules, "norse.torch", None)
    network = _stack(Spiking(Dynamics(0.9, 0.5, reset=NoReset())))
    assert adapter.unsupported(network) == []
    with pytest.raises(ToolchainError, match=r"pip install 'ovonic\[norse\]'"):
        adapter.to_norse(network)
    with pytest.raises(ToolchainError, match="Norse cannot be imported"):
        adapter.from_norse(nn.Linear(1, 1))
    monkeypatch.undo()
    norse_cells.load.cache_clear()


@pytest.mark.parametrize("bad", [spikes_in(1, 2, 3, n=4), spikes_in(1, 2, 3).long()])
def test_a_wrong_input_is_refused(bad: Tensor) -> None:
    with pytest.raises(ConfigError, match="input 'x'"):
        adapter.run(_stack(Spiking(Dynamics(0.9, 0.5))), bad)
