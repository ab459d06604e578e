"""``ovonic validate model``: one report on a user's own model: dynamics, gradients, hardware."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ovonic.commands.common import JsonFile, Quiet, Seed, command_line, folder_to_write, progress, versions, write_json
from ovonic.commands.compare import SIMULATORS, parse_names
from ovonic.models.errors import ConfigError, nearest

__all__ = ["model"]


def model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="FILE.py:NAME, a Python file of yours that defines a snnTorch, Norse or torch module by that name "
            "(FILE.py is run: give only code you trust); a NIR file; robot weights; linear layers as .safetensors or "
            "state dict; or random.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Samples: npz (inputs, labels or targets), npy, csv (default: random spikes)."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Load these into the module: .safetensors, or a state dict (.pt)."),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            metavar="relu|tanh|sigmoid|none", help="Between linear layers of a SOURCE that holds weights alone."
        ),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME", help="Your own module, to run beside a SOURCE that describes it (a NIR file)."
        ),
    ] = None,
    toolchains: Annotated[
        str, typer.Option(metavar="all|A,B,..", help="Which; all passes over those not installed.")
    ] = "all",
    references: Annotated[
        str, typer.Option(metavar="all|A,B,..", help="Which computations e-prop's update is compared with.")
    ] = "all",
    noise_model: Annotated[
        str,
        typer.Option(
            "--noise-model",
            metavar="A,B,..",
            help="pcm, hermes, hermes-pair, published, none, or files of 'crossbar fit'.",
        ),
    ] = "pcm",
    chips: Annotated[int, typer.Option(min=1, help="Draws of all devices.")] = 5,
    read_time: Annotated[
        str, typer.Option("--read-time", metavar="A,B,..", help="Since programming: seconds, or 1h, 1d, 1month.")
    ] = "0,1d",
    skip: Annotated[str | None, typer.Option(metavar="A,B", help="Leave out dynamics, gradients or hardware.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of random inputs, and of samples without time.")] = 200,
    rate: Annotated[float, typer.Option(min=0, max=1, help="Probability of a random input spike in a step.")] = 0.1,
    samples: Annotated[int, typer.Option(min=1, help="Samples of random inputs.")] = 8,
    compared: Annotated[int, typer.Option(min=1, help="How many samples at most run on every toolchain.")] = 2,
    deployed: Annotated[int, typer.Option(min=1, help="How many samples at most run on every chip.")] = 256,
    decide: Annotated[
        str | None,
        typer.Option(
            metavar="mean|last|spikes", help="How labels are read: the read-out's mean or last step, or most spikes."
        ),
    ] = None,
    readouts: Annotated[
        str | None, typer.Option(metavar="A,B", help="Neurons of a snnTorch module whose membrane is what is read.")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="N,..", help="Of the input in a step, where the first layer leaves it open.")
    ] = None,
    convention: Annotated[
        str | None, typer.Option(help="How to read a NIR file without Ovonic's contract (nir-exact, snntorch-1.0, ..).")
    ] = None,
    reset: Annotated[str | None, typer.Option(help="Its reset, where the file cannot say.")] = None,
    dt: Annotated[float | None, typer.Option(metavar="MS", help="The time step, where the source cannot say.")] = None,
    part: Annotated[str | None, typer.Option(metavar="lsg|trainee", help="Which of a robot's networks.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.", callback=folder_to_write)] = Path(
        "ovonic-model"
    ),
    seed: Seed = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Validate your own model: its description in every toolchain and beside your module, e-prop's update, hardware.

    Exit status 1 if a toolchain diverged in silence, your module gives other spikes than its description, or a
    reference disagrees on e-prop's update; the report is written all the same, and says what does not apply.
    """
    from ovonic.adapters.samples import read_samples
    from ovonic.adapters.toolchains import known
    from ovonic.commands.convert import parse_shape
    from ovonic.commands.convert_sources import Options
    from ovonic.commands.crossbar_common import parse_duration
    from ovonic.commands.crossbar_sources import parse_noise_model
    from ovonic.commands.validate_model_sources import Files, read_subject
    from ovonic.validation.gradients import REFERENCES
    from ovonic.validation.own_model import validate_model
    from ovonic.validation.own_subject import DECISIONS, PARTS, Settings

    if decide not in (None, *DECISIONS):
        raise ConfigError(f"--decide {decide}: {nearest(str(decide), DECISIONS)}")
    times = [parse_duration("--read-time", text) for text in parse_names("--read-time", read_time)]
    shape = None if input_shape is None else parse_shape(input_shape)
    settings = Settings(
        parse_names("--skip", skip, PARTS),
        "all" if toolchains == "all" else parse_names("--toolchains", toolchains, known()),
        steps,
        rate,
        samples,
        compared,
        deployed,
        {name: parse_noise_model(name) for name in parse_names("--noise-model", noise_model)},
        chips,
        tuple(sorted(dict.fromkeys(times))),
        decide,
        shape,
        REFERENCES if references == "all" else parse_names("--references", references, REFERENCES),
        seed,
    )
    given = None if data is None else read_samples(data)
    options = Options(convention, reset, dt, part, shape, parse_names("--readouts", readouts))
    subject = read_subject(source, options, Files(weights, activation, module), seed)
    config: dict[str, Any] = {
        "source": source,
        "data": data,
        "weights": weights,
        "activation": activation,
        "module": module,
        "toolchains": settings.toolchains,
        "references": settings.references,
        "noise_models": list(settings.noise_models),
        "chips": chips,
        "read_times_s": settings.read_times_s,
        "skip": settings.skip,
        "steps": steps,
        "rate": rate,
        "samples": samples,
        "compared": compared,
        "deployed": deployed,
        "decide": decide,
        "seed": seed,
        **vars(options),
    }
    config = {name: str(value) if isinstance(value, Path) else value for name, value in config.items()}
    outcome = validate_model(
        subject,
        given,
        settings,
        out,
        provenance={"command": command_line(), "versions": versions(*SIMULATORS, "h5py", "safetensors")},
        config=config,
        progress=lambda label, total: progress(label, total, quiet),
    )
    if json is not None:
        body = {name: value for name, value in outcome.result.items() if name not in ("schema", "config", "versions")}
        write_json(json, "validate-model", body, outcome.result["config"], outcome.result["versions"])
    if str(json) != "-":
        _print(outcome.result, outcome.page)
    if outcome.failed:
        raise typer.Exit(1)


