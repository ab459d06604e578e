"""Crossbar images in files: bit for bit there and back, and whatever the bytes, an image or one of our errors."""

from __future__ import annotations

import contextlib
import json
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovonic.adapters import crossbar_file, hdf5
from ovonic.adapters.crossbar import ArraySpec, Block, Layout, PlacedLayer
from ovonic.adapters.crossbar_file import load_image, save_image
from ovonic.adapters.crossbar_image import CrossbarImage, Software, chip_of, image_of
from ovonic.models.counters import Counters
from ovonic.models.errors import ConfigError, DataError, OvonicError
from ovonic.models.fitted_model import FittedModel
from ovonic.models.pcm import DEVICE_MODELS, device_model
from ovonic.models.periphery import Periphery
from ovonic.models.verify import Verify

from .crossbar_image_cases import COLUMNS, ROWS, chip, equal, image, layout, network, random_state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("crossbar") / "whole.h5"
    save_image(path, image())
    return path.read_bytes()


# ----------------------------------------------------------------------------------------------------- there and back


def test_an_image_comes_back_bit_for_bit(tmp_path: Path) -> None:
    before = image()
    save_image(tmp_path / "a.h5", before)
    after = load_image(tmp_path / "a.h5")
    assert equal(before, after)
    assert after.software is not None
    assert after.software.network == network()
    assert after.software.config == {"note": "ä"}
    assert set(after.software.weights) == {"w.weight", "w.bias", "h.recurrence"}


