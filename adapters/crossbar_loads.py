"""What one step of inference asks of a layout's arrays and its digital periphery, for ``models.experiment_counts``."""

from __future__ import annotations

from ovonic.adapters.crossbar import Layout
from ovonic.models.experiment_counts import Load

__all__ = ["loads_of"]


def loads_of(layout: Layout) -> tuple[Load, ...]:
    """One load for each group of layers that are read together, in the layout's order."""
    loads = []
    for group in layout.groups:
        layers = [layout.layer(name) for name in group]
        reads = layout.reads(group)
        busiest = max(sum(read.array == array for read in reads) for array in {read.array for read in reads})
        loads.append(
            Load(
                " + ".join(group),
                weights=sum(layer.n_weights for layer in layers),
                outputs=sum({layer.feeds: layer.shape[1] for layer in layers}.values()),
                applications=max(layer.vectors for layer in layers),
                mvms=len(reads),
                in_sequence=busiest,
                phases=sum(read.phases for read in reads) / len(reads),
                conversions=sum(read.columns.stop - read.columns.start for read in reads),
            )
        )
    return tuple(loads)
