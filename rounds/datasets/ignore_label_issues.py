"""Ignores the label issues that a person left in the table of `data.label_issues`, as the data set is read.

A cell keeps its mask and its place and becomes `ignored`, neither learnt nor scored; where nobody drew what models
are sure of, an ignored cell is added, so that the place is not taught as background. Only labelled and val images are
changed, each change is counted, and a row that does not fit what is drawn now stops the reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import decode_counts, encode_crop
from cellsemi.rounds.datasets.check_shards import measured
from cellsemi.rounds.datasets.label_issue_file import LEARNT, LabelIssueRow, read_table
from cellsemi.rounds.evaluation.label_issues import KINDS
from cellsemi.rounds.formats.base import Item
from cellsemi.rounds.store import files
from cellsemi.rounds.store.schemas import ImageRecord

REMEDY = "the annotations are not those that were judged: make the table anew, or take the row out"
ALREADY = "name what is ignored without them"
QUARANTINED = "are of images that cannot be used"
NOT_DRAWN = "are of images that data.labelled_limit does not draw"


@dataclass(slots=True)
class LabelIssueCounts:
    """What became of a table. `cells`: ignored cells by split, then by kind (or kinds, of one cell).

    `added` of them nobody drew. `unused` rows changed nothing, by the reason. `sha256` is that of the file.
    """

    file: str
    sha256: str
    rows: int
    cells: dict[str, dict[str, int]] = field(default_factory=lambda: {split: {} for split in LEARNT})
    added: int = 0
    unused: dict[str, int] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """What a person must know."""
        lines = [f"{self.file} (data.label_issues): {self.rows} rows"]
        for split, kinds in self.cells.items():
            if kinds:
                counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
                lines.append(f"  {sum(kinds.values())} {split} cells are ignored as label issues: {counts}")
        lines += [f"  {count} rows change nothing, they {why}" for why, count in sorted(self.unused.items())]
        if self.cells["val"]:
            lines.append("  val is scored without them: compare scores on val only with runs that ignore the same")
        return lines


class LabelIssueTable:
    """The rows of a table by image, and what became of them."""

    def __init__(self, path: Path) -> None:
        rows = read_table(path)
        self.counts = LabelIssueCounts(str(path), table_sha256(path), len(rows))
        self._rows: dict[str, list[LabelIssueRow]] = {}
        for row in rows:
            self._rows.setdefault(row.image_id, []).append(row)

    def part(self, image_ids: Iterable[str]) -> LabelIssueTable:
        """The rows of some images, with counts of their own."""
        found = copy(self)
        found.counts = LabelIssueCounts(self.counts.file, self.counts.sha256, 0)
        found._rows = {image_id: self._rows[image_id] for image_id in image_ids if image_id in self._rows}
        found.counts.rows = sum(map(len, found._rows.values()))
        return found

    def add(self, part: Mapping[str, Any] | None, applied: Iterable[str]) -> None:
        """Add the counts of a part that was applied to these images, which had their rows."""
        for image_id in applied:
            self._rows.pop(image_id, None)
        if part is None:
            return
        for split, kinds in part["cells"].items():
            self.counts.cells[split] = dict(Counter(self.counts.cells[split]) + Counter(kinds))
        self.counts.added += part["added"]
        for why, count in part["unused"].items():
            self._unused(why, count)

    def check_listed(self, items: Iterable[Item]) -> None:
        """DataError when a row names an image that is no labelled or val image of the data set."""
        splits = {item.image_id: item.split for item in items if item.image_id in self._rows}
        for image_id, rows in self._rows.items():
            split, place = splits.get(image_id), rows[0].place
            if split == "test":
                raise DataError(
                    f"{place}: image {image_id!r} is a test image of this data set, and labels of test are never "
                    "altered by what models say; take its rows out, or divide the data as the judging run did"
                )
            if split not in LEARNT:
                what = "is unlabelled" if split else "is not in the data set"
                raise DataError(
                    f"{place}: image {image_id!r} {what}, expected a labelled or val image; take its rows out, or let "
                    "data.label_issues name the table of this data set"
                )

    def apply(self, record: ImageRecord) -> ImageRecord:
        """A record as it was read and cleaned, with its label issues ignored and counted. DataError as `ignore`.

        Records of other splits than LEARNT, and those that no row names, come back as they are.
        """
        if record.split not in LEARNT or record.image_id not in self._rows:
            return record
        rows = self._rows.pop(record.image_id)
        if record.instances is None:
            raise DataError(f"{rows[0].place}: image {record.image_id!r} was never annotated; {REMEDY}")
        cells, kinds, already = ignore(record.instances, rows)
        counts = self.counts
        counts.cells[record.split] = dict(Counter(counts.cells[record.split]) + kinds)
        counts.added += len(cells) - len(record.instances)
        self._unused(ALREADY, already)
        return record.with_(instances=cells)

    def close(self, quarantined: Iterable[str]) -> LabelIssueCounts:
        """The counts when all images are read; rows of images that did not come are counted by the reason."""
        bad = set(quarantined)
        for image_id, rows in self._rows.items():
            self._unused(QUARANTINED if image_id in bad else NOT_DRAWN, len(rows))
        return self.counts

    def _unused(self, why: str, count: int) -> None:
        self.counts.unused = dict(Counter(self.counts.unused) + Counter({why: count}))


def open_label_issues(data: DataConfig) -> LabelIssueTable | None:
    """The table of `data.label_issues`, None where none is named. DataError as `read_table`."""
    return None if data.label_issues is None else LabelIssueTable(files.place(data.label_issues))


def table_sha256(path: Path) -> str:
    """Hex sha256 of a table's bytes; DataError when it cannot be read."""
    try:
        return files.sha256_bytes(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); data.label_issues names it") from None


