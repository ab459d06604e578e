"""Norse modules as people build them: run by Norse itself and read, they give the same spikes in our plain step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovonic.adapters.norse import from_norse, run, to_norse
from ovonic.models import simulation
from ovonic.models.dynamics import Adaptation, Dynamics, Refractory, ResetToValue, SubtractThreshold, Synapse, When
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Conv, Flatten, Linear, Pool, Pooling, Readout, Spiking
from ovonic.models.network import Edge, Network

pytestmark = pytest.mark.toolchain
t = pytest.importorskip("norse.torch", reason="needs Norse: pip install 'ovonic[norse]'")
B, T, N_IN, N = 3, 60, 6, 8


def _double(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _each(seed: int, low: float, high: float) -> Tensor:
    """A number for each neuron."""
    return low + (high - low) * torch.rand(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _inputs(*shape: int, rate: float = 0.3) -> Tensor:
    """Random spikes [T, B, *shape], as Norse has time before batch."""
    generator = torch.Generator().manual_seed(7)
    return (torch.rand((T, B, *shape), generator=generator) < rate).double()


def _double_weights(module: nn.Module) -> nn.Module:
    """Strong enough weights in float64, drawn anew from a fixed seed."""
    generator = torch.Generator().manual_seed(5)
    module = module.double()
    for weight in module.parameters():
        weight.data = (3 / weight[0].numel() ** 0.5) * torch.randn(
            weight.shape, generator=generator, dtype=torch.float64
        ) + 0.3 * (weight.ndim > 1)
    for part in module.modules():
        if getattr(part, "autapses", True) is False:
            with torch.no_grad():
                part.recurrent_weights.fill_diagonal_(0.0)
    return module


def _by_norse(module: Any, x: Tensor) -> Tensor:
    """What Norse gives for [T, B, ..]: at once where the module loops over time, else step by step."""
    with torch.no_grad():
        if any(isinstance(m, (t.module.snn.SNN, t.module.snn.SNNRecurrent, t.Lift)) for m in module.modules()):
            y = module(x)
            return y[0] if isinstance(y, tuple) else y
        outputs, state = [], None
        for step in x:
            y, state = module(step, state)
            outputs.append(y)
        return torch.stack(outputs)


def _agrees(module: nn.Module, x: Tensor, spiking: bool = True, **options: Any) -> Network:
    """Norse's own run of a module is that of the network read from it, by our step and by Norse again."""
    theirs = _by_norse(module, x)
    network = from_norse(module, **options)
    inputs = x.transpose(0, 1).to(theirs.dtype)
    last = list(network.layers)[-1]
    for trace in (simulation.run(network, inputs), run(network, inputs)):
        ours = trace.layers[last].spikes if spiking else trace.readouts[last]
        if spiking:
            assert torch.equal(ours.transpose(0, 1), theirs)
        else:
            assert torch.allclose(ours.transpose(0, 1), theirs, 0, 1e-12)
    assert (0.02 if spiking else 0.0) < theirs.abs().mean()
    assert from_norse(to_norse(network)) == network
    return network


# ------------------------------------------------------------------------------------------------ neurons

LIF: dict[str, Any] = {
    "tau_mem_inv": _double(150.0),
    "v_leak": _double(0.05),
    "v_th": _double(0.4),
    "v_reset": _double(-0.1),
}
SYN: dict[str, Any] = {"tau_syn_inv": _double(250.0)}
ADAPT: dict[str, Any] = {"tau_adapt_inv": _double(30.0), "beta": _double(0.3)}
EACH: dict[str, Any] = {"tau_mem_inv": _each(1, 80, 300), "v_th": _each(2, 0.2, 0.6), "v_reset": _each(3, -0.3, 0.1)}

