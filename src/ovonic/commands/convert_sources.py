"""What ``ovonic convert`` reads: NIR files, robot weights, and networks that a user's Python file defines."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ovonic.models.errors import ConfigError, DataError, OvonicError, UnsupportedDynamics, nearest

if TYPE_CHECKING:
    from ovonic.models.network import Network

__all__ = ["OBJECT", "PARTS", "Options", "Source", "defined", "from_object", "neurons_of", "read_source"]

PARTS = ("lsg", "trainee")
"""The two networks of a robot."""

HDF5 = b"\x89HDF\r\n\x1a\n"
OBJECT = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")
"""What names an object that a user's Python file defines."""


@dataclass(frozen=True)
class Options:
    """What the user tells of a source beside its name; None is not told."""

    convention: str | None = None
    reset: str | None = None
    dt_ms: float | None = None
    part: str | None = None
    input_shape: tuple[int, ...] | None = None
    readouts: tuple[str, ...] = ()

    def demand_only(self, what: str, *allowed: str) -> None:
        """Refuse what means nothing for this kind of source.

        Raises: ConfigError: naming the option.
        """
        flags = {"dt_ms": "--dt", "input_shape": "--input-shape"}
        for name, value in vars(self).items():
            if value not in (None, ()) and name not in allowed:
                raise ConfigError(f"{flags.get(name, f'--{name}')}: {what} leaves nothing open there: leave it out")


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes:
        kind: in words. networks: by name; "" is the name of a single one.
        mended: what was put right in reading.
    """

    kind: str
    networks: Mapping[str, Network]
    mended: tuple[str, ...] = ()

    def part(self, name: str | None) -> Source:
        """One of two networks, or all there is.

        Raises: ConfigError: there are no parts, or none of that name.
        """
        if name is None:
            return self
        if name not in PARTS:
            raise ConfigError(f"--part {name}: {nearest(name, PARTS)}")
        if name not in self.networks:
            raise ConfigError(f"--part {name}: {self.kind} is one network: leave it out")
        return Source(f"{name} of {self.kind}", {"": self.networks[name]}, self.mended)


def read_source(source: str, options: Options) -> Source:
    """Read a network, or a robot's two.

    Args:
        source: a NIR file, robot weights (a shipped name or a file), or ``FILE.py:NAME``.
    Raises: OvonicError: nothing of that name, damaged, of another kind, or something that must be told and is not;
        ConfigError: an option that means nothing for this source. OSError: no such file.
    """
    if match := OBJECT.fullmatch(source):
        return _from_python(Path(match["file"]), match["name"], options)
    path = Path(source)
    if path.suffix == ".py":
        raise ConfigError(f"{source}: say which object of the file is the network: {source}:NAME")
    if path.suffix == ".nir" or (path.is_file() and _begins(path, HDF5)):
        return _from_nir(path, options).part(options.part)
    return _from_weights(source, options).part(options.part)


def _begins(path: Path, signature: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(signature)) == signature


def _from_nir(path: Path, options: Options) -> Source:
    from ovonic.adapters.nir import load_pair, read_nir
    from ovonic.adapters.nir_contract import contract
    from ovonic.adapters.nir_files import read_graph

    options.demand_only("a NIR file", "convention", "reset", "dt_ms", "part")
    told = options.convention, options.reset, options.dt_ms
    is_pair = True
    try:
        contract(read_graph(path), "pair")
    except DataError:
        is_pair = False
    if is_pair:
        options.demand_only("a file with two networks of Ovonic's contract", "part")
        return Source("NIR file of two networks, by its contract", load_pair(path)._asdict())
    reading = read_nir(path, *told)
    if reading.convention is None:
        return Source("NIR file, by its contract", {"": reading.network}, reading.mended)
    by = f"{reading.convention.name}, dt {reading.network.dt_ms:g} ms"
    by += "" if options.reset is None else f", reset {options.reset}"
    return Source(f"NIR file, by convention {by}", {"": reading.network}, reading.mended)


def _from_weights(source: str, options: Options) -> Source:
    from ovonic.adapters.nir import network_to_nir
    from ovonic.adapters.published import is_published, load_published
    from ovonic.adapters.weights import ROBOT, describe, locate, resolve_fewshot
    from ovonic.tasks.robot import resolve_robot

    path = locate(source)
    is_robot = "W_in_lsg" in load_published(path) if is_published(path) else describe(path)["kind"] == ROBOT
    if not is_robot:
        try:
            network_to_nir(resolve_fewshot(source)[0])  # type: ignore[arg-type]
        except UnsupportedDynamics as error:
            raise UnsupportedDynamics(f"{source}: {error}") from None
    options.demand_only("a robot's weight file", "part")
    return Source("robot weights", resolve_robot(source).pair._asdict())


def _from_python(path: Path, name: str, options: Options) -> Source:
    module = defined(path, name)
    try:
        return from_object(getattr(module, name), vars(module), options)
    except OvonicError as error:
        raise type(error)(f"{path}:{name}: {error}") from error


def from_object(value: Any, namespace: Mapping[str, Any], options: Options) -> Source:
    """The network of an object that a file defines; namespace: of the file.

    Raises: OvonicError: nothing that is read, or an option that means nothing for it.
    """
    from torch import nn

    from ovonic.models.network import Network

    if isinstance(value, Network):
        options.demand_only("a Network")
        return Source("Network", {"": value})
    if isinstance(value, nn.Module):
        if _toolchain_of(value) == "snntorch":
            from ovonic.adapters.snntorch import from_snntorch

            options.demand_only("a snnTorch module", "dt_ms", "input_shape", "readouts")
            network = from_snntorch(value, options.input_shape, options.readouts, options.dt_ms)
            return Source("snnTorch module", {"": network})
        from ovonic.adapters.norse import from_norse

        options.demand_only("a Norse module", "dt_ms", "input_shape")
        return Source("Norse module", {"": from_norse(value, options.input_shape, options.dt_ms)})
    if _has_root(value, "brian2") and type(value).__name__ == "Network":
        from ovonic.adapters.brian2 import from_brian2

        options.demand_only("a Brian2 Network")
        return Source("Brian2 Network", {"": from_brian2(value, namespace)})
    kind = f"the class {value.__name__}: give an instance of it" if isinstance(value, type) else type(value).__name__
    raise ConfigError(f"{kind}, where a snnTorch or Norse module, a Brian2 Network or an Ovonic Network is due")


def _toolchain_of(module: Any) -> str:
    """Whose neurons a torch module holds: "snntorch" or "norse".

    Raises: ConfigError: neither's, or both's.
    """
    holds = neurons_of(module)
    if len(holds) != 1:
        whose = "snnTorch's and Norse's neurons side by side" if holds else "no neurons of snnTorch or Norse in it"
        raise ConfigError(f"{type(module).__name__}: {whose}")
    return holds[0]


def neurons_of(module: Any) -> list[str]:
    """The toolchains whose neurons a torch module holds."""
    parts = list(module.modules())
    return [name for name in ("snntorch", "norse") if any(_has_root(part, name) for part in parts)]


def _has_root(value: Any, root: str) -> bool:
    """Whether a class of that package, or of its adapter, is among those of ``value``."""
    ours = f"ovonic.adapters.{root}"
    return any(k.__module__.split(".")[0] == root or k.__module__.startswith(ours) for k in type(value).__mro__)


def defined(path: Path, name: str) -> ModuleType:
    """Run a user's Python file as a module; what it prints goes to standard error.

    Raises: DataError: it raises, or defines nothing of that name. OSError: no such file.
    """
    text, folder = path.read_bytes(), str(path.resolve().parent)
    module = ModuleType("_ovonic_source")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(text, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise DataError(f"{path}: running it {_where(error, path)}{type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    if not hasattr(module, name):
        given = [key for key in vars(module) if not key.startswith("_")]
        hint = nearest(name, given) if given else "it defines nothing"
        raise DataError(f"{path}: defines no {name!r}: {hint}")
    return module


def _where(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    return "raised " if line is None else f"raised, in line {line}, "
