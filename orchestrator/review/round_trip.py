"""Reads masks of the review folder as the run sees them: in its classes, with what was not labelled marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cellsemi.configs.data import DataConfig, PartialConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import overlap
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.mask_folder import FoundMasks, open_masks
from cellsemi.rounds.formats.base import REGION, UNCLASSIFIED, Item, Loaded
from cellsemi.rounds.formats.shared.partly_labelled import mark_not_labelled
from cellsemi.rounds.inspect.detect import data_section
from cellsemi.rounds.store.schemas import ImageRecord

UNNAMED = ("", UNCLASSIFIED, "group 0")  # what formats call cells without a class


class Rereader:
    """The masks of some images in a folder or file, as human labels.

    Cells that a person drew without a class take that of the image, the only one of the run, or that of the masks that
    were handed out there. DataError when no file is called as one of the images.
    """

    def __init__(self, place: Path, data: DataConfig, ids: Sequence[str]) -> None:
        self._find = open_masks(place, ids, data_section)
        partial = data.partial
        regions = tuple(dict.fromkeys((*partial.regions, REGION)))
        self._partial = PartialConfig(value=partial.value, regions=regions, background=partial.background)
        groups = {f"group {number}": name for number, name in enumerate(data.classes, start=1)}  # as ImageJ has them
        self._names = ClassNames(data.model_copy(update={"class_map": {**groups, **data.class_map}}))
        self._classes, self._place = data.classes, str(place)

    def cells(self, record: ImageRecord, given: Instances) -> Instances | None:
        """The cells of an image, None where it has no file; ImageError when its file is damaged or foreign.

        `given` are the masks that were handed out, in the classes of the run.
        """
        found = self._find(record)
        if found is None:
            return None
        states = [state if state == "ignored" else "human" for state in found.cells.state]
        names = self._class_of_each(found, record, given)
        classes = tuple(dict.fromkeys(names))
        cells = found.cells.with_(state=states, class_id=[classes.index(name) for name in names])
        loaded = Loaded(record.with_(instances=cells), classes, regions=found.regions)
        item = Item(record.image_id, "labelled", self._place, lambda: loaded, record.cell_type)
        (marked,) = mark_not_labelled([item], self._partial)
        return self._names.apply(marked.load(), item)

    def _class_of_each(self, found: FoundMasks, record: ImageRecord, given: Instances) -> list[str]:
        """The name of the class of each cell: the stated one, else as the class says."""
        stated = [found.classes[i] if found.classes else "" for i in found.cells.class_id.tolist()]
        if all(name not in UNNAMED for name in stated):
            return stated
        most = given.main_class() or 0
        shared = overlap(found.cells, given)
        nearest, _ = shared.best()
        guess = [self._classes[given.class_id[i] if i >= 0 else most] for i in nearest.tolist()]
        return [
            name if name not in UNNAMED else record.cell_type or other
            for name, other in zip(stated, guess, strict=True)
        ]
