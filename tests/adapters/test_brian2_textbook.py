"""Networks written and run in Brian2's own idiom, read by ``from_brian2``: our plain step gives Brian2's spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from ovonic.adapters.brian2 import from_brian2
from ovonic.models.dynamics import Comparison, Refractory, SubtractThreshold, When
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Linear, Readout
from ovonic.models.network import Network
from ovonic.models.simulation import run

b2 = pytest.importorskip("brian2", reason="needs Brian2: pip install 'ovonic[brian2]'")
pytestmark = pytest.mark.toolchain

DEFAULT = ["start", "groups", "thresholds", "synapses", "resets", "end"]
SAME_STEP = ["start", "groups", "synapses", "thresholds", "resets", "end"]
FIRST = ["start", "synapses", "groups", "thresholds", "resets", "end"]
N_IN, N, T = 12, 10, 120
LEAK = "dv/dt = (v_rest - v)/tau : 1"
UNLESS = f"{LEAK} (unless refractory)"
CURRENT = "dv/dt = (v_rest - v + R*I)/tau : 1\ndI/dt = -I/tau_syn : 1"


@pytest.fixture(autouse=True)
def numpy_target() -> Iterator[None]:
    """Brian2's interpreted code, so that nothing is compiled, and no warnings of networks that are only read."""
    before = b2.prefs["codegen.target"], b2.prefs["logging.warn_for_unused_objects"]
    b2.prefs["codegen.target"], b2.prefs["logging.warn_for_unused_objects"] = "numpy", False
    yield
    b2.prefs["codegen.target"], b2.prefs["logging.warn_for_unused_objects"] = before


def users(
    model: str = LEAK,
    reset: str = "v = v_reset",
    schedule: list[str] = DEFAULT,
    refractory: Any = False,
    method: Any = "exact",
    delay: int = 0,
    threshold: str = "v > v_th",
    recurrent: bool = True,
    generator: str = "thresholds",
    seed: int = 0,
    **more: Any,
) -> tuple[Any, torch.Tensor, dict[str, Any]]:
    """A user's network, its input spikes [1, T, N_IN], and the names it uses."""
    rng = np.random.default_rng(seed)
    dt = 0.5 * b2.ms
    clock = b2.Clock(dt, name="clock")
    names = {"tau": 10 * b2.ms, "tau_syn": 4 * b2.ms, "v_th": 1.0, "v_rest": 0.05, "v_reset": -0.1, "R": 2.5} | more
    names["decay"] = float(np.exp(-float(dt / names["tau"])))
    x = rng.random((T, N_IN)) < 0.08
    step, index = np.nonzero(x)
    source = b2.SpikeGeneratorGroup(N_IN, index, step * dt, clock=clock, when=generator, name="source")
    neurons = b2.NeuronGroup(
        N, model, threshold=threshold, reset=reset, refractory=refractory, method=method, clock=clock, name="neurons"
    )
    neurons.v = rng.uniform(0, 0.3, N)
    onto = "I" if "dI/dt" in model else "v"
    feed = b2.Synapses(source, neurons, "w : 1", on_pre=f"{onto}_post += w", clock=clock, name="feed")
    feed.connect(p=0.8)
    feed.w = rng.normal(0.4, 0.3, len(feed))
    objects = [source, neurons, feed]
    if recurrent:
        back = b2.Synapses(neurons, neurons, "w : 1", on_pre=f"{onto} += w", delay=delay * dt, clock=clock, name="back")
        back.connect(condition="i != j")
        back.w = rng.normal(0, 0.25, len(back))
        objects.append(back)
    net = b2.Network(*objects, name="users")
    net.schedule = schedule
    return net, torch.tensor(x[None], dtype=torch.float64), names


def same_spikes(net: Any, x: torch.Tensor, names: dict[str, Any], least: float = 0.01) -> Network:
    """Read the network, let Brian2 run it, and compare its spikes with ours; the network."""
    ours = from_brian2(net, names)
    monitor = b2.SpikeMonitor(net["neurons"], name="monitor")
    net.add(monitor)
    dt = net["neurons"].clock.dt
    net.run(T * dt, namespace=names)
    theirs = np.zeros((T, N))
    theirs[np.round(monitor.t / dt).astype(int), monitor.i] = 1
    spikes = run(ours, x)["neurons"].spikes[0].numpy()
    assert theirs.mean() > least
    assert np.array_equal(spikes, theirs)
    return ours


SCHEDULES = pytest.mark.parametrize(
    "schedule", [DEFAULT, SAME_STEP, FIRST], ids=["default", "same step", "synapses first"]
)


