"""One-shot lessons of the robot on aihwkit's tiles: the chip of ``tasks.robot_crossbar``, simulated by other code.

The same array, scales, converters, order of reads and times, and the same lesson; devices are those of aihwkit's own
noise models, and trials are run by ``models.simulation`` with the injected product (``adapters.aihwkit_products``) in
place of the crossbar's kernels. No random number is shared: the two agree as two draws of one distribution do.

What the tiles do not have is refused by name: fitted and published devices, set_and_tune, program-and-verify, averaged
reads, drift compensation, more than one update.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ovonic.adapters.aihwkit_devices import Hardware
from ovonic.adapters.aihwkit_products import TrialTiles
from ovonic.adapters.crossbar_aihwkit import noise_model_of
from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop import InnerLoop, teach
from ovonic.models.network import Network
from ovonic.models.seeds import derive_seed
from ovonic.tasks.robot_crossbar import COUNTS, ChipLesson, CrossbarSettings, place

__all__ = ["TraineeTiles", "hardware_of"]


def hardware_of(settings: CrossbarSettings) -> Hardware:
    """What aihwkit is told of a chip.

    Raises: ConfigError, UnsupportedDynamics: what its tiles do not have. ToolchainError: aihwkit is missing or broken.
    """
    p = settings.periphery
    for what, given in {
        "split set_and_tune": settings.split == "set_and_tune",
        "program-and-verify": settings.verify is not None,
        f"reads {settings.reads}": settings.reads != 1,
        f"compensation {p.compensation}": p.compensation is not None,
        "spread of columns": bool(p.column_gain_sigma or p.column_offset_sigma),
        f"adapt_on {settings.adapt_on}": settings.adapt_on != "device",
    }.items():
        if given:
            raise ConfigError(f"{what}: lessons on aihwkit's tiles do not have it; use the crossbar")
    return Hardware(
        noise_model_of(settings.model),
        split=settings.split,
        zero_targets=getattr(settings.model, "zero_targets", "reset"),
        dac_bits=p.dac_bits,
        adc_bits=p.adc_bits,
        adc_range=p.adc_range,
        out_noise=p.out_noise,
        w_noise=p.w_noise,
    )


class TraineeTiles:
    """A programmed chip; arguments and methods as ``robot_crossbar.TraineeChip``.

    Raises: ToolchainError: aihwkit is missing or broken. ConfigError: settings that its tiles do not have.
    """

    def __init__(
        self, network: Network, settings: CrossbarSettings, *, seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.network = network
        placed = place(network, settings.scale, dtype)
        names = list(network.layers)
        blocks = {
            f"{names[1]}.weight": (slice(placed.n_in), slice(placed.n)),
            f"{names[2]}.recurrence": (slice(placed.n_in, None), slice(placed.n)),
            f"{names[3]}.weight": (slice(placed.n_in, None), slice(placed.n, None)),
        }
        weight, w_max, used = (
            {name: whole[block] for name, block in blocks.items()}
            for whole in (placed.weight, placed.w_max, placed.used)
        )
        self.used = placed.used
        self.tiles = TrialTiles(
            weight,
            w_max,
            used,
            hardware_of(settings),
            seed=seed,
            read_time_s=settings.read_time_s,
            shared=[f"{names[2]}.recurrence"],
        )

    def programming(self) -> dict[str, float]:
        """What it took to program the chip: devices, cells, pulses (one a device)."""
        cells = float(self.used.sum())
        return {"devices": 4 * cells, "cells": cells, "pulses": 4 * cells}

    def lessons(
        self,
        clock: Tensor,
        learning_signal: Tensor,
        inner: InnerLoop,
        generator: torch.Generator,
        rounding: torch.Generator | None = None,
        given: Mapping[str, Tensor] | None = None,
    ) -> ChipLesson:
        """Give lessons, each on its own copy of the chip; as ``TraineeChip.lessons``, which alone needs ``given``."""
        products = self.tiles.lesson(derive_seed(generator.initial_seed(), "lesson"), inner.updates)
        lesson = teach(self.network, clock, learning_signal, inner, products=products, generator=rounding)
        counts = {name: products.counts.get(name, torch.zeros(len(clock), dtype=torch.int64)) for name in COUNTS}
        counts["pulses"] = counts["devices_reprogrammed"]
        return ChipLesson(lesson.before, lesson.after, lesson.changes, counts)
