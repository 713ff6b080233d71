"""Defines how training crops are augmented, and the phases of a training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cellsemi.configs.base import MAX_STEPS, Factor, Fraction, Section

Optimiser = Literal["adamw", "sgd"]
Schedule = Literal["one-cycle", "constant", "cosine", "step", "plateau"]
Frozen = Literal["none", "body", "backbone", "all-but-heads", "all-but-predictors"]
Epochs = Annotated[float, Field(gt=0, le=1_000_000)]


class CopyPasteConfig(Section):
    """Cells of other images pasted into a crop (Ghiasi et al. 2021); only human and trusted cells are pasted."""

    probability: Fraction = Field(0.0, description="Share of the crops into which cells are pasted; 0: never.")
    select: Fraction = Field(0.9, description="Share of the cells of the other crop that are pasted.")
    keep: Fraction = Field(0.5, description="A pasted cell of which less than this share is in the crop is left out.")
    occlusion: Fraction = Field(
        0.7,
        description="A cell of which more than this share is covered by pasted ones is no longer learnt, but ignored.",
    )
    min_quality: Fraction = Field(0.8, description="Pseudo-labels below this calibrated confidence are not pasted.")


class AugmentConfig(Section):
    """Augmentation of a training crop; the instance map is transformed along, with nearest interpolation."""

    scale_min: float = Field(0.4, gt=0, le=1, description="Smallest scale of a crop.")
    scale_max: float = Field(2.5, ge=1, le=100, description="Largest scale of a crop.")
    size_aware: bool = Field(
        False,
        description="Scale each image so that its typical cell appears at all typical sizes of the data.",
    )
    translate: Fraction = Field(0.0, description="Largest shift of a crop's centre, as a share of its side.")
    rotate: bool = Field(True, description="Rotate by any angle.")
    affine: Fraction = Field(1.0, description="Probability of scale, shift and rotation.")
    flip: bool = Field(True, description="Flip along both axes.")
    brightness: float = Field(0.2, ge=0, le=1, description="Limit of random brightness and contrast.")
    brightness_probability: Fraction = Field(0.5, description="Probability of a change of brightness and contrast.")
    gamma: Fraction = Field(0.0, description="Probability of a gamma curve, which lifts or lowers the middle greys.")
    invert: Fraction = Field(
        0.0, description="Probability that a crop is inverted, dark for bright; cells pasted into it are, too."
    )
    blur: Fraction = Field(0.1, description="Probability of a Gaussian blur.")
    noise: Fraction = Field(0.1, description="Probability of added Gaussian noise.")
    elastic: Fraction = Field(0.0, description="Probability of an elastic deformation.")
    elastic_alpha_px: float = Field(40.0, gt=0, le=1000, description="Strength of the elastic deformation.")
    elastic_sigma_px: float = Field(6.0, gt=0, le=100, description="Smoothness of the elastic deformation.")
    grid: Fraction = Field(0.0, description="Probability of a grid distortion instead of an elastic one: never both.")
    copy_paste: CopyPasteConfig = Field(default_factory=CopyPasteConfig, description="Pasted cells.")


NO_AUGMENTATION = AugmentConfig(affine=0, flip=False, brightness=0, blur=0, noise=0)
# `augment: NAME` instead of a section. `sartorius` is the list of the Cellpose-SAM + Detectron2 team (docs/models.md).
AUGMENT_PRESETS: dict[str, AugmentConfig] = {
    "none": NO_AUGMENTATION,
    "light": AugmentConfig(scale_min=0.75, scale_max=1.35, brightness=0.1, blur=0, noise=0),
    "strong": AugmentConfig(
        brightness=0.3,
        blur=0.25,
        noise=0.25,
        elastic=0.2,
        grid=0.1,
        copy_paste=CopyPasteConfig(probability=0.5),
    ),
    "sartorius": AugmentConfig(
        scale_min=0.7,
        scale_max=1.3,
        translate=0.15,
        affine=0.5,
        brightness=0.2,
        brightness_probability=0.3,
        blur=0.25,
        noise=0,
        elastic=0.1,
        elastic_alpha_px=50,
        elastic_sigma_px=2.5,
        grid=0.1,
        copy_paste=CopyPasteConfig(probability=0.5, keep=0.5, select=0.9, occlusion=0.7),
    ),
}


def named_augmentation(value: object) -> object:
    """The augmentation that a name stands for; any other value as it is. ValueError for an unknown name."""
    if not isinstance(value, str):
        return value
    if value not in AUGMENT_PRESETS:
        raise ValueError(f"expected a section or one of {', '.join(AUGMENT_PRESETS)}, got {value!r}")
    return AUGMENT_PRESETS[value]


def checked_shares(value: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Rising shares of the steps; ValueError for others."""
    if value is not None and (list(value) != sorted(set(value)) or any(not 0 < share < 1 for share in value)):
        raise ValueError(f"expected rising shares between 0 and 1, got {list(value)}")
    return value


class PhaseConfig(Section):
    """A phase of a training: its length, and what differs from `training` in it. null: as `training` says.

    Each phase has a new optimiser, and a course of the learning rate of its own, with the warm-up at its start.
    """

    steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="Optimiser steps of the phase; or `epochs`.")
    epochs: Epochs | None = Field(None, description="Its length in epochs of the human-labelled images.")
    optimiser: Optimiser | None = Field(None, description="AdamW, or SGD with `momentum`.")
    lr: float | None = Field(None, gt=0, le=100, description="Peak learning rate.")
    backbone_lr: float | None = Field(None, gt=0, le=100, description="Peak learning rate of the backbone.")
    momentum: float | None = Field(None, ge=0, lt=1, description="`sgd`: momentum.")
    weight_decay: float | None = Field(None, ge=0, le=100, description="Weight decay.")
    schedule: Schedule | None = Field(None, description="Course of the learning rate.")
    warmup_steps: int | None = Field(None, ge=0, le=MAX_STEPS, description="Linear warm-up.")
    decay_at: tuple[Factor, ...] | None = Field(None, description="`step`: shares of the phase's steps.")
    decay_every_steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="`step`: steps between two decays.")
    decay_every_epochs: Epochs | None = Field(None, description="`step`: epochs between two decays.")
    decay_factor: float | None = Field(None, gt=0, lt=1, description="Factor of each decay.")
    frozen: Frozen | None = Field(None, description="What does not train.")
    augment: AugmentConfig | None = Field(
        None, description="Augmentation of this phase, or its name; null: that of the model."
    )

    @field_validator("augment", mode="before")
    @classmethod
    def _named_augmentation(cls, value: object) -> object:
        return named_augmentation(value)

    @field_validator("decay_at")
    @classmethod
    def _shares_rise(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return checked_shares(value)

    @model_validator(mode="after")
    def _length_is_stated_once(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("a phase states its length, as `steps` or as `epochs`, and not both")
        return self
