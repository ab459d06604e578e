"""E-prop on a user's model: one episode's update by our rule and by computations that share no code with it.

    E = 1/2 sum (y - target)^2,   L = W_out^T of the error, filtered back by the read-out (symmetric feedback)

The targets are the user's where the data hold some for the read-out; else they are normal numbers of a stated seed. A
network without read-outs is given learning signals instead, normal too. What stands in the way of the references is
moved, exactly: a bias into neurons becomes the weight of an input that is always 1, which is learned as any other; a
bias into a read-out goes into the target, since the error does not notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.adapters.eprop_wiring import EpropEpisode, misplaced
from ovonic.adapters.toolchains import refuse
from ovonic.models.errors import ConfigError, OvonicError, ToolchainError
from ovonic.models.layers import Input, Layer, Linear, Readout, Spiking
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import integrate
from ovonic.validation.gradients import (
    END_TO_END,
    TOLERANCE,
    Agreement,
    Episode,
    beside_bptt,
    compare_gradients,
    factorised,
)
from ovonic.validation.gradients_figures import agreement_figure
from ovonic.validation.own_subject import Given, OnStep, Settings
from ovonic.validation.report import At, Cell, Claim, Picture, Section, Table

__all__ = ["Gradients", "gradients_section", "measure_gradients", "without_biases"]

MOST_STEPS, MOST_SYNAPSES = 200, 100_000
"""Of an episode; a longer one is cut. Of a network: a trace for each synapse, step by step."""
ALWAYS = "always_1"


@dataclass(frozen=True, eq=False)
class Gradients:
    """What was found: the agreements; JSON values beside them; the conventions, a line each."""

    agreements: tuple[Agreement, ...]
    values: dict[str, Any]
    conventions: tuple[str, ...]

    @property
    def disagreeing(self) -> int:
        """References that say otherwise."""
        return sum(a.agrees is False for a in self.agreements)

    def figures(self) -> dict[str, Any]:
        """JSON values."""
        references = [
            {
                "reference": a.reference,
                "kind": "end to end" if a.reference in END_TO_END else "independent",
                "worst": a.worst,
                "same_spikes": a.same_spikes,
                "agrees": a.agrees,
                "refused": a.refused,
            }
            for a in self.agreements
        ]
        worst = [a.worst for a in self.agreements if a.worst is not None]
        return self.values | {
            "tolerance": TOLERANCE,
            "references": references,
            "worst": max(worst, default=None),
            "disagreeing": self.disagreeing,
            "conventions": list(self.conventions),
        }


def measure_gradients(
    network: Network, inputs: Mapping[str, Tensor], given: Given, settings: Settings, on_step: OnStep
) -> Gradients:
    """One episode: the first sample, cut to ``MOST_STEPS`` steps.

    Raises: UnsupportedDynamics, ConfigError: e-prop is not defined for the network, or not compared, by layer.
    """
    moved, always, conventions = without_biases(network)
    refuse("A comparison of e-prop", misplaced(moved))
    if (synapses := sum(array.size for array in moved.weights().values())) > MOST_SYNAPSES:
        raise ConfigError(f"{synapses} weights: a trace for each in every step; compared are up to {MOST_SYNAPSES}")
    x = {name: value[:1, :MOST_STEPS].double() for name, value in inputs.items()}
    like = next(iter(x.values()))
    steps = like.shape[1]
    if always:
        x[ALWAYS] = like.new_ones(1, steps, 1)
    rng = np.random.default_rng([settings.seed, 7])
    targets: dict[str, Tensor] = {}
    signal = None
    if network.readouts:
        targets = {y: torch.from_numpy(rng.normal(size=(1, steps, *network.shapes[y]))) for y in network.readouts}
        if given.targets is not None:
            targets = {network.readouts[0]: given.targets[:1, :steps].double()}
            conventions += ("targets: those of the first sample",)
        else:
            conventions += (f"targets: none for the read-out in the data, so normal numbers, seed {settings.seed}",)
        targets = {y: target - _offset(network, y, target) for y, target in targets.items()}
        conventions += (
            "error: E = 1/2 sum (y - target)^2; learning signals: symmetric feedback, W_out^T of the error",
        )
    else:
        (hidden,) = network.spiking
        signal = torch.from_numpy(rng.normal(size=(1, steps, *network.shapes[hidden])))
        conventions += (f"no read-out: learning signals are given, normal numbers, seed {settings.seed}",)
    episode = Episode("your model", moved, x, targets, signal)
    ours = factorised(episode)
    agreements = tuple(_agreements(episode, ours, settings.references, on_step))
    cosine, difference = beside_bptt(episode)
    sizes = {"steps": steps, "synapses": synapses, "samples": 1}
    silent = not bool(ours.trace[moved.spiking[0]].spikes.any())
    bptt = {"cosine": _number(cosine), "difference": _number(difference)}
    return Gradients(agreements, sizes | {"bptt": bptt, "silent": silent}, conventions)


def without_biases(network: Network) -> tuple[Network, bool, tuple[str, ...]]:
    """The same network with its biases moved out of the way (see the module's text).

    Returns: the network; whether it has an input more, ``ALWAYS``; what was done, a line each. Read-outs lose theirs:
        ``_offset`` is what they lacked then.
    """
    layers: dict[str, Layer] = dict(network.layers)
    edges = list(network.edges)
    lines: list[str] = []
    for name, layer in network.layers.items():
        if not isinstance(layer, Linear) or layer.bias is None:
            continue
        targets = [edge for edge in network.edges if edge.source == name]
        kinds = {type(network.layers[edge.target]) for edge in targets}
        if kinds == {Readout}:
            layers[name] = layer.replace(bias=None)
            lines.append(f"bias of {name}: moved into the target")
        elif kinds == {Spiking} and len(targets) == 1:
            own = f"{name}_bias"
            while own in layers:
                own += "_"
            layers[name], layers[own] = layer.replace(bias=None), Linear(layer.bias[None])
            layers.setdefault(ALWAYS, Input((1,)))
            edges += [Edge(ALWAYS, own), targets[0]._replace(source=own)]
            lines.append(f"bias of {name}: the weights of an input that is always 1")
    return Network(layers, tuple(edges), network.dt_ms), ALWAYS in layers, tuple(lines)


def _offset(network: Network, readout: str, like: Tensor) -> Tensor:
    """What the biases alone make of a read-out that rests at zero and starts there, [1, T, O]."""
    total = torch.zeros_like(like)
    for edge in network.sources(readout):
        layer = network.layers[edge.source]
        if isinstance(layer, Linear) and layer.bias is not None:
            shown = total + torch.from_numpy(layer.bias.copy())
            shown[:, : edge.delay] = 0
            plain = network.layers[readout]
            assert isinstance(plain, Readout)
            total = total + integrate(shown, plain.replace(rest=0.0, v_init=0.0))
    return total


def _agreements(episode: Episode, ours: EpropEpisode, references: tuple[str, ...], on_step: OnStep) -> list[Agreement]:
    found: list[Agreement] = []
    for reference in references:
        try:
            found += compare_gradients(episode, (reference,), ours)
        except ToolchainError as error:
            found.append(Agreement(episode.name, reference, None, {}, None, f"not there: {error}"))
        except OvonicError as error:
            found.append(Agreement(episode.name, reference, None, {}, None, str(error)))
        on_step()
    return found


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def gradients_section(found: Gradients, result: Mapping[str, Any], command: str, setting: str) -> Section:
    """The chapter. Args: result: holds ``figures()`` under "gradients". command: that draws the figure alone."""
    text = (
        "The update of one episode by e-prop (Bellec et al. 2020) as our factorised rule has it, synapse by synapse, "
        "beside computations that share no code with it: NumPy with a trace for every synapse, reverse-mode "
        "differentiation with the recurrent and the reset path detached, traces inside Brian2, NEST's own plasticity. "
        "`snntorch` and `norse` are our rule on traces that they recorded: an end-to-end check, not another rule.\n\n"
        f"Conventions: {'; '.join(found.conventions)}."
    )
    if result["gradients"]["silent"]:
        text += "\n\nNo neuron spiked in this episode, so that the slopes alone were compared."
    at = "gradients"
    claim = Claim.about(
        result, "Largest relative difference of an e-prop gradient", At(f"{at}/worst", "number"), "<=", TOLERANCE
    )
    rows: list[tuple[Cell, ...]] = []
    for k, a in enumerate(found.agreements):
        kind = "end to end" if a.reference in END_TO_END else "independent"
        verdict = {True: "agrees", False: "disagrees", None: f"not run: {a.refused}"}[a.agrees]
        spikes = {True: "the same", False: "others", None: "–"}[a.same_spikes]
        rows.append((a.reference, kind, At(f"{at}/references/{k}/worst", "number"), spikes, verdict))
    columns = ("Reference", "Kind", "Largest difference / largest gradient", "Spikes", "Verdict")
    tables = [
        Table("Who agrees with the update", columns, rows),
        Table(
            "What e-prop leaves out: beside backpropagation through time, input and recurrent weights",
            ("What", "Measured"),
            (
                ("Cosine", At(f"{at}/bptt/cosine", "number")),
                ("Relative difference", At(f"{at}/bptt/difference", "number")),
                ("Steps of the episode", At(f"{at}/steps", "number")),
                ("Synapses", At(f"{at}/synapses", "number")),
            ),
        ),
    ]
    ran = [a for a in found.agreements if a.worst is not None]
    pictures = [Picture.of(agreement_figure(ran, setting=f"{setting}."), command)] if ran else []
    return Section("Gradients", text, (claim,), tables, pictures)
