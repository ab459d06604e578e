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
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType

import torch
from torch import Tensor, nn

from ovonic.adapters.aihwkit_devices import (
    DeviceState,
    Hardware,
    NoiseModel,
    advance,
    derive_seed,
    program,
    reprogram,
    to_conductances,
    to_weights,
)
from ovonic.models.errors import ConfigError, ToolchainError, nearest
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision
from ovonic.models.quantise import round_to_step

__all__ = ["STATISTICS", "Chip", "Hardware", "StatefulReadout", "deploy_convolutions"]

STATISTICS = ("recalibrated", "stored")


def _tiles() -> ModuleType:
    """The module that needs aihwkit.

    Raises: ToolchainError: aihwkit is missing, or does not load with this torch.
    """
    try:
        from ovonic.adapters import aihwkit_tiles
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "aihwkit":
            raise ToolchainError("aihwkit is not installed: pip install 'ovonic[aihwkit]'") from error
        raise ToolchainError(
            f"aihwkit does not load with torch {torch.__version__} ({error}): its compiled tiles are bound to torch's "
            "ABI; install a pair that was run: pip install 'aihwkit==1.2.0' 'torch>=2.13,<2.16'"
        ) from error
    return aihwkit_tiles


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
    hardware, precision, tiles = hardware or Hardware(), precision or Precision(), _tiles()
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


