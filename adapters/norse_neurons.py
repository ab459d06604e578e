"""Read Norse's neurons: what their step function does with their parameters, dt and initial state.

    k = dt tau_mem_inv, k_s = dt tau_syn_inv, as the module's own numbers give it

    step function                    layer
    lif_box_feed_forward_step        Dynamics(1 - k, v_th, gain k, rest v_leak), reset in the same step by reset_method
    lif_feed_forward_step, lif_step  the same, with Synapse(1 - k_s), reset to v_reset
    lif_refrac_..                    the same, with ceil(rho_reset) silent steps, frozen
    lsnn_..                          as lif, with every input and the recurrence one step later, since the membrane is
                                     driven by the old current; Adaptation(1 - dt tau_adapt_inv, beta), whose fresh
                                     spike decays before it counts
    iaf_..                           decay 1, gain 1, from v_reset
    li_, li_box_feed_forward_step    Readout

A recurrent cell is a ``Linear`` of its input weights and a layer behind it. ``autapses=False`` is a masked diagonal as
long as the diagonal is zero: Norse itself masks nothing while it runs. Reference: Norse 1.1.0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.norse_cells import Cell, Integrator, load
from ovonic.adapters.torch_layers import as_array, per_neuron, refuse_hooks, refuse_layer
from ovonic.models.dynamics import (
    Adaptation,
    Dynamics,
    Refractory,
    Reset,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    Synapse,
    When,
)
from ovonic.models.layers import Layer, Linear, Readout, Recurrence, Spiking

__all__ = ["METHODS", "REMEDY", "Part", "is_neuron", "is_timed", "read_neuron", "refuse_foreign"]

Shape = tuple[int, ...]
METHODS = ("heaviside", "super", "triangle", "tanh", "circ", "heavi_erfc")
"""What Norse's ``threshold`` knows."""

FOREIGN = {
    "izhikevich": "Izhikevich's membrane is quadratic",
    "lifadex": "AdEx has an exponential upstroke and an adaptation current",
    "lifex": "the exponential LIF has an exponential upstroke",
    "cobalif": "its synapses are conductances",
    "lifmc": "its compartments are coupled",
    "lifcorrelation": "its weights change with the correlation of spikes",
    "recurrentsequential": "what its last module gives is fed back to its first: a cycle",
    "regularizationcell": "it gathers a term of the loss",
}
"""Modules of Norse that no network says, by the beginning of their name without underscores: why."""

REMEDY = "networks are of LIFBoxCell, LIFCell, LIFRefracCell, LSNNCell, IAFCell, LICell and their kin"


def refuse_foreign(name: str, kind: str) -> None:
    """Refuse a module or a step function of Norse by its name, if no network says what it does."""
    for start, why in FOREIGN.items():
        if kind.replace("_", "").lower().startswith(start):
            refuse_layer(name, f"{kind}: {why}", REMEDY)


class Part(NamedTuple):
    """One layer of a neuron module: what its name adds to the module's, and by how much what it reads is delayed."""

    suffix: str
    layer: Layer
    delay: int = 0


def is_neuron(part: nn.Module) -> bool:
    """A module with a state of its own that ``read_neuron`` may know."""
    t = load().torch
    bases = t.module.snn
    kinds = (bases.SNNCell, bases.SNNRecurrentCell, bases.SNN, bases.SNNRecurrent, t.LILinearCell, Cell, Integrator)
    return isinstance(part, kinds)


def is_timed(part: nn.Module) -> bool:
    """A neuron module that loops over time, which is its input's first axis."""
    bases = load().torch.module.snn
    return isinstance(part, (bases.SNN, bases.SNNRecurrent))


def read_neuron(name: str, part: nn.Module, shape: Shape) -> list[Part]:
    """The layers of a neuron module that reads this shape, the one that reads first.

    Raises: UnsupportedDynamics: it does what no network says, or cannot run; ConfigError: numbers that make no layer.
    """
    refuse_hooks(name, part)
    if isinstance(part, Cell):
        return [Part("", _read_cell(part, shape))]
    if isinstance(part, Integrator):
        return [Part("", Readout(**_read_leaky(part, shape)))]
    return _Reader(name, part, shape).read()


