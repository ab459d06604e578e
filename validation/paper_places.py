"""Where results hold the numbers of the paper's rows, and the commands that measure them."""

from __future__ import annotations

from ovonic.validation.paper_row import Place

__all__ = [
    "ARM",
    "ARM_HERMES",
    "FEW",
    "FEW_20",
    "FEW_HERMES",
    "FEW_MONTH",
    "OMNIGLOT",
    "arm",
    "chip",
    "cost",
    "fewshot",
    "headline",
    "measured",
    "published_arm",
    "reproduced",
    "study",
]

OMNIGLOT = "-d images_background_small1.zip -d images_background_small2.zip"
FEW = "fewshot-32bit-noise-blind-pcm-0s-5w5s"
FEW_HERMES = "fewshot-32bit-noise-blind-hermes-0s-5w5s"
FEW_MONTH = "fewshot-32bit-noise-blind-pcm-2592000s-5w5s"
FEW_20 = "fewshot-32bit-noise-blind-pcm-0s-20w1s"
ARM = "robot-q16-pcm-0s"
ARM_HERMES = "robot-q16-hermes-0s"
"""Conditions of ``validation.hardware_studies`` by name."""


def headline(condition: str, path: str, over: str = "", minus: str = "", size: str = "") -> Place:
    """A number of a condition of the headline; ``over``, ``minus``: another path of the same condition."""
    quotient, difference = over and f"{condition}/{over}", minus and f"{condition}/{minus}"
    return study("headline", condition, path, quotient, difference, size=size)


def study(
    name: str, condition: str, path: str, over: str = "", minus: str = "", weights: str = "", size: str = ""
) -> Place:
    """A number of a condition of a study; ``over``, ``minus``: condition/path of another. ``weights``, ``size``: of the
    command."""
    root = "hardware/conditions"
    size = size or "--chips 30 --tasks 1000"
    named = "" if name == "headline" else f" --study {name}"
    only = f" --only {condition}" if not over or over.startswith(f"{condition}/") else ""
    data = f" {OMNIGLOT}" if "fewshot" in condition else ""
    tiles = condition.endswith("-aihwkit")
    return Place(
        f"{root}/{condition}/{path}",
        f"ovonic validate hardware{named}{weights and ' ' + weights}{only} {size}{data}",
        f"{'characters of Omniglot' if data else 'movements'}, {'aihwkit tiles' if tiles else 'crossbar'}",
        over and f"{root}/{over}",
        minus and f"{root}/{minus}",
    )


def reproduced(path: str, over: str = "", minus: str = "") -> Place:
    """A number of ``ovonic reproduce``'s two experiments."""
    part = path.split("/")[0]
    on = {"fewshot": "glyphs, aihwkit tiles", "robot": "movements, software"}[part]
    return Place(path, f"ovonic reproduce --only {part}", on, over, minus)


def fewshot(weights: str, path: str, options: str = "", name: str = "software", minus: str = "") -> Place:
    """A number of ``ovonic fewshot evaluate`` on Omniglot's two small sets, five ways and five shots.

    Args: options: of the command; name: what they make of the evaluation's name; minus: weights of another run of the
        same options, whose number is taken off.
    """

    def of(source: str) -> str:
        return f"evaluations/{source}-omniglot-5w5s-{name}/{path}"

    command = f"ovonic fewshot evaluate -w {weights} {OMNIGLOT} --split all{options and ' ' + options}"
    on = "characters of Omniglot" + ("" if name == "software" else ", crossbar")
    return Place(of(weights), command, on, minus=minus and of(minus))


def arm(weights: str, path: str, options: str = "", name: str = "unrounded-software", over: str = "") -> Place:
    """A number of ``ovonic robot evaluate`` on consistent movements, none trained on; ``over``: another's name/path."""
    root = f"evaluations/{weights}-consistent"
    command = f"ovonic robot evaluate -w {weights}{options and ' ' + options}"
    on = "movements, crossbar" if "crossbar" in name else "movements, software"
    return Place(f"{root}-{name}/{path}", command, on, over and f"{root}-{over}")


def published_arm(path: str) -> Place:
    """Of the paper's own weights on consistent movements, their update not rounded."""
    command = "ovonic robot evaluate -w robot_checkpoint.npz --quantise none --trajectories 1000"
    root = "evaluations/robot_checkpoint-consistent-unrounded-software"
    return Place(f"{root}/{path}", command, "the paper's own weights, movements, software")


def chip(path: str, over: str = "", source: str = "fewshot-32bit", devices: str = "pcm") -> Place:
    """A number of a programmed chip (``ovonic crossbar program``, then this command)."""
    root = f"chips/{source}-{devices}"
    return Place(
        f"{root}/{path}",
        "ovonic crossbar inspect CHIP.h5",
        f"CHIP.h5, of `ovonic crossbar program {source}`",
        over and f"{root}/{over}",
    )


def cost(experiment: str, path: str, over: str = "") -> Place:
    """A number of the energy model."""
    root = f"cost/{experiment}"
    return Place(f"{root}/{path}", f"ovonic crossbar cost {experiment}", "cost model", over and f"{root}/{over}")


def measured(name: str, path: str, on: str, options: str = "") -> Place:
    """A number of ``ovonic validate paper --measure NAME``."""
    command = f"ovonic validate paper --measure {name}{options and ' ' + options}"
    return Place(f"measured/{name}/{path}", command, on)
