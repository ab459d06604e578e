"""Learning rules on the toolchains' own neurons: the same spikes, updates and gradients as on our engines."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.adapters.engines import BACKENDS, engine
from ovonic.models import engine as fast
from ovonic.models import engine_kernels, lif, simulation
from ovonic.models.engine import run_fast
from ovonic.models.errors import ConfigError, ToolchainError
from ovonic.models.lif import EPROP, PUBLISHED, Paths
from ovonic.models.natural_eprop import InnerLoop, Lesson, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.network import Network
from ovonic.models.outer_loss import outer_loss
from ovonic.models.simulation import run
from ovonic.models.surrogates import ArcTan, Surrogate, Triangular
from ovonic.models.trace import Trace
from ovonic.tasks.robot import Robot, kinematics
from ovonic.tasks.robot_training import TRAINING_FROM, RobotTrainingConfig, RobotTrainingState, robot_train
from ovonic.tasks.trajectories import sample_trajectories

from .snntorch_cases import N_IN, every_pair, network_of, spikes_in

pytestmark = pytest.mark.toolchain
snn = pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
pytest.importorskip("norse", reason="needs Norse: pip install 'ovonic[norse]'")

TOOLCHAINS = tuple(name for name in BACKENDS if name != "ovonic")
EVERY_PATH = [Paths(*values) for values in itertools.product((True, False), repeat=4)]
SMALL = NaturalEPropConfig(clock=5, target=8, trainee=12, outputs=2, lsg_lif=9, lsg_alif=8)
TINY = RobotTrainingConfig(
    NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10, dt_ms=10.0),
    InnerLoop(1e-2, 1 / 16),
    steps=20,
    batch=3,
    log_every=1,
    validate_every=20,
    validation_trajectories=2,
)
backends = pytest.mark.parametrize("backend", TOOLCHAINS)


def _loss(trace: Trace) -> Tensor:
    """Of every spike, membrane, adaptation and read-out, each with a weight of its own."""
    total = torch.zeros((), dtype=torch.float64)
    values = [(trace["h"].spikes, 1.0), (trace["h"].membrane, 0.1), (trace["h"].adaptation, 0.3)]
    for value, scale in [*values, *((value, 1.0) for value in trace.readouts.values())]:
        if value is not None:
            mix = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value).mul(7).sin()
            total = total + scale * (mix * value).sum()
    return total


def _differentiated(
    run: Callable[..., Trace], network: Network, x: Tensor, surrogate: Surrogate, paths: Paths, own: bool
) -> tuple[Trace, list[Tensor]]:
    x = x.clone().requires_grad_()
    leaves = {name: torch.tensor(w) for name, w in network.weights().items()}
    if own:
        leaves = {
            name: w if name.endswith("bias") else torch.stack([(1 + k / 8) * w for k in range(len(x))])
            for name, w in leaves.items()
        }
    leaves = {name: w.requires_grad_() for name, w in leaves.items()}
    trace = run(network, x, leaves, surrogate, paths)
    gradients = torch.autograd.grad(_loss(trace), [x, *leaves.values()], allow_unused=True)
    return trace, [torch.zeros(()) if g is None else g for g in gradients]


@backends
def test_every_option_of_dynamics_with_every_choice_of_paths(backend: str) -> None:
    """Spikes and gradients of the plain step, over many pairs of two options."""
    spiked, moved = 0, 0
    for seed, choice in enumerate(itertools.islice(every_pair(), 24)):
        own = seed % 3 == 0 and not choice["recurrence"].startswith("one to one")
        network, x = network_of(choice, seed, dyadic=False), spikes_in((N_IN,), seed, torch.float64, batch=2, steps=12)
        surrogate = (Triangular(0.3), Triangular(0.8), ArcTan())[seed % 3]
        case = (network, x, surrogate, EVERY_PATH[seed % 16], own)
        theirs, due = _differentiated(engine(backend), *case)
        ours, expected = _differentiated(run, *case)
        assert torch.equal(theirs["h"].spikes, ours["h"].spikes), choice
        for name in ("membrane", "refractory", "adaptation"):
            there, here = getattr(theirs["h"], name), getattr(ours["h"], name)
            assert (there is None) == (here is None), (name, choice)
            if here is not None:
                assert there.dtype == here.dtype
                torch.testing.assert_close(there, here, rtol=1e-12, atol=1e-12)
        for g, e in zip(due, expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-9 * max(1.0, float(e.abs().max())))
        spiked += int(ours["h"].spikes.sum())
        moved += sum(bool(e.any()) for e in expected)
    assert spiked > 600
    assert moved > 100


@backends
def test_each_path_matters(backend: str) -> None:
    """A test of the test above: on this network every path carries gradient."""
    choice = {
        "synapse": "none",
        "reset": "adapted NEXT_AFTER_INPUT",
        "refractory": "none",
        "adaptation": "spike in full",
        "recurrence": "matrix",
        "comparison": ">",
        "numbers": "one for all",
        "membrane": "plain",
        "edges": "direct",
    }
    network, x = network_of(choice, 3, dyadic=False), spikes_in((N_IN,), 3, torch.float64, batch=2, steps=14)
    without = [Paths(**{name: False}) for name in vars(Paths())]
    whole, *found = [
        _differentiated(engine(backend), network, x, Triangular(0.8), paths, False)[1][0]
        for paths in (Paths(), *without)
    ]
    assert len(found) == 4
    assert all(not torch.allclose(part, whole, rtol=1e-6) for part in found)


def _system(run: Any, config: NaturalEPropConfig, paths: Paths = PUBLISHED) -> NaturalEProp:
    pair = initial_pair(config, 0)
    pair = pair._replace(
        lsg=pair.lsg.with_weights({"in.weight": 2 * pair.lsg.weights()["in.weight"]}),
        trainee=pair.trainee.with_weights({"out.weight": 10 * pair.trainee.weights()["out.weight"]}),
    )
    return NaturalEProp(pair, paths=paths, engine=run, dtype=torch.float64)


def _taught(model: NaturalEProp, config: NaturalEPropConfig, batch: int, steps: int, inner: InnerLoop) -> Any:
    """A lesson and the gradients of its outer loss."""
    rng = np.random.default_rng(5)
    clock = torch.tensor(np.repeat(rng.random((1, steps, config.clock)) < 0.4, batch, 0)).double()
    target = torch.tensor(np.repeat(rng.random((batch, 1, config.target)) < 0.5, steps, 1)).double()
    lesson = model(clock, torch.cat([clock, target], -1), inner)
    omega = torch.linspace(-1, 1, lesson.after.numel(), dtype=torch.float64).view_as(lesson.after).mul(5).sin()
    loss = outer_loss(lesson, omega, omega, lambda x: (x / 10).sin())
    return lesson, torch.autograd.grad(loss.total, list(model.parameters()))


def _same_lesson(theirs: Lesson, ours: Lesson) -> None:
    assert theirs.lsg is not None
    assert ours.lsg is not None
    assert torch.equal(theirs.lsg["lsg"].spikes, ours.lsg["lsg"].spikes)
    assert ours.lsg["lsg"].spikes.any()
    for there, here in zip(theirs.trials, ours.trials, strict=True):
        assert torch.equal(there["trainee"].spikes, here["trainee"].spikes)
        assert here["trainee"].spikes.any()


@backends
@pytest.mark.parametrize("paths", [PUBLISHED, Paths(), EPROP], ids=["published", "all", "eprop"])
@pytest.mark.parametrize("step", [1 / 16, None])
def test_the_lessons_and_outer_gradients_of_our_engine(backend: str, paths: Paths, step: float | None) -> None:
    inner = InnerLoop(0.02, step, updates=2)
    theirs, due = _taught(_system(engine(backend), SMALL, paths), SMALL, 3, 60, inner)
    ours, expected = _taught(_system(run_fast, SMALL, paths), SMALL, 3, 60, inner)
    _same_lesson(theirs, ours)
    for name, change in ours.changes.items():
        assert change.any()
        if step:
            assert torch.equal(theirs.changes[name], change)
        torch.testing.assert_close(theirs.changes[name], change, rtol=1e-11, atol=1e-11)
    for g, e in zip(due, expected, strict=True):
        assert e.any()
        assert (g - e).norm() < 1e-9 * e.norm()


@backends
def test_the_papers_size_in_float64(backend: str) -> None:
    """800 neurons teach 250, each sample with weights of its own in the second trial."""
    config, inner = NaturalEPropConfig(), InnerLoop(1e-3)
    theirs, due = _taught(_system(engine(backend), config), config, 2, 30, inner)
    ours, expected = _taught(_system(run_fast, config), config, 2, 30, inner)
    _same_lesson(theirs, ours)
    changes = ours.changes
    assert all(torch.equal(theirs.changes[name], changes[name]) for name in changes)
    assert not torch.equal(*changes["trainee.recurrence"])
    for g, e in zip(due, expected, strict=True):
        assert e.any()
        assert (g - e).norm() < 1e-9 * e.norm()


# ------------------------------------------------------------------------------------------------ whose code steps


@pytest.fixture
def no_steps_of_ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("our own code stepped a neuron")

    for name in ("step", "unroll", "leak"):
        monkeypatch.setattr(lif, name, never)
    for name in ("unroll", "integrate", "leak", "PLAIN"):
        monkeypatch.setattr(simulation, name, never)
    for name in ("fast_unroll", "fast_filter", "fast_product", "FAST"):
        monkeypatch.setattr(fast, name, never)
    for name in engine_kernels.__all__:
        monkeypatch.setattr(engine_kernels, name, never)
    return


@pytest.mark.usefixtures("no_steps_of_ours")
@backends
def test_none_of_our_steps_and_kernels_run(backend: str) -> None:
    lesson, gradients = _taught(_system(engine(backend), SMALL), SMALL, 2, 20, InnerLoop(0.02))
    assert lesson.trials[1]["trainee"].spikes.any()
    assert all(g.any() for g in gradients)
    with pytest.raises((AssertionError, AttributeError)):
        _taught(_system(run_fast, SMALL), SMALL, 2, 20, InnerLoop(0.02))


def test_snntorchs_neurons_step_and_leave_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, int] = {}

    def counted(kind: str) -> Callable[..., Any]:
        forward = getattr(snn, kind).forward

        def call(*given: Any, **named: Any) -> Any:
            calls[kind] = calls.get(kind, 0) + 1
            return forward(*given, **named)

        return call

    for kind in ("RLeaky", "Leaky"):
        monkeypatch.setattr(getattr(snn, kind), "forward", counted(kind))
    listed = len(snn.SpikingNeuron.instances)
    _taught(_system(engine("snntorch"), SMALL), SMALL, 2, 20, InnerLoop(0.02))
    assert calls == {"RLeaky": 3 * 20, "Leaky": 3 * 20}
    assert len(snn.SpikingNeuron.instances) == listed


def test_norses_functions_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its triangle is our slope: no surrogate of ours is called by the neurons."""
    from ovonic.adapters import norse_cells

    norse, calls = norse_cells.load(), {"leak": 0, "threshold": 0}
    for name in calls:
        function = getattr(norse, name)

        def call(*given: Any, name: str = name, function: Any = function) -> Any:
            calls[name] += 1
            return function(*given)

        monkeypatch.setattr(norse, name, call)
    _taught(_system(engine("norse"), SMALL), SMALL, 2, 20, InnerLoop(0.02))
    assert calls["threshold"] == 3 * 20
    assert calls["leak"] >= 2 * 3 * 20


