"""Fixtures of every folder: the shared real data, and synthetic drawings in Omniglot's format."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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
