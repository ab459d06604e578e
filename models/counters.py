"""What an array was made to do, counted: the figures that energy and latency follow from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from ovonic.models.errors import ConfigError, nearest

__all__ = ["Counters"]


@dataclass
class Counters:
    """Totals since the counters were made.

    Attributes:
        pulses: programming pulses, those on stuck devices and those of verification included.
        devices_programmed: devices that got at least one pulse in a call of ``program``, summed over calls.
        cells_programmed: cells with at least one such device, summed over calls.
        mvms: products of one input vector with an array or with a part of it.
        phases: read phases of these products (one, two or four each).
        dac_saturated, adc_saturated: inputs and outputs that a converter clipped.
        reads: devices read one by one, for verification or by ``read``.
    """

    pulses: int = 0
    devices_programmed: int = 0
    cells_programmed: int = 0
    mvms: int = 0
    phases: int = 0
    dac_saturated: int = 0
    adc_saturated: int = 0
    reads: int = 0

    def add(self, **amounts: int) -> None:
        """Add to totals by name.

        Raises: ConfigError: an unknown name.
        """
        for name, amount in amounts.items():
            if name not in self.__dataclass_fields__:
                raise ConfigError(f"counter {name!r}: {nearest(name, self.__dataclass_fields__)}")
            setattr(self, name, getattr(self, name) + int(amount))

    def copy(self) -> Counters:
        """The totals as they are now."""
        return Counters(**asdict(self))

    def __add__(self, other: Counters) -> Counters:
        return Counters(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: Counters) -> Counters:
        return Counters(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})

    def as_dict(self) -> dict[str, int]:
        """The totals by name."""
        return asdict(self)
