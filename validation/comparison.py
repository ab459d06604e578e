"""One network on several toolchains: every run, what was refused, and the verdict on every pair.

``ovonic`` is the plain step of ``models.simulation``, which defines what the description means; ``engine`` is our fast
engine; the others are the adapters. The rounding bounds of a pair are taken under the spikes of its first run.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovonic.adapters.toolchains import TOOLCHAINS, adapter, approximate, plugins
from ovonic.models.errors import ConfigError, ToolchainError, UnsupportedDynamics, nearest
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.conformance import ENGINE, runner
from ovonic.validation.diagnosis import Explanation, diagnose
from ovonic.validation.dynamics import Judgement, Verdict, compare_traces, is_silent, shorter_float
from ovonic.validation.margins import margins
from ovonic.validation.spike_distances import SpikeDistance, victor_purpura

__all__ = ["REFERENCE", "Comparison", "Pair", "compare", "poisson_inputs"]

REFERENCE = "ovonic"
"""The run of the plain step."""


@dataclass(frozen=True)
class Pair:
    """Two runs: the verdict, the distance of their spike trains (None: Elephant is missing), and what explains it."""

    verdict: Verdict
    distance: SpikeDistance | None
    explanations: tuple[Explanation, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The runs of one network on several toolchains.

    Attributes:
        traces: by the run's name. seconds: wall time of each, the toolchain's own compiling included.
        refused: toolchain -> what it cannot express exactly. unavailable: toolchain -> why it cannot run here.
        losses: toolchain -> what was given up by consent.
        pairs: of all runs.
    """

    network: Network
    traces: Mapping[str, Trace]
    seconds: Mapping[str, float]
    refused: Mapping[str, tuple[str, ...]]
    unavailable: Mapping[str, str]
    losses: Mapping[str, tuple[str, ...]]
    pairs: tuple[Pair, ...]

    @property
    def silent(self) -> bool:
        """Whether the plain step's run has too few spikes to mean anything."""
        return is_silent(self.traces[REFERENCE])

    def report(self) -> dict[str, Any]:
        """The comparison as plain data, without the traces: what ``ovonic compare --json`` writes.

        ``pairs``: of each two runs a, b: ``identical`` (every spike), ``verdict`` (identical, different, undecidable),
        ``certified``, ``agree``, ``jaccard``, ``first_divergence`` (null, or sample, step, layer, neuron, spikes and
        membranes by run, threshold, bound, decisive), ``max_dv``, ``max_dv_readout``, ``margin`` and the ``bound``
        beside it, ``spike_distance`` (mean, trains, cost_per_ms), ``silent``, ``diagnosis`` (of pairs with the plain
        step, lines): see ``Verdict``. ``refused``: toolchain -> reasons; ``unavailable``: toolchain -> reason;
        ``losses``: toolchain -> what was given up; ``rates_hz``: run -> layer -> mean rate; ``silent``: of the plain
        step; ``seconds``: run -> wall time.
        """
        rates = {
            name: {layer: float(rate.mean()) for layer, rate in trace.rates_hz().items()}
            for name, trace in self.traces.items()
        }
        return {
            "pairs": [_pair_report(pair) for pair in self.pairs],
            "refused": self.refused,
            "unavailable": self.unavailable,
            "losses": self.losses,
            "rates_hz": rates,
            "silent": self.silent,
            "seconds": self.seconds,
        }


