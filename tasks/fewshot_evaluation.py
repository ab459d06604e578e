"""Evaluate few-shot learning: one stream of tasks, seen by the software twin, by every chip and by every baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeBatch, EpisodeSpec
from ovonic.tasks.fewshot import Learner, Outcome, accuracy_of, baseline_accuracy, run_tasks
from ovonic.tasks.statistics import crossed_interval, error_ratio, interval, paired_difference

__all__ = ["Evaluation", "evaluate", "seen_alphabets"]

Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        software: accuracy of the software twin after each update, [tasks, updates + 1].
        hardware: the same on every chip, [chips, tasks, updates + 1]; None for software runs.
        baselines: accuracy [tasks] by name.
        counts: what the hardware counted, name -> [chips, tasks, updates].
        batch, software_outcome, hardware_outcome: the first batch and what was done with it, for figures.
        seed: of the tasks.
    """

    software: Table
    hardware: Table | None
    baselines: dict[str, Table]
    counts: dict[str, Table]
    batch: EpisodeBatch
    software_outcome: Outcome
    hardware_outcome: Outcome | None
    seed: int

    @property
    def devices_reprogrammed(self) -> float:
        """Devices programmed in a task, all updates together, as a mean over chips and tasks."""
        return float(self.counts["devices_reprogrammed"].sum(axis=2).mean())

    def report(self) -> dict[str, Any]:
        """The result as JSON: accuracies in 0..1, every ``ci95`` a half-width."""
        software = _accuracies(self.software)
        software["baselines"] = {
            name: interval(values) | {"difference": paired_difference(self.software[:, -1], values)}
            for name, values in self.baselines.items()
        }
        if self.hardware is None:
            return {"tasks": len(self.software), **software}
        per_update = [crossed_interval(self.hardware[:, :, k]) for k in range(self.hardware.shape[2])]
        chips = self.hardware[:, :, -1].mean(axis=1)
        return {
            "tasks": len(self.software),
            "accuracy": per_update[-1],
            "accuracy_per_update": per_update,
            "chips": {
                "n": len(chips),
                "sd": float(chips.std(ddof=1)) if len(chips) > 1 else None,
                "worst": float(chips.min()),
            },
            "error_ratio": error_ratio(self.hardware[:, :, -1], self.software[:, -1], seed=self.seed),
            "devices_reprogrammed": self.devices_reprogrammed,
            "baselines": software["baselines"],
            "software": software,
            **{
                f"{name}_per_update": [float(mean) for mean in table.mean(axis=(0, 1))]
                for name, table in self.counts.items()
            },
        }


def evaluate(
    software: Learner,
    chips: Iterable[Callable[[], Learner]],
    characters: CharacterSet,
    spec: EpisodeSpec,
    tasks: int,
    *,
    seed: int,
    batch: int = 8,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run ``tasks`` tasks in software, with every baseline, and on every chip.

    Args:
        software: the software twin. chips: one call a chip, which programs it (empty: software alone).
        on_batch: told how many tasks were just finished; software and each chip count alike.
    Raises: ConfigError, DataError: as ``run_tasks``.
    """
    tell = on_batch or (lambda _: None)
    accuracy, baselines = [], []
    first: tuple[EpisodeBatch, Outcome] | None = None
    for episodes, outcome in run_tasks(software, characters, spec, tasks, seed=seed, batch=batch):
        first = first or (episodes, outcome)
        accuracy.append(accuracy_of(outcome.logits, episodes.query_labels).T)
        baselines.append(baseline_accuracy(episodes, outcome, spec, seed))
        tell(len(episodes))
    assert first is not None
    per_chip, counts, hardware_first = [], [], None
    for program in chips:
        learner = program()
        table, counted = [], []
        for episodes, outcome in run_tasks(learner, characters, spec, tasks, seed=seed, batch=batch):
            hardware_first = hardware_first or outcome
            table.append(accuracy_of(outcome.logits, episodes.query_labels).T)
            counted.append(outcome.counts)
            tell(len(episodes))
        per_chip.append(torch.cat(table).numpy())
        counts.append({name: torch.cat([c[name] for c in counted], dim=1).T.numpy() for name in counted[0]})
    return Evaluation(
        software=torch.cat(accuracy).numpy(),
        hardware=np.stack(per_chip) if per_chip else None,
        baselines={name: torch.cat([b[name] for b in baselines]).numpy() for name in baselines[0]},
        counts={name: np.stack([c[name] for c in counts]).astype(np.float64) for name in (counts[0] if counts else {})},
        batch=first[0],
        software_outcome=first[1],
        hardware_outcome=hardware_first,
        seed=seed,
    )


def seen_alphabets(provenance: Mapping[str, Any], characters: CharacterSet) -> list[str]:
    """Alphabets of ``characters`` that the weights were meta-trained on: a figure on these is not a result."""
    trained = set(provenance.get("alphabets", ()))
    return [name for name in characters.alphabet_names if name in trained]


def _accuracies(table: Table) -> dict[str, Any]:
    per_update = [interval(table[:, k]) for k in range(table.shape[1])]
    return {"accuracy": per_update[-1], "accuracy_per_update": per_update}
