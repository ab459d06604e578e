"""The published checkpoints: right where they are honest, refused and never executed where they are not."""

from __future__ import annotations

import functools
import io
import itertools
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovonic.adapters.published import fewshot_from_published, is_published, load_published
from ovonic.models.errors import WeightsError
from ovonic.models.maml import Precision, SoftwareReadout, adapt

Arrays = dict[str, np.ndarray]


def _arrays(channels: int = 3, n_way: int = 2) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {f"kernel{i}": (3, 3, 1 if i == 1 else channels, channels) for i in range(1, 5)}
    shapes["w_readout"] = (channels, n_way)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


class ResourceVariable:
    """Pickles as TensorFlow 2.5's does."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(ResourceVariable, **self.arguments), ()


class DType:
    """Pickles as TensorFlow's float32 does."""

    def __reduce__(self) -> tuple[Any, ...]:
        return as_dtype, ("float32",)


def as_dtype(name: str) -> DType:
    return DType()


def _dumps(content: Any, protocol: int = 4) -> bytes:
    """Pickle under TensorFlow's module names."""
    fakes = {}
    for module, item in (("ops.resource_variable_ops", ResourceVariable), ("framework.dtypes", as_dtype)):
        item.__module__ = f"tensorflow.python.{module}"
        parts = item.__module__.split(".")
        for end in range(1, len(parts) + 1):
            fakes.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        setattr(fakes[item.__module__], item.__name__, item)
    with mock.patch.dict(sys.modules, fakes):
        return pickle.dumps(content, protocol)


def _variable(name: str, array: np.ndarray) -> ResourceVariable:
    rest = {"trainable": True, "dtype": DType(), "constraint": None, "distribute_strategy": None}
    return ResourceVariable(initial_value=array, name=name, **rest)


def _listed(arrays: Arrays) -> list[ResourceVariable]:
    """The few-shot checkpoint: its read-out is the variable kernel5."""
    return [_variable(name.replace("w_readout", "kernel5"), array) for name, array in arrays.items()]


