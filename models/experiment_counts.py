"""Closed-form counts of the two experiments: a few-shot task and a robot lesson, on arrays and in a digital twin.

    few-shot   (S + Q) images through the convolutions, once each;  U S reads of the read-out for U updates on S
               supports, Q reads for the queries;  U updates programme ``devices`` devices each
    lesson     2 trials of T + 1 reads of the trainee's arrays (read t + 1 has the spikes of step t on its rows, for
               recurrence and read-out);  T + 1 of the LSG's;  one update programmes ``devices``
    e-prop     T (inputs + neurons) trace steps and T neurons (inputs + neurons) products, digital in every case

The LSG (about 20 arrays) may run on the crossbar, in digital, or elsewhere; on the crossbar it works beside the first
trial. Digital products of spikes count only the rows that spiked, ``activity`` of them; an array reads all its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovonic.models.accounting import Counts
from ovonic.models.errors import ConfigError, nearest

__all__ = [
    "LSG_LOADS",
    "TRAINEE_LOADS",
    "Load",
    "cnn_loads",
    "fewshot_counts",
    "fewshot_twin_counts",
    "inference_counts",
    "matrix_load",
    "programming_counts",
    "robot_counts",
    "robot_twin_counts",
    "twin_counts",
]

LSG_PLACES = ("crossbar", "digital", "elsewhere")
"""Where the learning-signal generator runs; ``elsewhere`` counts nothing for it."""


@dataclass(frozen=True)
class Load:
    """What one input (an image, a step) asks of layers that are read together.

    Attributes:
        weights, outputs: of the layers' unrolled matrices.
        applications: times they are applied: 1, or the positions of a convolution's output.
        mvms: products on arrays that one application takes; in_sequence: how many of them wait for one another.
        phases: of each of these products, 1 to 4 (a mean, where they differ).
        conversions: results of one application, before row blocks are summed; 0 becomes ``outputs``.
    """

    name: str
    weights: int
    outputs: int
    applications: int = 1
    mvms: int = 1
    in_sequence: int = 1
    phases: float = 1
    conversions: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "conversions", self.conversions or self.outputs)
        for name in ("weights", "outputs", "applications", "mvms", "in_sequence", "phases", "conversions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{self.name}: {name} {getattr(self, name)} must be at least 1")
        if self.phases > 4 or self.in_sequence > self.mvms:
            raise ConfigError(
                f"{self.name}: {self.phases} phases (1 to 4), {self.in_sequence} of {self.mvms} mvms in sequence"
            )


def matrix_load(name: str, rows: int, columns: int, *, side: int = 256, phases: float = 1) -> Load:
    """A matrix [rows, columns] tiled over arrays of ``side`` x ``side``, which work side by side."""
    high, wide = -(-rows // side), -(-columns // side)
    return Load(name, rows * columns, columns, 1, high * wide, 1, phases, columns * high)


def cnn_loads(read_phases: int = 1, n_way: int = 5) -> tuple[Load, ...]:
    """The few-shot CNN on two arrays: stride 2 from 28 x 28, its three matrices of 504 rows as 2 x 252.

    Args: read_phases: of a signed read (1, 2 or 4; ``models.periphery``); the image is unsigned and takes half, at
        least one.
    """
    deep = [Load(f"convs.{k}", 504 * 56, 56, n, 2, 1, read_phases, 112) for k, n in ((1, 49), (2, 16), (3, 4))]
    first = Load("convs.0", 9 * 56, 56, 196, phases=max(read_phases // 2, 1))
    return first, *deep, Load("readout", 56 * n_way, n_way, phases=read_phases)


TRAINEE_LOADS = (Load("trainee", 5 * 250 + 250 * 250 + 250 * 2, 252),)
"""The trainee on one array: clock and recurrence as rows, neurons and read-out as columns, spikes in one phase."""

LSG_LOADS = (matrix_load("lsg", 853, 800), matrix_load("learning_signal", 800, 250))
"""The LSG on 16 + 4 arrays: clock, target and recurrence; then its read-out."""


def inference_counts(loads: Sequence[Load], inputs: float = 1.0, *, parallel: bool = True) -> Counts:
    """Counts of ``inputs`` inputs through the layers on arrays, one after the other.

    Args: parallel: arrays work side by side on one layer; False: one product at a time.
    """
    serial = {}
    if parallel:
        serial = {
            "serial_mvms": inputs * sum(x.applications * x.in_sequence for x in loads),
            "serial_phases": inputs * sum(x.applications * x.in_sequence * x.phases for x in loads),
        }
    return Counts(
        mvms=inputs * sum(x.applications * x.mvms for x in loads),
        phases=inputs * sum(x.applications * x.mvms * x.phases for x in loads),
        elements=inputs * sum(x.applications * x.conversions for x in loads),
        **serial,
    )


def twin_counts(loads: Sequence[Load], inputs: float = 1.0, *, activity: float = 1.0) -> Counts:
    """Counts of the same layers in a digital processor; ``activity``: the share of rows that are not zero.

    Raises: ConfigError: an activity outside 0..1.
    """
    if not 0 <= activity <= 1:
        raise ConfigError(f"activity {activity}: must lie in 0..1")
    macs = sum(x.applications * x.weights for x in loads)
    elements = sum(x.applications * x.outputs for x in loads)
    return Counts(macs=inputs * activity * macs, elements=inputs * elements)


def programming_counts(loads: Sequence[Load]) -> Counts:
    """Counts of programming the four devices of every weight once: a whole deployment."""
    return Counts(devices_programmed=4.0 * sum(x.weights for x in loads))


def fewshot_counts(
    loads: Sequence[Load] | None = None,
    *,
    supports: int = 25,
    queries: int = 25,
    updates: int = 4,
    devices_per_update: float = 4 * 280,
    parallel: bool = True,
) -> dict[str, Counts]:
    """A few-shot task on arrays, the last of ``loads`` being the read-out that adapts.

    Args:
        devices_per_update: programmed by an update of the read-out; the default is all of the 56 x 5 cells.
    Returns: ``adaptation`` (the supports' features, ``updates`` reads of each, the gradients in digital, programming),
        ``inference`` (the queries), and ``deployment`` (programming the meta-trained weights).
    """
    loads = loads or cnn_loads()
    *body, head = loads
    features = inference_counts(body, supports, parallel=parallel)
    learning = inference_counts([head], updates * supports, parallel=parallel)
    gradient = Counts(macs=updates * supports * head.weights, elements=updates * head.weights)
    programmed = Counts(devices_programmed=updates * devices_per_update)
    return {
        "adaptation": features + learning + gradient + programmed,
        "inference": inference_counts(loads, queries, parallel=parallel),
        "deployment": programming_counts(loads),
    }


def fewshot_twin_counts(
    loads: Sequence[Load] | None = None, *, supports: int = 25, queries: int = 25, updates: int = 4
) -> dict[str, Counts]:
    """The same task in a digital processor."""
    loads = loads or cnn_loads()
    *body, head = loads
    update = Counts(macs=updates * supports * head.weights, elements=updates * head.weights)
    learning = twin_counts([head], updates * supports) + update
    return {"adaptation": twin_counts(body, supports) + learning, "inference": twin_counts(loads, queries)}


def robot_counts(
    trainee: Sequence[Load] = TRAINEE_LOADS,
    lsg_loads: Sequence[Load] = LSG_LOADS,
    *,
    steps: int = 249,
    neurons: int = 250,
    inputs: int = 5,
    devices_programmed: float = 4 * 0.08 * 250 * 255,
    lsg: str = "crossbar",
    activity: float = 0.02,
    trials: int = 2,
    updates: int = 1,
    parallel: bool = True,
) -> dict[str, Counts]:
    """A lesson of natural e-prop on arrays: trial, update, trial.

    Args:
        devices_programmed: by one update; the default is the 8 % of cells that an update rounded stochastically to 1/16
            changes (docs/robot.md), all four devices of each.
        lsg: ``crossbar``, ``digital`` or ``elsewhere``.
        activity: spikes a neuron and step, for what is digital.
        updates: updates, each after a trial of its own.
        parallel: the LSG's arrays work beside the trainee's.
    Returns: ``adaptation`` (the trials before the last, the LSG, e-prop, programming), ``inference`` (the last trial),
        ``deployment`` (programming both networks, or the trainee alone).
    Raises: ConfigError: an unknown place of the LSG, or more updates than trials before the last.
    """
    if lsg not in LSG_PLACES:
        raise ConfigError(f"lsg {lsg!r}: {nearest(lsg, LSG_PLACES)}")
    if updates > trials - 1:
        raise ConfigError(f"{updates} updates in {trials} trials: each update follows a trial, the last trial tests")
    trial = inference_counts(trainee, steps + 1, parallel=parallel)
    learning = trial * (trials - 1) + _eprop(steps, neurons, inputs) * updates
    placed = list(trainee)
    if lsg == "digital":
        learning = learning + twin_counts(lsg_loads, steps, activity=activity) * updates
    elif lsg == "crossbar":
        teaching = inference_counts(lsg_loads, steps + 1, parallel=True) * updates
        if parallel:
            beside = Counts(mvms=teaching.mvms, phases=teaching.phases, serial_mvms=0.0, serial_phases=0.0)
            teaching = beside + Counts(elements=teaching.elements)
        learning = learning + teaching
        placed += lsg_loads
    return {
        "adaptation": learning + Counts(devices_programmed=updates * devices_programmed),
        "inference": trial,
        "deployment": programming_counts(placed),
    }


def robot_twin_counts(
    trainee: Sequence[Load] = TRAINEE_LOADS,
    lsg_loads: Sequence[Load] = LSG_LOADS,
    *,
    steps: int = 249,
    neurons: int = 250,
    inputs: int = 5,
    activity: float = 0.02,
    trials: int = 2,
    updates: int = 1,
) -> dict[str, Counts]:
    """The same lesson in a digital processor that skips silent rows (``activity`` 1: that does not)."""
    trial = twin_counts(trainee, steps, activity=activity)
    teaching = twin_counts(lsg_loads, steps, activity=activity) * updates
    learning = trial * (trials - 1) + _eprop(steps, neurons, inputs) * updates
    return {"adaptation": learning + teaching, "inference": trial}


def _eprop(steps: int, neurons: int, inputs: int) -> Counts:
    """Traces and weight changes of one trial: dw[i, j] = sum_t h[t, j] L[t, j] trace[t, i], every pair, every step."""
    rows = inputs + neurons
    return Counts(macs=steps * neurons * rows, elements=steps * (rows + neurons))