def test_a_saved_chip_goes_on_as_the_chip_itself(tmp_path: Path) -> None:
    """Programmed, aged, multiplied by and read alike: the file keeps where each random stream stands."""
    made, _ = chip()
    save_image(tmp_path / "a.h5", image_of(made, layout()))
    restored = chip_of(load_image(tmp_path / "a.h5"))
    x = torch.linspace(-1, 1, 5).expand(3, 5)
    rows, columns = torch.tensor([0, 6]), torch.tensor([5, 0])
    for one in (made, restored):
        one.program(1, rows, columns, torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
        one.advance(86400.0)
    assert torch.equal(made.mvm(0, x, slice(0, 5), slice(0, 3)), restored.mvm(0, x, slice(0, 5), slice(0, 3)))
    assert equal(image_of(made, layout()), image_of(restored, layout()))
    other = chip_of(load_image(tmp_path / "a.h5").replace(seed=2))
    other.advance(86400.0)
    assert not torch.equal(other.read(0), made.read(0)), "the seed matters"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_small_chip_comes_back_bit_for_bit(tmp_path: Path, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows, columns, arrays = (data.draw(st.integers(1, 5)) for _ in range(3))
    now_s = data.draw(st.sampled_from([0.0, 1e-9, 3600.0, 3e9]))
    name = data.draw(st.sampled_from(DEVICE_MODELS))
    model = device_model(name, g_max_us=data.draw(st.floats(0.1, 100)))
    states = tuple(random_state(rng, rows, columns, now_s, model.g_max_us) for _ in range(arrays))
    if data.draw(st.booleans()):
        states = tuple(
            s._replace(**{n: getattr(s, n).double() for n in ("g_target", "g_prog", "nu", "g_read", "gain")})
            for s in states
        )
    before = CrossbarImage(
        Layout(
            tuple(ArraySpec(f"array {k}", rows, columns) for k in range(arrays)),
            (PlacedLayer("läyer", (rows, columns), w_max=tuple(rng.random(columns) + 0.1)),),
            (Block("läyer", 0, rows, 0, columns, 0, 0, 0),),
        ),
        states,
        model,
        Periphery(adc_bits=0, column_offset_sigma=0.1, read_phases=4, compensation="column"),
        verify=data.draw(st.sampled_from([None, Verify(4, 0.25)])),
        split=data.draw(st.sampled_from(["equal", "fill", "set_and_tune"])),
        now_s=now_s,
        seed=data.draw(st.integers(0, 2**63 - 1)),
        calls={("advance", 0): data.draw(st.integers(0, 2**40))},
        counters=Counters(pulses=data.draw(st.integers(0, 2**60))),
        column_errors=tuple((None, torch.from_numpy(rng.normal(size=columns))) for _ in range(arrays)),
        software=data.draw(st.sampled_from([None, Software({"läyer": rng.normal(size=(rows, columns))})])),
        provenance={"text": data.draw(st.text(max_size=20)), "nested": [{"a": None}, 0.1]},
    )
    save_image(tmp_path / "any.h5", before)
    after = load_image(tmp_path / "any.h5")
    assert equal(before, after)
    if before.software is not None:
        assert after.software is not None
        assert after.software.weights["läyer"].tobytes() == before.software.weights["läyer"].tobytes()


def test_a_fitted_model_travels(tmp_path: Path) -> None:
    model = FittedModel(nu_knots=(-3.0, 0.0), nu_mean=(0.05, 0.03), nu_sigma=(0.01, 0.02), q_scale=0.01)
    save_image(tmp_path / "a.h5", image(faults=None).replace(model=model))
    assert load_image(tmp_path / "a.h5").model == model


def test_equal_images_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        save_image(tmp_path / name, image())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_plain_tools_read_the_file_as_documented(tmp_path: Path) -> None:
    """What docs/crossbar_file.md promises to a reader with HDF5 alone."""
    save_image(tmp_path / "a.h5", image())
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file["format"].asstr()[()] == "ovonic-crossbar"
        assert file["version"][()] == 1
        arrays = json.loads(file["layout"].asstr()[()])["arrays"]
        assert [a["name"] for a in arrays] == ["A0", "A1"]
        group = file["arrays/1"]
        assert group["g_read"].shape == (4, ROWS, COLUMNS)
        chip = json.loads(file["chip"].asstr()[()])
        assert chip["now_s"] == 1000.0
        g_plus, g_minus = group["g_read"][0] + group["g_read"][2], group["g_read"][1] + group["g_read"][3]
        g_max = json.loads(file["device"].asstr()[()])["g_max_us"]
        read = (g_plus - g_minus)[4:7, 2:5] / (2 * g_max) * 2.0
    from ovonic.adapters.crossbar_exports import weights_read

    np.testing.assert_allclose(read, weights_read(image())["w.weight"][2:5], rtol=1e-6)


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    save_image(path, image())
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"holds|possible"):
        save_image(path, _with(image(), "g_read", float("nan")))
    monkeypatch.setattr(crossbar_file, "write_atomically", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_image(path, image(seed=2))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def _interrupt(path: Path, data: bytes) -> None:
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------- what a chip can hold


def _with(
    made: CrossbarImage, name: str, value: float, at: tuple[int, ...] = (2, 3, 1), array: int = 1
) -> CrossbarImage:
    """An image with one number of one array changed."""
    states = list(made.states)
    field = getattr(states[array], name).clone()
    field[at] = value
    states[array] = states[array]._replace(**{name: field})
    return made.replace(states=tuple(states))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("g_read", float("nan"), r"array 1 \(A1\), g_read: nan uS at G2\+ of the cell in row 3, column 1"),
        ("g_read", float("inf"), r"g_read: inf uS at G2\+"),
        ("g_prog", -0.5, r"g_prog: -0.5 uS at G2\+ .*; 0 to 2500 is possible"),
        ("g_prog", 1e9, r"g_prog: 1e\+09 uS"),
        ("g_target", 25.1, r"g_target: 25.1 uS .*; 0 to 25"),
        ("nu", float("nan"), r"nu: nan at G2\+"),
        ("nu", 1e6, r"nu: 1e\+06 at"),
        ("t_prog_s", 1000.5, r"t_prog_s: 1000.5 s at .*; -inf to 1000 is possible"),
        ("t_prog_s", float("-inf"), r"t_prog_s: -inf s at"),
        ("pulses", -1, r"pulses: -1 at"),
        ("fault", 7, r"fault: 7 at"),
        ("gain", -1.0, r"gain: -1 at"),
    ],
)
def test_numbers_that_no_chip_holds_are_refused_by_their_place(
    tmp_path: Path, whole: bytes, name: str, value: float, message: str
) -> None:
    """Both in writing and, where somebody else wrote it, in reading."""
    with pytest.raises(DataError, match=message):
        save_image(tmp_path / "a.h5", _with(image(), name, value))
    path = tmp_path / "b.h5"
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file[f"arrays/1/{name}"][2, 3, 1] = value
    with pytest.raises(DataError, match=rf"b.h5: .*(?:{message}).*: fetch or make it again"):
        load_image(path)


