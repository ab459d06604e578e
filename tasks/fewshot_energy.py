"""What a few-shot task costs in energy and time, on the crossbar and in a digital processor, from counted operations.

    deployment   every device of the network programmed once, before the first task
    adaptation   device:   the supports' features, a read of each for every update, gradients, the devices programmed
                 software: the twin learns in digital, then the devices programmed
                 none:     the supports' features alone, for the numbers of the norm
    inference    the queries; after time has passed the supports again, whose numbers the norm needs

Counts: ``models.experiment_counts``; costs, as ranges: ``models.energy``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ovonic.adapters.crossbar_fewshot import FewshotCrossbar
from ovonic.adapters.crossbar_loads import loads_of
from ovonic.adapters.crossbar_mapping import cnn_layout
from ovonic.models.accounting import Counts, estimate
from ovonic.models.energy import Costs
from ovonic.models.experiment_counts import Load, fewshot_counts, fewshot_twin_counts, inference_counts
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.tasks.fewshot_chips import check_adapt_on, for_ways

__all__ = ["task_counts", "task_energy"]


def task_counts(
    net: FewshotCNN,
    hardware: FewshotCrossbar,
    *,
    n_way: int,
    supports: int,
    queries: int,
    updates: int,
    devices_reprogrammed: float,
    adapt_on: str = "device",
    read_time_s: float = 0.0,
) -> dict[str, Counts]:
    """Counts of a task: ``deployment``, ``adaptation``, ``inference``, ``twin adaptation`` and ``twin inference``.

    Args: supports, queries: images of a task; devices_reprogrammed: programmed in a task, all updates together.
    Raises: ConfigError: unknown ``adapt_on``.
    """
    check_adapt_on(adapt_on)
    loads = _loads(for_ways(net, n_way), hardware)
    per_update = devices_reprogrammed / max(updates, 1)
    array = fewshot_counts(loads, supports=supports, queries=queries, updates=updates, devices_per_update=per_update)
    twin = fewshot_twin_counts(loads, supports=supports, queries=queries, updates=updates)
    features = inference_counts(loads[:-1], supports)
    if adapt_on == "software":
        array["adaptation"] = features + twin["adaptation"] + Counts(devices_programmed=devices_reprogrammed)
    elif adapt_on == "none":
        array["adaptation"] = features
    if read_time_s:
        array["inference"] = array["inference"] + features
    return {**array, **{f"twin {name}": counts for name, counts in twin.items()}}


def task_energy(counts: dict[str, Counts], costs: Costs | None = None) -> dict[str, Any]:
    """Energy (J) and latency (s) of each part of a task as JSON: low, typical, high, and by kind of work."""
    return {name: estimate(part, costs).as_dict() for name, part in counts.items()}


def _loads(net: FewshotCNN, hardware: FewshotCrossbar) -> Sequence[Load]:
    """Each layer's load, with the phases of this chip's reads, each averaged read counted."""
    h = hardware
    layout = cnn_layout(net, rows=h.rows, columns=h.columns)
    loads = []
    for load, layer in zip(loads_of(layout), layout.layers, strict=True):
        reads = h.readout_reads if layer.kind == "linear" else h.reads
        loads.append(
            replace(
                load,
                mvms=load.mvms * reads,
                in_sequence=load.in_sequence * reads,
                conversions=load.conversions * reads,
                phases=h.periphery.phases(layer.inputs),
            )
        )
    return loads
