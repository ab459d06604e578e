"""Images as networks, weights, npz and tables, and measured tables as images."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovonic.adapters.crossbar import ArraySpec, Block, Layout, PlacedLayer
from ovonic.adapters.crossbar_exports import (
    CELL_COLUMNS,
    network_read,
    placed_cells,
    weights_read,
    write_cells,
    write_npz,
    write_programming,
    write_weights,
)
from ovonic.adapters.crossbar_image import CrossbarImage, Software, image_of
from ovonic.adapters.crossbar_imports import image_of_conductances, read_cells, read_npz
from ovonic.adapters.crossbar_placed import PlacedChip
from ovonic.adapters.weights import load_weights, resolve_fewshot
from ovonic.models.chip import SimulatedChip
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery

from .crossbar_image_cases import COLUMNS, ROWS, chip, equal, image, layout, network


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------- networks and weights


def test_without_noise_the_network_comes_back() -> None:
    """Ideal devices: the network that is read is the one programmed, to float32, masked diagonals zero."""
    made = image(model="none", verify=None, faults=None)
    wide = made.layout.replace(layers=tuple(x.replace(w_max=(5.0,)) for x in made.layout.layers))
    ideal = SimulatedChip(2, device_model("none"), Periphery(), seed=0, rows=ROWS, columns=COLUMNS)
    PlacedChip.program(wide, network().weights(), ideal)
    read = network_read(image_of(ideal, wide, software=Software.of(network())))
    for name, w in network().weights().items():
        wanted = w * (1 - np.eye(3)) if name == "h.recurrence" else w
        np.testing.assert_allclose(read.weights()[name], wanted, rtol=1e-5, atol=1e-6)
    assert read.layers["h"].dynamics == network().layers["h"].dynamics  # type: ignore[attr-defined]


def test_noise_is_in_the_network_that_is_read() -> None:
    made = image()
    read = network_read(made).weights()
    np.testing.assert_array_equal(read["w.weight"], weights_read(made)["w.weight"].numpy())
    assert np.abs(read["w.weight"] - network().weights()["w.weight"]).max() > 0.01
    np.testing.assert_array_equal(read["w.bias"], network().weights()["w.bias"])


def test_an_image_without_its_network_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say what was programmed"):
        network_read(image().replace(software=None))
    module = Software(network().weights())
    with pytest.raises(ConfigError, match="torch module's weights, not a network"):
        network_read(image().replace(software=module))
    with pytest.raises(ConfigError, match="does not say what was programmed"):
        write_weights(tmp_path / "a.safetensors", image().replace(software=None))


def test_weights_of_a_module_are_tensors_by_name(tmp_path: Path) -> None:
    made = image().replace(software=Software(network().weights()))
    write_weights(tmp_path / "a.safetensors", made)
    tensors = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert tensors.keys() == network().weights().keys()
    np.testing.assert_array_equal(tensors["h.recurrence"], weights_read(made)["h.recurrence"].numpy())
    np.testing.assert_array_equal(tensors["w.bias"], network().weights()["w.bias"].astype("f4"))


def test_fewshot_weights_load_again(tmp_path: Path) -> None:
    """A chip of the shipped network becomes a weight file that everything takes, with its chip in the provenance."""
    from ovonic.commands.crossbar_sources import read_placed_source

    found = read_placed_source("fewshot-32bit")
    placed = found.layout()
    made = SimulatedChip(len(placed.arrays), device_model("none"), Periphery(), seed=0)
    PlacedChip.program(placed, found.weights, made)
    write_weights(tmp_path / "f.safetensors", image_of(made, placed, software=found.software()))
    net, provenance = resolve_fewshot(tmp_path / "f.safetensors")
    before, _ = resolve_fewshot("fewshot-32bit")
    for (name, a), b in zip(net.state_dict().items(), before.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    assert provenance["crossbar"]["now_s"] == 0
    assert load_weights(tmp_path / "f.safetensors").config == load_weights("fewshot-32bit").config


# ------------------------------------------------------------------------------------------------------------------ npz


def test_npz_comes_back_bit_for_bit(tmp_path: Path) -> None:
    before = image()
    write_npz(tmp_path / "a.npz", before)
    after = read_npz(tmp_path / "a.npz")
    assert equal(before, after)
    with np.load(tmp_path / "a.npz") as file:
        assert file["array1_g_read"].shape == (4, ROWS, COLUMNS)
        np.testing.assert_array_equal(file["read.h.recurrence"], weights_read(before)["h.recurrence"].numpy())


def test_a_labs_npz_needs_conductances_alone(tmp_path: Path) -> None:
    """Compressed, in float64, Fortran order: what is not measured is as on a chip that is read this moment."""
    g = np.random.default_rng(0).random((2, 4, ROWS, COLUMNS)) * 20
    np.savez_compressed(tmp_path / "lab.npz", array0_g_read=g[0], array1_g_read=np.asfortranarray(g[1]))
    made = read_npz(tmp_path / "lab.npz", layout(), device_model("pcm"), seed=3)
    for k, state in enumerate(made.states):
        for field in (state.g_read, state.g_prog, state.g_target):
            np.testing.assert_array_equal(field.numpy(), g[k])
        used = state.pulses[0] == 1
        assert bool((state.nu[:, used] > 0).all())
        assert bool((state.nu[:, ~used] == 0).all())
    assert int((made.states[0].pulses[0] == 1).sum()) == 6 + 6, "cells of a masked diagonal are not programmed"
    assert equal(made, read_npz(tmp_path / "lab.npz", layout(), device_model("pcm"), seed=3))
    with pytest.raises(DataError, match=r"lab.npz: says no 'layout': give one"):
        read_npz(tmp_path / "lab.npz")
    with pytest.raises(DataError, match=r"lab.npz: says no 'device' model: name one"):
        read_npz(tmp_path / "lab.npz", layout())


G = np.ones((4, ROWS, COLUMNS), "f4")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"array0_g_read": G}, r"array1_g_read is missing: the conductances of array 1 \(A1\), uS"),
        ({"array0_g_read": G, "array1_g_read": G[:3]}, r"array1_g_read.npy: shape \(3, 7, 6\) where \(4, 7, 6\)"),
        ({"array0_g_read": G, "array1_g_read": G.astype("f2")}, r"holds float16 where float32 or float64 is due"),
        ({"array0_g_read": G, "array1_g_read": G.astype(int)}, r"holds int64 where"),
        ({"array0_g_read": G, "array1_g_read": G.astype(object)}, r"array1_g_read.npy: holds object|bytes"),
        ({"array0_g_read": G, "array1_g_read": -G}, r"array 1 \(A1\), g_prog: -1 uS at G1\+ of the cell in row 0"),
        ({"array0_g_read": G, "array1_g_read": G * np.nan}, r"array 1 \(A1\), g_target: nan uS"),
        ({"array0_g_read": G, "array1_g_read": G, "array0_nus": G}, r"array0_nus: did you mean 'nu'"),
        ({"array0_g_read": G, "array1_g_read": G, "array2_g_read": G}, r"'array2_g_read': an array that no image has"),
        ({"array0_g_read": G, "array1_g_read": G, "more": G}, r"'more': an array that no image has"),
        ({"array0_g_read": G, "array1_g_read": G, "chip": 3.0}, r"chip.npy: float64 of shape \(\) where a text is due"),
        ({"array0_g_read": G, "array1_g_read": G, "chip": "{"}, r"chip: not JSON"),
    ],
)
def test_npz_that_is_not_one_of_ours_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"a.npz: .*(?:{message})"):
        read_npz(tmp_path / "a.npz", layout(), device_model("pcm"))


def _header_lies(archive: zipfile.ZipFile) -> None:
    """A header of an array that no memory holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (4, 10**6, 10**6)})
    archive.writestr("array0_g_read.npy", file.getvalue())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_header_lies, r"shape \(4, 1000000, 1000000\) where"),
        (lambda z: z.writestr("array0_g_read.npy", bytes(10**8)), r"100000000 bytes, more than the \d+ that are due"),
        (lambda z: z.writestr("array0_g_read.npy", b"\x93NUMPY"), r"not a whole npz"),
        (lambda z: z.writestr("array0_g_read.npy", b"pickle"), r"not a whole npz"),
        (lambda z: z.writestr("layout.npy", bytes(4 * 64 * 2**20 + 1)), r"layout.npy: \d+ bytes, more than"),
    ],
)
def test_hostile_npz_are_refused_in_bounded_memory(
    tmp_path: Path, write: Callable[[zipfile.ZipFile], None], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "h.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        write(archive)
    with pytest.raises(DataError, match=f"h.npz: .*(?:{message})"):
        read_npz(tmp_path / "h.npz", layout(), device_model("pcm"))


def test_damaged_npz_give_an_image_or_our_error(tmp_path: Path) -> None:
    """200 files, flipped and cut."""
    write_npz(tmp_path / "a.npz", image())
    whole, rng, refused = (tmp_path / "a.npz").read_bytes(), np.random.default_rng(4), 0
    path = tmp_path / "b.npz"
    for number in range(200):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data if number % 2 else data[: rng.integers(0, len(data))])
        try:
            read_npz(path)
        except DataError:
            refused += 1
    assert refused > 150


