"""HDF5 files read as a stranger's, in bounded memory.

Nothing is read before its declared size is checked. A file may hold groups and arrays of numbers and text, compressed
by gzip, shuffle, lzf or not at all; links, virtual and external arrays, other filters (HDF5 loads plug-ins for them),
groups inside themselves, and arrays larger than their stored bytes can inflate to are refused, with the place named.

HDF5 itself (2.0) can loop forever, crash, or allocate gigabytes for a text on a damaged file. So a child of this
process reads the file first, with limits to its time and memory, and only what it reads well is read here (not on
systems without fork).
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ovonic.models.errors import DataError

__all__ = ["MAX_BYTES", "Guard", "read_guarded"]

MAX_BYTES = 2**30
"""Size of a file, and of all arrays and text in it once inflated."""

MAX_CHUNKS, MAX_ENTRIES = 20_000, 32_000
"""Chunks of an array, and names in all groups together."""

INFLATES = 1100
"""Times by which a stored byte can grow at most: deflate's limit is 1032."""

PROBE_S, PROBE_BYTES = 10, 10**7
"""Processor time that the child has for a file, s, and bytes for which it has a second more."""

PATIENCE = 30
"""Times as long it may take by the clock."""

SPACE, COPIES, STATM = 2**29, 3, Path("/proc/self/statm")
"""Bytes that it may allocate beyond what this process has, and as many times what the file may hold; where Linux says
how much this process has."""

SMALL = 2**20
"""Bytes that may be read at once whatever a file says of them."""

FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


