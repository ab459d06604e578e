"""Arrays of numbers from npy and npz files that nobody vouches for; nothing is allocated that a file only declares.

``np.load`` allocates what a header claims, and raises what comes; here every declared size is held against the bytes
that are there, and every refusal is a ``DataError``.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ovonic.models.errors import DataError

__all__ = ["MAX_BYTES", "read_arrays"]

MAX_BYTES = 2**31
"""Bytes of a file, and of all its arrays."""

MAX_ARRAYS = 1000
ZIP_MAGIC = b"PK\x03\x04"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: str | Path) -> NDArray[np.generic] | dict[str, NDArray[np.generic]]:
    """The array of an npy file, or those of an npz by name: booleans, whole or floating-point numbers.

    Raises: DataError: no such file, damaged, too large, or other things than numbers.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not path.is_file() or path.stat().st_size > MAX_BYTES:
                raise DataError(f"no file of at most {MAX_BYTES} bytes")
            if file.peek(4)[:4] != ZIP_MAGIC:
                return _array(file, path.stat().st_size)
            return _members(file)
    except FileNotFoundError:
        raise
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # NumPy, zipfile and zlib raise what comes
        raise DataError(
            f"{path}: no npy or npz file of numbers ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _members(file: BinaryIO) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MAX_ARRAYS or sum(member.file_size for member in members) > MAX_BYTES:
            raise DataError(f"more than {MAX_ARRAYS} arrays or {MAX_BYTES} bytes of them")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise DataError(f"two arrays of the name {name!r}")
            with archive.open(member) as stream:
                data = stream.read(member.file_size + 1)
            try:
                arrays[name] = _array(io.BytesIO(data), len(data))
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
    return arrays


def _array(file: BinaryIO, size: int) -> NDArray[np.generic]:
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise DataError(f"an array in npy format {version}")
    shape, fortran, dtype = HEADERS[version](file)
    if dtype.kind not in "biuf":
        raise DataError(f"holds {dtype}, not numbers")
    if math.prod(shape) * dtype.itemsize != size - file.tell() or min(shape, default=0) < 0:
        raise DataError(f"declares {shape} of {dtype}, and holds {size - file.tell()} bytes")
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")
