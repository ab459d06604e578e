"""What a chip holds beside what was asked of it: errors of its layers, and their figure.

    error of a layer    root mean square over its weights of (held - asked), in % of full scale (w_max)
    signal left         sum |held| / sum |asked| of what is read now

Held right after programming follows from g_prog, held now from g_read, asked from g_target. Beyond w_max nothing can be
asked: such weights are saturated, and their loss is counted, not averaged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from ovonic.adapters.crossbar_exports import placed_cells
from ovonic.adapters.crossbar_image import CrossbarImage
from ovonic.adapters.crossbar_weights import matrices
from ovonic.models.crossbar import ArrayState
from ovonic.models.splitting import weights as decoded
from ovonic.validation.figure_style import HARDWARE, SERIES, SOFTWARE, finish, styled

__all__ = ["Inspection", "LayerState", "inspect_image", "inspection_figure", "lasting"]


@dataclass(frozen=True)
class LayerState:
    """A layer on a chip.

    Attributes:
        name; weights: how many lie on the arrays. saturated: how many software weights lie beyond w_max; None where
            the image does not say what was programmed. at_full_scale: how many are asked to be at full scale.
        programming_error, error_now: see the module's text, %; worst_now: the largest, %. signal_left: see there.
        pulses: on its devices. stuck: devices.
    """

    name: str
    weights: int
    saturated: int | None
    at_full_scale: int
    programming_error: float
    error_now: float
    worst_now: float
    signal_left: float
    pulses: int
    stuck: int


@dataclass(frozen=True)
class Inspection:
    """A chip: its layers, how old its devices are (s, of placed cells), and the share of cells that hold weights."""

    layers: tuple[LayerState, ...]
    youngest_s: float
    oldest_s: float
    fill: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def inspect_image(image: CrossbarImage) -> Inspection:
    """Measure every layer of an image."""
    beyond = _saturated(image)
    layers, ages = [], []
    for layer in image.layout.layers:
        state = _devices(image, layer.name)
        asked, held, now = (decoded(g, image.model.g_max_us) for g in (state.g_target, state.g_prog, state.g_read))
        error = now - asked
        total = float(asked.abs().sum())
        layers.append(
            LayerState(
                layer.name,
                asked.numel(),
                None if beyond is None else beyond[layer.name],
                int((asked.abs() >= 1 - 1e-6).sum()),
                100 * float((held - asked).square().mean().sqrt()),
                100 * float(error.square().mean().sqrt()),
                100 * float(error.abs().max()),
                float(now.abs().sum()) / total if total else 1.0,
                int(state.pulses.sum()),
                int((state.fault != 0).sum()),
            )
        )
        ages.append(image.now_s - state.t_prog_s)
    lows, highs = ([float(getattr(age, end)()) for age in ages] for end in ("min", "max"))
    return Inspection(tuple(layers), min(lows), max(highs), image.layout.fill)


def lasting(seconds: float) -> str:
    """A duration in words: 90 s, 1.5 h, 30 d."""
    for name, unit in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.4g} {name}"
    return f"{seconds:.4g} s"


@styled
def inspection_figure(image: CrossbarImage, *, setting: str = "") -> Figure:
    """Conductances of the devices that are to conduct, and errors of the weights, asked and held, as histograms."""
    figure = Figure(figsize=(8.4, 3.1))
    left, right = figure.subplots(1, 2)
    states = [_devices(image, layer.name) for layer in image.layout.layers]
    _conductances(left, image, states)
    _errors(right, image, states)
    inspection = inspect_image(image)
    age = lasting(inspection.oldest_s)
    text = (
        f"{setting + ': ' if setting else ''}devices with a target above 0 uS on the left; on the right the weights of "
        f"every layer with an error (the six largest layers); {image.model.name}, oldest device {age}."
    )
    worst = max(inspection.layers, key=lambda layer: layer.error_now)
    alt = (
        f"Two histograms. Left: conductances asked for and as read now, 0 to {image.model.g_max_us:g} microsiemens. "
        f"Right: errors of weights in % of full scale; those of {worst.name} are the largest, {worst.error_now:.2g} %."
    )
    return finish(figure, text, alt)


def _conductances(axes: Axes, image: CrossbarImage, states: list[ArrayState]) -> None:
    asked = torch.cat([state.g_target.flatten() for state in states])
    now = torch.cat([state.g_read.flatten() for state in states])
    on = asked > 0
    top = max(image.model.g_max_us, float(now.max())) * 1.02
    for values, label, colour, style in ((asked, "asked for", SOFTWARE, "-"), (now, "read now", HARDWARE, "--")):
        counts, edges = np.histogram(values[on].numpy(), np.linspace(0, top, 61))
        axes.stairs(counts, edges, color=colour, linestyle=style)
        axes.plot([], [], color=colour, linestyle=style, label=label)
    axes.set(xlabel="conductance, uS", ylabel="devices", title="Conductances", xlim=(0, top), yscale="log")
    axes.set_ylim(bottom=0.8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    axes.legend()


def _errors(axes: Axes, image: CrossbarImage, states: list[ArrayState]) -> None:
    g_max = image.model.g_max_us
    errors = [100 * (decoded(s.g_read, g_max) - decoded(s.g_target, g_max)).flatten() for s in states]
    noisy = [pair for pair in zip(image.layout.layers, errors, strict=True) if bool((pair[1] != 0).any())]
    shown = sorted(noisy, key=lambda pair: -len(pair[1]))[: len(SERIES)]
    most = 1.1 * max([0.5, *(float(np.quantile(error.abs().numpy(), 0.99)) for _, error in shown)])
    for (layer, error), (colour, style, _) in zip(shown, SERIES, strict=False):
        edges = np.linspace(-most, most, 42 if len(error) > 4000 else 22)
        density, _ = np.histogram(error.numpy(), edges)
        axes.stairs(100 * density / len(error) / (edges[1] - edges[0]), edges, color=colour, linestyle=style)
        axes.plot([], [], color=colour, linestyle=style, label=layer.name)
    axes.set(xlabel="error, % of full scale", ylabel="weights, % per % of full scale", xlim=(-most, most))
    axes.set_title("Weights: read now - asked for")
    if shown:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _devices(image: CrossbarImage, layer: str) -> ArrayState:
    """The devices of a layer, each field [4, 1, n]."""
    parts: list[list[Tensor]] = [[] for _ in ArrayState._fields]
    for cells in placed_cells(image.layout):
        if cells.layer == layer:
            at = torch.from_numpy(cells.row), torch.from_numpy(cells.column)
            for part, field in zip(parts, image.states[cells.array], strict=True):
                part.append(field[:, *at])
    return ArrayState(*(torch.cat(part, dim=-1).unsqueeze(-2) for part in parts))


def _saturated(image: CrossbarImage) -> dict[str, int] | None:
    if image.software is None:
        return None
    units = matrices(image.layout, image.software.weights)
    return {name: int((w.abs() > 1 + 1e-6).sum()) for name, w in units.items()}
