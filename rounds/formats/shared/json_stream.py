"""Reads JSON piece by piece: the values of a text, or the elements of the arrays of a file too large to hold.

The text is read in chunks. Of a file each byte is taken as one character (latin-1), so that a place in the text is a
place in the file; its values are then decoded as UTF-8. What stands in a file beside the wanted
arrays is passed over: only its brackets and strings are read.
"""

from __future__ import annotations

import contextlib
import json
import re
import reprlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from cellsemi.configs.errors import DataError

CHUNK = 1 << 20  # bytes per read
MAX_ELEMENT = 1 << 24  # bytes of one element; parsed it may take twenty times as much memory

_SPACE = re.compile(r"[ \t\n\r]*")
_STRUCTURE = re.compile(r'["\[\]{}]')
_IN_STRING = re.compile(r'["\\]')
_ANY = re.compile(r".", re.DOTALL)
_CLOSING = {"[": "]", "{": "}"}
_BOM = "\xef\xbb\xbf"
_TOKEN = 16  # characters: more than the longest literal or escape, so a cut-off one stands this near the end
_DAMAGED = "the file is damaged or cut off; export it anew"


Fail = Callable[[str, str, int], NoReturn]  # problem, remedy, place in the text


class Element(NamedTuple):
    """One element of a top-level array: its number in it, from 1, and where its bytes stand in the file."""

    array: str
    number: int
    value: Any
    offset: int
    length: int


def elements(
    path: Path, arrays: Collection[str], chunk: int = CHUNK, max_element: int = MAX_ELEMENT
) -> Iterator[Element]:
    """The elements of the named arrays of the object that the file holds, in the order of the file.

    Memory stays near that of the largest element. Raises DataError, naming file, byte, array and element, when
    the file cannot be read, is not a JSON object in UTF-8, lacks one of the arrays or has it twice, when an
    element is larger than `max_element` bytes, and for NaN and Infinity, which JSON does not have.
    """
    place = ""

    def fail(problem: str, remedy: str, byte: int) -> NoReturn:
        raise DataError(f"{path}, byte {byte}{place}: {problem}; {remedy}")

    with _open(path) as file:

        def read(count: int) -> str:
            return file.read(count).decode("latin-1")

        window = JsonText(read, fail, _DECODER, is_bytes=True, chunk=chunk, max_element=max_element)
        window.skip_mark()
        window.take("{", f"expected an object with {', '.join(map(repr, arrays))}")
        seen: set[str] = set()
        more = not window.try_take("}")
        while more:
            key = window.key()
            if key in seen:
                window.fail(f"{key!r} stands in the file twice", "keep one")
            window.take(":")
            if key in arrays:
                seen.add(key)
                window.take("[", f"{key!r} is no list")
                for number in window.positions():
                    place = f", element {number} of {key!r}"
                    window.peek()
                    yield Element(key, number, *window.value())
                place = ""
            else:
                window.skip()
            more = window.take(",}") == ","
        if window.peek():
            window.fail("something follows the end of the object", _DAMAGED)
    missing = [array for array in arrays if array not in seen]
    if missing:
        raise DataError(f"{path}: no {' and no '.join(map(repr, missing))} at the top level; export it anew")


def read_element(file: BinaryIO, offset: int, length: int) -> Any:
    """The value of an element at a place that `elements` gave; ValueError or RecursionError when it is not there."""
    file.seek(offset)
    return _DECODER.decode(file.read(length).decode())


