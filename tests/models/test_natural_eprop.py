"""Natural e-prop: the published batch, a lesson written out, gradients by differences, rounding, injected products.

Tolerances against the published batch (float32 TensorFlow), the same for our float32 and float64: about three times
what the reference is off float64, which our float32 is too (``test_the_reference_is_as_exact_as_float32``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.models import lif
from ovonic.models.dynamics import Adaptation
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Spiking
from ovonic.models.lif import ALL_PATHS, EPROP, product
from ovonic.models.natural_eprop import (
    InnerLoop,
    Lesson,
    NaturalEProp,
    NaturalEPropConfig,
    Objective,
    OuterLoss,
    initial_pair,
    lsg_network,
    outer_loss,
    teach,
    trainee_network,
    update,
)
from ovonic.models.network import Network
from ovonic.models.simulation import Product, run
from ovonic.models.surrogates import Sigmoid

SMALL = NaturalEPropConfig(clock=3, target=4, trainee=6, outputs=2, lsg_lif=5, lsg_alif=4, n_ref=3)
PLASTIC = ("in.weight", "trainee.recurrence")
STEEP = InnerLoop(rate=0.02, step=None)


def _system(config: NaturalEPropConfig = SMALL, seed: int = 0, **options: Any) -> NaturalEProp:
    """In float64, with input weights that make the small networks spike."""
    pair = initial_pair(config, seed)
    pair = pair._replace(
        lsg=pair.lsg.with_weights({"in.weight": 2 * pair.lsg.weights()["in.weight"]}),
        trainee=pair.trainee.with_weights({"out.weight": 10 * pair.trainee.weights()["out.weight"]}),
    )
    return NaturalEProp(pair, dtype=torch.float64, **options)


def _inputs(batch: int = 3, steps: int = 40, config: NaturalEPropConfig = SMALL) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng([batch, steps])
    clock = np.repeat(rng.random((1, steps, config.clock)) < 0.4, batch, 0)
    target = np.repeat(rng.random((batch, 1, config.target)) < 0.5, steps, 1)
    return torch.tensor(clock).double(), torch.tensor(np.concatenate([clock, target], -1)).double()


def _path(omega: Tensor) -> Tensor:
    """Stands in for an arm."""
    a, b = omega.cumsum(1).unbind(-1)
    return torch.stack([(a / 100).cos(), (b / 100).sin(), (a - b) / 100], -1)


def _loss(lesson: Lesson, objective: Objective | None = None) -> OuterLoss:
    target = torch.linspace(-1, 1, lesson.after.numel(), dtype=lesson.after.dtype).view_as(lesson.after).sin()
    return outer_loss(lesson, target, _path(target), _path, objective)


# ------------------------------------------------------------------------------------------------ published

EXACT = (
    "lsg_spikes",
    "trainee_spikes_training",
    "trainee_spikes_test",
    "delta_w_in_quantized",
    "delta_w_rec_quantized",
)
ATOL = {
    "lsg_learning_signals": 2e-4,
    **dict.fromkeys(("trainee_potential_training", "trainee_potential_test"), 6e-5),
    **dict.fromkeys(("trace_in_training", "trace_in_test"), 3e-6),
    **dict.fromkeys(("trace_rec_training", "trace_rec_test"), 1.2e-5),
    "dz_dh": 1.2e-5,
    **dict.fromkeys(("d_w_in", "d_w_rec"), 8e-3),
    **dict.fromkeys(("delta_w_in", "delta_w_rec"), 8e-7),
    **dict.fromkeys(("w_in_after", "w_rec_after"), 1e-7),
    **dict.fromkeys(("output_training", "output_test", "cartesian_training", "cartesian_test"), 3e-6),
    **dict.fromkeys(("loss", "mean_loss"), 2e-7),
    **dict.fromkeys(("reg_loss_trainee", "reg_loss_lsg"), 2e-9),
}
RELATIVE = {
    **dict.fromkeys(("outer_grad_W_in_lsg", "outer_grad_W_rec_lsg"), 4e-5),
    **dict.fromkeys(("outer_grad_W_out_lsg", "outer_grad_W_in_trainee"), 6e-6),
    **dict.fromkeys(("outer_grad_W_rec_trainee", "outer_grad_W_out_trainee"), 6e-6),
}


@functools.cache
def _golden(shared: Path) -> dict[str, Tensor]:
    golden = np.load(shared / "published" / "robot_golden.npz")
    return {name: torch.tensor(golden[name]) for name in golden}


@functools.cache
def _published(shared: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The published batch by our code, named as the reference names it."""
    from ovonic.adapters.published_robot import robot_from_published
    from ovonic.tasks.scorbot import forward_kinematics
    from ovonic.tasks.trajectories import integrate

    def kinematics(omega: Tensor) -> Tensor:
        return forward_kinematics(integrate(omega, 0.01))

    given = {name: value.to(dtype) for name, value in _golden(shared).items()}
    model = NaturalEProp(robot_from_published(shared / "published" / "robot_checkpoint.npz"), dtype=dtype)
    lsg_input = torch.cat([given["clock_signal_lsg"], given["target_coordinates_spike"]], -1)
    lesson = model(given["clock_signal_trainee"], lsg_input)
    objective = Objective(path_gradient=False)
    loss = outer_loss(lesson, given["omega_t"], given["coordinates_t"], kinematics, objective)
    gradients = torch.autograd.grad(loss.total, list(model.parameters()))
    (done,), (first, last) = lesson.updates, lesson.trials
    again = update(model.trainee.network, last, lesson.learning_signal)
    assert lesson.lsg is not None
    ours = {
        "lsg_spikes": lesson.lsg["lsg"].spikes,
        "lsg_learning_signals": lesson.learning_signal,
        "trainee_spikes_training": first["trainee"].spikes,
        "trainee_spikes_test": last["trainee"].spikes,
        "trainee_potential_training": first["trainee"].membrane,
        "trainee_potential_test": last["trainee"].membrane,
        "dz_dh": done.slope,
        "output_training": lesson.before,
        "output_test": lesson.after,
        "cartesian_training": kinematics(lesson.before),
        "cartesian_test": kinematics(lesson.after),
        "loss": loss.total,
        "mean_loss": loss.task,
        "reg_loss_trainee": 0.25 * loss.trainee_rates,
        "reg_loss_lsg": 0.25 * loss.lsg_rates,
    }
    for part, name in zip(("in", "rec"), PLASTIC, strict=True):
        ours[f"trace_{part}_training"] = done.traces[name]
        ours[f"trace_{part}_test"] = again.traces[name]
        ours[f"d_w_{part}"] = done.gradient[name]
        ours[f"delta_w_{part}"] = -1e-4 * done.gradient[name]
        ours[f"delta_w_{part}_quantized"] = done.change[name]
        ours[f"w_{part}_after"] = model.trainee.weights()[name] + lesson.changes[name]
    names = ("W_in_lsg", "W_rec_lsg", "W_out_lsg", "W_in_trainee", "W_rec_trainee", "W_out_trainee")
    ours |= {f"outer_grad_{name}": gradient for name, gradient in zip(names, gradients, strict=True)}
    return {name: value.detach() for name, value in ours.items()}


