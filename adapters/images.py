"""Images from folders and zips that nobody vouches for: PIL and zipfile behind limits, read in memory, never extracted.

Every refusal is a ``DataError`` that names the file (``archive.zip: member``), what is wrong and what to do.
Memory is bounded by one image at a time and by the limits below.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps

from ovonic.models.errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "SIDE",
    "FileTree",
    "TreeFile",
    "bilinear_levels",
    "decode_bits",
    "decode_grey",
    "file_tree",
    "grey_levels",
]

SIDE = 105
"""Side of an Omniglot drawing, pixels."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 64 * 2**20
MAX_ARCHIVE_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 2**30
MAX_FILES = 500_000
MAX_DEPTH = 8
MAX_RATIO = 200

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_CORNER = 1.375 + 3.75 * np.arange(28)
_LOW = np.floor(_CORNER).astype(np.int64)
_EIGHTHS = (8 * (_CORNER - _LOW)).astype(np.uint8)


@dataclass(frozen=True)
class TreeFile:
    """A file of a tree: its ``path`` inside the source, its name in messages, and how to read it."""

    path: PurePosixPath
    origin: str
    size: int
    _read: Callable[[], bytes]

    @property
    def is_image(self) -> bool:
        return self.path.suffix.lower() in IMAGE_SUFFIXES

    def read(self) -> bytes:
        """Return the file's bytes. Raises: DataError: unreadable, damaged or over ``MAX_FILE_BYTES``."""
        if self.size > MAX_FILE_BYTES:
            raise DataError(f"{self.origin}: {self.size} bytes, the limit is {MAX_FILE_BYTES}; is it an image?")
        try:
            return self._read()
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.origin}: cannot be read ({error}); copy or download it again") from error


@dataclass(frozen=True)
class FileTree:
    """A folder or a zip, seen alike: ``files`` and ``folders`` sorted by path; hidden ones and __MACOSX left out."""

    source: Path
    files: tuple[TreeFile, ...]
    folders: tuple[PurePosixPath, ...]
    _archive_digest: str | None

    @property
    def images(self) -> tuple[TreeFile, ...]:
        return tuple(f for f in self.files if f.is_image)

    def digest(self) -> str:
        """Return the content's SHA-256: of a zip's bytes, or of a folder's sorted paths and images' bytes."""
        if self._archive_digest is not None:
            return self._archive_digest
        total = hashlib.sha256("\0".join(str(p) for p in self.folders).encode("utf-8", "surrogateescape"))
        for file in self.images:
            path = str(file.path).encode("utf-8", "surrogateescape")
            total.update(hashlib.sha256(path).digest() + hashlib.sha256(file.read()).digest())
        return total.hexdigest()


@contextmanager
def file_tree(source: Path) -> Iterator[FileTree]:
    """Open a folder, a zip, or a single image file as a tree.

    Raises: DataError: nothing there, not a zip, too many files, a folder linked into itself, or a zip with encrypted
        members, links, absolute paths, ``..``, several members of one name, or the sizes of a bomb.
    """
    with ExitStack() as stack:
        try:
            if source.is_dir():
                tree = _folder_tree(source)
            elif source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
                file = TreeFile(PurePosixPath(source.name), str(source), source.stat().st_size, source.read_bytes)
                tree = FileTree(source, (file,), (), None)
            else:
                tree = _zip_tree(source, stack.enter_context(source.open("rb")))
        except OSError as error:
            raise DataError(f"{source}: {error.strerror or error}; give a folder or a zip") from error
        yield tree


