"""A user's model as it was read, what is to be done with it, and the samples that it is run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ovonic.adapters.samples import Samples
from ovonic.models.device_model import DeviceModel
from ovonic.models.errors import ConfigError, DataError, nearest
from ovonic.models.layers import Readout, Spiking
from ovonic.models.network import Network
from ovonic.validation.comparison import poisson_inputs
from ovonic.validation.gradients import REFERENCES

__all__ = ["DECISIONS", "PARTS", "Given", "OnStep", "Settings", "Subject", "given_to_module", "given_to_network"]

PARTS = ("dynamics", "gradients", "hardware")
DECISIONS = ("mean", "last", "spikes")
"""How a network's class is read: the read-out that is largest on average, or in the last step; most spikes."""

type OnStep = Callable[..., None]
"""Told of a step just finished."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A user's model.

    Attributes:
        source: as the user names it. kind: in words.
        network: its description; None: it has none. refused: why not; "" of a module without spiking neurons.
        module: the torch module itself, in eval mode or as it was given; None: the source is a description.
        conventions: what was chosen in reading, a line each.
        described_by: "reader": the description was read from the module; "file": it stands beside it.
    """

    source: str
    kind: str
    network: Network | None = None
    module: nn.Module | None = None
    refused: str = ""
    conventions: tuple[str, ...] = ()
    described_by: str = "reader"


@dataclass(frozen=True, eq=False)
class Settings:
    """What is to be done.

    Attributes:
        skip: of ``PARTS``. toolchains: names, or "all"; references: of ``gradients.REFERENCES``.
        steps, rate, samples: of random inputs; steps also how long a sample without time is shown.
        compared: how many samples at most run on every toolchain; deployed: on chips.
        noise_models: by name. chips: draws of all devices. read_times_s: since programming, rising.
        decide: of ``DECISIONS``; None: by what the network has. input_shape: of random samples of a module without a
            description, where its first layer leaves it open. seed: of every draw.
    """

    skip: tuple[str, ...] = ()
    toolchains: str | tuple[str, ...] = "all"
    steps: int = 200
    rate: float = 0.1
    samples: int = 8
    compared: int = 2
    deployed: int = 256
    noise_models: Mapping[str, DeviceModel] = field(default_factory=dict)
    chips: int = 5
    read_times_s: tuple[float, ...] = (0.0,)
    decide: str | None = None
    input_shape: tuple[int, ...] | None = None
    references: tuple[str, ...] = REFERENCES
    seed: int = 0

    @property
    def most(self) -> int:
        """Samples that are used at all."""
        return max(self.compared, self.deployed)


@dataclass(frozen=True, eq=False)
class Given:
    """What a model is run on.

    Attributes:
        inputs: by name, [B, T, *shape], float64; of a module without a description [B, *shape], by "".
        labels, targets: of each sample. origin: in words. constant: a sample without time, shown in every step.
        random: nobody gave it. available: samples that there are, of which these are the first.
    """

    inputs: Mapping[str, Tensor]
    origin: str
    labels: Tensor | None = None
    targets: Tensor | None = None
    constant: bool = False
    random: bool = False

    available: int = 0

    @property
    def count(self) -> int:
        """Samples."""
        return len(next(iter(self.inputs.values())))

    @property
    def steps(self) -> int:
        """Steps."""
        return next(iter(self.inputs.values())).shape[1]


