"""Natural e-prop: a network learns from one trial, taught by another network that was optimised for teaching.

Two spiking networks. The **trainee**, LIF neurons, is told nothing but the time by a clock x, and gives omega. The
**learning-signal generator** (LSG), LIF and adaptive neurons, reads the clock and the target, never the trainee, and
its leaky read-out L has one component a neuron of the trainee. In each lesson, from zero state every time,

    trial     z[t], v[t], omega[t] of the trainee with its weights W
    update    G_ij = sum_t trace_i[t] h_j[t] L_j[t],    trace[t] = alpha trace[t-1] + presynaptic spikes
              Delta = -rate G, rounded to multiples of ``step``;   W <- W + Delta
    trial     the same clock, the new weights

for the input weights (presynaptic: x[t]) and the recurrent ones (z[t-1]); alpha is the decay of the membrane, h the
slope of the spikes (``lif.pseudo_derivative``). The diagonal of the recurrent matrix is updated but has no effect. G is
e-prop's gradient of sum_t L[t] z[t]. The weights that every lesson starts from, those of the LSG and the trainee's
read-out are found by descending an outer loss (``models.outer_loss``) through the update and both trials.

Reference: Ortner et al. 2025, Nature Communications 16:1243, and its published code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovonic.models.dynamics import Dynamics, NoReset, SubtractThreshold
from ovonic.models.eligibility import presynaptic_trace
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Readout, Spiking
from ovonic.models.lif import PUBLISHED, Paths, masked, pseudo_derivative
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Pair, initial_pair
from ovonic.models.network import Network
from ovonic.models.quantise import ROUNDINGS, round_to_step
from ovonic.models.shared_draws import Source
from ovonic.models.simulation import Product, Simulator, run
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate
from ovonic.models.trace import Trace

__all__ = ["Engine", "InnerLoop", "Lesson", "NaturalEProp", "Products", "Update", "teach", "update"]


@dataclass(frozen=True)
class InnerLoop:
    """How a lesson goes.

    Attributes:
        rate: inner learning rate.
        step: updates are multiples of it; None leaves them as they are. The gradient passes straight through.
        rounding: ``"nearest"`` (half to even) or ``"stochastic"``.
        updates: trial, and as many times update and trial; 0 is a lone trial.
    """

    rate: float = 1e-4
    step: float | None = 1 / 16
    rounding: str = "nearest"
    updates: int = 1

    def __post_init__(self) -> None:
        if not math.isfinite(self.rate):
            raise ConfigError(f"rate {self.rate}: must be finite")
        if self.step is not None and not 0 < self.step < math.inf:
            raise ConfigError(f"step {self.step}: must be positive, or None for no rounding")
        if self.rounding not in ROUNDINGS:
            raise ConfigError(f"rounding {self.rounding!r}: choose one of {', '.join(ROUNDINGS)}")
        if type(self.updates) is not int or self.updates < 0:
            raise ConfigError(f"updates {self.updates!r}: must be a whole number, at least 0")


class Products(Protocol):
    """Where weights live and who multiplies by them: software, or a crossbar that is programmed.

    It is called before every run of a network, with

        weights: the network's weights by name, [in, out] (or as ``teach`` was given them): what a lesson starts from;
        changes: what the lesson has added to them so far, one a sample, [B, in, out]; empty before the first update.

    The diagonal of a masked recurrence is zero in both. What it returns goes to ``simulation.run``: for each weight a
    tensor, or the callable that gives x W, [..., in] -> [..., out]: [B, T, in] at once for a linear layer, [B, in] in
    every step for a recurrence. A weight that it leaves out is multiplied in software, weights + changes.
    """

    def __call__(
        self, weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor | Product]: ...


class Engine(Protocol):
    """Runs a network, as ``simulation.run`` does; a faster one may stand in."""

    def __call__(
        self,
        network: Network,
        inputs: Tensor,
        weights: Mapping[str, Tensor | Product],
        surrogate: Surrogate,
        paths: Paths,
    ) -> Trace: ...


class Update(NamedTuple):
    """One update; dictionaries are by the name of the weight (``"in.weight"``, ``"trainee.recurrence"``).

    slope: h, [B, T, N]. traces: filtered presynaptic spikes, [B, T, in]. gradient: sum_t trace h L, [B, in, N].
    change: what was added to the weights, [B, in, N]: -rate gradient, rounded.
    """

    slope: Tensor
    traces: dict[str, Tensor]
    gradient: dict[str, Tensor]
    change: dict[str, Tensor]


class Lesson(NamedTuple):
    """What happened in a lesson: ``len(updates) + 1`` trials, the signals that taught, and who gave them, if a run."""

    trials: tuple[Trace, ...]
    updates: tuple[Update, ...]
    learning_signal: Tensor
    lsg: Trace | None = None

    @property
    def before(self) -> Tensor:
        """The output of the first trial, [B, T, outputs]."""
        return self.trials[0].readout

    @property
    def after(self) -> Tensor:
        """The output of the last trial, [B, T, outputs]."""
        return self.trials[-1].readout

    @property
    def changes(self) -> dict[str, Tensor]:
        """The sum of all updates, by weight, [B, in, N]; empty without updates."""
        return functools.reduce(_added, (update.change for update in self.updates), {})


def teach(
    trainee: Network,
    clock: Tensor,
    learning_signal: Tensor,
    inner: InnerLoop | None = None,
    weights: Mapping[str, Tensor] | None = None,
    products: Products | None = None,
    generator: Source | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
    paths: Paths = PUBLISHED,
    engine: Engine = run,
) -> Lesson:
    """Give a lesson: trial, update, trial; differentiable in weights and learning signals.

    Args:
        trainee: as ``trainee_network`` builds it.
        clock: [B, T, clock], spikes of a floating dtype, which is the lesson's.
        learning_signal: L, [B, T, N].
        inner: how it goes; the default is the paper's.
        weights: replacements of the trainee's weights by name, tensors [in, out], or one a sample, [B, in, out].
        products: see ``Products``; None multiplies in software.
        generator: source of stochastic rounding.
        surrogate, paths: of ``lif.step``; engine: what runs the trials.
    Raises: ConfigError: another graph, dynamics whose e-prop needs more than h and a trace of each input (``models.
        eprop`` has those), or learning signals of another shape.
    """
    inner = inner or InnerLoop()
    _check(trainee)
    due = (*clock.shape[:2], *trainee.shapes[trainee.spiking[0]])
    if learning_signal.shape != due:
        raise ConfigError(f"learning_signal: shape {tuple(learning_signal.shape)} where {due} is due")
    base = {
        name: torch.tensor(w, dtype=clock.dtype, device=clock.device)
        for name, w in trainee.weights().items()
        if name not in (weights or {})
    } | dict(weights or {})
    changes: dict[str, Tensor] = {}
    trials: list[Trace] = []
    updates: list[Update] = []
    while True:
        placed = _placed(trainee, base, changes, products)
        trials.append(engine(trainee, clock, placed, surrogate, paths))
        if len(updates) == inner.updates:
            return Lesson(tuple(trials), tuple(updates), learning_signal)
        updates.append(update(trainee, trials[-1], learning_signal, inner, generator, surrogate))
        changes = _added(changes, updates[-1].change)


def update(
    trainee: Network,
    trial: Trace,
    learning_signal: Tensor,
    inner: InnerLoop | None = None,
    generator: Source | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
) -> Update:
    """The update that follows from a trial, from whatever toolchain its trace comes; arguments as in ``teach``."""
    inner = inner or InnerLoop()
    clock, w_in, spiking, dynamics, delay = _check(trainee)
    spikes = trial[spiking].spikes
    slope = pseudo_derivative(trial[spiking], dynamics, surrogate)
    late = F.pad(spikes, (0, 0, delay, 0))[:, : spikes.shape[1]]
    traces = {
        f"{w_in}.weight": presynaptic_trace(trial.inputs[clock].to(spikes.dtype), dynamics),
        f"{spiking}.recurrence": presynaptic_trace(late, dynamics),
    }
    taught = slope * learning_signal
    gradient = {name: trace.transpose(1, 2) @ taught for name, trace in traces.items()}
    change = {name: -inner.rate * g for name, g in gradient.items()}
    if inner.step is not None:
        change = {name: round_to_step(c, inner.step, inner.rounding, generator) for name, c in change.items()}
    return Update(slope, traces, gradient, change)


class NaturalEProp(nn.Module):
    """The six learnable weights of the pair: ``teach`` as a module.

    Parameters are ``lsg.in/weight``, ``lsg.lsg/recurrence``, ``lsg.out/weight``, ``trainee.in/weight``,
    ``trainee.trainee/recurrence`` and ``trainee.out/weight``.

    Args:
        pair: the networks, as ``initial_pair`` builds them.
        surrogate, paths, engine: as in ``teach``, for both networks.
        dtype: of the weights.
    Raises: ConfigError: networks that do not fit each other.
    """

    def __init__(
        self,
        pair: Pair,
        surrogate: Surrogate = PUBLISHED_SLOPE,
        paths: Paths = PUBLISHED,
        engine: Engine = run,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        _check(pair.trainee)
        neurons = [pair.trainee.shapes[name] for name in pair.trainee.spiking]
        signals = [pair.lsg.shapes[name] for name in pair.lsg.readouts]
        if signals != neurons or len(pair.lsg.inputs) != 1:
            raise ConfigError(f"learning signals {signals} of the LSG do not fit the trainee's neurons {neurons}")
        self.lsg, self.trainee = (Simulator(network, surrogate, paths, dtype) for network in pair)
        self.engine = engine

    @classmethod
    def initial(cls, config: NaturalEPropConfig | None = None, seed: int = 0, **options: Any) -> Self:
        """With the weights of ``initial_pair``."""
        return cls(initial_pair(config, seed), **options)

    def signals(self, lsg_input: Tensor, products: Products | None = None) -> Trace:
        """Run the LSG on clock and target, [B, T, clock + target]; the trace's read-out is the learning signal."""
        lsg = self.lsg
        weights = _placed(lsg.network, lsg.weights(), {}, products)
        return self.engine(lsg.network, lsg_input, weights, lsg.surrogate, lsg.paths)

    def forward(
        self,
        clock: Tensor,
        lsg_input: Tensor,
        inner: InnerLoop | None = None,
        generator: Source | None = None,
        products: Products | None = None,
        lsg_products: Products | None = None,
    ) -> Lesson:
        """A lesson taught by the LSG.

        Args:
            clock: [B, T, clock]; lsg_input: clock and target, [B, T, clock + target].
            products, lsg_products: of the trainee and of the LSG; the others as in ``teach``.
        """
        lsg = self.signals(lsg_input, lsg_products)
        return self.teach(clock, lsg.readout, inner, generator, products)._replace(lsg=lsg)

    def teach(
        self,
        clock: Tensor,
        learning_signal: Tensor,
        inner: InnerLoop | None = None,
        generator: Source | None = None,
        products: Products | None = None,
    ) -> Lesson:
        """A lesson with given learning signals, as controls need (random, shuffled)."""
        t, engine = self.trainee, self.engine
        options = (inner, t.weights(), products, generator, t.surrogate, t.paths, engine)
        return teach(t.network, clock, learning_signal, *options)

    def describe(self) -> Pair:
        """The networks with the present weights."""
        return Pair(self.lsg.describe(), self.trainee.describe())


