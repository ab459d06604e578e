"""The Brian2 code of a layer: ``models.dynamics`` in the words of a NeuronGroup.

    v_init, decay, threshold, gain, rest        v at the start; decay, threshold, gain, rest (constant)
    what arrives, I[t]                          I, raised by synapses, spent by the update
    z[t-1]                                      spiked, 1 by the reset, 0 after the update
    Adaptation: b, decay, beta; A               b, decay_b, beta; A = threshold + beta*b
    Synapse: i, decay, gain                     i_syn, decay_syn, gain_syn
    Refractory: silent_steps                    refractory='t_ref' of (silent_steps + 1) dt
    frozen                                      not_refractory in the update
    comparison; reset in the same step          threshold=, reset=
    other resets                                in the update, from spiked

The update is a ``run_regularly``, not an ODE: a decay is kept as it is, where exp(-dt/tau) gives it back only to its
last bit, and 0 and 1 are decays too. ``FORMS`` has every code that is written; what reads a group looks it up there.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from ovonic.models.dynamics import (
    Comparison,
    Dynamics,
    NoReset,
    Reset,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    When,
)
from ovonic.models.layers import Readout

__all__ = ["FORMS", "HOLLOW", "INPUT_CODE", "READOUTS", "Code", "Form", "Found", "code", "code_of", "form_of"]


class Form(NamedTuple):
    """The structure of a layer without its numbers; ``reset`` None is a read-out, ``fresh`` None no adaptation."""

    reset: tuple[type[Reset], When] | None
    comparison: Comparison = Comparison.GREATER
    refractory: bool = False
    frozen: bool = False
    fresh: bool | None = None
    synapse: bool = False


class Code(NamedTuple):
    """What makes up a group: equations (sorted lines), update, threshold, reset, refractory."""

    equations: tuple[str, ...]
    update: str
    threshold: str | None = None
    reset: str | None = None
    refractory: str | bool = False


HOLLOW = "w*others"
"""What synapses of a masked diagonal add: ``others`` is 0 on it, else 1 (an 'i != j' in place does not compile)."""

INPUT_CODE = Code(
    ("lag : integer (constant, shared)", "y : 1"),
    "y = drive(t - lag*dt, i)*int(t_in_timesteps >= lag)",
    "y != 0",
    "",
)
"""The code of an input: what the TimedArray ``drive`` gave ``lag`` steps ago."""


def form_of(layer: Dynamics | Readout, refractory: bool = False) -> Form:
    """The form of a layer; ``refractory``: whether any neuron of it is."""
    if isinstance(layer, Readout):
        return Form(None, synapse=layer.synapse is not None)
    return Form(
        (type(layer.reset), layer.reset.when),
        layer.comparison,
        refractory,
        layer.refractory.frozen,
        None if layer.adaptation is None else layer.adaptation.fresh_spike_decays,
        layer.synapse is not None,
    )


def code(form: Form) -> Code:
    """The code of a form."""
    variables, constants = ["v", "I"], ["decay", "gain", "rest"]
    update = []
    u = "I"
    if form.synapse:
        variables, constants, u = [*variables, "i_syn"], [*constants, "decay_syn", "gain_syn"], "i_syn"
        update.append("i_syn = decay_syn*i_syn + gain_syn*I")
    leak = f"rest + decay*(v - rest) + gain*{u}"
    if form.reset is None:
        return Code(_equations(variables, constants), "\n".join([*update, f"v = {leak}", "I = 0"]))

    kind, when = form.reset
    variables, constants, level = [*variables, "spiked"], [*constants, "threshold"], "threshold"
    if form.fresh is not None:
        variables, constants, level = [*variables, "b"], [*constants, "decay_b", "beta"], "A"
        update.append("b = decay_b*(b + spiked)" if form.fresh else "b = decay_b*b + spiked")
    due = "A" if kind is SubtractAdapted else "threshold"
    late = "v = (1 - spiked)*v + spiked*v_reset" if kind is ResetToValue else f"v = v - spiked*{due}"
    soon = "v = v_reset\n" if kind is ResetToValue else "" if kind is NoReset else f"v -= {due}\n"
    if kind is ResetToValue:
        constants.append("v_reset")
    if when is When.NEXT_BEFORE_DECAY:
        update.append(late)
    if kind is SubtractThresholdOnce:
        variables.append("held")
        update.append("held = v")
        level = f"{level} + threshold*int(held {form.comparison.value} threshold)"
    update.append(f"v = int(not_refractory)*({leak}) + (1 - int(not_refractory))*v" if form.frozen else f"v = {leak}")
    if when is When.NEXT_AFTER_INPUT:
        update.append(late)
    lines = _equations(variables, constants, form.refractory)
    if form.fresh is not None or kind is SubtractAdapted:
        lines = (*lines, "A = threshold + beta*b : 1" if form.fresh is not None else "A = threshold : 1")
    return Code(
        tuple(sorted(lines)),
        "\n".join([*update, "spiked = 0", "I = 0"]),
        f"v {form.comparison.value} {level}",
        ("" if when is not When.SAME_STEP else soon) + "spiked = 1",
        "t_ref" if form.refractory else False,
    )


def _equations(variables: list[str], constants: list[str], refractory: bool = False) -> tuple[str, ...]:
    lines = [f"{name} : 1" for name in variables] + [f"{name} : 1 (constant)" for name in constants]
    return tuple(sorted([*lines, "t_ref : second (constant)"] if refractory else lines))


def _forms() -> list[Form]:
    resets: list[tuple[type[Reset], When]] = [(NoReset, When.SAME_STEP), (SubtractThresholdOnce, When.SAME_STEP)]
    resets += itertools.product((SubtractThreshold, SubtractAdapted, ResetToValue), When)
    silences = ((False, False), (True, False), (True, True))
    choices = itertools.product(resets, Comparison, silences, (None, False, True), (False, True))
    return [Form(reset, how, *silence, fresh, synapse) for reset, how, silence, fresh, synapse in choices]


READOUTS = {code(form): form for form in (Form(None, synapse=synapse) for synapse in (False, True))}
"""The code of every read-out."""

FORMS = {code(form): form for form in _forms()}
"""The code of every spiking layer."""


class Found(NamedTuple):
    """The code of a group as Brian2 holds it.

    Attributes:
        code: without biases. updates: the objects of its ``run_regularly``: of its biases, last the update itself.
        biases: the constants ``bias_NAME`` that are added to I.
    """

    code: Code
    updates: tuple[Any, ...]
    biases: tuple[str, ...]


def code_of(group: Any) -> Found:
    """The code of a NeuronGroup, comparable with ours."""
    equations = group.user_equations
    biases = tuple(name for name in equations if name.startswith("bias_"))
    lines = sorted(_line(name, equation) for name, equation in equations.items() if name not in biases)
    own = (group.state_updater, *group.thresholder.values(), *group.resetter.values())
    updates = sorted((obj for obj in group.contained_objects if obj not in own), key=lambda obj: obj.order)
    added = {f"I += {name}" for name in biases}
    texts = [getattr(obj, "abstract_code", "") for obj in updates]
    update = texts[-1] if texts and set(texts[:-1]) == added and len(texts) == len(added) + 1 else ""
    refractory = group._refractory if isinstance(group._refractory, str | bool) else "a number"
    events = group.events.get("spike"), group.event_codes.get("spike")
    return Found(Code(tuple(lines), update, *events, refractory), tuple(updates), biases)


def _line(name: str, equation: Any) -> str:
    unit = "integer" if equation.var_type == "integer" else "1" if equation.dim.is_dimensionless else "second"
    flags = f" ({', '.join(sorted(equation.flags))})" if equation.flags else ""
    return f"{name} : {unit}{flags}" if equation.expr is None else f"{name} = {equation.expr.code} : {unit}{flags}"
