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
read-out are found by descending the outer loss over many lessons, through the update and both trials:

    mse(omega) / 2 + mse(path) / 2 + (sum_n (rate_n - 20 Hz)^2 + sum_m (rate_m - 10 Hz)^2) / 4,   rates a step

of the last trial; path is what a callable makes of omega (for an arm, its kinematics), n the trainee's neurons over all
trials, m the LSG's; each rate is a mean over the batch.

Reference: Ortner et al. 2025, Nature Communications 16:1243, and its published code, which gives the Cartesian term no
gradient (``Objective(path_gradient=False)``); ours has one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ovonic.models.dynamics import (
    Adaptation,
    Dynamics,
    NoReset,
    Refractory,
    SubtractAdapted,
    SubtractThreshold,
    decay_from_tau,
)
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.lif import PUBLISHED, Paths, masked, pseudo_derivative
from ovonic.models.network import Network
from ovonic.models.quantise import ROUNDINGS, round_to_step
from ovonic.models.simulation import Product, Simulator, integrate, run
from ovonic.models.surrogates import PUBLISHED_SLOPE, Surrogate
from ovonic.models.trace import Trace

__all__ = [
    "Engine",
    "InnerLoop",
    "Lesson",
    "NaturalEProp",
    "NaturalEPropConfig",
    "Objective",
    "OuterLoss",
    "Pair",
    "Products",
    "Update",
    "initial_pair",
    "lsg_network",
    "outer_loss",
    "teach",
    "trainee_network",
    "update",
]

# ------------------------------------------------------------------------------------------------ the two networks


