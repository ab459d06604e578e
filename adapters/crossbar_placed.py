"""Networks on chips: programmed by a layout, multiplied by, re-programmed where weights change, read back.

    chip = PlacedChip.program(layout, weights, SimulatedChip(2, device_model("pcm"), Periphery(), seed=1))
    y = chip.product("readout.weight")(x)            # [..., in] -> [..., out], in the layer's own units
    chip.reprogram({"readout.weight": new})          # pulses for cells whose target changes, no other
    chip.advance(3600)

A chip holds one set of weights: the lessons of ``models.natural_eprop`` then go one at a time (``PlacedChip`` is their
``Products``). ``PlacedTrials`` simulates many side by side, each on copies of a chip's devices that are re-programmed
for themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_products import Product, Trial, product_of
from ovonic.adapters.crossbar_weights import targets, weights_of
from ovonic.models.array_products import ArrayReader
from ovonic.models.chip import SimulatedChip
from ovonic.models.counters import Counters
from ovonic.models.crossbar import ArrayState, crop, expand, reprogram
from ovonic.models.device_faults import to_levels
from ovonic.models.driver import Driver
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.seeds import stream
from ovonic.models.splitting import Split, split_named

__all__ = ["PlacedChip", "PlacedTrials"]


class PlacedChip:
    """A network's layers on a chip. Make it with ``program``.

    Attributes: layout; driver: the chip; split: see ``models.splitting``; held: the weights that were last programmed,
        by name; targets: the conductances they call for, one tensor [4, rows, columns] an array.
    """

    def __init__(self, layout: Layout, weights: Mapping[str, Any], driver: Driver, split: str | Split = "fill") -> None:
        _fits(layout, driver)
        self.layout, self.driver, self.split = layout, driver, split_named(split)
        self.held: dict[str, Any] = {layer.name: weights.get(layer.name) for layer in layout.layers}
        self.targets = [t.detach() for t in targets(layout, _present(self.held), driver.g_max_us, self.split)]
        for target in self.targets:
            if target.ndim != 3:
                raise ConfigError(f"weights: copies {tuple(target.shape[:-3])}; a chip holds one of each")

    @classmethod
    def program(
        cls, layout: Layout, weights: Mapping[str, Any], driver: Driver, split: str | Split = "fill"
    ) -> PlacedChip:
        """Program every cell that holds a weight; masked diagonals and empty cells get no pulse.

        Args: weights: of the placed layers, by name, each in its layer's own shape; others are ignored.
        Raises: ConfigError: weights that do not fit the layout, or a layout that does not fit the chip.
        """
        chip = cls(layout, weights, driver, split)
        for array, target in enumerate(chip.targets):
            rows, columns = _cells(layout, array).nonzero(as_tuple=True)
            driver.program(array, rows, columns, target[:, rows, columns])
        return chip

    def reprogram(self, weights: Mapping[str, Any]) -> Counters:
        """Program the cells of these layers whose target changes, and no other.

        Returns: what the chip counted meanwhile.
        Raises: ConfigError: an unknown layer, or weights of another shape.
        """
        for name in weights:
            if name not in self.held:
                raise ConfigError(f"weights {name!r}: {nearest(name, self.held)}")
        before = self.driver.counters.copy()
        held = self.held | dict(weights)
        wanted = [t.detach() for t in targets(self.layout, held, self.driver.g_max_us, self.split)]
        for array, (target, old) in enumerate(zip(wanted, self.targets, strict=True)):
            if target.shape != old.shape:
                raise ConfigError(f"weights: copies {tuple(target.shape[:-3])}; a chip holds one of each")
            rows, columns = (target != old).any(0).nonzero(as_tuple=True)
            if rows.numel():
                self.driver.program(array, rows, columns, target[:, rows, columns])
        self.held, self.targets = held, wanted
        return self.driver.counters - before

    def product(self, layer: str) -> Product:
        """x -> x W of a layer, read alone, in its own units: [..., in] -> [..., out]; of a convolution
        [..., channels, *space] -> [..., out, *space].

        Raises: ConfigError: no such layer.
        """
        return product_of(self.layout, layer, self.driver.mvm)

    def trial(self) -> Mapping[str, Product]:
        """Products for one run of the network by ``simulation.run``, read together as the layout says."""
        return Trial(self.layout, self.driver.mvm).products

    def __call__(self, weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> Mapping[str, Product]:
        """``natural_eprop.Products``: program what the lesson asks for, in place; then a trial.

        Raises: ConfigError: a batch of lessons, which would need a chip each (``PlacedTrials``).
        """
        batch = {len(change) for change in changes.values()} - {1}
        if batch:
            raise ConfigError(f"{batch.pop()} lessons side by side: a chip learns one at a time; use PlacedTrials")
        self.reprogram({name: w + changes[name][0] if name in changes else w for name, w in _placed(self, weights)})
        return self.trial()

    def weights(self) -> dict[str, Tensor]:
        """The weights as the chip reads now, by name, each in its layer's own shape."""
        g = [self.driver.read(array) for array in range(len(self.layout.arrays))]
        return weights_of(self.layout, g, self.driver.g_max_us)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.driver.advance(seconds)


