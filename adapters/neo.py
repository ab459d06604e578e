"""Neo: the trace of a run as Neo's objects, for Elephant and other analyses, and back.

    here                              Neo 0.14                                                       lost?
    Trace                             Block                                                          no
    sample b                          Segment b                                                      no
    spikes of a layer                 SpikeTrain a neuron, spike of step t at t dt, annotations      no
                                      layer, neuron; t_stop T dt
    membrane, refractory, adaptation  AnalogSignal [T, neurons] "LAYER.membrane", ..: sample t at    no
                                      t dt, dimensionless
    read-out, input                   AnalogSignal "NAME.readout", "NAME.input"                      no
    shape of a layer                  annotation shape; neurons are numbered row after row           no
    dt_ms                             sampling_period, and annotation ovonic_dt_ms of the Block      no

Gradients do not pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovonic.models.errors import DataError, ToolchainError
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["from_neo", "raster", "spike_trains", "to_neo"]

DT = "ovonic_dt_ms"
PARTS = ("membrane", "refractory", "adaptation")


def to_neo(trace: Trace, name: str = "") -> Any:
    """A run as a ``neo.Block``, one segment a sample.

    Raises: ToolchainError: Neo is missing.
    """
    neo, ms = _neo()
    block = neo.Block(name=name or None, **{DT: trace.dt_ms})
    first = next(iter((*trace.inputs.values(), *trace.readouts.values(), *(x.spikes for x in trace.layers.values()))))
    for sample in range(len(first)):
        segment = neo.Segment(name=f"sample {sample}", index=sample)
        signals: dict[str, Tensor | None] = {}
        for layer, run in trace.layers.items():
            segment.spiketrains.extend(spike_trains(run.spikes[sample], trace.dt_ms, layer))
            signals |= {f"{layer}.{part}": getattr(run, part) for part in PARTS}
        for kind, tensors in (("readout", trace.readouts), ("input", trace.inputs)):
            signals |= {f"{layer}.{kind}": x for layer, x in tensors.items()}
        for signal, x in signals.items():
            if x is not None:
                segment.analogsignals.append(_signal(neo, ms, x[sample], signal, trace.dt_ms))
        block.segments.append(segment)
    return block


def spike_trains(spikes: Tensor, dt_ms: float, layer: str = "") -> list[Any]:
    """Spikes of one sample, [T, *neurons], as one ``neo.SpikeTrain`` a neuron; the spike of step t is at t dt.

    Raises: ToolchainError: Neo is missing.
    """
    neo, ms = _neo()
    flat = spikes.detach().cpu().flatten(1).numpy() > 0
    return [
        neo.SpikeTrain(np.flatnonzero(column) * dt_ms, units=ms, t_stop=len(flat) * dt_ms, layer=layer, neuron=neuron)
        for neuron, column in enumerate(flat.T)
    ]


def from_neo(block: Any) -> Trace:
    """The run that ``to_neo`` wrote.

    Raises: DataError: what it wrote is missing, contradicts itself, or lies off the time step; ToolchainError: no Neo.
    """
    _neo()
    if DT not in block.annotations:
        raise DataError(f"neo block {block.name!r}: no annotation {DT!r}: not written by to_neo; use raster()")
    dt_ms = float(block.annotations[DT])
    segments = [_sample(segment, dt_ms) for segment in block.segments]
    if not segments or any(s.keys() != segments[0].keys() for s in segments):
        raise DataError(f"neo block {block.name!r}: its segments do not hold the same signals")
    try:
        whole = {key: torch.stack([segment[key] for segment in segments]) for key in segments[0]}
        layers = {
            name: LayerTrace(*(whole.get(f"{name}.{part}") for part in ("spikes", *PARTS)))  # type: ignore[arg-type]
            for name in (key.removesuffix(".membrane") for key in whole if key.endswith(".membrane"))
        }
        readouts, inputs = (
            {key.removesuffix(kind): x for key, x in whole.items() if key.endswith(kind)}
            for kind in (".readout", ".input")
        )
        return Trace(layers, readouts, inputs, dt_ms)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise DataError(f"neo block {block.name!r}: {error}") from error


def raster(trains: Iterable[Any], dt_ms: float, steps: int, t_start_ms: float = 0.0) -> Tensor:
    """Spike trains of any origin as spikes [steps, trains], 0 or 1 in float64.

    Args:
        t_start_ms: time of step 0.
    Raises: DataError: a spike off the grid of steps by more than a millionth of a step, outside it, or two in one step.
    """
    rows = []
    for number, train in enumerate(trains):
        steps_at = (np.asarray(train.rescale("ms").magnitude, np.float64) - t_start_ms) / dt_ms
        nearest = np.round(steps_at).astype(np.int64)
        if (off := np.abs(steps_at - nearest) > 1e-6).any():
            raise DataError(
                f"spike train {number}: a spike at step {steps_at[off][0]:.9g}: no whole step of {dt_ms} ms"
            )
        if ((nearest < 0) | (nearest >= steps)).any() or len(set(nearest.tolist())) < len(nearest):
            raise DataError(f"spike train {number}: spikes outside steps 0..{steps - 1}, or two in one step")
        row = np.zeros(steps)
        row[nearest] = 1
        rows.append(row)
    return torch.from_numpy(np.stack(rows, 1)) if rows else torch.zeros(steps, 0, dtype=torch.float64)


def _signal(neo: Any, ms: Any, x: Tensor, name: str, dt_ms: float) -> Any:
    values = x.detach().cpu()
    about = {"sampling_period": dt_ms * ms, "units": "dimensionless", "name": name, "shape": list(x.shape[1:])}
    return neo.AnalogSignal(values.flatten(1).numpy(), dtype=values.numpy().dtype, **about)


def _sample(segment: Any, dt_ms: float) -> dict[str, Tensor]:
    """All tensors of a segment, without batch, by "LAYER.part"."""
    found: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for signal in segment.analogsignals:
        period = float(signal.sampling_period.rescale("ms").magnitude)
        if abs(period - dt_ms) > 1e-9 * dt_ms:
            raise DataError(f"neo signal {signal.name!r}: sampled every {period} ms in a run of {dt_ms} ms a step")
        shapes[signal.name] = [int(n) for n in np.atleast_1d(signal.annotations.get("shape", signal.shape[1:]))]
        values = torch.from_numpy(np.array(signal.magnitude))
        if values.shape[1] != np.prod(shapes[signal.name], dtype=int):
            raise DataError(f"neo signal {signal.name!r}: {values.shape[1]} columns for {shapes[signal.name]} neurons")
        found[signal.name] = values.unflatten(1, shapes[signal.name])
    trains: dict[str, dict[int, Any]] = {}
    for train in segment.spiketrains:
        trains.setdefault(str(train.annotations.get("layer")), {})[int(train.annotations.get("neuron", -1))] = train
    for layer, numbered in trains.items():
        membrane = found.get(f"{layer}.membrane")
        if membrane is None or sorted(numbered) != list(range(membrane[0].numel())):
            raise DataError(f"neo segment {segment.name!r}: layer {layer!r} lacks its membrane or some spike trains")
        spikes = raster([numbered[n] for n in sorted(numbered)], dt_ms, len(membrane))
        found[f"{layer}.spikes"] = spikes.to(membrane.dtype).unflatten(1, shapes[f"{layer}.membrane"])
    return found


def _neo() -> tuple[Any, Any]:
    try:
        import neo
        from quantities import ms
    except ImportError as error:
        raise ToolchainError(f"Neo is not installed ({error}): pip install 'ovonic[neo]'") from error
    return neo, ms
