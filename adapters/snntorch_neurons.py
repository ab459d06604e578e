"""Read a snnTorch neuron, or a ``Cell``: what its buffers, weights and functions do, not what it was called with.

beta and alpha act clamped to 0..1; a beta given as a Python float is its float32; V acts as ``recurrent.V``
(``.double()`` leaves that behind where V is not learned). Whether > or >= is compared is found by calling
``spike_grad``. Reference: snnTorch 1.0.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.snntorch_cells import STATES, Cell, Gain, meaning
from ovonic.adapters.torch_layers import Hollow, as_array, per_neuron, refuse_hooks, refuse_layer
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    NoReset,
    Refractory,
    Reset,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
    SubtractThresholdOnce,
    Synapse,
)
from ovonic.models.layers import Readout, Recurrence, Spiking

__all__ = ["read_neuron"]

Shape = tuple[int, ...]
Array = NDArray[np.float64]
MECHANISM_OF = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
PROBES = (-1e6, -1.0, -1e-3, -1e-30, 0.0, 1e-30, 1e-3, 1.0, 1e6)


def read_neuron(name: str, part: Any, shape: Shape, readout: bool) -> tuple[Spiking | Readout, Array | None]:
    """The layer of a neuron or a ``Cell`` of neurons of that shape, and its recurrent bias if it has one.

    Raises: UnsupportedDynamics: it does what no network says; ConfigError: numbers that make no layer.
    """
    cell: Cell | None = part if isinstance(part, Cell) else None
    neuron: Any = part.neuron if isinstance(part, Cell) else part
    kind = type(neuron).__name__
    reset = _own_reset(name, neuron)
    if cell is not None:
        if not isinstance(reset, NoReset):
            refuse_layer(name, f"a Cell around a neuron that resets itself ({reset})", "its neuron must have no reset")
        reset = _cells_reset(cell, shape)
    own: dict[str, Any] = {
        "decay": _decay(neuron.beta, shape) if kind != "Lapicque" else per_neuron(1 - _rate(neuron), shape),
        "gain": 1.0 if kind != "Lapicque" else _lapicque_gain(neuron, shape),
        "rest": 0.0,
        "v_init": 0.0,
        "synapse": Synapse(_decay(neuron.alpha, shape)) if "syn" in STATES[kind] else None,
    }
    if cell is not None:
        own |= _cells_numbers(cell, own["synapse"], shape)
    delay = 1 if cell is None else cell.delay
    recurrence, bias = _recurrence(name, neuron, shape, delay)
    if readout or bool(torch.isinf(neuron.threshold).all()):
        if not isinstance(reset, NoReset) or (cell is not None and _more(cell)) or recurrence is not None:
            refuse_layer(name, "a read-out only leaks and integrates, this neuron does more", "reset_mechanism='none'")
        return Readout(**own), None
    comparison = _comparison(name, neuron, reset)
    more: dict[str, Any] = {} if cell is None else _cells_rules(cell, shape)
    dynamics = Dynamics(
        threshold=per_neuron(neuron.threshold, shape), comparison=comparison, reset=reset, **own, **more
    )
    return Spiking(dynamics, recurrence), bias


def _own_reset(name: str, neuron: Any) -> Reset:
    """What the neuron's reset does; refuses what no network says."""
    kind = type(neuron).__name__
    refuse_hooks(name, neuron)
    if neuron.inhibition:
        refuse_layer(name, "inhibition: only the neuron with the highest membrane spikes", "inhibition=False")
    if neuron.state_quant:
        refuse_layer(name, "state_quant rounds its state in every step", "state_quant=False")
    if not bool((neuron.graded_spikes_factor == 1).all()):
        refuse_layer(name, "graded_spikes_factor scales its spikes", "put the factor into the weights behind it")
    mechanism = MECHANISM_OF.get(getattr(neuron.state_function, "__name__", ""))
    if mechanism is None:
        refuse_layer(name, "its state_function is not snnTorch's")
    told = list(neuron.reset_dict)[int(neuron.reset_mechanism_val)]
    if told != mechanism:
        refuse_layer(
            name, f"reset_mechanism {told!r} was set after it was built with {mechanism!r}, which partly still acts"
        )
    delayed = bool(getattr(neuron, "reset_delay", True))
    if kind == "RSynaptic" and not delayed and neuron.init_hidden:
        refuse_layer(name, "snnTorch 1.0 cannot run RSynaptic(reset_delay=False, init_hidden=True)", "reset_delay=True")
    return meaning(kind, mechanism, delayed)


def _rate(neuron: Any) -> Tensor:
    """time_step / (R C) of a ``Lapicque``, as its forward computes it: it leaks by 1 - rate, whatever its beta."""
    with torch.no_grad():
        rate: Tensor = neuron.time_step / (neuron.R * neuron.C)
    return rate


