"""A user's model on simulated phase-change memory, beside software on the same samples.

A network runs by its description with its products formed by chips: spikes and read-outs layer by layer. A module
without spiking neurons runs as it is, with its linear layers and convolutions on chips (``tasks.deployment``): outputs.

    Jaccard       spikes of both over spikes of either, of a chip's run and software's; 1 where neither spikes
    error         root mean square of chip - software, over that of software, of a sample's read-out or output
    weight error  root mean square of held - asked weights over that of the weights asked

Intervals are over chips crossed with samples, those of weights over chips. Every full scale of a DAC is the largest
magnitude that the samples bring the layer in software; of weights, the largest of each column.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_mapping import layout_of
from ovonic.adapters.crossbar_modules import on_chip, placed_weights
from ovonic.adapters.crossbar_placed import PlacedChip
from ovonic.adapters.snntorch_following import kept
from ovonic.models.chip import SimulatedChip
from ovonic.models.device_model import DeviceModel
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.layers import Conv, Linear
from ovonic.models.network import Network
from ovonic.models.periphery import Periphery
from ovonic.models.seeds import derive_seed
from ovonic.models.simulation import run, stateless
from ovonic.models.trace import Trace
from ovonic.tasks.statistics import crossed_interval, interval, loss_ratio
from ovonic.validation.own_subject import OnStep, Settings, decision

__all__ = ["Hardware", "measure_module", "measure_network"]

Array = NDArray[np.float64]
Runs = dict[str, Array]
"""What a chip's run gave, by name of the measure, one number a sample."""


@dataclass(frozen=True, eq=False)
class Hardware:
    """What was measured: the layout, and a condition for each noise model and read time, JSON values."""

    layout: Layout
    conditions: tuple[dict[str, Any], ...]
    samples: int
    decide: str | None = None

    def figures(self) -> dict[str, Any]:
        """JSON values: arrays, layers, conditions."""
        return {
            "samples": self.samples,
            "decide": self.decide,
            "arrays": len(self.layout.arrays),
            "cells": sum(array.rows * array.columns for array in self.layout.arrays),
            "weights": self.layout.n_weights,
            "fill": self.layout.fill,
            "digital": list(self.layout.digital),
            "layers": [
                {
                    "name": layer.name,
                    "rows": layer.shape[0],
                    "columns": layer.shape[1],
                    "inputs": layer.inputs,
                    "input_range": layer.input_range,
                    "w_max_low": min(layer.w_max),
                    "w_max_high": max(layer.w_max),
                    "phases": layer.phases,
                    "arrays": len({block.array for block in self.layout.blocks_of(layer.name)}),
                }
                for layer in self.layout.layers
            ],
            "conditions": list(self.conditions),
        }


def measure_network(
    network: Network,
    inputs: Mapping[str, Tensor],
    settings: Settings,
    on_step: OnStep,
    labels: Tensor | None = None,
    targets: Tensor | None = None,
) -> Hardware:
    """Program a network into chips and run the samples on each.

    Args: inputs: [B, T, *shape] by name; labels [B]; targets [B, T, O].
    Raises: UnsupportedDynamics, ConfigError: a network that cannot be placed, by name.
    """
    x = {name: value[: settings.deployed].float() for name, value in inputs.items()}
    count = len(next(iter(x.values())))
    layout = _network_layout(network, x)
    weights = {name: torch.tensor(array, dtype=torch.float32) for name, array in network.weights().items()}
    decide = None if labels is None else decision(network, settings.decide)
    aims = _aims(labels, targets, count)
    with torch.no_grad():
        software = run(network, x)

    def judge(trace: Trace) -> Runs:
        found = {f"jaccard {name}": _jaccard(trace[name].spikes, software[name].spikes) for name in network.spiking}
        found |= {f"rate {name}": _rate(trace, name) for name in network.spiking}
        for name in network.readouts:
            found[f"error {name}"] = _error(trace.readouts[name], software.readouts[name])
        if decide is not None:
            found["right"] = (_classes(trace, *decide) == aims["labels"]).double().numpy()
        if targets is not None:
            (readout,) = network.readouts
            found["mse"] = _mse(trace.readouts[readout], aims["targets"])
        return found

    def on(chip: PlacedChip) -> Runs:
        with torch.no_grad():
            return judge(run(network, x, weights=chip.trial()))

    conditions = _conditions(
        layout, weights, settings, judge(software), lambda chip: functools.partial(on, chip), on_step
    )
    return Hardware(layout, tuple(conditions), count, None if decide is None else " ".join(decide))


