"""NIR files: HDF5, read as a stranger's, in bounded memory.

Nothing is read before its declared size is checked. A file may hold groups and arrays of numbers and text, compressed
by gzip, shuffle, lzf or not at all; links, virtual and external arrays, other filters (HDF5 loads plug-ins for them),
groups inside themselves, and arrays larger than their stored bytes can inflate to are refused, with the node named.

HDF5 itself (2.0) can loop forever or crash on a damaged file. So a child of this process reads the file first, with a
limit to its time, and only what it survives is read here (not on systems without fork).
"""

from __future__ import annotations

import io
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import nir  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.files import write_atomically
from ovonic.adapters.nir_graph import MAX_DEPTH, MAX_EDGES, MAX_NODES, Graph, Node, leaf
from ovonic.models.errors import DataError

__all__ = ["MAX_BYTES", "read_graph", "write_graph"]

MAX_BYTES = 2**30
"""Size of a file, and of all arrays and text in it once inflated."""

INFLATES = 1100
"""Times by which a stored byte can grow at most: deflate's limit is 1032."""

PROBE_S, PROBE_BYTES = 10, 10**7
"""Processor time that the child has for a file, s, and bytes for which it has a second more."""

SMALL = 2**20
"""Bytes that may be read at once whatever a file says of them."""

FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


def write_graph(path: str | Path, graph: nir.NIRGraph) -> None:
    """Write a graph as a NIR file in one piece."""
    file = io.BytesIO()
    nir.write(file, graph)
    write_atomically(path, file.getvalue())


