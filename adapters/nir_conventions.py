"""Conventions: what a NIR graph leaves open, said by name, so that it can be read as a network.

NIR has no time step, no subtracted threshold, no implicit delay of a cycle, and its importers and exporters each have
habits of their own. A convention states all of it; what neither the file nor the convention says, the caller tells
(``reset``, ``dt_ms``), or reading stops with the choices. All conventions share: spikes where v > v_threshold; nodes
act in the order of their edges within a step; a cycle takes one step (``nir_cycles``); a Delay of whole steps.

    nir-exact       NIR's equations solved exactly over a step (``NirExact``)
    nir-euler       NIR's equations by a forward Euler step (``NirEuler``)
    snntorch-1.0    as snnTorch 1.0 writes and reads (``nir_snntorch``)
    norse-1.1       as Norse 1.1 writes or reads, and ``-export``, ``-import`` (``nir_norse``)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ovonic.adapters.nir_graph import FIELDS, Node
from ovonic.models.dynamics import (
    Dynamics,
    NoReset,
    Reset,
    ResetToValue,
    SubtractThreshold,
    Synapse,
    When,
)
from ovonic.models.errors import ConfigError, DataError, nearest
from ovonic.models.layers import Layer, Readout, Spiking

__all__ = ["NEURONS", "Convention", "NirEuler", "NirExact", "positive"]

Shape = tuple[int, ...]
Values = NDArray[Any]

NEURONS = ("I", "LI", "CubaLI", "IF", "LIF", "CubaLIF", "Threshold")
"""The nodes that ``Convention.layer`` reads."""


@dataclass(frozen=True)
class Convention:
    """A way to read NIR graphs.

    Attributes:
        dt_ms: duration of a step; None: not told yet.
        reset: a word of ``resets``, or what it means; None: not told.
    """

    dt_ms: float | None = None
    reset: str | Reset | None = None

    name: ClassVar[str] = ""
    versions: ClassVar[str] = ""
    usual_dt_ms: ClassVar[float | None] = None
    fixed_dt: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = tuple(FIELDS)
    resets: ClassVar[Mapping[str, str]] = {}

    def told(self, reset: str | Reset | None, dt_ms: float | None) -> Self:
        """The convention with what the caller tells.

        Raises: DataError: dt_ms is not told and has no usual value, or is told against a fixed one; ConfigError: a
            reset that the convention does not know, a dt_ms that is none.
        """
        if isinstance(reset, str) and reset not in self.resets:
            raise ConfigError(f"reset {reset!r}: {nearest(reset, self.resets)}")
        if dt_ms is not None and not (np.isfinite(dt_ms) and dt_ms > 0):
            raise ConfigError(f"dt_ms {dt_ms}: must be positive")
        if dt_ms is None and self.usual_dt_ms is None:
            raise DataError(f"the duration of a step is not in the file, and {self.name} has none: tell dt_ms (--dt)")
        if self.fixed_dt and dt_ms not in (None, self.usual_dt_ms):
            raise DataError(
                f"dt_ms {dt_ms}: {self.name} has a step of {self.usual_dt_ms} ms, whatever one is told; leave it out, "
                "and replace the network's dt_ms if a step was meant to last otherwise"
            )
        return type(self)(self.usual_dt_ms if dt_ms is None else float(dt_ms), reset)

    def settled(self, nodes: Mapping[str, Node], version: str) -> Convention:
        """The convention for this graph: itself, unless it leaves a choice that the nodes decide."""
        return self

    def layer(self, name: str, node: Node, shape: Shape, recurrent: bool) -> Layer:
        """The layer of a neuron node of this shape.

        Raises: DataError: numbers that the convention does not take, or a reset that it has to be told.
        """
        if node.kind == "Threshold":
            threshold = self.number(name, node, "threshold", shape)
            return Spiking(Dynamics(0.0, threshold, reset=NoReset()))
        membrane = self.membrane(name, node, shape)
        if node.kind in ("I", "LI", "CubaLI"):
            return Readout(**membrane)
        threshold = membrane.pop("threshold", None)
        if threshold is None:
            threshold = self.number(name, node, "v_threshold", shape)
        return Spiking(Dynamics(threshold=threshold, reset=self.resets_by(name, node, shape, recurrent), **membrane))

    def membrane(self, name: str, node: Node, shape: Shape) -> dict[str, Any]:
        """decay, gain, rest, v_init and synapse of ``Dynamics``, and threshold if it is not the node's."""
        raise NotImplementedError

    def resets_by(self, name: str, node: Node, shape: Shape, recurrent: bool) -> Reset:
        """What a spike does to the membrane."""
        raise NotImplementedError

    def number(self, name: str, node: Node, field: str, shape: Shape) -> Values:
        """A field, one number a neuron, in its own type.

        Raises: DataError: not finite, or of another shape.
        """
        value = np.asarray(node[field])
        if value.dtype.kind != "f":
            value = value.astype(np.float64)
        if not np.isfinite(value).all():
            raise DataError(f"node {name!r}: {field} {value[~np.isfinite(value)].flat[0]} must be finite")
        try:
            return np.broadcast_to(value, shape)
        except ValueError:
            raise DataError(f"node {name!r}: {field} of shape {value.shape} for neurons of {shape}") from None

    def asked(self, name: str, why: str) -> DataError:
        """The error that lists the resets to choose from."""
        choices = "; ".join(f"{word!r}: {meaning}" for word, meaning in self.resets.items())
        return DataError(f"node {name!r}: {why}: tell reset (--reset), one of {choices}")


