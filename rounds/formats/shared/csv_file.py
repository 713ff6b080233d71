"""Reads a CSV file line by line, with its dialect and errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from cellsemi.configs.errors import DataError

MAX_LINE_BYTES = 2 * 2**20  # a hundred thousand runs; more is a missing line end


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class CsvFile:
    """A CSV in which every record is one line. `name` is what messages call it. DataError names the line."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
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
            # Without quotes a comma is a comma; the csv module holds four bytes a character to find that out.
            return next(csv.reader([text], strict=True), []) if '"' in text else text.split(",") if text else []
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 ({error.reason}); save it as UTF-8") from None
        except csv.Error as error:
            raise DataError(f"{place}: not valid CSV with a record in each line ({error})") from None