# --------------------------------------------------------------------------------------------------------------- tables


def test_a_table_has_a_row_for_every_weight(tmp_path: Path) -> None:
    made = image()
    write_cells(tmp_path / "a.csv", made)
    rows = rows_of(tmp_path / "a.csv")
    assert len(rows) == 15 + 6
    assert tuple(rows[0]) == CELL_COLUMNS
    read = weights_read(made)
    for row in rows:
        i, j, k = int(row["input"]), int(row["output"]), int(row["array"].removeprefix("A"))
        assert np.float32(row["weight"]) == pytest.approx(float(read[row["layer"]][i, j]), rel=1e-6)
        at = slice(None), int(row["row"]), int(row["column"])
        held = [np.float32(row[f"g{n}_{side}_us"]) for n in (1, 2) for side in ("plus", "minus")]
        assert held == made.states[k].g_read[at].tolist(), "the shortest text that is the same float"
    assert not [row for row in rows if row["layer"] == "h.recurrence" and row["input"] == row["output"]]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tables_come_back_bit_for_bit(tmp_path: Path, data: st.DataObject) -> None:
    """Any float32 a device may hold, over text: targets and readings of placed cells."""
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    held = st.floats(0, 25, width=32) | st.just(1.401298464324817e-45)
    size = 4 * rows * columns
    g, target = (
        torch.tensor(data.draw(st.lists(held, min_size=size, max_size=size))).reshape(4, rows, columns)
        for _ in range(2)
    )
    placed = Layout(
        (ArraySpec('a "b", c', rows, columns),),
        (PlacedLayer("l,1", (rows, columns), w_max=(3.0,)),),
        (Block("l,1", 0, rows, 0, columns, 0, 0, 0),),
    )
    made = image_of_conductances(placed, device_model("pcm"), [{"g_read": g, "g_target": target}], seed=1)
    write_cells(tmp_path / "a.csv", made)
    assert equal(made, read_cells(tmp_path / "a.csv", placed, device_model("pcm"), seed=1))


