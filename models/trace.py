"""What a run of a network returns, from any toolchain: enough to compare runs and to learn from them by e-prop.

Everything of step t is what held at the comparison of that step (``models.dynamics``): the membrane v[t] before the
reset that its spike z[t] causes, r[t] the silent steps left including this one (a spike is barred where r[t] > 0), b[t]
the adaptation that raised the threshold A[t] = threshold + beta b[t].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

from torch import Tensor

from ovonic.models.errors import ConfigError

__all__ = ["LayerTrace", "Trace"]


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One spiking layer's run, all [B, T, *neurons].

    Attributes:
        spikes: z, 0 or 1, of the run's dtype.
        membrane: v before the reset.
        refractory: r, whole numbers; None where no neuron is ever refractory.
        adaptation: b; None without adaptation.
    """

    spikes: Tensor
    membrane: Tensor
    refractory: Tensor | None = None
    adaptation: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (value.shape != self.spikes.shape or value.ndim < 3):
                shapes = f"{tuple(value.shape)} beside spikes {tuple(self.spikes.shape)}"
                raise ConfigError(f"LayerTrace.{name}: shape {shapes}, all must be [batch, time, neurons]")

    def detach(self) -> Self:
        """The same numbers, without gradient."""
        refractory, adaptation = (None if x is None else x.detach() for x in (self.refractory, self.adaptation))
        return type(self)(self.spikes.detach(), self.membrane.detach(), refractory, adaptation)


@dataclass(frozen=True, eq=False)
class Trace:
    """A network's run.

    Attributes:
        layers: name -> ``LayerTrace`` of every spiking layer.
        readouts: name -> membrane of every leaky read-out, [B, T, O].
        inputs: name -> what came from outside, [B, T, *shape].
        dt_ms: duration of a step.
    """

    layers: Mapping[str, LayerTrace]
    readouts: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    dt_ms: float = 1.0

    def __post_init__(self) -> None:
        if not self.dt_ms > 0:
            raise ConfigError(f"Trace.dt_ms: {self.dt_ms} must be positive")
        extents = {f"layer {name!r}": tuple(layer.spikes.shape[:2]) for name, layer in self.layers.items()}
        for kind, tensors in (("read-out", self.readouts), ("input", self.inputs)):
            extents |= {f"{kind} {name!r}": tuple(tensor.shape[:2]) for name, tensor in tensors.items()}
        if len(set(extents.values())) > 1:
            listed = ", ".join(f"{name} {extent}" for name, extent in extents.items())
            raise ConfigError(f"Trace: batch and time differ: {listed}")
        for name in ("layers", "readouts", "inputs"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __getitem__(self, name: str) -> LayerTrace:
        return self.layers[name]

    @property
    def readout(self) -> Tensor:
        """The read-out of a network that has one.

        Raises: ConfigError: it has none, or several.
        """
        if len(self.readouts) != 1:
            raise ConfigError(f"Trace.readout: there are {len(self.readouts)}: name one of {list(self.readouts)}")
        return next(iter(self.readouts.values()))

    def rates_hz(self) -> dict[str, Tensor]:
        """Mean firing rate of every neuron over batch and time, [*neurons] Hz."""
        return {name: layer.spikes.mean((0, 1)) * (1000 / self.dt_ms) for name, layer in self.layers.items()}

    def detach(self) -> Self:
        """The same numbers, without gradient."""
        return type(self)(
            {name: layer.detach() for name, layer in self.layers.items()},
            {name: tensor.detach() for name, tensor in self.readouts.items()},
            {name: tensor.detach() for name, tensor in self.inputs.items()},
            self.dt_ms,
        )
