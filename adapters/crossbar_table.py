"""A layout as text: its arrays with their fill, and its layers with their place, scale and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovonic.adapters.crossbar import Block, Layout, PlacedLayer

__all__ = ["aligned", "array_rows", "layer_rows", "summary"]

Rows = list[tuple[str, ...]]


def array_rows(layout: Layout) -> Rows:
    """A line an array, after a line of headings: name, size, what it holds, cells in use."""
    rows: Rows = [("array", "rows x columns", "in use", "fill", "layers")]
    sizes = [0] * len(layout.arrays)
    names: list[dict[str, None]] = [{} for _ in layout.arrays]
    for block in layout.blocks:
        sizes[block.array] += block.height * block.width
        names[block.array][block.layer] = None
    for index, array in enumerate(layout.arrays):
        height, width = (side.stop for side in layout.used(index))
        fill = sizes[index] / (array.rows * array.columns)
        rows.append(
            (
                array.name,
                f"{array.rows} x {array.columns}",
                f"{height} x {width}",
                f"{fill:.1%}",
                ", ".join(names[index]),
            )
        )
    return rows


def layer_rows(layout: Layout) -> Rows:
    """A line a layer, after a line of headings: name, unrolled shape, blocks, inputs, full scale, read with."""
    rows: Rows = [("layer", "in x out", "blocks", "inputs (range)", "phases", "w_max", "read with")]
    joint = {name: group for group in layout.together for name in group}
    for layer in layout.layers:
        low, high = min(layer.w_max), max(layer.w_max)
        others = [name for name in joint.get(layer.name, ()) if name != layer.name]
        rows.append(
            (
                layer.name,
                f"{layer.shape[0]} x {layer.shape[1]}",
                _places(layout, layer),
                f"{layer.inputs} ({layer.input_range:g})",
                str(layer.phases),
                f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}",
                ", ".join(others) + (f" (lag {layer.lag})" if layer.lag else ""),
            )
        )
    return rows


def summary(layout: Layout) -> str:
    """Both tables and a line of totals, as plain text."""
    cells = sum(array.rows * array.columns for array in layout.arrays)
    arrays = f"{len(layout.arrays)} array{'s' * (len(layout.arrays) != 1)}"
    total = f"{layout.n_weights} weights on {arrays}, {layout.fill:.1%} of {cells} cells"
    return "\n".join([total, "", aligned(array_rows(layout)), "", aligned(layer_rows(layout))])


def _places(layout: Layout, layer: PlacedLayer) -> str:
    blocks = layout.blocks_of(layer.name)
    if len(blocks) > 4:
        return f"{len(blocks)} on {len({block.array for block in blocks})} arrays"
    return "; ".join(_place(layout, block) for block in blocks)


def _place(layout: Layout, block: Block) -> str:
    rows, columns = (f"{side.start}:{side.stop}" for side in (block.rows, block.columns))
    return f"{layout.arrays[block.array].name} [{rows}, {columns}]"


def aligned(rows: Rows) -> str:
    """Rows as lines with their columns below one another."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
