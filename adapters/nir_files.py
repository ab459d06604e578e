"""NIR files: HDF5, read as a stranger's (``adapters.hdf5``): no link, nothing inside itself, no number of nodes, edges
or levels beyond its limit; the node is named in what is refused.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import nir  # type: ignore[import-untyped]

from ovonic.adapters.files import write_atomically
from ovonic.adapters.hdf5 import Guard, read_guarded
from ovonic.adapters.nir_graph import MAX_DEPTH, MAX_EDGES, Graph, Node, leaf
from ovonic.models.errors import DataError

__all__ = ["read_graph", "write_graph"]


def write_graph(path: str | Path, graph: nir.NIRGraph) -> None:
    """Write a graph as a NIR file in one piece."""
    file = io.BytesIO()
    nir.write(file, graph)
    write_atomically(path, file.getvalue())


def read_graph(path: str | Path) -> Graph:
    """Read the graph of a NIR file.

    Raises: DataError: no NIR file, damaged, or more than it pretends to be (see ``adapters.hdf5``).
    """
    return read_guarded(path, "NIR", lambda file, size: _Reader(size).file(file))


class _Reader(Guard):
    """Walks a file, and counts what it has read."""

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


def _address(item: Any) -> int:
    address: int = h5py.h5o.get_info(item.id).addr
    return address
