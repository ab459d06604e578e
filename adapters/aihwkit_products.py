"""A spiking network's weights on aihwkit's devices: the product that is injected into natural e-prop's lessons.

    here                          aihwkit 1.2.0                               lost?
    TrialTiles.program            its noise model: programming noise, nu      nothing: one array a weight, scales fixed
    .lesson, at the update        (none: program_weights redraws the tile)    only devices whose target changes
    .lesson, at a read time       its noise model: drift, accumulated noise   nothing
    product                       PCM_READ, 8-bit converters (``Converters``) a read without any spike is not made

A lesson is ``models.natural_eprop.teach`` with ``products=tiles.lesson(..)``: trial on the chip as programmed, update,
trial on the lesson's own copy of the cells that it changed. The diagonal of a masked recurrence holds no devices. What
the time of a read means is told in ``tasks.robot_crossbar``, whose chip this is, simulated by other code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ovonic.adapters.aihwkit_devices import (
    DeviceState,
    Hardware,
    advance,
    load_tiles,
    program,
    reprogram,
    to_conductances,
    to_weights,
)
from ovonic.models.errors import ConfigError
from ovonic.models.seeds import derive_seed, stream

__all__ = ["LessonProducts", "Tile", "TrialTiles"]


class Tile(NamedTuple):
    """An array of one weight.

    weight: targets, [out, in], in the weight's own units; w_max: full scale of each, [out, in]; used: cells that hold a
    weight, bool; state, late: its devices at the first read and at the time of the last trial, [4, out, in].
    """

    weight: Tensor
    w_max: Tensor
    used: Tensor
    state: DeviceState
    late: DeviceState


class TrialTiles:
    """Programmed arrays, one a weight; a draw of all their devices.

    Args:
        weights, w_max, used: by the weight's name, [in, out]: targets, full scale of each cell, and which cells hold a
            weight.
        hardware: the noise model, split, target-0 convention and converters.
        seed: of the devices. read_time_s: when the last trial of a lesson is read.
        shared: weights whose rows are read together with another weight's, and are not counted again.
    Raises: ToolchainError: aihwkit is missing or broken.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        w_max: Mapping[str, Tensor],
        used: Mapping[str, Tensor],
        hardware: Hardware,
        *,
        seed: int,
        read_time_s: float = 0.0,
        shared: Collection[str] = (),
    ) -> None:
        self.hardware, self.read_time_s, self.shared = hardware, read_time_s, frozenset(shared)
        self.model = load_tiles().make_noise_model(hardware)
        self.converters = hardware.converters(1.0)
        self.tiles: dict[str, Tile] = {}
        for name, weight in weights.items():
            w, scale, holds = weight.mT, w_max[name].mT, used[name].mT
            state = program(
                self.model,
                self.targets(w, scale),
                now_s=0.0,
                seed=derive_seed(seed, "program", name),
                zero_targets=hardware.zero_targets,
            )
            late = state
            if read_time_s:
                late = advance(state, self.model, now_s=read_time_s, seed=derive_seed(seed, "advance", name))
            self.tiles[name] = Tile(w, scale, holds, state, late)

    def targets(self, w: Tensor, w_max: Tensor) -> Tensor:
        """Target conductances of weights [..., out, in], [..., 4, out, in], uS; beyond full scale they are clipped."""
        return to_conductances(w / w_max, self.model.g_max, self.hardware.split)

    def reads(self, state: DeviceState) -> Tensor:
        """Weights as devices read now, in units of full scale."""
        return to_weights(state.g_read, self.model.g_max)

    def lesson(self, seed: int, updates: int = 1) -> LessonProducts:
        """The products of one batch of lessons; ``seed``: of their devices and reads.

        Raises: ConfigError: more than one update: a lesson's second patch of cells is not simulated here.
        """
        if updates != 1:
            raise ConfigError(f"updates {updates}: lessons on aihwkit's tiles have one; use the crossbar for more")
        return LessonProducts(self, seed)


class LessonProducts:
    """``models.natural_eprop.Products`` of a batch of lessons; called before each of the two trials.

    Attributes: counts: by name, [B]: ``devices_reprogrammed``, ``cells_reprogrammed``, ``saturated``, ``reads``;
        ``adc_saturated``: results at the ADC's last step.
    """

    def __init__(self, tiles: TrialTiles, seed: int) -> None:
        self.tiles, self.seed = tiles, seed
        self.generator = stream(seed, "reads")
        self.counts: dict[str, Tensor] = {}

    def __call__(
        self, weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]
    ) -> dict[str, Callable[[Tensor], Tensor]]:
        last = bool(changes)
        return {name: self._product(tile, changes.get(name), last, name) for name, tile in self.tiles.tiles.items()}

    def _product(self, tile: Tile, change: Tensor | None, last: bool, name: str) -> Callable[[Tensor], Tensor]:
        w = self.tiles.reads(tile.late if last else tile.state) * tile.used
        if change is not None:
            w = self._changed(tile, w, change.mT, name)
        load, converters, generator = self.tiles.converters.load(w), self.tiles.converters, self.generator
        scale = tile.w_max[:, 0]
        matrix = w.mT
        variance = None if load is None else load.mT

        def product(x: Tensor) -> Tensor:
            rows = x.unsqueeze(-2) if x.ndim == 2 else x
            u = converters.dac(rows)
            y = converters.adc(u @ matrix, None if variance is None else u.square() @ variance, generator)
            asked = rows.any(-1, keepdim=True)
            if name not in self.tiles.shared:
                self._count("reads", asked.sum((1, 2)))
            self._count("adc_saturated", ((y.abs() >= converters.adc_range) & asked).sum((1, 2)))
            y = torch.where(asked, y * scale, 0.0)
            return y.squeeze(-2) if x.ndim == 2 else y

        return product

    def _changed(self, tile: Tile, w: Tensor, change: Tensor, name: str) -> Tensor:
        """The weights of each lesson's copy, [B, out, in], devices of changed cells programmed anew."""
        tiles = self.tiles
        sample, row, column = ((change != 0) & tile.used).nonzero(as_tuple=True)
        cell = (slice(None), row, column)
        state, late = (
            DeviceState(*(field[cell].unsqueeze(-1) for field in devices)) for devices in (tile.state, tile.late)
        )
        w_max = tile.w_max[row, column]
        target = tile.weight[row, column] + change[sample, row, column]
        state, touched = reprogram(
            state,
            tiles.model,
            tiles.targets(target.unsqueeze(-1), w_max.unsqueeze(-1)),
            now_s=0.0,
            seed=derive_seed(self.seed, "program", name),
            zero_targets=tiles.hardware.zero_targets,
        )
        read = state
        if tiles.read_time_s:
            moved = advance(state, tiles.model, now_s=tiles.read_time_s, seed=derive_seed(self.seed, "advance", name))
            read = moved._replace(g_read=torch.where(touched, moved.g_read, late.g_read))
        found = w.expand(len(change), *w.shape).clone()
        found[sample, row, column] = tiles.reads(read).squeeze(-1)
        for what, amount in (
            ("devices_reprogrammed", touched.sum((0, 2))),
            ("cells_reprogrammed", touched.any(0).squeeze(-1)),
            ("saturated", target.abs() > w_max),
        ):
            per_lesson = torch.zeros(len(change), dtype=torch.int64)
            self._count(what, per_lesson.index_add_(0, sample, amount.to(torch.int64)))
        return found

    def _count(self, name: str, amount: Tensor) -> None:
        self.counts[name] = self.counts[name] + amount if name in self.counts else amount
