"""The features of a GeoJSON text, one after the other: parsed, one may take twenty times the memory of its text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.formats.shared.json_stream import short

_REMEDY = "export it anew"


def features(content: bytes, path: str) -> Iterator[Any]:
    """The features of a FeatureCollection, of a list, or the one that the file is, whatever they are.

    NaN and Infinity, which JSON does not have and QuPath writes, are read. Raises ImageError, naming the place, for
    what is no JSON in UTF-8 or neither of the three.
    """
    try:
        text = _Text(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise ImageError(path, f"is not UTF-8 ({error.reason} at byte {error.start})", _REMEDY) from None
    if text.peek() == "[":
        yield from text.values()
    else:
        yield from _members(text, path)
    if text.peek():
        text.fail("something follows the end")


def _members(text: _Text, path: str) -> Iterator[Any]:
    text.take("{")
    alone: dict[str, Any] = {}
    seen = False
    more = text.peek() != "}" or not text.take("}")
    while more:
        key = text.value()
        text.take(":")
        if key == "features":
            if seen:
                text.fail("'features' stands in it twice")
            seen = True
            yield from text.values()
        else:
            alone[str(key)] = text.value()
        more = text.take(",}") == ","
    if alone.get("type") == "Feature" and not seen:
        yield alone
    elif not seen:
        raise ImageError(path, "holds neither a Feature nor a FeatureCollection", _REMEDY)


class _Text:
    """A JSON text and a place in it."""

    def __init__(self, text: str, path: str) -> None:
        self._text, self._path, self._at = text, path, 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space, and go there; '' at the end."""
        while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
            self._at += 1
        return self._text[self._at : self._at + 1]

    def take(self, characters: str) -> str:
        """Pass over the next character, which must be one of these."""
        found = self.peek()
        if not found or found not in characters:
            self.fail(f"expected one of {' '.join(characters)}, found {found!r}" if found else "the file ends here")
        self._at += 1
        return found

    def value(self) -> Any:
        """Pass over the next value."""
        self.peek()
        try:
            value, self._at = self._decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            self._at = error.pos
            self.fail(error.msg)
        except RecursionError:
            self.fail("nested too deeply")
        except ValueError as error:
            self.fail(f"a number that cannot be read ({short(str(error))})")
        return value

    def values(self) -> Iterator[Any]:
        """The elements of the list that begins here."""
        self.take("[")
        more = self.peek() != "]" or not self.take("]")
        while more:
            yield self.value()
            more = self.take(",]") == ","

    def fail(self, problem: str) -> NoReturn:
        """An ImageError with the present place."""
        raise ImageError(self._path, f"is not GeoJSON (character {self._at}: {problem})", _REMEDY)
