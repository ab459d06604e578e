"""Regression tests by name: the traps of Norse 1.1.0, and the modules of it that are refused, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovonic.adapters.norse import from_norse, run, to_norse
from ovonic.models import simulation
from ovonic.models.dynamics import Dynamics, Refractory, ResetToValue, SubtractThreshold, When
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Recurrence, Spiking
from ovonic.models.network import Network

pytestmark = pytest.mark.toolchain
t = pytest.importorskip("norse.torch", reason="needs Norse: pip install 'ovonic[norse]'")
B, T, N = 3, 80, 6
RNG = np.random.default_rng(1)
W_IN, W_REC = RNG.normal(0.2, 0.6, (4, N)), RNG.normal(0, 0.4, (N, N))
X = torch.tensor(RNG.random((B, T, 4)) < 0.4, dtype=torch.float64)


def _network(dynamics: Dynamics, recurrence: Recurrence | None = None) -> Network:
    return Network.stack({"x": Input((4,)), "w": Linear(W_IN), "z": Spiking(dynamics, recurrence)})


def _spikes(network: Network) -> Tensor:
    ours = simulation.run(network, X)["z"].spikes
    assert torch.equal(run(network, X)["z"].spikes, ours)
    assert 0.02 < ours.mean() < 0.9
    return ours


def _read(module: nn.Module, **options: Any) -> Spiking:
    layer = list(from_norse(module, **options).layers.values())[-1]
    assert isinstance(layer, Spiking)
    return layer


# ------------------------------------------------------------------------------------------------ traps


def test_stock_subtract_resets_before_the_decay() -> None:
    """The published reset acts after it: LIFBoxCell would spike otherwise, and is not taken for it."""
    late, early = (Dynamics(0.75, 0.5, 0.25, reset=SubtractThreshold(when)) for when in (list(When)[2], When.SAME_STEP))
    assert not torch.equal(_spikes(_network(late.replace(gain=1.0))), _spikes(_network(early.replace(gain=1.0))))
    assert type(to_norse(_network(late))["z"]).__name__ == "Cell"
    assert type(to_norse(_network(early))["z"]).__name__ == "LIFBoxCell"


def test_lif_refrac_freezes_the_membrane_and_resets_hard() -> None:
    """Integrating refractoriness is not given to it, and it is read as frozen."""
    module = t.SequentialState(nn.Linear(4, N), t.LIFRefracCell())
    layer = _read(module)
    assert layer.dynamics.refractory == Refractory(5, frozen=True)
    assert layer.dynamics.reset == ResetToValue(0.0)
    soft, frozen = (
        _network(layer.dynamics.replace(refractory=Refractory(5, f), gain=1.0, synapse=None)) for f in (False, True)
    )
    assert not torch.equal(_spikes(soft), _spikes(frozen))
    own = layer.dynamics.replace(refractory=Refractory(5))
    assert type(to_norse(_network(own))["z"]).__name__ == "Cell"
    assert type(to_norse(_network(layer.dynamics))["z"]).__name__ == "LIFRefracCell"


def test_lif_recurrent_cell_has_a_synaptic_filter() -> None:
    assert _read(t.LIFRecurrentCell(4, N)).dynamics.synapse is not None
    assert _read(t.LIFBoxCell(), input_shape=(N,)).dynamics.synapse is None


@pytest.mark.parametrize("masked", [False, True])
def test_autapses_false_would_zero_the_users_weights(masked: bool) -> None:
    """Norse overwrites the diagonal of the tensor it gets; building, running and reading leave it as it is."""
    theirs = torch.tensor(W_REC)
    t.LIFRecurrentCell(N, N, recurrent_weights=theirs, autapses=False)
    assert theirs.diagonal().abs().sum() == 0
    network = _network(Dynamics(0.9, 0.5), Recurrence(W_REC, masked_diagonal=masked))
    module = to_norse(network)
    _spikes(network)
    module(X[:, 0])
    assert np.array_equal(network.weights()["z.recurrence"], W_REC)
    assert from_norse(module) == network
    other = _network(Dynamics(0.9, 0.5), Recurrence(W_REC, masked_diagonal=not masked))
    assert not torch.equal(_spikes(network), _spikes(other))


def test_a_diagonal_loaded_after_autapses_false_acts() -> None:
    """Norse masks when it builds, not when it runs: a diagonal that came with a state_dict is part of the network."""
    cell = t.LIFRecurrentCell(4, N).double()
    state = cell.state_dict() | {"recurrent_weights": torch.tensor(W_REC), "input_weights": 5 * torch.tensor(W_IN.T)}
    cell.load_state_dict(state)
    recurrence = _read(cell).recurrence
    assert recurrence == Recurrence(W_REC.T)
    spikes, held = [], None
    with torch.no_grad():
        for x in X.unbind(1):
            z, held = cell(x, held)
            spikes.append(z)
    ours = simulation.run(from_norse(cell), X)["lifrecurrentcell"].spikes
    assert torch.equal(torch.stack(spikes, 1), ours)
    assert ours.mean() > 0.02


def test_hidden_default_dt_is_a_millisecond() -> None:
    """dt is in seconds and 1 ms where nobody says so; it scales leak and input."""
    rate = torch.tensor(128.0, dtype=torch.float64)
    p = t.LIFBoxParameters(tau_mem_inv=rate)
    for dt, module in ((0.001, t.LIFBoxCell(p)), (0.0001, t.LIFBoxCell(p, dt=0.0001))):
        network = from_norse(module, input_shape=(1,))
        assert network.dt_ms == 1000 * dt
        layer = network.layers["lifboxcell"]
        assert isinstance(layer, Spiking)
        assert layer.dynamics.gain == dt * 128.0
    for dt_ms in (1.0, 0.1):
        network = _network(Dynamics(0.75, 0.5, 0.25, reset=ResetToValue())).replace(dt_ms=dt_ms)
        module = to_norse(network)
        own: Any = module["z"]
        assert own.dt == dt_ms / 1000
        assert from_norse(module).dt_ms == dt_ms


def test_lif_starts_in_float32() -> None:
    """Time-looping modules make their first membrane in float32, whatever the dtype of the run."""
    leak = torch.tensor(0.1, dtype=torch.float64)
    for module, shape in ((t.LIF(t.LIFParameters(v_leak=leak)), (2,)), (t.LI(t.LIParameters(v_leak=leak)), (2,))):
        layer = from_norse(module, input_shape=shape).layers[type(module).__name__.lower()]
        found: Any = layer.dynamics if isinstance(layer, Spiking) else layer
        assert found.rest == 0.1
        assert found.v_init == float(np.float32(0.1))


def test_reading_iaf_leaves_its_parameters_alone() -> None:
    """Norse's own initial state makes v_reset require gradients; reading does not."""
    v_reset = torch.tensor(-0.1)
    from_norse(t.IAFCell(t.IAFParameters(v_reset=v_reset)), input_shape=(2,))
    assert not v_reset.requires_grad
    negative = t.IAFParameters(v_th=torch.tensor(-0.5), v_reset=torch.tensor(-1.0))
    assert _read(t.IAFCell(negative), input_shape=(2,)).dynamics.v_init == -1.0


