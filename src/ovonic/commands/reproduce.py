"""``ovonic reproduce``."""

from __future__ import annotations


def reproduce() -> None:
    """Run the experiments end to end with the shipped weights."""
