"""A user's own pictures of characters, any size and colour, as 28x28: labelled by folder, or unlabelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovonic.adapters.filetree import FileTree, TreeFile, file_tree
from ovonic.adapters.images import IMAGE_SUFFIXES, decode_grey, grey_levels
from ovonic.models.errors import DataError
from ovonic.tasks.characters import CharacterSet

__all__ = ["grouped_images", "is_image", "load_images", "load_labelled_folder"]


def load_labelled_folder(source: Path | str, *, invert: bool = False) -> CharacterSet:
    """Read a user's own few drawings, ``class/drawing.png`` in a folder or zip.

    Strokes are dark on light paper, unless ``invert``; ``adapters.images.grey_levels`` makes them 28x28.

    Returns: the classes sorted by name, all of one alphabet called as the folder; scale 1/255.
    Raises: DataError: pictures that do not decode or lie elsewhere, an empty class, or one class alone.
    """
    source = Path(source)
    with file_tree(source) as tree:
        classes = grouped_images(tree, 1, "class/drawing.png")
        outers = sorted({outer for outer, _ in classes})
        if len(outers) > 1:
            raise DataError(f"{source}: classes lie in {outers[0]!r} and in {outers[1]!r}; give one of these folders")
        if len(classes) < 2:
            raise DataError(f"{source}: one class alone, {next(iter(classes))[1]!r}; add a folder for each class")
        images = [_read(file, invert) for files in classes.values() for file in files]
    return CharacterSet(
        images=torch.stack(images),
        counts=np.array([len(files) for files in classes.values()], dtype=np.int64),
        alphabets=(source.stem,) * len(classes),
        names=tuple(name for _, name in classes),
        source=str(source),
    )


def load_images(source: Path | str, *, invert: bool = False) -> tuple[tuple[str, ...], Tensor]:
    """Read unlabelled pictures as ``load_labelled_folder`` does: one file, or all of a folder or zip.

    Returns: their paths inside the source, sorted; the pictures, [N, 1, 28, 28] float32 in 0..1.
    Raises: DataError: no picture, or one that does not decode.
    """
    with file_tree(Path(source)) as tree:
        files = _images(tree, "pictures")
        levels = torch.stack([_read(file, invert) for file in files])
    return tuple(str(file.path) for file in files), levels[:, None].to(torch.float32) * CharacterSet.scale


def is_image(file: TreeFile) -> bool:
    """Tell by its suffix whether a file claims to be a picture."""
    return file.path.suffix.lower() in IMAGE_SUFFIXES


def grouped_images(tree: FileTree, levels: int, layout: str) -> dict[tuple[str, ...], list[TreeFile]]:
    """Group a tree's images by folder, of which the innermost ``levels`` carry meaning and the outer do not.

    Returns: sorted files of each (outer folders joined by "/" or "", the ``levels`` folders), sorted.
    Raises: DataError: no image, images at different depths, too few folders, or a folder without images.
    """
    files = _images(tree, layout)
    groups: dict[tuple[str, ...], list[TreeFile]] = {}
    for file in files:
        folders = file.path.parts[:-1]
        if len(folders) < levels:
            raise DataError(f"{file.origin}: the layout is {layout}; give the folder further up")
        if len(folders) != len(files[0].path.parts) - 1:
            raise DataError(f"{file.origin}: lies at another depth than {files[0].origin}; the layout is {layout}")
        groups.setdefault(("/".join(folders[:-levels]), *folders[-levels:]), []).append(file)
    inhabited = {folder for file in files for folder in file.path.parents}
    for folder in tree.folders:
        if folder not in inhabited:
            raise DataError(f"{tree.source}: {folder} holds no image; fill or remove it (the layout is {layout})")
    return groups


def _images(tree: FileTree, layout: str) -> list[TreeFile]:
    files = [file for file in tree.files if is_image(file)]
    if not files:
        zips = [file.path.name for file in tree.files if file.path.suffix.lower() == ".zip"]
        hint = f"give the zips themselves: {', '.join(zips[:4])}" if zips else f"expected {layout}"
        raise DataError(f"{tree.source}: holds no image; {hint}")
    return files


def _read(file: TreeFile, invert: bool) -> Tensor:
    return torch.from_numpy(grey_levels(decode_grey(file), invert=invert))