@dataclass(frozen=True, eq=False)
class StatefulReadout:
    """The dense layer on an array that keeps its devices: a ``Readout`` of ``models.maml``, batched over tasks.

    The digital side keeps the target weights. ``updated`` programs only the devices whose target changes; all others
    keep conductance, drift exponent, programming time and present reading bit for bit. Of a weight that keeps its sign
    two devices change, of one that changes it four.

    Attributes:
        w: target weights, [tasks, n_way, channels]; w_max: the array's full scale (``Hardware.readout_scale``).
        devices: state of the four devices of each, [tasks, 4, n_way, channels].
        seed, now_s: of this array's draws; its clock.
        precision: rounding of W + dW (4 bit: the targets lie on the 16-level grid).
        update_step: round dW stochastically to multiples of this (the published code: 1/16); None programs every change.
        programmings: how often the array has been programmed or updated.
        cells_reprogrammed, devices_reprogrammed: touched by the last update, [tasks] int64 (by programming: all).
        saturated: targets beyond +-w_max at the last update, clipped to it, [tasks] int64.
    """

    w: Tensor
    w_max: float
    devices: DeviceState
    hardware: Hardware
    model: NoiseModel
    seed: int
    cells_reprogrammed: Tensor
    devices_reprogrammed: Tensor
    saturated: Tensor
    precision: Precision = field(default_factory=Precision)
    update_step: float | None = None
    now_s: float = 0.0
    programmings: int = 1
    _products: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    def program(
        cls,
        weight: Tensor,
        hardware: Hardware | None = None,
        *,
        seed: int,
        precision: Precision | None = None,
        update_step: float | None = None,
    ) -> StatefulReadout:
        """Program the initial weights [n_way, channels] into an array of their own, once: a read-out of one task.

        Raises: ToolchainError: aihwkit is missing or broken. ConfigError: larger than an array.
        """
        hardware, precision = hardware or Hardware(), precision or Precision()
        n_way, channels = weight.shape
        if channels > hardware.rows or n_way > hardware.columns:
            raise ConfigError(
                f"read-out of {channels} rows and {n_way} columns: an array has {hardware.rows} x {hardware.columns}"
            )
        model = _tiles().make_noise_model(hardware)
        rounding = torch.Generator().manual_seed(derive_seed(seed, "round", 0))
        target = precision.round(weight.detach()[None].clone(), rounding)
        w_max = hardware.readout_scale(target, precision.bits)
        w = target.clamp(-w_max, w_max)
        devices = program(
            model,
            to_conductances(w / w_max, model.g_max, hardware.split),
            now_s=0.0,
            seed=derive_seed(seed, "program", 0),
            zero_targets=hardware.zero_targets,
        )
        cells = torch.tensor([w.numel()])
        saturated = (w != target).sum(dim=(1, 2))
        return cls(w, w_max, devices, hardware, model, seed, cells, 4 * cells, saturated, precision, update_step)

    def for_tasks(self, tasks: int, first_task: int = 0) -> StatefulReadout:
        """The same programmed array under the hands of ``tasks`` tasks, each with draws of its own from here on.

        Args: first_task: names the batch: the same array, batch and number of tasks give the same bits.
        """
        return replace(
            self,
            w=self.w.expand(tasks, -1, -1),
            devices=DeviceState(*(x.expand(tasks, -1, -1, -1) for x in self.devices)),
            seed=derive_seed(self.seed, "tasks", first_task),
            cells_reprogrammed=self.cells_reprogrammed.expand(tasks),
            devices_reprogrammed=self.devices_reprogrammed.expand(tasks),
            saturated=self.saturated.expand(tasks),
            _products=itertools.count(1),
        )

    def weights(self) -> Tensor:
        """The weights as the devices read now, [tasks, n_way, channels]."""
        return to_weights(self.devices.g_read, self.model.g_max) * self.w_max

    @property
    def products_seed(self) -> int:
        """Seed of this state's reads; the nth read draws from (products_seed, "product", n)."""
        return derive_seed(self.seed, "state", self.programmings, self.now_s)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Read through the converters, with the noise of a new product: [tasks, S, channels] -> [tasks, S, n_way]."""
        hardware = self.hardware
        converters = hardware.converters(hardware.activation_range, hardware.readout_adc_range)
        generator = torch.Generator().manual_seed(derive_seed(self.products_seed, "product", next(self._products)))
        w = to_weights(self.devices.g_read, self.model.g_max)
        return converters.product(features, w, generator).mul_(self.w_max)

    @torch.no_grad()
    def updated(self, delta: Tensor) -> StatefulReadout:
        """Add ``delta`` [tasks, n_way, channels] to the targets and program what changes, at the clock ``now_s``."""
        hardware = self.hardware
        rounding = torch.Generator().manual_seed(derive_seed(self.seed, "round", self.programmings))
        if self.update_step is not None:
            delta = round_to_step(delta, self.update_step, "stochastic", rounding)
        target = self.precision.round(self.w + delta, rounding)
        w = target.clamp(-self.w_max, self.w_max)
        devices, touched = reprogram(
            self.devices,
            self.model,
            to_conductances(w / self.w_max, self.model.g_max, hardware.split),
            now_s=self.now_s,
            seed=derive_seed(self.seed, "program", self.programmings),
            zero_targets=hardware.zero_targets,
        )
        return replace(
            self,
            w=w,
            devices=devices,
            programmings=self.programmings + 1,
            cells_reprogrammed=touched.any(dim=1).sum(dim=(1, 2)),
            devices_reprogrammed=touched.sum(dim=(1, 2, 3)),
            saturated=(w != target).sum(dim=(1, 2)),
            _products=itertools.count(1),
        )

    def at(self, now_s: float) -> StatefulReadout:
        """The same array when its clock shows ``now_s``: drifted, its accumulated read noise drawn anew.

        At the present clock nothing changes but the noise of the products to come.
        Raises: ConfigError: ``now_s`` lies in the past.
        """
        if now_s == self.now_s:
            return replace(self, seed=derive_seed(self.seed, "again"), _products=itertools.count(1))
        if now_s < self.now_s:
            raise ConfigError(f"time {now_s} s: the array's clock already shows {self.now_s} s")
        seed = derive_seed(self.seed, "advance", self.programmings, float(now_s))
        devices = advance(self.devices, self.model, now_s=now_s, seed=seed)
        return replace(self, devices=devices, now_s=float(now_s), _products=itertools.count(1))


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