def table(path: Path, change: Callable[[list[list[str]]], object] = lambda rows: None) -> Path:
    """The table of ``image``, changed."""
    write_cells(path, image())
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def _cell(row: int, column: str, text: str) -> Callable[[list[list[str]]], object]:
    def change(rows: list[list[str]]) -> None:
        rows[row][CELL_COLUMNS.index(column)] = text

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(4), r"array 'A0': 1 cells that hold weights are missing, the first in row 1, column 0"),
        (lambda rows: rows.append(rows[3]), r"line 23: row 0, column 2 of array 'A0' is there twice"),
        (lambda rows: rows[5].pop(), r"line 6: 14 entries where the header has 15"),
        (lambda rows: rows.clear(), r"column 'array' is missing"),
        (_cell(0, "g1_plus_us", "g1_plus"), r"column 'g1_plus': did you mean 'g1_plus_us'"),
        (_cell(0, "layer", "row"), r"a column is there twice"),
        (_cell(2, "array", "B7"), r"line 3: array 'B7': .*'A0'"),
        (_cell(2, "row", "7"), r"line 3: row '7': 0 to 6 are due"),
        (_cell(2, "column", "-1"), r"line 3: column '-1': 0 to 5 are due"),
        (_cell(2, "row", "1e3"), r"line 3: row '1e3': 0 to 6 are due"),
        (_cell(2, "row", "9" * 5000), r"a line of more than 4096 characters"),
        (_cell(2, "g1_minus_us", "much"), r"line 3, g1_minus_us: 'much' is no number"),
        (_cell(2, "g1_minus_us", "-1"), r"line 3, g1_minus_us: -1 uS: G1- must be 0 or more"),
        (_cell(2, "g2_plus_us", "nan"), r"line 3, g2_plus_us: nan uS: G2\+ must be 0 or more, and finite"),
        (_cell(2, "g2_plus_us", "1e9"), r"array 0 \(A0\), g_prog: 1e\+09 uS at G2\+"),
        (_cell(2, "target_g2_plus_us", "26"), r"array 0 \(A0\), g_target: 26 uS at G2\+"),
        (
            lambda rows: [row.pop() for row in rows],
            r"target_g1_plus_us, .*: the targets of all four devices are due, or none",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused_by_line(
    tmp_path: Path, change: Callable[[list[list[str]]], object], message: str
) -> None:
    path = table(tmp_path / "t.csv", change)
    with pytest.raises(DataError, match=f"t.csv: {message}"):
        read_cells(path, layout(), device_model("pcm"))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"t.csv: not a table of text"):
        read_cells(tmp_path / "t.csv", layout(), device_model("pcm"))
    with pytest.raises(FileNotFoundError):
        read_cells(tmp_path / "no.csv", layout(), device_model("pcm"))


