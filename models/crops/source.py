"""Makes the training crops of each step from shards.

Everything random is a function of (seed, step, crop), never of earlier crops: a resumed fit trains on the same
crops as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.phases import NO_AUGMENTATION, AugmentConfig
from cellsemi.configs.training import Balance, Draw, resize_factor
from cellsemi.models.base import FitTask
from cellsemi.models.crops.augment import CellSizes, augment_crop
from cellsemi.models.crops.cache import ImageCache, share_of_memory
from cellsemi.models.crops.copy_paste import paste, pasteable
from cellsemi.models.crops.crop import Crop, TrainingImage, training_image, typical_size
from cellsemi.models.crops.need import needs
from cellsemi.models.crops.normalise import Channels
from cellsemi.models.crops.sampling import ImageSampler, InTurn, label_kinds, learnt_cells
from cellsemi.models.model_files import CellSize
from cellsemi.rounds.cells.instance_map import IGNORE
from cellsemi.rounds.store import files
from cellsemi.rounds.store.shards import ShardSet

ON_A_CELL = 0.85  # share of crops that are centred on a pixel of a cell; the others lie anywhere
TRIES = 16  # places that are drawn at most until one teaches something
VALIDATION_CROPS, VALIDATION_BATCHES = 32, 4  # the loss is measured on about so many crops, in at most so many batches
VALIDATION_SEED = 0  # the same crops for all students and runs


class CropSource:
    """Batches of crops from the annotated rows of some shards; an image is decoded when it is first sampled.

    Cells of other crops are pasted in by `augment.copy_paste`. For a size-aware scale the areas of all cells are read
    from the shards at the start, without the images. `enlarge` brings every image to the size at which the network
    sees it, before the random scale; `resize_px` is the longer side that it is brought to first. `changes` are
    augmentations that take the place of `augment`, each from a step on. `part` (r, G): only the crops r, r + G, .. of
    a batch. `images` and `rows` are those of the shards, as `ShardSet` takes them.
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
        pseudo_draw: Draw = "even",
        enlarge: float = 1.0,
        resize_px: int | None = None,
        changes: Sequence[tuple[int, AugmentConfig]] = (),
        part: tuple[int, int] = (0, 1),
        images: Sequence[Path] = (),
        rows: Sequence[int] = (),
    ) -> None:
        self._records = ShardSet(shards, images, rows or None)
        self._sampler: ImageSampler | InTurn = ImageSampler(
            shards,
            human_fraction=human_fraction,
            human_from=human_from,
            balance=balance,
            classes=classes,
            pseudo_weights=needs(shards) if pseudo_draw == "need" else None,
        )
        self._crop_px, self._batch, self._seed, self._part = crop_px, batch, seed, part
        self._enlarge, self._resize_px = enlarge, resize_px
        self._ignore_dilation_px, self._channels = ignore_dilation_px, channels
        self._augments = ((0, augment), *changes)
        self._sizes = _range_of_sizes(shards) if any(each.size_aware for _, each in self._augments) else None
        self._images = ImageCache(self._decoded, share_of_memory())

    @classmethod
    def of(
        cls, task: FitTask, augment: AugmentConfig, size: CellSize, channels: Channels = 1, crop_px: int | None = None
    ) -> Self:
        """The crops that a task trains on at a cell size, of side `crop_px` (None: that of the task)."""
        training = task.training
        return cls(
            [files.place(path) for path in task.shards],
            crop_px=crop_px or training.crop_px,
            batch=training.batch,
            human_fraction=task.human_fraction,
            ignore_dilation_px=task.ignore_dilation_px,
            augment=augment,
            seed=task.seed,
            channels=channels,
            human_from=math.ceil(task.steps * (1 - training.human_last)),
            balance=training.balance,
            classes=task.classes,
            pseudo_draw=training.pseudo_draw,
            enlarge=size.scale,
            resize_px=size.resize_px,
            changes=[(phase.first, phase.augment or augment) for phase in training.in_phases(task.steps)],
            part=task.part,
            images=[files.place(path) for path in task.images],
            rows=task.rows,
        )

    @classmethod
    def on_validation(
        cls, task: FitTask, size: CellSize, channels: Channels = 1, crop_px: int | None = None
    ) -> ValidationCrops | None:
        """Fixed crops of the validation images of a task as they are, at a cell size.

        None where none of them is annotated. An image gives a crop when all others have given one.
        """
        shards = [files.place(path) for path in task.validation]
        annotated = np.flatnonzero(label_kinds(shards)[1])
        if not len(annotated):
            return None
        made = cls(
            shards,
            crop_px=crop_px or task.training.crop_px,
            batch=1,
            human_fraction=1.0,
            ignore_dilation_px=task.ignore_dilation_px,
            augment=NO_AUGMENTATION,
            seed=VALIDATION_SEED,
            channels=channels,
            enlarge=size.scale,
            resize_px=size.resize_px,
        )
        made._sampler = InTurn(np.random.default_rng(VALIDATION_SEED).permutation(annotated))
        return ValidationCrops(made, task.training.batch, task.part)

    def __call__(self, step: int) -> list[Crop]:
        """The crops of one step, of which this rank takes its part: a function of the seed and the step."""
        first, of = self._part
        own = range(first, self._batch, of)
        return [self._crop(np.random.default_rng([self._seed, step, i]), step) for i in own]

    def _crop(self, rng: np.random.Generator, step: int) -> Crop:
        augment = next(each for first, each in reversed(self._augments) if step >= first)
        # One draw for both crops: a cell that is pasted looks as those around it do.
        invert = augment.invert > 0 and rng.random() < augment.invert
        crop, _ = self._sampled(rng, step, augment, invert)
        config = augment.copy_paste
        if config.probability > 0 and rng.random() < config.probability:
            crop = paste(crop, *self._sampled(rng, step, augment, invert), config, rng)
        return crop

    def _sampled(
        self, rng: np.random.Generator, step: int, augment: AugmentConfig, invert: bool
    ) -> tuple[Crop, NDArray[np.bool_]]:
        """A crop of a sampled image, and which of its cells may be pasted into another."""
        image = self._images(self._sampler.sample(rng, step))
        done = augment_crop(
            image.stored,
            image.instance_map,
            _draw_centre(image, rng),
            crop_px=self._crop_px,
            scaling=image.scaling,
            config=augment,
            rng=rng,
            sizes=CellSizes(image.typical_px, *self._sizes) if self._sizes and image.typical_px else None,
            enlarge=self._enlarge * resize_factor(self._resize_px, *image.stored.shape[:2]),
            invert=invert,
        )
        crop = Crop(done.pixels, done.instance_map, image.cell_class, image.cell_weight)
        return crop, pasteable(done.instance_map, image.cell_area * done.scale**2, image.cell_trust, augment.copy_paste)

    def _decoded(self, row: int) -> TrainingImage:
        """The image of a row; what this returns is cached."""
        return training_image(self._records[row], self._ignore_dilation_px, self._channels)


