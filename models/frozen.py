"""Frozen descriptions: checked when they are made, equal and hashable bit for bit, and plain data there and back.

A description is a frozen dataclass derived from ``Record``. A field states what it may hold in its annotation:

    decay: Annotated[Parameter, PerNeuron(lambda d: (d >= 0) & (d <= 1), "lie in 0..1")]

so that every error names class, field, entry and value. Arrays are copied, float64, and cannot be made writeable again.
Two records are equal where every number has the same bits (0.0 and -0.0 differ; NaN and infinity are refused).
"""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Self, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from ovonic.models.errors import ConfigError, nearest

__all__ = ["LONGEST", "Array", "Parameter", "PerNeuron", "Record", "Weights", "Whole", "frozen", "plain"]

Array = NDArray[np.float64]
Parameter = float | Array
"""One number for all neurons of a layer, or an array with one number a neuron."""

LARGEST = sys.float_info.max
"""The largest whole number that float64 can keep, roughly."""

LONGEST = 32767
"""The longest delay and silence in steps, so that counters fit 16 bits."""

KINDS: dict[str, type[Record]] = {}
"""Every class that ``Record.from_dict`` can make, by name."""


@dataclass_transform(frozen_default=True, eq_default=False)
def frozen[T](cls: type[T]) -> type[T]:
    """Decorate a ``Record``: a frozen dataclass whose equality is ``Record``'s."""
    made: Any = dataclass(frozen=True, eq=False)(cls)
    hints = typing.get_type_hints(made, include_extras=True)
    made.hints = {f.name: hints[f.name] for f in dataclasses.fields(made)}
    KINDS[cls.__name__] = made
    return made


