"""The two spiking networks of natural e-prop: a trainee, and the learning-signal generator (LSG) that teaches it.

    trainee   clock -> in -> LIF neurons (recurrent) -> out -> omega
    LSG       clock and target -> in -> LIF, then adaptive neurons (recurrent) -> out -> L, one component a trainee's
              neuron

Each read-out leaks as the membranes do; the diagonals of the recurrent matrices are masked. The LSG never reads the
trainee; the trainee is told nothing but the time.

Reference: Ortner et al. 2025, Nature Communications 16:1243, and its published code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovonic.models.dynamics import Adaptation, Dynamics, Refractory, SubtractAdapted, decay_from_tau
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network

__all__ = ["NaturalEPropConfig", "Pair", "Start", "initial_pair", "lsg_network", "trainee_network"]


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


@dataclass(frozen=True)
class Start:
    """How the weights are drawn before any meta-training.

    Attributes:
        code_gain: None gives every input of the LSG weights N(0, 1 / inputs). A number g gives bit k of a coordinate's
            ``bits``, the least significant first, the weight g n 2^(k - bits), one n ~ N(0, 1) a neuron and coordinate:
            neurons then feel the coordinate as a number, and bits below their noise do not matter.
        lsg_recurrence, trainee_recurrence: factors of the recurrent weights.
    """

    code_gain: float | None = None
    lsg_recurrence: float = 1.0
    trainee_recurrence: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"{name} {value}: must be finite")


def initial_pair(
    config: NaturalEPropConfig | None = None, seed: int = 0, start: Start | None = None, bits: int = 16
) -> Pair:
    """Networks before any meta-training: N(0, 1 / inputs); the trainee's read-out times 1 - decay, the LSG's Glorot.

    Each of the six weights has a random stream of its own: another size of the one leaves the others as they are.

    Args:
        start: departures from this; bits: of a coordinate, where ``start`` grades them.
    """
    c, s = config or NaturalEPropConfig(), start or Start()

    def normal(stream: int, rows: int, columns: int) -> NDArray[np.float64]:
        return np.random.default_rng([seed, stream]).normal(size=(rows, columns)) / math.sqrt(rows)

    bound = math.sqrt(6 / (c.lsg + c.trainee))
    glorot = np.random.default_rng([seed, 2]).uniform(-bound, bound, (c.lsg, c.trainee))
    w_in = normal(0, c.clock + c.target, c.lsg)
    if s.code_gain is not None:
        graded = np.random.default_rng([seed, 6]).normal(size=(c.target // bits, 1, c.lsg)) * s.code_gain
        w_in[c.clock :] = (graded * 2.0 ** (np.arange(bits)[:, None] - bits)).reshape(-1, c.lsg)
    return Pair(
        lsg_network(w_in, normal(1, c.lsg, c.lsg) * s.lsg_recurrence, glorot, c),
        trainee_network(
            normal(3, c.clock, c.trainee),
            normal(4, c.trainee, c.trainee) * s.trainee_recurrence,
            normal(5, c.trainee, c.outputs) * (1 - c.decay),
            c,
        ),
    )


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
