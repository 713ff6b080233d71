"""Defines the settings of training and of inference, which all models share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cellsemi.configs.base import MAX_AREA_PX, MAX_STEPS, Factor, Fraction, Section, Side
from cellsemi.configs.phases import (
    AugmentConfig,
    Epochs,
    Frozen,
    Optimiser,
    PhaseConfig,
    Schedule,
    checked_shares,
)

AUTO_PROBABILITY: Literal["auto"] = "auto"
AUTO_STEPS: Literal["auto"] = "auto"
AUTO_HUMAN: Literal["auto"] = "auto"
MOST_PSEUDO = 0.5  # share of the crops that pseudo-labels without fault may have
CHECKPOINT_S = 300.0  # seconds between checkpoints of a student
AUTO_CELL_PX: Literal["auto"] = "auto"
Balance = Literal["none", "class", "group", "class-group"]
Draw = Literal["even", "need"]
View = Literal["identity", "flip_x", "flip_y", "rot90", "rot180", "rot270"]


class TrainingConfig(Section):
    """How every student is trained."""

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | Literal["auto"] = Field(
        "auto",
        description="Optimiser steps per student and round; `auto`: in round 0 the steps are doubled until that no "
        "longer raises the validation mAP by `min_gain`, and later rounds take half of what was found.",
    )
    epochs: Epochs | None = Field(
        None,
        description="Instead of `steps`: how often as many crops are seen as there are human-labelled images; each run "
        "says how many steps these are.",
    )
    phases: tuple[PhaseConfig, ...] = Field(
        (),
        description="Phases of the training, one after the other. Together they are as long as they say, or as `steps` "
        "or `epochs` says, where these are stated; then they keep their proportions.",
    )
    first_steps: int = Field(
        500, ge=1, le=MAX_STEPS, description="`steps: auto`: the first number of steps that is tried."
    )
    max_steps: int = Field(8000, ge=1, le=MAX_STEPS, description="`steps: auto`: the most steps of a model in round 0.")
    min_gain: Fraction = Field(
        0.01, description="`steps: auto`: gain in validation mAP by twice as many steps that asks for still more."
    )
    batch: int = Field(12, ge=1, le=4096, description="Crops per step.")
    crop_px: int = Field(128, ge=32, le=4096, multiple_of=16, description="Side of a training crop.")
    cell_px: Annotated[float, Field(ge=4, le=512)] | Literal["auto"] | None = Field(
        AUTO_CELL_PX,
        description="Diameter in pixels at which the network sees the typical cell: crops and images are brought to it "
        "by one factor per model, measured on the human labels that it learns from. null: images as they are. `auto`: "
        "at most 40 for `flow-unet`, so that large cells are shrunk; null for other kinds.",
    )
    resize_px: Side | None = Field(
        None,
        ge=64,
        description="Crops and images are resized so that the longer side of their image has so many pixels; masks "
        "come back to the pixels of the image. null: not.",
    )
    optimiser: Optimiser = Field("adamw", description="AdamW, or SGD with `momentum`.")
    lr: float = Field(
        4e-3, gt=0, le=100, description="Peak learning rate (of the heads, where a model has a backbone)."
    )
    backbone_lr: float | None = Field(
        None, gt=0, le=100, description="Peak learning rate of the backbone, for models that have one; null: the same."
    )
    schedule: Schedule = Field("one-cycle", description="Course of the learning rate after the warm-up.")
    warmup_steps: int = Field(
        0, ge=0, le=MAX_STEPS, description="Linear warm-up (not for `one-cycle`, which has its own)."
    )
    decay_at: tuple[Factor, ...] = Field(
        (0.7, 0.9), description="`step`: shares of the steps after which the rate is multiplied by `decay_factor`."
    )
    decay_every_steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="`step`: decay after every so many steps instead of at `decay_at`."
    )
    decay_every_epochs: Epochs | None = Field(None, description="`step`: the same in epochs.")
    decay_factor: float = Field(0.1, gt=0, lt=1, description="`step`, `plateau`: factor of each decay.")
    plateau_on: Literal["training", "validation"] = Field(
        "training",
        description="`plateau`: the loss that is watched. That on validation images is measured every "
        "`patience_steps`; they then decide on the rate, and the validation scores of the model are a little too good.",
    )
    patience_steps: int = Field(
        200,
        ge=1,
        le=MAX_STEPS,
        description="`plateau`: decay when the mean loss of this many steps is not below the best before.",
    )
    frozen: Frozen = Field(
        "none",
        description="What does not train: the `body` (ResNet, or Cellpose's network), the `backbone` (with its feature "
        "pyramid), `all-but-heads` (box and mask heads), `all-but-predictors` (their last layers). For detectors and "
        "`cellpose-sam`.",
    )
    freeze_at: int = Field(
        0,
        ge=0,
        le=5,
        description="Detectors: stages of the ResNet, from the stem on, that never train: 2 are the stem and the first "
        "stage, as in torchvision and Detectron2.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="`sgd`: momentum.")
    weight_decay: float = Field(1e-2, ge=0, le=100, description="Weight decay.")
    ema: float = Field(0.99, ge=0, lt=1, description="Decay of the averaged weights that are kept; 0 switches it off.")
    grad_clip: float | None = Field(
        5.0, gt=0, le=1_000_000, description="Largest gradient norm; null: gradients are not clipped."
    )
    human_fraction: Fraction | Literal["auto"] = Field(
        "auto",
        description="Share of crops from human-labelled images in rounds 1 and up; `auto`: 1 less half of the F1 of "
        "the accepted masks on validation images labelled as if they were unlabelled, so that at least half are human.",
    )
    human_last: float = Field(
        0.17, ge=0, lt=1, description="The last share of the steps takes crops from human-labelled images only."
    )
    balance: Balance = Field(
        "none",
        description=(
            "Among the human-labelled and among the pseudo-labelled images, sample equally often: each image (`none`), "
            "each class of images (`class`: the stated one, else that of most of its cells), each group, or each class "
            "and within it each group (`class-group`). Images of an unknown class or group keep their share."
        ),
    )
    pseudo_draw: Draw = Field(
        "even",
        description="Among the pseudo-labelled images: all equally likely (`even`, and then by `balance`), or those "
        "more often whose cells are of classes and sizes that are rare among the human labels (`need`).",
    )
    threads: int = Field(
        1, ge=1, le=1024, description="CPU threads per student; part of the hash, since sums depend on it."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="`auto`: bfloat16 where the hardware has it (CUDA 8.0, avx512_bf16, amx_bf16), once for a run.",
    )

    def human_share(self, label_score: float) -> float:
        """`human_fraction`, for pseudo-labels of an F1 in [0, 1] where it is to follow them."""
        return 1 - MOST_PSEUDO * label_score if self.human_fraction == AUTO_HUMAN else self.human_fraction

    @field_validator("decay_at")
    @classmethod
    def _shares_rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        checked_shares(value)
        return value

    @model_validator(mode="after")
    def _lengths_are_stated_once(self) -> Self:
        if self.epochs is not None and self.steps != AUTO_STEPS:
            raise ValueError(f"state `steps` or `epochs`, not both: epochs is {self.epochs:g}, set steps to auto")
        if self.decay_every_steps is not None and self.decay_every_epochs is not None:
            raise ValueError("state `decay_every_steps` or `decay_every_epochs`, not both")
        if self.resize_px is not None and self.cell_px not in (None, AUTO_CELL_PX):
            raise ValueError(
                "`resize_px` and a number for `cell_px` are two sizes for one image; leave one of them out"
            )
        return self

    @property
    def counts_epochs(self) -> bool:
        """Whether a length is stated in epochs, so that the number of human-labelled images sets the steps."""
        parts = [self.epochs, self.decay_every_epochs]
        parts += [each for phase in self.phases for each in (phase.epochs, phase.decay_every_epochs)]
        return any(each is not None for each in parts)

    @property
    def freezes(self) -> bool:
        """Whether a part of the network does not train, in some phase."""
        return self.freeze_at > 0 or any(kind not in ("none", None) for kind in (self.frozen, *self._frozen_in_phases))

    @property
    def _frozen_in_phases(self) -> list[Frozen | None]:
        return [phase.frozen for phase in self.phases]

    def epoch_steps(self, epochs: float, images: int) -> int:
        """The steps that show `epochs` times as many crops as there are `images`."""
        return max(1, math.ceil(round(epochs * images / self.batch, 6)))

    def in_steps(self, images: int) -> Self:
        """The same with every length in steps, for so many human-labelled images; `steps` stays `auto` without one."""

        def in_steps(section: TrainingConfig | PhaseConfig) -> dict[str, object]:
            """What changes in a section that has these three settings."""
            changed: dict[str, object] = {"epochs": None, "decay_every_epochs": None}
            if section.epochs is not None:
                changed["steps"] = self.epoch_steps(section.epochs, images)
            if section.decay_every_epochs is not None:
                changed["decay_every_steps"] = self.epoch_steps(section.decay_every_epochs, images)
            return changed

        phases = tuple(phase.model_copy(update=in_steps(phase)) for phase in self.phases)
        found = self.model_copy(update={**in_steps(self), "phases": phases})
        if found.steps == AUTO_STEPS and phases:
            return found.model_copy(update={"steps": sum(phase.steps or 0 for phase in phases)})
        return found

    def in_phases(self, steps: int) -> tuple[Phase, ...]:
        """The phases of a training of so many steps; the whole of it where none is stated.

        Their lengths are in proportion to those that they state, which are those of `in_steps`.
        """
        if not self.phases:
            return (Phase(0, steps, self, None),)
        stated = [phase.steps or 0 for phase in self.phases]
        ends = [round(steps * sum(stated[: k + 1]) / sum(stated)) for k in range(len(stated))]
        found = []
        for phase, first, last in zip(self.phases, [0, *ends], ends, strict=False):
            own = {name: value for name, value in phase if value is not None and name not in NOT_OF_TRAINING}
            if "decay_at" in own:
                own.setdefault("decay_every_steps", None)
            if last > first:
                found.append(Phase(first, last, self.model_copy(update={**own, "phases": ()}), phase.augment))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Phase:
    """The steps from `first` up to `last` of a training, its settings there, its augmentation (None: the model's)."""

    first: int
    last: int
    training: TrainingConfig
    augment: AugmentConfig | None


NOT_OF_TRAINING = ("steps", "epochs", "augment")  # settings of a phase that no training has, or has of its own


class UnlabelledInferenceConfig(Section):
    """How teachers predict unlabelled images, where that differs from `inference`: pseudo-labels gain by more views."""

    tta: tuple[View, ...] | None = Field(None, min_length=1, description="Test-time views; null: as in `inference`.")
    scales: tuple[Factor, ...] | None = Field(
        None, min_length=1, description="Averaged scales; null: as in `inference`."
    )
    scale_search: tuple[Factor, ...] | None = Field(
        None, description="Scales of which the best is kept for each image; null: as in `inference`."
    )
    polarity_search: bool | None = Field(
        None, description="Also try each image inverted, and keep the better; null: as in `inference`."
    )

    @field_validator("scales", "scale_search")
    @classmethod
    def _scales_are_in_bounds(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return None if value is None else checked_scales(value)


def resize_factor(resize_px: int | None, height: int, width: int) -> float:
    """How many times an image is enlarged for its longer side to have `resize_px` pixels; null: once."""
    return 1.0 if resize_px is None else resize_px / max(height, width)


def checked_scales(value: tuple[float, ...]) -> tuple[float, ...]:
    """The scales; ValueError when one is out of bounds."""
    if any(not 0.1 <= scale <= 10 for scale in value):
        raise ValueError(f"expected scales from 0.1 to 10, got {list(value)}")
    return value


class GridConfig(Section):
    """Windows of a fixed grid: the image is cut into rows x columns, a window holds several cells of the grid."""

    rows: int = Field(ge=1, le=100, description="Rows of the grid.")
    columns: int = Field(ge=1, le=100, description="Columns of the grid.")
    window_rows: int = Field(ge=1, le=100, description="Rows of the grid that a window holds.")
    window_columns: int = Field(ge=1, le=100, description="Columns of the grid that a window holds.")

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        if self.window_rows > self.rows or self.window_columns > self.columns:
            raise ValueError("a window cannot hold more of the grid than there is")
        return self


class InferenceConfig(Section):
    """How every teacher predicts."""

    tile_px: Side | tuple[Side, Side] = Field(
        1024, description="Side of a tile, or (height, width); larger images are tiled."
    )
    overlap: float = Field(0.25, ge=0, lt=0.9, description="Share of a tile that overlaps its neighbour.")
    stride_px: tuple[Side, Side] | None = Field(
        None, description="Distance of tiles (y, x) instead of `overlap`, for example (73, 134) with tiles of 301x302."
    )
    grid: GridConfig | None = Field(None, description="Windows of a grid instead of tiles of a size.")
    keep: Literal["centre", "core"] = Field(
        "centre",
        description=(
            "Detectors: of a cell found in several tiles keep that of the tile in whose core its centre lies "
            "(`centre`), or those with at least `core_share` of their area in the core (`core`)."
        ),
    )
    core_share: Fraction = Field(0.5, description="`keep: core`: share of a mask that must lie in its tile's core.")
    tta: tuple[View, ...] = Field(("identity", "flip_x"), min_length=1, description="Test-time views, averaged.")
    scales: tuple[Factor, ...] = Field(
        (1.0,), min_length=1, description="Scales at which each view is predicted; masks come back to the image's size."
    )
    resize_px: Side | None = Field(
        None, ge=64, description="The longer side of an image before `scales`; null: `training.resize_px` of the model."
    )
    fill_holes: bool = Field(False, description="Fill the holes of predicted masks.")
    scale_search: tuple[Factor, ...] = Field(
        (),
        description=(
            "Scales that are tried on each image, times `scales`; the cells of the scale that finds most cell, "
            "surely, are kept. For magnifications that the labelled images lack; in `unlabelled_inference` for the "
            "unlabelled images alone."
        ),
    )
    polarity_search: bool = Field(
        False,
        description=(
            "Also try each image inverted, dark for bright, at each scale that is tried; the better is kept. For "
            "images of another contrast than the labelled ones; `augment.invert` teaches it instead."
        ),
    )
    tta_iou: Fraction = Field(
        0.5, description="Detectors: detections of different views with at least this IoU are one cell."
    )
    min_area_px: int = Field(
        10, ge=1, le=MAX_AREA_PX, description="Smaller predictions are noise and are not recorded."
    )
    cell_probability: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = Field(
        AUTO_PROBABILITY,
        description="Flow models: pixels above this probability belong to cells; `auto`: chosen for each trained model "
        "on the human labels that it did not learn from.",
    )
    background_probability: Fraction | None = Field(
        None,
        description="Flow models, labelling: pixels with a smaller cell probability are surely background; null: "
        "chosen for each model on validation images (`filter.background_quantile`).",
    )
    flow_steps: int = Field(
        200, ge=1, le=100_000, description="Steps of a pixel along the flow: the longest way from a tip to a centre."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="`flow-unet`: arithmetic of the network; bfloat16 is faster where the hardware has it."
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads per worker.")

    @field_validator("tile_px")
    @classmethod
    def _tiles_are_large_enough(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if min(value if isinstance(value, tuple) else (value,)) < 64:
            raise ValueError(f"expected tiles of at least 64 pixels a side, got {value}")
        return value

    @field_validator("scales", "scale_search")
    @classmethod
    def _scales_are_in_bounds(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return checked_scales(value)

    def at_probability(self, probability: float) -> Self:
        """The same with another cell probability."""
        return self.model_copy(update={"cell_probability": probability})

    def scaled(self, scale: float) -> Self:
        """The same for images that are first enlarged `scale` times."""
        return self.model_copy(update={"scales": tuple(own * scale for own in self.scales)})

    def on_image(self, height: int, width: int) -> Self:
        """The same for an image of this size, with `resize_px` in `scales`."""
        resized = self.scaled(resize_factor(self.resize_px, height, width))
        return self if self.resize_px is None else resized.model_copy(update={"resize_px": None})

    @property
    def searches(self) -> bool:
        """Whether each image is predicted in several ways, of which the best is kept."""
        return bool(self.scale_search) or self.polarity_search

    def without_search(self) -> Self:
        """The same without a search: each image is predicted once, as it is."""
        return self.model_copy(update={"scale_search": (), "polarity_search": False})

    @property
    def pixel_probability(self) -> float:
        """`cell_probability`, .5 where it is still to be chosen."""
        return 0.5 if self.cell_probability == AUTO_PROBABILITY else self.cell_probability

    @property
    def tile_size(self) -> tuple[int, int]:
        """(height, width) of a tile."""
        return self.tile_px if isinstance(self.tile_px, tuple) else (self.tile_px, self.tile_px)