def _print(result: Mapping[str, Any], page: Path) -> None:
    typer.echo(f"{result['model']['source']}: {result['model']['kind']}")
    for name, say in (("dynamics", _dynamics), ("gradients", _gradients), ("hardware", _hardware)):
        found = result[name]
        if "skipped" in found:
            continue
        for line in [f"does not apply: {found['not_applicable']}"] if "not_applicable" in found else say(found):
            typer.echo(f"{name:9} {line}")
    for line in result["failed"]:
        typer.echo(f"FAILED    {line}")
    typer.echo(f"report: {page}")


def _dynamics(found: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{count} {word}" for word, count in found["counts"].items())
    lines = [f"pairs of runs: {counts}"]
    lines += [f"{name} refused: {' | '.join(reasons)}" for name, reasons in found["refused"].items()]
    lines += [f"{name} is not there" for name in found["unavailable"]]
    native = found["native"]
    if native is not None and "failed" in native:
        lines.append(f"your module was not run beside its description: {native['failed']}")
    elif native is not None:
        lines.append(
            f"your module beside its description: {native['verdict']}; equal spikes in {native['equal_samples']} of "
            f"{native['samples']} samples"
        )
        lines += [f"explained by {line}" for line in native["diagnosis"]]
    return lines


def _gradients(found: Mapping[str, Any]) -> list[str]:
    ran = [row["reference"] for row in found["references"] if row["worst"] is not None]
    refused = [row["reference"] for row in found["references"] if row["worst"] is None]
    worst, cosine = ("none" if v is None else f"{v:.2g}" for v in (found["worst"], found["bptt"]["cosine"]))
    line = f"e-prop beside {', '.join(ran) or 'nothing'}: largest relative difference {worst}"
    line += f"; not run: {', '.join(refused)}" if refused else ""
    return [line, f"cosine with the full gradient {cosine}"]


def _hardware(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{found['weights']} weights on {found['arrays']} array{'s' * (found['arrays'] != 1)}"]
    for condition in found["conditions"]:
        said = [f"Jaccard {layer['name']} {_interval(layer['jaccard'])}" for layer in condition["layers"]]
        said += [f"error {output['name']} {_interval(output['error'])}" for output in condition["outputs"]]
        for name in ("accuracy", "mse"):
            if name in condition:
                pair = condition[name]
                said.append(f"{name} {_interval(pair['hardware'])} (software {_interval(pair['software'])})")
        lines.append(f"{condition['noise_model']} at {condition['read_time_s']:g} s: {'; '.join(said)}")
    return lines


def _interval(value: Mapping[str, Any]) -> str:
    return f"{value['mean']:.4g}" + ("" if value["ci95"] is None else f" ± {value['ci95']:.2g}")