@dataclass(frozen=True)
class NaturalEPropConfig:
    """Sizes and dynamics of the two networks; the defaults are the paper's.

    Attributes:
        clock: neurons of the clock, which both read; target: inputs that tell the LSG the target.
        trainee: LIF neurons of the trainee; outputs: of its read-out.
        lsg_lif, lsg_alif: neurons of the LSG without and with adaptation, in this order.
        trainee_threshold, lsg_threshold: thresholds; beta: height of the threshold a unit of adaptation.
        tau_mem_ms: of membranes and read-outs; tau_adaptation_ms: of the adaptation; dt_ms: a step.
        n_ref: refractory counter of both: n_ref - 1 silent steps.
    """

    clock: int = 5
    target: int = 48
    trainee: int = 250
    outputs: int = 2
    lsg_lif: int = 560
    lsg_alif: int = 240
    trainee_threshold: float = 0.6
    lsg_threshold: float = 1.3
    beta: float = 1.6
    tau_mem_ms: float = 20.0
    tau_adaptation_ms: float = 600.0
    dt_ms: float = 1.0
    n_ref: int = 5

    def __post_init__(self) -> None:
        least = {"clock": 1, "trainee": 1, "outputs": 1, "target": 0, "lsg_lif": 0, "lsg_alif": 0, "n_ref": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ConfigError(f"{name} {value!r}: must be a whole number, at least {low}")
        if not self.lsg:
            raise ConfigError("lsg_lif 0 and lsg_alif 0: the learning-signal generator needs neurons")
        for name in ("trainee_threshold", "lsg_threshold", "tau_mem_ms", "tau_adaptation_ms", "dt_ms"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} {getattr(self, name)}: must be positive and finite")
        if not math.isfinite(self.beta):
            raise ConfigError(f"beta {self.beta}: must be finite")

    @property
    def lsg(self) -> int:
        """Neurons of the LSG."""
        return self.lsg_lif + self.lsg_alif

    @property
    def decay(self) -> float:
        """Of membranes and read-outs in a step."""
        return decay_from_tau(self.tau_mem_ms, self.dt_ms)


class Pair(NamedTuple):
    """The two networks."""

    lsg: Network
    trainee: Network


def trainee_network(w_in: Any, w_rec: Any, w_out: Any, config: NaturalEPropConfig | None = None) -> Network:
    """The trainee: clock -> in -> trainee (recurrent) -> out -> omega.

    Args:
        w_in: [clock, trainee]; w_rec: [trainee, trainee]; w_out: [trainee, outputs]; all [in, out].
    Raises: ConfigError: a weight has another shape than ``config`` says, or holds what is not finite.
    """
    c = config or NaturalEPropConfig()
    dynamics = Dynamics(c.decay, c.trainee_threshold, refractory=Refractory.from_n_ref(c.n_ref))
    widths = (c.clock, c.trainee, c.outputs)
    return _stack(("clock", "trainee", "omega"), widths, (w_in, w_rec, w_out), dynamics, c)


def lsg_network(w_in: Any, w_rec: Any, w_out: Any, config: NaturalEPropConfig | None = None) -> Network:
    """The learning-signal generator: clock_and_target -> in -> lsg (recurrent) -> out -> learning_signal.

    Args:
        w_in: [clock + target, lsg], the clock first; w_rec: [lsg, lsg]; w_out: [lsg, trainee]; all [in, out].
    Raises: ConfigError: a weight has another shape than ``config`` says, or holds what is not finite.
    """
    c = config or NaturalEPropConfig()
    beta = np.repeat([0.0, c.beta], [c.lsg_lif, c.lsg_alif])
    dynamics = Dynamics(
        c.decay,
        c.lsg_threshold,
        reset=SubtractAdapted(),
        refractory=Refractory.from_n_ref(c.n_ref),
        adaptation=Adaptation(decay_from_tau(c.tau_adaptation_ms, c.dt_ms), beta),
    )
    widths = (c.clock + c.target, c.lsg, c.trainee)
    return _stack(("clock_and_target", "lsg", "learning_signal"), widths, (w_in, w_rec, w_out), dynamics, c)


def initial_pair(config: NaturalEPropConfig | None = None, seed: int = 0) -> Pair:
    """Networks before any meta-training: N(0, 1 / inputs); the trainee's read-out times 1 - decay, the LSG's Glorot.

    Each of the six weights has a random stream of its own: another size of the one leaves the others as they are.
    """
    c = config or NaturalEPropConfig()

    def normal(stream: int, rows: int, columns: int) -> NDArray[np.float64]:
        return np.random.default_rng([seed, stream]).normal(size=(rows, columns)) / math.sqrt(rows)

    bound = math.sqrt(6 / (c.lsg + c.trainee))
    glorot = np.random.default_rng([seed, 2]).uniform(-bound, bound, (c.lsg, c.trainee))
    return Pair(
        lsg_network(normal(0, c.clock + c.target, c.lsg), normal(1, c.lsg, c.lsg), glorot, c),
        trainee_network(
            normal(3, c.clock, c.trainee),
            normal(4, c.trainee, c.trainee),
            normal(5, c.trainee, c.outputs) * (1 - c.decay),
            c,
        ),
    )


# ------------------------------------------------------------------------------------------------ the inner loop


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
    generator: torch.Generator | None = None,
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
    generator: torch.Generator | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
) -> Update:
    """The update that follows from a trial, from whatever toolchain its trace comes; arguments as in ``teach``."""
    inner = inner or InnerLoop()
    clock, w_in, spiking, dynamics, delay = _check(trainee)
    spikes = trial[spiking].spikes
    slope = pseudo_derivative(trial[spiking], dynamics, surrogate)
    late = F.pad(spikes, (0, 0, delay, 0))[:, : spikes.shape[1]]
    kernel = Readout(dynamics.decay)
    traces = {
        f"{w_in}.weight": integrate(trial.inputs[clock].to(spikes.dtype), kernel),
        f"{spiking}.recurrence": integrate(late, kernel),
    }
    taught = slope * learning_signal
    gradient = {name: trace.transpose(1, 2) @ taught for name, trace in traces.items()}
    change = {name: -inner.rate * g for name, g in gradient.items()}
    if inner.step is not None:
        change = {name: round_to_step(c, inner.step, inner.rounding, generator) for name, c in change.items()}
    return Update(slope, traces, gradient, change)


