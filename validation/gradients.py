"""Whether a learning rule is what it claims: one episode's update from computations that share no code with it.

    written out   forward traces of every synapse in NumPy, in one causal loop: network, errors and rule together
    autograd      reverse-mode differentiation with the recurrent and the reset path detached
    brian2        traces in Brian2's synapses, by its own equations                  (``adapters.brian2_eprop``)
    nest          NEST's own plasticity, the models of 2020; nest-online: eprop_iaf  (``adapters.nest_eprop``)
    braintrace    braintrace's own ``EProp``, in JAX                                 (``adapters.braintrace``)
    snntorch      our rule on a trace that snnTorch recorded; norse: on Norse's

The first six are independent of the rule; the last two are not, they show that nothing is lost between a toolchain's
run and our rule (end to end). A reference agrees if its spikes are ours and the largest difference of each gradient,
over the largest magnitude of ours, is within ``TOLERANCE``. Normalisations are converted, never excused: the adapters
say which. Beside them stands backpropagation through time, which e-prop does not claim to be: ``against_bptt``.

Natural e-prop's update is compared likewise, with its learning signals given (``natural_update``); the full gradient
beside it is that of sum_t L_t z_t along all paths, with the same L, which a teacher that does not see its pupil holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.eprop_wiring import EpropEpisode, misplaced, wiring
from ovonic.adapters.toolchains import adapter, refuse
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    SubtractThreshold,
    When,
    decay_from_tau,
)
from ovonic.models.eprop import eprop
from ovonic.models.errors import ConfigError, UnsupportedDynamics, nearest
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.learning_signals import learning_signals
from ovonic.models.lif import ALL_PATHS, EPROP, Paths, masked
from ovonic.models.natural_eprop import InnerLoop, update
from ovonic.models.network import Edge, Network
from ovonic.models.simulation import inputs_by_name, run
from ovonic.tasks.robot import Robot, spec_for
from ovonic.tasks.trajectories import sample_trajectories
from ovonic.validation.eprop_written_out import Episode, written_out

__all__ = [
    "END_TO_END",
    "REFERENCES",
    "TOLERANCE",
    "Agreement",
    "Bptt",
    "Episode",
    "against_bptt",
    "beside_bptt",
    "compare_gradients",
    "differentiated",
    "episode_of",
    "factorised",
    "lesson_episode",
    "natural_update",
    "random_episode",
    "relative",
]

Array = NDArray[Any]

TOLERANCE = 1e-10
"""Largest difference of a gradient over its largest magnitude, in float64."""

INDEPENDENT = ("written-out", "autograd", "brian2", "nest", "nest-online", "braintrace")
END_TO_END = ("snntorch", "norse")
REFERENCES = (*INDEPENDENT, *END_TO_END)


@dataclass(frozen=True)
class Agreement:
    """What a reference said of an episode.

    Attributes:
        worst: the largest relative difference over the weights; by_weight: each; None: it did not run.
        same_spikes: whether it ran the same spikes. refused: why it did not run.
    """

    episode: str
    reference: str
    worst: float | None
    by_weight: Mapping[str, float]
    same_spikes: bool | None
    refused: str | None = None

    @property
    def agrees(self) -> bool | None:
        """None: it did not run."""
        if self.worst is None:
            return None
        return bool(self.same_spikes) and self.worst <= TOLERANCE


@dataclass(frozen=True)
class Bptt:
    """E-prop beside the full gradient, of input and recurrent weights: cosine, and |e-prop - full| / |full|."""

    neurons: int
    steps: int
    seed: int
    cosine: float
    difference: float


def random_episode(index: int, seed: int = 0, steps: int = 100, neurons: int | None = None) -> Episode:
    """Network number ``index``: LIF or ALIF, with or without refractoriness, diagonal, recurrence, one to three
    read-outs, each kind of reset by subtraction; two samples of Poisson input. All toolchains here express it.
    """
    rng = np.random.default_rng([seed, index])
    n = neurons or int(rng.integers(5, 25))
    inputs = int(rng.integers(3, 12))
    decay, kappa = (decay_from_tau(float(rng.uniform(5, 30)), 1.0) for _ in range(2))
    adapts, own = bool(index % 2), bool(rng.integers(2))
    threshold: Any = rng.uniform(0.5, 0.8, n) if own else 0.6
    beta: Any = np.where(np.arange(n) % 2, 0.3, 0.0)
    reset: Any = SubtractThreshold(When.NEXT_AFTER_INPUT)
    if index % 5 == 3:
        reset = SubtractThreshold(When.SAME_STEP)
    if index % 5 == 4:
        reset = NoReset()
    dynamics = Dynamics(
        decay,
        threshold,
        gain=1.0 if index % 3 else 1 - decay,
        reset=reset,
        refractory=Refractory(int(rng.integers(0, 5)) if index % 4 else 0),
        adaptation=Adaptation(decay_from_tau(float(rng.uniform(30, 300)), 1.0), beta) if adapts else None,
        comparison=Comparison.GREATER_EQUAL if index % 7 == 1 else Comparison.GREATER,
    )
    scale = 1 / dynamics.gain
    recurrence = Recurrence(scale * rng.normal(0, 0.3 / math.sqrt(n), (n, n)), masked_diagonal=bool(rng.integers(2)))
    layers: dict[str, Any] = {
        "x": Input((inputs,)),
        "in": Linear(scale * rng.normal(0.15, 0.5, (inputs, n))),
        "hidden": Spiking(dynamics, None if index % 9 == 8 else recurrence),
    }
    edges = [Edge("x", "in"), Edge("in", "hidden")]
    for k in range(1 + index % 3):
        size = int(rng.integers(1, 4))
        layers |= {f"out{k}": Linear(rng.normal(0, 0.5, (n, size))), f"y{k}": Readout(kappa)}
        edges += [Edge("hidden", f"out{k}"), Edge(f"out{k}", f"y{k}")]
    return _drawn(f"random {index}", Network(layers, tuple(edges)), rng, steps, 2)


def episode_of(name: str, network: Network, steps: int = 100, seed: int = 0, rate: float = 0.1) -> Episode:
    """An episode of a given network: one sample of Poisson input, normal targets."""
    refuse("A comparison of e-prop", misplaced(network))
    return _drawn(name, network, np.random.default_rng([seed, 1]), steps, 1, rate)


def _drawn(
    name: str, network: Network, rng: np.random.Generator, steps: int, samples: int, rate: float = 0.15
) -> Episode:
    inputs = {
        x: torch.from_numpy((rng.random((samples, steps, *network.shapes[x])) < rate).astype(float))
        for x in network.inputs
    }
    targets = {y: torch.from_numpy(rng.normal(size=(samples, steps, *network.shapes[y]))) for y in network.readouts}
    return Episode(name, network, inputs, targets)


def factorised(episode: Episode) -> EpropEpisode:
    """Our rule."""
    return _ours(episode, run(episode.network, episode.inputs))


def _ours(episode: Episode, trace: Any) -> EpropEpisode:
    network = episode.network
    if episode.signal is not None:
        hidden = network.spiking[0]
        return EpropEpisode(_unmasked(eprop(network, trace, {hidden: episode.signal}), network), trace)
    errors = {name: trace.readouts[name] - target for name, target in episode.targets.items()}
    return EpropEpisode(eprop(network, trace, learning_signals(network, errors), errors), trace)


def _unmasked(gradients: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    readouts = {f"{linear}.weight" for linear, _ in wiring(network).out}
    return {name: g for name, g in gradients.items() if name not in readouts}


def differentiated(episode: Episode, paths: Paths = EPROP) -> EpropEpisode:
    """Reverse-mode differentiation of the loss, or of sum L z, along ``paths``."""
    network = episode.network
    weights = {name: torch.tensor(w, requires_grad=True) for name, w in network.weights().items()}
    trace = run(network, episode.inputs, weights, paths=paths)
    if episode.signal is not None:
        loss = (episode.signal * trace[network.spiking[0]].spikes).sum()
    else:
        loss = sum(((trace.readouts[y] - t).square().sum() / 2 for y, t in episode.targets.items()), torch.zeros(()))
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    gradients = {name: g for name, g in zip(weights, found, strict=True) if g is not None}
    return EpropEpisode(gradients, trace.detach())


def _by(reference: str, episode: Episode) -> EpropEpisode:
    if reference == "written-out":
        return written_out(episode)
    if reference == "autograd":
        return differentiated(episode)
    if reference == "brian2":
        from ovonic.adapters import brian2_eprop

        return brian2_eprop.run_eprop(episode.network, episode.inputs, episode.targets or None, signal=episode.signal)
    if reference in ("nest", "nest-online"):
        from ovonic.adapters import nest_eprop

        models = "2020" if reference == "nest" else "online"
        return nest_eprop.run_eprop(
            episode.network, episode.inputs, episode.targets or None, signal=episode.signal, models=models
        )
    if reference == "braintrace":
        from ovonic.adapters import braintrace

        return braintrace.run_eprop(episode.network, episode.inputs, episode.targets or None, signal=episode.signal)
    toolchain: Any = adapter(reference)
    return _ours(episode, toolchain.run(episode.network, episode.inputs).detach())


def compare_gradients(
    episode: Episode, references: tuple[str, ...] = REFERENCES, ours: EpropEpisode | None = None
) -> Iterator[Agreement]:
    """What each reference says of an update.

    Args: ours: the update on trial; None is our rule's.
    Raises: ConfigError: an unknown reference. ToolchainError: a toolchain is missing or broken.
    """
    ours = ours or factorised(episode)
    hidden = episode.network.spiking[0]
    for reference in references:
        if reference not in REFERENCES:
            raise ConfigError(f"reference {reference!r}: {nearest(reference, REFERENCES)}")
        try:
            theirs = _by(reference, episode)
        except UnsupportedDynamics as error:
            yield Agreement(episode.name, reference, None, {}, None, str(error))
            continue
        own = {name: g for name, g in ours.gradients.items() if name in theirs.gradients}
        if episode.signal is None and set(own) != set(theirs.gradients):
            raise ConfigError(f"{reference}: gradients of {sorted(theirs.gradients)}, ours of {sorted(own)}")
        gaps = {name: relative(theirs.gradients[name], g) for name, g in own.items()}
        same = torch.equal(theirs.trace[hidden].spikes, ours.trace[hidden].spikes)
        yield Agreement(episode.name, reference, max(gaps.values()), gaps, same)


def relative(theirs: Tensor, ours: Tensor) -> float:
    """The largest difference over the largest magnitude of ours; infinite beside a gradient of zeros."""
    gap, size = float((theirs - ours).abs().max()), float(ours.abs().max())
    return gap / size if size else (0.0 if gap == 0 else math.inf)


def natural_update(name: str, trainee: Network, clock: Tensor, signal: Tensor) -> tuple[Episode, EpropEpisode]:
    """Natural e-prop's update of a trainee as an episode, and as the rule itself computes it.

    The diagonal of the recurrence, which the rule updates and the forward pass masks, is zero in both.

    Args: clock: [B, T, clock] of float64; signal: learning signals, [B, T, N].
    """
    trial = run(trainee, clock)
    found = update(trainee, trial, signal, InnerLoop(step=None)).gradient
    gradients = {weight: (masked(g) if weight.endswith(".recurrence") else g).sum(0) for weight, g in found.items()}
    episode = Episode(name, trainee, inputs_by_name(trainee, clock), {}, signal)
    return episode, EpropEpisode(gradients, trial)


def lesson_episode(name: str, robot: Robot, seed: int = 0) -> tuple[Episode, EpropEpisode]:
    """``natural_update`` of a robot's trainee, taught one movement by its own learning-signal generator."""
    movement = sample_trajectories(spec_for(robot), seed, [0], torch.float64)
    with torch.no_grad():
        signal = robot.module(torch.float64, run).signals(movement.lsg_input).readout
    return natural_update(name, robot.pair.trainee, movement.clock, signal.detach())


