"""Refuses annotations that are regions which hold cells: as a cell, one would be learnt over all others."""

from __future__ import annotations

from collections.abc import Sequence

from cellsemi.configs.data import DROP
from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells.regions import regions
from cellsemi.rounds.datasets.class_names import DROPPED, ClassNames
from cellsemi.rounds.formats.base import Item, Loaded


def check_no_regions(loaded: Loaded, item: Item, names: ClassNames) -> None:
    """ImageError when annotations of an image are regions, unless `data.class_map` names their class."""
    cells = loaded.record.instances
    if cells is None or not len(cells):
        return
    of_cell = [loaded.classes[i] if loaded.classes else "" for i in cells.class_id.tolist()]
    kept = [i for i, name in enumerate(of_cell) if not name or names.find(name) != DROPPED]
    found = regions(cells.select(kept), rectangles=bool(loaded.classes))
    wrong = [name for name, region in zip((of_cell[i] for i in kept), found, strict=True) if region]
    wrong = [name for name in wrong if name not in names.data.class_map]
    if wrong:
        raise ImageError(item.place, *_words(sorted(set(wrong)), len(wrong)))


def _words(classes: Sequence[str], count: int) -> tuple[str, str]:
    """Problem and remedy for regions of these classes; "" stands for none."""
    many = f"{count} annotations are regions that hold" if count > 1 else "an annotation is a region that holds"
    if classes == [""]:
        return f"{many} cells, not a cell", "export the cells alone, or give the regions a class that can be dropped"
    shown = ", ".join(name for name in classes if name)
    drops = ", ".join(f'"{name}": {DROP}' for name in classes if name)
    outlines = ", ".join(f'"{name}"' for name in classes if name)
    remedy = (
        f"--set 'data.class_map={{{drops}}}' leaves them out; --set 'data.partial=[{outlines}]' says that they outline "
        "what was labelled; mapped to a class they are taken as cells"
    )
    return f"{many} cells, not a cell ({shown})", remedy
