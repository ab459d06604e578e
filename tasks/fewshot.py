"""The few-shot experiment: how a meta-trained network, in software or on hardware, learns tasks and is judged.

A *learner* takes a batch of tasks and returns an ``Outcome``; software and hardware learners see the same tasks, so
every comparison is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision, SoftwareReadout, adapt
from ovonic.tasks.baselines import baseline_scores, random_features
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.episodes import EpisodeBatch, EpisodeSpec, sample_episodes
from ovonic.tasks.one_shot_runs import OneShotRun

__all__ = [
    "Learner",
    "Outcome",
    "accuracy_of",
    "baseline_accuracy",
    "classify",
    "inner_rates",
    "one_shot_accuracy",
    "run_tasks",
    "software_learner",
    "task_accuracy",
]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a learner did with a batch of tasks.

    Attributes:
        logits: query logits after 0, 1, .. updates, [updates + 1, tasks, Q, n_way].
        support, query: features [tasks, S, channels] and [tasks, Q, channels].
        weights: read-out weights before and after each update, [updates + 1, tasks, n_way, channels].
        counts: what the hardware counted, name -> [updates, tasks].
    """

    logits: Tensor
    support: Tensor
    query: Tensor
    weights: Tensor
    counts: dict[str, Tensor] = field(default_factory=dict)


Learner = Callable[[EpisodeBatch, int], Outcome]
"""(batch, index of its first task) -> outcome. The index names the batch's share of any randomness."""


def inner_rates(net: FewshotCNN, updates: int | None, n_way: int) -> Tensor:
    """Rates of the inner steps for tasks of ``n_way`` classes, [updates].

    The network's own, the last one repeated when more updates are asked for, times n_way over the number of classes it
    was trained with: the loss is a mean over the support set, of which a class is the n_way-th part, so that this keeps
    the length of each class's step.
    """
    own = net.inner_lr.detach()
    if updates is None:
        updates = len(own)
    if updates < 0:
        raise ConfigError(f"updates {updates}: must not be negative")
    rates = torch.cat([own, own[-1:].expand(max(0, updates - len(own)))])[:updates]
    return rates * (n_way / net.config.n_way)


def software_learner(
    net: FewshotCNN,
    *,
    updates: int | None = None,
    precision: Precision | None = None,
    norm: str | None = None,
    seed: int = 0,
) -> Learner:
    """The network in software: features, then the inner loop on the read-out.

    Args: updates: inner steps (default: as many as the network has rates); precision: bits and rounding of all weights,
        each task with its own rounding; norm: whose statistics normalise (default: the network's).
    """
    precision = precision or Precision()

    @torch.no_grad()
    def learn(batch: EpisodeBatch, first: int) -> Outcome:
        batch = batch.to(net.inner_lr.device)
        generator = torch.Generator(net.inner_lr.device)
        generator.manual_seed(int(np.random.SeedSequence([seed, first]).generate_state(1)[0]))
        if precision.varies_by_task and (norm or net.config.norm) != "meta-batch":
            parts = [
                net.features(s, q, norm=norm, weights=[precision.kernel(w, generator) for w in net.conv_weights()])
                for s, q in zip(batch.support.split(1), batch.query.split(1), strict=True)
            ]
            support, query = (torch.cat(side) for side in zip(*parts, strict=True))
        else:
            kernels = [precision.kernel(w, generator) for w in net.conv_weights()]
            support, query = net.features(batch.support, batch.query, norm=norm, weights=kernels)
        n_way = batch.classes.shape[1]
        readout = SoftwareReadout.of(net, len(batch), precision, generator, n_way)
        states = adapt(readout, support, batch.support_labels, inner_rates(net, updates, n_way))
        logits = torch.stack([state.logits(query) for state in states])
        weights = torch.stack([state.w for state in states])
        return Outcome(logits.cpu(), support.cpu(), query.cpu(), weights.cpu())

    return learn


def run_tasks(
    learner: Learner,
    characters: CharacterSet,
    spec: EpisodeSpec,
    tasks: int,
    *,
    seed: int,
    batch: int = 8,
) -> Iterator[tuple[EpisodeBatch, Outcome]]:
    """Feed tasks 0..tasks-1 of the stream ``seed`` to a learner, a batch at a time.

    Raises: ConfigError: no tasks; DataError: the characters cannot supply them.
    """
    if tasks < 1:
        raise ConfigError(f"tasks {tasks}: at least 1")
    for start in range(0, tasks, batch):
        indices = range(start, min(start + batch, tasks))
        episodes = sample_episodes(characters, spec, seed, indices)
        yield episodes, learner(episodes, start)


def accuracy_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of queries whose largest score is the right class: [..., tasks, Q, n_way] -> [..., tasks]."""
    return (scores.argmax(-1) == labels).double().mean(-1)


def task_accuracy(
    net: FewshotCNN,
    characters: CharacterSet,
    spec: EpisodeSpec,
    tasks: int,
    *,
    seed: int,
    precision: Precision | None = None,
    norm: str | None = None,
    updates: int | None = None,
) -> Tensor:
    """Query accuracy of the network in software after each update, [tasks, updates + 1] float64."""
    learner = software_learner(net, updates=updates, precision=precision, norm=norm, seed=seed)
    batch = tasks if (norm or net.config.norm) == "meta-batch" else 8
    outcomes = run_tasks(learner, characters, spec, tasks, seed=seed, batch=batch)
    return torch.cat([accuracy_of(o.logits, b.query_labels).T for b, o in outcomes])


def baseline_accuracy(batch: EpisodeBatch, outcome: Outcome, spec: EpisodeSpec, seed: int) -> dict[str, Tensor]:
    """Accuracy [tasks] of every baseline on the very tasks of ``outcome``."""
    scores = baseline_scores(batch, outcome.support, outcome.query, spec.n_way)
    untrained = random_features(spec.n_way, outcome.support.shape[-1], seed)
    scores["random_features"] = software_learner(untrained, seed=seed)(batch, 0).logits[-1]
    return {name: accuracy_of(s, batch.query_labels) for name, s in scores.items()}


def one_shot_accuracy(learner: Learner, runs: Sequence[OneShotRun]) -> Tensor:
    """Share of right answers in each of Lake's runs, [runs] float64: the run's classes are learned from one drawing."""
    accuracy = []
    for i, run in enumerate(runs):
        labels = torch.arange(len(run.support))
        batch = EpisodeBatch(
            run.support[None], labels[None], run.query[None], run.labels[None], classes=labels[None].numpy()
        )
        accuracy.append(accuracy_of(learner(batch, i).logits[-1], run.labels[None])[0])
    return torch.stack(accuracy)


def classify(learner: Learner, examples: CharacterSet, images: Tensor) -> list[tuple[str, float]]:
    """Learn the classes of ``examples`` from all their drawings and name the class of each image.

    Args: images: [N, 1, 28, 28] float32 in 0..1.
    Returns: for each image the class and the softmax probability of it (not calibrated).
    """
    support = (examples.images.float() * examples.scale)[None, :, None]
    labels = torch.from_numpy(np.repeat(np.arange(len(examples)), examples.counts))[None]
    unknown = torch.zeros(1, len(images), dtype=torch.int64)
    batch = EpisodeBatch(support, labels, images[None], unknown, classes=np.arange(len(examples))[None])
    probability = torch.softmax(learner(batch, 0).logits[-1][0], dim=-1)
    best = probability.max(dim=-1)
    return [(examples.names[i], float(p)) for p, i in zip(best.values, best.indices.tolist(), strict=True)]
