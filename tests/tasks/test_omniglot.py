"""Omniglot from folders and zips: layout, duplicates, cache, download, and every bad input named by file."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from ovonic.models.errors import DataError, ToolchainError
from ovonic.tasks import omniglot
from ovonic.tasks.characters import BILINEAR_SCALE
from ovonic.tasks.omniglot import default_cache_dir, download_omniglot, load_omniglot

Draw = Callable[..., bytes]
Files = Mapping[str, bytes]


def _alphabets(draw: Draw, counts: Mapping[str, int], outer: str = "set/", drawings: int = 3) -> dict[str, bytes]:
    """Drawings that depend on their alphabet, character and number alone."""
    return {
        f"{outer}{alphabet}/character{c:02}/{c:04}_{d:02}.png": draw([ord(alphabet[0]), len(alphabet), c, d])
        for alphabet, count in counts.items()
        for c in range(1, count + 1)
        for d in range(1, drawings + 1)
    }


def _folder(root: Path, files: Files) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def _zip(path: Path, files: Files, folders: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in folders:
            archive.writestr(name, b"")
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVONIC_CACHE", str(tmp_path / "cache"))


def _refusal(*sources: Path) -> str:
    with pytest.raises(DataError) as error:
        load_omniglot(sources)
    assert "\n" not in str(error.value)
    assert not list(default_cache_dir().glob("*"))
    return str(error.value)


def test_folder_and_zip_give_the_same_characters(tmp_path: Path, drawing_png: Draw) -> None:
    files = _alphabets(drawing_png, {"Beta": 2, "Alpha": 3})
    junk = {"set/README.md": b"hi", "__MACOSX/set/Alpha/._x.png": b"no", "set/Alpha/.DS_Store": b"no"}
    archive = _zip(tmp_path / "set.zip", dict(reversed(files.items())) | junk, ("set/", "set/Alpha/"))
    folder = _folder(tmp_path / "folder", files | junk)
    for loaded in (load_omniglot([archive]), load_omniglot([folder]), load_omniglot(folder / "set")):
        assert loaded.alphabets == ("Alpha",) * 3 + ("Beta",) * 2
        assert loaded.names == ("character01", "character02", "character03", "character01", "character02")
        assert loaded.counts.tolist() == [3] * 5
        assert loaded.scale == BILINEAR_SCALE
        assert loaded.duplicates == ()
        assert loaded.images.max() <= 64
        assert torch.equal(loaded.images, load_omniglot([archive]).images)
    assert {p.name for p in tmp_path.iterdir()} == {"set.zip", "folder", "cache"}


def test_duplicates_between_sources_are_dropped_whatever_their_names(tmp_path: Path, drawing_png: Draw) -> None:
    first = _zip(tmp_path / "1.zip", _alphabets(drawing_png, {"Alpha": 2, "Latin": 2}))
    again = _alphabets(drawing_png, {"Latin": 2, "Beta": 1}, outer="other/")
    renamed = {name.replace("Latin", "Roman"): data for name, data in again.items() if "Latin" in name}
    second = _zip(tmp_path / "2.zip", again)
    third = _zip(tmp_path / "3.zip", renamed)
    loaded = load_omniglot([first, second, third])
    assert loaded.alphabets == ("Alpha", "Alpha", "Beta", "Latin", "Latin")
    assert len(loaded.duplicates) == 4
    assert "2.zip: other/Latin/character01 has the drawings of" in loaded.duplicates[0]
    assert "3.zip: other/Roman/character02" in loaded.duplicates[-1]
    assert torch.equal(load_omniglot([third, second, first]).images, loaded.images)


def test_one_name_for_different_drawings_is_refused(tmp_path: Path, drawing_png: Draw) -> None:
    first = _zip(tmp_path / "1.zip", _alphabets(drawing_png, {"Alpha": 2}))
    second = _zip(tmp_path / "2.zip", _alphabets(drawing_png, {"Alpha": 2}, drawings=2))
    with pytest.raises(DataError, match=r"2\.zip: set/Alpha/character01 and .*1\.zip: set/Alpha/character01"):
        load_omniglot([first, second])


def test_the_official_parts_are_known_by_their_outer_folder(tmp_path: Path, drawing_png: Draw) -> None:
    both = _alphabets(drawing_png, {"Alpha": 1}, "python/images_background/")
    both |= _alphabets(drawing_png, {"Beta": 1}, "python/images_evaluation/")
    assert load_omniglot([_folder(tmp_path / "a", both)]).official == {
        "Alpha": "background",
        "Beta": "evaluation",
    }
    inside = _folder(tmp_path / "images_evaluation", _alphabets(drawing_png, {"Gamma": 1}, ""))
    assert load_omniglot([inside]).official == {"Gamma": "evaluation"}
    other = _zip(tmp_path / "o.zip", _alphabets(drawing_png, {"Gamma": 1}, "images_background_small1/"))
    assert load_omniglot([other]).official == {}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"set/Alpha/character01/0001_02.png": b"\x89PNG\r\n\x1a\n but no more"}, "0001_02.png'?: "),
        ({"set/Alpha/character01/0001_02.png": b""}, "0001_02.png'?: is not a PNG"),
        ({"set/Alpha/character01/photo.jpg": b"no"}, "photo.jpg'?: is not a PNG"),
        ({"set/Alpha/character09/0001_01.png": None}, "0001_01.png'?: the one drawing of its character"),
        ({"set/Alpha/character01/more/0001_09.png": None}, "lies at another depth"),
        ({"0001_01.png": None}, "the layout is alphabet/character/drawing.png|another depth"),
    ],
)
def test_bad_files_are_refused_by_name(
    tmp_path: Path, drawing_png: Draw, change: dict[str, bytes | None], fault: str
) -> None:
    files = _alphabets(drawing_png, {"Alpha": 2})
    files |= {name: drawing_png(99) if data is None else data for name, data in change.items()}
    for source in (_folder(tmp_path / "folder", files), _zip(tmp_path / "set.zip", files)):
        message = _refusal(source)
        assert str(source) in message
        with pytest.raises(DataError, match=fault):
            load_omniglot([source])


def test_a_wrong_size_is_refused_by_name(tmp_path: Path, drawing_png: Draw) -> None:
    files = _alphabets(drawing_png, {"Alpha": 2}) | {"set/Alpha/character02/0002_07.png": drawing_png(1, side=28)}
    message = _refusal(_zip(tmp_path / "set.zip", files))
    assert "set.zip: 'set/Alpha/character02/0002_07.png': 28x28 pixels, Omniglot drawings are 105x105" in message


@pytest.mark.parametrize("empty", ["set/Empty/", "set/Alpha/character09/"])
def test_an_empty_alphabet_or_character_is_refused(tmp_path: Path, drawing_png: Draw, empty: str) -> None:
    files = _alphabets(drawing_png, {"Alpha": 2})
    folder = _folder(tmp_path / "folder", files)
    (folder / empty).mkdir()
    for source in (folder, _zip(tmp_path / "set.zip", files, (empty,))):
        assert f"{empty.rstrip('/')} holds no image" in _refusal(source)


def test_sources_without_drawings_are_refused(tmp_path: Path, drawing_png: Draw) -> None:
    assert "at least one" in _refusal()
    assert "No such file" in _refusal(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    assert "holds no image" in _refusal(tmp_path / "none")
    (tmp_path / "note.txt").write_text("hello")
    assert "holds no image" in _refusal(tmp_path / "note.txt")
    (tmp_path / "bad.zip").write_bytes(b"PK nonsense")
    assert "not a readable zip" in _refusal(tmp_path / "bad.zip")
    flat = _folder(tmp_path / "flat", {"character01/1.png": drawing_png(1), "character01/2.png": drawing_png(2)})
    assert "give the folder further up" in _refusal(flat)
    zips = _folder(tmp_path / "zips", {"images_background.zip": b"..."})
    assert "give the zips themselves: images_background.zip" in _refusal(zips)


def test_the_cache_spares_decoding_and_follows_the_content(
    tmp_path: Path, drawing_png: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _alphabets(drawing_png, {"Alpha": 2})
    folder, archive = _folder(tmp_path / "folder", files), _zip(tmp_path / "set.zip", files)
    fresh = [load_omniglot([source]) for source in (folder, archive)]
    with monkeypatch.context() as patch:
        patch.setattr(omniglot, "decode_bits", None)
        for source, loaded in zip((folder, archive), fresh, strict=True):
            again = load_omniglot([source.rename(tmp_path / f"moved-{source.name}")])
            assert torch.equal(again.images, loaded.images)
            assert (again.alphabets, again.names) == (loaded.alphabets, loaded.names)
    (tmp_path / "moved-folder/set/Alpha/character01/0001_01.png").write_bytes(drawing_png(77))
    assert not torch.equal(load_omniglot([tmp_path / "moved-folder"]).images, fresh[0].images)


def test_a_damaged_cache_is_rebuilt(tmp_path: Path, drawing_png: Draw, caplog: pytest.LogCaptureFixture) -> None:
    source = _zip(tmp_path / "set.zip", _alphabets(drawing_png, {"Alpha": 2}))
    fresh = load_omniglot([source])
    (cached,) = default_cache_dir().iterdir()
    intact = cached.read_bytes()
    for damaged in (b"", intact[:-5], intact[:-5] + b"\x07" + intact[-4:], b"\xff" * len(intact), b"{}" * 50):
        caplog.clear()
        cached.write_bytes(damaged)
        assert torch.equal(load_omniglot([source]).images, fresh.images)
        assert "damaged" in caplog.text
        caplog.clear()
        assert torch.equal(load_omniglot([source]).images, fresh.images)
        assert not caplog.text
    assert len(list(default_cache_dir().iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, drawing_png: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        source = _zip(tmp_path / "set.zip", _alphabets(drawing_png, {"Alpha": 2}))
        loaded = load_omniglot([source], cache_dir=tmp_path / "file" / "cache")
    assert len(loaded) == 2
    assert "cannot be cached" in caplog.text


def test_a_kill_while_caching_leaves_no_half_written_cache(tmp_path: Path, drawing_png: Draw) -> None:
    source = _zip(tmp_path / "set.zip", _alphabets(drawing_png, {"Alpha": 2}))
    script = (
        "import os, signal, sys\n"
        "from ovonic.tasks.omniglot import load_omniglot\n"
        "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        "load_omniglot(sys.argv[1])\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(source)], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not list(default_cache_dir().glob("*.safetensors"))
    assert len(load_omniglot([source])) == 2
    assert len(list(default_cache_dir().glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OVONIC_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/ovonic")),
        ({"HOME": "/c"}, Path("/c/.cache/ovonic")),
    ],
)
def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Path) -> None:
    for name in ("OVONIC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_cache_dir() == expected


def _torchvision(monkeypatch: pytest.MonkeyPatch, omniglot_class: object) -> None:
    fake = types.ModuleType("torchvision.datasets")
    fake.Omniglot = omniglot_class  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)


class _Online:
    folder = "omniglot-py"

    def __init__(self, root: str, background: bool, download: bool) -> None:
        target = Path(root) / self.folder
        target.mkdir()
        (target / f"images_{'background' if background else 'evaluation'}.zip").write_bytes(b"zip")


class _Refused:
    def __init__(self, root: str, background: bool, download: bool) -> None:
        (Path(root) / "half.zip").write_bytes(b"half")
        raise OSError("no route to host")


def test_a_download_arrives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _torchvision(monkeypatch, _Online)
    assert download_omniglot(tmp_path / "new", background=False) == tmp_path / "new" / "images_evaluation.zip"
    _torchvision(monkeypatch, _Refused)
    assert download_omniglot(tmp_path / "new", background=False).read_bytes() == b"zip"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_refused_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _torchvision(monkeypatch, _Refused)
    with pytest.raises(DataError, match=r"images_background\.zip: cannot be downloaded \(no route to host\)"):
        download_omniglot(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_download_without_torchvision_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ToolchainError, match="uv pip install torchvision"):
        download_omniglot(tmp_path)


@pytest.mark.shared
def test_the_real_zips_hold_242_distinct_characters(shared: Path) -> None:
    sources = sorted((shared / "omniglot").glob("*.zip"))
    loaded = load_omniglot(sources)
    assert len(sources) == 2
    assert len(loaded) == 242
    assert len(loaded.alphabet_names) == 8
    assert (loaded.counts == 20).all()
    assert {line.split(" ")[1].split("/")[1] for line in loaded.duplicates} == {"Latin", "Greek"}
    assert len(loaded.duplicates) == 50
    again = load_omniglot(sources[::-1])
    assert torch.equal(again.images, loaded.images)
    assert again.names == loaded.names


@pytest.mark.shared
def test_preprocessing_equals_the_published_one(shared: Path) -> None:
    """Sorted characters are the golden batch's ids; its float32 images differ by one rounding, 6e-8."""
    loaded = load_omniglot(sorted((shared / "omniglot").glob("*.zip")))
    golden = np.load(shared / "published" / "cnn_golden.npz")
    images = loaded.images.to(torch.float32) * loaded.scale
    first = torch.from_numpy(golden["preprocessed_char0_drawing0"][..., 0])
    assert (loaded.alphabets[0], loaded.names[0]) == ("Balinese", "character01")
    assert (images[0] - first).abs().max() <= 1e-7
    for task in range(2):
        drawings = images.reshape(242, 20, 28, 28)[golden["char_ids"][task]]
        for image, label in zip(golden["support_images"][task, ..., 0], golden["support_labels"][task], strict=True):
            distance = (drawings[label] - torch.from_numpy(image)).abs().amax((-2, -1))
            assert distance.min() <= 1e-7
