"""Reads the masks of a teacher of the kind `masks` as predictions, with their scores."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.data import EVERY_OTHER, DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.mask_folder import Find, FoundMasks
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.store.schemas import ImageRecord

MISSING = "no masks of the image: it is missing there, not empty"
COLUMNS = ("image_id", "cell", "score")


class MaskScores:
    """The scores of a table with the columns `image_id`, `cell` (from 1) and `score` (0 to 1); others are not read.

    `cellsemi predict --format measurements` writes such a table. DataError naming the line when it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scores: dict[str, dict[int, float]] = {}
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise DataError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
                for row in reader:
                    self._add(row, reader.line_num)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as the scores of masks ({error})") from None

    def _add(self, row: dict[str, str | None], line: int) -> None:
        try:
            cell, score = int(row["cell"] or ""), float(row["score"] or "")
        except ValueError:
            raise DataError(f"{self._path}, line {line}: expected a whole number `cell` and a number `score`") from None
        if cell < 1 or not 0 <= score <= 1:
            raise DataError(f"{self._path}, line {line}: expected a cell from 1 on and a score from 0 to 1")
        scores = self._scores.setdefault(row["image_id"] or "", {})
        if scores.setdefault(cell, score) != score:
            raise DataError(f"{self._path}, line {line}: a second score of the same cell; keep one")

    def apply(self, image_id: str, cells: Instances) -> Instances:
        """The cells with their scores; ImageError unless the table holds one for each cell of the image."""
        scores = self._scores.get(image_id, {})
        if sorted(scores) != list(range(1, len(cells) + 1)):
            raise ImageError(
                str(self._path),
                f"{len(scores)} scores of {image_id!r}, which has {len(cells)} masks",
                "give one for each, `cell` from 1 on in the order of the masks (of a label map: of its values)",
            )
        return cells.with_(score=[scores[i + 1] for i in range(len(cells))])


@dataclass(frozen=True, slots=True)
class TeacherMasks:
    """Masks that a tool has written, as the cells that a teacher predicts.

    `data` says what their class names stand for, `folder` is what messages call them; without `scores` the scores are
    those that the files state, or 1.
    """

    find: Find
    data: DataConfig
    folder: str
    scores: MaskScores | None = None

    def cells(self, record: ImageRecord, warnings: Counter[str]) -> Instances | None:
        """The cells of an image, None where it is missing or cannot be read; `warnings` counts what is left out."""
        try:
            found = self.find(record)
            if found is None:
                warnings[MISSING] += 1
                return None
            scored = found.cells if self.scores is None else self.scores.apply(record.image_id, found.cells)
            cells = self._in_classes(FoundMasks(scored, found.classes), record)
        except ImageError as error:
            warnings[f"{error}; the image is missing there"] += 1
            return None
        kept = cells.select([i for i, state in enumerate(cells.state) if state != "ignored"])
        if len(kept) < len(cells):
            warnings["masks left out, as class_map or their file says"] += len(cells) - len(kept)
        return kept.with_(state="predicted", quality=kept.score, weight=1.0, votes=1, reason="")

    def _in_classes(self, found: FoundMasks, record: ImageRecord) -> Instances:
        """The cells with the class ids of the run: by their own class, else that of the whole image, else by `*`."""
        loaded = Loaded(record.with_(instances=found.cells), found.classes)
        every = EVERY_OTHER if EVERY_OTHER in self.data.class_map else None
        item = Item(record.image_id, None, self.folder, lambda: loaded, record.cell_type or every)
        cells = ClassNames(self.data).apply(loaded, item)
        assert cells is not None, "there are masks"
        return cells
