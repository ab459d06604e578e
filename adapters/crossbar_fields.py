"""Marks of a layout's fields (see ``models.frozen``): names, choices, positive numbers, lists of records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ovonic.models.errors import ConfigError, nearest
from ovonic.models.frozen import Record

__all__ = ["Many", "OneOf", "groups_of_words", "positive", "positives", "word", "words"]


LARGEST = 1e300
"""Bound of positive numbers, whole ones that no float holds included."""


class OneOf(NamedTuple):
    """The mark of a word out of a few."""

    choices: tuple[str, ...]

    def __call__(self, where: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise ConfigError(f"{where}: {value!r}: {nearest(str(value), self.choices)}")
        return value


def word(where: str, value: Any) -> str:
    """The mark of a name."""
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise ConfigError(f"{where}: {str(value)[:40]!r} must be a name of 1 to 256 printable characters")
    return value


def words(where: str, value: Any) -> tuple[str, ...]:
    """The mark of a list of names."""
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list of names")
    return tuple(word(f"{where}[{k}]", entry) for k, entry in enumerate(value))


def groups_of_words(where: str, value: Any) -> tuple[tuple[str, ...], ...]:
    """The mark of a list of lists of names."""
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list of lists of names")
    return tuple(words(f"{where}[{k}]", entry) for k, entry in enumerate(value))


def positive(where: str, value: Any) -> float:
    """The mark of a positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < LARGEST:
        raise ConfigError(f"{where}: {str(value)[:40]!r} must be a positive number")
    return float(value)


def positives(where: str, value: Any) -> tuple[float, ...]:
    """The mark of a list of positive numbers."""
    if not isinstance(value, (list, tuple)) or not value:
        raise ConfigError(f"{where}: expected one number, or one a column, in a list")
    return tuple(positive(f"{where}[{k}]", entry) for k, entry in enumerate(value))


class Many(NamedTuple):
    """The mark of a list of records of a kind, ``most`` of them, each one or its plain data."""

    kind: type[Record]
    most: int

    def __call__(self, where: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise ConfigError(f"{where}: expected a list of {self.kind.__name__}s")
        if len(value) > self.most:
            raise ConfigError(f"{where}: {len(value)} of them: at most {self.most}")
        return tuple(self._one(f"{where}[{k}]", entry) for k, entry in enumerate(value))

    def _one(self, where: str, entry: Any) -> Any:
        try:
            made = self.kind.from_dict({"type": self.kind.__name__, **entry}) if isinstance(entry, Mapping) else entry
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        if not isinstance(made, self.kind):
            raise ConfigError(f"{where}: {type(made).__name__} where a {self.kind.__name__} is due")
        return made
