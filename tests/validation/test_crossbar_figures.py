"""Pictures of arrays: a rectangle a block in its layer's colour, labels where they fit, every array or the first 40."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from torch import nn

from ovonic.adapters.crossbar_mapping import cnn_layout, layout_of
from ovonic.adapters.crossbar_weights import targets
from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.validation.crossbar_figures import MOST, conductance_figure, layout_figure
from ovonic.validation.figure_style import SERIES, alt_text, caption, save


def test_every_block_is_drawn_where_it_lies(tmp_path: Path) -> None:
    layout = cnn_layout(FewshotCNN())
    figure = layout_figure(layout, setting="The few-shot CNN.")
    colours = {layer.name: SERIES[k][0] for k, layer in enumerate(layout.layers)}
    for index, axes in enumerate(figure.axes):
        drawn = [
            (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height(), to_hex(patch.get_facecolor()).upper())
            for patch in axes.patches
            if isinstance(patch, Rectangle)
        ]
        blocks = [block for block in layout.blocks if block.array == index]
        assert drawn == [(b.column, b.row, b.width, b.height, to_hex(colours[b.layer]).upper()) for b in blocks]
        assert axes.yaxis_inverted()
    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"convs.1\n[0:252, 0:56]", "convs.1\n[252:504, 0:56]", "convs.0"} <= texts
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["A0  66% full", "A1  65% full"]
    assert caption(figure).startswith("The few-shot CNN. Rows are wordlines")
    assert "85456 weights on 2 arrays" in alt_text(figure)
    assert save(figure, tmp_path / "layout.png").stat().st_size > 10_000


def test_labels_stay_inside_their_blocks() -> None:
    figure = layout_figure(layout_of(nn.Sequential(*(nn.Linear(n, m) for n, m in ((60, 9), (300, 30), (200, 120))))))
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        boxes = [patch.get_window_extent(renderer) for patch in axes.patches]
        for text in axes.texts:
            box = text.get_window_extent(renderer)
            assert any(b.x0 <= box.x0 and b.x1 >= box.x1 and b.y0 <= box.y0 and b.y1 >= box.y1 for b in boxes)


def test_more_arrays_than_are_drawn() -> None:
    layout = layout_of(nn.Linear(41, 1), rows=1, columns=1)
    figure = layout_figure(layout)
    assert sum(axes.get_visible() for axes in figure.axes) == MOST
    assert f"The first {MOST} of 41 arrays." in caption(figure)


def test_conductances() -> None:
    module = nn.Linear(6, 4, bias=False)
    layout = layout_of(module, rows=8, columns=8)
    (g,) = targets(layout, {"weight": module.weight.detach()}, 25.0)
    figure = conductance_figure(layout, [g], 25.0)
    (image,) = figure.axes[0].images
    assert np.allclose(image.get_array()[:6, :4], module.weight.detach().T.numpy() / layout.layers[0].w_max[0] * 50)
    assert "50 µS is full scale" in caption(figure)
    conductance_figure(layout, [torch.zeros_like(g)], 25.0)
    with pytest.raises(ConfigError, match=r"conductances \[\(2, 4, 8, 8\)\]: \[4, rows, columns\] of 1 arrays"):
        conductance_figure(layout, [g.expand(2, -1, -1, -1)], 25.0)