def short(value: object) -> str:
    """A value of unknown size as a message shows it."""
    return reprlib.repr(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


class JsonText:
    """The part of a JSON text that is in memory, and a place in it. All before the place is let go.

    `read(n)` gives the next n characters, which are bytes of UTF-8 where `is_bytes` is true; `fail(problem, remedy,
    place)` raises what the caller wants raised. A value may have `max_element` characters at most.
    """

    def __init__(
        self,
        read: Callable[[int], str],
        fail: Fail,
        decoder: json.JSONDecoder,
        *,
        is_bytes: bool,
        chunk: int = CHUNK,
        max_element: int = MAX_ELEMENT,
    ) -> None:
        self._read, self._raise, self._decoder = read, fail, decoder
        self._is_bytes, self._chunk, self._max = is_bytes, chunk, max_element
        self._text, self._start, self._at = "", 0, 0

    def fail(self, problem: str, remedy: str = _DAMAGED, at: int | None = None) -> NoReturn:
        """The caller's error with the place `at` (in the window), or the present one."""
        self._raise(problem, remedy, self._start + (self._at if at is None else at))

    def skip_mark(self) -> None:
        """Pass over a byte order mark."""
        while len(self._text) < len(_BOM) and self._grow():
            pass
        if self._text.startswith(_BOM):
            self._at = len(_BOM)

    def peek(self) -> str:
        """The next character that is not white space, and go there; '' at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def try_take(self, character: str) -> bool:
        """Pass over the next character if it is this one."""
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def take(self, characters: str, problem: str = "") -> str:
        """Pass over the next character, which must be one of these."""
        found = self.peek()
        if not found:
            self.fail("the file ends here", _DAMAGED)
        if found not in characters:
            self.fail(problem or f"expected one of {' '.join(characters)}, found {found!r}", _DAMAGED)
        self._at += 1
        return found

    def positions(self) -> Iterator[int]:
        """1, 2 .. for each element of the list whose bracket was passed; the caller passes over each by `value`."""
        number = 0
        more = not self.try_take("]")
        while more:
            number += 1
            yield number
            more = self.take(",]") == ","

    def key(self) -> str:
        """Pass over the next value, which must be a string."""
        if self.peek() != '"':
            self.fail("expected a key in double quotes", _DAMAGED)
        return str(self.value()[0])

    def value(self) -> tuple[Any, int, int]:
        """Pass over the value that begins here: the value, its first character and its length."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                self._read_on_or_fail(error)
            except ValueError as error:
                self.fail(f"a number that cannot be read ({short(str(error))})", "correct it")
            except RecursionError:
                self.fail("it is nested too deeply", _DAMAGED)
            else:
                # A number at the end of the window may go on behind it.
                if end + _TOKEN < len(self._text) or not self._read_on():
                    break
        self._check_size(end - self._at)
        if self._is_bytes and not self._text.isascii():
            value = self._as_utf8(end, value)
        found = value, self._start + self._at, end - self._at
        self._at = end
        return found

    def skip(self) -> None:
        """Pass over the next value, however large."""
        if self.peek() not in ('"', "[", "{"):
            self.value()
            return
        opened = bytearray()
        while True:
            found = self._find(_STRUCTURE)
            if found == '"':
                while self._find(_IN_STRING) == "\\":
                    self._find(_ANY)
            elif found in _CLOSING:
                opened += _CLOSING[found].encode()
            elif opened.pop() != ord(found):
                self.fail(f"{found!r} closes what it did not open", _DAMAGED, self._at - 1)
            if not opened:
                return

    def _find(self, pattern: re.Pattern[str]) -> str:
        while True:
            found = pattern.search(self._text, self._at)
            if found:
                self._at = found.end()
                return found[0]
            self._at = len(self._text)
            if not self._grow():
                self.fail("the file ends in the middle of a value", _DAMAGED)

    def _read_on_or_fail(self, error: json.JSONDecodeError) -> None:
        """Read on where the error is but the end of the window; a DataError where the text is wrong."""
        open_string = error.msg.startswith("Unterminated string")
        if not open_string and error.pos + _TOKEN < len(self._text):
            self.fail(f"not JSON ({error.msg})", _DAMAGED, error.pos)
        if not self._read_on():
            self.fail(f"not JSON ({error.msg})", _DAMAGED, error.pos)

    def _read_on(self) -> bool:
        """Read more of the value that begins here; a DataError when it is too large, False at the end of the file."""
        self._check_size(len(self._text) - self._at)
        return self._grow()

    def _check_size(self, length: int) -> None:
        if length > self._max:
            self.fail(f"it is larger than {self._max} bytes, or a string in it has no end", _DAMAGED)

    def _as_utf8(self, end: int, value: Any) -> Any:
        """The value, parsed again from UTF-8 where its own text is not ASCII."""
        text = self._text[self._at : end]
        if text.isascii():
            return value
        try:
            return self._decoder.decode(text.encode("latin-1").decode())
        except UnicodeDecodeError as error:
            self.fail(f"not UTF-8 ({error.reason})", "save it as UTF-8", self._at + error.start)

    def _grow(self) -> bool:
        """Read on; False at the end of the file. The window at least doubles, so that it is parsed but a few times."""
        kept = self._text[self._at :]
        content = self._read(max(self._chunk, len(kept)))
        if content:
            self._start, self._at = self._start + self._at, 0
            self._text = kept + content
        return bool(content)
