"""The errors of Ovonic: what was wrong (with the value), where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "DivergenceError",
    "OvonicError",
    "ToolchainError",
    "UnsupportedDynamics",
    "WeightsError",
    "nearest",
]


class OvonicError(Exception):
    """Base of every error Ovonic raises on purpose; the command line prints it as one line and exits with 2."""


class ConfigError(OvonicError, ValueError):
    """An option or a combination of options that means nothing."""


class DataError(OvonicError, ValueError):
    """A user's data cannot be read or does not hold what was asked of it; the message names the file."""


class WeightsError(OvonicError, ValueError):
    """A weight file is damaged, hostile, or belongs to another network; the message names the file."""


class ToolchainError(OvonicError, RuntimeError):
    """A third-party toolchain is missing or broken; the message says how to mend it."""


class UnsupportedDynamics(OvonicError, NotImplementedError):
    """A toolchain cannot run a network exactly; the message names layer, feature and the nearest thing it can do."""


class DivergenceError(OvonicError, ArithmeticError):
    """Training left the finite numbers; the message names the step and the last good checkpoint."""


MANY, FEW = 24, 5
"""A hint lists all choices up to ``MANY``, and else the nearest ``FEW``."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Phrase a hint for a mistyped ``word``: the closest of ``choices``, or all of them; of many, the nearest few."""
    options = sorted(choices)
    close = difflib.get_close_matches(word, options, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = options if len(options) <= MANY else difflib.get_close_matches(word, options, n=FEW, cutoff=0.0)
    others = f", or one of {len(options) - FEW} others" if len(options) > MANY else ""
    return "choose one of " + ", ".join(map(repr, shown)) + others
