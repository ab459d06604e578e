"""Eligibility: forward, backward, shared trace and derivatives of a step agree; a neuron by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ovonic.models.dynamics import Adaptation, Dynamics, NoReset
from ovonic.models.eligibility import EPROP_FIXED_THRESHOLD, credit, eligibility_traces, presynaptic_trace
from ovonic.models.eligibility_autodiff import eligibility_from_step
from ovonic.models.errors import ConfigError
from ovonic.models.lif import Paths, initial_state, pseudo_derivative, step, unroll
from ovonic.models.simulation import run
from ovonic.models.surrogates import Triangular
from ovonic.models.trace import LayerTrace

from .eprop_cases import DYNAMICS, B, N, T, both_conventions, every_dynamics, inputs, network_of, rng_of

# ------------------------------------------------------------------------------------------------ closed form


@both_conventions
@every_dynamics
def test_the_forward_form_sums_to_the_backward_form(dynamics: Dynamics, paths: Paths) -> None:
    x = inputs()
    trace = run(network_of(dynamics), x)["hidden"]
    signal = torch.tensor(rng_of(5).normal(size=(B, T, N)))
    forward = sum(
        signal[:, t, None] * e for t, e in enumerate(eligibility_traces(x, trace, dynamics, Triangular(0.5), paths))
    )
    backward = x.transpose(1, 2) @ credit(signal, trace, dynamics, Triangular(0.5), paths)
    torch.testing.assert_close(forward, backward, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["lif", "lif, refractory", "lif, no reset, >=", "lif, synapse"])
def test_one_filtered_trace_an_input_where_all_neurons_share_it(name: str) -> None:
    dynamics, x = DYNAMICS[name], inputs()
    trace = run(network_of(dynamics), x)["hidden"]
    signal = torch.tensor(rng_of(5).normal(size=(B, T, N)))
    three_factors = presynaptic_trace(x, dynamics).transpose(1, 2) @ (pseudo_derivative(trace, dynamics) * signal)
    torch.testing.assert_close(three_factors, x.transpose(1, 2) @ credit(signal, trace, dynamics))


def test_an_adapting_neuron_by_hand() -> None:
    """decay 1/2, threshold 1, beta 1, slope 1: e[t] = eps_v[t] - eps_b[t], eps_b[t+1] = eps_b[t]/2 + e[t]."""
    dynamics = Dynamics(0.5, 1.0, adaptation=Adaptation(0.5, 1.0))
    trace, _ = unroll(torch.tensor([[[1.5], [0.0], [0.0]]], dtype=torch.float64), dynamics)
    x = torch.tensor([[[1.0], [0.0], [0.0]]], dtype=torch.float64)
    flat: Any = lambda x, scale: torch.ones_like(x)  # noqa: E731
    e = [float(e) for e in eligibility_traces(x, trace, dynamics, flat)]
    assert e == [1.0, 0.5 - 1.0, 0.25 - (0.5 - 0.5)]
    assert [float(e) for e in eligibility_traces(x, trace, dynamics, flat, EPROP_FIXED_THRESHOLD)] == [1.0, 0.5, 0.25]


def test_differentiable_in_signal_and_membrane() -> None:
    """As natural e-prop needs; against finite differences, on a smooth slope."""
    dynamics = DYNAMICS["alif, refractory"]
    trace = run(network_of(dynamics), inputs()[:1, :9])["hidden"]
    signal = torch.tensor(rng_of(5).normal(size=trace.spikes.shape)).requires_grad_()

    def teach(signal: Tensor, membrane: Tensor) -> Tensor:
        run_again = LayerTrace(trace.spikes, membrane, trace.refractory, trace.adaptation)
        return credit(signal, run_again, dynamics, _bell)

    assert torch.autograd.gradcheck(teach, (signal, trace.membrane.clone().requires_grad_()))


def _bell(x: Tensor, scale: Any) -> Tensor:
    return torch.exp(-((x / scale) ** 2))


@pytest.mark.parametrize(
    ("dynamics", "message"),
    [
        (DYNAMICS["lif, own constants"], "Dynamics.decay differs"),
        (DYNAMICS["lif, synapse, own"].replace(reset=NoReset()), "synapse.decay differs"),
        (DYNAMICS["lif, frozen"], "frozen"),
        (DYNAMICS["lif, to value, same step"], "ResetToValue"),
    ],
)
def test_a_shared_trace_is_refused_where_there_is_none(dynamics: Dynamics, message: str) -> None:
    with pytest.raises(ConfigError, match=f"presynaptic_trace: .*{message}"):
        presynaptic_trace(inputs(), dynamics)


# ------------------------------------------------------------------------------------------------ a neuron of one's own


@both_conventions
@pytest.mark.parametrize("name", DYNAMICS)
def test_derivatives_of_the_step_give_the_closed_form(name: str, paths: Paths) -> None:
    dynamics, x = DYNAMICS[name], inputs(batch=2, steps=40)
    network = network_of(dynamics)
    w_in, w_rec = (torch.tensor(network.weights()[key]) for key in ("a.weight", "hidden.recurrence"))
    drive = x @ w_in
    trace, _ = unroll(drive, dynamics, lambda z: z @ w_rec)
    found = eligibility_from_step(
        lambda current, state: step(current, state, dynamics, paths=paths),
        drive,
        initial_state(drive[:, 0], dynamics),
        lambda z: z @ w_rec,
    )
    assert torch.equal(found.spikes, trace.spikes)
    assert trace.spikes.any()
    signal = torch.tensor(rng_of(5).normal(size=trace.spikes.shape))
    closed = credit(signal, trace, dynamics, paths=paths)
    assert (found.credit(signal) - closed).norm() <= 1e-12 * closed.norm()
    expected = eligibility_traces(x, trace, dynamics, paths=paths)
    for ours, theirs in zip(found.traces(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


class _Spike(torch.autograd.Function):
    """As users write them: a backward pass, and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / (1 + 5 * ctx.saved_tensors[0].abs()) ** 2


