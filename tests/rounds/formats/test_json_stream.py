"""Elements of a JSON file in chunks: what json.loads says, at any chunk size, and errors with their place."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.formats.shared import json_stream
from cellsemi.rounds.formats.shared.json_stream import Element, elements, read_element

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12).filter(lambda text: text.isprintable() or "\n" in text),
    st.sampled_from(['"', "\\", "]}", '{"', "é細😀", "\x00", "\u2028", ""]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
DOCUMENTS = st.dictionaries(st.sampled_from(["info", "licenses", "é", "x"]), VALUES, max_size=3).flatmap(
    lambda other: st.fixed_dictionaries({"a": st.lists(VALUES, max_size=5), "b": st.lists(VALUES, max_size=3)}).map(
        lambda wanted: other | wanted
    )
)


def streamed(path: Path, content: bytes, chunk: int = 1 << 20, **options: int) -> list[Element]:
    path.write_bytes(content)
    return list(elements(path, ("a", "b"), chunk, **options))


@settings(deadline=None, max_examples=120)
@given(DOCUMENTS, st.permutations(["a", "b", "info"]), st.integers(1, 50), st.booleans(), st.sampled_from([None, 1]))
def test_the_elements_are_those_of_json_loads_at_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory,
    document: dict[str, Any],
    order: list[str],
    chunk: int,
    ascii_only: bool,
    indent: int | None,
) -> None:
    document = {key: document[key] for key in [*order, *document] if key in document}
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    content = text.encode("utf-8", "surrogatepass")
    path = tmp_path_factory.getbasetemp() / "stream.json"
    found = streamed(path, content, chunk)
    expected = json.loads(text)
    for key in ("a", "b"):
        mine = [element for element in found if element.array == key]
        assert [element.value for element in mine] == expected[key]
        assert [element.number for element in mine] == list(range(1, len(mine) + 1))
    assert [e.array for e in found] == [key for key in document if key in "ab" for _ in document[key]]
    with path.open("rb") as file:
        for element in found:
            assert json.loads(content[element.offset : element.offset + element.length]) == element.value
            assert read_element(file, element.offset, element.length) == element.value


@pytest.mark.parametrize("chunk", range(1, 51))
def test_every_place_may_be_the_end_of_a_chunk(tmp_path: Path, chunk: int) -> None:
    text = (
        ' {"x" : {"q":["}", "\\"]", {"\\\\": []}, -1.5E+3]} ,"a":[ 12, 1.25e-7 ,-0, "\\u00e9\\ud83d\\ude00é",\r\n'
        '{"k": [true,false , null, [[]], {}]}\t],"n": -12.5e+10, "s": "\\\\", "b" :[] } \n'
    )
    expected = json.loads(text)
    found = streamed(tmp_path / "a.json", b"\xef\xbb\xbf" + text.encode(), chunk)
    assert [element.value for element in found] == expected["a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "byte 0: the file ends here"),
        (b"   ", "byte 3: the file ends here"),
        (b"[]", "byte 0: expected an object with 'a', 'b'"),
        (b"\xff\xfe{\x00", "byte 0: expected an object"),
        (b"{}", "no 'a' and no 'b' at the top level"),
        (b'{"a": []}', "no 'b' at the top level"),
        (b'{"a": {}, "b": []}', "byte 6: 'a' is no list"),
        (b'{"a": null}', "byte 6: 'a' is no list"),
        (b'{"a": [], "a": []}', "byte 13: 'a' stands in the file twice"),
        (b'{"a": [1, 2', "byte 11, element 2 of 'a': the file ends here"),
        (b'{"a": [1, {"k": 2', "byte 17, element 2 of 'a': not JSON"),
        (b'{"a": [1, "k', "byte 10, element 2 of 'a': not JSON .Unterminated string"),
        (b'{"a": [1,]', "byte 9, element 2 of 'a': not JSON .Expecting value"),
        (b'{"a": [1 2]', r"byte 9, element 1 of 'a': expected one of , \], found '2'"),
        (b'{"a": [{"k": tru}]' + b" " * 99, "byte 13, element 1 of 'a': not JSON"),
        (b'{"a": [1, NaN]', "byte 10, element 2 of 'a': a number that cannot be read .'NaN"),
        (b'{"a": [[-Infinity]]', "byte 7, element 1 of 'a': a number that cannot be read .'-Infinity"),
        (b'{"a": [' + b"9" * 5000 + b"]", "byte 7, element 1 of 'a': a number that cannot be read"),
        (b'{"a": [' + b"[" * 200_000, "byte 7, element 1 of 'a': it is nested too deeply"),
        (b'{"a": ["\xe9"], "b": []}', "byte 8, element 1 of 'a': not UTF-8"),
        (b'{"\xe9": 1}', "byte 2: not UTF-8"),
        (b'{"a": [], "b": []} x', "byte 19: something follows"),
        (b'{"a": [], "b": []', "byte 17: the file ends here"),
        (b'{"a": [], }', "byte 10: expected a key in double quotes"),
        (b'{"a" []}', "byte 5: expected one of :, found"),
        (b"{a: []}", "byte 1: expected a key"),
        (b'{"x": [{]}', "byte 8: '.' closes what it did not open"),
        (b'{"x": [{"k": "', "byte 14: the file ends in the middle of a value"),
        (b'{"x": ' + b"[" * 100_000, "the file ends in the middle of a value"),
    ],
)
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_what_is_wrong_is_named_with_its_byte_and_element(
    tmp_path: Path, content: bytes, words: str, chunk: int
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        streamed(tmp_path / "a.json", content, chunk)
    assert str(tmp_path / "a.json") in str(caught.value) and not isinstance(caught.value, ImageError)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(elements(tmp_path / "a.json", ("a",)))
    with pytest.raises(DataError, match="no such file"):
        list(elements(tmp_path, ("a",)))


@pytest.mark.parametrize("element", [b"[" + b"1," * 600 + b"1]", b'"' + b"x" * 1200 + b'"', b"0." + b"1" * 1200])
@pytest.mark.parametrize("chunk", [10, 1 << 20])
def test_an_element_that_is_too_large_is_refused(tmp_path: Path, element: bytes, chunk: int) -> None:
    content = b'{"a": [1, ' + element + b'], "b": []}'
    with pytest.raises(DataError, match="byte 10, element 2 of 'a': it is larger than 1000 bytes"):
        streamed(tmp_path / "a.json", content, chunk, max_element=1000)
    assert len(streamed(tmp_path / "a.json", content, chunk, max_element=2000)) == 2


def test_values_of_any_size_are_passed_over_and_arrays_of_any_length_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    long = json.dumps({"q": ["x" * 1_000_000, list(range(50_000)), {"k": '"' * 1000}]})
    path.write_text(f'{{"x": {long}, "a": [{", ".join(["[1, 2, 3]"] * 100_000)}], "s": "{"y" * 1_000_000}", "b": []}}')
    tracemalloc.start()
    count = sum(1 for _ in elements(path, ("a", "b"), 1 << 14, 1 << 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100_000 and peak < 400_000 < path.stat().st_size / 8


def test_an_element_of_many_chunks_is_not_parsed_once_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []

    class Counting(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            parsed.append(len(s) - idx)
            return super().raw_decode(s, idx)

    monkeypatch.setattr(json_stream, "_DECODER", Counting())
    content = b'{"a": [[' + b"1," * 100_000 + b'1]], "b": []}'
    assert len(streamed(tmp_path / "a.json", content, 64)) == 1
    assert sum(parsed) < 5 * len(content)
