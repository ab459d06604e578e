"""``ovonic validate model``: one report on a user's own model: its dynamics, its gradients, its hardware.

    subject = Subject("net.py:net", "snnTorch module", network, module)
    outcome = validate_model(subject, samples, Settings(noise_models={"pcm": device_model("pcm")}), folder, ..)

A part that does not apply, or is refused, says so in its chapter; the others still come.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.adapters.files import write_atomically
from ovonic.adapters.nir import save_nir
from ovonic.adapters.samples import Samples
from ovonic.adapters.toolchains import known
from ovonic.models.errors import ConfigError, OvonicError, UnsupportedDynamics
from ovonic.models.network import Network
from ovonic.validation.own_description import described, description_table
from ovonic.validation.own_dynamics import Dynamics, dynamics_section, measure_dynamics
from ovonic.validation.own_gradients import gradients_section, measure_gradients
from ovonic.validation.own_hardware import measure_module, measure_network
from ovonic.validation.own_hardware_tables import hardware_section
from ovonic.validation.own_native import NativeRun, run_natively
from ovonic.validation.own_subject import (
    PARTS,
    Given,
    OnStep,
    Settings,
    Subject,
    given_to_module,
    given_to_network,
    sizes_of,
)
from ovonic.validation.report import At, Cell, Section, Table, write_report

__all__ = ["LEAD", "Outcome", "validate_model"]

LEAD = (
    "This page is Ovonic's report on one model of a user: whether its description is what the model does, in its own "
    "code and in every toolchain that is installed; whether e-prop's update on it is what other computations make "
    "of it; and what is left of it on simulated phase-change memory. What was chosen in reading the model is listed, "
    "what does not apply is said by name. Every ± is a 95 % half-width; systems that are compared saw the same samples."
)

type Progress = Callable[[str, int], AbstractContextManager[OnStep]]
"""Shows how a part goes: its title and its steps in all -> what is told of steps just finished."""


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        result: what the JSON holds. page, json: the files. failed: what did not hold, a line each: then the exit status
            is 1.
    """

    result: dict[str, Any]
    page: Path
    json: Path
    failed: tuple[str, ...]


def validate_model(
    subject: Subject,
    samples: Samples | None,
    settings: Settings,
    out: Path,
    *,
    provenance: Mapping[str, Any],
    config: Mapping[str, Any],
    progress: Progress,
) -> Outcome:
    """Measure a model and write ``report.html``, ``report.json``, and of a described one ``network.nir`` and
    ``inputs.npz``, which ``ovonic compare`` takes.

    Args: samples: None draws random inputs. provenance: command and versions. config: of the command.
    Raises: DataError: samples that do not fit. ConfigError: nothing to do, or options that do not fit the model.
    """
    wanted = [part for part in PARTS if part not in settings.skip]
    if not wanted:
        raise ConfigError(f"--skip {','.join(settings.skip)}: leaves nothing to do")
    network, native = subject.network, None
    failure = ""
    if network is not None:
        given = given_to_network(network, samples, settings)
        if subject.module is not None:
            with progress("your module", 1) as step:
                native, failure = _natively(subject, network, given, settings)
                step()
            if native is not None:
                given = dataclasses.replace(given, inputs={network.inputs[0]: native.inputs.double()})
    elif subject.module is not None:
        given = given_to_module(subject.module, samples, settings, steps=bool(subject.refused))
    else:
        raise ConfigError(f"{subject.source}: holds nothing to run")
    command = str(provenance.get("command", ""))
    result: dict[str, Any] = {"schema": "ovonic/validate-model/1", **provenance, "config": dict(config)}
    result["model"] = _model(subject, network)
    result["data"] = _data(given, network, settings)
    sections: list[Callable[[Mapping[str, Any]], Section]] = [partial(_model_section, subject=subject, given=given)]
    failed: list[str] = []
    named: dict[str, Any] = {"command": command, "setting": f"{subject.source}; {given.origin}"}
    alone = _write_beside(out, network, given, settings) if network is not None else ""
    for part in PARTS:
        if part in settings.skip:
            result[part] = {"skipped": True}
            sections.append(partial(_words, part, "Left out by `--skip`."))
            continue
        try:
            if part == "hardware":
                found: Any = _hardware(subject, network, given, settings, progress)
                sections.append(partial(hardware_section, found, **named))
            elif network is None:
                raise _Refused(_why_undescribed(subject))
            elif part == "dynamics":
                found = _dynamics(network, given, native, failure, subject, settings, progress)
                failed += _failed_dynamics(found)
                sections.append(partial(dynamics_section, found, given=given, **named | {"command": alone}))
            else:
                with progress("gradients", len(settings.references)) as step:
                    found = measure_gradients(network, given.inputs, given, settings, step)
                failed += [f"{a.reference} disagrees on e-prop's update" for a in found.agreements if a.agrees is False]
                sections.append(partial(gradients_section, found, **named))
            result[part] = _plain(found.figures())
        except (OvonicError, _Refused) as error:
            if part == "hardware" and network is None and not subject.refused:
                raise
            result[part] = {"not_applicable": str(error)}
            sections.append(partial(_words, part, f"Does not apply. {error}"))
    result["failed"] = failed
    if all("not_applicable" in result[part] for part in wanted):
        raise UnsupportedDynamics(f"{subject.source}: {subject.refused or result[wanted[0]]['not_applicable']}")
    page, path = write_report(
        out, [make(result) for make in sections], result, title=f"Ovonic: {Path(subject.source).name}", lead=LEAD
    )
    return Outcome(json.loads(path.read_text()), page, path, tuple(failed))