class _Reader:
    """One reading of a module of Norse."""

    def __init__(self, name: str, part: Any, shape: Shape) -> None:
        self.name, self.part, self.shape = name, part, shape
        self.weights: Any = getattr(part, "recurrent_weights", None)
        self.inputs: Any = getattr(part, "input_weights", None)
        self.neurons: Shape = shape if self.inputs is None else (len(self.inputs),)

    def read(self) -> list[Part]:
        kind, delay = self._kind(), 0
        p = self.part.p.lif if kind == "lif_refrac" else self.part.p
        if kind in ("li", "li_box"):
            layer: Layer = Readout(**self._leaky(p, kind == "li"))
        else:
            if p.method not in METHODS:
                self._refuse(f"method {p.method!r}", f"Norse 1.1 knows {', '.join(METHODS)}")
            delay = int(kind == "lsnn")
            layer = Spiking(self._dynamics(kind, p), self._recurrence(1 + delay))
        if self.inputs is None:
            return [Part("", layer, delay)]
        return [Part("_input", Linear(as_array(self.inputs).T)), Part("", layer, delay)]

    def _kind(self) -> str:
        """What the module does in a step, by its step function."""
        part, t = self.part, load().torch
        bases = t.module.snn
        own = (bases.SNNCell, bases.SNNRecurrentCell, bases.SNN, bases.SNNRecurrent, t.LILinearCell)
        refuse_foreign(self.name, type(part).__name__)
        if type(part).forward not in [base.forward for base in own] or "forward" in vars(part):
            self._refuse("its forward is not Norse's", "what it does is not read")
        if isinstance(part, t.LILinearCell):
            return "li"
        step = part.activation
        for kind, steps in _steps().items():
            if step in steps:
                return kind
        label = getattr(step, "__name__", str(step))
        refuse_foreign(self.name, label)
        if label.endswith("adjoint_step"):
            self._refuse("method 'adjoint': Norse 1.1 raises when it runs", f"one of {', '.join(METHODS)}")
        self._refuse(f"{type(part).__name__} steps by {label}, which is not known", REMEDY)

    def _dynamics(self, kind: str, p: Any) -> Dynamics:
        threshold = self._number(p.v_th)
        reset: Reset = ResetToValue(self._number(p.v_reset))
        if kind == "iaf":
            rest = 0.0 if np.all(np.greater(threshold, 0)) else self._number(p.v_reset)
            return Dynamics(1.0, threshold, 1.0, rest, self._initial(threshold), reset=reset)
        leaky = self._leaky(p, kind != "lif_box", threshold)
        if kind == "lif_box" and p.reset_method is load().reset_subtract:
            reset = SubtractThreshold(When.SAME_STEP)
        elif kind == "lif_box" and p.reset_method is not load().reset_value:
            self._refuse("its reset_method is not Norse's", "reset_value or reset_subtract")
        more: dict[str, Any] = {}
        if kind == "lif_refrac":
            steps = np.maximum(np.ceil(self._number(self.part.p.rho_reset)), 0).astype(int)
            more["refractory"] = Refractory(steps, frozen=True)
        if kind == "lsnn":
            more["adaptation"] = Adaptation(1 - self._leak(p, "tau_adapt_inv"), self._number(p.beta), True)
        return Dynamics(threshold=threshold, reset=reset, **leaky, **more)

    def _leaky(self, p: Any, synapse: bool, threshold: Any = None) -> dict[str, Any]:
        leak = self._leak(p, "tau_mem_inv")
        if not np.all(np.greater(leak, 0)):
            self._refuse("tau_mem_inv is 0: the membrane takes no input", "IAFCell for neurons that do not leak")
        leaky = {"decay": 1 - leak, "gain": leak, "rest": self._number(p.v_leak), "v_init": self._initial(threshold)}
        return leaky | ({"synapse": Synapse(1 - self._leak(p, "tau_syn_inv"))} if synapse else {})

    def _leak(self, p: Any, rate: str) -> Any:
        """dt / tau as the module computes it, in the dtype of its rate."""
        leak = self._number(self.part.dt * getattr(p, rate))
        if np.any(np.less(leak, 0)) or np.any(np.greater(leak, 1)):
            worst = float(np.max(np.abs(leak)))
            self._refuse(f"dt {rate} = {worst:g} lies outside 0..1: Euler's step overshoots", "a smaller dt")
        return leak

    def _initial(self, threshold: Any) -> Any:
        """The membrane in the module's own initial state, in which all else must be at rest."""
        timed, device = is_timed(self.part), getattr(self.weights, "device", None)
        probe = torch.zeros((1,) * (1 + timed) + self.shape, dtype=torch.float64, device=device)
        try:
            with _kept_leaves(self.part):
                state = _fields(self._fallback(probe))
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            cause = str(error).splitlines()[0]
            self._refuse(f"its own initial state fails: {cause}", "one v_leak for all neurons, as a tensor")
        for field, value in state.items():
            due = threshold if field == "b" else 0.0
            if field != "v" and not np.all(np.equal(self._number(value), due)):
                self._refuse(f"its initial state has {field} other than {due}", "Norse's own initial_state")
        return self._number(state["v"])

    def _fallback(self, probe: Tensor) -> Any:
        if isinstance(self.part, load().torch.LILinearCell):
            return load().torch.LIState(self.part.p.v_leak.detach(), torch.zeros(()))
        return self.part.state_fallback(probe)

    def _recurrence(self, delay: int) -> Recurrence | None:
        if self.weights is None:
            return None
        weight = as_array(self.weights).T
        return Recurrence(weight, delay, not self.part.autapses and not np.diagonal(weight).any())

    def _number(self, value: Any) -> Any:
        return per_neuron(value, self.neurons)

    def _refuse(self, feature: str, remedy: str) -> NoReturn:
        refuse_layer(self.name, feature, remedy)


