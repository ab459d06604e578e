"""Running on snnTorch gives our spikes, and reading what was built gives the network back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ovonic.adapters.snntorch import from_snntorch, run, to_snntorch, unsupported
from ovonic.models import lif, simulation
from ovonic.models.dynamics import Comparison, Dynamics, Refractory, Synapse
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Layer, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import run as run_plain
from ovonic.models.trace import Trace

from .snntorch_cases import CONVOLUTIONS, N_IN, convolutional, every_pair, network_of, spikes_in

pytestmark = pytest.mark.toolchain
snn = pytest.importorskip("snntorch", reason="needs snntorch: pip install 'ovonic[snntorch]'")
PAIRS = list(every_pair())


def assert_same(theirs: Trace, ours: Trace, tolerance: float = 0.0) -> None:
    """Equal spikes, counters and adaptation; membranes and read-outs within the rounding of other orders of sums."""
    assert theirs.layers.keys() == ours.layers.keys()
    for name, layer in ours.layers.items():
        assert torch.equal(theirs[name].spikes, layer.spikes), name
        for part in ("membrane", "adaptation", "refractory"):
            mine, other = getattr(layer, part), getattr(theirs[name], part)
            assert (mine is None) == (other is None), part
            if mine is not None:
                assert mine.dtype == other.dtype
                torch.testing.assert_close(other, mine, rtol=0, atol=tolerance)
    for name, readout in ours.readouts.items():
        torch.testing.assert_close(theirs.readouts[name], readout, rtol=0, atol=tolerance)


def test_random_networks_of_every_pair_of_features_in_float64() -> None:
    active = []
    for seed, choice in enumerate(PAIRS):
        network = network_of(choice, seed, dyadic=False)
        x = spikes_in((N_IN,), seed, torch.float64)
        ours = run_plain(network, x)
        assert_same(run(network, x), ours, 1e-9)
        active.append((ours["h"].spikes.amax((0, 1)) > 0).double().mean().item())
    assert np.mean(active) > 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_on_a_grid_bit_for_bit_with_ties(dtype: torch.dtype) -> None:
    """Every sum is exact in twelve steps: not one bit differs, in whatever order it is taken."""
    ties = 0
    for seed, choice in enumerate(PAIRS):
        network = network_of(choice, seed, dyadic=True)
        x = spikes_in((N_IN,), seed, dtype, batch=4, steps=12)
        ours = run_plain(network, x)
        assert_same(run(network, x), ours)
        layer: Any = network.layers["h"]
        b = 0.0 if ours["h"].adaptation is None else ours["h"].adaptation.double().numpy()
        level = np.broadcast_to(layer.dynamics.adapted(b), ours["h"].membrane.shape)
        ties += int((ours["h"].membrane.double().numpy() == level).sum())
    assert ties > len(PAIRS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("axes", "how"), CONVOLUTIONS)
def test_convolution_pooling_flatten(axes: int, how: Pooling, dtype: torch.dtype) -> None:
    network = convolutional(axes, how, np.random.default_rng(axes))
    x = spikes_in((2, *(9,) * axes), 1, dtype, steps=9)
    ours = run_plain(network, x)
    assert 0.05 < ours["map"].spikes.mean() < 0.95
    assert ours["h"].spikes.any()
    assert_same(run(network, x), ours)
    assert from_snntorch(to_snntorch(network)) == network


@pytest.mark.parametrize("choice", PAIRS[::8], ids=lambda choice: choice["reset"])
def test_a_users_loop_over_the_module_gives_what_run_gives(choice: dict[str, str]) -> None:
    network = network_of(choice, 3, dyadic=True)
    x = spikes_in((N_IN,), 3, torch.float64, steps=12)
    module, state, spikes, out = to_snntorch(network), None, [], []
    with torch.no_grad():
        for now in x.unbind(1):
            values, state = module(now, state)
            spikes.append(values["h"])
            out.append(values["out"])
    ours = run(network, x)
    assert torch.equal(torch.stack(spikes, 1), ours["h"].spikes)
    assert torch.equal(torch.stack(out, 1), ours.readout)


def test_our_own_step_is_never_called(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = PAIRS[0] | {"refractory": "frozen", "adaptation": "spike in full", "recurrence": "hollow, delay 3"}
    network, x = network_of(choice, 1, dyadic=True), spikes_in((N_IN,), 1, torch.float64, steps=12)
    ours = run_plain(network, x)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the adapter used our own step")

    for module, names in ((lif, ("step", "unroll", "leak")), (simulation, ("run", "integrate", "unroll", "leak"))):
        for name in names:
            monkeypatch.setattr(module, name, never)
    with pytest.raises(AssertionError):
        lif.step(x, None, None)  # type: ignore[arg-type]
    assert_same(run(network, x), ours)


@pytest.mark.parametrize("kind", ["Leaky", "RLeaky", "Synaptic", "RSynaptic"])
def test_the_module_holds_snntorchs_neuron_and_that_neuron_steps(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synapse = Synapse(0.5) if "Synaptic" in kind else None
    recurrence = Recurrence(np.eye(3)) if kind.startswith("R") else None
    network = Network.stack({"x": Input((3,)), "h": Spiking(Dynamics(0.9, 1.0, synapse=synapse), recurrence)})
    assert type(to_snntorch(network)["h"]) is getattr(snn, kind)
    calls = []
    forward = getattr(snn, kind).forward
    monkeypatch.setattr(getattr(snn, kind), "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    run(network, torch.ones(2, 7, 3))
    assert len(calls) == 7


# ---------------------------------------------------------------------------------------------- round trips

numbers = st.floats(-4, 4, allow_nan=False)
decays = st.one_of(st.sampled_from([0.0, 1.0, -0.0, 5e-324]), st.floats(0, 1))


@st.composite
def networks(draw: Any) -> Network:
    """Any of the options above, its first numbers drawn one by one."""
    choice = draw(st.sampled_from(PAIRS))
    network = network_of(choice, draw(st.integers(0, 2**32)), dyadic=False)
    layer: Any = network.layers["h"]
    dynamics = layer.dynamics
    one_each = st.lists(decays, min_size=8, max_size=8).map(np.array)
    threshold = draw(st.floats(1, 1e6))
    dynamics = dynamics.replace(decay=draw(st.one_of(decays, one_each)), threshold=threshold, rest=draw(numbers) / 8)
    if draw(st.booleans()):
        dynamics = dynamics.replace(v_init=draw(numbers), gain=draw(st.floats(1e-300, 1e300)))
    layers = dict(network.layers) | {"h": layer.replace(dynamics=dynamics)}
    layers["out"] = Readout(draw(decays), draw(st.sampled_from([1.0, -2.5])), draw(numbers), draw(numbers))
    weight = draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=16, max_size=16))
    layers["w_out"] = Linear(np.reshape(weight, (8, 2)), draw(st.sampled_from([None, [-0.0, 1e-310]])))
    name = draw(st.sampled_from(["h", "train", "forward", "keys", "input", "weight", "état", "a-b"]))
    edges = [(*(name if end == "h" else end for end in edge[:2]), edge.delay) for edge in network.edges]
    layers = {name if known == "h" else known: entry for known, entry in layers.items()}
    return Network(layers, tuple(Edge(*edge) for edge in edges), draw(st.floats(1e-3, 1e3)))


@settings(max_examples=150, deadline=None)
@given(networks())
def test_round_trip(network: Network) -> None:
    assert unsupported(network) == []
    assert from_snntorch(to_snntorch(network)) == network


def test_round_trip_reads_the_module_as_it_is() -> None:
    """Not a stashed original: what is changed in the module is changed in what is read."""
    module: Any = to_snntorch(network_of(PAIRS[0] | {"recurrence": "matrix"}, 0, dyadic=True))
    before: Any = from_snntorch(module)
    neuron = getattr(module["h"], "neuron", module["h"])
    with torch.no_grad():
        neuron.beta.fill_(0.25)
        neuron.recurrent.weight[0, 1] = 7.0
        module["w_in"].weight[3, 2] = 9.0
    after: Any = from_snntorch(module)
    assert after.layers["h"].dynamics.decay == 0.25
    assert after.layers["h"].recurrence.weight[1, 0] == 7.0
    assert after.layers["w_in"].weight[2, 3] == 9.0
    assert before != after


def test_float32_modules_are_read_as_they_stand() -> None:
    network = Network.stack({"x": Input((2,)), "w": Linear(np.full((2, 3), 0.1)), "h": Spiking(Dynamics(0.9, 0.7))})
    read: Any = from_snntorch(to_snntorch(network, dtype=torch.float32))
    assert read.layers["h"].dynamics.decay == float(np.float32(0.9))
    assert read.layers["h"].dynamics.threshold == float(np.float32(0.7))
    assert read.layers["w"].weight[0, 0] == float(np.float32(0.1))


# ---------------------------------------------------------------------------------------------- inputs, refusals


def test_several_inputs_by_name_and_bad_ones() -> None:
    neurons = Spiking(Dynamics(0.5, 1.0))
    network = Network({"a": Input((3,)), "b": Input((3,)), "h": neurons}, (Edge("a", "h"), Edge("b", "h", 2)))
    x = {"a": spikes_in((3,), 0, torch.float64), "b": spikes_in((3,), 1, torch.float64)}
    assert_same(run(network, x), run_plain(network, x))
    assert from_snntorch(to_snntorch(network)) == network
    with pytest.raises(ConfigError, match="give them by name"):
        run(network, x["a"])
    with pytest.raises(ConfigError, match="give them by name"):
        to_snntorch(network)(x["a"][:, 0])
    with pytest.raises(ConfigError, match="missing"):
        run(network, {"a": x["a"]})


def test_a_layer_without_a_module_is_refused_by_name() -> None:
    class Izhikevich(Layer):
        pass

    network = Network.stack({"x": Input((3,)), "odd": Izhikevich()})
    (found,) = unsupported(network)
    assert found.layer == "odd"
    for convert in (to_snntorch, lambda network: run(network, torch.zeros(1, 2, 3))):
        with pytest.raises(UnsupportedDynamics, match="'odd', Izhikevich"):
            convert(network)


def test_run_takes_no_gradient_and_no_random_number() -> None:
    network, x = network_of(PAIRS[0], 0, dyadic=True), spikes_in((N_IN,), 0, torch.float64, steps=5)
    state = torch.get_rng_state()
    trace = run(network, x.requires_grad_())
    assert not trace["h"].spikes.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_comparison_and_surrogate_are_apart() -> None:
    """A surrogate that fires at the threshold does not make > into >=."""

    def at_threshold(u: torch.Tensor) -> torch.Tensor:
        return (u >= 0).to(u.dtype) + 0 * u

    for comparison in Comparison:
        network = Network.stack({"x": Input((1,)), "h": Spiking(Dynamics(0.5, 1.0, comparison=comparison))})
        module = to_snntorch(network, at_threshold)
        values, _ = module(torch.ones(1, 1, dtype=torch.float64, requires_grad=True))
        assert values["h"].item() == (comparison is Comparison.GREATER_EQUAL)
        assert from_snntorch(module) == network


def test_refractory_counter_counts_as_ours() -> None:
    """Hand check: n_ref 3 is two silent steps under a constant current that always exceeds the threshold."""
    neurons = Spiking(Dynamics(0.0, 1.0, refractory=Refractory.from_n_ref(3)))
    trace = run(Network.stack({"x": Input((1,)), "h": neurons}), torch.full((1, 7, 1), 4.0))
    assert trace["h"].spikes.flatten().tolist() == [1, 0, 0, 1, 0, 0, 1]
    assert trace["h"].refractory.flatten().tolist() == [0, 2, 1, 0, 2, 1, 0]  # type: ignore[union-attr]


def test_pooling_keeps_its_module() -> None:
    pools: dict[Pooling, type[nn.Module]] = {Pooling.MAX: nn.MaxPool2d, Pooling.MEAN: nn.AvgPool2d}
    for how, kind in pools.items():
        network = Network.stack({"x": Input((1, 4, 4)), "pool": Pool(how, (2, 2))})
        assert type(to_snntorch(network)["pool"]) is kind