def _words(part: str, text: str, _: Mapping[str, Any]) -> Section:
    return Section(part.capitalize(), text)


class _Refused(Exception):
    """Why a part does not apply."""


def _natively(subject: Subject, network: Network, given: Given, settings: Settings) -> tuple[NativeRun | None, str]:
    assert subject.module is not None
    try:
        (x,) = given.inputs.values()
        options: dict[str, Any] = {"constant": given.constant, "random": given.random, "seed": settings.seed}
        return run_natively(subject.module, network, x, **options), ""
    except (ConfigError, ValueError) as error:
        return None, str(error)


def _dynamics(
    network: Network,
    given: Given,
    native: NativeRun | None,
    failure: str,
    subject: Subject,
    settings: Settings,
    progress: Progress,
) -> Dynamics:
    if not network.spiking:
        raise _Refused("The network has no spiking layer.")
    runs = len(known()) if settings.toolchains == "all" else len(settings.toolchains)
    with progress("dynamics", 2 + runs) as step:
        found = measure_dynamics(network, given.inputs, settings, native, step)
    return dataclasses.replace(found, native={"failed": failure}) if subject.module is not None and failure else found


def _failed_dynamics(found: Dynamics) -> list[str]:
    failed = [f"{found.diverged} toolchains diverge in silence"] if found.diverged else []
    if found.native is not None and found.native.get("beyond_rounding"):
        failed.append("your own module gives other spikes than its description")
    return failed


def _hardware(subject: Subject, network: Network | None, given: Given, settings: Settings, progress: Progress) -> Any:
    steps = len(settings.noise_models) * len(settings.read_times_s) * settings.chips
    with progress("hardware", steps) as step:
        if network is not None:
            return measure_network(network, given.inputs, settings, step, given.labels, given.targets)
        assert subject.module is not None
        return measure_module(subject.module, given.inputs[""], settings, step, given.labels, given.targets)


def _why_undescribed(subject: Subject) -> str:
    if subject.refused:
        return f"The model could not be described exactly, and is not described otherwise: {subject.refused}"
    return "The model has no spiking neurons of snnTorch or Norse; its hardware alone is measured."


def _write_beside(out: Path, network: Network, given: Given, settings: Settings) -> str:
    """Write the description and the inputs; the command that compares them again."""
    save_nir(out / "network.nir", network)
    file = io.BytesIO()
    np.savez(file, **{name: x[: settings.compared].numpy() for name, x in given.inputs.items()})  # type: ignore[arg-type]
    write_atomically(out / "inputs.npz", file.getvalue())
    names = settings.toolchains if isinstance(settings.toolchains, str) else ",".join(settings.toolchains)
    return f"ovonic compare {out}/network.nir --inputs {out}/inputs.npz --toolchains {names} --figures {out}/figures"


def _model(subject: Subject, network: Network | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "source": subject.source,
        "kind": subject.kind,
        "conventions": list(subject.conventions),
        "refused": subject.refused or None,
    }
    if network is None:
        assert subject.module is not None
        return found | {"parameters": sum(p.numel() for p in subject.module.parameters())}
    return _plain(found | {"layers": described(network), "dt_ms": network.dt_ms} | sizes_of(network))


def _data(given: Given, network: Network | None, settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "origin": given.origin,
        "random": given.random,
        "constant": given.constant,
        "samples": given.available,
        "compared": min(given.count, settings.compared),
        "deployed": min(given.count, settings.deployed),
        "labels": given.labels is not None,
        "targets": given.targets is not None,
        "mean": float(torch.cat([x.flatten() for x in given.inputs.values()]).mean()),
    }
    found |= {"steps": given.steps} if network is not None else {}
    return found | ({"rate": settings.rate} if given.random else {})


def _model_section(result: Mapping[str, Any], subject: Subject, given: Given) -> Section:
    model, data = result["model"], result["data"]
    text = f"`{subject.source}`: {subject.kind}."
    if subject.conventions:
        text += f" {' '.join(_sentence(line) for line in subject.conventions)}"
    if given.random:
        text += f"\n\nNo data was given: inputs are {given.origin}."
    elif given.constant:
        text += "\n\nThe samples have no time: each is shown alike in every step."
    rows: list[tuple[Cell, ...]] = [("Samples", At("data/samples", "number"))]
    if "steps" in data:
        rows.append(("Steps of a sample", At("data/steps", "number")))
        rows.append(("Duration of a step, ms", At("model/dt_ms", "number")))
        rows.append(("Samples run on every toolchain", At("data/compared", "number")))
    rows.append(("Samples run on every chip", At("data/deployed", "number")))
    rows.append(("Mean input", At("data/mean", "number")))
    if given.random:
        rows.append(("Rate of the random inputs in a step", At("data/rate", "number")))
    for key in ("neurons", "outputs", "weights", "parameters"):
        if key in model:
            named = {"neurons": "Spiking neurons", "outputs": "Read-outs"}.get(key, key.capitalize())
            rows.append((named, At(f"model/{key}", "number")))
    tables = [Table("What was run", ("What", "Value"), rows)]
    if "layers" in model:
        tables.append(description_table(model["layers"], "model/layers"))
    return Section("The model, as read", text, (), tables)


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:] + ("" if line.endswith(".") else ".")


def _plain(value: Any) -> Any:
    """JSON values: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
