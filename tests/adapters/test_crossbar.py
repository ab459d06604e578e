"""A layout as data: what is refused, what is read together and what it costs, text and files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from ovonic.adapters import crossbar_json
from ovonic.adapters.crossbar import ArraySpec, Block, Layout, PlacedLayer, phases_of
from ovonic.adapters.crossbar_mapping import layout_of, trainee_layout
from ovonic.adapters.crossbar_weights import targets, weights_of
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.periphery import Periphery

from .crossbar_cases import carved, recurrent_network


def two_layers() -> Layout:
    """a, 6 x 3, on two arrays of 4 x 8 by rows, and b, 2 x 2, beside its first half."""
    return Layout(
        (ArraySpec("left", 4, 8), ArraySpec("right", 4, 8)),
        (PlacedLayer("a", (6, 3)), PlacedLayer("b", (2, 2), inputs="unsigned")),
        (
            Block("a", 0, 3, 0, 3, 0, 0, 0),
            Block("a", 3, 6, 0, 3, 1, 0, 0),
            Block("b", 0, 2, 0, 2, 0, 1, 4),
        ),
    )


class TestOneCell:
    """A single weight's cell, moved, doubled or taken away: each is refused, naming cell and layer."""

    @pytest.mark.parametrize(("i", "j"), [(0, 0), (2, 1), (3, 2), (5, 0)])
    def test_elsewhere_it_is_as_good(self, i: int, j: int) -> None:
        layout = two_layers()
        rest, cell = carved(layout, "a", i, j)
        moved = layout.replace(blocks=(*rest, cell.replace(array=1, row=3, column=7)))
        weights = {"a": torch.randn(6, 3, dtype=torch.float64).clamp(-1, 1), "b": torch.eye(2, dtype=torch.float64)}
        g = targets(moved, weights, 25.0)
        assert torch.count_nonzero(g[1][:, 3, 7]) == 1 or weights["a"][i, j].abs() > 0.5
        assert torch.allclose(weights_of(moved, g, 25.0)["a"], weights["a"], atol=1e-15)

    @pytest.mark.parametrize(("i", "j"), [(0, 0), (2, 1), (3, 2), (5, 0)])
    def test_onto_another(self, i: int, j: int) -> None:
        layout = two_layers()
        rest, cell = carved(layout, "a", i, j)
        message = (
            rf"cell \(2, 5\) of array 'left' holds .* layer 'b' .* layer 'a' \(weights \[{i}:{i + 1}, {j}:{j + 1}\]"
        )
        with pytest.raises(ConfigError, match=message):
            layout.replace(blocks=(*rest, cell.replace(array=0, row=2, column=5)))

    def test_outside(self) -> None:
        layout = two_layers()
        rest, cell = carved(layout, "a", 2, 1)
        with pytest.raises(ConfigError, match=r"layer 'a', weights \[2:3, 1:2\]: cell \(4, 1\) lies outside array 'l"):
            layout.replace(blocks=(*rest, cell.replace(row=4)))
        with pytest.raises(ConfigError, match=r"layer 'a', .*: array 2 of 2"):
            layout.replace(blocks=(*rest, cell.replace(array=2)))

    @pytest.mark.parametrize(("i", "j"), [(0, 0), (2, 1), (3, 2), (5, 0)])
    def test_doubled(self, i: int, j: int) -> None:
        layout = two_layers()
        _, cell = carved(layout, "a", i, j)
        home = f"cell \\({cell.row}, {cell.column}\\) of array '{layout.arrays[cell.array].name}'"
        message = rf"layer 'a': weight \[{i}, {j}\] lies in {home} and again in cell \(3, 7\) of array 'right'"
        with pytest.raises(ConfigError, match=message):
            layout.replace(blocks=(*layout.blocks, cell.replace(array=1, row=3, column=7)))

    @pytest.mark.parametrize(("i", "j"), [(0, 0), (2, 1), (3, 2), (5, 0)])
    def test_missing(self, i: int, j: int) -> None:
        layout = two_layers()
        rest, _ = carved(layout, "a", i, j)
        message = rf"layer 'a': weight \[{i}, {j}\] has no cell on any array \(1 of its 18 weights"
        with pytest.raises(ConfigError, match=message):
            layout.replace(blocks=tuple(rest))

    def test_no_weight_of_a_grouped_convolution(self) -> None:
        layer = PlacedLayer("k", (4, 2), "convolution", window=(2,), stride=(1,), padding=(0,), dilation=(1,), groups=2)
        blocks = Block("k", 0, 2, 0, 1, 0, 0, 0), Block("k", 2, 4, 1, 2, 0, 0, 1)
        Layout((ArraySpec("A"),), (layer,), blocks)
        with pytest.raises(
            ConfigError, match=r"layer 'k': cell \(9, 9\) of array 'A' is placed for \[3, 0\], which is"
        ):
            Layout((ArraySpec("A"),), (layer,), (*blocks, Block("k", 3, 4, 0, 1, 0, 9, 9)))