CELLS: dict[str, Callable[[], nn.Module]] = {
    "LIFCell": lambda: t.LIFCell(t.LIFParameters(**LIF, **SYN)),
    "LIFCell of defaults": lambda: t.LIFCell(),
    "LIFCell of floats": lambda: t.LIFCell(t.LIFParameters(tau_mem_inv=150.0, tau_syn_inv=250.0, v_th=0.4)),
    "LIFCell each": lambda: t.LIFCell(t.LIFParameters(**LIF | SYN | EACH)),
    "LIFCell dt": lambda: t.LIFCell(t.LIFParameters(**LIF, **SYN), dt=0.002),
    "LIFBoxCell": lambda: t.LIFBoxCell(t.LIFBoxParameters(**LIF)),
    "LIFBoxCell each": lambda: t.LIFBoxCell(t.LIFBoxParameters(**LIF | EACH | {"v_leak": _each(4, -0.1, 0.1)})),
    "LIFBoxCell subtract": lambda: t.LIFBoxCell(t.LIFBoxParameters(**LIF, reset_method=t.reset_subtract)),
    "LIFBoxCell of floats": lambda: t.LIFBoxCell(t.LIFBoxParameters(tau_mem_inv=150.0, v_th=0.4)),
    "LIFRefracCell": lambda: t.LIFRefracCell(t.LIFRefracParameters(t.LIFParameters(**LIF, **SYN), _double(3.0))),
    "LIFRefracCell 2.5": lambda: t.LIFRefracCell(t.LIFRefracParameters(t.LIFParameters(**LIF, **SYN), _double(2.5))),
    "LIFRefracCell 0": lambda: t.LIFRefracCell(t.LIFRefracParameters(t.LIFParameters(**LIF, **SYN), _double(0.0))),
    "LSNNCell": lambda: t.LSNNCell(t.LSNNParameters(**LIF, **SYN, **ADAPT)),
    "LSNNCell adjoint": lambda: t.LSNNCell(t.LSNNParameters(**LIF, **SYN, **ADAPT), adjoint=True),
    "LSNNCell each": lambda: t.LSNNCell(t.LSNNParameters(**LIF | SYN | ADAPT | EACH | {"beta": _each(8, 0.1, 0.5)})),
    "IAFCell": lambda: t.IAFCell(t.IAFParameters(v_th=_double(1.5), v_reset=_double(-0.1))),
    "IAFCell each": lambda: t.IAFCell(t.IAFParameters(v_th=_each(9, 0.5, 2), v_reset=_each(3, -0.3, 0.1))),
}


@pytest.mark.parametrize("kind", CELLS)
def test_cell(kind: str) -> None:
    """Stepped by hand behind a linear layer."""
    chain = t.SequentialState(nn.Linear(N_IN, N), CELLS[kind]())
    network = _agrees(_double_weights(chain), _inputs(N_IN))
    assert network.dt_ms == (2.0 if kind.endswith("dt") else 1.0)


RECURRENT: dict[str, Callable[..., nn.Module]] = {
    "LIFRecurrentCell": lambda **o: t.LIFRecurrentCell(N_IN, N, t.LIFParameters(**LIF, **SYN), **o),
    "LIFRefracRecurrentCell": lambda **o: t.LIFRefracRecurrentCell(
        N_IN, N, t.LIFRefracParameters(t.LIFParameters(**LIF, **SYN), _double(2.0)), **o
    ),
    "LSNNRecurrentCell": lambda **o: t.LSNNRecurrentCell(N_IN, N, t.LSNNParameters(**LIF, **SYN, **ADAPT), **o),
    "LIFRecurrent": lambda **o: t.LIFRecurrent(N_IN, N, t.LIFParameters(**LIF, **SYN), **o),
    "LIFRefracRecurrent": lambda **o: t.LIFRefracRecurrent(
        N_IN, N, t.LIFRefracParameters(t.LIFParameters(**LIF, **SYN), _double(2.0)), **o
    ),
    "LSNNRecurrent": lambda **o: t.LSNNRecurrent(N_IN, N, t.LSNNParameters(**LIF, **SYN, **ADAPT), **o),
}


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("autapses", [False, True])
def test_recurrent_cell(kind: str, autapses: bool) -> None:
    module = _double_weights(RECURRENT[kind](autapses=autapses, dt=0.0015))
    network = _agrees(module, _inputs(N_IN))
    spiking = network.layers[network.spiking[0]]
    assert isinstance(spiking, Spiking)
    assert spiking.recurrence is not None
    assert spiking.recurrence.masked_diagonal is not autapses
    assert spiking.recurrence.delay == (2 if "LSNN" in kind else 1)
    assert network.dt_ms == 1.5


