"""The paper's published checkpoints, read without TensorFlow and without trusting them: npz and pickle.

A pickle is a program. It is run by ``pickle_program``, which admits the few opcodes that such files use, and for
which every global is an inert stand-in: no name in the file is ever imported, and only this module's functions are
ever called.

    global in the pickle                  stand-in
    numpy ... _reconstruct, _frombuffer   an array: little-endian float32 or float64, its bytes as its shape says
    numpy dtype                           the array's type
    functools.partial(ResourceVariable)   a TensorFlow variable: its ``name`` and its array ``initial_value``
    tensorflow ... as_dtype               nothing

Work, memory and nesting are bounded by 64 MiB of file and 2,000 opcodes (the published: 3.8 MB, 400 opcodes).
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.pickle_program import Inert, Refused, StandIn, run_program
from ovonic.models.errors import WeightsError

if TYPE_CHECKING:
    from ovonic.models.fewshot_cnn import FewshotCNN

__all__ = ["FEWSHOT_ALPHABETS", "fewshot_from_published", "is_published", "load_published"]

FEWSHOT_ALPHABETS = (
    "Balinese",
    "Early_Aramaic",
    "Greek",
    "Japanese_(katakana)",
    "Korean",
    "Latin",
    "Sanskrit",
    "Tagalog",
)
"""Alphabets of Omniglot's two small background sets: known to be among those the published CNN was trained on."""

MAX_BYTES = 64 * 2**20
MAX_OPCODES = 2_000
MAX_ARRAYS = 32
# fmt: off
OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "STACK_GLOBAL", "REDUCE", "BUILD",
    "NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2",
    "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BYTEARRAY8",
    "EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPENDS", "SETITEMS",
}
# fmt: on
ZIP_MAGIC = b"PK\x03\x04"


def is_published(path: str | Path) -> bool:
    """Whether a file begins like an npz or a pickle, and not like a safetensors file."""
    with Path(path).open("rb") as file:
        head = file.read(9)
        size = file.seek(0, io.SEEK_END)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return False
    return head[:4] == ZIP_MAGIC or head[:1] == b"\x80"


