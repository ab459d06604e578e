"""E-prop written out: network, errors and rule in one causal loop of NumPy, with a trace for every synapse.

    eps[t]  = decay eps[t-1] + gain x[t]             v[t], z[t], y[t] as ``models.dynamics`` and ``Readout`` say
    e[t]    = psi[t] (eps[t] - beta eps_b[t])        eps_b[t] = decay_b eps_b[t-1] + c e[t-1]
    bar[t]  = kappa bar[t-1] + e[t]
    dE/dW   = sum_t L[t] bar[t],   L[t] = sum over read-outs of W_out gain (y[t] - target[t])

It shares no line with ``models.eprop``, which has no such traces, nor with the models' steps. Reference: Bellec et al.,
Nature Communications 11:3625 (2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters.eprop_wiring import EpropEpisode, wiring
from ovonic.models.dynamics import Comparison, NoReset, SubtractThreshold, When
from ovonic.models.errors import UnsupportedDynamics
from ovonic.models.network import Network
from ovonic.models.surrogates import PUBLISHED_SLOPE
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["Episode", "written_out"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Episode:
    """A network, its inputs [B, T, in] by name in float64, and targets of its read-outs [B, T, O]; or a signal instead.

    signal: learning signals of the spiking layer, [B, T, N], as natural e-prop is given them; then there is no target.
    """

    name: str
    network: Network
    inputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    signal: Tensor | None = None


def written_out(episode: Episode) -> EpropEpisode:
    """Network, errors and rule in one causal loop of NumPy, with a trace for every synapse, [in, out].

    Raises: UnsupportedDynamics: a reset to a value, a synapse, a frozen membrane, read-outs of several decays.
    """
    network, wired = episode.network, wiring(episode.network)
    layer: Any = network.layers[wired.hidden]
    d = layer.dynamics
    if d.synapse is not None or d.refractory.frozen or not isinstance(d.reset, SubtractThreshold | NoReset):
        raise UnsupportedDynamics(f"layer {wired.hidden!r}: written out are LIF and ALIF that subtract or do not reset")
    readouts: list[Any] = [network.layers[name] for name in network.readouts]
    if any(r.synapse is not None for r in readouts) or len({np.ravel(r.decay).tobytes() for r in readouts}) > 1:
        raise UnsupportedDynamics("written out are read-outs of one decay, without synapse")
    delay = 1 if layer.recurrence is None else layer.recurrence.delay
    total: dict[str, Array] = {}
    spikes, membranes = [], []
    for sample in range(len(next(iter(episode.inputs.values())))):
        gradient, z, v = _one_sample(episode, wired, layer, d, delay, sample)
        spikes.append(z)
        membranes.append(v)
        total = {name: total.get(name, 0.0) + g for name, g in gradient.items()}
    seen = LayerTrace(torch.from_numpy(np.stack(spikes)), torch.from_numpy(np.stack(membranes)))
    trace = Trace({wired.hidden: seen}, {}, episode.inputs, network.dt_ms)
    return EpropEpisode({name: torch.from_numpy(g) for name, g in total.items()}, trace)


def _one_sample(
    episode: Episode, wired: Any, layer: Any, d: Any, delay: int, sample: int
) -> tuple[dict[str, Array], Array, Array]:
    """Gradients; spikes and membranes, [T, N]."""
    network, weights = episode.network, episode.network.weights()
    (n,) = network.shapes[wired.hidden]
    late = isinstance(d.reset, SubtractThreshold) and d.reset.when is When.NEXT_AFTER_INPUT
    soon = isinstance(d.reset, SubtractThreshold) and not late
    ways = [(f"{linear}.weight", weights[f"{linear}.weight"], source) for linear, source in wired.into]
    if layer.recurrence is not None:
        recurrent = layer.recurrence.effective
        recurrent = np.diag(recurrent) if recurrent.ndim == 1 else recurrent
        ways.append((f"{wired.hidden}.recurrence", recurrent, None))
    v, z, b = np.zeros(n) + d.v_init, np.zeros(n), np.zeros(n)
    r = np.zeros(n, dtype=int)
    past = [np.zeros(n)] * delay
    eps = {name: np.zeros(w.shape) for name, w, _ in ways}
    eps_b, bar, gradient = ({name: np.zeros(w.shape) for name, w, _ in ways} for _ in range(3))
    outs = {f"{linear}.weight": (weights[f"{linear}.weight"], readout) for linear, readout in wired.out}
    y = {readout: np.zeros(network.shapes[readout]) + network.layers[readout].v_init for _, readout in wired.out}  # type: ignore[attr-defined]
    z_bar = {name: np.zeros(w.shape) for name, (w, _) in outs.items()}
    if episode.signal is None:
        gradient |= {name: np.zeros(w.shape) for name, (w, _) in outs.items()}
    steps = next(iter(episode.inputs.values())).shape[1]
    spikes, membranes = [], []
    kappa: Any = 0.0 if episode.signal is not None else network.layers[wired.out[0][1]].decay  # type: ignore[attr-defined]
    beta: Any = 0.0 if d.adaptation is None else d.adaptation.beta
    for t in range(steps):
        r = np.where(z > 0, d.refractory.silent_steps, np.maximum(r - 1, 0))
        if d.adaptation is not None:
            fresh = d.adaptation.decay if d.adaptation.fresh_spike_decays else 1.0
            b = d.adaptation.decay * b + fresh * z
        arriving = {name: past[-1] if x is None else episode.inputs[x][sample, t].numpy() for name, _, x in ways}
        start = v - z * d.threshold if soon else v
        v = d.rest + d.decay * (start - d.rest) + d.gain * sum(arriving[name] @ w for name, w, _ in ways)
        v = v - z * d.threshold if late else v
        level = d.threshold + beta * b
        psi = PUBLISHED_SLOPE.height * np.maximum(1 - np.abs((v - level) / (d.threshold - d.rest)), 0)
        psi = np.where(r > 0, 0.0, psi / (d.threshold - d.rest))
        membranes.append(v)
        z = ((v >= level if d.comparison is Comparison.GREATER_EQUAL else v > level) & (r == 0)).astype(float)
        spikes.append(z)
        past = [z, *past[:-1]]
        told = np.zeros(n) if episode.signal is None else episode.signal[sample, t].numpy()
        driven = {readout: sum(z @ w for w, to in outs.values() if to == readout) for readout in y}
        for readout, drive in driven.items():
            d_y: Any = network.layers[readout]
            y[readout] = d_y.rest + d_y.decay * (y[readout] - d_y.rest) + d_y.gain * drive
        for name, (w, readout) in outs.items() if episode.signal is None else ():
            d_y = network.layers[readout]
            error = y[readout] - episode.targets[readout][sample, t].numpy()
            told = told + w @ (d_y.gain * error)
            z_bar[name] = d_y.decay * z_bar[name] + d_y.gain * z[:, None]
            gradient[name] = gradient[name] + z_bar[name] * error
        for name, _, _ in ways:
            eps[name] = d.decay * eps[name] + d.gain * arriving[name][:, None]
            e = psi * (eps[name] - beta * eps_b[name])
            if d.adaptation is not None:
                eps_b[name] = d.adaptation.decay * eps_b[name] + fresh * e
            bar[name] = kappa * bar[name] + e
            gradient[name] = gradient[name] + told * bar[name]
    own = f"{wired.hidden}.recurrence"
    if own in gradient:
        if layer.recurrence.weight.ndim == 1:
            gradient[own] = np.diag(gradient[own]).copy()
        elif layer.recurrence.masked_diagonal:
            np.fill_diagonal(gradient[own], 0.0)
    return gradient, np.stack(spikes), np.stack(membranes)
