"""What Norse 1.1 makes of NIR: its habits as conventions to read by.

    NIR              Norse 1.1.0 writes (``to_nir``)          Norse 1.1.0 reads (``from_nir``)
    LIF              LIFBoxCell                               LIFBoxCell
    CubaLIF          LIFCell                                  an LIBoxCell, times r, before an LIFBoxCell
    IF               IAFCell                                  IAFCell
    LI               LIBoxCell                                nothing: the node is left out in silence
    tau              dt / tau_mem_inv: dt times the true one  1 / tau_mem_inv: the true one
    r, w_in          1                                        of LIF and IF ignored; of CubaLIF used
    v_reset          0, whatever it is                        ignored: 0
    reset_method     not written                              a value; ``reset_method=`` for CubaLIF alone
    dt               not written                              told, 1e-3 s

So a module does not come back from its own file: a tau of 10 ms is written as 1e-5 and read as a decay of -99. Further:
``to_nir`` keeps the batch axis in the shapes and single numbers for all neurons (nir refuses both: they are mended),
and gives None for every other neuron.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovonic.adapters.nir_conventions import Convention, Shape, Values, positive
from ovonic.adapters.nir_graph import Node
from ovonic.models.dynamics import NoReset, Reset, ResetToValue, SubtractThreshold, Synapse, When
from ovonic.models.errors import DataError

__all__ = ["Norse11", "NorseExport", "NorseImport"]


@dataclass(frozen=True)
class Norse11(Convention):
    """Graphs that Norse 1.1.0 wrote, or graphs as it reads them, whichever this graph can be.

    ``NorseExport`` where the nodes can be nothing else, ``NorseImport`` likewise: a decay must lie in 0..1, an export
    has r, w_in 1 and v_reset 0 and no nir older than 1.0, an import has no LI. Where both are possible (tau of a step
    or more, which an export writes for time constants above a second) the caller must say which.
    """

    name: ClassVar[str] = "norse-1.1"
    versions: ClassVar[str] = "Norse 1.1.0, nir 1.0.8"
    usual_dt_ms: ClassVar[float | None] = 1.0
    kinds: ClassVar[tuple[str, ...]] = (
        *("Input", "Output", "Linear", "Affine", "Conv2d", "SumPool2d", "Flatten", "LI", "LIF", "CubaLIF", "IF"),
    )
    resets: ClassVar[Mapping[str, str]] = {
        "zero": "to v_reset 0, Norse's default",
        "subtract": "reset_method=reset_subtract",
        "none": "a reset_method that leaves v alone",
    }

    def settled(self, nodes: Mapping[str, Node], version: str) -> Convention:
        written = not version.startswith("0.") and all(map(self.written, nodes.values()))
        readable = all(map(self.readable, nodes.values()))
        if not written and not readable:
            raise DataError(
                "neither a graph that Norse 1.1 wrote (r and w_in 1, v_reset 0, tau = dt * the time constant) nor one "
                "that it reads as a stable neuron (tau of a step or more, no LI); nir-euler or nir-exact may fit"
            )
        if written and readable and any("tau" in field for node in nodes.values() for field in node.fields):
            raise DataError(
                "its time constants may have been written by Norse 1.1, which multiplies them with dt, or be the true "
                "ones, as Norse 1.1 reads them: say norse-1.1-export or norse-1.1-import"
            )
        return (NorseExport if written else NorseImport)(self.dt_ms, self.reset)

    def written(self, node: Node) -> bool:
        """Whether ``to_nir`` can have written this node."""
        ones = all(np.all(node[field] == 1) for field in ("r", "w_in") if field in node.fields)
        return ones and not np.any(node.fields.get("v_reset", 0)) and self._stable(node, self._dt_s**2)

    def readable(self, node: Node) -> bool:
        """Whether ``from_nir`` makes a neuron of this node that does not grow without bound."""
        return node.kind != "LI" and self._stable(node, self._dt_s)

    def _stable(self, node: Node, least: float) -> bool:
        return all(np.all(np.asarray(node[f]) >= least * (1 - 1e-6)) for f in node.fields if f.startswith("tau"))

    @property
    def _dt_s(self) -> float:
        assert self.dt_ms is not None
        return self.dt_ms / 1e3


@dataclass(frozen=True)
class NorseExport(Norse11):
    """Graphs that Norse 1.1.0 wrote, ``norse.torch.to_nir(module, data, dt)`` with the dt of its cells.

    dt: 1 ms unless told. tau_inv = dt/tau in the file's own type. LIF, LI: gain = dt tau_inv, decay = 1 - gain, rest =
    v_leak, v = v_leak before the first step. CubaLIF (LIFCell): the current is i = (1 - dt tau_syn_inv) i + S, drives
    the membrane in the same step, and starts at 0. IF: v + S, from 0. Reset in the step of the spike: told, since the
    file never holds it (a value other than 0: ``ResetToValue(v)``; an IAFCell then starts at that value).
    """

    name: ClassVar[str] = "norse-1.1-export"

    def settled(self, nodes: Mapping[str, Node], version: str) -> Convention:
        return self

    def inverse(self, tau: Values) -> Values:
        """tau_mem_inv of a written tau, 1/s."""
        return self._dt_s / tau

    def gain(self, name: str, node: Node, field: str, shape: Shape) -> Values:
        """dt / time constant."""
        tau = positive(name, field, self.number(name, node, field, shape))
        gain = self._dt_s * self.inverse(tau)
        if (gain > 1 + 1e-6).any():
            raise DataError(
                f"node {name!r}: {field} {tau.min():.9g} makes a decay of {1 - float(gain.max()):.6g} in a step of "
                f"{self.dt_ms} ms by {self.name}; another dt_ms or convention was meant"
            )
        return np.minimum(gain, 1)

    def membrane(self, name: str, node: Node, shape: Shape) -> dict[str, Any]:
        if node.kind == "IF":
            start = self.reset.v_reset if isinstance(self.reset, ResetToValue) else 0.0
            return {"decay": 1.0, "v_init": start}
        rest = self.number(name, node, "v_leak", shape).astype(np.float64)
        gain = self.gain(name, node, "tau_mem" if node.kind == "CubaLIF" else "tau", shape).astype(np.float64)
        found: dict[str, Any] = {"decay": 1 - gain, "gain": gain, "rest": rest, "v_init": rest}
        return found | ({"synapse": self.synapse(name, node, shape)} if node.kind == "CubaLIF" else {})

    def synapse(self, name: str, node: Node, shape: Shape) -> Synapse:
        """The current of an LIFCell."""
        return Synapse(1 - self.gain(name, node, "tau_syn", shape).astype(np.float64))

    def resets_by(self, name: str, node: Node, shape: Shape, recurrent: bool) -> Reset:
        if self.reset is None:
            raise self.asked(name, "Norse 1.1 writes neither its v_reset nor its reset_method")
        if isinstance(self.reset, Reset):
            return self.reset
        return {"zero": ResetToValue(0.0), "subtract": SubtractThreshold(When.SAME_STEP), "none": NoReset()}[self.reset]


@dataclass(frozen=True)
class NorseImport(NorseExport):
    """Graphs as Norse 1.1.0 reads them, ``norse.torch.from_nir(graph, dt=dt)``.

    dt: 1 ms unless told. LIF: gain = dt/tau, decay = 1 - gain, rest = v_leak, v = v_leak before the first step; r is
    ignored. CubaLIF: the current is i = (1 - dt/tau_syn) i + w_in dt/tau_syn S, with v_leak 0 (else Norse leaks the
    current to v_leak too), and r times it drives the membrane. IF: v + S, from 0; r is ignored. Reset: to 0 in the step
    of the spike, v_reset is ignored; ``from_nir(reset_method=...)`` changes it for CubaLIF alone. It leaves an LI out.
    """

    name: ClassVar[str] = "norse-1.1-import"

    def inverse(self, tau: Values) -> Values:
        return 1 / tau

    def membrane(self, name: str, node: Node, shape: Shape) -> dict[str, Any]:
        if node.kind == "LI":
            raise DataError(f"node {name!r}: Norse 1.1 leaves an LI out in silence; nir-euler reads it")
        found = super().membrane(name, node, shape)
        if node.kind == "CubaLIF":
            if self.number(name, node, "v_leak", shape).any():
                raise DataError(f"node {name!r}: v_leak must be 0: Norse 1.1 leaks the current to it too")
            found["gain"] = found["gain"] * self.number(name, node, "r", shape)
        return found

    def synapse(self, name: str, node: Node, shape: Shape) -> Synapse:
        gain = self.gain(name, node, "tau_syn", shape).astype(np.float64)
        w_in = self.number(name, node, "w_in", shape) if "w_in" in node.fields else 1.0
        return Synapse(1 - gain, gain * w_in)

    def resets_by(self, name: str, node: Node, shape: Shape, recurrent: bool) -> Reset:
        if self.reset in (None, "zero", ResetToValue(0.0)):
            return ResetToValue(0.0)
        if node.kind != "CubaLIF":
            raise DataError(f"node {name!r}: Norse 1.1 reads every {node.kind} with a reset to 0: leave reset out")
        return super().resets_by(name, node, shape, recurrent)
