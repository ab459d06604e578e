"""Files that are wholly written or not there: a scratch file beside the target, synced, then moved over it.

The library ``safer`` (6.1) moves with ``os.replace`` too, but never syncs, so that a power cut can leave an empty
file under the right name, and it gives every new file mode 0600.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_writer", "write_atomically"]


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing bytes; the file appears, or is replaced, when the block ends well.

    Folders above it are made. A link is followed; a device or a pipe (/dev/null) is written to directly.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file() and not target.is_dir():
        with target.open("wb") as file:
            yield file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with scratch.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.is_file():
            shutil.copymode(target, scratch)
        scratch.replace(target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path`` in one piece."""
    with atomic_writer(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