# ------------------------------------------------------------------------------------------------ the outer loop


@dataclass(frozen=True)
class Objective:
    """The outer loss (the module's text has it).

    Attributes:
        omega, path, rates: weights of its terms.
        trainee_hz, lsg_hz: rates that the neurons are held to.
        path_gradient: False is the published code, whose Cartesian term has a value but no gradient.
    """

    omega: float = 0.5
    path: float = 0.5
    rates: float = 0.25
    trainee_hz: float = 20.0
    lsg_hz: float = 10.0
    path_gradient: bool = True


class OuterLoss(NamedTuple):
    """The outer loss and its parts, scalars.

    total: all of it. task: without the rates. mse_omega, mse_path: of the last trial, over batch, time and components.
    trainee_rates, lsg_rates: sum over neurons of (rate - target)^2, rates a step, before weighting.
    """

    total: Tensor
    task: Tensor
    mse_omega: Tensor
    mse_path: Tensor
    trainee_rates: Tensor
    lsg_rates: Tensor


def outer_loss(
    lesson: Lesson,
    omega: Tensor,
    path: Tensor,
    kinematics: Callable[[Tensor], Tensor],
    objective: Objective | None = None,
) -> OuterLoss:
    """How much is left to learn after a lesson.

    Args:
        lesson: what happened; without a run of an LSG its rates count nothing.
        omega: target of the output, [B, T, outputs]; path: target of ``kinematics``, [B, T, 3].
        kinematics: the path that an output traces, [B, T, outputs] -> [B, T, 3], differentiable.
    """
    o = objective or Objective()
    after = lesson.after
    mse_omega = (omega - after).square().mean()
    mse_path = (path - kinematics(after if o.path_gradient else after.detach())).square().mean()
    task = o.omega * mse_omega + o.path * mse_path
    trainee = _off_target(lesson.trials, o.trainee_hz)
    lsg = task.new_zeros(()) if lesson.lsg is None else _off_target((lesson.lsg,), o.lsg_hz)
    return OuterLoss(task + o.rates * (trainee + lsg), task, mse_omega, mse_path, trainee, lsg)


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
        generator: torch.Generator | None = None,
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
        generator: torch.Generator | None = None,
        products: Products | None = None,
    ) -> Lesson:
        """A lesson with given learning signals, as controls need (random, shuffled)."""
        t, engine = self.trainee, self.engine
        options = (inner, t.weights(), products, generator, t.surrogate, t.paths, engine)
        return teach(t.network, clock, learning_signal, *options)

    def describe(self) -> Pair:
        """The networks with the present weights."""
        return Pair(self.lsg.describe(), self.trainee.describe())


def _stack(
    names: tuple[str, str, str],
    widths: tuple[int, int, int],
    weights: tuple[Any, Any, Any],
    dynamics: Dynamics,
    c: NaturalEPropConfig,
) -> Network:
    x, spiking, y = names
    inputs, neurons, outputs = widths
    shapes = {"w_in": (inputs, neurons), "w_rec": (neurons, neurons), "w_out": (neurons, outputs)}
    for (name, due), weight in zip(shapes.items(), weights, strict=True):
        if np.shape(weight) != due:
            raise ConfigError(f"{spiking} {name}: shape {np.shape(weight)} where {due} [in, out] is due")
    w_in, w_rec, w_out = weights
    return Network.stack(
        {
            x: Input((inputs,)),
            "in": Linear(w_in),
            spiking: Spiking(dynamics, Recurrence(w_rec, masked_diagonal=True)),
            "out": Linear(w_out),
            y: Readout(c.decay),
        },
        c.dt_ms,
    )


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


def _off_target(runs: tuple[Trace, ...], rate_hz: float) -> Tensor:
    (name,) = runs[0].layers
    rates = torch.stack([trace[name].spikes.mean((0, 1)) for trace in runs]).mean(0)
    return (rates - rate_hz * runs[0].dt_ms / 1000).square().sum()