def test_lift_hands_a_state_on() -> None:
    """A lifted cell in nn.Sequential starts from the state that the cell before it ended with: refused."""
    for last in (t.Lift(t.LIFCell()), t.LIF(), nn.Linear(N, N)):
        with pytest.raises(UnsupportedDynamics, match="Lift hands its state on to"):
            from_norse(nn.Sequential(nn.Linear(4, N), t.Lift(t.LIFCell()), last))
    from_norse(nn.Sequential(nn.Linear(4, N), t.Lift(t.LIFCell()), t.Lift(nn.Linear(N, 2))))


class OwnSequential(nn.Sequential):
    """A subclass with torch's forward."""


def test_sequential_of_torch_forgets_states() -> None:
    for module in (
        OwnSequential(nn.Linear(4, N), t.LIFCell()),
        nn.Sequential(nn.Linear(4, N), t.LIFCell()),
        t.SequentialState(nn.Sequential(nn.Linear(4, N), t.LIFCell())),
        t.Lift(nn.Sequential(nn.Linear(4, N), t.LIFCell())),
    ):
        with pytest.raises(UnsupportedDynamics, match=r"loses the state of .* after a step; SequentialState"):
            from_norse(module)


def test_a_cell_among_neurons_that_loop_takes_time_for_the_batch() -> None:
    with pytest.raises(UnsupportedDynamics, match=r"layer '1': LIFCell takes one step.*; put it into a Lift"):
        from_norse(t.SequentialState(t.LIF(), t.LIFCell()), input_shape=(2,))


# ------------------------------------------------------------------------------------------------ refusals

