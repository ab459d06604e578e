"""A simulated chip: arrays of devices with state, behind converters, as a ``Driver``.

Every call has a random stream of its own, named by (seed, verb, array, number of that verb's call on that array): equal
calls in equal order give equal bits, and a product more or less does not move the devices of the next programming.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ovonic.models.array_products import ArrayReader
from ovonic.models.counters import Counters
from ovonic.models.crossbar import ArrayState, advance, blank, crop, inject_faults, reprogram
from ovonic.models.device_faults import Faults, to_levels
from ovonic.models.driver import check_array, check_cells, check_seconds, check_window
from ovonic.models.errors import ConfigError
from ovonic.models.periphery import Periphery
from ovonic.models.seeds import stream
from ovonic.models.verify import Convergence, Verify

if TYPE_CHECKING:
    from ovonic.models.pcm import DeviceModel

__all__ = ["SimulatedChip"]


class SimulatedChip:
    """A chip of one draw of devices.

    Args:
        n_arrays: how many arrays; model: their devices; periphery: their converters, noise of each product included.
        seed: of all draws.
        rows, columns: size of each array, in cells.
        verify: program-and-verify instead of one pulse a device.
        faults: how devices fail from the start; its ``levels`` are those that targets are rounded to.
    Raises: ConfigError: no array, row or column; a periphery that compensates drift, which is done above a chip.

    Attributes:
        states: the devices of each array; now_s: the clock; counters: what was done.
        convergence: how each program-and-verify went, in order.
        column_errors: gain and offset of each array's converters, [columns] each, or None.
        calls: how often each verb was called on each array: what the next call's random stream is named by.
    """

    def __init__(
        self,
        n_arrays: int,
        model: DeviceModel,
        periphery: Periphery,
        *,
        seed: int,
        rows: int = 256,
        columns: int = 256,
        verify: Verify | None = None,
        faults: Faults | None = None,
    ) -> None:
        for name, value in (("n_arrays", n_arrays), ("rows", rows), ("columns", columns)):
            if value < 1:
                raise ConfigError(f"{name} {value}: at least 1")
        if periphery.compensation is not None:
            raise ConfigError(
                f"compensation {periphery.compensation!r}: a chip answers uncompensated; scale what it answers by "
                "models.drift_compensation"
            )
        self.n_arrays, self.rows, self.columns = n_arrays, rows, columns
        self.g_max_us = model.g_max_us
        self.model, self.periphery, self.seed, self.verify = model, periphery, seed, verify
        self.now_s = 0.0
        self.counters = Counters()
        self.convergence: list[Convergence] = []
        self.states: list[ArrayState] = [blank(rows, columns) for _ in range(n_arrays)]
        self.faults = Faults()
        self.column_errors = [periphery.draw_columns(columns, stream(seed, "columns", k)) for k in range(n_arrays)]
        self.calls: dict[tuple[str, int], int] = {}
        self._readers: dict[tuple[int, int, int, int, int], tuple[ArrayState, ArrayReader]] = {}
        if faults is not None:
            self.inject_faults(faults)

    def program(self, array: int, rows: Tensor, columns: Tensor, g_target: Tensor) -> None:
        """See ``Driver.program``."""
        check_cells(self, array, rows, columns, g_target)
        if not rows.numel():
            return
        state = self.states[array]
        wanted = state.g_target.clone()
        wanted[:, rows, columns] = to_levels(g_target.to(wanted.dtype), self.g_max_us, self.faults.levels)
        mask = torch.zeros(wanted.shape, dtype=torch.bool)
        mask[:, rows, columns] = True
        mask &= (wanted != state.g_target) | (state.pulses == 0)
        self.states[array], _ = reprogram(
            state,
            self.model,
            wanted,
            now_s=self.now_s,
            generator=self._stream("program", array),
            mask=mask,
            verify=self.verify,
            on_verified=self.convergence.append,
        )
        pulses = int((self.states[array].pulses - state.pulses).sum())
        self.counters.add(
            pulses=pulses,
            devices_programmed=int(mask.sum()),
            cells_programmed=int(mask.any(0).sum()),
            reads=pulses if self.verify else 0,
        )

    def mvm(self, array: int, x: Tensor, rows: slice, columns: slice, inputs: str = "signed") -> Tensor:
        """See ``Driver.mvm``."""
        check_window(self, array, x, rows, columns, inputs)
        reader = self._reader(array, rows, columns)
        flat = x.to(torch.float32).reshape(-1, x.shape[-1])
        clipped = reader.saturation
        assert clipped is not None
        clipped.dac = clipped.adc = 0
        y = reader.product(flat, self._stream("mvm", array), inputs)
        self.counters.add(
            mvms=len(flat),
            phases=len(flat) * self.periphery.phases(inputs),
            dac_saturated=clipped.dac,
            adc_saturated=clipped.adc,
        )
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def read(self, array: int) -> Tensor:
        """See ``Driver.read``."""
        check_array(self, array)
        self.counters.add(reads=4 * self.rows * self.columns)
        return self.states[array].g_read.clone()

    def advance(self, seconds: float) -> None:
        """See ``Driver.advance``."""
        check_seconds(seconds)
        self.now_s += seconds
        for k, state in enumerate(self.states):
            self.states[k] = advance(state, self.model, now_s=self.now_s, generator=self._stream("advance", k))

    def inject_faults(self, faults: Faults) -> None:
        """Let devices of all arrays fail now, and round targets to ``faults.levels`` from now on."""
        self.faults = faults
        for k, state in enumerate(self.states):
            generator = self._stream("inject_faults", k)
            self.states[k] = inject_faults(state, faults, generator, g_max_us=self.g_max_us)

    def _stream(self, verb: str, array: int) -> torch.Generator:
        number = self.calls.get((verb, array), 0)
        self.calls[verb, array] = number + 1
        return stream(self.seed, verb, array, number)

    def _reader(self, array: int, rows: slice, columns: slice) -> ArrayReader:
        key = (array, rows.start, rows.stop, columns.start, columns.stop)
        state, reader = self._readers.get(key, (None, None))
        if reader is None or state is not self.states[array]:
            gain, offset = (part if part is None else part[columns] for part in self.column_errors[array])
            g = crop(self.states[array], rows, columns).g_read
            reader = ArrayReader.of(g, self.model, self.periphery, gain, offset, count=True)
            self._readers[key] = self.states[array], reader
        return reader