def test_images_that_contradict_themselves_are_refused() -> None:
    made = image()
    for change, message in (
        ({"states": made.states[:1]}, "1 arrays where the layout has 2"),
        ({"now_s": float("nan")}, "now_s nan"),
        ({"now_s": 10.0}, r"t_prog_s|now_s"),
        ({"split": "half"}, "split 'half'"),
        ({"seed": -1}, "seed -1"),
        ({"calls": {("mvm", 5): 1}}, "calls of mvm on array 5"),
        ({"counters": Counters(pulses=-3)}, "counters: -3"),
        ({"column_errors": made.column_errors[:1]}, "column errors of 1 arrays where there are 2"),
        ({"column_errors": ((torch.ones(2), None), (None, None))}, r"array 0 \(A0\), column_gain: \(2,\)"),
        ({"software": Software({"w": np.array([np.inf])})}, "software weights 'w'"),
    ):
        if change == {"now_s": 10.0}:
            made = _with(made, "t_prog_s", 11.0)
        with pytest.raises(DataError, match=message):
            chip_of(made.replace(**change))
    half = made.states[0]._replace(g_prog=made.states[0].g_prog.double())
    with pytest.raises(DataError, match="must be of one precision"):
        chip_of(made.replace(states=(half, made.states[1])))


def test_a_model_without_closed_form_is_not_written(tmp_path: Path) -> None:
    class Mine:
        g_max_us, name = 25.0, "mine"

    with pytest.raises(ConfigError, match="device model Mine: a file holds models in closed form: pcm, "):
        save_image(tmp_path / "a.h5", image().replace(model=Mine()))
    assert not (tmp_path / "a.h5").exists()


def test_arrays_of_different_sizes_are_no_simulated_chip(tmp_path: Path) -> None:
    specs = (ArraySpec("a", 2, 3), ArraySpec("b", 3, 2))
    rng = np.random.default_rng(0)
    states = tuple(random_state(rng, spec.rows, spec.columns, 0.0, 25.0) for spec in specs)
    states = tuple(state._replace(t_prog_s=torch.zeros_like(state.t_prog_s)) for state in states)
    uneven = CrossbarImage(
        Layout(specs, (PlacedLayer("l", (2, 3)),), (Block("l", 0, 2, 0, 3, 0, 0, 0),)), states, device_model("pcm")
    )
    save_image(tmp_path / "a.h5", uneven)
    assert equal(load_image(tmp_path / "a.h5"), uneven.replace(column_errors=((None, None),) * 2))
    with pytest.raises(ConfigError, match="a simulated chip has arrays of one size"):
        chip_of(uneven)


# -------------------------------------------------------------------------------------------------------- hostile files


def _text(name: str, change: Callable[[Any], Any]) -> Callable[[h5py.File], None]:
    """Change the JSON of a text."""

    def edit(file: h5py.File) -> None:
        value = change(json.loads(file[name].asstr()[()]))
        del file[name]
        file[name] = value if isinstance(value, str) else json.dumps(value)

    return edit


def _set(name: str, *path: Any, to: Any) -> Callable[[h5py.File], None]:
    """Change one entry of the JSON of a text."""

    def change(value: Any) -> Any:
        inner = value
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to
        return value

    return _text(name, change)


def _put(name: str, **array: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **array)

    return edit


def _link(name: str, link: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return edit


def _bomb(file: h5py.File) -> None:
    del file["arrays/0/pulses"]
    shape = (4, ROWS, COLUMNS)
    array = file.create_dataset("arrays/0/pulses", shape=shape, dtype="<i4", chunks=shape, compression="gzip")
    array.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(10**7)))


def _huge(file: h5py.File) -> None:
    """A layout of arrays that no memory holds, and arrays that pretend to be it."""
    text = json.loads(file["layout"].asstr()[()])
    text["arrays"][0] |= {"rows": 60_000, "columns": 1_000}
    del file["layout"]
    file["layout"] = json.dumps(text)
    _put("arrays/0/g_read", shape=(4, 60_000, 1_000), dtype="<f4", chunks=(1, 1000, 100))(file)


