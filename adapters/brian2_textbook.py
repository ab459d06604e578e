"""The textbook neuron of Brian2 users, as a layer: linear equations, one comparison, one reset.

    dv/dt = (rest - v + R*I)/tau    decay = exp(-dt/tau) by exact, linear, independent; 1 - dt/tau by euler
    v without an equation           decay = 1
    dI/dt = -I/tau_syn              Synapse: decay alike; gain as the method integrates the current over a step
    threshold 'v > x', 'v >= x'     threshold, comparison
    reset 'v = x'                   ResetToValue
    reset 'v -= x'                  SubtractThreshold where x is the threshold, or threshold/decay (under UPDATED)
    refractory                      silent_steps = refractory/dt - 1; frozen by (unless refractory)

Where in a step synapses raise the membrane itself decides what their input and the reset mean (U update, C comparison,
R reset, in this order in any schedule that is read):

    UPDATED, after U before C        input at its full height; what a spike resets has been compared with it
    COMPARED, after C before R       input decays in the next update (gain = decay); a reset to a value discards it
    RESET, after R or before U       input decays (gain = decay) and survives the reset

Brian2's own schedule is COMPARED. There (and under RESET) a membrane frozen by (unless refractory) loses the input of
one step more than it is frozen, since Brian2 takes the flag of the step before: after a reset to a value that is one
more silent step at the value after one decay; after a subtraction no ``Dynamics`` says it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import sympy  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ovonic.models.dynamics import (
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractThreshold,
    Synapse,
    When,
)
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Readout, Spiking

__all__ = ["Neuron", "Place", "layer_of", "numeric", "refusal", "silent_steps", "textbook"]

Array = NDArray[Any]
EXACT = ("exact", "linear", "independent")
"""Methods that solve linear equations exactly; where none is chosen Brian2 tries exact first."""


class Place(Enum):
    """Where in a step synapses raise a membrane (see the module's text)."""

    UPDATED = "between update and comparison"
    COMPARED = "between comparison and reset"
    RESET = "between reset and update"


class Neuron(NamedTuple):
    """What the code of a group says; numbers are one for all or [N], in SI units.

    ``current`` is the synaptic variable, ``gain`` what a unit of it adds to the membrane in a step. ``reset``: what v
    becomes, as (factor of v, addend). ``n_ref``: refractory period in steps, None where there is none.
    """

    membrane: str
    current: str | None
    decay: Any
    rest: Any
    v_init: Any
    decay_syn: Any = None
    gain: Any = 1.0
    threshold: Any = None
    comparison: Comparison = Comparison.GREATER
    reset: tuple[int, Any] = (1, 0.0)
    n_ref: Any = None
    unless: bool = False


def refusal(obj: Any, reason: str, remedy: str = "") -> UnsupportedDynamics:
    """The error that names a Brian2 object and what of it is not read."""
    kind, name = type(obj).__name__, getattr(obj, "name", "?")
    return UnsupportedDynamics(f"Brian2 {kind} {name!r}: {reason}" + (f"; {remedy}" if remedy else ""))


def textbook(group: Any, namespace: Mapping[str, Any]) -> Neuron:
    """Read a NeuronGroup.

    Raises: UnsupportedDynamics: naming the equation, reset or threshold that is not of the textbook kind.
    """
    extra = [e for e in group.events if e != "spike"]
    if extra:
        raise refusal(group, f"its own event {extra[0]!r}", "only spikes are read")
    rates = _equations(group, namespace)
    membrane, comparison, threshold = _threshold(group, rates, namespace)
    currents = [name for name in rates if name != membrane]
    if len(currents) > 1:
        raise refusal(group, f"{len(currents)} variables beside the membrane: {', '.join(currents)}", "one is read")
    current = currents[0] if currents else None
    if membrane not in rates:
        values = {"decay": 1.0, "rest": 0.0}
        if current is not None:
            raise refusal(group, f"{current!r} does not act on the membrane {membrane!r}")
    else:
        values = _leak(group, membrane, current, rates, namespace)
    flags = {name: group.user_equations[name].flags for name in rates}
    unless = group._refractory is not False and "unless refractory" in flags.get(membrane, ())
    if current is not None:
        if group._refractory is not False and "unless refractory" in flags[current]:
            raise refusal(group, f"{current!r} stops (unless refractory)", "only the membrane may be frozen")
        if np.any(group.variables[current].get_value() != 0):
            raise refusal(group, f"{current!r} does not start at 0")
    return Neuron(
        membrane,
        current,
        v_init=_shortest(np.array(group.variables[membrane].get_value(), float)),
        threshold=threshold,
        comparison=comparison,
        reset=_reset(group, membrane, namespace),
        n_ref=_refractory_steps(group, namespace),
        unless=unless,
        **values,
    )


def layer_of(group: Any, neuron: Neuron, place: Place) -> Spiking | Readout:
    """The layer of a neuron whose membrane synapses raise at ``place`` (without meaning where they raise a current).

    Raises: UnsupportedDynamics: a reset that this place gives a meaning no ``Dynamics`` has.
    """
    n, updated = neuron, place is Place.UPDATED
    synapse, gain = None, 1.0 if updated else n.decay
    if n.current is not None:
        synapse, gain = Synapse(n.decay_syn), n.gain
    if n.threshold is None:
        return Readout(n.decay, gain, n.rest, n.v_init, synapse)

    factor, value = n.reset
    late = place is Place.COMPARED and synapse is None
    decayed = n.rest + n.decay * (value - n.rest)
    silent = 0 if n.n_ref is None else np.maximum(n.n_ref - 1, 0)
    frozen = n.unless
    loses = n.unless and not updated and synapse is None
    reset: Reset
    if factor == 0:
        reset = ResetToValue(decayed, When.NEXT_AFTER_INPUT) if late else ResetToValue(value)
        if loses:
            reset, silent = ResetToValue(decayed), np.maximum(n.n_ref, 1)
    elif loses:
        raise refusal(
            group,
            "(unless refractory), and a reset that is not to a value, with synapses that raise the membrane before its "
            "update: Brian2 loses their input for one step longer than the membrane is frozen",
            "take out (unless refractory), reset to a value, or set net.schedule = "
            "['start', 'groups', 'synapses', 'thresholds', 'resets', 'end']",
        )
    elif np.all(value == 0):
        reset = NoReset()
    elif np.all(-value == n.threshold):
        reset = SubtractThreshold(When.SAME_STEP)
    elif np.allclose(-value * n.decay, n.threshold, rtol=1e-15, atol=0) and not (frozen and np.any(silent)):
        reset = SubtractThreshold(When.NEXT_AFTER_INPUT)
    else:
        raise refusal(group, "its reset subtracts neither the threshold nor threshold/decay", "subtract one of them")
    rest: Any = (n.comparison, reset, Refractory(silent, frozen), None, synapse)
    return Spiking(Dynamics(n.decay, n.threshold, gain, n.rest, n.v_init, *rest))


def numeric(owner: Any, expression: Any, namespace: Mapping[str, Any]) -> Any:
    """What an expression of constants and parameters is, one number or an array of one a neuron or synapse, SI units.

    Args:
        owner: the group whose names it uses. expression: a string, or sympy.
    Raises: UnsupportedDynamics: it depends on time, chance or a state; ConfigError: an unknown name.
    """
    from brian2.parsing.sympytools import str_to_sympy

    parsed = str_to_sympy(expression) if isinstance(expression, str) else expression
    calls = {str(call.func) for call in parsed.atoms(sympy.core.function.AppliedUndef)}
    if calls:
        raise refusal(owner, f"{min(calls)}(..) is not constant", "numbers may not depend on time or chance")
    symbols = sorted(parsed.free_symbols, key=str)
    values = [_value(owner, str(symbol), namespace) for symbol in symbols]
    with np.errstate(all="ignore"):
        result = sympy.lambdify(symbols, parsed, "numpy")(*values)
    if np.asarray(result).dtype.kind not in "fiu" or not np.all(np.isfinite(result)):
        raise refusal(owner, f"{expression} is no number")
    return float(result) if np.ndim(result) == 0 else np.asarray(result, float)


def silent_steps(t_ref: Any, dt: float) -> Any:
    """The steps of a period as Brian2 counts them: ``timestep(t_ref, dt)``."""
    return np.floor((np.asarray(t_ref) + 1e-3 * dt) / dt).astype(int)


def _value(owner: Any, name: str, namespace: Mapping[str, Any]) -> Any:
    try:
        variable = owner.resolve_all([name], namespace, user_identifiers=set())[name]
    except KeyError:
        raise ConfigError(f"Brian2 {owner.name!r}: {name!r} is unknown: give from_brian2 a namespace") from None
    known = getattr(owner, "user_equations", getattr(owner, "equations", {}))
    kind = known[name].type if name in known else None
    if type(variable).__name__ == "Constant" or name in ("dt", "i", "j", "N") or kind == "parameter":
        value = np.asarray(variable.get_value())
        return _shortest(value.astype(float)) if value.dtype.kind == "f" else value
    if kind == "subexpression":
        return numeric(owner, str(variable.expr), namespace)
    raise refusal(owner, f"{name!r} is no constant", "numbers may not depend on time or state")


def _shortest(values: Array) -> Any:
    return values.item() if values.size == 1 else values


def _equations(group: Any, namespace: Mapping[str, Any]) -> dict[str, sympy.Expr]:
    """The right-hand sides of the differential equations, subexpressions put in."""
    from brian2.parsing.sympytools import str_to_sympy

    equations = group.user_equations
    if equations.is_stochastic:
        raise refusal(group, "noise (xi)", "a network has no noise")
    for name, equation in equations.items():
        if "constant over dt" in equation.flags or "linked" in equation.flags:
            raise refusal(group, f"{name!r} is {' and '.join(equation.flags)}", "write it as a parameter")
    return {name: str_to_sympy(code.code) for name, code in equations.get_substituted_expressions(group.variables)}


def _threshold(
    group: Any, rates: Mapping[str, sympy.Expr], namespace: Mapping[str, Any]
) -> tuple[str, Comparison, Any]:
    """The membrane, how it is compared, and with what (None: no threshold)."""
    from brian2.parsing.sympytools import str_to_sympy

    if "spike" not in group.events:
        names = [v for v in rates if not any(_symbol(v) in rates[u].free_symbols for u in rates if u != v)] or [
            v for v, equation in group.user_equations.items() if equation.type == "parameter" and not equation.flags
        ]
        if len(names) != 1:
            raise refusal(group, "it has no threshold, and none of its variables is the one all others act on")
        return names[0], Comparison.GREATER, None
    text = group.events["spike"]
    relation = str_to_sympy(text)
    if isinstance(relation, (sympy.StrictLessThan, sympy.LessThan)):
        relation = relation.reversed
    kinds = {sympy.StrictGreaterThan: Comparison.GREATER, sympy.GreaterThan: Comparison.GREATER_EQUAL}
    if type(relation) not in kinds or not relation.lhs.is_Symbol:
        raise refusal(group, f"threshold {text!r}", "only 'v > x' and 'v >= x' are read")
    membrane = str(relation.lhs)
    if membrane not in group.user_equations:
        raise refusal(group, f"threshold {text!r}: {membrane!r} is not a variable of its own")
    return membrane, kinds[type(relation)], numeric(group, relation.rhs, namespace)


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, real=True)


