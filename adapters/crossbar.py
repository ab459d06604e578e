"""The layout of networks on crossbar arrays, as data: where each weight of each layer lies.

A layer's weights are a matrix [in, out]; a kernel is unrolled as ``torch.nn.functional.unfold`` orders its inputs,

    in = (channel * window height + i) * window width + j

and a convolution of several groups is block-diagonal in it. A **block** is a rectangle of that matrix on one array,
inputs along the rows (wordlines), outputs along the columns (pairs of bitlines). A matrix too tall is several blocks
whose products are added digitally, each after its own ADC; one too wide lies in blocks side by side.

A product:  u = x / input_range on the rows;  y = (sum over the driven rows of u w / w_max) w_max input_range.

**What is read together.** Layers that share a step are read in one MVM: ``reads`` names the signal on a layer's rows,
``feeds`` the sum its columns belong to. The input weights and the recurrence of a spiking layer feed the same sum, and
the array adds them before the one ADC. A linear layer behind a recurrent one stands on the same rows as the recurrence,
which the spikes of step t drive in step t + 1: it is read then, in the same MVM, and needs one MVM more at the end.
MVM s drives the rows of a layer with its signal of step s - ``lag``.

Biases and one-to-one weights are digital. Diagonals that have no effect keep their cells, which hold zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.crossbar_checks import MAX_ARRAYS, MAX_BLOCKS, MAX_LAYERS, MAX_SIDE, MAX_WEIGHTS, check
from ovonic.adapters.crossbar_fields import Many, OneOf, groups_of_words, positive, positives, word, words
from ovonic.adapters.crossbar_json import read_bounded, read_json, write_json
from ovonic.adapters.crossbar_reads import Cost, Read, cost, reads
from ovonic.adapters.crossbar_table import summary
from ovonic.adapters.files import write_atomically
from ovonic.models.errors import ConfigError, DataError, nearest
from ovonic.models.frozen import Record, Whole, frozen

__all__ = ["INPUTS", "PHASES", "ArraySpec", "Block", "Cost", "Layout", "PlacedLayer", "Read", "phases_of"]

INPUTS = ("binary", "unsigned", "signed")
"""What drives the rows: spikes, values of one sign, or of both (on WL+ and WL-, one after the other)."""
KINDS = ("linear", "recurrence", "convolution")
PHASES = {"binary": (1, 2), "unsigned": (1, 2), "signed": (1, 2, 4)}
"""Phases of a read: WL+ and WL- at once or in turn, times 2 where the bitlines of a pair are read in turn."""

Size = Annotated[int, Whole(1, MAX_SIDE)]
Index = Annotated[int, Whole(0, MAX_WEIGHTS)]
Sizes = Annotated[tuple[int, ...], Whole(1, MAX_SIDE, many=True)]


def phases_of(read_phases: int) -> dict[str, int]:
    """Phases of a read by its inputs, where a signed one takes 1, 2 or 4; as ``Periphery.phases`` counts them.

    Raises: ConfigError: another number.
    """
    if read_phases not in PHASES["signed"]:
        raise ConfigError(f"read_phases {read_phases}: choose 1, 2 or 4")
    return {"signed": read_phases, "unsigned": 1 + (read_phases == 4), "binary": 1 + (read_phases == 4)}


@frozen
class ArraySpec(Record):
    """An array: its name, rows (wordlines) and columns (pairs of bitlines)."""

    name: Annotated[str, word]
    rows: Size = 256
    columns: Size = 256


@frozen
class Block(Record):
    """Inputs in_start .. in_stop and outputs out_start .. out_stop of a layer, on an array from (row, column) on."""

    layer: Annotated[str, word]
    in_start: Index
    in_stop: Index
    out_start: Index
    out_stop: Index
    array: Annotated[int, Whole(0, MAX_ARRAYS)]
    row: Index
    column: Index

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_start >= self.in_stop or self.out_start >= self.out_stop:
            raise ConfigError(f"block of layer {self.layer!r}: holds nothing: {self.weights}")

    @property
    def height(self) -> int:
        """Rows it takes."""
        return self.in_stop - self.in_start

    @property
    def width(self) -> int:
        """Columns it takes."""
        return self.out_stop - self.out_start

    @property
    def rows(self) -> slice:
        """Its rows of the array."""
        return slice(self.row, self.row + self.height)

    @property
    def columns(self) -> slice:
        """Its columns of the array."""
        return slice(self.column, self.column + self.width)

    @property
    def inputs(self) -> slice:
        """Its rows of the layer's matrix."""
        return slice(self.in_start, self.in_stop)

    @property
    def outputs(self) -> slice:
        """Its columns of the layer's matrix."""
        return slice(self.out_start, self.out_stop)

    @property
    def weights(self) -> str:
        """Its part of the matrix, in words."""
        return f"weights [{self.in_start}:{self.in_stop}, {self.out_start}:{self.out_stop}]"


