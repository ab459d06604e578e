"""Brian2 runs our networks with our spikes, bit for bit where no sum is rounded; what is built is read back equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.adapters import brian2 as adapter
from ovonic.adapters.brian2 import from_brian2, run, to_brian2, unsupported
from ovonic.models import lif, simulation
from ovonic.models.dynamics import Comparison, Dynamics, NoReset, Refractory, ResetToValue, decay_from_tau
from ovonic.models.errors import ConfigError, ToolchainError, UnsupportedDynamics
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.trace import Trace

from .brian2_cases import FEATURES, N, inputs, network, pairwise

b2 = pytest.importorskip("brian2", reason="needs Brian2: pip install 'ovonic[brian2]'")
pytestmark = pytest.mark.toolchain

CHOICES = pairwise()


def same(ours: Trace, theirs: Trace) -> None:
    """Every number of two runs, bit for bit."""
    assert list(ours.layers) == list(theirs.layers)
    for name, layer in ours.layers.items():
        for part in ("spikes", "membrane", "refractory", "adaptation"):
            a, b = getattr(layer, part), getattr(theirs[name], part)
            assert (a is None) == (b is None), (name, part)
            assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), (name, part)
    assert list(ours.readouts) == list(theirs.readouts)
    for name, readout in ours.readouts.items():
        assert readout.dtype == theirs.readouts[name].dtype
        assert torch.equal(readout, theirs.readouts[name]), name


@pytest.fixture
def plain_step_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own stepping is out of reach: whoever calls it fails."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("Brian2's run called our own step")

    for module, name in ((lif, "step"), (lif, "unroll"), (simulation, "unroll"), (simulation, "run")):
        monkeypatch.setattr(module, name, never)


def trainee(seed: int, n_in: int = 100, n: int = 250) -> Network:
    """The robot's trainee with random weights."""
    rng = np.random.default_rng(seed)
    return Network.stack(
        {
            "x": Input((n_in,)),
            "w_in": Linear(rng.normal(0, 2.5 / np.sqrt(n_in), (n_in, n))),
            "hidden": Spiking(
                Dynamics(decay_from_tau(20, 1), 0.615, refractory=Refractory.from_n_ref(5)),
                Recurrence(rng.normal(0, 1 / np.sqrt(n), (n, n)), masked_diagonal=True),
            ),
            "w_out": Linear(rng.normal(0, 0.1, (n, 2))),
            "out": Readout(decay_from_tau(20, 1)),
        }
    )


def spikes_in(seed: int, steps: int, batch: int = 1, n_in: int = 100, rate: float = 0.05) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand((batch, steps, n_in), generator=generator) < rate).double()


# ------------------------------------------------------------------------------------------------ running


