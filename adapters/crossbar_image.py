"""A crossbar image: all that a simulated chip is at one time, and what was programmed into it.

    image_of(chip, layout) -> CrossbarImage -> chip_of(image)         the same chip: it draws on where it stopped

``adapters.crossbar_file`` keeps images in files, ``adapters.crossbar_exports`` turns them into networks and tables.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.crossbar import Layout
from ovonic.models.chip import SimulatedChip
from ovonic.models.counters import Counters
from ovonic.models.crossbar import ArrayState
from ovonic.models.device_faults import Faults
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.network import Network
from ovonic.models.pcm import DeviceModel
from ovonic.models.periphery import Periphery
from ovonic.models.splitting import SPLITS
from ovonic.models.verify import Verify

__all__ = ["DEVICES", "CrossbarImage", "Software", "chip_of", "image_of", "validate"]

DEVICES = ("G1+", "G1-", "G2+", "G2-")

BEYOND = 100.0
"""How many times full scale a conductance may be: programming errors go a little beyond 1, damage goes anywhere."""

FLOATS = ("g_target", "g_prog", "nu", "g_read", "gain")


@dataclass(frozen=True, eq=False)
class Software:
    """What was placed: the software side of an image.

    Attributes:
        weights: by the names that the layout uses, in each layer's own shape, and parameters that stay digital.
        network: the description they belong to; None where they are a torch module's.
        config: what else its owner must know, JSON values, for example the ``kind`` and configuration of a weight file.
    """

    weights: Mapping[str, NDArray[Any]]
    network: Network | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Network, config: Mapping[str, Any] | None = None) -> Software:
        """The software side of a network."""
        return cls(network.weights(), network, config or {})


@dataclass(frozen=True, eq=False)
class CrossbarImage:
    """A chip at one time.

    Attributes:
        layout: what lies where; states: the devices of each of its arrays, [4, rows, columns].
        model: the devices; periphery: converters; verify: how devices are programmed; split: a name of ``SPLITS``.
        faults: how devices were last made to fail; its ``levels`` are those that targets are rounded to.
        now_s: the clock, s; seed, calls: of the random streams, see ``SimulatedChip``; counters: what was done so far.
        column_errors: gain and offset of each array's converters, [columns] or None.
        software: what was programmed; None: not known.
        provenance: who made it: command, versions, .., JSON values.
    """

    layout: Layout
    states: tuple[ArrayState, ...]
    model: DeviceModel
    periphery: Periphery = Periphery()  # noqa: RUF009 (frozen)
    verify: Verify | None = None
    split: str = "fill"
    faults: Faults = Faults()  # noqa: RUF009 (frozen)
    now_s: float = 0.0
    seed: int = 0
    calls: Mapping[tuple[str, int], int] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    column_errors: tuple[tuple[Tensor | None, Tensor | None], ...] = ()
    software: Software | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def replace(self, **changes: Any) -> CrossbarImage:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def conductances(self) -> list[Tensor]:
        """The conductances as they read now, [4, rows, columns] an array, uS."""
        return [state.g_read for state in self.states]


def image_of(
    chip: SimulatedChip,
    layout: Layout,
    *,
    split: str = "fill",
    software: Software | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> CrossbarImage:
    """The image of a chip as it is now; what the chip does later does not change it.

    Raises: DataError: the layout is of other arrays, or the chip holds what no chip can.
    """
    image = CrossbarImage(
        layout,
        tuple(chip.states),
        chip.model,
        chip.periphery,
        chip.verify,
        split,
        chip.faults,
        chip.now_s,
        chip.seed,
        dict(chip.calls),
        chip.counters.copy(),
        tuple(chip.column_errors),
        software,
        provenance or {},
    )
    validate(image)
    return image


def chip_of(image: CrossbarImage) -> SimulatedChip:
    """The chip of an image. Called alike, it does alike: its next draws are those of the chip that was saved.

    Raises: ConfigError: arrays of different sizes, which one ``SimulatedChip`` cannot have. DataError: as ``validate``.
    """
    validate(image)
    sizes = {(array.rows, array.columns) for array in image.layout.arrays}
    if len(sizes) > 1:
        raise ConfigError(f"arrays of {sorted(sizes)}: a simulated chip has arrays of one size")
    rows, columns = sizes.pop()
    chip = SimulatedChip(
        len(image.states),
        image.model,
        image.periphery,
        seed=image.seed,
        rows=rows,
        columns=columns,
        verify=image.verify,
    )
    chip.states = list(image.states)
    chip.faults, chip.now_s = image.faults, image.now_s
    chip.counters = image.counters.copy()
    chip.calls = dict(image.calls)
    if image.column_errors:
        chip.column_errors = list(image.column_errors)
    return chip


def validate(image: CrossbarImage) -> None:
    """Check that every number is one that a chip can hold.

    Raises: DataError: names array, field, device and cell.
    """
    arrays = image.layout.arrays
    if len(image.states) != len(arrays):
        raise DataError(f"{len(image.states)} arrays where the layout has {len(arrays)}")
    if image.split not in SPLITS:
        raise DataError(f"split {image.split!r}: one of {', '.join(SPLITS)} is due")
    if not 0 <= image.now_s < math.inf:
        raise DataError(f"now_s {image.now_s}: the clock must be 0 or more, and finite")
    if not 0 <= image.seed < 2**63:
        raise DataError(f"seed {image.seed}: must be 0 or more, below 2^63")
    for (verb, array), count in image.calls.items():
        if not 0 <= array < len(arrays) or count < 0:
            raise DataError(f"calls of {verb} on array {array}: {count}")
    if (bad := min(image.counters.as_dict().values())) < 0:
        raise DataError(f"counters: {bad}, which is negative")
    for k, (spec, state) in enumerate(zip(arrays, image.states, strict=True)):
        _validate_array(f"array {k} ({spec.name})", (4, spec.rows, spec.columns), state, image)
    _validate_columns(image)
    for name, weight in () if image.software is None else image.software.weights.items():
        if weight.dtype.kind not in "fiub" or not np.isfinite(weight).all():
            raise DataError(f"software weights {name!r}: hold {weight.dtype}, or what is not finite")


def _validate_array(where: str, shape: tuple[int, ...], state: ArrayState, image: CrossbarImage) -> None:
    for name, values in state._asdict().items():
        if tuple(values.shape) != shape:
            raise DataError(f"{where}, {name}: shape {tuple(values.shape)} where {shape} is due")
        if values.dtype not in (
            {"t_prog_s": (torch.float64,), "pulses": (torch.int32,), "fault": (torch.uint8,)}.get(
                name, (torch.float32, torch.float64)
            )
        ):
            raise DataError(f"{where}, {name}: holds {values.dtype}")
    if len({getattr(state, name).dtype for name in FLOATS}) > 1:
        raise DataError(f"{where}: {', '.join(FLOATS)} must be of one precision")
    g_max = image.model.g_max_us
    _demand(where, "g_target", state.g_target, (0.0, g_max * (1 + 1e-6)), "uS")
    _demand(where, "g_prog", state.g_prog, (0.0, BEYOND * g_max), "uS")
    _demand(where, "g_read", state.g_read, (0.0, BEYOND * g_max), "uS")
    _demand(where, "nu", state.nu, (-BEYOND, BEYOND), "")
    _demand(where, "t_prog_s", state.t_prog_s, (-math.inf, image.now_s), "s")
    _demand(where, "pulses", state.pulses, (0, 2**31 - 1), "")
    _demand(where, "fault", state.fault, (0, 1), "")
    _demand(where, "gain", state.gain, (0.0, BEYOND), "")


def _validate_columns(image: CrossbarImage) -> None:
    if image.column_errors and len(image.column_errors) != len(image.states):
        raise DataError(f"column errors of {len(image.column_errors)} arrays where there are {len(image.states)}")
    for k, (spec, pair) in enumerate(zip(image.layout.arrays, image.column_errors, strict=False)):
        for name, values in zip(("column_gain", "column_offset"), pair, strict=True):
            if values is not None and (tuple(values.shape) != (spec.columns,) or not values.isfinite().all()):
                what = f"{tuple(values.shape)} where ({spec.columns},) finite numbers are due"
                raise DataError(f"array {k} ({spec.name}), {name}: {what}")


def _demand(where: str, name: str, values: Tensor, bounds: tuple[float, float], unit: str) -> None:
    """Refuse a number outside of ``bounds`` (NaN and infinity are), naming its device and cell."""
    low, high = bounds
    good = (values >= low) & (values <= high) & values.isfinite()
    if bool(good.all()):
        return
    device, row, column = (int(i) for i in (~good).nonzero()[0])
    what = f"{values[device, row, column].item():g} {unit}".rstrip()
    at = f"{DEVICES[device]} of the cell in row {row}, column {column}"
    raise DataError(f"{where}, {name}: {what} at {at}; {low:g} to {high:g} is possible")