def positive(name: str, field: str, value: Values) -> Values:
    """A time constant that is one.

    Raises: DataError: zero or negative.
    """
    if not (value > 0).all():
        raise DataError(f"node {name!r}: {field} {value[~(value > 0)].flat[0]} must be positive")
    return value


@dataclass(frozen=True)
class NirExact(Convention):
    """NIR's equations (nir 1.0.8), solved exactly for a step in which the input stands still.

    LIF, LI: decay = exp(-dt/tau), gain = r (1 - decay), rest = v_leak, v = v_leak before the first step. IF, I: decay
    1, gain = r dt, v = 0 before. CubaLIF, CubaLI: the current i = exp(-dt/tau_syn) i + w_in (1 - exp(-dt/tau_syn)) S,
    and the membrane as of a LIF under that new current, which stands still for the step; i = 0 before.
    Reset: v = v_reset in the step of the spike, as NIR's equations say; a file without v_reset (older than nir 1.0)
    leaves open whether thresholds were subtracted, as does a v_reset of 0 from a tool that can say nothing else: then
    the caller may tell. dt is told. Comparison, order, cycles: as of all conventions.
    """

    name: ClassVar[str] = "nir-exact"
    versions: ClassVar[str] = "nir 1.0.8"
    resets: ClassVar[Mapping[str, str]] = {
        "zero": "the membrane becomes 0",
        "subtract": "the threshold is subtracted",
        "none": "the membrane does not notice its spikes",
    }

    def membrane(self, name: str, node: Node, shape: Shape) -> dict[str, Any]:
        assert self.dt_ms is not None
        dt = self.dt_ms / 1e3
        r = self.number(name, node, "r", shape).astype(np.float64)
        if node.kind in ("I", "IF"):
            return {"decay": 1.0, "gain": r * dt}
        cuba = node.kind.startswith("Cuba")
        decay, share = self.leak(name, node, "tau_mem" if cuba else "tau", shape, dt)
        rest = self.number(name, node, "v_leak", shape).astype(np.float64)
        found: dict[str, Any] = {"decay": decay, "gain": r * share, "rest": rest, "v_init": rest}
        if cuba:
            decay, share = self.leak(name, node, "tau_syn", shape, dt)
            w_in = self.number(name, node, "w_in", shape) if "w_in" in node.fields else 1.0
            found["synapse"] = Synapse(decay, w_in * share)
        return found

    def leak(self, name: str, node: Node, field: str, shape: Shape, dt: float) -> tuple[Values, Values]:
        """What is kept of a membrane or a current in a step, and the share of its input that it takes."""
        tau = positive(name, field, self.number(name, node, field, shape)).astype(np.float64)
        return np.exp(-dt / tau), -np.expm1(-dt / tau)

    def resets_by(self, name: str, node: Node, shape: Shape, recurrent: bool) -> Reset:
        given = node.fields.get("v_reset")
        said = None if given is None else self.number(name, node, "v_reset", shape).astype(np.float64)
        if self.reset is None:
            if said is None:
                raise self.asked(name, "its file does not say what a spike does to the membrane")
            return ResetToValue(said)
        if said is not None and said.any() and not _same(self.reset, said):
            raise DataError(
                f"node {name!r}: its file says that a spike sets the membrane to v_reset {said.flat[0]:.9g}, and reset "
                f"{self.reset!r} was told: leave reset out"
            )
        if isinstance(self.reset, Reset):
            return self.reset
        return {"zero": ResetToValue(0.0), "subtract": SubtractThreshold(When.SAME_STEP), "none": NoReset()}[self.reset]


@dataclass(frozen=True)
class NirEuler(NirExact):
    """NIR's equations (nir 1.0.8) by a forward Euler step of dt, which many simulators take.

    As ``NirExact``, but decay = 1 - dt/tau, gain = r dt/tau, and likewise of the current: i = (1 - dt/tau_syn) i +
    w_in dt/tau_syn S, and the membrane is driven by the new i. So the graphs of the NIR paper (Pedersen et al. 2024),
    with dt 0.1 ms and the reset in their files' names.
    """

    name: ClassVar[str] = "nir-euler"

    def leak(self, name: str, node: Node, field: str, shape: Shape, dt: float) -> tuple[Values, Values]:
        tau = positive(name, field, self.number(name, node, field, shape)).astype(np.float64)
        if (tau < dt).any():
            raise DataError(
                f"node {name!r}: {field} {tau.min():.9g} s is less than a step of {dt:.9g} s; tell a shorter dt"
            )
        return 1 - dt / tau, dt / tau


def _same(reset: str | Reset, said: Values) -> bool:
    return isinstance(reset, ResetToValue) and reset.when is When.SAME_STEP and bool(np.all(said == reset.v_reset))
