"""Pickles run as the small programs they are, without ``pickle``: nothing that they name is imported or called.

A program is admitted opcode by opcode; what it builds are numbers, text, bytes, tuples, lists (sets too become lists),
dicts and ``Inert`` stand-ins that its reader provides for the globals it knows. Keys of dicts are numbers and text: the
hash of a tuple of tuples that are the same one, level upon level, would never end. Work and memory grow with the
opcodes and no faster.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection, Mapping
from typing import Any, BinaryIO

__all__ = ["Inert", "Refused", "StandIn", "run_program"]

CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES",
    "BYTEARRAY8",
}  # fmt: skip
KEYS = (str, int, float, bool, type(None))


class Refused(Exception):
    """Something that such a program may not do."""


class Inert:
    """What alone a program may call or give a state."""

    def __call__(self, *args: Any) -> Any:
        """Refuse: not everything can be called."""
        raise Refused("a call that such a file does not make")

    def __setstate__(self, state: Any) -> None:
        """Refuse: not everything has a state."""
        raise Refused("a state that such a file does not set")


class StandIn(Inert):
    """What a global becomes: it can only be called, and only does what ``make`` does."""

    def __init__(self, make: Callable[..., Any] | None = None) -> None:
        self.make = make

    def __call__(self, *args: Any) -> Any:
        """What ``make`` makes. Raises: Refused: nothing is to be made of it."""
        return super().__call__(*args) if self.make is None else self.make(*args)


def run_program(
    file: BinaryIO,
    opcodes: Collection[str],
    known: Mapping[tuple[str, str], Inert],
    most: int,
    stored: Callable[[Any], Any] | None = None,
) -> Any:
    """Run one program, from where ``file`` stands to its end.

    Args:
        opcodes: names of those admitted. known: what stands for a global, by module and name. most: opcodes at most.
        stored: what a persistent identifier means.
    Returns: what it leaves.
    Raises: Refused: an opcode, a global, a call, a key that is not admitted. ValueError, IndexError, KeyError, ...:
        damaged.
    """
    above: list[list[Any]] = []
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def known_global(module: Any, name: Any) -> Inert:
        if type(module) is not str or type(name) is not str or (module, name) not in known:
            raise Refused(f"it asks for {str(module)[:80]!r} {str(name)[:80]!r}")
        return known[module, name]

    for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name not in opcodes:
            raise Refused(f"opcode {name}")
        if count >= most:
            raise Refused(f"more than {most} opcodes")
        if name in VALUES:
            stack.append(arg)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in TUPLES:
            items = [stack.pop() for _ in range(TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name == "MARK":
            above.append(stack)
            stack = []
        elif name in ("TUPLE", "APPENDS", "ADDITEMS", "SETITEMS"):
            items, stack = stack, above.pop()
            _gather(name, items, stack)
        elif name in ("APPEND", "SETITEM"):
            items = [stack.pop() for _ in range(1 if name == "APPEND" else 2)]
            _gather(name + "S", items[::-1], stack)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[_number(arg)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[_number(arg)])
        elif name == "GLOBAL":
            stack.append(known_global(*str(arg).split(" ", 1)))
        elif name == "STACK_GLOBAL":
            last = stack.pop()
            stack.append(known_global(stack.pop(), last))
        elif name == "REDUCE":
            args, made = stack.pop(), stack.pop()
            if not isinstance(made, Inert) or type(args) is not tuple:
                raise Refused("a call of what is no function")
            stack.append(made(*args))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name == "BINPERSID" and stored is not None:
            stack.append(stored(stack.pop()))
        elif name == "STOP":
            if above or len(stack) != 1:
                raise Refused("it does not leave one thing")
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"opcode {name}")
    return stack.pop()


def _number(arg: Any) -> int:
    return int(arg)


def _build(made: Any, state: Any) -> None:
    """Set a state; what an OrderedDict has beside its items is left."""
    if type(made) is dict:
        return
    if not isinstance(made, Inert):
        raise Refused("a state of what has none")
    made.__setstate__(state)


def _gather(name: str, items: list[Any], stack: list[Any]) -> None:
    """Put the items since a mark into what stands before it."""
    if name == "TUPLE":
        stack.append(tuple(items))
    elif name in ("APPENDS", "ADDITEMS"):
        if type(stack[-1]) is not list:
            raise Refused("an item of what is no list")
        stack[-1].extend(items)
    else:
        if type(stack[-1]) is not dict or len(items) % 2:
            raise Refused("an item of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in KEYS:
                raise Refused(f"a key that is a {type(key).__name__}")
            stack[-1][key] = value
