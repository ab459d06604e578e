"""Does a toolchain give every spike of the description? Random networks, each run exactly, refused by name, or caught.

What must never happen is a silent divergence: a network that a toolchain says it runs exactly, and runs otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from ovonic.adapters.toolchains import adapter
from ovonic.models.engine import run_fast
from ovonic.models.errors import ConfigError, OvonicError, ToolchainError, UnsupportedDynamics
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.dynamics import Judgement, compare_traces
from ovonic.validation.random_networks import ACTIVE, active_share, random_network

__all__ = ["ENGINE", "Conformance", "conformance", "runner"]

REFUSED = re.compile(r"layer '[^']*', ([\w.]+)")
"""The features in the text of a refusal."""

ENGINE = "engine"
"""The name of our own fast engine among the toolchains."""


@dataclass(frozen=True)
class Conformance:
    """What became of the networks ``start`` .. ``start + count`` of a seed on a toolchain.

    Attributes:
        exact: spikes equal, membranes and read-outs within rounding. refused: by the features that were named.
        refused_networks: how many were refused. undecidable: spikes that rounding can turn, or silent networks.
        diverged: a spike differs beyond rounding. deviating: spikes equal, but a membrane or read-out beyond rounding.
        failed: an error that is no refusal, by network. active: networks of which 80 % of each layer spike.
    """

    toolchain: str
    seed: int
    start: int
    count: int
    dtype: str
    exact: int
    refused: Mapping[str, int]
    refused_networks: int
    undecidable: tuple[int, ...]
    diverged: tuple[int, ...]
    deviating: tuple[int, ...]
    failed: Mapping[int, str] = field(default_factory=dict)
    active: int = 0

    @property
    def conforms(self) -> bool:
        """No silent divergence, and no failure."""
        return not (self.diverged or self.deviating or self.failed)


def runner(toolchain: str) -> Callable[..., Trace]:
    """The ``run`` of a toolchain, or of our engine.

    Raises: ConfigError: no such toolchain.
    """
    return run_fast if toolchain == ENGINE else adapter(toolchain).run


def conformance(
    toolchain: str,
    count: int,
    seed: int = 0,
    start: int = 0,
    dtype: torch.dtype = torch.float64,
    on_network: Callable[..., None] | None = None,
) -> Conformance:
    """Run random networks on a toolchain and on our plain step, and compare.

    Args:
        toolchain: of ``adapters.toolchains.TOOLCHAINS``, or ``ENGINE``.
        on_network: called after each.
    Raises: ConfigError: no such toolchain; ToolchainError: it is missing.
    """
    run_there = runner(toolchain)
    refused: Counter[str] = Counter()
    indices: dict[str, list[int]] = {"exact": [], "refused": [], "undecidable": [], "diverged": [], "deviating": []}
    failed: dict[int, str] = {}
    active = 0
    for index in range(start, start + count):
        case = random_network(index, seed)
        x = case.inputs.to(dtype)
        with torch.no_grad():
            ours = run(case.network, x)
        active += all(active_share(layer.spikes) >= ACTIVE for layer in ours.layers.values())
        try:
            theirs = run_there(case.network, x)
        except UnsupportedDynamics as error:
            indices["refused"].append(index)
            refused.update(set(REFUSED.findall(str(error))) or [str(error)])
        except ConfigError as error:
            indices["refused"].append(index)
            refused[str(error)] += 1
        except ToolchainError:
            raise
        except (OvonicError, ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            failed[index] = f"{type(error).__name__}: {error}"
        else:
            indices[_outcome(ours, theirs, case.network)].append(index)
        if on_network is not None:
            on_network()
    return Conformance(
        toolchain,
        seed,
        start,
        count,
        str(dtype).removeprefix("torch."),
        len(indices["exact"]),
        dict(refused.most_common()),
        len(indices["refused"]),
        tuple(indices["undecidable"]),
        tuple(indices["diverged"]),
        tuple(indices["deviating"]),
        failed,
        active,
    )


def _outcome(ours: Trace, theirs: Trace, network: Network) -> str:
    found = compare_traces(ours, theirs, network)
    if found.verdict is Judgement.DIFFERENT:
        return "diverged"
    if not found.agree:
        return "deviating"
    return "exact" if found.verdict is Judgement.IDENTICAL else "undecidable"
