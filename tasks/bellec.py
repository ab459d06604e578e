"""Two tasks of Bellec et al. 2020, at any size: inputs and targets of episodes.

    pattern generation       frozen Poisson noise in; three sums of four sines out, y[t] in every step
    evidence accumulation    cues left or right, a delay, a recall; out, at the recall, the side with more cues

The last input of both is a stop, which silences all neurons in an episode's last step (``task_network``): episodes that
follow each other in one simulation must not feel each other's last spikes, which NEST lets pass.

Pattern generation: periods of 1000, 500, 333 and 200 steps in 1000, here fractions of the episode; amplitudes uniform
in 0.5..2, phases uniform; each component is brought to a maximum of 1. Evidence accumulation: inputs in four equal
groups, left, right, recall, background; a cue is 0.04 spikes a step of its group (more at smaller sizes), the
background a quarter of it; a side is drawn, and each cue is on that side with probability 0.7.

Reference: Bellec et al., Nature Communications 11:3625 (2020), Methods and Supplement; NEST 3.10's examples of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ovonic.models.dynamics import Adaptation, Comparison, Dynamics, Refractory, decay_from_tau
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network

__all__ = ["Evidence", "Pattern", "Task", "evidence_accumulation", "pattern_generation", "repeated", "task_network"]

STOP = -1e6
"""Weight of the stop on every neuron."""


@dataclass(frozen=True, eq=False)
class Task:
    """Episodes of a task.

    Attributes:
        inputs: [episodes, T, in], zeros and ones of float64. targets: [episodes, T, O].
        loss: ``"mean_squared_error"`` or ``"cross_entropy"``; window: the last steps, which alone have an error.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    loss: str
    window: int


@dataclass(frozen=True)
class Pattern:
    """Sizes of pattern generation; ``rate``: input spikes a step."""

    inputs: int = 20
    outputs: int = 3
    steps: int = 200
    rate: float = 0.05


@dataclass(frozen=True)
class Evidence:
    """Sizes of evidence accumulation, in steps; ``rate``: spikes a step of a cue's group."""

    inputs: int = 40
    cues: int = 7
    cue: int = 20
    spacing: int = 10
    delay: int = 60
    recall: int = 30
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.inputs % 4 or self.cues % 2 == 0:
            raise ConfigError(f"Evidence: inputs {self.inputs} must be four groups, cues {self.cues} an odd number")

    @property
    def steps(self) -> int:
        """Of an episode."""
        return self.cues * (self.cue + self.spacing) + self.delay + self.recall


def pattern_generation(episodes: int, seed: int = 0, size: Pattern | None = None) -> Task:
    """The same input and target in every episode."""
    s, rng = size or Pattern(), np.random.default_rng([seed, 0])
    x = rng.random((s.steps, s.inputs)) < s.rate
    t = np.arange(s.steps) / s.steps
    waves = np.zeros((s.steps, s.outputs))
    for component in range(s.outputs):
        for cycles in (1, 2, 3, 5):
            phase, amplitude = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2)
            waves[:, component] += amplitude * np.sin(2 * np.pi * cycles * t + phase)
    waves /= np.abs(waves).max(0)
    inputs, targets = (torch.from_numpy(a.astype(float)).repeat(episodes, 1, 1) for a in (x, waves))
    return Task("pattern generation", _with_stop(inputs), targets, "mean_squared_error", s.steps)


def evidence_accumulation(episodes: int, seed: int = 0, size: Evidence | None = None) -> Task:
    """Cues and sides of each episode of their own; the target is the side, one of two, in every step."""
    s, rng = size or Evidence(), np.random.default_rng([seed, 1])
    group = s.inputs // 4
    side = rng.integers(0, 2, episodes)
    cues = np.where(rng.random((episodes, s.cues)) < 0.7, side[:, None], 1 - side[:, None])
    rates = np.zeros((episodes, s.steps, s.inputs))
    for number in range(s.cues):
        begin = number * (s.cue + s.spacing) + s.spacing
        for k in range(episodes):
            rates[k, begin : begin + s.cue, cues[k, number] * group : (cues[k, number] + 1) * group] = s.rate
    rates[:, -s.recall :, 2 * group : 3 * group] = s.rate
    rates[:, :, 3 * group :] = s.rate / 4
    spikes = rng.random(rates.shape) < rates
    majority = (cues.sum(1) > s.cues // 2).astype(int)
    targets = np.eye(2)[majority][:, None].repeat(s.steps, 1)
    return Task(
        "evidence accumulation",
        _with_stop(torch.from_numpy(spikes.astype(float))),
        torch.from_numpy(targets),
        "cross_entropy",
        s.recall,
    )


def repeated(task: Task, times: int) -> Task:
    """The same episodes over and over: a loss that can be followed from update to update."""
    inputs, targets = (values.repeat(times, 1, 1) for values in (task.inputs, task.targets))
    return replace(task, inputs=inputs, targets=targets)


def _with_stop(inputs: Tensor) -> Tensor:
    stop = torch.zeros_like(inputs[:, :, :1])
    stop[:, -1] = 1
    return torch.cat([inputs, stop], 2)


def task_network(task: Task, neurons: int = 60, adapting: int = 0, seed: int = 0) -> Network:
    """The network that learns a task: LIF neurons, the last ``adapting`` of them ALIF, recurrent, one leaky read-out.

    tau 20 ms, threshold 0.6, 4 silent steps; beta 0.07 a unit of an adaptation of 200 ms; weights of N(0, 1 / fan-in),
    the input's wider where there are few spikes (factor 3); decays of exp(-dt / tau), threshold met by >=. The stop's
    weights are -1e6.
    """
    rng = np.random.default_rng([seed, 2])
    inputs, outputs = task.inputs.shape[2], task.targets.shape[2]
    decay = decay_from_tau(20.0, 1.0)
    beta = np.repeat([0.0, 0.07], [neurons - adapting, adapting])
    dynamics = Dynamics(
        decay,
        0.6,
        refractory=Refractory.from_n_ref(5),
        adaptation=Adaptation(decay_from_tau(200.0, 1.0), beta) if adapting else None,
        comparison=Comparison.GREATER_EQUAL,
    )

    def normal(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return scale * rng.normal(size=(rows, columns)) / math.sqrt(rows)

    return Network.stack(
        {
            "x": Input((inputs,)),
            "in": Linear(np.concatenate([normal(inputs - 1, neurons, 3.0), np.full((1, neurons), STOP)])),
            "hidden": Spiking(dynamics, Recurrence(normal(neurons, neurons), masked_diagonal=True)),
            "out": Linear(normal(neurons, outputs, 0.3)),
            "y": Readout(decay),
        }
    )