# ------------------------------------------------------------------------------------------------ training


@functools.cache
def _curve(backend: str) -> list[float]:
    """The losses of 20 outer steps in float64, Adam on all six weights."""
    state = RobotTrainingState(TINY)
    net = Robot(TINY.network, state.net.describe()).module(torch.float64, engine(backend))
    optimizer, losses = torch.optim.Adam(net.parameters(), 5e-3, eps=1e-7), []
    for step in range(20):
        first = TRAINING_FROM + step * TINY.batch
        batch = sample_trajectories(TINY.movements, 0, range(first, first + TINY.batch), torch.float64)
        lesson = net(batch.clock, batch.lsg_input, TINY.inner)
        loss = outer_loss(lesson, batch.omega, batch.path, kinematics(batch.spec)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@backends
def test_the_loss_curve_in_float64(backend: str) -> None:
    ours = _curve("ovonic")
    assert ours[-1] < 0.9 * ours[0]
    np.testing.assert_allclose(_curve(backend), ours, rtol=1e-9)


@pytest.mark.slow
@backends
def test_the_loss_curve_in_float32(backend: str) -> None:
    """Sums in another order: within 1e-4 of the loss, unless a membrane comes as near to its threshold as rounding."""
    curves = {}
    for name in ("ovonic", backend):
        state = RobotTrainingState(replace(TINY, backend=name))
        robot_train(state)
        curves[name] = [record["loss"] for record in state.history]
        assert len(curves[name]) == 20
    np.testing.assert_allclose(curves[backend], curves["ovonic"], rtol=1e-4)


# ------------------------------------------------------------------------------------------------ errors


def test_ours_is_the_fast_engine_and_others_are_refused() -> None:
    assert engine("ovonic") is run_fast
    with pytest.raises(ConfigError, match="backend 'snntroch': did you mean 'snntorch'"):
        engine("snntroch")
    with pytest.raises(ConfigError, match="backend 'nest'"):
        RobotTrainingConfig(backend="nest")


@backends
def test_a_missing_toolchain_is_named(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovonic.adapters import norse_cells

    norse_cells.load.cache_clear()
    monkeypatch.setitem(sys.modules, {"norse": "norse.torch", "snntorch": "snntorch"}[backend], None)
    with pytest.raises(ToolchainError, match=rf"pip install 'ovonic\[{backend}\]'"):
        engine(backend)
