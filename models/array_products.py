"""Products of an array with many inputs: y = ADC(u w + sqrt(variance) xi), the noise drawn anew in each.

    w_ij      = (G1+ + G2+ - G1- - G2-) / (2 g_max)                       as the devices read now, in -1..1
    variance  = u^2 (w_noise^2 |w| + sum over devices (sigma(g) / (2 g_max))^2) + out_noise^2

sigma(g) is the device model's ``product_sigma``. ``ArrayReader`` computes both matrices once; the devices do not change
between the products of a trial. A spike is its own square, so that with spikes mean and variance are sums of the same
rows of [w | variances]. Wires that resist (``Periphery.wire_ohm``) change w, and make the currents through the devices
smaller, which sigma(g) ignores: its share of the noise is then somewhat too large.

Every path computes the same, and draws the same noise from the same seed (``models.noise_kernels``): compiled sums of
rows where few inputs are not zero or few inputs are given; else dense products between compiled converters; and plain
torch operations where a gradient is needed, in other precisions, and off the CPU. They differ by the rounding of sums
in float32, which may move a current that lies between two levels of the ADC to the other one.

Shapes: conductances [..., 4, rows, columns] in uS, inputs [..., S, rows] in units of the DAC's full scale. Not for
``torch.vmap``: give a batch of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ovonic.models import array_kernels as kernels
from ovonic.models.array_buffers import Pool, channels_last, columns_of, constants_of, flat, scratch
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.noise_kernels import NoiseStream
from ovonic.models.periphery import Conversion, Periphery, adc, clipped, dac
from ovonic.models.wire_resistance import effective_polarities

__all__ = ["ArrayReader", "Multiply", "NoiseStream", "ProductModel", "Saturation"]

FEW = 0.3
"""Share of inputs that are not zero below which sums of rows are faster than a dense product of several inputs."""

SINGLE = 4
"""So many inputs are always read by sums of rows."""

Multiply = Callable[[Tensor, Tensor], Tensor]
"""Inputs times matrix [..., rows, columns] -> [..., S, columns]."""

EMPTY = np.empty((0, 0), np.float32)
EMPTY_TENSOR = torch.empty(0)
IDEAL = constants_of(Periphery.ideal())


class ProductModel(Protocol):
    """What of a device model a product needs."""

    @property
    def g_max_us(self) -> float: ...

    def product_sigma(self, g: Tensor) -> Tensor | None: ...


@dataclass
class Saturation:
    """Values that converters clipped, so far."""

    dac: int = 0
    adc: int = 0


class _Matrices(NamedTuple):
    """What a conversion sees: mean and variance a unit of u and of u^2, [..., rows, columns]; and beside each other."""

    mean: Tensor
    load: Tensor | None
    fused: Any


class ArrayReader:
    """An array as it reads now, prepared for many products with the same devices.

    Attributes:
        plus, minus: conductance of each polarity in units of full scale, [..., rows, columns].
        weights: their difference.
        saturation: counts, or None where they are not wanted.
    """

    def __init__(
        self,
        plus: Tensor,
        minus: Tensor,
        device_variance: tuple[Tensor, Tensor] | None,
        periphery: Periphery,
        column_gain: Tensor | None = None,
        column_offset: Tensor | None = None,
        scale: Tensor | float | None = None,
        count: bool = False,
        compiled: bool = True,
    ) -> None:
        self.plus, self.minus, self.periphery = plus, minus, periphery
        self.weights = plus - minus
        self.device_variance = device_variance
        self.column_gain, self.column_offset, self.scale = column_gain, column_offset, scale
        self.saturation = Saturation() if count else None
        self._matrices: dict[int, _Matrices] = {}
        self._columns = columns_of(column_gain, column_offset, scale, plus)
        self._compiled = (
            compiled
            and plus.device.type == "cpu"
            and plus.dtype is torch.float32
            and not self.weights.requires_grad
            and self._columns is not None
        )
        self._constants = constants_of(periphery)
        *self._lead, self._rows, self._width = plus.shape
        self._arrays = math.prod(self._lead)
        self._pool = Pool()

    @classmethod
    def of(
        cls,
        g_read: Tensor,
        model: ProductModel,
        periphery: Periphery,
        column_gain: Tensor | None = None,
        column_offset: Tensor | None = None,
        scale: Tensor | float | None = None,
        count: bool = False,
        compiled: bool = True,
    ) -> ArrayReader:
        """Prepare an array.

        Args:
            g_read: conductances as they read now, [..., 4, rows, columns], uS.
            column_gain, column_offset: of the converters, [columns], or [B, 1, columns] for a batch of arrays; None: 1
                and 0.
            scale: digital factor behind the ADC (drift compensation), one number or shaped as the gain.
            count: count what the converters clip (``saturation``).
            compiled: False: plain torch operations only.
        Raises: ConfigError: not four devices a cell, or a gain, offset or scale of another shape.
        """
        if g_read.ndim < 3 or g_read.shape[-3] != 4:
            raise ConfigError(f"conductances of shape {list(g_read.shape)}: expected [..., 4, rows, columns]")
        for name, value in (("column_gain", column_gain), ("column_offset", column_offset), ("scale", scale)):
            if isinstance(value, Tensor) and value.ndim and value.shape[-1] != g_read.shape[-1]:
                raise ConfigError(f"{name} of shape {list(value.shape)}: the array has {g_read.shape[-1]} columns")
        unit = 2.0 * model.g_max_us
        plus, minus = (g / unit for g in effective_polarities(g_read, periphery.wire_ohm))
        sigma = model.product_sigma(g_read)
        variance = None
        if sigma is not None:
            s = (sigma / unit).square()
            variance = s[..., 0, :, :] + s[..., 2, :, :], s[..., 1, :, :] + s[..., 3, :, :]
        return cls(plus, minus, variance, periphery, column_gain, column_offset, scale, count, compiled)

    def product(
        self,
        x: Tensor,
        generator: torch.Generator | NoiseStream | None,
        inputs: str = "signed",
        multiply: Multiply | None = None,
    ) -> Tensor:
        """Read the array once for each input.

        Args:
            x: [..., S, rows], in units of the DAC's full scale; an array of [B, 4, rows, columns] takes [B, S, rows].
            generator: of the noise; one ``NoiseStream`` for all products of a run spares a draw in each.
            inputs: ``"signed"``; ``"unsigned"``: the DAC's range is 0..1; ``"binary"``: 0 or 1, no DAC.
            multiply: forms inputs times matrix; for a convolution, whose ``x`` are images, columns on the last axis.
        Returns: [..., S, columns], in currents of one row with full input on a device pair at full scale.
        Raises: DataError: a binary input other than 0 and 1.
        """
        noise = generator if isinstance(generator, NoiseStream) else NoiseStream(generator)
        conversions = self.periphery.conversions(inputs)
        if not self._compiled or x.requires_grad or not x.is_cpu:
            return self._plain(x, noise, inputs, conversions, multiply or torch.matmul)
        x = x if x.dtype is torch.float32 else x.to(torch.float32)
        if multiply is None:
            if x.shape[-1] != self._rows or (self._lead and list(x.shape[:-2]) != self._lead):
                raise ConfigError(f"inputs of shape {list(x.shape)}: expected {[*self._lead, 'S', self._rows]}")
            total = self._by_rows(x, noise, inputs, conversions)
            if total is not None:
                return total
            if not self._lead:
                return self._dense_at_once(x, noise, inputs, conversions)
        return self._dense(x, noise, inputs, conversions, multiply or torch.matmul)

    def binary(self, z: Tensor, generator: torch.Generator | NoiseStream | None) -> Tensor:
        """``product`` for spikes, 0 or 1, [..., S, rows]."""
        return self.product(z, generator, "binary")

    def matrix(self, bitlines: int) -> tuple[Tensor, Tensor | None]:
        """What a conversion sees of the devices: mean and variance a unit of u and of u^2, [..., rows, columns].

        Args: bitlines: polarity that is read, +1 or -1, or 0 for the difference of both.
        """
        found = self._matrices_of(bitlines)
        return found.mean, found.load

    def _matrices_of(self, bitlines: int) -> _Matrices:
        if bitlines not in self._matrices:
            w = self.weights if bitlines == 0 else self.plus if bitlines > 0 else self.minus
            load = w.abs() * self.periphery.w_noise**2 if self.periphery.w_noise else None
            if self.device_variance is not None:
                plus, minus = self.device_variance
                own = plus + minus if bitlines == 0 else plus if bitlines > 0 else minus
                load = own if load is None else load + own
            fused = EMPTY
            if self._compiled:
                both = w if load is None else torch.cat([w, load], dim=-1)
                fused = both.reshape(-1, *both.shape[-2:]).numpy()
            self._matrices[bitlines] = _Matrices(w, load, fused)
        return self._matrices[bitlines]

    def _by_rows(
        self, x: Tensor, noise: NoiseStream, inputs: str, conversions: tuple[Conversion, ...]
    ) -> Tensor | None:
        """The read by compiled sums of rows; None where dense products are faster."""
        x_ = flat(x).reshape(-1, self._rows)
        group = max(1, len(x_) // self._arrays)
        binary, unsigned, count = inputs == "binary", inputs == "unsigned", self.saturation is not None
        if group > SINGLE and not binary and kernels.filled(x_.reshape(-1)) > FEW * x_.size:
            return None
        most = x_.size if group <= SINGLE else int(FEW * x_.size)
        total, room = np.zeros((len(x_), self._width), np.float32), scratch(len(x_) * self._width)
        clips_dac = clips_adc = 0
        for c in conversions:
            clips_dac, clips = kernels.read_rows(
                x_, binary, c.rows, unsigned, most, self._matrices_of(c.bitlines).fused, group, self._constants,
                self._columns, count, noise.key, noise.drawn, room, c.sign, total,
            )  # fmt: skip
            if clips_dac == kernels.MANY:
                return None
            if clips_dac == kernels.NOT_BINARY:
                raise _not_binary()
            clips_adc += clips
            noise.drawn += 1
        self._add_clips(clips_dac, clips_adc)
        return torch.from_numpy(total if x.ndim == 2 else total.reshape(*x.shape[:-1], self._width))

    def _dense_at_once(self, x: Tensor, noise: NoiseStream, inputs: str, conversions: tuple[Conversion, ...]) -> Tensor:
        """``_dense`` for one array, in memory that is used again."""
        x_ = flat(x)
        size = len(x_) // self._rows, self._rows, self._width
        work = self._pool.take(size)
        total = np.zeros((size[0], self._width), np.float32)
        binary, unsigned, count = inputs == "binary", inputs == "unsigned", self.saturation is not None
        if binary and not kernels.binary(x_):
            raise _not_binary()
        clips_dac = clips_adc = 0
        with torch.no_grad():
            for c in conversions:
                w, load, _ = self._matrices_of(c.bitlines)
                clips_dac = kernels.prepare(
                    x_, c.rows, unsigned, IDEAL if binary else self._constants, count, work.u_, work.square_
                )
                torch.mm(work.u, w, out=work.y)
                if load is not None:
                    torch.mm(work.square, load, out=work.variance)
                clips_adc += kernels.finish(
                    work.y_, EMPTY if load is None else work.variance_, size[0] or 1, self._constants, self._columns,
                    count, noise.key, noise.drawn, work.noise, c.sign, total,
                )  # fmt: skip
                noise.drawn += 1
        self._pool.give(work, size)
        self._add_clips(clips_dac, clips_adc)
        return torch.from_numpy(total.reshape(*x.shape[:-1], self._width))

    def _dense(
        self, x: Tensor, noise: NoiseStream, inputs: str, conversions: tuple[Conversion, ...], multiply: Multiply
    ) -> Tensor:
        """The read by any dense products, between compiled converters."""
        x = x if x.is_contiguous() or channels_last(x) else x.contiguous()
        binary, unsigned, count = inputs == "binary", inputs == "unsigned", self.saturation is not None
        if binary and not kernels.binary(flat(x)):
            raise _not_binary()
        total, shape = None, x.shape
        clips_dac = clips_adc = 0
        for c in conversions:
            w, load, _ = self._matrices_of(c.bitlines)
            u, square = x, x
            if not binary:
                u, square = torch.empty_like(x), EMPTY_TENSOR if load is None else torch.empty_like(x)
                clips_dac = kernels.prepare(flat(x), c.rows, unsigned, self._constants, count, flat(u), flat(square))
            y = multiply(u, w)
            shape, y_ = y.shape, flat(y).reshape(-1, self._width)
            variance = EMPTY if load is None else flat(multiply(square, load)).reshape(-1, self._width)
            total = np.zeros(y_.shape, np.float32) if total is None else total
            clips_adc += kernels.finish(
                y_, variance, max(1, len(y_) // self._arrays), self._constants, self._columns, count, noise.key,
                noise.drawn, scratch(y_.size), c.sign, total,
            )  # fmt: skip
            noise.drawn += 1
        self._add_clips(clips_dac, clips_adc)
        assert total is not None
        return torch.from_numpy(total.reshape(shape))

    def _add_clips(self, of_dac: int, of_adc: int) -> None:
        if self.saturation is not None:
            self.saturation.dac += of_dac
            self.saturation.adc += of_adc

    def _plain(
        self, x: Tensor, noise: NoiseStream, inputs: str, conversions: tuple[Conversion, ...], multiply: Multiply
    ) -> Tensor:
        """The read in plain operations of torch, differentiable."""
        p = self.periphery
        x = x.to(self.weights.dtype)
        if inputs == "binary":
            if bool(((x != 0) & (x != 1)).any()):
                raise _not_binary()
            u = x
        else:
            u = dac(x, 1.0, p.dac_bits)
            if self.saturation is not None:
                self.saturation.dac += clipped(x.clamp(min=0.0) if inputs == "unsigned" else x, 1.0, p.dac_bits)
                self.saturation.dac += int((u < 0).sum()) if inputs == "unsigned" else 0
            u = u.clamp(min=0.0) if inputs == "unsigned" else u
        total = None
        for c in conversions:
            part = (u * c.rows).clamp(min=0.0) if c.rows else u
            w, load = self.matrix(c.bitlines)
            y = multiply(part, w)
            variance = None if load is None else multiply(part * part, load)
            y = self._noisy(y, variance, noise)
            y = y if self.column_gain is None else y * self.column_gain
            y = y if self.column_offset is None else y + self.column_offset
            if self.saturation is not None:
                self.saturation.adc += clipped(y, p.adc_range, p.adc_bits)
            y = adc(y, p.adc_range, p.adc_bits)
            y = y if c.sign > 0 else -y
            total = y if total is None else total + y
        assert total is not None
        return total if self.scale is None else total * self.scale

    def _noisy(self, y: Tensor, variance: Tensor | None, noise: NoiseStream) -> Tensor:
        out_variance = self.periphery.out_noise**2
        if variance is None and not out_variance:
            noise.drawn += 1
            return y
        xi = torch.from_numpy(noise.normals(y.numel())).view(y.shape).to(y)
        if variance is None:
            return y + self.periphery.out_noise * xi
        return y + (variance + out_variance).clamp(min=1e-30).sqrt() * xi


def _not_binary() -> DataError:
    return DataError("a binary input holds another number than 0 and 1: read it as 'unsigned' or 'signed'")
