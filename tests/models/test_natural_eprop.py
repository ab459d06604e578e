"""Natural e-prop: a lesson written out, autograd, rounding, injected products, lessons in a row."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.models import lif
from ovonic.models.dynamics import Adaptation
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Spiking
from ovonic.models.lif import EPROP, product
from ovonic.models.natural_eprop import InnerLoop, Lesson, NaturalEProp, teach
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair, trainee_network
from ovonic.models.network import Network
from ovonic.models.simulation import Product, run

from .natural_eprop_cases import PLASTIC, SMALL, gradients_of, inputs, small_system

STEEP = InnerLoop(rate=0.02, step=None)

# ------------------------------------------------------------------------------------------------ a lesson written out


def test_a_lesson_step_by_step() -> None:
    """In NumPy, neuron by neuron of the published equations, with its own refractory counter."""
    model, (clock, lsg_input) = small_system(), inputs(batch=2)
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
    model, (clock, lsg_input) = small_system(), inputs()
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


# ------------------------------------------------------------------------------------------------ rounding


def test_updates_are_rounded_and_gradients_are_not() -> None:
    model, (clock, lsg_input) = small_system(), inputs()
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
    model, (clock, lsg_input) = small_system(), inputs(batch=1)
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
    model, (clock, lsg_input) = small_system(), inputs()
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
    for a, b in zip(*(gradients_of(model, lesson) for lesson in (plain, injected)), strict=True):
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

    model, (clock, lsg_input) = small_system(), inputs(batch=1)
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

    clock, lsg_input = inputs()
    lesson = small_system(engine=counted)(clock, lsg_input)
    assert calls == ["lsg", "trainee", "trainee"]
    assert torch.equal(lesson.after, small_system()(clock, lsg_input).after)


# ------------------------------------------------------------------------------------------------ lessons


def test_more_updates_are_lessons_in_a_row() -> None:
    model, (clock, lsg_input) = small_system(), inputs()
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
    model, (clock, lsg_input) = small_system(), inputs()
    lesson = model(clock, lsg_input, InnerLoop(updates=0))
    assert lesson.before is lesson.after
    assert lesson.changes == {}
    silent = model.teach(clock, torch.zeros(3, 40, 6, dtype=torch.float64))
    assert torch.equal(silent.after, lesson.after)


def test_each_sample_learns_alone() -> None:
    model, (clock, lsg_input) = small_system(), inputs()
    together = model(clock, lsg_input, InnerLoop(rate=0.02))
    for b in range(3):
        alone = model(clock[b : b + 1], lsg_input[b : b + 1], InnerLoop(rate=0.02))
        torch.testing.assert_close(alone.after[0], together.after[b], rtol=0, atol=1e-12)
        assert all(torch.equal(alone.changes[name][0], together.changes[name][b]) for name in PLASTIC)
    assert not torch.equal(together.changes["in.weight"][0], together.changes["in.weight"][1])


def test_the_module_describes_itself() -> None:
    model, (clock, lsg_input) = small_system(), inputs()
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InnerLoop(step=0.0), "step 0.0: must be positive, or None"),
        (lambda: InnerLoop(rounding="up"), "rounding 'up': choose one of"),
        (lambda: InnerLoop(updates=-1), "updates -1: must be a whole number"),
        (lambda: InnerLoop(rate=float("inf")), "rate inf"),
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
    return teach(trainee, inputs()[0], torch.zeros(3, 40, neurons, dtype=torch.float64))


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
