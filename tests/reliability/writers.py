"""Every kind of file that is written, in two versions: a function of a folder and of 0 or 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure

from ovonic.adapters.checkpoints import save_checkpoint
from ovonic.adapters.crossbar_exports import write_cells, write_npz
from ovonic.adapters.crossbar_file import save_image
from ovonic.adapters.crossbar_image import CrossbarImage
from ovonic.adapters.nir import save_nir
from ovonic.adapters.weights import save_fewshot
from ovonic.commands.common import write_json
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.natural_eprop_networks import initial_pair
from ovonic.tasks.robot import Robot
from ovonic.tasks.robot_run import save as save_robot
from ovonic.validation.figure_style import save as save_figure
from ovonic.validation.report import Section, write_report

from . import seeds

__all__ = ["WRITERS"]


def _fewshot(folder: Path, version: int) -> None:
    net = FewshotCNN(seeds.CNN, torch.Generator().manual_seed(version))
    save_fewshot(folder / "weights.safetensors", net, {"command": "x"})


def _robot(folder: Path, version: int) -> None:
    save_robot(folder / "weights.safetensors", Robot(seeds.ROBOT, initial_pair(seeds.ROBOT, version)))


def _checkpoint(folder: Path, version: int) -> None:
    state = seeds.fewshot_state()
    state.step = version
    save_checkpoint(folder / "checkpoint.safetensors", state.tensors(), seeds.IDENTITY, state.progress())


@cache
def _chip(version: int) -> CrossbarImage:
    return replace(seeds._image(), provenance={"version": version})


def _image(folder: Path, version: int) -> None:
    save_image(folder / "chip.h5", _chip(version))


def _tables(folder: Path, version: int) -> None:
    write_npz(folder / "chip.npz", _chip(version))
    write_cells(folder / "chip.csv", _chip(version))


def _layout(folder: Path, version: int) -> None:
    layout = seeds.layout()
    (layout if version else replace(layout, digital=())).save(folder / "layout.json")


def _nir(folder: Path, version: int) -> None:
    save_nir(folder / "network.nir", (seeds._small_network(), seeds._convolving_network())[version])


def _json(folder: Path, version: int) -> None:
    write_json(folder / "result.json", "test", {"numbers": [version] * 5000}, {}, {"ovonic": "0"})


def _report(folder: Path, version: int) -> None:
    section = Section("Part", "A text. " * (100 + version))
    write_report(folder, [section], {"schema": "x", "n": version})


def _figure(folder: Path, version: int) -> None:
    figure = Figure()
    figure.add_subplot().plot([0, 1 + version])
    save_figure(figure, folder / "figure.png", command="x")


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "few-shot weights": _fewshot,
    "robot weights": _robot,
    "checkpoint": _checkpoint,
    "crossbar image": _image,
    "npz and csv": _tables,
    "layout": _layout,
    "nir": _nir,
    "json result": _json,
    "report": _report,
    "figure": _figure,
}
