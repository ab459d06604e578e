"""The learning rule's part of ``ovonic reproduce``: one update of e-prop, by computations that share no code with it.

References are those of ``validation.gradients``; thresholds stand here. A toolchain that is missing costs its own rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ovonic.adapters.eprop_wiring import EpropEpisode
from ovonic.models.errors import ToolchainError
from ovonic.tasks.bellec import Evidence, Pattern, evidence_accumulation, pattern_generation, repeated, task_network
from ovonic.tasks.robot import resolve_robot
from ovonic.validation.eprop_learning import LearningCurves, learning_figure, side_by_side
from ovonic.validation.gradients import (
    REFERENCES,
    TOLERANCE,
    Agreement,
    Bptt,
    Episode,
    compare_gradients,
    factorised,
    lesson_episode,
    random_episode,
)
from ovonic.validation.gradients_figures import agreement_figure, bptt_figure
from ovonic.validation.gradients_summary import DRAWS, LENGTHS, SIZES, bptt_sweep, summary
from ovonic.validation.report_content import At, Cell, Claim, Picture, Section, Table
from ovonic.validation.reproduction_part import Measured, OnSteps, Part

__all__ = ["GRADIENT_THRESHOLDS", "GradientRuns", "gradients_part"]

GRADIENT_THRESHOLDS = {"gradient": TOLERANCE, "loss": 1e-10, "weights": 1e-10}
"""Most that a gradient may differ from the rule's, over its largest entry; that losses of two programs which learn the
same task may, over the loss; and their final weights, over the largest change."""


@dataclass(frozen=True)
class GradientRuns:
    """Sizes: random networks and their steps; robot weights whose lesson is compared; updates of the two tasks."""

    networks: int = 4
    steps: int = 60
    lessons: tuple[str, ...] = ("robot-q16",)
    updates: int = 20

    def command(self, seed: int) -> str:
        """The command that compares the random networks alone, and draws."""
        text = f"ovonic validate eprop random --networks {self.networks} --steps {self.steps} --seed {seed}"
        return text + " --bptt --figures figures"

    @staticmethod
    def lesson(weights: str, seed: int) -> str:
        """The command that compares natural e-prop's update alone."""
        return f"ovonic validate eprop {weights} --networks 1 --seed {seed}"


RUNS, FULL_RUNS = GradientRuns(), GradientRuns(100, 100, ("robot-q16", "robot-float"), 30)


def gradients_part(seed: int, full: bool = False, runs: GradientRuns | None = None) -> Part:
    """The learning rule's part of the report.

    Raises: WeightsError: weights of a lesson are missing or damaged.
    """
    asked = runs or (FULL_RUNS if full else RUNS)
    robots = {name: resolve_robot(name) for name in asked.lessons}
    sweep = len(SIZES) * len(LENGTHS) * DRAWS
    return Part(
        "the learning rule beside reference dynamics",
        (asked.networks + len(asked.lessons)) * len(REFERENCES) + sweep + len(TASKS),
        ("brian2", "nest-simulator", "snntorch", "norse", "braintrace"),
        lambda _, on_steps: _measured(asked, seed, full, on_steps),
        {
            "runs": asdict(asked),
            "thresholds": GRADIENT_THRESHOLDS,
            "references": REFERENCES,
            "weights": {name: robot.provenance["sha256"] for name, robot in robots.items()},
        },
        seconds=35 + asked.networks + 5 * len(asked.lessons),
    )


def _pattern(updates: int, seed: int) -> LearningCurves:
    task = pattern_generation(updates, seed, Pattern(steps=150))
    return side_by_side(task_network(task, 40, seed=seed), task, 3e-5)


def _evidence(updates: int, seed: int) -> LearningCurves:
    task = repeated(evidence_accumulation(4, seed, Evidence(inputs=20, cues=3, delay=40)), updates)
    return side_by_side(task_network(task, 40, 20, seed), task, 3e-4, 4)


TASKS: dict[str, Callable[[int, int], LearningCurves]] = {"pattern": _pattern, "evidence": _evidence}
"""The two tasks of Bellec et al. 2020: updates and seed -> both programs' losses."""


def _measured(runs: GradientRuns, seed: int, full: bool, on_steps: OnSteps) -> Measured:
    absent: dict[str, str] = {}
    drawn = [random_episode(index, seed, runs.steps) for index in range(runs.networks)]
    found = _compared(((episode, factorised(episode)) for episode in drawn), absent, on_steps)
    lessons = (lesson_episode(name, resolve_robot(name), seed) for name in runs.lessons)
    natural = _compared(lessons, absent, on_steps)
    sweep = bptt_sweep(seed, on_steps)
    curves = _learned(runs, seed, absent, on_steps)
    figures: dict[str, Any] = {
        "tolerance": TOLERANCE,
        "references": summary(found),
        "absent": absent,
        "natural": summary(natural),
        "bptt": {f"{size}": {f"{length}": _left_out(sweep, size, length) for length in LENGTHS} for size in SIZES},
        "learning": {
            name: {
                "difference": c.difference,
                "weight_difference": c.weight_difference,
                "loss": {"first": float(c.ours[0]), "last": float(c.ours[-1])},
                "updates": len(c.ours),
            }
            for name, c in curves.items()
        },
    }
    config = {"runs": asdict(runs), "thresholds": GRADIENT_THRESHOLDS, "references": list(REFERENCES)}
    return Measured(figures, config, _section(runs, figures, found, sweep, curves, seed, full))


