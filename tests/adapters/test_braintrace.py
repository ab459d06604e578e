"""E-prop by braintrace's own ``EProp`` gives the rule's gradients; what it would give, put otherwise, is not e-prop."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovonic.adapters import braintrace as adapter
from ovonic.models.dynamics import Adaptation, Dynamics, Refractory, ResetToValue, SubtractThresholdOnce, Synapse
from ovonic.models.eprop import eprop
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.learning_signals import learning_signals
from ovonic.models.network import Network
from ovonic.models.surrogates import ArcTan, Boxcar, FastSigmoid, Sigmoid, Surrogate, Triangular
from ovonic.validation.gradients import Episode, compare_gradients, factorised, random_episode, relative

pytestmark = pytest.mark.toolchain


@pytest.fixture(autouse=True)
def _braintrace() -> None:
    pytest.importorskip("braintrace", reason="needs braintrace: pip install 'ovonic[braintrace]'")


@pytest.mark.parametrize("index", [0, 5, 8])
def test_agrees_with_the_rule(index: int) -> None:
    """LIF, ALIF, and without recurrence; float64, and JAX is as it was afterwards."""
    import jax

    episode = random_episode(index, seed=5, steps=40)
    assert factorised(episode).trace["hidden"].spikes.sum() > 10
    (agreement,) = compare_gradients(episode, ("braintrace",))
    assert agreement.agrees, agreement
    assert agreement.worst is not None
    assert agreement.worst < 1e-13
    assert not jax.config.jax_enable_x64


def _rich(dynamics: Dynamics, recurrence: Recurrence | None, readout: Readout | None = None, seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    return Network.stack(
        {
            "x": Input((4,)),
            "in": Linear(rng.normal(0.2, 0.5, (4, 6))),
            "hidden": Spiking(dynamics, recurrence),
            "out": Linear(rng.normal(size=(6, 2))),
            "y": readout or Readout(0.9),
        }
    )


def _drawn(network: Network, signal: bool = False, seed: int = 0, steps: int = 40) -> Episode:
    rng = np.random.default_rng([seed, 1])
    x = {"x": torch.from_numpy((rng.random((2, steps, 4)) < 0.3).astype(float))}
    if signal:
        return Episode("signal", network, x, {}, torch.from_numpy(rng.normal(size=(2, steps, 6))))
    return Episode("targets", network, x, {"y": torch.from_numpy(rng.normal(size=(2, steps, 2)))})


def _recurrence(delay: int = 1) -> Recurrence:
    return Recurrence(np.random.default_rng(3).normal(0, 0.2, (6, 6)), delay=delay)


def test_every_state_a_neuron_can_have() -> None:
    """A synaptic current, an adaptation whose fresh spike decays, a rest, two steps of delay; a gain of read-outs."""
    dynamics = Dynamics(
        np.linspace(0.8, 0.95, 6), 0.7, gain=0.8, rest=0.1, v_init=0.2, refractory=Refractory(1),
        adaptation=Adaptation(0.9, 0.2, fresh_spike_decays=True), synapse=Synapse(0.5, 0.9),
    )  # fmt: skip
    network = _rich(dynamics, _recurrence(2), Readout(0.85, gain=0.4, rest=0.3, v_init=-0.2))
    for signal in (False, True):
        episode = _drawn(network, signal)
        assert factorised(episode).trace["hidden"].spikes.sum() > 10
        for agreement in compare_gradients(episode, ("autograd", "braintrace")):
            assert agreement.agrees, agreement


def test_resets_that_other_references_refuse() -> None:
    """A reset to a value with a frozen membrane: its Jacobian is JAX's, ours is written out in ``eligibility``."""
    network = _rich(Dynamics(0.9, 0.5, reset=ResetToValue(-0.1), refractory=Refractory(2, frozen=True)), _recurrence())
    episode = _drawn(network)
    assert factorised(episode).trace["hidden"].spikes.sum() > 10
    (agreement,) = compare_gradients(episode, ("braintrace",))
    assert agreement.agrees, agreement


@pytest.mark.parametrize("surrogate", [Boxcar(), ArcTan(), FastSigmoid(5.0), Sigmoid(8.0), Triangular(0.7)])
def test_slopes(surrogate: Surrogate) -> None:
    """Each formula on JAX's numbers is the torch one, to the last digits, over nine thresholds to either side."""
    with adapter.loaded() as x:
        at, scale = np.linspace(-5.4, 5.4, 217), 0.6
        theirs = np.asarray(adapter.SLOPES[type(surrogate)](x.np, surrogate, x.np.asarray(at), scale))
    np.testing.assert_allclose(theirs, surrogate(torch.from_numpy(at), scale).numpy(), rtol=1e-12, atol=1e-300)