def given_to_network(network: Network, samples: Samples | None, settings: Settings) -> Given:
    """The samples as inputs of a network, or random ones.

    Raises: DataError: naming file, input and layer: they do not fit.
    """
    if samples is None:
        random = poisson_inputs(network, settings.steps, settings.rate, settings.samples, settings.seed)
        origin = f"random spikes, seed {settings.seed}"
        return Given(random, origin, random=True, available=settings.samples)
    names = network.inputs
    arrays = dict(samples.inputs)
    if list(arrays) == [""] and len(names) == 1:
        arrays = {names[0]: arrays[""]}
    if set(arrays) != set(names):
        due = ", ".join(f"'inputs.{name}'" for name in names)
        strange = next((name for name in arrays if name and name not in names), None)
        hint = f"{strange!r} is no input: {nearest(strange, names)}" if strange else f"due are {due}"
        raise DataError(f"{samples.source}: the network has {len(names)} inputs: {hint}")
    found: dict[str, Tensor] = {}
    constant, most = False, settings.most
    for name, array in arrays.items():
        shape, x = network.shapes[name], torch.from_numpy(array)
        x = x.unsqueeze(0) if samples.table else x
        rank, sized = x.ndim - len(shape), tuple(x.shape[x.ndim - len(shape) :]) == tuple(shape)
        if not sized or rank not in (1, 2):
            raise DataError(f"{samples.source}: {_misfit(network, name, tuple(array.shape), samples.table)}")
        constant |= rank == 1
        available, x = len(x), x[:most]
        found[name] = x if rank == 2 else x.unsqueeze(1).expand(len(x), settings.steps, *shape)
    lengths = {name: x.shape[1] for name, x in found.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {steps}" for name, steps in lengths.items())
        raise DataError(f"{samples.source}: inputs of different steps: {listed}")
    given = Given(found, samples.source, *_aims(samples), constant, available=available)
    _check_aims(network, given, settings)
    return _first(given, most)


def given_to_module(module: nn.Module, samples: Samples | None, settings: Settings, steps: bool = False) -> Given:
    """The samples as inputs of a module without a description, or random ones, with an axis of ``steps`` or without.

    Raises: DataError: they do not fit. ConfigError: random ones, of a shape that nobody tells.
    """
    if samples is None:
        first = next((part for part in module.modules() if isinstance(part, nn.Linear)), None)
        earlier = next((p for p in module.modules() if isinstance(p, nn.Linear | nn.Conv1d | nn.Conv2d)), None)
        shape = settings.input_shape
        if shape is None and first is not None and first is earlier:
            shape = (first.in_features,)
        if shape is None:
            raise ConfigError("random inputs: the first layer leaves their shape open: give --input-shape, or --data")
        generator = torch.Generator().manual_seed(settings.seed)
        lead = (settings.samples, settings.steps) if steps else (settings.samples,)
        drawn = torch.rand(*lead, *shape, generator=generator, dtype=torch.float64) < settings.rate
        origin = f"random zeros and ones, seed {settings.seed}"
        return Given({"": drawn.double()}, origin, random=True, available=settings.samples)
    if list(samples.inputs) != [""]:
        raise DataError(f"{samples.source}: holds inputs by name; a torch module takes one array, 'inputs'")
    x = torch.from_numpy(samples.inputs[""])
    return _first(Given({"": x}, samples.source, *_aims(samples), available=len(x)), settings.most)


def _aims(samples: Samples) -> tuple[Tensor | None, Tensor | None]:
    labels = None if samples.labels is None else torch.from_numpy(samples.labels)
    return labels, None if samples.targets is None else torch.from_numpy(samples.targets)


def _first(given: Given, most: int) -> Given:
    """The first samples alone."""
    labels, targets = (None if x is None else x[:most] for x in (given.labels, given.targets))
    inputs = {name: x[:most] for name, x in given.inputs.items()}
    return replace(given, inputs=inputs, labels=labels, targets=targets)


def _misfit(network: Network, name: str, shape: tuple[int, ...], table: bool) -> str:
    readers = [edge.target for edge in network.edges if edge.source == name]
    sizes = ", ".join(map(str, network.shapes[name]))
    due = f"[steps, {sizes}]" if table else f"[samples, steps, {sizes}] or [samples, {sizes}]"
    return f"inputs of shape {shape}, where layer {readers[0]!r} reads {sizes} values in a step: {due} is due"


def _check_aims(network: Network, given: Given, settings: Settings) -> None:
    """Refuse labels beyond the network's classes, and targets that no read-out has."""
    if given.labels is not None:
        decide, layer = decision(network, settings.decide)
        classes, largest = math.prod(network.shapes[layer]), int(given.labels.max())
        if largest >= classes:
            what = "spiking layer" if decide == "spikes" else "read-out"
            raise DataError(f"{given.origin}: label {largest}, where {what} {layer!r} has classes 0 to {classes - 1}")
    if given.targets is not None:
        if len(network.readouts) != 1:
            raise DataError(
                f"{given.origin}: targets, and the network has {len(network.readouts)} read-outs; one is due "
                "(--readouts names neurons of snnTorch whose membrane is read)"
            )
        (readout,) = network.readouts
        due = (given.available, given.steps, *network.shapes[readout])
        if tuple(given.targets.shape) != due:
            raise DataError(
                f"{given.origin}: targets of {tuple(given.targets.shape)}, where read-out {readout!r} gives {due}"
            )


def decision(network: Network, decide: str | None) -> tuple[str, str]:
    """How the class of a sample is read from a run, and of which layer.

    Raises: ConfigError: an unknown way, or a network without such a layer.
    """
    if decide not in (None, *DECISIONS):
        raise ConfigError(f"--decide {decide}: {nearest(str(decide), DECISIONS)}")
    if decide == "spikes" or (decide is None and not network.readouts):
        if not network.spiking:
            raise ConfigError("--decide: the network has neither read-outs nor spiking layers")
        return "spikes", _last(network, Spiking)
    if not network.readouts:
        raise ConfigError(f"--decide {decide}: the network has no read-outs: choose spikes, or name some by --readouts")
    return decide or "mean", _last(network, Readout)


def _last(network: Network, kind: type[Any]) -> str:
    return network.names(kind)[-1]


def sizes_of(network: Network) -> dict[str, int]:
    """Neurons, read-outs and weights of a network."""
    return {
        "neurons": sum(math.prod(network.shapes[name]) for name in network.spiking),
        "outputs": sum(math.prod(network.shapes[name]) for name in network.readouts),
        "weights": sum(array.size for array in network.weights().values()),
    }
