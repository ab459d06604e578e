"""The few-shot CNN on simulated phase-change memory: aihwkit tiles for the convolutions, a read-out that keeps devices.

    here                      aihwkit 1.2.0                              lost?
    Hardware                  rpu_config (forward, mapping, noise_model) IR drop, dynamic input scaling: not used
    deploy_convolutions       AnalogConv2d on TileModuleArray            nothing: its torch tile, plus PCM_READ noise
    program, drift to a time  program_/drift_analog_weights              nothing: each device drifts from its own state
    StatefulReadout.updated   (none: program_weights redraws the tile)
    Chip                      (none: one draw of all devices)

What is read when: ``models.fewshot_chip`` (t_0 is 20 s with pcm, 200 s with hermes).

aihwkit itself is imported when a chip is first made, never by importing this module.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from ovonic.adapters.aihwkit_devices import Hardware, derive_seed, load_tiles
from ovonic.adapters.aihwkit_readout import StatefulReadout
from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_chip import STATISTICS, FewshotChip
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision

__all__ = ["STATISTICS", "Chip", "Hardware", "StatefulReadout", "deploy_convolutions"]


def deploy_convolutions(
    net: FewshotCNN,
    hardware: Hardware | None = None,
    *,
    seed: int,
    read_time_s: float = 0.0,
    precision: Precision | None = None,
) -> FewshotCNN:
    """Program the convolutions into analog tiles and let them age.

    Args:
        net: the network; it is copied, its kernels are the targets.
        hardware: the chip; seed: its devices: the same seed at another ``read_time_s`` is the same chip, older.
        read_time_s: seconds since programming ended.
        precision: rounding of the kernels before they are programmed, once a chip.
    Returns: the network with analog ``convs``, ready for ``features``; its read-out is left in software.
    Raises: ToolchainError: aihwkit is missing or broken.
    Not modelled: packing of several layers into one array.
    """
    hardware, precision, tiles = hardware or Hardware(), precision or Precision(), load_tiles()
    deployed = copy.deepcopy(net).requires_grad_(False).eval()
    rounding = torch.Generator().manual_seed(derive_seed(seed, "kernels"))
    for layer, conv in enumerate(deployed.convs):
        assert isinstance(conv, nn.Conv2d)
        conv.weight.copy_(precision.round(conv.weight, rounding))
        converters = hardware.converters(hardware.activation_range if layer else hardware.image_range)
        analog = tiles.program_convolution(conv, hardware, converters, derive_seed(seed, "convolution", layer))
        if read_time_s:
            analog.drift_analog_weights(read_time_s)
        deployed.convs[layer] = analog
    return deployed


class Chip(FewshotChip):
    """One draw of all devices of the network: programmed convolutions, of any age, and the programmed read-out.

    Attributes: net, hardware, seed, precision; ``readout``: the array of the dense layer as programmed, one task.

    Example:
        chip = Chip(net, Hardware("hermes"), seed=3)
        support, query = chip.features(support_images, query_images, read_time_s=86400.0)
        states = adapt(chip.readout.for_tasks(len(support)), support, labels, net.inner_lr)
        logits = [state.at(86400.0).logits(query) for state in states]
    """

    def __init__(
        self,
        net: FewshotCNN,
        hardware: Hardware | None = None,
        *,
        seed: int,
        precision: Precision | None = None,
        update_step: float | None = None,
    ) -> None:
        self.net, self.seed = net, seed
        self.hardware, self.precision = hardware or Hardware(), precision or Precision()
        self.readout = StatefulReadout.program(
            net.readout.weight,
            self.hardware,
            seed=derive_seed(seed, "readout"),
            precision=self.precision,
            update_step=update_step,
        )
        self._ages: dict[float, FewshotCNN] = {}

    def convolutions(self, read_time_s: float = 0.0) -> FewshotCNN:
        if read_time_s < 0:
            raise ConfigError(f"read time {read_time_s} s: must not be negative")
        if read_time_s not in self._ages:
            self._ages[read_time_s] = deploy_convolutions(
                self.net, self.hardware, seed=self.seed, read_time_s=read_time_s, precision=self.precision
            )
        return self._ages[read_time_s]

    def reseeded(self, read_time_s: float, task: int) -> FewshotCNN:
        net = self.convolutions(read_time_s)
        for layer, conv in enumerate(net.convs):
            for i, tile in enumerate(conv.analog_tiles()):  # type: ignore[operator]
                tile.reseed(tile.seed, derive_seed(self.seed, "read", task, float(read_time_s), layer, i))
        return net