SHAPE = (4, ROWS, COLUMNS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("format"), "HDF5, but not a crossbar image"),
        (_put("format", data="nir"), "HDF5, but not a crossbar image"),
        (_put("format", data=3), "format: no text"),
        (lambda f: f.pop("version"), r"version None: this Ovonic reads version 1"),
        (_put("version", data=2), r"version 2: this Ovonic reads version 1; a newer Ovonic may read it$"),
        (_put("version", data="1"), r"version 1: this Ovonic reads|version"),
        (_put("version", data=[1, 1]), r"version an array: this Ovonic reads version 1"),
        (lambda f: f.pop("layout"), r"the file: 'layout' is missing: fetch or make it again"),
        (lambda f: f.pop("arrays"), r"the file: 'arrays' is missing"),
        (lambda f: f.create_group("extra"), r"the file: has a 'extra', which is unknown"),
        (lambda f: f["arrays"].pop("1"), r"arrays: '1' is missing"),
        (lambda f: f["arrays"].create_group("2"), r"arrays: has a '2'"),
        (lambda f: f["arrays/0"].pop("nu"), r"arrays/0 \(A0\): 'nu' is missing"),
        (lambda f: f["arrays/0"].create_dataset("mu", data=1), r"arrays/0 \(A0\): has a 'mu'"),
        (_put("arrays/0", data=1.0), r"arrays/0 \(A0\): an array where a group is due"),
        (_put("arrays/0/nu", shape=SHAPE, dtype="<f2"), r"arrays/0 \(A0\), nu: holds float16 where float32 or float64"),
        (_put("arrays/0/nu", shape=SHAPE, dtype=">f4"), r"nu: holds >f4"),
        (_put("arrays/0/nu", shape=SHAPE, dtype="c8"), r"nu: holds complex64"),
        (_put("arrays/0/nu", data=np.full(SHAPE, b"x")), r"nu: holds (object|\|S1)"),
        (_put("arrays/0/pulses", shape=SHAPE, dtype="<i8"), r"pulses: holds int64 where int32 is due"),
        (_put("arrays/0/t_prog_s", shape=SHAPE, dtype="<f4"), r"t_prog_s: holds float32 where float64 is due"),
        (_put("arrays/0/nu", shape=(*SHAPE, 1), dtype="<f4"), rf"nu: shape \(4, {ROWS}, {COLUMNS}, 1\) where"),
        (_put("arrays/0/nu", shape=(4, COLUMNS, ROWS), dtype="<f4"), rf"nu: shape \(4, {COLUMNS}, {ROWS}\) where"),
        (_put("arrays/0/nu", data=h5py.Empty("<f4")), r"nu: shape None where"),
        (_put("arrays/0/column_gain", data=np.full(COLUMNS, np.nan, "f4")), r"array 0 \(A0\), column_gain"),
        (_put("arrays/0/column_gain", data=np.ones(3, "f4")), r"column_gain: shape \(3,\) where"),
        (_link("arrays/0/nu", h5py.SoftLink("/arrays/1/nu")), r"arrays/0 \(A0\), 'nu': a link"),
        (_link("arrays/0", h5py.ExternalLink("other.h5", "/x")), r"arrays, '0': a link"),
        (_link("layout", h5py.SoftLink("/chip")), r"'layout': a link"),
        (_bomb, r"pulses: a chunk that inflates to more than its \d+ bytes"),
        (_huge, r"layout: \d+ bytes of devices, more than the \d+ that are read"),
        (_put("arrays/0/nu", shape=SHAPE, dtype="<f4", chunks=(4, 4096, 4096), maxshape=(4, 5000, 5000)), "chunks of"),
        (_text("layout", lambda _: "{"), r"layout: not JSON"),
        (_text("layout", lambda _: "[" * 100_000), r"layout: not JSON"),
        (_put("layout", data=b"\xff\xfe"), "no whole crossbar file|layout"),
        (_set("layout", "blocks", 0, "row", to=6), r"layout: .*"),
        (_set("layout", "blocks", 0, "array", to=9), r"layout: .*array"),
        (_set("layout", "layers", 0, "w_max", to=[-1.0]), r"layout: .*w_max"),
        (_set("layout", "arrays", 0, "rows", to=10), r"g_target: shape .* where \(4, 10, 6\) is due"),
        (_set("device", "kind", to="pcn"), r"device model 'pcn': did you mean 'pcm'"),
        (_set("device", "g_max_us", to=-1), r"device model 'pcm': g_max_us -1"),
        (_set("device", "g_max_us", to="25"), r"g_max_us '25' where one like 25.0 is due"),
        (_set("device", "prog_coeff", to=[]), r"prog_coeff"),
        (_set("device", "more", to=1), r"'more' is unknown"),
        (_text("device", lambda d: {k: v for k, v in d.items() if k != "t_0_s"}), r"'t_0_s' is missing"),
        (_text("device", lambda _: [1]), r"device: expected an object of JSON"),
        (_set("chip", "now_s", to=None), r"chip, now_s: 'None'|chip, now_s: None"),
        (_text("chip", lambda c: json.dumps(c).replace("1000.0", "1e999")), r"now_s: 'inf'"),
        (_text("chip", lambda c: json.dumps(c).replace("1000.0", "NaN")), r"chip: not JSON \(NaN is no number\)"),
        (_set("chip", "seed", to=True), r"chip, seed"),
        (_set("chip", "seed", to=2**70), r"seed \d+: must be"),
        (_set("chip", "calls", to=[["mvm", 9, 1]]), r"calls of mvm on array 9"),
        (_set("chip", "calls", to={"mvm": 1}), r"chip, calls"),
        (_set("chip", "split", to="half"), r"split 'half'"),
        (_set("chip", "counters", "pulses", to=-5), r"counters: -5"),
        (_set("chip", "counters", "pulses", to=1.5), r"counters pulses 1.5: expected int"),
        (_set("chip", "periphery", "read_phases", to=3), r"read_phases 3"),
        (_set("chip", "verify", to={"iterations": 0, "tolerance_us": 1.0, "gain": 0.1}), r"iterations 0"),
        (_set("chip", "faults", "levels", to=1), r"levels 1"),
        (_set("chip", "more", to=1), r"chip: has a 'more'"),
        (_set("software", "network", to={"type": "Nothing"}), r"software"),
        (_set("software", "weights", to={"w": {"$array": 99}}), r"software: refers to an array twice, or skips one"),
        (_set("software", "config", to=[1]), r"software, config: expected an object"),
        (lambda f: f["software_arrays"].pop("0"), r"software_arrays: '0' is missing"),
        (lambda f: f["software_arrays"].create_dataset("9", data=1.0), r"software_arrays: has a '9'"),
        (_put("software_arrays/0", data="text"), r"software_arrays/0: no array of numbers"),
        (_put("software_arrays/0", data=np.full((5, 3), np.nan)), r"software, network: .*finite"),
        (_put("software_arrays/0", data=np.ones((2, 2))), r"software"),
        (_text("provenance", lambda _: "null"), r"provenance: expected an object of JSON"),
    ],
)
def test_files_that_pretend(tmp_path: Path, whole: bytes, change: Callable[[h5py.File], None], message: str) -> None:
    path = tmp_path / "hostile.h5"
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=f"hostile.h5: .*(?:{message})"):
        load_image(path)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    for name, data in (("empty.h5", b""), ("text.h5", b"hello\n" * 100), ("pickle.h5", b"\x80\x04N.")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: no whole crossbar file .*: fetch or make it again"):
            load_image(tmp_path / name)
    with pytest.raises(DataError, match="no file that can be read as one"):
        load_image(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "nowhere.h5")
    with (tmp_path / "huge.h5").open("wb") as file:
        file.truncate(hdf5.MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"huge.h5: 1073741825 bytes, more than the 1073741824 that are read"):
        load_image(tmp_path / "huge.h5")


def test_an_image_too_large_for_a_file_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossbar_file, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"a.h5: \d+ bytes of devices, more than the 1000 that a file may hold"):
        save_image(tmp_path / "a.h5", image())