LOOPS: dict[str, Callable[[], nn.Module]] = {
    "LIF": lambda: t.LIF(t.LIFParameters(**LIF, **SYN)),
    "LIF recorded": lambda: t.LIF(t.LIFParameters(**LIF, **SYN), record_states=True),
    "LSNN": lambda: t.LSNN(t.LSNNParameters(**LIF, **SYN, **ADAPT)),
    "IAF": lambda: t.IAF(t.IAFParameters(v_th=_double(1.5))),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_neurons_that_loop_over_time(kind: str) -> None:
    _agrees(_double_weights(t.SequentialState(nn.Linear(N_IN, N), LOOPS[kind]())), _inputs(N_IN))


READOUTS: dict[str, Callable[[], nn.Module]] = {
    "LICell": lambda: t.LICell(t.LIParameters(_double(300.0), _double(90.0), _double(0.25))),
    "LIBoxCell": lambda: t.LIBoxCell(t.LIBoxParameters(_double(90.0), _double(0.25)), dt=0.001),
    "LILinearCell": lambda: t.LILinearCell(N, 2, t.LIParameters(_double(300.0), _double(90.0), _double(0.25))),
    "LI": lambda: t.LI(t.LIParameters(_double(300.0), _double(90.0), _double(0.25))),
}


@pytest.mark.parametrize("kind", READOUTS)
def test_readout(kind: str) -> None:
    neuron = t.LIF(t.LIFParameters(**LIF, **SYN)) if kind == "LI" else t.LIFBoxCell(t.LIFBoxParameters(**LIF))
    chain = t.SequentialState(nn.Linear(N_IN, N), neuron, READOUTS[kind]())
    network = _agrees(_double_weights(chain), _inputs(N_IN), spiking=False)
    assert len(network.readouts) == 1
    readout = network.layers[network.readouts[0]]
    assert isinstance(readout, Readout)
    assert (readout.synapse is None) == (kind == "LIBoxCell")


def test_float32_modules_give_float32_spikes() -> None:
    """Norse's everyday case: float32 weights and defaults, run in float32."""
    torch.manual_seed(3)
    module = t.SequentialState(nn.Linear(N_IN, 30), t.LIFCell(), nn.Linear(30, N), t.LIFBoxCell())
    for part in (module[0], module[2]):
        part.weight.data = 12 * part.weight.data
    x = _inputs(N_IN).float()
    theirs = _by_norse(module, x)
    for trace in (f(from_norse(module), x.transpose(0, 1)) for f in (simulation.run, run)):
        assert torch.equal(trace["3"].spikes.transpose(0, 1), theirs)
    assert theirs.mean() > 0.05


# ------------------------------------------------------------------------------------------------ what is read


def test_the_numbers_of_lif() -> None:
    network = from_norse(t.SequentialState(nn.Linear(2, 3).double(), t.LIFCell(t.LIFParameters(**LIF, **SYN))))
    leak, synapse = 0.001 * 150.0, 0.001 * 250.0
    dynamics = Dynamics(1 - leak, 0.4, leak, 0.05, 0.05, reset=ResetToValue(-0.1), synapse=Synapse(1 - synapse))
    assert network.layers["1"] == Spiking(dynamics)
    assert network.edges == (Edge("input", "0"), Edge("0", "1"))
    assert network.layers["input"].shape == (2,)  # type: ignore[attr-defined]


def test_the_numbers_of_lsnn_and_refractoriness() -> None:
    """The membrane of LSNN is driven by the old current: what it reads comes a step later."""
    network = from_norse(t.LSNNCell(t.LSNNParameters(**LIF, **SYN, **ADAPT)), input_shape=(3,))
    layer = network.layers["lsnncell"]
    assert isinstance(layer, Spiking)
    assert layer.dynamics.adaptation == Adaptation(1 - 0.001 * 30.0, 0.3, fresh_spike_decays=True)
    assert network.edges == (Edge("input", "lsnncell", 1),)
    refrac = t.LIFRefracCell(t.LIFRefracParameters(t.LIFParameters(**LIF, **SYN), _each(1, 0, 4)))
    read = from_norse(refrac).layers["lifrefraccell"]
    assert isinstance(read, Spiking)
    steps = np.ceil(_each(1, 0, 4).numpy()).astype(int)
    assert read.dynamics.refractory == Refractory(steps, frozen=True)


def test_default_numbers_are_norses_float32() -> None:
    """``tau_mem_inv`` of the class is a float32 tensor and ``dt`` a number: their product is rounded to float32."""
    layer = from_norse(t.LIFBoxCell(), input_shape=(1,)).layers["lifboxcell"]
    assert isinstance(layer, Spiking)
    assert layer.dynamics.gain == float(np.float32(0.001) * np.float32(100.0)) != 0.1
    assert layer.dynamics.decay == 1 - float(np.float32(0.1))


# ------------------------------------------------------------------------------------------------ containers


class Net(nn.Module):
    """A class of one's own, in the way of Norse's tutorials."""

    def __init__(self, tau: float = 120.0) -> None:
        super().__init__()
        self.fc = nn.Linear(N_IN, N)
        self.lif = t.LIFRecurrentCell(N, N, t.LIFParameters(tau_mem_inv=_double(tau), v_th=_double(0.5)))
        self.dropout = nn.Dropout(0.5)
        self.out = t.LILinearCell(N, 2)

    def forward(self, x: Tensor) -> Tensor:
        voltages, lif, out = [], None, None
        for step in x:
            z, lif = self.lif(self.fc(step), lif)
            v, out = self.out(self.dropout(z), out)
            voltages.append(v)
        return torch.stack(voltages)


def test_a_class_of_ones_own() -> None:
    net = _double_weights(Net()).eval()
    x = _inputs(N_IN)
    network = from_norse(net)
    trace = simulation.run(network, x.transpose(0, 1))
    assert list(network.layers) == ["input", "fc", "lif_input", "lif", "out_input", "out"]
    with torch.no_grad():
        assert torch.allclose(trace.readout.transpose(0, 1), net(x), 0, 1e-12)
    assert trace["lif"].spikes.mean() > 0.02


def _own(steps: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A class of one's own whose forward is ``steps``."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(N_IN, N), t.LIFCell()
            self.out, self.li = nn.Linear(N, 2), t.LICell()
            self.kept: Any = None

        def forward(self, x: Tensor) -> Tensor:
            return steps(self, x)

    return Own()


def _loop(between: Callable[[Tensor, Tensor], Tensor] = lambda z, _: z, keep: bool = True) -> Callable[..., Tensor]:
    def steps(net: Any, x: Tensor) -> Tensor:
        lif, li, last, voltages = None, None, torch.zeros(()), []
        for step in x.unbind(1):
            z, state = net.lif(net.fc(step), lif)
            lif = state if keep else None
            v, li = net.li(net.out(between(z, last)), li)
            net.kept, last = state, z
            voltages.append(v)
        return torch.stack(voltages, 1)

    return steps


OWN: list[tuple[Callable[..., Tensor], str]] = [
    (_loop(lambda z, _: 10 * z), "layer 'out': forward does not call it on what 'lif' gave"),
    (_loop(lambda z, last: last + torch.zeros_like(z)), "layer 'out': forward does not call it on what 'lif' gave"),
    (_loop(lambda z, last: z + last), "layer 'out': forward does not call it on what 'lif' gave"),
    (_loop(lambda z, _: torch.relu(z - 0.1)), "layer 'out': forward does not call it on what 'lif' gave"),
    (_loop(keep=False), "layer 'lif': in forward it does not get its last state back"),
    (lambda net, x: net.li(net.out(x @ net.fc.weight.T))[0], "layer 'fc': forward does not call it"),
    (lambda net, x: net.lif(net.fc(x), net.lif.initial_state(net.fc(x)))[0], "starts from a state of its own"),
    (lambda net, x: x[:, :, 1000], "its forward cannot be called.*IndexError.*give example"),
]


@pytest.mark.parametrize(("steps", "match"), OWN)
def test_a_forward_that_is_no_chain_is_refused(steps: Callable[..., Tensor], match: str) -> None:
    with pytest.raises(UnsupportedDynamics, match=match):
        from_norse(_own(steps))


def test_a_watched_module_is_left_as_it_was() -> None:
    net: Any = _own(_loop())
    network = from_norse(net)
    assert list(network.layers) == ["input", "fc", "lif", "out", "li"]
    assert net.kept is None
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert from_norse(net, example=(torch.zeros(1, 2, N_IN),)) == network


FRESH = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from net import Net
from ovonic.adapters.norse import from_norse
net = Net(150.0).double()
net.load_state_dict(torch.load(sys.argv[2], weights_only=True))
network = from_norse(net.eval())
torch.save({name: torch.tensor(w.copy()) for name, w in network.weights().items()}, sys.argv[3])
print(network.layers["lif"].dynamics.gain)
"""

CLASS = """
import torch
import norse.torch as t
from torch import nn

class Net(nn.Module):
    def __init__(self, tau):
        super().__init__()
        p = t.LIFParameters(tau_mem_inv=torch.tensor(tau, dtype=torch.float64))
        self.fc = nn.Linear(6, 8)
        self.lif = t.LIFRecurrentCell(8, 8, p)
"""


def test_a_fresh_process_reads_a_state_dict(tmp_path: Path) -> None:
    """Weights from the file; the neurons' numbers are the code's, since Norse keeps them out of its files."""
    (tmp_path / "net.py").write_text(CLASS)
    scope: dict[str, Any] = {}
    exec(CLASS, scope)
    torch.manual_seed(1)
    net = scope["Net"](150.0).double()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    paths = (str(tmp_path / name) for name in (".", "net.pt", "w.pt"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, *paths], capture_output=True, text=True, check=True
    )
    read, expected = torch.load(tmp_path / "w.pt", weights_only=True), from_norse(net).weights()
    assert read.keys() == expected.keys() == {"fc.weight", "fc.bias", "lif_input.weight", "lif.recurrence"}
    assert all(np.array_equal(read[name].numpy(), weight) for name, weight in expected.items())
    assert float(done.stdout) == 0.001 * 150.0


def _vision(lift: Callable[[nn.Module], nn.Module], flat: nn.Module, neuron: Any, last: Any) -> nn.Module:
    layers = [lift(nn.Conv2d(2, 4, 3, padding=1)), neuron(), lift(nn.AvgPool2d(2)), flat, nn.Linear(36, N), last()]
    return _double_weights(t.SequentialState(*layers))


def test_convolutions_stepped() -> None:
    neuron, last = CELLS["LIFBoxCell"], CELLS["LIFCell"]
    network = _agrees(_vision(lambda m: m, nn.Flatten(), neuron, last), _inputs(2, 6, 6), input_shape=(2, 6, 6))
    kinds = [type(layer) for layer in network.layers.values()]
    assert kinds[1:5] == [Conv, Spiking, Pool, Flatten]
    assert network.layers["2"] == Pool(Pooling.MEAN, (2, 2))


def test_convolutions_lifted() -> None:
    """Norse's way over time: ``Lift`` around torch's layers, Flatten(2) behind time and batch."""
    neuron, last = LOOPS["LIF"], LOOPS["LSNN"]
    _agrees(_vision(t.Lift, nn.Flatten(2), neuron, last), _inputs(2, 6, 6), input_shape=(2, 6, 6))
    _agrees(_vision(t.Lift, t.Lift(nn.Flatten()), neuron, last), _inputs(2, 6, 6), input_shape=(2, 6, 6))


def test_lconv2d() -> None:
    module = t.SequentialState(t.LConv2d(2, 4, 3, stride=2), LOOPS["LIF"]())
    _agrees(_double_weights(module), _inputs(2, 7, 7), input_shape=(2, 7, 7))


def test_lift_around_cells() -> None:
    chain = t.SequentialState(nn.Linear(N_IN, N), CELLS["LIFCell"](), nn.Linear(N, N), CELLS["LSNNCell"]())
    network = _agrees(_double_weights(t.Lift(chain)), _inputs(N_IN))
    assert list(network.layers) == ["input", "0", "1", "2", "3"]
    single = t.SequentialState(nn.Linear(N_IN, N), t.Lift(CELLS["LIFBoxCell"]()), t.Lift(nn.Linear(N, N)), t.LIF())
    _agrees(_double_weights(single), _inputs(N_IN), dt_ms=1.0)


def test_sequential_of_torch_where_no_state_is_lost() -> None:
    """nn.Sequential hands (output, state) on; a ``Lift`` behind drops the state."""
    module = nn.Sequential(nn.Linear(N_IN, N), LOOPS["LIF"](), t.Lift(nn.Linear(N, N)), LOOPS["LIF"]())
    _agrees(_double_weights(module), _inputs(N_IN))
    nested = t.SequentialState(nn.Sequential(nn.Linear(N_IN, N), nn.Identity()), CELLS["LIFCell"]())
    _agrees(_double_weights(nested), _inputs(N_IN))


def test_module_list_of_a_class_of_ones_own() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(N_IN, N), t.LIFCell(), nn.Linear(N, 2), t.LICell()])

    network = from_norse(Deep())
    assert list(network.layers) == ["input", "layers_0", "layers_1", "layers_2", "layers_3"]
    assert [type(layer) for layer in network.layers.values()][1:] == [Linear, Spiking, Linear, Readout]


def test_shared_clock_and_open_shapes() -> None:
    two = t.SequentialState(nn.Linear(2, 2), t.LIFCell(), t.LIFCell(dt=0.0005))
    with pytest.raises(ConfigError, match=r"different dt: '1' 1 ms, '2' 0.5 ms: give dt_ms"):
        from_norse(two)
    network = from_norse(two, dt_ms=0.5)
    gains = [layer.dynamics.gain for layer in network.layers.values() if isinstance(layer, Spiking)]
    assert network.dt_ms == 0.5
    assert gains[0] == pytest.approx(2 * gains[1])
    with pytest.raises(ConfigError, match="layer 'lifcell': LIFCell leaves the shape of its input open"):
        from_norse(t.LIFCell())
    assert from_norse(CELLS["LIFCell each"]()).shapes["input"] == (N,)
    assert from_norse(RECURRENT["LSNNRecurrentCell"]()).shapes["input"] == (N_IN,)


def test_reading_twice_and_running_between_changes_nothing() -> None:
    module = _double_weights(RECURRENT["LIFRecurrentCell"](autapses=True))
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    first = from_norse(module)
    _by_norse(module, _inputs(N_IN))
    assert from_norse(module) == first
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())


def test_subtract_is_read_as_the_reset_before_the_decay() -> None:
    layer = from_norse(CELLS["LIFBoxCell subtract"](), input_shape=(1,)).layers["lifboxcell"]
    assert isinstance(layer, Spiking)
    assert layer.dynamics.reset == SubtractThreshold(When.SAME_STEP)
