"""Defines the settings of the rounds themselves: fusion, filter, promotion, the campaign."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cellsemi.configs.base import MAX_AREA_PX, Fraction, Section

AUTO: Literal["auto"] = "auto"


FusionMethod = Literal["vote", "weighted", "nms", "union", "refine"]


class FusionConfig(Section):
    """How the masks of several teachers become one set."""

    method: FusionMethod = Field(
        "vote",
        description="Mask of a cluster: `vote` pixels with half of the score, `weighted` those with half of the "
        "quality (the calibrated score where there is one), `nms` the best scored mask as it is, `union` all pixels, "
        "`refine` the mask of the best of `boundaries`, scored as by `weighted`.",
    )
    boundaries: tuple[str, ...] = Field(
        (), description="`refine`: the models whose masks are taken where other models find the cell, too."
    )
    overlaps: Literal["keep", "resolve"] = Field(
        "keep", description="`resolve`: no pixel twice, the better scored cell keeps it; `keep`: masks may overlap."
    )
    iou: Fraction = Field(0.5, description="Masks of different teachers with at least this IoU are one cell.")
    calibrate: bool = Field(
        True,
        description="With several models: calibrate the scores of each on val, per class, before they are fused.",
    )
    min_votes: int = Field(
        1,
        ge=1,
        le=1000,
        description="Clusters with fewer teachers do not train: they are background where their quality is low, else "
        "they leave the loss. Of fewer teachers that are left all must agree.",
    )

    @model_validator(mode="after")
    def _boundaries_are_for_refine(self) -> Self:
        if (self.method == "refine") != bool(self.boundaries):
            raise ValueError("`boundaries` names the models that draw the masks, and `refine` alone needs it")
        return self


class ClassThresholds(Section):
    """Fixed thresholds of one class, instead of those chosen on validation data."""

    accept: Fraction = Field(description="Confidence from which a pseudo-mask trains the students.")
    reject: Fraction = Field(description="Confidence below which a pseudo-mask is background; between: ignored.")
    min_area_px: int = Field(
        0, ge=0, le=MAX_AREA_PX, description="Smaller masks are rejected, or ignored when their quality is high."
    )
    max_area_px: int | None = Field(
        None,
        ge=1,
        le=MAX_AREA_PX,
        description="Larger masks leave the loss: a clump holds real cells; null means no limit.",
    )

    @model_validator(mode="after")
    def _band_is_ordered(self) -> Self:
        if self.reject > self.accept:
            raise ValueError(f"reject ({self.reject}) must not be larger than accept ({self.accept})")
        if self.max_area_px is not None and self.max_area_px < self.min_area_px:
            raise ValueError(f"max_area_px ({self.max_area_px}) is below min_area_px ({self.min_area_px})")
        return self


class FilterConfig(Section):
    """Which pseudo-masks train the students, which leave the loss, and which count as background."""

    thresholds: dict[str, ClassThresholds] | Literal["auto"] = Field(
        AUTO, description="`auto` (chosen on validation data, never on test) or fixed thresholds per class."
    )
    objective: Literal["f-beta", "map"] = Field(
        "f-beta",
        description="`auto`: what the accept threshold maximises on validation data, per class: `f-beta` of the "
        "accepted masks at IoU > .5, or `map`, their mean score over the images.",
    )
    f_beta: float = Field(0.5, gt=0, le=1000, description="Objective `f-beta`: its beta; < 1 prefers precision.")
    min_precision: Fraction = Field(
        0.5, description="`auto`: accept thresholds below this calibrated confidence are not taken."
    )
    reject_below: Fraction | Literal["auto"] = Field(
        0.1,
        description="Calibrated confidence below which a mask is background; `auto`: per class, where as many "
        "validation predictions are kept as there are labelled cells. Never above the accept threshold.",
    )
    areas: Literal["always", "if-better", "never"] = Field(
        "if-better",
        description="`auto`: limits on the area; `if-better`: the smallest and the largest area each only where they "
        "raise the objective on validation data.",
    )
    area_quantile: float = Field(
        0.005,
        ge=0,
        lt=0.5,
        description="`auto`: this quantile of the areas of labelled and val cells, and its mirror, limit the area.",
    )
    area_slack: float = Field(
        2.0, ge=1, le=1000, description="`auto`: the area limits are widened by this factor both ways."
    )
    quality: Literal["calibrated", "regressed"] = Field(
        "calibrated",
        description="What is calibrated to the probability that a mask is right: its score, or (`regressed`) the IoU "
        "that trees predict from score, shape and neighbours (benchmarks/quality.md); thresholds are chosen on what "
        "trees of other images say.",
    )
    min_samples: int = Field(
        40, ge=1, le=1_000_000_000, description="Classes with fewer validation predictions share one calibration curve."
    )
    background: Literal["sure", "all"] = Field(
        "sure",
        description="What students learn as background of a pseudo-labelled image: only where all teachers are `sure` "
        "that there is nothing (the rest leaves the loss), or `all` that no accepted or ignored mask covers.",
    )
    background_quantile: Fraction = Field(
        0.02,
        description="`sure`: a flow model is sure below the cell probability that this share of the pixels of "
        "validation cells falls short of, in the class where it is the lowest. Of other models: outside of all masks.",
    )
    max_wrong_background: Fraction = Field(
        0.3,
        description="Images of a class are left out of the training set when more than this share of the pixels of "
        "its validation cells, labelled as if they were unlabelled, would be taught as background.",
    )
    ignore_dilation_px: int = Field(
        2, ge=0, le=100, description="Ignored masks are grown by this much when they leave the loss."
    )
    weight_by_quality: bool = Field(
        True,
        description="Accepted masks weigh their calibrated confidence in the loss, and the background of their image "
        "the mean of it.",
    )


class PromotionConfig(Section):
    """When a round's students become the teachers of the next."""

    bootstrap: int = Field(2000, ge=100, le=100_000, description="Resamples of the validation images.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals on the leaderboard.")
    min_probability: Fraction = Field(
        0.6,
        description="Paired-bootstrap probability that the round beats the best so far, needed to be promoted. At the "
        "t-th try since the last promotion 1 - (1 - p) / t is needed: chance is shared among the tries. A "
        "lower one gains hardly more (benchmarks/promotion.md); .95 asks for near certainty, which a few validation "
        "images seldom give.",
    )
    control_probability: Fraction = Field(
        0.9,
        description="The same for the control, to be recommended in the place of what the rounds made. The unlabelled "
        "images hold what a few validation images cannot show: at .6 the control was recommended in five of eight runs "
        "and was worse on test in each, once by .12 (benchmarks/neurons.md).",
    )
    unlabelled_sizes: bool = Field(
        True,
        description="With a scale search: compare on validation images enlarged to the cell sizes found in the "
        "unlabelled images, in their shares, and not only on the images as they are.",
    )
    class_margin: Fraction = Field(0.05, description="No class may fall by more than this much validation mAP.")


