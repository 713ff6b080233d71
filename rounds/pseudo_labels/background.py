"""Says where an image is surely background, and measures how much of true cells would be taught as background.

A student that learns "everything beyond the accepted masks is background" unlearns what its teachers miss: where a
teacher was immature, 77 % of the pixels of true cells were taught so, and most of them lay in no mask at all. So
background must be earned: every teacher has to be sure that there is nothing. The rest of the image teaches nothing, as
the inconsistency of teachers does in Inconsistency Masks (Vorndran and Roeck 2024, arXiv 2401.14387).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instance_map import draw_instance_map
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import hits, scorable


def sure_background(per_teacher: Mapping[str, Instances], dilation_px: int) -> bytes:
    """RLE of the pixels of an image on which every teacher is sure that there is nothing.

    A teacher that does not state it (`Instances.background` is None) is taken to be sure where none of its masks,
    however low their scores, grown by `dilation_px`, lies. ValueError when there is no teacher.
    """
    if not per_teacher:
        raise ValueError("expected the cells of one teacher or more")
    return rle.encode(np.logical_and.reduce([_sure(cells, dilation_px) for cells in per_teacher.values()]))


def _sure(cells: Instances, dilation_px: int) -> rle.Bitmap:
    if cells.background is None:
        return ~masks.union_map(cells, dilation_px)
    return rle.decode(cells.background, cells.height, cells.width)


def label_score(pairs: Iterable[tuple[Instances, Instances]]) -> float:
    """F1 in [0, 1] of the accepted masks, with their class, at IoU > .5 on (filtered, truth) of validation images.

    0 where no mask is accepted or there is no human cell.
    """
    right = accepted = true = 0
    for filtered, truth in pairs:
        cells, human = scorable(filtered.in_state("accepted"), truth)
        right += int(hits(cells, human).sum())
        accepted, true = accepted + len(cells), true + len(human)
    return 2 * right / (accepted + true) if accepted and true else 0.0


def wrong_background(
    pairs: Iterable[tuple[Instances, Instances]], classes: Sequence[str], ignore_dilation_px: int
) -> dict[str, float]:
    """The share of the pixels of human cells that would be taught as background, by class of the cells.

    `pairs` are (filtered, truth) of each validation image: the cells as the filter left them, as if the image was
    unlabelled, and the human ones. A class without cells is not in the result.
    """
    wrong, all_pixels = np.zeros(len(classes)), np.zeros(len(classes))
    for filtered, truth in pairs:
        human = truth.in_state("human")
        drawn = masks.to_label_map(human)
        inside = drawn > 0
        class_id = human.class_id[drawn[inside] - 1]
        taught = draw_instance_map(filtered, ignore_dilation_px)[inside] == 0
        all_pixels += np.bincount(class_id, minlength=len(classes))
        wrong += np.bincount(class_id[taught], minlength=len(classes))
    return {name: float(wrong[i] / all_pixels[i]) for i, name in enumerate(classes) if all_pixels[i]}
