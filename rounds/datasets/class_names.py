"""Maps the class names of a data set to the classes of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.data import DROP, IGNORE, DataConfig, class_called
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.formats.shared.partly_labelled import not_labelled

DROPPED = -2  # the class id of what is mapped to `drop`
IGNORED = -1  # the class id of cells whose class is mapped to `ignore`


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Which class of the run a name of the data set stands for.

    A name is looked up in `data.class_map`, then in `data.classes`, then under `*` in `data.class_map`.
    """

    data: DataConfig

    def find(self, name: str) -> int | None:
        """The class id of a name, IGNORED, DROPPED, or None when the config does not say."""
        known = class_called(name, self.data.class_map, self.data.classes)
        if known is None:
            return None
        special = {IGNORE: IGNORED, DROP: DROPPED}
        return special[known] if known in special else self.data.classes.index(known)

    def check_listing(self, names: Iterable[str], where: str) -> None:
        """DataError naming every class of a listing that the run does not know."""
        unknown = sorted({name for name in names if self.find(name) is None})
        if unknown:
            raise DataError(f"{where}: {_unknown(unknown, self.data.classes)}")

    def image_class(self, item: Item) -> str | None:
        """The run's name for the class of a whole image; None where none is stated, or it is to be ignored.

        DataError when the run does not know it.
        """
        if not item.cell_type:
            return None
        found = self.find(item.cell_type)
        if found is None:
            raise DataError(f"{item.place}: {_unknown([item.cell_type], self.data.classes)}")
        if found == DROPPED:
            problem = f"the class of the whole image, {item.cell_type!r}, is mapped to `{DROP}`"
            raise DataError(f"{item.place}: {problem}; `{IGNORE}` takes its cells out of the loss and the score")
        return None if found == IGNORED else self.data.classes[found]

    def apply(self, loaded: Loaded, item: Item) -> Instances | None:
        """The cells of a loaded image with the run's class ids; those to be ignored get that state.

        What is mapped to `drop` is left out. Raises ImageError when a cell's class is not known, or not stated at all.
        """
        cells = loaded.record.instances
        if cells is None or not len(cells):
            return cells
        unknown = not_labelled(cells)
        if unknown.any():
            drawn = self.apply(replace(loaded, record=loaded.record.with_(instances=cells.select(~unknown))), item)
            assert drawn is not None
            return Instances.concat(cells.height, cells.width, [drawn, cells.select(unknown).with_(class_id=0)])
        ids = self._ids(loaded, item, cells)
        kept = np.flatnonzero(ids != DROPPED)
        cells, ids = cells.select(kept), ids[kept]
        ignored = ids == IGNORED
        state = ["ignored" if out else was for out, was in zip(ignored, cells.state, strict=True)]
        return cells.with_(class_id=np.where(ignored, 0, ids), state=state)

    def dropped(self, loaded: Loaded) -> Counter[str]:
        """How many cells of a loaded image are mapped to `drop`, by the reason."""
        cells, names = loaded.record.instances, loaded.classes
        if cells is None or not names:
            return Counter()
        used = (names[i] for i in cells.class_id.tolist())
        return Counter(
            f"annotations of the class {name!r} (data.class_map: drop)" for name in used if self._drops(name)
        )

    def _drops(self, name: str) -> bool:
        return self.find(name) == DROPPED

    def _ids(self, loaded: Loaded, item: Item, cells: Instances) -> NDArray[np.int64]:
        if loaded.classes:
            used = np.unique(cells.class_id).tolist()
            table = np.full(len(loaded.classes), IGNORED)
            for own in used:
                table[own] = self._known(loaded.classes[own], item)
            return table[cells.class_id]
        if item.cell_type:
            return np.full(len(cells), self._known(item.cell_type, item))
        if set(cells.state) == {"ignored"}:  # their class does not matter
            return np.full(len(cells), IGNORED)
        if len(self.data.classes) > 1:
            raise ImageError(
                item.place,
                f"nothing says which of {', '.join(self.data.classes)} the cells of {item.image_id!r} are",
                "data.class_column or data.class_pattern can say it",
            )
        return np.zeros(len(cells), np.int64)

    def _known(self, name: str, item: Item) -> int:
        found = self.find(name)
        if found is None:
            raise ImageError(item.place, _unknown([name], self.data.classes))
        return found


def _unknown(names: Sequence[str], classes: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names)
    word = "class" if len(names) == 1 else "classes"
    return (
        f"{word} {listed}, expected one of {', '.join(classes)} (data.classes); "
        f'data.class_map can lead it to one of them or to `ignore`; {{"*": {classes[0]}}} there takes all'
    )