class PlacedTrials:
    """Lessons side by side on a simulated chip: ``natural_eprop.Products``.

    Each run reads the arrays with the chip's clock; changes are programmed at that time into copies, one a sample, of
    the arrays that they concern: only devices whose target changes, every other as the chip's bit for bit. The chip
    itself stays as it is.

    Args:
        layout: of the network; chip: programmed by it (``PlacedChip.program``); seed: of all draws.
        split: as it was programmed with.
    Attributes:
        states: of each array, the used part of it, [4, rows, columns] or [B, 4, rows, columns].
        touched: devices of each array that the last call programmed, bool, shapes as of states.
        counters: what all calls did, over all samples.
    """

    def __init__(self, layout: Layout, chip: SimulatedChip, *, seed: int, split: str | Split = "fill") -> None:
        _fits(layout, chip)
        self.layout, self.chip, self.seed, self.split = layout, chip, seed, split_named(split)
        self.used = [layout.used(array) for array in range(len(layout.arrays))]
        self.states: list[ArrayState] = []
        self.touched: list[Tensor] = []
        self.counters = Counters()
        self.calls = 0
        self._reset()

    def __call__(self, weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> Mapping[str, Product]:
        """Bring the devices to weights + changes, and give the products of one run."""
        self.calls += 1
        if not changes:
            self._reset()
        wanted = {name: w + changes[name] if name in changes else w for name, w in _placed(self, weights)}
        chip = self.chip
        self.touched = []
        for array, target in enumerate(targets(self.layout, wanted, chip.g_max_us, self.split)):
            state = self.states[array]
            g_target = to_levels(target.detach().to(state.g_target.dtype), chip.g_max_us, chip.faults.levels)
            g_target = g_target[..., *self.used[array]]
            if g_target.ndim > state.g_target.ndim:
                state = expand(state, len(g_target))
            draws = stream(self.seed, "program", array, self.calls)
            new, touched = reprogram(state, chip.model, g_target, now_s=chip.now_s, generator=draws, verify=chip.verify)
            self.counters.add(
                pulses=int(new.pulses.sum() - state.pulses.sum()),
                devices_programmed=int(touched.sum()),
                cells_programmed=int(touched.any(-3).sum()),
            )
            self.states[array] = new
            self.touched.append(touched)
        return Trial(self.layout, _Copies(self)).products

    def weights(self) -> dict[str, Tensor]:
        """The weights as the copies read now, by name, [B, ...] where samples differ."""
        return weights_of(self.layout, [state.g_read for state in self.states], self.chip.g_max_us)

    def _reset(self) -> None:
        self.states = [crop(self.chip.states[k], *used) for k, used in enumerate(self.used)]


class _Copies:
    """``Driver.mvm`` of the states of ``PlacedTrials``."""

    def __init__(self, trials: PlacedTrials) -> None:
        self.trials = trials
        self.draws = stream(trials.seed, "mvm", trials.calls)
        self.readers: dict[tuple[int, int, int, int, int], ArrayReader] = {}

    def __call__(self, array: int, x: Tensor, rows: slice, columns: slice, inputs: str) -> Tensor:
        key = (array, rows.start, rows.stop, columns.start, columns.stop)
        if key not in self.readers:
            self.readers[key] = self._reader(array, rows, columns)
        reader = self.readers[key]
        copies = reader.weights.ndim - 2
        alone = x.ndim - 1 <= copies
        flat = x.to(reader.weights.dtype)
        y = reader.product(flat.unsqueeze(-2) if alone else flat, self.draws, inputs)
        products = x.numel() // x.shape[-1]
        saturation = reader.saturation
        assert saturation is not None
        self.trials.counters.add(
            mvms=products,
            phases=products * self.trials.chip.periphery.phases(inputs),
            dac_saturated=saturation.dac,
            adc_saturated=saturation.adc,
        )
        saturation.dac = saturation.adc = 0
        return y.squeeze(-2) if alone else y

    def _reader(self, array: int, rows: slice, columns: slice) -> ArrayReader:
        chip = self.trials.chip
        gain, offset = (part if part is None else part[columns] for part in chip.column_errors[array])
        g = crop(self.trials.states[array], rows, columns).g_read
        return ArrayReader.of(g, chip.model, chip.periphery, gain, offset, count=True)


def _placed(holder: PlacedChip | PlacedTrials, weights: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    names = {layer.name for layer in holder.layout.layers}
    return [(name, w) for name, w in weights.items() if name in names]


def _present(held: Mapping[str, Any]) -> dict[str, Any]:
    return {name: w for name, w in held.items() if w is not None}


def _fits(layout: Layout, driver: Driver) -> None:
    if len(layout.arrays) > driver.n_arrays:
        raise ConfigError(f"layout of {len(layout.arrays)} arrays: the chip has {driver.n_arrays}")
    for array in layout.arrays:
        if array.rows > driver.rows or array.columns > driver.columns:
            size = f"{array.rows} x {array.columns}"
            raise ConfigError(f"array {array.name!r} of {size}: the chip's are {driver.rows} x {driver.columns}")


def _cells(layout: Layout, array: int) -> Tensor:
    """Cells of an array that hold weights with an effect, bool [rows, columns]."""
    spec = layout.arrays[array]
    cells = torch.zeros(spec.rows, spec.columns, dtype=torch.bool)
    for block in layout.blocks:
        if block.array != array:
            continue
        part = cells[block.rows, block.columns]
        part[...] = True
        if layout.layer(block.layer).masked_diagonal:
            part.diagonal(block.in_start - block.out_start).fill_(False)
    return cells