def decode_bits(file: TreeFile) -> np.ndarray:
    """Decode an Omniglot drawing: PNG, 105x105, black strokes on white.

    Returns: [105, 105] uint8, 0 on strokes and 1 on paper.
    Raises: DataError: another format or size, grey levels, or damaged (checksums are verified to the last chunk).
    """
    with _blaming(file):
        image = _load(file, ("PNG",))
        if image.size != (SIDE, SIDE):
            raise DataError(
                f"{file.origin}: {image.width}x{image.height} pixels, Omniglot drawings are {SIDE}x{SIDE}; "
                "use the original files, or load your own drawings as a folder class/drawing"
            )
        grey = np.asarray(image.convert("L"))
        if image.has_transparency_data or not np.isin(grey, (0, 255)).all():
            raise DataError(
                f"{file.origin}: has grey levels or transparency, Omniglot drawings are black on white; "
                "use the original files"
            )
    return (grey == 255).astype(np.uint8)


def bilinear_levels(bits: np.ndarray) -> np.ndarray:
    """Resample bit images from 105 to 28 pixels: bilinear, half-pixel centres, no antialias, exact.

    Output pixel i samples the coordinate 1.375 + 3.75 i, so the weights of both axes are eighths and a pixel is
    k/64, k in 0..64. Equals torch's ``interpolate(mode="bilinear", align_corners=False, antialias=False)`` times 64.

    Args: bits: [..., 105, 105] uint8, 0 or 1.
    Returns: the levels k, [..., 28, 28] uint8.
    Reference: the preprocessing of Ortner et al. (2025), TensorFlow's ``tf.image.resize`` of Omniglot.
    """
    rows = (8 - _EIGHTHS)[:, None] * bits[..., _LOW, :] + _EIGHTHS[:, None] * bits[..., _LOW + 1, :]
    return (8 - _EIGHTHS) * rows[..., _LOW] + _EIGHTHS * rows[..., _LOW + 1]


def decode_grey(file: TreeFile) -> Image.Image:
    """Decode a user's picture: PNG, JPEG, BMP or WebP of any size, turned as its EXIF says.

    Colour becomes luma (ITU-R 601), 16 bits become 8, transparency becomes white paper.

    Returns: an 8-bit grey PIL image.
    Raises: DataError: undecodable, truncated, over ``MAX_PIXELS``, or of a depth with no stated white.
    """
    with _blaming(file):
        image = _load(file, _FORMATS)
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise DataError(f"{file.origin}: pixels of mode {image.mode!r} have no stated white; save as 8-bit grey")
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L")