def _steps() -> dict[str, tuple[Any, ...]]:
    """The step functions that are known, by what they do."""
    f = load().torch.functional
    return {
        "lif_box": (f.lif_box.lif_box_feed_forward_step,),
        "lif": (f.lif.lif_feed_forward_step, f.lif.lif_step),
        "lif_refrac": (f.lif_refrac.lif_refrac_feed_forward_step, f.lif_refrac.lif_refrac_step),
        "lsnn": (
            f.lsnn.lsnn_feed_forward_step,
            f.lsnn.lsnn_step,
            f.adjoint.lsnn_adjoint.lsnn_feed_forward_adjoint_step,
            f.adjoint.lsnn_adjoint.lsnn_adjoint_step,
        ),
        "iaf": (f.iaf.iaf_feed_forward_step, f.iaf.iaf_step),
        "li": (f.leaky_integrator.li_feed_forward_step,),
        "li_box": (f.leaky_integrator_box.li_box_feed_forward_step,),
    }


@contextlib.contextmanager
def _kept_leaves(part: nn.Module) -> Iterator[None]:
    """IAF's initial state makes the user's ``v_reset`` require gradients; afterwards they are as they were."""
    held = [value for value in _fields(part.p).values() if isinstance(value, Tensor) and value.is_leaf]
    wanted = [value.requires_grad for value in held]
    try:
        yield
    finally:
        for value, want in zip(held, wanted, strict=True):
            value.requires_grad_(want)


def _fields(values: Any) -> dict[str, Any]:
    """The fields of a named tuple and of those inside it."""
    fields: dict[str, Any] = {}
    for name in getattr(values, "_fields", ()):
        value = getattr(values, name)
        fields |= _fields(value) if hasattr(value, "_fields") else {name: value}
    return fields


def _read_leaky(cell: Any, shape: Shape) -> dict[str, Any]:
    def number(part: str, absent: float) -> Any:
        value = getattr(cell, part)
        return absent if value is None else per_neuron(value, shape)

    values = {"gain": number("gain", 1.0), "rest": number("rest", 0.0), "v_init": number("v_init", 0.0)}
    if cell.leak is None:
        values["decay"] = number("decay", 0.0)
    else:
        values |= {"decay": 1 - number("leak", 0.0), "gain": number("leak", 0.0)}
    if cell.synapse_decay is not None:
        values["synapse"] = Synapse(number("synapse_decay", 0.0), number("synapse_gain", 1.0))
    return values


def _read_cell(cell: Any, shape: Shape) -> Spiking:
    more: dict[str, Any] = {"reset": _read_reset(cell, shape)}
    if cell.silent_steps is not None:
        more["refractory"] = Refractory(cell.silent_steps.cpu().numpy(), cell.frozen)
    if cell.adaptation_decay is not None:
        decay, beta = (per_neuron(value, shape) for value in (cell.adaptation_decay, cell.adaptation_beta))
        more["adaptation"] = Adaptation(decay, beta, cell.fresh_spike_decays)
    threshold = per_neuron(cell.threshold, shape)
    dynamics = Dynamics(threshold=threshold, comparison=cell.comparison, **_read_leaky(cell, shape), **more)
    if cell.recurrent_weights is None:
        return Spiking(dynamics)
    hollow = parametrize.is_parametrized(cell, "recurrent_weights")
    weight = cell.parametrizations.recurrent_weights.original if hollow else cell.recurrent_weights
    return Spiking(dynamics, Recurrence(as_array(weight).T, cell.delay, hollow))


def _read_reset(cell: Any, shape: Shape) -> Reset:
    if cell.reset is ResetToValue:
        return ResetToValue(per_neuron(cell.v_reset, shape), cell.when)
    reset: Reset = cell.reset(cell.when) if cell.reset in (SubtractThreshold, SubtractAdapted) else cell.reset()
    return reset
