"""One-shot lessons of the robot on simulated phase-change memory: the trainee's three matrices on one array.

    array     rows: clock, then neurons; columns: neurons, then joints (255 x 252): W_in, W_rec and W_out
    lesson    trial on the chip as programmed;  update;  targets += Delta, and the devices whose target changes are
              programmed anew;  trial on the chip ``read_time_s`` later

A chip is one draw of all devices and is programmed once. Every lesson starts from that same programmed chip and
programs its own copy of the cells that it changes. The learning signals come from the generator in software.

**Where the update comes from** (``adapt_on``): ``"device"``: eligibility of the chip's own trial; ``"software"``: the
whole lesson is learned by the software twin, and its result is programmed; ``"none"``: nothing is learned (a control).

**Full scale.** A weight of w_max is +-2 g_max. w_max is fixed before anything is programmed, from the meta-trained
weights alone: ``"column"``: of each block and column, max |w| of the column, and ``HEADROOM`` more where weights learn;
``"layer"``: max |w| of each block, ``"array"``: one for the whole array. At the shipped and the published weights no
update leaves the range of ``"layer"``, and 1 in 100,000 of its weights that of ``"column"``. A target beyond it is
clipped and counted.

**Time.** Programming ends at 0, for the chip and for its lessons; the last trial is read at ``read_time_s``. The
accumulated read noise of the devices that a lesson leaves alone is drawn once a chip, and so is part of what makes
chips differ; that of devices that it programs is drawn anew.

**Drift compensation**, where the periphery has it, divides what is read, in every trial, by the slope of the weights of
the lesson's array, as they are then, on their targets: sum w_T w / sum w_T^2, over the array or over each column. That
is what calibration inputs measure, here without their noise. Sums of |w|, as in ``models.drift_compensation``, would
count the devices' errors as signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ovonic.models import crossbar
from ovonic.models.array_products import ArrayReader
from ovonic.models.array_trial import Cells, Converter, check_trainee, trials
from ovonic.models.crossbar import ArrayState
from ovonic.models.device_model import DeviceModel
from ovonic.models.drift_compensation import factors
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.layers import Spiking
from ovonic.models.lif import masked
from ovonic.models.natural_eprop import InnerLoop, update
from ovonic.models.network import Network
from ovonic.models.periphery import Periphery
from ovonic.models.seeds import stream
from ovonic.models.splitting import conductances
from ovonic.models.trace import Trace
from ovonic.models.verify import Verify

__all__ = [
    "ADAPT_ON",
    "COUNTS",
    "HEADROOM",
    "SCALES",
    "ChipLesson",
    "CrossbarSettings",
    "Placement",
    "TraineeChip",
    "place",
]

ADAPT_ON = ("device", "software", "none")
SCALES = ("column", "layer", "array")
COUNTS = ("devices_reprogrammed", "cells_reprogrammed", "pulses", "saturated", "reads", "adc_saturated")
HEADROOM = 1 / 8
"""Room for updates above the largest weight of a column: two of the paper's steps."""


@dataclass(frozen=True)
class CrossbarSettings:
    """The chip that lessons are given on, and how.

    Attributes:
        model: of the devices; periphery: converters, noise of a read, drift compensation.
        split: how a weight fills the two devices of its polarity (``models.splitting``).
        scale: see the module. read_time_s: when the last trial is read. adapt_on: see the module.
        reads: conversions that are averaged in every read.
        verify: program-and-verify, of the chip and of the lessons.
    Raises: ConfigError: an unknown choice, or a periphery that trials on the array do not have.
    """

    model: DeviceModel
    periphery: Periphery = field(default_factory=Periphery)
    split: str = "fill"
    scale: str = "column"
    read_time_s: float = 0.0
    adapt_on: str = "device"
    reads: int = 1
    verify: Verify | None = None

    def __post_init__(self) -> None:
        for name, known in (("scale", SCALES), ("adapt_on", ADAPT_ON)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} {getattr(self, name)!r}: {nearest(getattr(self, name), known)}")
        if not 0 <= self.read_time_s < float("inf"):
            raise ConfigError(f"read_time_s {self.read_time_s}: must be finite and not negative")
        if self.reads < 1:
            raise ConfigError(f"reads {self.reads}: at least 1")
        if self.periphery.wire_ohm:
            raise ConfigError("wire_ohm: trials of the trainee on an array are simulated without wire resistance")
        if self.periphery.read_phases == 4:
            raise ConfigError("read_phases 4: trials of the trainee read both bitlines at once: choose 1")