@dataclass(frozen=True, slots=True)
class ValidationCrops:
    """Batches of `size` fixed crops, of which rank r of G takes its `part` (r, G); `one` gives crop i alone."""

    one: CropSource
    size: int
    part: tuple[int, int]

    @property
    def count(self) -> int:
        """How many batches there are."""
        return min(max(1, round(VALIDATION_CROPS / self.size)), VALIDATION_BATCHES)

    def __call__(self, number: int) -> list[Crop]:
        """The crops of a batch."""
        first, of = self.part
        return [crop for i in range(first, self.size, of) for crop in self.one(number * self.size + i)]


def _draw_centre(image: TrainingImage, rng: np.random.Generator) -> tuple[float, float]:
    """Mostly a pixel of a cell, each cell equally likely; else, and without cells, any pixel that is not IGNORE."""
    chance, place, second = rng.random(3)
    height, width = image.instance_map.shape
    cells = len(image.cell_pixels)
    if cells and chance < ON_A_CELL:
        pixel = image.cell_pixels.pick(int(place * cells), second)
        if pixel is not None:  # a cell that others cover whole has no pixel
            return float(pixel[0]), float(pixel[1])
    for _ in range(TRIES):
        if image.instance_map[int(place * height), int(second * width)] != IGNORE:
            break
        place, second = rng.random(2)
    return place * height, second * width


def _range_of_sizes(shards: Sequence[Path]) -> tuple[float, float] | None:
    """The smallest and the largest typical size of the images; None when there is no cell."""
    sizes = []
    for path in shards:
        image, (area,) = learnt_cells(path, "area")
        each = np.split(area, np.flatnonzero(np.diff(image)) + 1)
        sizes += [size for areas in each if (size := typical_size(areas)) is not None]
    return (min(sizes), max(sizes)) if sizes else None
