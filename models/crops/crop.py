"""Defines a training crop and the image that it is cut from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError
from cellsemi.models.crops.augment import ScalePixels
from cellsemi.models.crops.cell_pixels import CellPixels
from cellsemi.models.crops.normalise import Channels, Scaling
from cellsemi.rounds.cells.instance_map import LABELS, draw_instance_map
from cellsemi.rounds.store.folds import HUMAN_SPLIT
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.schemas import ImageRecord

MOST_SMALL = np.iinfo(np.int16).max  # cells whose numbers fit an int16


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """One image, decoded, in as few bytes as hold it: it is cached, and brought to [0, 1] where a crop is cut.

    `stored` (H, W) or (H, W, 3) has the dtype of the file; `scaling` brings a part of it to float32 in [0, 1].
    `instance_map` int16 or int32 (H, W) is 0, cell i + 1, or IGNORE where nothing is learned.
    """

    stored: NDArray[Any]
    scaling: ScalePixels
    instance_map: NDArray[np.int16] | NDArray[np.int32]
    cell_class: NDArray[np.int64]  # (cells + 1,), by the number in `instance_map`: 0..cells
    cell_weight: NDArray[np.float32]  # (cells + 1,); the first is that of the background, see `background_weight`
    cell_trust: NDArray[np.float32]  # (cells + 1,): 1 for human cells, else the calibrated confidence
    cell_pixels: CellPixels  # where each cell shows in the map
    typical_px: float | None  # see `typical_size`

    @property
    def pixels(self) -> NDArray[np.float32]:
        """The whole image, float32 in [0, 1]: (H, W), or (H, W, 3) for three channels."""
        return self.scaling(self.stored)

    @property
    def cell_area(self) -> NDArray[np.int64]:
        """int64 (cells + 1,): the pixels that the instance map shows of each cell, by its number; first a 0."""
        return np.diff(self.cell_pixels.start, prepend=0)

    @property
    def nbytes(self) -> int:
        """Memory that this image takes."""
        tables = (self.cell_class, self.cell_weight, self.cell_trust)
        return self.stored.nbytes + self.instance_map.nbytes + self.cell_pixels.nbytes + sum(t.nbytes for t in tables)


@dataclass(frozen=True, slots=True)
class Crop:
    """One augmented crop of side P: the input of a network, and its target.

    `pixels` float32 (P, P) or (P, P, 3) in [0, 1]; `instance_map` int32 (P, P) is 0, a cell's number or IGNORE;
    `cell_class` int64 and `cell_weight` float32 are tables by that number, 0 being the background.
    """

    pixels: NDArray[np.float32]
    instance_map: NDArray[np.int32]
    cell_class: NDArray[np.int64]
    cell_weight: NDArray[np.float32]


def training_image(record: ImageRecord, ignore_dilation_px: int, channels: Channels = 1) -> TrainingImage:
    """Decode a row and draw its instance map.

    What each pixel teaches is that of `draw_instance_map`. DataError for cells in a state that is none of human,
    accepted, ignored and rejected, or when the row has no image or no annotation.
    """
    cells = record.instances
    if record.image is None or cells is None:
        raise DataError(f"{record.image_id}: a training row needs an image and an annotation, make the shard anew")
    unknown = set(cells.state) - {"human", "accepted", "ignored", "rejected"}
    if unknown:
        raise DataError(f"{record.image_id}: cells in the state {sorted(unknown)} cannot train, filter them first")
    labels = cells.in_state(*LABELS)
    instance_map = draw_instance_map(cells, ignore_dilation_px)
    image = decode_image(record.image, record.image_id, max_pixels=record.height * record.width)
    if image.shape[:2] != instance_map.shape:
        raise DataError(f"{record.image_id}: the image is {image.shape}, its cells are drawn on {instance_map.shape}")
    stored, scaling = Scaling.of(image, channels)
    human = np.array([state == "human" for state in labels.state], bool)
    return TrainingImage(
        stored=stored,
        scaling=scaling,
        instance_map=instance_map.astype(np.int16) if len(labels) <= MOST_SMALL else instance_map,
        cell_class=np.concatenate([[0], labels.class_id]).astype(np.int64),
        cell_weight=np.concatenate([[background_weight(record)], labels.weight]).astype(np.float32),
        cell_trust=np.concatenate([[0], np.where(human, 1, labels.quality)]).astype(np.float32),
        cell_pixels=CellPixels.of(instance_map, len(labels)),
        typical_px=typical_size(labels.area),
    )


def background_weight(record: ImageRecord) -> float:
    """What a background pixel of an image weighs: 1 where people drew, else the mean weight of its accepted cells.

    What teachers call background is as sure as what they call cell: they are the same decision, pixel by pixel. A 1
    beside cells that weigh their quality would teach that there are fewer cells. 1 without an accepted cell.
    """
    if record.split == HUMAN_SPLIT or record.instances is None:
        return 1.0
    accepted = record.instances.in_state("accepted")
    return float(accepted.weight.mean()) if len(accepted) else 1.0


def typical_size(areas: NDArray[np.int64]) -> float | None:
    """The size of the typical cell in pixels, the root of the median area; None without cells."""
    return float(np.sqrt(np.median(areas))) if len(areas) else None