def _check(trainee: Network) -> tuple[str, str, str, Dynamics, int]:
    """Names of input, input weights and spiking layer; its dynamics and recurrent delay."""
    layers = trainee.layers
    spiking = next((layer for layer in layers.values() if isinstance(layer, Spiking)), None)
    due = [Input, Linear, Spiking, Linear, Readout]
    if (
        [type(layer) for layer in layers.values()] != due
        or len(trainee.edges) != len(due) - 1
        or any(edge.delay for edge in trainee.edges)
        or spiking is None
        or spiking.recurrence is None
        or spiking.recurrence.weight.ndim != 2
    ):
        raise ConfigError("trainee: must be input, linear, recurrent spiking, linear, read-out, without delays")
    names, d = list(layers), spiking.dynamics
    known = isinstance(d.reset, NoReset | SubtractThreshold) and isinstance(d.decay, float)
    if not known or d.adaptation or d.synapse or d.refractory.frozen or d.gain != 1:
        raise ConfigError(
            f"trainee layer {names[2]!r}: natural e-prop learns LIF neurons with one decay, gain 1 and a reset by "
            "subtraction or none, without adaptation, synapse or frozen membrane: see models.eprop for more"
        )
    return names[0], names[1], names[2], d, spiking.recurrence.delay


def _added(total: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: total[name] + c if name in total else c for name, c in change.items()}


def _placed(
    network: Network, weights: Mapping[str, Tensor], changes: Mapping[str, Tensor], products: Products | None
) -> dict[str, Tensor | Product]:
    placed: dict[str, Tensor | Product] = {
        name: w + changes[name] if name in changes else w for name, w in weights.items()
    }
    if products is not None:
        hollow = {
            f"{name}.recurrence"
            for name, layer in network.layers.items()
            if isinstance(layer, Spiking) and layer.recurrence is not None and layer.recurrence.masked_diagonal
        }

        def effective(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: masked(w) if name in hollow else w for name, w in given.items()}

        placed |= products(effective(weights), effective(changes))
    return placed
