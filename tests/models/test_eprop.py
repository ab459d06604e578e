"""E-prop: equal to autograd under the same detached paths; learning signals; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ovonic.models.dynamics import Dynamics, SubtractThresholdOnce
from ovonic.models.eligibility import EPROP_FIXED_THRESHOLD
from ovonic.models.eprop import eprop
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Conv, Flatten, Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.learning_signals import (
    adapted_feedback,
    learning_signals,
    random_feedback,
    rate_signal,
    symmetric_feedback,
)
from ovonic.models.lif import ALL_PATHS, EPROP, Paths
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import LayerTrace, Trace

from .eprop_cases import (
    DYNAMICS,
    A,
    B,
    N,
    T,
    assert_same,
    both_conventions,
    errors_of,
    every_dynamics,
    inputs,
    network_of,
    rng_of,
)

# ------------------------------------------------------------------------------------------------ against autograd


def _autograd(network: Network, x: Tensor, paths: Paths, target: Tensor, rate: float) -> dict[str, Tensor]:
    weights = {name: torch.tensor(w).requires_grad_() for name, w in network.weights().items()}
    trace = run(network, x, weights, paths=paths)
    loss = 0.5 * (trace.readout - target).square().sum()
    loss = loss + 0.5 * rate * (trace["hidden"].spikes.mean((0, 1)) - 0.02).square().sum()
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


@both_conventions
@every_dynamics
def test_equals_autograd_with_the_same_paths_detached(dynamics: Dynamics, paths: Paths) -> None:
    """To 1e-10 relative in float64, every weight and bias, read-out and rate regularisation included."""
    network, x = network_of(dynamics), inputs()
    target = torch.tensor(rng_of(3).normal(size=(B, T, 2)))
    trace = run(network, x)
    assert 0.01 < trace["hidden"].spikes.mean() < 0.7
    errors = errors_of(trace, target)
    signal = learning_signals(network, errors)["hidden"] + rate_signal(trace["hidden"].spikes, 0.02, 50.0)
    ours = eprop(network, trace, {"hidden": signal}, errors, paths=paths)
    assert_same(ours, _autograd(network, x, paths, target, 50.0))


@pytest.mark.parametrize(
    "recurrence",
    [Recurrence(rng_of(4).normal(0, 0.3, (N, N)), delay=3), Recurrence(rng_of(4).normal(0, 0.3, N), delay=2)],
)
def test_every_form_of_recurrence(recurrence: Recurrence) -> None:
    network, x, target = network_of(DYNAMICS["alif, refractory"], recurrence), inputs(), torch.zeros(B, T, 2).double()
    trace = run(network, x)
    errors = errors_of(trace, target)
    ours = eprop(network, trace, learning_signals(network, errors), errors)
    assert_same(ours, _autograd(network, x, EPROP, target, 0.0))


def test_what_is_detached_matters() -> None:
    """Both conventions differ from each other, and from autograd that detaches only one path, or none."""
    network, x, target = network_of(DYNAMICS["alif, refractory"]), inputs(), torch.zeros(B, T, 2).double()
    choices = [EPROP, EPROP_FIXED_THRESHOLD, Paths(recurrent=False), Paths(reset=False), ALL_PATHS]
    found = [_autograd(network, x, paths, target, 0.0)["a.weight"] for paths in choices]
    for k, one in enumerate(found):
        for other in found[:k]:
            assert (one - other).norm() > 1e-3 * other.norm()


def test_per_sample_sums_to_the_batch_and_batches_are_independent() -> None:
    network, x, target = network_of(DYNAMICS["alif, refractory"]), inputs(), torch.zeros(B, T, 2).double()
    trace = run(network, x)
    errors = errors_of(trace, target)
    signals = learning_signals(network, errors)
    whole, each = (eprop(network, trace, signals, errors, per_sample=flag) for flag in (False, True))
    assert_same({name: g.sum(0) for name, g in each.items()}, whole, 1e-13)
    alone = run(network, x[1:2])
    errors = errors_of(alone, target[1:2])
    assert_same(
        eprop(network, alone, learning_signals(network, errors), errors), {n: g[1] for n, g in each.items()}, 1e-13
    )


def test_the_masked_diagonal_gets_what_it_would_get_unmasked_on_request() -> None:
    network, x = network_of(DYNAMICS["lif"]), inputs()
    trace = run(network, x)
    signals = {"hidden": torch.ones(B, T, N).double()}
    masked, full = (eprop(network, trace, signals, masked_too=flag)["hidden.recurrence"] for flag in (False, True))
    assert not masked.diagonal().any()
    assert full.diagonal().all()
    assert torch.equal(full - torch.diag(full.diagonal()), masked)


def test_no_tensor_as_large_as_time_by_weights() -> None:
    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.seen = max(self.seen, result.numel())
            return result

    network = network_of(DYNAMICS["alif, refractory"])
    trace = run(network, inputs())
    with Largest() as largest:
        eprop(network, trace, {"hidden": torch.ones(B, T, N).double()})
    assert largest.seen <= max(B * T * N, N * N)


# ------------------------------------------------------------------------------------------------ learning signals


def test_feedback_of_each_kind() -> None:
    network = network_of(DYNAMICS["lif"])
    trace = run(network, inputs())
    errors = errors_of(trace, torch.zeros(B, T, 2).double())
    symmetric = symmetric_feedback(network, trace.readout)
    assert torch.equal(symmetric["out"], torch.tensor(network.weights()["out.weight"]).T)
    default = learning_signals(network, errors)["hidden"]
    assert torch.equal(learning_signals(network, errors, symmetric)["hidden"], default)
    draw = random_feedback(network, trace.readout, torch.Generator().manual_seed(7), std=2.0)
    again = random_feedback(network, trace.readout, torch.Generator().manual_seed(7))
    assert torch.equal(draw["out"], 2 * again["out"])
    # by hand: the error filtered by synapse and membrane, then B, three steps before the error (delays 1 and 2)
    g = i = np.zeros((B, 2))
    told = np.zeros((B, T + 3, 2))
    for t in reversed(range(T)):
        g = 0.9 * g + errors["y"][:, t].numpy()
        i = 0.6 * i + 0.5 * g
        told[:, t] = i
    expected = told[:, 3:] @ draw["out"].numpy()
    np.testing.assert_allclose(learning_signals(network, errors, draw)["hidden"], expected, rtol=1e-12, atol=1e-12)


def test_adaptive_feedback_aligns_with_the_read_out() -> None:
    """Same changes, same decay: what B and W_out^T differ by shrinks by 1 - decay in every update."""
    network = network_of(DYNAMICS["lif, refractory"])
    x, target = inputs(), torch.tensor(rng_of(3).normal(size=(B, T, 2)))
    feedback = random_feedback(network, x, torch.Generator().manual_seed(0))
    gap = (feedback["out"].T - torch.tensor(network.weights()["out.weight"])).norm()
    for k in range(1, 5):
        trace = run(network, x)
        errors = errors_of(trace, target)
        gradients = eprop(network, trace, learning_signals(network, errors, feedback), errors)
        changes = {name: -1e-5 * g for name, g in gradients.items()}
        feedback = adapted_feedback(feedback, changes, decay=0.1)
        weights = {name: torch.tensor(w) + changes[name] for name, w in network.weights().items()}
        weights["out.weight"] *= 0.9
        network = network.with_weights({name: w.numpy() for name, w in weights.items()})
        now = (feedback["out"].T - torch.tensor(network.weights()["out.weight"])).norm()
        assert now == pytest.approx(float(gap) * 0.9**k, rel=1e-11)


@pytest.mark.parametrize("kind", ["symmetric", "random"])
def test_learning_by_e_prop_lowers_the_error(kind: str) -> None:
    network = network_of(DYNAMICS["alif, refractory"], readout=Readout(0.9, gain=0.1))
    x, target = inputs(), torch.sin(torch.arange(T).double() / 6)[None, :, None].expand(B, T, 2)
    feedback = random_feedback(network, x, torch.Generator().manual_seed(0)) if kind == "random" else None
    losses = []
    for _ in range(60):
        trace = run(network, x)
        errors = errors_of(trace, target)
        losses.append(float(errors["y"].square().mean()))
        gradients = eprop(network, trace, learning_signals(network, errors, feedback), errors)
        network = network.with_weights({n: w - 2e-3 * gradients[n].numpy() for n, w in network.weights().items()})
    assert losses[-1] < 0.6 * losses[0]


# ------------------------------------------------------------------------------------------------ refusals


def _refused(message: str, dynamics: Dynamics, trace: Trace | None = None, **more: Any) -> None:
    network = network_of(dynamics)
    trace = trace or run(network, inputs())
    with pytest.raises(ConfigError, match=message):
        eprop(network, trace, **{"signals": {"hidden": torch.zeros(B, T, N).double()}, **more})


def test_what_does_not_hold_is_refused_naming_the_layer() -> None:
    twice = Dynamics(A, 0.6, reset=SubtractThresholdOnce())
    _refused(r"layer 'hidden': .*SubtractThresholdOnce", twice)
    _refused(r"layer 'hidden': Paths.recurrent", DYNAMICS["lif"], paths=ALL_PATHS)
    _refused(r"layer 'hidden': Paths.reset", DYNAMICS["lif"], paths=Paths(recurrent=False))
    _refused(r"layer 'hidden': learning signal: \(1, 2, 3\)", DYNAMICS["lif"], signals={"hidden": torch.zeros(1, 2, 3)})
    short = run(network_of(DYNAMICS["lif"]), inputs(steps=9))
    late = {"y": torch.zeros(B, T, 2).double()}
    _refused(r"layer 'out': .*\(3, 60\).*\(3, 9\)", DYNAMICS["lif"], short, signals={}, errors=late)
    other = Trace({"hidden": LayerTrace(*(torch.zeros(B, T, 2).double(),) * 2)}, {}, {"x": inputs()})
    _refused(r"layer 'hidden': the trace has neurons \(2,\)", DYNAMICS["lif"], other)
    _refused("signals 'hiden': .*did you mean 'hidden'", DYNAMICS["lif"], signals={"hiden": torch.zeros(1)})
    _refused("errors 'z': no such read-out", DYNAMICS["lif"], errors={"z": torch.zeros(1)})
    _refused(r"errors 'y': \(1, 2\)", DYNAMICS["lif"], errors={"y": torch.zeros(1, 2)})
    full = run(network_of(DYNAMICS["alif, refractory"]), inputs())
    for part in ("refractory", "adaptation"):
        lacking = LayerTrace(**{**vars(full["hidden"]), part: None})
        _refused(
            f"layer 'hidden': LayerTrace.{part}: absent",
            DYNAMICS["alif, refractory"],
            Trace({"hidden": lacking}, {}, full.inputs),
        )


def test_layers_between_that_are_not_linear_are_refused() -> None:
    kernel = rng_of(0).normal(size=(1, 2, 3))
    layers = {"x": Input((1, 8)), "conv": Conv(kernel), "s": Spiking(Dynamics(A, 0.6))}
    network = Network.stack(layers)
    trace = run(network, torch.ones(1, 5, 1, 8).double())
    with pytest.raises(ConfigError, match=r"layer 'conv': Conv"):
        eprop(network, trace, {"s": torch.zeros_like(trace["s"].spikes)})
    layers = {"x": Input((1, 8)), "flat": Flatten(), "w": Linear(rng_of(0).normal(size=(8, 2))), "s": layers["s"]}
    network = Network.stack(layers)
    trace = run(network, torch.ones(1, 5, 1, 8).double())
    with pytest.raises(ConfigError, match=r"layer 'w': what it reads, 'flat' \(Flatten\)"):
        eprop(network, trace, {"s": torch.zeros_like(trace["s"].spikes)})
    network = Network.stack({"x": Input((3,)), "s": Spiking(Dynamics(A, 0.6)), "y": Readout(0.9)})
    with pytest.raises(ConfigError, match=r"layer 'y': reads 's' \(Spiking\)"):
        learning_signals(network, {"y": torch.zeros(1, 2, 3)})
    layers = {"x": Input((1, 8)), "s": layers["s"], "flat": Flatten(), "w": layers["w"], "y": Readout(0.9)}
    with pytest.raises(ConfigError, match=r"layer 'w': reads 'flat' \(Flatten\)"):
        learning_signals(Network.stack(layers), {"y": torch.zeros(1, 5, 2)})
    network = network_of(DYNAMICS["lif"])
    assert learning_signals(network, {}) == {}
    with pytest.raises(ConfigError, match="feedback: none for 'out'"):
        learning_signals(network, {"y": torch.zeros(1, 2, 2)}, {})
    with pytest.raises(ConfigError, match=r"feedback 'out': shape \(12, 2\) where \(2, 12\)"):
        learning_signals(network, {"y": torch.zeros(1, 2, 2)}, {"out": torch.zeros(12, 2)})
    with pytest.raises(ConfigError, match=r"adapted_feedback: the change of 'out.weight'"):
        adapted_feedback({"out": torch.zeros(2, 12)}, {})
