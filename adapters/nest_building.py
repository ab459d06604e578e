"""Build a network from NEST's nodes and connections.

    here                               NEST
    Input                              spike_generator, one a neuron; values other than 1 by spike_weights
    Linear W                           static_synapse_lbl, all_to_all, of weights W^T
    Linear b                           the same from one neuron that fires in every step
    an edge without a Linear           static_synapse_lbl, one_to_one, of weight 1
    Recurrence W, masked; w            all_to_all without autapses; one_to_one
    a membrane that starts elsewhere   a spike of the difference to its rest, just before step 0
    the mended reset                   one_to_one to itself (``nest_forms.self_weight``)

Every connection carries as synapse_label the number of its ``Joint``. A connection takes at least one step in NEST, so
that each layer begins later than those it reads without a delay: step t of a layer is stamped t + first + 1 steps,
``first`` being 0 for inputs. A synaptic current moves the membrane a step after it came: its connections are one step
shorter. Times are in steps of the kernel's resolution.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.nest_forms import CURRENT, HARD, fires_on_ties, model_of, parameters, self_weight, weight_scale
from ovonic.models.errors import ToolchainError
from ovonic.models.layers import Input, Linear, Readout, Spiking
from ovonic.models.network import Network

__all__ = ["Joint", "NestNetwork", "connect", "create", "joints_of", "late", "load", "quiet", "resolution"]

Array = NDArray[Any]

ONE, START = "one", "start"
"""Sources of joints that are no layers: the neuron that fires in every step, and the spike before step 0."""


class Joint(NamedTuple):
    """Connections of one kind between two layers.

    name: what it is: a Linear's name, an edge as ``"source -> target"``, or ``"recurrence"``, ``"own"``, ``"reset"``,
    ``"bias"``, ``"start"``. steps: NEST's delay. behind: the part of it behind the Linear. weights: [in, out], or [n]
    one to one. hollow: without the diagonal.
    """

    kind: str
    name: str
    source: str
    target: str
    steps: int
    weights: Array
    behind: int = 0
    hollow: bool = False


@dataclass(frozen=True, eq=False)
class NestNetwork:
    """What ``to_nest`` made in the kernel.

    Attributes:
        layers: name -> ``NodeCollection`` of every input, spiking layer and read-out: spike generators and neurons.
        first: name -> step 0 of that layer has the time stamp (first + 1) steps: x[t] of an input is a spike at
            (t + 1) steps, z[t] of a layer is recorded at (t + first + 1) steps, and so is its V_m.
        ties: layers whose > NEST takes for >=: their network is this one while no V_m meets its threshold.
        one, start: the neuron that gives biases, the generator that gives first membranes; None if there are none.
        joints: what the connections of each synapse_label are, (kind, name, source, target, delay behind a Linear).
        dt_ms: duration of a step of the network; the kernel's resolution, if NEST can have it, else that is 1 ms.
    """

    layers: Mapping[str, Any]
    first: Mapping[str, int]
    ties: tuple[str, ...]
    one: Any
    start: Any
    joints: tuple[tuple[str, str, str, str, int], ...]
    dt_ms: float


def load() -> Any:
    """NEST, without its banner and without its change of how Python loads other libraries.

    Raises: ToolchainError: it does not load.
    """
    before, flags = os.environ.get("PYNEST_QUIET"), sys.getdlopenflags()
    os.environ["PYNEST_QUIET"] = "1"
    try:
        import nest
    except Exception as error:
        raise ToolchainError(
            f"NEST does not load ({error}): pip install 'ovonic[nest]', or run ovonic doctor"
        ) from error
    finally:
        sys.setdlopenflags(flags)
        if before is None:
            del os.environ["PYNEST_QUIET"]
        else:
            os.environ["PYNEST_QUIET"] = before
    return nest


@contextmanager
def quiet() -> Iterator[Any]:
    """NEST, silent but for errors, and as talkative as before afterwards."""
    nest = load()
    verbosity = nest.verbosity
    nest.verbosity = nest.VerbosityLevel.ERROR
    try:
        yield nest
    finally:
        nest.verbosity = nest.VerbosityLevel(verbosity)


def resolution(dt_ms: float) -> float:
    """The kernel's resolution for a network: its step, or 1 ms where that is no whole number of NEST's tics."""
    tics = round(dt_ms * 1000)
    return dt_ms if 0 < tics < 10**9 and tics / 1000 == dt_ms else 1.0


def joints_of(network: Network) -> tuple[list[Joint], dict[str, int]]:
    """The connections of a network, and the first step of each layer that has neurons."""
    first: dict[str, int] = {}
    joints: list[Joint] = []
    for name, layer in network.layers.items():
        if isinstance(layer, Input):
            first[name] = 0
        elif isinstance(layer, Spiking | Readout):
            made = [joint._replace(steps=joint.steps - late(layer)) for joint in _arriving(network, name, layer, first)]
            first[name] = max([0, *(1 - joint.steps for joint in made)])
            joints += [joint._replace(steps=joint.steps + first[name]) for joint in made]
            if isinstance(layer, Spiking):
                joints += _own(name, layer, network.shapes[name][0], resolution(network.dt_ms))
    return joints, first


def late(layer: Spiking | Readout) -> int:
    """Steps from the arrival of a spike to the first membrane that it moves."""
    return int(model_of(layer) == CURRENT)


def _arriving(network: Network, name: str, layer: Spiking | Readout, first: Mapping[str, int]) -> Iterator[Joint]:
    """The joints into a layer, with delays as if it began with the inputs."""
    d: Any = layer if isinstance(layer, Readout) else layer.dynamics
    (n,) = network.shapes[name]
    scale = np.broadcast_to(weight_scale(layer, resolution(network.dt_ms)), (n,))
    for edge in network.sources(name):
        linear = network.layers[edge.source]
        if not isinstance(linear, Linear):
            yield Joint("edge", str(edge), edge.source, name, edge.delay - first[edge.source], np.ones(n) * scale)
            continue
        (before,) = network.sources(edge.source)
        steps = before.delay + edge.delay - first[before.source]
        yield Joint("linear", edge.source, before.source, name, steps, linear.weight * scale, edge.delay)
        if linear.bias is not None:
            yield Joint("bias", edge.source, ONE, name, edge.delay, (linear.bias * scale)[None])
    if np.any(np.not_equal(d.v_init, d.rest)):
        yield Joint("start", name, START, name, -1, np.broadcast_to(d.v_init - np.asarray(d.rest), (1, n)))


def _own(name: str, layer: Spiking, n: int, dt: float) -> Iterator[Joint]:
    """The joints of a layer with itself."""
    scale = np.broadcast_to(weight_scale(layer, dt), (n,))
    if (recurrence := layer.recurrence) is not None:
        kind = "own" if recurrence.weight.ndim == 1 else "recurrence"
        weights, hollow = recurrence.weight * scale, recurrence.masked_diagonal
        yield Joint(kind, name, name, name, recurrence.delay - late(layer), weights, hollow=hollow)
    mending = np.broadcast_to(self_weight(layer.dynamics), (n,))
    if mending.any():
        yield Joint("reset", name, name, name, 1, mending)


def create(nest: Any, network: Network, batch: int = 1) -> tuple[NestNetwork, list[Joint]]:
    """Nodes of a network in an empty kernel, one copy of each layer a sample; not yet connected."""
    dt = resolution(network.dt_ms)
    nest.resolution = dt
    nest.set(eprop_update_interval=1e9 * dt, eprop_learning_window=1e9 * dt, eprop_reset_neurons_on_update=False)
    joints, first = joints_of(network)
    layers = {}
    for name in first:
        layer, n = network.layers[name], batch * network.shapes[name][0]
        if isinstance(layer, Input):
            layers[name] = nest.Create("spike_generator", n)
        elif isinstance(layer, Spiking | Readout):
            given = {key: _native(value, batch) for key, value in parameters(layer, dt).items()}
            layers[name] = nest.Create(model_of(layer), n, given)
    sources = {joint.source for joint in joints}
    one = start = None
    if ONE in sources:
        one = nest.Create(HARD, 1, {"E_L": 0.0, "V_m": 0.0, "V_th": 1.0, "V_reset": 0.0, "t_ref": 0.0, "I_e": 1e6})
    if START in sources:
        start = nest.Create("spike_generator", 1, {"spike_times": [dt]})
    ties = tuple(name for name in network.spiking if fires_on_ties(network.layers[name]))  # type: ignore[arg-type]
    listed = tuple((joint.kind, joint.name, joint.source, joint.target, joint.behind) for joint in joints)
    return NestNetwork(layers, first, ties, one, start, listed, network.dt_ms), joints


def connect(nest: Any, made: NestNetwork, joints: list[Joint], batch: int, targets: Mapping[str, Any]) -> None:
    """The connections into ``targets``, layer by layer and sample by sample."""
    dt = nest.resolution
    for label, joint in enumerate(joints):
        if joint.target not in targets:
            continue
        weights = np.array(joint.weights)
        if joint.hollow:
            np.fill_diagonal(weights, 0)
        how = {"rule": "all_to_all" if weights.ndim == 2 else "one_to_one", "allow_autapses": not joint.hollow}
        synapse = {"synapse_model": "static_synapse_lbl", "synapse_label": label, "delay": joint.steps * dt}
        n_out = weights.shape[-1]
        for sample in range(batch):
            to = targets[joint.target][sample * n_out : (sample + 1) * n_out]
            if joint.source in made.layers:
                n_in = weights.shape[0]
                given = made.layers[joint.source][sample * n_in : (sample + 1) * n_in]
            else:
                given = made.one if joint.source == ONE else made.start
            nest.Connect(given, to, how, synapse | {"weight": weights.T if weights.ndim == 2 else weights})


def _native(value: Any, batch: int) -> Any:
    """A number, or one for each neuron of each sample, in Python's types."""
    if np.ndim(value) == 0:
        return np.asarray(value).item()
    return np.tile(value, batch).tolist()