def _leak(
    group: Any, membrane: str, current: str | None, rates: Mapping[str, sympy.Expr], namespace: Mapping[str, Any]
) -> dict[str, Any]:
    """decay, rest, and of a current gain and decay_syn."""
    choice = group.method_choice
    method = choice[0] if isinstance(choice, tuple) else choice
    if method not in (*EXACT, "euler"):
        raise refusal(group, f"method {choice!r}", "only 'exact' (or 'linear') and 'euler' are read")
    dt, v = float(group.clock.dt_), _symbol(membrane)
    slope, drift = _affine(group, rates, membrane, v, current)

    def decay(rate: sympy.Expr) -> Any:
        tau = numeric(group, sympy.cancel(-1 / rate), namespace) if rate != 0 else np.inf
        kept = 1 - dt / np.asarray(tau) if method == "euler" else np.exp(-dt / np.asarray(tau))
        if not np.all((kept >= 0) & (kept <= 1)):
            raise refusal(group, f"d{membrane}/dt grows, or a step of {dt} s is too long for it", "take a smaller dt")
        return _shortest(kept)

    values = {"decay": decay(slope)}
    if current is not None:
        i = _symbol(current)
        own, rest = _affine(group, rates, current, i, None)
        if rest != 0:
            raise refusal(group, f"d{current}/dt has a term without {current}: {rest}", "it must decay to 0")
        coupling = sympy.diff(drift, i)
        if coupling == 0 or coupling.has(i):
            raise refusal(group, f"{current!r} does not drive the membrane linearly")
        drift = drift.subs(i, 0)
        values["decay_syn"] = decay(own)
        weight = numeric(group, coupling, namespace)
        if method == "euler":
            values["gain"] = weight * dt
        else:
            gap = numeric(group, difference, namespace) if (difference := sympy.simplify(own - slope)) != 0 else None
            if gap is None:
                values["gain"] = weight * dt * values["decay"]
            elif np.any(np.equal(gap, 0)):
                raise refusal(group, f"equal time constants of {membrane!r} and {current!r}: Brian2 itself gives NaN")
            else:
                values["gain"] = weight * (values["decay_syn"] - values["decay"]) / gap
    if slope == 0 and drift != 0:
        raise refusal(group, f"d{membrane}/dt: a constant drift {drift}", "let it come from an input")
    values["rest"] = 0.0 if slope == 0 else numeric(group, sympy.cancel(-drift / slope), namespace)
    return values


