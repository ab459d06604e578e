"""A network as it was read, layer by layer: its numbers by their places in the result, its options in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ovonic.models.dynamics import Adaptation, Dynamics, NoReset, ResetToValue, Synapse
from ovonic.models.layers import Conv, Flatten, Input, Layer, Linear, Pool, Readout, Spiking
from ovonic.models.network import Network
from ovonic.validation.report import At, Cell, Table

__all__ = ["described", "description_table"]

DEFAULTS = {"gain": 1.0, "rest": 0.0, "v_init": 0.0, "synapse gain": 1.0, "silent steps": 0}
"""What is not worth a word."""


def described(network: Network) -> list[dict[str, Any]]:
    """Every layer as JSON values: name, kind, shape, what it reads, options in words, numbers with their range."""
    found = []
    for name, layer in network.layers.items():
        reads = [
            edge.source + (f" ({edge.delay} step{'s' * (edge.delay > 1)} late)" if edge.delay else "")
            for edge in network.sources(name)
        ]
        found.append(
            {
                "name": name,
                "kind": _kind(layer),
                "shape": list(network.shapes[name]),
                "reads": reads,
                "words": _words(layer),
                "numbers": [
                    {"what": what, "low": float(np.min(value)), "high": float(np.max(value))}
                    for what, value in _numbers(layer).items()
                    if what not in DEFAULTS or np.any(np.not_equal(value, DEFAULTS[what]))
                ],
            }
        )
    return found


def description_table(layers: list[dict[str, Any]], path: str) -> Table:
    """``described`` as a table; path: its place in the result."""
    rows: list[tuple[Cell, ...]] = []
    for k, layer in enumerate(layers):
        shape: list[str | At] = []
        for axis in range(len(layer["shape"])):
            shape += [*([" x "] if axis else []), At(f"{path}/{k}/shape/{axis}", "number")]
        said: list[str | At] = []
        for n, number in enumerate(layer["numbers"]):
            said += ["; " if said else "", f"{number['what']} ", At(f"{path}/{k}/numbers/{n}/low", "number")]
            if number["high"] != number["low"]:
                said += [" to ", At(f"{path}/{k}/numbers/{n}/high", "number")]
        words = "; ".join(layer["words"])
        said += [("; " if said else "") + words] if words else []
        rows.append((layer["name"], layer["kind"], tuple(shape), ", ".join(layer["reads"]) or "–", tuple(said) or "–"))
    return Table("Layers, as read", ("Layer", "Kind", "Shape", "Reads", "Numbers and conventions"), rows)


def _kind(layer: Layer) -> str:
    names: Mapping[type, str] = {
        Input: "input",
        Linear: "linear",
        Conv: "convolution",
        Flatten: "flatten",
        Readout: "leaky read-out",
    }
    if isinstance(layer, Pool):
        return f"{layer.how.value} pooling"
    if isinstance(layer, Spiking):
        return "ALIF neurons" if layer.dynamics.adaptation else "LIF neurons"
    return names.get(type(layer), type(layer).__name__)


def _numbers(layer: Layer) -> dict[str, Any]:
    if isinstance(layer, Linear | Conv):
        bias = {} if layer.bias is None else {"bias": layer.bias}
        return {"weights": layer.weight, **bias}
    if isinstance(layer, Readout):
        return {"decay": layer.decay, "gain": layer.gain, "rest": layer.rest, "v_init": layer.v_init} | _synapse(
            layer.synapse
        )
    if not isinstance(layer, Spiking):
        return {}
    d = layer.dynamics
    found = {"decay": d.decay, "threshold": d.threshold, "gain": d.gain, "rest": d.rest, "v_init": d.v_init}
    found |= _synapse(d.synapse) | {"silent steps": d.refractory.silent_steps}
    if isinstance(d.reset, ResetToValue):
        found["reset to"] = d.reset.v_reset
    if isinstance(d.adaptation, Adaptation):
        found |= {"adaptation decay": d.adaptation.decay, "beta": d.adaptation.beta}
    if layer.recurrence is not None:
        found |= {"recurrent weights": layer.recurrence.effective, "recurrent delay": layer.recurrence.delay}
    return found


def _synapse(synapse: Synapse | None) -> dict[str, Any]:
    return {} if synapse is None else {"synapse decay": synapse.decay, "synapse gain": synapse.gain}


def _words(layer: Layer) -> list[str]:
    if not isinstance(layer, Spiking):
        return []
    found = [f"spikes where v {layer.dynamics.comparison.value} threshold", _reset(layer.dynamics)]
    refractory = layer.dynamics.refractory
    if np.any(refractory.silent_steps):
        found.append("membrane frozen meanwhile" if refractory.frozen else "membrane integrates meanwhile")
    if layer.dynamics.adaptation is not None and layer.dynamics.adaptation.fresh_spike_decays:
        found.append("a fresh spike's adaptation decays before it counts")
    if layer.recurrence is not None:
        found.append("recurrent " + ("one to one" if layer.recurrence.weight.ndim == 1 else "all to all"))
        found += ["diagonal masked"] if layer.recurrence.masked_diagonal else []
    return found


def _reset(dynamics: Dynamics) -> str:
    names = {
        "SubtractThreshold": "reset subtracts the threshold",
        "SubtractAdapted": "reset subtracts the adapted threshold",
        "SubtractThresholdOnce": "reset subtracts the threshold once (snnTorch, reset_delay=False)",
        "ResetToValue": "reset to a value",
    }
    if isinstance(dynamics.reset, NoReset):
        return "no reset"
    kind = type(dynamics.reset).__name__
    return f"{names.get(kind, kind)}, {dynamics.reset.when.value}"
