"""``ovonic fewshot``: meta-train, evaluate and use the few-shot classifier."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import (
    Advance,
    Device,
    JsonFile,
    Quiet,
    Seed,
    command_line,
    interruptible,
    parse_device,
    progress,
    versions,
    write_json,
)
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.adapters.aihwkit_devices import Hardware
    from ovonic.models.fewshot_cnn import FewshotCNN
    from ovonic.tasks.fewshot_evaluation import Evaluation

app = typer.Typer(no_args_is_help=True, help="Few-shot classification of characters by MAML, in software and on PCM.")

Data = Annotated[
    list[str] | None, typer.Option("--data", "-d", help="glyphs, a folder or a zip in Omniglot's layout; repeatable.")
]
Folds = Annotated[int | None, typer.Option(help="Folds of the cross-validation over alphabets.")]
Fold = Annotated[int, typer.Option(help="The fold that is tested.")]
GlyphAlphabets = Annotated[int | None, typer.Option(min=1, help="Glyph alphabets (default: all of the split).")]
DataSeed = Annotated[int, typer.Option(min=0, help="Seed of the glyphs and of the folds.")]
Way = Annotated[int, typer.Option(help="Classes a task.")]
Shot = Annotated[int, typer.Option(help="Labelled drawings a class.")]
Queries = Annotated[int, typer.Option(help="Drawings a class to classify.")]
Norm = Annotated[str | None, typer.Option(help="Whose statistics normalise: support, transductive or meta-batch.")]
Bits = Annotated[int | None, typer.Option("--precision", help="Bits of the weights: 32, or 2 to 16.")]
Rounding = Annotated[str, typer.Option(help="Rounding to few bits: stochastic or nearest.")]
Figures = Annotated[Path | None, typer.Option(metavar="DIR", help="Write the figures there.")]
WeightsName = Annotated[str, typer.Option("--weights", "-w", help="A shipped name, a safetensors or a published file.")]
HardwareName = Annotated[str, typer.Option(help="software, or aihwkit: simulated PCM tiles.")]
NoiseModel = Annotated[str, typer.Option(help="PCM statistics: pcm (PCMLike) or hermes.")]
ReadTime = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Age of the devices when queries are read.")]
Updates = Annotated[int | None, typer.Option(help="Inner updates (default: as the weights were trained).")]
UpdateStep = Annotated[
    float | None, typer.Option(help="Round each update on the hardware stochastically to multiples of this.")
]

DeviceSplit = Annotated[str, typer.Option(help="How a weight fills the two devices of its polarity: fill or equal.")]


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="Folder of the run.")],
    data: Data = None,
    split: Annotated[str, typer.Option(help="train, or train+validation, background, all.")] = "train",
    folds: Folds = None,
    fold: Fold = 0,
    data_seed: DataSeed = 0,
    glyph_alphabets: GlyphAlphabets = None,
    glyph_fraction: Annotated[float, typer.Option(help="Share of tasks from glyphs where both are given.")] = 0.5,
    steps: Annotated[int, typer.Option(min=1)] = 3000,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks an outer step.")] = 32,
    lr: Annotated[float, typer.Option(help="Adam's rate.")] = 1e-3,
    decay: Annotated[float, typer.Option(help="Share of the run over which the rate falls to zero.")] = 0.5,
    average: Annotated[float, typer.Option(help="Decay of the running average of the weights.")] = 0.998,
    way: Way = 5,
    shot: Shot = 5,
    queries: Queries = 5,
    sampler: Annotated[str, typer.Option(help="distinct, replacement or published.")] = "distinct",
    mirror: Annotated[bool, typer.Option(help="Mirror classes at random, beside the rotations.")] = True,
    norm: Norm = None,
    channels: Annotated[int, typer.Option(min=1)] = 56,
    updates: Annotated[int, typer.Option(min=1, help="Inner updates.")] = 4,
    inner_lr: Annotated[float, typer.Option(help="Inner rate.")] = 0.1,
    learn_inner_lr: Annotated[bool, typer.Option("--learn-inner-lr", help="Meta-learn the inner rates.")] = False,
    learn_readout: Annotated[bool, typer.Option("--learn-readout", help="Meta-learn the read-out's start.")] = False,
    within_alphabet: Annotated[float, typer.Option(help="Share of tasks drawn from one alphabet.")] = 0.0,
    adapt: Annotated[str, typer.Option(help="head (ANIL), or network (MAML proper).")] = "head",
    bits: Bits = None,
    rounding: Rounding = "stochastic",
    readout_range: Annotated[float, typer.Option(help="Full scale of the read-out's grid at few bits.")] = 0.2,
    weight_noise: Annotated[float, typer.Option(help="Gaussian noise on the kernels, share of max|w|.")] = 0.0,
    init: Annotated[str | None, typer.Option(help="Start from these weights.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the folder's run.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 250,
    validation_tasks: Annotated[int, typer.Option(min=1)] = 200,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Meta-train; writes checkpoint, metrics, loss curve and weights into OUT. Ctrl-C keeps the work for --resume."""
    import torch

    from ovonic.models.fewshot_cnn import CNNConfig
    from ovonic.models.maml import Precision
    from ovonic.tasks.episodes import EpisodeSpec
    from ovonic.tasks.fewshot_run import DataConfig, training_run
    from ovonic.tasks.fewshot_training import TrainingConfig, TrainingState
    from ovonic.validation.figures import loss_curves
    from ovonic.validation.figures import save as save_figure

    if threads:
        torch.set_num_threads(threads)
    config = TrainingConfig(
        network=CNNConfig(way, channels, norm=norm or "support", updates=updates, inner_lr=inner_lr),
        episode=EpisodeSpec(way, shot, queries, True, mirror, sampler, within_alphabet),
        precision=Precision(bits or 32, rounding, readout_range, weight_noise),
        steps=steps,
        tasks=tasks,
        lr=lr,
        decay=decay,
        learn_inner_lr=learn_inner_lr,
        learn_readout=learn_readout,
        average=average,
        glyph_fraction=glyph_fraction,
        adapt=adapt,
        seed=seed,
        validate_every=validate_every,
        validation_tasks=validation_tasks,
        device=str(parse_device(device)),
    )
    sources = DataConfig(tuple(data or ["glyphs"]), split, folds, fold, data_seed, glyph_alphabets)
    provenance = {"command": command_line(), "versions": versions()}
    advance: list[Advance] = []

    with ExitStack() as shown_progress, interruptible() as stop:

        def on_start(state: TrainingState) -> None:
            if state.step:
                typer.echo(f"resuming {out} at step {state.step} of {steps}", err=True)
            advance.append(shown_progress.enter_context(progress("meta-training", steps, quiet, done=state.step)))

        def on_step(state: TrainingState, loss: float, accuracy: float) -> None:
            extra = state.validation[-1]["accuracy"] if state.validation else float("nan")
            advance[0](loss=loss, accuracy=accuracy, validation=extra)

        _, state = training_run(
            config,
            sources,
            out,
            init=init,
            provenance=provenance,
            resume=resume,
            on_start=on_start,
            on_step=on_step,
            stop=stop,
            save_every=save_every,
        )
    label = f"{config.precision.bits} bit"
    save_figure(loss_curves({label: state.progress()}), out / "loss.png", command=command_line())
    last = state.validation[-1]
    shown = _percent({"mean": last["accuracy"], "ci95": last["ci95"]})
    typer.echo(f"{out}/weights.safetensors: accuracy {shown} on held-out alphabets after {steps} steps")
    result = {"weights": str(out / "weights.safetensors"), "steps": steps, "validation": state.validation}
    write_json(json, "fewshot-train", result, {"training": config, "data": sources})


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The figure.")] = Path("curves.png"),
) -> None:
    """Draw the loss and accuracy of several runs side by side, e.g. 4 bit beside 32 bit."""
    from ovonic.tasks.fewshot_run import read_metrics
    from ovonic.validation.figures import loss_curves, save

    save(loss_curves({str(run): read_metrics(run) for run in dict.fromkeys(runs)}), out, command=command_line())
    typer.echo(str(out))


