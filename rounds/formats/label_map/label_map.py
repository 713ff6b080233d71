"""Reads the cells of one label map: 0 is background, every other value a cell."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import NOT_LABELLED
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.label_map.foreground import foreground
from cellsemi.rounds.formats.shared.folder import check_fits
from cellsemi.rounds.store.image_codec import decode_label_map
from cellsemi.rounds.store.orientation import UPRIGHT, orientation
from cellsemi.rounds.store.schemas import ImageRecord


class LabelMapRules(NamedTuple):
    """How a config reads label maps: a mask of foreground is taken, its pieces being cells (data.clean.parts: split);
    the value of what was not labelled (data.partial)."""

    pieces_are_cells: bool = False
    not_labelled: int | None = None

    @classmethod
    def of(cls, data: DataConfig) -> Self:
        """Those of a config."""
        return cls(data.clean.parts == "split", data.partial.value)


PLAIN = LabelMapRules()


def cells_of_label_map(
    content: bytes, path: str, record: ImageRecord, max_pixels: int, rules: LabelMapRules = PLAIN
) -> Instances:
    """The cells of an encoded label map as `cells_of_labels` gives them.

    ImageError also when it is damaged, and when it asks to be shown turned: nobody knows how it was drawn.
    """
    if orientation(content) != UPRIGHT:
        problem = f"a label map with the orientation {orientation(content)}"
        raise ImageError(path, problem, "save it as it is to be read, without the tag")
    return cells_of_labels(decode_label_map(content, path, max_pixels), path, record, rules)


def cells_of_labels(
    labels: NDArray[np.integer[Any]], path: str, record: ImageRecord, rules: LabelMapRules = PLAIN
) -> Instances:
    """The cells of an integer (H, W) label map, class 0; ImageError when it is no label map of the image.

    A mask of foreground is refused: as a label map all cells of the image would be one. With `rules.pieces_are_cells`
    one of a single value is taken; the cleaning makes each of its pieces a cell. What has the value
    `rules.not_labelled` is one ignored mask with that reason, the last.
    """
    check_fits(path, "the label map", labels.shape[0], labels.shape[1], record)
    unknown = labels == (0 if rules.not_labelled is None else rules.not_labelled)
    if rules.not_labelled is None or not unknown.any():
        check_numbered(labels, path, rules.pieces_are_cells)
        return masks.from_label_map(labels, state="human")
    labels = np.where(unknown, 0, labels)
    check_numbered(labels, path, rules.pieces_are_cells)
    height, width = labels.shape
    mark = masks.from_crops(height, width, [(unknown, 0, 0)], state="ignored", reason=NOT_LABELLED)
    return Instances.concat(height, width, [masks.from_label_map(labels, state="human"), mark])


def check_numbered(labels: NDArray[np.integer[Any]], path: str, pieces_are_cells: bool = False) -> None:
    """ImageError for a mask of foreground or of classes: its values do not number the cells."""
    found = foreground(labels)
    if found is None:
        return
    alone = not ((labels != 0) & (labels != found.value)).any()
    if alone and pieces_are_cells:
        return
    problem = (
        f"the value {found.value} stands in {found.pieces} pieces: a mask of foreground or of classes, not a label map"
    )
    remedy = "number the cells 1..N, for instance with scipy.ndimage.label"
    if alone:
        remedy += ", or --set data.clean.parts=split makes each piece a cell (cells that touch become one)"
    raise ImageError(path, problem, remedy)
