"""What is measured on simulated chips: one condition, and how large."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MONTH_S", "Condition", "Size", "experiment_of"]

MONTH_S = 30 * 86400.0


@dataclass(frozen=True)
class Condition:
    """What is measured on chips.

    Attributes:
        experiment: ``"fewshot"`` or ``"robot"``. weights: a shipped name or a file.
        noise_model, read_time_s, adapt_on, compensation: as ``ovonic fewshot|robot evaluate`` has them.
        noise_scale: factor on programming and read noise. updates: None: as the weights say.
        n_way, k_shot, queries: of few-shot tasks; queries a class.
        hardware: ``"crossbar"`` or ``"aihwkit"``. bits: of every few-shot weight; None: as the weights say.
        zero_targets: what devices of target 0 hold, ``"reset"`` or ``"noisy"``; None: as the hardware has it.
    """

    experiment: str
    weights: str
    noise_model: str = "pcm"
    read_time_s: float = 0.0
    adapt_on: str = "device"
    noise_scale: float = 1.0
    updates: int | None = None
    compensation: str | None = None
    n_way: int = 5
    k_shot: int = 5
    queries: int = 5
    hardware: str = "crossbar"
    bits: int | None = None
    zero_targets: str | None = None

    @property
    def name(self) -> str:
        """A name for it, good for a file."""
        weights = self.weights.replace("/", "_").removesuffix(".safetensors")
        named = [] if weights.startswith(self.experiment) else [self.experiment]
        parts = [*named, weights, self.noise_model.replace("/", "_"), f"{self.read_time_s:.0f}s"]
        parts += [f"{self.n_way}w{self.k_shot}s"] if self.experiment == "fewshot" else []
        parts += [f"on-{self.adapt_on}"] if self.adapt_on != "device" else []
        parts += [f"noise{self.noise_scale:g}"] if self.noise_scale != 1 else []
        parts += [f"{self.updates}updates"] if self.updates is not None else []
        parts += [f"{self.compensation}-compensation"] if self.compensation else []
        parts += [f"{self.bits}bit"] if self.bits is not None else []
        parts += [f"zeros-{self.zero_targets}"] if self.zero_targets else []
        parts += [self.hardware] if self.hardware != "crossbar" else []
        return "-".join(parts)

    def settings(self) -> dict[str, Any]:
        """The fields as JSON; those that came later only where they are chosen, so that older results still fit."""
        later = {"hardware": "crossbar", "bits": None, "zero_targets": None}
        return {name: value for name, value in vars(self).items() if name not in later or value != later[name]}

    def command(self, size: Size, seed: int, data: Sequence[str] = ()) -> str:
        """The command that measures this alone (its ratio is to the weights' own twin)."""
        parts = ["ovonic", self.experiment, "evaluate", "--weights", self.weights, "--hardware", self.hardware]
        parts += ["--noise-model", self.noise_model, "--chips", str(size.chips), "--seed", str(seed)]
        if self.experiment == "fewshot":
            parts += ["--tasks", str(size.tasks), "--way", str(self.n_way), "--shot", str(self.k_shot)]
            parts += ["--queries", str(self.queries)]
            for source in data:
                parts += ["--data", source]
            parts += ["--split", "all"]
        else:
            parts += ["--trajectories", str(size.tasks)]
        options = {
            "--read-time": (f"{self.read_time_s:g}", "0"),
            "--adapt-on": (self.adapt_on, "device"),
            "--noise-scale": (f"{self.noise_scale:g}", "1"),
            "--updates": (str(self.updates), "None"),
            "--compensation": (str(self.compensation), "None"),
            "--precision": (str(self.bits), "None"),
            "--zero-targets": (str(self.zero_targets), "None"),
        }
        for option, (value, default) in options.items():
            parts += [option, value] if value != default else []
        return shlex.join(parts)


@dataclass(frozen=True)
class Size:
    """How many chips, and how many tasks or movements each of them meets."""

    chips: int = 30
    tasks: int = 1000


def experiment_of(weights: str) -> str:
    """``"fewshot"`` or ``"robot"``: whose weights they are."""
    from ovonic import load
    from ovonic.models.fewshot_cnn import FewshotCNN

    return "fewshot" if isinstance(load(weights), FewshotCNN) else "robot"
