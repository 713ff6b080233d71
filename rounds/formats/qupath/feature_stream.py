"""Reads the features of a GeoJSON text one by one: parsed, one may take twenty times the memory of its text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.formats.shared.json_stream import JsonText

_REMEDY = "export it anew"


def features(content: bytes, path: str) -> Iterator[Any]:
    """The features of a FeatureCollection, of a list, or the one that the file is, whatever they are.

    NaN and Infinity, which JSON does not have and QuPath writes, are read. Raises ImageError, naming the place, for
    what is no JSON in UTF-8 or neither of the three.
    """
    try:
        whole = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(path, f"is not UTF-8 ({error.reason} at byte {error.start})", _REMEDY) from None

    def fail(problem: str, _remedy: str, character: int) -> NoReturn:
        raise ImageError(path, f"is not GeoJSON (character {character}: {problem})", _REMEDY)

    given = 0

    def read(count: int) -> str:
        nonlocal given
        given += count
        return whole[given - count : given]

    text = JsonText(read, fail, json.JSONDecoder(), is_bytes=False, max_element=len(whole))
    if text.peek() == "[":
        yield from _values(text)
    else:
        yield from _members(text, path)
    if text.peek():
        text.fail("something follows the end")


def _values(text: JsonText) -> Iterator[Any]:
    """The elements of the list that begins here."""
    text.take("[")
    for _ in text.positions():
        text.peek()
        yield text.value()[0]


def _members(text: JsonText, path: str) -> Iterator[Any]:
    text.take("{")
    alone: dict[str, object] = {}
    seen = False
    more = not text.try_take("}")
    while more:
        text.peek()
        key = text.value()[0]
        text.take(":")
        text.peek()
        if key == "features":
            if seen:
                text.fail("'features' stands in it twice")
            seen = True
            yield from _values(text)
        else:
            alone[str(key)] = text.value()[0]
        more = text.take(",}") == ","
    if alone.get("type") == "Feature" and not seen:
        yield alone
    elif not seen:
        raise ImageError(path, "holds neither a Feature nor a FeatureCollection", _REMEDY)