def test_a_slope_other_than_the_default() -> None:
    episode = _drawn(_rich(Dynamics(0.9, 0.5), _recurrence()))
    trace = factorised(episode).trace
    errors = {name: trace.readouts[name] - target for name, target in episode.targets.items()}
    ours = eprop(episode.network, trace, learning_signals(episode.network, errors), errors, ArcTan())
    theirs = adapter.run_eprop(episode.network, episode.inputs, episode.targets, surrogate=ArcTan()).gradients
    assert max(relative(theirs[name], g) for name, g in ours.items()) < 1e-12
    assert relative(theirs["in.weight"], factorised(episode).gradients["in.weight"]) > 1e-2


def test_refusals_name_the_feature() -> None:
    x = torch.zeros(1, 5, 4, dtype=torch.float64)
    y = {"y": x[:, :, :2]}
    lif, rows = Dynamics(0.9, 0.6), _recurrence()
    for network, surrogate, said in (
        (_rich(Dynamics(0.9, 0.6, reset=SubtractThresholdOnce()), rows), Triangular(), r"'hidden', Dynamics\.reset"),
        (_rich(lif, Recurrence(np.ones(6))), Triangular(), r"Recurrence\.weight"),
        (_rich(lif, rows), lambda x, scale: x, "surrogate function"),
        (_rich(lif, rows, Readout(0.9, synapse=Synapse(0.5))), Triangular(), r"Readout\.synapse"),
        (_rich(lif, rows, Readout(np.array([0.9, 0.8]))), Triangular(), "give all read-outs one decay"),
        (_rich(lif, rows, Readout(1.0)), Triangular(), "kappa lies below 1"),
    ):
        with pytest.raises(UnsupportedDynamics, match=said):
            adapter.run_eprop(network, x, y, surrogate=surrogate)  # type: ignore[arg-type]
    network = _rich(lif, rows)
    with pytest.raises(ConfigError, match="either targets or a signal"):
        adapter.run_eprop(network, x)
    with pytest.raises(ConfigError, match=r"signal: shape \(1, 5, 4\)"):
        adapter.run_eprop(network, x, signal=x)


def test_jax_is_imported_when_it_is_used() -> None:
    """Not with the adapter, which ``validation.gradients`` imports when the reference is asked for."""
    top = ast.parse(Path(adapter.__file__).read_text()).body
    named = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
    assert "ovonic.models.network" in named
    assert not {name.split(".")[0] for name in named} & {"jax", "brainstate", "braintrace"}


# ------------------------------------------------------------------------------------- what braintrace does otherwise


def _gradient(cell: Any, kappa: float, x: float, steps: int = 1) -> float:
    """dE/dw by braintrace of E = sum of what a cell with one weight returns."""
    with adapter.loaded() as loaded:
        given = loaded.np.full((steps, 1, 1), x)
        learner = loaded.trace.compile(
            cell(loaded), loaded.trace.EProp, given[0], batch_size=1, kappa_filter_decay=kappa
        )
        found = learner.etrace_grad(given, step_fn=lambda now: loaded.np.sum(learner(now)), reduction="sum")
        return float(found["w",][0, 0])


def _cell(copied: bool, squared: bool = True) -> Any:
    """v = v / 2 + w x, and out of it z = v^2, each a state; v is stored as itself or as a copy."""

    def made(loaded: Any) -> Any:
        class Cell(loaded.state.nn.Module):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()
                self.w = loaded.state.ParamState(loaded.np.full((1, 1), 0.5))

            def init_state(self, batch_size: int | None = None, **options: Any) -> None:
                self.v = loaded.state.HiddenState(loaded.np.zeros((1, 1)))
                self.z = loaded.state.HiddenState(loaded.np.zeros((1, 1)))

            def update(self, x: Any) -> Any:
                v = self.v.value / 2 + loaded.trace.matmul(x, self.w.value)
                self.v.value = v + 0.0 if copied else v
                self.z.value = v**2
                return self.z.value if squared else v**2

        return Cell()

    return made


def test_the_trap_a_state_read_within_its_step_counts_twice() -> None:
    """E = (w x)^2 at w = 1/2, x = 3 has dE/dw = 2 w x^2 = 9; braintrace 0.2.8 says 18 unless v is stored as a copy."""
    assert _gradient(_cell(copied=True), 0.0, 3.0) == pytest.approx(9.0)
    assert _gradient(_cell(copied=False), 0.0, 3.0) == pytest.approx(18.0)


def test_the_filter_acts_on_states_so_that_z_must_be_one() -> None:
    """Two steps, E = z[0] + z[1], kappa 1/2, by hand: v = 1.5, 2.25; eps_v = 3, 4.5; e = 2 v eps_v = 9, 20.25.

    Bellec: ebar = 9, 24.75, their sum 33.75. Filtering eps_v before the slope: 3, 6 -> 9 + 27 = 36.
    """
    assert _gradient(_cell(copied=True), 0.5, 3.0, 2) == pytest.approx(33.75)
    assert _gradient(_cell(copied=False, squared=False), 0.5, 3.0, 2) == pytest.approx(36.0)
