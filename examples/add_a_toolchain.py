"""Add a toolchain of your own, and let the suite that every adapter passes judge it.

    uv run python examples/add_a_toolchain.py --networks 300

``Population`` stands for somebody's simulator: leaky neurons in NumPy, with the resets, the comparison and the
refractoriness that it happens to have. What follows is all that an adapter needs: ``unsupported`` says what of a
network the simulator cannot express, and where something near it can; ``run`` runs the rest on the simulator's own
code. Where the two disagree with each other or with the description, the suite finds a network that shows it
(docs/adding_a_toolchain.md).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.toolchains import Unsupported, refuse, register, unregister
from ovonic.models.dynamics import Comparison, NoReset, SubtractThreshold, When
from ovonic.models.layers import Input, Linear, Readout, Spiking
from ovonic.models.lif import silence
from ovonic.models.network import Network
from ovonic.models.simulation import inputs_by_name
from ovonic.models.trace import LayerTrace, Trace
from ovonic.validation.comparison import compare
from ovonic.validation.conformance import Conformance, conformance
from ovonic.validation.feature_networks import FEATURES, bases_of, feature
from ovonic.validation.random_networks import recurrent_example
from ovonic.validation.toolchain_support import Kind, support

Array = NDArray[Any]

# ------------------------------------------------------------------------------------------------- their simulator


class Population:
    """Leaky neurons: v' = decay v + current; a spike where v' > threshold takes ``drop`` away, at once or a step later.

    After a spike a neuron integrates, but is silent for ``pause`` steps. With an infinite threshold it only leaks.
    """

    def __init__(self, empty: Array, decay: Any, threshold: Any = np.inf, v: Any = 0.0) -> None:
        self.v, self.fired, self.wait = empty + v, empty, np.zeros(empty.shape, int)
        self.decay, self.threshold = decay, threshold
        self.drop, self.late, self.pause = 0, False, 0

    def step(self, current: Array) -> tuple[Array, Array]:
        """Spikes, and the potentials at which they were decided."""
        lost = self.fired * self.drop
        self.v = self.decay * self.v + current - lost if self.late else self.decay * (self.v - lost) + current
        self.fired = ((self.v > self.threshold) & (self.wait == 0)).astype(self.v.dtype)
        self.wait = np.where(self.fired, self.pause, np.maximum(self.wait - 1, 0))
        return self.fired, self.v


# ----------------------------------------------------------------------------------------------------- the adapter


def unsupported(network: Network) -> list[Unsupported]:
    """What ``Population`` cannot express exactly; an entry with ``instead`` offers the nearest that it can."""
    return list(_found(network))


def _found(network: Network) -> Iterator[Unsupported]:
    for name, layer in network.layers.items():
        if not isinstance(layer, Input | Linear | Spiking | Readout):
            yield Unsupported(name, type(layer).__name__, "there is no such layer", "write it out as a Linear")
        elif len(network.shapes[name]) != 1:
            yield Unsupported(name, "shape", f"{network.shapes[name]}: neurons stand in a line", "use a Flatten")
        elif isinstance(layer, Spiking | Readout):
            yield from _of_neurons(name, layer)


def _of_neurons(name: str, layer: Spiking | Readout) -> Iterator[Unsupported]:
    d: Any = layer.dynamics if isinstance(layer, Spiking) else layer
    owner = type(d).__name__
    if d.synapse is not None:
        yield Unsupported(name, f"{owner}.synapse", "input arrives at once", "leave it out")
    if np.any(d.rest):
        yield Unsupported(name, f"{owner}.rest", "the membrane decays to 0", "shift thresholds and potentials")
    if not isinstance(layer, Spiking):
        return
    if d.adaptation is not None:
        yield Unsupported(name, "Dynamics.adaptation", "thresholds are fixed", "leave it out")
    if d.refractory.frozen:
        yield Unsupported(name, "Dynamics.refractory", "the membrane goes on integrating", "use frozen=False")
    if d.comparison is not Comparison.GREATER:
        near = layer.replace(dynamics=d.replace(comparison=Comparison.GREATER))
        yield Unsupported(name, "Dynamics.comparison", "it compares by >", "", near, "a tie is no spike")
    if not isinstance(d.reset, SubtractThreshold | NoReset):
        near = layer.replace(dynamics=d.replace(reset=SubtractThreshold(d.reset.when)))
        yield Unsupported(name, "Dynamics.reset", "a spike takes the threshold away", "", near, f"{d.reset}")


def run(network: Network, inputs: Tensor | Mapping[str, Tensor]) -> Trace:
    """Run from the initial state, step by step, layer by layer.

    Raises: UnsupportedDynamics: what ``unsupported`` lists. ConfigError: a bad input.
    """
    refuse("population", unsupported(network))
    given = inputs_by_name(network, inputs)
    like = next(iter(given.values()))
    batch, steps = like.shape[:2]
    gave: dict[str, list[Array]] = {name: list(x.transpose(0, 1).numpy()) for name, x in given.items()}
    gave |= {name: [] for name in network.layers if name not in given}
    potentials: dict[str, list[Array]] = {name: [] for name in network.layers}
    floats = like.numpy().dtype
    layers: Any = {name: layer.map_arrays(lambda a: _as(a, floats)) for name, layer in network.layers.items()}
    empty = {name: np.zeros((batch, *shape), floats) for name, shape in network.shapes.items()}
    groups = {name: _group(layer, empty[name]) for name, layer in layers.items()}

    def at(step: int, name: str) -> Array:
        return gave[name][step] if step >= 0 else empty[name]

    for t in range(steps):
        for name, layer in layers.items():
            if isinstance(layer, Input):
                continue
            current: Any = sum(at(t - edge.delay, edge.source) for edge in network.sources(name))
            if isinstance(layer, Linear):
                gave[name].append(current @ layer.weight + (0 if layer.bias is None else layer.bias))
                continue
            if isinstance(layer, Spiking) and layer.recurrence is not None:
                current = current + at(t - layer.recurrence.delay, name) @ _matrix(layer)
            gain = layer.dynamics.gain if isinstance(layer, Spiking) else layer.gain
            spikes, v = groups[name].step(gain * current)
            gave[name].append(spikes if isinstance(layer, Spiking) else v)
            potentials[name].append(v)

    def stacked(values: list[Array]) -> Tensor:
        return torch.from_numpy(np.stack(values, 1)).to(like)

    traces = {
        name: _layer_trace(layers[name], stacked(gave[name]), stacked(potentials[name])) for name in network.spiking
    }
    return Trace(traces, {name: stacked(gave[name]) for name in network.readouts}, given, network.dt_ms)


def _as(array: Array, floats: np.dtype[Any]) -> Array:
    return array.astype(floats) if array.dtype.kind == "f" else array


def _group(layer: Any, empty: Array) -> Any:
    """The population of a layer of neurons; None for layers without."""
    if isinstance(layer, Readout):
        return Population(empty, layer.decay, v=layer.v_init)
    if not isinstance(layer, Spiking):
        return None
    d = layer.dynamics
    group = Population(empty, d.decay, d.threshold, d.v_init)
    group.pause, group.late = d.refractory.silent_steps, d.reset.when is When.NEXT_AFTER_INPUT
    if not isinstance(d.reset, NoReset):
        group.drop = d.threshold
    return group


def _matrix(layer: Any) -> Array:
    weight = layer.recurrence.weight
    if weight.ndim == 1:
        return np.diag(weight)
    return weight * (1 - np.eye(len(weight))) if layer.recurrence.masked_diagonal else weight


def _layer_trace(layer: Any, spikes: Tensor, membrane: Tensor) -> LayerTrace:
    silent = layer.dynamics.refractory.silent_steps
    return LayerTrace(spikes, membrane, silence(spikes, silent) if np.any(silent) else None)


# ------------------------------------------------------------------------------------------------------- the proof


def features(name: str) -> Counter[Kind]:
    """The verdicts on every feature of the description, each on every layer that it is tried on."""
    return Counter(support(name, feature(g, f, base)).kind for g, f in FEATURES for base in bases_of(g))


def main(arguments: list[str] | None = None) -> tuple[Conformance, Counter[Kind]]:
    parser = argparse.ArgumentParser(description="Register a toolchain, and let the conformance suite judge it.")
    parser.add_argument("--networks", type=int, default=300, help="random networks (default 300)")
    options = parser.parse_args(arguments)
    register("population", sys.modules[__name__])
    try:
        found, verdicts = conformance("population", options.networks), features("population")
        counts = f"{found.exact} exact, {found.refused_networks} refused by name, {len(found.diverged)} diverged"
        print(f"{found.count} random networks: {counts}")
        print("features: " + ", ".join(f"{verdicts[kind]} {kind}" for kind in Kind))
        adapting = feature("Adaptation", "a spike counts in full", "a subtracted threshold").network
        print(f"a refusal: {unsupported(adapting)[0]}")
        tied = feature("Ties", ">=, the threshold subtracted", "gain 1").network
        print(f"a loss by consent: {compare(tied, ['population'], lossy=['comparison']).losses['population'][0]}")
        verdict = compare(recurrent_example(), ["population"]).pairs[1].verdict
        print(f"a recurrent network, beside {verdict.a}: {verdict.verdict}, |dv| {verdict.max_dv:.0e}")
    finally:
        unregister("population")
    return found, verdicts


if __name__ == "__main__":
    judged, kinds = main()
    sys.exit(0 if judged.conforms and not kinds[Kind.WRONG] else 1)
