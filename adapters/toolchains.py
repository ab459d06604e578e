"""The toolchains that can run a network, and what each adapter offers.

An adapter is a module with

    unsupported(network) -> list[Unsupported]        what it cannot express exactly; empty: all of it
    run(network, inputs) -> Trace                    on the toolchain's own code, from the initial state
    to_NAME(network) -> native object                to_snntorch, to_norse, ..
    from_NAME(native) -> Network                     from native fields

``run`` and ``to_NAME`` raise ``UnsupportedDynamics`` for what ``unsupported`` lists. The toolchain itself is imported
when an adapter is used, not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

from ovonic.models.errors import ConfigError, UnsupportedDynamics, nearest

__all__ = ["TOOLCHAINS", "Unsupported", "adapter", "refuse"]

TOOLCHAINS = ("snntorch", "norse", "brian2", "nest")


@dataclass(frozen=True)
class Unsupported:
    """What a toolchain cannot express: the layer's name, the feature (``"Dynamics.reset"``), why, what to do."""

    layer: str
    feature: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"layer {self.layer!r}, {self.feature}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")


def adapter(name: str) -> ModuleType:
    """The adapter of a toolchain.

    Raises: ConfigError: no such toolchain.
    """
    if name not in TOOLCHAINS:
        raise ConfigError(f"toolchain {name!r}: {nearest(name, TOOLCHAINS)}")
    return importlib.import_module(f"ovonic.adapters.{name}")


def refuse(toolchain: str, found: Iterable[Unsupported]) -> None:
    """Raise what was found, if anything.

    Raises: UnsupportedDynamics: one line with every entry.
    """
    if listed := " | ".join(map(str, found)):
        raise UnsupportedDynamics(f"{toolchain} cannot run this network exactly: {listed}")