@pytest.mark.parametrize("kind", ["flips", "cut", "holes"])
def test_damaged_bytes_give_an_image_or_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, kind: str
) -> None:
    """300 files in all; what HDF5 itself cannot stand is met by a child, and memory stays bounded."""
    monkeypatch.setattr(hdf5, "PROBE_S", 2)
    rng = np.random.default_rng({"flips": 1, "cut": 2, "holes": 3}[kind])
    path, refused = tmp_path / "damaged.h5", 0
    for number in range(100):
        data = bytearray(whole)
        if kind == "flips":
            for at in rng.integers(0, len(data), rng.integers(1, 8)):
                data[at] = rng.integers(0, 256)
        elif kind == "cut":
            data = data[: rng.integers(0, len(data))] if number else data[:-1]
        else:
            at, width = rng.integers(0, len(data)), rng.integers(1, 512)
            data[at : at + width] = bytes(len(data[at : at + width]))
        path.write_bytes(data)
        refused += _refused(path)
    assert refused == 100 if kind == "cut" else refused > 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20, "KiB: memory stayed bounded"


def _refused(path: Path) -> bool:
    """Whether reading it gives our error, which names the file, and not an image."""
    try:
        load_image(path)
    except DataError as error:
        return str(error).startswith(f"{path}: ")
    return False


Edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=Edits, where=st.sampled_from(["layout", "device", "chip", "software", "provenance"]))
def test_damaged_text_gives_an_image_or_our_error(
    tmp_path: Path, whole: bytes, edits: list[tuple[float, int]], where: str
) -> None:
    """Texts whose letters change, in a sound HDF5 file: what the parser and the checks behind it must stand."""
    path = tmp_path / "text.h5"
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        data = bytearray(file[where][()])
        for at, value in edits:
            data[int(at * (len(data) - 1))] = value or 32
        file[where][()] = bytes(data)
    with contextlib.suppress(OvonicError):
        load_image(path)
