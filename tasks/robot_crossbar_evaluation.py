"""What one-shot lessons achieve on chips: every chip meets every movement, beside the software twin on the same ones.

The twin is ``tasks.robot_evaluation``'s lesson: the same movements, learning signals and streams of rounding. Chips and
movements are crossed: intervals and the ratio of losses hold for other chips and other movements
(``tasks.statistics``). Errors are those of ``tasks.robot``; ``no_update`` is the first trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovonic.models.accounting import Counts
from ovonic.models.errors import ConfigError
from ovonic.models.natural_eprop import Engine, InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig
from ovonic.models.seeds import derive_seed, stream
from ovonic.tasks.robot import ENGINE, MovementErrors, Robot, movement_errors
from ovonic.tasks.robot_aihwkit import TraineeTiles
from ovonic.tasks.robot_crossbar import COUNTS, CrossbarSettings, TraineeChip
from ovonic.tasks.robot_energy import lesson_counts, lesson_energy
from ovonic.tasks.robot_evaluation import BATCH, rounding_stream, summary
from ovonic.tasks.statistics import crossed_interval, loss_ratio
from ovonic.tasks.trajectories import TrajectorySpec, sample_trajectories

__all__ = ["ChipEvaluation", "evaluate_on_chips"]

Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ChipEvaluation:
    """What was measured.

    Attributes:
        before, after: of the chips: ``mse_omega``, ``mse_xyz``, ``tip_rmse_mm`` and ``loss``, [chips, movements].
        software_before, software_after: of the twin, [movements].
        counts: what lessons took, by name (``tasks.robot_crossbar.ChipLesson``), [chips, movements].
        programmed: what it took to program a chip: devices, cells, pulses, mean over chips.
        network: sizes. spec, seed, inner, settings: the movements, how lessons went, and what a chip is.
    """

    before: dict[str, Table]
    after: dict[str, Table]
    software_before: dict[str, Table]
    software_after: dict[str, Table]
    counts: dict[str, Table]
    programmed: dict[str, float]
    network: NaturalEPropConfig
    spec: TrajectorySpec
    seed: int
    inner: InnerLoop
    settings: CrossbarSettings

    def __len__(self) -> int:
        return self.after["loss"].shape[1]

    def report(self) -> dict[str, Any]:
        """The result as JSON: every ``ci95`` a half-width of the mean, of chips and movements where both are drawn."""
        chips = self.after["loss"].mean(1)
        counts = {name: float(table.mean()) for name, table in self.counts.items()}
        loss = _crossed(self.after["loss"])
        return {
            "trajectories": len(self),
            "loss": loss,
            "devices_reprogrammed": counts["devices_reprogrammed"],
            "cells_reprogrammed": counts["cells_reprogrammed"],
            "hardware": {
                "loss": loss,
                "tip_rmse_mm": {
                    "before": _crossed(self.before["tip_rmse_mm"]),
                    "after": _crossed(self.after["tip_rmse_mm"]),
                },
                "controls": {"no_update": {name: _crossed(self.before[name]) for name in ("loss", "tip_rmse_mm")}},
                "chips": {
                    "n": len(chips),
                    "sd": float(chips.std(ddof=1)) if len(chips) > 1 else None,
                    "worst": float(chips.max()),
                    "losses": chips,
                },
                "loss_ratio": loss_ratio(self.after["loss"], self.software_after["loss"], seed=self.seed),
                "per_lesson": counts,
                "per_chip": self.programmed,
            },
            "energy": self.energy(),
            "software": {
                "loss": summary(self.software_after["loss"]),
                "tip_rmse_mm": {
                    "before": summary(self.software_before["tip_rmse_mm"]),
                    "after": summary(self.software_after["tip_rmse_mm"]),
                },
                "controls": {
                    "no_update": {name: summary(self.software_before[name]) for name in ("loss", "tip_rmse_mm")}
                },
            },
        }

    def energy(self) -> dict[str, Any]:
        """Energy and time of a mean lesson and of programming both networks, beside a digital twin's."""
        pulses = float(self.counts["pulses"].mean()) if self.settings.verify is not None else None
        devices = float(self.counts["devices_reprogrammed"].mean())
        counts = lesson_counts(
            self.network,
            Counts(devices_programmed=devices, pulses=pulses),
            steps=self.spec.steps,
            updates=self.inner.updates,
            phases=self.settings.periphery.phases("binary"),
            reads=self.settings.reads,
            adapt_on=self.settings.adapt_on,
        )
        return lesson_energy(counts)