def test_a_table_of_conductances_alone_is_enough(tmp_path: Path) -> None:
    def lab(rows: list[list[str]]) -> None:
        keep = [CELL_COLUMNS.index(name) for name in ("g2_minus_us", "array", "g1_plus_us", "column", "row")]
        keep += [CELL_COLUMNS.index(name) for name in ("g1_minus_us", "g2_plus_us")]
        rows[:] = [[row[k] for k in keep] for row in rows]

    made = read_cells(table(tmp_path / "t.csv", lab), layout(), device_model("pcm"), seed=1)
    for name, w in weights_read(image()).items():
        torch.testing.assert_close(weights_read(made)[name], w, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- programming lists


def test_a_programming_list_says_what_a_controller_must_do(tmp_path: Path) -> None:
    """All devices of placed cells at first; then those whose target changed, and a driver that follows it agrees."""
    made, placed = chip(faults=None, verify=None)
    before = image_of(made, placed.layout)
    path = tmp_path / "p.csv"
    assert write_programming(path, before) == 4 * (15 + 6) == len(rows_of(path))
    assert write_programming(path, before, before) == 0
    changed = network().weights()["h.recurrence"].copy()
    changed[0, 1] = -changed[0, 1]
    placed.reprogram({"h.recurrence": changed})
    after = image_of(made, placed.layout)
    count = write_programming(path, after, before)
    rows = rows_of(path)
    assert 2 <= count == len(rows) <= 4
    assert {(row["array"], row["row"], row["column"]) for row in rows} == {("A0", "3", "2")}
    devices = ("G1+", "G1-", "G2+", "G2-")
    for row in rows:
        target = after.states[0].g_target[devices.index(row["device"]), 3, 2]
        assert np.float32(row["target_us"]) == float(target)
    with pytest.raises(ConfigError, match="different layouts"):
        write_programming(path, after, _elsewhere(before))


def _elsewhere(made: CrossbarImage) -> CrossbarImage:
    return made.replace(layout=made.layout.replace(digital=()))


def test_placed_cells_cover_the_layers_once() -> None:
    cells = [
        (part.layer, int(i), int(j))
        for part in placed_cells(layout())
        for i, j in zip(part.input, part.output, strict=True)
    ]
    assert len(set(cells)) == len(cells) == 15 + 6
