"""Whether a reader did right with an input: it returned or raised an ``OvonicError``; all else is kept beside it."""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import traceback
from pathlib import Path

from ovonic.models.errors import OvonicError

from .targets import Target

__all__ = ["COUNTS", "Judge", "counts", "input_path", "new_counts"]

COUNTS = ("inputs", "accepted", "refused", "wrong")


def new_counts(path: Path) -> mmap.mmap:
    """Shared memory for the counts, read by who watches while another process writes."""
    path.write_bytes(bytes(8 * len(COUNTS)))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def counts(shared: mmap.mmap) -> dict[str, int]:
    """The counts now."""
    return dict(zip(COUNTS, struct.unpack(f"<{len(COUNTS)}q", shared[:]), strict=True))


def input_path(target: Target, folder: Path) -> Path:
    """Where an input lies while it is read."""
    return folder / (target.suffix if "." in target.suffix[1:] else f"input{target.suffix}")


class Judge:
    """Gives inputs to a reader and counts; findings go to ``folder/findings``, one for each kind and place of error."""

    def __init__(self, target: Target, folder: Path, shared: mmap.mmap) -> None:
        self.target, self.path, self.shared = target, input_path(target, folder), shared
        self.findings = folder / "findings"
        self.findings.mkdir(exist_ok=True)

    def __call__(self, data: bytes) -> bool:
        """Whether the reader did right."""
        self.path.write_bytes(data)
        self._count("inputs")
        try:
            self.target.read(self.path)
        except OvonicError:
            self._count("refused")
        except Exception as error:
            self._count("wrong")
            self._keep(data, error)
            return False
        else:
            self._count("accepted")
        return True

    def _count(self, name: str) -> None:
        at = 8 * COUNTS.index(name)
        self.shared[at : at + 8] = struct.pack("<q", struct.unpack("<q", self.shared[at : at + 8])[0] + 1)

    def _keep(self, data: bytes, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "/reliability/" not in f.filename and "site-packages" not in f.filename]
        last = (own or list(frames))[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        name = f"{type(error).__name__}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
        if (self.findings / f"{name}.json").exists():
            return
        (self.findings / f"{name}.bin").write_bytes(data)
        found = {
            "what": type(error).__name__,
            "where": place,
            "says": str(error)[:300],
            "trace": traceback.format_exc(),
        }
        (self.findings / f"{name}.json").write_text(json.dumps(found, indent=1))
