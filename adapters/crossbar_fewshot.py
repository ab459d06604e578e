"""The few-shot CNN on two crossbar arrays whose devices keep their state.

    chip            one draw of all devices of both arrays (``cnn_layout``): every cell is programmed at clock 0
    convolutions    products on the arrays, halves of 252 rows added digitally after their ADCs (``ArrayConvolution``)
    read-out        the crop of its cells; each task re-programs its own copy, only devices whose target changes
    later           the same devices, drifted, with their accumulated read noise drawn anew

Digital: ReLU, norm, maximum, softmax and the gradient of the read-out. What is read when: ``models.fewshot_chip``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ovonic.adapters.crossbar_mapping import cnn_layout
from ovonic.adapters.crossbar_weights import targets
from ovonic.models.array_convolution import ArrayConvolution, RowBlock
from ovonic.models.array_products import ArrayReader
from ovonic.models.crossbar import ArrayState, advance, crop, expand, program, reprogram, weights
from ovonic.models.device_readout import DeviceReadout, readout_scale
from ovonic.models.drift_compensation import exact_signature, factors
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.fewshot_chip import FewshotChip
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision
from ovonic.models.pcm import DeviceModel, device_model
from ovonic.models.periphery import Periphery
from ovonic.models.seeds import derive_seed, stream
from ovonic.models.splitting import conductances, split_named
from ovonic.models.verify import Verify

__all__ = ["CrossbarChip", "CrossbarReadout", "FewshotCrossbar"]

SCALES = ("column", "layer")
READOUT = "readout.weight"


@dataclass(frozen=True)
class FewshotCrossbar:
    """The chip that is simulated. Attributes:

    model: of the devices (default ``pcm``).
    periphery: converters, read noise of each product, drift compensation (by sums of |w| of a block, known exactly).
    split: how a weight fills the two devices of its polarity (``models.splitting``).
    verify: program-and-verify; None: one pulse a device, open loop.
    scale: full scale of a convolution: max |w| of each ``"column"`` or of the whole ``"layer"``; the digital side
        multiplies it back after the ADC.
    rows, columns: size of an array.
    image_range, activation_range: DAC full scale of the first convolution's input (pixels in 0..1) and of every other
        input: these leave the norm, so 10 is 10 standard deviations, known without any data.
    readout_w_max: full scale of the read-out, fixed before anything is learned; None: ``readout_scale``.
    readout_adc_range: as ``Periphery.adc_range``, for the columns of the read-out, whose few and small weights use
        less than half of 10.
    reads, readout_reads: products averaged digitally at each read of the convolutions, and of the read-out.
    """

    model: DeviceModel = field(default_factory=lambda: device_model("pcm"))
    periphery: Periphery = field(default_factory=Periphery)
    split: str = "fill"
    verify: Verify | None = None
    scale: str = "column"
    rows: int = 256
    columns: int = 256
    image_range: float = 1.0
    activation_range: float = 10.0
    readout_w_max: float | None = None
    readout_adc_range: float = 5.0
    reads: int = 1
    readout_reads: int = 1

    def __post_init__(self) -> None:
        split_named(self.split)
        if self.scale not in SCALES:
            raise ConfigError(f"scale {self.scale!r}: {nearest(self.scale, SCALES)}")
        for name in ("image_range", "activation_range", "readout_adc_range", "reads", "readout_reads"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be positive")
        if self.periphery.wire_ohm:
            raise ConfigError("wire_ohm: the few-shot network is simulated without wire resistance")
        if self.readout_w_max is not None and not self.readout_w_max > 0:
            raise ConfigError(f"readout_w_max {self.readout_w_max}: must be positive")

    @property
    def readout_periphery(self) -> Periphery:
        """The periphery of the read-out's columns."""
        return replace(self.periphery, adc_range=self.readout_adc_range)


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossbarReadout(DeviceReadout):
    """The dense layer on its part of an array.

    Attributes:
        devices: an ``ArrayState`` of [tasks, 4, channels, n_way].
        column_gain, column_offset: of its columns' converters.
    """

    devices: ArrayState
    hardware: FewshotCrossbar
    column_gain: Tensor | None = None
    column_offset: Tensor | None = None

    def weights(self) -> Tensor:
        return weights(self.devices, self.hardware.model.g_max_us).mT * self.w_max

    @cached_property
    def _reader(self) -> ArrayReader:
        h = self.hardware
        return ArrayReader.of(
            self.devices.g_read,
            h.model,
            h.readout_periphery,
            self.column_gain,
            self.column_offset,
            _compensation(self.devices, h, keep=True),
        )

    def _product(self, features: Tensor, generator: torch.Generator) -> Tensor:
        input_range = self.hardware.activation_range
        return self._reader.product(features / input_range, generator) * input_range

    def _reprogrammed(self, w: Tensor, seed: int) -> tuple[ArrayState, Tensor]:
        h = self.hardware
        g_target = conductances(w.mT / self.w_max, h.model.g_max_us, h.split)
        return reprogram(self.devices, h.model, g_target, now_s=self.now_s, generator=stream(seed), verify=h.verify)

    def _advanced(self, now_s: float, seed: int) -> ArrayState:
        return advance(self.devices, self.hardware.model, now_s=now_s, generator=stream(seed))


