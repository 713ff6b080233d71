"""Checks a Kaggle submission on its own: what a grader would refuse, with the line of each problem.

It shares no code with the codec, the reader or the writer, so that a mistake there cannot hide itself. The
file is read twice: once for the lines of each image, then image by image, so that the runs of one image at a
time are held however the rows are ordered.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from cellsemi.configs.errors import DataError

HEADER = b"id,predicted"
MAX_PROBLEMS = 1000  # that are worded; all are counted
_NUMBER = re.compile("-?[0-9]{1,15}")
_ROW = re.compile(r'(?:"((?:[^"]|"")*+)"|([^",]*+)),"?([^",]*+)"?')


@dataclass(slots=True)
class SubmissionReport:
    """What stands in a submission. `problems` has a line of words for each of the first MAX_PROBLEMS.

    `crossing` counts runs that go on in the next line of the image, where its size is known: in a file of
    the stated order they are rare, in one of the other order they are not.
    """

    images: int = 0
    cells: int = 0
    pixels: int = 0
    crossing: int = 0
    count: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str, line: int | None = None) -> None:
        """Count a problem, and word it while there is room."""
        self.count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem if line is None else f"line {line}: {problem}")


@dataclass(slots=True)
class _Used:
    """The runs of one image so far: first pixel, last pixel, line in the file."""

    first: array[int] = field(default_factory=lambda: array("q"))
    last: array[int] = field(default_factory=lambda: array("q"))
    line: array[int] = field(default_factory=lambda: array("q"))


def check(path: Path, sizes: Mapping[str, tuple[int, int]] | None, order: Literal["row", "column"]) -> SubmissionReport:
    """Check a submission; `sizes` has the height and width of every image that it must name, None if unknown.

    Problems: another header; rows that are not UTF-8 or not two values; odd or wrong numbers; pairs that are
    not sorted or overlap; runs beyond the image; a pixel in two cells of an image; the same row twice; an empty
    row beside others; unknown and missing ids. Raises DataError when the file cannot be read.
    """
    report = SubmissionReport()
    try:
        with path.open("rb") as file:
            header = file.readline().rstrip(b"\r\n")
            if header != HEADER:
                report.add(f"the header is {header[:80]!r}, expected {HEADER.decode()!r}", 1)
                return report
            places = _places(file, report)
            for image_id, rows in places.items():
                size = None if sizes is None else sizes.get(image_id)
                if sizes is not None and size is None:
                    report.add(f"there is no image {image_id!r}", rows[1])
                _check_image(file, rows, size, order, report)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    for image_id in sorted(set(sizes or ()) - set(places)):
        report.add(f"image {image_id!r} has no row; one without cells has a row with nothing predicted")
    report.images = len(places)
    return report


def _places(file: BinaryIO, report: SubmissionReport) -> dict[str, array[int]]:
    """Image id -> byte offset and line of each of its rows, one after the other."""
    places: dict[str, array[int]] = {}
    line, offset = 1, file.tell()
    while raw := file.readline():
        line += 1
        row = _row(raw)
        if isinstance(row, str):
            report.add(row, line)
        else:
            places.setdefault(row[0], array("q")).extend((offset, line))
        offset += len(raw)
    return places


def _row(raw: bytes) -> tuple[str, str] | str:
    """Id and run lengths of a row, or what is wrong with it."""
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return "not UTF-8"
    found = _ROW.fullmatch(text)
    if not found:
        return f"expected an id, a comma and run lengths, found {text[:60]!r}"
    quoted, plain, predicted = found.groups()
    image_id = plain if quoted is None else quoted.replace('""', '"')
    return (image_id, predicted) if image_id.strip() else "the id is empty"


def _check_image(
    file: BinaryIO,
    rows: array[int],
    size: tuple[int, int] | None,
    order: Literal["row", "column"],
    report: SubmissionReport,
) -> None:
    used = _Used()
    seen: dict[bytes, int] = {}
    across = 0 if size is None else size[1] if order == "row" else size[0]
    for offset, line in zip(rows[0::2], rows[1::2], strict=True):
        file.seek(offset)
        row = _row(file.readline())
        text = row[1].strip() if isinstance(row, tuple) else ""
        same = seen.setdefault(hashlib.sha256(text.encode()).digest(), line)
        if same != line:
            report.add(f"the same row as line {same}", line)
        if text:
            report.cells += 1
            _check_cell(text, line, size, across, used, report)
        elif len(rows) > 2:
            report.add("nothing predicted, but the image has other rows", line)
    _check_shared(used, report)


def _check_cell(
    text: str, line: int, size: tuple[int, int] | None, across: int, used: _Used, report: SubmissionReport
) -> None:
    """Check the pairs of one row; each kind of problem is named once, with the first pair that has it."""
    faults: dict[str, str] = {}
    previous = 0
    try:
        for pair, start, length in _pairs(text):
            last = start + length - 1
            if start < 1 or length < 1:
                faults.setdefault("empty", f"pair {pair}: {start} {length} is no run, both count from 1")
                continue
            if size is not None and last > size[0] * size[1]:
                pixels = size[0] * size[1]
                faults.setdefault("beyond", f"pair {pair}: the run {start} {length} ends beyond the {pixels} pixels")
            if start < previous:
                faults.setdefault("sorted", f"pair {pair}: the pairs are not sorted")
            previous = start
            report.pixels += length
            report.crossing += bool(across) and (start - 1) // across != (last - 1) // across
            used.first.append(start)
            used.last.append(last)
            used.line.append(line)
    except ValueError as error:
        faults["numbers"] = str(error)
    for fault in faults.values():
        report.add(fault, line)


def _pairs(text: str) -> Iterator[tuple[int, int, int]]:
    """(number of the pair, start, length); ValueError in words where the text is not pairs of numbers."""
    tokens = (found[0] for found in re.finditer(r"[^ ]+", text))
    for pair, tokens_of_pair in enumerate(itertools.zip_longest(tokens, tokens), start=1):
        for token in tokens_of_pair:
            if token is None:
                raise ValueError(f"pair {pair}: the start {tokens_of_pair[0]} has no length: an odd count of numbers")
            if not _NUMBER.fullmatch(token):
                raise ValueError(f"pair {pair}: {token[:20]!r} is not a whole number of at most 15 digits")
        yield pair, int(tokens_of_pair[0]), int(tokens_of_pair[1])


def _check_shared(used: _Used, report: SubmissionReport) -> None:
    """Name the pixels that stand twice in an image, in one row or in two."""
    shared: Counter[tuple[int, int]] = Counter()
    end, owner = 0, 0
    for i in sorted(range(len(used.first)), key=used.first.__getitem__):
        twice = min(used.last[i], end) - used.first[i] + 1
        if twice > 0:
            one, other = sorted((owner, used.line[i]))
            shared[other, one] += twice
        if used.last[i] > end:
            end, owner = used.last[i], used.line[i]
    for (line, other), pixels in sorted(shared.items()):
        where = "stand twice in this row" if line == other else f"are also in line {other}"
        report.add(f"pairs overlap: {pixels} pixels {where}", line)
