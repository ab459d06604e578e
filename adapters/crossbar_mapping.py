"""Layouts of networks: what a layer needs, cut to the size of arrays and packed on as few as a simple rule finds.

Layers that are read together become one **plane**, their signals below one another as rows, their sums side by side as
columns, so that a driven row and a read column meet no foreign weight; every other layer is a plane of its own, and
each group of a convolution is one. A plane larger than an array is cut into the fewest parts, as equal as they can be
(504 rows: 252 + 252).

    few-shot CNN   2 arrays: three deep convolutions, 252 + 252 rows by 56 columns each, beside them the first
                   convolution, 9 x 56, and the read-out, 56 x 5: 229 columns
    trainee        1 array: 5 clock + 250 recurrent rows, 250 neurons + 2 read-outs: 255 x 252
    LSG            20 arrays: 53 + 800 rows in 4 parts, 800 neurons + 250 learning signals in 5

Reference: Ortner et al. 2025, Nature Communications 16:1243.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ovonic.adapters.crossbar import INPUTS, ArraySpec, Block, Layout, PlacedLayer, phases_of
from ovonic.adapters.crossbar_packing import Rectangle, cuts, pack
from ovonic.adapters.crossbar_sources import Driven, Found, found_in_module, found_in_network, inputs_of, observed
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.layers import Conv
from ovonic.models.network import Network

__all__ = ["SCALES", "TOGETHER", "cnn_layout", "layout_of", "lsg_layout", "trainee_layout"]

Array = NDArray[np.float64]

SCALES = ("layer", "column")
TOGETHER = ("all", "rows", "none")
IMAGE_SIDE = 28
"""Of the few-shot CNN's images, which each of its convolutions halves."""


class _Part(NamedTuple):
    """A rectangle of a layer's matrix, from (row, column) of its plane on."""

    layer: str
    inputs: slice
    outputs: slice
    row: int
    column: int


def layout_of(
    source: Network | nn.Module,
    *,
    rows: int = 256,
    columns: int = 256,
    arrays: int | None = None,
    scale: str = "layer",
    headroom: float = 1.0,
    w_max: Mapping[str, float | Sequence[float]] | None = None,
    inputs: Mapping[str, str] | None = None,
    input_ranges: Mapping[str, float] | None = None,
    read_phases: int = 2,
    together: str = "all",
    parallel: bool = True,
    example: Any = None,
) -> Layout:
    """Place a network, the few-shot CNN, or a torch module of linear layers and convolutions.

    Args:
        source: see ``adapters.crossbar_sources``.
        rows, columns: of every array; arrays: how many there are at most.
        scale: full scale by ``"layer"`` or by ``"column"``: the largest |w| there times ``headroom``; layers whose
            columns are summed share it. w_max: other full scales, by name: one number, or one a column.
        inputs: what drives a layer, by name: ``"binary"``, ``"unsigned"``, ``"signed"``; input_ranges: the DAC's full
            scale. By default what the source or the example tells.
        read_phases: of a signed read: 1, 2 or 4 (see ``adapters.crossbar`` and ``models.periphery``).
        together: what one MVM reads. ``"all"`` that can be read so; ``"rows"``: layers on the same rows, so that input
            weights lie in the columns of their recurrence, but with a read and a scale of their own, and are added
            digitally; ``"none"``: one layer.
        parallel: parts of a matrix split by rows on different arrays.
        example: of a module: input to look at, see ``crossbar_sources.observed``.
    Raises: ConfigError: an unknown name or option, or more arrays needed than there are. UnsupportedDynamics: a module
        that cannot be placed, by name.
    """
    for option, choice, choices in (("scale", scale, SCALES), ("together", together, TOGETHER)):
        if choice not in choices:
            raise ConfigError(f"{option} {choice!r}: {nearest(str(choice), choices)}")
    for name, kind in (inputs or {}).items():
        if kind not in INPUTS:
            raise ConfigError(f"inputs of {name!r}: {kind!r}: {nearest(str(kind), INPUTS)}")
    for name, number in {"rows": rows, "columns": columns, "headroom": headroom, **(input_ranges or {})}.items():
        if not 0 < number < math.inf:
            raise ConfigError(f"{name} {number}: must be positive")
    phases = phases_of(read_phases)
    groups: list[tuple[str, ...]] = []
    driven: dict[str, Driven] = {}
    if isinstance(source, Network):
        found, groups, digital = found_in_network(source)
        if not found:
            raise ConfigError("network: holds no weight matrix to place")
    else:
        found, digital = found_in_module(source)
        driven = _cnn_driven(source) if isinstance(source, FewshotCNN) and example is None else {}
        driven |= {} if example is None else observed(source, example)
    names = [f.name for f in found]
    for option, given in (("w_max", w_max), ("inputs", inputs), ("input_ranges", input_ranges)):
        for name in given or {}:
            if name not in names:
                raise ConfigError(f"{option} of {name!r}: {nearest(name, names)}")
    if together == "none":
        groups, found = [], [Found(**vars(f) | {"reads": "", "feeds": "", "lag": 0}) for f in found]
    ready = []
    for f in found:
        d = driven.get(f.name, f.driven)
        kind = (inputs or {}).get(f.name, d.inputs)
        full = (input_ranges or {}).get(f.name, 1.0 if kind == "binary" else d.input_range)
        ready.append(Found(**vars(f) | {"driven": Driven(kind, full, d.vectors)}))
    placement = [_placed(f, (1.0,), phases) for f in ready]
    blocks, count = _pack(placement, groups, rows, columns, parallel)
    if arrays is not None and count > arrays:
        raise ConfigError(f"{count} arrays of {rows} x {columns} are needed, there are {arrays}")
    if together == "rows":
        ready, groups = _apart(ready, groups)
    scales = _scales(ready, scale, headroom, w_max or {})
    layers = tuple(_placed(f, scales[f.name], phases) for f in ready)
    specs = tuple(ArraySpec(f"A{k}", rows, columns) for k in range(count))
    return Layout(specs, layers, tuple(blocks), tuple(groups), tuple(digital))