def _same(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_list_and_a_dict_of_variables(tmp_path: Path, protocol: int) -> None:
    arrays = _arrays()
    arrays["kernel2"] = np.asfortranarray(arrays["kernel2"])
    file = tmp_path / "w"
    file.write_bytes(_dumps(_listed(arrays), protocol))
    _same(load_published(file), arrays)
    robot = {name: _variable("another", array) for name, array in arrays.items()}
    file.write_bytes(_dumps(robot, protocol))
    _same(load_published(file), arrays)
    assert "tensorflow" not in sys.modules


def test_npz_and_pickle_give_the_same_network(tmp_path: Path) -> None:
    arrays = _arrays(channels=4, n_way=3)
    np.savez(tmp_path / "w.npz", **arrays)  # type: ignore[arg-type]
    (tmp_path / "w.pickle").write_bytes(_dumps(_listed(arrays), 4))
    nets = [fewshot_from_published(tmp_path / name) for name in ("w.npz", "w.pickle")]
    assert nets[0].config == nets[1].config
    assert (nets[0].config.n_way, nets[0].config.channels, nets[0].config.norm) == (3, 4, "transductive")
    assert not nets[0].training
    for a, b in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.equal(a, b)
    assert nets[0].convs[1].weight[3, 2, 0, 1] == arrays["kernel2"][0, 1, 2, 3]  # type: ignore[index]
    assert nets[0].readout.weight[2, 3] == arrays["w_readout"][3, 2]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cnn", "robot"])
def test_the_published_pickle_equals_the_npz(shared: Path, name: str) -> None:
    unpickled = load_published(shared / "published" / f"{name}-pretrained-weights.pickle")
    with np.load(shared / "published" / f"{name}_checkpoint.npz", allow_pickle=False) as archive:
        _same(unpickled, dict(archive))
    _same(unpickled, load_published(shared / "published" / f"{name}_checkpoint.npz"))


@pytest.mark.shared
def test_the_published_network_reproduces_its_golden_batch(shared: Path) -> None:
    """Features, read-outs and logits of two coupled tasks.

    The tolerances are the golden batch's own: its float32 means of 9,800 pixels are off by up to 2.7e-4 (against
    float64), which shows as 8.2e-4 in the features (up to 10), 7.4e-6 in the read-out (.47), 2e-4 in the logits (6.8).
    """
    net = fewshot_from_published(shared / "published" / "cnn-pretrained-weights.pickle")
    with np.load(shared / "published" / "cnn_golden.npz", allow_pickle=False) as archive:
        golden = {name: torch.from_numpy(array) for name, array in archive.items()}
    images = [golden[f"{part}_images"].permute(0, 1, 4, 2, 3) for part in ("support", "query")]
    with torch.no_grad():
        support, query = net.features(images[0], images[1], norm="meta-batch")
        readouts = adapt(SoftwareReadout.of(net, 2, Precision()), support, golden["support_labels"], net.inner_lr)
        logits = torch.stack([readout.logits(query) for readout in readouts])
    weights = torch.stack([readout.w for readout in readouts]).transpose(2, 3)
    for got, name, tolerance in (
        (support, "support_features", 1e-3),
        (weights, "readout_weights", 1e-5),
        (logits, "query_logits_after_k_updates", 5e-4),
    ):
        torch.testing.assert_close(got, golden[name], rtol=0, atol=tolerance)


def test_content_tells_the_format_not_the_suffix(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    np.savez(file.open("wb"), **_arrays())  # type: ignore[arg-type]
    assert is_published(file)
    assert load_published(file).keys() == _arrays().keys()
    file.write_bytes(struct.pack("<Q", 0x0280) + b"{" + bytes(0x0280))  # \x80\x02.. is a safetensors header, too
    assert not is_published(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("w_readout"), "w_readout"),
        (lambda a: a.update(extra=np.zeros(1, np.float32)), "extra"),
        (lambda a: a.update(kernel3=a["kernel3"][..., :2]), "kernel3"),
        (lambda a: a.update(w_readout=a["w_readout"][0]), "kernel1"),
        (lambda a: a.update(kernel4=a["kernel4"] * np.nan), "kernel4"),
        (lambda a: a.update(kernel1=a["kernel1"].astype(np.int32)), "float"),
        (lambda a: a.update(kernel1=a["kernel1"].astype(">f4")), "float"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, change: Callable[[Arrays], Any], message: str) -> None:
    arrays = _arrays()
    change(arrays)
    np.savez(tmp_path / "w.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=message) as error:
        fewshot_from_published(tmp_path / "w.npz")
    assert str(tmp_path / "w.npz") in str(error.value)


def _npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name + ".npy", data)
    return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


HOSTILE_NPZ = {
    "objects": _npz(kernel1=_npy(np.array([{}], dtype=object))),
    "claims terabytes": _npz(kernel1=_npy(np.zeros(1, np.float32)).replace(b"(1,), }", b"(999999999999,), }")),
    "bomb": _npz(kernel1=_npy(np.zeros(2**25, np.float32))),
    "many members": _npz(**{f"k{i}": _npy(np.zeros(1, np.float32)) for i in range(100)}),
    "no array": _npz(kernel1=b"import os"),
    "truncated": _npz(kernel1=_npy(np.zeros(9, np.float32)))[:-30],
    "corrupt": _npz(kernel1=_npy(np.arange(99.0)))[:60] + bytes(8) + _npz(kernel1=_npy(np.arange(99.0)))[68:],
}


@pytest.mark.parametrize("name", HOSTILE_NPZ)
def test_a_hostile_npz_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "w.npz").write_bytes(HOSTILE_NPZ[name])
    with pytest.raises(WeightsError, match=r"w\.npz"):
        load_published(tmp_path / "w.npz")


class _View:
    """An array that pickles as NumPy's do, by bytes that several may share."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments = self.array.__reduce_ex__(5)[:2]
        return make, (_SHARED.setdefault(id(self.array), self.array.tobytes()), *arguments[1:])


_SHARED: dict[int, bytes] = {}


class _Calls:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def _symbol(module: str, name: str) -> bytes:
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return words + b"\x93"


def _text(word: str) -> bytes:
    return b"\x8c" + bytes([len(word)]) + word.encode()


def _hostile(sentinel: str) -> dict[str, bytes]:
    """Pickles that would create ``sentinel``, exhaust memory or the stack, or bend a stand-in."""
    touch = f"open({sentinel!r}, 'w')"
    start, stop = b"\x80\x04", b"."
    partial = _symbol("functools", "partial")
    variable = _symbol("tensorflow.python.ops.resource_variable_ops", "ResourceVariable")
    made = partial + variable + b"\x85R"
    reconstructed = (
        _symbol("numpy.core.multiarray", "_reconstruct") + _symbol("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    )
    float32 = _symbol("numpy", "dtype") + _text("f4") + b"\x89\x88\x87R"
    little = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    files = {
        "os.system": pickle.dumps(_Calls(os.system, f"touch {sentinel}"), 4),
        "eval": pickle.dumps(_Calls(eval, touch), 4),
        "exec, protocol 0": pickle.dumps(_Calls(exec, touch), 0),
        "a list with one bad entry": pickle.dumps([1, {"a": _Calls(eval, touch)}], 5),
        "an attribute of an admitted name": start + _symbol("functools", "partial.__class__") + b")R" + stop,
        "a module behind an admitted one": start + _symbol("functools", "reduce") + stop,
        "partial of eval": start + partial + _symbol("builtins", "eval") + _text(touch) + b"\x86R)R" + stop,
        "partial of partial": start + partial + partial + b"\x85R" + stop,
        "names that are no text": start + b"K\x01K\x02\x93" + stop,
        "object array": pickle.dumps(np.array([_Calls(eval, touch)], dtype=object), 4),
        "structured array": pickle.dumps(np.zeros(1, [("a", "f4")]), 4),
        "ndarray called": start + _symbol("numpy", "ndarray") + b"K\x05\x85R" + stop,
        "array without state": start + b"}(" + _text("a") + reconstructed + b"u" + stop,
        "array of an unfinished type": start + reconstructed + b"(K\x01)" + float32 + b"\x89C\x04abcdtb" + stop,
        "array with a type's name": start + reconstructed + b"(K\x01)" + _text("<f4") + b"\x89C\x04abcdtb" + stop,
        "negative shape": start
        + reconstructed
        + b"(K\x01J\xff\xff\xff\xff\x85"
        + float32
        + little
        + b"\x89C\x00tb"
        + stop,
        "object type": start + _symbol("numpy", "dtype") + _text("O8") + b"\x89\x88\x87R" + stop,
        "BUILD on a global": start + partial + b"}(" + _text("make") + variable + b"ub" + stop,
        "BUILD slots on a global": start + partial + b"N}(" + _text("make") + variable + b"u\x86b" + stop,
        "BUILD on a list": start + b"]}(" + _text("__class__") + variable + b"ub" + stop,
        "BUILD a variable from nothing": start + made + b"}b" + stop,
        "a variable without an array": start + b"]" + b"(" + made + b"e" + stop,
        "a variable called with arguments": start + made + b"K\x01\x85R" + stop,
        "a list that holds itself": start + b"]\x94(h\x00e" + stop,
        "a dict that holds itself": start + b"}\x94(" + _text("a") + b"h\x00u" + stop,
        "SETITEMS on a global": start + partial + b"(K\x01K\x02u" + stop,
        "APPENDS on a global": start + partial + b"(K\x01e" + stop,
        "huge memo": start + b"Nr\xff\xff\xff\x7f" + stop,
        "huge long": start + b"\x8b\xff\xff\xff\x7f" + b"\x01" * 100 + stop,
        "huge frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N" + stop,
        "huge bytes": b"\x80\x04B\xff\xff\xff\xff" + stop,
        "deep lists": start + b"]" * 200_000 + b"(" * 200_000 + stop,
        "deep tuples": start + b")" + b"\x85" * 100_000 + stop,
        "deep tuple as a key": start + b"}()" + b"\x85" * 1900 + b"Nu" + stop,
        "empty stack": start + b"R" + stop,
        "no mark": start + b"t" + stop,
        "memo that is not there": start + b"h\x07" + stop,
        "persistent id": b"\x80\x02Pabc\n.",
        "extension": b"\x80\x02\x82\x01.",
        "GLOBAL": b"\x80\x02cos\nsystem\n(S'touch %s'\ntR." % sentinel.encode(),
        "INST": b"\x80\x02(S'touch %s'\nios\nsystem\n." % sentinel.encode(),
        "OBJ": start + b"(" + _symbol("builtins", "eval") + _text(touch) + b"o" + stop,
        "NEWOBJ": start + _symbol("builtins", "eval") + b")\x81" + stop,
        "trailing second pickle": pickle.dumps(None, 4) + pickle.dumps(_Calls(eval, touch), 4),
        "not a container": pickle.dumps(3, 4),
        "dict of numbers": pickle.dumps({"kernel1": 3}, 4),
        "no end": start + b"N",
        "nothing": b"",
        "only a start": b"\x80",
    }
    return {name: data for name, data in files.items()}


@pytest.mark.parametrize("name", _hostile("x"))
def test_a_hostile_pickle_is_refused_and_executes_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentinel, file = tmp_path / "executed", tmp_path / "w.pickle"
    file.write_bytes(_hostile(str(sentinel))[name])
    imported = set(sys.modules)
    with pytest.raises(WeightsError, match=r"w\.pickle"):
        load_published(file)
    assert not sentinel.exists()
    assert not {module.partition(".")[0] for module in set(sys.modules) - imported} & {"tensorflow", "posix"}


def test_the_hostile_pickles_would_act_if_they_were_loaded(tmp_path: Path) -> None:
    """The sentinel is real: Python's own loader falls for them."""
    for name in ("eval", "GLOBAL", "exec, protocol 0"):
        sentinel = tmp_path / name
        pickle.loads(_hostile(str(sentinel).replace(" ", "_"))[name])  # noqa: S301 (harmless, and the point)
        assert Path(str(sentinel).replace(" ", "_")).exists(), name


def test_a_refused_pickle_leaves_the_stand_ins_as_they_were(tmp_path: Path) -> None:
    for data in _hostile(str(tmp_path / "executed")).values():
        (tmp_path / "hostile").write_bytes(data)
        with pytest.raises(WeightsError):
            load_published(tmp_path / "hostile")
    arrays = _arrays()
    (tmp_path / "w").write_bytes(_dumps(_listed(arrays), 4))
    _same(load_published(tmp_path / "w"), arrays)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = _dumps(_listed(_arrays(1, 1)), 4)
    for cut in itertools.chain(range(0, 500, 7), range(500, len(data), 41)):
        (tmp_path / "w").write_bytes(data[:cut])
        with pytest.raises(WeightsError):
            load_published(tmp_path / "w")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_arrays_or_a_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    valid = bytearray(_dumps(_listed(_arrays(1, 1)), 4))
    for _ in range(data.draw(st.integers(1, 4))):
        valid[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "w").write_bytes(valid)
    try:
        arrays = load_published(tmp_path / "w")
    except WeightsError:
        return
    assert all(type(array) is np.ndarray and array.dtype.kind == "f" for array in arrays.values())


def test_bytes_named_many_times_are_held_once(tmp_path: Path) -> None:
    """16 MB and a hundred arrays of them: 1.6 GB if each had its own."""
    one = np.ones(2**22, np.float32)
    (tmp_path / "w").write_bytes(_dumps({f"a{i}": _View(one) for i in range(100)}, 5))
    assert (tmp_path / "w").stat().st_size < 2 * one.nbytes
    tracemalloc.start()
    with pytest.raises(WeightsError, match="arrays or 64 MiB"):
        load_published(tmp_path / "w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * one.nbytes


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.npz"):
        load_published(tmp_path / "nowhere.npz")
