"""Files of folders and zips that nobody vouches for: zipfile behind limits, read in memory, never extracted.

Every refusal is a ``DataError`` that names the file (``archive.zip: 'member'``), what is wrong and what to
do. Memory is bounded by one file at a time and by the limits below.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ovonic.models.errors import DataError

__all__ = ["FileTree", "TreeFile", "file_tree"]

MAX_FILE_BYTES = 64 * 2**20
MAX_ARCHIVE_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 2**30
MAX_FILES = 500_000
MAX_DEPTH = 8
MAX_RATIO = 200


@dataclass(frozen=True)
class TreeFile:
    """A file of a tree: its ``path`` inside the source, its name in messages, its bytes and their reader."""

    path: PurePosixPath
    origin: str
    size: int
    _read: Callable[[], bytes]

    def read(self) -> bytes:
        """Return the file's bytes. Raises: DataError: unreadable, damaged or over ``MAX_FILE_BYTES``."""
        if self.size > MAX_FILE_BYTES:
            raise DataError(f"{self.origin}: {self.size} bytes, the limit is {MAX_FILE_BYTES}; remove it")
        try:
            return self._read()
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.origin}: cannot be read ({error}); copy or download it again") from error


@dataclass(frozen=True)
class FileTree:
    """A folder or a zip, seen alike.

    Attributes:
        source: the folder, zip or single file.
        files, folders: sorted by path; hidden ones and __MACOSX are left out.
        archive_sha256: of a zip's bytes, None for a folder.
    """

    source: Path
    files: tuple[TreeFile, ...]
    folders: tuple[PurePosixPath, ...]
    archive_sha256: str | None = None


@contextmanager
def file_tree(source: Path) -> Iterator[FileTree]:
    """Open a folder, a zip, or (a tree of its own) any other single file.

    Raises: DataError: nothing there, a damaged zip, too many files, a folder linked into itself, or a zip
        with encrypted members, links, absolute paths, ``..``, several members of one name, or the sizes of a
        bomb.
    """
    with ExitStack() as stack:
        try:
            if source.is_dir():
                tree = _folder_tree(source)
            else:
                handle = stack.enter_context(source.open("rb"))
                if source.suffix.lower() == ".zip" or zipfile.is_zipfile(handle):
                    tree = _zip_tree(source, handle)
                else:
                    size = source.stat().st_size
                    file = TreeFile(PurePosixPath(source.name), str(source), size, source.read_bytes)
                    tree = FileTree(source, (file,), ())
        except OSError as error:
            raise DataError(f"{source}: {error.strerror or error}; give a folder or a zip") from error
        yield tree


def _ignored(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _folder_tree(source: Path) -> FileTree:
    files: list[TreeFile] = []
    folders: list[PurePosixPath] = []

    def walk(folder: Path, inside: PurePosixPath) -> None:
        if len(inside.parts) > MAX_DEPTH:
            raise DataError(f"{folder}: folders nested deeper than {MAX_DEPTH}; is one linked into itself?")
        with os.scandir(folder) as entries:
            for entry in entries:
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
                    raise DataError(f"{source}: over {MAX_FILES} files; give the folder of the images alone")

    walk(source, PurePosixPath())
    return _sorted_tree(source, files, folders, None)


def _zip_tree(source: Path, handle: io.BufferedReader) -> FileTree:
    size = handle.seek(0, os.SEEK_END)
    if size > MAX_ARCHIVE_BYTES:
        raise DataError(f"{source}: {size} bytes, a zip may have {MAX_ARCHIVE_BYTES}; unpack it to a folder")
    handle.seek(0)
    digest = hashlib.file_digest(handle, "sha256").hexdigest()
    try:
        archive = zipfile.ZipFile(handle)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise DataError(f"{source}: not a readable zip ({error}); download it again") from error
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
        trick = _trick(member, seen)
        if trick:
            raise DataError(f"{origin}: {trick}; refused, do not trust this zip")
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


def _trick(member: zipfile.ZipInfo, seen: set[str]) -> str | None:
    """Name what is hostile about a zip's member, or None."""
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


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # ZipFile.read inflates everything before it compares with the declared size; a bounded read stops there.
    with archive.open(member) as stream:
        return stream.read(member.file_size + 1)


def _sorted_tree(
    source: Path, files: Iterable[TreeFile], folders: Iterable[PurePosixPath], digest: str | None
) -> FileTree:
    return FileTree(source, tuple(sorted(files, key=lambda f: f.path.parts)), tuple(sorted(folders)), digest)
