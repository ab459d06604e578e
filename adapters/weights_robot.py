"""Weights of the robot arm's pair of networks, the kind ``"robot-natural-eprop"`` of ``adapters.weights``.

    {"format": 1, "kind": "robot-natural-eprop", "network": {the fields of NaturalEPropConfig},
     "inner": {of InnerLoop: how lessons go}, "code": {of CoordinateCode: how targets are told},
     "training": {command, seed, data, versions, steps, ..}}

The six tensors, [in, out], are named as the parameters of ``NaturalEProp``. What a coordinate code is, ``tasks`` know:
here it is an object of JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ovonic.adapters.published import is_published
from ovonic.adapters.published_robot import robot_from_published
from ovonic.adapters.weights import PUBLISHED, ROBOT, Weights, from_fields, load_weights, locate, origin, save_weights
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Pair, lsg_network, trainee_network

__all__ = ["RobotWeights", "load_robot", "robot_from", "robot_shapes", "save_robot"]


class RobotWeights(NamedTuple):
    """What a file says of a robot's networks; ``code`` is None for a published one, which does not say."""

    config: NaturalEPropConfig
    pair: Pair
    inner: InnerLoop
    code: dict[str, Any] | None
    provenance: dict[str, Any]


def save_robot(
    path: str | Path,
    config: NaturalEPropConfig,
    pair: Pair,
    inner: InnerLoop,
    code: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write the two networks in one piece, as float32.

    Args:
        config: of the networks; inner: how their lessons go; code: how targets are told, JSON values.
        training: where the weights come from.
    Raises: WeightsError: weights that are not finite, or not of the sizes of ``config``.
    """
    tensors = {
        f"{part}.{name.replace('.', '/')}": array
        for part, network in pair._asdict().items()
        for name, array in network.weights().items()
    }
    parts = {"network": dataclasses.asdict(config), "inner": dataclasses.asdict(inner), "code": dict(code)}
    save_weights(path, tensors, {"kind": ROBOT, **parts, "training": dict(training)})


def load_robot(source: str | Path) -> RobotWeights:
    """Load the two networks from whatever a user names, told apart by content and not by suffix.

    Args:
        source: a shipped name, a safetensors file, or a published checkpoint (npz or pickle; lessons then go as the
            paper's do).
    Raises: WeightsError: nothing of that name, damaged, or not a robot's weights.
    """
    path = locate(source)
    provenance: dict[str, Any] = dict(origin(source, path))
    if is_published(path):
        pair = robot_from_published(path)
        return RobotWeights(NaturalEPropConfig(), pair, InnerLoop(), None, provenance | PUBLISHED)
    return robot_from(load_weights(source, ROBOT), provenance)


def robot_from(weights: Weights, provenance: Mapping[str, Any]) -> RobotWeights:
    """The two networks of a weight file, or of a checkpoint (``adapters.checkpoints.checkpoint_weights``).

    Raises: WeightsError: a field of its description is unknown, missing, or not of its type.
    """
    path = weights.path
    config = from_fields(path, weights.config, NaturalEPropConfig)
    w = weights.tensors
    pair = Pair(
        lsg_network(w["lsg.in/weight"], w["lsg.lsg/recurrence"], w["lsg.out/weight"], config),
        trainee_network(w["trainee.in/weight"], w["trainee.trainee/recurrence"], w["trainee.out/weight"], config),
    )
    inner = from_fields(path, weights.more["inner"], InnerLoop, "inner loop")
    return RobotWeights(config, pair, inner, weights.more["code"], weights.training | dict(provenance))


def robot_shapes(path: str | Path, description: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors that a description asks for; the description of the inner loop is checked too.

    Raises: WeightsError: a field is unknown, missing, or not of its type.
    """
    c = from_fields(path, description["network"], NaturalEPropConfig)
    from_fields(path, description["inner"], InnerLoop, "inner loop")
    return {
        "lsg.in/weight": (c.clock + c.target, c.lsg),
        "lsg.lsg/recurrence": (c.lsg, c.lsg),
        "lsg.out/weight": (c.lsg, c.trainee),
        "trainee.in/weight": (c.clock, c.trainee),
        "trainee.trainee/recurrence": (c.trainee, c.trainee),
        "trainee.out/weight": (c.trainee, c.outputs),
    }
