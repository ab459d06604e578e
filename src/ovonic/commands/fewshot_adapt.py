"""``ovonic fewshot adapt``: learn a user's own classes and name new drawings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovonic.commands.common import JsonFile, Seed, command_line, versions, write_json
from ovonic.commands.fewshot_chips import (
    ChipOptions,
    DeviceSplit,
    HardwareName,
    NoiseModel,
    ReadTime,
    UpdateStep,
    check_hardware,
)
from ovonic.commands.fewshot_options import (
    Bits,
    Rounding,
    Updates,
    WeightsName,
    load,
)


def adapt(
    support: Annotated[Path, typer.Argument(help="Folder or zip of labelled drawings: one folder a class.")],
    images: Annotated[list[Path], typer.Argument(help="Folders or zips of drawings to classify.")],
    weights: WeightsName = "fewshot-32bit",
    invert: Annotated[bool, typer.Option("--invert", help="The drawings are light on dark.")] = False,
    hardware: HardwareName = "aihwkit",
    noise_model: NoiseModel = "pcm",
    read_time: ReadTime = 0.0,
    updates: Updates = None,
    bits: Bits = None,
    rounding: Rounding = "stochastic",
    update_step: UpdateStep = None,
    device_split: DeviceSplit = "fill",
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Learn your own classes from a few labelled drawings each, on simulated PCM, and classify new drawings."""
    from ovonic.adapters.weights import readout_w_max
    from ovonic.models.maml import Precision
    from ovonic.tasks.fewshot import classify, software_learner
    from ovonic.tasks.pictures import load_images, load_labelled_folder

    check_hardware(hardware)
    net, provenance = load(weights)
    precision = Precision(bits or provenance.get("precision", 32), rounding, readout_w_max(provenance) or 1.0)
    examples = load_labelled_folder(support, invert=invert)
    w_max = readout_w_max(provenance)
    _, programs = ChipOptions(hardware, noise_model, device_split).programs(
        net,
        w_max,
        chips=1,
        seed=seed,
        read_time_s=read_time,
        updates=updates,
        precision=precision,
        norm="support",
        n_way=len(examples),
        update_step=update_step,
    )
    if programs:
        learner = programs[0]()
    else:
        learner = software_learner(net, updates=updates, precision=precision, norm="support", seed=seed)
    predictions = []
    for source in images:
        names, pictures = load_images(source, invert=invert)
        for name, (label, confidence) in zip(names, classify(learner, examples, pictures), strict=True):
            predictions.append({"image": f"{source}/{name}", "class": label, "probability": confidence})
            typer.echo(f"{source}/{name}\t{label}\t{confidence:.3f}")
    config = {"weights": provenance, "hardware": hardware, "noise_model": noise_model, "read_time_s": read_time}
    config |= {"classes": list(examples.names), "precision": precision, "seed": seed, "command": command_line()}
    used = versions("aihwkit") if hardware == "aihwkit" else versions()
    write_json(json, "fewshot-adapt", {"predictions": predictions}, config, used)
