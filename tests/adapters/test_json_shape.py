from __future__ import annotations

from typing import Any

import pytest

from ovonic.adapters.json_shape import fits

RATIO = {"ratio": (float, None), "n": int}


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (1, float),
        (1.5, float),
        (-3, int),
        ("a", str),
        (True, bool),
        (None, None),
        ([], [float]),
        ([1, 2.5], [float]),
        ([[1], []], [[int]]),
        ({"ratio": None, "n": 2, "more": "x"}, RATIO),
        ({"a": {"ratio": 1.0, "n": 0}}, {"a": RATIO}),
        ("x", (float, str)),
        ([1, {}], object),
    ],
)
def test_what_fits(value: Any, shape: Any) -> None:
    assert fits(value, shape)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (True, float),
        (False, int),
        (1.0, int),
        ("1", float),
        (float("nan"), float),
        (float("inf"), float),
        (10**400, int),
        (-(10**400), float),
        (0, None),
        (None, float),
        ([1, "2"], [float]),
        ({"0": 1}, [float]),
        ([["n", 1]], RATIO),
        ({"ratio": 1.0}, RATIO),
        ({"ratio": "1", "n": 2}, RATIO),
        (None, RATIO),
        (2, (None, str)),
    ],
)
def test_what_does_not(value: Any, shape: Any) -> None:
    assert not fits(value, shape)