def against_bptt(neurons: int, steps: int, seed: int = 0) -> Bptt:
    """What e-prop leaves out of the full gradient, on a LIF network of that size: 20 inputs, 3 read-outs, as the
    network of ``random_networks.recurrent_example`` with recurrent weights of N(0, 0.7^2 / neurons).
    """
    rng = np.random.default_rng([seed, neurons, steps])
    decay = decay_from_tau(20.0, 1.0)
    layers = {
        "x": Input((20,)),
        "in": Linear(rng.normal(0.06, 0.3, (20, neurons))),
        "hidden": Spiking(
            Dynamics(decay, 0.6, refractory=Refractory.from_n_ref(5)),
            Recurrence(rng.normal(0, 0.7 / math.sqrt(neurons), (neurons, neurons)), masked_diagonal=True),
        ),
        "out": Linear(rng.normal(0, 1 / math.sqrt(neurons), (neurons, 3))),
        "y": Readout(decay),
    }
    episode = _drawn("bptt", Network.stack(layers), rng, steps, 1, 0.1)
    return Bptt(neurons, steps, seed, *beside_bptt(episode))


def beside_bptt(episode: Episode) -> tuple[float, float]:
    """Cosine and relative difference of our rule and the full gradient, over input and recurrent weights.

    The full gradient is that of the loss, or of sum L z where learning signals are given, along all paths.
    """
    readouts = {f"{linear}.weight" for linear, _ in wiring(episode.network).out}
    ours, full = factorised(episode).gradients, differentiated(episode, ALL_PATHS).gradients
    a, b = (
        torch.cat([g.flatten() for name, g in sorted(found.items()) if name not in readouts]) for found in (ours, full)
    )
    return float(torch.nn.functional.cosine_similarity(a, b, 0)), float((a - b).norm() / b.norm())
