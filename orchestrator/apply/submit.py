"""Writes a Kaggle submission for images that nobody has labelled; nothing is ever uploaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.apply.images import Found
from cellsemi.orchestrator.apply.outputs import records_of
from cellsemi.orchestrator.apply.predict_files import Predicted
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.check_files import check_submission
from cellsemi.rounds.datasets.export import Cells, Source, export
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.formats.shared.folder import split_extension
from cellsemi.rounds.store.schemas import ImageRecord

Order = Literal["row", "column"]
FORMAT = {"row": "kaggle", "column": "kaggle-columns"}
UNREADABLE = "images that cannot be read, written without cells"


@dataclass(frozen=True, slots=True)
class Submission:
    """What was written, and how it was checked."""

    out: Path
    order: Order
    written: Exported
    counts: dict[str, int]


def pixel_order(config: Config | None) -> Order:
    """The pixel order that a run's own data has: column by column for DSB2018, else row by row, as Sartorius has it."""
    if config is None:
        return "row"
    return "column" if config.data.source == "dsb2018" or config.data.pixel_order == "column" else "row"


def check_ids(found: Found) -> None:
    """UsageError when two images have one name: a submission names images by it."""
    for image in found.images:
        if image.image_id != split_extension(Path(image.path).name)[0]:
            raise UsageError(f"{image.path}: another image has this name; a submission needs a name for each image")


def submission_name(out: Path) -> Path:
    """`out`; UsageError when it is not called as a CSV file."""
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out}: a submission is a CSV file; name it so")
    return out


def write_submission(predicted: Predicted, keep: Cutoffs, out: Path, order: Order, force: bool = False) -> Submission:
    """Write the submission and check it; images that could not be read have a row without cells.

    UsageError when `out` exists and `force` is not set; RunError when the check finds a fault in what was written.
    """
    done = export(Source(_rows(predicted, keep), predicted.classes), Cells(), FORMAT[order], out, force)
    if predicted.quarantined:
        done.losses[UNREADABLE] += len(predicted.quarantined)
    return Submission(out, order, done, checked(out, order, done.images))


def checked(path: Path, order: Order, images: int) -> dict[str, int]:
    """What the independent checker counts in a submission; RunError for a fault, or for another number of images."""
    found = check_submission(path, order)
    counts: Counter[str] = Counter(found.counts)
    if found.problems or counts["images"] != images:
        raise RunError(f"{path}: the check failed: {found.problems[:3]}, {counts['images']} images of {images}")
    return found.counts


def _rows(predicted: Predicted, keep: Cutoffs) -> Iterator[ImageRecord]:
    yield from records_of(predicted, keep)
    for state in predicted.quarantined:
        yield ImageRecord(state.image_id, 1, 1, "", instances=Instances.empty(1, 1))