REFUSED = [
    (lambda x: x.replace(arrays=(x.arrays[0], x.arrays[0])), "array 'left': 2 arrays have this name"),
    (lambda x: x.replace(layers=(*x.layers, x.layers[0])), "layer 'a': 2 layers have this name"),
    (lambda x: x.replace(layers=x.layers[:1]), "block of layer 'b': did you mean|block of layer 'b': choose"),
    (lambda x: x.replace(layers=(*x.layers, PlacedLayer("c", (1, 1)))), r"layer 'c': weight \[0, 0\] has no cell"),
    (lambda x: x.replace(blocks=(*x.blocks, Block("b", 2, 3, 0, 1, 1, 3, 7))), "layer 'b', .*: the layer's matrix is"),
    (lambda x: x.replace(together=(("a", "c"),)), "layer 'c'"),
    (lambda x: x.replace(together=(("a",), ("a", "b"))), "layer read together 'a': 2"),
    (lambda x: x.replace(arrays=(ArraySpec("left", 2**16, 2**16), *x.arrays[1:])), "cells in all: at most"),
    (lambda _: Block("a", 3, 3, 0, 1, 0, 0, 0), "block of layer 'a': holds nothing"),
    (lambda _: Block("a", -1, 3, 0, 1, 0, 0, 0), "Block.in_start: -1 must be a whole number"),
    (lambda _: PlacedLayer("a", (6, 3), w_max=(1.0, 2.0)), "layer 'a': w_max 2 numbers where 1 or 3"),
    (lambda _: PlacedLayer("a", (6, 3), w_max=(0.0,)), r"w_max\[0\]: '0.0' must be a positive number"),
    (lambda _: PlacedLayer("a", (6, 3), input_range=10**400), "input_range: .* must be a positive number"),
    (lambda _: PlacedLayer("a", (6, 3), inputs="binray"), "did you mean 'binary'"),
    (lambda _: PlacedLayer("a", (6, 3), inputs="binary", phases=4), "layer 'a': phases 4: binary inputs"),
    (lambda _: PlacedLayer("a", (6, 3), masked_diagonal=True), "layer 'a': masked_diagonal"),
    (lambda _: PlacedLayer("a", (6, 3), window=(2,)), r"layer 'a': window \(2,\) of a linear"),
    (lambda _: PlacedLayer("a", (6, 3), "convolution"), r"layer 'a': window \(\) of a convolution"),
    (lambda _: PlacedLayer("a", (6, 3), "convolution", window=(2,)), "layer 'a': stride stride, padding"),
    (lambda _: PlacedLayer("a", (2**14, 2**14)), "layer 'a': shape .* has more than"),
    (lambda _: phases_of(3), "read_phases 3: choose 1, 2 or 4"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_is_unsound_is_refused_by_name(change, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change(two_layers())


def test_signals_read_together_must_agree() -> None:
    layout = trainee_layout(recurrent_network())
    others = {layer.name: layer for layer in layout.layers}
    late = others["out.weight"].replace(lag=2)
    with pytest.raises(ConfigError, match="read together: both read 'cells', but with other"):
        layout.replace(layers=(others["in.weight"], others["cells.recurrence"], late))


class TestReads:
    def test_a_split_layer_takes_a_read_an_array(self) -> None:
        left, right = two_layers().reads(("a",))
        assert (left.array, left.rows, left.columns, left.phases) == (0, slice(0, 3), slice(0, 3), 2)
        assert (right.array, right.rows, right.columns) == (1, slice(0, 3), slice(0, 3))

    def test_one_read_a_step_and_one_more_at_the_end(self) -> None:
        layout = trainee_layout(recurrent_network())
        (read,) = layout.reads(layout.groups[0])
        assert (read.rows, read.columns, read.inputs, read.phases) == (slice(0, 19), slice(0, 16), "binary", 1)
        (cost,) = layout.cost(steps=50)
        assert (cost.mvms, cost.phases, cost.conversions, cost.in_sequence) == (51, 51, 51 * 16, 51)

    def test_sums_of_unequal_scale_are_converted_apart(self) -> None:
        layout = trainee_layout(recurrent_network())
        layers = tuple(x.replace(w_max=(9.0,)) if x.name == "in.weight" else x for x in layout.layers)
        assert len(layout.replace(layers=layers).reads(layout.groups[0])) == 2

    def test_a_foreign_weight_between_driven_row_and_read_column_parts_a_read(self) -> None:
        names = ("a", "b")
        layers = tuple(PlacedLayer(name, (2, 2)) for name in (*names, "c"))
        blocks = [Block("a", 0, 2, 0, 2, 0, 0, 0), Block("b", 0, 2, 0, 2, 0, 4, 4), Block("c", 0, 2, 0, 2, 0, 4, 0)]
        apart = Layout((ArraySpec("A", 8, 8),), layers, tuple(blocks), (names,))
        assert len(apart.reads(names)) == 2
        blocks[2] = blocks[2].replace(row=6)
        assert len(apart.replace(blocks=tuple(blocks)).reads(names)) == 1

    @pytest.mark.parametrize("read_phases", [1, 2, 4])
    def test_phases_are_the_peripherys(self, read_phases: int) -> None:
        layout = two_layers().with_read_phases(read_phases)
        for layer in layout.layers:
            assert layer.phases == Periphery(read_phases=read_phases).phases(layer.inputs)
        a, b = layout.cost(steps=3)
        assert (a.mvms, a.phases, a.in_sequence, b.phases) == (
            6,
            6 * layout.layers[0].phases,
            3,
            3 * (1 + (read_phases > 2)),
        )


def test_printed() -> None:
    text = str(two_layers())
    assert text.splitlines()[0] == "22 weights on 2 arrays, 34.4% of 64 cells"
    for words in ("left   4 x 8           3 x 6   40.6%  a, b", "left [0:3, 0:3]; right [0:3, 0:3]", "unsigned (1)"):
        assert words in text


HOSTILE = [
    (lambda d: [d], "not a layout"),
    (lambda d: d | {"format": "x"}, "not a layout"),
    (lambda d: d | {"version": 2}, "version 2: this Ovonic reads version 1"),
    (lambda d: d | {"version": True}, "version True"),
    (lambda d: {k: v for k, v in d.items() if k != "blocks"}, "field 'blocks' is missing"),
    (lambda d: d | {"block": []}, "field 'block': did you mean 'blocks'"),
    (lambda d: d | {"blocks": []}, "expected a list of Blocks"),
    (lambda d: d | {"blocks": {"0": d["blocks"][0]}}, "expected a list of Blocks"),
    (lambda d: d | {"blocks": [0] * 2**16 + [0]}, "blocks: 65537 of them: at most 65536"),
    (lambda d: d | {"blocks": [None]}, r"blocks\[0\]: NoneType where a Block"),
    (lambda d: d | {"arrays": [{"type": "Block"} | d["blocks"][0]]}, r"arrays\[0\]: Block: expected a ArraySpec"),
    (lambda d: d | {"arrays": [{"name": "A", "rows": 1e9}]}, "rows: 1000000000.0 must be a whole number"),
    (lambda d: d | {"arrays": [{"name": "A", "rows": 10**9}]}, "rows: 1000000000 must be a whole number in"),
    (lambda d: d | {"arrays": [{"name": f"A{k}", "rows": 2**16, "columns": 2**16} for k in range(9)]}, "cells in"),
    (lambda d: d | {"arrays": [{"name": "A\n"}]}, "must be a name"),
    (lambda d: d | {"layers": [d["layers"][0] | {"shape": [2**24, 2**24]}]}, "must be a whole number in"),
    (lambda d: d | {"layers": [d["layers"][0] | {"w_max": [1e300]}]}, "must be a positive number"),
    (lambda d: d | {"layers": [d["layers"][0] | {"w_max": [10**400]}]}, "must be a positive number"),
    (lambda d: d | {"layers": [d["layers"][0] | {"colour": 1}]}, "PlacedLayer.colour is unknown"),
    (lambda d: d | {"layers": [{"name": "a"}]}, "shape missing"),
    (lambda d: d | {"together": [["a", 3]]}, r"together\[0\]\[1\]"),
    (lambda d: d | {"digital": "bias"}, "digital: expected a list"),
]  # fmt: skip


class TestFiles:
    def test_there_and_back(self, tmp_path: Path) -> None:
        for layout in (two_layers(), layout_of(recurrent_network(), rows=8, columns=8, scale="column")):
            layout.save(tmp_path / "layout.json")
            assert Layout.load(tmp_path / "layout.json") == layout
            assert Layout.from_json(layout.to_json().encode()) == layout

    @pytest.mark.parametrize(("change", "message"), HOSTILE)
    def test_hostile(self, change, message: str, tmp_path: Path) -> None:
        path = tmp_path / "layout.json"
        path.write_text(json.dumps(change(json.loads(two_layers().to_json()))))
        with pytest.raises(DataError, match=message) as caught:
            Layout.load(path)
        assert str(caught.value).startswith(str(path))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\xff\xfe\x00", "not JSON"),
            (b"[" * 200_000, "not JSON"),
            (b'{"format": NaN}', "NaN is no number"),
            (b'{"format": 1, "format": 2}', "an object has a key twice"),
            (b'{"format": ' + b"9" * 5000 + b"}", "not JSON"),
        ],
    )
    def test_no_json(self, data: bytes, message: str) -> None:
        with pytest.raises(DataError, match=message):
            Layout.from_json(data)

    def test_too_large_or_absent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(DataError, match=r"nothing.json: cannot be read \(No such file"):
            Layout.load(tmp_path / "nothing.json")
        two_layers().save(tmp_path / "layout.json")
        monkeypatch.setattr(crossbar_json, "MAX_BYTES", 100)
        with pytest.raises(DataError, match="more than 100 bytes"):
            Layout.load(tmp_path / "layout.json")

    def test_any_damage_is_a_layout_or_a_data_error(self) -> None:
        text, draw = two_layers().to_json().encode(), random.Random(3)
        sound = 0
        for _ in range(400):
            damaged = bytearray(text)
            for _ in range(draw.randint(1, 3)):
                at = draw.randrange(len(damaged))
                if draw.random() < 0.3:
                    del damaged[at : at + draw.randint(1, 9)]
                else:
                    damaged[at] = draw.choice(b'0123456789{}[]",:-eE.x ')
            try:
                Layout.from_json(bytes(damaged))
                sound += 1
            except DataError:
                continue
        assert sound < 200