@frozen
class PlacedLayer(Record):
    """A layer whose weights lie on the arrays.

    Attributes:
        name: of the weight, as ``Network.weights`` or ``Module.named_parameters`` names it.
        shape: (in, out) of the unrolled matrix.
        kind: ``"linear"``, ``"recurrence"`` or ``"convolution"``.
        inputs: what drives its rows, see ``INPUTS``; input_range: the DAC's full scale in the layer's own units.
        w_max: the weight that a pair of devices at full scale stands for: one number, or one a column.
        phases: of a read, see ``PHASES``; 0 becomes 2 of signed inputs, 1 of others.
        masked_diagonal: the diagonal has no effect and its cells hold zero.
        transposed: the layer's own weight has outputs first, [out, in, window] (torch), not [in, out, window].
        window, stride, padding, dilation, groups: of a convolution.
        reads, feeds, lag: see the module's text; by default a signal and a sum of its own, without lag.
        vectors: inputs that a step of inference brings, those of a convolution one a position of its output.
    """

    name: Annotated[str, word]
    shape: Sizes
    kind: Annotated[str, OneOf(KINDS)] = "linear"
    inputs: Annotated[str, OneOf(INPUTS)] = "signed"
    input_range: Annotated[float, positive] = 1.0
    w_max: Annotated[tuple[float, ...], positives] = (1.0,)
    phases: Annotated[int, Whole(0, 4)] = 0
    masked_diagonal: bool = False
    transposed: bool = False
    window: Sizes = ()
    stride: Sizes = ()
    padding: Annotated[tuple[int, ...], Whole(0, MAX_SIDE, many=True)] = ()
    dilation: Sizes = ()
    groups: Size = 1
    reads: str = ""
    feeds: str = ""
    lag: Annotated[int, Whole(0)] = 0
    vectors: Annotated[int, Whole(1, 2**40)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, default in (("reads", self.name), ("feeds", self.name), ("phases", phases_of(2)[self.inputs])):
            if not getattr(self, name):
                object.__setattr__(self, name, default)
        if len(self.shape) != 2:
            self._refuse("shape", f"{self.shape} must be (in, out)")
        if math.prod(self.shape) > MAX_WEIGHTS:
            self._refuse("shape", f"{self.shape} has more than {MAX_WEIGHTS} weights")
        if len(self.w_max) not in (1, self.shape[1]):
            self._refuse("w_max", f"{len(self.w_max)} numbers where 1 or {self.shape[1]} (columns) are due")
        if self.phases not in PHASES[self.inputs]:
            self._refuse("phases", f"{self.phases}: {self.inputs} inputs take {PHASES[self.inputs]}")
        if self.masked_diagonal and self.shape[0] != self.shape[1]:
            self._refuse("masked_diagonal", f"a matrix of {self.shape} is not square")
        axes = len(self.window)
        if (axes in (1, 2)) != (self.kind == "convolution") or axes > 2:
            self._refuse("window", f"{self.window} of a {self.kind}")
        if not axes and (self.stride or self.padding or self.dilation or self.groups != 1):
            self._refuse("stride", f"a {self.kind} has no stride, padding, dilation and groups")
        if axes and {len(self.stride), len(self.padding), len(self.dilation)} != {axes}:
            self._refuse("stride", "stride, padding and dilation must have a number for each axis of the window")
        if self.shape[0] % (math.prod(self.window) * self.groups) or self.shape[1] % self.groups:
            self._refuse("groups", f"{self.groups} of a window {self.window} do not fit {self.shape}")

    def _refuse(self, field: str, what: str) -> None:
        raise ConfigError(f"layer {self.name!r}: {field} {what}")

    @property
    def own_shape(self) -> tuple[int, ...]:
        """The shape of the layer's own weight, kernels not unrolled."""
        n_in = self.shape[0] // math.prod(self.window) // self.groups
        ends = (self.shape[1], n_in) if self.transposed else (n_in, self.shape[1])
        return (*ends, *self.window)

    @property
    def parts(self) -> tuple[tuple[slice, slice], ...]:
        """The rectangles of the matrix that hold weights: all of it, or one a group of a convolution."""
        n_in, n_out = (size // self.groups for size in self.shape)
        return tuple((slice(g * n_in, (g + 1) * n_in), slice(g * n_out, (g + 1) * n_out)) for g in range(self.groups))

    @property
    def n_weights(self) -> int:
        """Weights it has, masked ones included."""
        return math.prod(self.shape) // self.groups

    def scale(self) -> NDArray[np.float64]:
        """What a column's product in units of full scale is multiplied by, w_max input_range, [out]."""
        return np.broadcast_to(np.array(self.w_max) * self.input_range, self.shape[1])


@frozen
class Layout(Record):
    """Layers on arrays (see the module's text); validated when it is made.

    Attributes:
        arrays, layers, blocks: what lies where.
        together: names of layers that are read in one MVM; every other layer is read alone.
        digital: names of parameters that stay in the digital periphery, for the record.
    Raises: ConfigError: names the array's cell and the layer where two blocks overlap, a block leaves its array or its
        layer, or a weight is missing or placed twice; unknown layers and arrays.
    """

    arrays: Annotated[tuple[ArraySpec, ...], Many(ArraySpec, MAX_ARRAYS)]
    layers: Annotated[tuple[PlacedLayer, ...], Many(PlacedLayer, MAX_LAYERS)]
    blocks: Annotated[tuple[Block, ...], Many(Block, MAX_BLOCKS)]
    together: Annotated[tuple[tuple[str, ...], ...], groups_of_words] = ()
    digital: Annotated[tuple[str, ...], words] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.validate()

    def validate(self) -> None:
        """Check the whole (see above); memory is bounded by one array and one layer."""
        check(self)

    def layer(self, name: str) -> PlacedLayer:
        """The layer of that name. Raises: ConfigError: there is none."""
        if name not in self._by_name:
            raise ConfigError(f"layer {name!r}: {nearest(name, self._by_name)}")
        return self._by_name[name]

    def blocks_of(self, name: str) -> tuple[Block, ...]:
        """The blocks of a layer."""
        return tuple(self._blocks_by_layer.get(name, ()))

    @functools.cached_property
    def _by_name(self) -> dict[str, PlacedLayer]:
        return {layer.name: layer for layer in self.layers}

    @functools.cached_property
    def _blocks_by_layer(self) -> dict[str, list[Block]]:
        blocks: dict[str, list[Block]] = {}
        for block in self.blocks:
            blocks.setdefault(block.layer, []).append(block)
        return blocks

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """All layers, by what is read together."""
        joint = {name: group for group in self.together for name in group}
        return tuple(dict.fromkeys(joint.get(layer.name, (layer.name,)) for layer in self.layers))

    @property
    def n_weights(self) -> int:
        """Cells that hold weights."""
        return sum(layer.n_weights for layer in self.layers)

    @property
    def fill(self) -> float:
        """Share of the arrays' cells that hold weights."""
        return self.n_weights / sum(array.rows * array.columns for array in self.arrays)

    def used(self, array: int) -> tuple[slice, slice]:
        """Rows and columns of an array from 0 to the last in use."""
        there = [block for block in self.blocks if block.array == array]
        rows, columns = (max((getattr(b, side).stop for b in there), default=0) for side in ("rows", "columns"))
        return slice(0, rows), slice(0, columns)

    def reads(self, group: Iterable[str]) -> tuple[Read, ...]:
        """The MVMs that give the products of layers read together (one of ``groups``), once each."""
        return reads(self, tuple(group))

    def with_read_phases(self, read_phases: int) -> Self:
        """The layout on a chip whose signed reads take 1, 2 or 4 phases (``Periphery.read_phases``)."""
        phases = phases_of(read_phases)
        return self.replace(layers=tuple(layer.replace(phases=phases[layer.inputs]) for layer in self.layers))

    def cost(self, steps: int = 1) -> tuple[Cost, ...]:
        """What an inference of so many steps costs, by what is read together."""
        return tuple(cost(self, group, steps) for group in self.groups)

    def to_json(self) -> str:
        """Text that ``from_json`` reads; equal layouts give equal texts."""
        return write_json(self)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "layout") -> Self:
        """Read what ``to_json`` wrote. Raises: DataError: what is wrong, in ``source``."""
        try:
            return cls(**read_json(text, source))
        except ConfigError as error:
            raise DataError(f"{source}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write it as JSON, wholly or not at all."""
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that ``save`` wrote. Raises: DataError: what is wrong, naming the file."""
        return cls.from_json(read_bounded(path), str(path))

    def __str__(self) -> str:
        return summary(self)
