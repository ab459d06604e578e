"""A meta-training run in a folder: data, checkpoint, metrics, weights; stopped and resumed at will."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ovonic.adapters.checkpoints import checkpoint_weights, save_checkpoint
from ovonic.adapters.files import write_atomically
from ovonic.adapters.weights import FEWSHOT, fewshot_from, origin, resolve_fewshot, save_fewshot
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.data_parallel import ALONE, Processes, first_checkpoint
from ovonic.tasks.datasets import GLYPHS, load_characters
from ovonic.tasks.fewshot import run_tasks, software_learner
from ovonic.tasks.fewshot_training import TrainingConfig, TrainingState, meta_train
from ovonic.tasks.restoring import continue_from

__all__ = ["DataConfig", "read_metrics", "training_data", "training_run"]

CHECKPOINT, METRICS, WEIGHTS = "checkpoint.safetensors", "metrics.json", "weights.safetensors"


@dataclass(frozen=True)
class DataConfig:
    """What a run learns from.

    Attributes:
        data: ``"glyphs"``, folders, zips. split, folds, fold, seed, glyph_alphabets: as ``tasks.datasets``.
    """

    data: tuple[str, ...] = (GLYPHS,)
    split: str = "train"
    folds: int | None = None
    fold: int = 0
    seed: int = 0
    glyph_alphabets: int | None = None


def training_data(config: DataConfig) -> tuple[CharacterSet | None, CharacterSet | None, CharacterSet]:
    """Load real characters, glyphs, and the held-out alphabets to validate on.

    Validation is on the real alphabets of the split ``validation``, or on the glyphs' where these are trained on too or
    no real characters are given.
    """
    paths = [source for source in config.data if source != GLYPHS]
    folding = {"folds": config.folds, "fold": config.fold, "seed": config.seed}
    real = load_characters(paths, config.split, **folding) if paths else None  # type: ignore[arg-type]
    glyphs = None
    if GLYPHS in config.data:
        glyphs = load_characters([GLYPHS], "train", seed=config.seed, glyph_alphabets=config.glyph_alphabets)
    if paths and "validation" not in config.split and config.split not in ("all", "background"):
        held_out = load_characters(paths, "validation", **folding)  # type: ignore[arg-type]
    else:
        held_out = load_characters([GLYPHS], "validation", seed=config.seed)
    return real, glyphs, held_out


def training_run(
    config: TrainingConfig,
    data: DataConfig,
    out: Path,
    *,
    init: str | None = None,
    provenance: dict[str, Any],
    resume: bool = False,
    on_start: Callable[[TrainingState], None] | None = None,
    on_step: Callable[[TrainingState, float, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    save_every: int = 50,
    processes: Processes = ALONE,
) -> tuple[FewshotCNN, TrainingState]:
    """Train in the folder ``out``: a checkpoint, ``metrics.json``, and at the end ``weights.safetensors``.

    Args:
        init: weights to start from in place of random ones, or a run's checkpoint, its last step.
        provenance: command and versions, kept in the weights.
        resume: continue from the folder's checkpoint if there is one; it must be of the same run.
        on_start: told the state before the first step; on_step, stop, save_every: as ``meta_train``.
        processes: those that share each batch; the first alone reads and writes in ``out``.
    Returns: the averaged network and the last state.
    Raises: ConfigError: a run is there and ``resume`` is false, or it is another run. What ``meta_train`` raises.
    """
    checkpoint = out / CHECKPOINT
    if processes.first and checkpoint.exists() and not resume:
        raise ConfigError(f"{checkpoint}: a run is there already: pass --resume to continue it, or another folder")
    network = config.network
    net = FewshotCNN(network, torch.Generator().manual_seed(config.seed))
    identity: dict[str, Any] = {
        "training": _named(config),
        "data": dataclasses.asdict(data),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if processes.count > 1:
        identity["processes"] = processes.count
    if init is not None:
        start, whence = _starting_network(init)
        _take_over(net, start, init)
        identity["init"] = whence["sha256"]
    real, glyphs, held_out = training_data(data)
    identity["characters"] = {name: len(s) for name, s in (("real", real), ("glyphs", glyphs)) if s is not None}
    state = TrainingState(config, net)

    def write_metrics() -> None:
        metrics = {"config": identity, "history": state.history, "validation": state.validation, **provenance}
        write_atomically(out / METRICS, json.dumps(metrics))

    saved = first_checkpoint(processes, checkpoint, identity)
    if saved:
        continue_from(state, checkpoint, saved)
        if processes.first:
            write_metrics()  # a kill between the two files leaves those of an earlier step
    processes.same([*state.net.parameters(), *state.average.parameters()])
    if on_start:
        on_start(state)

    def save(state: TrainingState) -> Path:
        if not processes.first:
            return checkpoint
        save_checkpoint(checkpoint, state.tensors(), identity, state.progress())
        write_metrics()
        return checkpoint

    trained = meta_train(
        state,
        real,
        glyphs,
        held_out,
        on_step=on_step,
        save=save,
        save_every=save_every,
        stop=stop,
        last_saved=checkpoint if saved else None,
        processes=processes,
    )
    if not processes.first:
        return trained, state
    training = {
        **provenance,
        **identity,
        "alphabets": [name for s in (real, glyphs) if s is not None for name in s.alphabet_names],
        "precision": config.precision.bits,
        "steps": config.steps,
        "seed": config.seed,
        "validation": state.validation[-1] if state.validation else None,
        "readout_w_max": _readout_scale(trained, config, held_out),
    }
    save_fewshot(out / WEIGHTS, trained, training)
    return trained, state


def _named(config: TrainingConfig) -> dict[str, Any]:
    """The configuration as JSON; what came later only where it is chosen, so that runs from before it go on."""
    named = dataclasses.asdict(config)
    if config.precision.noise_model is None:
        del named["precision"]["noise_model"]
    return named


def read_metrics(run: Path) -> dict[str, Any]:
    """The metrics of a run's folder: ``history`` [{step, loss, accuracy}] and ``validation`` [{step, accuracy, ci95}].

    Raises: DataError: not the folder of a run.
    """
    try:
        metrics = json.loads((run / METRICS).read_text())
        return {"history": list(metrics["history"]), "validation": list(metrics["validation"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{run}: no readable {METRICS} of a training run ({error!r})") from error


def _readout_scale(net: FewshotCNN, config: TrainingConfig, characters: CharacterSet) -> float:
    """Full scale of the read-out's array: its grid's range, or the largest |w| as 200 held-out tasks are learned."""
    if config.precision.bits != 32:
        return config.precision.readout_range
    spec = replace(config.episode, rotate=False, mirror=False)
    learner = software_learner(net, precision=config.precision, seed=config.seed)
    outcomes = run_tasks(learner, characters, spec, 200, seed=config.seed)
    return max(float(outcome.weights.abs().max()) for _, outcome in outcomes)


def _starting_network(source: str) -> tuple[FewshotCNN, dict[str, Any]]:
    """The network that ``source`` names, as ``resolve_fewshot`` finds it, or that of the last step of a checkpoint."""
    weights = checkpoint_weights(source, FEWSHOT)
    if weights is None:
        return resolve_fewshot(source)
    return fewshot_from(weights), dict(origin(source, weights.path))


def _take_over(net: FewshotCNN, start: FewshotCNN, source: str) -> None:
    """Copy kernels and read-out, which of another number of classes becomes their mean; inner rates stay the run's."""
    if (start.config.channels, start.config.blocks) != (net.config.channels, net.config.blocks):
        raise ConfigError(
            f"{source}: {start.config.blocks} blocks of {start.config.channels} channels, the run has "
            f"{net.config.blocks} of {net.config.channels}"
        )
    with torch.no_grad():
        for conv, kernel in zip(net.convs, start.conv_weights(), strict=True):
            conv.weight.copy_(kernel)  # type: ignore[operator]
        net.readout.weight.copy_(start.initial_readout(net.config.n_way))