@SCHEDULES
@pytest.mark.parametrize("refractory", [0, 3])
@pytest.mark.parametrize("reset", ["v = v_reset", "v -= v_th"])
def test_spikes_of_the_textbook_neuron(schedule: list[str], reset: str, refractory: int) -> None:
    """Recurrent, fed by a SpikeGeneratorGroup."""
    same_spikes(*users(reset=reset, schedule=schedule, refractory=refractory * 0.5 * b2.ms if refractory else False))


@SCHEDULES
@pytest.mark.parametrize("n_ref", [0, 1, 4])
def test_frozen_and_reset_to_a_value(schedule: list[str], n_ref: int) -> None:
    network = same_spikes(*users(UNLESS, schedule=schedule, refractory=n_ref * 0.5 * b2.ms))
    late = schedule is not SAME_STEP  # the input of one step more is lost
    dynamics: Any = network.layers["neurons"]
    assert dynamics.dynamics.refractory == Refractory(max(n_ref, 1) if late else max(n_ref - 1, 0), frozen=True)


def test_frozen_and_reset_by_subtraction() -> None:
    same_spikes(*users(UNLESS, "v -= v_th", SAME_STEP, 2 * b2.ms))


@pytest.mark.parametrize("n_ref", [0, 5])
def test_the_robot_trainee_written_in_brian2(n_ref: int) -> None:
    """FACTS 5: input at the start of a step, decay, input, comparison, and the threshold is taken off in the next."""
    net, x, names = users(
        "dv/dt = -v/tau : 1", "v -= v_th/decay", SAME_STEP, n_ref * 0.5 * b2.ms, generator="start", v_th=0.615
    )
    network = same_spikes(net, x, names)
    layer: Any = network.layers["neurons"]
    dynamics = layer.dynamics
    assert dynamics.reset == SubtractThreshold(When.NEXT_AFTER_INPUT)
    assert (dynamics.gain, dynamics.threshold, dynamics.rest) == (1.0, 0.615, 0.0)
    assert dynamics.refractory == Refractory.from_n_ref(n_ref)
    assert layer.recurrence.delay == 1
    assert [edge.delay for edge in network.edges] == [0, 0]


def test_the_default_schedule_does_not_integrate_in_the_same_step() -> None:
    """A recipe for the same step gives other spikes under Brian2's own schedule (FACTS: 0 of 10), which is read."""
    net, x, names = users(reset="v -= v_th", generator="start", v_rest=0.0)
    network = same_spikes(net, x, names)
    layer: Any = network.layers["neurons"]
    assert layer.dynamics.gain == layer.dynamics.decay
    assert [edge.delay for edge in network.sources("feed")] == [1]
    assert layer.recurrence.delay == 1
    recipe = layer.dynamics.replace(gain=1.0, reset=SubtractThreshold(When.NEXT_AFTER_INPUT))
    other = network.replace(
        layers=dict(network.layers) | {"neurons": layer.replace(dynamics=recipe)},
        edges=tuple(edge._replace(delay=0) for edge in network.edges),
    )
    assert not torch.equal(run(other, x)["neurons"].spikes, run(network, x)["neurons"].spikes)


