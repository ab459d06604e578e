"""The toolchains that can run a network, and what each adapter offers.

An adapter is a module with

    unsupported(network) -> list[Unsupported]        what it cannot express exactly; empty: all of it
    run(network, inputs) -> Trace                    on the toolchain's own code, from the initial state
    to_NAME(network) -> native object                to_snntorch, to_norse, ..
    from_NAME(native) -> Network                     from native fields

``run`` and ``to_NAME`` raise ``UnsupportedDynamics`` for what ``unsupported`` lists. The toolchain itself is imported
when an adapter is used, not before.

**Losses by consent.** What is not expressed exactly may have a nearest layer that is. ``approximate`` puts it in the
place of the layer where the caller names the feature, and says what was lost; nothing else is ever approximated.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ovonic.models.errors import ConfigError, UnsupportedDynamics, nearest
from ovonic.models.layers import Layer
from ovonic.models.network import Network

__all__ = ["TOOLCHAINS", "Unsupported", "adapter", "approximate", "refuse"]

TOOLCHAINS = ("snntorch", "norse", "brian2", "nest")


@dataclass(frozen=True)
class Unsupported:
    """What a toolchain cannot express exactly.

    Attributes:
        layer: its name. feature: what of it (``"Dynamics.reset"``). reason: why not. remedy: what to do.
        instead: the nearest layer that the toolchain expresses exactly in this respect; None: there is none.
        loss: what differs then.
    """

    layer: str
    feature: str
    reason: str
    remedy: str = ""
    instead: Layer | None = None
    loss: str = ""

    @property
    def consent(self) -> str:
        """The word in ``lossy`` that accepts the loss: the feature without its owner (``"reset"``)."""
        return self.feature.rsplit(".", 1)[-1]

    def __str__(self) -> str:
        parts = [f"layer {self.layer!r}, {self.feature}: {self.reason}"]
        parts += [self.remedy] * bool(self.remedy)
        if self.instead is not None:
            parts.append(f"or accept a loss by lossy={{{self.consent!r}}}: {self.loss}")
        return "; ".join(parts)


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


def approximate(toolchain: Any, network: Network, lossy: Collection[str]) -> tuple[Network, tuple[str, ...]]:
    """The nearest network that a toolchain expresses exactly, giving up only features named in ``lossy``.

    Args:
        toolchain: an adapter module. lossy: words of consent (``Unsupported.consent``).
    Returns: the network to run instead, and a line for each loss; the network itself and nothing if all is exact.
    Raises: UnsupportedDynamics: something else than what ``lossy`` names is not expressed, or nothing is near it.
    """
    losses: list[str] = []
    while found := toolchain.unsupported(network):
        accepted = [entry for entry in found if entry.consent in lossy and entry.instead is not None]
        if not accepted:
            refuse(toolchain.__name__.rsplit(".", 1)[-1], found)
        entry = accepted[0]
        assert entry.instead is not None
        losses.append(f"layer {entry.layer!r}, {entry.feature}: {entry.loss}")
        if network.layers[entry.layer] == entry.instead:
            raise UnsupportedDynamics(f"layer {entry.layer!r}, {entry.feature}: its nearest layer is itself")
        network = network.replace(layers=dict(network.layers) | {entry.layer: entry.instead})
    return network, tuple(losses)