class Record:
    """Base of all descriptions (see the module's text)."""

    hints: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        for name, hint in self.hints.items():
            value = _checked(f"{type(self).__name__}.{name}", getattr(self, name), hint)
            object.__setattr__(self, name, value)

    def items(self) -> Iterator[tuple[str, Any]]:
        """The fields and their values."""
        for name in self.hints:
            yield name, getattr(self, name)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked anew."""
        return type(self)(**dict(self.items()) | changes)

    def map_arrays(self, convert: Callable[[NDArray[Any]], Any]) -> Self:
        """A copy of this record and those inside it with ``convert`` applied to every array, unchecked.

        For the engines: ``convert`` makes tensors, and the copy is then a bundle of constants, not a description.
        """
        copy = object.__new__(type(self))
        for name, value in self.items():
            if isinstance(value, np.ndarray):
                value = convert(value)
            elif isinstance(value, Record):
                value = value.map_arrays(convert)
            object.__setattr__(copy, name, value)
        return copy

    def fitted(self, shape: tuple[int, ...]) -> Self:
        """This record for a layer of neurons of that shape: arrays of one number a neuron must have it.

        An array that holds the same number for all neurons becomes that one number, so that equal meanings are equal.
        Raises: ConfigError: an array has another shape.
        """
        changes: dict[str, Any] = {}
        for name, value in self.items():
            if isinstance(value, Record):
                changes[name] = value.fitted(shape)
            elif isinstance(value, np.ndarray) and any(
                isinstance(mark, PerNeuron) for mark in _marks(self.hints[name])
            ):
                if value.shape != shape:
                    raise ConfigError(f"{type(self).__name__}.{name}: shape {value.shape}, the neurons' is {shape}")
                if value.tobytes() == value.flat[0].tobytes() * value.size:
                    changes[name] = value.flat[0].item()
        return self.replace(**changes) if changes else self

    def to_dict(self) -> dict[str, Any]:
        """Plain data: dicts, lists, numbers, strings, None and arrays, each record with its class as ``"type"``."""
        return {"type": type(self).__name__} | {name: plain(value) for name, value in self.items()}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what ``to_dict`` wrote; arrays may come as nested lists, as JSON gives them.

        Raises: ConfigError: an unknown type or key (with the nearest match), a missing key, or a bad value.
        """
        record = _read(data)
        if not isinstance(record, cls):
            got = type(record).__name__ if isinstance(record, Record) else f"{type(data).__name__} without a 'type'"
            raise ConfigError(f"{got}: expected a {cls.__name__}")
        return record

    @functools.cached_property
    def _hash(self) -> int:
        return hash(_bits(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return self is other or (self._hash == other._hash and _bits(self) == _bits(other))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in self.items()}
        return _rebuild, (type(self), values)


class PerNeuron(NamedTuple):
    """The mark of a number that neurons may have each their own."""

    test: Callable[[NDArray[Any]], Any]
    rule: str
    whole: bool = False

    def __call__(self, where: str, value: object) -> float | int | NDArray[Any]:
        array = _numbers(where, value)
        _demand(where, array, self.test, self.rule)
        if self.whole:
            _demand(where, array, lambda a: a == np.floor(a), "be whole")
            array = _locked(array.astype(np.int64))
        return array.item() if array.ndim == 0 else array


class Weights(NamedTuple):
    """The mark of an array of weights, of as many axes as one of ``axes``."""

    axes: tuple[int, ...]

    def __call__(self, where: str, value: object) -> Array:
        array = _numbers(where, value)
        if array.ndim not in self.axes:
            raise ConfigError(f"{where}: shape {array.shape} where {' or '.join(map(str, self.axes))} axes are due")
        return array


class Whole(NamedTuple):
    """The mark of a whole number, or (``many``) of a tuple of them, from ``low`` to ``high``."""

    low: int
    high: int = LONGEST
    many: bool = False

    def __call__(self, where: str, value: Any) -> int | tuple[int, ...]:
        if self.many:
            listed = value if isinstance(value, (list, tuple, np.ndarray)) else (value,)
            return tuple(self._one(f"{where}[{k}]", entry) for k, entry in enumerate(listed))
        return self._one(where, value)

    def _one(self, where: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not self.low <= value <= self.high:
            raise ConfigError(f"{where}: {value!r} must be a whole number in {self.low}..{self.high}")
        return int(value)


def plain(value: Any) -> Any:
    """``value`` as plain data: what ``Record.to_dict`` does to each field."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    return value


def _read(data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    if not isinstance(data.get("type"), str):
        return {name: _named(name, entry) for name, entry in data.items()}
    if data["type"] not in KINDS:
        raise ConfigError(f"type {data['type']!r} is unknown: {nearest(data['type'], KINDS)}")
    kind = KINDS[data["type"]]
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {}
    for name, entry in data.items():
        if name == "type":
            continue
        if name not in known:
            raise ConfigError(f"{kind.__name__}.{name} is unknown: {nearest(str(name), known)}")
        values[name] = _read(entry)
    if missing := [name for name, f in known.items() if name not in values and f.default is dataclasses.MISSING]:
        raise ConfigError(f"{kind.__name__}: {', '.join(missing)} missing")
    return kind(**values)


def _named(name: object, entry: Any) -> Any:
    try:
        return _read(entry)
    except ConfigError as error:
        raise ConfigError(f"{name!r}: {error}") from None


def _rebuild(kind: type[Record], values: dict[str, Any]) -> Record:
    return kind(**values)


def _marks(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


def _checked(where: str, value: Any, hint: Any) -> Any:
    marks, hint = _marks(hint), hint.__origin__ if _marks(hint) else hint
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for mark in marks:
        value = mark(where, value)
    for option in options:
        if not isinstance(option, type):
            return value
        if isinstance(value, option):
            return value
        if issubclass(option, Enum):
            try:
                return option(value)
            except ValueError:
                raise ConfigError(f"{where}: {value!r}: {nearest(str(value), [o.value for o in option])}") from None
        if option is float and isinstance(value, (int, np.integer, np.floating)) and not isinstance(value, bool):
            if not -LARGEST <= value <= LARGEST:
                raise ConfigError(f"{where}: {reprlib.repr(value)} is beyond what float64 can keep")
            return _checked(where, float(value), hint)
    names = " or ".join("None" if option is type(None) else option.__name__ for option in options)
    raise ConfigError(f"{where}: {reprlib.repr(value)} must be {names}")


def _numbers(where: str, value: object) -> NDArray[Any]:
    try:
        raw = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from None
    if raw.dtype.kind not in "fiu" or raw.dtype.itemsize > 8:
        raise ConfigError(f"{where}: holds {raw.dtype}, not numbers that float64 can keep")
    if raw.size == 0:
        raise ConfigError(f"{where}: shape {raw.shape} holds nothing")
    array = raw.astype(np.float64)
    _demand(where, array, np.isfinite, "be finite")
    return _locked(array)


def _locked(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that stands on immutable bytes."""
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


def _demand(where: str, array: NDArray[Any], test: Callable[[NDArray[Any]], Any], rule: str) -> None:
    bad = ~np.asarray(test(array), bool)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        at = f"[{', '.join(map(str, index))}]" if index else ""
        raise ConfigError(f"{where}{at}: {array[index].item()!r} must {rule}")


def _bits(value: Any) -> Any:
    if isinstance(value, Record):
        return type(value).__name__, *(_bits(entry) for _, entry in value.items())
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return tuple(sorted((name, _bits(entry)) for name, entry in value.items()))
    if isinstance(value, tuple):
        return tuple(_bits(entry) for entry in value)
    return value