def _izhikevich(current: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """A nonlinear neuron of two variables with a hard reset, in steps of 0.5 ms; the reset is detached."""
    v, u = state["v"], state["u"]
    v, u = v + 0.5 * (0.04 * v**2 + 5 * v + 140 - u + current), u + 0.5 * 0.02 * (0.2 * v - u)
    z = _Spike.apply((v - 30) / 100)
    fired = z.detach()
    return z, {"v": (1 - fired) * v + fired * -65.0, "u": u + 8 * fired}


def test_a_nonlinear_neuron_equals_autograd_without_recurrence() -> None:
    rng = rng_of(8)
    x = torch.tensor(rng.random((2, 150, 7)) < 0.3, dtype=torch.float64)
    w_in = torch.tensor(rng.uniform(2, 10, (7, 5))).requires_grad_()
    w_rec = torch.tensor(rng.normal(0, 3, (5, 5))).requires_grad_()
    signal = torch.tensor(rng.normal(size=(2, 150, 5)))
    state = {"v": torch.full((2, 5), -65.0).double(), "u": torch.full((2, 5), -13.0).double()}
    start, z, loss = dict(state), torch.zeros(2, 5).double(), torch.zeros(()).double()
    for t in range(150):
        z, state = _izhikevich(x[:, t] @ w_in + z.detach() @ w_rec, state)
        loss = loss + (signal[:, t] * z).sum()
    of_in, of_rec = torch.autograd.grad(loss, [w_in, w_rec])
    found = eligibility_from_step(_izhikevich, (x @ w_in).detach(), start, lambda z: z @ w_rec.detach())
    assert found.spikes.sum() > 10
    back = found.credit(signal)
    last = torch.nn.functional.pad(found.spikes[:, :-1], (0, 0, 1, 0))
    for pre, gradient in ((x, of_in), (last, of_rec)):
        assert ((pre.transpose(1, 2) @ back).sum(0) - gradient).norm() <= 1e-12 * gradient.norm()
        forward = sum(signal[:, t, None] * e for t, e in enumerate(found.traces(pre)))
        assert isinstance(forward, Tensor)
        assert (forward.sum(0) - gradient).norm() <= 1e-12 * gradient.norm()


def test_a_step_that_mixes_neurons_is_refused() -> None:
    def mixes(current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v = 0.9 * state + current - 0.1 * state.mean(-1, keepdim=True)
        return _Spike.apply(v - 1), v

    with pytest.raises(ConfigError, match="mixes neurons"):
        eligibility_from_step(mixes, torch.ones(2, 3, 4), torch.zeros(2, 4))


def test_a_step_that_changes_its_state_is_refused() -> None:
    with pytest.raises(ConfigError, match="not of the form"):
        eligibility_from_step(lambda i, s: (i, (*s, i)), torch.ones(2, 3, 4), (torch.zeros(2, 4),))
