"""What a toolchain makes of each feature of the description: exact, lossy by consent, or refused; never anything else.

Every feature of ``feature_networks`` is run on the toolchain and judged against our plain step:

    exact      the same spikes, and membranes and read-outs within rounding
    lossy      ``unsupported`` names it and offers the nearest network, of which the toolchain gives the same spikes
    refused    ``run`` raises, naming it
    WRONG      anything else: a silent divergence, a run of what ``unsupported`` lists, an error that is no refusal

NIR carries networks and runs none: a feature is exact where the file gives back the network (with our contract), or
where the file without our contract, read under the convention of its form, gives the same spikes.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import nir  # type: ignore[import-untyped]
import torch

from ovonic.adapters.losses import approximate_for, unsupported_by
from ovonic.adapters.nir import load_nir, network_to_nir, read_nir
from ovonic.adapters.nir_contract import KEY
from ovonic.adapters.toolchains import TOOLCHAINS, Unsupported, adapter, approximate
from ovonic.models.errors import OvonicError, ToolchainError, UnsupportedDynamics
from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import Trace
from ovonic.validation.dynamics import Judgement, compare_traces
from ovonic.validation.feature_networks import Feature

__all__ = ["CARRIERS", "COLUMNS", "Kind", "Support", "carry", "execute_on", "judge", "support"]

CARRIERS = {"nir": None, "nir-exact": "nir-exact", "nir-snntorch": "snntorch-1.0", "nir-norse": "norse-1.1"}
"""Ways of writing NIR, with the names of their forms: with our contract, and for readers who do not know it."""

COLUMNS = (*TOOLCHAINS, *CARRIERS)

READ_AS: dict[str, dict[str, Any]] = {
    "nir-exact": {"convention": "nir-exact"},
    "snntorch-1.0": {"convention": "snntorch-1.0", "reset": "zero-same-step"},
    "norse-1.1": {"convention": "norse-1.1-import", "reset": "zero"},
}
"""How a stranger reads each form."""

CLOSE = 1e-5
"""Membranes of a file without contract may differ so: its time constants are rounded."""


class Kind(StrEnum):
    """See the module's text."""

    EXACT = "exact"
    LOSSY = "lossy"
    REFUSED = "refused"
    WRONG = "WRONG"


@dataclass(frozen=True)
class Support:
    """The verdict on a feature.

    Attributes:
        words: of consent, where it is lossy. text: what is lost, why it is refused, or what went wrong.
    """

    kind: Kind
    words: tuple[str, ...] = ()
    text: str = ""


def support(column: str, feature: Feature) -> Support:
    """The verdict on a feature in one of ``COLUMNS``.

    Raises: ConfigError: no such toolchain; ToolchainError: it is missing.
    """
    if column in CARRIERS:
        form = CARRIERS[column]
        unsupported = functools.partial(unsupported_by, form)
        return judge(feature, unsupported, functools.partial(carry, form), functools.partial(approximate_for, form))
    toolchain = adapter(column)
    execute = functools.partial(execute_on, toolchain.run)
    return judge(feature, toolchain.unsupported, execute, functools.partial(approximate, toolchain))


def judge(
    feature: Feature,
    unsupported: Callable[[Network], list[Unsupported]],
    outcome: Callable[[Feature], Support],
    approximated: Callable[[Network, Collection[str]], tuple[Network, tuple[str, ...]]],
) -> Support:
    """The verdict on a feature.

    Args:
        unsupported: of an adapter. outcome: what becomes of a network there: exact, refused or wrong.
        approximated: the nearest network and what is lost, as ``toolchains.approximate``.
    """
    found, plain = unsupported(feature.network), outcome(feature)
    if not found:
        return plain
    if plain.kind is not Kind.REFUSED:
        return Support(Kind.WRONG, text=f"not refused, although unsupported lists: {found[0]}")
    words = tuple(sorted({entry.consent for entry in found if entry.instead is not None}))
    refused = Support(Kind.REFUSED, text="; ".join(dict.fromkeys(f"{e.feature}: {e.reason}" for e in found)))
    try:
        near, losses = approximated(feature.network, words)
    except UnsupportedDynamics:
        return refused
    there = outcome(replace(feature, network=near))
    if there.kind is Kind.WRONG:
        return Support(Kind.WRONG, words, f"the nearest network: {there.text}")
    return refused if there.kind is Kind.REFUSED else Support(Kind.LOSSY, words, "; ".join(losses))


def execute_on(run_there: Callable[..., Trace], feature: Feature) -> Support:
    """What becomes of a network on a toolchain with that ``run``."""
    network = feature.network
    try:
        theirs = run_there(network, dict(feature.inputs))
    except ToolchainError:
        raise
    except OvonicError as error:
        return Support(Kind.REFUSED, text=str(error))
    except Exception as error:
        return Support(Kind.WRONG, text=f"{type(error).__name__}: {error}")
    verdict = compare_traces(run(network, feature.inputs), theirs, network, ("the plain step", "the toolchain"))
    if verdict.verdict is Judgement.IDENTICAL and verdict.agree:
        return Support(Kind.EXACT)
    where = verdict.first_divergence
    text = "equal spikes, other membranes" if where is None else f"spikes part in step {where.step} of {where.layer!r}"
    return Support(Kind.WRONG, text=f"{verdict.verdict}: {text}")


def carry(form: str | None, feature: Feature) -> Support:
    """What becomes of a network in a NIR file of that form."""
    network = feature.network
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.nir"
        try:
            nir.write(path, network_to_nir(network, form))
        except UnsupportedDynamics as error:
            return Support(Kind.REFUSED, text=str(error))
        if form is None:
            equal = load_nir(path) == network
            return Support(Kind.EXACT) if equal else Support(Kind.WRONG, text="another network came back")
        with h5py.File(path, "a") as file:
            del file["node"]["metadata"][KEY]
        try:
            nir.read(path)
        except Exception as error:
            return Support(Kind.REFUSED, text=f"nir itself cannot read the file: {error}")
        told = READ_AS[form] | ({} if form == "snntorch-1.0" else {"dt_ms": network.dt_ms})
        try:
            read = read_nir(path, **told).network
        except OvonicError as error:
            return Support(Kind.WRONG, text=f"its own file cannot be read: {error}")
    ours, theirs = run(network, feature.inputs), run(read, dict(zip(read.inputs, feature.inputs.values(), strict=True)))
    return (
        Support(Kind.EXACT) if _alike(ours, theirs) else Support(Kind.WRONG, text="read by its form, it runs otherwise")
    )


def _alike(ours: Trace, theirs: Trace) -> bool:
    """Equal spikes, membranes and read-outs within ``CLOSE``, layer by layer."""
    layers = list(zip(ours.layers.values(), theirs.layers.values(), strict=True))
    close = [(a.membrane, b.membrane) for a, b in layers]
    close += list(zip(ours.readouts.values(), theirs.readouts.values(), strict=True))
    return all(torch.equal(a.spikes, b.spikes) for a, b in layers) and all(
        torch.allclose(a, b, rtol=CLOSE, atol=CLOSE) for a, b in close
    )