def measure_module(
    module: nn.Module,
    x: Tensor,
    settings: Settings,
    on_step: OnStep,
    labels: Tensor | None = None,
    targets: Tensor | None = None,
) -> Hardware:
    """Program a module's linear layers and convolutions into chips and run it on the samples.

    Args: x: [B, *shape]; labels [B]; targets as the module's output.
    Raises: UnsupportedDynamics, ConfigError: a weight that cannot be placed, by name. DataError: samples do not fit.
    """
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    x = x[: settings.deployed].to(like)
    weights = placed_weights(module)
    software = _output(module, x)
    layout = layout_of(module, scale="column", example=x)
    aims = _aims(labels, targets, len(x))
    if labels is not None and software.ndim != 2:
        raise DataError(f"labels, and the module gives {tuple(software.shape)}: [samples, classes] is due")
    if labels is not None and int(labels.max()) >= software.shape[1]:
        raise DataError(f"label {int(labels.max())}, where the module gives classes 0 to {software.shape[1] - 1}")
    if targets is not None and aims["targets"].shape != software.shape:
        raise DataError(f"targets of {tuple(targets.shape)}, where the module gives {tuple(software.shape)}")

    def judge(output: Tensor) -> Runs:
        found = {"error output": _error(output, software)}
        if labels is not None:
            found["right"] = (output.argmax(1) == aims["labels"]).double().numpy()
        if targets is not None:
            found["mse"] = _mse(output, aims["targets"])
        return found

    def on(chip: PlacedChip) -> Callable[[], Runs]:
        placed = on_chip(module, chip)
        return lambda: judge(_output(placed, x))

    conditions = _conditions(layout, weights, settings, judge(software), on, on_step)
    return Hardware(layout, tuple(conditions), len(x), None if labels is None else "largest output")


def _conditions(
    layout: Layout,
    weights: Mapping[str, Tensor],
    settings: Settings,
    software: Runs,
    on: Callable[[PlacedChip], Callable[[], Runs]],
    on_step: OnStep,
) -> list[dict[str, Any]]:
    """Every noise model at every read time: chips are programmed once and grow old."""
    conditions = []
    for name, model in settings.noise_models.items():
        chips = [_chip(layout, weights, model, derive_seed(settings.seed, "chip", k)) for k in range(settings.chips)]
        running = [on(chip) for chip in chips]
        age = 0.0
        for read_time in settings.read_times_s:
            tables: dict[str, list[Array]] = {}
            errors: list[dict[str, float]] = []
            for chip, call in zip(chips, running, strict=True):
                if read_time > age:
                    chip.advance(read_time - age)
                for measure, values in call().items():
                    tables.setdefault(measure, []).append(values)
                errors.append(_weight_errors(chip, weights))
                on_step()
            age = read_time
            head = {"noise_model": name, "read_time_s": read_time, "g_max_us": model.g_max_us, "chips": len(chips)}
            stacked = {measure: np.stack(values) for measure, values in tables.items()}
            conditions.append(head | _condition(stacked, software, errors, settings.seed))
    return conditions


def _condition(
    tables: Mapping[str, Array], software: Runs, errors: list[dict[str, float]], seed: int
) -> dict[str, Any]:
    """Tables [chips, samples] as intervals, beside software."""
    layers: dict[str, dict[str, Any]] = {}
    outputs = []
    found: dict[str, Any] = {}
    for measure, table in tables.items():
        kind, _, name = measure.partition(" ")
        if kind == "jaccard":
            layers.setdefault(name, {"name": name})["jaccard"] = crossed_interval(table)
        elif kind == "rate":
            layers.setdefault(name, {"name": name})["rate_hz"] = crossed_interval(table)
            layers[name]["software_rate_hz"] = interval(software[measure])
        elif kind == "error":
            outputs.append({"name": name, "error": crossed_interval(table)})
        else:
            paired = {
                "hardware": crossed_interval(table),
                "software": interval(software[measure]),
                "difference": crossed_interval(table - software[measure]),
                "worst_chip": float(table.mean(1).min() if kind == "right" else table.mean(1).max()),
            }
            if kind == "mse":
                paired["ratio"] = loss_ratio(table, software[measure], seed=seed)
            found["accuracy" if kind == "right" else "mse"] = paired
    held = [{"name": name, "error": interval([chip[name] for chip in errors])} for name in errors[0]]
    return {"layers": list(layers.values()), "outputs": outputs, "weights": held} | found


def _chip(layout: Layout, weights: Mapping[str, Tensor], model: DeviceModel, seed: int) -> PlacedChip:
    size = {side: max(getattr(array, side) for array in layout.arrays) for side in ("rows", "columns")}
    driver = SimulatedChip(len(layout.arrays), model, Periphery(), seed=seed, **size)
    return PlacedChip.program(layout, weights, driver)


