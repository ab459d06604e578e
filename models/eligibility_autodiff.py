"""Eligibility of a neuron of one's own: the local derivatives of any step function, found by automatic differentiation.

A step (I[t], s[t-1]) -> (z[t], s[t]) in which no neuron touches another is, around its run, for every neuron alone

    ds[t] = F[t] ds[t-1] + G[t] dI[t]
    dz[t] = C[t] ds[t-1] + D[t] dI[t]

with s the floating parts of the state. For a weight on x, from input i to neuron j, therefore

    e[t,i,j] = C[t] eps[t-1] + D[t] x[t,i],   eps[t] = F[t] eps[t-1] + G[t] x[t,i]             (``traces``)

and turned round, one number a part of the state and a neuron (as in ``models.eligibility``),

    dE/dI[t] = D[t] L[t] + G[t] lam[t],       lam[t-1] = F[t]^T lam[t] + C[t] L[t]             (``credit``)

The derivatives are read off backward: one product with a vector of ones for every part gives one row of F and G for all
neurons at once, since they are diagonal across neurons. Backward, because a surrogate gradient defines only that
(forward mode and ``torch.func.jvp`` refuse a custom backward pass); so any autograd function of any toolchain serves.

What e-prop detaches is the step's own matter: recurrence is outside the step and never passes; a reset through which
the step lets gradient flow stays in the eligibility (``lif.step`` under ``EPROP`` detaches it).

Reference: Bellec et al., Nature Communications 11:3625 (2020), Methods: eligibility vectors of a general neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ovonic.models.errors import ConfigError

__all__ = ["Linearised", "eligibility_from_step"]

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""(I[t] [B, *neurons], state) -> (z[t], state): a state is nested tuples, lists, dicts and NamedTuples of tensors."""

Rows = dict[tuple[int, int], Tensor]
"""(part of the state after, part of the state before) -> derivative [B, *neurons]; absent where there is none. Part -1
is the spike as a result, and the current as a cause."""


@dataclass(frozen=True, eq=False)
class Linearised:
    """A run and its local derivatives.

    Attributes:
        spikes: z, [B, T, *neurons].
        rows: of every step: F, G, C and D.
    """

    spikes: Tensor
    rows: tuple[Rows, ...]

    def credit(self, signal: Tensor) -> Tensor:
        """dE/dI[t] from the learning signal L, both [B, T, *neurons]; x^T credit is the gradient of weights on x.

        Raises: ConfigError: another shape.
        """
        if signal.shape != self.spikes.shape:
            raise ConfigError(f"learning signal: {tuple(signal.shape)} where {tuple(self.spikes.shape)} is due")
        later: dict[int, Tensor] = {}
        result = []
        for rows, learn in zip(reversed(self.rows), reversed(signal.unbind(1)), strict=True):
            earlier: dict[int, Tensor] = {}
            for (after, before), derivative in rows.items():
                worth = learn if after == -1 else later.get(after)
                if worth is not None:
                    part = derivative * worth
                    earlier[before] = earlier[before] + part if before in earlier else part
            result.append(earlier.pop(-1, torch.zeros_like(learn)))
            later = earlier
        return torch.stack(result[::-1], 1)

    def traces(self, x: Tensor) -> Iterator[Tensor]:
        """e[t], step after step, each [B, in, N], for what arrives before the weights, x [B, T, in]."""
        eps: dict[int, Tensor] = {}
        for rows, now in zip(self.rows, x.unbind(1), strict=True):
            eps[-1] = now.unsqueeze(-1)
            new: dict[int, Tensor] = {}
            for (after, before), derivative in rows.items():
                if before in eps:
                    part = derivative.unsqueeze(1) * eps[before]
                    new[after] = new[after] + part if after in new else part
            e = new.pop(-1, None)
            yield self.spikes.new_zeros(len(x), x.shape[2], self.spikes.shape[2]) if e is None else e
            eps = new


def eligibility_from_step(
    step: Step,
    currents: Tensor,
    state: Any,
    recurrent: Callable[[Tensor], Tensor] | None = None,
    delay: int = 1,
) -> Linearised:
    """Run a step function and keep its local derivatives, from which e-prop follows for any neuron.

    Args:
        step: (I[t], state) -> (z[t], state), differentiable by torch; every floating part of the state is of the
            currents' shape or one a neuron.
        currents: what arrives from other layers, [B, T, *neurons].
        state: before the first step.
        recurrent: the product with the recurrent weights, z[t - delay] -> [B, *neurons].
    Raises: ConfigError: the step mixes neurons, or changes the structure of its state.
    Not modelled: derivatives of the result; it is a number, not a graph (``eligibility.credit`` is differentiable).
    """
    probe = torch.rand(currents[:, 0].shape, generator=torch.Generator().manual_seed(0)).to(currents) + 0.5
    past = [torch.zeros_like(currents[:, 0])] * delay
    spikes, rows = [], []
    for t, now in enumerate(currents.detach().unbind(1)):
        with torch.no_grad():
            total = now if recurrent is None else now + recurrent(past[-1])
        z, state, found = _linearise(step, total, state, probe, t)
        past = [z, *past[:-1]]
        spikes.append(z)
        rows.append(found)
    return Linearised(torch.stack(spikes, 1), tuple(rows))


def _linearise(step: Step, current: Tensor, state: Any, probe: Tensor, t: int) -> tuple[Tensor, Any, Rows]:
    parts, form = tree_flatten(state)
    floating = [k for k, part in enumerate(parts) if isinstance(part, Tensor) and part.is_floating_point()]
    with torch.enable_grad():
        causes = {k: parts[k].detach().expand_as(current).clone().requires_grad_() for k in floating}
        causes[-1] = current.detach().clone().requires_grad_()
        own = tree_unflatten([causes.get(k, part) for k, part in enumerate(parts)], form)
        z, after = step(causes[-1], own)
        results, shape = tree_flatten(after)
        if shape != form or any(results[k].shape != current.shape for k in floating):
            raise ConfigError(f"step {t}: the state that the step gives is not of the form of the state it takes")
    rows: Rows = {}
    for row, result in [(-1, z), *((k, results[k]) for k in floating)]:
        if not result.requires_grad:
            continue
        leaves = list(causes.values())
        ones, mixed = (
            torch.autograd.grad(result, leaves, weight, retain_graph=True, allow_unused=True)
            for weight in (torch.ones_like(result), probe)
        )
        for column, derivative, probed in zip(causes, ones, mixed, strict=True):
            if derivative is None:
                continue
            if not torch.allclose(probed, probe * derivative, rtol=1e-4, atol=1e-6, equal_nan=True):
                raise ConfigError(
                    f"step {t}: the step mixes neurons, so that no local eligibility exists: leave products with "
                    "weights outside (recurrent=...)"
                )
            if derivative.any():
                rows[row, column] = derivative
    gone = [part.detach() if isinstance(part, Tensor) else part for part in results]
    return z.detach(), tree_unflatten(gone, form), rows
