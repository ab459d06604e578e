"""Eligibility: how a weight moved a neuron's spikes through that neuron's own state, in closed form (e-prop).

E-prop (Bellec et al. 2020) writes dE/dW[i,j] = sum_t L[t,j] e[t,i,j]: the learning signal L = dE/dz counts only what a
spike does directly, and the eligibility e follows the state of neuron j alone. With x[t,i] what arrives before the
weights, psi the slope of a spike (0 while refractory), and k, g the factors by which v[t] keeps v[t-1] and takes u[t]:

    eps_i[t] = decay_s eps_i[t-1] + gain_s x[t]                 with a synapse; without one eps_i = x
    eps_v[t] = k[t] eps_v[t-1] + g[t] eps_i[t]
    e[t]     = psi[t] (eps_v[t] - beta eps_b[t])
    eps_b[t] = decay_b eps_b[t-1] + c e[t-1]                    c = 1, or decay_b where the fresh spike decays too

    k, g     = decay, gain
               1, 0                                             in silent steps of a frozen membrane
               k (1 - z[t-1]), and g too if after the input     under a reset to a value

No tensor [T, in, out] is ever needed. Where all neurons share one k and g and no threshold adapts, e = psi[t,j]
eps[t,i] with one filtered trace an input (``presynaptic_trace``). In all other cases the sum is turned round: the same
recursion, run backward in time on the learning signal, one number a neuron, gives dE/dI[t,j] (``credit``), and
dE/dW[i,j] = sum_t x[t,i] dE/dI[t,j]. It costs O(B T N) beside that product, against O(B T in out) for the running
state of the forward form, which is here too (``eligibility_traces``) for rules that must act while the trial runs.

**What is detached** (``lif.Paths``): the recurrent and the reset path, always; detaching only one is not e-prop. The
adaptation is a choice: ``EPROP`` keeps the dependence of the threshold on past spikes through b (Bellec et al.: beta
eps_b above); ``EPROP_FIXED_THRESHOLD`` does not, as in the published learning-signal generator, and then an adapting
neuron's rule is a LIF's with the adapted threshold in psi. Each equals reverse-mode differentiation under those paths.

Reference: Bellec et al., Nature Communications 11:3625 (2020), Methods: eligibility traces of LIF and ALIF. We add the
reset to a value and the frozen membrane, which it does not treat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovonic.models.dynamics import Dynamics, ResetToValue, When
from ovonic.models.errors import ConfigError
from ovonic.models.filtering import filter_product
from ovonic.models.lif import EPROP, Paths, constants, pseudo_derivative
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate
from ovonic.models.trace import LayerTrace

__all__ = ["EPROP_FIXED_THRESHOLD", "credit", "eligibility_traces", "presynaptic_trace"]

EPROP_FIXED_THRESHOLD = Paths(recurrent=False, reset=False, threshold=False)


def presynaptic_trace(x: Tensor, dynamics: Dynamics) -> Tensor:
    """eps_v[t,i] = dv[t,j]/dW[i,j] where it is the same for every neuron j of the layer.

    Args:
        x: what arrives before the weights (spikes, delayed as their edge says), [B, T, in].
        dynamics: of the layer that the weights feed.
    Returns: the trace, same shape; e-prop's change is trace^T (psi L) where no threshold adapts.
    Raises: ConfigError: no such trace exists; ``credit`` holds for those dynamics.
    """
    d = dynamics
    own = [name for name in ("decay", "gain") if _varies(getattr(d, name))]
    own += [f"synapse.{name}" for name in ("decay", "gain") if d.synapse and _varies(getattr(d.synapse, name))]
    if own:
        raise ConfigError(f"presynaptic_trace: Dynamics.{own[0]} differs from neuron to neuron: use credit")
    if isinstance(d.reset, ResetToValue):
        raise ConfigError("presynaptic_trace: ResetToValue clears the trace of each neuron at its own time: use credit")
    if d.refractory.frozen:
        raise ConfigError("presynaptic_trace: a frozen membrane stops the trace of each neuron by itself: use credit")
    if x.is_cuda and d.synapse is None and x.ndim == 3:
        return filter_product(x if _one(d.gain) == 1 else _one(d.gain) * x, _one(d.decay))
    i, v, trace = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]), []
    for now in x.unbind(1):
        if d.synapse is not None:
            i = now = _one(d.synapse.decay) * i + _one(d.synapse.gain) * now
        v = _one(d.decay) * v + (now if _one(d.gain) == 1 else _one(d.gain) * now)
        trace.append(v)
    return torch.stack(trace, 1)


def credit(
    signal: Tensor,
    trace: LayerTrace,
    dynamics: Dynamics,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = EPROP,
) -> Tensor:
    """dE/dI[t] of e-prop: the learning signal carried back through each neuron's own state.

        gz[t] = L[t] + c gb[t+1]
        gv[t] = psi[t] gz[t] + k[t+1] gv[t+1]
        gb[t] = decay_b gb[t+1] - beta psi[t] gz[t]
        gi[t] = g[t] gv[t] + decay_s gi[t+1],   dE/dI[t] = gain_s gi[t]

    Args:
        signal: L, the direct dE/dz, [B, T, *neurons].
        trace: of the layer, from any toolchain, from its initial state on.
        dynamics, surrogate: of the layer.
        paths: ``EPROP`` or ``EPROP_FIXED_THRESHOLD`` (see the module's text).
    Returns: [B, T, *neurons]; x^T credit is the gradient of weights that take x. Differentiable in signal and trace.
    Raises: ConfigError: shapes differ, the trace lacks a state that the dynamics has, ``SubtractThresholdOnce``, or
        paths that are not e-prop's.
    """
    psi, keep, gain = _flow(trace, dynamics, surrogate, paths)
    if signal.shape != trace.spikes.shape:
        raise ConfigError(f"learning signal: {tuple(signal.shape)} where {tuple(trace.spikes.shape)} is due")
    d: Any = constants(dynamics, signal.dtype, signal.device)
    adapts, fresh = _adapts(dynamics, paths), _fresh(d)
    gv: Any = 0.0
    gi: Any = 0.0
    gb: Any = 0.0
    result = []
    steps = zip(signal.unbind(1), psi.unbind(1), keep, gain, strict=True)
    for learn, slope, k, g in reversed(list(steps)):
        felt = slope * (learn + fresh * gb if adapts else learn)
        if adapts:
            gb = d.adaptation.decay * gb - d.adaptation.beta * felt
        gv = felt + gv
        now = gv if isinstance(g, float) and g == 1 else g * gv
        gv = k * gv
        if d.synapse is not None:
            gi = now + d.synapse.decay * gi
            now = d.synapse.gain * gi
        result.append(now)
    return torch.stack(result[::-1], 1)


def eligibility_traces(
    x: Tensor,
    trace: LayerTrace,
    dynamics: Dynamics,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = EPROP,
) -> Iterator[Tensor]:
    """e[t], step after step, each [B, in, N]: the forward form, for rules that act while the trial runs.

    Args: x: what arrives before the weights, [B, T, in]; the rest as for ``credit``, a layer of one axis, [B, T, N].
    Raises: ConfigError: as ``credit``; or a layer of several axes.
    """
    if trace.spikes.ndim != 3:
        raise ConfigError(f"eligibility_traces: neurons {tuple(trace.spikes.shape[2:])} where (N,) is due")
    psi, keep, gain = _flow(trace, dynamics, surrogate, paths)
    d: Any = constants(dynamics, x.dtype, x.device)
    adapts, fresh = _adapts(dynamics, paths), _fresh(d)
    i = v = b = x.new_zeros(len(x), x.shape[2], trace.spikes.shape[2])
    for t, now in enumerate(x.unbind(1)):
        arrived = now.unsqueeze(-1)
        if d.synapse is not None:
            i = arrived = d.synapse(i, arrived)
        v = _across(keep[t]) * v + _across(gain[t]) * arrived
        e = psi[:, t].unsqueeze(1) * (v - d.adaptation.beta * b if adapts else v)
        yield e
        if adapts:
            b = d.adaptation.decay * b + fresh * e


def _flow(trace: LayerTrace, dynamics: Dynamics, surrogate: Surrogate, paths: Paths) -> tuple[Tensor, Any, Any]:
    """psi [B, T, *neurons], and k[t], g[t] step by step."""
    for name in ("recurrent", "reset"):
        if getattr(paths, name):
            raise ConfigError(f"Paths.{name}: e-prop has no gradient through it: take EPROP or EPROP_FIXED_THRESHOLD")
    if trace.refractory is None and np.any(dynamics.refractory.silent_steps):
        raise ConfigError("LayerTrace.refractory: absent, but Dynamics.refractory has silent steps")
    if trace.adaptation is None and dynamics.adaptation is not None:
        raise ConfigError("LayerTrace.adaptation: absent, but Dynamics.adaptation is there")
    psi = pseudo_derivative(trace, dynamics, surrogate)
    d: Any = constants(dynamics, psi.dtype, psi.device)
    steps = psi.shape[1]
    keep, gain = d.decay, d.gain
    to_value = isinstance(dynamics.reset, ResetToValue)
    if not to_value and not dynamics.refractory.frozen:
        return psi, [keep] * steps, [gain] * steps
    last = F.pad(trace.spikes[:, :-1], (0, 0) * (psi.ndim - 2) + (1, 0))
    kept = 1 - last if to_value else torch.ones_like(last)
    keep = keep * kept
    gain = gain * (kept if dynamics.reset.when is When.NEXT_AFTER_INPUT else torch.ones_like(last))
    if dynamics.refractory.frozen and trace.refractory is not None:
        silent = trace.refractory > 0
        keep, gain = torch.where(silent, kept, keep), torch.where(silent, torch.zeros_like(gain), gain)
    return psi, keep.unbind(1), gain.unbind(1)


def _adapts(dynamics: Dynamics, paths: Paths) -> bool:
    return dynamics.adaptation is not None and paths.adaptation and paths.threshold


def _fresh(d: Any) -> Any:
    """c: how much of a spike is in b one step later."""
    return d.adaptation.decay if d.adaptation is not None and d.adaptation.fresh_spike_decays else 1.0


def _across(factor: Any) -> Any:
    """A factor of neurons, [N] or [B, N], beside [B, in, N]."""
    return factor.unsqueeze(-2) if isinstance(factor, Tensor) and factor.ndim > 1 else factor


def _varies(parameter: Any) -> bool:
    return bool(np.ptp(parameter) != 0)


def _one(parameter: Any) -> float:
    return float(np.ravel(parameter)[0])