@app.command()
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
    update_step: UpdateStep = None,
    device_split: DeviceSplit = "fill",
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

    _check_hardware(hardware)
    parse_device(device)
    net, provenance = _load(weights)
    net = net.to(device)
    precision = Precision(bits or provenance.get("precision", 32), rounding, readout_w_max(provenance) or 1.0)
    spec = EpisodeSpec(way, shot, queries, sampler=sampler, within_alphabet=within_alphabet)
    characters = load_characters(
        data or ["glyphs"], split, folds=folds, fold=fold, seed=data_seed, glyph_alphabets=glyph_alphabets
    )
    learner = software_learner(net, updates=updates, precision=precision, norm=norm, seed=seed)
    programs = []
    if hardware == "aihwkit":
        from ovonic.tasks.fewshot_hardware import aihwkit_chips

        chip = _chip(noise_model, device_split, provenance)
        programs = aihwkit_chips(
            net,
            chip,
            chips=chips,
            seed=seed,
            read_time_s=read_time,
            updates=updates,
            precision=precision,
            norm=norm,
            n_way=way,
            update_step=update_step,
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
    report = evaluation.report()
    _print_report(report, config)
    used = versions("aihwkit") if hardware == "aihwkit" else versions()
    write_json(json, "fewshot-evaluate", report, config, used)
    if figures:
        _write_figures(evaluation, figures, config)


@app.command("one-shot")
def one_shot(
    runs: Annotated[Path, typer.Argument(help="all_runs.zip of Omniglot, or its folder.")],
    weights: WeightsName = "fewshot-32bit",
    norm: Norm = None,
    updates: Updates = None,
    bits: Bits = None,
    rounding: Rounding = "stochastic",
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Lake's within-alphabet 20-way one-shot classification: the 20 fixed runs of Omniglot."""
    from ovonic.adapters.weights import readout_w_max
    from ovonic.models.maml import Precision
    from ovonic.tasks.fewshot import one_shot_accuracy, software_learner
    from ovonic.tasks.one_shot_runs import load_one_shot_runs
    from ovonic.tasks.statistics import interval

    net, provenance = _load(weights)
    precision = Precision(bits or provenance.get("precision", 32), rounding, readout_w_max(provenance) or 1.0)
    loaded = load_one_shot_runs(runs)
    learner = software_learner(net, updates=updates, precision=precision, norm=norm, seed=seed)
    accuracy = one_shot_accuracy(learner, loaded)
    summary = interval(accuracy)
    typer.echo(f"{len(loaded)} runs: accuracy {_percent(summary)}, error {100 * (1 - summary['mean']):.2f} %")
    result = {"accuracy": summary, "runs": {run.name: float(a) for run, a in zip(loaded, accuracy, strict=True)}}
    config = {"weights": provenance, "norm": norm or net.config.norm, "precision": precision, "seed": seed}
    write_json(json, "fewshot-one-shot", result, config)


@app.command()
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

    _check_hardware(hardware)
    net, provenance = _load(weights)
    precision = Precision(bits or provenance.get("precision", 32), rounding, readout_w_max(provenance) or 1.0)
    examples = load_labelled_folder(support, invert=invert)
    if hardware == "aihwkit":
        from ovonic.tasks.fewshot_hardware import aihwkit_chips

        learner = aihwkit_chips(
            net,
            _chip(noise_model, device_split, provenance),
            chips=1,
            seed=seed,
            read_time_s=read_time,
            updates=updates,
            precision=precision,
            norm="support",
            n_way=len(examples),
            update_step=update_step,
        )[0]()
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


@app.command()
def download(
    folder: Annotated[Path, typer.Argument(help="Folder of the zips.")],
) -> None:
    """Fetch the full Omniglot set through torchvision: images_background.zip and images_evaluation.zip."""
    from ovonic.tasks.omniglot import download_omniglot

    for background in (True, False):
        typer.echo(str(download_omniglot(folder, background)))


def _load(weights: str) -> tuple[FewshotCNN, dict[str, Any]]:
    from ovonic.adapters.weights import resolve_fewshot

    return resolve_fewshot(weights)


def _chip(noise_model: str, split: str, provenance: Mapping[str, Any]) -> Hardware:
    from ovonic.adapters.aihwkit_devices import Hardware
    from ovonic.adapters.weights import readout_w_max

    return Hardware(noise_model, split=split, readout_w_max=readout_w_max(provenance))


def _check_hardware(hardware: str) -> None:
    from ovonic.models.errors import nearest

    if hardware not in ("software", "aihwkit"):
        raise ConfigError(f"--hardware {hardware}: {nearest(hardware, ('software', 'aihwkit'))}")


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


def _percent(summary: Mapping[str, Any]) -> str:
    half = "" if summary["ci95"] is None else f" +- {100 * summary['ci95']:.2f}"
    return f"{100 * (summary['mean'] or 0):.2f}{half} %"


def _print_report(report: dict[str, Any], config: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "accuracy", title=f"{config['data']}, {report['tasks']} tasks, norm {config['norm']}")
    steps = [_percent(a) for a in report["accuracy_per_update"]]
    table.add_row(f"{config['hardware']}, after 0 to {len(steps) - 1} updates", "  ".join(steps))
    if "software" in report:
        table.add_row("software twin", _percent(report["software"]["accuracy"]))
        ratio = report["error_ratio"]
        if ratio["ratio"] is not None:
            bounds = f"[{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio["high"] is not None else ""
            table.add_row("error, hardware / software", f"{ratio['ratio']:.3f} {bounds}")
        chips = report["chips"]
        spread = "" if chips["sd"] is None else f"sd {100 * chips['sd']:.2f} %, "
        table.add_row(f"{chips['n']} chips", f"{spread}worst {100 * chips['worst']:.2f} %")
        counts = ", ".join(f"{n:.0f}" for n in report["devices_reprogrammed_per_update"])
        table.add_row("devices re-programmed per update", counts)
    for name, summary in report["baselines"].items():
        table.add_row(name.replace("_", " "), _percent(summary))
    Console().print(table)
    if config["seen_in_training"]:
        seen = ", ".join(config["seen_in_training"])
        Console(stderr=True).print(f"[bold]not a result:[/bold] the weights were trained on {seen}", soft_wrap=True)