class Placement(NamedTuple):
    """The trainee's weights on an array.

    weight: in their own units, zero where nothing lies; w_max: full scale of each cell; used: cells that hold a weight
    (not the masked diagonal), bool; all [rows, columns]. n_in, n: rows of the inputs, neurons.
    """

    weight: Tensor
    w_max: Tensor
    used: Tensor
    n_in: int
    n: int


class ChipLesson(NamedTuple):
    """Lessons on a chip, one a sample.

    before, after: outputs of the first and the last trial, [B, T, outputs]. changes: digital updates by weight, summed,
    [B, in, N]; empty without. counts: by name, [B] int64: ``devices_reprogrammed``, ``cells_reprogrammed``, ``pulses``,
    ``saturated`` (targets beyond full scale), ``reads``, ``adc_saturated``.
    """

    before: Tensor
    after: Tensor
    changes: dict[str, Tensor]
    counts: dict[str, Tensor]


class _Patch(NamedTuple):
    """The copies of cells that lessons programmed: place (sample * rows + row) * columns + column, ascending, [n];
    their devices, each [4, n, 1]; which of these were programmed, [4, n, 1] bool."""

    place: Tensor
    state: ArrayState
    programmed: Tensor


def place(network: Network, scale: str = "column", dtype: torch.dtype = torch.float32) -> Placement:
    """Lay the trainee's weights on one array (``Placement``); ``scale``: see the module."""
    check_trainee(network)
    names, given = list(network.layers), network.weights()
    w_in, w_rec, w_out = (
        torch.tensor(given[name], dtype=dtype)
        for name in (f"{names[1]}.weight", f"{names[2]}.recurrence", f"{names[3]}.weight")
    )
    layer = network.layers[names[2]]
    assert isinstance(layer, Spiking)
    assert layer.recurrence is not None
    hollow = layer.recurrence.masked_diagonal
    (n_in, n), outputs = w_in.shape, w_out.shape[1]
    weight = torch.zeros(n_in + n, n + outputs, dtype=dtype)
    used = torch.ones(weight.shape, dtype=torch.bool)
    weight[:n_in, :n], weight[n_in:, :n], weight[n_in:, n:] = w_in, masked(w_rec) if hollow else w_rec, w_out
    used[:n_in, n:] = False
    if hollow:
        used[n_in:, :n].fill_diagonal_(False)
    w_max = torch.ones_like(weight)
    blocks = (
        (slice(n_in), slice(n), True),
        (slice(n_in, None), slice(n), True),
        (slice(n_in, None), slice(n, None), False),
    )
    for rows, columns, learns in blocks:
        size = weight[rows, columns].abs()
        if scale == "column":
            w_max[rows, columns] = size.amax(0) + (HEADROOM if learns else 0)
        else:
            w_max[rows, columns] = (size if scale == "layer" else weight.abs()).max()
    return Placement(weight, w_max.masked_fill(w_max == 0, 1.0), used, n_in, n)


