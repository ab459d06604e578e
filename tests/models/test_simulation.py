"""Running a described network: equal to products written out, to the published batch, and delayed as its edges say.

Golden batch (``robot_golden.npz``, TensorFlow 2.5.3, float32, 4 trajectories): every spike of both networks is
identical in float32 and in float64. In float64 the rest differs from it by its own rounding; the tolerances are about
three times what was measured: potentials 2e-5 (|v| to 39), learning signals 7e-5 (to 130), outputs 1e-6, slopes 4e-6,
and the outer gradients 1.1e-5 relative. In float32, with its own order of sums, potentials differ by 4e-6.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.dynamics import Adaptation, Dynamics, NoReset, Refractory, ResetToValue, SubtractAdapted, Synapse
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Conv, Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.lif import PUBLISHED, pseudo_derivative
from ovonic.models.network import Network
from ovonic.models.quantise import round_to_step
from ovonic.models.simulation import Simulator, integrate, run


def _dyadic(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(-16, 17, shape) / 16


def _spikes(*shape: int) -> Tensor:
    return torch.tensor(np.random.default_rng(shape).random(shape) < 0.5, dtype=torch.float64)


def _recurrent(delay: int = 1) -> Network:
    return Network.stack(
        {
            "x": Input((3,)),
            "in": Linear(_dyadic(3, 5), _dyadic(5)),
            "hidden": Spiking(Dynamics(0.5, 1.0, refractory=Refractory(1)), Recurrence(_dyadic(5, 5), delay, True)),
            "out": Linear(_dyadic(5, 2)),
            "y": Readout(0.75),
        }
    )


# ------------------------------------------------------------------------------------------------ graphs


def test_a_network_written_out() -> None:
    """Two inputs, a skip with a delay, two read-outs; every product by hand."""
    a, b, c, o = _dyadic(2, 4), _dyadic(3, 4), _dyadic(4, 4), _dyadic(4, 1)
    network = Network(
        {
            "p": Input((2,)),
            "q": Input((3,)),
            "a": Linear(a),
            "b": Linear(b),
            "first": Spiking(Dynamics(0.5, 0.5, reset=ResetToValue(0.0))),
            "c": Linear(c),
            "second": Spiking(Dynamics(0.0, 0.25, reset=NoReset())),
            "o": Linear(o),
            "y": Readout(0.5, gain=0.5),
            "u": Readout(0.0),
        },
        [
            *(("p", "a"), ("q", "b"), ("a", "first"), ("b", "first", 2), ("first", "c"), ("c", "second")),
            *(("first", "second", 1), ("second", "o"), ("o", "y"), ("first", "u")),
        ],
        dt_ms=0.5,
    )
    p, q = _spikes(2, 6, 2), _spikes(2, 6, 3)
    trace = run(network, {"q": q, "p": p})
    v, y, past = np.zeros((2, 4)), np.zeros((2, 1)), np.zeros((2, 4))
    for t in range(6):
        late = q[:, t - 2].numpy() @ b if t >= 2 else 0
        v = 0.5 * v + p[:, t].numpy() @ a + late
        first = v > 0.5
        second = first @ c + past > 0.25
        y = 0.5 * y + 0.5 * (second @ o)
        past = first.astype(float)
        assert np.array_equal(trace["first"].spikes[:, t], first)
        assert np.array_equal(trace["first"].membrane[:, t], v)
        assert np.array_equal(trace["second"].spikes[:, t], second)
        assert np.array_equal(trace.readouts["y"][:, t], y)
        assert np.array_equal(trace.readouts["u"][:, t], first)
        v = np.where(first, 0, v)
    assert trace.dt_ms == 0.5
    assert trace.inputs["q"] is q


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9))
def test_a_delayed_edge_shifts_what_follows(delay: int) -> None:
    network = _recurrent()
    late = network.replace(edges=[*(e for e in network.edges if e.target != "hidden"), ("in", "hidden", delay)])
    bare = {"in.bias": torch.zeros(5, dtype=torch.float64)}  # else the bias would act at once
    x = _spikes(2, 8, 3)
    here, there = run(network, x, bare), run(late, x, bare)
    shifted = F.pad(here["hidden"].spikes, (0, 0, min(delay, 8), 0))[:, :8]
    assert torch.equal(there["hidden"].spikes, shifted)
    assert torch.equal(there.readout, F.pad(here.readout, (0, 0, min(delay, 8), 0))[:, :8])


@pytest.mark.parametrize("line", [False, True])
@pytest.mark.parametrize("how", Pooling)
def test_convolution_and_pooling_position_by_position(how: Pooling, line: bool) -> None:
    side = (7,) if line else (7, 6)
    kernel, bias = _dyadic(2, 3, *(2,) * len(side)), _dyadic(3)
    network = Network.stack(
        {
            "x": Input((2, *side)),
            "conv": Conv(kernel, bias, padding=1, dilation=2),
            "s": Spiking(Dynamics(0.5, 0.5)),
            "pool": Pool(how, (3,) * len(side), (2,) * len(side), (1,) * len(side)),
            "flat": Flatten(),
            "y": Readout(0.0),
        }
    )
    x = _spikes(2, 4, 2, *side)
    trace = run(network, x)
    padded = np.pad(x.numpy(), [(0, 0)] * 3 + [(1, 1)] * len(side))
    for at in np.ndindex(*network.shapes["conv"][1:]):
        patch = padded[(..., *(slice(k, k + 3, 2) for k in at))]
        now = np.tensordot(patch[:, 0], np.moveaxis(kernel, 1, -1), (range(1, patch.ndim - 1), range(kernel.ndim - 1)))
        assert np.array_equal(trace["s"].membrane[(slice(None), 0, slice(None), *at)], now + bias)
    z = trace["s"].spikes.numpy()
    wide = np.pad(z, [(0, 0)] * 3 + [(1, 1)] * len(side))
    reduce = {Pooling.MEAN: np.mean, Pooling.SUM: np.sum, Pooling.MAX: np.max}[how]
    axes = tuple(range(3, 3 + len(side)))
    pooled = [
        reduce(wide[(..., *(slice(2 * k, 2 * k + 3) for k in at))], axis=axes)
        for at in np.ndindex(*network.shapes["pool"][1:])
    ]
    expected = np.stack(pooled, -1).reshape(2, 4, -1)
    np.testing.assert_allclose(trace.readout, expected, rtol=1e-15)
    assert trace.readout.shape[2:] == network.shapes["y"]


def test_a_read_out_by_hand() -> None:
    drive = torch.tensor([[[1.0], [0.0], [0.0]]])
    assert integrate(drive, Readout(0.5, 2.0)).flatten().tolist() == [2.0, 1.0, 0.5]
    assert integrate(drive, Readout(0.5, rest=1.0, v_init=3.0)).flatten().tolist() == [3.0, 2.0, 1.5]
    assert integrate(drive, Readout(0.5, synapse=Synapse(0.5, 2.0))).flatten().tolist() == [2.0, 2.0, 1.5]


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("one_to_one", [False, True])
def test_weights_one_a_sample(one_to_one: bool) -> None:
    network, x = _recurrent(delay=2), _spikes(3, 9, 3)
    if one_to_one:
        hidden = network.layers["hidden"].replace(recurrence=Recurrence(_dyadic(5), 2))
        network = network.replace(layers={**network.layers, "hidden": hidden})
    own = {
        name: torch.tensor(np.stack([w + _dyadic(*w.shape) for _ in range(3)])) for name, w in network.weights().items()
    }
    own.pop("in.bias")
    together = run(network, x, own)
    for sample in range(3):
        alone = run(network.with_weights({name: w[sample] for name, w in own.items()}), x[sample : sample + 1])
        assert torch.equal(together["hidden"].spikes[sample], alone["hidden"].spikes[0])
        assert torch.equal(together.readout[sample], alone.readout[0])


def test_products_from_outside() -> None:
    network, x, calls = _recurrent(delay=2), _spikes(3, 9, 3), []

    def crossbar(z: Tensor) -> Tensor:
        calls.append(1)
        return z @ torch.tensor(network.layers["hidden"].recurrence.effective)  # type: ignore[attr-defined]

    assert torch.equal(run(network, x, {"hidden.recurrence": crossbar}).readout, run(network, x).readout)
    assert len(calls) == 9


def test_the_module_holds_the_weights_and_describes_itself() -> None:
    network, x = _recurrent(), _spikes(2, 9, 3)
    module = Simulator(network, dtype=torch.float64)
    assert module.describe() == network
    assert torch.equal(module(x).readout, run(network, x).readout)
    module(x).readout.square().sum().backward()
    gradients = {name: weight.grad for name, weight in module.weights().items()}
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
    assert not gradients["hidden.recurrence"].diagonal().any()  # type: ignore[union-attr]
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert torch.equal(run(module.describe(), x).readout, module(x).readout)
    again = Simulator(network, dtype=torch.float64)
    again.load_state_dict(module.state_dict())
    assert again.describe() == module.describe()


def test_float32_runs_in_float32() -> None:
    trace = Simulator(_recurrent())(_spikes(2, 9, 3).float())
    assert trace.readout.dtype == trace["hidden"].membrane.dtype == torch.float32


@pytest.mark.parametrize(
    ("inputs", "weights", "message"),
    [
        (torch.zeros(2, 9, 4), {}, r"input 'x': \(2, 9, 4\) of torch.float32 where \[batch, time, 3\]"),
        (torch.zeros(2, 9, 3, dtype=torch.int64), {}, r"of torch.int64 where .* of a floating dtype"),
        (torch.zeros(2, 0, 3), {}, r"input 'x': \(2, 0, 3\)"),
        ({"y": torch.zeros(2, 9, 3)}, {}, r"input 'y': choose one of 'x'"),
        ({}, {}, r"inputs: x missing"),
        (torch.zeros(2, 9, 3), {"in.weigth": torch.zeros(3, 5)}, r"weights 'in.weigth': did you mean 'in.weight'"),
        (torch.zeros(2, 9, 3), {"in.weight": torch.zeros(5, 3)}, r"weights 'in.weight': shape \(5, 3\) where \(3, 5\)"),
        (torch.zeros(2, 9, 3), {"in.weight": torch.zeros(4, 3, 5)}, r"weights 'in.weight': shape \(4, 3, 5\)"),
        (torch.zeros(2, 9, 3), {"in.bias": abs}, r"weights 'in.bias': only the product"),
    ],
)
def test_what_does_not_fit_is_refused(inputs: object, weights: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(_recurrent(), inputs, weights)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ published


def _robot(folder: Path) -> Network:
    """The whole learning system: the clock drives both, the target the learning-signal generator alone."""
    w = np.load(folder / "robot_checkpoint.npz")
    decay, refractory = math.exp(-1 / 20), Refractory.from_n_ref(5)
    beta = np.where(np.arange(800) < 560, 0.0, 1.6)
    adaptation = Adaptation(math.exp(-1 / 600), beta)
    return Network(
        {
            "clock": Input((5,)),
            "target": Input((48,)),
            "lsg_clock": Linear(w["W_in_lsg"][:5]),
            "lsg_target": Linear(w["W_in_lsg"][5:]),
            "lsg": Spiking(
                Dynamics(decay, 1.3, reset=SubtractAdapted(), refractory=refractory, adaptation=adaptation),
                Recurrence(w["W_rec_lsg"], masked_diagonal=True),
            ),
            "lsg_out": Linear(w["W_out_lsg"]),
            "learning_signal": Readout(decay),
            "in": Linear(w["W_in_trainee"]),
            "trainee": Spiking(
                Dynamics(decay, 0.6, refractory=refractory), Recurrence(w["W_rec_trainee"], masked_diagonal=True)
            ),
            "out": Linear(w["W_out_trainee"]),
            "omega": Readout(decay),
        },
        [
            *(("clock", "lsg_clock"), ("target", "lsg_target"), ("lsg_clock", "lsg"), ("lsg_target", "lsg")),
            *(("lsg", "lsg_out"), ("lsg_out", "learning_signal")),
            *(("clock", "in"), ("in", "trainee"), ("trainee", "out"), ("out", "omega")),
        ],
    )


@pytest.mark.shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_published_batch(shared: Path, dtype: torch.dtype) -> None:
    network, golden = _robot(shared / "published"), np.load(shared / "published" / "robot_golden.npz")

    def want(name: str) -> Tensor:
        return torch.tensor(golden[name]).to(dtype)

    def close(ours: Tensor, name: str, atol: float) -> None:
        torch.testing.assert_close(ours, want(name), rtol=0, atol=atol)

    inputs = {"clock": want("clock_signal_trainee"), "target": want("target_coordinates_spike")}
    before = run(network, inputs)
    after = run(network, inputs, {"in.weight": want("w_in_after"), "trainee.recurrence": want("w_rec_after")})
    assert torch.equal(before["lsg"].spikes, want("lsg_spikes"))
    assert torch.equal(before["trainee"].spikes, want("trainee_spikes_training"))
    assert torch.equal(after["trainee"].spikes, want("trainee_spikes_test"))
    close(before.readouts["learning_signal"], "lsg_learning_signals", 2e-4)
    close(before["trainee"].membrane, "trainee_potential_training", 6e-5)
    close(after["trainee"].membrane, "trainee_potential_test", 6e-5)
    close(before.readouts["omega"], "output_training", 3e-6)
    close(after.readouts["omega"], "output_test", 3e-6)
    trainee = network.layers["trainee"]
    assert isinstance(trainee, Spiking)
    close(pseudo_derivative(before["trainee"], trainee.dynamics), "dz_dh", 1.2e-5)
    assert Network.from_dict(network.to_dict()) == network


@pytest.mark.shared
def test_the_published_outer_gradients(shared: Path) -> None:
    """``PUBLISHED`` is what the published code differentiates: trial, one e-prop update, trial, loss, all six weights.

    Any other choice of paths in the learning-signal generator is 20 % off.
    """
    golden = np.load(shared / "published" / "robot_golden.npz")
    network = _robot(shared / "published")

    def want(name: str) -> Tensor:
        return torch.tensor(golden[name]).double()

    def filtered(x: Tensor) -> Tensor:
        return integrate(x, Readout(math.exp(-1 / 20)))

    weights = {name: torch.tensor(w).requires_grad_() for name, w in network.weights().items()}
    inputs = {"clock": want("clock_signal_trainee"), "target": want("target_coordinates_spike")}
    first = run(network, inputs, weights, paths=PUBLISHED)
    trainee = network.layers["trainee"]
    assert isinstance(trainee, Spiking)
    taught = pseudo_derivative(first["trainee"], trainee.dynamics) * first.readouts["learning_signal"]
    presynaptic = {
        "in.weight": filtered(inputs["clock"]),
        "trainee.recurrence": filtered(F.pad(first["trainee"].spikes[:, :-1], (0, 0, 1, 0))),
    }
    learned = dict(weights)
    for name, x in presynaptic.items():
        delta = -1e-4 * x.transpose(1, 2) @ taught
        learned[name] = weights[name] + round_to_step(delta, 1 / 16)
    second = run(network, inputs, learned, paths=PUBLISHED)

    both = torch.cat([first["trainee"].spikes, second["trainee"].spikes], 1)
    loss = 0.5 * (want("omega_t") - second.readouts["omega"]).square().mean()
    loss = loss + 0.25 * (both.mean((0, 1)) - 0.02).square().sum()
    loss = loss + 0.25 * (first["lsg"].spikes.mean((0, 1)) - 0.01).square().sum()
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    gradients["lsg_in"] = torch.cat([gradients["lsg_clock.weight"], gradients["lsg_target.weight"]])
    for name, key in {
        "lsg_in": "W_in_lsg",
        "lsg.recurrence": "W_rec_lsg",
        "lsg_out.weight": "W_out_lsg",
        "in.weight": "W_in_trainee",
        "trainee.recurrence": "W_rec_trainee",
        "out.weight": "W_out_trainee",
    }.items():
        expected = want(f"outer_grad_{key}")
        assert (gradients[name] - expected).norm() < 4e-5 * expected.norm(), name
