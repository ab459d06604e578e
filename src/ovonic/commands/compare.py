"""``ovonic compare``: one network on several toolchains, and a verdict on every pair of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, folder_to_write, progress, versions, write_json
from ovonic.models.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from ovonic.models.network import Network
    from ovonic.validation.comparison import Comparison

__all__ = ["compare", "parse_dtype", "parse_names", "read_inputs", "resolve_network"]

SIMULATORS = ("snntorch", "norse", "brian2", "nest-simulator", "nir", "neo", "elephant")
"""Distributions whose versions a result names."""


def compare(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="A NIR file; robot weights, by file or shipped name; or random.")
    ],
    toolchains: Annotated[
        str, typer.Option(metavar="all|A,B,..", help="Which toolchains; all passes over those not installed.")
    ] = "all",
    steps: Annotated[int, typer.Option(min=1, help="Steps of random input.")] = 500,
    rate: Annotated[float, typer.Option(min=0, max=1, help="Probability of an input spike in a step.")] = 0.1,
    samples: Annotated[int, typer.Option(min=1, help="Samples of random input.")] = 1,
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Inputs instead: npy, or npz by input name; (samples,) steps, .."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(metavar="lsg|trainee", help="Which of a robot's networks (default: trainee).")
    ] = None,
    lossy: Annotated[
        str | None, typer.Option(metavar="A,B", help="Features that a toolchain may give up, as its refusal says.")
    ] = None,
    convention: Annotated[
        str | None, typer.Option(help="How to read a NIR file without Ovonic's contract (nir-exact, snntorch-1.0, ..).")
    ] = None,
    reset: Annotated[str | None, typer.Option(help="Its reset, where the file cannot say.")] = None,
    dt: Annotated[float | None, typer.Option(metavar="MS", help="Its time step, where the file cannot say.")] = None,
    dtype: Annotated[str, typer.Option(metavar="f64|f32", help="Floats of every run.")] = "f64",
    seed: Seed = 0,
    json: JsonFile = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw verdicts, rasters and membranes.", callback=folder_to_write)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run a network on toolchains and say of every pair of runs: identical, different or undecidable.

    The exit status is 0 whatever the verdicts are.
    """
    from ovonic.adapters.toolchains import known
    from ovonic.validation import comparison

    floats = parse_dtype(dtype)
    names: str | tuple[str, ...] = "all" if toolchains == "all" else parse_names("--toolchains", toolchains, known())
    described = resolve_network(network, part, seed, convention, reset, dt)
    given = None if inputs is None else read_inputs(inputs, described)
    asked = len(known()) if names == "all" else len(names)
    with progress("running", 2 + asked, quiet) as advance:
        found = comparison.compare(
            described, names, given, steps, rate, samples, seed, floats, parse_names("--lossy", lossy), advance
        )
    first = next(iter(found.traces[comparison.REFERENCE].inputs.values()))
    config = {
        "network": network,
        "part": part,
        "toolchains": names,
        "samples": first.shape[0],
        "steps": first.shape[1],
        "rate": None if inputs else rate,
        "inputs": inputs,
        "lossy": parse_names("--lossy", lossy),
        "dtype": dtype,
        "dt_ms": described.dt_ms,
        "seed": seed,
        "command": command_line(),
    }
    if str(json) != "-":
        _print(found)
    write_json(json, "compare", found.report(), config, versions(*SIMULATORS))
    if figures:
        from ovonic.validation.dynamics_figures import comparison_figures

        setting = f"{network}, {first.shape[1]} steps of {described.dt_ms:g} ms, seed {seed}, {dtype}"
        made = comparison_figures(found, figures, setting=setting, command=command_line())
        typer.echo(f"{figures}: {', '.join(file.name for file in made)}", err=True)


def parse_dtype(text: str) -> Any:
    """The torch dtype of ``--dtype``.

    Raises: ConfigError: neither f64 nor f32.
    """
    import torch

    known = {"f64": torch.float64, "f32": torch.float32}
    if text not in known:
        raise ConfigError(f"--dtype {text}: choose f64 or f32")
    return known[text]


