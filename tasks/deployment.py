"""A user's own trained network on the crossbar: its accuracy over chips, beside software, and what it costs.

    deployed = ovonic.deploy(module, data=train_inputs, noise_model="hermes", chips=10)
    print(deployed.layout)
    deployed.accuracy(test_inputs, test_labels)      # {"accuracy": .., "software": .., "difference": .., "chips": ..}
    deployed.modules[0](x)                           # one chip's own copy of the module
    deployed.advance(86400)                          # a day later

The full scale of each layer's DAC is the largest input that ``data`` brings it, times ``headroom``, or given by
``input_ranges``; what is larger later saturates. That of the weights is max |w| of the layer or of each column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_loads import loads_of
from ovonic.adapters.crossbar_mapping import layout_of
from ovonic.adapters.crossbar_modules import check_layout, on_chip, placed_weights
from ovonic.adapters.crossbar_placed import PlacedChip
from ovonic.models.accounting import Estimate, estimate
from ovonic.models.chip import SimulatedChip
from ovonic.models.device_faults import Faults
from ovonic.models.driver import Driver
from ovonic.models.energy import Costs
from ovonic.models.errors import ConfigError
from ovonic.models.experiment_counts import inference_counts, programming_counts, twin_counts
from ovonic.models.pcm import DeviceModel, device_model
from ovonic.models.periphery import Periphery
from ovonic.models.seeds import derive_seed
from ovonic.models.verify import Verify
from ovonic.tasks.statistics import crossed_interval, interval

__all__ = ["Deployment", "deploy", "largest_output"]

Predict = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Deployment:
    """A module on chips.

    Attributes:
        module: in software. layout: where its weights lie.
        placed: each chip, programmed. modules: each chip's copy of the module, in eval mode.
        periphery: of the chips, for the phases of a read.
    """

    module: nn.Module
    layout: Layout
    placed: tuple[PlacedChip, ...]
    modules: tuple[nn.Module, ...]
    periphery: Periphery

    def advance(self, seconds: float) -> None:
        """Let time pass on every chip.

        Raises: ConfigError: negative or not finite.
        """
        for chip in self.placed:
            chip.advance(seconds)

    def accuracy(
        self, inputs: Tensor, labels: Tensor, *, predict: Predict | None = None, batch: int = 256
    ) -> dict[str, Any]:
        """Share of right answers on every chip, beside software on the same inputs.

        Args:
            inputs: samples on axis 0; labels: [samples].
            predict: from the module's output to classes [samples]; default ``largest_output``.
            batch: samples at a time.
        Returns: ``accuracy`` over chips crossed with samples, ``software``, their ``difference`` (a chip's minus
            software's), each with its mean and 95 % half-width; of the ``chips`` n, sd and the worst's accuracy;
            ``per_chip``.
        Raises: ConfigError: labels that do not fit, or an output that needs a ``predict``.
        """
        if labels.shape != inputs.shape[:1] or not len(labels):
            raise ConfigError(f"labels {tuple(labels.shape)}: [{len(inputs)}] are due, one a sample")
        judge = partial(_right, inputs=inputs, labels=labels, predict=predict or largest_output, batch=batch)
        software = judge(self.module)
        table = np.stack([judge(module) for module in self.modules])
        chips = table.mean(axis=1)
        return {
            "accuracy": crossed_interval(table),
            "software": interval(software),
            "difference": crossed_interval(table - software),
            "chips": {
                "n": len(chips),
                "sd": float(chips.std(ddof=1)) if len(chips) > 1 else None,
                "worst": float(chips.min()),
            },
            "per_chip": [float(chip) for chip in chips],
        }

    def energy(self, costs: Costs | None = None) -> dict[str, Estimate]:
        """Energy and time as ranges: ``inference`` of one sample, the digital ``twin`` of it, and the ``deployment``,
        programming every weight once. A sample brings each layer as many vectors as the layout says."""
        loads = [
            replace(load, phases=sum(self.periphery.phases(kind) for kind in kinds) / len(kinds))
            for load, kinds in zip(loads_of(self.layout), self._inputs(), strict=True)
        ]
        counts = {
            "inference": inference_counts(loads),
            "twin": twin_counts(loads),
            "deployment": programming_counts(loads),
        }
        return {name: estimate(part, costs) for name, part in counts.items()}

    def _inputs(self) -> list[list[str]]:
        return [[self.layout.layer(name).inputs for name in group] for group in self.layout.groups]


def deploy(
    module: nn.Module,
    layout: Layout | None = None,
    noise_model: str | DeviceModel = "pcm",
    *,
    data: Any = None,
    chips: int = 10,
    seed: int = 0,
    read_time_s: float = 0.0,
    input_ranges: Mapping[str, float] | None = None,
    headroom: float = 1.0,
    scale: str = "column",
    split: str = "fill",
    periphery: Periphery | None = None,
    verify: Verify | None = None,
    faults: Faults | None = None,
    rows: int = 256,
    columns: int = 256,
    drivers: Sequence[Driver] | None = None,
) -> Deployment:
    """Program a trained module into chips.

    Args:
        module: any torch module whose weights belong to nn.Linear, nn.Conv1d and nn.Conv2d, spiking ones of snnTorch
            or Norse included; it stays as it is.
        layout: where the weights go (``adapters.crossbar_mapping.layout_of``); None: made here, from
        data: input to the module, samples on axis 0 (a tuple: its arguments), which is run once in software to see
            what drives each layer (spikes or values, of one sign or both, and how large);
        input_ranges: the DAC's full scale by name of weight (``"fc.weight"``), in place of what is seen;
        headroom: factor on the ranges that are seen; scale: full scale of weights by ``"column"`` or ``"layer"``;
        rows, columns: size of an array.
        noise_model: a name of ``models.pcm.DEVICE_MODELS`` or a device model.
        chips: how many draws of all devices; seed: of all draws. read_time_s: seconds since programming.
        split: how a weight fills two devices; periphery: converters and noise; verify: program-and-verify; faults:
            stuck and uneven devices.
        drivers: chips of your own, in place of simulated ones.
    Raises: ConfigError: neither layout nor data nor input_ranges; options or a layout that do not fit.
        UnsupportedDynamics: names a module whose weights cannot be placed.
    """
    if not 0 < headroom < float("inf"):
        raise ConfigError(f"headroom {headroom}: must be positive and finite")
    weights = placed_weights(module)
    if layout is None:
        layout = _layout(module, list(weights), data, input_ranges, headroom, scale, rows, columns)
    check_layout(layout, module)
    model = device_model(noise_model) if isinstance(noise_model, str) else noise_model
    periphery = periphery or Periphery()
    if periphery.compensation:
        raise ConfigError(f"compensation {periphery.compensation!r}: chips of a deployment drift uncompensated")
    if drivers is None:
        if chips < 1:
            raise ConfigError(f"chips {chips}: at least 1")
        size = {side: max(getattr(array, side) for array in layout.arrays) for side in ("rows", "columns")}
        drivers = [
            SimulatedChip(
                len(layout.arrays),
                model,
                periphery,
                seed=derive_seed(seed, "chip", number),
                verify=verify,
                faults=faults,
                **size,
            )
            for number in range(chips)
        ]
    placed = tuple(PlacedChip.program(layout, weights, driver, split) for driver in drivers)
    deployment = Deployment(module, layout, placed, tuple(on_chip(module, chip) for chip in placed), periphery)
    if read_time_s:
        deployment.advance(read_time_s)
    return deployment


def largest_output(output: Any) -> Tensor:
    """The class of the largest of a sample's outputs, [samples, classes] -> [samples].

    Raises: ConfigError: an output of another shape.
    """
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(f"output {shape}: give predict, which turns it into one class a sample")
    return output.argmax(dim=-1)


def _layout(
    module: nn.Module,
    names: Sequence[str],
    data: Any,
    input_ranges: Mapping[str, float] | None,
    headroom: float,
    scale: str,
    rows: int,
    columns: int,
) -> Layout:
    given = dict(input_ranges or {})
    if data is None and (missing := [name for name in names if name not in given]):
        raise ConfigError(
            f"input range of layer {missing[0]!r}: unknown; give data, which shows what drives it, or input_ranges"
        )
    make = partial(layout_of, module, scale=scale, example=data, rows=rows, columns=columns)
    seen = make(input_ranges=given)
    if headroom == 1:
        return seen
    wider = {x.name: x.input_range * headroom for x in seen.layers if x.name not in given and x.inputs != "binary"}
    return make(input_ranges=given | wider)


@torch.no_grad()
def _right(module: nn.Module, inputs: Tensor, labels: Tensor, predict: Predict, batch: int) -> np.ndarray[Any, Any]:
    """Which samples are classified rightly, [samples] 0 or 1."""
    training = module.training
    module.eval()
    found = [predict(module(part)) for part in inputs.split(batch)]
    module.train(training)
    classes = torch.cat([part.reshape(-1) for part in found])
    if classes.shape != labels.shape:
        raise ConfigError(f"predict gave {len(classes)} classes for {len(labels)} samples")
    return (classes == labels).double().numpy()
