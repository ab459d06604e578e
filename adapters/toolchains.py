"""The toolchains that can run a network, and what each adapter offers.

An adapter is a module with

    unsupported(network) -> list[Unsupported]        what it cannot express exactly; empty: all of it
    run(network, inputs) -> Trace                    on the toolchain's own code, from the initial state
    to_NAME(network) -> native object                to_snntorch, to_norse, ..
    from_NAME(native) -> Network                     from native fields

``run`` and ``to_NAME`` raise ``UnsupportedDynamics`` for what ``unsupported`` lists. The toolchain itself is imported
when an adapter is used, not before. ``unsupported`` and ``run`` make an adapter, the other two are for its users.

**Adapters of others** join by name, and are then found wherever a toolchain is named: at run time by ``register``, or
for good by an entry point of an installed distribution, in the group ``ovonic.toolchains``:

    [project.entry-points."ovonic.toolchains"]
    mine = "my_package.ovonic_adapter"               # a module, or module:object with the functions above

One that is broken costs an error when it is asked for, and nothing else (docs/adding_a_toolchain.md).

**Losses by consent.** What is not expressed exactly may have a nearest layer that is. ``approximate`` puts it in the
place of the layer where the caller names the feature, and says what was lost; nothing else is ever approximated.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ovonic.models.errors import ConfigError, ToolchainError, UnsupportedDynamics, nearest
from ovonic.models.layers import Layer
from ovonic.models.network import Network

__all__ = [
    "GROUP",
    "TOOLCHAINS",
    "Unsupported",
    "adapter",
    "approximate",
    "known",
    "plugins",
    "refuse",
    "register",
    "unregister",
]

TOOLCHAINS = ("snntorch", "norse", "brian2", "nest")
"""Those whose adapters are here."""

GROUP = "ovonic.toolchains"
"""The group of entry points by which distributions bring adapters."""

PARTS = ("unsupported", "run")

_registered: dict[str, Any] = {}


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


def adapter(name: str) -> Any:
    """The adapter of a toolchain: ours, a registered one, or an entry point's.

    Raises: ConfigError: no such toolchain. ToolchainError: an entry point that does not load, lacks a function, or
        shares its name with another.
    """
    if name in TOOLCHAINS:
        return importlib.import_module(f"ovonic.adapters.{name}")
    if name in _registered:
        return _registered[name]
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise ConfigError(f"toolchain {name!r}: {nearest(name, known())}")
    if len({point.value for point in found}) > 1:
        places = " and ".join(map(_place, found))
        raise ToolchainError(f"toolchain {name!r}: {places} both bring it: uninstall one")
    return _loaded(found[0])


def known() -> tuple[str, ...]:
    """The names that ``adapter`` takes."""
    return (*TOOLCHAINS, *plugins())


def plugins() -> tuple[str, ...]:
    """The names of registered toolchains and of entry points; none is loaded, one with a name of ours is passed over
    with a warning."""
    names = dict.fromkeys(_registered)
    for point in entry_points(group=GROUP):
        if point.name in TOOLCHAINS:
            warnings.warn(f"{_place(point)} is passed over: {point.name!r} is ovonic's own", stacklevel=2)
        else:
            names[point.name] = None
    return tuple(names)


def register(name: str, toolchain: Any) -> None:
    """Make an adapter known by that name until the program ends.

    Args: toolchain: a module or any object with the functions ``unsupported`` and ``run`` (see the module's text).
    Raises: ConfigError: the name is taken, or no name; a function is missing.
    """
    if not name.replace("-", "_").isidentifier():
        raise ConfigError(f"toolchain {name!r}: a name is letters, digits, - and _, and begins with a letter")
    if name in TOOLCHAINS or name in _registered:
        raise ConfigError(f"toolchain {name!r}: the name is taken; unregister() frees those that were registered")
    if missing := _missing(toolchain):
        raise ConfigError(f"toolchain {name!r}: {toolchain!r} {missing}")
    _registered[name] = toolchain


def unregister(name: str) -> None:
    """Forget a registered adapter.

    Raises: ConfigError: none of that name was registered.
    """
    if name not in _registered:
        raise ConfigError(f"toolchain {name!r} was not registered: {nearest(name, _registered)}")
    del _registered[name]


def _loaded(point: EntryPoint) -> Any:
    try:
        toolchain = point.load()
    except Exception as error:
        raise ToolchainError(f"{_place(point)} does not load ({type(error).__name__}: {error})") from error
    if missing := _missing(toolchain):
        raise ToolchainError(f"{_place(point)} {missing}")
    return toolchain


def _missing(toolchain: Any) -> str:
    absent = [part for part in PARTS if not callable(getattr(toolchain, part, None))]
    return f"has no function {' and no '.join(absent)}: see docs/adding_a_toolchain.md" if absent else ""


def _place(point: EntryPoint) -> str:
    whose = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"
    return f"toolchain {point.name!r} of {whose} (entry point {point.value})"


def _title(toolchain: Any) -> str:
    """What refusals call an adapter."""
    for name, one in _registered.items():
        if one is toolchain:
            return name
    return str(getattr(toolchain, "__name__", type(toolchain).__name__)).rsplit(".", 1)[-1]


def refuse(toolchain: str, found: Iterable[Unsupported]) -> None:
    """Raise what was found, if anything.

    Raises: UnsupportedDynamics: one line with every entry.
    """
    if listed := " | ".join(map(str, found)):
        raise UnsupportedDynamics(f"{toolchain} cannot run this network exactly: {listed}")


def approximate(toolchain: Any, network: Network, lossy: Collection[str]) -> tuple[Network, tuple[str, ...]]:
    """The nearest network that a toolchain expresses exactly, giving up only features named in ``lossy``.

    Args:
        toolchain: an adapter. lossy: words of consent (``Unsupported.consent``).
    Returns: the network to run instead, and a line for each loss; the network itself and nothing if all is exact.
    Raises: UnsupportedDynamics: something else than what ``lossy`` names is not expressed, or nothing is near it.
    """
    losses: list[str] = []
    while found := toolchain.unsupported(network):
        accepted = [entry for entry in found if entry.consent in lossy and entry.instead is not None]
        if not accepted:
            refuse(_title(toolchain), found)
        entry = accepted[0]
        assert entry.instead is not None
        losses.append(f"layer {entry.layer!r}, {entry.feature}: {entry.loss}")
        if network.layers[entry.layer] == entry.instead:
            raise UnsupportedDynamics(f"layer {entry.layer!r}, {entry.feature}: its nearest layer is itself")
        network = network.replace(layers=dict(network.layers) | {entry.layer: entry.instead})
    return network, tuple(losses)
