"""A crossbar image as other things: the network that its conductances stand for, weight files, npz, and tables.

    network_read, weights_read      weights as the chip reads now, in the layers' own units
    write_npz                       all devices, by array: array0_g_read [4, rows, columns], .., and the texts
    write_cells                     CSV, a row a cell that holds a weight: where it lies, what it is, its four devices
    write_programming               CSV, a row a device that a controller must program, in the order of arrays and cells

``adapters.crossbar_imports`` reads npz and cells back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_image import DEVICES, CrossbarImage
from ovonic.adapters.crossbar_models import model_to_plain
from ovonic.adapters.crossbar_plain import chip_to_plain, written
from ovonic.adapters.crossbar_weights import weights_of
from ovonic.adapters.files import write_atomically
from ovonic.adapters.weights import FEWSHOT, save_weights
from ovonic.models.crossbar import weights
from ovonic.models.errors import ConfigError
from ovonic.models.network import Network

__all__ = [
    "CELL_COLUMNS",
    "DEVICE_COLUMNS",
    "network_read",
    "placed_cells",
    "weights_read",
    "write_cells",
    "write_npz",
    "write_programming",
    "write_weights",
]

DEVICE_COLUMNS = ("g1_plus_us", "g1_minus_us", "g2_plus_us", "g2_minus_us")
CELL_COLUMNS = (
    "array",
    "row",
    "column",
    "layer",
    "input",
    "output",
    "weight",
    *DEVICE_COLUMNS,
    *(f"target_{name}" for name in DEVICE_COLUMNS),
)


class Placed(NamedTuple):
    """Cells of one block, each entry [n]: where they lie, and which weight of the layer's matrix they hold."""

    layer: str
    array: int
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    input: NDArray[np.int64]
    output: NDArray[np.int64]


def placed_cells(layout: Layout) -> Iterator[Placed]:
    """The cells that hold weights, block by block; those of a masked diagonal hold none."""
    for block in layout.blocks:
        i, j = (part.ravel() for part in np.indices((block.height, block.width)))
        here = Placed(
            block.layer, block.array, block.row + i, block.column + j, block.in_start + i, block.out_start + j
        )
        if layout.layer(block.layer).masked_diagonal:
            effective = here.input != here.output
            here = here._replace(**{name: getattr(here, name)[effective] for name in Placed._fields[2:]})
        yield here


def weights_read(image: CrossbarImage) -> dict[str, Tensor]:
    """The weights that the conductances stand for now, by name, in the layers' own shapes and units."""
    return weights_of(image.layout, image.conductances(), image.model.g_max_us)


def network_read(image: CrossbarImage) -> Network:
    """The network that was programmed, with its weights as the chip reads now; biases are as they were.

    Raises: ConfigError: the image holds no network.
    """
    if image.software is None or image.software.network is None:
        what = "does not say what was programmed" if image.software is None else "holds a torch module's weights"
        raise ConfigError(f"the image {what}, not a network; its weights go to .npz, .csv or .safetensors")
    return image.software.network.with_weights({name: w.numpy() for name, w in weights_read(image).items()})


def write_weights(path: str | Path, image: CrossbarImage) -> None:
    """Write the weights as the chip reads now, with those that stay digital, as a safetensors file.

    A few-shot CNN becomes a weight file that ``adapters.weights`` loads; anything else, tensors by name.

    Raises: ConfigError: the image does not say what was programmed.
    """
    if image.software is None:
        raise ConfigError("the image does not say what was programmed; its weights go to .npz or .csv")
    digital = {name: array.astype(np.float32) for name, array in image.software.weights.items()}
    read = {name: np.ascontiguousarray(w.numpy(), np.float32) for name, w in weights_read(image).items()}
    config = dict(image.software.config)
    if config.get("kind") == FEWSHOT:
        history = dict(config["training"]) | {"crossbar": {"now_s": image.now_s, **image.provenance}}
        save_weights(path, digital | read, config | {"training": history})
    else:
        write_atomically(path, safetensors.numpy.save(digital | read))


