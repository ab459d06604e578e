"""Products of placed layers: which values drive which rows, and what the columns mean.

    u = signal / input_range on the rows of each layer;   sum += ADC(u w') w_max input_range, read by read

``GroupProduct`` reads layers that are read together; ``Trial`` is one run of a network, whose recurrent layers read the
array once a step: the input weights' share of a current comes out of the recurrent product, and the read-out's of step
t out of the MVM of step t + 1 (see ``adapters.crossbar``).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovonic.adapters.crossbar import Layout, PlacedLayer
from ovonic.adapters.crossbar_reads import Read
from ovonic.models.errors import ConfigError

__all__ = ["GroupProduct", "Mvm", "Product", "Trial", "convolve", "product_of"]

Product = Callable[[Tensor], Tensor]
Mvm = Callable[[int, Tensor, slice, slice, str], Tensor]
"""As ``Driver.mvm``: (array, x [..., rows] in the DAC's full scale, rows, columns, inputs) -> [..., columns]."""


class _Run(NamedTuple):
    """Consecutive rows (columns) of a read that carry consecutive entries of a signal (of a sum)."""

    name: str
    entries: slice
    lines: slice


class GroupProduct:
    """The products of layers that are read together.

    Args: layout; group: their names; mvm: what multiplies.
    """

    def __init__(self, layout: Layout, group: Iterable[str], mvm: Mvm) -> None:
        names = tuple(group)
        self.layers = [layout.layer(name) for name in names]
        self.mvm = mvm
        self.sums = {layer.feeds: layer.shape[1] for layer in self.layers}
        self._range = {layer.reads: layer.input_range for layer in self.layers}
        self._plans = [(read, *_runs(layout, read)) for read in layout.reads(names)]
        scales = {layer.feeds: torch.tensor(layer.scale().copy()) for layer in self.layers}
        self._scales = {torch.float64: scales, torch.float32: {name: s.float() for name, s in scales.items()}}

    def __call__(self, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the layers give for their signals, by name [..., in] -> by the names of their sums [..., out].

        Raises: ConfigError: a signal is missing.
        """
        if missing := self._range.keys() - signals.keys():
            raise ConfigError(f"signals: {sorted(missing)[0]!r} is missing")
        like = signals[self.layers[0].reads]
        scaled = {name: x if (top := self._range[name]) == 1 else x / top for name, x in signals.items()}
        scales = self._scales[like.dtype]
        result: dict[str, Tensor] = {}
        for read, inputs, outputs in self._plans:
            y = self.mvm(read.array, _rows(read, inputs, scaled), read.rows, read.columns, read.inputs).to(like.dtype)
            for name, entries, lines in outputs:
                part = y[..., lines] * scales[name][entries]
                if name not in result and entries == slice(0, self.sums[name]):
                    result[name] = part
                    continue
                if name not in result:
                    result[name] = y.new_zeros(*y.shape[:-1], self.sums[name])
                result[name][..., entries] += part
        return result


def convolve(layer: PlacedLayer, product: Product, x: Tensor) -> Tensor:
    """A convolution as the product of its unrolled inputs: [..., channels, *space] -> [..., out, *space]."""
    axes = len(layer.window)
    if x.ndim < axes + 1 or x.shape[-axes - 1] * torch.Size(layer.window).numel() != layer.shape[0]:
        raise ConfigError(f"layer {layer.name!r}: an input of {tuple(x.shape)} for a matrix of {layer.shape}")
    leading, flat = x.shape[: -axes - 1], x.reshape(-1, *x.shape[-axes - 1 :])
    geometry = [layer.window, layer.dilation, layer.padding, layer.stride]
    if axes == 1:
        flat = flat.unsqueeze(-2)
        geometry = [(one, *given) for one, given in zip((1, 1, 0, 1), geometry, strict=True)]
    columns = F.unfold(flat, *geometry)
    sizes = [
        (n + 2 * p - d * (w - 1) - 1) // s + 1
        for n, w, d, p, s in zip(
            x.shape[-axes:], layer.window, layer.dilation, layer.padding, layer.stride, strict=True
        )
    ]
    return product(columns.mT).mT.reshape(*leading, layer.shape[1], *sizes)


class Trial:
    """One run of a network: ``products`` are what ``simulation.run`` multiplies by.

    Args: layout: of the network; mvm: what multiplies.
    """

    def __init__(self, layout: Layout, mvm: Mvm) -> None:
        self.products: dict[str, Product] = {}
        for group in layout.groups:
            product = GroupProduct(layout, group, mvm)
            recurrence = next((layer for layer in product.layers if layer.kind == "recurrence"), None)
            if recurrence is not None:
                self.products |= _RecurrentTrial(product, recurrence).products
                continue
            for layer in product.layers:
                self.products[layer.name] = product_of(layout, layer.name, mvm)


def product_of(layout: Layout, name: str, mvm: Mvm) -> Product:
    """x -> x W of a layer, read alone, in its own units: [..., in] -> [..., out]; of a convolution
    [..., channels, *space] -> [..., out, *space].
    """
    layer, group = layout.layer(name), GroupProduct(layout, (name,), mvm)

    def linear(x: Tensor) -> Tensor:
        return group({layer.reads: x})[layer.feeds]

    return functools.partial(convolve, layer, linear) if layer.kind == "convolution" else linear


class _RecurrentTrial:
    """The one MVM a step of a recurrent layer, of what feeds it and of what reads it."""

    def __init__(self, product: GroupProduct, recurrence: PlacedLayer) -> None:
        self.product, self.recurrence = product, recurrence
        self.given: dict[str, tuple[Tensor, ...]] = {}
        self.step = 0
        self.read: list[dict[str, Tensor]] = []
        self.products: dict[str, Product] = {recurrence.name: self._recur}
        for layer in product.layers:
            if layer is recurrence:
                continue
            take = self._take if layer.feeds == recurrence.feeds else self._late
            self.products[layer.name] = functools.partial(take, layer)

    def _take(self, layer: PlacedLayer, x: Tensor) -> Tensor:
        """Keep the input of all steps; its share of the current is added on the array, step by step."""
        self.given[layer.reads] = x.unbind(-2)
        return x.new_zeros(*x.shape[:-1], layer.shape[1])

    def _recur(self, z: Tensor) -> Tensor:
        signals = {name: self._at(name, steps) for name, steps in self.given.items()}
        sums = self.product(signals | {self.recurrence.reads: z})
        self.step += 1
        self.read.append(sums)
        return sums[self.recurrence.feeds]

    def _at(self, name: str, steps: tuple[Tensor, ...]) -> Tensor:
        if self.step >= len(steps):
            raise ConfigError(f"signal {name!r}: {len(steps)} steps, and the recurrence takes one more")
        return steps[self.step]

    def _late(self, layer: PlacedLayer, z: Tensor) -> Tensor:
        """What the MVMs of the steps read of the read-out's columns, and those after the last step."""
        lag, steps = self.recurrence.lag, z.shape[-2]
        if self.step != steps:
            raise ConfigError(f"layer {layer.name!r}: {steps} steps, of which the recurrence has seen {self.step}")
        silence = {name: torch.zeros_like(x[0]) for name, x in self.given.items()}
        while len(self.read) < steps + lag:
            spikes = z.select(-2, len(self.read) - lag) if len(self.read) >= lag else torch.zeros_like(z.select(-2, 0))
            self.read.append(self.product(silence | {self.recurrence.reads: spikes}))
        return torch.stack([sums[layer.feeds] for sums in self.read[lag:]], -2)


def _rows(read: Read, inputs: list[_Run], signals: Mapping[str, Tensor]) -> Tensor:
    """The values on the driven rows, [..., rows]; rows between them are silent."""
    parts = [signals[name][..., entries] for name, entries, _ in inputs]
    if len(parts) == 1:
        return parts[0]
    if sum(run.lines.stop - run.lines.start for run in inputs) == read.rows.stop - read.rows.start:
        return torch.cat(parts, -1)
    x = parts[0].new_zeros(*parts[0].shape[:-1], read.rows.stop - read.rows.start)
    for run, part in zip(inputs, parts, strict=True):
        x[..., run.lines] = part
    return x


def _runs(layout: Layout, read: Read) -> tuple[list[_Run], list[_Run]]:
    """Rows and columns of a read, as runs of the signals and the sums."""
    rows: dict[int, tuple[str, int]] = {}
    columns: dict[int, tuple[str, int]] = {}
    for block in read.blocks:
        layer = layout.layer(block.layer)
        for k in range(block.height):
            rows[block.row - read.rows.start + k] = layer.reads, block.in_start + k
        for k in range(block.width):
            columns[block.column - read.columns.start + k] = layer.feeds, block.out_start + k
    return _joined(rows), _joined(columns)


def _joined(lines: Mapping[int, tuple[str, int]]) -> list[_Run]:
    def key(line: tuple[int, tuple[str, int]]) -> tuple[Any, ...]:
        place, (name, entry) = line
        return name, entry - place

    runs = []
    for (name, _), grouped in itertools.groupby(sorted(lines.items()), key):
        run = list(grouped)
        first, last = run[0], run[-1]
        runs.append(_Run(name, slice(first[1][1], last[1][1] + 1), slice(first[0], last[0] + 1)))
    return runs
