"""Explains one image: what each model computed for it, which cells they found, and why each was kept or dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cellsemi.models.explanation import Explanation
from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.orchestrator.apply.predict_files import read_pixels
from cellsemi.orchestrator.explain.reasons import CellRow, cell_rows
from cellsemi.orchestrator.explain.run_image import RunImage, image_called, image_with_pixels
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.seen import SeenImages
from cellsemi.rounds.formats.shared.folder import split_extension
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.image_record import record_of
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord

if TYPE_CHECKING:
    import pandas as pd

USED = {
    "labelled": "The models learned from this image and its labels: what they find here says little of new images.",
    "unlabelled": "The image is of the unlabelled ones: later models learned from its accepted pseudo-labels.",
    "val": "Thresholds and models were chosen on this image.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The image to explain: its pixels as `decode_image` gives them, its record, and what the run knows of it."""

    pixels: NDArray[Any]
    record: ImageRecord
    known: RunImage | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """What models made of one image, as arrays.

    `cells` are all that were found, kept or not, and `rows` has a row for each (`table` as pandas); `members` says what
    each model computed: its maps, boxes, and shares of activation. `known` is what the run knows of the image, with
    human labels and pseudo-labels. `notes` are sentences.
    """

    model: str
    image_id: str
    pixels: NDArray[Any]
    record: ImageRecord
    classes: tuple[str, ...]
    cells: Instances
    rows: tuple[CellRow, ...]
    fused: bool
    members: Mapping[str, Explanation]
    known: RunImage | None
    notes: tuple[str, ...]

    @property
    def kept(self) -> Instances:
        """The cells that were kept: those of `cellsemi predict`."""
        return self.cells.select([i for i, row in enumerate(self.rows) if row.kept])

    def table(self) -> pd.DataFrame:
        """A row for each cell; the columns are those of CellRow."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows], columns=list(CellRow.__slots__))


def find_picture(image: str, max_pixels: int, paths: RunPaths | None, round: int | None = None) -> Picture:
    """The image that a name stands for: a file, or the id of an image of the run.

    UsageError when it is neither; ImageError when the image cannot be read.
    """
    path = Path(image)
    if not path.is_file() and paths is not None:
        found = image_called(paths, image, round)
        assert found.record.image is not None, "the rows of a split hold their images"
        pixels = decode_image(found.record.image, found.record.source or image, max_pixels)
        return Picture(pixels, found.record, found)
    pixels = read_pixels(image, max_pixels)
    record = record_of(pixels, split_extension(path.name)[0], image, "", None)
    return Picture(pixels, record, None if paths is None else image_with_pixels(paths, record.sha256 or "", round))


def explain(predictor: EnsemblePredictor, picture: Picture, keep: Cutoffs, seen: SeenImages | None = None) -> Explained:
    """What the models make of an image; `keep` decides which cells are kept, `seen` are the images of their run."""
    recipe, known = predictor.recipe, picture.known
    answer = predictor.explain(picture.pixels)
    truth = None if known is None else known.truth
    cells, rows = cell_rows(answer, keep, recipe.classes, truth)
    return Explained(
        model=recipe.title,
        image_id=picture.record.image_id,
        pixels=picture.pixels,
        record=picture.record,
        classes=recipe.classes,
        cells=cells,
        rows=tuple(rows),
        fused=recipe.fusion is not None,
        members=answer.members,
        known=known,
        notes=tuple(notes_of(predictor, picture, seen)),
    )


def notes_of(predictor: EnsemblePredictor, picture: Picture, seen: SeenImages | None) -> list[str]:
    """What a person must know of the image and of its prediction just now, in sentences; the reports are cleared."""
    reports = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in predictor.warnings]
    predictor.clear_warnings()
    return [*_of_split(picture.known, seen, picture.record), *reports]


def _of_split(known: RunImage | None, seen: SeenImages | None, record: ImageRecord) -> list[str]:
    """What a person must know to trust what is seen: the models may have learned from this very image."""
    use = None if seen is None else seen.use_of(record)
    where = [] if known is None else [f"An image of the run: {known.record.image_id}, {known.split}."]
    return [*where, USED[use]] if use in USED else where
