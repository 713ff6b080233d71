"""Reads masks of the review folder as the run sees them: in its classes, with what was not labelled marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cellsemi.configs.data import DataConfig, PartialConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.mask_folder import open_masks
from cellsemi.rounds.formats.base import REGION, UNCLASSIFIED, Item, Loaded
from cellsemi.rounds.formats.shared.partly_labelled import mark_not_labelled
from cellsemi.rounds.inspect.detect import detect
from cellsemi.rounds.store.schemas import ImageRecord


class Rereader:
    """The masks of some images in a folder or file, as human labels.

    Cells that a person drew without a class take that of the image, or the only one of the run. DataError when no
    file is called as one of the images.
    """

    def __init__(self, place: Path, data: DataConfig, ids: Sequence[str]) -> None:
        self._find = open_masks(place, ids, _recognised)
        partial = data.partial
        regions = tuple(dict.fromkeys((*partial.regions, REGION)))
        self._partial = PartialConfig(value=partial.value, regions=regions, background=partial.background)
        alone = {UNCLASSIFIED: data.classes[0]} if len(data.classes) == 1 else {}
        self._names = ClassNames(data.model_copy(update={"class_map": {**alone, **data.class_map}}))
        self._folder = str(place)

    def cells(self, record: ImageRecord) -> Instances | None:
        """The cells of an image, None where it has no file; ImageError when its file is damaged or foreign."""
        found = self._find(record)
        if found is None:
            return None
        cells = found.cells.with_(state=[state if state == "ignored" else "human" for state in found.cells.state])
        loaded = Loaded(record.with_(instances=cells), found.classes, regions=found.regions)
        item = Item(record.image_id, "labelled", self._folder, lambda: loaded, record.cell_type)
        (marked,) = mark_not_labelled([item], self._partial)
        return self._names.apply(marked.load(), item)


def _recognised(path: Path) -> DataConfig:
    found = detect(path)
    return DataConfig.model_validate({"source": found.source, **found.settings})
