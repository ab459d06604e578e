"""Small chips for the tests of crossbar files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ovonic.adapters.crossbar import ArraySpec, Block, Layout, PlacedLayer
from ovonic.adapters.crossbar_image import CrossbarImage, Software, image_of
from ovonic.adapters.crossbar_placed import PlacedChip
from ovonic.models.chip import SimulatedChip
from ovonic.models.crossbar import ArrayState
from ovonic.models.device_faults import Faults
from ovonic.models.dynamics import Dynamics
from ovonic.models.layers import Input, Linear, Recurrence, Spiking
from ovonic.models.network import Network
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.verify import Verify

ROWS, COLUMNS = 7, 6


def network(seed: int = 0) -> Network:
    """5 inputs, 3 neurons that feed back on each other but not on themselves, with a bias."""
    rng = np.random.default_rng(seed)
    return Network.stack(
        {
            "x": Input((5,)),
            "w": Linear(rng.normal(size=(5, 3)), rng.normal(size=3)),
            "h": Spiking(Dynamics(0.9, 1.0), Recurrence(rng.normal(size=(3, 3)), masked_diagonal=True)),
        }
    )


def layout() -> Layout:
    """The network on two arrays: its input weights in two parts, the recurrence beside one of them."""
    return Layout(
        (ArraySpec("A0", ROWS, COLUMNS), ArraySpec("A1", ROWS, COLUMNS)),
        (
            PlacedLayer("w.weight", (5, 3), w_max=(2.0,)),
            PlacedLayer("h.recurrence", (3, 3), "recurrence", "binary", w_max=(1.0, 2.0, 4.0), masked_diagonal=True),
        ),
        (
            Block("w.weight", 0, 2, 0, 3, 0, 0, 0),
            Block("w.weight", 2, 5, 0, 3, 1, 4, 2),
            Block("h.recurrence", 0, 3, 0, 3, 0, 3, 1),
        ),
        digital=("w.bias",),
    )


def chip(seed: int = 1, model: str = "pcm", **options: Any) -> tuple[SimulatedChip, PlacedChip]:
    """A chip that holds the network; every third device of some kind fails, columns have gains, pulses are verified."""
    options = {"verify": Verify(3, 0.5), "faults": Faults(0.1, 0.1, 0.1, 0.2, 16)} | options
    made = SimulatedChip(
        2, device_model(model), Periphery(column_gain_sigma=0.1), seed=seed, rows=ROWS, columns=COLUMNS, **options
    )
    placed = PlacedChip.program(layout(), network().weights(), made)
    made.advance(1000.0)
    return made, placed


def image(seed: int = 1, **options: Any) -> CrossbarImage:
    """The image of ``chip``."""
    made, placed = chip(seed, **options)
    software = Software.of(network(), {"note": "ä"})
    return image_of(made, placed.layout, software=software, provenance={"command": "test", "versions": {"torch": "2"}})


def random_state(rng: np.random.Generator, rows: int, columns: int, now_s: float, g_max: float) -> ArrayState:
    """Any devices that a chip may hold, extremes among them."""
    shape = (4, rows, columns)

    def floats(high: float) -> torch.Tensor:
        values = rng.choice([0.0, high, 1e-30, 1.4e-45, high / 3], size=shape, p=[0.2, 0.2, 0.1, 0.1, 0.4])
        return torch.from_numpy((values * rng.choice([1.0, 0.7], size=shape)).astype(np.float32))

    return ArrayState(
        floats(g_max),
        floats(3 * g_max),
        floats(0.1) - floats(0.05),
        torch.from_numpy(rng.choice([now_s, 0.0, -5.0, now_s / 3], size=shape)),
        floats(3 * g_max),
        torch.from_numpy(rng.integers(0, 2**31 - 1, shape, dtype=np.int32)),
        torch.from_numpy(rng.integers(0, 2, shape, dtype=np.uint8)),
        floats(2.0),
    )


def equal(a: CrossbarImage, b: CrossbarImage) -> bool:
    """Whether two images are the same bit for bit."""
    tensors = [
        [*(t for state in i.states for t in state), *(t for pair in i.column_errors for t in pair if t is not None)]
        for i in (a, b)
    ]
    same = len(tensors[0]) == len(tensors[1]) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.numpy().tobytes() == y.numpy().tobytes()
        for x, y in zip(*tensors, strict=True)
    )
    names = ("layout", "model", "periphery", "verify", "split", "faults", "now_s", "seed", "calls", "counters")
    return same and all(getattr(a, name) == getattr(b, name) for name in (*names, "provenance"))
