"""Layers as nodes of NIR 1.0.8, in NIR's terms (the table of ``adapters.nir``).

The constants are those with which NIR's equations, solved exactly while the input (and the current) stands still for a
step, take the step of ``models.dynamics``; times in s:

    tau = -dt / ln(decay),   r = gain / (1 - decay), without leak gain / dt,   v_leak = rest,   v_threshold = threshold
    tau_syn, w_in            likewise from the synapse
    v_reset                  what the reset makes of a membrane at its threshold: 0 where the threshold is subtracted

They are infinite where NIR has no node (leaky and leakless neurons in one layer, no leak behind or in a synapse): such
a file is for Ovonic alone.

nir 1.0.8 computes the shape that a convolution gives from the first axis of its window alone, and takes its groups for
one: it cannot type a graph with such a node (``typed``), which is then written as it is and read with
``nir.read(path, type_check=False)``.
"""

from __future__ import annotations

from typing import Any

import nir  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ovonic.models.dynamics import Dynamics, tau_ms
from ovonic.models.errors import UnsupportedDynamics
from ovonic.models.frozen import Parameter
from ovonic.models.layers import (
    Conv,
    Flatten,
    Input,
    Layer,
    Linear,
    Pool,
    Pooling,
    Readout,
    Recurrence,
    Spiking,
)

__all__ = ["DIAGONAL", "conv_node", "layer_node", "linear_node", "pool_node", "recurrence_node", "spread", "typed"]

DIAGONAL = "diagonal"
"""Key of a recurrent node's metadata: the values of a masked diagonal, which is 0 in the node."""

Shape = tuple[int, ...]
Array = NDArray[np.float64]


def layer_node(name: str, layer: Layer, reads: Shape, gives: Shape, dt_ms: float) -> Any:
    """The node of a layer that reads and gives these shapes.

    Raises: UnsupportedDynamics: NIR has no node for it.
    """
    if isinstance(layer, Input):
        return nir.Input({"input": np.array(gives)})
    if isinstance(layer, Linear):
        return linear_node(layer)
    if isinstance(layer, Conv):
        return conv_node(layer, reads, gives)
    if isinstance(layer, Pool):
        return pool_node(name, layer, reads, gives)
    if isinstance(layer, Flatten):
        return nir.Flatten({"input": np.array(reads)}, start_dim=0, end_dim=-1)
    if isinstance(layer, Readout):
        constants = _constants(layer, gives, dt_ms)
        kind = nir.CubaLI if "tau_syn" in constants else nir.LI if "tau" in constants else nir.I
        return kind(**constants)
    if isinstance(layer, Spiking):
        d = layer.dynamics
        constants = _constants(d, gives, dt_ms)
        kind = nir.CubaLIF if "tau_syn" in constants else nir.LIF if "tau" in constants else nir.IF
        at_threshold = d.reset(d.threshold, 1, d.threshold, d.threshold)
        return kind(**constants, v_threshold=spread(d.threshold, gives), v_reset=spread(at_threshold, gives))
    raise UnsupportedDynamics(f"layer {name!r}: NIR has no node for a {type(layer).__name__}; write it as other layers")


def linear_node(layer: Linear) -> Any:
    """Linear, or Affine with a bias; [out, in]."""
    weight = layer.weight.T.copy()
    return nir.Linear(weight) if layer.bias is None else nir.Affine(weight, layer.bias.copy())


def conv_node(layer: Conv, reads: Shape, gives: Shape) -> Any:
    """Conv1d or Conv2d, with a bias of zeros where there is none."""
    weight = np.swapaxes(layer.weight, 0, 1).copy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.copy()
    if weight.ndim == 3:
        (stride,), (padding,), (dilation,) = layer.stride, layer.padding, layer.dilation
        node = nir.Conv1d(reads[1], weight, stride, padding, dilation, layer.groups, bias)
    else:
        node = nir.Conv2d(reads[1:], weight, layer.stride, layer.padding, layer.dilation, layer.groups, bias)
    node.input_type, node.output_type = {"input": np.array(reads)}, {"output": np.array(gives)}
    return node


def pool_node(name: str, layer: Pool, reads: Shape, gives: Shape) -> Any:
    """AvgPool2d or SumPool2d.

    Raises: UnsupportedDynamics: maximum pooling, or pooling over one axis.
    """
    if layer.how is Pooling.MAX:
        raise UnsupportedDynamics(
            f"layer {name!r}, Pool.how: NIR has no maximum pooling; pool by the mean or sum, or stride a convolution"
        )
    if len(layer.window) != 2:
        raise UnsupportedDynamics(
            f"layer {name!r}, Pool.window: NIR pools over two axes only; give the space a second axis of length 1"
        )
    kind = nir.SumPool2d if layer.how is Pooling.SUM else nir.AvgPool2d
    node = kind(*(np.array(sizes) for sizes in (layer.window, layer.stride, layer.padding)))
    node.input_type, node.output_type = {"input": np.array(reads)}, {"output": np.array(gives)}
    return node


def recurrence_node(recurrence: Recurrence) -> Any:
    """Linear, or Scale where each neuron feeds only itself."""
    if recurrence.weight.ndim == 1:
        return nir.Scale(recurrence.weight.copy())
    weight = recurrence.weight.T.copy()
    if not recurrence.masked_diagonal:
        return nir.Linear(weight)
    diagonal = np.diagonal(weight).copy()
    np.fill_diagonal(weight, 0)
    return nir.Linear(weight, metadata={DIAGONAL: diagonal})


def typed(layer: Layer) -> bool:
    """Whether nir 1.0.8 gives the node of this layer the right shapes (see the module's text)."""
    return not isinstance(layer, Conv) or (layer.groups == 1 and len(set(layer.weight.shape[2:])) == 1)


def spread(value: Parameter, shape: Shape) -> Array:
    """A number for each neuron."""
    return np.broadcast_to(np.asarray(value, np.float64), shape).copy()


def _constants(layer: Dynamics | Readout, shape: Shape, dt_ms: float) -> dict[str, Array]:
    """Constants of a membrane, and of its synapse, by NIR's names, one a neuron; without tau where nothing leaks."""
    tau, r = _exact(layer.decay, layer.gain, shape, dt_ms)
    v_leak = spread(layer.rest, shape)
    if layer.synapse is not None:
        tau_syn, w_in = _exact(layer.synapse.decay, layer.synapse.gain, shape, dt_ms)
        return {"tau_syn": tau_syn, "tau_mem": tau, "r": r, "v_leak": v_leak, "w_in": w_in}
    if np.all(np.equal(layer.decay, 1)):
        return {"r": spread(layer.gain, shape) / (dt_ms / 1e3)}
    return {"tau": tau, "r": r, "v_leak": v_leak}


def _exact(decay: Parameter, gain: Parameter, shape: Shape, dt_ms: float) -> tuple[Array, Array]:
    """Time constant (s) and gain of the equation tau dx/dt = -x + gain I whose exact solution takes this step."""
    with np.errstate(divide="ignore"):
        return spread(tau_ms(decay, dt_ms), shape) / 1e3, spread(gain, shape) / (1 - spread(decay, shape))
