"""The engine's kernels for a GPU against the plain step: on a GPU where there is one, else in Triton's interpreter.

The interpreter runs kernels on the CPU, but only in a process that was told so before Triton was imported: the last
test runs the others there.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovonic.models import engine
from ovonic.models.dynamics import Dynamics
from ovonic.models.eligibility import presynaptic_trace
from ovonic.models.engine import fast_filter, fast_unroll, run_fast, treats
from ovonic.models.engine_margin import spike_margin
from ovonic.models.filtering import filter_product
from ovonic.models.layers import Readout
from ovonic.models.lif import Paths, unroll
from ovonic.models.simulation import integrate, run
from ovonic.models.surrogates import ArcTan, Surrogate, Triangular

from .natural_eprop_cases import gradients_of, inputs, small_system
from .test_engine import DYNAMICS, _parts
from .test_engine import _drawn as drawn

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
kernels = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="no GPU here; test_in_the_interpreter runs this on the CPU"
)
PATHS = [Paths(*flags) for flags in np.ndindex(2, 2, 2, 2)]


@pytest.fixture(autouse=True)
def _to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        monkeypatch.setattr(engine, "_on_cpu", lambda x: False)
        monkeypatch.setattr(engine, "_on_gpu", lambda x: x.dtype in (torch.float32, torch.float64))


def _drawn(seed: int, own: bool = False) -> tuple[Tensor, Tensor]:
    """Two samples of 16 steps: the interpreter is slow."""
    x, w = drawn(seed, own=own)
    return x[:2, :16], w[:2] if own else w


def _here(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.to(DEVICE) for x in tensors)


@kernels
@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("recurrence", ["none", "shared", "own"])
@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=list(DYNAMICS))
def test_every_spike_of_the_plain_step(dynamics: Dynamics, recurrence: str, delay: int) -> None:
    x, w = _here(*_drawn(11 * delay, own=recurrence == "own"))
    weight = None if recurrence == "none" else w
    assert treats(dynamics, weight, x)
    fast, plain = (f(x, dynamics, weight, delay)[0] for f in (fast_unroll, unroll))
    assert plain.spikes.any()
    assert torch.equal(fast.spikes, plain.spikes)
    for ours, theirs in zip(_parts(fast), _parts(plain), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@kernels
@pytest.mark.parametrize("surrogate", [Triangular(0.3), ArcTan()], ids=["triangular", "arctan"])
@pytest.mark.parametrize("recurrence", ["none", "shared", "own"])
@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=list(DYNAMICS))
def test_gradients_of_every_path(dynamics: Dynamics, recurrence: str, surrogate: Surrogate) -> None:
    """A loss of spikes, membrane and adaptation; each case takes another part of the paths, all together each path."""
    case = list(DYNAMICS.values()).index(dynamics) + 5 * len(recurrence) + isinstance(surrogate, ArcTan)
    x, w = _here(*_drawn(case, own=recurrence == "own"))
    (mix,) = _here(torch.rand(3, *x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(case)))

    def gradients(run_layer: Any, paths: Paths) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        weight = None if recurrence == "none" else leaves[1]
        trace, _ = run_layer(leaves[0], dynamics, weight, 1 + case % 2, None, surrogate, paths)
        loss = (mix[0] * trace.spikes).sum() + (mix[1] * trace.membrane.sin()).sum()
        if trace.adaptation is not None and trace.adaptation.requires_grad:
            loss = loss + (mix[2] * trace.adaptation.square()).sum()
        return torch.autograd.grad(loss, leaves[: 1 if weight is None else 2])

    for paths in (PATHS[-1], *PATHS[case % 5 :: 5]):
        for ours, theirs in zip(gradients(fast_unroll, paths), gradients(unroll, paths), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@kernels
def test_float32_spikes_differ_only_within_the_margin() -> None:
    """At the first step where a sample's spikes differ; more neurons spike in a step than a block of rows holds."""
    dynamics, n = DYNAMICS["lif"], 70
    rng = np.random.default_rng(0)
    x, w = _here(*(torch.tensor(a).float() for a in (rng.normal(0.3, 0.6, (3, 60, n)), rng.normal(size=(n, n)) * 0.3)))
    fast, plain = (f(x, dynamics, w)[0] for f in (fast_unroll, unroll))
    assert plain.spikes.sum(-1).max() > 16
    margin = spike_margin(plain, x, dynamics, w)
    for s in range(3):
        differs = (fast.spikes[s] != plain.spikes[s]).any(1)
        alike = int(differs.int().argmax()) if differs.any() else len(differs)
        assert ((fast.membrane - plain.membrane)[s, :alike].abs() <= margin[s, :alike]).all()
        if differs.any():
            where = fast.spikes[s, alike] != plain.spikes[s, alike]
            assert ((plain.membrane[s, alike] - dynamics.threshold).abs() <= margin[s, alike])[where].all()


@kernels
def test_a_lesson_and_its_six_gradients() -> None:
    results = []
    for run_network in (run_fast, run):
        model = small_system(engine=run_network).to(DEVICE)
        lesson = model(*_here(*inputs()))
        results.append((lesson.after, *lesson.changes.values(), *gradients_of(model, lesson)))
    assert results[0][0].any()
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@kernels
def test_a_layer_too_wide_for_a_program_runs_in_the_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x, w = _here(*_drawn(0))
    if DEVICE == "cuda":
        monkeypatch.setattr(engine._triton(), "LARGEST", x.shape[-1] - 1)
        assert not treats(DYNAMICS["lif"], w, x)
    assert torch.equal(fast_unroll(x, DYNAMICS["lif"], w)[0].spikes, unroll(x, DYNAMICS["lif"], w)[0].spikes)


def test_the_filter_as_one_product() -> None:
    x, _ = _drawn(2)
    due = integrate(x, Readout(0.9))
    torch.testing.assert_close(filter_product(x, 0.9), due, rtol=1e-13, atol=1e-13)
    here = x.to(DEVICE)
    torch.testing.assert_close(fast_filter(here, 0.9).cpu(), due, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(presynaptic_trace(here, Dynamics(0.9, 1.0)).cpu(), due, rtol=1e-13, atol=1e-13)
    row = x[:, :6, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: filter_product(v, 0.9), row)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the others run on the kernels themselves")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch on Linux alone")
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "64 passed, 1 skipped" in done.stdout, done.stdout[-500:]
