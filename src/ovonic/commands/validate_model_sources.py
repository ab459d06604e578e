"""What ``ovonic validate model`` reads: all that ``convert`` and ``crossbar`` read, and files of torch weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovonic.models.errors import ConfigError, DataError, OvonicError, UnsupportedDynamics

if TYPE_CHECKING:
    from torch import nn

    from ovonic.commands.convert_sources import Options
    from ovonic.models.network import Network
    from ovonic.validation.own_subject import Subject

__all__ = ["Files", "read_subject"]


@dataclass(frozen=True)
class Files:
    """What the user names beside the source.

    Attributes:
        weights: a file of weights to load into the source's module. activation: between linear layers of such a file.
        module: ``FILE.py:NAME``, the module that a described source describes.
    """

    weights: Path | None = None
    activation: str | None = None
    module: str | None = None


def read_subject(source: str, options: Options, files: Files, seed: int = 0) -> Subject:
    """Read a user's model.

    Raises: OvonicError: nothing of that name, damaged, of another kind, something that must be told and is not, or an
        option that means nothing here. OSError: no such file.
    """
    from ovonic.adapters.state_dicts import SUFFIXES
    from ovonic.commands.convert_sources import OBJECT

    path = Path(source)
    if match := OBJECT.fullmatch(source):
        if files.module is not None:
            raise ConfigError(f"--module {files.module}: {source} is a module's own code already: leave it out")
        if files.activation is not None:
            raise ConfigError("--activation: a module says itself what is between its layers: leave it out")
        return _from_python(source, Path(match["file"]), match["name"], options, files.weights)
    if files.weights is not None:
        raise ConfigError(f"--weights {files.weights}: they go into a module, which {source} is not: FILE.py:NAME")
    if path.suffix in SUFFIXES and not _is_ours(path):
        return _from_tensors(source, path, options, files)
    if path.suffix == ".py":
        raise ConfigError(f"{source}: say which object of the file is the model: {source}:NAME")
    if files.activation is not None:
        raise ConfigError(f"--activation: {source} is no file of linear layers: leave it out")
    return _described(source, options, files.module, seed)


def _described(source: str, options: Options, module: str | None, seed: int) -> Subject:
    """A source that is a description: a NIR file, robot weights, ``random``; with the module that it describes."""
    from ovonic.commands.convert_sources import OBJECT, read_source
    from ovonic.validation.own_subject import Subject

    match = None if module is None else OBJECT.fullmatch(module)
    if module is not None and match is None:
        raise ConfigError(f"--module {module}: give FILE.py:NAME")
    mended: tuple[str, ...] = ()
    if source == "random":
        from ovonic.validation.random_networks import recurrent_example

        options.demand_only("the random network")
        network, kind = recurrent_example(seed), f"a random network, seed {seed}"
    else:
        _refuse_fewshot(source)
        read = read_source(source, options)
        read = read.part("trainee") if len(read.networks) > 1 else read
        (network,), kind, mended = read.networks.values(), read.kind, read.mended
    lines = [*(f"mended: {line}" for line in mended), f"step {network.dt_ms:g} ms"]
    own: nn.Module | None = None
    if match is not None:
        own = _module(Path(match["file"]), match["name"])
        lines.append(f"the module beside it is {module}, whose code was run")
    return Subject(source, kind, network, own, "", tuple(lines), "file")


def _from_python(source: str, path: Path, name: str, options: Options, weights: Path | None) -> Subject:
    from torch import nn

    from ovonic.adapters.state_dicts import load_into, read_state_dict
    from ovonic.commands.convert_sources import defined, from_object, neurons_of
    from ovonic.validation.own_subject import Subject

    namespace = defined(path, name)
    value = getattr(namespace, name)
    lines = ["the file is your code and was run"]
    if not isinstance(value, nn.Module):
        if weights is not None:
            raise ConfigError(f"--weights {weights}: they go into a torch module, which {source} is not")
        try:
            read = from_object(value, vars(namespace), options)
        except OvonicError as error:
            raise type(error)(f"{source}: {error}") from error
        (network,) = read.networks.values()
        return Subject(source, read.kind, network, None, "", (*lines, f"step {network.dt_ms:g} ms"))
    if weights is not None:
        load_into(value, read_state_dict(weights), str(weights))
        lines.append(f"weights: {weights}")
    holds = neurons_of(value)
    if not holds:
        given = {n: v for n, v in vars(options).items() if v not in (None, ()) and n != "input_shape"}
        if given:
            raise ConfigError(
                f"--{next(iter(given)).removesuffix('_ms')}: a torch module without neurons leaves nothing open"
            )
        return Subject(source, f"torch module {type(value).__name__}", None, value, "", tuple(lines))
    if len(holds) > 1:
        raise ConfigError(f"{source}: snnTorch's and Norse's neurons side by side: one of them a module")
    kind = {"snntorch": "snnTorch module", "norse": "Norse module"}[holds[0]]
    try:
        network = _network(value, holds[0], options)
    except UnsupportedDynamics as error:
        return Subject(source, f"{kind} {type(value).__name__}", None, value, str(error), tuple(lines))
    except OvonicError as error:
        raise type(error)(f"{source}: {error}") from error
    return Subject(
        source,
        f"{kind} {type(value).__name__}",
        network,
        value,
        "",
        (*lines, *_conventions(network, holds[0], options)),
    )


def _network(module: nn.Module, toolchain: str, options: Options) -> Network:
    """The description of a module."""
    if toolchain == "snntorch":
        from ovonic.adapters.snntorch import from_snntorch

        options.demand_only("a snnTorch module", "dt_ms", "input_shape", "readouts")
        return from_snntorch(module, options.input_shape, options.readouts, options.dt_ms)
    from ovonic.adapters.norse import from_norse

    options.demand_only("a Norse module", "dt_ms", "input_shape")
    return from_norse(module, options.input_shape, options.dt_ms)


def _conventions(network: Network, toolchain: str, options: Options) -> list[str]:
    """What was chosen in reading a module."""
    from ovonic.models.dynamics import NoReset

    told = "as told by --dt"
    if options.dt_ms is None:
        told = "which snnTorch does not know: --dt tells it" if toolchain == "snntorch" else "the modules' own dt"
    lines = [f"step {network.dt_ms:g} ms, {told}"]
    if options.readouts:
        lines.append(f"read by their membrane: {', '.join(options.readouts)}")
    read = {edge.source for edge in network.edges}
    for name in network.spiking:
        layer: Any = network.layers[name]
        if name not in read and isinstance(layer.dynamics.reset, NoReset):
            lines.append(
                f"layer {name!r} never resets and nothing reads it: taken as spiking; if its membrane is your output, "
                f"say --readouts {name}"
            )
    return lines


def _from_tensors(source: str, path: Path, options: Options, files: Files) -> Subject:
    from ovonic.adapters.state_dicts import linear_chain, read_state_dict
    from ovonic.validation.own_subject import Subject

    if files.module is not None:
        raise ConfigError(f"--module {files.module}: a file of weights goes into it: {files.module} --weights {source}")
    options.demand_only("a file of weights")
    chain = linear_chain(read_state_dict(path), files.activation, source)
    between = f"{files.activation} between them, as told by --activation" if files.activation else "alone"
    return Subject(source, "torch weights of linear layers", None, chain, "", (f"a chain of linear layers, {between}",))


def _module(path: Path, name: str) -> nn.Module:
    from torch import nn

    from ovonic.commands.convert_sources import defined

    value = getattr(defined(path, name), name)
    if not isinstance(value, nn.Module):
        raise DataError(f"--module {path}:{name}: a {type(value).__name__}, where a torch module is due")
    return value


def _is_ours(path: Path) -> bool:
    """Whether a file holds weights of Ovonic's own networks."""
    from ovonic.adapters.weights import describe

    if path.suffix != ".safetensors":
        return False
    try:
        describe(path)
    except OvonicError:
        return False
    return True


def _refuse_fewshot(source: str) -> None:
    from ovonic.adapters.published import is_published, load_published
    from ovonic.adapters.weights import FEWSHOT, describe, locate

    if source.endswith(".nir") or (Path(source).is_file() and Path(source).read_bytes()[:8] == b"\x89HDF\r\n\x1a\n"):
        return
    path = locate(source)
    if "W_in_lsg" not in load_published(path) if is_published(path) else describe(path)["kind"] == FEWSHOT:
        raise ConfigError(
            f"{source}: the few-shot CNN is measured on tasks: ovonic fewshot evaluate -w {source} --hardware crossbar"
        )
