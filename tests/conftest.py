"""Fixtures of every folder: the shared real data, and synthetic drawings in Omniglot's format."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


def pytest_configure() -> None:
    """Workers side by side share the cores: each computes on one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _empty_nest_kernel() -> Iterator[None]:
    """NEST has one kernel a process: no test finds the nodes of another."""
    yield
    nest = sys.modules.get("nest")
    if nest is not None and nest.network_size:
        nest.ResetKernel()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, ``../shared/data`` beside the repository or ``$OVONIC_SHARED/data``."""
    root = Path(os.environ.get("OVONIC_SHARED") or Path(__file__).parents[2] / "shared")
    if not (root / "data").is_dir():
        pytest.skip(f"needs the real data: {root / 'data'} is absent (set OVONIC_SHARED)")
    return root / "data"


@pytest.fixture(scope="session")
def drawing_png() -> Callable[..., bytes]:
    """Make a random drawing of a given seed: a PNG file's bytes, 1 bit, strokes black on white."""

    def make(seed: int, side: int = 105, mode: str = "1") -> bytes:
        paper = np.random.default_rng(seed).random((side, side)) > 0.1
        file = io.BytesIO()
        Image.fromarray(paper).convert(mode).save(file, "PNG")
        return file.getvalue()

    return make