def write_npz(path: str | Path, image: CrossbarImage) -> None:
    """Write everything but the software side as npz; ``read.<layer>`` are the weights as read now."""
    arrays: dict[str, Any] = {
        "layout": image.layout.to_json(),
        "device": written("device", model_to_plain(image.model)),
        "chip": written("chip", chip_to_plain(image)),
        "provenance": written("provenance", image.provenance),
        "g_max_us": image.model.g_max_us,
    }
    for k, state in enumerate(image.states):
        arrays |= {f"array{k}_{name}": values.numpy() for name, values in state._asdict().items()}
        for name, column in zip(("column_gain", "column_offset"), _column_errors(image, k), strict=True):
            if column is not None:
                arrays[f"array{k}_{name}"] = column.numpy()
    arrays |= {f"read.{name}": w.numpy() for name, w in weights_read(image).items()}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    write_atomically(path, file.getvalue())


def write_cells(path: str | Path, image: CrossbarImage) -> None:
    """Write a CSV of ``CELL_COLUMNS``, one row a cell; conductances in uS, as they read now and as asked for.

    ``input`` and ``output`` count in the layer's unrolled matrix; ``weight`` is in the layer's own units.
    Numbers are the shortest that give the same float again.
    """
    rows: list[list[str]] = []
    for cells in placed_cells(image.layout):
        state = image.states[cells.array]
        at = torch.from_numpy(cells.row), torch.from_numpy(cells.column)
        read = weights(state, image.model.g_max_us)[at].numpy()
        w_max = np.array(image.layout.layer(cells.layer).w_max, read.dtype)
        devices = [g[:, *at].numpy() for g in (state.g_read, state.g_target)]
        columns = [
            [image.layout.arrays[cells.array].name] * len(cells.row),
            *(part.astype(str) for part in (cells.row, cells.column)),
            [cells.layer] * len(cells.row),
            *(part.astype(str) for part in (cells.input, cells.output)),
            (read * (w_max[cells.output] if len(w_max) > 1 else w_max)).astype(str),
            *(g.astype(str) for four in devices for g in four),
        ]
        rows += zip(*columns, strict=True)  # type: ignore[arg-type]
    _write_csv(path, CELL_COLUMNS, rows)


def write_programming(path: str | Path, image: CrossbarImage, since: CrossbarImage | None = None) -> int:
    """Write what a controller must program to bring a chip to this image's targets.

    Args: since: what the chip holds; without it, nothing, and every device of a placed cell is listed.
    Returns: how many devices.
    Raises: ConfigError: ``since`` is of another layout.
    """
    if since is not None and since.layout != image.layout:
        raise ConfigError("the two images are of different layouts: a list of changes means nothing")
    rows = []
    for cells in placed_cells(image.layout):
        name = image.layout.arrays[cells.array].name
        state, at = image.states[cells.array], (torch.from_numpy(cells.row), torch.from_numpy(cells.column))
        target = state.g_target[:, *at]
        due = torch.ones(target.shape, dtype=torch.bool)
        if since is not None:
            old = since.states[cells.array]
            due = (target != old.g_target[:, *at]) | (old.pulses[:, *at] == 0)
        words = target.numpy().astype(str)
        for n, device in due.T.nonzero().tolist():
            rows.append((name, str(cells.row[n]), str(cells.column[n]), DEVICES[device], words[device, n]))
    _write_csv(path, ("array", "row", "column", "device", "target_us"), rows)
    return len(rows)


def _column_errors(image: CrossbarImage, array: int) -> tuple[Tensor | None, Tensor | None]:
    return image.column_errors[array] if image.column_errors else (None, None)


def _write_csv(path: str | Path, header: tuple[str, ...], rows: Any) -> None:
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_atomically(path, file.getvalue())