def read_graph(path: str | Path) -> Graph:
    """Read the graph of a NIR file.

    Raises: DataError: no NIR file, damaged, or more than it pretends to be (see the module's text).
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise DataError("no file that can be read as one")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{size} bytes, more than the {MAX_BYTES} that are read")
    _probe(path, size)
    return _read(path, size)


def _read(path: Path, size: int) -> Graph:
    try:
        with h5py.File(path, "r") as file:
            return _Reader(size).file(file)
    except DataError:
        raise
    except Exception as error:  # h5py raises what comes: KeyError, OSError, RuntimeError, ...
        raise DataError(f"no whole NIR file ({type(error).__name__}: {error})") from error


def _probe(path: Path, size: int) -> None:
    """Read the file in a child process, which may crash or run out of time.

    Raises: DataError: it did.
    """
    if not hasattr(os, "fork"):
        return
    import resource

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the child uses h5py alone, then ends
        child = os.fork()
    if child == 0:
        try:
            limit = PROBE_S + size // PROBE_BYTES
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            _read(path, size)
        except BaseException:  # the parent meets it too, and says so
            pass
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise DataError(f"no whole NIR file: HDF5 crashes on it or never ends (signal {os.WTERMSIG(status)})")


class _Reader:
    """Walks a file, and counts what it has read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = min(MAX_BYTES, SMALL + INFLATES * size)
        self.entries = 0

    def file(self, file: h5py.File) -> Graph:
        if "node" not in file:
            raise DataError("HDF5, but no NIR file: it has no group 'node'")
        group = self.child(file, "node", "")
        version = self.text(self.child(file, "version", ""), "version") if "version" in file else ""
        graph = self.node(group, "", (_address(group),))
        if isinstance(graph, Node):
            raise DataError(f"holds a single {graph.kind}, not a graph")
        return Graph(graph.nodes, graph.edges, graph.metadata, version)

    def node(self, group: Any, path: str, above: tuple[int, ...]) -> Node | Graph:
        where = f"node {path!r}" if path else "the graph"
        if not isinstance(group, h5py.Group):
            raise DataError(f"{where}: an array where a node is due")
        names = self.names(group, where)
        if "type" not in names:
            raise DataError(f"{where}: type missing")
        kind = self.text(self.child(group, "type", where), f"{where}: type")
        metadata = {}
        if "metadata" in names:
            metadata = self.metadata(self.child(group, "metadata", where), f"{where}: metadata", above)
        rest = [name for name in names if name not in ("type", "metadata")]
        if kind != "NIRGraph":
            given = {name: self.value(self.child(group, name, where), f"{where}: {name}") for name in rest}
            return leaf(where, kind, given, metadata)
        if strange := set(rest) - {"nodes", "edges"}:
            raise DataError(f"{where}: a NIRGraph has no {min(strange)!r}")
        if missing := {"nodes", "edges"} - set(rest):
            raise DataError(f"{where}: {min(missing)} missing")
        inside, inner = self.child(group, "nodes", where), {}
        if not isinstance(inside, h5py.Group):
            raise DataError(f"{where}: nodes: an array where a group is due")
        for name in self.names(inside, where):
            child = self.child(inside, name, where)
            beneath = self.descend(child, f"{where}, {name!r}", above)
            inner[name] = self.node(child, f"{path}.{name}" if path else name, beneath)
        return Graph(inner, self.edges(self.child(group, "edges", where), f"{where}: edges"), metadata)

    def names(self, group: Any, where: str) -> list[str]:
        self.entries += len(group)
        if self.entries > 16 * MAX_NODES:
            raise DataError(f"{where}: more than {MAX_NODES} nodes")
        return list(group)

    def child(self, group: Any, name: str, where: str) -> Any:
        at = f"{where}, {name!r}" if where else repr(name)
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{at}: a link, which may lead anywhere; a NIR file has none")
        if group.get(name, getclass=True) not in (h5py.Group, h5py.Dataset):
            raise DataError(f"{at}: neither a group nor an array")
        return group[name]

    def descend(self, child: Any, where: str, above: tuple[int, ...]) -> tuple[int, ...]:
        address = _address(child)
        if address in above:
            raise DataError(f"{where}: a group inside itself")
        if len(above) > MAX_DEPTH:
            raise DataError(f"{where}: deeper than {MAX_DEPTH}")
        return (*above, address)

    def metadata(self, group: Any, where: str, above: tuple[int, ...]) -> dict[str, Any]:
        if not isinstance(group, h5py.Group):
            raise DataError(f"{where}: an array where a group is due")
        found: dict[str, Any] = {}
        beneath = self.descend(group, where, above)
        for name in self.names(group, where):
            child, at = self.child(group, name, where), f"{where}, {name!r}"
            found[name] = self.metadata(child, at, beneath) if isinstance(child, h5py.Group) else self.value(child, at)
        return found

    def edges(self, dataset: Any, where: str) -> tuple[tuple[str, str], ...]:
        if not isinstance(dataset, h5py.Dataset):
            raise DataError(f"{where}: a group where an array is due")
        if dataset.size == 0:
            return ()
        if dataset.ndim != 2 or dataset.shape[1] != 2 or h5py.check_string_dtype(dataset.dtype) is None:
            raise DataError(f"{where}: {dataset.dtype} of shape {dataset.shape}, not pairs of names")
        if len(dataset) > MAX_EDGES:
            raise DataError(f"{where}: {len(dataset)}, more than the {MAX_EDGES} that are read")
        words = self.words(dataset, where)
        return tuple((a, b) for a, b in zip(words[::2], words[1::2], strict=True))

    def value(self, dataset: Any, where: str) -> Any:
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
        value = self.value(dataset, where)
        if not isinstance(value, str):
            raise DataError(f"{where}: no text")
        return value

    def words(self, dataset: Any, where: str) -> list[str]:
        """Text, in blocks that stay small even where every entry is as long as the file."""
        if dataset.shape is None:
            raise DataError(f"{where}: holds nothing")
        self.admit(dataset, where)
        blocks = [()] if dataset.ndim == 0 else self.blocks(dataset)
        words: list[str] = []
        for block in blocks:
            for entry in np.asarray(dataset[block], object).reshape(-1):
                self.spend(len(entry), where)
                words.append(entry.decode("utf8") if isinstance(entry, bytes) else str(entry))
        return words

    def blocks(self, dataset: Any) -> list[Any]:
        width = int(np.prod(dataset.shape[1:], dtype=int)) or 1
        step = max(1, SMALL * 64 // (max(self.size, 1) * width))
        return [slice(k, k + step) for k in range(0, len(dataset), step)]

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
            self.inflate(dataset, chunk, where)

    def inflate(self, dataset: Any, chunk: int, where: str) -> None:
        """Refuse a chunk that inflates to more than it declares."""
        count = dataset.id.get_num_chunks()
        if count > MAX_EDGES:
            raise DataError(f"{where}: {count} chunks")
        for k in range(count if dataset.compression == "gzip" else 0):
            info = dataset.id.get_chunk_info(k)
            if info.filter_mask:
                continue
            _, raw = dataset.id.read_direct_chunk(info.chunk_offset)
            if len(zlib.decompressobj().decompress(raw, chunk + 65)) > chunk + 64:
                raise DataError(f"{where}: a chunk that inflates to more than its {chunk} bytes")

    def spend(self, count: int, where: str) -> None:
        self.left -= count
        if self.left < 0:
            raise DataError(f"{where}: more data than a file of {self.size} bytes may hold")


def _address(item: Any) -> int:
    address: int = h5py.h5o.get_info(item.id).addr
    return address
