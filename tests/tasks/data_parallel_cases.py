"""Tiny meta-trainings, by one process or by those of ``torchrun``; run as a script it writes each rank's weights.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/tasks/data_parallel_cases.py OUT
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor

from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.maml import Precision
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig
from ovonic.tasks import fewshot_training, robot_training
from ovonic.tasks.data_parallel import ALONE, Processes, joined, world
from ovonic.tasks.episodes import EpisodeBatch, EpisodeSpec, sample_episodes
from ovonic.tasks.fewshot_training import TrainingConfig, TrainingState, meta_train
from ovonic.tasks.glyphs import glyph_alphabets
from ovonic.tasks.robot_training import RobotTrainingConfig, RobotTrainingState, robot_train
from ovonic.tasks.trajectories import sample_trajectories

FEWSHOT = TrainingConfig(
    network=CNNConfig(n_way=3, channels=8, updates=2),
    episode=EpisodeSpec(3, 2, 2, rotate=True, mirror=True),
    steps=2,
    tasks=4,
    learn_inner_lr=True,
    learn_readout=True,
)
ROBOT = RobotTrainingConfig(
    NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10, dt_ms=10.0),
    InnerLoop(1e-2, None, updates=2),
    steps=2,
    batch=4,
    clip=0.1,
    validate_every=100,
    validation_trajectories=2,
)
TRAININGS: dict[str, TrainingConfig | RobotTrainingConfig] = {
    "cnn": FEWSHOT,
    "cnn 4 bit, noise": replace(FEWSHOT, precision=Precision(4, readout_range=0.2, weight_noise=0.02)),
    "cnn, all of it, 4 bit, PCM": replace(FEWSHOT, adapt="network", precision=Precision(4, noise_model="pcm")),
    "robot": ROBOT,
    "robot 1/16, PCM": replace(ROBOT, inner=InnerLoop(1e-2, 1 / 16, "stochastic", 2), noise_model="pcm"),
}


class Summed(Processes):
    """Gradients are summed in place of averaged."""

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        held = [p for p in parameters if p.grad is not None]
        super().average_gradients(held)
        for p in held:
            assert p.grad is not None
            p.grad *= self.count


class Unaveraged(Processes):
    """Each process steps by the gradient of its own share."""

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        pass


class OwnRates(Processes):
    """Rates are those of the share."""

    def mean(self, x: Tensor) -> Tensor:
        return x


class OwnDraws(Processes):
    """Each process draws for its share alone."""

    def source(self, generator: torch.Generator) -> torch.Generator:
        return generator


class SameShare(Processes):
    """All processes compute the first share."""

    def share(self, batch: Any, what: str = "batch") -> Any:
        return Processes(0, self.count).share(batch, what)


FAULTS: dict[str, tuple[type[Processes], str]] = {
    "summed": (Summed, "cnn"),
    "unaveraged": (Unaveraged, "robot"),
    "own rates": (OwnRates, "robot"),
    "own draws": (OwnDraws, "cnn 4 bit, noise"),
    "own draws of the robot": (OwnDraws, "robot 1/16, PCM"),
    "same share": (SameShare, "robot"),
}
"""What could be wrong, and the training in which it must show."""


def weights(name: str, dtype: torch.dtype, processes: Processes = ALONE) -> dict[str, Tensor]:
    """The weights at the end of one of ``TRAININGS``, in single or double precision throughout."""
    config = TRAININGS[name]
    if isinstance(config, TrainingConfig):
        state = TrainingState(config, FewshotCNN(config.network, torch.Generator().manual_seed(0)))
        state.net.to(dtype), state.average.to(dtype)
        sets = [glyph_alphabets(seed, 1, characters=8) for seed in (1000, 2000)]
        with mock.patch.object(fewshot_training, "sample_episodes", _episodes(dtype)):
            meta_train(state, *sets, None, processes=processes)
        return dict(state.net.state_dict())
    state_ = RobotTrainingState(config)
    state_.net.to(dtype), state_.average.to(dtype)
    drawn = functools.partial(sample_trajectories, dtype=dtype)
    with mock.patch.object(robot_training, "sample_trajectories", drawn):
        robot_train(state_, processes=processes)
    return {name.replace("/", "."): w for name, w in state_.net.state_dict().items()}


def _episodes(dtype: torch.dtype) -> Callable[..., EpisodeBatch]:
    def sample(*arguments: Any) -> EpisodeBatch:
        batch = sample_episodes(*arguments)
        return replace(batch, support=batch.support.to(dtype), query=batch.query.to(dtype))

    return sample


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with joined(world()) as processes:
        trained = {
            f"{name}|{bits}": weights(name, dtype, processes)
            for name in TRAININGS
            for bits, dtype in (("32", torch.float32), ("64", torch.float64))
        }
        for fault, (faulty, name) in FAULTS.items():
            trained[f"{fault}|64"] = weights(name, torch.float64, faulty(processes.rank, processes.count))
    flat = {f"{run}|{name}": w.contiguous() for run, found in trained.items() for name, w in found.items()}
    save_file(flat, out / f"rank{processes.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
