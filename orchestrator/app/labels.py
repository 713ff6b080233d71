"""Compares cells with a label file: reads any format of masks, and tells right, false and missed cells."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.errors import DataError
from cellsemi.orchestrator.app.found import Found, kept_cells
from cellsemi.orchestrator.app.view import Layer, in_one_colour
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.mask_folder import FoundMasks, open_masks
from cellsemi.rounds.evaluation.comparison import common_classes, renumbered, score_in
from cellsemi.rounds.evaluation.metrics import ImageScore
from cellsemi.rounds.formats.shared.folder import split_extension
from cellsemi.rounds.inspect.detect import data_section
from cellsemi.rounds.page.galleries import FALSE, MISSED, RIGHT
from cellsemi.rounds.page.outcomes import Outcome, outcome
from cellsemi.rounds.store.schemas import ImageRecord

NAME = "image"  # what the image is called while its labels are read


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """The kept cells beside the labels at IoU > .5, and the score of the image."""

    outcome: Outcome
    score: ImageScore

    def layers(self) -> list[Layer]:
        """As the report colours them; what is to be ignored is not drawn."""
        found = self.outcome
        return [
            in_one_colour(found.right, RIGHT),
            in_one_colour(found.missed, MISSED, 0.0),
            in_one_colour(found.false, FALSE),
        ]

    def sentence(self) -> str:
        """The counts and figures in words."""
        found, total = self.outcome, self.score.total
        counts = f"{len(found.right)} right, {len(found.false)} false, {len(found.missed)} missed"
        ignored = f", {len(found.ignored)} to be ignored" if len(found.ignored) else ""
        return f"{counts}{ignored} at IoU > .5. AP at .5: {total.ap_at[0]:.3f}. mAP of this image: {total.ap:.3f}."


def read_labels(path: Path, record: ImageRecord) -> FoundMasks:
    """The cells of a label file of an image: whatever `cellsemi evaluate --masks` reads as a file.

    The file need not be named after the image. DataError when it is of no kind that is known, or holds other images;
    ImageError when it is damaged or of another size.
    """
    with tempfile.TemporaryDirectory(prefix="cellsemi-labels-") as name:
        folder = Path(name)
        assert record.image is not None, "a found image has its file"
        if _names_its_images(path):
            (folder / Path(record.source or f"{record.image_id}.png").name).write_bytes(record.image)
            place = Path(shutil.copy(path, folder / path.name))
            found = open_masks(place, [record.image_id], data_section)(record)
        else:
            extension = split_extension(path.name)[1]
            ending = "_masks" if extension not in (".npy", ".zip", ".json", ".geojson", ".geojson.gz", ".roi") else ""
            shutil.copy(path, folder / f"{NAME}{ending}{extension}")
            found = open_masks(folder, [NAME], data_section)(record.with_(image_id=NAME))
    if found is None:
        raise DataError(f"{path.name}: holds no labels of {record.image_id}")
    return found


def _names_its_images(path: Path) -> bool:
    """Whether a file lists several images by their names: COCO, run lengths in a CSV."""
    if path.suffix.lower() == ".csv":
        return True
    if path.suffix.lower() != ".json":
        return False
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and "annotations" in content and "images" in content


def compare(found: Found, limits: Cutoffs, truth: FoundMasks) -> Compared:
    """The cells that are kept under the limits, beside the labels."""
    cells = kept_cells(found, limits)
    own: tuple[str, ...] = found.classes if len(cells) else ()
    common = common_classes(truth.classes, own)
    ours = renumbered(cells, found.classes, common)
    theirs = renumbered(_human(truth.cells), truth.classes, common)
    return Compared(
        outcome(ours, theirs, Cutoffs.same(0.0, len(found.classes))), score_in(found.record.image_id, ours, theirs)
    )


def _human(cells: Instances) -> Instances:
    """What is drawn in a label file was drawn by a person, but for what is to be ignored."""
    return cells.with_(state=[state if state == "ignored" else "human" for state in cells.state])
