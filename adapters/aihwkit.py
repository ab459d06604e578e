"""The few-shot CNN on simulated phase-change memory: aihwkit tiles for the convolutions, a read-out that keeps devices.

    here                      aihwkit 1.2.0                              lost?
    Hardware                  rpu_config (forward, mapping, noise_model) IR drop, dynamic input scaling: not used
    deploy_convolutions       AnalogConv2d on TileModuleArray            nothing: its torch tile, plus PCM_READ noise
    program, drift to a time  program_/drift_analog_weights              nothing: each device drifts from its own state
    StatefulReadout.updated   (none: program_weights redraws the tile)
    Chip                      (none: one draw of all devices)

The clock, in seconds. Programming of the whole chip ends at 0. Adaptation takes place at 0 too: its support reads are
the first reads after programming, which the drift law puts at t_0 (g = g_prog; 20 s pcm, 200 s hermes, accumulated read
noise included), and the time that four updates take is neglected beside t_0. Queries are read at ``read_time_s`` after
the last update, when every device, old or re-programmed, has the age ``read_time_s``.

aihwkit itself is imported when a chip is first made, never by importing this module.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ovonic.adapters.aihwkit_devices import Hardware, derive_seed, load_tiles
from ovonic.adapters.aihwkit_readout import StatefulReadout
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision

__all__ = ["STATISTICS", "Chip", "Hardware", "StatefulReadout", "deploy_convolutions"]

STATISTICS = ("recalibrated", "stored")


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


class Chip:
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
        """The network with this chip's convolutions ``read_time_s`` seconds after programming ended."""
        if read_time_s < 0:
            raise ConfigError(f"read time {read_time_s} s: must not be negative")
        if read_time_s not in self._ages:
            self._ages[read_time_s] = deploy_convolutions(
                self.net, self.hardware, seed=self.seed, read_time_s=read_time_s, precision=self.precision
            )
        return self._ages[read_time_s]

    @torch.no_grad()
    def features(
        self,
        support: Tensor,
        query: Tensor,
        *,
        read_time_s: float = 0.0,
        norm: str | None = None,
        statistics: str = "recalibrated",
        first_task: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Embed support images at the first read after programming, and query images at ``read_time_s``.

        Args:
            support: [tasks, S, 1, 28, 28]; query: [tasks, Q, 1, 28, 28].
            norm: overrides the network's. ``support`` with a later query needs statistics of the support set:
            statistics: ``"recalibrated"``: the support images are kept and read again beside the queries, at their
                time; ``"stored"``: the numbers measured at adaptation are kept, while the signal drifts away from them.
            first_task: number of the first task: task i's read noise is drawn from (chip, i, read time), however the
                tasks are batched (``meta-batch`` couples them, so there from the batch).
        Returns: features of the support [tasks, S, channels] and of the query [tasks, Q, channels].
        """
        norm = norm or self.net.config.norm
        if statistics not in STATISTICS:
            raise ConfigError(f"statistics {statistics!r}: {nearest(statistics, STATISTICS)}")
        if norm == "meta-batch":
            merged = [x.reshape(1, -1, *x.shape[2:]) for x in (support, query)]
            embedded = self._task(merged[0], merged[1], read_time_s, "transductive", statistics, first_task)
            return tuple(f.reshape(*x.shape[:2], -1) for f, x in zip(embedded, (support, query), strict=True))  # type: ignore[return-value]
        pairs = [
            self._task(support[i : i + 1], query[i : i + 1], read_time_s, norm, statistics, first_task + i)
            for i in range(len(support))
        ]
        return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])

    def _task(
        self, support: Tensor, query: Tensor, read_time_s: float, norm: str, statistics: str, task: int
    ) -> tuple[Tensor, Tensor]:
        first = self._reseeded(0.0, task)
        if read_time_s == 0:
            return first.features(support, query, norm=norm)
        later = self._reseeded(read_time_s, task)
        if norm == "support" and statistics == "stored":
            return _two_ages(first, later, support.shape[1]).features(support, query, norm=norm)
        nothing = support[:, :0]
        now = first.features(support, nothing, norm="support")[0]
        if norm == "support":
            return now, later.features(support, query, norm=norm)[1]
        return now, later.features(query, nothing, norm="support")[0]

    def _reseeded(self, read_time_s: float, task: int) -> FewshotCNN:
        net = self.convolutions(read_time_s)
        for layer, conv in enumerate(net.convs):
            for i, tile in enumerate(conv.analog_tiles()):  # type: ignore[operator]
                tile.reseed(tile.seed, derive_seed(self.seed, "read", task, float(read_time_s), layer, i))
        return net


class _TwoAges(nn.Module):
    """A convolution that reads the first ``n_support`` images at one age and the rest at another (one task)."""

    def __init__(self, first: nn.Module, later: nn.Module, n_support: int) -> None:
        super().__init__()
        self.first, self.later, self.n_support = first, later, n_support

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x[: self.n_support]), self.later(x[self.n_support :])])


def _two_ages(first: FewshotCNN, later: FewshotCNN, n_support: int) -> FewshotCNN:
    mixed = copy.copy(first)
    mixed._modules = dict(first._modules)
    mixed.convs = nn.ModuleList(_TwoAges(a, b, n_support) for a, b in zip(first.convs, later.convs, strict=True))
    return mixed
