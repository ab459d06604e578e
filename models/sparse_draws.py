"""Random numbers for the devices that need them, and for no other.

A model whose devices are ``independent`` is asked about the touched devices alone; where it resets devices that are
to hold nothing (``zero_targets="reset"``: exactly 0 uS, no drift), these are not drawn either. With weights on two
devices of a polarity, filled one after the other, that leaves about a quarter of an array's devices. The devices are
handed over as [4, m, 1] in their order, filled up with zeros, since an independent model does not care which four make
a cell. A model that couples the devices of a cell is asked about whole cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ovonic.models.device_model import DeviceModel

__all__ = ["devices_to_draw", "draw_for"]


def devices_to_draw(model: DeviceModel, g_target: Tensor, touched: Tensor | None = None) -> Tensor | None:
    """Which devices ``model`` must be asked about, as indices of the flattened ``g_target``; None: all of them.

    Args: g_target: [..., 4, rows, cols], uS; touched: same shape, bool; None: all.
    """
    if not getattr(model, "independent", False):
        return None
    if getattr(model, "zero_targets", None) == "reset":
        active = g_target > 0
        touched = active if touched is None else touched & active
    if touched is None:
        return None
    return torch.from_numpy(np.flatnonzero(touched.numpy()))  # torch's nonzero takes several times longer


def draw_for(devices: Tensor | None, base: Tensor, call: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``call(*inputs)`` for the ``devices`` (as ``devices_to_draw`` gives them), and ``base`` for all others."""
    if devices is None:
        return call(*inputs)
    if not devices.numel():
        return base
    spare = -devices.numel() % 4
    picked = [F.pad(x.flatten().index_select(0, devices), (0, spare)).reshape(4, -1, 1) for x in inputs]
    drawn = call(*picked).flatten()[: devices.numel()]
    return base.flatten().index_copy(0, devices, drawn).reshape(base.shape)