@pytest.mark.shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_published_batch(shared: Path, dtype: torch.dtype) -> None:
    ours, golden = _published(shared, dtype), _golden(shared)
    assert ours.keys() == {*EXACT, *ATOL, *RELATIVE}
    for name in EXACT:
        assert torch.equal(ours[name], golden[name].to(dtype)), name
    for name, atol in ATOL.items():
        assert (ours[name].double() - golden[name].double()).abs().max() < atol, name
    for name, rtol in RELATIVE.items():
        expected = golden[name].double()
        assert (ours[name].double() - expected).norm() < rtol * expected.norm(), name


@pytest.mark.shared
def test_the_reference_is_as_exact_as_float32(shared: Path) -> None:
    """From float64 the reference is as far as our float32 is: no tolerance above hides a difference of meaning."""
    golden, exact = _golden(shared), _published(shared, torch.float64)
    for name, ours in _published(shared, torch.float32).items():
        if name not in EXACT and ours.ndim:
            reference = (golden[name].double() - exact[name]).norm()
            assert reference < 1.5 * (ours.double() - exact[name]).norm(), name


# ------------------------------------------------------------------------------------------------ a lesson written out


def test_a_lesson_step_by_step() -> None:
    """In NumPy, neuron by neuron of the published equations, with its own refractory counter."""
    model, (clock, lsg_input) = _system(), _inputs(batch=2)
    inner = InnerLoop(rate=0.02, step=1 / 16)
    lesson = model(clock, lsg_input, inner)
    w = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    a, n_ref, steps = SMALL.decay, SMALL.n_ref, clock.shape[1]
    grow = np.exp(-1 / SMALL.tau_adaptation_ms)
    beta = np.array([0] * SMALL.lsg_lif + [SMALL.beta] * SMALL.lsg_alif)

    def spiking(x: np.ndarray, w_in: np.ndarray, w_rec: np.ndarray, threshold: float, beta: Any) -> Any:
        v, z, r, b = (np.zeros(len(w_rec)) for _ in range(4))
        spikes, slopes = [], []
        for t in range(steps):
            b = grow * b + z
            level = threshold + beta * b
            v = a * v + x[t] @ w_in + z @ (w_rec * (1 - np.eye(len(w_rec)))) - z * level
            slopes.append(np.where(r > 0.1, 0, 0.3 * np.maximum(1 - abs((v - threshold) / threshold), 0) / threshold))
            z = np.where(r > 0.1, 0.0, v > level)
            r = np.clip(r + n_ref * z - 1, 0, n_ref)
            spikes.append(z)
        return np.array(spikes), np.array(slopes)

    def leaky(x: np.ndarray) -> np.ndarray:
        return np.array([sum(a ** (t - s) * x[s] for s in range(t + 1)) for t in range(steps)])

    for sample in range(2):
        x, y = clock[sample].numpy(), lsg_input[sample].numpy()
        z, _ = spiking(y, w["lsg.in/weight"], w["lsg.lsg/recurrence"], SMALL.lsg_threshold, beta)
        signal = leaky(z @ w["lsg.out/weight"])
        w_in, w_rec = w["trainee.in/weight"], w["trainee.trainee/recurrence"]
        z, h = spiking(x, w_in, w_rec, SMALL.trainee_threshold, 0)
        assert z.any()
        late = np.concatenate([np.zeros((1, len(w_rec))), z[:-1]])
        for name, trace in zip(PLASTIC, (leaky(x), leaky(late)), strict=True):
            expected = sum(np.outer(trace[t], h[t] * signal[t]) for t in range(steps))
            np.testing.assert_allclose(lesson.updates[0].gradient[name][sample].detach(), expected, atol=1e-11)
            change = np.round(-0.02 * expected * 16) / 16
            assert np.array_equal(lesson.changes[name][sample].detach(), change)
            assert change.any()
            w_in, w_rec = (w_in + change, w_rec) if name == "in.weight" else (w_in, w_rec + change)
        again, _ = spiking(x, w_in, w_rec, SMALL.trainee_threshold, 0)
        assert not np.array_equal(again, z)
        np.testing.assert_allclose(lesson.before[sample].detach(), leaky(z @ w["trainee.out/weight"]), atol=1e-12)
        np.testing.assert_allclose(lesson.after[sample].detach(), leaky(again @ w["trainee.out/weight"]), atol=1e-12)