def cnn_layout(net: FewshotCNN, *, image_range: float = 1.0, activation_range: float = 10.0, **options: Any) -> Layout:
    """The few-shot CNN: pixels in 0..image_range, then what a norm gives, taken up to activation_range deviations.

    Args: options: of ``layout_of``.
    """
    names = [name for name, parameter in net.named_parameters() if parameter.ndim > 1]
    ranges = {name: image_range if k == 0 else activation_range for k, name in enumerate(names)}
    given = options.pop("input_ranges", None) or {}
    return layout_of(net, input_ranges=ranges | dict(given), **options)


def trainee_layout(network: Network, **options: Any) -> Layout:
    """The trainee of natural e-prop, driven by the spikes of its clock. Args: options: of ``layout_of``."""
    return _spike_driven(network, options)


def lsg_layout(network: Network, **options: Any) -> Layout:
    """The learning-signal generator, driven by a clock and a binary code. Args: options: of ``layout_of``."""
    return _spike_driven(network, options)


def _spike_driven(network: Network, options: dict[str, Any]) -> Layout:
    given = options.pop("inputs", None) or {}
    return layout_of(network, inputs=dict.fromkeys(inputs_of(network), "binary") | dict(given), **options)


def _cnn_driven(net: FewshotCNN) -> dict[str, Driven]:
    """Pixels are unsigned, all else leaves a norm; a vector a position."""
    driven, side = {}, IMAGE_SIDE
    for block in range(net.config.blocks):
        side = -(-side // 2)
        pixels = block == 0
        driven[f"convs.{block}.weight"] = Driven("unsigned" if pixels else "signed", 1.0 if pixels else 10.0, side**2)
    return driven | {"readout.weight": Driven("signed", 10.0)}


def _apart(found: Sequence[Found], groups: Sequence[tuple[str, ...]]) -> tuple[list[Found], list[tuple[str, ...]]]:
    """Layers that feed a recurrence, read on their own."""
    by_name = {f.name: f for f in found}
    kept = []
    for group in groups:
        recurrence = next(by_name[name] for name in group if by_name[name].kind == "recurrence")
        kept.append(tuple(name for name in group if by_name[name].reads == recurrence.reads))
        for name in set(group) - set(kept[-1]):
            by_name[name] = Found(**vars(by_name[name]) | {"feeds": name})
    return [by_name[f.name] for f in found], [group for group in kept if len(group) > 1]


def _scales(
    found: Sequence[Found], scale: str, headroom: float, fixed: Mapping[str, float | Sequence[float]]
) -> dict[str, tuple[float, ...]]:
    """w_max of each layer; w_max input_range is the same for all layers whose columns are summed."""
    sums: dict[str, list[Found]] = {}
    for f in found:
        sums.setdefault(f.feeds or f.name, []).append(f)
    scales = {}
    for members in sums.values():
        named = [f for f in members if f.name in fixed]
        tops = {f.name: _fixed(f, fixed[f.name]) for f in named}
        tops = tops or {f.name: _largest(f, scale) * headroom for f in members}
        for f in members:
            relative = [tops[g.name] * (g.driven.input_range / f.driven.input_range) for g in named or members]
            highest = np.max(np.stack(np.broadcast_arrays(*relative)), 0)
            idle = highest.max() if highest.max() > 0 else 1.0
            scales[f.name] = tuple(float(top) if top > 0 else float(idle) for top in highest)
    return scales


def _largest(f: Found, scale: str) -> Array:
    """The largest |w| of the layer, [1], or of each column, [out]."""
    w = np.abs(np.moveaxis(f.layer.weight, 1, -1)).reshape(-1, f.layer.weight.shape[1])
    if f.masked_diagonal:
        w = w * (1 - np.eye(len(w)))
    return np.asarray(w.max(0) if scale == "column" else w.max(keepdims=True)[0])


def _fixed(f: Found, w_max: float | Sequence[float]) -> Array:
    given = np.atleast_1d(np.asarray(w_max, np.float64))
    if given.shape not in ((1,), f.layer.weight.shape[1:2]) or not (np.isfinite(given) & (given > 0)).all():
        raise ConfigError(f"w_max of {f.name!r}: one positive number, or one a column ({f.layer.weight.shape[1]})")
    return given


def _placed(f: Found, w_max: tuple[float, ...], phases: Mapping[str, int]) -> PlacedLayer:
    layer, geometry = f.layer, {}
    n_in, n_out, *window = layer.weight.shape
    groups = 1
    if isinstance(layer, Conv):
        groups = layer.groups
        geometry = {"window": tuple(window), "stride": layer.stride, "padding": layer.padding}
        geometry |= {"dilation": layer.dilation}
    return PlacedLayer(
        f.name,
        (n_in * groups * math.prod(window), n_out),
        f.kind,
        f.driven.inputs,
        f.driven.input_range,
        w_max,
        phases[f.driven.inputs],
        f.masked_diagonal,
        f.transposed,
        **geometry,
        groups=groups,
        reads=f.reads,
        feeds=f.feeds,
        lag=f.lag,
        vectors=f.driven.vectors,
    )


def _planes(layers: Sequence[PlacedLayer], groups: Sequence[tuple[str, ...]]) -> list[list[_Part]]:
    joint = {name for group in groups for name in group}
    by_name = {layer.name: layer for layer in layers}
    planes = []
    for group in groups:
        row, column, rows, columns = 0, 0, {}, {}
        for layer in (by_name[name] for name in group):
            if layer.reads not in rows:
                rows[layer.reads], row = row, row + layer.shape[0]
            if layer.feeds not in columns:
                columns[layer.feeds], column = column, column + layer.shape[1]
        planes.append(
            [
                _Part(x.name, slice(0, x.shape[0]), slice(0, x.shape[1]), rows[x.reads], columns[x.feeds])
                for x in (by_name[name] for name in group)
            ]
        )
    alone = [layer for layer in layers if layer.name not in joint]
    return planes + [[_Part(x.name, *part, 0, 0)] for x in alone for part in x.parts]


def _pack(
    layers: Sequence[PlacedLayer], groups: Sequence[tuple[str, ...]], rows: int, columns: int, parallel: bool
) -> tuple[list[Block], int]:
    rectangles: list[Rectangle] = []
    contents: list[list[_Part]] = []
    for number, plane in enumerate(_planes(layers, groups)):
        height = max(part.row + part.inputs.stop - part.inputs.start for part in plane)
        width = max(part.column + part.outputs.stop - part.outputs.start for part in plane)
        for across in cuts(width, columns):
            for down in cuts(height, rows):
                inside = [cut for part in plane if (cut := _cut(part, down, across)) is not None]
                if not inside:
                    continue
                top, left = min(part.row for part in inside), min(part.column for part in inside)
                shifted = [part._replace(row=part.row - top, column=part.column - left) for part in inside]
                size = (
                    max(p.row + p.inputs.stop - p.inputs.start for p in shifted),
                    max(p.column + p.outputs.stop - p.outputs.start for p in shifted),
                )
                rectangles.append(Rectangle(*size, (number, across.start) if parallel else None))
                contents.append(shifted)
    places = pack(rectangles, rows, columns)
    blocks = [
        Block(
            part.layer,
            part.inputs.start,
            part.inputs.stop,
            part.outputs.start,
            part.outputs.stop,
            place.array,
            place.row + part.row,
            place.column + part.column,
        )
        for place, parts in zip(places, contents, strict=True)
        for part in parts
    ]
    order = {layer.name: k for k, layer in enumerate(layers)}
    blocks.sort(key=lambda block: (order[block.layer], block.in_start, block.out_start))
    return blocks, 1 + max(place.array for place in places)


def _cut(part: _Part, down: slice, across: slice) -> _Part | None:
    """What of a part lies in these rows and columns of its plane."""
    top, bottom = max(part.row, down.start), min(part.row + part.inputs.stop - part.inputs.start, down.stop)
    left, right = max(part.column, across.start), min(part.column + part.outputs.stop - part.outputs.start, across.stop)
    if top >= bottom or left >= right:
        return None
    i, j = part.inputs.start - part.row, part.outputs.start - part.column
    return _Part(part.layer, slice(top + i, bottom + i), slice(left + j, right + j), top, left)
