"""What the description can say is what the toolchains do: their own code beside ours, spike for spike, in float64.

Every reset, delay and class of snnTorch 1.0, and of Norse 1.1's LIF family; NEST 3.10's e-prop neurons and its
``iaf_psc_delta``. The adapters build on these correspondences; each table names ours beside theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
    When,
)
from ovonic.models.lif import unroll

pytestmark = pytest.mark.toolchain
B, T, N = 3, 200, 12


def _rand(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DECAY, SYNAPSE, THRESHOLD = 0.65 + 0.3 * _rand(1, N), 0.3 + 0.4 * _rand(2, N), 0.6 + 0.5 * _rand(3, N)
W_REC, ONE_TO_ONE = 0.3 * _randn(4, N, N), 0.3 * _randn(5, N)
DRIVE = 0.25 + 0.9 * _randn(6, B, T, N)


def _same(theirs: Tensor, dynamics: Dynamics, drive: Tensor, recurrent: Any = None, delay: int = 1) -> None:
    ours = unroll(drive, dynamics, recurrent, delay)[0].spikes
    assert theirs.sum() > 0.05 * theirs.numel()
    assert torch.equal(ours, theirs)


# ------------------------------------------------------------------------------------------------ snnTorch

SNNTORCH: list[tuple[str, bool, Reset, Reset]] = [  # mechanism, reset_delay, feed-forward, recurrent and Synaptic
    ("subtract", True, SubtractThreshold(), SubtractThreshold()),
    ("subtract", False, SubtractThresholdOnce(), SubtractThresholdOnce()),
    ("zero", True, ResetToValue(0.0, When.NEXT_BEFORE_DECAY), ResetToValue(0.0, When.NEXT_AFTER_INPUT)),
    ("zero", False, ResetToValue(0.0), ResetToValue(0.0)),
    ("none", True, NoReset(), NoReset()),
]


@pytest.mark.parametrize(("mechanism", "reset_delay", "leaky", "others"), SNNTORCH)
@pytest.mark.parametrize("name", ["Leaky", "RLeaky", "RLeaky one to one", "Synaptic", "RSynaptic"])
def test_snntorch(name: str, mechanism: str, reset_delay: bool, leaky: Reset, others: Reset) -> None:
    snn = pytest.importorskip("snntorch", reason="needs snntorch: pip install 'ovonic[snntorch]'")
    if name == "RSynaptic" and not reset_delay:  # snnTorch 1.0 resets a local copy and goes on with the other
        others = ResetToValue(0.0, When.NEXT_AFTER_INPUT) if mechanism == "zero" else SubtractThreshold()
    kind, recurrent = getattr(snn, name.split()[0]), None
    options: dict[str, Any] = {"beta": DECAY, "threshold": THRESHOLD, "spike_grad": lambda x: (x > 0).to(x.dtype)}
    if "Synaptic" in name:
        options["alpha"] = SYNAPSE
    if name.endswith("one"):
        options |= {"all_to_all": False, "V": ONE_TO_ONE}
        recurrent = lambda z: z * ONE_TO_ONE  # noqa: E731
    elif name.startswith("R"):
        options["linear_features"] = N
        recurrent = lambda z: z @ W_REC  # noqa: E731
    neuron = kind(reset_mechanism=mechanism, reset_delay=reset_delay, **options).double()
    if name in ("RLeaky", "RSynaptic"):
        neuron.recurrent.weight.data = W_REC.T.clone()
        neuron.recurrent.bias.data.zero_()
    state = [torch.zeros(B, N, dtype=torch.float64) for _ in range(name.startswith("R") + ("Synaptic" in name) + 1)]
    spikes = []
    with torch.no_grad():
        for drive in DRIVE.unbind(1):
            out = neuron(drive, *state)
            spikes.append(out[0])
            state = list(out) if name.startswith("R") else list(out[1:])
    synapse = Synapse(SYNAPSE) if "Synaptic" in name else None
    reset = leaky if name == "Leaky" else others
    _same(torch.stack(spikes, 1), Dynamics(DECAY, THRESHOLD, reset=reset, synapse=synapse), DRIVE, recurrent)


# ------------------------------------------------------------------------------------------------ Norse

LEAK = 0.05
GAIN = 1 - DECAY
NORSE = Dynamics(1 - GAIN, THRESHOLD, GAIN, LEAK, LEAK, reset=ResetToValue(0.1))


def _norse(module: str) -> Any:
    reason = "needs norse: pip install 'ovonic[norse]'"
    return pytest.importorskip(f"norse.torch.functional.{module}", reason=reason)


def _norse_run(step: Callable[..., Any], state: Any, parameters: Any, recurrent: bool) -> Tensor:
    spikes = []
    for drive in (4 * DRIVE).unbind(1):
        weights = (torch.eye(N, dtype=torch.float64), W_REC.T) if recurrent else ()
        z, state = step(drive, state, *weights, parameters, 1e-3)
        spikes.append(z)
    return torch.stack(spikes, 1)


def _potentials(value: float | Tensor) -> Tensor:
    return torch.zeros(B, N, dtype=torch.float64) + value


def _parameters(**more: Any) -> dict[str, Any]:
    leak, reset = (torch.tensor(value, dtype=torch.float64) for value in (LEAK, 0.1))
    fixed = {"tau_mem_inv": GAIN / 1e-3, "v_th": THRESHOLD, "v_leak": leak, "v_reset": reset, "method": "heaviside"}
    return fixed | more


@pytest.mark.parametrize("subtract", [False, True])
def test_norse_box(subtract: bool) -> None:
    box, resets = _norse("lif_box"), _norse("reset")
    method = resets.reset_subtract if subtract else resets.reset_value
    state = box.LIFBoxFeedForwardState(_potentials(LEAK))
    spikes = _norse_run(
        box.lif_box_feed_forward_step, state, box.LIFBoxParameters(**_parameters(reset_method=method)), False
    )
    _same(spikes, NORSE.replace(reset=SubtractThreshold(When.SAME_STEP)) if subtract else NORSE, 4 * DRIVE)


@pytest.mark.parametrize("rho", [0, 1, 3])
def test_norse_lif_and_its_frozen_refractoriness(rho: int) -> None:
    """``rho_reset`` 0 is the plain recurrent LIF."""
    lif, refrac = _norse("lif"), _norse("lif_refrac")
    parameters = lif.LIFParameters(**_parameters(tau_syn_inv=(1 - SYNAPSE) / 1e-3))
    state = lif.LIFState(_potentials(0.0), _potentials(LEAK), _potentials(0.0))
    if rho:
        parameters = refrac.LIFRefracParameters(parameters, torch.tensor(float(rho)))
        spikes = _norse_run(
            refrac.lif_refrac_step, refrac.LIFRefracState(state, _potentials(0.0)), parameters, recurrent=True
        )
    else:
        spikes = _norse_run(lif.lif_step, state, parameters, recurrent=True)
    dynamics = NORSE.replace(synapse=Synapse(1 - (1 - SYNAPSE)), refractory=Refractory(rho, frozen=True))
    _same(spikes, dynamics, 4 * DRIVE, lambda z: z @ W_REC)


def test_norse_lsnn() -> None:
    """It drives the membrane by the old current (delays one longer), and a fresh spike's adaptation decays first."""
    lsnn = _norse("lsnn")
    rate = torch.tensor(30.0, dtype=torch.float64)
    adapting = _parameters(tau_syn_inv=(1 - SYNAPSE) / 1e-3, tau_adapt_inv=rate, beta=torch.tensor(0.4).double())
    state = lsnn.LSNNState(_potentials(0.0), _potentials(LEAK), _potentials(0.0), _potentials(THRESHOLD))
    spikes = _norse_run(lsnn.lsnn_step, state, lsnn.LSNNParameters(**adapting), recurrent=True)
    dynamics = NORSE.replace(synapse=Synapse(1 - (1 - SYNAPSE)), adaptation=Adaptation(1 - 0.03, 0.4, True))
    late = torch.nn.functional.pad(4 * DRIVE[:, :-1], (0, 0, 1, 0))
    _same(spikes, dynamics, late, lambda z: z @ W_REC, delay=2)


