"""Every setting of cellsemi: frozen, validated when built, unknown keys refused.

The field descriptions are the documentation: `cellsemi init` writes them as comments and
docs/config.md is generated from them. Units stand in the names (`_px`, `_s`, `_mb`).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cellsemi.configs.data import DataConfig
from cellsemi.configs.section import Fraction, Section, checked_name

AUTO: Literal["auto"] = "auto"

View = Literal["identity", "flip_x", "flip_y", "rot90", "rot180", "rot270"]


class AugmentConfig(Section):
    """What is done to a training crop; the label map is transformed along, with nearest interpolation."""

    scale_min: float = Field(0.4, gt=0, le=1, description="Smallest zoom of a crop.")
    scale_max: float = Field(2.5, ge=1, description="Largest zoom of a crop.")
    rotate: bool = Field(True, description="Rotate by any angle.")
    flip: bool = Field(True, description="Flip along both axes.")
    brightness: float = Field(0.2, ge=0, le=1, description="Limit of random brightness and contrast.")
    blur: Fraction = Field(0.1, description="Probability of a Gaussian blur.")
    noise: Fraction = Field(0.1, description="Probability of added Gaussian noise.")
    elastic: Fraction = Field(0.0, description="Probability of an elastic deformation.")


class FlowUnetConfig(Section):
    """`flow-unet`: the compact flow-field U-Net, trained from scratch."""

    kind: Literal["flow-unet"] = Field("flow-unet", description="The model family.")
    name: str = Field(description="Name of this teacher and student, used in paths and on the leaderboard.")
    width: int = Field(24, ge=4, le=64, description="Channels of the first level; the others are multiples of it.")
    flow_target: Literal["geodesic", "diffusion"] = Field(
        "geodesic",
        description=(
            "`geodesic`: shortest paths to an inner centre, holds for branching cells; or Cellpose's `diffusion`."
        ),
    )
    seed_offset: int = Field(0, ge=0, description="Added to the run's seed: the same family, another start.")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="Augmentation of this model's crops.")

    @field_validator("name")
    @classmethod
    def _name_is_a_path_part(cls, value: str) -> str:
        return checked_name(value, "a model's name")


ModelConfig = FlowUnetConfig


class TrainingConfig(Section):
    """How every student is trained; each round starts from scratch."""

    steps: int = Field(300, ge=1, description="Optimiser steps per student and round.")
    batch: int = Field(12, ge=1, description="Crops per step.")
    crop_px: int = Field(128, ge=32, multiple_of=16, description="Side of a training crop.")
    lr: float = Field(4e-3, gt=0, description="Peak learning rate of the one-cycle schedule.")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW weight decay.")
    ema: float = Field(0.99, ge=0, lt=1, description="Decay of the averaged weights that are kept; 0 switches it off.")
    grad_clip: float = Field(5.0, gt=0, description="Largest gradient norm.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints: the most that a crash costs.")
    human_fraction: Fraction = Field(0.5, description="Share of crops from human-labelled images in rounds 1 and up.")
    threads: int = Field(1, ge=1, description="CPU threads per student; part of the hash, since sums depend on it.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto` measures once whether bfloat16 is faster on this device."
    )


class InferenceConfig(Section):
    """How every teacher predicts."""

    tile_px: int = Field(1024, ge=64, multiple_of=16, description="Side of a tile; larger images are tiled.")
    overlap: float = Field(0.25, ge=0, lt=0.9, description="Share of a tile that overlaps its neighbour.")
    tta: tuple[View, ...] = Field(("identity", "flip_x"), min_length=1, description="Test-time views, averaged.")
    min_area_px: int = Field(10, ge=1, description="Smaller predictions are noise and are not recorded.")
    cell_probability: float = Field(
        0.6,
        gt=0,
        lt=1,
        description="Pixels above this probability belong to cells; crops show more cells than images do.",
    )
    flow_steps: int = Field(
        200, ge=1, description="Steps of a pixel along the flow: the longest way from a tip to a centre."
    )
    threads: int = Field(1, ge=1, description="CPU threads per worker.")


class FusionConfig(Section):
    """How the masks of several teachers become one set."""

    iou: Fraction = Field(0.5, description="Masks of different teachers with at least this IoU are one cell.")
    min_votes: int = Field(1, ge=1, description="Clusters with fewer teachers are marked, and rejected by the screen.")


class ClassLimits(Section):
    """Fixed limits of one class, instead of those chosen on validation data."""

    accept: Fraction = Field(description="Confidence from which a pseudo-mask trains the students.")
    reject: Fraction = Field(description="Confidence below which a pseudo-mask is background; between: ignored.")
    min_area_px: int = Field(0, ge=0, description="Smaller masks are rejected, or ignored when the teachers are sure.")
    max_area_px: int | None = Field(
        None, ge=1, description="Larger masks leave the loss: a clump holds real cells; null means no limit."
    )

    @model_validator(mode="after")
    def _band_is_ordered(self) -> Self:
        if self.reject > self.accept:
            raise ValueError(f"reject ({self.reject}) must not be larger than accept ({self.accept})")
        if self.max_area_px is not None and self.max_area_px < self.min_area_px:
            raise ValueError(f"max_area_px ({self.max_area_px}) is below min_area_px ({self.min_area_px})")
        return self


class ScreenConfig(Section):
    """Which pseudo-masks train the students, which leave the loss, and which count as background."""

    limits: dict[str, ClassLimits] | Literal["auto"] = Field(
        AUTO, description="`auto` (chosen on validation data, never on test) or fixed limits per class."
    )
    f_beta: float = Field(
        0.5, gt=0, description="`auto`: the accept limit maximises this F-beta; < 1 prefers precision."
    )
    min_precision: Fraction = Field(
        0.5, description="`auto`: accept limits below this calibrated confidence are not taken."
    )
    reject_below: Fraction = Field(0.1, description="`auto`: calibrated confidence below which a mask is background.")
    area_quantile: float = Field(
        0.005,
        ge=0,
        lt=0.5,
        description="`auto`: this quantile of the areas of labelled and val cells, and its mirror, set the limits.",
    )
    area_slack: float = Field(2.0, ge=1, description="`auto`: the limits are widened by this factor both ways.")
    min_samples: int = Field(40, ge=1, description="Classes with fewer validation predictions share one calibration.")
    ignore_dilation_px: int = Field(
        2, ge=0, description="Ignored masks are grown by this much when they leave the loss."
    )
    weight_by_quality: bool = Field(True, description="Accepted masks weigh their calibrated confidence in the loss.")


class PromotionConfig(Section):
    """When a round's students become the teachers of the next."""

    bootstrap: int = Field(2000, ge=100, description="Resamples of the validation images.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals on the leaderboard.")
    min_probability: Fraction = Field(
        0.8, description="Paired-bootstrap probability that the round beats the best so far, needed to be promoted."
    )
    class_margin: Fraction = Field(0.05, description="No class may fall by more than this much validation mAP.")


