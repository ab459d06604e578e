"""What one-shot lessons of the robot achieve on movements it was not trained on, beside lessons that teach nothing.

The errors are those of ``tasks.robot``, of every movement, before (first trial) and after (last trial) the updates:
mean squares of omega and of x, y, z, half of each in the loss, and the root mean square distance of the tip. The
controls meet the same movements with the same weights: ``no_update`` is the first trial, ``random`` and ``shuffled``
are lessons with the learning signals of ``tasks.robot_controls``. Networks run in float32, errors are computed in
float64.

Reference: Ortner et al. 2025, Nature Communications 16:1243, and its published code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ovonic.models.errors import ConfigError, DivergenceError
from ovonic.models.natural_eprop import Engine, InnerLoop, Lesson, NaturalEProp, Products
from ovonic.tasks.robot import ENGINE, MovementErrors, Robot, movement_errors
from ovonic.tasks.robot_controls import random_signals, shuffled_signals
from ovonic.tasks.statistics import interval, paired_difference
from ovonic.tasks.trajectories import TrajectoryBatch, TrajectorySpec, sample_trajectories

__all__ = [
    "BATCH",
    "Errors",
    "RobotEvaluation",
    "evaluate_robot",
    "paired",
    "replay",
    "rounding_stream",
    "summary",
    "updated_fractions",
]

Values = NDArray[np.float64]

BATCH = 50
ROUNDING = (2,)
"""Tells the streams that round updates, (seed, first movement of the batch, ROUNDING), from all others."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of trials, one a movement, all [movements].

    Attributes:
        mse_omega: (rad/s)^2. mse_xyz: m^2. tip_rmse_mm: mm.
    """

    mse_omega: Values
    mse_xyz: Values
    tip_rmse_mm: Values

    @property
    def loss(self) -> Values:
        """Half of each mean square."""
        return (self.mse_omega + self.mse_xyz) / 2


@dataclass(frozen=True, eq=False)
class RobotEvaluation:
    """What was measured.

    Attributes:
        before, after: errors of the first and of the last trial.
        random, shuffled: errors of the last trial of the controls.
        rates_hz: mean rate of every neuron over time and movements (and, of the trainee, the lesson's trials):
            ``"lsg"``, ``"trainee"``, [neurons].
        update: share of weights that any update of the lesson changed, ``"W_in"`` and ``"W_rec"``, [movements]; the
            diagonal of W_rec, which has no effect, does not count.
        spec, seed, inner, batch: the movements, how lessons went, and how many at a time.
    """

    before: Errors
    after: Errors
    random: Errors
    shuffled: Errors
    rates_hz: dict[str, Values]
    update: dict[str, Values]
    spec: TrajectorySpec
    seed: int
    inner: InnerLoop
    batch: int

    def __len__(self) -> int:
        return len(self.after.mse_omega)

    @property
    def controls(self) -> dict[str, Errors]:
        """Errors by the control's name."""
        return {"no_update": self.before, "random": self.random, "shuffled": self.shuffled}

    @property
    def typical(self) -> int:
        """The movement of median loss after the update (of the two in the middle, the better)."""
        return int(np.argsort(self.after.loss, kind="stable")[(len(self) - 1) // 2])

    def report(self) -> dict[str, Any]:
        """The result as JSON: every ``ci95`` a half-width of the mean."""
        loss = summary(self.after.loss)
        return {
            "trajectories": len(self),
            **{
                name: {"before": summary(getattr(self.before, name)), "after": summary(getattr(self.after, name))}
                for name in ("mse_omega", "mse_xyz", "tip_rmse_mm")
            },
            "loss": {name: loss[name] for name in ("mean", "median", "ci95")},
            "controls": {
                name: {"loss": summary(control.loss), "tip_rmse_mm": summary(control.tip_rmse_mm)}
                for name, control in self.controls.items()
            },
            "rates_hz": {
                name: {"mean": float(rates.mean()), "sd": float(rates.std())} for name, rates in self.rates_hz.items()
            },
            "update": {name: float(shares.mean()) for name, shares in self.update.items()},
        }


def evaluate_robot(
    robot: Robot,
    spec: TrajectorySpec,
    trajectories: int,
    inner: InnerLoop,
    seed: int,
    batch: int = BATCH,
    products: Products | None = None,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int], None] | None = None,
    engine: Engine = ENGINE,
) -> RobotEvaluation:
    """Give a lesson on each of the movements 0 .. trajectories - 1 of ``seed``, and the controls.

    Training and validation have other movements, even of the same seed (``tasks.robot_training``). Nothing that is
    drawn depends on ``batch``, except where updates are rounded stochastically: one generator serves a batch.

    Args:
        spec: as ``tasks.robot.spec_for`` gives it.
        inner: how lessons go, with one update or more.
        batch: movements at a time, which bounds the memory.
        products: of the trainee's weights, see ``models.natural_eprop``.
        on_batch: told how many movements were just finished.
        engine: what runs the networks.
    Raises:
        ConfigError: fewer than two movements (there is nothing to shuffle), no update, or a spec that is not the
            network's.
        DivergenceError: a potential of a last trial is not finite; the message names the movement.
    """
    if trajectories < 2 or batch < 1:
        raise ConfigError(
            f"{trajectories} trajectories, {batch} at a time: at least 2 are needed, at least 1 at a time"
        )
    if inner.updates < 1:
        raise ConfigError("updates 0: nothing is learned; the error before any update is part of every evaluation")
    if (spec.joints, spec.dt_ms) != (robot.config.outputs, robot.config.dt_ms):
        raise ConfigError(
            f"movements of {spec.joints} joints in steps of {spec.dt_ms:g} ms: the network moves "
            f"{robot.config.outputs} in steps of {robot.config.dt_ms:g} ms"
        )
    model = robot.module(engine=engine).to(device)
    outcomes: dict[str, list[MovementErrors]] = {"before": [], "after": [], "random": [], "shuffled": []}
    rates: list[dict[str, Values]] = []
    shares: list[dict[str, Values]] = []
    with torch.no_grad():
        last = sample_trajectories(spec, seed, [trajectories - 1]).to(device)
        previous = model.signals(last.lsg_input).readout
        for indices in _blocks(trajectories, batch):
            movements = sample_trajectories(spec, seed, indices).to(device)
            lesson = _lesson(model, movements, inner, seed, indices, products)
            signals = lesson.learning_signal
            controls = {
                "random": random_signals(signals, seed, indices),
                "shuffled": shuffled_signals(signals, previous),
            }
            previous = signals[-1:].clone()
            _check_finite(lesson, indices, seed, inner)
            outcomes["before"].append(_errors(lesson.before, movements))
            outcomes["after"].append(_errors(lesson.after, movements))
            rates.append({name: len(indices) * rate for name, rate in _rates_hz(lesson).items()})
            shares.append(updated_fractions(lesson))
            for name, control in controls.items():
                taught = model.teach(
                    movements.clock, control, inner, rounding_stream(seed, indices, movements.clock.device), products
                )
                _check_finite(taught, indices, seed, inner)
                outcomes[name].append(_errors(taught.after, movements))
            if on_batch:
                on_batch(len(indices))
    return RobotEvaluation(
        **{name: _joined(parts) for name, parts in outcomes.items()},
        rates_hz={name: np.sum([part[name] for part in rates], axis=0) / trajectories for name in rates[0]},
        update={name: np.concatenate([part[name] for part in shares]) for name in shares[0]},
        spec=spec,
        seed=seed,
        inner=inner,
        batch=batch,
    )


def replay(
    robot: Robot,
    evaluation: RobotEvaluation,
    index: int,
    device: torch.device | str = "cpu",
    engine: Engine = ENGINE,
) -> tuple[Lesson, TrajectoryBatch, int]:
    """Give the lesson of movement ``index`` again, in software, within the batch in which it was evaluated.

    Returns: the batch's lesson, its movements, and which of them ``index`` is.
    """
    first = index // evaluation.batch * evaluation.batch
    indices = range(first, min(first + evaluation.batch, len(evaluation)))
    movements = sample_trajectories(evaluation.spec, evaluation.seed, indices).to(device)
    with torch.no_grad():
        model = robot.module(engine=engine).to(device)
        lesson = _lesson(model, movements, evaluation.inner, evaluation.seed, indices, None)
    return lesson, movements, index - first


def updated_fractions(lesson: Lesson) -> dict[str, Values]:
    """Share of weights that any update changed, ``W_in`` and ``W_rec``, [B]; W_rec without its diagonal."""
    names = {"W_in" if name.endswith(".weight") else "W_rec": name for name in lesson.updates[0].change}
    fractions = {}
    for label, name in names.items():
        changed = torch.stack([update.change[name] != 0 for update in lesson.updates]).any(0)
        count = changed[0].numel()
        if label == "W_rec":
            changed.diagonal(dim1=1, dim2=2).fill_(False)
            count -= len(changed[0])
        fractions[label] = (changed.sum((1, 2)).double() / count).cpu().numpy()
    return fractions


def summary(values: ArrayLike) -> dict[str, Any]:
    """Mean, its 95 % half-width (Student's t), median and 95th percentile of one value a movement."""
    v = np.asarray(values, dtype=np.float64)
    return interval(v) | {"median": float(np.median(v)), "p95": float(np.percentile(v, 95))}


def paired(a: RobotEvaluation, b: RobotEvaluation, seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """Compare two networks on the same movements: loss and tip error after the update, a against b.

    Args:
        seed, resamples: of the percentile bootstrap over movements, each drawn jointly for both.
    Returns: for ``loss`` and ``tip_rmse_mm`` the ``difference`` a - b {mean, ci95}, and ``ratio_of_means`` and
        ``ratio_of_medians`` a / b, {ratio, low, high} (95 %).
    Raises: ConfigError: they did not meet the same movements.
    """
    met = [(len(e), e.seed, replace(e.spec, code=b.spec.code)) for e in (a, b)]
    if met[0] != met[1]:
        raise ConfigError("the two networks did not meet the same trajectories: evaluate both with one spec and seed")
    draws = np.random.default_rng(seed).integers(len(a), size=(resamples, len(a)))
    found: dict[str, Any] = {"trajectories": len(a)}
    for name in ("loss", "tip_rmse_mm"):
        x, y = getattr(a.after, name), getattr(b.after, name)
        found[name] = {
            "difference": paired_difference(x, y),
            "ratio_of_means": _ratio(x, y, draws, np.mean),
            "ratio_of_medians": _ratio(x, y, draws, np.median),
        }
    return found


def _ratio(a: Values, b: Values, draws: NDArray[np.int64], middle: Callable[[Values], Any]) -> dict[str, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [middle(a[draw]) / middle(b[draw]) for draw in draws]
        low, high = np.percentile(ratios, [2.5, 97.5])
        return {"ratio": float(middle(a) / middle(b)), "low": float(low), "high": float(high)}


def _blocks(trajectories: int, batch: int) -> Iterator[range]:
    for first in range(0, trajectories, batch):
        yield range(first, min(first + batch, trajectories))


def rounding_stream(seed: int, indices: range, device: torch.device | str = "cpu") -> torch.Generator:
    """Of the rounding of a batch's updates: the same for its controls, and for the chips that learn the same."""
    state = np.random.SeedSequence([seed, indices[0]], spawn_key=ROUNDING).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))


def _lesson(
    model: NaturalEProp,
    movements: TrajectoryBatch,
    inner: InnerLoop,
    seed: int,
    indices: range,
    products: Products | None,
) -> Lesson:
    return model(
        movements.clock, movements.lsg_input, inner, rounding_stream(seed, indices, movements.clock.device), products
    )


def _check_finite(lesson: Lesson, indices: range, seed: int, inner: InnerLoop) -> None:
    """The outputs do not tell: a neuron whose potential is NaN falls silent."""
    (layer,) = lesson.trials[-1].layers.values()
    wrong = ~layer.membrane.isfinite().all(2).all(1)
    if bool(wrong.any()):
        raise DivergenceError(
            f"trajectory {indices[int(wrong.nonzero()[0])]} of seed {seed}: after the update the trainee's potentials "
            f"are not finite: lower the inner rate ({inner.rate:g})"
        )


def _rates_hz(lesson: Lesson) -> dict[str, Values]:
    assert lesson.lsg is not None
    (lsg,) = lesson.lsg.rates_hz().values()
    trainee = torch.stack([next(iter(trial.rates_hz().values())) for trial in lesson.trials]).mean(0)
    return {"lsg": lsg.double().cpu().numpy(), "trainee": trainee.double().cpu().numpy()}


def _errors(output: Tensor, movements: TrajectoryBatch) -> MovementErrors:
    return MovementErrors(*(e.cpu() for e in movement_errors(output.double(), movements)))


def _joined(parts: list[MovementErrors]) -> Errors:
    return Errors(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))
