"""What an inspection says of a chip, on devices whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovonic.adapters.crossbar import ArraySpec, Block, Layout, PlacedLayer
from ovonic.adapters.crossbar_image import CrossbarImage, Software
from ovonic.adapters.crossbar_imports import image_of_conductances
from ovonic.models.pcm import device_model
from ovonic.validation.crossbar_inspection import inspect_image, inspection_figure, lasting


def known() -> CrossbarImage:
    """2 x 2 in a corner of 3 x 3: asked 1, .5, -.5, 0 of full scale 50 uS; two weights off, one beyond."""
    layout = Layout(
        (ArraySpec("A", 3, 3),), (PlacedLayer("w", (2, 2), w_max=(2.0,)),), (Block("w", 0, 2, 0, 2, 0, 1, 1),)
    )
    target, prog, read = (torch.zeros(4, 3, 3) for _ in range(3))
    target[:, 1, 1] = torch.tensor([25.0, 0.0, 25.0, 0.0])
    target[:, 1, 2] = torch.tensor([25.0, 0.0, 0.0, 0.0])
    target[:, 2, 1] = torch.tensor([0.0, 25.0, 0.0, 0.0])
    prog.copy_(target)
    prog[0, 1, 2] = 24.0  # 2 % of 50 uS
    read.copy_(prog)
    read[2, 1, 1] = 21.0  # 8 %
    fields = {"g_target": target, "g_prog": prog, "g_read": read, "t_prog_s": torch.full((4, 3, 3), 3.0).double()}
    asked = {"w": np.array([[2.2, 1.0], [-1.0, 0.0]])}
    made = image_of_conductances(layout, device_model("pcm"), [fields], chip={"now_s": 10.0})
    return made.replace(software=Software(asked))


def test_errors_are_of_full_scale_over_placed_weights() -> None:
    (layer,) = (found := inspect_image(known())).layers
    assert layer.programming_error == pytest.approx(2 / np.sqrt(4), rel=1e-5)
    assert layer.error_now == pytest.approx(np.sqrt((2**2 + 8**2) / 4), rel=1e-5)
    assert layer.worst_now == pytest.approx(8, rel=1e-5)
    assert layer.signal_left == pytest.approx((0.92 + 0.48 + 0.5) / 2, rel=1e-5)
    assert (layer.weights, layer.saturated, layer.at_full_scale, layer.pulses, layer.stuck) == (4, 1, 1, 16, 0)
    assert (found.youngest_s, found.oldest_s) == (7.0, 7.0)
    assert inspect_image(known().replace(software=None)).layers[0].saturated is None


def test_the_figure_tells_the_worst_layer_in_words() -> None:
    figure = inspection_figure(known(), setting="chip")
    assert "those of w are the largest, 4.1 %" in str(figure.get_label())
    assert figure.get_supxlabel().startswith("chip: devices with a target above 0 uS")


def test_durations_in_words() -> None:
    assert [lasting(s) for s in (0.0, 90.0, 120.0, 5400.0, 7200.0, 2592000.0)] == [
        "0 s", "90 s", "2 min", "90 min", "2 h", "30 d",
    ]  # fmt: skip
