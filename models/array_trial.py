"""Trials of a recurrent layer whose input, recurrent and read-out weights lie on one array of devices.

The rows of the array are the inputs, then the neurons; its columns are the neurons, then the outputs. In each step

    reads     a = ADC of the rows of the inputs that spike now, x[t];    b = ADC of the rows of z[t-1]
    neurons   v[t] = decay v[t-1] + s_in a + s_rec b - z[t-1] threshold,  and a spike, as ``models.lif.step`` has it
    outputs   y[t-1] = kappa y[t-2] + s_out b                             the other columns of the same read

so that the recurrent and the read-out weights share one read, and inputs and recurrence are added digitally, each with
its own scale s. A last read after the last step completes the outputs. Spikes are 0 or 1: the DAC makes no error. A
read without any spike on its rows is not made: its result is known to be zero. A read of one column is

    ADC(gain (sum_i w_i + sqrt(sum_i load_i + out_noise^2) xi) + offset),   over the rows i that spike; xi ~ N(0, 1)

in units of one row on a device pair at full scale; ``load`` is the variance that one spike adds, anew in every read.
With K reads the mean of K conversions is taken, each with its own xi.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovonic.models import array_trial_kernels as kernels
from ovonic.models.dynamics import Comparison, SubtractThreshold, When
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Readout, Spiking
from ovonic.models.network import Network
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["Cells", "Converter", "check_trainee", "trials"]


class Converter(NamedTuple):
    """What reads columns.

    lsb: step of the ADC, and top its last level; 0 is ideal. out_noise: standard deviation in front of it, in units of
    full scale. gain, offset: of each column, [columns]. reads: conversions that are averaged.
    """

    lsb: float
    top: float
    out_noise: float
    gain: Tensor
    offset: Tensor
    reads: int = 1


class Cells(NamedTuple):
    """Cells in which the arrays of the samples differ from the shared one.

    place: (sample * rows + row) * columns + column, ascending, int64 [n]. weight, load: of these cells, [n].
    """

    place: Tensor
    weight: Tensor
    load: Tensor


def trials(
    network: Network,
    x: Tensor,
    weight: Tensor,
    load: Tensor,
    scale: Tensor,
    converter: Converter,
    generator: torch.Generator,
    cells: Cells | None = None,
) -> tuple[Trace, Tensor]:
    """Run samples side by side, each from the zero state.

    Args:
        network: input, linear, recurrent spiking, linear, read-out; its weights are not used.
        x: input spikes, 0 or 1, [B, T, n_in] on the CPU; its dtype is the run's.
        weight, load: of the array that the samples share, [n_in + N, N + outputs], units of full scale.
        scale: what one unit of full scale is worth in each column, [2, columns] or one a sample, [B, 2, columns]: read
            from the rows of the inputs, and from those of the neurons.
        converter: how columns are read; generator: of all its noise.
        cells: what differs from the shared array.
    Returns: the trace, and per sample the reads made and the conversions that the ADC clipped, [B, 2] int64.
    Raises: ConfigError: dynamics or shapes that do not fit.
    """
    source, spiking, readout = check_trainee(network)
    layer, out = network.layers[spiking], network.layers[readout]
    assert isinstance(layer, Spiking)
    assert isinstance(out, Readout)
    dtype, (batch, steps, n_in) = x.dtype, x.shape
    (n,), (outputs,) = network.shapes[spiking], network.shapes[readout]
    if tuple(weight.shape) != (n_in + n, n + outputs) or load.shape != weight.shape:
        raise ConfigError(f"array {tuple(weight.shape)}: the network needs {(n_in + n, n + outputs)}")
    active = x.any(2).any(0)
    when = (active.cumsum(0) - 1).clamp(min=0).to(torch.int32)
    noise = [
        torch.empty(batch, count, converter.reads, columns, dtype=dtype).normal_(generator=generator)
        for count, columns in ((int(active.sum()), n), (steps + 1, n + outputs))
    ]
    cells = cells or Cells(torch.empty(0, dtype=torch.int64), weight.new_empty(0), weight.new_empty(0))
    starts = torch.searchsorted(cells.place, torch.arange(batch + 1) * weight.numel())
    d = layer.dynamics
    numbers = np.stack(
        [np.broadcast_to(np.asarray(p, noise[0].numpy().dtype), n) for p in (d.decay, d.threshold, d.v_init)]
    )
    z, v = torch.empty(batch, steps, n, dtype=dtype), torch.empty(batch, steps, n, dtype=dtype)
    r = torch.empty(batch, steps, n, dtype=torch.int16)
    y = torch.empty(batch, steps, outputs, dtype=dtype)
    counts = torch.zeros(batch, 2, dtype=torch.int64)
    kernels.trials(
        0, batch, x.contiguous().numpy(), when.numpy(), _plain(weight, dtype), _plain(load, dtype), starts.numpy(),
        (cells.place % weight.numel()).to(torch.int32).numpy(), _plain(cells.weight, dtype), _plain(cells.load, dtype),
        _plain(scale.reshape(-1, 2, n + outputs), dtype), _plain(converter.gain, dtype),
        _plain(converter.offset, dtype), converter.out_noise, converter.lsb, converter.top, noise[0].numpy(),
        noise[1].numpy(), np.ascontiguousarray(numbers),
        np.ascontiguousarray(np.broadcast_to(np.asarray(d.refractory.silent_steps, np.int16), n)), out.decay,
        z.numpy(), v.numpy(), r.numpy(), y.numpy(), counts.numpy(),
    )  # fmt: skip
    refractory = r if np.any(d.refractory.silent_steps) else None
    return Trace({spiking: LayerTrace(z, v, refractory)}, {readout: y}, {source: x}, network.dt_ms), counts


def check_trainee(network: Network) -> tuple[str, str, str]:
    """Names of the input, of the spiking layer and of the read-out of a network that ``trials`` can run.

    Raises: ConfigError: it cannot; the message says why.
    """
    names, layers = list(network.layers), list(network.layers.values())
    if [type(layer) for layer in layers] != [Input, Linear, Spiking, Linear, Readout]:
        raise ConfigError("an array holds the weights of input, linear, recurrent spiking, linear, read-out")
    spiking, readout = layers[2], layers[4]
    assert isinstance(spiking, Spiking)
    assert isinstance(readout, Readout)
    d = spiking.dynamics
    fits = (
        isinstance(d.reset, SubtractThreshold)
        and d.reset.when is When.NEXT_AFTER_INPUT
        and d.comparison is Comparison.GREATER
        and not (d.adaptation or d.synapse or d.refractory.frozen or np.any(d.rest) or np.any(np.not_equal(d.gain, 1)))
        and spiking.recurrence is not None
        and spiking.recurrence.weight.ndim == 2
        and spiking.recurrence.delay == 1
        and not any(edge.delay for edge in network.edges)
        and isinstance(readout.decay, float)
        and not (readout.synapse or np.any(readout.rest) or np.any(readout.v_init))
        and not np.any(np.not_equal(readout.gain, 1))
    )
    if not fits:
        raise ConfigError(
            f"layers {names[2]!r} and {names[4]!r}: a trial on an array runs LIF neurons with a subtraction reset "
            "after the input, rest 0, gain 1, without adaptation or synapse, recurrent with delay 1, and a leaky "
            "read-out likewise"
        )
    return names[0], names[2], names[4]


def _plain(values: Tensor, dtype: torch.dtype) -> np.ndarray:
    return values.detach().to(dtype).contiguous().numpy()
