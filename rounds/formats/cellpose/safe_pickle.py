"""Follows the pickles in which NumPy stores arrays of objects, without running them.

A pickle is a program, and to load it is to run it. Here nothing is run: pickletools (standard library) tells its
opcodes, and a few of them are followed to build plain values. A file may name only what arrays and paths are
stored with, and even that is never looked up: an array stays a shape, a dtype and its bytes until somebody asks
for its numbers. So time and memory grow with the file, whatever sizes it declares.

Source: PEP 307 and PEP 3154 (pickle protocols 2 and 4).
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import ImageError

MAX_OPCODES = 4_000_000  # a dict with the outline of each of 100,000 cells has fewer
MAX_SIDE = 2**31 - 1
INTEGERS = re.compile(r"[<>|=]?[iu][1248]")

# What a file may name -> what a call of it stands for here.
_NAMES = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.dtype": "type",
    "_codecs.encode": "text",  # bytes in protocol 2
    "__builtin__.bytes": "unused",  # an empty array in protocol 2
    "numpy.ndarray": "unused",
    "numpy.core.multiarray.scalar": "unused",
    "numpy._core.multiarray.scalar": "unused",
    "pathlib.PosixPath": "unused",
    "pathlib.WindowsPath": "unused",
    "pathlib._local.PosixPath": "unused",
    "pathlib._local.WindowsPath": "unused",
}


@dataclass(slots=True, eq=False)
class StoredType:
    """A dtype as stored: `code` such as "u2", `order` one of < > | =."""

    code: str
    order: str = ""


@dataclass(slots=True, eq=False)
class StoredArray:
    """An array as stored. `data` holds its bytes (a str of Latin-1 from old protocols), or a list of objects."""

    shape: Any = ()
    dtype: str = ""
    fortran: bool = False
    data: Any = b""

    def integers(self, path: str, what: str) -> NDArray[np.integer[Any]]:
        """The (H, W) integers, not writable; ImageError when it holds anything else or has not its length."""
        if not INTEGERS.fullmatch(self.dtype):
            raise ImageError(path, f"{what} are of type {self.dtype[:20]!r}", "save them as integers, 0 is background")
        if not isinstance(self.shape, tuple) or not all(type(n) is int and 0 < n <= MAX_SIDE for n in self.shape):
            raise ImageError(path, f"{what} have no valid shape", "the file is damaged; save it anew")
        if len(self.shape) != 2:
            raise ImageError(path, f"{what} have the shape {self.shape[:8]}", "expected (H, W); save each plane alone")
        dtype = np.dtype(self.dtype)
        data = self.data.encode("latin-1", "ignore") if isinstance(self.data, str) else self.data
        if not isinstance(data, bytes | memoryview):
            raise ImageError(path, f"{what} have no data", "the file is damaged; save it anew")
        if len(data) != math.prod(self.shape) * dtype.itemsize:
            problem = f"{what} of {self.shape[1]}x{self.shape[0]} in {len(data)} bytes"
            raise ImageError(path, problem, "the file is damaged or cut off; save it anew")
        return np.frombuffer(data, dtype).reshape(self.shape, order="F" if self.fortran else "C")


def follow(program: BytesIO, path: str) -> Any:
    """The value that a pickle describes, from where `program` stands.

    Dicts hold only their entries whose key is a str; what is not needed is None. Raises ImageError, naming `path`,
    when the pickle names anything but what arrays are stored with or has too many parts; ValueError, TypeError or
    LookupError when it is damaged.
    """
    return _Program(path).followed(program)


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or class that the file names; `kind` is what a call of it stands for."""

    kind: str


