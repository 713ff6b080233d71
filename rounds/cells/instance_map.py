"""Draws what an image teaches: which pixels are which cell, which are background, and which teach nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances, State

LABELS: tuple[State, ...] = ("human", "accepted")  # states of the cells that are learned
NOT_LABELLED = "not labelled"  # reason of the one ignored mask of a partly labelled image: nobody looked there
IGNORE = -1  # value of what must not be learned: cells that nobody is sure of, and everything beyond the image


def draw_instance_map(cells: Instances, ignore_dilation_px: int) -> NDArray[np.int32]:
    """int32 (H, W): 0 is background, i + 1 the cell i of `cells.in_state(*LABELS)`, IGNORE what teaches nothing.

    Where labels overlap, the higher quality keeps the pixel. `ignored` cells, grown by `ignore_dilation_px`, are IGNORE
    except where a label stands; what is NOT_LABELLED is not grown. All other pixels are background; of an image whose
    models state where they are sure that there is nothing (`Instances.background`) only those, and the rest is IGNORE:
    a cell that no model found must not be taught as background.
    """
    labels = cells.in_state(*LABELS)
    drawn = masks.to_label_map(labels, order=np.argsort(-labels.quality, kind="stable"))
    free = drawn == 0
    ignored = cells.in_state("ignored")
    exact = np.array([reason == NOT_LABELLED for reason in ignored.reason], bool)
    drawn[free & masks.union_map(ignored.select(~exact), ignore_dilation_px)] = IGNORE
    drawn[free & masks.union_map(ignored.select(exact))] = IGNORE
    if cells.background is not None:
        drawn[free & ~rle.decode(cells.background, cells.height, cells.width)] = IGNORE
    return drawn
