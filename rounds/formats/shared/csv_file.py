"""Reads a CSV file line by line, with its dialect and errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from cellsemi.configs.errors import DataError

MAX_LINE_BYTES = 2 * 2**20  # a hundred thousand runs; more is a missing line end


DELIMITERS = (",", ";", "\t")  # Excel writes semicolons where the comma stands in numbers

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def delimiter_of(header: str) -> str:
    """What separates the columns of a table, by the first line of its text: the mark that stands there most often.

    >>> delimiter_of("id;split"), delimiter_of("id, split"), delimiter_of("id")
    (';', ',', ',')
    """
    return max(DELIMITERS, key=header.count)


def stripped(values: Iterable[str]) -> list[str]:
    """Values without the spaces that people leave after a comma."""
    return [value.strip(" ") for value in values]


class CsvFile:
    """A CSV in which every record is one line. `name` is what messages call it. DataError names the line."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._delimiter = ","
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))

    def records(self) -> Iterator[tuple[int, int, list[str]]]:
        """(line from 1, byte offset, values) of every line that is not blank."""
        line = offset = 0
        try:
            with self.path.open("rb") as file:
                while raw := file.readline(MAX_LINE_BYTES + 1):
                    line += 1
                    if values := self._values(raw, line):
                        yield line, offset, values
                    offset += len(raw)
        except FileNotFoundError:
            raise DataError(f"{self.path}: no such file; data.annotations names the CSV below data.root") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from None

    def read_at(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, list[str]]]:
        """(line, values) of the records at these (byte offset, line)."""
        try:
            with self.path.open("rb") as file:
                for offset, line in places:
                    file.seek(offset)
                    yield line, self._values(file.readline(MAX_LINE_BYTES + 1), line)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from None

    def _values(self, raw: bytes, line: int) -> list[str]:
        place = f"{self.name}, line {line}"
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(
                f"{place}: longer than {MAX_LINE_BYTES:,} bytes, no mask needs that; is a line end missing?"
            )
        try:
            text = (raw.removeprefix(_BYTE_ORDER_MARK) if line == 1 else raw).decode().rstrip("\r\n")
            if line == 1:
                self._delimiter = delimiter_of(text)
            if '"' not in text:  # the csv module holds four bytes a character to find out that a comma is a comma
                return stripped(text.split(self._delimiter)) if text else []
            reader = csv.reader([text], strict=True, delimiter=self._delimiter, skipinitialspace=True)
            return stripped(next(reader, []))
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 ({error.reason}); save it as UTF-8") from None
        except csv.Error as error:
            raise DataError(f"{place}: not valid CSV with a record in each line ({error})") from None
