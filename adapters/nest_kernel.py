"""What NEST's kernel holds: its nodes by layer, and the connections that act on neurons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.nest_forms import READOUT
from ovonic.models.errors import UnsupportedDynamics

__all__ = ["INPUTS", "NONE", "Connections", "acting", "base_of", "columns", "scanned"]

Array = NDArray[Any]

INPUTS = ("spike_generator", "spike_train_injector", "parrot_neuron")
SYNAPSES = (
    "static_synapse",
    "static_synapse_hpc",
    "static_synapse_lbl",
    "eprop_synapse_bsshslm_2020",
    "eprop_synapse_bsshslm_2020_hpc",
)
LEARNING = ("eprop_learning_signal_connection_bsshslm_2020", "rate_connection_delayed")
"""Connections that carry errors and targets, by which no membrane moves."""


class Connections(NamedTuple):
    """Some of the kernel's connections: ids of nodes, weights, delays in steps, synapse models."""

    source: Array
    target: Array
    weight: Array
    steps: Array
    model: Array

    def where(self, chosen: Array) -> Connections:
        return Connections._make(column[chosen] for column in self)


NONE = Connections._make(np.zeros(0, dtype=int) for _ in range(5))


def scanned(nest: Any) -> dict[str, Any]:
    """The layers of a kernel's nodes: name -> NodeCollection, in the order in which they were made."""
    if not len(found := nest.GetNodes()):
        return {}
    ids, models = np.atleast_1d(found.get("global_id")), np.atleast_1d(found.get("model"))
    layers: dict[str, list[int]] = {}
    name, last = "", ""
    for node, model in zip(ids.tolist(), models, strict=True):
        if nest.GetDefaults(model)["element_type"] not in ("neuron", "stimulator"):
            continue
        if model != last or node - 1 not in layers[name]:
            name, last = f"{model}_{node}", model
            layers[name] = []
        layers[name].append(node)
    collections = {name: nest.NodeCollection(members) for name, members in layers.items()}
    return {name: c for name, c in collections.items() if not _only_feeds_parrots(nest, c)}


def _only_feeds_parrots(nest: Any, nodes: Any) -> bool:
    """Whether nodes are devices that act, if at all, on parrots or on the targets of read-outs."""
    base = base_of(nest, nodes)
    if nest.GetDefaults(base)["element_type"] != "stimulator":
        return False
    targets = nest.GetConnections(nodes).get("target")
    acted = set(np.atleast_1d(targets).tolist()) if len(nest.GetConnections(nodes)) else set()
    kinds = {base_of(nest, nest.NodeCollection([node])) for node in acted}
    return kinds <= {"parrot_neuron"} if base != "step_rate_generator" else kinds <= {"parrot_neuron", READOUT}


def base_of(nest: Any, nodes: Any) -> str:
    """The built-in model from which the model of these nodes was copied.

    Raises: UnsupportedDynamics: they are of several.
    """
    models = set(np.atleast_1d(nodes.get("model")).tolist())
    if len(models) != 1:
        raise UnsupportedDynamics(f"NEST layer of the models {', '.join(sorted(models))}: a layer has one")
    base: str = nest.GetDefaults(models.pop())["type_id"]
    return base


def columns(nest: Any, found: Any) -> Connections:
    """NEST's ``SynapseCollection`` as arrays."""
    if not len(found):
        return NONE
    keys = ("source", "target", "weight", "delay", "synapse_model")
    source, target, weight, delay, model = (np.atleast_1d(np.array(found.get(key))) for key in keys)
    return Connections(source, target, weight, np.round(delay / nest.resolution).astype(int), model)


def acting(nest: Any, ids: Mapping[str, Array], inputs: Iterable[str]) -> Connections:
    """The connections that act on the neurons of layers, all others being of no effect on them.

    Args:
        ids: of the nodes of every layer, and of other sources that are known. inputs: which of them are inputs.
    Raises: UnsupportedDynamics: some are no weights, or come from elsewhere.
    """
    every = columns(nest, nest.GetConnections())
    given = np.concatenate([ids[name] for name in inputs] or [NONE.source])
    known = np.concatenate(list(ids.values()))
    neurons = np.setdiff1d(known, given)
    if np.any(fed := np.isin(every.target, given) & np.isin(every.source, neurons)):
        raise UnsupportedDynamics(f"NEST: neuron {every.source[fed][0]} feeds an input: connect neurons directly")
    found = every.where(np.isin(every.target, neurons) & ~np.isin(every.model, LEARNING))
    others = np.unique(found.source[~np.isin(found.source, known)])
    recorders = [node for node in others if _kind(nest, node)["element_type"] == "recorder"]
    found = found.where(~np.isin(found.source, recorders))
    plain = _plain_synapses(nest, found.model)
    for k in np.flatnonzero(~(plain & np.isin(found.source, known)))[:1]:
        kind = _kind(nest, found.source[k])
        what = f"{kind['type_id']} {found.source[k]} acts by {found.model[k]} on neuron {found.target[k]}"
        remedy = "name it as a layer" if plain[k] else f"read are {', '.join(SYNAPSES)}"
        if kind["element_type"] == "stimulator":
            remedy = "put parrot neurons behind it, which are read as an input; for a constant current use I_e"
        raise UnsupportedDynamics(f"NEST: {what}: {remedy}")
    return found


def _kind(nest: Any, node: int) -> Any:
    return nest.GetDefaults(nest.NodeCollection([int(node)]).get("model"))


def _plain_synapses(nest: Any, models: Array) -> Array:
    """Which connections carry a constant weight: static and e-prop synapses, and copies of static ones."""
    kinds = {}
    plain = nest.GetDefaults("static_synapse")
    for model in np.unique(models).tolist():
        given = nest.GetDefaults(model)
        copied = set(given) == set(plain) and given["sizeof"] == plain["sizeof"] and not model.startswith("cont_")
        kinds[model] = model in SYNAPSES or copied
    return np.array([kinds[model] for model in models.tolist()], dtype=bool)
