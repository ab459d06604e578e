"""Studies of both experiments on simulated crossbars beside software: which conditions each of them measures.

headline         default noise, four devices a weight, one read, no averaging; weights meta-trained without noise
training-noise   meta-trained with {no, crude, accurate} noise x tested on {published, pcm, hermes} devices
adaptation       adapt on the device, in software and then program, not at all; noise from 0 to 8 times
updates          1 to 8 updates of the CNN, 1 to 4 of the arm: error and energy
parity           crossbar and aihwkit's tiles beside software at 32 and 4 bit (``validation.parity``)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ovonic.models.errors import ConfigError, nearest
from ovonic.validation.hardware_conditions import MONTH_S, Condition, experiment_of
from ovonic.validation.parity import parity_conditions

__all__ = ["STUDIES", "study"]


def _headline(weights: Sequence[str]) -> list[Condition]:
    models, times = ("pcm", "hermes"), (0.0, MONTH_S)
    fewshot, robot = weights
    return [
        *(Condition("robot", robot, model) for model in models),
        *(
            Condition("fewshot", fewshot, model, read, n_way=way, k_shot=shot, queries=queries)
            for way, shot, queries in ((5, 5, 5), (20, 1, 1))
            for model in models
            for read in times
        ),
    ]


def _training_noise(weights: Sequence[str]) -> list[Condition]:
    return [
        Condition(experiment_of(name), name, model, compensation="global" if model == "published" else None)
        for name in weights
        for model in ("published", "pcm", "hermes")
    ]


def _adaptation(weights: Sequence[str]) -> list[Condition]:
    return [
        Condition(experiment_of(name), name, adapt_on=where, noise_scale=scale)
        for name in weights
        for where in ("device", "software", "none")
        for scale in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    ]


def _updates(weights: Sequence[str]) -> list[Condition]:
    numbers = {"fewshot": (1, 2, 3, 4, 6, 8), "robot": (1, 2, 3, 4)}
    kinds = [(name, experiment_of(name)) for name in weights]
    return [Condition(kind, name, updates=updates) for name, kind in kinds for updates in numbers[kind]]


STUDIES: dict[str, tuple[Callable[[Sequence[str]], list[Condition]], tuple[str, ...]]] = {
    "headline": (_headline, ("fewshot-32bit-noise-blind", "robot-q16")),
    "training-noise": (_training_noise, ("fewshot-32bit-noise-blind", "fewshot-32bit", "robot-q16")),
    "adaptation": (_adaptation, ("fewshot-32bit-noise-blind", "robot-q16")),
    "updates": (_updates, ("fewshot-32bit-noise-blind", "robot-q16")),
    "parity": (parity_conditions, ("fewshot-32bit-noise-blind", "fewshot-4bit", "robot-q16")),
}
"""Studies by name: what makes their conditions from weights, and which weights by default."""


def study(name: str, weights: Sequence[str] = ()) -> list[Condition]:
    """The conditions of a study.

    Raises: ConfigError: no such study, or not the weights that it takes.
    """
    if name not in STUDIES:
        raise ConfigError(f"study {name!r}: {nearest(name, STUDIES)}")
    make, usual = STUDIES[name]
    if weights and name == "headline" and len(weights) != 2:
        raise ConfigError(f"headline: takes weights of the few-shot network and of the arm, not {len(weights)}")
    return make(weights or usual)
