"""A fast engine for recurrent layers: the same networks and traces as ``simulation.run``, in less time.

What is used: spikes are few, so the forward product is a sum of a few rows of the matrix, and the gradient of the
matrix a sum of a few rows of dE/dI; what comes back through the weights, dE/dI W^T, is felt only where the slope of a
spike is not zero, near the threshold, and computed only there. Time runs sample by sample, state in the first cache or
in registers.
The backward pass is written out, no graph of T steps is recorded: ``models.engine_kernels`` on the CPU (Numba),
``models.engine_triton`` on a GPU.

    plain step  float64, CPU                   every spike equal: where a membrane comes so near to its threshold that
                                               the order of a sum might decide, the layer runs in the plain step
                float32, and on a GPU          equal but where |v - A| <= ``engine_margin.spike_margin``
    gradients                                  equal to rounding, for every choice of ``Paths``

Layers that it does not treat run in the plain step, so that any network may be given: it treats subtraction resets
that act in the next step after the input (and none), gain 1, rest 0, no synapse, a membrane that integrates while
refractory, all-to-all recurrence of any delay, on a CPU, or on a GPU where Triton is installed, in float32 or float64,
first derivatives (``treats``).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.models import engine_kernels as kernels
from ovonic.models import simulation
from ovonic.models.dynamics import Comparison, Dynamics, NoReset, SubtractAdapted, SubtractThreshold, When
from ovonic.models.engine_margin import spike_margin
from ovonic.models.filtering import filter_product
from ovonic.models.layers import Readout
from ovonic.models.lif import ALL_PATHS, LIFState, Paths, constants, product, unroll
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate, Triangular
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["fast_filter", "fast_product", "fast_unroll", "run_fast", "treats"]

FEW = 0.15
"""Share of non-zero entries below which sums of rows replace a dense product."""


def run_fast(
    network: simulation.Network,
    inputs: Tensor | Mapping[str, Tensor],
    weights: Mapping[str, Tensor | simulation.Product] | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = ALL_PATHS,
) -> Trace:
    """``simulation.run``, faster; arguments, result and errors are its own."""
    return simulation.run(network, inputs, weights, surrogate, paths, FAST)


def treats(dynamics: Dynamics, weight: Tensor | simulation.Product | None, currents: Tensor) -> bool:
    """Whether the fast engine runs such a layer itself."""
    d = dynamics
    return (
        isinstance(d.reset, NoReset | SubtractThreshold | SubtractAdapted)
        and (isinstance(d.reset, NoReset) or d.reset.when is When.NEXT_AFTER_INPUT)
        and not np.any(np.not_equal(d.gain, 1))
        and not np.any(d.rest)
        and d.synapse is None
        and not d.refractory.frozen
        and (weight is None or (isinstance(weight, Tensor) and weight.ndim > 1))
        and currents.ndim == 3
        and (_on_cpu(currents) or _on_gpu(currents))
    )


def fast_unroll(
    currents: Tensor,
    dynamics: Dynamics,
    recurrent: simulation.Product | Tensor | None = None,
    delay: int = 1,
    state: LIFState | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = ALL_PATHS,
) -> tuple[LayerTrace, LIFState | None]:
    """``lif.unroll`` from the initial state; of the layers that it treats itself the last state is not kept (None)."""
    if state is not None or not treats(dynamics, recurrent, currents):
        return unroll(currents, dynamics, recurrent, delay, state, surrogate, paths)
    weight = recurrent if isinstance(recurrent, Tensor) else currents.new_empty(0)
    z, v, r, b = _Layer.apply(currents, weight, _Spec(dynamics, delay, surrogate, paths))
    trace = LayerTrace(z, v, r if r.numel() else None, b if dynamics.adaptation else None)
    if weight.numel() and _exact(currents) and _may_differ(trace, currents, dynamics, weight, delay):
        return unroll(currents, dynamics, recurrent, delay, state, surrogate, paths)
    return trace, None


def fast_product(x: Tensor, weight: Tensor) -> Tensor:
    """``lif.product``; where few entries of x are not zero, a sum of rows."""
    if weight.ndim == 2 and x.ndim == 3 and _on_cpu(x) and x.dtype == weight.dtype and _few(x):
        return _RowsProduct.apply(x, weight)
    return product(x, weight)


def fast_filter(x: Tensor, decay: float) -> Tensor:
    """y[t] = decay y[t-1] + x[t], y = 0 before; [B, T, N]. Any number of derivatives."""
    return _Filter.apply(x, decay, False) if _on_cpu(x) else filter_product(x, decay)


def _integrate(currents: Tensor, readout: Readout) -> Tensor:
    moved = np.any(readout.rest) or np.any(readout.v_init) or np.any(np.not_equal(readout.gain, 1))
    known = readout.synapse is None and not moved and currents.ndim == 3 and (_on_cpu(currents) or currents.is_cuda)
    if known and isinstance(readout.decay, float):
        return fast_filter(currents, readout.decay)
    return simulation.integrate(currents, readout)


def _feed(x: Tensor, weight: Tensor) -> Tensor:
    return product(x, weight) if _exact(x) else fast_product(x, weight)


FAST = simulation.Operations(fast_unroll, _feed, _integrate)


def _exact(x: Tensor) -> bool:
    """Whether every spike is promised to be the plain step's."""
    return x.dtype == torch.float64 and x.device.type == "cpu"


