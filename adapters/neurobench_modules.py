"""Modules that NeuroBench's hooks see, and its benchmark run on them. It imports NeuroBench: use ``neurobench.load``.

    layer of the network      module                          NeuroBench's hooks
    Linear, Conv              nn.Linear, nn.Conv1d, nn.Conv2d connections: synaptic operations, connection sparsity
    Recurrence [n, n]         nn.Linear beside the neurons    the same; a masked diagonal is n weights of 0
    Spiking                   Neurons, a snnTorch neuron      activations: spikes, membranes before and after a step
    Pool, Flatten             their modules                   not seen
    Readout                   a function                      not seen: it never spikes

Why not snnTorch's own neurons: they have no refractory counter, so that their hooks would see spikes that a mask then
takes away; and a recurrence whose diagonal is masked by a parametrization is a layer whose weights NeuroBench does not
binarise. ``Neurons`` steps by ``models.lif``. Reference: NeuroBench 2.3.0, snnTorch 1.0.0.
"""

from __future__ import annotations

import functools
import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount
from neurobench.metrics.workload import (
    ActivationSparsity,
    ActivationSparsityByLayer,
    MembraneUpdates,
    SynapticOperations,
)
from neurobench.models import SNNTorchModel, TorchModel
from snntorch import SpikingNeuron
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ovonic.adapters.torch_layers import build_layer
from ovonic.models.dynamics import Dynamics
from ovonic.models.errors import ToolchainError, UnsupportedDynamics
from ovonic.models.layers import Input, Readout, Spiking
from ovonic.models.lif import LIFState, constants, initial_state, leak, step
from ovonic.models.network import Network

__all__ = ["CountedNetwork", "Neurons", "SNNTorchModel", "TorchModel", "static_metrics", "workload_metrics"]

STATIC = (Footprint, ParameterCount, ConnectionSparsity)
WORKLOAD = (ActivationSparsity, SynapticOperations, MembraneUpdates, ActivationSparsityByLayer)
"""``ActivationSparsityByLayer`` last: it does not say that it needs hooks, which the first one does for all."""


class Neurons(SpikingNeuron):
    """A layer of spiking neurons, one step a call: current [B, *neurons] -> (spikes, membrane).

    Attributes: state: of ``models.lif``, None before the first step; mem: its membrane, which the hooks read.
    """

    def __init__(self, dynamics: Dynamics, delay: int) -> None:
        super().__init__()
        SpikingNeuron.instances.pop()  # snnTorch's list would keep the layer alive for good
        self.dynamics, self.delay = dynamics, delay
        self.state: LIFState | None = None
        self.mem: Any = None

    def past(self, like: Tensor) -> LIFState:
        """The state before this step."""
        return initial_state(like, self.dynamics, self.delay) if self.state is None else self.state

    def forward(self, current: Tensor) -> tuple[Tensor, Tensor]:
        spikes, self.state = step(current, self.past(current), self.dynamics)
        self.mem = self.state.v
        return spikes, self.mem


class CountedNetwork(nn.Module):
    """A network as NeuroBench walks through it; called once a step, ``reset`` before the first.

    Attributes: spikes: of each spiking layer since the reset, a list of [B, *neurons].
    Raises: UnsupportedDynamics: recurrence of one weight a neuron, which is no layer to NeuroBench.
    """

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.layers, self.recurrences = nn.ModuleDict(), nn.ModuleDict()
        number = functools.partial(torch.tensor, dtype=dtype)
        for name, layer in network.layers.items():
            if isinstance(layer, Input | Readout):
                continue
            if not isinstance(layer, Spiking):
                self.layers[name] = build_layer(layer, number)
                continue
            recurrence = layer.recurrence
            self.layers[name] = Neurons(layer.dynamics, 1 if recurrence is None else recurrence.delay)
            if recurrence is None:
                continue
            weight = np.array(recurrence.weight)
            if weight.ndim != 2:
                raise UnsupportedDynamics(
                    f"layer {name!r}: recurrence of one weight a neuron is no layer that NeuroBench counts; give it as "
                    "a diagonal matrix, whose zeros count as connections"
                )
            if recurrence.masked_diagonal:
                np.fill_diagonal(weight, 0.0)
            made = nn.Linear(len(weight), len(weight), bias=False, device="meta")
            made.weight = nn.Parameter(number(weight.T))
            self.recurrences[name] = made
        self.requires_grad_(False)
        self.longest: dict[str, int] = {}
        for edge in network.edges:
            self.longest[edge.source] = max(edge.delay, self.longest.get(edge.source, 0))
        self.reset()

    def reset(self) -> None:
        """Forget the state."""
        self.spikes: dict[str, list[Tensor]] = {name: [] for name in self.network.spiking}
        self.readouts: dict[str, Tensor] = {}
        self.history: dict[str, list[Tensor]] = {name: [] for name in self.longest}
        for layer in self.layers.values():
            if isinstance(layer, Neurons):
                layer.state, layer.mem = None, None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """One step: [B, *shape] -> what the last layer gives."""
        values: dict[str, Tensor] = {}
        for name, layer in self.network.layers.items():
            if isinstance(layer, Input):
                values[name] = x
            else:
                arriving = [self._delayed(edge.source, edge.delay, values) for edge in self.network.sources(name)]
                values[name] = self._step(name, layer, functools.reduce(torch.add, arriving))
        for source, longest in self.longest.items():
            self.history[source] = [values[source], *self.history[source]][:longest]
        return values[name], None

    def _delayed(self, source: str, delay: int, values: dict[str, Tensor]) -> Tensor:
        past = self.history[source]
        if delay == 0:
            return values[source]
        return past[delay - 1] if len(past) >= delay else torch.zeros_like(values[source])

    def _step(self, name: str, layer: Any, current: Tensor) -> Tensor:
        if isinstance(layer, Readout):
            d = constants(layer, current.dtype, current.device)
            before = self.readouts.get(name, torch.zeros_like(current) + d.v_init)
            self.readouts[name] = leak(before, current, d)
            return self.readouts[name]
        module: Any = self.layers[name]
        if not isinstance(module, Neurons):
            y: Tensor = module(current)
            return y
        if name in self.recurrences:
            current = current + self.recurrences[name](module.past(current).past[-1])
        spikes: Tensor = module(current)[0]
        self.spikes[name].append(spikes)
        return spikes


def static_metrics(model: Any) -> dict[str, Any]:
    """Footprint, parameters and connection sparsity by their names in NeuroBench."""
    return {metric.__name__: metric()(model) for metric in STATIC}


def workload_metrics(model: Any, inputs: Tensor, batch: int) -> dict[str, Any]:
    """What NeuroBench's ``Benchmark`` measures, by the metric's name.

    Raises: ToolchainError: a metric failed, which NeuroBench prints and then counts as 0.
    """
    data = DataLoader(TensorDataset(inputs, torch.zeros(len(inputs))), batch_size=batch)
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(io.StringIO()), torch.no_grad():
        found = dict(Benchmark(model, data, [], [], [[], list(WORKLOAD)]).run())
    failed = [line for line in said.getvalue().splitlines() if line.startswith("Error running")]
    if failed:
        raise ToolchainError(f"NeuroBench: {failed[0]}")
    return found