def load_published(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a published checkpoint, an npz or a pickle (told apart by content).

    The few-shot pickle is a list of variables ``kernel1`` .. ``kernel5``; the fifth is returned as ``w_readout``,
    as the npz calls it. The robot's is a dict, whose keys are kept.

    Returns: float32 or float64 arrays by name, in the order of the file.
    Raises: WeightsError: anything but plain, finite arrays; nothing in the file is executed.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Refused(f"larger than {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
        arrays = _read_npz(data) if data[:4] == ZIP_MAGIC else _read_pickle(data)
        if len(arrays) > MAX_ARRAYS or sum(array.nbytes for array in arrays.values()) > MAX_BYTES:
            raise Refused(f"more than {MAX_ARRAYS} arrays or {MAX_BYTES >> 20} MiB of them")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise Refused(f"{name!r} holds NaN or infinity")
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    except Exception as error:  # a hostile file may raise anything inside zipfile, numpy or pickle
        reason = error if isinstance(error, Refused) else f"damaged ({error})"
        raise WeightsError(f"{path}: not a published checkpoint: {reason}") from error
    return {name: array.copy() for name, array in arrays.items()}


def fewshot_from_published(path: str | Path) -> FewshotCNN:
    """Build the few-shot CNN of a published checkpoint, in eval mode.

    Kernels turn from HWIO to OIHW, the read-out from [channels, n_way] to [n_way, channels]. The configuration is
    the published test's: transductive norm, 4 updates at a rate of 0.1.

    Raises: WeightsError: refused (``load_published``), or not the arrays of a few-shot CNN.
    """
    import torch

    from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN

    arrays = load_published(path)
    names = [f"kernel{block}" for block in range(1, 5)]
    if arrays.keys() != {*names, "w_readout"}:
        raise WeightsError(f"{path}: holds {', '.join(arrays)}; expected {', '.join(names)}, w_readout")
    readout = arrays["w_readout"]
    channels, n_way = readout.shape if readout.ndim == 2 else (0, 0)
    for name in names:
        expected = (3, 3, 1 if name == "kernel1" else channels, channels)
        if not channels or not n_way or arrays[name].shape != expected:
            raise WeightsError(
                f"{path}: {name} has shape {arrays[name].shape} and w_readout {readout.shape}; "
                "expected (3, 3, 1 or channels, channels) and (channels, n_way)"
            )
    net = FewshotCNN(CNNConfig(n_way=n_way, channels=channels, norm="transductive", updates=4, inner_lr=0.1))
    with torch.no_grad():
        for weight, name in zip(net.conv_weights(), names, strict=True):
            weight.copy_(torch.from_numpy(arrays[name].transpose(3, 2, 0, 1).copy()))
        net.readout.weight.copy_(torch.from_numpy(readout.T.copy()))
    return net.eval()


def _array(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    """A view of ``data``: a file that names the same bytes many times costs their memory once."""
    if not isinstance(data, bytes | bytearray) or dtype not in ("<f4", "<f8"):
        raise Refused("an array that is not of little-endian float32 or float64")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused("an array without a shape")
    if math.prod(shape) * int(dtype[-1]) != len(data):
        raise Refused(f"an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _read_npz(data: bytes) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) > MAX_ARRAYS or sum(member.file_size for member in members) > MAX_BYTES:
            raise Refused(f"more than {MAX_ARRAYS} arrays or {MAX_BYTES >> 20} MiB of them")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in arrays:
                raise Refused(f"member {member.filename!r} is not an array of its own")
            arrays[name] = _read_npy(io.BytesIO(archive.read(member)))
    return arrays


def _read_npy(file: io.BytesIO) -> NDArray[Any]:
    """Read an array by NumPy's header reader; np.load would allocate what a header claims before it looks."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise Refused(f"an array in npy format {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    return _array(file.read(), dtype.str, shape, "F" if fortran else "C")


class _DType(Inert):
    """``numpy.dtype``: its code, complete once its byte order is set."""

    def __init__(self, *args: Any) -> None:
        if args not in (("f4", False, True), ("f8", False, True)):
            raise Refused("an array that is not of float32 or float64")
        self.code = str(args[0])

    def __setstate__(self, state: Any) -> None:
        if state != (3, "<", None, None, None, -1, -1, 0):
            raise Refused("an array that is not little-endian")
        self.code = "<" + self.code[-2:]


def _code(dtype: Any) -> str:
    return dtype.code if isinstance(dtype, _DType) else ""


class _Array(Inert):
    """``numpy.ndarray``, by ``_reconstruct`` and a state, or by ``_frombuffer``."""

    def __init__(self, *args: Any) -> None:
        if args != (_NDARRAY, (0,), b"b"):
            raise Refused("an array that is made in another way")
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        if version != 1:
            raise Refused("an array of another version")
        self.value = _array(data, _code(dtype), shape, "F" if fortran else "C")

    @classmethod
    def from_buffer(cls, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = cls(_NDARRAY, (0,), b"b")
        array.value = _array(data, _code(dtype), shape, order)
        return array


class _Variable(Inert):
    """``functools.partial(ResourceVariable)``: its state holds the arguments; it is called without more."""

    def __init__(self, *args: Any) -> None:
        if args != (_RESOURCE_VARIABLE,):
            raise Refused("a call that a checkpoint does not make")
        self.name: str | None = None
        self.array: _Array | None = None

    def __setstate__(self, state: Any) -> None:
        _, _, arguments, _ = state
        name, array = arguments["name"], arguments["initial_value"]
        if type(name) is not str or not isinstance(array, _Array):
            raise Refused("a variable without a name or an array")
        self.name, self.array = name, array

    def __call__(self) -> _Variable:
        return self


_NDARRAY, _RESOURCE_VARIABLE = StandIn(), StandIn()
GLOBALS: dict[tuple[str, str], Inert] = {
    ("functools", "partial"): StandIn(_Variable),
    ("tensorflow.python.ops.resource_variable_ops", "ResourceVariable"): _RESOURCE_VARIABLE,
    ("tensorflow.python.framework.dtypes", "as_dtype"): StandIn(lambda _: None),
    ("numpy", "dtype"): StandIn(_DType),
    ("numpy", "ndarray"): _NDARRAY,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): StandIn(_Array) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): StandIn(_Array.from_buffer) for core in ("core", "_core")},
}


def _read_pickle(data: bytes) -> dict[str, NDArray[Any]]:
    """Names and arrays of a list of variables, or of a dict of variables or arrays."""
    content = run_program(io.BytesIO(data), OPCODES, GLOBALS, MAX_OPCODES)
    if type(content) is list and all(isinstance(item, _Variable) for item in content):
        items = [("w_readout" if item.name == "kernel5" else item.name, item) for item in content]
    elif type(content) is dict:
        items = list(content.items())
    else:
        raise Refused("neither a list nor a dict of variables")
    arrays: dict[str, NDArray[Any]] = {}
    for name, item in items:
        array = item.array if isinstance(item, _Variable) else item
        if type(name) is not str or name in arrays or not isinstance(array, _Array) or array.value is None:
            raise Refused("an entry that is not an array of its own name")
        arrays[name] = array.value
    return arrays