@pytest.mark.parametrize("part", range(4))
def test_all_pairs_of_features_run_with_our_numbers(part: int) -> None:
    """Exact arithmetic, ties included: float32 in every second network, for it holds fewer steps without rounding."""
    fired = 0.0
    for k in range(part, len(CHOICES), 4):
        steps, dtype = ((14, torch.float64), (7, torch.float32))[k // 4 % 2]
        net = network(CHOICES[k], k)
        x = inputs(net, CHOICES[k], k, steps, dtype)
        ours = simulation.run(net, x)
        same(ours, run(net, x))
        fired += float(ours["hidden"].spikes.mean())
        assert from_brian2(to_brian2(net)) == net, CHOICES[k]
    assert fired / len(range(part, len(CHOICES), 4)) > 0.1


def test_the_choices_cover_all_pairs() -> None:
    names = list(FEATURES)
    for a in names:
        for b in names[names.index(a) + 1 :]:
            met = {(repr(c[a]), repr(c[b])) for c in CHOICES}
            assert len(met) == len(FEATURES[a]) * len(FEATURES[b])


@pytest.mark.parametrize("comparison", Comparison)
def test_ties_are_decided_by_the_comparison(comparison: Comparison) -> None:
    """A drive of a half into a perfect integrator of threshold 1: every second step is a tie."""
    dynamics = Dynamics(1.0, 1.0, comparison=comparison, reset=ResetToValue(0.0))
    net = Network.stack({"x": Input((1,)), "w": Linear([[0.5]]), "n": Spiking(dynamics)})
    x = torch.ones(1, 12, 1, dtype=torch.float64)
    expected = 6 if comparison is Comparison.GREATER_EQUAL else 4
    assert run(net, x)["n"].spikes.sum() == expected
    same(simulation.run(net, x), run(net, x))


def test_the_golden_recipe() -> None:
    """The dynamics of FACTS 5 in float64: N = 250, 100 inputs, 500 steps; spikes identical, membranes to rounding."""
    net, x = trainee(0), spikes_in(1, 500)
    ours, theirs = simulation.run(net, x), run(net, x)
    assert ours["hidden"].spikes.sum() > 3000
    assert torch.equal(ours["hidden"].spikes, theirs["hidden"].spikes)
    assert torch.equal(ours["hidden"].refractory, theirs["hidden"].refractory)  # type: ignore[arg-type]
    assert (ours["hidden"].membrane - theirs["hidden"].membrane).abs().max() < 1e-12
    assert (ours.readout - theirs.readout).abs().max() < 1e-12


def test_the_golden_recipe_as_brian2_users_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """FACTS 5 to the letter, run by Brian2 with a SpikeMonitor, read, and run by our plain step."""
    monkeypatch.setitem(b2.prefs, "codegen.target", "numpy")
    net, x = trainee(0), spikes_in(1, 500)
    w_in, w_rec = (net.weights()[name] for name in ("w_in.weight", "hidden.recurrence"))
    decay = decay_from_tau(20, 1)
    names = {"thr": 0.615, "decay": decay, "tau": -1 / np.log(decay) * b2.ms}
    clock = b2.Clock(1 * b2.ms, name="clock")
    step, index = np.nonzero(x[0].numpy())
    source = b2.SpikeGeneratorGroup(100, index, step * b2.ms, clock=clock, when="start", name="x")
    more = {"threshold": "v>thr", "reset": "v-=thr/decay", "refractory": 5 * b2.ms, "method": "exact"}
    neurons = b2.NeuronGroup(250, "dv/dt=-v/tau:1", clock=clock, name="hidden", **more)
    made = []
    for name, before, weight in (("w_in", source, w_in), ("back", neurons, w_rec * (1 - np.eye(250)))):
        synapses = b2.Synapses(before, neurons, "w:1", on_pre="v_post+=w", clock=clock, name=name)
        synapses.connect()
        synapses.w = weight.ravel()
        made.append(synapses)
    native = b2.Network(source, neurons, *made, name="recipe")
    native.schedule = ["start", "groups", "synapses", "thresholds", "resets", "end"]
    read = from_brian2(native, names)
    monitor = b2.SpikeMonitor(neurons, name="monitor")
    native.add(monitor)
    native.run(500 * b2.ms, namespace=names)
    theirs = np.zeros((500, 250))
    theirs[np.round(monitor.t / b2.ms).astype(int), monitor.i] = 1
    for ours in (simulation.run(read, x), simulation.run(net, x)):
        assert np.array_equal(ours["hidden"].spikes[0].numpy(), theirs)


def test_its_own_code_does_the_stepping(plain_step_raises: None) -> None:
    assert run(trainee(2, 20, 30), spikes_in(2, 40, 2, 20, 0.3))["hidden"].spikes.sum() > 0
    from_brian2(to_brian2(trainee(2, 20, 30)))


def test_samples_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side, or in parts where their synapses would be too many."""
    net, x = trainee(3, 20, 30), spikes_in(3, 50, 4, 20, 0.3)
    together = run(net, x)
    monkeypatch.setattr(adapter, "MOST_SYNAPSES", 1)
    apart = run(net, x)
    assert not torch.equal(x[0], x[1])
    same(together, apart)


def test_names_that_brian2_forbids_and_a_step_that_is_no_round_number() -> None:
    layers = {
        "1-in": Input((2,)),
        "w,": Linear([[0.5, 1.0], [0.75, 0.25]]),
        "a_pre": Spiking(Dynamics(0.5, 0.5)),
        "w;": Linear([[1.0, 0.5]] * 2),
        "a_spike_resetter": Spiking(Dynamics(0.5, 0.75)),
    }
    net = Network.stack(layers, dt_ms=0.3)
    x = spikes_in(4, 20, 2, 2, 0.7)
    same(simulation.run(net, x), run(net, x))
    assert from_brian2(to_brian2(net)) == net


def test_several_inputs_by_name() -> None:
    layers = {"a": Input((2,)), "b": Input((2,)), "n": Spiking(Dynamics(0.5, 0.5))}
    net = Network(layers, (Edge("a", "n"), Edge("b", "n", 1)))
    x = {"a": spikes_in(5, 20, 2, 2, 0.5), "b": spikes_in(6, 20, 2, 2, 0.5)}
    same(simulation.run(net, x), run(net, x))
    assert from_brian2(to_brian2(net)) == net


def test_the_native_network_runs_in_its_own_idiom(monkeypatch: pytest.MonkeyPatch) -> None:
    """``to_brian2`` gives a Brian2 Network: the user adds monitors and runs it."""
    net, x = trainee(7, 20, 30), spikes_in(7, 60, 1, 20, 0.3)
    native = to_brian2(net, x)
    assert isinstance(native, b2.Network)
    monitor = b2.SpikeMonitor(native["hidden"], name="mine")
    native.add(monitor)
    monkeypatch.setitem(b2.prefs, "codegen.target", "numpy")
    native.run(60 * b2.ms)
    z = np.zeros((60, 30))
    z[np.round(monitor.t / b2.ms).astype(int), monitor.i] = 1
    assert np.array_equal(z, simulation.run(net, x)["hidden"].spikes[0].numpy())


@pytest.mark.slow
def test_compiled_code() -> None:
    choice = CHOICES[0] | {"recurrence": "hollow", "second": "none", "edges": "linear"}
    net = network(choice, 0)
    x = inputs(net, choice, 0, 14, torch.float64)
    same(simulation.run(net, x), run(net, x, target="cython"))


# ------------------------------------------------------------------------------------------------ traps


def test_code_that_does_not_compile_is_not_left_out_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brian2 2.10.1 goes on without the code where Cython fails (``i != j`` in on_pre did): an error here."""
    from brian2.codegen.runtime.cython_rt.extension_manager import cython_extension_manager

    monkeypatch.setattr(cython_extension_manager, "create_extension", lambda *_, **__: None)
    with pytest.raises(ToolchainError, match="did not compile"):
        run(trainee(0, 2, 2), torch.zeros(1, 3, 2), target="cython")


@pytest.fixture
def code_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names and texts of the code objects that Brian2 makes."""
    from brian2.codegen.runtime.numpy_rt import numpy_rt

    made: list[str] = []
    original = numpy_rt.NumpyCodeObject.__init__

    def noting(self: Any, owner: Any, code: Any, *args: Any, **more: Any) -> None:
        original(self, owner, code, *args, **more)
        made.extend(str(text) for text in dict(code).values())

    monkeypatch.setattr(numpy_rt.NumpyCodeObject, "__init__", noting)
    return made


def test_automatic_names_would_compile_anew(code_names: list[str]) -> None:
    """FACTS 5's trap: a second run, and another network of the same kind, make no code that the first did not make."""
    run(trainee(8, 20, 30), spikes_in(8, 10, 2, 20))
    first = set(code_names)
    code_names.clear()
    run(trainee(9, 20, 30), spikes_in(9, 12, 2, 20))
    assert len(first) > 10
    assert set(code_names) <= first


@pytest.mark.parametrize("fails", [False, True])
def test_the_users_preferences_come_back(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(b2.prefs, "codegen.target", "cython")
    monkeypatch.setitem(b2.prefs, "legacy.refractory_timing", True)
    net, x = trainee(10, 5, 4), spikes_in(10, 30, 1, 5, 0.5)
    if fails:
        monkeypatch.setattr(adapter, "build", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(net, x)
    else:
        assert torch.equal(simulation.run(net, x)["hidden"].spikes, run(net, x)["hidden"].spikes)
    assert (b2.prefs["codegen.target"], b2.prefs["legacy.refractory_timing"]) == ("cython", True)


def test_refractoriness_in_the_legacy_timing_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(b2.prefs, "legacy.refractory_timing", True)
    with pytest.raises(UnsupportedDynamics, match=r"legacy\.refractory_timing"):
        from_brian2(to_brian2(trainee(0, 2, 2)))


def test_an_unknown_target() -> None:
    with pytest.raises(ConfigError, match="'cuda'"):
        run(trainee(0, 2, 2), torch.zeros(1, 2, 2), target="cuda")


def test_a_device_that_builds_standalone_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(b2, "get_device", lambda: object())
    with pytest.raises(ToolchainError, match="runtime"):
        to_brian2(trainee(0, 2, 2))


# ------------------------------------------------------------------------------------------------ round trips

FINITE = st.floats(-1e3, 1e3)
DECAY = st.floats(0, 1) | st.sampled_from([0.0, 1.0, decay_from_tau(20, 1)])


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any structure of ``brian2_cases`` with any numbers."""
    net = network({name: draw(st.sampled_from(options)) for name, options in FEATURES.items()}, draw(st.integers(0, 9)))
    weights = {
        name: np.array(draw(st.lists(FINITE, min_size=array.size, max_size=array.size))).reshape(array.shape)
        for name, array in net.weights().items()
    }
    layers: dict[str, Any] = dict(net.with_weights(weights).layers)
    hidden = layers["hidden"]
    decay = draw(DECAY | st.lists(DECAY, min_size=N, max_size=N))
    numbers = {"decay": decay, "threshold": draw(st.floats(0.5, 1e3)), "v_init": draw(FINITE)}
    layers["hidden"] = hidden.replace(dynamics=hidden.dynamics.replace(**numbers))
    return net.replace(layers=layers, dt_ms=draw(st.sampled_from([1.0, 0.1, 0.3, 1 / 3, 2.0])))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(networks())
def test_what_is_written_is_read_back_equal(net: Network) -> None:
    assert unsupported(net) == []
    assert from_brian2(to_brian2(net)) == net


# ------------------------------------------------------------------------------------------------ refusals

LINE = Spiking(Dynamics(0.5, 1.0, reset=NoReset()))
SQUARE = Linear(np.eye(2))


@pytest.mark.parametrize(
    ("layers", "edges", "message"),
    [
        ({"x": Input((1, 4)), "c": Conv(np.ones((1, 1, 2))), "f": Flatten(), "n": LINE}, None, "layer 'c', Conv"),
        ({"x": Input((1, 4)), "p": Pool(Pooling.MAX, (2,)), "f": Flatten(), "n": LINE}, None, "layer 'p', Pool"),
        ({"x": Input((1, 4)), "f": Flatten(), "n": LINE}, None, "layer 'f', Flatten"),
        ({"x": Input((1, 4)), "n": LINE}, None, r"layer 'n', shape \(1, 4\)"),
        ({"x": Input((2,)), "a": SQUARE, "b": SQUARE, "n": LINE}, None, "multiply the two matrices"),
        ({"x": Input((2,)), "r": Readout(0.5), "n": LINE}, None, "not a membrane"),
        (
            {"x": Input((2,)), "w": SQUARE, "n": LINE, "m": LINE},
            [("x", "w"), ("w", "n"), ("w", "m")],
            "layer 'w', Linear: 2 edges lead from it",
        ),
        (
            {"x": Input((2,)), "y": Input((2,)), "w": SQUARE, "n": LINE},
            [("x", "w"), ("y", "w"), ("w", "n")],
            "layer 'w', Linear: it reads several",
        ),
        (
            {"x": Input((2,)), "w": Linear(np.eye(2), np.ones(2)), "n": LINE},
            [("x", "w"), ("w", "n", 1)],
            r"layer 'w', Linear\.bias",
        ),
    ],
)
def test_refusals_by_name(layers: dict[str, Any], edges: Any, message: str) -> None:
    net = Network.stack(layers) if edges is None else Network(layers, edges)
    assert unsupported(net)
    for call in (lambda: to_brian2(net), lambda: run(net, torch.zeros(1, 2, 2, dtype=torch.float64))):
        with pytest.raises(UnsupportedDynamics, match=message):
            call()


def test_half_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="float64 or float32"):
        run(trainee(0, 2, 2), torch.zeros(1, 2, 2, dtype=torch.float16))


def test_what_was_changed_after_building_is_not_taken_for_ours() -> None:
    """Read are native fields: changed weights come back changed, and other code is refused by name."""
    net = trainee(0, 3, 2)
    native = to_brian2(net)
    native["w_in"].w = 0.25
    weights: Any = from_brian2(native).layers["w_in"]
    assert (weights.weight == 0.25).all()
    native["hidden"].run_regularly("v = 0", clock=native["hidden"].clock, name="meddles")
    with pytest.raises(UnsupportedDynamics, match="Brian2"):
        from_brian2(native)
