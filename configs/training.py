"""Defines the settings of training and of inference, which all models share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cellsemi.configs.base import MAX_AREA_PX, MAX_STEPS, Factor, Fraction, Section, Side

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
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with `momentum`.")
    lr: float = Field(
        4e-3, gt=0, le=100, description="Peak learning rate (of the heads, where a model has a backbone)."
    )
    backbone_lr: float | None = Field(
        None, gt=0, le=100, description="Peak learning rate of the backbone, for models that have one; null: the same."
    )
    schedule: Literal["one-cycle", "constant", "cosine", "step", "plateau"] = Field(
        "one-cycle", description="Course of the learning rate after the warm-up."
    )
    warmup_steps: int = Field(
        0, ge=0, le=MAX_STEPS, description="Linear warm-up (not for `one-cycle`, which has its own)."
    )
    decay_at: tuple[Factor, ...] = Field(
        (0.7, 0.9), description="`step`: shares of the steps after which the rate is multiplied by `decay_factor`."
    )
    decay_factor: float = Field(0.1, gt=0, lt=1, description="`step`, `plateau`: factor of each decay.")
    patience_steps: int = Field(
        200,
        ge=1,
        le=MAX_STEPS,
        description="`plateau`: decay when the mean loss of this many steps is not below the best before.",
    )
    frozen_steps: int = Field(
        0,
        ge=0,
        le=MAX_STEPS,
        description="First stage: this many steps with the backbone frozen; then a schedule of its own begins.",
    )
    frozen_lr: float | None = Field(None, gt=0, le=100, description="Learning rate of the first stage; null: `lr`.")
    momentum: float = Field(0.9, ge=0, lt=1, description="`sgd`: momentum.")
    weight_decay: float = Field(1e-2, ge=0, le=100, description="Weight decay.")
    ema: float = Field(0.99, ge=0, lt=1, description="Decay of the averaged weights that are kept; 0 switches it off.")
    grad_clip: float = Field(5.0, gt=0, le=1_000_000, description="Largest gradient norm.")
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
        if list(value) != sorted(set(value)) or any(not 0 < share < 1 for share in value):
            raise ValueError(f"expected rising shares between 0 and 1, got {list(value)}")
        return value


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