class RoundsConfig(Section):
    """The campaign."""

    control: bool = Field(
        True, description="Train a supervised control with as many steps in total as the last student's ancestry."
    )
    promotion: PromotionConfig = Field(default_factory=PromotionConfig, description="The judge.")


class RunConfig(Section):
    """What the run is called and where it lives."""

    name: str = Field("demo", description="Name of the run; its folder below `root`.")
    root: str = Field("runs", description="Folder of all runs; must be seen by every node of a cluster.")
    seed: int = Field(0, ge=0, description="Draws the labelled subset, the generated cells and every initialisation.")

    @field_validator("name")
    @classmethod
    def _name_is_a_path_part(cls, value: str) -> str:
        return checked_name(value, "run.name")


class EngineConfig(Section):
    """Where the work runs. Not part of the run's identity: change it freely between calls."""

    kind: Literal["ray", "inline"] = Field("ray", description="`ray`, or `inline`: everything in this process.")
    address: str | None = Field(None, description="Ray cluster; else RAY_ADDRESS; else a local Ray is started.")
    workers: int | None = Field(None, ge=1, description="Workers at once; null takes what the cluster has.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that a worker reserves.")
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        AUTO, description="GPUs that a worker reserves; `auto`: one where there are any; fractions share one."
    )
    device: str = Field("auto", description="`auto` (CUDA when a worker has it), `cpu`, `cuda`.")
    max_attempts: int = Field(3, ge=1, description="Attempts per shard or student before it is given up and reported.")
    shard_deadline_s: float = Field(1800.0, gt=0, description="A worker silent for longer on one shard is replaced.")
    min_free_mb: int = Field(512, ge=0, description="The run stops cleanly when less disk space than this is left.")


class Config(Section):
    """A whole run."""

    run: RunConfig = Field(default_factory=RunConfig, description="Name, place and seed.")
    data: DataConfig = Field(default_factory=DataConfig, description="The images.")
    models: tuple[ModelConfig, ...] = Field(
        (FlowUnetConfig(name="unet-a"), FlowUnetConfig(name="unet-b", seed_offset=1)),
        min_length=1,
        description="The models: teachers of every round, and its students.",
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="The training loop.")
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="Prediction.")
    fusion: FusionConfig = Field(default_factory=FusionConfig, description="Several teachers, one set of masks.")
    screen: ScreenConfig = Field(default_factory=ScreenConfig, description="The filter of the pseudo-masks.")
    rounds: RoundsConfig = Field(default_factory=RoundsConfig, description="The campaign.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="Where the work runs.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = [model.name for model in self.models]
        reserved = {"ensemble", "control"}
        if len(set(names)) != len(names) or reserved & set(names):
            raise ValueError(f"models need distinct names other than {sorted(reserved)}, got {names}")
        if self.fusion.min_votes > len(names):
            raise ValueError(f"fusion.min_votes is {self.fusion.min_votes} but there are {len(names)} models")
        if isinstance(self.screen.limits, dict) and set(self.screen.limits) != set(self.data.classes):
            raise ValueError(
                f"screen.limits must name every class of data.classes {sorted(self.data.classes)}, "
                f"got {sorted(self.screen.limits)}"
            )
        return self
