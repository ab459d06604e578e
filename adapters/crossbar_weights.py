"""Weights of layers <-> matrices on the arrays <-> target conductances, for a layout.

    w' = matrix / w_max, -1 .. 1;   targets: a cell's four conductances stand for w', every other cell's are zero

Kernels are unrolled as ``crossbar`` states. Weights beyond w_max are clipped: ``clipped`` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ovonic.adapters.crossbar import Layout, PlacedLayer
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.lif import masked
from ovonic.models.splitting import Split, conductances
from ovonic.models.splitting import weights as decoded

__all__ = ["clipped", "full_scale", "matrices", "roll", "targets", "unroll", "weights_of"]


def unroll(layer: PlacedLayer, weight: Any) -> Tensor:
    """A layer's own weight [..., *own_shape] as its matrix [..., in, out], a masked diagonal as zeros.

    Raises: ConfigError: another shape.
    """
    w = weight if isinstance(weight, Tensor) else torch.tensor(weight)
    axes = len(layer.own_shape)
    if tuple(w.shape[w.ndim - axes :]) != layer.own_shape or not w.is_floating_point():
        raise ConfigError(f"layer {layer.name!r}: weights {tuple(w.shape)} of {w.dtype}: {layer.own_shape} are due")
    w = w if layer.transposed else w.transpose(-axes, 1 - axes)
    w = w.flatten(w.ndim - axes + 1).mT
    if layer.groups > 1:
        whole = w.new_zeros(*w.shape[:-2], *layer.shape)
        for inputs, outputs in layer.parts:
            whole[..., inputs, outputs] = w[..., outputs]
        w = whole
    return masked(w) if layer.masked_diagonal else w


def roll(layer: PlacedLayer, matrix: Tensor) -> Tensor:
    """The layer's own weight [..., *own_shape] of a matrix [..., in, out]."""
    if layer.groups > 1:
        matrix = torch.cat([matrix[..., inputs, outputs] for inputs, outputs in layer.parts], dim=-1)
    n_in = matrix.shape[-2]
    w = matrix.mT.unflatten(-1, (n_in // math.prod(layer.window), *layer.window))
    axes = len(layer.own_shape)
    w = w if layer.transposed else w.transpose(-axes, 1 - axes)
    return w.contiguous()


def full_scale(layer: PlacedLayer, like: Tensor) -> Tensor:
    """w_max as a tensor, [1] or [out]."""
    return torch.tensor(layer.w_max, dtype=like.dtype, device=like.device)


def matrices(layout: Layout, weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Each placed layer's matrix in units of full scale, [..., in, out], unclipped.

    Args: weights: of the placed layers at least, by name, in the layers' own shapes; leading axes are copies.
    Raises: ConfigError: one is missing, has another shape, or holds NaN or infinity.
    """
    made = {}
    for layer in layout.layers:
        if layer.name not in weights:
            raise ConfigError(f"weights: those of layer {layer.name!r} are missing: {nearest(layer.name, weights)}")
        w = unroll(layer, weights[layer.name])
        if not torch.isfinite(w).all():
            raise ConfigError(f"layer {layer.name!r}: its weights hold NaN or infinity")
        made[layer.name] = (w.double() / full_scale(layer, w.double())).to(w.dtype)
    return made


def targets(layout: Layout, weights: Mapping[str, Any], g_max_us: float, split: str | Split = "fill") -> list[Tensor]:
    """Target conductances of every array, each [..., 4, rows, columns], uS.

    Args: weights: see ``matrices``; g_max_us: full scale of one device; split: see ``models.splitting``.
    Raises: as ``matrices``, and for copies that do not fit each other.
    """
    units = matrices(layout, weights)
    dtype = next(iter(units.values())).dtype
    result = []
    for index, array in enumerate(layout.arrays):
        blocks = [block for block in layout.blocks if block.array == index]
        shapes = {units[block.layer].shape[:-2] for block in blocks}
        try:
            leading = torch.broadcast_shapes(*shapes)
        except RuntimeError:
            raise ConfigError(f"weights on array {array.name!r}: copies {sorted(shapes)} do not fit") from None
        cells = torch.zeros(*leading, array.rows, array.columns, dtype=dtype)
        for block in blocks:
            cells[..., block.rows, block.columns] = units[block.layer][..., block.inputs, block.outputs]
        result.append(conductances(cells, g_max_us, split))
    return result


def clipped(layout: Layout, weights: Mapping[str, Any]) -> dict[str, int]:
    """How many weights of each layer lie beyond its full scale and are clipped."""
    return {name: int((w.abs() > 1).sum()) for name, w in matrices(layout, weights).items()}


def weights_of(layout: Layout, g: Sequence[Tensor], g_max_us: float) -> dict[str, Tensor]:
    """The weights that conductances stand for, by name, each in its layer's own shape.

    Args: g: of every array, [..., 4, rows, columns] (or the used part of it), uS.
    Raises: ConfigError: another number of arrays.
    """
    if len(g) != len(layout.arrays):
        raise ConfigError(f"conductances of {len(g)} arrays: the layout has {len(layout.arrays)}")
    cells = [decoded(one, g_max_us) for one in g]
    made = {}
    for layer in layout.layers:
        blocks = layout.blocks_of(layer.name)
        leading = torch.broadcast_shapes(*(cells[block.array].shape[:-2] for block in blocks))
        matrix = cells[blocks[0].array].new_zeros(*leading, *layer.shape)
        for block in blocks:
            matrix[..., block.inputs, block.outputs] = cells[block.array][..., block.rows, block.columns]
        made[layer.name] = roll(layer, matrix * full_scale(layer, matrix))
    return made
