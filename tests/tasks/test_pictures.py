"""A user's own pictures: labelled by folder, or unlabelled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovonic.models.errors import DataError
from ovonic.tasks.omniglot import load_omniglot
from ovonic.tasks.pictures import load_images, load_labelled_folder


def _picture(path: Path, shade: int, size: tuple[int, int] = (60, 60), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).convert(mode).save(path)
    return path


def _two_classes(root: Path) -> Path:
    _picture(root / "zig" / "a.png", 10)
    _picture(root / "zig" / "b.jpg", 20, (640, 480), "RGB")
    _picture(root / "ant" / "c.bmp", 200, (20, 31))
    (root / "notes.txt").write_text("mine")
    return root


def test_classes_are_folders_of_any_pictures(tmp_path: Path) -> None:
    loaded = load_labelled_folder(_two_classes(tmp_path / "mine"))
    assert loaded.names == ("ant", "zig")
    assert loaded.alphabets == ("mine", "mine")
    assert loaded.counts.tolist() == [1, 2]
    assert loaded.scale == 1 / 255
    assert [int(image.unique()) for image in loaded.images] == [200, 10, 20]
    inverted = load_labelled_folder(str(tmp_path / "mine"), invert=True)
    assert torch.equal(inverted.images, 255 - loaded.images)


def test_a_zip_with_an_outer_folder_is_the_same(tmp_path: Path) -> None:
    folder = _two_classes(tmp_path / "mine")
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path))
    zipped = load_labelled_folder(tmp_path / "mine.zip")
    assert zipped.names == ("ant", "zig")
    assert torch.equal(zipped.images, load_labelled_folder(folder).images)


def test_unlabelled_pictures_are_seen_as_labelled_ones(tmp_path: Path) -> None:
    folder = _two_classes(tmp_path / "mine")
    labelled = load_labelled_folder(folder)
    paths, images = load_images(folder)
    assert paths == ("ant/c.bmp", "zig/a.png", "zig/b.jpg")
    assert images.shape == (3, 1, 28, 28)
    assert torch.equal(images[:, 0], labelled.images.to(torch.float32).mul_(labelled.scale))
    single = load_images(folder / "zig" / "a.png")
    assert single[0] == ("a.png",)
    assert torch.equal(single[1], images[1:2])


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    folder = _two_classes(tmp_path / "mine")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image"):
        load_labelled_folder(folder)
    (folder / "empty").rmdir()
    with pytest.raises(DataError, match="the layout is class/drawing"):
        load_labelled_folder(folder / "zig")
    with pytest.raises(DataError, match="one class alone, 'one'"):
        load_labelled_folder(_picture(tmp_path / "lone" / "one" / "x.png", 1).parents[1])
    _picture(tmp_path / "deep" / "a" / "x" / "1.png", 1)
    _picture(tmp_path / "deep" / "b" / "x" / "1.png", 1)
    with pytest.raises(DataError, match="give one of these folders"):
        load_labelled_folder(tmp_path / "deep")
    _picture(folder / "zig" / "d.gif", 3)
    with pytest.raises(DataError, match=r"d\.gif: is not a PNG or JPEG"):
        load_labelled_folder(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        load_images(tmp_path / "none")


@pytest.mark.shared
def test_real_drawings_come_out_as_through_the_omniglot_path(shared: Path, tmp_path: Path) -> None:
    """Two characters as a user's folder: levels of 1/255 instead of 1/64, and paper 1 instead of 0.9999."""
    archive = shared / "omniglot" / "images_background_small1.zip"
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            character = Path(name).parent.name
            if name.endswith(".png") and "/Greek/" in name and character in ("character01", "character02"):
                target = tmp_path / "greek" / character / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(packed.read(name))
    mine = load_labelled_folder(tmp_path / "greek")
    official = load_omniglot(archive, cache_dir=tmp_path).select(lambda a: a == "Greek")
    assert len(mine) == 2
    difference = mine.images.numpy() * mine.scale - official.images[:40].numpy() * official.scale
    assert np.abs(difference).max() <= 0.5 / 255 + 1e-4
