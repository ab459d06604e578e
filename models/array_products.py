"""Products of an array with many inputs: y = ADC(u w + sqrt(variance) xi), the noise drawn anew in each.

    w_ij      = (G1+ + G2+ - G1- - G2-) / (2 g_max)                       as the devices read now, in -1..1
    variance  = u^2 (w_noise^2 |w| + sum over devices (sigma(g) / (2 g_max))^2) + out_noise^2

sigma(g) is the device model's ``product_sigma``. ``ArrayReader`` computes both matrices once; the devices do not change
between the products of a trial. A spike is its own square, so that with spikes mean and variance are sums of the same
rows of [w | load].

Shapes: conductances [..., 4, rows, columns] in uS, inputs [..., S, rows] in units of the DAC's full scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.periphery import Conversion, Periphery, adc, add_noise, clipped, dac

__all__ = ["ArrayReader", "ProductModel", "Saturation"]


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
    ) -> None:
        self.plus, self.minus, self.periphery = plus, minus, periphery
        self.weights = plus - minus
        self.device_variance = device_variance
        self.column_gain, self.column_offset, self.scale = column_gain, column_offset, scale
        self.saturation = Saturation() if count else None
        self._matrices: dict[int, tuple[Tensor, Tensor | None]] = {}

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
    ) -> ArrayReader:
        """Prepare an array.

        Args:
            g_read: conductances as they read now, [..., 4, rows, columns], uS.
            column_gain, column_offset: of the converters, [columns]; None: 1 and 0.
            scale: digital factor behind the ADC (drift compensation), [columns] or one number.
            count: count what the converters clip (``saturation``).
        Raises: ConfigError: not four devices a cell, or a gain, offset or scale of another shape.
        """
        if g_read.ndim < 3 or g_read.shape[-3] != 4:
            raise ConfigError(f"conductances of shape {list(g_read.shape)}: expected [..., 4, rows, columns]")
        for name, value in (("column_gain", column_gain), ("column_offset", column_offset), ("scale", scale)):
            if isinstance(value, Tensor) and value.ndim and value.shape[-1] != g_read.shape[-1]:
                raise ConfigError(f"{name} of shape {list(value.shape)}: the array has {g_read.shape[-1]} columns")
        unit = 2.0 * model.g_max_us
        plus, minus = ((g_read[..., i, :, :] + g_read[..., i + 2, :, :]) / unit for i in (0, 1))
        sigma = model.product_sigma(g_read)
        variance = None
        if sigma is not None:
            s = (sigma / unit).square()
            variance = s[..., 0, :, :] + s[..., 2, :, :], s[..., 1, :, :] + s[..., 3, :, :]
        return cls(plus, minus, variance, periphery, column_gain, column_offset, scale, count)

    def product(
        self,
        x: Tensor,
        generator: torch.Generator | None,
        inputs: str = "signed",
        multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
    ) -> Tensor:
        """Read the array once for each input.

        Args:
            x: [..., S, rows], in units of the DAC's full scale; an array of [B, 4, rows, columns] takes [B, S, rows].
            inputs: ``"signed"``; ``"unsigned"``: the DAC's range is 0..1; ``"binary"``: 0 or 1, no DAC.
            multiply: forms inputs times matrix; for a convolution, whose ``x`` are images, columns on the last axis.
        Returns: [..., S, columns], in currents of one row with full input on a device pair at full scale.
        """
        p = self.periphery
        conversions = p.conversions(inputs)
        if inputs == "binary":
            u = x
        else:
            if self.saturation is not None and p.dac_bits:
                self.saturation.dac += clipped(x, 1.0, p.dac_bits)
            u = dac(x, 1.0, p.dac_bits)
            if inputs == "unsigned":
                if self.saturation is not None:
                    self.saturation.dac += int((u < 0).sum())
                u = u.clamp(min=0.0)
        total = None
        for conversion in conversions:
            y = self._convert(u, conversion, generator, multiply)
            y = y if conversion.sign > 0 else -y
            total = y if total is None else total + y
        assert total is not None
        return total if self.scale is None else total * self.scale

    def binary(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """``product`` for spikes, 0 or 1, [..., S, rows]."""
        return self.product(z, generator, "binary")

    def _convert(
        self,
        u: Tensor,
        conversion: Conversion,
        generator: torch.Generator | None,
        multiply: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        p = self.periphery
        if conversion.rows:
            u = (u * conversion.rows).clamp(min=0.0)
        w, load = self.matrix(conversion.bitlines)
        variance = None if load is None else multiply(u * u, load)
        y = add_noise(multiply(u, w), variance, p.out_noise, generator)
        if self.column_gain is not None:
            y = y * self.column_gain
        if self.column_offset is not None:
            y = y + self.column_offset
        if self.saturation is not None:
            self.saturation.adc += clipped(y, p.adc_range, p.adc_bits)
        return adc(y, p.adc_range, p.adc_bits)

    def matrix(self, bitlines: int) -> tuple[Tensor, Tensor | None]:
        """What a conversion sees of the devices: mean and variance a unit of u and of u^2, [..., rows, columns].

        Args: bitlines: polarity that is read, +1 or -1, or 0 for the difference of both.
        """
        if bitlines not in self._matrices:
            w = self.weights if bitlines == 0 else self.plus if bitlines > 0 else self.minus
            load = w.abs() * self.periphery.w_noise**2 if self.periphery.w_noise else None
            if self.device_variance is not None:
                plus, minus = self.device_variance
                own = plus + minus if bitlines == 0 else plus if bitlines > 0 else minus
                load = own if load is None else load + own
            self._matrices[bitlines] = w, load
        return self._matrices[bitlines]