# --- one image ----------------------------------------------------------------------------------------


def ignore(cells: Instances, rows: Sequence[LabelIssueRow]) -> tuple[Instances, Counter[str], int]:
    """The cells of an image with those that the rows name ignored; new ones, which nobody drew, stand last.

    Also how many cells by kind (`class and outline` where rows of two kinds name one), and how many rows named
    what was ignored before. DataError when a row does not fit the cells or the image.
    """
    kinds: dict[int, set[str]] = {}
    added: list[tuple[LabelIssueRow, bytes, int]] = []
    known = {rle for rle, state in zip(cells.rle, cells.state, strict=True) if state == "ignored"}
    already = 0
    for row in rows:
        if row.cell is None:
            rle, area = _mask(row, cells.height, cells.width)
            already += rle in known
            added += [] if rle in known else [(row, rle, area)]
            known.add(rle)
            continue
        _check_box(row, cells)
        if cells.state[row.cell] == "ignored":
            already += 1
        else:
            kinds.setdefault(row.cell, set()).add(row.kind)
    words = {cell: " and ".join(kind for kind in KINDS if kind in found) for cell, found in kinds.items()}
    state = ["ignored" if i in words else was for i, was in enumerate(cells.state)]
    reason = [_reason(words[i]) if i in words else was for i, was in enumerate(cells.reason)]
    drawn = cells.with_(state=state, reason=reason)
    new = Instances.build(
        cells.height,
        cells.width,
        [rle for _, rle, _ in added],
        np.array([row.bbox for row, _, _ in added]),
        np.array([area for _, _, area in added]),
        state="ignored",
        reason=[_reason(row.kind) for row, _, _ in added],
    )
    counts = Counter([*words.values(), *(row.kind for row, _, _ in added)])
    return Instances.concat(cells.height, cells.width, [drawn, new]), counts, already


def _reason(kinds: str) -> str:
    return f"suspect: {kinds}"


def _check_box(row: LabelIssueRow, cells: Instances) -> None:
    assert row.cell is not None, "a row of a cell"
    if row.cell >= len(cells):
        raise DataError(
            f"{row.place}: cell {row.cell} of image {row.image_id!r}, which has {len(cells)} cells, from 0 on; {REMEDY}"
        )
    box = tuple(cells.bbox[row.cell].tolist())
    if box != row.bbox:
        raise DataError(
            f"{row.place}: the box {row.bbox} of cell {row.cell} of image {row.image_id!r} is {box} now; {REMEDY}"
        )


def _mask(row: LabelIssueRow, height: int, width: int) -> tuple[bytes, int]:
    """RLE and area of what nobody drew: its mask, or its box where the table has no mask."""
    x0, y0, x1, y1 = row.bbox
    if x1 > width or y1 > height:
        raise DataError(
            f"{row.place}: the box {row.bbox} leaves image {row.image_id!r}, {width} px wide, {height} high; {REMEDY}"
        )
    if row.rle is None:
        return encode_crop(np.ones((y1 - y0, x1 - x0), bool), x0, y0, height, width), (y1 - y0) * (x1 - x0)
    try:
        counts = decode_counts(row.rle)
    except ValueError:
        counts = np.zeros(0, np.int64)
    fits = not (counts < 0).any() and counts.sum() == height * width
    area, box = measured(counts, height) if fits else (0, None)
    if box != row.bbox:
        raise DataError(
            f"{row.place}: the mask (rle) does not fit its box {row.bbox} in image {row.image_id!r}; take the row from "
            "the table as it was written, or empty the rle: its box is ignored then"
        )
    return row.rle, area
