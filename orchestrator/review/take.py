"""Takes corrected masks back into a run: what a person changed, or has seen, teaches as a human label."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cellsemi.configs.errors import DataError, ImageError, UsageError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.review.add import Labelled, Taken, add_labels
from cellsemi.orchestrator.review.offer import GIVEN, REVIEW_FILE, TABLE, ReviewRecord, masks_at, pool_fingerprint
from cellsemi.orchestrator.review.round_trip import Rereader
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.shared.partly_labelled import not_labelled
from cellsemi.rounds.review.added import AddedImage
from cellsemi.rounds.review.corrections import Correction, compare, partly
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord

Use = Literal["whole", "part"]
SEEN = ("", "yes", "part", "no")
MISSING = "its file of masks is gone"
REFUSED = "marked as not to be used"
UNTOUCHED = "not changed and not marked as seen"


def take(paths: RunPaths, config: Config, folder: Path, use: Use) -> Taken:
    """Take the corrected images of a folder of `cellsemi review` into the run; the caller holds its lock.

    `use` says how an image counts that was changed and not marked: `whole`, or only the changed `part`. An image that
    cannot be read is left as it was and named. UsageError when the folder is of another run; DataError when its
    table is damaged.
    """
    review = _review_of(folder, paths)
    marks = _marks(folder / TABLE, review)
    result = Taken(paths.name, len(paths.finished_rounds()))

    def decided() -> Iterator[Labelled]:
        for record, given, returned in _returned(folder, review, paths, config, result):
            seen = marks[record.image_id]
            image, cells = _decide(given, returned, seen, use)
            if cells is None or image is None:
                result.left[record.image_id] = REFUSED if seen == "no" else UNTOUCHED
            else:
                yield Labelled(record, image, cells)

    origin, by = str(folder.resolve()), f"the pseudo-labels of round {review.round}"
    add_labels(paths, config, decided(), result, origin=origin, by=by)
    return result


def _review_of(folder: Path, paths: RunPaths) -> ReviewRecord:
    if not (folder / REVIEW_FILE).is_file():
        raise UsageError(f"{folder}: no folder of `cellsemi review` (it has no {REVIEW_FILE})")
    review = ReviewRecord.read(folder / REVIEW_FILE)
    if review.pool != pool_fingerprint(paths):
        raise UsageError(f"{folder}: holds images of the run {review.run}, which has other unlabelled images than this")
    return review


def _marks(path: Path, review: ReviewRecord) -> dict[str, str]:
    """The column `seen` of the table, by image id; images whose row is gone have no mark."""
    marks = dict.fromkeys(review.images, "")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return marks
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as CSV, UTF-8") from None
    for line, row in enumerate(rows, start=2):
        image_id, seen = row.get("image_id"), (row.get("seen") or "").strip().lower()
        if image_id is None:
            raise DataError(f"{path}: no column image_id; save it with commas and its first line")
        if image_id not in marks:
            raise DataError(f"{path}, line {line}: {image_id!r} was not handed out; take the row out")
        if seen not in SEEN:
            raise DataError(f"{path}, line {line}: seen is {seen!r}, expected yes, part, no or nothing")
        marks[image_id] = seen
    return marks


def _returned(
    folder: Path, review: ReviewRecord, paths: RunPaths, config: Config, result: Taken
) -> Iterator[tuple[ImageRecord, Instances, Instances]]:
    """Each image with the masks that were handed out and those that lie there now; others are noted in the result."""
    given = {record.image_id: record.instances for record in shards.read_folder(folder / GIVEN)}
    reader = Rereader(masks_at(folder, review.format), config.data, list(review.images))
    for record in shards.read_folder(paths.split(UNLABELLED)):
        if record.image_id not in given:
            continue
        before = given[record.image_id] or Instances.empty(record.height, record.width)
        try:
            cells = reader.cells(record, before)
        except ImageError as error:
            result.left[record.image_id] = f"{error.path}: {error.described}"
            continue
        if cells is None:
            result.left[record.image_id] = MISSING
            continue
        yield record, before, cells


def _decide(given: Instances, returned: Instances, seen: str, use: Use) -> tuple[AddedImage | None, Instances | None]:
    """What was changed and the human labels of an image; None for both when it is left as it was."""
    unknown = not_labelled(returned)
    human = returned.select(~unknown)
    correction = compare(given.in_state("human"), human.in_state("human"))
    outlined = bool(unknown.any())
    if seen == "no" or (seen == "" and not correction.changes and not outlined):
        return None, None
    if outlined:  # the person said where; what is beyond stays unknown
        cells = Instances.concat(returned.height, returned.width, [_human(correction, human), returned.select(unknown)])
        return _counted(correction, partly=True), cells
    part = seen == "part" or (seen == "" and use == "part")
    if part and correction.changes:
        return _counted(correction, partly=True), partly(correction)
    if part:
        return None, None
    return _counted(correction, partly=False), _human(correction, human)


def _human(correction: Correction, returned: Instances) -> Instances:
    """The cells of a correction, and the masks that the person marked to be ignored."""
    ignored = returned.in_state("ignored")
    return Instances.concat(returned.height, returned.width, [correction.cells, ignored])


def _counted(correction: Correction, partly: bool) -> AddedImage:
    return AddedImage(
        kept=correction.kept,
        added=correction.added,
        removed=correction.removed,
        redrawn=correction.redrawn,
        partly=partly,
    )
