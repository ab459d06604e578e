"""Watch a call of a module of one's own: its layers must form the chain that is read, with states kept between steps.

A ``forward`` is code; what it does between two layers cannot be read from their order. So the module is called, every
layer's output is replaced by random numbers on the way, and the next layer must get just these, over all steps: a
factor, a sum, a delay, another order are found, whatever the weights. Each neuron must get back the very state that it
gave in the step before, and none in the first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ovonic.adapters.norse_neurons import is_neuron
from ovonic.adapters.torch_layers import refuse_layer

__all__ = ["check_chain"]

CALL_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError)


def check_chain(
    module: nn.Module, leaves: Mapping[str, nn.Module], shape: Sequence[int], example: Sequence[Any] | None
) -> None:
    """Call ``module`` and compare what its layers read with what the ones before them gave; it is left as it was.

    Args:
        leaves: the layers of the chain, in its order. shape: of the first one's input, without batch and time.
        example: arguments to call it with; None tries random inputs of that shape, with and without an axis of time.
    Raises: UnsupportedDynamics: it cannot be called, or is not this chain.
    """
    parameter = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(1)

    def random(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator).to(parameter)

    guesses = [tuple(example)] if example is not None else [(random(3, 3, *shape),), (random(3, *shape),)]
    cause = ""
    for arguments in guesses:
        watch = _Watch(leaves, random)
        try:
            with torch.no_grad(), _kept(module), watch.hooked():
                _call(module, arguments)
        except CALL_ERRORS as error:
            cause = cause or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        watch.check()
        return
    feature = f"its forward cannot be called, so that what it does is not known ({cause})"
    refuse_layer(type(module).__name__.lower(), feature, "give example, the arguments to call it with")


def _call(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Once; twice, with the state that it returned, where it takes one."""
    result = module(*arguments)
    if "state" in inspect.signature(module.forward).parameters and isinstance(result, tuple) and len(arguments) == 1:
        module(*arguments, result[-1])


class _Watch:
    """What every leaf reads and gives, over all its calls."""

    def __init__(self, leaves: Mapping[str, nn.Module], random: Callable[..., Tensor]) -> None:
        self.leaves, self.random = leaves, random
        self.read: dict[str, list[Tensor]] = {name: [] for name in leaves}
        self.gave: dict[str, list[Tensor]] = {name: [] for name in leaves}
        self.states: dict[str, Any] = {}
        self.lost: dict[str, str] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        for name, leaf in self.leaves.items():
            handles.append(leaf.register_forward_pre_hook(self._before(name, leaf), with_kwargs=True))
            handles.append(leaf.register_forward_hook(self._after(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str, leaf: nn.Module) -> Callable[..., None]:
        neuron = is_neuron(leaf)

        def before(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            given = [*positional, *named.values()]
            self.read[name].append(given[0].detach().clone())
            state = given[1] if neuron and len(given) > 1 else None
            if state is not self.states.get(name):
                first = name not in self.states
                self.lost[name] = "starts from a state of its own" if first else "does not get its last state back"

        return before

    def _after(self, name: str) -> Callable[..., Any]:
        def after(_: nn.Module, __: Any, given: Any) -> Any:
            output, *state = given if isinstance(given, tuple) else (given,)
            replaced = self.random(*output.shape).to(output)
            self.gave[name].append(replaced)
            if not state:
                return replaced
            self.states[name] = state[0]
            return replaced, state[0]

        return after

    def check(self) -> None:
        before: str | None = None
        for name in self.leaves:
            if not self.read[name]:
                refuse_layer(name, "forward does not call it", "remove it, or call it in the order of registration")
            if name in self.lost:
                refuse_layer(name, f"in forward it {self.lost[name]}", "z, state = cell(x, state) from None on")
            if before is not None and not torch.equal(_joined(self.read[name]), _joined(self.gave[before])):
                feature = f"forward does not call it on what {before!r} gave, as it is, step by step"
                refuse_layer(name, feature, "put what it does between them into weights or layers")
            before = name


def _joined(steps: list[Tensor]) -> Tensor:
    return torch.cat([step.flatten() for step in steps])


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Attributes that a call sets, such as a state kept in ``self``, are afterwards as they were."""
    before = [(part, dict(vars(part)), dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes, buffers in before:
            vars(part).clear()
            vars(part).update(attributes)
            part._buffers.clear()
            part._buffers.update(buffers)
