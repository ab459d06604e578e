"""How a weight fills the four devices of its cell, G1+, G1-, G2+, G2-, and what weight they stand for.

    w = (G1+ + G2+ - G1- - G2-) / (2 g_max)        -1 .. 1, in units of full scale

A polarity carries p = max(w, 0) or max(-w, 0); the other stays at 0. A split says which share of g_max each of the two
devices of a polarity gets; the shares add up to 2 p:

    equal          (p, p)                                      both alike
    fill           (min(2p, 1), max(2p - 1, 0))                the first to full scale, then the second
    set_and_tune   (0, 2p) for p <= 1/2, (1, 2p - 1) beyond    the first is only ever RESET or SET; the second is tuned

With independent errors of standard deviation sigma(g) uS a device, the error of a weight of magnitude p is

    equal                  sqrt(2) sigma(p g_max) / (2 g_max)
    fill, set_and_tune     sqrt(sigma(2p g_max)^2) / (2 g_max) for p <= 1/2,
                           sqrt(sigma(g_max)^2 + sigma((2p - 1) g_max)^2) / (2 g_max) beyond    (``weight_sigma``)

References: equal and fill: aihwkit 1.2.0, CustomPair- and DualPairConductanceConverter; one SET device and one tuned:
A. Vasilopoulos et al., IEEE Trans. Electron Devices 70:6279 (2023), there with the SET device read before the other is
tuned, here open loop.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ovonic.models.device_model import DeviceModel, at_least, at_most
from ovonic.models.errors import ConfigError, nearest

__all__ = ["SPLITS", "Split", "conductances", "equal", "fill", "set_and_tune", "split_named", "weight_sigma", "weights"]

Split = Callable[[Tensor], Tensor]


def equal(p: Tensor) -> Tensor:
    """p [...] in 0..1 -> shares [..., 2] of g_max."""
    return _pair(p, p)


def fill(p: Tensor) -> Tensor:
    """p [...] in 0..1 -> shares [..., 2] of g_max."""
    first = (2.0 * p).clamp(max=1.0)
    return _pair(first, 2.0 * p - first)


def set_and_tune(p: Tensor) -> Tensor:
    """p [...] in 0..1 -> shares [..., 2] of g_max."""
    on = (p > 0.5).to(p.dtype)
    return _pair(on, 2.0 * p - on)


SPLITS: dict[str, Split] = {"equal": equal, "fill": fill, "set_and_tune": set_and_tune}


def split_named(split: str | Split) -> Split:
    """The split of that name, or ``split`` itself where it is a callable.

    Raises: ConfigError: no such name.
    """
    if not isinstance(split, str):
        return split
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}: {nearest(split, SPLITS)}")
    return SPLITS[split]


def conductances(w: Tensor, g_max_us: float, split: str | Split = fill) -> Tensor:
    """Target conductances of weights.

    Args:
        w: [..., rows, cols] in units of full scale; beyond +-1 they are clipped, the gradient passing straight through.
        g_max_us: full scale of one device, uS; split: a name of ``SPLITS`` or a callable.
    Returns: [..., 4, rows, cols], uS. The same weight always has the same targets, whatever stands beside it.
    """
    split = split_named(split)
    clipped = at_least(at_most(w, 1.0), -1.0)
    plus = clipped.clamp(min=0.0)
    polarities = torch.stack([plus, plus - clipped], dim=-3)
    return g_max_us * split(polarities).movedim(-1, -4).flatten(-4, -3)


def weights(g: Tensor, g_max_us: float) -> Tensor:
    """Weights that conductances [..., 4, rows, cols] stand for: [..., rows, cols], in units of full scale."""
    g1_plus, g1_minus, g2_plus, g2_minus = g.unbind(-3)
    return (g1_plus + g2_plus - g1_minus - g2_minus) / (2.0 * g_max_us)


def _pair(first: Tensor, second: Tensor) -> Tensor:
    """[...] twice -> [..., 2], each half contiguous."""
    return torch.stack([first, second]).movedim(0, -1)


def weight_sigma(w: Tensor, model: DeviceModel, split: str | Split = fill) -> Tensor:
    """Standard deviation of programming a weight, the clamp at 0 uS left out: [..., rows, cols], units of full scale.

    For models whose devices err independently (not ``hermes-pair``, whose two devices share one error).
    """
    sigma = model.programming_sigma(conductances(w, model.g_max_us, split))
    return sigma.square().sum(-3).sqrt() / (2.0 * model.g_max_us)
