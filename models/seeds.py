"""Seeds by name: a random stream of its own for each path of labels, the same on every machine."""

from __future__ import annotations

import hashlib
from operator import index

import torch

__all__ = ["derive_seed", "stream"]


def derive_seed(*path: int | float | str) -> int:
    """A seed of its own for each path of labels: 63 bits of a hash, the same on every machine."""
    labels = [str(x) if isinstance(x, str) else float(x) if isinstance(x, float) else index(x) for x in path]
    return int.from_bytes(hashlib.blake2b(repr(labels).encode(), digest_size=8).digest()) >> 1


def stream(*path: int | float | str) -> torch.Generator:
    """The random stream, on the CPU, of a path of labels."""
    return torch.Generator().manual_seed(derive_seed(*path))