def grey_levels(image: Image.Image, *, invert: bool = False) -> np.ndarray:
    """Bring a grey picture to 28x28 by the rule of ``bilinear_levels``, strokes dark on light paper.

    Bilinear sampling without antialias steps over thin strokes of large pictures: one whose longer side is over 105
    pixels is first area-averaged to 105. One that is not square is padded to a square with the median grey of its
    border. Contrast is left as it is, and light strokes on dark are never guessed.

    Args: image: mode "L", any size; invert: the strokes are light on dark.
    Returns: levels of 1/255, [28, 28] uint8.
    """
    longer = max(image.size)
    if longer > SIDE:
        width, height = (max(1, round(side * SIDE / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    if invert:
        image = ImageOps.invert(image)
    if image.width != image.height:
        grey = np.asarray(image)
        border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
        square = Image.new("L", (max(image.size),) * 2, int(np.median(border)))
        square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
        image = square
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))[None, None]
    resized = torch.nn.functional.interpolate(
        pixels, size=(28, 28), mode="bilinear", align_corners=False, antialias=False
    )
    return resized[0, 0].round().to(torch.uint8).numpy()


@contextmanager
def _blaming(file: TreeFile) -> Iterator[None]:
    """Report whatever a decoder raises on hostile bytes as the file's fault."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{file.origin}: does not decode as an image ({error or type(error).__name__}); replace the file"
        ) from error


def _load(file: TreeFile, formats: tuple[str, ...]) -> Image.Image:
    data = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        probe = Image.open(io.BytesIO(data), formats=formats)
    if probe.width * probe.height > MAX_PIXELS:
        raise DataError(
            f"{file.origin}: {probe.width}x{probe.height} pixels, the limit is {MAX_PIXELS}; make the image smaller"
        )
    probe.verify()
    image = Image.open(io.BytesIO(data), formats=formats)
    image.load()
    return image


def _ignored(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _folder_tree(source: Path) -> FileTree:
    files: list[TreeFile] = []
    folders: list[PurePosixPath] = []

    def walk(folder: Path, inside: PurePosixPath) -> None:
        if len(inside.parts) > MAX_DEPTH:
            raise DataError(f"{folder}: folders nested deeper than {MAX_DEPTH}; is one linked into itself?")
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                path = inside / entry.name
                if _ignored(path):
                    continue
                if entry.is_dir():
                    folders.append(path)
                    walk(Path(entry.path), path)
                elif entry.is_file():
                    here = Path(entry.path)
                    files.append(TreeFile(path, str(here), entry.stat().st_size, here.read_bytes))
                else:
                    raise DataError(f"{entry.path}: neither a file nor a folder (a broken link?); remove it")
                if len(files) + len(folders) > MAX_FILES:
                    raise DataError(f"{source}: over {MAX_FILES} files; give the folder that holds the images alone")

    walk(source, PurePosixPath())
    return _sorted_tree(source, files, folders, None)


def _zip_tree(source: Path, handle: io.BufferedReader) -> FileTree:
    size = handle.seek(0, os.SEEK_END)
    if size > MAX_ARCHIVE_BYTES:
        raise DataError(f"{source}: {size} bytes, the limit for a zip is {MAX_ARCHIVE_BYTES}; unpack it to a folder")
    handle.seek(0)
    digest = hashlib.file_digest(handle, "sha256").hexdigest()
    try:
        archive = zipfile.ZipFile(handle)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise DataError(f"{source}: neither a folder nor a readable zip ({error}); download it again") from error
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if len(members) > MAX_FILES or total > MAX_TOTAL_BYTES:
        raise DataError(
            f"{source}: {len(members)} members of {total} bytes unpacked, the limits are {MAX_FILES} and "
            f"{MAX_TOTAL_BYTES}; refused as a zip bomb"
        )
    files: list[TreeFile] = []
    folders: set[PurePosixPath] = set()
    seen: set[str] = set()
    for member in members:
        origin = f"{source}: {member.filename!r}"
        reason = _member_trick(member, seen)
        if reason:
            raise DataError(f"{origin}: {reason}; refused, do not trust this zip")
        seen.add(member.filename)
        path = PurePosixPath(member.filename)
        if _ignored(path):
            continue
        folders.update(path.parents[:-1])
        if member.is_dir():
            folders.add(path)
        else:
            files.append(TreeFile(path, origin, member.file_size, partial(_read_member, archive, member)))
    return _sorted_tree(source, files, folders, digest)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # ZipFile.read inflates everything before it compares with the declared size; a bounded read stops there.
    with archive.open(member) as stream:
        return stream.read(member.file_size + 1)


def _member_trick(member: zipfile.ZipInfo, seen: set[str]) -> str | None:
    name, mode = member.orig_filename, member.external_attr >> 16
    if name.startswith("/") or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        return "an absolute or foreign path"
    if ".." in name.split("/"):
        return "a path that climbs with '..'"
    if len(PurePosixPath(name).parts) > MAX_DEPTH:
        return f"a path nested deeper than {MAX_DEPTH} folders"
    if member.filename in seen:
        return "a second member of this name"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device, not a file"
    if member.flag_bits & 0x1:
        return "an encrypted member"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {member.compress_type}, only stored and deflated are read"
    if member.file_size > MAX_FILE_BYTES or member.file_size > 2**16 + MAX_RATIO * member.compress_size:
        return f"{member.file_size} bytes unpacked from {member.compress_size}, the sizes of a zip bomb"
    return None


def _sorted_tree(
    source: Path, files: list[TreeFile], folders: list[PurePosixPath] | set[PurePosixPath], digest: str | None
) -> FileTree:
    return FileTree(source, tuple(sorted(files, key=lambda f: f.path.parts)), tuple(sorted(folders)), digest)