class RoundsConfig(Section):
    """The campaign."""

    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="Cross-validation: train every model once per fold of the labelled and val images, and evaluate it "
        "on the fold that it never saw. Folds keep groups and equal pixels whole and have equal parts of each class; "
        "null: one hold-out, the val images.",
    )
    control: bool = Field(
        True,
        description="Train a supervised control with as many steps as the last student and all its ancestors together; "
        "after refused rounds as many seeds of it as were tried, of which the best on val counts.",
    )
    ensemble: Literal["all", "greedy"] = Field(
        "all",
        description="Students of the ensemble: `all`, or `greedy`: from the best on val on, those that raise its mAP.",
    )
    cutoffs: Literal["class", "all"] = Field(
        "class",
        description="From which score, and which area, on predicted cells are kept in what is evaluated and delivered; "
        "chosen on val. `class`: a class has its own where they win on val images that did not choose them; `all`: one "
        "score for all classes, no area.",
    )
    coco: bool = Field(
        False,
        description="Also state COCO's mAP at IoU .5 to .95 and at .5 on the leaderboard: test, of all predictions, "
        "without its cap of 100 an image.",
    )
    stop_after: int | None = Field(
        1,
        ge=1,
        le=10_000,
        description="No further round is run when this many in a row were not promoted, unless other models take part "
        "in it: with the same teachers and models it differs in nothing but its seed. null: never stop. Each further "
        "try needs a higher probability.",
    )
    start: Literal["teacher", "scratch"] = Field(
        "teacher",
        description="A student starts from the weights of the teacher of its name (`teacher`), with the learning rate "
        "warmed up anew, or from scratch; one without such a teacher starts from scratch.",
    )
    curriculum: tuple[Fraction, ...] = Field(
        (1.0,),
        min_length=1,
        description="Share of the pseudo-labelled images that rounds 1, 2, .. learn from, the best labelled of each "
        "class first; the last value holds for all later rounds. (0.5, 0.8, 1.0) leaves poor labels to later teachers.",
    )
    drift_alarms: bool = Field(
        True, description="Compare the pseudo-labels with human labels and the round before; report when they drift."
    )
    promotion: PromotionConfig = Field(default_factory=PromotionConfig, description="The rule that decides.")
