"""Whether values of a JSON file have the shape that their reader counts on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["fits"]

LARGEST = 1e300
"""Whole numbers beyond are none that a float holds."""


def fits(value: Any, shape: Any) -> bool:
    """Whether a value fits a shape.

    A shape is a type (``float``: any finite number, ``int``: a whole one, ``None``: null, ``object``: anything), a dict
    (what must be there by name; more may be), a list of one shape (any number of such), or a tuple of alternatives.
    """
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, dict):
        return isinstance(value, Mapping) and all(name in value and fits(value[name], s) for name, s in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if shape in (float, int):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return (whole or (shape is float and isinstance(value, float))) and -LARGEST < value < LARGEST
    return value is None if shape is None else isinstance(value, shape)