def _network_layout(network: Network, x: Mapping[str, Tensor]) -> Layout:
    """The layout, with the kind and the full scale of what the samples bring every layer."""
    seen: dict[str, tuple[float, float, bool]] = {}

    def watching(name: str, layer: Linear | Conv) -> Callable[[Tensor], Tensor]:
        weight = torch.tensor(layer.weight, dtype=torch.float32)

        def product(u: Tensor) -> Tensor:
            low, high, binary = seen.get(name, (0.0, 0.0, True))
            ones = bool(((u == 0) | (u == 1)).all())
            seen[name] = min(low, float(u.min())), max(high, float(u.max())), binary and ones
            if isinstance(layer, Linear):
                return u @ weight
            return stateless(u.unsqueeze(0), layer, weight, None, torch.matmul).squeeze(0)

        return product

    placed = {n: layer for n, layer in network.layers.items() if isinstance(layer, Linear | Conv)}
    with torch.no_grad():
        run(network, x, weights={f"{n}.weight": watching(f"{n}.weight", layer) for n, layer in placed.items()})
    kinds = {name: "binary" if b else "unsigned" if low >= 0 else "signed" for name, (low, _, b) in seen.items()}
    tops = {name: max(-low, high) or 1.0 for name, (low, high, binary) in seen.items() if not binary}
    return layout_of(network, scale="column", inputs=kinds, input_ranges=tops)


def _aims(labels: Tensor | None, targets: Tensor | None, count: int) -> dict[str, Any]:
    return {
        "labels": None if labels is None else labels[:count],
        "targets": None if targets is None else targets[:count].double(),
    }


@torch.no_grad()
def _output(module: nn.Module, x: Tensor) -> Tensor:
    """What a module in eval mode gives, [B, ..].

    Raises: DataError: naming the layer that does not take what reaches it. ConfigError: no tensor with a row a sample.
    """
    reached: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    handles = [
        part.register_forward_pre_hook(
            lambda part, args, name=name: reached.append((name, part, tuple(args[0].shape))) if args else None
        )
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    training = module.training
    try:
        with kept(module):
            output = module.eval()(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        name, part, shape = reached[-1] if reached else ("", module, tuple(x.shape))
        takes = {"in_features": "inputs", "in_channels": "channels"}
        due = next(
            (f"{getattr(part, key)} {word}" for key, word in takes.items() if hasattr(part, key)), "something else"
        )
        why = " ".join(str(error).split())[:160]
        raise DataError(
            f"inputs of {tuple(x.shape)}: layer {name or type(part).__name__!r} takes {due} and gets {shape} ({why})"
        ) from error
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    if not isinstance(output, Tensor) or output.shape[:1] != x.shape[:1]:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(f"the module gives {given}, where a tensor with a row for each of {len(x)} samples is due")
    return output


def _jaccard(a: Tensor, b: Tensor) -> Array:
    both = ((a > 0) & (b > 0)).flatten(1).sum(1).double()
    either = ((a > 0) | (b > 0)).flatten(1).sum(1).double()
    found: Array = torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both)).numpy()
    return found


def _rate(trace: Trace, name: str) -> Array:
    found: Array = (trace[name].spikes.flatten(1).double().mean(1) * (1000 / trace.dt_ms)).numpy()
    return found


def _error(hardware: Tensor, software: Tensor) -> Array:
    gap, size = ((x.flatten(1).double().square().mean(1).sqrt()) for x in (hardware - software, software))
    found: Array = torch.where(size > 0, gap / size.clamp_min(1e-300), gap).numpy()
    return found


def _mse(output: Tensor, targets: Tensor) -> Array:
    found: Array = (output.double() - targets).flatten(1).square().mean(1).numpy()
    return found


def _classes(trace: Trace, decide: str, layer: str) -> Tensor:
    if decide == "spikes":
        return trace[layer].spikes.sum(1).flatten(1).argmax(1)
    y = trace.readouts[layer]
    return (y[:, -1] if decide == "last" else y.mean(1)).flatten(1).argmax(1)


def _weight_errors(chip: PlacedChip, weights: Mapping[str, Tensor]) -> dict[str, float]:
    found = {}
    for name, held in chip.weights().items():
        asked = weights[name].double()
        if chip.layout.layer(name).masked_diagonal:
            off = 1 - torch.eye(len(asked), dtype=asked.dtype)
            asked, held = asked * off, held.double() * off
        size = float(asked.square().mean().sqrt())
        gap = float((held.double().reshape(asked.shape) - asked).square().mean().sqrt())
        found[name] = gap / size if size else gap
    return found