class TraineeChip:
    """A programmed chip; see the module.

    Args:
        network: the trainee, with the weights that every lesson starts from.
        seed: of all that is drawn when the chip is made; lessons bring their own generator.
        dtype: of conductances and trials.
    """

    def __init__(
        self, network: Network, settings: CrossbarSettings, *, seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.network, self.settings = network, settings
        self.placed = placed = place(network, settings.scale, dtype)
        generator = stream(seed, "devices")
        rows, columns = placed.weight.shape
        empty = crossbar.blank(rows, columns)
        empty = ArrayState(*(f.to(dtype) if f.dtype == torch.float32 else f for f in empty))
        self.state, self.programmed = crossbar.reprogram(
            empty, settings.model, self._targets(placed.weight, placed.w_max), now_s=0.0, generator=generator,
            mask=placed.used, verify=settings.verify,
        )  # fmt: skip
        self.late = self.state
        if settings.read_time_s:
            self.late = crossbar.advance(self.state, settings.model, now_s=settings.read_time_s, generator=generator)
        gain, offset = settings.periphery.draw_columns(columns, stream(seed, "converters"))
        p = settings.periphery
        steps = 2 ** (p.adc_bits - 1) - 1 if p.adc_bits else 0
        self._converter = Converter(
            p.adc_range / steps if steps else 0.0,
            float(steps),
            p.out_noise,
            torch.ones(columns) if gain is None else gain,
            torch.zeros(columns) if offset is None else offset,
            settings.reads,
        )
        self._now, self._then = (self._read(state.g_read) for state in (self.state, self.late))

    def programming(self) -> dict[str, float]:
        """What it took to program the chip: devices, cells, pulses."""
        return {
            "devices": float(self.programmed.sum()),
            "cells": float(self.programmed.any(0).sum()),
            "pulses": float(self.state.pulses.sum()),
        }

    def lessons(
        self,
        clock: Tensor,
        learning_signal: Tensor,
        inner: InnerLoop,
        generator: torch.Generator,
        rounding: torch.Generator | None = None,
        given: Mapping[str, Tensor] | None = None,
    ) -> ChipLesson:
        """Give lessons, each on its own copy of the chip.

        Args:
            clock: [B, T, n_in] spikes; learning_signal: [B, T, N]; inner: how a lesson goes.
            generator: of the noise of reads and of devices; rounding: of updates that are rounded stochastically.
            given: changes of the weights by name, [B, in, N], that a software twin learned: needed by ``adapt_on``
                ``"software"``, where they are programmed at once whatever ``inner.updates`` says.
        """
        counts = {name: torch.zeros(len(clock), dtype=torch.int64) for name in COUNTS}
        first = trial = self._trial(clock, None, False, generator, counts)
        changes: dict[str, Tensor] = {}
        patch: _Patch | None = None
        if self.settings.adapt_on == "software":
            if given is None:
                raise ConfigError("adapt_on 'software': the changes that the software twin learned are due (given)")
            changes = dict(given)
            patch = self._programmed(changes, None, generator, counts)
        elif self.settings.adapt_on == "device":
            for k in range(inner.updates):
                change = update(self.network, trial, learning_signal, inner, rounding).change
                changes = {name: changes[name] + c if name in changes else c for name, c in change.items()}
                patch = self._programmed(changes, patch, generator, counts)
                if k + 1 < inner.updates:
                    trial = self._trial(clock, patch, False, generator, counts)
        last = self._trial(clock, patch, True, generator, counts)
        return ChipLesson(first.readout, last.readout, changes, counts)

    def _targets(self, weight: Tensor, w_max: Tensor) -> Tensor:
        return conductances(weight / w_max, self.settings.model.g_max_us, self.settings.split)

    def _programmed(
        self, changes: Mapping[str, Tensor], patch: _Patch | None, generator: torch.Generator, counts: dict[str, Tensor]
    ) -> _Patch:
        """Program the lessons' copies to base weights + changes; only devices whose target changes."""
        placed, settings = self.placed, self.settings
        delta = torch.cat(list(changes.values()), 1)
        wanted = (delta != 0) & placed.used[:, : placed.n]
        sample, row, column = wanted.nonzero(as_tuple=True)
        size, columns = placed.weight.numel(), placed.weight.shape[1]
        place = sample * size + row * columns + column
        if patch is not None:
            place = torch.cat([place, patch.place]).unique()
        cell, sample = place % size, place // size
        row, column = cell // columns, cell % columns
        state = _taken(self.state, cell)
        programmed = torch.zeros(state.g_prog.shape, dtype=torch.bool)
        if patch is not None:
            at = torch.searchsorted(place, patch.place)
            for field, old in zip(state, patch.state, strict=True):
                field[:, at] = old
            programmed[:, at] = patch.programmed
        w_max = placed.w_max.flatten()[cell]
        target = placed.weight.flatten()[cell] + delta[sample, row, column]
        counts["saturated"] += _per_sample(sample, target.abs() > w_max, counts)
        state, touched = crossbar.reprogram(
            state, settings.model, self._targets(target.unsqueeze(-1), w_max.unsqueeze(-1)), now_s=0.0,
            generator=generator, verify=settings.verify,
        )  # fmt: skip
        pulses = state.pulses.sum((0, 2)) - self.state.pulses.reshape(4, -1).sum(0)[cell]
        if patch is not None:
            pulses[at] -= patch.state.pulses.sum((0, 2)) - self.state.pulses.reshape(4, -1).sum(0)[cell[at]]
        counts["pulses"] += _per_sample(sample, pulses, counts)
        counts["devices_reprogrammed"] += _per_sample(sample, touched.sum((0, 2)), counts)
        counts["cells_reprogrammed"] += _per_sample(sample, touched.any(0).squeeze(-1), counts)
        return _Patch(place, state, programmed | touched)

    def _trial(
        self,
        clock: Tensor,
        patch: _Patch | None,
        late: bool,
        generator: torch.Generator,
        counts: dict[str, Tensor],
    ) -> Trace:
        """A trial on the chip or on its copies, at once or at ``read_time_s``."""
        settings, placed = self.settings, self.placed
        weight, load = self._then if late else self._now
        cells = None
        if patch is not None and len(patch.place):
            cell = patch.place % placed.weight.numel()
            g_read = patch.state.g_read
            if late and settings.read_time_s:
                moved = crossbar.advance(patch.state, settings.model, now_s=settings.read_time_s, generator=generator)
                g_read = torch.where(patch.programmed, moved.g_read, _gathered(self.late.g_read, cell))
            cells = Cells(patch.place, *(m.squeeze(-1) for m in self._read(g_read)))
        scale = torch.stack([placed.w_max[0], placed.w_max[-1]])
        if settings.periphery.compensation:
            scale = scale * self._compensation(settings.periphery.compensation, weight, patch, cells, len(clock))
        trace, done = trials(self.network, clock, weight, load, scale, self._converter, generator, cells)
        counts["reads"] += done[:, 0]
        counts["adc_saturated"] += done[:, 1]
        return trace

    def _read(self, g_read: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of cells, [..., 4, r, c] -> two of [..., r, c]."""
        weight, load = ArrayReader.of(g_read, self.settings.model, self.settings.periphery).matrix(0)
        return weight, torch.zeros_like(weight) if load is None else load

    def _compensation(self, kind: str, weight: Tensor, patch: _Patch | None, cells: Cells | None, batch: int) -> Tensor:
        """Digital factors against drift: sum w_T^2 over sum w_T w of the rows, [1 or B, 1, columns]."""
        asked = self._read(self.state.g_target)[0]
        sums = [(asked * w).sum(0).unsqueeze(0) for w in (asked, weight)]
        if patch is not None and cells is not None:
            columns, size = weight.shape[1], weight.numel()
            at, cell = patch.place // size * columns + patch.place % columns, patch.place % size
            before, own = asked.flatten()[cell], self._read(patch.state.g_target)[0].squeeze(-1)
            for k, (shared, value) in enumerate(((asked, own), (weight, cells.weight))):
                moved = own * value - before * shared.flatten()[cell]
                sums[k] = sums[k] + weight.new_zeros(batch * columns).index_add_(0, at, moved).reshape(batch, -1)
        return factors(sums[0], sums[1], kind).expand(sums[0].shape).unsqueeze(1)


def _gathered(field: Tensor, cell: Tensor) -> Tensor:
    return field.reshape(4, -1)[:, cell].unsqueeze(-1)


def _taken(state: ArrayState, cell: Tensor) -> ArrayState:
    """Copies of cells of an array [4, rows, columns]: [4, n, 1]."""
    return ArrayState(*(_gathered(field, cell) for field in state))


def _per_sample(sample: Tensor, amount: Tensor, counts: Mapping[str, Tensor]) -> Tensor:
    batch = len(counts["pulses"])
    return torch.zeros(batch, dtype=torch.int64).index_add_(0, sample, amount.to(torch.int64))