def _compared(
    episodes: Iterable[tuple[Episode, EpropEpisode]], absent: dict[str, str], on_steps: OnSteps
) -> list[Agreement]:
    """What each reference says of each episode; why it is not there goes to ``absent``."""
    found: list[Agreement] = []
    for episode, ours in episodes:
        for name in REFERENCES:
            if name not in absent:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", DeprecationWarning)
                        found += compare_gradients(episode, (name,), ours)
                except ToolchainError as error:
                    absent[name] = str(error)
            on_steps(1)
    return found


def _learned(runs: GradientRuns, seed: int, absent: dict[str, str], on_steps: OnSteps) -> dict[str, LearningCurves]:
    curves = {}
    for name, learn in TASKS.items():
        try:
            curves[name] = learn(runs.updates, seed)
        except ToolchainError as error:
            absent["learning beside NEST"] = str(error)
        on_steps(1)
    return curves


def _left_out(sweep: Iterable[Bptt], neurons: int, steps: int) -> dict[str, float]:
    some = [b for b in sweep if (b.neurons, b.steps) == (neurons, steps)]
    return {key: sum(getattr(b, key) for b in some) / len(some) for key in ("cosine", "difference")}


def _section(
    runs: GradientRuns,
    figures: Mapping[str, Any],
    found: list[Agreement],
    sweep: list[Bptt],
    curves: Mapping[str, LearningCurves],
    seed: int,
    full: bool,
) -> Section:
    text = (
        "E-prop's update of one episode, synapse by synapse in float64, by our factorised rule and by computations "
        "that share no code with it, on random recurrent networks: LIF and adapting neurons, with and without "
        "refractoriness, three kinds of reset, one to three read-outs. A reference agrees if its spikes are the same "
        "and no gradient differs by more than the tolerance of its matrix's largest entry. Normalisations are "
        "converted, never excused. Those called end to end run our rule on a trace that the toolchain recorded; all "
        "others are independent of it.\n\n"
        f"{runs.networks} networks of {runs.steps} steps, and natural e-prop's update in a lesson of the arm's "
        f"networks ({', '.join(runs.lessons)}). What e-prop leaves out of the full gradient is no error of the rule: "
        "the figure shows its size. Two tasks of Bellec et al. 2020 are learned by us and by NEST's own plasticity "
        "from the same start."
    )
    alone = f"ovonic reproduce --only gradients --seed {seed}" + " --full" * full
    setting = f"Random networks 0 to {runs.networks - 1}, {runs.steps} steps, seed {seed}, float64."
    pictures = [
        Picture.of(agreement_figure(found, setting=setting), runs.command(seed)),
        Picture.of(bptt_figure(sweep, setting=f"Seed {seed}, float64."), runs.command(seed)),
    ]
    if curves:
        figure = learning_figure(list(curves.values()), setting=f"Seed {seed}.")
        pictures.append(Picture.of(figure, alone))
    result = {"gradients": figures}
    tables = [
        _references(figures, "references", "Random networks: difference from our rule", runs.command(seed)),
        _references(figures, "natural", "Natural e-prop's update in a lesson", runs.lesson(runs.lessons[0], seed)),
    ]
    return Section(
        "The learning rule beside reference dynamics", text, _claims(result, runs, seed, alone), tables, pictures
    )


def _references(figures: Mapping[str, Any], place: str, title: str, command: str) -> Table:
    """A row a reference: what it is, how many runs, the largest difference, the spikes."""
    rows: list[list[Cell]] = []
    for name, row in figures[place].items():
        at = f"gradients/{place}/{name}"
        spikes = {True: "the same", False: "others", None: "–"}[row["same_spikes"]]
        runs = (At(f"{at}/episodes", "number"), ", refused ", At(f"{at}/refused", "number"))
        rows.append([name, row["kind"], runs, At(f"{at}/worst", "number"), spikes])
    rows += [[name, "not compared", "–", "–", cure] for name, cure in figures["absent"].items() if name in REFERENCES]
    return Table(title, ("Reference", "Kind", "Runs", "Largest relative difference", "Spikes"), rows, command)


def _claims(result: Mapping[str, Any], runs: GradientRuns, seed: int, alone: str) -> list[Claim]:
    limits = GRADIENT_THRESHOLDS

    def claim(text: str, place: str, limit: float, command: str) -> Claim:
        return Claim.about(result, text, At(f"gradients/{place}", "number"), "<=", limit, command)

    of_networks, of_lesson = runs.command(seed), runs.lesson(runs.lessons[0], seed)
    claims = [
        claim(f"e-prop by {name}: relative difference", f"references/{name}/worst", limits["gradient"], of_networks)
        for name in REFERENCES
    ]
    claims += [
        claim(f"natural e-prop by {name}: relative difference", f"natural/{name}/worst", limits["gradient"], of_lesson)
        for name in REFERENCES
    ]
    for name in TASKS:
        at = f"learning/{name}"
        claims += [
            claim(f"{name} task: losses beside NEST's", f"{at}/difference", limits["loss"], alone),
            claim(f"{name} task: weights beside NEST's", f"{at}/weight_difference", limits["weights"], alone),
        ]
    return claims