def _lapicque_gain(neuron: Any, shape: Shape) -> float | Array:
    """R (1 / (R C)) time_step, the factors rounded as in its forward."""
    with torch.no_grad():
        per_charge = 1 / (neuron.R * neuron.C)
    return per_neuron(neuron.R.double() * per_charge.double() * neuron.time_step.double(), shape)


def _comparison(name: str, neuron: Any, reset: Reset) -> Comparison:
    """How ``spike_grad`` compares, found by calling it."""
    probes = torch.tensor(PROBES, dtype=neuron.threshold.dtype, device=neuron.threshold.device)
    with torch.no_grad():
        try:
            given = neuron.spike_grad(probes)
        except Exception as error:
            refuse_layer(name, f"its spike_grad cannot be called on membranes ({type(error).__name__}: {error})")
    _keeps_numbers(name, neuron, reset, given.dtype)
    answers = given.tolist() if given.shape == probes.shape else None
    for comparison in Comparison:
        if answers == comparison(probes, torch.zeros_like(probes)).to(given.dtype).tolist():
            return comparison
    refuse_layer(name, f"its spike_grad is no step from 0 to 1 at the threshold: {answers} for {list(PROBES)}")


def _keeps_numbers(name: str, neuron: Any, reset: Reset, spikes: torch.dtype) -> None:
    """Refuse a neuron whose float32 spikes round the float64 numbers that they are multiplied with.

    torch does so with a single number, not with one a neuron.
    """
    multiplied = [neuron.threshold] if isinstance(reset, (SubtractThreshold, SubtractThresholdOnce)) else []
    if hasattr(getattr(neuron, "recurrent", None), "V"):
        multiplied.append(neuron.recurrent.V)
    for number in multiplied:
        if number.ndim == 0 and float(number) != float(number.to(spikes)):
            how = f"its spikes, of {spikes}, round {float(number)!r} of {number.dtype} when multiplied with it"
            refuse_layer(name, how, "give it as a tensor of one a neuron, or a spike_grad that keeps the dtype")


def _recurrence(name: str, neuron: Any, shape: Shape, delay: int) -> tuple[Recurrence | None, Array | None]:
    if not hasattr(neuron, "recurrent"):
        return None, None
    recurrent = neuron.recurrent
    refuse_hooks(f"{name}.recurrent", recurrent)
    if isinstance(recurrent, nn.Conv2d):
        refuse_layer(name, "convolutional recurrence (conv2d_channels)", "all-to-all with linear_features")
    part = "weight" if isinstance(recurrent, nn.Linear) else "V"
    weight, hollow = getattr(recurrent, part), False
    if parametrize.is_parametrized(recurrent, part):
        listed: Any = recurrent.parametrizations[part]
        if all(type(entry) in (Hollow, Gain) for entry in listed):
            weight, hollow = listed.original, any(isinstance(entry, Hollow) for entry in listed)
    array = as_array(weight)
    if part == "V":
        if len(shape) != 1:
            refuse_layer(name, f"one-to-one recurrence of neurons of {shape}", "flatten them before")
        return Recurrence(np.broadcast_to(array.squeeze() if array.size == 1 else array, shape), delay), None
    bias = None if recurrent.bias is None else as_array(recurrent.bias)
    return Recurrence(array.T, delay, hollow), bias if bias is not None and bias.any() else None


def _cells_numbers(cell: Any, synapse: Synapse | None, shape: Shape) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        part: per_neuron(value, shape) for part in ("rest", "v_init") if (value := getattr(cell, part)) is not None
    }
    if cell.gain is not None:
        numbers["gain"] = per_neuron(cell.gain.membrane, shape)
        if synapse is not None:
            numbers["synapse"] = synapse.replace(gain=per_neuron(cell.gain.synapse, shape))
    return numbers


def _more(cell: Any) -> bool:
    return cell.silent_steps is not None or cell.adaptation_decay is not None or cell.delay != 1


def _cells_rules(cell: Any, shape: Shape) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    if cell.silent_steps is not None:
        steps = cell.silent_steps.cpu().numpy()
        rules["refractory"] = Refractory(steps.item() if steps.ndim == 0 else steps, cell.frozen)
    if cell.adaptation_decay is not None:
        decay, beta = per_neuron(cell.adaptation_decay, shape), per_neuron(cell.adaptation_beta, shape)
        rules["adaptation"] = Adaptation(decay, beta, cell.fresh_spike_decays)
    return rules


def _cells_reset(cell: Any, shape: Shape) -> Reset:
    if cell.reset is ResetToValue:
        return ResetToValue(per_neuron(cell.v_reset, shape), cell.when)
    reset: Reset = cell.reset(cell.when) if cell.reset in (SubtractThreshold, SubtractAdapted) else cell.reset()
    return reset


def _decay(value: Tensor, shape: Shape) -> float | Array:
    number = per_neuron(value, shape)
    if np.all((np.asarray(number) >= 0) & (np.asarray(number) <= 1)):
        return number
    return np.clip(number, 0.0, 1.0)
