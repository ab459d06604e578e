"""Omniglot, from folders or straight from zips, as 28x28 characters.

The official files are ``alphabet/characterNN/NNNN_DD.png``, 20 drawings of a character by 20 people, black on
white, 105x105, under outer folders: ``images_background`` and ``images_evaluation`` in the full set.

Reference: Lake, Salakhutdinov and Tenenbaum, Human-level concept learning through probabilistic program
induction, Science 350 (2015). Preprocessing: ``adapters.images``, with the published grey of paper, 0.9999.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ovonic.adapters.files import write_atomically
from ovonic.adapters.filetree import FileTree, file_tree
from ovonic.adapters.images import bilinear_levels, decode_bits
from ovonic.models.errors import DataError, ToolchainError
from ovonic.tasks.characters import BILINEAR_SCALE, CharacterSet
from ovonic.tasks.pictures import grouped_images, is_image

__all__ = ["OmniglotSet", "default_cache_dir", "download_omniglot", "load_omniglot"]

logger = logging.getLogger(__name__)

OFFICIAL_PARTS = {"images_background": "background", "images_evaluation": "evaluation"}
MIN_DRAWINGS = 2
CACHE_VERSION = 1


@dataclass(frozen=True, eq=False)
class OmniglotSet(CharacterSet):
    """Characters of Omniglot, sorted by alphabet and name, and what the sources said about them.

    Attributes:
        duplicates: one line for each character dropped because the same drawings are kept already.
        official: ``"background"`` or ``"evaluation"`` for each alphabet of an official outer folder.
    """

    duplicates: tuple[str, ...] = ()
    official: Mapping[str, str] = field(default_factory=dict)


class _Character(NamedTuple):
    """One character of one source; ``images``: [drawings, 28, 28] uint8; ``digest``: of all its pixels."""

    alphabet: str
    name: str
    outer: str
    digest: str
    images: Tensor
    source: Path

    @property
    def place(self) -> str:
        return f"{self.source}: {'/'.join(filter(None, (self.outer, self.alphabet, self.name)))}"

    @property
    def part(self) -> str | None:
        return OFFICIAL_PARTS.get(self.outer.rpartition("/")[2] or self.source.stem)


def load_omniglot(sources: Sequence[Path | str] | Path | str, *, cache_dir: Path | None = None) -> OmniglotSet:
    """Read Omniglot from several folders and zips, each character once.

    Characters of equal drawings are kept once, whatever their names; the result does not depend on the order
    of ``sources``, nor of files. Resampled images are cached under the content's hash, so a second call only
    hashes.

    Args: cache_dir: default ``default_cache_dir()``; a cache that cannot be written costs time, no more.
    Returns: uint8 levels k in 0..64 of scale ``BILINEAR_SCALE``.
    Raises: DataError: no source, or what ``adapters.filetree`` and ``adapters.images`` refuse, or another
        layout, an empty alphabet or character, one drawing alone, or one name for different drawings: the
        message names the file.
    """
    if isinstance(sources, str | Path):
        sources = [sources]
    if not sources:
        raise DataError("no Omniglot folder or zip was given; give at least one")
    paths = [Path(source) for source in sources]
    found = [c for path in paths for c in _read_source(path, cache_dir or default_cache_dir())]
    kept: list[_Character] = []
    by_name: dict[tuple[str, str], _Character] = {}
    by_digest: dict[str, _Character] = {}
    duplicates = []
    for character in sorted(found, key=lambda c: (c.alphabet, c.name, c.place)):
        twin = by_digest.setdefault(character.digest, character)
        if twin is not character:
            duplicates.append(f"{character.place} has the drawings of {twin.place}")
            continue
        namesake = by_name.setdefault((character.alphabet, character.name), character)
        if namesake is not character:
            raise DataError(
                f"{character.place} and {namesake.place} hold different drawings under one name; rename one"
            )
        kept.append(character)
    return OmniglotSet(
        images=torch.cat([c.images for c in kept]),
        counts=np.array([len(c.images) for c in kept], dtype=np.int64),
        alphabets=tuple(c.alphabet for c in kept),
        names=tuple(c.name for c in kept),
        source="omniglot:" + "+".join(sorted({path.name for path in paths})),
        scale=BILINEAR_SCALE,
        duplicates=tuple(duplicates),
        official={c.alphabet: c.part for c in kept if c.part},
    )


def download_omniglot(root: Path | str, background: bool = True) -> Path:
    """Fetch an official zip through torchvision, whole or not at all.

    Args: root: the folder that gets ``images_background.zip`` or else ``images_evaluation.zip``.
    Returns: the zip's path, for ``load_omniglot``; one already there is kept.
    Raises: ToolchainError: no torchvision. DataError: the network or the disk refuses.
    """
    name = f"images_{'background' if background else 'evaluation'}.zip"
    target = Path(root) / name
    if target.exists():
        return target
    try:
        from torchvision.datasets import Omniglot
    except (ImportError, RuntimeError, OSError) as error:
        raise ToolchainError(
            f"torchvision, which downloads Omniglot, does not load ({error}); run: uv pip install torchvision"
        ) from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".omniglot-", dir=target.parent) as scratch:
            Omniglot(scratch, background=background, download=True)
            os.replace(Path(scratch) / Omniglot.folder / name, target)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{target}: cannot be downloaded ({error}); check the network and the folder, or fetch {name} "
            "by hand from https://github.com/brendenlake/omniglot/tree/master/python"
        ) from error
    return target


def default_cache_dir() -> Path:
    """Return ``$OVONIC_CACHE``, else ``$XDG_CACHE_HOME/ovonic``, else ``~/.cache/ovonic``."""
    if chosen := os.environ.get("OVONIC_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "ovonic"


def _read_source(source: Path, cache_dir: Path) -> list[_Character]:
    with file_tree(source) as tree:
        cached = cache_dir / f"omniglot-v{CACHE_VERSION}-{_digest(tree)}.safetensors"
        characters = _load_cache(cached, source)
        if characters is None:
            characters = _read_tree(tree)
            _store_cache(cached, characters)
    return characters


def _digest(tree: FileTree) -> str:
    """Hash the content: a zip's bytes, or a folder's sorted paths and images."""
    if tree.archive_sha256 is not None:
        return tree.archive_sha256
    total = hashlib.sha256("\0".join(str(folder) for folder in tree.folders).encode("utf-8", "surrogateescape"))
    for file in tree.files:
        if is_image(file):
            total.update(hashlib.sha256(str(file.path).encode("utf-8", "surrogateescape")).digest())
            total.update(hashlib.sha256(file.read()).digest())
    return total.hexdigest()


def _read_tree(tree: FileTree) -> list[_Character]:
    characters = []
    for (outer, alphabet, name), files in grouped_images(tree, 2, "alphabet/character/drawing.png").items():
        if len(files) < MIN_DRAWINGS:
            raise DataError(f"{files[0].origin}: the one drawing of its character, {MIN_DRAWINGS} are needed; add some")
        bits = np.stack([decode_bits(file) for file in files])
        drawings = sorted(hashlib.sha256(drawing).digest() for drawing in bits)
        digest = hashlib.sha256(b"".join(drawings)).hexdigest()
        levels = torch.from_numpy(bilinear_levels(bits))
        characters.append(_Character(alphabet, name, outer, digest, levels, tree.source))
    return characters


def _checksum(index: str, images: Tensor) -> str:
    total = hashlib.sha256(f"{index} {images.dtype} {tuple(images.shape)}".encode())
    total.update(images.contiguous().numpy())
    return total.hexdigest()


def _store_cache(path: Path, characters: list[_Character]) -> None:
    index = json.dumps([[c.alphabet, c.name, c.outer, c.digest, len(c.images)] for c in characters])
    images = torch.cat([c.images for c in characters])
    try:
        write_atomically(path, save({"images": images}, {"index": index, "sha256": _checksum(index, images)}))
    except OSError as error:
        logger.warning("%s: cannot be cached (%s); set OVONIC_CACHE to a writable folder", path, error)


def _load_cache(path: Path, source: Path) -> list[_Character] | None:
    """Return what ``_store_cache`` wrote, or None where nothing, or nothing intact, is there."""
    try:
        with safe_open(path, framework="pt") as file:
            images, notes = file.get_tensor("images"), file.metadata() or {}
        if _checksum(notes["index"], images) != notes["sha256"]:
            raise ValueError("checksum differs")
        rows = [(*map(str, names), count) for *names, count in json.loads(notes["index"])]
        pieces = images.split([count for *_, count in rows])
        if any(len(row) != 5 for row in rows) or images.ndim != 3:
            raise ValueError("not characters")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        logger.warning("%s: the cache is damaged (%s); read anew from %s", path, error, source)
        return None
    return [
        _Character(alphabet, name, outer, digest, drawings, source)
        for (alphabet, name, outer, digest, _), drawings in zip(rows, pieces, strict=True)
    ]
