"""Exact arithmetic: dyadic weights, decays and thresholds, where no sum can round. Every bit must be equal.

IF neurons stay on their grid of sixteenths for ever; LIF neurons of decay 1/2 use one bit more in a step, and are run
for as long as the floats have bits. In float32 and float64, with 1 and 2 threads, on the plain step, the engine, and
every toolchain.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.adapters.toolchains import TOOLCHAINS
from ovonic.models.dynamics import Comparison, Dynamics, Refractory, ResetToValue, SubtractThreshold, When
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.conformance import ENGINE, runner
from ovonic.validation.margins import margins

N = 64
DYNAMICS = {
    "if": (Dynamics(1.0, 1.0), 200),
    "if refractory": (Dynamics(1.0, 1.0, refractory=Refractory(2)), 200),
    "if to zero": (Dynamics(1.0, 1.0, reset=ResetToValue(0.0), comparison=Comparison.GREATER_EQUAL), 200),
    "if same step": (Dynamics(1.0, 1.0, reset=SubtractThreshold(When.SAME_STEP)), 200),
    "lif": (Dynamics(0.5, 1.0), 14),
    "lif same step >=": (
        Dynamics(0.5, 1.0, reset=SubtractThreshold(When.SAME_STEP), comparison=Comparison.GREATER_EQUAL),
        14,
    ),
}


def _network(dynamics: Dynamics) -> Network:
    rng = np.random.default_rng(0)
    w, w_rec, w_out = (rng.integers(low, high, size) / 16 for low, high, size in
                       ((-6, 13, (12, N)), (-4, 5, (N, N)), (-8, 9, (N, 2))))  # fmt: skip
    layers = {
        "x": Input((12,)),
        "w": Linear(w),
        "core": Spiking(dynamics, Recurrence(w_rec)),
        "out": Linear(w_out),
        "y": Readout(0.5 if dynamics.decay != 1 else 1.0),
    }
    return Network.stack(layers)


def _inputs(steps: int, dtype: torch.dtype) -> Tensor:
    return (torch.rand(4, steps, 12, generator=torch.Generator().manual_seed(3)) < 0.3).to(dtype)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _bits(trace: Trace) -> list[Tensor]:
    return [trace["core"].spikes.double(), trace["core"].membrane.double(), trace.readout.double()]


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("name", DYNAMICS)
def test_bit_for_bit(name: str, threads: int) -> None:
    """Plain step and engine, float32 and float64: one run, and the bounds know that it is exact and full of ties."""
    dynamics, steps = DYNAMICS[name]
    network = _network(dynamics)
    reference = run(network, _inputs(steps, torch.float64))
    assert 0.02 < reference["core"].spikes.mean() < 0.7
    for dtype in (torch.float32, torch.float64):
        bounds = margins(network, _inputs(steps, dtype), {"core": reference["core"].spikes}, dtype)["core"]
        assert (bounds.bound == 0).all()
        assert ((bounds.membrane == bounds.level) & bounds.free).sum() > 3
        for go in (run, runner(ENGINE)):
            trace = go(network, _inputs(steps, dtype))
            assert trace["core"].membrane.dtype == dtype
            for ours, theirs in zip(_bits(reference), _bits(trace), strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.toolchain
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", DYNAMICS)
@pytest.mark.parametrize("toolchain", TOOLCHAINS)
def test_toolchains_bit_for_bit(toolchain: str, name: str, dtype: torch.dtype) -> None:
    """Every spike of an exact run. NEST alone refuses some: ties under >, and float32."""
    pytest.importorskip(toolchain, reason=f"needs {toolchain}: pip install 'ovonic[{toolchain}]'")
    dynamics, steps = DYNAMICS[name]
    network, x = _network(dynamics), _inputs(steps, dtype)
    if toolchain == "nest" and (dtype == torch.float32 or dynamics.comparison is Comparison.GREATER):
        with pytest.raises((UnsupportedDynamics, ConfigError), match=r"threshold|float64"):
            runner(toolchain)(network, x)
        return
    trace = runner(toolchain)(network, x)
    assert torch.equal(trace["core"].spikes.double(), run(network, x)["core"].spikes.double())
