"""Wrong JSON (and TOML): values of other types and sizes, keys missing, misnamed or doubled, nesting without end."""

from __future__ import annotations

import copy
import json
import math
import tomllib
from random import Random
from typing import Any

from ovonic.adapters.sealed_json import SEAL, checksum

from .mutate_bytes import damaged

__all__ = ["mutated_json", "mutated_sealed", "mutated_toml", "said", "varied"]

DEEP, LONG, TINY_EXPONENT = "@deep@", "@long@", "@exponent@"
RAW = {DEEP: "[" * 3000 + "]" * 3000, LONG: "9" * 5000, TINY_EXPONENT: "1e99999"}
"""What JSON's writer cannot write, and the word that stands for it until then."""

WEIRD: tuple[Any, ...] = (None, True, False, 0, -1, 1, 2, 3, 7, 255, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64)
WEIRD += (10**18, 10**30, 10**308, 10**309, -(10**400), 0.0, -0.0, 0.5, -1.5, 1e-320, 1e-30, 1e30, 1e308, 1e-9)
WEIRD += (math.nan, math.inf, -math.inf, "", "x", "nan", "1", "\0", "é", "\ud800", "a" * 300, "../../etc/passwd")
WEIRD += ([], [[]], {}, {"": 0}, [1, 2, 3], [0.5] * 4, [[1, 2], [3]], [None], {"$array": 0}, {"$array": -1})
WEIRD += (DEEP, LONG, TINY_EXPONENT, [DEEP], [LONG, 1])


def mutated_json(rng: Random, data: bytes) -> bytes:
    """One to three changes of the values; sometimes of the text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return damaged(rng, data)
    text = said(varied(rng, value))
    if rng.random() < 0.1:
        at = text.find("{") + 1
        text = text[:at] + '"format": 1, ' + text[at:]
    raw = text.encode(rng.choice(("utf-8",) * 20 + ("utf-16", "utf-8-sig")), "surrogatepass")
    return damaged(rng, raw) if rng.random() < 0.1 else raw


def mutated_sealed(rng: Random, data: bytes) -> bytes:
    """``mutated_json``; four in five of what is JSON still with a right checksum (``adapters.sealed_json``)."""
    raw = mutated_json(rng, data)
    try:
        content = json.loads(raw)
        if rng.random() < 0.2 or content.pop(SEAL, None) is None:
            return raw
        content[SEAL] = checksum(content)
        return json.dumps(content).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return raw


def varied(rng: Random, value: Any) -> Any:
    """A copy of JSON values with one to three changes."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 3)):
        places = list(_places(root))
        box, key = rng.choice(places)
        _change(rng, box, key, places)
    return root[0]


def said(value: Any) -> str:
    """JSON text of what ``varied`` returns."""
    text = json.dumps(value)
    for word, raw in RAW.items():
        text = text.replace(json.dumps(word), raw)
    return text


def mutated_toml(rng: Random, data: bytes) -> bytes:
    """Lines of TOML with other values, keys and tables."""
    try:
        lines = data.decode().splitlines()
        tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return damaged(rng, data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(lines) - 1) if lines else 0
        key = lines[at].partition("=")[0].strip() if lines else "k"
        values = ("nan", "-inf", "9" * 5000, "1e999", "[" * 3000 + "]" * 3000, "''", "[]", "{}", "true", "1979-05-27")
        values += ("0x10", "-1", "0", "1e400", "[1, 2]", "[3, 2, 1]", "{ low = 1, high = 0 }", "'''", '"\\ud800"')
        line = rng.choice((f"{key} = {rng.choice(values)}", f"[{key}]", "[[a]]", f"{key}.b = 1", f"x{key} = 1", "\0"))
        lines[at : at + rng.randint(0, 1)] = [line]
    text = "\n".join(lines).encode()
    return damaged(rng, text) if rng.random() < 0.2 else text


def _places(box: Any) -> Any:
    """Every (container, key) of JSON values."""
    stack = [box]
    while stack:
        box = stack.pop()
        for key, inner in box.items() if isinstance(box, dict) else enumerate(box):
            yield box, key
            if isinstance(inner, dict | list):
                stack.append(inner)


def _change(rng: Random, box: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    value = box[key]
    kind = rng.randint(0, 9)
    if kind <= 3 or (kind >= 6 and len(places) == 1):
        box[key] = copy.deepcopy(rng.choice(WEIRD))
    elif kind == 4:
        other, name = rng.choice(places)
        box[key] = copy.deepcopy(other[name])
    elif kind == 5:
        box[key] = [value] * rng.randint(0, 3)
    elif kind == 6 and isinstance(value, int | float) and not isinstance(value, bool):
        box[key] = rng.choice(
            (value + 1, -value, value * 2, value * 10**9, value // 2 if isinstance(value, int) else value / 2**20)
        )
    elif kind == 7 and isinstance(value, list):
        value.append(copy.deepcopy(rng.choice(value)) if value else 0)
    elif isinstance(box, dict) and kind == 8:
        box[rng.choice(("x", "", str(key) + "x", str(key)[:-1], "\ud800"))] = box.pop(key)
    elif isinstance(box, dict) or len(box) > 1:
        del box[key]
    places.clear()
