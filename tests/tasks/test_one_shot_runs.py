"""Lake's one-shot runs: both layouts read alike, and every fault refused by name."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ovonic.adapters.filetree import file_tree
from ovonic.adapters.images import bilinear_levels, decode_bits
from ovonic.models.errors import DataError
from ovonic.tasks.characters import BILINEAR_SCALE
from ovonic.tasks.one_shot_runs import load_one_shot_runs

Draw = Callable[..., bytes]
WAYS = 4


def _runs(draw: Draw, runs: int = 2) -> dict[str, bytes]:
    """Item i shows class (i + run) mod WAYS."""
    files: dict[str, bytes] = {}
    for run in range(1, runs + 1):
        name, lines = f"run{run:02}", []
        for i in range(WAYS):
            files[f"{name}/training/class{i + 1:02}.png"] = draw([run, 0, i])
            files[f"{name}/test/item{i + 1:02}.png"] = draw([run, 1, i])
            lines.append(f"{name}/test/item{i + 1:02}.png {name}/training/class{(i + run) % WAYS + 1:02}.png")
        files[f"{name}/class_labels.txt"] = ("\r\n".join(lines) + "\n").encode()
    return files


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def _zip(path: Path, files: dict[str, bytes], outer: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(outer + name, data)
    return path


def test_every_layout_gives_the_same_runs(tmp_path: Path, drawing_png: Draw) -> None:
    files = _runs(drawing_png)
    sources = [
        _folder(tmp_path / "bare", files),
        _folder(tmp_path / "outer" / "all_runs", files).parent,
        _zip(tmp_path / "bare.zip", files),
        _zip(tmp_path / "all_runs.zip", files | {"demo.py": b"print()"}, "all_runs/"),
    ]
    for source in sources:
        first, second = load_one_shot_runs(source)
        assert (first.name, second.name) == ("run01", "run02")
        assert first.support.shape == first.query.shape == (WAYS, 1, 28, 28)
        assert first.labels.tolist() == [1, 2, 3, 0]
        assert second.labels.tolist() == [2, 3, 0, 1]
        with file_tree(tmp_path / "bare" / "run02" / "test" / "item03.png") as tree:
            levels = torch.from_numpy(bilinear_levels(decode_bits(tree.files[0])))
        assert torch.equal(second.query[2, 0], levels.to(torch.float32) * BILINEAR_SCALE)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"run02/class_labels.txt": None}, "run02: has no class_labels.txt"),
        ({"run02/class_labels.txt": b""}, "gives no class for item01.png, item02.png"),
        ({"run02/class_labels.txt": b"\xff\xfe\x00"}, "is not text"),
        ({"run02/class_labels.txt": b"nonsense\n"}, "line 1: 'nonsense' is not an item and its class"),
        (
            {"run02/class_labels.txt": b"run02/test/item01.png run02/training/class01.png\n" * 2},
            "line 2: .* labels an item again",
        ),
        ({"run02/class_labels.txt": b"run01/test/item01.png run01/training/class01.png"}, "line 1"),
        ({"run02/class_labels.txt": b"run02/test/item01.png run02/training/class77.png"}, "line 1"),
        ({"run02/class_labels.txt": b"run02/test/item01.png run02/training/../class01.png"}, "line 1"),
        ({"run02/training/class01.png": None}, "line 3"),
        ({"run02/test/item01.png": None}, "line 1"),
        ({"run02/test/item04.png": b"broken"}, "item04.png'?: is not a PNG"),
        ({"run02/extra/x.png": b"?"}, "does not belong to the layout"),
        ({"x.png": b"?"}, "does not belong to the layout"),
        ({"again/run01/training/class01.png": b"?"}, "again/run01: has no test image"),
    ],
)
def test_faulty_runs_are_refused_by_name(
    tmp_path: Path, drawing_png: Draw, change: dict[str, bytes | None], fault: str
) -> None:
    files = {name: data for name, data in (_runs(drawing_png) | change).items() if data is not None}
    for source in (_folder(tmp_path / "folder", files), _zip(tmp_path / "runs.zip", files)):
        with pytest.raises(DataError, match=fault) as error:
            load_one_shot_runs(source)
        assert str(source) in str(error.value)


def test_an_empty_or_shorter_run_is_refused(tmp_path: Path, drawing_png: Draw) -> None:
    folder = _folder(tmp_path / "runs", _runs(drawing_png))
    (folder / "run03").mkdir()
    with pytest.raises(DataError, match="run03: has no training image"):
        load_one_shot_runs(folder)
    (folder / "run03").rmdir()
    extra = {name.replace("run02", "run05"): data for name, data in _runs(drawing_png).items() if "run02" in name}
    extra["run05/class_labels.txt"] = extra["run05/class_labels.txt"].replace(b"run02", b"run05")
    extra["run05/training/class99.png"] = drawing_png(5)
    with pytest.raises(DataError, match=r"runs of \[4, 5\] classes"):
        load_one_shot_runs(_folder(folder, extra))


def test_a_source_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no one-shot run"):
        load_one_shot_runs(tmp_path / "none")
    with pytest.raises(DataError, match="No such file"):
        load_one_shot_runs(tmp_path / "nowhere.zip")