def _affine(
    group: Any, rates: Mapping[str, sympy.Expr], name: str, symbol: sympy.Symbol, other: str | None
) -> tuple[sympy.Expr, sympy.Expr]:
    """d name/dt as slope * name + drift, the drift free of all states but ``other``."""
    slope = sympy.diff(rates[name], symbol)
    states = {str(s) for s in slope.free_symbols} & set(rates)
    if name in states:
        raise refusal(group, f"d{name}/dt is not linear in {name} (AdEx, Izhikevich and the like)")
    if states:
        raise refusal(group, f"d{name}/dt: {min(states)} multiplies {name} (a conductance)", "only currents are read")
    drift = sympy.simplify(rates[name].subs(symbol, 0))
    coupled = {str(s) for s in drift.free_symbols} & (set(rates) - {other})
    if coupled:
        raise refusal(group, f"d{name}/dt depends on {min(coupled)}", "only a membrane and a synaptic current are read")
    return sympy.simplify(slope), drift


def _reset(group: Any, membrane: str, namespace: Mapping[str, Any]) -> tuple[int, Any]:
    """What v becomes: factor of v (0 or 1) and addend."""
    from brian2.parsing.sympytools import str_to_sympy

    text = group.event_codes.get("spike", "")
    statements = [s.strip() for line in text.splitlines() for s in line.split("#")[0].split(";") if s.strip()]
    if not statements:
        return 1, 0.0
    match = re.fullmatch(r"(\w+)\s*([-+*/]?)=\s*([^=].*)", statements[0])
    if len(statements) > 1 or match is None or match[1] != membrane:
        other = next((s for s in statements if not re.match(rf"{membrane}\b", s)), statements[-1])
        raise refusal(group, f"reset {text!r}: {other!r}", f"only '{membrane} = x' or '{membrane} -= x' is read")
    v = _symbol(membrane)
    after = str_to_sympy(f"{membrane} {match[2]} ({match[3]})" if match[2] else match[3])
    factor = sympy.diff(after, v)
    if factor not in (0, 1):
        raise refusal(group, f"reset {text!r}: scales the membrane", "only 'v = x' and 'v -= x' are read")
    return int(factor), numeric(group, sympy.expand(after - factor * v), namespace)


def _refractory_steps(group: Any, namespace: Mapping[str, Any]) -> Any:
    given = group._refractory
    if given is False:
        return None
    period = numeric(group, given, namespace) if isinstance(given, str) else float(given)
    return _shortest(silent_steps(period, float(group.clock.dt_)))
