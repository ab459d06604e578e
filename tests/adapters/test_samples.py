"""Files of a user's samples: what comes back, and what is refused, by file and array."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovonic.adapters.samples import read_samples
from ovonic.models.errors import DataError

X = np.arange(24.0).reshape(2, 3, 4)


def _npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_inputs_with_labels_and_with_targets(tmp_path: Path) -> None:
    found = read_samples(_npz(tmp_path / "a.npz", inputs=X.astype(np.float32), labels=np.array([1, 0], np.uint8)))
    assert np.array_equal(found.inputs[""], X)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]
    assert found.targets is None
    assert not found.table
    found = read_samples(_npz(tmp_path / "b.npz", inputs=X > 3, targets=X[..., :1]))
    assert np.array_equal(found.inputs[""], X > 3)
    assert found.targets is not None
    assert np.array_equal(found.targets, X[..., :1])


def test_several_inputs_by_name(tmp_path: Path) -> None:
    found = read_samples(_npz(tmp_path / "a.npz", **{"inputs.clock": X, "inputs.code": X[:, :, :2]}))
    assert {name: array.shape for name, array in found.inputs.items()} == {"clock": (2, 3, 4), "code": (2, 3, 2)}


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    assert np.array_equal(read_samples(tmp_path / "a.npy").inputs[""], X)


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3,4.5\n",
        "# made by hand\nleft, right\n1, 2\n\n3, 4.5\n",
        "1;2\r\n3;4.5\r\n",
        "\ufeff1,2\n3,4.5",
    ],
)
def test_csv(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    found = read_samples(tmp_path / "a.csv")
    assert found.table
    assert found.inputs[""].tolist() == [[1, 2], [3, 4.5]]


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "no npy or npz file of numbers"),
    "mistyped": ({"input": X}, "did you mean 'inputs'"),
    "unknown": ({"inputs": X, "classes": X}, "'classes': did you mean 'labels'"),
    "both": ({"inputs": X, "labels": np.array([0, 1]), "targets": X}, "labels and targets"),
    "one and several": ({"inputs": X, "inputs.more": X}, "'inputs.NAME' for each"),
    "counts": ({"inputs": X, "labels": np.array([0, 1, 2])}, "inputs 2, labels 3"),
    "not finite": ({"inputs": np.where(X == 5, np.nan, X)}, "inputs: nan at [0, 1, 1]"),
    "infinite": ({"inputs": X, "targets": np.where(X == 23, -np.inf, X)}, "targets: -inf at [1, 2, 3]"),
    "words": ({"inputs": np.array(["a", "b"])}, "inputs: holds <U1, not numbers"),
    "complex": ({"inputs": X * 1j}, "inputs: holds complex128, not numbers"),
    "objects": ({"inputs": np.array([{}, {}])}, "inputs: holds object, not numbers"),
    "empty": ({"inputs": X[:, :0]}, "holds nothing"),
    "one number": ({"inputs": np.array(3.0)}, "shape ()"),
    "real labels": ({"inputs": X, "labels": np.array([0.0, 1.0])}, "[samples] whole numbers are due"),
    "rows of labels": ({"inputs": X, "labels": np.array([[0], [1]])}, "[samples] whole numbers are due"),
    "beyond": ({"inputs": X, "labels": np.array([0, 2**63 + 1], np.uint64)}, "9223372036854775809: at most 2147483648"),
    "negative": ({"inputs": X, "labels": np.array([0, -1])}, "-1: classes count from 0"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_what_is_no_sample_is_refused(tmp_path: Path, case: str) -> None:
    arrays, said = BAD_ARRAYS[case]
    path = _npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        read_samples(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


BAD_TEXTS = {
    "": "no rows of numbers",
    "left,right\n": "no rows of numbers",
    "1,2\n3\n": "line 2: 1 columns",
    "a,b\n1,2\n3,x\n": "line 3: 'x' is no number",
    "1,2\n3,nan\n": "nan at [1, 1]",
    '1,"2\n3,4\n': "no table of numbers",
}


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"a\.csv") as caught:
        read_samples(tmp_path / "a.csv")
    assert BAD_TEXTS[text] in str(caught.value)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "a.npy").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "a.npz", inputs=np.array([Trap()]))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError):
            read_samples(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_damaged_and_huge_files_are_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, inputs=X)
    (tmp_path / "cut.npz").write_bytes(whole.getvalue()[:-40])
    (tmp_path / "noise.npy").write_bytes(bytes(range(256)))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
        packed.writestr("inputs.npy", header.ljust(127) + b"\n")
    for name in ("cut.npz", "noise.npy", "bomb.npz"):
        with pytest.raises(DataError, match=name):
            read_samples(tmp_path / name)
    (tmp_path / "x.mat").touch()
    with pytest.raises(DataError, match=r"\.npz, \.npy, \.csv"):
        read_samples(tmp_path / "x.mat")
    with pytest.raises(FileNotFoundError):
        read_samples(tmp_path / "none.npy")
