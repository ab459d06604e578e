"""The dynamics of a user's model: its description on every toolchain, and beside the user's own module.

    toolchains    ``comparison.compare``: a verdict on every pair of runs, in float64
    own module    the module itself (``own_native``) beside the plain step on the same inputs, in the module's floats:
                  every spike of every sample, read-outs, and the verdict on those samples that are judged, with the
                  bounds of rounding of the plain step

Membranes of a module are not compared: what it shows of them may stand before or after the reset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovonic.models.network import Network
from ovonic.models.simulation import run
from ovonic.models.trace import LayerTrace, Trace
from ovonic.validation.comparison import REFERENCE, Comparison, compare
from ovonic.validation.diagnosis import diagnose
from ovonic.validation.dynamics import Judgement, compare_traces
from ovonic.validation.dynamics_figures import raster_overlay, verdict_matrix
from ovonic.validation.own_native import NativeRun
from ovonic.validation.own_subject import Given, OnStep, Settings
from ovonic.validation.report import At, Cell, Claim, Picture, Section, Table

__all__ = ["OWN", "Dynamics", "beside_module", "dynamics_section", "measure_dynamics"]

OWN = "your module"
JUDGED = 8
"""Samples of a module that get a verdict with bounds; those that differ come first."""


@dataclass(frozen=True, eq=False)
class Dynamics:
    """What was measured: the comparison of toolchains, and that with the module, JSON values; None: there is none."""

    comparison: Comparison
    native: dict[str, Any] | None = None

    def figures(self) -> dict[str, Any]:
        """JSON values."""
        report = self.comparison.report()
        counts = {word: sum(pair["verdict"] == word for pair in report["pairs"]) for word in map(str, Judgement)}
        return report | {"counts": counts, "silent_divergences": self.diverged, "native": self.native}

    @property
    def diverged(self) -> int:
        """Runs that a toolchain called exact and that are not what the plain step gives."""
        found = (p.verdict for p in self.comparison.pairs if p.verdict.a == REFERENCE)
        lossy = self.comparison.losses
        return sum((v.verdict is Judgement.DIFFERENT or not v.agree) and v.b not in lossy for v in found)


def measure_dynamics(
    network: Network, inputs: Mapping[str, Tensor], settings: Settings, native: NativeRun | None, on_step: OnStep
) -> Dynamics:
    """Run the toolchains, and judge the module's run if there is one.

    Args: inputs: [B, T, *shape] by name; the first ``settings.compared`` samples run on toolchains.
    """
    few = {name: x[: settings.compared] for name, x in inputs.items()}
    comparison = compare(network, settings.toolchains, few, on_run=on_step)
    beside = None if native is None else beside_module(network, native)
    return Dynamics(comparison, beside)


def beside_module(network: Network, native: NativeRun) -> dict[str, Any]:
    """The module's run beside the plain step on the inputs that reached it, JSON values.

    ``equal_samples`` of ``samples`` have every spike alike; ``beyond_rounding``: how many have not, if the verdict is
    that they differ; ``spikes``: of all samples, by layer: the module's and the description's; the verdict (as of
    ``Comparison.report``) is on ``judged`` samples.
    """
    inputs = {network.inputs[0]: native.inputs}
    with torch.no_grad():
        ours = run(network, inputs)
    differs = torch.zeros(len(native.inputs), dtype=torch.bool)
    for name, spikes in native.spikes.items():
        differs |= (ours[name].spikes != spikes).flatten(1).any(1)
    chosen = torch.argsort(differs.int(), descending=True, stable=True)[:JUDGED].sort().values
    few = {name: x[chosen] for name, x in inputs.items()}
    with torch.no_grad():
        plain = run(network, few)
    layers = {
        name: LayerTrace(
            native.spikes[name][chosen].to(layer.membrane), layer.membrane, layer.refractory, layer.adaptation
        )
        for name, layer in plain.layers.items()
    }
    readouts = {name: native.readouts[name][chosen].to(y) for name, y in plain.readouts.items()}
    theirs = Trace(layers, readouts, few, network.dt_ms)
    verdict = compare_traces(plain, theirs, network, (REFERENCE, OWN))
    first = verdict.first_divergence
    explained = diagnose(network, theirs, 10.0) if verdict.verdict is Judgement.DIFFERENT else ()
    return {
        "call": native.call,
        "as_given": native.as_given,
        "matched": "by order" if native.by_order else "by name",
        "dtype": str(native.inputs.dtype).removeprefix("torch."),
        "samples": len(native.inputs),
        "steps": native.inputs.shape[1],
        "equal_samples": int((~differs).sum()),
        "beyond_rounding": int(differs.sum()) if verdict.verdict is Judgement.DIFFERENT else 0,
        "judged": len(chosen),
        "verdict": str(verdict.verdict),
        "identical": verdict.identical and not bool(differs.any()),
        "certified": verdict.certified,
        "agree": verdict.agree,
        "jaccard": verdict.jaccard,
        "silent": verdict.silent,
        "max_dv_readout": None if verdict.max_dv_readout is None else _finite(verdict.max_dv_readout),
        "first_divergence": None
        if first is None
        else {
            "sample": int(chosen[first.sample]),
            "step": first.step,
            "layer": first.layer,
            "neuron": list(first.neuron),
            "ours": first.spikes[0],
            "theirs": first.spikes[1],
            "membrane": first.membranes[0],
            "threshold": first.threshold,
            "bound": first.bound,
        },
        "diagnosis": [str(entry) for entry in explained],
        "spikes": [
            {"layer": name, "ours": int(ours[name].spikes.sum()), "theirs": int(spikes.sum())}
            for name, spikes in native.spikes.items()
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def dynamics_section(found: Dynamics, result: Mapping[str, Any], given: Given, command: str, setting: str) -> Section:
    """The chapter. Args: result: holds ``figures()`` under "dynamics". command: that draws the figures alone."""
    figures = result["dynamics"]
    claims = [
        Claim.about(result, "Toolchains that run the description otherwise than it says, without refusing it",
                    At("dynamics/silent_divergences", "number"), "<=", 0),
    ]  # fmt: skip
    tables = []
    text = (
        "The description runs on the plain step (`ovonic`, which defines what it means), on our fast engine and on the "
        "toolchains, in float64. Identical: every spike is equal; certified: no membrane came so near to its threshold "
        "that rounding could turn a comparison. Undecidable: spikes part where rounding can do it, or there are so few "
        "that equal ones mean nothing."
    )
    if figures["native"] is not None:
        native = figures["native"]
        text += "\n\n" + _about_module(native)
        if "failed" not in native:
            claims.append(
                Claim.about(result, "Samples in which your module's spikes are not its description's, beyond rounding",
                            At("dynamics/native/beyond_rounding", "number"), "<=", 0)
            )  # fmt: skip
            tables.append(_module_table(native))
    if figures["silent"]:
        more = "Raise `--rate` or `--steps`." if given.random else "Give data under which it spikes."
        text += f"\n\nToo few spikes to mean anything: equal runs are undecidable. {more}"
    tables.append(_pairs_table(figures))
    if figures["refused"] or figures["unavailable"]:
        rows = [(name, "refused", " | ".join(reasons)) for name, reasons in figures["refused"].items()]
        rows += [(name, "not there", reason) for name, reason in figures["unavailable"].items()]
        tables.append(Table("Not run", ("Toolchain", "State", "Why, and what to do"), rows))
    pictures = [
        Picture.of(verdict_matrix(found.comparison, setting=setting), command),
        Picture.of(raster_overlay(found.comparison, setting=setting), command),
    ]
    return Section("Dynamics", text, claims, tables, pictures)


def _about_module(native: Mapping[str, Any]) -> str:
    if "failed" in native:
        return f"Your own module was not run beside its description: {native['failed']}"
    words = {
        "identical": "spikes as its description says, step by step",
        "different": "gives other spikes than its description, where rounding cannot explain it",
        "undecidable": "cannot be told from its description, nor proven equal to it",
    }
    said = f"Your own module, called {native['call']}, {words[native['verdict']]}."
    if not native["as_given"]:
        said += " It makes its input itself: what reached its first layer is what every run here was given."
    if native["matched"] == "by order":
        said += " Its neurons were matched with the description's layers by their order, since names differ."
    if native["verdict"] != "different" and not native["agree"]:
        said += " Its read-outs differ from the description's by more than rounding."
    said += " Its membranes are not compared: what a module shows of them may stand before or after a reset."
    for line in native["diagnosis"]:
        said += f"\n\nThe plain step gives your module's spikes with this change: {line}."
    if native["verdict"] == "different" and not native["diagnosis"]:
        said += (
            "\n\nNo known cause (reset, delay, comparison, decay, scale, wiring, float width) explains the difference."
        )
    return said


def _module_table(native: Mapping[str, Any]) -> Table:
    at = "dynamics/native"
    rows: list[tuple[Cell, ...]] = [
        ("Verdict", native["verdict"] + (", certified" if native["certified"] and native["identical"] else "")),
        ("Samples with equal spikes", (At(f"{at}/equal_samples", "number"), " of ", At(f"{at}/samples", "number"))),
        ("Samples judged with bounds of rounding", At(f"{at}/judged", "number")),
        ("Steps", At(f"{at}/steps", "number")),
        ("Jaccard's index of the spikes judged", At(f"{at}/jaccard", "number")),
    ]
    for k, layer in enumerate(native["spikes"]):
        where = f"{at}/spikes/{k}"
        cell = (At(f"{where}/theirs", "number"), " and ", At(f"{where}/ours", "number"))
        rows.append((f"Spikes of {layer['layer']}: module and description", cell))
    if native["max_dv_readout"] is not None:
        rows.append(("Largest difference of read-outs, to the first divergence", At(f"{at}/max_dv_readout", "number")))
    if (first := native["first_divergence"]) is not None:
        rows.append(("First divergence", tuple(_divergence(first, f"{at}/first_divergence"))))
    return Table(f"{OWN.capitalize()} beside its description ({native['dtype']})", ("What", "Measured"), rows)


def _divergence(first: Mapping[str, Any], at: str) -> Iterator[str | At]:
    def number(name: str) -> At:
        return At(f"{at}/{name}", "number")

    yield from ("sample ", number("sample"), ", step ", number("step"), f", layer {first['layer']}, neuron ")
    for axis in range(len(first["neuron"])):
        yield from ([", "] if axis else [])
        yield number(f"neuron/{axis}")
    yield from (": the module gives ", number("theirs"), ", the description ", number("ours"), " (v ")
    yield from (number("membrane"), ", threshold ", number("threshold"), ", rounding within ", number("bound"), ")")


def _pairs_table(figures: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for k, pair in enumerate(figures["pairs"]):
        if pair["a"] != REFERENCE and pair["identical"] and pair["agree"]:
            continue
        at, first = f"dynamics/pairs/{k}", pair["first_divergence"]
        where: Cell = "–"
        if first is not None:
            place = f"{at}/first_divergence"
            where = (
                "step ",
                At(f"{place}/step", "number"),
                f", {first['layer']}, sample ",
                At(f"{place}/sample", "number"),
            )
        cause = "; ".join(pair["diagnosis"]) or ("–" if pair["agree"] else "membranes or read-outs beyond rounding")
        certified = ", certified" if pair["certified"] and pair["identical"] else ""
        verdict = pair["verdict"] + certified
        jaccard, dv = At(f"{at}/jaccard", "number"), At(f"{at}/max_dv", "number")
        rows.append((f"{pair['a']}, {pair['b']}", verdict, jaccard, dv, where, cause))
    columns = ("Runs", "Verdict", "Jaccard", "Largest difference of membranes", "First divergence", "Cause")
    return Table("Runs beside the plain step, and other pairs that are not alike", columns, rows)