class CrossbarChip(FewshotChip):
    """One draw of all devices of the network's arrays.

    Attributes: net, hardware, seed, precision; ``layout``: where each weight lies; ``columns``: gain and offset of each
        array's converters; ``states``: the arrays as programmed; ``readout``: the dense layer as programmed, one task.

    Example:
        chip = CrossbarChip(net, FewshotCrossbar(device_model("hermes")), seed=3)
        support, query = chip.features(support_images, query_images, read_time_s=86400.0)
        states = adapt(chip.readout.for_tasks(len(support)), support, labels, net.inner_lr)
        logits = [state.at(86400.0).logits(query) for state in states]
    """

    def __init__(
        self,
        net: FewshotCNN,
        hardware: FewshotCrossbar | None = None,
        *,
        seed: int,
        precision: Precision | None = None,
        update_step: float | None = None,
    ) -> None:
        self.net, self.seed = net, seed
        self.hardware, self.precision = hardware or FewshotCrossbar(), precision or Precision()
        h = self.hardware
        held, w, w_max = _rounded(net, h, self.precision, seed)
        self.layout = cnn_layout(
            held,
            image_range=h.image_range,
            activation_range=h.activation_range,
            rows=h.rows,
            columns=h.columns,
            scale=h.scale,
            w_max={READOUT: w_max},
        )
        placed = {layer.name: held.get_parameter(layer.name).detach() for layer in self.layout.layers}
        self.columns = [
            h.periphery.draw_columns(array.columns, stream(seed, "columns", k))
            for k, array in enumerate(self.layout.arrays)
        ]
        self.states = [
            program(h.model, g, generator=stream(seed, "program", k), verify=h.verify)
            for k, g in enumerate(targets(self.layout, placed, h.model.g_max_us, h.split))
        ]
        self.readout = self._readout(placed[READOUT], w_max, w, update_step)
        self._ages: dict[float, FewshotCNN] = {}

    def _readout(self, w: Tensor, w_max: float, target: Tensor, update_step: float | None) -> CrossbarReadout:
        block, *more = self.layout.blocks_of(READOUT)
        if more:
            h = self.hardware
            raise ConfigError(
                f"read-out of {w.shape[1]} rows and {w.shape[0]} columns: an array has {h.rows} x {h.columns}"
            )
        gain, offset = (part if part is None else part[block.columns] for part in self.columns[block.array])
        cells = torch.tensor([w.numel()])
        return CrossbarReadout(
            w=w[None],
            w_max=w_max,
            devices=expand(crop(self.states[block.array], block.rows, block.columns), 1),
            seed=derive_seed(self.seed, "readout"),
            cells_reprogrammed=cells,
            devices_reprogrammed=4 * cells,
            saturated=(w != target).sum()[None],
            precision=self.precision,
            update_step=update_step,
            reads=self.hardware.readout_reads,
            hardware=self.hardware,
            column_gain=gain,
            column_offset=offset,
        )

    def convolutions(self, read_time_s: float = 0.0) -> FewshotCNN:
        if read_time_s < 0:
            raise ConfigError(f"read time {read_time_s} s: must not be negative")
        if read_time_s not in self._ages:
            self._ages[read_time_s] = self._deployed(read_time_s)
        return self._ages[read_time_s]

    def reseeded(self, read_time_s: float, task: int) -> FewshotCNN:
        net = self.convolutions(read_time_s)
        for layer, conv in enumerate(net.convs):
            assert isinstance(conv, ArrayConvolution)
            conv.generator = stream(self.seed, "read", task, float(read_time_s), layer)
        return net

    def _deployed(self, read_time_s: float) -> FewshotCNN:
        h, states = self.hardware, self.states
        if read_time_s:
            states = [
                advance(
                    state, h.model, now_s=read_time_s, generator=stream(self.seed, "advance", k, float(read_time_s))
                )
                for k, state in enumerate(states)
            ]
        deployed = copy.deepcopy(self.net).requires_grad_(False).eval()
        for i, conv in enumerate(deployed.convs):
            assert isinstance(conv, nn.Conv2d)
            layer = self.layout.layer(f"convs.{i}.weight")
            blocks = []
            for block in self.layout.blocks_of(layer.name):
                gain, offset = (part if part is None else part[block.columns] for part in self.columns[block.array])
                devices = crop(states[block.array], block.rows, block.columns)
                blocks.append(RowBlock(devices.g_read, gain, offset, _compensation(devices, h)))
            deployed.convs[i] = ArrayConvolution(
                blocks,
                h.model,
                h.periphery,
                kernel_size=conv.kernel_size[0],
                stride=conv.stride[0],
                padding=int(conv.padding[0]),
                input_range=layer.input_range,
                w_max=torch.tensor(layer.w_max),
                inputs=layer.inputs,
                reads=h.reads,
            )
        return deployed


def _compensation(devices: ArrayState, hardware: FewshotCrossbar, keep: bool = False) -> Tensor | None:
    """What products are multiplied by for their column's drift, [columns]; with ``keep`` [..., 1, columns]."""
    kind = hardware.periphery.compensation
    if kind is None:
        return None
    before = weights(devices._replace(g_read=devices.g_prog), hardware.model.g_max_us)
    now = weights(devices, hardware.model.g_max_us)
    scale = factors(exact_signature(before), exact_signature(now), kind).expand_as(now[..., 0, :])
    return scale.unsqueeze(-2) if keep else scale


def _rounded(
    net: FewshotCNN, hardware: FewshotCrossbar, precision: Precision, seed: int
) -> tuple[FewshotCNN, Tensor, float]:
    """A copy of the network with the weights that are programmed; the read-out before clipping; its full scale."""
    held, rounding = copy.deepcopy(net).requires_grad_(False), stream(seed, "round")
    for kernel in held.conv_weights():
        kernel.copy_(precision.round(kernel, rounding))
    w = precision.round_readout(held.readout.weight.clone(), rounding)
    w_max = readout_scale(hardware.readout_w_max, w, precision)
    held.readout.weight.copy_(w.clamp(-w_max, w_max))
    return held, w, w_max