@SCHEDULES
@pytest.mark.parametrize("method", ["exact", "euler"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_synaptic_current(schedule: list[str], method: str, frozen: bool) -> None:
    model = CURRENT.replace("1\n", "1 (unless refractory)\n") if frozen else CURRENT
    same_spikes(*users(model, schedule=schedule, method=method, refractory=1.5 * b2.ms, R=4.0))


def test_a_current_of_the_membranes_own_time_constant() -> None:
    same_spikes(*users(CURRENT.replace("tau_syn", "tau"), R=1.5))


@pytest.mark.parametrize("method", [("exact", "euler", "heun"), "linear", "euler"])
def test_methods(method: Any) -> None:
    same_spikes(*users(method=method, reset="v -= v_th"))


@SCHEDULES
@pytest.mark.parametrize("generator", ["start", "thresholds", "end"])
@pytest.mark.parametrize("delay", [0, 3])
def test_delays_follow_from_the_order_of_a_step(schedule: list[str], generator: str, delay: int) -> None:
    same_spikes(*users(schedule=schedule, generator=generator, delay=delay, seed=delay))


def test_feed_forward_perfect_integrators_without_an_equation() -> None:
    network = same_spikes(*users("v : 1", recurrent=False))
    layer: Any = network.layers["neurons"]
    assert (layer.dynamics.decay, layer.dynamics.rest) == (1.0, 0.0)


def test_numbers_of_each_neuron_units_and_subexpressions() -> None:
    """Volts are 1; v >= threshold; weights that are expressions of i and j; multapses add up."""
    rng = np.random.default_rng(1)
    dt = 0.1 * b2.ms
    clock = b2.Clock(dt, name="clock")
    step, index = np.nonzero(x := rng.random((T, N_IN)) < 0.3)
    source = b2.SpikeGeneratorGroup(N_IN, index, step * dt, clock=clock, name="source")
    model = """dv/dt = drive/tau : volt
    drive = E_L - v : volt
    tau : second (constant)
    theta : volt (constant)
    period : second"""
    more = {"threshold": "v >= theta", "reset": "v = E_L - 5*mV", "refractory": "period", "method": "exact"}
    neurons = b2.NeuronGroup(N, model, clock=clock, name="neurons", **more)
    neurons.tau, neurons.theta = rng.uniform(5, 20, N) * b2.ms, rng.uniform(-58, -50, N) * b2.mV
    neurons.period, neurons.v = rng.integers(0, 5, N) * 0.1 * b2.ms, -65 * b2.mV
    feed = b2.Synapses(source, neurons, on_pre="v += (1 + 0.1*i - 0.05*j)*mV", clock=clock, name="feed")
    feed.connect(i=rng.integers(0, N_IN, 150), j=rng.integers(0, N, 150))
    names = {"E_L": -65 * b2.mV}
    net = b2.Network(source, neurons, feed, name="users")
    network = same_spikes(net, torch.tensor(x[None], dtype=torch.float64), names)
    dynamics: Any = network.layers["neurons"]
    assert dynamics.dynamics.comparison is Comparison.GREATER_EQUAL
    assert dynamics.dynamics.rest == pytest.approx(-0.065)
    assert np.ptp(dynamics.dynamics.decay) > 0
    assert network.dt_ms == pytest.approx(0.1)


def test_a_readout_and_a_poisson_group() -> None:
    """A group without a threshold is a read-out, its membrane at the end of a step; names come from the caller."""
    tau = 10 * b2.ms
    source = b2.PoissonGroup(N_IN, 300 * b2.Hz, name="source")
    out = b2.NeuronGroup(2, "dv/dt = -v/tau : 1", method="exact", name="out")
    feed = b2.Synapses(source, out, "w : 1 (constant)", on_pre="v_post += w", name="feed")
    feed.connect()
    feed.w = "0.25*(1 + i + j)"
    network = from_brian2(net := b2.Network(source, out, feed, name="users"))
    assert isinstance(network.layers["out"], Readout)
    assert isinstance(network.layers["feed"], Linear)
    spikes, states = b2.SpikeMonitor(source, name="spikes"), b2.StateMonitor(out, "v", True, when="end", name="states")
    net.add(spikes, states)
    net.run(20 * b2.ms, namespace={"tau": tau})
    x = np.zeros((1, 200, N_IN))
    x[0, np.round(spikes.t / b2.defaultclock.dt).astype(int), spikes.i] = 1
    assert x.sum() > 10
    ours = run(network, torch.tensor(x)).readout[0].numpy()
    assert np.abs(ours - np.asarray(states.v).T).max() < 1e-12


# ------------------------------------------------------------------------------------------------ refusals


def changed(**change: Any) -> Callable[[], Any]:
    return lambda: users(**change)


def with_more(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def build() -> Any:
        net, x, names = users()
        net.add(make(net))
        return net, x, names

    return build


def _operation(net: Any) -> Any:
    return b2.NetworkOperation(lambda: None, clock=net["neurons"].clock, name="meddles")


def _stdp(net: Any) -> Any:
    plastic = b2.Synapses(
        net["source"],
        net["neurons"],
        "w : 1",
        on_pre="v_post += w",
        on_post="w += 0.1",
        clock=net["neurons"].clock,
        name="stdp",
    )
    plastic.connect()
    return plastic


def _synapses(model: str = "w : 1", on_pre: str = "v_post += w", delays: bool = False) -> Callable[[Any], Any]:
    def make(net: Any) -> Any:
        made = b2.Synapses(net["source"], net["neurons"], model, on_pre=on_pre, clock=net["neurons"].clock, name="odd")
        made.connect()
        if delays:
            made.delay = "i*ms"
        return made

    return make


def _part(net: Any) -> Any:
    part = net["neurons"][:3]
    made = b2.Synapses(net["source"], part, on_pre="v_post += 1", clock=net["neurons"].clock, name="odd")
    made.connect()
    net.kept = part  # synapses hold it by a weak reference
    return made


def _regular() -> Any:
    net, x, names = users()
    net["neurons"].run_regularly("v += 0.1", dt=0.5 * b2.ms, name="noise")
    net["neurons"].contained_objects[-1]._clock = net["neurons"].clock
    return net, x, names


def _ran() -> Any:
    net, x, names = users()
    net.run(0.5 * b2.ms, namespace=names)
    return net, x, names


def _off() -> Any:
    net, x, names = users()
    net["back"].pre.active = False
    return net, x, names


def _charged() -> Any:
    net, x, names = users(CURRENT)
    net["neurons"].I = 0.5
    return net, x, names


CONDUCTANCE = "dv/dt = (v_rest - v + g*(E - v))/tau : 1\ndg/dt = -g/tau_syn : 1"
ADEX = "dv/dt = (v_rest - v + exp(v) - u)/tau : 1\ndu/dt = (v - u)/tau_syn : 1"
IZHIKEVICH = "dv/dt = (0.04*v**2 + 5*v + 140 - u)/ms : 1\ndu/dt = (v - u)/tau_syn : 1"
TWO = "dv/dt = (v_rest - v + g + h)/tau : 1\ndg/dt = -g/tau_syn : 1\ndh/dt = -h/tau_syn : 1"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (changed(model=CONDUCTANCE, method="euler"), "conductance"),
        (changed(model=ADEX, method="euler"), "not linear in v .AdEx"),
        (changed(model=IZHIKEVICH, method="euler"), "not linear in v .AdEx, Izhikevich"),
        (changed(model=f"{LEAK[:-4]} + xi*tau**-0.5 : 1", method="euler"), "noise .xi"),
        (changed(model="dv/dt = (v_rest + sin(t/ms) - v)/tau : 1", method="euler"), "'t' is no constant"),
        (changed(model=TWO), "2 variables beside the membrane"),
        (changed(model="dv/dt = 1/tau : 1"), "a constant drift"),
        (changed(model="dv/dt = v/tau : 1"), "grows"),
        (changed(method="rk4"), "method 'rk4'"),
        (changed(method="euler", tau=0.1e-3 * b2.second), "too long"),
        (changed(threshold="v > v_th and i > 2"), "threshold 'v > v_th and i > 2'"),
        (changed(threshold="v > v_th + t/ms"), "'t' is no constant"),
        (changed(threshold="v > rand()"), "rand.{4} is not constant"),
        (changed(reset="v = v_reset; I = 0", model=CURRENT), "'I = 0'"),
        (changed(reset="v *= 0.5"), "scales the membrane"),
        (changed(reset="v -= 0.3*v_th"), "subtracts neither"),
        (changed(reset="v -= v_th/decay", method="euler", schedule=SAME_STEP), "subtracts neither"),
        (changed(model=UNLESS, reset="v -= v_th", refractory=1 * b2.ms), "one step longer"),
        (changed(model=UNLESS, reset="v -= v_th/decay", schedule=SAME_STEP, refractory=1 * b2.ms), "neither"),
        (changed(refractory="v > 0.2"), "'v' is no constant"),
        (changed(schedule=["start", "thresholds", "groups", "synapses", "resets", "end"]), "do not run in this order"),
        (with_more(_operation), "'meddles'"),
        (with_more(_stdp), "STDP"),
        (with_more(_synapses("dw/dt = -w/ms : 1 (clock-driven)")), "'w' changes with time"),
        (with_more(_synapses(on_pre="v_post = w")), "on_pre 'v_post = w'"),
        (with_more(_synapses(on_pre="w += 1")), "only 'v' of 'neurons' may be raised"),
        (with_more(_synapses(on_pre="v_post += w*v_post")), "is no constant"),
        (with_more(_synapses(delays=True)), "delays of 0, 2, 4, 6"),
        (with_more(_part), "is a part of a group"),
        (_regular, "'noise'.*v \\+= 0.1"),
        (_ran, "has run until"),
        (_off, "switched off"),
        (_charged, "'I' does not start at 0"),
    ],
)
def test_refusals_name_what_is_not_read(build: Callable[[], Any], message: str) -> None:
    net, _, names = build()
    with pytest.raises(UnsupportedDynamics, match=message):
        from_brian2(net, names)


def test_synapses_at_two_places_of_a_step() -> None:
    net, _, names = users()
    net["feed"].pre.when = "groups"
    net["feed"].pre.order = 1
    with pytest.raises(UnsupportedDynamics, match="between comparison and reset and between update and comparison"):
        from_brian2(net, names)


def test_an_unknown_name() -> None:
    net, _, names = users()
    del names["tau"]
    with pytest.raises(ConfigError, match="'tau' is unknown"):
        from_brian2(net, names)


def test_groups_that_feed_each_other() -> None:
    net, _, names = users()
    others = b2.NeuronGroup(
        N, LEAK, threshold="v > v_th", reset="v = 0", method="exact", clock=net["neurons"].clock, name="others"
    )
    there = b2.Synapses(net["neurons"], others, on_pre="v += 1", clock=others.clock, name="there")
    back = b2.Synapses(others, net["neurons"], on_pre="v += 1", clock=others.clock, name="again")
    there.connect()
    back.connect()
    net.add(others, there, back)
    with pytest.raises(ConfigError, match="cycle"):
        from_brian2(net, names)
