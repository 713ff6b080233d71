"""Training crops from shards: which image, where in it, and what stands in it.

Everything random is a function of (seed, step, crop), never of what was drawn before: a resumed fit
sees the same crops as an undisturbed one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError
from cellsemi.configs.models import AugmentConfig
from cellsemi.configs.training import Balance
from cellsemi.models.augment import OUTSIDE, CellSizes, augment_crop
from cellsemi.models.base import FitTask
from cellsemi.models.copy_paste import paste, pasteable
from cellsemi.models.image_draws import LABELS, ImageDraws, learnt_cells
from cellsemi.models.normalise import Channels, normalise
from cellsemi.rounds.cells import masks
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import ShardSet

ON_A_CELL = 0.85  # share of crops that are centred on a pixel of a cell; the others lie anywhere
CACHE_MB = 512  # decoded images that are kept; the least recently used make room


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """One image, decoded: `marks` int32 (H, W) is 0, cell i + 1, or OUTSIDE where nothing is learned."""

    pixels: NDArray[np.float32]
    marks: NDArray[np.int32]
    cell_class: NDArray[np.int64]  # (cells + 1,), of mark 0..cells
    cell_weight: NDArray[np.float32]  # (cells + 1,); background weighs 1
    cell_trust: NDArray[np.float32]  # (cells + 1,): 1 for human cells, else the calibrated confidence
    cell_area: NDArray[np.int64]  # (cells + 1,), in pixels, of what the marks show of each
    typical_px: float | None  # see `typical_size`

    @property
    def nbytes(self) -> int:
        """Memory that this image takes."""
        tables = (self.cell_class, self.cell_weight, self.cell_trust, self.cell_area)
        return self.pixels.nbytes + self.marks.nbytes + sum(table.nbytes for table in tables)


@dataclass(frozen=True, slots=True)
class Crop:
    """One augmented crop of side P: what a network sees, and what it should say there.

    `pixels` float32 (P, P) or (P, P, 3) in [0, 1]; `marks` int32 (P, P) is 0, a cell's number or OUTSIDE;
    `cell_class` int64 and `cell_weight` float32 are looked up by mark.
    """

    pixels: NDArray[np.float32]
    marks: NDArray[np.int32]
    cell_class: NDArray[np.int64]
    cell_weight: NDArray[np.float32]


def training_image(record: ImageRecord, ignore_dilation_px: int, channels: Channels = 1) -> TrainingImage:
    """Decode a row and draw its cells.

    `human` and `accepted` cells are labels; where they overlap, the higher quality keeps the pixel.
    `ignored` cells, grown by `ignore_dilation_px`, are OUTSIDE except where a label stands; `rejected`
    cells are background. DataError for any other state, or when the row has no image or no annotation.
    """
    cells = record.instances
    if record.image is None or cells is None:
        raise DataError(f"{record.image_id}: a training row needs an image and an annotation, make the shard anew")
    unknown = set(cells.state) - {"human", "accepted", "ignored", "rejected"}
    if unknown:
        raise DataError(f"{record.image_id}: cells in the state {sorted(unknown)} cannot train, screen them first")
    labels = cells.in_state(*LABELS)
    marks = masks.to_label_map(labels, order=np.argsort(-labels.quality, kind="stable"))
    ignored = masks.union_map(cells.in_state("ignored"), ignore_dilation_px)
    marks[ignored & (marks == 0)] = OUTSIDE
    image = decode_image(record.image, record.image_id, max_pixels=record.height * record.width)
    pixels = normalise(image, channels)
    if pixels.shape[:2] != marks.shape:
        raise DataError(f"{record.image_id}: the image is {pixels.shape}, its cells are drawn on {marks.shape}")
    human = np.array([state == "human" for state in labels.state], bool)
    return TrainingImage(
        pixels=pixels,
        marks=marks,
        cell_class=np.concatenate([[0], labels.class_id]).astype(np.int64),
        cell_weight=np.concatenate([[1], labels.weight]).astype(np.float32),
        cell_trust=np.concatenate([[0], np.where(human, 1, labels.quality)]).astype(np.float32),
        cell_area=np.bincount(np.maximum(marks, 0).ravel(), minlength=len(labels) + 1),
        typical_px=typical_size(labels.area),
    )


def typical_size(areas: NDArray[np.int64]) -> float | None:
    """The size of the typical cell in pixels, the root of the median area; None without cells."""
    return float(np.sqrt(np.median(areas))) if len(areas) else None


class CropSource:
    """Batches of crops from the annotated rows of some shards; the images are decoded when they are drawn.

    Cells of other crops are pasted in as `augment.copy_paste` says. For a size-aware zoom the areas of all
    cells are read from the shards at the start, without the images.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        *,
        crop_px: int,
        batch: int,
        human_fraction: float,
        ignore_dilation_px: int,
        augment: AugmentConfig,
        seed: int,
        channels: Channels = 1,
        human_from: float = math.inf,
        balance: Balance = "none",
        classes: Sequence[str] = (),
    ) -> None:
        self._records = ShardSet(shards, cached_groups=4)
        self._draws = ImageDraws(
            shards, human_fraction=human_fraction, human_from=human_from, balance=balance, classes=classes
        )
        self._crop_px, self._batch, self._seed = crop_px, batch, seed
        self._ignore_dilation_px, self._augment, self._channels = ignore_dilation_px, augment, channels
        self._sizes = _range_of_sizes(shards) if augment.size_aware else None
        self._cache: OrderedDict[int, TrainingImage] = OrderedDict()
        self._cached_bytes = 0

    @classmethod
    def of(cls, task: FitTask, augment: AugmentConfig, channels: Channels = 1, crop_px: int | None = None) -> Self:
        """The crops that a task trains on, of side `crop_px` (None: that of the task)."""
        training = task.training
        return cls(
            [Path(path) for path in task.shards],
            crop_px=crop_px or training.crop_px,
            batch=training.batch,
            human_fraction=training.human_fraction,
            ignore_dilation_px=task.ignore_dilation_px,
            augment=augment,
            seed=task.seed,
            channels=channels,
            human_from=math.ceil(task.steps * (1 - training.human_last)),
            balance=training.balance,
            classes=task.classes,
        )

    def __call__(self, step: int) -> list[Crop]:
        """The crops of one step: a function of the seed and the step."""
        return [self._crop(np.random.default_rng([self._seed, step, i]), step) for i in range(self._batch)]

    def _crop(self, rng: np.random.Generator, step: int) -> Crop:
        crop, _ = self._drawn(rng, step)
        config = self._augment.copy_paste
        if config.probability > 0 and rng.random() < config.probability:
            crop = paste(crop, *self._drawn(rng, step), config, rng)
        return crop

    def _drawn(self, rng: np.random.Generator, step: int) -> tuple[Crop, NDArray[np.bool_]]:
        """A crop of any image, and which of its marks may be pasted into another."""
        image = self._image(self._draws.draw(rng, step))
        done = augment_crop(
            image.pixels,
            image.marks,
            _draw_centre(image.marks, rng),
            crop_px=self._crop_px,
            config=self._augment,
            rng=rng,
            sizes=CellSizes(image.typical_px, *self._sizes) if self._sizes and image.typical_px else None,
        )
        crop = Crop(done.pixels, done.marks, image.cell_class, image.cell_weight)
        return crop, pasteable(done.marks, image.cell_area * done.zoom**2, image.cell_trust, self._augment.copy_paste)

    def _image(self, row: int) -> TrainingImage:
        if row not in self._cache:
            image = training_image(self._records[row], self._ignore_dilation_px, self._channels)
            self._cache[row] = image
            self._cached_bytes += image.nbytes
            while self._cached_bytes > CACHE_MB * 2**20 and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        self._cache.move_to_end(row)
        return self._cache[row]


def _draw_centre(marks: NDArray[np.int32], rng: np.random.Generator) -> tuple[float, float]:
    """Mostly a pixel of a cell, each cell equally likely; else, and without cells, any pixel."""
    chance, place, second = rng.random(3)
    height, width = marks.shape
    cells = int(marks.max(initial=0))
    if cells and chance < ON_A_CELL:
        rows, columns = np.nonzero(marks == 1 + int(place * cells))
        if len(rows):  # a cell that others cover whole has no pixel
            pick = int(second * len(rows))
            return float(rows[pick]), float(columns[pick])
    return place * height, second * width


def _range_of_sizes(shards: Sequence[Path]) -> tuple[float, float] | None:
    """The smallest and the largest typical size of the images; None when there is no cell."""
    sizes = []
    for path in shards:
        image, (area,) = learnt_cells(path, "area")
        each = np.split(area, np.flatnonzero(np.diff(image)) + 1)
        sizes += [size for areas in each if (size := typical_size(areas)) is not None]
    return (min(sizes), max(sizes)) if sizes else None
