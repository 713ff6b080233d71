"""Compares the masks that a person was given with those that came back: what was kept, added, removed, redrawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import NOT_LABELLED
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import match, overlap

SAME = 0.97  # IoU from which a mask counts as kept: tools that write outlines round them
AROUND_PX = 8  # around what was changed, so much is looked at as well


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person did to an image: the human cells, and how many were kept, added, removed and redrawn."""

    cells: Instances
    kept: int
    added: int
    removed: int
    redrawn: int
    changed: NDArray[np.bool_]  # (H, W): the masks that were changed, before and after, and AROUND_PX around them

    @property
    def changes(self) -> int:
        """Cells that were added, removed or redrawn."""
        return self.added + self.removed + self.redrawn


def compare(given: Instances, returned: Instances) -> Correction:
    """The correction of an image from the masks as they were handed out to those that came back.

    Two masks are the same cell at IoU > .5 in the largest matching; one with another class counts as redrawn.
    """
    found = overlap(given, returned)
    rows, columns = match(found)
    same = (found.iou_of(rows, columns) >= SAME) & (given.class_id[rows] == returned.class_id[columns])
    old, new = np.ones(len(given), bool), np.ones(len(returned), bool)
    old[rows[same]] = new[columns[same]] = False
    both = Instances.concat(given.height, given.width, [given.select(old), returned.select(new)])
    return Correction(
        cells=returned.with_(state="human", reason="", score=1.0, quality=1.0, weight=1.0, round=0),
        kept=int(same.sum()),
        added=len(returned) - len(rows),
        removed=len(given) - len(rows),
        redrawn=int((~same).sum()),
        changed=masks.union_map(both, AROUND_PX),
    )


def partly(correction: Correction) -> Instances:
    """The cells of a correction of which only what was changed is known: the rest of the image is NOT_LABELLED.

    Cells that lie mostly in the changed part are human labels, those beyond it are left out.
    """
    cells, known = correction.cells, correction.changed
    seen = [known[y : y + crop.shape[0], x : x + crop.shape[1]][crop].sum() for crop, x, y in masks.crops(cells)]
    kept = cells.select(2 * np.array(seen, np.int64) > cells.area)
    unknown = ~known & ~masks.union_map(kept)
    if not unknown.any():
        return kept
    mark = masks.from_crops(cells.height, cells.width, [(unknown, 0, 0)], state="ignored", reason=NOT_LABELLED)
    return Instances.concat(cells.height, cells.width, [kept, mark])