FOREIGN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "IzhikevichCell": (lambda: t.IzhikevichCell(t.tonic_spiking), "quadratic"),
    "IzhikevichRecurrentCell": (lambda: t.IzhikevichRecurrentCell(2, 2, t.tonic_spiking), "quadratic"),
    "LIFAdExCell": (lambda: t.LIFAdExCell(), "adaptation current"),
    "LIFAdExRecurrent": (lambda: t.LIFAdExRecurrent(2, 2), "adaptation current"),
    "LIFAdExRefracCell": (lambda: t.LIFAdExRefracCell(), "adaptation current"),
    "LIFExCell": (lambda: t.LIFExCell(), "exponential"),
    "LIFExRecurrentCell": (lambda: t.LIFExRecurrentCell(2, 2), "exponential"),
    "CobaLIFCell": (lambda: t.CobaLIFCell(2, 2), "conductances"),
    "LIFMCRecurrentCell": (lambda: t.LIFMCRecurrentCell(2, 2), "compartments"),
    "LIFMCRefracRecurrentCell": (lambda: t.LIFMCRefracRecurrentCell(2, 2), "compartments"),
    "LIFCorrelation": (lambda: t.LIFCorrelation(2, 2), "correlation"),
    "RecurrentSequential": (lambda: t.RecurrentSequential(t.LIFBoxCell()), "a cycle"),
    "RegularizationCell": (lambda: t.RegularizationCell(), "term of the loss"),
    "PoissonEncoder": (lambda: t.PoissonEncoder(5), "no meaning here"),
    "ConvNet": (lambda: t.ConvNet(4), "no meaning here"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_neurons_are_refused_by_name(kind: str) -> None:
    make, why = FOREIGN[kind]
    with pytest.raises(UnsupportedDynamics, match=f"layer '1': {kind}.*{why}.*LIFBoxCell, LIFCell"):
        from_norse(t.SequentialState(nn.Linear(2, 2), make()), input_shape=(2,))


def _lif(**values: Any) -> nn.Module:
    tensors = {name: value if isinstance(value, str) else torch.as_tensor(value) for name, value in values.items()}
    return t.LIFCell(t.LIFParameters(**tensors))


class OwnLIF(type(t.LIFCell())):  # type: ignore[misc]
    """A neuron with another forward."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return super().forward(2 * x, state)


def _hooked() -> nn.Module:
    cell = t.LIFCell()
    cell.register_forward_hook(lambda *_: None)
    return cell


def _charged() -> nn.Module:
    cell = t.LIFCell()
    cell.state_fallback = lambda x: t.LIFFeedForwardState(torch.zeros_like(x), torch.ones_like(x))
    return cell


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: _lif(method="adjoint"), "method 'adjoint': Norse 1.1 raises when it runs; one of heaviside"),
    (lambda: _lif(method="logistic"), "method 'logistic'; Norse 1.1 knows heaviside"),
    (lambda: _lif(tau_mem_inv=1500.0), r"dt tau_mem_inv = 1.5 lies outside 0..1.*; a smaller dt"),
    (lambda: _lif(tau_syn_inv=-1.0), r"dt tau_syn_inv = 0.001 lies outside 0..1"),
    (lambda: _lif(tau_mem_inv=0.0), "the membrane takes no input; IAFCell"),
    (lambda: t.LSNNCell(t.LSNNParameters(v_leak=torch.zeros(2))), "its own initial state fails: full.*; one v_leak"),
    (lambda: t.LIFBoxCell(t.LIFBoxParameters(v_leak=0.0)), "its own initial state fails: .*Expected tensor"),
    (lambda: t.LIFBoxCell(t.LIFBoxParameters(reset_method=lambda z, v, r, th: v)), "its reset_method is not Norse's"),
    (OwnLIF, "its forward is not Norse's"),
    (_hooked, r"has forward hooks.*remove_forward_state_hooks"),
    (_charged, "its initial state has i other than 0.0; Norse's own initial_state"),
    (lambda: nn.BatchNorm1d(2), "BatchNorm1d has no meaning here"),
    (lambda: nn.Dropout(), r"Dropout draws at random in training; call .eval\(\) first"),
    (lambda: nn.Flatten(0), r"nn.Flatten\(0, -1\)"),
    (lambda: t.Lift(t.LIF()), "a Lift of what loops over time itself"),
]


@pytest.mark.parametrize(("make", "match"), REFUSED)
def test_what_no_network_says_is_refused(make: Callable[[], nn.Module], match: str) -> None:
    with pytest.raises(UnsupportedDynamics, match=match):
        from_norse(t.SequentialState(nn.Linear(2, 2), make()), input_shape=(2,))


def test_modules_that_cannot_be_followed_are_refused() -> None:
    cell = t.LIFCell()
    with pytest.raises(UnsupportedDynamics, match="the same module as '1', whose state they would share"):
        from_norse(t.SequentialState(nn.Linear(2, 2), cell, nn.Linear(2, 2), cell))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.lif = nn.Parameter(torch.ones(1)), t.LIFCell()

    with pytest.raises(UnsupportedDynamics, match="Scaled holds 'scale' beside its children"):
        from_norse(Scaled())
    with pytest.raises(ConfigError, match="SequentialState: holds no layers"):
        from_norse(t.SequentialState())
    with pytest.raises(ConfigError, match=r"layer '0': Dynamics.threshold: .* must lie above rest"):
        from_norse(t.SequentialState(_lif(v_th=-1.0)), input_shape=(2,))