def evaluate_on_chips(
    robot: Robot,
    spec: TrajectorySpec,
    trajectories: int,
    inner: InnerLoop,
    settings: CrossbarSettings,
    chips: int,
    seed: int,
    batch: int | None = None,
    on_batch: Callable[[int], None] | None = None,
    engine: Engine = ENGINE,
    make: Callable[..., TraineeChip | TraineeTiles] = TraineeChip,
) -> ChipEvaluation:
    """Give a lesson on each of the movements 0 .. trajectories - 1 of ``seed`` to each of the chips 0 .. chips - 1.

    What chip c is depends on (seed, c) alone, and what a movement is on (seed, movement). Noise and the rounding of
    updates depend on the batch too.

    Args:
        spec: as ``tasks.robot.spec_for`` gives it; inner: how lessons go, with one update or more.
        settings: what a chip is, and how lessons are given on it.
        batch: movements at a time; by default as in software, and fewer where updates are not rounded, as they then
            program every cell.
        on_batch: told how many lessons on chips were just finished.
        engine: what runs the networks in software. make: what simulates a chip: ``TraineeChip``, our crossbar, or
            ``robot_aihwkit.TraineeTiles``.
    Raises: ConfigError: no update, no chip, or no movement.
    """
    if trajectories < 1 or chips < 1:
        raise ConfigError(f"{chips} chips, {trajectories} trajectories: at least one of each is due")
    if inner.updates < 1:
        raise ConfigError("updates 0: adapt_on 'none' is the evaluation without updates")
    size = batch or (BATCH if inner.step else BATCH // 5)
    model = robot.module(engine=engine)
    trainee = model.trainee.describe()
    drawn = [make(trainee, settings, seed=derive_seed(seed, "chip", number)) for number in range(chips)]
    programming = [chip.programming() for chip in drawn]
    software: list[list[MovementErrors]] = [[], []]
    hardware: list[list[list[MovementErrors]]] = [[[] for _ in drawn] for _ in range(2)]
    counts: dict[str, list[list[NDArray[np.int64]]]] = {name: [[] for _ in drawn] for name in COUNTS}
    with torch.no_grad():
        for first in range(0, trajectories, size):
            indices = range(first, min(first + size, trajectories))
            movements = sample_trajectories(spec, seed, indices)
            lesson = model(movements.clock, movements.lsg_input, inner, rounding_stream(seed, indices))
            for k, output in enumerate((lesson.before, lesson.after)):
                software[k].append(movement_errors(output.double(), movements))
            for number, chip in enumerate(drawn):
                done = chip.lessons(
                    movements.clock,
                    lesson.learning_signal,
                    inner,
                    stream(seed, "lessons", number, first),
                    rounding_stream(seed, indices),
                    lesson.changes,
                )
                for k, output in enumerate((done.before, done.after)):
                    hardware[k][number].append(movement_errors(output.double(), movements))
                for name, count in done.counts.items():
                    counts[name][number].append(count.numpy())
                if on_batch:
                    on_batch(len(indices))
    before, after = (_stacked(parts) for parts in hardware)
    twin_before, twin_after = ({n: rows[0] for n, rows in _stacked([parts]).items()} for parts in software)
    return ChipEvaluation(
        before,
        after,
        twin_before,
        twin_after,
        counts={n: np.stack([np.concatenate(p) for p in parts]).astype(np.float64) for n, parts in counts.items()},
        programmed={name: float(np.mean([took[name] for took in programming])) for name in programming[0]},
        network=robot.config,
        spec=spec,
        seed=seed,
        inner=inner,
        settings=settings,
    )


def _stacked(chips: list[list[MovementErrors]]) -> dict[str, Table]:
    """Errors by name, [chips, movements]."""
    joined = [MovementErrors(*(torch.cat(column) for column in zip(*parts, strict=True))) for parts in chips]
    names = (*MovementErrors._fields, "loss")
    return {name: np.stack([getattr(errors, name).numpy() for errors in joined]) for name in names}


def _crossed(table: Table) -> dict[str, Any]:
    return crossed_interval(table) | {"median": float(np.median(table)), "p95": float(np.percentile(table, 95))}