def parse_names(option: str, text: str | None, known: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Words of a list with commas, each once.

    Raises: ConfigError: no word, an empty one, or one that is not ``known``, if any are.
    """
    words = tuple(dict.fromkeys(word.strip() for word in text.split(","))) if text is not None else ()
    for word in words:
        if not word or (known and word not in known):
            raise ConfigError(f"{option} {text}: {word!r}: {nearest(word, known) if known else 'an empty word'}")
    return words


def resolve_network(
    source: str, part: str | None, seed: int, convention: str | None, reset: str | None, dt_ms: float | None
) -> Network:
    """The network that the command line names.

    Raises: ConfigError: options that do not fit it; DataError, WeightsError: it cannot be read.
    """
    told = {"convention": convention, "reset": reset, "dt_ms": dt_ms}
    told = {name: value for name, value in told.items() if value is not None}
    is_nir = source.endswith(".nir")
    if told and not is_nir:
        raise ConfigError(f"--{next(iter(told)).removesuffix('_ms')}: {source} is no NIR file")
    if part not in (None, "lsg", "trainee"):
        raise ConfigError(f"--part {part}: choose lsg or trainee")
    if source == "random":
        from ovonic.validation.random_networks import recurrent_example

        if part is not None:
            raise ConfigError("--part: the random network has no parts")
        return recurrent_example(seed)
    which: Literal["lsg", "trainee"] = "lsg" if part == "lsg" else "trainee"
    if is_nir:
        from ovonic.adapters.nir import load_nir, load_pair

        pair_file = part is not None
        read: Any = load_nir
        return getattr(load_pair(source), which) if pair_file else read(source, **told)
    from ovonic.tasks.robot import resolve_robot

    found: Network = getattr(resolve_robot(source).pair, which)
    return found


def read_inputs(path: Path, network: Network) -> dict[str, Any]:
    """Inputs of a network from an npy file, or from an npz file by their names: float64 tensors [B, T, *shape].

    Raises: DataError: damaged, pickled, of the wrong shape, not finite, or not named as the network's inputs.
    """
    import numpy as np
    import torch

    from ovonic.adapters.arrays import read_arrays

    loaded = read_arrays(path)
    arrays = loaded if isinstance(loaded, dict) else {network.inputs[0]: loaded}
    if set(arrays) != set(network.inputs):
        raise DataError(f"{path}: holds {sorted(arrays)}, the network's inputs are {sorted(network.inputs)}")
    found = {}
    for name, array in arrays.items():
        shape = network.shapes[name]
        if array.dtype.kind not in "biuf" or array.shape[array.ndim - len(shape) :] != shape:
            raise DataError(f"{path}: {name}: {array.shape} of {array.dtype} where [samples,] steps, {shape} is due")
        if array.ndim - len(shape) == 1:
            array = array[None]
        if array.ndim - len(shape) != 2 or 0 in array.shape or not np.isfinite(array).all():
            raise DataError(f"{path}: {name}: {array.shape}: needs [samples,] steps, {shape}, all of it finite")
        found[name] = torch.from_numpy(array.astype(np.float64))
    return found


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    from ovonic.validation.comparison import REFERENCE

    table = Table("runs", "verdict", "Jaccard", "first divergence", "max |dv|", "margin", "distance")
    shown = [p for p in found.pairs if p.verdict.a == REFERENCE or not (p.verdict.identical and p.verdict.agree)]
    for pair in shown:
        v, d = pair.verdict, pair.verdict.first_divergence
        certified = ", certified" if v.certified and v.identical else ""
        where = "" if d is None else f"step {d.step}, {d.layer} {'.'.join(map(str, d.neuron))}, sample {d.sample}"
        distance = "" if pair.distance is None else f"{pair.distance.mean:.3g}"
        margin = "" if v.margin is None else f"{v.margin:.2g}"
        jaccard = "no spikes" if v.jaccard is None else f"{v.jaccard:.4g}"
        table.add_row(f"{v.a}, {v.b}", f"{v.verdict}{certified}", jaccard, where, f"{v.max_dv:.2g}", margin, distance)
    Console().print(table)
    if others := len(found.pairs) - len(shown):
        typer.echo(f"and {others} other pairs with equal spikes")
    for pair in found.pairs:
        v, d = pair.verdict, pair.verdict.first_divergence
        if d is not None:
            typer.echo(
                f"{v.a}, {v.b}: at the divergence v = {d.membranes[0]:.12g} and {d.membranes[1]:.12g}, "
                f"A = {d.threshold:.12g}, rounding within {d.bound:.2g}"
            )
        if not v.agree and v.identical:
            typer.echo(f"{v.a}, {v.b}: equal spikes, but membranes or read-outs differ by more than rounding")
        for explanation in pair.explanations:
            typer.echo(f"{v.a}, {v.b}: explained by {explanation}")
    for name, reasons in found.refused.items():
        typer.echo(f"{name} refused: {' | '.join(reasons)}")
    for name, reason in found.unavailable.items():
        typer.echo(f"{name} is not there: {reason}")
    for name, lost in found.losses.items():
        typer.echo(f"{name} runs with losses: {'; '.join(lost)}")
    for name, rates in found.report()["rates_hz"].items():
        means = ", ".join(f"{layer} {rate:.1f} Hz" for layer, rate in rates.items())
        typer.echo(f"{name}: {means}; {found.seconds[name]:.2f} s")
    if found.silent:
        typer.echo("silent: too few spikes to mean anything; raise --rate or --steps")