def read_guarded[T](path: str | Path, what: str, read: Callable[[h5py.File, int], T]) -> T:
    """Read an HDF5 file: first in a child process, then here.

    Args:
        path: the file; what: the name of its format, for messages.
        read: takes the open file and its size in bytes; it reads through a ``Guard``.
    Raises: DataError: not such a file, damaged, too large, or what ``read`` refuses. OSError: no such file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise DataError("no file that can be read as one")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{size} bytes, more than the {MAX_BYTES} that are read")

    def attempt() -> T:
        try:
            with h5py.File(path, "r") as file:
                return read(file, size)
        except DataError:
            raise
        except Exception as error:  # h5py raises what comes: KeyError, OSError, RuntimeError, ...
            raise DataError(f"no whole {what} file ({type(error).__name__}: {error})") from error

    _probe(attempt, size, what)
    return attempt()


def _probe(attempt: Callable[[], Any], size: int, what: str) -> None:
    """Read the file in a child process, which may crash or run out of time.

    The child computes on one thread: those of OpenMP that this process has are not in it, and to wait for them would
    never end. What waits all the same ends by the clock.

    Raises: DataError: it did, or it met an error, which is raised here.
    """
    if not hasattr(os, "fork"):
        return
    import resource

    def limit(what: int, most: int) -> None:
        hard = resource.getrlimit(what)[1]  # the user's own, which only root may raise
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))

    ear, mouth = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the child uses h5py alone, then ends
        child = os.fork()
    if child == 0:
        try:
            seconds = PROBE_S + size // PROBE_BYTES
            limit(resource.RLIMIT_CORE, 0)
            limit(resource.RLIMIT_CPU, seconds)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE * seconds)
            if STATM.exists():
                pages = int(STATM.read_text().split()[0])
                limit(resource.RLIMIT_AS, pages * resource.getpagesize() + SPACE + COPIES * _may_hold(size))
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            attempt()
        except BaseException as error:
            os.write(mouth, str(error).encode()[:4000] or b"damaged")
        finally:
            os._exit(0)
    os.close(mouth)
    with open(ear, "rb") as listening:
        said = listening.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if said:
        raise DataError(said)
    if os.WIFSIGNALED(status):
        raise DataError(f"no whole {what} file: HDF5 crashes on it or never ends (signal {os.WTERMSIG(status)})")


def _may_hold(size: int) -> int:
    """Bytes of all arrays and text of a file of ``size`` bytes at most."""
    return min(MAX_BYTES, SMALL + INFLATES * size)


class Guard:
    """Hands out what lies in a file of ``size`` bytes, and counts it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = _may_hold(size)
        self.entries = 0

    def names(self, group: Any, where: str) -> list[str]:
        """The names in a group, in order."""
        self.entries += len(group)
        if self.entries > MAX_ENTRIES:
            raise DataError(f"{where}: more than {MAX_ENTRIES} entries")
        return list(group)

    def child(self, group: Any, name: str, where: str) -> Any:
        """What a group holds by a name, if it lies in the file itself."""
        at = f"{where}, {name!r}" if where else repr(name)
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{at}: a link, which may lead anywhere; such a file has none")
        if group.get(name, getclass=True) not in (h5py.Group, h5py.Dataset):
            raise DataError(f"{at}: neither a group nor an array")
        return group[name]

    def value(self, dataset: Any, where: str) -> Any:
        """An array of numbers or of text, a number, or a text."""
        if not isinstance(dataset, h5py.Dataset):
            raise DataError(f"{where}: a group where an array is due")
        if h5py.check_string_dtype(dataset.dtype) is not None:
            words = self.words(dataset, where)
            return words[0] if dataset.ndim == 0 else np.array(words, object).reshape(dataset.shape)
        if dataset.dtype.kind not in "fiub" or dataset.shape is None:
            raise DataError(f"{where}: holds {dataset.dtype}, not numbers that float64 can keep")
        self.admit(dataset, where)
        array: NDArray[Any] = np.asarray(dataset[()])
        return array

    def text(self, dataset: Any, where: str) -> str:
        """A text."""
        value = self.value(dataset, where)
        if not isinstance(value, str):
            raise DataError(f"{where}: no text")
        return value

    def words(self, dataset: Any, where: str) -> list[str]:
        """Text, in blocks that stay small even where every entry is as long as the file."""
        if dataset.shape is None:
            raise DataError(f"{where}: holds nothing")
        self.admit(dataset, where)
        blocks = [()] if dataset.ndim == 0 else self._blocks(dataset)
        words: list[str] = []
        for block in blocks:
            for entry in np.asarray(dataset[block], object).reshape(-1):
                self.spend(len(entry), where)
                words.append(entry.decode("utf8") if isinstance(entry, bytes) else str(entry))
        return words

    def admit(self, dataset: Any, where: str) -> None:
        """Refuse an array that reads from elsewhere or would grow beyond what the file can hold."""
        properties = dataset.id.get_create_plist()
        if dataset.is_virtual or properties.get_external_count():
            raise DataError(f"{where}: an array whose numbers lie in another file")
        for k in range(properties.get_nfilters()):
            if (code := properties.get_filter(k)[0]) not in FILTERS:
                raise DataError(f"{where}: filter {code}; gzip, shuffle and lzf are read")
        declared, stored = dataset.size * dataset.dtype.itemsize, min(dataset.id.get_storage_size(), self.size)
        if declared > max(SMALL // 16, INFLATES * stored):
            raise DataError(f"{where}: declares {declared} bytes, and the file holds {stored}")
        self.spend(declared, where)
        if dataset.chunks:
            chunk = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize
            if chunk > max(SMALL, declared):
                raise DataError(f"{where}: chunks of {chunk} bytes in an array of {declared}")
            self._inflate(dataset, chunk, where)

    def spend(self, count: int, where: str) -> None:
        """Take bytes from what the file may hold in all."""
        self.left -= count
        if self.left < 0:
            raise DataError(f"{where}: more data than a file of {self.size} bytes may hold")

    def _blocks(self, dataset: Any) -> list[Any]:
        width = int(np.prod(dataset.shape[1:], dtype=int)) or 1
        step = max(1, SMALL * 64 // (max(self.size, 1) * width))
        return [slice(k, k + step) for k in range(0, len(dataset), step)]

    def _inflate(self, dataset: Any, chunk: int, where: str) -> None:
        """Refuse a chunk that inflates to more than it declares."""
        count = dataset.id.get_num_chunks()
        if count > MAX_CHUNKS:
            raise DataError(f"{where}: {count} chunks")
        for k in range(count if dataset.compression == "gzip" else 0):
            info = dataset.id.get_chunk_info(k)
            if info.filter_mask:
                continue
            _, raw = dataset.id.read_direct_chunk(info.chunk_offset)
            if len(zlib.decompressobj().decompress(raw, chunk + 65)) > chunk + 64:
                raise DataError(f"{where}: a chunk that inflates to more than its {chunk} bytes")