@dataclass(slots=True)
class _Program:
    """The state of a pickle that is followed: a stack, the marks in it, and the values that were numbered."""

    path: str
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def followed(self, program: BytesIO) -> Any:
        """The value that the pickle describes."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if count > MAX_OPCODES:
                problem = f"the file holds more than {MAX_OPCODES} parts"
                raise ImageError(self.path, problem, "export a label map instead")
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in _SKIPPED:
                raise self._refused(f"the opcode {opcode.name}")
        return self.stack.pop()

    def name(self, argument: str) -> None:
        self.stack.append(self._named(argument.replace(" ", ".", 1)))

    def name_of_two(self, _: None) -> None:
        last, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._named(f"{module}.{last}" if isinstance(module, str) and isinstance(last, str) else ""))

    def refuse_name(self, argument: str) -> None:
        raise self._refused(repr(argument.replace(" ", ".", 1)[:80]))

    def call(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name):
            raise TypeError("a call of what is not a function")
        made: dict[str, Callable[[], Any]] = {
            "array": StoredArray,
            "type": lambda: StoredType(_short(arguments[0])),
            "text": lambda: arguments[0],
            "unused": lambda: None,
        }
        self.stack.append(made[function.kind]())

    def fill(self, _: None) -> None:
        """Give an array its shape, dtype and data, or a dtype its byte order."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StoredArray):
            _, target.shape, dtype, target.fortran, target.data = state
            if not isinstance(dtype, StoredType):
                raise TypeError("an array without a dtype")
            target.dtype = dtype.order + dtype.code
        elif isinstance(target, StoredType):
            target.order = _short(state[1])
        else:
            raise TypeError("a state for what has none")

    def mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop(self, _: None) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def number(self, argument: int | None) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def make_tuple(self, size: int) -> None:
        start = len(self.stack) - size
        if start < 0:
            raise IndexError("the stack is too short")
        self.stack[start:] = [tuple(self.stack[start:])]

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("an entry for what is not a list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError("an entry for what is not a dict")
        target.update(_dict_of(values))

    def _named(self, name: str) -> _Name:
        if name not in _NAMES:
            raise self._refused(repr(name[:80]))
        return _Name(_NAMES[name])

    def _refused(self, what: str) -> ImageError:
        problem = f"the pickle in it asks for {what}, which no array needs: code in a file is not run"
        return ImageError(self.path, problem, "do not trust this file; export the masks as a label map")


def _short(text: Any) -> str:
    """The text of a dtype; a long one would be copied into every array that has it."""
    if not isinstance(text, str) or len(text) > 20:
        raise ValueError("a dtype without a name")
    return text


def _dict_of(values: list[Any]) -> dict[str, object]:
    return {key: value for key, value in zip(values[::2], values[1::2], strict=True) if isinstance(key, str)}


_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_SKIPPED = {"PROTO", "FRAME", "STOP"}
_STEPS: dict[str, Callable[[_Program, Any], None]] = {
    "GLOBAL": _Program.name,
    "STACK_GLOBAL": _Program.name_of_two,
    "INST": _Program.refuse_name,
    "REDUCE": _Program.call,
    "BUILD": _Program.fill,
    "MARK": _Program.mark,
    "POP": _Program.pop,
    "POP_MARK": lambda program, _: program.since_mark().clear(),
    "DUP": lambda program, _: program.stack.append(program.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Program.number),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda program, at: program.stack.append(program.memo[at])),
    "EMPTY_TUPLE": lambda program, _: program.make_tuple(0),
    "TUPLE1": lambda program, _: program.make_tuple(1),
    "TUPLE2": lambda program, _: program.make_tuple(2),
    "TUPLE3": lambda program, _: program.make_tuple(3),
    "TUPLE": lambda program, _: program.stack.append(tuple(program.since_mark())),
    "EMPTY_LIST": lambda program, _: program.stack.append([]),
    "LIST": lambda program, _: program.stack.append(program.since_mark()),
    "APPEND": lambda program, _: program.append([program.stack.pop()]),
    "APPENDS": lambda program, _: program.append(program.since_mark()),
    "EMPTY_DICT": lambda program, _: program.stack.append({}),
    "DICT": lambda program, _: program.stack.append(_dict_of(program.since_mark())),
    "SETITEM": lambda program, _: program.set_items([program.stack.pop() for _ in range(2)][::-1]),
    "SETITEMS": lambda program, _: program.set_items(program.since_mark()),
}
