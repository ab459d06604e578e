"""``ovonic convert``: a network from what a user has to a NIR file, and what was mended or lost on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import JsonFile, command_line, file_to_write, versions, write_json
from ovonic.models.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from ovonic.models.network import Network

__all__ = ["convert", "parse_shape"]

OVONIC = "ovonic"
"""The form that keeps everything: NIR's own nodes with the contract, for any reader."""


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A NIR file; robot weights (a shipped name or a file); or FILE.py:NAME, a Python file of yours that "
            "defines a snnTorch or Norse module, a Brian2 Network or an Ovonic Network by that name. FILE.py is run, "
            "as an imported module is: give only code you trust.",
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST.nir", help="The NIR file to write.", callback=file_to_write)
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORM",
            help="ovonic: NIR's nodes, and Ovonic's contract for all that NIR cannot say. nir-exact, snntorch-1.0, "
            "norse-1.1: nodes by which NIR's equations or that tool's own import do the same; else it is refused.",
        ),
    ] = OVONIC,
    convention: Annotated[
        str | None, typer.Option(metavar="NAME", help="How to read a NIR file without Ovonic's contract.")
    ] = None,
    reset: Annotated[
        str | None, typer.Option(metavar="subtract|zero|..", help="What a spike does, where a NIR file leaves it open.")
    ] = None,
    dt_ms: Annotated[
        float | None, typer.Option("--dt", metavar="MS", help="Duration of a step, where SRC does not say.")
    ] = None,
    part: Annotated[str | None, typer.Option(metavar="lsg|trainee", help="One of a robot's two networks.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="N,..", help="Shape of a step's input, where a module leaves it open.")
    ] = None,
    readouts: Annotated[
        str, typer.Option(metavar="A,B", help="Neurons of a snnTorch module of which the membrane is used.")
    ] = "",
    lossy: Annotated[
        str, typer.Option(metavar="A,B", help="Features that may be given up (a refusal names them).")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite DST.")] = False,
    json: JsonFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report.")] = False,
) -> None:
    """Convert a network to a NIR file, exactly or not at all, and read it back.

    Tells what was read, what was mended, and what was lost: nothing, unless --lossy names it.
    """
    from ovonic.commands.convert_sources import Options, read_source

    if destination.suffix != ".nir":
        raise ConfigError(f"{destination}: networks are written as .nir files")
    if destination.is_dir():
        raise ConfigError(f"{destination}: a folder")
    if destination.exists() and not force:
        raise ConfigError(f"{destination}: is there already: name another file, or overwrite it by --force")
    form, words = _form(to), _words(lossy)
    shape = parse_shape(input_shape) if input_shape is not None else None
    options = Options(convention, reset, dt_ms, part, shape, _words(readouts))
    found = read_source(source, options)
    networks, lost = _approximated(found.networks, form, words)
    _write(destination, networks, form)
    equal = _read_back(destination) == networks
    result = {
        "source": {"name": source, "kind": found.kind},
        "networks": {name or "network": _sizes(network) for name, network in networks.items()},
        "mended": found.mended,
        "lost": lost,
        "destination": destination,
        "read_back_equal": equal,
    }
    if not quiet and str(json) != "-":
        _print(source, found.kind, networks, found.mended, lost, destination, to, equal)
    write_json(json, "convert", result, {"to": to, **vars(options), "lossy": words, "command": command_line()}, _used())
    if not equal:
        typer.echo(f"error: {destination}: read back, it is another network than the one written", err=True)
        raise typer.Exit(1)


def _form(to: str) -> str | None:
    """The name by which ``nir_forms`` knows what ``--to`` names.

    Raises: ConfigError: no such form.
    """
    from ovonic.adapters.nir_forms import FORMS

    if to == OVONIC:
        return None
    if to not in FORMS:
        raise ConfigError(f"--to {to}: {nearest(to, [OVONIC, *(name for name in FORMS if name)])}")
    return to


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_shape(text: str) -> tuple[int, ...]:
    """The sizes of ``--input-shape``.

    Raises: ConfigError: no whole numbers.
    """
    sizes = _words(text)
    if not sizes or not all(size.isascii() and size.isdecimal() and 0 < int(size) < 2**24 for size in sizes):
        raise ConfigError(f"--input-shape {text}: give whole numbers, such as 784 or 1,28,28")
    return tuple(map(int, sizes))


def _approximated(
    networks: Mapping[str, Network], form: str | None, words: tuple[str, ...]
) -> tuple[dict[str, Network], tuple[str, ...]]:
    """The networks to write, and what they lose.

    Raises: UnsupportedDynamics: something that is not expressed is not named in ``words``.
    """
    from ovonic.adapters.losses import approximate_for

    if len(networks) > 1 and form is not None:
        raise ConfigError(f"--to {form}: one network a file: add --part {' or --part '.join(networks)}")
    written: dict[str, Network] = {}
    lost: list[str] = []
    for name, network in networks.items():
        written[name], losses = approximate_for(form, network, words)
        lost += [f"{name}, {loss}" if name else loss for loss in losses]
    return written, tuple(lost)


def _write(destination: Path, networks: Mapping[str, Network], form: str | None) -> None:
    from ovonic.adapters.nir import save_nir, save_pair
    from ovonic.models.natural_eprop_networks import Pair

    if len(networks) > 1:
        save_pair(destination, Pair(**networks))
    else:
        (network,) = networks.values()
        save_nir(destination, network, form)


def _read_back(destination: Path) -> dict[str, Network]:
    from ovonic.commands.convert_sources import Options, read_source

    try:
        return dict(read_source(str(destination), Options()).networks)
    except DataError:
        return {}


def _sizes(network: Network) -> dict[str, Any]:
    import math

    neurons = {name: math.prod(network.shapes[name]) for name in network.spiking}
    return {
        "layers": {name: type(layer).__name__ for name, layer in network.layers.items()},
        "inputs": {name: list(network.shapes[name]) for name in network.inputs},
        "neurons": neurons,
        "readouts": {name: list(network.shapes[name]) for name in network.readouts},
        "weights": sum(array.size for array in network.weights().values()),
        "dt_ms": network.dt_ms,
    }


def _print(
    source: str, kind: str, networks: Mapping[str, Network], mended: tuple[str, ...], lost: tuple[str, ...],
    destination: Path, to: str, equal: bool,
) -> None:  # fmt: skip
    typer.echo(f"read    {source}: {kind}")
    for name, network in networks.items():
        sizes = _sizes(network)
        neurons = ", ".join(f"{layer} {count}" for layer, count in sizes["neurons"].items()) or "none"
        text = f"{len(network.layers)} layers, spiking neurons: {neurons}; {sizes['weights']} weights, dt "
        typer.echo(f"        {f'{name}: ' if name else ''}{text}{network.dt_ms:g} ms")
    for label, lines in (("mended", mended), ("lost", lost)):
        for line in lines or ("nothing",):
            typer.echo(f"{label:7s} {line}")
    typer.echo(f"wrote   {destination} ({'all in NIR and its contract' if to == OVONIC else f'for {to}'})")
    typer.echo(f"checked {destination}, read back, {'equals' if equal else 'DIFFERS FROM'} what was written")


def _used() -> dict[str, str]:
    return versions("nir", "snntorch", "norse", "brian2")
