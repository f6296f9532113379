"""Pickles from strangers, without ``pickle``: a small machine for the opcodes of plain values, and for no others.

A pickle is a program. One that builds containers, strings and numbers needs two dozen opcodes, none of which names a
class, calls anything or looks outside; whoever uses another one is refused before it does anything. The memo is a
dictionary, so that no opcode can ask for memory by a number.
"""

import pickletools
from typing import Any

MAX_OPCODES = 8_000_000
"""Some 80,000 captions of seven words take about 1.6 million."""

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_OLD_STRINGS = ("BINSTRING", "SHORT_BINSTRING")  # Python 2 wrote bytes, and they are read as Latin-1
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", *_OLD_STRINGS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_NOTHING = {"PROTO", "FRAME", "STOP"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnsafePickleError(Exception):
    """The pickle wants more than plain values, or is damaged."""


def load_plain(data: bytes) -> Any:
    """The value of a pickle of dicts, lists, tuples, sets, strings, bytes, numbers, booleans and None.

    Raises:
        UnsafePickleError: it holds anything else, or no value.
    """
    machine = _Machine()
    try:
        for number, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if number >= MAX_OPCODES:
                raise UnsafePickleError(f"more than {MAX_OPCODES} instructions")
            if not machine.run(opcode.name, argument):
                raise UnsafePickleError(
                    f"the instruction {opcode.name} at byte {position}"
                    + (f" ({str(argument)[:60]})" if argument is not None else "")
                )
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UnsafePickleError(f"damaged bytes ({type(error).__name__}: {error})") from None
    if machine.below or len(machine.stack) != 1:
        raise UnsafePickleError(f"{len(machine.stack)} values and {len(machine.below)} open marks, wanted one value")
    return machine.stack[0]


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies under each open mark
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> bool:
        """Do one instruction; False for one that is not allowed."""
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument.encode("latin-1").decode() if name in _OLD_STRINGS else argument)
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("APPEND", "APPENDS"):
            values = self._marked() if name == "APPENDS" else [stack.pop()]
            _top(self.stack, list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self._marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _top(self.stack, dict).update(_pairs(values))
        elif name == "ADDITEMS":
            values = self._marked()
            _top(self.stack, set).update(values)
        elif name in ("LIST", "TUPLE"):
            values = self._marked()
            self.stack.append(values if name == "LIST" else tuple(values))
        elif name == "DICT":
            values = self._marked()
            self.stack.append(dict(_pairs(values)))
        elif name in _TUPLES:
            values = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(values)))
        else:
            return name in _NOTHING
        return True

    def _marked(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        values, self.stack = self.stack, self.below.pop()
        return values


def _top(stack: list[Any], kind: type) -> Any:
    if type(stack[-1]) is not kind:
        raise TypeError(f"a {type(stack[-1]).__name__} where a {kind.__name__} is filled")
    return stack[-1]


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))
