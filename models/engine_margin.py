"""How far apart the fast engine's membranes and the plain step's may lie, as long as their spikes are the same.

Both do the same operations but for the order in which a sum of weights runs. A sum of k terms differs between two
orders by at most 2 gamma(k) times the sum of their sizes, gamma(k) = k u / (1 - k u), u the unit roundoff; a step
keeps decay of what it was handed and rounds each of its own operations once (Higham 2002, Accuracy and Stability of
Numerical Algorithms, 3.1 and 4.2):

    E[t] = decay E[t-1] + 2 gamma(k[t]) S[t] + E_x[t] + 2 u (2 (|x[t]| + S[t]) + 2 |decay v[t-1]| + |v[t]|)

    k[t]  neurons whose spikes arrive        S[t]  sum over them of their largest |w|, at least the sum of any |w|
    x[t]  currents from other layers         E_x   what they may differ by already (``product_margin``)

A neuron whose |v - A| exceeds E at every step spikes alike in both. TF32 products (off in torch by default) round more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovonic.models.dynamics import Dynamics
from ovonic.models.filtering import filter_product
from ovonic.models.lif import constants
from ovonic.models.trace import LayerTrace

__all__ = ["product_margin", "spike_margin"]

SLACK = 1.01
"""For products of roundings, which the equation leaves out, and for the rounding of the margin itself."""


def product_margin(x: Tensor, weight: Tensor) -> Tensor:
    """Most that x W may differ between two orders of its sums, [B, T, 1]; x [B, T, in], W [in, out] or [B, in, out]."""
    x, largest = x.detach().abs(), weight.detach().abs().amax(-1)
    size = torch.einsum("bti,bi->bt" if largest.ndim == 2 else "bti,i->bt", x, largest)
    return _reordered((x > 0).sum(-1), size).unsqueeze(-1)


def spike_margin(
    trace: LayerTrace,
    currents: Tensor,
    dynamics: Dynamics,
    weight: Tensor | None = None,
    delay: int = 1,
    currents_margin: Tensor | float = 0.0,
) -> Tensor:
    """E of a layer's run, [B, T, N].

    Args:
        trace: of the run, by either; currents: x, [B, T, N]; weight, delay: of the recurrence.
        currents_margin: E_x, [B, T, 1] or a number.
    """
    d: Any = constants(dynamics, currents.dtype, currents.device)
    u = torch.finfo(currents.dtype).eps / 2
    v, x = trace.membrane.detach().abs(), currents.detach().abs()
    before = torch.cat([(torch.zeros_like(v[:, 0]) + d.v_init).abs().unsqueeze(1), v[:, :-1]], 1)
    decay = d.decay.abs() if isinstance(d.decay, Tensor) else abs(d.decay)
    size = reordered = torch.zeros_like(x[..., :1])
    if weight is not None:
        spikes = torch.zeros_like(v)
        spikes[:, delay:] = trace.spikes.detach()[:, : v.shape[1] - delay]
        largest = weight.detach().abs().amax(-1)
        size = torch.einsum("bti,bi->bt" if largest.ndim == 2 else "bti,i->bt", spikes, largest).unsqueeze(-1)
        reordered = _reordered(spikes.sum(-1, keepdim=True), size)
    local = reordered + currents_margin + 2 * u * (2 * (x + size) + 2 * decay * before + v)
    return SLACK * filter_product(local, float(torch.as_tensor(decay).max()))


def _reordered(terms: Tensor, size: Tensor) -> Tensor:
    """Most that a sum of so many products may differ between two orders; each product rounds once more."""
    k = (terms + 1) * (torch.finfo(size.dtype).eps / 2)
    return 2 * k / (1 - k) * size
