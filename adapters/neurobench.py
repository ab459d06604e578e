"""NeuroBench's complexity metrics of a network or a module, by NeuroBench's own package and its ``Benchmark``.

    here                         NeuroBench 2.3.0                       what it counts
    footprint_bytes              Footprint                              parameters and buffers as they lie in memory
    parameters                   ParameterCount                         parameters alone
    connection_sparsity          ConnectionSparsity                     share of weights that are 0, to 4 decimals
    activation_sparsity          ActivationSparsity                     share of outputs of ReLUs, or spikes, that are 0
    dense                        SynapticOperations["Dense"]            products with every input and weight taken as 1
    effective_macs               SynapticOperations["Effective_MACs"]   those with input and weight not 0, if any input
                                                                        of the call is neither 0 nor +-1
    effective_acs                SynapticOperations["Effective_ACs"]    the same, if every input of the call is 0 or +-1
    membrane_updates             MembraneUpdates                        steps of a neuron that changed its membrane

All but the first four are a mean over samples: an image, or a whole run of all its steps. Where these numbers are not
what one might expect, and what NeuroBench leaves out: docs/complexity.md.

NeuroBench sees modules, not descriptions: ``adapters.neurobench_modules`` makes one of a network, and its spikes must
be those of ``models.simulation``. Counts are made in float64, which holds sums up to 2^53 exactly (NeuroBench adds in
the module's own precision), the static metrics in the dtype that weights are kept in.

Left out: ``NeuronOperations`` knows snnTorch's Leaky, Synaptic, Lapicque and Alpha alone and gives 0 for all others.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ovonic.models.errors import ConfigError, ToolchainError
from ovonic.models.network import Network
from ovonic.models.simulation import inputs_by_name, run

__all__ = ["Complexity", "load", "mean_complexity", "module_complexity", "network_complexity"]


@dataclass(frozen=True)
class Complexity:
    """What NeuroBench measured; see the module. ``membrane_updates`` is None without spiking neurons; ``samples``: how
    many inputs were run; ``activation_sparsity_by_layer``: by the layer's name in the module."""

    footprint_bytes: float
    parameters: float
    connection_sparsity: float
    activation_sparsity: float
    activation_sparsity_by_layer: dict[str, float]
    dense: float
    effective_macs: float
    effective_acs: float
    membrane_updates: float | None
    samples: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def load() -> ModuleType:
    """``neurobench_modules``, the one module that needs NeuroBench.

    Raises: ToolchainError: it is not there, or does not load.
    """
    try:
        from ovonic.adapters import neurobench_modules
    except ImportError as error:
        raise ToolchainError(f"NeuroBench cannot be imported ({error}): pip install 'ovonic[neurobench]'") from error
    return neurobench_modules


def module_complexity(module: nn.Module, inputs: Tensor, *, batch: int = 25) -> Complexity:
    """The metrics of a module of torch's layers as it is.

    Args:
        module: maps [B, ..] to [B, ..]; its dtype is that of the static metrics. inputs: [samples, ..].
        batch: samples at a time.
    Raises: ToolchainError: NeuroBench is missing, or a metric of it failed. ConfigError: no samples.
    """
    nb = load()
    _check_samples(inputs)
    static = nb.static_metrics(nb.TorchModel(module))
    counted = copy.deepcopy(module).double()
    return _complexity(static, nb.workload_metrics(nb.TorchModel(counted), inputs.double(), batch), len(inputs), False)


def network_complexity(
    network: Network, inputs: Tensor, *, batch: int = 25, dtype: torch.dtype = torch.float32
) -> Complexity:
    """The metrics of a spiking network.

    Args:
        network: with one input. inputs: [samples, T, *shape]: a sample is a run of T steps.
        batch: samples at a time; dtype: that weights are kept in, for the static metrics.
    Raises: ToolchainError: NeuroBench is missing, a metric of it failed, or the spikes that it saw are not those of
        ``models.simulation``. UnsupportedDynamics: a layer that NeuroBench's hooks cannot see. ConfigError: no samples,
        or an input that does not fit.
    """
    nb = load()
    _check_samples(inputs)
    given = inputs_by_name(network, inputs.double())
    ((_, x),) = given.items() if len(given) == 1 else _one_input(network)
    counted = nb.CountedNetwork(network, torch.float64)
    model = nb.SNNTorchModel(counted)
    for part in x.split(batch):
        _check_spikes(network, part, counted, model)
    static = nb.static_metrics(nb.SNNTorchModel(nb.CountedNetwork(network, dtype)))
    return _complexity(static, nb.workload_metrics(model, x, batch), len(x), bool(network.spiking))


def mean_complexity(parts: Sequence[Complexity]) -> Complexity:
    """The mean of several measurements of equally many samples each, as of networks that learned different tasks.

    Raises: ConfigError: none, or of unequal size.
    """
    if not parts or len({(p.samples, *p.activation_sparsity_by_layer) for p in parts}) != 1:
        raise ConfigError(f"{len(parts)} measurements: give one or more, of the same module and as many samples each")
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(Complexity)):
        values = [getattr(part, name) for part in parts]
        if name == "activation_sparsity_by_layer":
            found[name] = {layer: _mean([value[layer] for value in values]) for layer in values[0]}
        else:
            found[name] = None if values[0] is None else _mean(values)
    return Complexity(**found | {"samples": sum(part.samples for part in parts)})


def _complexity(static: dict[str, Any], work: dict[str, Any], samples: int, spiking: bool) -> Complexity:
    operations = work["SynapticOperations"]
    return Complexity(
        footprint_bytes=static["Footprint"],
        parameters=static["ParameterCount"],
        connection_sparsity=static["ConnectionSparsity"],
        activation_sparsity=work["ActivationSparsity"],
        activation_sparsity_by_layer=work["ActivationSparsityByLayer"],
        dense=operations["Dense"],
        effective_macs=operations["Effective_MACs"],
        effective_acs=operations["Effective_ACs"],
        membrane_updates=work["MembraneUpdates"] if spiking else None,
        samples=samples,
    )


def _check_samples(inputs: Tensor) -> None:
    if inputs.ndim < 2 or not len(inputs):
        raise ConfigError(f"inputs {tuple(inputs.shape)}: [samples, ..] with one sample or more is due")


def _one_input(network: Network) -> Any:
    raise ConfigError(f"the network has {len(network.inputs)} inputs: NeuroBench's models take one")


def _check_spikes(network: Network, x: Tensor, counted: Any, model: Any) -> None:
    with torch.no_grad():
        trace = run(network, x)
        model(x)
    for name in network.spiking:
        spikes = torch.stack(counted.spikes[name], 1)
        if not torch.equal(spikes, trace[name].spikes):
            wrong = int((spikes != trace[name].spikes).sum())
            raise ToolchainError(f"layer {name!r}: {wrong} spikes of NeuroBench's run are not those of the network")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