def test_the_update_is_autograd_with_the_paths_of_eprop() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    with torch.no_grad():
        lesson = model(clock, lsg_input, STEEP)
    own = {name: w.detach().expand(3, -1, -1).clone().requires_grad_() for name, w in model.trainee.weights().items()}
    z = run(model.trainee.network, clock, own, paths=EPROP)["trainee"].spikes
    expected = torch.autograd.grad((lesson.learning_signal * z).sum(), [own[name] for name in PLASTIC])
    for name, gradient in zip(PLASTIC, expected, strict=True):
        ours = lesson.updates[0].gradient[name]
        ours = lif.masked(ours) if name.endswith("recurrence") else ours
        assert gradient.abs().max() > 1
        torch.testing.assert_close(ours, gradient, rtol=0, atol=1e-11)
        assert torch.equal(lesson.changes[name], -0.02 * lesson.updates[0].gradient[name])
    assert lesson.updates[0].gradient["trainee.recurrence"].diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("updates", [1, 2])
def test_outer_gradients_by_finite_differences(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """With spikes sigmoid(k x), whose slope the surrogate is, the lesson is smooth: gradients to all six weights."""
    surrogate = Sigmoid(3.0)
    monkeypatch.setattr(lif, "straight_through", lambda x, z, slope: torch.sigmoid(surrogate.slope * x))
    config = dataclasses.replace(SMALL, n_ref=0)
    model, (clock, lsg_input) = _system(config, surrogate=surrogate, paths=ALL_PATHS), _inputs(batch=2, steps=12)
    inner = InnerLoop(rate=0.05, step=None, updates=updates)

    def value() -> Tensor:
        return _loss(model(clock, lsg_input, inner)).total

    gradients = torch.autograd.grad(value(), list(model.parameters()))
    rng = torch.Generator().manual_seed(0)
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        direction = torch.randn(weight.shape, dtype=torch.float64, generator=rng)
        values = []
        for sign in (1, -1):
            weight.data += sign * 1e-5 * direction
            values.append(value().item())
            weight.data -= sign * 1e-5 * direction
        difference = (values[0] - values[1]) / 2e-5
        along = (gradient * direction).sum().item()
        assert abs(along) > 1e-5
        assert along == pytest.approx(difference, rel=1e-6)


# ------------------------------------------------------------------------------------------------ rounding


def test_updates_are_rounded_and_gradients_are_not() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    signal = model.signals(lsg_input).readout.detach().requires_grad_()
    slopes = []
    raw = model.teach(clock, signal, STEEP).changes
    for step, rounding in ((None, "nearest"), (1 / 16, "nearest"), (0.1, "nearest"), (1 / 16, "stochastic")):
        inner = InnerLoop(rate=0.02, step=step, rounding=rounding)
        changes = model.teach(clock, signal, inner, torch.Generator().manual_seed(0)).changes
        total = torch.stack([change.sum() for change in changes.values()]).sum()
        slopes.append(torch.autograd.grad(total, signal)[0])
        for name, change in changes.items():
            if step is not None:
                torch.testing.assert_close(change / step, (change / step).round(), rtol=0, atol=1e-12)
                reach = step if rounding == "stochastic" else step / 2
                assert (change - raw[name]).abs().max() <= reach * (1 + 1e-12)
                assert (change != raw[name]).any()
                assert change.any()
    assert all(torch.equal(slope, slopes[0]) for slope in slopes)


def test_half_a_step_goes_to_the_even_neighbour() -> None:
    """One neuron, one spike in, slope 1/2 at its threshold: Delta = -rate L / 2."""
    one = NaturalEPropConfig(clock=1, target=0, trainee=1, outputs=1, lsg_lif=1, lsg_alif=0)
    trainee = trainee_network([[0.6]], [[0.0]], [[1.0]], one)
    clock = torch.ones(5, 1, 1, dtype=torch.float64)
    signal = torch.tensor([1.0, 3.0, 5.0, -1.0, -3.0], dtype=torch.float64).view(5, 1, 1)
    lesson = teach(trainee, clock, signal, InnerLoop(rate=-1 / 16, step=1 / 16))
    assert lesson.updates[0].slope.flatten().tolist() == [0.5] * 5
    assert (16 * lesson.changes["in.weight"]).flatten().tolist() == [0, 2, 2, 0, -2]


def test_stochastic_rounding_is_seeded_and_unbiased() -> None:
    model, (clock, lsg_input) = _system(), _inputs(batch=1)
    signal = model.signals(lsg_input).readout.detach()
    inner = InnerLoop(rate=0.02, step=1 / 2, rounding="stochastic")
    with torch.no_grad():
        exact = model.teach(clock, signal, STEEP).changes["in.weight"]
        many = 4000
        drawn = model.teach(
            clock.expand(many, -1, -1),
            signal.expand(many, -1, -1),
            inner,
            torch.Generator().manual_seed(1),
        ).changes["in.weight"]
        one, two, other = (
            model.teach(clock, signal, inner, torch.Generator().manual_seed(seed)).changes["in.weight"]
            for seed in (7, 7, 8)
        )
    # 18 means of 4,000, each within 5 standard errors of at most .25 / sqrt(4000): false alarm 1e-5.
    assert (drawn.mean(0) - exact).abs().max() < 5 * 0.25 / many**0.5
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


# ------------------------------------------------------------------------------------------------ products


def test_injected_products_change_nothing() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    inner = InnerLoop(rate=0.02, updates=2)
    calls: list[tuple[set[str], set[str]]] = []

    def software(weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> Mapping[str, Tensor | Product]:
        calls.append((set(weights), set(changes)))
        for given in (weights, changes):
            for name, w in given.items():
                assert not (name.endswith("recurrence") and w.diagonal(dim1=-2, dim2=-1).any())
        total = {name: w + changes[name] if name in changes else w for name, w in weights.items()}
        return {name: functools.partial(product, weight=w) for name, w in total.items() if name != "out.weight"}

    plain = model(clock, lsg_input, inner)
    injected = model(clock, lsg_input, inner, products=software, lsg_products=software)
    assert torch.equal(injected.after, plain.after)
    assert all(torch.equal(injected.changes[name], plain.changes[name]) for name in PLASTIC)
    every, lsg = {*PLASTIC, "out.weight"}, {"in.weight", "lsg.recurrence", "out.weight"}
    assert calls == [(lsg, set()), (every, set()), (every, set(PLASTIC)), (every, set(PLASTIC))]
    for a, b in zip(*(_gradients(model, lesson) for lesson in (plain, injected)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_an_array_that_reprograms_what_changes() -> None:
    """A crossbar's part of the protocol: cells written once, then those alone whose target moved."""

    class Array:
        def __init__(self) -> None:
            self.cells: dict[str, Tensor] = {}
            self.written: list[int] = []

        def __call__(self, weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> Mapping[str, Product]:
            written = 0
            for name, weight in weights.items():
                target = weight.detach() + changes.get(name, torch.zeros(1, 1, 1, dtype=weight.dtype)).detach()
                old = self.cells.get(name, torch.full_like(target, torch.nan))
                written += int((old != target).sum())
                self.cells[name] = torch.where(old != target, target, old)
            self.written.append(written)
            return {name: functools.partial(product, weight=w) for name, w in self.cells.items()}

    model, (clock, lsg_input) = _system(), _inputs(batch=1)
    array = Array()
    lesson = model(clock, lsg_input, InnerLoop(rate=0.02), products=array)
    changes = lesson.changes
    moved = int((changes["in.weight"] != 0).sum() + (lif.masked(changes["trainee.recurrence"]) != 0).sum())
    assert array.written == [3 * 6 + 6 * 6 + 6 * 2, moved]
    assert 0 < moved < 54
    assert torch.equal(lesson.after, model(clock, lsg_input, InnerLoop(rate=0.02)).after)


def test_another_engine_stands_in() -> None:
    calls: list[str] = []

    def counted(network: Network, *rest: Any) -> Any:
        calls.append(network.spiking[0])
        return run(network, *rest)

    clock, lsg_input = _inputs()
    lesson = _system(engine=counted)(clock, lsg_input)
    assert calls == ["lsg", "trainee", "trainee"]
    assert torch.equal(lesson.after, _system()(clock, lsg_input).after)


# ------------------------------------------------------------------------------------------------ lessons


def test_more_updates_are_lessons_in_a_row() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    inner = InnerLoop(rate=0.02, updates=3)
    whole = model(clock, lsg_input, inner)
    assert len(whole.trials) == 4
    assert len(whole.updates) == 3
    weights: dict[str, Tensor] = dict(model.trainee.weights())
    network = model.trainee.network
    for k in range(3):
        part = teach(network, clock, whole.learning_signal, InnerLoop(rate=0.02), weights)
        assert torch.equal(part.before, whole.trials[k].readout)
        weights = {name: w + part.changes[name] if name in part.changes else w for name, w in weights.items()}
    torch.testing.assert_close(part.after, whole.after, rtol=0, atol=1e-12)
    assert not torch.equal(whole.trials[1].readout, whole.after)
    for name in PLASTIC:
        torch.testing.assert_close(whole.changes[name], sum(u.change[name] for u in whole.updates))


def test_no_update_is_a_lone_trial() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    lesson = model(clock, lsg_input, InnerLoop(updates=0))
    assert lesson.before is lesson.after
    assert lesson.changes == {}
    silent = model.teach(clock, torch.zeros(3, 40, 6, dtype=torch.float64))
    assert torch.equal(silent.after, lesson.after)


def test_each_sample_learns_alone() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    together = model(clock, lsg_input, InnerLoop(rate=0.02))
    for b in range(3):
        alone = model(clock[b : b + 1], lsg_input[b : b + 1], InnerLoop(rate=0.02))
        torch.testing.assert_close(alone.after[0], together.after[b], rtol=0, atol=1e-12)
        assert all(torch.equal(alone.changes[name][0], together.changes[name][b]) for name in PLASTIC)
    assert not torch.equal(together.changes["in.weight"][0], together.changes["in.weight"][1])


# ------------------------------------------------------------------------------------------------ outer loss


def test_the_outer_loss_by_hand() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    lesson = model(clock, lsg_input, InnerLoop(rate=0.02))
    got, target = _loss(lesson), torch.linspace(-1, 1, 240, dtype=torch.float64).view(3, 40, 2).sin()
    both = torch.cat([trial["trainee"].spikes for trial in lesson.trials], 1)
    assert lesson.lsg is not None
    lsg = lesson.lsg["lsg"].spikes
    expected = (
        (target - lesson.after).square().mean() / 2
        + (_path(target) - _path(lesson.after)).square().mean() / 2
        + (both.mean((0, 1)) - 0.02).square().sum() / 4
        + (lsg.mean((0, 1)) - 0.01).square().sum() / 4
    )
    torch.testing.assert_close(got.total, expected)
    torch.testing.assert_close(got.task, (got.mse_omega + got.mse_path) / 2)
    assert not _loss(lesson._replace(lsg=None)).lsg_rates


def test_the_published_switch_keeps_the_value_and_drops_the_gradient() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    losses = {
        name: _loss(model(clock, lsg_input, InnerLoop(rate=0.02)), objective)
        for name, objective in {
            "ours": None,
            "published": Objective(path_gradient=False),
            "without": Objective(path=0),
        }.items()
    }
    assert losses["ours"].total == losses["published"].total
    assert losses["without"].total < losses["ours"].total
    ours, published, without = (torch.autograd.grad(loss.total, list(model.parameters())) for loss in losses.values())
    for a, b, c in zip(ours, published, without, strict=True):
        assert torch.equal(b, c)
        assert not torch.equal(a, b)
        assert a.any()


# ------------------------------------------------------------------------------------------------ networks


def test_initial_weights() -> None:
    pair = initial_pair()
    assert {name: w.shape for name, w in pair.lsg.weights().items()} == {
        "in.weight": (53, 800),
        "lsg.recurrence": (800, 800),
        "out.weight": (800, 250),
    }
    assert pair == initial_pair(NaturalEPropConfig(), seed=0)
    assert pair != initial_pair(seed=1)
    assert pair.trainee == initial_pair(NaturalEPropConfig(lsg_lif=50, lsg_alif=20)).trainee
    out = 1 - np.exp(-1 / 20)
    for network, name, deviation in (
        *((pair.lsg, "in.weight", 53**-0.5), (pair.lsg, "lsg.recurrence", 800**-0.5)),
        *((pair.lsg, "out.weight", (2 / 1050) ** 0.5), (pair.trainee, "in.weight", 5**-0.5)),
        *((pair.trainee, "trainee.recurrence", 250**-0.5), (pair.trainee, "out.weight", out * 250**-0.5)),
    ):
        weight = network.weights()[name]
        assert weight.std() == pytest.approx(deviation, rel=4 / (2 * weight.size) ** 0.5), name
        assert abs(weight.mean()) < 4 * deviation / weight.size**0.5
    assert abs(pair.lsg.weights()["out.weight"]).max() <= (6 / 1050) ** 0.5
    layer = pair.lsg.layers["lsg"]
    assert isinstance(layer, Spiking)
    assert layer.dynamics.adaptation is not None
    assert np.array_equal(layer.dynamics.adaptation.beta, [0.0] * 560 + [1.6] * 240)


def test_the_module_describes_itself() -> None:
    model, (clock, lsg_input) = _system(), _inputs()
    names = [name for name, _ in model.named_parameters()]
    assert names == [
        *("lsg.in/weight", "lsg.lsg/recurrence", "lsg.out/weight"),
        *("trainee.in/weight", "trainee.trainee/recurrence", "trainee.out/weight"),
    ]
    with torch.no_grad():
        model.trainee.weights()["in.weight"].mul_(1.5)
    again = NaturalEProp(model.describe(), dtype=torch.float64)
    assert torch.equal(again(clock, lsg_input).after, model(clock, lsg_input).after)
    fresh = NaturalEProp.initial(SMALL, dtype=torch.float64)
    fresh.load_state_dict(model.state_dict())
    assert fresh.describe() == model.describe()


def test_a_slower_clock_of_half_steps() -> None:
    fine = initial_pair(dataclasses.replace(SMALL, dt_ms=0.5))
    assert fine.trainee.dt_ms == 0.5
    layer = fine.trainee.layers["trainee"]
    assert isinstance(layer, Spiking)
    assert layer.dynamics.decay == pytest.approx(np.exp(-0.5 / 20))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NaturalEPropConfig(trainee=0), "trainee 0: must be a whole number, at least 1"),
        (lambda: NaturalEPropConfig(lsg_lif=0, lsg_alif=0), "lsg_lif 0 and lsg_alif 0"),
        (lambda: NaturalEPropConfig(tau_mem_ms=0.0), "tau_mem_ms 0.0: must be positive"),
        (lambda: NaturalEPropConfig(beta=float("nan")), "beta nan"),
        (lambda: InnerLoop(step=0.0), "step 0.0: must be positive, or None"),
        (lambda: InnerLoop(rounding="up"), "rounding 'up': choose one of"),
        (lambda: InnerLoop(updates=-1), "updates -1: must be a whole number"),
        (lambda: InnerLoop(rate=float("inf")), "rate inf"),
        (lambda: trainee_network(np.zeros((6, 3)), 0, 0, SMALL), r"trainee w_in: shape \(6, 3\) where \(3, 6\)"),
        (lambda: lsg_network(np.zeros((7, 9)), np.zeros((9, 8)), 0, SMALL), r"lsg w_rec: shape \(9, 8\)"),
        (lambda: NaturalEProp(_pair_of_two_sizes()), r"learning signals \[\(7,\)\] .* neurons \[\(6,\)\]"),
        (lambda: _taught(_adaptive()), "layer 'trainee': natural e-prop learns LIF"),
        (
            lambda: _taught(initial_pair(SMALL).trainee, neurons=5),
            r"learning_signal: shape \(3, 40, 5\) where \(3, 40, 6\)",
        ),
        (lambda: _taught(_feedforward()), "recurrent spiking"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def _taught(trainee: Network, neurons: int = 6) -> Lesson:
    return teach(trainee, _inputs()[0], torch.zeros(3, 40, neurons, dtype=torch.float64))


def _pair_of_two_sizes() -> Any:
    return initial_pair(SMALL)._replace(lsg=initial_pair(dataclasses.replace(SMALL, trainee=7)).lsg)


def _adaptive() -> Network:
    trainee = initial_pair(SMALL).trainee
    layer = trainee.layers["trainee"]
    assert isinstance(layer, Spiking)
    dynamics = layer.dynamics.replace(adaptation=Adaptation(0.9, 1.0))
    return trainee.replace(layers=dict(trainee.layers) | {"trainee": layer.replace(dynamics=dynamics)})


def _feedforward() -> Network:
    trainee = initial_pair(SMALL).trainee
    layer = trainee.layers["trainee"]
    assert isinstance(layer, Spiking)
    return trainee.replace(layers=dict(trainee.layers) | {"trainee": Spiking(layer.dynamics)})


def _gradients(model: NaturalEProp, lesson: Lesson) -> tuple[Tensor, ...]:
    return torch.autograd.grad(_loss(lesson).total, list(model.parameters()))