@torch.no_grad()
def _may_differ(trace: LayerTrace, currents: Tensor, dynamics: Dynamics, weight: Tensor, delay: int) -> bool:
    """Whether any spike hangs on the order of a sum."""
    d: Any = constants(dynamics, currents.dtype, currents.device)
    margin = spike_margin(trace, currents, dynamics, weight, delay)
    near = (trace.membrane - d.adapted(trace.adaptation)).abs() <= margin
    return bool((near if trace.refractory is None else near & (trace.refractory == 0)).any())


class _Spec:
    """A layer's numbers as the kernels take them."""

    def __init__(self, dynamics: Dynamics, delay: int, surrogate: Surrogate, paths: Paths) -> None:
        self.dynamics, self.delay, self.surrogate, self.paths = dynamics, delay, surrogate, paths
        self.reset = 0 if isinstance(dynamics.reset, NoReset) else 1 + isinstance(dynamics.reset, SubtractAdapted)
        self.inclusive = dynamics.comparison is not Comparison.GREATER
        self.fresh = dynamics.adaptation is not None and dynamics.adaptation.fresh_spike_decays
        self.refractory = bool(np.any(dynamics.refractory.silent_steps))
        self.flags = paths.reset, paths.adaptation, paths.threshold


def _numbers(d: Dynamics, n: int, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    beta, decay_b = (d.adaptation.beta, d.adaptation.decay) if d.adaptation else (0.0, 0.0)
    rows = [np.broadcast_to(np.asarray(p, dtype), n) for p in (d.decay, d.threshold, d.v_init, beta, decay_b)]
    silent = np.broadcast_to(np.asarray(d.refractory.silent_steps, np.int16), n)
    return np.ascontiguousarray(np.stack(rows)), np.ascontiguousarray(silent)


@functools.lru_cache(maxsize=64)
def _on_device(d: Dynamics, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    numbers, silent = _numbers(d, n, _in_numpy(dtype))
    return torch.tensor(numbers, device=device), torch.tensor(silent, device=device)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, currents: Tensor, weight: Tensor, spec: _Spec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, w = currents.detach().contiguous(), weight.detach().contiguous()
        none = (0, *x.shape[1:])
        z, v = _empty(x.shape, x), _empty(x.shape, x)
        r = _empty(x.shape if spec.refractory else none, x, torch.int16)
        b = _empty(x.shape if spec.dynamics.adaptation else none, x)
        _run(spec, x, w, z, v, r, b)
        ctx.spec = spec
        ctx.save_for_backward(w, z, v, r, b)
        ctx.mark_non_differentiable(r)
        ctx.set_materialize_grads(False)
        return z, v, r, b

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        w, z, v, r, b = ctx.saved_tensors
        spec: _Spec = ctx.spec
        given = [z.new_empty(0, *z.shape[1:]) if g is None else g.contiguous() for g in (grads[0], grads[1], grads[3])]
        out, dw = _adjoint(spec, w, z, v, r, b, given, ctx.needs_input_grad[1])
        return out, dw, None


def _run(spec: _Spec, x: Tensor, w: Tensor, z: Tensor, v: Tensor, r: Tensor, b: Tensor) -> None:
    """Fill z, v, r and b."""
    batch, _, n = x.shape
    matrices = w.reshape(-1, n, n)
    how = spec.reset, spec.inclusive, spec.fresh
    if not _on_cpu(x):
        numbers = _on_device(spec.dynamics, n, x.dtype, x.device)
        with torch.cuda.device_of(x):  # Triton launches on the current device
            _triton().forward(x, matrices, spec.delay, *numbers, *how, z, v, r, b)
        return
    told = x.numpy(), matrices.numpy(), spec.delay, *_numbers(spec.dynamics, n, x.numpy().dtype)
    arrays = [t.numpy() for t in (z, v, r, b)]
    _shared_out(batch, lambda low, high: kernels.forward(low, high, *told, *how, *arrays))


def _adjoint(
    spec: _Spec, w: Tensor, z: Tensor, v: Tensor, r: Tensor, b: Tensor, given: list[Tensor], wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """dE/dI, and dE/dW if wanted, from dE/dz, dE/dv and dE/db."""
    batch, _, n = z.shape
    matrices = w.reshape(-1, n, n) if spec.paths.recurrent else w.new_empty(0, n, n)
    out = _empty(z.shape, z)
    if not _on_cpu(z):
        parameters, _ = _on_device(spec.dynamics, n, z.dtype, z.device)
        told = _slope(spec, v, r, b), matrices, spec.delay, *given, z, b, parameters
        with torch.cuda.device_of(z):
            _triton().backward(*told, spec.reset, spec.fresh, spec.flags, out)
    else:
        numbers, _ = _numbers(spec.dynamics, n, z.numpy().dtype)
        height, slope = 0.0, z.new_empty(0, *z.shape[1:])
        if isinstance(spec.surrogate, Triangular):
            height = spec.surrogate.height
        else:
            slope = _slope(spec, v, r, b)
        arrays = [t.numpy() for t in (*given, z, v, r, b)]
        how = numbers, spec.reset, spec.fresh, np.array(spec.flags), out.numpy()
        _shared_out(
            batch,
            lambda low, high: kernels.backward(
                low, high, slope.numpy(), height, matrices.numpy(), spec.delay, *arrays, *how
            ),
        )
    return out, _outer(z, out, spec.delay, own=w.ndim == 3) if wanted and w.numel() else None


def _slope(spec: _Spec, v: Tensor, r: Tensor, b: Tensor) -> Tensor:
    """dz/dv, zero where refractory, [B, T, N]."""
    d: Any = constants(spec.dynamics, v.dtype, v.device)
    free = spec.surrogate(v - d.adapted(b), d.threshold - d.rest)
    return (free.where(r == 0, 0) if spec.refractory else free).contiguous()


class _RowsProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows, w = x.detach().flatten(0, 1).contiguous(), weight.detach().contiguous()
        ctx.save_for_backward(x, weight)
        y = _empty((len(rows), w.shape[1]), x)
        arrays = rows.numpy(), w.numpy(), y.numpy()
        _shared_out(len(rows), lambda low, high: kernels.rows_product(low, high, *arrays))
        return y.unflatten(0, x.shape[:2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        (g,) = grads
        dx = g @ w.t() if ctx.needs_input_grad[0] else None
        return dx, _outer(x, g, 0, own=False) if ctx.needs_input_grad[1] else None


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, decay: float, backward: bool) -> Tensor:
        ctx.decay, ctx.backward_in_time = decay, backward
        source, y = x.detach().contiguous(), _empty(x.shape, x)
        arrays = source.numpy(), decay, backward, y.numpy()
        _shared_out(len(source), lambda low, high: kernels.filter_forward(low, high, *arrays))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Filter.apply(grads[0], ctx.decay, not ctx.backward_in_time), None, None


def _outer(x: Tensor, g: Tensor, late: int, own: bool) -> Tensor:
    """sum over steps, and unless each has its own over samples, of x[t]^T g[t + late], [in, out] or [B, in, out]."""
    batch, steps, n = x.shape
    if not (_on_cpu(x) and _few(x)):
        x, g = x[:, : steps - late], g[:, late:]
        return x.mT @ g if own else x.flatten(0, 1).t() @ g.flatten(0, 1)
    x, g = x.detach().contiguous(), g.contiguous()
    dw = x.new_zeros(batch, n, g.shape[2]) if own else x.new_zeros(n, g.shape[2])
    if own:
        each = x.numpy(), g.numpy(), late, dw.numpy()
        _shared_out(batch, lambda low, high: kernels.rows_outer_own(low, high, *each))
    else:
        flat = x.flatten(0, 1).numpy(), g.flatten(0, 1).numpy(), late, steps, dw.numpy()
        _shared_out(n, lambda low, high: kernels.rows_outer(low, high, *flat))
    return dw


def _few(x: Tensor) -> bool:
    """By the count of every 7th step, which is quicker than a count of all."""
    some = x[:, ::7]
    return int(torch.count_nonzero(some)) < FEW * some.numel()


def _empty(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """On a CPU, memory as NumPy takes it: in large pages where the system has them, which torch does not ask for."""
    dtype = dtype or like.dtype
    if like.device.type == "cpu":
        return torch.from_numpy(np.empty(shape, _in_numpy(dtype)))
    return torch.empty(shape, dtype=dtype, device=like.device)


def _in_numpy(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(str(dtype).removeprefix("torch."))


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _on_gpu(x: Tensor) -> bool:
    known = x.is_cuda and x.dtype in (torch.float32, torch.float64) and _triton() is not None
    return known and x.shape[-1] <= _triton().LARGEST


@functools.cache
def _triton() -> Any:
    """The kernels for a GPU; None where Triton is not installed."""
    try:
        return importlib.import_module("ovonic.models.engine_triton")
    except ImportError:
        return None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _shared_out(count: int, work: Callable[[int, int], None]) -> None:
    """Do 0 .. count in as many parts as torch has threads."""
    parts = min(torch.get_num_threads(), count)
    if parts == 1:
        work(0, count)
        return
    ends = [count * i // parts for i in range(parts + 1)]
    list(_pool(parts).map(work, ends[:-1], ends[1:]))
