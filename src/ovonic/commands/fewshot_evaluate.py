"""``ovonic fewshot evaluate``: accuracy on tasks never trained on, in software and on hardware."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import (
    Device,
    JsonFile,
    Quiet,
    Seed,
    command_line,
    parse_device,
    progress,
    versions,
    write_json,
)
from ovonic.commands.fewshot_chips import (
    ActivationRange,
    AdaptOn,
    AdcRange,
    ChipOptions,
    Compensation,
    DeviceSplit,
    HardwareName,
    NoiseModel,
    NoiseScale,
    Reads,
    ReadTime,
    Scale,
    UpdateStep,
    VerifyPulses,
    ZeroTargets,
    check_hardware,
)
from ovonic.commands.fewshot_options import (
    Bits,
    Data,
    DataSeed,
    Figures,
    Fold,
    Folds,
    GlyphAlphabets,
    Norm,
    Queries,
    Rounding,
    Shot,
    Updates,
    Way,
    WeightsName,
    load,
    percent,
)

if TYPE_CHECKING:
    from ovonic.models.fewshot_cnn import FewshotCNN
    from ovonic.tasks.episodes import EpisodeSpec
    from ovonic.tasks.fewshot_evaluation import Evaluation


def evaluate(
    weights: WeightsName = "fewshot-32bit",
    data: Data = None,
    split: Annotated[str, typer.Option(help="train, validation, test, all, background or evaluation.")] = "test",
    folds: Folds = None,
    fold: Fold = 0,
    data_seed: DataSeed = 0,
    glyph_alphabets: GlyphAlphabets = None,
    sampler: Annotated[str, typer.Option(help="distinct, replacement or published.")] = "distinct",
    norm: Norm = None,
    way: Way = 5,
    shot: Shot = 5,
    queries: Queries = 5,
    tasks: Annotated[int, typer.Option(min=1)] = 1000,
    updates: Updates = None,
    bits: Bits = None,
    rounding: Rounding = "stochastic",
    within_alphabet: Annotated[float, typer.Option(help="Share of tasks drawn from one alphabet.")] = 0.0,
    hardware: HardwareName = "software",
    noise_model: NoiseModel = "pcm",
    read_time: ReadTime = 0.0,
    chips: Annotated[int, typer.Option(min=1, help="Draws of all devices; each meets every task.")] = 5,
    adapt_on: AdaptOn = "device",
    update_step: UpdateStep = None,
    device_split: DeviceSplit = "fill",
    scale: Scale = "column",
    zero_targets: ZeroTargets = None,
    reads: Reads = 1,
    verify: VerifyPulses = 0,
    noise_scale: NoiseScale = 1.0,
    adc_range: AdcRange = 10.0,
    activation_range: ActivationRange = 10.0,
    compensation: Compensation = "none",
    batch: Annotated[int, typer.Option(min=1, help="Tasks at a time (couples them under --norm meta-batch).")] = 8,
    seed: Seed = 0,
    device: Device = "cpu",
    json: JsonFile = None,
    figures: Figures = None,
    quiet: Quiet = False,
) -> None:
    """Measure accuracy on tasks never trained on, beside the baselines; on hardware beside the software twin."""
    from ovonic.adapters.weights import readout_w_max
    from ovonic.models.maml import Precision
    from ovonic.tasks.datasets import load_characters
    from ovonic.tasks.episodes import EpisodeSpec
    from ovonic.tasks.fewshot import software_learner
    from ovonic.tasks.fewshot_evaluation import evaluate as run
    from ovonic.tasks.fewshot_evaluation import seen_alphabets

    check_hardware(hardware)
    parse_device(device)
    net, provenance = load(weights)
    net = net.to(device)
    precision = Precision(bits or provenance.get("precision", 32), rounding, readout_w_max(provenance) or 1.0)
    spec = EpisodeSpec(way, shot, queries, sampler=sampler, within_alphabet=within_alphabet)
    characters = load_characters(
        data or ["glyphs"], split, folds=folds, fold=fold, seed=data_seed, glyph_alphabets=glyph_alphabets
    )
    learner = software_learner(net, updates=updates, precision=precision, norm=norm, seed=seed)
    options = ChipOptions(
        hardware,
        noise_model,
        device_split,
        scale,
        zero_targets,
        reads,
        verify,
        noise_scale,
        adc_range,
        activation_range,
        compensation,
    )
    chip, programs = options.programs(
        net,
        readout_w_max(provenance),
        chips=chips,
        seed=seed,
        read_time_s=read_time,
        updates=updates,
        precision=precision,
        norm=norm,
        n_way=way,
        update_step=update_step,
        adapt_on=adapt_on,
        twin=learner,
    )
    label = "evaluating" if hardware == "software" else f"evaluating on {chips} chips"
    with progress(label, tasks * (1 + len(programs)), quiet) as advance:
        evaluation = run(learner, programs, characters, spec, tasks, seed=seed, batch=batch, on_batch=advance)
    config = {
        "weights": provenance,
        "data": characters.source,
        "characters": len(characters),
        "seen_in_training": seen_alphabets(provenance, characters),
        "episode": spec,
        "norm": norm or net.config.norm,
        "precision": precision,
        "updates": evaluation.software.shape[1] - 1,
        "hardware": hardware,
        "seed": seed,
        "command": command_line(),
    }
    if hardware != "software":
        config |= {"noise_model": noise_model, "read_time_s": read_time, "update_step": update_step, "chip": chip}
        config |= {"adapt_on": adapt_on, "options": options}
    report = evaluation.report()
    if hardware == "crossbar":
        report["energy"] = _energy(net, options, readout_w_max(provenance), spec, config, evaluation)
    _print_report(report, config)
    used = versions("aihwkit") if hardware == "aihwkit" else versions()
    write_json(json, "fewshot-evaluate", report, config, used)
    if figures:
        _write_figures(evaluation, figures, config)


def _energy(
    net: FewshotCNN,
    options: ChipOptions,
    w_max: float | None,
    spec: EpisodeSpec,
    config: Mapping[str, Any],
    evaluation: Evaluation,
) -> dict[str, Any]:
    """What a task costs, by part."""
    from ovonic.tasks.fewshot_energy import task_counts, task_energy

    counts = task_counts(
        net,
        options.crossbar(w_max),
        n_way=spec.n_way,
        supports=spec.n_way * spec.k_shot,
        queries=spec.n_way * spec.queries,
        updates=config["updates"],
        devices_reprogrammed=evaluation.devices_reprogrammed,
        adapt_on=config["adapt_on"],
        read_time_s=config["read_time_s"],
    )
    return task_energy(counts)


def _write_figures(evaluation: Evaluation, folder: Path, config: Mapping[str, Any]) -> None:
    from ovonic.validation import figures

    episode, precision = config["episode"], config["precision"]
    setting = f"{config['data']}, {episode.n_way}-way {episode.k_shot}-shot"
    setting += f", norm {config['norm']}, {precision.bits} bit"
    if config["hardware"] != "software":
        setting += f", {config['noise_model']} tiles read {config['read_time_s']:g} s after programming"
    outcome = evaluation.hardware_outcome or evaluation.software_outcome
    made = {
        "accuracy_over_updates": figures.accuracy_over_updates(evaluation, setting=setting),
        "support_and_queries": figures.support_and_queries(evaluation, setting=setting),
        "weight_histograms": figures.weight_histograms(outcome.weights, setting=setting),
    }
    for name, figure in made.items():
        figures.save(figure, folder / f"{name}.png", command=config["command"])


def _print_report(report: dict[str, Any], config: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "accuracy", title=f"{config['data']}, {report['tasks']} tasks, norm {config['norm']}")
    steps = [percent(a) for a in report["accuracy_per_update"]]
    when = f"after 0 to {len(steps) - 1} updates"
    if config.get("adapt_on", "device") != "device":
        when = "as programmed, and with what software learned" if len(steps) > 1 else "as programmed"
    table.add_row(f"{config['hardware']}, {when}", "  ".join(steps))
    if "software" in report:
        table.add_row("software twin", percent(report["software"]["accuracy"]))
        ratio = report["error_ratio"]
        if ratio["ratio"] is not None:
            bounds = f"[{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio["high"] is not None else ""
            table.add_row("error, hardware / software", f"{ratio['ratio']:.3f} {bounds}")
        chips = report["chips"]
        spread = "" if chips["sd"] is None else f"sd {100 * chips['sd']:.2f} %, "
        table.add_row(f"{chips['n']} chips", f"{spread}worst {100 * chips['worst']:.2f} %")
        if report["devices_reprogrammed_per_update"]:
            counts = ", ".join(f"{n:.0f}" for n in report["devices_reprogrammed_per_update"])
            table.add_row("devices re-programmed per update", counts)
    for name, summary in report["baselines"].items():
        table.add_row(name.replace("_", " "), percent(summary))
    if "energy" in report:
        for part in ("adaptation", "inference"):
            crossbar, twin = (report["energy"][name]["energy_j"] for name in (part, f"twin {part}"))
            table.add_row(f"{part} of a task: crossbar", _microjoules(crossbar))
            table.add_row(f"{part} of a task: digital twin", _microjoules(twin))
    Console().print(table)
    if config["seen_in_training"]:
        seen = ", ".join(config["seen_in_training"])
        Console(stderr=True).print(f"[bold]not a result:[/bold] the weights were trained on {seen}", soft_wrap=True)


def _microjoules(energy: Mapping[str, float]) -> str:
    low, typical, high = (1e6 * energy[end] for end in ("low", "typical", "high"))
    return f"{typical:.3g} uJ ({low:.2g} to {high:.2g})"
