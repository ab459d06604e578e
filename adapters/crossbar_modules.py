"""A torch module on a chip: a copy whose linear layers and convolutions multiply on the placed arrays.

    here                            torch                       lost?
    product of the placed layer     x @ weight.T, conv(x)       its exactness: devices, converters, read noise
    bias, added digitally           bias                        no
    all else of the module          the same, a deep copy       no
    (none)                          gradients                   yes: what comes from a chip has none

Of a spiking module (snnTorch's or Norse's neurons behind linear layers) the neurons stay digital, as in the layout.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_placed import PlacedChip
from ovonic.adapters.crossbar_sources import found_in_module
from ovonic.models.errors import ConfigError, nearest

__all__ = ["OnChip", "check_layout", "on_chip", "placed_weights"]


class OnChip(nn.Module):
    """A linear layer or convolution whose product a chip forms. ``weight`` is what was programmed, for the record."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, part: nn.Module, chip: PlacedChip, name: str) -> None:
        super().__init__()
        bias = getattr(part, "bias", None)
        self.register_buffer("weight", part.weight.detach().clone())  # type: ignore[operator]
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.name, self.trailing = name, part.weight.ndim - 2  # type: ignore[operator]
        self.product = chip.product(name)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """As the layer's own."""
        y = self.product(x.detach())
        return y if self.bias is None else y + self.bias.view(-1, *[1] * self.trailing)

    def extra_repr(self) -> str:
        return f"{self.name}: {tuple(self.weight.shape)} on a chip"


def placed_weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights of every linear layer and convolution, by the layout's names.

    Raises: as ``crossbar_sources.found_in_module``: names a module whose weights cannot be placed.
    """
    found, _ = found_in_module(module)
    return {f.name: module.get_submodule(_path(f.name)).weight.detach() for f in found}  # type: ignore[operator]


def check_layout(layout: Layout, module: nn.Module) -> None:
    """Refuse a layout that was not made for the module.

    Raises: ConfigError: names a layer that only one of them has, or that has another shape.
    """
    weights, placed = placed_weights(module), {layer.name: layer for layer in layout.layers}
    for name in placed:
        if name not in weights:
            raise ConfigError(f"layout: the module has no layer {name!r}: {nearest(name, weights)}")
    for name, weight in weights.items():
        if name not in placed:
            raise ConfigError(f"layer {name!r} of the module is not in the layout: {nearest(name, placed)}")
        if tuple(weight.shape) != placed[name].own_shape:
            raise ConfigError(f"layer {name!r}: {tuple(weight.shape)}, in the layout {placed[name].own_shape}")


def on_chip(module: nn.Module, chip: PlacedChip) -> nn.Module:
    """A copy of the module, in eval mode, that multiplies on ``chip`` wherever the chip's layout has its layers."""
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    for layer in chip.layout.layers:
        path = _path(layer.name)
        part = OnChip(copied.get_submodule(path), chip, layer.name)
        if not path:
            return part
        parent, _, child = path.rpartition(".")
        setattr(copied.get_submodule(parent), child, part)
    return copied


def _path(weight: str) -> str:
    """The module that owns a weight: ``"fc.weight"`` -> ``"fc"``, ``"weight"`` -> ``""``."""
    return weight.rpartition(".")[0]