def compare(
    network: Network,
    toolchains: str | Collection[str] = "all",
    inputs: Tensor | Mapping[str, Tensor] | None = None,
    steps: int = 500,
    rate: float = 0.1,
    samples: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    lossy: Collection[str] = (),
    on_run: Callable[..., None] | None = None,
) -> Comparison:
    """Run a network on toolchains and judge every pair of runs.

    Args:
        network: the description.
        toolchains: their names, or ``"all"``, which passes over those that are not installed.
        inputs: as of ``simulation.run``, taken in ``dtype``; None draws ``steps`` steps of spikes, each with
            probability ``rate``, for ``samples`` samples.
        lossy: what may be given up (``adapters.toolchains.approximate``), where a toolchain cannot express it.
        on_run: called after each run.
    Raises: ConfigError: an unknown toolchain or a bad input; ToolchainError: a toolchain that was named is missing.
    """
    known = (*TOOLCHAINS, *plugins())
    names = known if toolchains == "all" else tuple(dict.fromkeys(toolchains))
    for name in names:
        if name not in known:
            raise ConfigError(f"toolchain {name!r}: {nearest(name, known)}")
    given = poisson_inputs(network, steps, rate, samples, seed) if inputs is None else inputs
    given = {network.inputs[0]: given} if isinstance(given, Tensor) and len(network.inputs) == 1 else given
    x = {name: value.to(dtype) for name, value in given.items()} if isinstance(given, Mapping) else given.to(dtype)
    traces: dict[str, Trace] = {}
    seconds: dict[str, float] = {}
    refused: dict[str, tuple[str, ...]] = {}
    unavailable: dict[str, str] = {}
    losses: dict[str, tuple[str, ...]] = {}
    for name in (REFERENCE, ENGINE, *names):
        start = time.perf_counter()
        try:
            there, lost = (network, ()) if name in (REFERENCE, ENGINE) else _fitted(name, network, lossy)
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                start = time.perf_counter()
                traces[name] = (run if name == REFERENCE else runner(name))(there, x)
            seconds[name] = time.perf_counter() - start
            if lost:
                losses[name] = lost
        except UnsupportedDynamics as error:
            refused[name] = tuple(map(str, adapter(name).unsupported(network))) or (str(error),)
        except ConfigError as error:
            if name == REFERENCE:
                raise
            refused[name] = (str(error),)
        except ToolchainError as error:
            if toolchains != "all":
                raise
            unavailable[name] = str(error)
        if on_run is not None:
            on_run()
    return Comparison(network, traces, seconds, refused, unavailable, losses, _pairs(network, traces))


def poisson_inputs(network: Network, steps: int, rate: float, samples: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random spikes for every input, [samples, steps, *shape] in float64, each with probability ``rate`` in a step.

    Raises: ConfigError: fewer than one step or sample, or a rate outside 0..1.
    """
    if steps < 1 or samples < 1 or not 0 <= rate <= 1:
        raise ConfigError(f"inputs: {samples} samples of {steps} steps at rate {rate}: 1 or more, and a rate in 0..1")
    rng = torch.Generator().manual_seed(seed)
    sizes = {name: (samples, steps, *network.shapes[name]) for name in network.inputs}
    return {
        name: (torch.rand(size, generator=rng, dtype=torch.float64) < rate).double() for name, size in sizes.items()
    }


def _fitted(name: str, network: Network, lossy: Collection[str]) -> tuple[Network, tuple[str, ...]]:
    return approximate(adapter(name), network, lossy) if lossy else (network, ())


def _pairs(network: Network, traces: Mapping[str, Trace]) -> tuple[Pair, ...]:
    pairs = []
    known: dict[str, Any] = {}
    for a, b in itertools.combinations(traces, 2):
        one, other = traces[a], traces[b]
        key = f"{a} {shorter_float(one, other)}"
        if key not in known:
            spikes = {name: one[name].spikes for name in network.spiking}
            known[key] = margins(network, one.inputs, spikes, shorter_float(one, other))
        verdict = compare_traces(one, other, network, (a, b), known[key])
        explained = a == REFERENCE and verdict.verdict is Judgement.DIFFERENT
        pairs.append(Pair(verdict, _distance(one, other), diagnose(network, other) if explained else ()))
    return tuple(pairs)


def _distance(a: Trace, b: Trace) -> SpikeDistance | None:
    try:
        return victor_purpura(a, b)
    except ToolchainError:
        return None


def _pair_report(pair: Pair) -> dict[str, Any]:
    v, d = pair.verdict, pair.verdict.first_divergence
    where = None
    if d is not None:
        both = (v.a, v.b)
        where = {
            "sample": d.sample,
            "step": d.step,
            "layer": d.layer,
            "neuron": d.neuron[0] if len(d.neuron) == 1 else d.neuron,
            "spikes": dict(zip(both, d.spikes, strict=True)),
            "membranes": dict(zip(both, d.membranes, strict=True)),
            "threshold": d.threshold,
            "bound": d.bound,
            "decisive": d.decisive,
        }
    distance = None if pair.distance is None else pair.distance._asdict()
    return {
        "a": v.a,
        "b": v.b,
        "identical": v.identical,
        "verdict": str(v.verdict),
        "jaccard": v.jaccard,
        "first_divergence": where,
        "max_dv": v.max_dv,
        "margin": v.margin,
        "bound": v.bound,
        "certified": v.certified,
        "agree": v.agree,
        "max_dv_readout": v.max_dv_readout,
        "spike_distance": distance,
        "silent": v.silent,
        "diagnosis": [str(entry) for entry in pair.explanations],
    }
