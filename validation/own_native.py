"""A user's own module run as it is, and watched: what reached its first layer, and what each of its neurons gave.

A description is right if it gives the spikes of the very thing that it describes. So the module is called on its own
code, in its own floats, and the numbers that its first layer read become the inputs of the description. A module may
take its samples in several ways, and says by no name in which; each is tried,

    once      module(x[B, *shape]), which loops over its own steps; for samples without time
    whole     module(x[B, T, *shape]), module(x[T, B, *shape])
    steps     module(x[B, *shape]) for each step, with the state that it returned where it takes one

and taken is the first in which the first layer reads just what was given, step by step; else the first whose calls fit.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ovonic.adapters.snntorch_cells import Cell, states_of
from ovonic.adapters.snntorch_following import kept
from ovonic.adapters.torch_layers import READERS
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Readout
from ovonic.models.network import Network

__all__ = ["NativeRun", "run_natively"]


@dataclass(frozen=True, eq=False)
class NativeRun:
    """What a module did.

    Attributes:
        call: how it was called. inputs: what its first layer read, [B, T, *shape], in its own floats; as_given: these
            are the samples themselves.
        spikes: of every spiking layer, [B, T, *neurons], by the description's names; readouts: likewise membranes.
        by_order: layers were matched by their order, since their names differ.
    """

    call: str
    inputs: Tensor
    as_given: bool
    spikes: Mapping[str, Tensor]
    readouts: Mapping[str, Tensor]
    by_order: bool


def run_natively(
    module: nn.Module, network: Network, x: Tensor, *, constant: bool, random: bool, seed: int
) -> NativeRun:
    """Run a module on samples; it is left as it was.

    Args: network: its description. x: [B, T, *shape]; constant: the same in every step; random: nobody's data, of which
        a module that takes samples without time may take the first step. seed: of what it draws itself.
    Raises: ConfigError: the description has several inputs, or the module cannot be called or matched.
    """
    if len(network.inputs) != 1:
        raise ConfigError(f"the description has {len(network.inputs)} inputs; a module is called with one")
    like = next((p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), torch.zeros(()))
    x = x.to(like)
    fitting: NativeRun | None = None
    causes: dict[str, str] = {}
    for how, call in _calls(module, x, constant, random):
        record = _Record(module)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), kept(module), record.watching():
                torch.manual_seed(seed)
                call()
            found = _native(how, record, network, x)
        except Exception as error:
            causes[how] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            continue
        if found.as_given:
            return found
        fitting = fitting or found
    if fitting is None:
        raise ConfigError("; ".join(f"called {how}: {cause}" for how, cause in causes.items()))
    return fitting


def _calls(module: nn.Module, x: Tensor, constant: bool, random: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    once = "once with each sample, over steps of its own", lambda: module(x[:, 0])
    if constant:
        yield once
    yield "with all steps of a sample, batch first", lambda: module(x)
    yield "with all steps of a sample, time first", lambda: module(x.transpose(0, 1))
    yield "step by step", functools.partial(_stepwise, module, x)
    if random and not constant:
        yield once


def _stepwise(module: nn.Module, x: Tensor) -> None:
    takes = "state" in inspect.signature(module.forward).parameters
    state = None
    for now in x.unbind(1):
        given = module(now, state) if takes and state is not None else module(now)
        state = given[-1] if takes and isinstance(given, tuple) else None


class _Record:
    """What every layer of a module reads and gives, call by call; ``order``: as they are first called."""

    def __init__(self, module: nn.Module) -> None:
        self.parts = {
            path.replace(".", "_"): part
            for path, part in module.named_modules()
            if _is_neuron(part) or parametrize.type_before_parametrizations(part) in READERS
        }
        self.neurons = [name for name, part in self.parts.items() if _is_neuron(part)]
        self.order: list[str] = []
        self.read: dict[str, list[Tensor]] = {name: [] for name in self.parts}
        self.gave: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.parts}

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for name, part in self.parts.items():
            handles.append(part.register_forward_pre_hook(functools.partial(self._before, name), with_kwargs=True))
            handles.append(part.register_forward_hook(functools.partial(self._after, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name not in self.order:
            self.order.append(name)
        self.read[name].append(next(iter([*args, *kwargs.values()])).detach().clone())

    def _after(self, name: str, part: nn.Module, _: Any, given: Any) -> None:
        spikes, *states = given if isinstance(given, tuple) else (given,)
        membrane = spikes
        if states_of(part):
            membrane = states[-1] if states else part.mem
        elif isinstance(part, Cell):
            membrane = states[-1].v
        self.gave[name].append((spikes.detach().clone(), membrane.detach().clone()))


def _is_neuron(part: nn.Module) -> bool:
    if states_of(part) or isinstance(part, Cell):
        return True
    if not any(kind.__module__.split(".")[0] in ("norse", "ovonic") for kind in type(part).__mro__):
        return False
    from ovonic.adapters.norse_neurons import is_neuron

    return is_neuron(part)


def _native(how: str, record: _Record, network: Network, x: Tensor) -> NativeRun:
    """Raises: ConfigError: what was recorded is no run of the network on samples such as x."""
    names, by_order = _matched(record, network)
    if not record.order:
        raise ConfigError("no layer was called")
    inputs = _stacked(record, record.order[0], record.read[record.order[0]], x.ndim - 2)
    if inputs.shape[0] != x.shape[0] or inputs.shape[2:] != x.shape[2:] or inputs.shape[1] < 2:
        raise ConfigError(f"its first layer read {tuple(inputs.shape)} [samples, steps, ..] of {tuple(x.shape)}")
    if how.startswith(("with", "step")) and inputs.shape[1] != x.shape[1]:
        raise ConfigError(f"its first layer was called for {inputs.shape[1]} steps of {x.shape[1]}")
    spikes: dict[str, Tensor] = {}
    readouts: dict[str, Tensor] = {}
    for name, own in names.items():
        shape = network.shapes[name]
        is_readout = isinstance(network.layers[name], Readout)
        gave = _stacked(record, own, [pair[is_readout] for pair in record.gave[own]], len(shape))
        if tuple(gave.shape) != (*inputs.shape[:2], *shape):
            raise ConfigError(f"layer {own!r} gave {tuple(gave.shape)}, where {(*inputs.shape[:2], *shape)} is due")
        (readouts if is_readout else spikes)[name] = gave
    return NativeRun(how, inputs, torch.equal(inputs, x), spikes, readouts, by_order)


def _matched(record: _Record, network: Network) -> tuple[dict[str, str], bool]:
    """The module's neurons by the names of the description's layers: by name, else by order."""
    wanted = [name for name in network.layers if name in (*network.spiking, *network.readouts)]
    if all(name in record.neurons for name in wanted):
        return {name: name for name in wanted}, False
    called = [name for name in record.order if name in record.neurons]
    if len(called) != len(wanted):
        raise ConfigError(
            f"the description has the layers {', '.join(wanted)}, the module the neurons {', '.join(called)}"
        )
    return dict(zip(wanted, called, strict=True)), True


def _stacked(record: _Record, name: str, calls: list[Tensor], axes: int) -> Tensor:
    """Calls with a step each, [B, *shape], or one with all steps, [T, B, *shape], as [B, T, *shape].

    Only neurons of Norse that loop over time, and layers without state, take all steps at once.
    """
    loops = name not in record.neurons or _loops(record.parts[name])
    if len(calls) == 1 and calls[0].ndim == axes + 2 and loops:
        return calls[0].transpose(0, 1)
    if calls and all(call.ndim == axes + 1 for call in calls) and len({call.shape for call in calls}) == 1:
        return torch.stack(calls, 1)
    shapes = ", ".join(sorted({str(tuple(call.shape)) for call in calls}))
    raise ConfigError(f"layer {name!r}: {len(calls)} calls with {shapes}")


def _loops(neuron: nn.Module) -> bool:
    if states_of(neuron) or isinstance(neuron, Cell):
        return False
    from ovonic.adapters.norse_neurons import is_timed

    return is_timed(neuron)