# ------------------------------------------------------------------------------------------------ NEST


@pytest.mark.parametrize("t_ref", [1, 5])
@pytest.mark.parametrize("model", ["eprop_iaf_bsshslm_2020", "eprop_iaf_adapt_bsshslm_2020", "iaf_psc_delta"])
def test_nest(model: str, t_ref: int) -> None:
    nest = pytest.importorskip("nest", reason="needs NEST: pip install 'ovonic[nest]'")
    n_in, n, decay, adaptation_decay = 10, 6, float(np.exp(-1 / 20)), float(np.exp(-1 / 100))
    rng = np.random.default_rng(1)
    x = rng.random((T, n_in)) < 0.15
    w_in, w_rec = rng.normal(0.12, 0.6, (n_in, n)), rng.normal(0, 0.3, (n, n))
    dynamics = Dynamics(decay, 0.7, comparison=Comparison.GREATER_EQUAL, refractory=Refractory.from_n_ref(t_ref))
    more: dict[str, Any] = {"V_reset": -0.1}
    if model == "iaf_psc_delta":
        dynamics = dynamics.replace(reset=ResetToValue(-0.1), refractory=Refractory(t_ref, frozen=True))
    else:
        more = {"regular_spike_arrival": True}
    if "adapt" in model:
        more |= {"adapt_beta": 0.4, "adapt_tau": -1 / np.log(adaptation_decay)}
        dynamics = dynamics.replace(adaptation=Adaptation(adaptation_decay, 0.4))

    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.ResetKernel()
    nest.set(eprop_update_interval=1e4, eprop_learning_window=1e4, eprop_reset_neurons_on_update=False)
    nest.resolution = 1.0
    membrane = {"E_L": 0.0, "V_m": 0.0, "V_th": 0.7, "C_m": 1.0, "I_e": 0.0, "tau_m": -1 / np.log(decay)}
    neurons = nest.Create(model, n, {**membrane, "t_ref": float(t_ref), **more})
    sources = nest.Create("spike_generator", n_in)
    for i in range(n_in):
        sources[i].spike_times = [float(t + 1) for t in np.flatnonzero(x[:, i])]
    for weights, givers in ((w_in, sources), (w_rec, neurons)):
        synapses = {"synapse_model": "static_synapse", "weight": weights.T, "delay": 1.0}
        nest.Connect(givers, neurons, "all_to_all", synapses)
    recorder = nest.Create("spike_recorder")
    nest.Connect(neurons, recorder)
    nest.Simulate(T + 2.0)
    spikes = torch.zeros(1, T, n, dtype=torch.float64)
    for neuron, time in zip(recorder.events["senders"], recorder.events["times"], strict=True):
        if 0 <= (step := round(time) - 2) < T:
            spikes[0, step, neuron - neurons[0].global_id] = 1
    _same(spikes, dynamics, torch.tensor(x @ w_in)[None], lambda z: z @ torch.tensor(w_rec))
